//! Sends one request on one connection and reads the head of its response. Called by `http`. Knows
//! nothing of how the connection was made, nor of the response's content.

use std::io;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::response_head::{read_head, Head, HEAD_LIMIT};
use super::socket::{is_transient, WRITE_WAIT};

/// Content up to this size is sent together with the head. Longer content is sent in parts of this
/// size.
pub(super) const PART: usize = 16 * 1024;

/// One request on one connection.
struct Exchange<'a> {
    connection: &'a mut Connection,
    /// Bytes still allowed for heads, interim ones included.
    head_budget: usize,
    /// The head being read. It may be incomplete.
    head: Vec<u8>,
    /// The head, or the error, if it came before the request was sent completely.
    early: Option<io::Result<Head>>,
}

/// Sends a request, whose head is in `beginning`, and reads the head of the final response. Also
/// returns `true` if no byte of a response came, or if the response is a 408. On a reused
/// connection both mean that the server closed it before it saw this request ([RFC 9110, section
/// 15.5.9](https://www.rfc-editor.org/rfc/rfc9110#section-15.5.9)).
pub(super) fn run(
    connection: &mut Connection, beginning: &[u8], rest: &[u8],
) -> (io::Result<Head>, bool) {
    let mut exchange =
        Exchange { connection, head_budget: HEAD_LIMIT, head: Vec::new(), early: None };
    let sent = exchange.send(beginning, rest);
    // The server may have responded before it closed.
    let early = exchange.early.take();
    let mut received = early.unwrap_or_else(|| exchange.final_head());
    let has_received = exchange.head_budget < HEAD_LIMIT;
    connection.stream.socket().watch = None;
    match (&mut received, sent) {
        (Ok(head), sent) => head.is_persistent &= matches!(sent, Ok(true)),
        // The server's alert says more than the write that failed.
        (Err(cause), Err(error)) if cause.kind() != io::ErrorKind::InvalidData => *cause = error,
        _ => {}
    }
    let is_stale = received.as_ref().map_or(!has_received, |head| head.status == 408);
    (received, is_stale)
}

impl Exchange<'_> {
    /// Sends the request. Returns `false` if the server refused it before it was sent completely.
    fn send<'r>(&mut self, mut beginning: &'r [u8], mut rest: &'r [u8]) -> io::Result<bool> {
        let is_small = rest.is_empty();
        let mut blocked = Duration::ZERO;
        while is_small || !beginning.is_empty() || !self.is_refused(blocked) {
            let start = Instant::now();
            let writer = self.connection.stream.writer();
            let (part, most) = match beginning {
                [] => (&mut rest, PART),
                _ => (&mut beginning, usize::MAX),
            };
            let written = match part.len() {
                // Send what TLS has buffered.
                0 => writer.flush().map(|()| 0),
                length => writer.write(&part[..length.min(most)]),
            };
            match written {
                Ok(0) if part.is_empty() => return Ok(true),
                Ok(n) => {
                    *part = &part[n..];
                    blocked = Duration::ZERO;
                }
                // A signal may end the write early, and if the process was stopped, the write seems
                // to last long. So count the time that passed, but at most `WRITE_WAIT` for each
                // write.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    blocked += start.elapsed().min(WRITE_WAIT);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether to stop sending because the server has responded. After a 2xx, only if the server
    /// has stopped reading.
    fn is_refused(&mut self, blocked: Duration) -> bool {
        if self.early.is_none() {
            self.connection.stream.socket().blocking = false;
            self.early = match self.final_head() {
                Err(error) if is_transient(&error) => None,
                received => Some(received),
            };
            self.connection.stream.socket().blocking = true;
        }
        let patience = self.connection.stream.socket().deadline.remaining() / 4;
        match &self.early {
            Some(Ok(head)) => !(200..300).contains(&head.status) || blocked > patience,
            Some(Err(_)) => true,
            None => !self.head.is_empty() && blocked > patience,
        }
    }

    /// Reads the head of the final response.
    fn final_head(&mut self) -> io::Result<Head> {
        loop {
            read_head(&mut self.connection.stream, &mut self.head_budget, &mut self.head)?;
            let head = Head::parse(&std::mem::take(&mut self.head))?;
            match head.status {
                // 101 would be final, but no upgrade was requested.
                100 | 102..=199 => {}
                0..=199 => {
                    return Err(io::Error::other("has a status code (1xx) that is not final"))
                }
                _ => return Ok(head),
            }
        }
    }
}
