//! What an answer that refused says of its reason, whatever gateway it came from.

use std::borrow::Cow;

use miniserde::json::from_str;

use crate::error::{field, Refusal};
use crate::excerpt::{clean, redact};

/// The members of JSON that tell a reason, in lower case: of [RFC 6749, section
/// 5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2), of [RFC 9457, section
/// 3](https://www.rfc-editor.org/rfc/rfc9457#section-3), and what gateways use besides.
const MEMBERS: [&str; 11] = [
    "error",
    "error_description",
    "message",
    "title",
    "detail",
    "faultstring",
    "errorcode",
    "code",
    "errormessage",
    "description",
    "reason",
];

/// Elements of HTML whose content nobody is to read; the head only if the body says something.
const UNSEEN: [&str; 3] = ["script", "style", "head"];

/// What a status means that tells of the server, and of nothing that the caller did wrong.
pub(crate) fn trouble(status: u16) -> &'static str {
    match status {
        429 => ": too many requests for now",
        500 => ": the server failed",
        502..=504 => ": the server, or one behind it, is down or overloaded",
        _ => "",
    }
}

/// The reason for the end of a message.
pub(crate) fn reason(refusal: &Refusal, secrets: &[&str]) -> String {
    told(refusal, secrets, |_| true)
}

/// The same for a token endpoint. What looks like JSON without a reason may hold a token.
pub(crate) fn token_reason(refusal: &Refusal, secrets: &[&str]) -> String {
    told(refusal, secrets, |text| !text.contains(['{', '"']))
}

fn told(refusal: &Refusal, secrets: &[&str], may_quote: fn(&str) -> bool) -> String {
    let mut detail = match refusal.retry_after {
        Some(wait) => format!("; it asks to wait {wait:?}"),
        None => String::new(),
    };
    if let (300..=399, Some(location)) = (refusal.status, field(&refusal.fields, "location")) {
        return detail + &redirect(&redact(location, secrets));
    }
    let text = text(&refusal.content);
    // Before anything is taken out of it, and again when its parts are together.
    let redacted = redact(&text, secrets);
    let members = members(&redacted);
    let reason = if members.is_empty() && !may_quote(&text) {
        String::new()
    } else if members.is_empty() {
        page(&redacted, secrets)
    } else {
        clean(&redact(&members.join(": "), secrets))
    };
    if !reason.is_empty() {
        detail.push_str("; the answer says: ");
        detail.push_str(&reason);
    }
    detail
}

/// Where an answer redirects to; `location` is redacted already, before it is cut.
fn redirect(location: &str) -> String {
    let (before, rest) = location.split_once("//").unwrap_or(("/", ""));
    // A `//` in the query, or further down the path, begins no authority.
    if before.contains(['/', '?', '#']) {
        return "; it redirects to another path, which is never followed".to_owned();
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = clean(host);
    format!("; it redirects to {host}, which is never followed")
}

/// What a page of HTML or XML shows: its body, or else its title, or else its markup, which may
/// have attributes to read. Other text as it is.
fn page(text: &str, secrets: &[&str]) -> String {
    if !text.trim_start().starts_with('<') {
        return clean(text);
    }
    for unseen in [&UNSEEN[..], &UNSEEN[..2]] {
        // Once more, for a secret in pieces: half in CDATA, or with a comment in it.
        let plain = clean(&redact(&without_tags(text, unseen), secrets));
        if !plain.is_empty() {
            return plain;
        }
    }
    clean(text)
}

/// The content as text: UTF-8, or else ISO 8859-1; empty if it is no text.
fn text(content: &[u8]) -> Cow<'_, str> {
    let content = content
        .strip_prefix("\u{feff}".as_bytes())
        .unwrap_or(content);
    match std::str::from_utf8(content) {
        Ok(text) => return text.into(),
        // UTF-8 that is cut within its last character. (After ASCII it may be ISO 8859-1.)
        Err(error) if error.error_len().is_none() => {
            let whole = &content[..error.valid_up_to()];
            if !whole.is_ascii() {
                return String::from_utf8_lossy(whole);
            }
        }
        Err(_) => {}
    }
    let is_text = |byte: &u8| *byte >= b' ' || byte.is_ascii_whitespace();
    if !content.iter().all(is_text) {
        return "".into();
    }
    content.iter().map(|&byte| char::from(byte)).collect()
}

/// What the members of JSON that tell a reason say, wherever they stand in it, in their order;
/// only the first of several errors. Found without a parser, so that JSON that is cut or malformed
/// tells its reason, too.
fn members(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.trim_start().starts_with(['{', '[']) {
        return found;
    }
    let mut seen = [false; MEMBERS.len()];
    let mut name = "";
    let mut rest = text;
    while let Some((before, string)) = rest.split_once('"') {
        let Some(end) = end_of_string(string) else {
            break;
        };
        let is_value = before.trim() == ":";
        let member = MEMBERS.iter().position(|m| m.eq_ignore_ascii_case(name));
        if let (true, Some(member)) = (is_value, member) {
            if std::mem::replace(&mut seen[member], true) {
                break;
            }
            // With its quotation marks, for its escapes to be read.
            found.extend(from_str(&rest[before.len()..][..end + 2]));
        }
        name = if is_value { "" } else { &string[..end] };
        rest = &string[end + 1..];
    }
    found.retain(|value: &String| !value.trim().is_empty());
    found
}

/// Where a string of JSON ends whose first quotation mark has been passed.
fn end_of_string(string: &str) -> Option<usize> {
    let mut bytes = string.bytes().enumerate();
    while let Some((i, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(i),
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    None
}

/// HTML or XML without its tags and the content of the elements `unseen`.
fn without_tags(text: &str, unseen: &[&str]) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, tag)) = rest.split_once('<') {
        plain.push_str(before);
        rest = if let Some(data) = tag.strip_prefix("![CDATA[") {
            let (data, behind) = split(data, "]]>");
            plain.push_str(data);
            behind
        } else if let Some(comment) = tag.strip_prefix("!--") {
            split(comment, "-->").1
        } else {
            // Unlike the others, a tag parts words.
            plain.push(' ');
            let name = tag
                .split(|c: char| c == '>' || c.is_ascii_whitespace())
                .next();
            let name = unseen
                .iter()
                .find(|unseen| name.is_some_and(|name| name.eq_ignore_ascii_case(unseen)));
            let end = name.map_or(tag, |name| split(tag, &format!("</{name}")).1);
            split(end, ">").1
        };
    }
    plain.push_str(rest);
    plain
}

/// What stands before and behind the first `end`, in any case; all and nothing if there is none.
fn split<'a>(text: &'a str, end: &str) -> (&'a str, &'a str) {
    let mut places = text.as_bytes().windows(end.len());
    let place = places.position(|other| other.eq_ignore_ascii_case(end.as_bytes()));
    place.map_or((text, ""), |place| {
        (&text[..place], &text[place + end.len()..])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_one_letter_does_not_make_a_message_grow() {
        let refusal = Refusal {
            status: 500,
            fields: vec![],
            content: b"e red e".to_vec(),
            retry_after: None,
        };
        let text = reason(&refusal, &["e", "d", "red"]);
        assert_eq!(text, "; the answer says: [redacted] [redacted] [redacted]");
    }

    #[test]
    fn a_secret_in_a_location_or_a_page_is_redacted_before_it_is_taken_apart() {
        let secret = "se<cr>et/7@x";
        let refusal = |status, location: &str, content: &str| Refusal {
            status,
            fields: vec![("location".into(), location.into())],
            content: content.into(),
            retry_after: None,
        };
        for (refusal, text) in [
            (
                refusal(302, &format!("https://{secret}.example/"), ""),
                "; it redirects to [redacted].example, which is never followed",
            ),
            (
                refusal(500, "", &format!("<p>{secret}</p> <b>no</b>")),
                "; the answer says: [redacted] no",
            ),
        ] {
            assert_eq!(reason(&refusal, &[secret]), text);
        }
    }
}
