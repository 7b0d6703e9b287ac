//! A socket whose every read and write ends by the deadline of the call. Called by `connection`,
//! `proxy` and `tls`, and by `exchange` when it must not wait. Knows nothing of HTTP.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::idle::Hop;
use super::Deadline;

/// How long a write may block before the writer is told: the server may have responded already.
pub(super) const WRITE_PART: Duration = Duration::from_millis(50);

/// How much is read from a socket at a time, if the reader has no larger buffer of its own. An
/// idle connection keeps it.
const BUFFER: usize = 2 * 1024;

/// What carries the bytes of HTTP: a socket, or TLS over one. A write that blocks for a moment
/// fails with `WouldBlock`, and may be tried again.
pub(super) trait Stream: Send + Sync {
    fn reader(&mut self) -> &mut dyn BufRead;

    fn writer(&mut self) -> &mut dyn Write;

    fn socket(&mut self) -> &mut Socket;

    /// Whether more has come than was read.
    fn has_unread_data(&self) -> bool;

    /// Says that nothing more will be sent, if that takes no waiting.
    fn close(&mut self) {}

    /// Forgets the TLS session if this connection has resumed it.
    fn forget_session(&self) {}

    /// Why the server ended TLS in place of a response, and whether it may have executed the request.
    fn refusal(&self, _: &io::Error) -> Option<(&'static str, bool)> {
        None
    }
}

/// A socket that is read through a buffer.
pub(super) type BufferedSocket = BufReader<Socket>;

/// A TCP connection whose every read and write ends by the deadline.
pub(super) struct Socket {
    /// Counts it as an open connection.
    pub(super) counted: Option<Arc<Hop>>,
    tcp: TcpStream,
    pub(super) deadline: Deadline,
    /// Reads and writes wait for what can't be done yet; else they fail with `WouldBlock`.
    pub(super) waits: bool,
    /// Gone once a byte has come, or a byte of the response.
    pub(super) on_silence: Option<OnSilence>,
    /// The read timeout that is set: setting it costs a system call.
    timeout: Duration,
}

/// What to do when nothing has come for a while, then for twice as long, and so on.
pub(super) struct OnSilence {
    /// It is for the response: bytes of TLS do not end it.
    is_for_response: bool,
    start: Instant,
    next: Deadline,
    act: Box<dyn FnMut() + Send + Sync>,
}

impl OnSilence {
    /// Calls `act` after `patience`, and again each time that the silence has doubled.
    pub(super) fn new(
        patience: Duration, is_for_response: bool, act: impl FnMut() + Send + Sync + 'static,
    ) -> OnSilence {
        let (start, next) = (Instant::now(), Deadline::after(patience));
        OnSilence { is_for_response, start, next, act: Box::new(act) }
    }

    fn act_in_time(&mut self) {
        if self.next.left().is_zero() {
            let waited = self.start.elapsed();
            (self.act)();
            self.next = Deadline::after(waited);
        }
    }
}

impl Stream for BufferedSocket {
    fn reader(&mut self) -> &mut dyn BufRead {
        self
    }

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
    pub(super) fn buffered(tcp: TcpStream, deadline: Deadline) -> io::Result<BufferedSocket> {
        // Nagle's algorithm would hold a request back until the server has acknowledged what was
        // sent before it.
        let _ = tcp.set_nodelay(true);
        if cfg!(not(windows)) {
            tcp.set_write_timeout(Some(WRITE_PART))?;
        }
        let socket = Socket {
            tcp,
            deadline,
            waits: true,
            on_silence: None,
            counted: None,
            timeout: Duration::MAX,
        };
        Ok(BufReader::with_capacity(BUFFER, socket))
    }

    /// Ends the connection for every process that holds it.
    pub(super) fn shut_down(&self) {
        let _ = self.tcp.shutdown(Shutdown::Both);
    }

    pub(super) fn peer(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }

    fn note_silence(&mut self) {
        self.on_silence.iter_mut().for_each(OnSilence::act_in_time);
    }

    fn time_left(&self) -> io::Result<Duration> {
        match self.deadline.left() {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }

    /// Has reads wait for less than this.
    fn limit_wait(&mut self, left: Duration) -> io::Result<()> {
        // Socket timeouts fire late, the later the longer they are: a wait is a part of what is
        // left, and then another.
        if !(left / 4..=left / 8 * 7).contains(&self.timeout) {
            self.timeout = (left / 4 * 3).max(Duration::from_millis(1));
            match self.tcp.set_read_timeout(Some(self.timeout)) {
                // macOS says so once the peer has gone: nothing waits then.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                result => return result,
            }
        }
        Ok(())
    }

    /// Fails with `WouldBlock` where it would have to wait.
    fn at_once<T>(&mut self, act: impl FnOnce(&mut TcpStream) -> io::Result<T>) -> io::Result<T> {
        self.tcp.set_nonblocking(true)?;
        let result = act(&mut self.tcp);
        self.tcp.set_nonblocking(false)?;
        result
    }
}

#[cfg(not(windows))]
impl Socket {
    /// Reads what comes in a part of the time that is left, or of `most`.
    fn read_part(
        &mut self, left: Duration, most: Duration, buffer: &mut [u8],
    ) -> io::Result<usize> {
        self.limit_wait(left.min(most))?;
        self.tcp.read(buffer)
    }

    /// Writes what can be written in [`WRITE_PART`].
    fn write_part(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.write(bytes)
    }
}

/// A timeout of Windows lasts half a second at least, and does not tell how much has been read or
/// written before ([documentation of
/// it](https://learn.microsoft.com/windows/win32/winsock/sol-socket-socket-options)). So bytes are
/// only awaited in a way that leaves them where they are; and in the last second, and to write, it
/// is tried again and again.
#[cfg(windows)]
impl Socket {
    fn read_part(
        &mut self, left: Duration, most: Duration, buffer: &mut [u8],
    ) -> io::Result<usize> {
        if left > LAST {
            self.limit_wait(most.min(left - LAST))?;
            self.tcp.peek(&mut [0])?;
            return self.tcp.read(buffer);
        }
        let result = self.at_once(|tcp| tcp.read(buffer));
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            std::thread::sleep(PAUSE);
        }
        result
    }

    fn write_part(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut waited = Duration::ZERO;
        loop {
            match self.at_once(|tcp| tcp.write(bytes)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && waited < WRITE_PART => {
                    std::thread::sleep(PAUSE);
                    waited += PAUSE;
                }
                result => return result,
            }
        }
    }
}

/// How much of the time goes by trying again, and the pause between two attempts.
#[cfg(windows)]
const LAST: Duration = Duration::from_secs(1);
#[cfg(windows)]
const PAUSE: Duration = Duration::from_millis(1);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = loop {
            let left = self.time_left()?;
            if !self.waits {
                break self.at_once(|tcp| tcp.read(buffer));
            }
            let next = self.on_silence.as_ref().map_or(left, |silence| silence.next.left());
            match self.read_part(left, next, buffer) {
                Err(error) if is_passing(&error) => self.note_silence(),
                result => break result,
            }
        };
        if result.is_ok() {
            self.on_silence.take_if(|silence| !silence.is_for_response);
        }
        result
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.waits {
            return self.at_once(|tcp| tcp.write(bytes));
        }
        self.time_left()?;
        match self.write_part(bytes) {
            // Windows reports a write timeout as `TimedOut`.
            Err(error) if is_passing(&error) => {
                self.note_silence();
                Err(io::ErrorKind::WouldBlock.into())
            }
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all of it, for as long as there is time.
pub(super) fn write_all(stream: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a read or a write only took longer than it may at a time.
pub(super) fn is_passing(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => true,
        // Elsewhere the peer has gone.
        io::ErrorKind::TimedOut => cfg!(windows),
        _ => false,
    }
}
