//! Passes inputs of callers, the environment and servers to the crate's parsers, without a network,
//! and checks the results by other means.
//!
//! The first byte selects the kind of input, from `0` on. The parts of the rest are separated by
//! 0xff, which UTF-8 never contains.
#![no_main]

use std::borrow::Cow;
use std::time::Duration;

use jas_session::fuzzing::{self, Target};
use jas_session::miniserde::json::{self, Number, Value};
use jas_session::{Error, ErrorKind};
use libfuzzer_sys::fuzz_target;

/// Never allowed in a message, and too long to appear by chance.
const SECRET: &str = "hush-5f1d2c3b4a59";
const TOKEN: &str = "tok-9e8d7c6b5a40";

/// Maximum lifetime of a token.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Maximum number of characters of an excerpt, including the dots at its end.
const EXCERPT: usize = 203;

const KINDS: [fn(&[&[u8]]); 9] =
    [base_url, endpoint_url, path, fields, retry_after, challenge, token_response, excerpt, form];

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let parts: Vec<_> = rest.split(|byte| *byte == 0xff).collect();
    KINDS[usize::from(kind.wrapping_sub(b'0')) % KINDS.len()](&parts);
});

fn text<'a>(parts: &[&'a [u8]], i: usize) -> Cow<'a, str> {
    String::from_utf8_lossy(parts.get(i).copied().unwrap_or_default())
}

fn byte(parts: &[&[u8]], i: usize, j: usize) -> u8 {
    let part = parts.get(i).copied().unwrap_or_default();
    part.get(j).copied().unwrap_or_default()
}

/// Checks an error caused by the caller: its message is one line.
fn check_refusal(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    assert!(!error.may_have_executed() && error.status().is_none());
    let message = error.to_string();
    // The message shows a valid path unchanged.
    let is_shown = |c: char| c == ' ' || !c.is_control() && !c.is_whitespace();
    assert!(message.chars().all(is_shown), "{message:?}");
}

/// Checks a target: the `Host` field and the request line are made from it.
fn check_target(target: &Target) {
    let whole = target.to_string();
    assert!(whole.bytes().all(|byte| byte.is_ascii_graphic()), "{whole:?}");
    assert!(!whole.contains(['#', '\\', '"', '<', '>']), "{whole:?}");
    let authority = match target.origin.split_once("://") {
        Some(("https", authority)) => authority,
        Some(("http", authority)) => {
            let host = authority.split(':').next().unwrap();
            let is_loopback = host.strip_prefix("127.").is_some_and(|rest| {
                let numbers: Vec<_> = rest.split('.').map(str::parse::<u8>).collect();
                numbers.len() == 3 && numbers.iter().all(Result::is_ok)
            });
            let is_good = host == "localhost" || is_loopback || authority.starts_with("[::1]");
            assert!(is_good, "{whole}");
            authority
        }
        _ => panic!("{whole:?} has another scheme"),
    };
    let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = match bracketed {
        Some((address, port)) => {
            assert!(address.parse::<std::net::Ipv6Addr>().is_ok(), "{whole}");
            ("v6", port.strip_prefix(':').unwrap_or("1"))
        }
        None => authority.split_once(':').unwrap_or((authority, "1")),
    };
    assert!(port.parse::<u16>().is_ok_and(|port| port > 0), "{whole}");
    let is_good = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
    assert!(!host.is_empty() && host.len() < 254 && host.chars().all(is_good), "{whole}");
    // Otherwise a resolver would read the last label as an address in another notation.
    let last = host.rsplit('.').next().unwrap();
    if last.starts_with(|c: char| c.is_ascii_digit()) && is_number(last) {
        assert!(host.parse::<std::net::Ipv4Addr>().is_ok(), "{whole}");
    }
    assert!(target.path.is_empty() || target.path.starts_with('/'), "{whole}");
    for (i, _) in whole.match_indices('%') {
        let digits = &whole.as_bytes()[i + 1..][..2];
        assert!(digits.iter().all(u8::is_ascii_hexdigit), "{whole}");
    }
}

/// As `inet_aton` understands it.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")) {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// 0: a base URL.
fn base_url(parts: &[&[u8]]) {
    match fuzzing::base(&text(parts, 0)) {
        Err(error) => check_refusal(&error),
        Ok(target) => {
            check_target(&target);
            assert!(!target.path.ends_with('/') && !target.path.contains('?'), "{target}");
            assert_eq!(fuzzing::base(&target.to_string()).unwrap(), target);
        }
    }
}

/// 1: the URL of a token endpoint.
fn endpoint_url(parts: &[&[u8]]) {
    match fuzzing::endpoint(&text(parts, 0)) {
        Err(error) => check_refusal(&error),
        Ok(target) => {
            check_target(&target);
            assert!(target.path.starts_with('/'), "{target}");
            assert_eq!(fuzzing::endpoint(&target.to_string()).unwrap(), target);
        }
    }
}

/// 2: a base URL (replaced by a usual one if it is invalid), and a path.
fn path(parts: &[&[u8]]) {
    let given = text(parts, 0);
    let (base_text, base) = match fuzzing::base(&given) {
        Ok(base) => (&*given, base),
        Err(_) => {
            let usual = "https://api.example.com/gw";
            (usual, fuzzing::base(usual).unwrap())
        }
    };
    let path = text(parts, 1);
    match fuzzing::join(base_text, &path) {
        Err(error) => check_refusal(&error),
        Ok(target) => {
            check_target(&target);
            assert_eq!(target.origin, base.origin, "{path}");
            if path.starts_with('/') {
                assert_eq!(target.path, format!("{}{path}", base.path));
            } else {
                assert!(target.path.starts_with('/'), "{target}");
            }
            // A `next` link gives the same target.
            assert_eq!(fuzzing::join(base_text, &target.to_string()).unwrap(), target);
        }
    }
}

/// 3: the name and the value of a header field. The value is also tried as all other input.
fn fields(parts: &[&[u8]]) {
    let (name, value) = (text(parts, 0), text(parts, 1));
    let is_printable = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let has_bare_ends = |text: &str| text.trim() == text;
    match fuzzing::check_field_name(&name) {
        Err(error) => check_refusal(&error),
        Ok(()) => match fuzzing::check_field_value(&value) {
            Err(error) => check_refusal(&error),
            Ok(()) => {
                // A recipient reads exactly this field.
                let section = format!("{name}: {value}\r\n");
                let lines: Vec<_> = section.split_inclusive(['\r', '\n', '\0']).collect();
                assert_eq!(lines.len(), 2, "{section:?}");
                let (read_name, read_value) = section.split_once(':').unwrap();
                assert_eq!((read_name, read_value.trim()), (&*name, &*value));
                assert!(name.bytes().all(|byte| byte.is_ascii_graphic()) && !name.is_empty());
            }
        },
    }
    for (checked, is_right) in [
        (
            fuzzing::check_credential(&value),
            !value.is_empty() && is_printable(&value) && has_bare_ends(&value),
        ),
        (
            fuzzing::check_visible(&value),
            !value.is_empty() && is_printable(&value) && !value.contains(' '),
        ),
    ] {
        assert_eq!(checked.is_ok(), is_right, "{value:?}");
        if let Err(error) = checked {
            check_refusal(&error);
            // It may be a secret.
            assert!(value.len() < 12 || !error.to_string().contains(&*value), "{error}");
        }
    }
    match fuzzing::check_media_type(&value) {
        Err(error) => check_refusal(&error),
        Ok(()) => {
            assert!(is_printable(&value.replace('\t', " ")) && has_bare_ends(&value), "{value:?}");
            let (kind, rest) = value.split_once('/').unwrap();
            assert!(!kind.is_empty() && !rest.is_empty() && !kind.contains([' ', ';']), "{value}");
        }
    }
}

/// 4: `Retry-After`, and `Date` if there is a second part.
fn retry_after(parts: &[&[u8]]) {
    let value = text(parts, 0).into_owned();
    let date = parts.get(1).map(|_| text(parts, 1).into_owned());
    let mut list = vec![("retry-after".to_owned(), value.clone())];
    list.extend(date.clone().map(|date| ("date".to_owned(), date)));
    let wait = fuzzing::retry_after(&list);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (seconds, fraction) = value.split_once('.').unwrap_or((&value, "0"));
    let expected = if is_number(seconds) && is_number(fraction) {
        let seconds = seconds.bytes().fold(0_u64, |sum, digit| {
            sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
        });
        let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
        let nanos = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        Some(Duration::new(seconds, nanos))
    } else {
        let time = |text: &str| httpdate::parse_http_date(text).ok();
        let both = time(&value).zip(date.and_then(|date| time(&date)));
        both.map(|(until, now)| until.duration_since(now).unwrap_or_default())
    };
    assert_eq!(wait, expected, "{value:?}");
    // The message shows it at the beginning of the reason.
    let reason = fuzzing::reason(503, &list, b"", &[]);
    assert_eq!(reason.is_empty(), wait.is_none_or(|wait| wait.is_zero()), "{reason}");
}

/// 5: `WWW-Authenticate`, alone, within challenges of known meaning, and within JSON.
fn challenge(parts: &[&[u8]]) {
    let raw = text(parts, 0);
    let is_refused = |status, value: &str, content: &str| {
        let list = [("WWW-Authenticate".to_owned(), value.to_owned())];
        fuzzing::is_token_refused(status, &list, content.as_bytes())
    };
    let bare = raw.to_lowercase().replace([' ', '\t', '"'], "");
    assert!(is_refused(401, &raw, "") && !is_refused(204, &raw, &raw));
    if is_refused(403, &raw, "") {
        assert!(bare.contains("bearer") && bare.contains("error=invalid_token"), "{raw:?}");
    }
    let gap = [" ", "  ", "\t"][usize::from(byte(parts, 1, 0)) % 3];
    let comma = [",", ", ", " ,", ",,"][usize::from(byte(parts, 1, 1)) % 4];
    let is = ["=", " = ", "=\t"][usize::from(byte(parts, 1, 2)) % 3];
    let name = ["Bearer", "bearer", "BEARER"][usize::from(byte(parts, 1, 3)) % 3];
    let bad = ["invalid_token", "\"invalid_token\""][usize::from(byte(parts, 1, 4)) % 2];
    let realm = format!("realm{is}\"{raw}\"");
    for value in [
        format!("{name}{gap}error{is}{bad}"),
        format!("{name}{gap}{realm}{comma}error{is}{bad}"),
        format!("{name}{gap}error{is}{bad}{comma}{realm}"),
        format!("Basic {realm}{comma}{name}{gap}error{is}{bad}"),
    ] {
        assert!(is_refused(400, &value, ""), "{value:?}");
    }
    let mut token = raw.into_owned();
    token.retain(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c));
    let lower = token.to_lowercase();
    // `Bear error` and `Bearer ror` contain both words.
    if !["bear", "ror", "invalid_token"].iter().any(|word| lower.contains(word)) {
        for value in [
            format!("{token} error{is}{bad}"),
            format!("{name}{gap}error{is}\"{token}\""),
            format!("{name}{gap}{token}{is}{bad}"),
        ] {
            assert!(!is_refused(400, &value, ""), "{value:?}");
        }
    }
    let says = json::to_string(&format!("token {} has expired", text(parts, 0)));
    let says = format!("{{\"message\":{says}}}");
    assert!(is_refused(403, "", &says) && !is_refused(404, "", &says), "{says}");
}

/// 6: the content of a token endpoint's response.
fn token_response(parts: &[&[u8]]) {
    let content = text(parts, 0);
    let object = match json::from_str(content.strip_prefix('\u{feff}').unwrap_or(&content)) {
        Ok(Value::Object(object)) => object,
        _ => json::Object::new(),
    };
    let string = |name| match object.get(name) {
        Some(Value::String(text)) => &**text,
        _ => "",
    };
    let (token, kind) = (string("access_token"), string("token_type"));
    match fuzzing::token(parts[0], &[SECRET.to_owned()]) {
        Ok((value, lifetime)) => {
            assert_eq!(value, token);
            assert!(fuzzing::check_visible(token).is_ok());
            let kinds = ["", "bearer", "bearertoken"];
            assert!(kinds.contains(&&*kind.trim().to_lowercase()), "{kind:?}");
            let seconds = match object.get("expires_in") {
                None | Some(Value::Null) => 600,
                Some(Value::Number(Number::U64(n))) => *n,
                Some(Value::Number(Number::I64(_))) => 0,
                Some(Value::Number(Number::F64(n))) => n.max(0.0) as u64,
                Some(Value::String(text)) => text.trim().parse::<f64>().unwrap().max(0.0) as u64,
                _ => panic!("a lifetime of what is no number"),
            };
            let expected = Duration::from_secs(seconds);
            assert_eq!(lifetime.min(DAY), expected.min(DAY));
        }
        Err(why) => {
            check_message(&why, EXCERPT + 100);
            assert!(!why.contains(SECRET), "{why}");
            // A short token may be in a message by chance.
            let is_long = token.len() > 8 && token.contains("0x");
            assert!(!is_long || !why.contains(token), "{why}");
            // The message shows the token's type and nothing else.
            let is_type = kind.contains(TOKEN) && token != TOKEN;
            assert!(is_type || !why.contains(TOKEN), "{why}");
        }
    }
}

/// Checks that this is one line of limited length without control characters for a terminal.
fn check_message(message: &str, longest: usize) {
    assert!(message.chars().count() <= longest, "{message:?}");
    for c in message.chars() {
        let hides = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
        assert!(!c.is_control() && !hides, "{message:?}");
        assert!(c == ' ' || !c.is_whitespace(), "{message:?}");
    }
}

/// 7: an API key, how a server escapes it, and the text before and after it.
fn excerpt(parts: &[&[u8]]) {
    let mut own = text(parts, 0).into_owned();
    // Skips text of the crate's own messages: text after `[redacted]` may form a
    // secret that begins with its `]`, and `?` replaces characters that would hide text.
    own.retain(|c| c.is_ascii_graphic() && !"]?".contains(c));
    own.push_str("4711-8e7d");
    let secrets = [SECRET, &own, ""].map(str::to_owned);
    let how = |i: usize| byte(parts, 1, i % parts.get(1).map_or(1, |part| part.len().max(1)));
    let escaped: String = own.bytes().enumerate().map(|(i, c)| escape(c, how(i))).collect();
    let (mut before, after) = (text(parts, 2).into_owned(), text(parts, 3));
    // After half an escape (`%`, `\`, `&#`), the text is ambiguous.
    if before.contains(['%', '\\', '&']) {
        before.push(' ');
    }
    let page = format!("{before}{escaped}{after}");
    let excerpt = fuzzing::excerpt(&page, &secrets);
    check_message(&excerpt, EXCERPT);
    check_hidden(&excerpt, &secrets, &escaped);

    let quoted: String = before
        .chars()
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            c if c.is_control() => vec![' '],
            c => vec![c],
        })
        .collect();
    let location = [("Location".to_owned(), page.clone())];
    let text = format!("<html><p>{page}</p>");
    let json = format!("{{\"error\":\"{quoted}{escaped}\",\"message\":\"{own}\"}}");
    for (status, content) in [(302, &json), (500, &page), (500, &text), (500, &json)] {
        let reason = fuzzing::reason(status, &location, content.as_bytes(), &secrets);
        check_message(&reason, EXCERPT + 60);
        check_hidden(&reason, &secrets, &escaped);
    }
}

/// A character as a server may escape it.
fn escape(c: u8, how: u8) -> String {
    let named = match c {
        b'&' => "&amp;",
        b'<' => "&lt;",
        b'>' => "&gt;",
        b'"' => "&quot;",
        b'\'' => "&apos;",
        _ => "",
    };
    match how % 10 {
        1 => format!("%{c:02X}"),
        2 => format!("%{c:02x}"),
        3 => format!("\\u{c:04x}"),
        4 => format!("\\u{c:04X}"),
        5 => format!("&#{c};"),
        6 => format!("&#x{c:X};"),
        7 => format!("&#X{c:04x};"),
        8 if !c.is_ascii_alphanumeric() => format!("\\{}", char::from(c)),
        9 if !named.is_empty() => named.to_owned(),
        // If some characters are escaped, those that begin an escape are, too.
        _ if b"%\\&".contains(&c) => format!("%{c:02X}"),
        _ => char::from(c).to_string(),
    }
}

fn check_hidden(shown: &str, secrets: &[String], escaped: &str) {
    assert!(!shown.contains(escaped), "{shown:?} shows {escaped:?}");
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        assert!(!shown.contains(&**secret), "{shown:?} shows {secret:?}");
    }
}

/// 8: a value of the token request's form.
fn form(parts: &[&[u8]]) {
    let value = text(parts, 0);
    let encoded = fuzzing::form_encoded(&value);
    let mut decoded = Vec::new();
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                let digits = std::str::from_utf8(&digits).unwrap().to_owned();
                assert_eq!(digits, digits.to_uppercase());
                u8::from_str_radix(&digits, 16).unwrap()
            }
            b'*' | b'-' | b'.' | b'_' => byte,
            _ if byte.is_ascii_alphanumeric() => byte,
            _ => panic!("{encoded} has what is no part of a form's value"),
        });
    }
    assert_eq!(decoded, value.as_bytes());
}
