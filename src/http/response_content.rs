//! The content of a response as a stream: exactly as long as the head says, or an error. Called by
//! `http`, `response` and `token/request`. Knows nothing of status or fields.

use std::io::{self, BufRead, Cursor};

use super::connection::Connection;
use super::pool::Pool;
use super::response_head::{read_fields, read_line, Framing, ReadError, HEAD_LIMIT};
use super::CallContext;
use crate::error::{Error, ErrorKind};

/// How much content an error keeps.
pub(crate) const ERROR_CONTENT_LIMIT: u64 = 64 * 1024;

/// Maximum size of the line that holds the size of a chunk.
const SIZE_LIMIT: usize = 4 * 1024;

/// The content of a response as a stream.
pub(crate) struct Content {
    call: CallContext,
    framing: Framing,
    /// Content that was read by `read_ahead` and not yet returned.
    ahead: Cursor<Vec<u8>>,
    /// Bytes of content received in all.
    received: u64,
    chunks: Chunks,
    is_truncated: bool,
    /// `None` after the end of the content, or an error.
    connection: Option<Connection>,
    /// Takes the connection at the end of the content.
    pool: Pool,
    /// Maximum number of idle connections, or 0 if this one must not be used again.
    most_idle: usize,
}

/// The position within chunked content ([RFC 9112, section
/// 7.1](https://www.rfc-editor.org/rfc/rfc9112#section-7.1)).
#[derive(Default)]
struct Chunks {
    /// Bytes of the current chunk that were not yet read.
    remaining: u64,
    has_begun: bool,
}

impl Content {
    pub(super) fn new(
        call: CallContext, framing: Framing, connection: Connection, pool: Pool, most_idle: usize,
    ) -> Content {
        let mut content = Content {
            call,
            framing,
            ahead: Cursor::default(),
            received: 0,
            chunks: Chunks::default(),
            is_truncated: false,
            connection: Some(connection),
            pool,
            most_idle,
        };
        if framing == Framing::Length(0) {
            content.end();
        }
        content
    }

    pub(crate) fn call(&self) -> &CallContext {
        &self.call
    }

    /// Returns the length, if the head contains it.
    pub(crate) fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        }
    }

    /// Reads up to `most` bytes, to be returned by later reads. Returns how many there are.
    pub(crate) fn read_ahead(&mut self, most: u64) -> Result<usize, Error> {
        let mut ahead = Vec::new();
        self.read_up_to(most, &mut ahead)?;
        self.ahead = Cursor::new(ahead);
        Ok(self.ahead.get_ref().len())
    }

    /// Returns up to `most` bytes that arrive within a quarter of the remaining time.
    pub(crate) fn beginning(mut self, most: u64) -> Vec<u8> {
        let deadline = self.call.deadline;
        self.call.deadline = deadline.within(deadline.remaining() / 4);
        if let Some(connection) = &mut self.connection {
            connection.stream.socket().deadline = self.call.deadline;
        }
        let mut beginning = Vec::new();
        let _ = self.read_up_to(most, &mut beginning);
        beginning
    }

    /// Returns the whole content. If it is longer than `limit`, fails with the kind `Content`. Every
    /// error comes with the content read so far.
    pub(crate) fn whole(mut self, limit: u64) -> Result<Vec<u8>, (Error, Vec<u8>)> {
        if self.length().is_some_and(|length| length > limit) {
            return Err((self.over(limit), self.beginning(limit.min(ERROR_CONTENT_LIMIT))));
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
        Error::new(ErrorKind::Content, message).executed_at_least(true)
    }

    /// Reads to the end, or up to `limit` bytes. Allocates only for bytes received: the length in the
    /// head may be wrong.
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

    /// Reads a part. Returns 0 only at the end of complete content.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.read_with(|reader, most| {
            let most = most.min(buffer.len());
            reader.read(&mut buffer[..most])
        })
    }

    /// Reads a part with a function that takes a reader and a maximum number of bytes.
    fn read_with(
        &mut self, read: impl FnOnce(&mut dyn BufRead, usize) -> io::Result<usize>,
    ) -> Result<usize, Error> {
        if self.ahead.position() < self.ahead.get_ref().len() as u64 {
            return read(&mut self.ahead, usize::MAX).map_err(|cause| self.error(cause.into()));
        }
        let Some(connection) = &mut self.connection else {
            if self.is_truncated {
                return Err(self.error(ReadError::Io(io::ErrorKind::UnexpectedEof.into())));
            }
            return Ok(0);
        };
        // Data received in time may still be buffered, but we can't tell how much.
        let result = if self.call.deadline.remaining().is_zero() {
            Err(ReadError::Io(io::ErrorKind::TimedOut.into()))
        } else {
            let reader = connection.stream.reader();
            match self.framing {
                Framing::Length(length) => read_some(reader, length - self.received, read),
                Framing::Chunked => self.chunks.read(reader, read),
                Framing::UntilClose => read(reader, usize::MAX).map_err(ReadError::Io),
            }
        };
        match result {
            Ok(n) => {
                self.received += n as u64;
                // At the last byte, so that the next call finds the connection idle.
                if n == 0 || self.length() == Some(self.received) {
                    self.end();
                }
                Ok(n)
            }
            Err(trouble) => {
                // Later reads must fail, too.
                self.is_truncated = true;
                if let Some(connection) = self.connection.take().filter(|c| c.was_idle) {
                    // The other idle connections of the route may be broken, too.
                    self.pool.close(|c| c.route == connection.route);
                }
                Err(self.error(trouble))
            }
        }
    }

    /// Gives the connection back after all content has been read.
    fn end(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.keep(connection, self.most_idle);
        }
    }

    fn error(&self, trouble: ReadError) -> Error {
        let received = match self.framing {
            Framing::Length(length) => format!(" ({} of {length} bytes came)", self.received),
            _ => String::new(),
        };
        self.call.incomplete("the content", trouble).append(&received).executed_at_least(true)
    }
}

impl Chunks {
    fn read(
        &mut self, reader: &mut dyn BufRead,
        read: impl FnOnce(&mut dyn BufRead, usize) -> io::Result<usize>,
    ) -> Result<usize, ReadError> {
        if self.remaining == 0 {
            let mut line = Vec::new();
            if self.has_begun {
                read_line(reader, &mut "\r\n".len(), &mut line)?;
                if !matches!(line[..], [b'\n'] | [b'\r', b'\n']) {
                    return Err(ReadError::Malformed("has a chunk longer than its size says"));
                }
                line.clear();
            }
            self.has_begun = true;
            let mut limit = SIZE_LIMIT;
            read_line(reader, &mut limit, &mut line)?;
            let size = size(&line);
            self.remaining =
                size.ok_or(ReadError::Malformed("has a chunk without a valid size"))?;
            if self.remaining == 0 {
                let mut budget = HEAD_LIMIT;
                read_fields(reader, &mut budget, &mut line)?;
                return Ok(0);
            }
        }
        let n = read_some(reader, self.remaining, read)?;
        self.remaining -= n as u64;
        Ok(n)
    }
}

/// Reads a part of the `remaining` bytes. The end of the connection is an error.
fn read_some(
    reader: &mut dyn BufRead, remaining: u64,
    read: impl FnOnce(&mut dyn BufRead, usize) -> io::Result<usize>,
) -> Result<usize, ReadError> {
    match read(reader, usize::try_from(remaining).unwrap_or(usize::MAX))? {
        0 => Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into())),
        n => Ok(n),
    }
}

/// Parses the size of a chunk. A chunk extension may follow it.
fn size(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let digits = line.split(';').next()?.trim_ascii_end();
    let is_number = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// Reads what a server has sent before it closed, in pieces of this size.
    fn all(bytes: &[u8], capacity: usize) -> (Vec<u8>, Option<ReadError>) {
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
                assert!(matches!(trouble, Some(ReadError::Io(_))), "{end} {trouble:?}");
            }
        }
    }
}
