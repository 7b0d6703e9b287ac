//! The head of a response: its status, its fields, and where the content after it ends. Called by
//! `exchange` and `proxy`. Knows nothing of requests.

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

/// Why reading a head or content failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the connection was closed.
    Io(io::Error),
    /// What is wrong with it.
    Malformed(&'static str),
}

/// The head of a response.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Names in lower case, and values without line breaks and other control characters.
    pub(super) fields: Vec<(String, String)>,
    pub(super) framing: Framing,
    /// Whether the connection can be used again: the server keeps it open, and there is no doubt
    /// about where the content ends.
    pub(super) is_persistent: bool,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

/// Reads one head and subtracts its length from `budget`. After an error that passes it goes on
/// where it was.
pub(super) fn read_head(
    reader: &mut dyn BufRead, budget: &mut usize, head: &mut Vec<u8>,
) -> Result<(), Trouble> {
    let mut lines = head.split(|&byte| byte == b'\n').count() - 1;
    let mut line = match head[..] {
        [.., b'\n'] => Line::Empty,
        [.., b'\n', b'\r'] => Line::Return,
        _ => Line::Text,
    };
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Err(Trouble::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let chunk = &chunk[..chunk.len().min(*budget)];
        let end = chunk.iter().position(|&byte| {
            let is_end = byte == b'\n' && line != Line::Text;
            line = match byte {
                b'\n' => Line::Empty,
                b'\r' if line == Line::Empty => Line::Return,
                _ => Line::Text,
            };
            lines += usize::from(byte == b'\n');
            is_end
        });
        let length = end.map_or(chunk.len(), |end| end + 1);
        head.extend_from_slice(&chunk[..length]);
        reader.consume(length);
        *budget -= length;
        // Fail on the first wrong byte: another protocol's server may be waiting for us.
        if !head.iter().zip(b"HTTP/").all(|(byte, wanted)| byte == wanted) {
            return Err(Trouble::Malformed(NO_HTTP));
        }
        // The status line and the empty line at the end are no fields.
        let is_over = lines > LINE_LIMIT + 2 || *budget == 0 && end.is_none();
        if is_over {
            return Err(Trouble::Malformed(OVER_LIMIT));
        }
        if end.is_some() {
            return Ok(());
        }
    }
}

/// What a line of a head holds so far.
#[derive(Clone, Copy, PartialEq)]
enum Line {
    Empty,
    /// A carriage return alone.
    Return,
    Text,
}

/// Reads one line more, with its end, and subtracts its length from `budget`.
pub(super) fn read_line(
    reader: &mut dyn BufRead, budget: &mut usize, lines: &mut Vec<u8>,
) -> Result<(), Trouble> {
    let begin = lines.len();
    let read = reader.take(*budget as u64).read_until(b'\n', lines);
    *budget -= lines.len() - begin;
    read?;
    match lines.last() {
        Some(b'\n') if lines.len() > begin => Ok(()),
        _ if *budget == 0 => Err(Trouble::Malformed(OVER_LIMIT)),
        _ => Err(Trouble::Io(io::ErrorKind::UnexpectedEof.into())),
    }
}

impl Head {
    /// Reads a head. A malformed field is an error only in a 2xx: other responses keep their status
    /// and drop the field.
    pub(super) fn parse(head: &[u8]) -> Result<Head, &'static str> {
        let (version, status) = status_line(head).ok_or(NO_HTTP)?;
        let (mut fields, mut fault) = fields(head);
        if !version.starts_with(b"1.") {
            fault = Some("has a version other than HTTP/1");
        }
        let framing = match (framing(&fields), status) {
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
        let has_close =
            values(&fields, "connection").any(|value| value.eq_ignore_ascii_case("close"));
        let framings = fields.iter().filter(|(name, _)| FRAMING.contains(&&**name)).count();
        let is_unambiguous = match (framing, status) {
            (Framing::UntilClose, _) => false,
            (_, 204 | 304) => framings == 0,
            _ => framings == 1,
        };
        // The server failed, or could not read the request: a second response may follow.
        let is_suspect = matches!(status, 400 | 408 | 413 | 414 | 431 | 500..);
        let is_persistent =
            fault.is_none() && version == b"1.1" && !has_close && is_unambiguous && !is_suspect;
        for (_, value) in &mut fields {
            if value.bytes().any(|byte| byte.is_ascii_control()) {
                let clean = value.replace(|c: char| c.is_ascii_control(), " ");
                clean.trim_matches(' ').clone_into(value);
            }
        }
        Ok(Head { status, fields, framing, is_persistent })
    }
}

/// The fields that tell where content ends.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

pub(super) const NO_HTTP: &str =
    "is not HTTP: check the host and the port, and what stands in between";

pub(super) const OVER_LIMIT: &str =
    "has more than 64 KiB or 1024 lines of header fields or trailers";

pub(super) const BAD_LENGTH: &str = "has a Content-Length that is not a number of 64 bits";

/// Names and values.
type Fields = Vec<(String, String)>;

/// The fields of a head as they came, but for the case of their names, and what is wrong with one of
/// them.
fn fields(head: &[u8]) -> (Fields, Option<&'static str>) {
    let (mut fields, mut fault) = (Fields::with_capacity(16), None);
    let lines = head.split(|&byte| byte == b'\n').skip(1);
    for line in lines.map(without_return).take_while(|line| !line.is_empty()) {
        let folded = fields.last_mut().filter(|_| is_blank(line[0]));
        if let Some((_, value)) = folded {
            // RFC 9112, section 5.2: the field goes on.
            let whole = [value, " ", &*text(trim(line))].concat();
            whole.trim_matches([' ', '\t']).clone_into(value);
        } else if let Some(field) = field(line) {
            fields.push(field);
        } else {
            fault = Some("has a header field without a valid name");
        }
    }
    (fields, fault)
}

/// The name and the value in a line.
fn field(line: &[u8]) -> Option<(String, String)> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let name = trim_end(&line[..colon]);
    let mut name = is_token(name).then(|| text(name))?;
    name.make_ascii_lowercase();
    Some((name, text(trim(&line[colon + 1..]))))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trim(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|&byte| !is_blank(byte));
    trim_end(&bytes[start.unwrap_or(bytes.len())..])
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let last = bytes.iter().rposition(|&byte| !is_blank(byte));
    &bytes[..last.map_or(0, |last| last + 1)]
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Bytes as text: they should be ASCII; others are UTF-8, or else ISO 8859-1.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// Version and status code of the status line that a head begins with ([RFC 9112, section
/// 4](https://www.rfc-editor.org/rfc/rfc9112#section-4)).
pub(super) fn status_line(head: &[u8]) -> Option<(&[u8], u16)> {
    let line = without_return(head.split(|&byte| byte == b'\n').next()?);
    let line = line.strip_prefix(b"HTTP/")?;
    let mut parts = line.split(|&byte| byte == b' ');
    let (version, code) = (parts.next()?, parts.next()?);
    let is_version = matches!(version, [b'0'..=b'9'] | [b'0'..=b'9', b'.', b'0'..=b'9']);
    let is_code = matches!(code.len(), 1..=3) && code.iter().all(u8::is_ascii_digit);
    let number = || code.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    (is_version && is_code).then(|| (version, number()))
}

/// The values of a field, whose lists ([RFC 9110, section
/// 5.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1)) are taken apart.
fn values<'a>(fields: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = fields.iter().filter(move |field| field.0 == name);
    named.flat_map(|(_, list)| list.split(',').map(|member| member.trim_matches([' ', '\t'])))
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
            let over = failure("HTTP/1\r\n\r\n", 9);
            assert!(matches!(over, Trouble::Malformed(OVER_LIMIT)));
            for text in ["", "HTTP/", "HTTP/1\r\n"] {
                assert!(matches!(failure(text, 10), Trouble::Io(_)), "{text:?}");
            }
            let fields = |n| format!("HTTP/1.1 200\n{}\n", "a:\n".repeat(n));
            assert!(read(&fields(LINE_LIMIT), HEAD_LIMIT).0.is_ok());
            let over = failure(&fields(LINE_LIMIT + 1), HEAD_LIMIT);
            assert!(matches!(over, Trouble::Malformed(OVER_LIMIT)));
            assert!(matches!(failure("220 mail", 10), Trouble::Malformed(NO_HTTP)));
            assert!(matches!(failure("HTTP:", 10), Trouble::Malformed(NO_HTTP)));
        }
    }
}
