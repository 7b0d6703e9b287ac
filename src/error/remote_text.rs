//! What a server says, made fit for a message: the reason why it refused, short, on one line, and
//! without secrets. Called by `session`, `token`, `response` and `url`. Secrets are text here: it
//! knows nothing of what they are for.

use super::{field, Received};

/// The most characters of remote text that a message shows.
const EXCERPT: usize = 200;

/// How many bytes of remote text are looked at for it.
const SEEN: usize = 8 * 1024;

/// How often text may be escaped over and over, and secrets still be found in it.
const ESCAPED: usize = 4;

/// What stands where a secret stood, and before that is shown: a character that is in no secret.
const REDACTED: &str = "[redacted]";
const HIDDEN: &str = "\u{fffc}";

/// The members of JSON that tell a reason, in lower case: of [RFC 6749, section
/// 5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2), of [RFC 9457, section
/// 3](https://www.rfc-editor.org/rfc/rfc9457#section-3), and what gateways use besides.
const MEMBERS: &str = "error error_description message title detail faultstring errorcode code \
                       errormessage description reason field";

const ENTITIES: [(&[u8], &[u8]); 5] =
    [(b"&amp;", b"&"), (b"&lt;", b"<"), (b"&gt;", b">"), (b"&quot;", b"\""), (b"&apos;", b"'")];

/// What is no text in HTML or XML: how it begins, and how it ends.
#[rustfmt::skip]
const MARKUP: [(&str, &str); 5] = [("<![cdata[", "]]>"), ("<!--", "-->"),
    ("<script", "</script>"), ("<style", "</style>"), ("<", ">")];

/// What a response says of its reason, for the end of a message: the usual members of JSON, or else
/// the text or the text of a page, unless that may hold a token (`shows_text`).
pub(crate) fn reason(received: &Received, secrets: &[String], shows_text: bool) -> String {
    let wait = received.retry_after.filter(|wait| !wait.is_zero());
    let mut detail = wait.map_or_else(String::new, |wait| format!("; it asks to wait {wait:?}"));
    if let (300..=399, Some(location)) = (received.status, field(&received.fields, "location")) {
        let place = clean(&without_query(&redact(location, secrets)));
        return detail + "; it redirects to " + &place + ", which is never followed";
    }
    // Before anything is taken out of it, and again when its parts are together.
    let text = redact(&text(&received.content), secrets);
    let members = members(&text);
    let reason = match members.len() {
        0 if shows_text => page(&text, secrets),
        _ => excerpt(&members.join(": "), secrets),
    };
    if !reason.is_empty() {
        detail = detail + "; the response says: " + &reason;
    }
    detail
}

/// Remote text made fit for a message: secrets redacted, then made short and one line.
pub(crate) fn excerpt(text: &str, secrets: &[String]) -> String {
    clean(&redact(text, secrets))
}

/// How content begins that could not be used. One long word may end in the middle of a secret: no
/// part of it is shown then.
pub(crate) fn beginning(content: &str, secrets: &[String]) -> String {
    let words = text(content.as_bytes());
    if !words.is_empty() {
        return excerpt(&words, secrets);
    }
    let word: String = content.chars().take(SEEN).collect();
    match redact(&word, secrets) {
        word if word.contains(HIDDEN) => REDACTED.to_owned(),
        word => clean(&word),
    }
}

/// What the members of JSON that tell a reason say, wherever they stand in it, in their order;
/// only the first of several errors. Found without a parser, so that JSON that is truncated or
/// malformed tells its reason, too.
pub(crate) fn members(text: &str) -> Vec<String> {
    let (mut found, mut seen) = (Vec::new(), Vec::new());
    let (mut name, mut rest) = (String::new(), text);
    if !text.trim_start().starts_with(['{', '[']) {
        return found;
    }
    while let Some((before, string)) = rest.split_once('"') {
        let mut is_escaped = false;
        let end = string.bytes().position(|byte| {
            let ends = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            ends
        });
        let Some(end) = end else { break };
        let is_value = before.trim() == ":";
        if is_value && MEMBERS.split(' ').any(|member| member == name) {
            if seen.contains(&name) {
                break;
            }
            seen.push(name);
            // With its quotation marks, for its escapes to be read.
            found.extend(miniserde::json::from_str(&rest[before.len()..][..end + 2]));
        }
        name = string[..if is_value { 0 } else { end }].to_ascii_lowercase();
        rest = &string[end + 1..];
    }
    found.retain(|value: &String| !value.trim().is_empty());
    found
}

/// The beginning of content as text: UTF-8, or else ISO 8859-1; empty if it is no text.
pub(crate) fn text(content: &[u8]) -> String {
    let is_text = |byte: &u8| *byte >= b' ' || byte.is_ascii_whitespace();
    let mut seen = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    if seen.len() > SEEN {
        // A secret may begin in the last word, and end behind it.
        let end = seen[..SEEN].iter().rposition(u8::is_ascii_whitespace);
        seen = &seen[..end.unwrap_or(0)];
    }
    match std::str::from_utf8(seen) {
        Ok(text) => text.to_owned(),
        // Truncated within a character, perhaps. (Behind nothing but ASCII it is ISO 8859-1.)
        Err(error) if !seen[..error.valid_up_to()].is_ascii() => {
            String::from_utf8_lossy(&seen[..error.valid_up_to()]).into_owned()
        }
        Err(_) if seen.iter().all(is_text) => seen.iter().map(|&byte| char::from(byte)).collect(),
        Err(_) => String::new(),
    }
}

/// Where a response redirects to, without user, password, query and fragment.
fn without_query(location: &str) -> String {
    let place = location.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = place.split_at(place.find("//").map_or(0, |start| start + 2));
    let host = rest.split('/').next().unwrap_or_default();
    let user = host.rfind('@').filter(|_| !scheme.is_empty());
    scheme.to_owned() + &rest[user.map_or(0, |user| user + 1)..]
}

/// What a page of HTML or XML shows: its body, or else its title, or else its markup, which may
/// have attributes to read. Other text as it is.
fn page(text: &str, secrets: &[String]) -> String {
    let body = text.to_ascii_lowercase().find("<body").unwrap_or(0);
    let plain = [&text[body..], text].map(|part| excerpt(&without_markup(part), secrets));
    let mut plain = plain.into_iter().filter(|plain| !plain.is_empty());
    match plain.next() {
        Some(plain) if text.trim_start().starts_with('<') => plain,
        _ => clean(text),
    }
}

fn without_markup(page: &str) -> String {
    let lower = page.to_ascii_lowercase();
    let (mut plain, mut at) = (String::new(), 0);
    while let Some(n) = lower[at..].find('<') {
        plain.push_str(&page[at..at + n]);
        at += n;
        let kind = MARKUP.iter().find(|(begin, _)| lower[at..].starts_with(begin));
        let Some((begin, end)) = kind else { break };
        let length = lower[at..].find(end).unwrap_or(lower.len() - at);
        match *begin {
            "<![cdata[" => plain.push_str(&page[at..at + length][begin.len()..]),
            "<!--" => {}
            // A tag parts words.
            _ => plain.push(' '),
        }
        at = page.len().min(at + length + end.len());
    }
    plain + &page[at..]
}

/// `text` with blanks and control characters folded into single blanks, and shortened.
fn clean(text: &str) -> String {
    let text = text.replace(HIDDEN, REDACTED);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let line = line.join(" ");
    let mut chars = line.chars().map(|c| if misleads(c) { '?' } else { c });
    let clean: String = chars.by_ref().take(EXCERPT).collect();
    clean + if chars.next().is_some() { "..." } else { "" }
}

/// What reorders or hides text on a terminal has no place in a message.
fn misleads(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' |
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` without the secrets. If one may stand in it in another form, escaped or in pieces, all of
/// it is hidden.
fn redact(text: &str, secrets: &[String]) -> String {
    let mut secrets: Vec<_> = secrets.iter().filter(|secret| !secret.is_empty()).collect();
    // One may be a part of another.
    secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    let hide = |text: String, secret: &&String| text.replace(&***secret, HIDDEN);
    let clean = secrets.iter().fold(text.to_owned(), hide);
    let plain = unescaped(&clean);
    for secret in secrets {
        match (&plain, unescaped(secret)) {
            (Some(plain), Some(secret)) if !plain.contains(&secret) => {}
            _ => return HIDDEN.to_owned(),
        }
    }
    clean
}

/// What `text` means when nothing in it is an escape any more, without blanks (`+` is one in a
/// form) and what can't be seen. The same comes of a secret, however it was escaped: so they can be
/// compared.
fn unescaped(text: &str) -> Option<String> {
    let mut plain = text.as_bytes().to_vec();
    for _ in 0..=ESCAPED {
        let mut next = Vec::with_capacity(plain.len());
        let mut rest = &plain[..];
        while !rest.is_empty() {
            let mut utf8 = [0; 4];
            let (length, meant) = escape(rest, &mut utf8).unwrap_or((1, &rest[..1]));
            next.extend_from_slice(meant);
            rest = &rest[length..];
        }
        if next.len() == plain.len() {
            let blank = |c: &char| c.is_whitespace() || c.is_control() || misleads(*c) || *c == '+';
            let plain = String::from_utf8_lossy(&plain);
            return Some(plain.chars().filter(|c| !blank(c)).collect());
        }
        plain = next;
    }
    None
}

/// The escape for a URL, JSON, HTML or XML that `text` starts with: its length, and what it means.
fn escape<'a>(text: &'a [u8], utf8: &'a mut [u8; 4]) -> Option<(usize, &'a [u8])> {
    if let Some((name, meant)) = ENTITIES.iter().find(|(name, _)| text.starts_with(name)) {
        return Some((name.len(), meant));
    }
    let (length, code) = match text {
        [b'%', digits @ ..] => {
            utf8[0] = u8::try_from(number(digits.get(..2)?, 16)?).ok()?;
            return Some((3, &utf8[..1]));
        }
        [b'\\', b'u', digits @ ..] => (6, number(digits.get(..4)?, 16)?),
        [b'\\', _, ..] => return Some((2, &text[1..2])),
        [b'&', b'#', rest @ ..] => {
            let (skipped, radix) = match rest {
                [b'x' | b'X', ..] => (3, 16),
                _ => (2, 10),
            };
            let digits = &text[skipped..];
            let is_end = |digit: &u8| !char::from(*digit).is_digit(radix);
            let end = digits.iter().position(is_end).unwrap_or(digits.len());
            let length = skipped + end + usize::from(digits.get(end) == Some(&b';'));
            (length, number(&digits[..end], radix)?)
        }
        _ => return None,
    };
    Some((length, char::from_u32(code)?.encode_utf8(utf8).as_bytes()))
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    digits.iter().try_fold(0_u32, |number, digit| {
        let digit = char::from(*digit).to_digit(radix)?;
        number.checked_mul(radix)?.checked_add(digit)
    })
}
