//! One request on one connection, and the head of its response. Called by `http`. Knows nothing of
//! how the connection was made, nor of content behind the head.

use std::io;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::response_head::{read_head, Head, Trouble, HEAD_LIMIT};
use super::socket::{is_passing, write_all, WRITE_PART};

/// Content up to this size is sent together with the head; longer content in parts of this size.
pub(super) const PART: usize = 16 * 1024;

/// One request on one connection.
pub(super) struct Exchange<'a> {
    connection: &'a mut Connection,
    /// Bytes still allowed for heads, interim ones included.
    budget: usize,
    /// The head being read, perhaps incomplete.
    head: Vec<u8>,
    /// The response, if it has begun before the request was sent to its end.
    early: Option<Result<Head, Trouble>>,
}

impl Exchange<'_> {
    pub(super) fn on(connection: &mut Connection) -> Exchange<'_> {
        Exchange { connection, budget: HEAD_LIMIT, head: Vec::new(), early: None }
    }

    /// Sends the request, whose head is in `beginning`, and reads the head of the final response.
    pub(super) fn run(&mut self, beginning: &[u8], rest: &[u8]) -> Result<Head, Trouble> {
        let sent = self.send(beginning, rest);
        // The server may have responded before it closed.
        let received = match self.early.take() {
            Some(received) => received,
            None => self.final_head(),
        };
        self.connection.socket().on_silence = None;
        match received {
            Ok(head) => {
                let is_persistent = head.is_persistent && matches!(sent, Ok(true));
                Ok(Head { is_persistent, ..head })
            }
            // The server's alert says more than the write that failed.
            Err(Trouble::Io(alert)) if alert.kind() == io::ErrorKind::InvalidData => {
                Err(alert.into())
            }
            Err(trouble) => Err(sent.err().map_or(trouble, Trouble::from)),
        }
    }

    /// Whether the server closed the idle connection before it saw this request ([RFC 9110, section
    /// 15.5.9](https://www.rfc-editor.org/rfc/rfc9110#section-15.5.9) for 408).
    pub(super) fn is_stale(&self, received: &Result<Head, Trouble>) -> bool {
        match received {
            Ok(head) => head.status == 408,
            Err(_) => self.budget == HEAD_LIMIT,
        }
    }

    /// Sends the request; `false` if the server has refused it before its end.
    fn send(&mut self, beginning: &[u8], mut rest: &[u8]) -> io::Result<bool> {
        write_all(self.connection.writer(), beginning)?;
        let is_small = rest.is_empty();
        let mut blocked = Duration::ZERO;
        while is_small || !self.is_refused(blocked) {
            let start = Instant::now();
            let writer = self.connection.writer();
            let written = match rest.len() {
                // What TLS still holds.
                0 => writer.flush().map(|()| 0),
                length => writer.write(&rest[..length.min(PART)]),
            };
            match written {
                Ok(0) if rest.is_empty() => return Ok(true),
                Ok(n) => {
                    rest = &rest[n..];
                    blocked = Duration::ZERO;
                }
                // A signal ends a write early. A process that was stopped looks as if it had
                // blocked for long.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    blocked += start.elapsed().min(WRITE_PART);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether the server has responded in a way that makes the rest of the request needless. After
    /// a 2xx it may want all of it, but for a server that has read no more of it for so long.
    fn is_refused(&mut self, blocked: Duration) -> bool {
        if self.early.is_none() {
            self.connection.socket().waits = false;
            self.early = match self.final_head() {
                Err(Trouble::Io(error)) if is_passing(&error) => None,
                received => Some(received),
            };
            self.connection.socket().waits = true;
        }
        let patience = self.connection.socket().deadline.left() / 4;
        match &self.early {
            Some(Ok(head)) => !(200..300).contains(&head.status) || blocked > patience,
            Some(Err(_)) => true,
            None => !self.head.is_empty() && blocked > patience,
        }
    }

    /// Reads the head of the final response.
    fn final_head(&mut self) -> Result<Head, Trouble> {
        loop {
            read_head(self.connection.reader(), &mut self.budget, &mut self.head)?;
            let head = Head::parse(&std::mem::take(&mut self.head)).map_err(Trouble::Malformed)?;
            match head.status {
                // 101 would be final, and nobody has asked for it.
                100 | 102..=199 => {}
                0..=199 => {
                    return Err(Trouble::Malformed("has a status code (1xx) that is not final"))
                }
                _ => return Ok(head),
            }
        }
    }
}
