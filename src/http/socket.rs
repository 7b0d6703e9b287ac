//! A socket whose every read and write ends by the deadline of the call: the look-up of a name, the
//! first address that answers, and what carries bytes from then on. Called by `connection`, `idle`
//! and `proxy`. Knows nothing of HTTP.

use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Call, Deadline};
use crate::error::Error;
use crate::url::Origin;

/// The stack of the thread that looks up a name, where the system's resolver may load modules.
const RESOLVER_STACK: usize = 256 * 1024;

/// How long an address is waited for, at least, before the next one is tried; twice as long in each
/// round.
const FIRST_PATIENCE: Duration = Duration::from_millis(250);

/// How long a write may block before the writer is told: the server may have responded already.
const WRITE_PART: Duration = Duration::from_millis(50);

/// How much is read from a connection at a time, if the reader has no larger buffer of its own. An
/// idle connection keeps it.
pub(crate) const BUFFER: usize = 2 * 1024;

/// What is read from a connection goes through this buffer.
pub(crate) type Reader = BufReader<Box<dyn Stream>>;

/// What carries the bytes of HTTP: a socket, or TLS over one. A write that blocks for a moment
/// fails with `WouldBlock`, and may be tried again.
pub(crate) trait Stream: Read + Write + Send + Sync {
    fn socket(&mut self) -> &mut Socket;
}

/// A TCP connection whose every read and write ends by the deadline.
pub(crate) struct Socket {
    tcp: TcpStream,
    pub(crate) deadline: Deadline,
    /// Reads wait for what has not come yet; else they fail with `WouldBlock`.
    pub(crate) waits: bool,
    /// The read timeout that is set: setting it costs a system call.
    timeout: Duration,
}

impl Stream for Socket {
    fn socket(&mut self) -> &mut Socket {
        self
    }
}

impl Socket {
    fn new(tcp: TcpStream, deadline: Deadline) -> io::Result<Socket> {
        // Nagle's algorithm would hold a request back until the server has acknowledged what was
        // sent before it.
        let _ = tcp.set_nodelay(true);
        tcp.set_write_timeout(Some(WRITE_PART))?;
        Ok(Socket { tcp, deadline, waits: true, timeout: Duration::ZERO })
    }

    pub(crate) fn peer(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }

    fn time_left(&self) -> io::Result<Duration> {
        match self.deadline.left() {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.waits {
            self.time_left()?;
            self.tcp.set_nonblocking(true)?;
            let result = self.tcp.read(buffer);
            self.tcp.set_nonblocking(false)?;
            return result;
        }
        loop {
            let left = self.time_left()?;
            // Socket timeouts fire late, the later the longer they are: a wait is a part of what
            // is left, and then another.
            if !(left / 4..=left / 8 * 7).contains(&self.timeout) {
                self.timeout = (left / 4 * 3).max(Duration::from_millis(1));
                match self.tcp.set_read_timeout(Some(self.timeout)) {
                    // macOS says so once the peer has gone: nothing waits then.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                    result => result?,
                }
            }
            match self.tcp.read(buffer) {
                Err(error) if is_passing(&error) => {}
                result => return result,
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.time_left()?;
        match self.tcp.write(bytes) {
            // On some systems a timeout looks like the end of all time.
            Err(error) if is_passing(&error) => Err(io::ErrorKind::WouldBlock.into()),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all of it, for as long as there is time.
pub(crate) fn write_all(stream: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if is_passing_write(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends what has been written, for as long as there is time.
pub(crate) fn flush_all(stream: &mut impl Write) -> io::Result<()> {
    loop {
        match stream.flush() {
            Err(error) if is_passing_write(&error) => {}
            result => return result,
        }
    }
}

/// The addresses of a host. The system's resolver can't be told to stop: a look-up that has not
/// ended in time keeps its thread until it does. `whose` tells in messages that the host is
/// not the server (" of the proxy ..."); else it is empty.
pub(crate) fn look_up(origin: &Origin, whose: &str, call: &Call) -> Result<Vec<SocketAddr>, Error> {
    let port = origin.port;
    if let Ok(address) = origin.host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    if origin.is_loopback() {
        // RFC 6761, section 6.3: no name server is asked for `localhost`.
        let addresses: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(addresses.map(|address| (address, port).into()).to_vec());
    }
    let host = origin.host.clone();
    // A channel would cost 4 kB.
    let found = Arc::new((Mutex::new(None), Condvar::new()));
    let finder = Arc::clone(&found);
    thread::Builder::new()
        .stack_size(RESOLVER_STACK)
        .spawn(move || {
            let addresses = (host.as_str(), port).to_socket_addrs();
            let (place, change) = &*finder;
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(addresses);
            change.notify_one();
        })
        .map_err(|cause| call.refused_by_host(cause))?;
    let (place, change) = &*found;
    let place = place.lock().unwrap_or_else(PoisonError::into_inner);
    let left = call.deadline.left();
    let waited = change.wait_timeout_while(place, left, |addresses| addresses.is_none());
    let addresses = waited.unwrap_or_else(PoisonError::into_inner).0.take();
    match addresses {
        Some(Ok(addresses)) => Ok(addresses.collect()),
        // The resolver does not tell that it could not open a file or a socket.
        Some(Err(error)) => Err(match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) {
            Ok(_) => call
                .failed(format_args!(
                    "the host name{whose} was not found: check its spelling, and the name server \
                     of this network"
                ))
                .with_source(error),
            Err(refused) => call.refused_by_host(refused),
        }),
        None => Err(call.late(&format!("before the host name{whose} was resolved"))),
    }
}

/// Connects to the first address that answers. All are tried in turn with little patience, then
/// those that were silent with twice as much, and so on, so that a dead address costs little ([RFC
/// 8305](https://www.rfc-editor.org/rfc/rfc8305) has them tried side by side). An address that is
/// alone gets all the time. Tells how long the address took that answered.
pub(crate) fn connect(
    addresses: &[SocketAddr], patience: Duration, whose: &str, call: &Call,
) -> Result<(Socket, Duration), Error> {
    let to = whose.strip_prefix(" of ").unwrap_or("the host");
    let mut silent = addresses.to_vec();
    let mut patience = patience.max(FIRST_PATIENCE);
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    while !silent.is_empty() {
        let is_alone = silent.len() == 1;
        for address in std::mem::take(&mut silent) {
            let left = call.deadline.left();
            if left.is_zero() {
                return Err(call.late(&format!("before a connection to {to} was made")));
            }
            let most = if is_alone { left } else { patience.min(left) };
            let start = Instant::now();
            match TcpStream::connect_timeout(&address, most.max(Duration::from_millis(1))) {
                Ok(tcp) => {
                    let socket = Socket::new(tcp, call.deadline);
                    let socket = socket.map_err(|cause| call.refused_by_host(cause))?;
                    return Ok((socket, start.elapsed()));
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => silent.push(address),
                Err(error) if is_out_of_files(&error) => return Err(call.refused_by_host(error)),
                Err(error) => last = error,
            }
        }
        patience = patience.saturating_mul(2);
    }
    let why = format!("no connection to {to} could be made: check host, port and firewall");
    Err(call.failed(why).with_source(last))
}

/// Whether a read or a write only took longer than it may at a time.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Whether a write to a [`Socket`] may be tried again: `TimedOut` is its deadline.
pub(crate) fn is_passing_write(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Neither this process nor this host may open more.
fn is_out_of_files(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    cfg!(unix) && matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}
