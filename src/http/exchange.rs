//! One request on one connection, and the head of its response. Called by `http`. Knows nothing of
//! how the connection was made, nor of content behind the head.

use std::io::{self, Write as _};
use std::time::Duration;

use super::connection::Connection;
use super::response_head::{read_head, Head, Trouble, HEAD_LIMIT};
use super::socket::{is_passing, write_all, WRITE_PART};

/// Content up to this size is sent together with the head; longer content in parts of this size.
const PART: usize = 16 * 1024;

/// One request on one connection.
pub(super) struct Exchange<'a> {
    connection: &'a mut Connection,
    /// How long the heads of the response may still become.
    left: usize,
    /// What has come of the next one.
    head: Vec<u8>,
    /// The response, if it has begun before the request was sent to its end.
    early: Option<Result<Head, Trouble>>,
}

impl Exchange<'_> {
    pub(super) fn on(connection: &mut Connection) -> Exchange<'_> {
        Exchange { connection, left: HEAD_LIMIT, head: Vec::new(), early: None }
    }

    /// Sends the request, and reads the head of the final response.
    pub(super) fn run(&mut self, head: &str, content: &[u8]) -> Result<Head, Trouble> {
        let sent = self.send(head, content);
        // The server may have responded before it closed.
        let received = match self.early.take() {
            Some(received) => received,
            None => self.final_head(),
        };
        match (received, sent) {
            (Ok(head), sent) => {
                let is_persistent = head.is_persistent && matches!(sent, Ok(true));
                Ok(Head { is_persistent, ..head })
            }
            (Err(_), Err(cause)) => Err(cause.into()),
            (trouble, Ok(_)) => trouble,
        }
    }

    /// Whether a connection that was idle has been closed by the server before it came to know of
    /// this request ([RFC 9110, section
    /// 15.5.9](https://www.rfc-editor.org/rfc/rfc9110#section-15.5.9) for 408).
    pub(super) fn is_stale(&self, received: &Result<Head, Trouble>) -> bool {
        match received {
            Ok(head) => head.status == 408,
            Err(_) => self.left == HEAD_LIMIT && !self.connection.has_surplus(),
        }
    }

    /// Sends the request; `false` if the server has refused it before its end.
    fn send(&mut self, head: &str, content: &[u8]) -> io::Result<bool> {
        let (first, mut rest) = content.split_at(content.len().min(PART));
        let is_small = rest.is_empty();
        write_all(self.connection.reader.get_mut(), &[head.as_bytes(), first].concat())?;
        let mut blocked = Duration::ZERO;
        while is_small || !self.is_refused(blocked) {
            let stream = self.connection.reader.get_mut();
            let written = match rest.len() {
                // What TLS still holds.
                0 => stream.flush().map(|()| 0),
                length => stream.write(&rest[..length.min(PART)]),
            };
            match written {
                Ok(0) if rest.is_empty() => return Ok(true),
                Ok(n) => {
                    rest = &rest[n..];
                    blocked = Duration::ZERO;
                }
                // Not by the clock: the process may have been stopped meanwhile.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => blocked += WRITE_PART,
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

    /// The head of the response, behind interim ones.
    fn final_head(&mut self) -> Result<Head, Trouble> {
        loop {
            read_head(&mut self.connection.reader, &mut self.left, &mut self.head)?;
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
