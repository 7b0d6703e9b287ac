//! A socket whose every read and write ends by the deadline of the call. Called by `connection`,
//! `exchange`, `proxy` and `tls`. Knows nothing of HTTP.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::pool::{Hop, Watch};
use super::Deadline;

/// How long a write may block before it fails with `WouldBlock`. Then the writer can look for an
/// early response.
pub(super) const WRITE_WAIT: Duration = Duration::from_millis(50);

/// Reads are polled in this last part of the remaining time. On Windows a socket timeout lasts at
/// least half a second. When it fires, the number of the bytes already read or written is lost
/// ([documentation](https://learn.microsoft.com/windows/win32/winsock/sol-socket-socket-options)).
/// So on Windows `peek` does the waiting, because it consumes nothing. All writes are polled, and
/// so is every read in the last second.
const POLLED: Duration = Duration::from_secs(if cfg!(windows) { 1 } else { 0 });

/// A stream of HTTP's bytes: a socket, or TLS over one. A write that blocks for [`WRITE_WAIT`]
/// fails with `WouldBlock`, and may be tried again.
pub(super) trait Stream: BufRead + Send + Sync {
    fn writer(&mut self) -> &mut dyn Write;

    fn socket(&mut self) -> &mut Socket;

    /// Whether bytes have come that were not read.
    fn has_unread_data(&self) -> bool;

    /// Announces the end of the stream to the server, if that takes no waiting.
    fn close(&mut self) {}

    /// Returns why the server ended TLS in place of a response, and whether it may have executed
    /// the request. As a side effect, a server that broke a resumed TLS session is never offered
    /// one again.
    fn refusal(&self, _: &io::Error) -> Option<(&'static str, bool)> {
        None
    }
}

/// A TCP connection whose every read and write ends by the deadline.
pub(super) struct Socket {
    /// While this exists, the pool counts the socket as an open connection.
    pub(super) counted: Option<Arc<Hop>>,
    tcp: TcpStream,
    pub(super) deadline: Deadline,
    /// Whether reads and writes may wait. If not, they fail with `WouldBlock`.
    pub(super) blocking: bool,
    /// Removed when the first byte arrives. If `is_for_response` is set, `exchange` removes it
    /// instead, once it has the head of the response.
    pub(super) watch: Option<Watch>,
    /// The current read timeout. Setting it costs a system call.
    timeout: Duration,
}

impl Stream for BufReader<Socket> {
    fn writer(&mut self) -> &mut dyn Write {
        self.get_mut()
    }

    fn socket(&mut self) -> &mut Socket {
        self.get_mut()
    }

    fn has_unread_data(&self) -> bool {
        !self.buffer().is_empty()
    }
}

impl Socket {
    pub(super) fn new(tcp: TcpStream, deadline: Deadline) -> io::Result<Socket> {
        // Nagle's algorithm would hold a request back until the server has acknowledged the bytes
        // before it.
        let _ = tcp.set_nodelay(true);
        if cfg!(not(windows)) {
            tcp.set_write_timeout(Some(WRITE_WAIT))?;
        }
        let timeout = Duration::MAX;
        Ok(Socket { tcp, deadline, blocking: true, watch: None, counted: None, timeout })
    }

    /// Ends the connection for every process that holds it.
    pub(super) fn shut_down(&self) {
        let _ = self.tcp.shutdown(Shutdown::Both);
    }

    /// Does one read or write without waiting: it fails with `WouldBlock` instead.
    fn nonblocking<T>(
        &mut self, act: impl FnOnce(&mut TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        self.tcp.set_nonblocking(true)?;
        let result = act(&mut self.tcp);
        self.tcp.set_nonblocking(false)?;
        // Only Windows polls: see [`POLLED`].
        if self.blocking && result.as_ref().is_err_and(is_transient) {
            std::thread::sleep(Duration::from_millis(1));
        }
        result
    }

    /// Does one read, which waits for a part of `left` or of `most`, whichever is shorter.
    fn read_part(
        &mut self, left: Duration, most: Duration, buffer: &mut [u8],
    ) -> io::Result<usize> {
        let left = left.saturating_sub(POLLED);
        if left.is_zero() {
            return self.nonblocking(|tcp| tcp.read(buffer));
        }
        let left = left.min(most);
        // Long socket timeouts fire late, so wait in shorter steps. Keep the current timeout if it
        // is between a quarter and seven eighths of the time, else set it to three quarters.
        if !(left / 4..=left / 8 * 7).contains(&self.timeout) {
            self.timeout = (left / 4 * 3).max(Duration::from_millis(1));
            match self.tcp.set_read_timeout(Some(self.timeout)) {
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
                // macOS returns `InvalidInput` once the peer has gone. Then reads don't wait.
                _ => {}
            }
        }
        if cfg!(windows) {
            self.tcp.peek(&mut [0])?;
        }
        self.tcp.read(buffer)
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = loop {
            let left = self.deadline.time_left()?;
            if !self.blocking {
                break self.nonblocking(|tcp| tcp.read(buffer));
            }
            let next = self.watch.as_ref().map_or(left, |watch| watch.next.remaining());
            match self.read_part(left, next, buffer) {
                Err(error) if is_transient(&error) => {
                    self.watch.iter_mut().for_each(Watch::act_if_due);
                }
                result => break result,
            }
        };
        if result.is_ok() {
            self.watch.take_if(|watch| !watch.is_for_response);
        }
        result
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.blocking {
            self.deadline.time_left()?;
        }
        let written = if self.blocking && !cfg!(windows) {
            self.tcp.write(bytes)
        } else {
            self.nonblocking(|tcp| tcp.write(bytes))
        };
        match written {
            // Windows reports a write timeout as `TimedOut`.
            Err(error) if is_transient(&error) => {
                self.watch.iter_mut().for_each(Watch::act_if_due);
                Err(io::ErrorKind::WouldBlock.into())
            }
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a read or a write has only reached the limit of a single wait, and may be tried again.
pub(super) fn is_transient(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => true,
        // On other systems `TimedOut` means that the peer has gone.
        io::ErrorKind::TimedOut => cfg!(windows),
        _ => false,
    }
}
