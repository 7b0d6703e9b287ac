//! The content of a response as a stream: exactly as long as the head says, or an error. Called by
//! `http`, `response` and `token/request`. Knows nothing of status or fields.

use std::collections::VecDeque;
use std::io::{self, BufRead};

use super::connection::Connection;
use super::pool::Pool;
use super::response_head::{read_fields, read_line, Framing, HEAD_LIMIT};
use super::CallContext;
use crate::error::{Error, ErrorKind, ERROR_CONTENT_LIMIT};

/// Maximum size of the line that holds the size of a chunk.
const SIZE_LIMIT: usize = 4 * 1024;

/// The content of a response as a stream.
pub(crate) struct Content {
    call: CallContext,
    position: Position,
    /// Content that was read by `read_ahead` and not yet returned.
    ahead: VecDeque<u8>,
    is_truncated: bool,
    /// `None` after the end of the content, or after an error.
    connection: Option<Connection>,
    /// Takes the connection at the end of the content.
    pool: Pool,
    /// Maximum number of idle connections, or 0 if this one must not be used again.
    most_idle: usize,
}

/// How much of the content has been received.
struct Position {
    framing: Framing,
    received: u64,
    /// Bytes that may follow in the current chunk. Without chunks: in the whole content.
    remaining: u64,
}

impl Content {
    pub(super) fn new(
        call: CallContext, framing: Framing, connection: Connection, pool: Pool, most_idle: usize,
    ) -> Content {
        let mut content = Content {
            call,
            position: Position::new(framing),
            ahead: VecDeque::new(),
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
        match self.position.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        }
    }

    /// Reads up to `most` bytes, to be returned by later reads. Returns how many there are.
    pub(crate) fn read_ahead(&mut self, most: u64) -> Result<usize, Error> {
        let mut ahead = Vec::new();
        self.read_up_to(most, &mut ahead)?;
        self.ahead = ahead.into();
        Ok(self.ahead.len())
    }

    /// Fails if there is any content: it is encoded, and no encoding was requested.
    pub(super) fn refuse_encoded(&mut self) -> Result<(), Error> {
        if self.read_ahead(1)? == 0 {
            return Ok(());
        }
        let why = "the content is encoded (Content-Encoding), which was not asked for";
        Err(self.call.error(why).executed_at_least(true).retryable(false))
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

    /// Returns the whole content. If it is longer than `limit`, fails with the kind `Content`.
    /// Every error comes with the content read so far.
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

    /// Reads to the end, or up to `limit` bytes. Allocates only for bytes received: the length in
    /// the head may be wrong.
    fn read_up_to(&mut self, limit: u64, whole: &mut Vec<u8>) -> Result<(), Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if self.ahead.len() <= limit {
            *whole = std::mem::take(&mut self.ahead).into();
        }
        while whole.len() < limit {
            if self.read_part(limit - whole.len(), |part| whole.extend_from_slice(part))? == 0 {
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
        self.read_part(buffer.len(), |part| buffer[..part.len()].copy_from_slice(part))
    }

    /// Passes a part of up to `most` bytes to `sink`. Returns its length.
    fn read_part(&mut self, most: usize, sink: impl FnOnce(&[u8])) -> Result<usize, Error> {
        if !self.ahead.is_empty() {
            return pass(&mut self.ahead, most, sink).map_err(|cause| self.error(cause));
        }
        let Some(connection) = &mut self.connection else {
            if self.is_truncated {
                return Err(self.error(io::ErrorKind::UnexpectedEof.into()));
            }
            return Ok(0);
        };
        // After the deadline, fail even if data is buffered: we can't tell how much came in time.
        let in_time = self.call.deadline.time_left();
        match in_time.and_then(|_| self.position.read(&mut connection.stream, most, sink)) {
            Ok(n) => {
                // If the length is known, give the connection back at the last byte, so that the
                // next call finds it idle.
                if n == 0 || self.length() == Some(self.position.received) {
                    self.end();
                }
                Ok(n)
            }
            Err(cause) => {
                // Later reads must fail, too.
                self.is_truncated = true;
                if let Some(connection) = self.connection.take().filter(|c| c.was_idle) {
                    // The other idle connections of the route may be broken, too.
                    self.pool.close(|c| c.route == connection.route);
                }
                Err(self.error(cause))
            }
        }
    }

    /// Gives the connection back after all content has been read.
    fn end(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.keep(connection, self.most_idle);
        }
    }

    fn error(&self, cause: io::Error) -> Error {
        let received = match self.length() {
            Some(length) => format!(" ({} of {length} bytes came)", self.position.received),
            None => String::new(),
        };
        self.call.incomplete("the content", cause).append(&received).executed_at_least(true)
    }
}

impl Position {
    fn new(framing: Framing) -> Position {
        let remaining = match framing {
            Framing::Length(length) => length,
            Framing::Chunked => 0,
            Framing::UntilClose => u64::MAX,
        };
        Position { framing, received: 0, remaining }
    }

    /// Passes a part of up to `most` bytes to `sink`. Returns its length, or 0 at the end.
    fn read(
        &mut self, reader: &mut dyn BufRead, most: usize, sink: impl FnOnce(&[u8]),
    ) -> io::Result<usize> {
        if self.remaining == 0 && self.framing == Framing::Chunked {
            self.remaining = chunk(reader, self.received == 0)?;
        }
        if self.remaining == 0 {
            return Ok(0);
        }
        let most = usize::try_from(self.remaining).map_or(most, |remaining| remaining.min(most));
        let n = pass(reader, most, sink)?;
        if n == 0 && self.framing != Framing::UntilClose {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.received += n as u64;
        self.remaining -= n as u64;
        Ok(n)
    }
}

/// Passes the next bytes to `sink`, up to `most`. Returns their number, or 0 at the end of the
/// stream.
fn pass(reader: &mut dyn BufRead, most: usize, sink: impl FnOnce(&[u8])) -> io::Result<usize> {
    let input = reader.fill_buf()?;
    let length = most.min(input.len());
    sink(&input[..length]);
    reader.consume(length);
    Ok(length)
}

/// Reads the line that holds the size of the next chunk, and returns this size. If it is zero,
/// reads the trailers ([RFC 9112, section
/// 7.1](https://www.rfc-editor.org/rfc/rfc9112#section-7.1)).
fn chunk(reader: &mut dyn BufRead, is_first: bool) -> io::Result<u64> {
    let mut line = Vec::new();
    if !is_first {
        read_line(reader, &mut "\r\n".len(), &mut line)?;
        if !matches!(line[..], [b'\n'] | [b'\r', b'\n']) {
            return Err(io::Error::other("has a chunk longer than its size says"));
        }
        line.clear();
    }
    read_line(reader, &mut { SIZE_LIMIT }, &mut line)?;
    let size = size(&line).ok_or_else(|| io::Error::other("has a chunk without a valid size"))?;
    if size == 0 {
        read_fields(reader, &mut { HEAD_LIMIT }, &mut line)?;
    }
    Ok(size)
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
    fn all(bytes: &[u8], capacity: usize) -> (Vec<u8>, Option<io::Error>) {
        let mut reader = BufReader::with_capacity(capacity, bytes);
        let (mut position, mut content) = (Position::new(Framing::Chunked), Vec::new());
        loop {
            match position.read(&mut reader, 3, |part| content.extend_from_slice(part)) {
                Ok(0) => return (content, None),
                Ok(_) => {}
                Err(cause) => return (content, Some(cause)),
            }
        }
    }

    #[test]
    fn chunks_in_pieces_of_any_size_are_whole_or_an_error() {
        let good = b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nX-A: b\r\n\r\n";
        for capacity in [1, 2, 7, 100] {
            let (content, cause) = all(good, capacity);
            assert_eq!(content, b"hello!");
            assert!(cause.is_none(), "{cause:?}");
            for end in 0..good.len() {
                let (content, cause) = all(&good[..end], capacity);
                assert!(b"hello!".starts_with(&content));
                assert_eq!(cause.unwrap().kind(), io::ErrorKind::UnexpectedEof, "{end}");
            }
        }
    }
}
