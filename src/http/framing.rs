//! The head of a response: read from the connection, put into the form that minreq reads rightly,
//! and where the content behind it ends. Called by `http` and by `proxy`.

use std::borrow::Cow;
use std::io::{self, BufRead, Read as _};

use crate::url::is_token_character;

/// How long the heads of a response may be, interim ones included, and how many fields they have.
pub(crate) const HEAD_LIMIT: usize = 64 * 1024;
pub(crate) const LINE_LIMIT: usize = 1024;

/// How the end of the content is found ([RFC 9112, section
/// 6.3](https://www.rfc-editor.org/rfc/rfc9112#section-6.3)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Why there is no head, or no content.
#[derive(Debug, Default)]
pub(crate) enum Trouble {
    Io(io::Error),
    /// The connection ended.
    #[default]
    Ended,
    OverLimit,
    /// What is wrong with it.
    Malformed(&'static str),
}

/// The head of a response, in order.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// For minreq: a status line without a reason, and the fields without those of the framing,
    /// which minreq would act on.
    pub(crate) text: String,
    /// The fields of the framing, as they came.
    pub(crate) framing_fields: Vec<(String, String)>,
    pub(crate) framing: Framing,
    /// The server keeps the connection open, and there is no doubt about where the content ends.
    pub(crate) is_persistent: bool,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

/// Reads to the end of a head; of `left`, what may be read, that is taken. After an error that
/// passes it goes on where it was.
pub(crate) fn read_head(
    reader: &mut impl BufRead, left: &mut usize, head: &mut Vec<u8>,
) -> Result<(), Trouble> {
    // Who speaks another protocol may wait for something else than an HTTP client says.
    while let Some(wanted) = b"HTTP/".get(head.len()) {
        match reader.fill_buf()?.first() {
            None => return Err(Trouble::Ended),
            Some(byte) if byte == wanted => reader.consume(1),
            Some(_) => return Err(Trouble::Malformed(NO_HTTP)),
        }
        *left = left.checked_sub(1).ok_or(Trouble::OverLimit)?;
        head.push(*wanted);
    }
    let lines = head.split(|&byte| byte == b'\n').count() - 1;
    for _ in lines..LINE_LIMIT + 2 {
        read_line(reader, left, head)?;
        if head.ends_with(b"\n\n") || head.ends_with(b"\n\r\n") {
            return Ok(());
        }
    }
    Err(Trouble::OverLimit)
}

/// Reads one line more, with its end.
pub(crate) fn read_line(
    reader: &mut impl BufRead, left: &mut usize, lines: &mut Vec<u8>,
) -> Result<(), Trouble> {
    let begin = lines.len();
    let read = reader.take(*left as u64).read_until(b'\n', lines);
    *left -= lines.len() - begin;
    read?;
    match lines.last() {
        Some(b'\n') if lines.len() > begin => Ok(()),
        _ if *left == 0 => Err(Trouble::OverLimit),
        _ => Err(Trouble::Ended),
    }
}

impl Head {
    /// Reads a head. What is wrong with anything but its status is an error of a 2xx response
    /// only: another response keeps its status, and loses what can't be read.
    pub(crate) fn parse(head: &[u8]) -> Result<Head, &'static str> {
        let mut lines = head.split(|&byte| byte == b'\n').map(line_of);
        let line = lines.next().unwrap_or_default();
        let (version, status, _) = status_line(&line).ok_or(NO_HTTP)?;
        let mut fault =
            (!version.starts_with("1.")).then_some("the answer's version is not HTTP/1");
        let mut text = format!("HTTP/1.1 {status}\r\n");
        let mut framing_fields: Vec<(String, String)> = Vec::new();
        let mut is_framing = false;
        for line in lines.take_while(|line| !line.is_empty()) {
            let folded = line.starts_with([' ', '\t']);
            match line.split_once(':') {
                // A field that goes on: RFC 9112, section 5.2.
                _ if folded && is_framing => {
                    if let Some((_, value)) = framing_fields.last_mut() {
                        value.extend([" ", line.trim_matches(BLANKS)]);
                        *value = value.trim_matches(BLANKS).to_owned();
                    }
                }
                _ if folded && text.len() > FIRST_LINE => {
                    text.truncate(text.trim_ascii_end().len());
                    text.push(' ');
                    push_value(&mut text, &line);
                }
                Some((name, value)) if !folded && is_name(name.trim_end_matches(BLANKS)) => {
                    let name = name.trim_end_matches(BLANKS);
                    is_framing = FRAMING.iter().any(|own| own.eq_ignore_ascii_case(name));
                    if is_framing {
                        let value = value.trim_matches(BLANKS).to_owned();
                        framing_fields.push((name.to_ascii_lowercase(), value));
                    } else {
                        text.extend([name, ": "]);
                        push_value(&mut text, value);
                    }
                }
                _ => fault = Some("the answer has a header field without a valid name"),
            }
        }
        text.push_str("\r\n");
        let is_success = (200..300).contains(&status);
        let framing = match (framing(&framing_fields), status) {
            // These have no content, whatever their fields say.
            (_, 204 | 304) => Framing::Length(0),
            (Ok(framing), _) => framing,
            (Err(why), _) => {
                fault = Some(why);
                Framing::Length(0)
            }
        };
        if let (true, Some(fault)) = (is_success, fault) {
            return Err(fault);
        }
        let has_close =
            connection_options(&text).any(|option| option.eq_ignore_ascii_case("close"));
        let is_unambiguous = match (framing, status) {
            (Framing::UntilClose, _) => false,
            (_, 204 | 304) => framing_fields.is_empty(),
            _ => framing_fields.len() == 1,
        };
        Ok(Head {
            is_persistent: fault.is_none() && version == "1.1" && !has_close && is_unambiguous,
            status,
            text,
            framing_fields,
            framing,
        })
    }
}

/// The length of a status line as minreq gets to see it, and so of a head without fields.
const FIRST_LINE: usize = "HTTP/1.1 200\r\n".len();

/// The fields that tell where content ends.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

const BLANKS: [char; 2] = [' ', '\t'];

pub(crate) const NO_HTTP: &str = "there was no answer, or one that is not HTTP";

pub(crate) const BAD_LENGTH: &str =
    "the answer's Content-Length is not a number that this device can count";

/// A line as text: it should be ASCII; other bytes are UTF-8, or else ISO 8859-1.
pub(crate) fn line_of(line: &[u8]) -> Cow<'_, str> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(line) => line.into(),
        Err(_) => line.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// Version, status code and reason of a status line ([RFC 9112, section
/// 4](https://www.rfc-editor.org/rfc/rfc9112#section-4)).
pub(crate) fn status_line(line: &str) -> Option<(&str, u16, &str)> {
    let (version, rest) = line.strip_prefix("HTTP/")?.split_once(' ')?;
    let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let is_code = matches!(code.len(), 1..=3) && code.bytes().all(|byte| byte.is_ascii_digit());
    let digits = version.split('.').all(|part| matches!(part.as_bytes(), [b'0'..=b'9']));
    let is_version = digits && version.len() <= "1.1".len();
    if !is_code || !is_version {
        return None;
    }
    Some((version, code.parse().ok()?, reason))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(is_token_character)
}

/// The end of a line with a value: what has no place in it is made a blank.
fn push_value(text: &mut String, value: &str) {
    let visible = |c: char| if c.is_ascii_control() { ' ' } else { c };
    text.extend(value.trim_matches(BLANKS).chars().map(visible));
    text.truncate(text.trim_end_matches(' ').len());
    text.push_str("\r\n");
}

/// The members of a list ([RFC 9110, section
/// 5.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1)).
fn members(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(|member| member.trim_matches(BLANKS))
}

/// What the fields `Connection` list.
fn connection_options(text: &str) -> impl Iterator<Item = &str> {
    let fields = text.lines().filter_map(|line| line.split_once(": "));
    let values = fields.filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
    values.flat_map(|(_, list)| members(list))
}

/// Where the content of a response with these fields ends.
fn framing(fields: &[(String, String)]) -> Result<Framing, &'static str> {
    let values = |name: &'static str| {
        let named = fields.iter().filter(move |field| field.0 == name);
        named.map(|(_, value)| value.as_str())
    };
    let mut codings = values("transfer-encoding");
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.eq_ignore_ascii_case("chunked") {
            return Err("the answer's Transfer-Encoding is not `chunked`");
        }
        return Ok(Framing::Chunked);
    }
    // Proxies join the fields of one name.
    let mut lengths = values("content-length").flat_map(members);
    let Some(length) = lengths.next() else {
        return Ok(Framing::UntilClose);
    };
    if lengths.any(|other| other != length) {
        return Err("the answer has two different Content-Length fields");
    }
    match length.parse() {
        Ok(number) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(Framing::Length(number))
        }
        _ => Err(BAD_LENGTH),
    }
}

/// Refuses a content coding, which was not asked for: it would be taken for the content itself.
pub(crate) fn coding(fields: &[(String, String)]) -> Option<String> {
    let (_, coding) = fields.iter().find(|(name, value)| {
        name.eq_ignore_ascii_case("content-encoding")
            && !value.is_empty()
            && !value.eq_ignore_ascii_case("identity")
    })?;
    // A name that is not known is not shown: a server may have put anything there.
    let known = ["gzip", "deflate", "compress", "br", "zstd"];
    let name = known.into_iter().find(|known| known.eq_ignore_ascii_case(coding));
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    Some(format!("the content is encoded{name}, which was not asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK", Some(("1.1", 200, "OK"))),
            ("HTTP/1.0 200 Not  bad", Some(("1.0", 200, "Not  bad"))),
            ("HTTP/1.1 201", Some(("1.1", 201, ""))),
            ("HTTP/1.1 407 ", Some(("1.1", 407, ""))),
            ("HTTP/2 401 caf\u{e9}", Some(("2", 401, "caf\u{e9}"))),
            ("HTTP/1.1 20 x", Some(("1.1", 20, "x"))),
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
            "HTTP/1.1 200\r\nX-A: a  b\r\nX-File: caf\u{e9}.pdf\r\nX-Utf8: caf\u{e9}\r\n\
             X-Fold: one two three\r\nX-Odd: a b c\r\nX-Space: x\r\nX-Empty:\r\n\r\n"
        );
        let expected = [("content-length", "7"), ("transfer-encoding", "chunked")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(head.framing_fields, expected);
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn where_content_ends_and_whether_the_connection_stays() {
        use Framing::{Chunked, Length, UntilClose};
        let chunked = Err("the answer's Transfer-Encoding is not `chunked`");
        let twice = Err("the answer has two different Content-Length fields");
        let name = Err("the answer has a header field without a valid name");
        let version = Err("the answer's version is not HTTP/1");
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
        assert!(matches!(read("HTTP/1\r\n\r\n", 9), (Err(Trouble::OverLimit), 0, _)));
        assert!(matches!(read("HTTP/1\r\n", 10), (Err(Trouble::Ended), 2, 0)));
        assert!(matches!(read("HTTP/", 10), (Err(Trouble::Ended), 5, 0)));
        assert!(matches!(read("", 10), (Err(Trouble::Ended), 10, 0)));
        assert!(matches!(read("220 mail", 10), (Err(Trouble::Malformed(NO_HTTP)), 10, _)));
        let fields = |n| format!("HTTP/1.1 200\n{}\n", "a:\n".repeat(n));
        assert!(read(&fields(LINE_LIMIT), HEAD_LIMIT).0.is_ok());
        let over = read(&fields(LINE_LIMIT + 1), HEAD_LIMIT).0;
        assert!(matches!(over, Err(Trouble::OverLimit)));
    }
}
