//! Shows text from a server in a message: shortened to one line, without secrets. Finds the reason
//! of a refusal in it. Called by `session`, `token`, `response`, `retry` and `url`. Knows nothing
//! of what the secrets are for.

use std::cmp::Reverse;
use std::collections::HashSet;

use super::{field, ErrorResponse};

/// The maximum number of characters of remote text in a message.
const EXCERPT: usize = 200;

/// The maximum number of bytes of content that are searched for its reason.
const SCAN_LIMIT: usize = 8 * 1024;

/// Text that shares this many letters and digits in a row with a secret is hidden.
const RUN: usize = 8;

/// What a message shows in place of a secret. It is put in last. Until then the text has [`HIDDEN`]
/// there, because a search for a short secret such as `act` would find it inside `[redacted]`.
const REDACTED: &str = "[redacted]";
const HIDDEN: &str = "\u{fffc}";

/// The members of JSON that hold a reason, in lower case: those of [RFC 6749, section
/// 5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2), of [RFC 9457, section
/// 3](https://www.rfc-editor.org/rfc/rfc9457#section-3), and those of gateways.
const MEMBERS: &str = "error error_description message title detail faultstring errorcode code \
                       errormessage description reason field";

/// How URLs, JSON, HTML and XML escape a character: the prefix, and the base and the maximum number
/// of the digits after it.
const ESCAPES: [(&str, u32, usize); 4] =
    [("%", 16, 2), ("\\u", 16, 4), ("&#x", 16, usize::MAX), ("&#", 10, usize::MAX)];

/// The characters that begin an escape, and how each can itself be escaped (in lower case).
const ESCAPED_SIGNS: [(&str, &[&str]); 4] = [
    ("%", &["%25", "&#37;", "&#x25;", "\\u0025"]),
    ("&", &["&amp;", "&#38;", "&#x26;", "\\u0026", "%26"]),
    ("#", &["&#35;", "&#x23;", "\\u0023", "%23"]),
    ("\\", &["\\\\", "&#92;", "&#x5c;", "\\u005c", "%5c"]),
];

/// The beginning and end of what is markup in HTML and XML.
#[rustfmt::skip]
const MARKUP: [(&str, &str); 5] = [("<![cdata[", "]]>"), ("<!--", "-->"),
    ("<script", "</script>"), ("<style", "</style>"), ("<", ">")];

/// Returns the reason that a response gives, for the end of a message: from the usual members of
/// JSON, or else the text of a page or plain text. `shows_text` is false if a page or plain
/// text may hold a token.
pub(crate) fn reason(response: &ErrorResponse, secrets: &[String], shows_text: bool) -> String {
    let wait = response.retry_after.filter(|wait| !wait.is_zero());
    let mut detail = wait.map_or_else(String::new, |wait| format!("; it asks to wait {wait:?}"));
    if let (300..=399, Some(location)) = (response.status, field(&response.fields, "location")) {
        let location = excerpt(&without_query(&replace_secrets(location, secrets)), secrets);
        return detail + "; it redirects to " + &location + ", which is never followed";
    }
    // First, because a part of a secret may look like markup or an escape.
    let text = replace_secrets(&text(&response.content), secrets);
    let mut reason = members(&text).join(": ");
    if reason.is_empty() && shows_text {
        reason = page(&text);
    }
    let reason = excerpt(&reason, secrets);
    if !reason.is_empty() {
        detail = detail + "; the response says: " + &reason;
    }
    detail
}

/// Shortens text from a server to one line without secrets.
///
/// Secrets are replaced. All of the text is hidden if [`RUN`] letters and digits in a row also
/// occur in a secret (fewer, if the secret has no run of that length). They are compared without
/// case, and once more after all other characters were removed. Text that escapes letters or digits
/// is hidden, too.
pub(crate) fn excerpt(text: &str, secrets: &[String]) -> String {
    let text = replace_secrets(text, secrets);
    let alphanumeric = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "");
    let lower = text.to_ascii_lowercase();
    let unnested = unnested(&lower);
    let stripped = alphanumeric(&without_escapes(&unnested));
    let is_escaped = escapes_alphanumeric(&lower) || escapes_alphanumeric(&unnested);
    let may_be_in = |secret: &String| {
        let secret = secret.to_ascii_lowercase();
        is_escaped || shares_run(&lower, &secret) || shares_run(&stripped, &alphanumeric(&secret))
    };
    let mut secrets = secrets.iter().filter(|secret| !secret.is_empty());
    clean(if secrets.any(may_be_in) { HIDDEN } else { &text })
}

/// Returns the values of the [`MEMBERS`] in JSON, at any depth. Stops when a name comes a second
/// time: it belongs to a second error. No parser is used, so truncated or malformed JSON is
/// searched, too.
pub(crate) fn members(text: &str) -> Vec<String> {
    let (mut found, mut seen) = (Vec::new(), Vec::new());
    let (mut name, mut rest) = (String::new(), text);
    if !text.trim_start().starts_with(['{', '[']) {
        return found;
    }
    while let Some((before, string)) = rest.split_once('"') {
        let is_unescaped = |i: &usize| (i - string[..*i].trim_end_matches('\\').len()) % 2 == 0;
        let mut quotes = string.match_indices('"').map(|(i, _)| i);
        let Some(end) = quotes.find(is_unescaped) else { break };
        let is_value = before.trim() == ":";
        if is_value && MEMBERS.split(' ').any(|member| member == name) {
            if seen.contains(&name) {
                break;
            }
            seen.push(name);
            // With its quotation marks: a JSON string.
            found.extend(miniserde::json::from_str(&rest[before.len()..][..end + 2]));
        }
        name = string[..if is_value { 0 } else { end }].to_ascii_lowercase();
        rest = &string[end + 1..];
    }
    found.retain(|value: &String| !value.trim().is_empty());
    found
}

/// Reads the beginning of content as UTF-8, or else as ISO 8859-1. Empty if it is binary.
pub(crate) fn text(content: &[u8]) -> String {
    let is_text = |byte: &u8| *byte >= b' ' || byte.is_ascii_whitespace();
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let start = &content[..content.len().min(SCAN_LIMIT)];
    let valid = start.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    // If the valid part has a character beyond ASCII, the text is UTF-8, and the limit has cut the
    // character after that part in two.
    if valid.len() == start.len() || !valid.is_ascii() {
        valid.to_owned()
    } else if start.iter().all(is_text) {
        start.iter().map(|&byte| char::from(byte)).collect()
    } else {
        String::new()
    }
}

/// Removes user, password, query and fragment from a location.
fn without_query(location: &str) -> String {
    let location = location.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = location.split_at(location.find("//").map_or(0, |start| start + 2));
    let host = rest.split('/').next().unwrap_or_default();
    let user = host.rfind('@').filter(|_| !scheme.is_empty());
    scheme.to_owned() + &rest[user.map_or(0, |user| user + 1)..]
}

/// Returns the text of a page of HTML or XML: of its body, or of its title, or, if both are empty,
/// its raw markup. Other text is returned as it is.
fn page(text: &str) -> String {
    let body = text.to_ascii_lowercase().find("<body").unwrap_or(0);
    let parts = [&text[body..], text].map(without_markup);
    let shown = parts.into_iter().find(|part| !part.trim().is_empty());
    let is_page = text.trim_start().starts_with('<');
    shown.filter(|_| is_page).unwrap_or_else(|| text.to_owned())
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
            // A tag separates words.
            _ => plain.push(' '),
        }
        at = page.len().min(at + length + end.len());
    }
    plain + &page[at..]
}

/// Turns white space and control characters into single spaces, and shortens `text`.
fn clean(text: &str) -> String {
    let text = text.replace(HIDDEN, REDACTED);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let line = line.join(" ");
    let mut chars = line.chars().map(|c| if misleads(c) { '?' } else { c });
    let clean: String = chars.by_ref().take(EXCERPT).collect();
    clean + if chars.next().is_some() { "..." } else { "" }
}

/// Whether `c` reorders or hides text on a terminal.
fn misleads(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' |
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Replaces secrets that are in `text` as they are.
fn replace_secrets(text: &str, secrets: &[String]) -> String {
    let mut secrets: Vec<_> = secrets.iter().filter(|secret| !secret.is_empty()).collect();
    // One may be a part of another.
    secrets.sort_unstable_by_key(|secret| Reverse(secret.len()));
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(&***secret, HIDDEN))
}

/// Whether `text` and `secret` share a run of [`RUN`] letters and digits. If the longest run of
/// `secret` is shorter, its length is used. A secret without letters and digits matches any text.
fn shares_run(text: &str, secret: &str) -> bool {
    let runs = secret.as_bytes().split(|byte| !byte.is_ascii_alphanumeric());
    let length = runs.clone().map(<[u8]>::len).max().unwrap_or(0).min(RUN);
    if length == 0 {
        return !text.is_empty();
    }
    let parts: HashSet<_> = runs.flat_map(|run| run.windows(length)).collect();
    text.as_bytes().windows(length).any(|part| parts.contains(part))
}

/// Undoes escapes of the signs that begin an escape: `%2541` becomes `%41`. So an escape inside an
/// escape is found, too.
fn unnested(text: &str) -> String {
    let mut text = text.to_owned();
    for (sign, escapes) in ESCAPED_SIGNS.iter().cycle().take(4 * ESCAPED_SIGNS.len()) {
        text = escapes.iter().fold(text, |text, escape| text.replace(escape, sign));
    }
    text
}

/// Removes escaped characters, which may separate the letters of a secret.
fn without_escapes(text: &str) -> String {
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(c) = rest.chars().next() {
        let escape = ESCAPES.iter().find_map(|&(prefix, radix, most)| {
            let digits = rest.strip_prefix(prefix)?.chars().take(most);
            let count = digits.take_while(|digit| digit.is_digit(radix)).count();
            (count > 0).then_some(prefix.len() + count)
        });
        if escape.is_none() {
            kept.push(c);
        }
        rest = &rest[escape.unwrap_or(c.len_utf8())..];
    }
    kept
}

/// Whether `text`, in lower case, escapes a letter or a digit, which needs no escape, or a `%`,
/// which may begin another escape.
fn escapes_alphanumeric(text: &str) -> bool {
    ESCAPES.iter().any(|&(prefix, radix, most)| {
        text.match_indices(prefix).any(|(i, _)| {
            let digits = text[i + prefix.len()..].chars().take(most);
            let code = digits
                .map_while(|digit| digit.to_digit(radix))
                .fold(0_u32, |code, digit| code.saturating_mul(radix).saturating_add(digit));
            char::from_u32(code).is_some_and(|c| c.is_ascii_alphanumeric() || c == '%')
        })
    })
}
