//! The head of a response: read from the connection, put into the form that minreq reads rightly,
//! and where the content behind it ends. Called by `exchange` and `proxy`. Knows nothing of
//! requests.

use std::borrow::Cow;
use std::io::{self, BufRead, Read as _};

use crate::url::is_token;

/// How long the heads of a response may be, interim ones included, and how many fields they have.
pub(super) const HEAD_LIMIT: usize = 64 * 1024;
pub(super) const LINE_LIMIT: usize = 1024;

/// How the end of the content is found ([RFC 9112, section
/// 6.3](https://www.rfc-editor.org/rfc/rfc9112#section-6.3)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Why there is no head, or no content.
#[derive(Debug)]
pub(super) enum Trouble {
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the connection was closed.
    Io(io::Error),
    /// What is wrong with it.
    Malformed(&'static str),
}

/// The head of a response, in order.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    /// For minreq: a status line without a reason, and the fields without those of the framing,
    /// which minreq would act on.
    pub(super) text: String,
    /// The fields of the framing, as they came.
    pub(super) framing_fields: Vec<(String, String)>,
    pub(super) framing: Framing,
    /// The server keeps the connection open, and there is no doubt about where the content ends.
    pub(super) is_persistent: bool,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

/// Reads to the end of a head; of `left`, what may be read, that is taken. After an error that
/// passes it goes on where it was.
pub(super) fn read_head(
    reader: &mut impl BufRead, left: &mut usize, head: &mut Vec<u8>,
) -> Result<(), Trouble> {
    // Who speaks another protocol may wait for something else than an HTTP client says.
    while let Some(wanted) = b"HTTP/".get(head.len()) {
        match reader.fill_buf()?.first() {
            None => return Err(Trouble::Io(io::ErrorKind::UnexpectedEof.into())),
            Some(byte) if byte == wanted => reader.consume(1),
            Some(_) => return Err(Trouble::Malformed(NO_HTTP)),
        }
        *left = left.checked_sub(1).ok_or(Trouble::Malformed(OVER_LIMIT))?;
        head.push(*wanted);
    }
    let lines = head.split(|&byte| byte == b'\n').count() - 1;
    for _ in lines..LINE_LIMIT + 2 {
        read_line(reader, left, head)?;
        if head.ends_with(b"\n\n") || head.ends_with(b"\n\r\n") {
            return Ok(());
        }
    }
    Err(Trouble::Malformed(OVER_LIMIT))
}

/// Reads one line more, with its end.
pub(super) fn read_line(
    reader: &mut impl BufRead, left: &mut usize, lines: &mut Vec<u8>,
) -> Result<(), Trouble> {
    let begin = lines.len();
    let read = reader.take(*left as u64).read_until(b'\n', lines);
    *left -= lines.len() - begin;
    read?;
    match lines.last() {
        Some(b'\n') if lines.len() > begin => Ok(()),
        _ if *left == 0 => Err(Trouble::Malformed(OVER_LIMIT)),
        _ => Err(Trouble::Io(io::ErrorKind::UnexpectedEof.into())),
    }
}

impl Head {
    /// Reads a head. What is wrong with anything but its status is an error of a 2xx response
    /// only: another response keeps its status, and loses what can't be read.
    pub(super) fn parse(head: &[u8]) -> Result<Head, &'static str> {
        let mut lines = head.split(|&byte| byte == b'\n').map(line_of);
        let line = lines.next().unwrap_or_default();
        let (version, status) = status_line(&line).ok_or(NO_HTTP)?;
        let mut fault = (!version.starts_with("1.")).then_some("has a version other than HTTP/1");
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            let is_folded = line.starts_with(BLANKS);
            match (line.split_once(':'), fields.last_mut()) {
                // RFC 9112, section 5.2: the field goes on.
                (_, Some((_, value))) if is_folded => {
                    let whole = [value, line.trim_matches(BLANKS)].join(" ");
                    whole.trim_matches(BLANKS).clone_into(value);
                }
                (Some((name, value)), _) if is_token(name.trim_end_matches(BLANKS)) => {
                    let name = name.trim_end_matches(BLANKS).to_ascii_lowercase();
                    fields.push((name, value.trim_matches(BLANKS).to_owned()));
                }
                _ => fault = Some("has a header field without a valid name"),
            }
        }
        let has_close =
            values(&fields, "connection").any(|value| value.eq_ignore_ascii_case("close"));
        let (framing_fields, fields): (Vec<_>, Vec<_>) =
            fields.into_iter().partition(|(name, _)| FRAMING.contains(&&**name));
        let framing = match (framing(&framing_fields), status) {
            // These have no content, whatever their fields say.
            (_, 204 | 304) => Framing::Length(0),
            (Ok(framing), _) => framing,
            (Err(why), _) => {
                fault = Some(why);
                Framing::Length(0)
            }
        };
        if let (200..=299, Some(fault)) = (status, fault) {
            return Err(fault);
        }
        let mut text = format!("HTTP/1.1 {status}\r\n");
        for (name, value) in fields {
            // What has no place in a line is made a blank.
            let value = value.replace(|c: char| c.is_ascii_control(), " ");
            let blank = if value.is_empty() { "" } else { " " };
            text.extend([&name, ":", blank, value.trim_matches(' '), "\r\n"]);
        }
        text.push_str("\r\n");
        let is_unambiguous = match (framing, status) {
            (Framing::UntilClose, _) => false,
            (_, 204 | 304) => framing_fields.is_empty(),
            _ => framing_fields.len() == 1,
        };
        let is_persistent = fault.is_none() && version == "1.1" && !has_close && is_unambiguous;
        Ok(Head { status, text, framing_fields, framing, is_persistent })
    }
}

/// The fields that tell where content ends.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

const BLANKS: [char; 2] = [' ', '\t'];

pub(super) const NO_HTTP: &str =
    "is not HTTP: check the host and the port, and what stands in between";

pub(super) const OVER_LIMIT: &str =
    "has more than 64 KiB or 1024 lines of header fields or trailers";

pub(super) const BAD_LENGTH: &str = "has a Content-Length that is not a number of 64 bits";

/// A line as text: it should be ASCII; other bytes are UTF-8, or else ISO 8859-1.
pub(super) fn line_of(line: &[u8]) -> Cow<'_, str> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(line) => line.into(),
        Err(_) => line.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// Version and status code of a status line ([RFC 9112, section
/// 4](https://www.rfc-editor.org/rfc/rfc9112#section-4)).
pub(super) fn status_line(line: &str) -> Option<(&str, u16)> {
    let (version, rest) = line.strip_prefix("HTTP/")?.split_once(' ')?;
    let code = rest.split(' ').next()?;
    let is_code = matches!(code.len(), 1..=3) && code.bytes().all(|byte| byte.is_ascii_digit());
    let digits = version.split('.').all(|part| matches!(part.as_bytes(), [b'0'..=b'9']));
    let is_version = digits && version.len() <= "1.1".len();
    if !is_code || !is_version {
        return None;
    }
    Some((version, code.parse().ok()?))
}

/// The values of a field, whose lists ([RFC 9110, section
/// 5.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1)) are taken apart.
fn values<'a>(fields: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = fields.iter().filter(move |field| field.0 == name);
    named.flat_map(|(_, list)| list.split(',').map(|member| member.trim_matches(BLANKS)))
}

/// Where the content of a response with these fields ends.
fn framing(fields: &[(String, String)]) -> Result<Framing, &'static str> {
    let mut codings = values(fields, "transfer-encoding");
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.eq_ignore_ascii_case("chunked") {
            return Err("has a Transfer-Encoding other than `chunked`");
        }
        return Ok(Framing::Chunked);
    }
    // Proxies join the fields of one name.
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

/// Whether the content is encoded: it would be taken for the content itself.
pub(super) fn is_encoded(fields: &[(String, String)]) -> bool {
    let mut codings = values(fields, "content-encoding");
    codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK", Some(("1.1", 200))),
            ("HTTP/1.0 200 Not  bad", Some(("1.0", 200))),
            ("HTTP/1.1 201", Some(("1.1", 201))),
            ("HTTP/1.1 407 ", Some(("1.1", 407))),
            ("HTTP/2 401 caf\u{e9}", Some(("2", 401))),
            ("HTTP/1.1 20 x", Some(("1.1", 20))),
            ("HTTP/1.1 200OK", None),
            ("HTTP/1.1 2000", None),
            ("HTTP/1.1 +20 x", None),
            ("HTTP/1.1  200 OK", None),
            ("HTTP/x 200 OK", None),
            ("HTTP/1.1", None),
            ("http/1.1 200 OK", None),
            ("ICY 200 OK", None),
            ("", None),
        ] {
            assert_eq!(status_line(line), expected, "{line}");
        }
    }

    #[test]
    fn a_head_is_put_into_the_form_that_minreq_reads() {
        let head = b"HTTP/1.1 200 Voil\xe0\r\nX-A:\t a  b \r\nContent-Length: 7\r\nX-File: \
                     caf\xe9.pdf\r\nX-Utf8: caf\xc3\xa9\nX-Fold: one\r\n  two\r\n\tthree\r\nX-Odd: \
                     a\0b\rc\r\nX-Space : x\r\nTransfer-Encoding:\r\n chunked\r\nX-Empty:\r\n\r\n";
        let head = Head::parse(head).unwrap();
        assert_eq!(
            head.text,
            "HTTP/1.1 200\r\nx-a: a  b\r\nx-file: caf\u{e9}.pdf\r\nx-utf8: caf\u{e9}\r\n\
             x-fold: one two three\r\nx-odd: a b c\r\nx-space: x\r\nx-empty:\r\n\r\n"
        );
        let expected = [("content-length", "7"), ("transfer-encoding", "chunked")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(head.framing_fields, expected);
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn where_content_ends_and_whether_the_connection_stays() {
        use Framing::{Chunked, Length, UntilClose};
        let chunked = Err("has a Transfer-Encoding other than `chunked`");
        let twice = Err("has two different Content-Length fields");
        let name = Err("has a header field without a valid name");
        let version = Err("has a version other than HTTP/1");
        for (begin, fields, expected) in [
            ("1.1 200", "", Ok((UntilClose, false))),
            ("1.1 200", "Content-Length: 5", Ok((Length(5), true))),
            ("1.1 200", "content-length: 0", Ok((Length(0), true))),
            ("1.0 200", "Content-Length: 5", Ok((Length(5), false))),
            ("1.1 200", "Content-Length: 5\nConnection: Keep-Alive", Ok((Length(5), true))),
            ("1.1 200", "Content-Length: 5\nConnection: x, Close", Ok((Length(5), false))),
            (
                "1.1 200",
                "Content-Length: 5\nConnection: x\nconnection:close",
                Ok((Length(5), false)),
            ),
            ("1.1 200", "Content-Length: 5\nContent-Length: 5", Ok((Length(5), false))),
            ("1.1 200", "Content-Length: 5, 5", Ok((Length(5), true))),
            ("1.1 200", "Content-Length: 5, 6", twice),
            ("1.1 200", "Content-Length: 5\nContent-Length: 6", twice),
            ("1.1 200", "Content-Length: 5,", twice),
            ("1.1 200", "Content-Length: +5", Err(BAD_LENGTH)),
            ("1.1 200", "Content-Length:", Err(BAD_LENGTH)),
            ("1.1 200", "Content-Length: \u{a0}5", Err(BAD_LENGTH)),
            ("1.1 200", "Content-Length: 18446744073709551615", Ok((Length(u64::MAX), true))),
            ("1.1 200", "Content-Length: 18446744073709551616", Err(BAD_LENGTH)),
            ("1.1 200", "Content-Length: 1\n 8", Err(BAD_LENGTH)),
            ("1.1 200", "Transfer-Encoding: chunked", Ok((Chunked, true))),
            ("1.0 200", "Transfer-Encoding: chunked", Ok((Chunked, false))),
            ("1.1 200", "Transfer-Encoding: Chunked\nContent-Length: 5", Ok((Chunked, false))),
            ("1.1 200", "Transfer-Encoding: gzip, chunked", chunked),
            ("1.1 200", "Transfer-Encoding: chunked\nTransfer-Encoding: chunked", chunked),
            ("1.1 200", "Transfer-Encoding: identity\nContent-Length: 5", chunked),
            ("1.1 401", "Transfer-Encoding: gzip", Ok((Length(0), false))),
            ("1.1 409", "Content-Length: 5\nContent-Length: 6", Ok((Length(0), false))),
            ("1.1 429", "Content-Length: five", Ok((Length(0), false))),
            ("1.1 204", "", Ok((Length(0), true))),
            ("1.1 204", "Content-Length: 5", Ok((Length(0), false))),
            ("1.1 304", "Transfer-Encoding: chunked", Ok((Length(0), false))),
            ("1.1 200", "Content-Length\u{b}: 5", name),
            ("1.1 200", "no colon", name),
            ("1.1 200", ": no name", name),
            ("1.1 200", " folded: first", name),
            ("1.1 401", "no colon\nContent-Length: 5", Ok((Length(5), false))),
            ("2.0 200", "Content-Length: 5", version),
            ("1. 200", "Content-Length: 5", Err(NO_HTTP)),
            ("1.\u{e9} 200", "Content-Length: 5", Err(NO_HTTP)),
            ("1.11 200", "Content-Length: 5", Err(NO_HTTP)),
            ("2 403", "Content-Length: 5", Ok((Length(5), false))),
        ] {
            let head = format!("HTTP/{begin}\n{fields}\n\n");
            let head = Head::parse(head.as_bytes());
            let result = head.map(|head| (head.framing, head.is_persistent));
            assert_eq!(result, expected, "{begin} {fields}");
        }
    }

    #[test]
    fn a_head_is_read_up_to_the_limits() {
        let read = |text: &str, mut left: usize| {
            let mut bytes = text.as_bytes();
            let mut head = Vec::new();
            let result = read_head(&mut bytes, &mut left, &mut head);
            (result.map(|()| head.len()), left, bytes.len())
        };
        assert!(matches!(read("HTTP/1\r\n\r\nmore", 10), (Ok(10), 0, 4)));
        assert!(matches!(read("HTTP/1\n\nmore", 10), (Ok(8), 2, 4)));
        assert!(matches!(read("HTTP/1\r\n\r\n", 9), (Err(Trouble::Malformed(OVER_LIMIT)), 0, _)));
        assert!(matches!(read("HTTP/1\r\n", 10), (Err(Trouble::Io(_)), 2, 0)));
        assert!(matches!(read("HTTP/", 10), (Err(Trouble::Io(_)), 5, 0)));
        assert!(matches!(read("", 10), (Err(Trouble::Io(_)), 10, 0)));
        assert!(matches!(read("220 mail", 10), (Err(Trouble::Malformed(NO_HTTP)), 10, _)));
        let fields = |n| format!("HTTP/1.1 200\n{}\n", "a:\n".repeat(n));
        assert!(read(&fields(LINE_LIMIT), HEAD_LIMIT).0.is_ok());
        let over = read(&fields(LINE_LIMIT + 1), HEAD_LIMIT).0;
        assert!(matches!(over, Err(Trouble::Malformed(OVER_LIMIT))));
    }
}
