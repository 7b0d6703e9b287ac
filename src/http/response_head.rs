//! The head of a response: status, fields, and where the content ends. Called by `exchange`,
//! `proxy` and `response_content`. Knows nothing of requests.

use std::borrow::Cow;
use std::io::{self, BufRead, Read as _};

use crate::url::is_token;

/// Maximum size of all heads of a response, interim ones included, and of the trailers.
pub(super) const HEAD_LIMIT: usize = 64 * 1024;

/// Maximum number of fields in a head or trailers.
pub(super) const LINE_LIMIT: usize = 1024;

/// How the length of the content is determined ([RFC 9112, section
/// 6.3](https://www.rfc-editor.org/rfc/rfc9112#section-6.3)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// The head of a response.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Names are in lower case. Values have no control characters.
    pub(super) fields: Vec<(String, String)>,
    pub(super) framing: Framing,
    /// Whether the connection can be used again: the server keeps it open, and the length of the
    /// content is unambiguous.
    pub(super) is_persistent: bool,
}

/// Reads one head and subtracts its length from `budget`. If `head` is incomplete because an
/// earlier read would have blocked, continues it.
pub(super) fn read_head(
    reader: &mut dyn BufRead, budget: &mut usize, head: &mut Vec<u8>,
) -> io::Result<()> {
    // Fail on the first wrong byte: another protocol's server may be waiting for us.
    while let Some(expected @ [_, ..]) = b"HTTP/".get(head.len()..) {
        let chunk = reader.fill_buf()?;
        // Most heads are shorter than 512 bytes, so they need no second allocation.
        head.reserve(512.min(chunk.len()));
        let length = chunk.len().min(expected.len()).min(*budget);
        match length {
            _ if *budget == 0 => return Err(io::Error::other(OVER_LIMIT)),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            // The wrong bytes count as received: `exchange` reads that from the budget.
            _ if chunk[..length] != expected[..length] => {
                *budget -= length;
                return Err(io::Error::other(NO_HTTP));
            }
            _ => head.extend_from_slice(&chunk[..length]),
        }
        reader.consume(length);
        *budget -= length;
    }
    read_fields(reader, budget, head)
}

/// Reads the lines after the first one, to an empty line, and subtracts their length from `budget`.
pub(super) fn read_fields(
    reader: &mut dyn BufRead, budget: &mut usize, lines: &mut Vec<u8>,
) -> io::Result<()> {
    let is_complete =
        |lines: &[u8]| matches!(lines, [.., b'\n', b'\n'] | [.., b'\n', b'\r', b'\n']);
    let mut number = lines.split(|&byte| byte == b'\n').count();
    while !is_complete(lines) {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut length = 0;
        for line in chunk.split_inclusive(|&byte| byte == b'\n') {
            length += line.len();
            number += usize::from(line.ends_with(b"\n"));
            // This may be the empty line, or its end.
            if line.len() <= 2 || number > LINE_LIMIT + 2 {
                break;
            }
        }
        length = length.min(*budget);
        lines.extend_from_slice(&chunk[..length]);
        reader.consume(length);
        *budget -= length;
        // The first line and the empty line are no fields.
        if !is_complete(lines) && (*budget == 0 || number > LINE_LIMIT + 2) {
            return Err(io::Error::other(OVER_LIMIT));
        }
    }
    Ok(())
}

/// Reads the rest of a line, at most `budget` bytes, and subtracts its length from `budget`.
pub(super) fn read_line(
    reader: &mut dyn BufRead, budget: &mut usize, lines: &mut Vec<u8>,
) -> io::Result<()> {
    let start = lines.len();
    let read = reader.take(*budget as u64).read_until(b'\n', lines);
    *budget -= lines.len() - start;
    if read? == 0 || *budget > 0 && !lines.ends_with(b"\n") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

impl Head {
    /// Reads a head. A malformed field is an error only in a 2xx: other responses keep their status
    /// and drop the field.
    pub(super) fn parse(head: &[u8]) -> io::Result<Head> {
        let (version, status) = status_line(head).ok_or_else(|| io::Error::other(NO_HTTP))?;
        let (mut fields, mut fault) = fields(head);
        if !version.starts_with(b"1.") {
            fault = Some("has a version other than HTTP/1");
        }
        let framing = match framing(&fields) {
            // RFC 9112, section 6.3: these never have content.
            _ if matches!(status, 204 | 304) => Framing::Length(0),
            Ok(framing) => framing,
            Err(why) => {
                fault = Some(why);
                Framing::Length(0)
            }
        };
        if let (200..=299, Some(fault)) = (status, fault) {
            return Err(io::Error::other(fault));
        }
        let is_persistent =
            version == b"1.1" && fault.is_none() && allows_another_request(status, &fields);
        for (_, value) in &mut fields {
            if value.bytes().any(|byte| byte.is_ascii_control()) {
                let clean = value.replace(|c: char| c.is_ascii_control(), " ");
                clean.trim_matches(' ').clone_into(value);
            }
        }
        Ok(Head { status, fields, framing, is_persistent })
    }
}

/// Whether the connection can be used again after a response with this status and these fields.
fn allows_another_request(status: u16, fields: &[(String, String)]) -> bool {
    let has_close = values(fields, "connection").any(|value| value.eq_ignore_ascii_case("close"));
    // Exactly one field must determine the length, and none if there can be no content.
    let is_framing = |name: &str| matches!(name, "content-length" | "transfer-encoding");
    let framings = fields.iter().filter(|(name, _)| is_framing(name)).count();
    let is_unambiguous = framings == usize::from(!matches!(status, 204 | 304));
    // The server failed, or could not read the request: a second response may follow.
    let is_suspect = matches!(status, 400 | 408 | 413 | 414 | 431 | 500..);
    !has_close && is_unambiguous && !is_suspect
}

pub(super) const NO_HTTP: &str = "is not HTTP: check the host, the port, and any proxy in between";

pub(super) const OVER_LIMIT: &str =
    "has more than 64 KiB or 1024 lines of header fields or trailers";

pub(super) const BAD_LENGTH: &str = "has a Content-Length that is not a number of 64 bits";

/// Returns the fields of a head, and what is wrong if one is malformed.
fn fields(head: &[u8]) -> (Vec<(String, String)>, Option<&'static str>) {
    let (mut fields, mut fault) = (Vec::<(String, String)>::with_capacity(16), None);
    let lines = head.split(|&byte| byte == b'\n').skip(1);
    for line in lines.map(without_cr).take_while(|line| !line.is_empty()) {
        let folded = fields.last_mut().filter(|_| matches!(line[0], b' ' | b'\t'));
        if let Some((_, value)) = folded {
            // RFC 9112, section 5.2: the line continues the field.
            let whole = [value, " ", &text(trim(line))].concat();
            whole.trim_matches(SPACE).clone_into(value);
        } else if let Some(field) = field(line) {
            fields.push(field);
        } else {
            fault = Some("has a header field without a valid name");
        }
    }
    (fields, fault)
}

/// Splits a line into name and value.
fn field(line: &[u8]) -> Option<(String, String)> {
    let (mut name, value) = line.split_at(line.iter().position(|&byte| byte == b':')?);
    while let [rest @ .., b' ' | b'\t'] = name {
        name = rest;
    }
    let field = || (text(name).to_ascii_lowercase(), text(trim(&value[1..])).into_owned());
    is_token(name).then(field)
}

/// Optional whitespace ([RFC 9110, section
/// 5.6.3](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.3)).
const SPACE: [char; 2] = [' ', '\t'];

/// Removes optional whitespace at both ends.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Decodes a line that should be ASCII as UTF-8, or else as ISO 8859-1.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// Returns version and status code of a head's first line ([RFC 9112, section
/// 4](https://www.rfc-editor.org/rfc/rfc9112#section-4)).
pub(super) fn status_line(head: &[u8]) -> Option<(&[u8], u16)> {
    let line = without_cr(head.split(|&byte| byte == b'\n').next()?);
    let line = line.strip_prefix(b"HTTP/")?;
    let mut parts = line.split(|&byte| byte == b' ');
    let (version, code) = (parts.next()?, parts.next()?);
    let is_version = matches!(version, [b'0'..=b'9'] | [b'0'..=b'9', b'.', b'0'..=b'9']);
    let is_code = matches!(code.len(), 1..=3) && code.iter().all(u8::is_ascii_digit);
    let number = || code.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    (is_version && is_code).then(|| (version, number()))
}

/// Returns the values of a field. Lists are split ([RFC 9110, section
/// 5.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1)).
fn values<'a>(fields: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = fields.iter().filter(move |field| field.0 == name);
    named.flat_map(|(_, list)| list.split(',').map(|member| member.trim_matches(SPACE)))
}

/// Returns how these fields determine the length of the content.
fn framing(fields: &[(String, String)]) -> Result<Framing, &'static str> {
    let mut codings = values(fields, "transfer-encoding");
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => {
            return Ok(Framing::Chunked)
        }
        _ => return Err("has a Transfer-Encoding other than `chunked`"),
    }
    // Proxies join fields with the same name.
    let mut lengths = values(fields, "content-length");
    let Some(length) = lengths.next() else {
        return Ok(Framing::UntilClose);
    };
    if lengths.any(|other| other != length) {
        return Err("has two different Content-Length fields");
    }
    match length.parse() {
        Ok(number) if !length.starts_with('+') => Ok(Framing::Length(number)),
        _ => Err(BAD_LENGTH),
    }
}

/// Whether the content is encoded. No encoding was requested, so the caller could not decode it.
pub(super) fn is_encoded(fields: &[(String, String)]) -> bool {
    let mut codings = values(fields, "content-encoding");
    codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn head_is_read_up_to_its_end_or_its_limits() {
        // In pieces of any size.
        for capacity in [1, 2, 3, 100] {
            let read = |text: &str, mut budget: usize| {
                let mut reader = BufReader::with_capacity(capacity, text.as_bytes());
                let mut head = Vec::new();
                let result = read_head(&mut reader, &mut budget, &mut head);
                let mut rest = String::new();
                reader.read_to_string(&mut rest).unwrap();
                (result.map(|()| head.len()), budget, rest)
            };
            for (text, budget, length) in [
                ("HTTP/1\r\n\r\n", 10, 10),
                ("HTTP/1\n\n", 10, 8),
                ("HTTP/1\n\r\n", 10, 9),
                ("HTTP/1\r\n\r\r\n\r\n", 20, 13),
                ("HTTP/1\r\na\r\n\r\n", 20, 13),
            ] {
                let (result, left, rest) = read(&format!("{text}more"), budget);
                assert_eq!(result.ok(), Some(length), "{text:?}");
                assert_eq!((left, &*rest), (budget - length, "more"), "{text:?}");
            }
            let failure = |text: &str, budget| read(text, budget).0.unwrap_err();
            assert_eq!(failure("HTTP/1\r\n\r\n", 9).to_string(), OVER_LIMIT);
            for text in ["", "HTTP/", "HTTP/1\r\n"] {
                assert_eq!(failure(text, 10).kind(), io::ErrorKind::UnexpectedEof, "{text:?}");
            }
            let fields = |n| format!("HTTP/1.1 200\n{}\n", "a:\n".repeat(n));
            assert!(read(&fields(LINE_LIMIT), HEAD_LIMIT).0.is_ok());
            let over = failure(&fields(LINE_LIMIT + 1), HEAD_LIMIT);
            assert_eq!(over.to_string(), OVER_LIMIT);
            assert_eq!(failure("220 mail", 10).to_string(), NO_HTTP);
            assert_eq!(failure("HTTP:", 10).to_string(), NO_HTTP);
        }
    }
}
