//! The content of a response as a stream: exactly as long as the head says, or an error. Called by
//! `response` and by whoever reads a response whole. Knows nothing of heads.

use std::io::{self, BufRead, Cursor};

use super::connection::Connection;
use super::idle::Idle;
use super::response_head::{read_line, Framing, Trouble, HEAD_LIMIT, LINE_LIMIT, OVER_LIMIT};
use super::Call;
use crate::error::{Error, ErrorKind};

/// How much is kept of the content of a response that refused, or is too long.
pub(crate) const KEPT: u64 = 64 * 1024;

/// The longest line with the size of a chunk.
const SIZE_LIMIT: usize = 4 * 1024;

/// The content of a response as a stream.
pub(crate) struct Content {
    call: Call,
    framing: Framing,
    /// What has been received by `read_ahead`.
    ahead: Cursor<Vec<u8>>,
    /// How much has been received in all.
    received: u64,
    chunks: Chunks,
    is_truncated: bool,
    /// Gone when the end has been reached.
    connection: Option<Connection>,
    /// Where the connection goes then, and how many are kept there: none if it must not be used again.
    idle: Idle,
    most_idle: usize,
}

/// Where a reader of chunks ([RFC 9112, section
/// 7.1](https://www.rfc-editor.org/rfc/rfc9112#section-7.1)) stands.
#[derive(Default)]
struct Chunks {
    /// Of the chunk.
    left: u64,
    has_begun: bool,
}

impl Content {
    pub(super) fn new(
        call: Call, framing: Framing, connection: Connection, idle: Idle, most_idle: usize,
    ) -> Content {
        let mut content = Content {
            call,
            framing,
            ahead: Cursor::default(),
            received: 0,
            chunks: Chunks::default(),
            is_truncated: false,
            connection: Some(connection),
            idle,
            most_idle,
        };
        if framing == Framing::Length(0) {
            content.end();
        }
        content
    }

    pub(crate) fn call(&self) -> &Call {
        &self.call
    }

    /// Its length, if the head tells.
    pub(crate) fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        }
    }

    /// Reads until so much is there, or until the end, to be given out later. Returns how much.
    pub(crate) fn read_ahead(&mut self, most: u64) -> Result<usize, Error> {
        let mut ahead = Vec::new();
        self.read_up_to(most, &mut ahead)?;
        self.ahead = Cursor::new(ahead);
        Ok(self.ahead.get_ref().len())
    }

    /// The beginning of it, as far as that comes in a quarter of the time that is left.
    pub(crate) fn beginning(mut self, most: u64) -> Vec<u8> {
        let deadline = self.call.deadline;
        self.call.deadline = deadline.within(deadline.left() / 4);
        if let Some(connection) = &mut self.connection {
            connection.socket().deadline = self.call.deadline;
        }
        let mut beginning = Vec::new();
        let _ = self.read_up_to(most, &mut beginning);
        beginning
    }

    /// The whole content if it is not longer than `limit`; else an error of the kind `Content`.
    /// With an error comes what has been read.
    pub(crate) fn whole(mut self, limit: u64) -> Result<Vec<u8>, (Error, Vec<u8>)> {
        if self.length().is_some_and(|length| length > limit) {
            return Err((self.over(limit), self.beginning(limit.min(KEPT))));
        }
        let mut whole = Vec::new();
        let read = self.read_up_to(limit, &mut whole);
        match read.and_then(|()| self.read(&mut [0])) {
            Ok(0) => Ok(whole),
            Ok(_) => Err((self.over(limit), whole)),
            Err(error) => Err((error, whole)),
        }
    }

    fn over(&self, limit: u64) -> Error {
        let message = format!(
            "{}: the content is longer than the limit of {limit} bytes: raise it with \
             Response::limit, or read it as a stream",
            self.call.label
        );
        Error::new(ErrorKind::Content, message).or_executed(true)
    }

    /// Reads until the end, or until `limit` bytes are there. Makes room for what has come only: a
    /// length alone allocates nothing.
    fn read_up_to(&mut self, limit: u64, whole: &mut Vec<u8>) -> Result<(), Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if self.ahead.position() == 0 && self.ahead.get_ref().len() <= limit {
            *whole = std::mem::take(&mut self.ahead).into_inner();
        }
        while whole.len() < limit {
            let append = |reader: &mut dyn BufRead, most: usize| {
                let input = reader.fill_buf()?;
                let length = most.min(input.len()).min(limit - whole.len());
                whole.extend_from_slice(&input[..length]);
                reader.consume(length);
                Ok(length)
            };
            if self.read_with(append)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Reads a part; 0 at the end, which is a success only if the content is whole.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.read_with(|reader, most| {
            let most = most.min(buffer.len());
            reader.read(&mut buffer[..most])
        })
    }

    /// Reads a part by a function that reads from what it is given, and so many bytes at most.
    fn read_with(
        &mut self, read: impl FnOnce(&mut dyn BufRead, usize) -> io::Result<usize>,
    ) -> Result<usize, Error> {
        if self.ahead.position() < self.ahead.get_ref().len() as u64 {
            return read(&mut self.ahead, usize::MAX).map_err(|cause| self.error(cause.into()));
        }
        let Some(connection) = &mut self.connection else {
            if self.is_truncated {
                return Err(self.error(Trouble::Io(io::ErrorKind::UnexpectedEof.into())));
            }
            return Ok(0);
        };
        // What has arrived in time could still be read, but how much that is nobody can say.
        let result = if self.call.deadline.left().is_zero() {
            Err(Trouble::Io(io::ErrorKind::TimedOut.into()))
        } else {
            let reader = connection.reader();
            match self.framing {
                Framing::Length(length) => read_some(reader, length - self.received, read),
                Framing::Chunked => self.chunks.read(reader, read),
                Framing::UntilClose => read(reader, usize::MAX).map_err(Trouble::Io),
            }
        };
        match result {
            Ok(n) => {
                self.received += n as u64;
                // The connection is given back as soon as it has no more to give.
                if n == 0 || self.length() == Some(self.received) {
                    self.end();
                }
                Ok(n)
            }
            Err(trouble) => {
                // Later reads must fail, too.
                self.is_truncated = true;
                if let Some(connection) = self.connection.take().filter(|c| c.was_idle) {
                    // What broke this connection may have broken the other idle ones.
                    drop(self.idle.close_route(&connection.route));
                }
                Err(self.error(trouble))
            }
        }
    }

    /// All has been read.
    fn end(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(self.idle.keep(connection, self.most_idle));
        }
    }

    fn error(&self, trouble: Trouble) -> Error {
        let received = match self.framing {
            Framing::Length(length) => format!(" ({} of {length} bytes came)", self.received),
            _ => String::new(),
        };
        self.call.incomplete("the content", trouble).and(&received).or_executed(true)
    }
}

impl Chunks {
    fn read(
        &mut self, reader: &mut dyn BufRead,
        read: impl FnOnce(&mut dyn BufRead, usize) -> io::Result<usize>,
    ) -> Result<usize, Trouble> {
        if self.left == 0 {
            if self.has_begun
                && !matches!(line(reader, "\r\n".len())?[..], [b'\n'] | [b'\r', b'\n'])
            {
                return Err(Trouble::Malformed("has a chunk longer than its size says"));
            }
            self.has_begun = true;
            let size = size(&line(reader, SIZE_LIMIT)?);
            self.left = size.ok_or(Trouble::Malformed("has a chunk without a valid size"))?;
            if self.left == 0 {
                return skip_trailers(reader);
            }
        }
        let n = read_some(reader, self.left, read)?;
        self.left -= n as u64;
        Ok(n)
    }
}

/// Reads part of the `left` bytes that must come; the end of the connection is an error.
fn read_some(
    reader: &mut dyn BufRead, left: u64,
    read: impl FnOnce(&mut dyn BufRead, usize) -> io::Result<usize>,
) -> Result<usize, Trouble> {
    match read(reader, usize::try_from(left).unwrap_or(usize::MAX))? {
        0 => Err(Trouble::Io(io::ErrorKind::UnexpectedEof.into())),
        n => Ok(n),
    }
}

/// A line of no more than `limit` bytes, or the beginning of a longer one.
fn line(reader: &mut dyn BufRead, mut limit: usize) -> Result<Vec<u8>, Trouble> {
    let mut line = Vec::new();
    match read_line(reader, &mut limit, &mut line) {
        Ok(()) | Err(Trouble::Malformed(_)) => Ok(line),
        Err(trouble) => Err(trouble),
    }
}

/// The size of a chunk, which a chunk extension may follow.
fn size(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let digits = line.split(';').next()?.trim_ascii_end();
    let is_number = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| is_number)
}

/// Reads what stands behind the last chunk, to the end of the content. Nobody has asked for it.
fn skip_trailers(reader: &mut dyn BufRead) -> Result<usize, Trouble> {
    let mut left = HEAD_LIMIT;
    let mut line = Vec::new();
    for _ in 0..=LINE_LIMIT {
        line.clear();
        read_line(reader, &mut left, &mut line)?;
        if matches!(line[..], [b'\n'] | [b'\r', b'\n']) {
            return Ok(0);
        }
    }
    Err(Trouble::Malformed(OVER_LIMIT))
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// Reads what a server has sent before it closed, in pieces of this size.
    fn all(bytes: &[u8], capacity: usize) -> (Vec<u8>, Option<Trouble>) {
        let mut reader = BufReader::with_capacity(capacity, bytes);
        let (mut chunks, mut content, mut buffer) = (Chunks::default(), Vec::new(), [0; 3]);
        loop {
            let read = |reader: &mut dyn BufRead, most| {
                let most = buffer.len().min(most);
                reader.read(&mut buffer[..most])
            };
            match chunks.read(&mut reader, read) {
                Ok(0) => return (content, None),
                Ok(n) => content.extend_from_slice(&buffer[..n]),
                Err(trouble) => return (content, Some(trouble)),
            }
        }
    }

    #[test]
    fn chunks_in_pieces_of_any_size_are_whole_or_an_error() {
        let good = b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nX-A: b\r\n\r\n";
        for capacity in [1, 2, 7, 100] {
            let (content, trouble) = all(good, capacity);
            assert_eq!(content, b"hello!");
            assert!(trouble.is_none(), "{trouble:?}");
            for end in 0..good.len() {
                let (content, trouble) = all(&good[..end], capacity);
                assert!(b"hello!".starts_with(&content));
                assert!(matches!(trouble, Some(Trouble::Io(_))), "{end} {trouble:?}");
            }
        }
    }
}
