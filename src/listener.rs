//! Where minreq connects to: a port of 127.0.0.1 that serves one connection, the one that shows
//! the password. Other processes of this host get nothing, and stop nothing.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;

use crate::retry::random;
use crate::url::Origin;

/// How long a wait for a connection lasts before it is seen that nobody wants one any more.
const PART: Duration = Duration::from_millis(50);

/// How many connections may be there without having shown the password, and how long the oldest
/// is kept then. minreq shows it at once.
const STRANGERS: usize = 64;
const STRANGERS_TIME: Duration = Duration::from_millis(10);

/// A listener for one connection.
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    user: String,
    greeting: String,
}

/// A connection: minreq's, or a stranger's.
struct Caller {
    socket: TcpStream,
    /// How much of the greeting it has sent.
    matched: usize,
    since: Instant,
}

impl Listener {
    /// Listens for a connection that is to be carried to `origin`.
    pub(crate) fn open(origin: &Origin) -> io::Result<Listener> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let user = format!("jas:{:016x}{:016x}", random(), random());
        Ok(Listener {
            address: listener.local_addr()?,
            socket: giving_up_after(listener, PART)?,
            greeting: format!(
                "CONNECT {}:{} HTTP/1.1\r\nProxy-Authorization: Basic {}\r\n\r\n",
                origin.host,
                origin.port,
                STANDARD.encode(&user)
            ),
            user,
        })
    }

    /// The proxy that minreq is to use.
    pub(crate) fn proxy(&self) -> String {
        format!("{}@127.0.0.1:{}", self.user, self.address.port())
    }

    /// Fails if this host does not let packets pass on its loopback interface: minreq has no
    /// timeout of its own and would wait for minutes. Fails, too, if the two sockets that are still
    /// missing can't be had: where TLS is to read the system's roots, minreq would keep a failure
    /// to open their files for as long as the process lasts. Looked at until it has succeeded once.
    pub(crate) fn check_loopback(&self, deadline: Instant) -> io::Result<()> {
        static WORKS: AtomicBool = AtomicBool::new(false);
        if !WORKS.load(Ordering::Relaxed) {
            let left = deadline.saturating_duration_since(Instant::now());
            let part = left.min((left / 4).max(Duration::from_secs(1)));
            let part = part.max(Duration::from_millis(1));
            let _near = TcpStream::connect_timeout(&self.address, part)?;
            let _far = self.socket.accept()?;
            WORKS.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits for minreq, until `has_ended` says that nobody needs it any more. `Ok(None)`: it has
    /// not come. It is waited for after the deadline, too: minreq connects at once, or has failed,
    /// and it takes a connection that closes under its CONNECT for impossible.
    ///
    /// # Errors
    ///
    /// This host refused the connection a socket.
    pub(crate) fn accept(&self, has_ended: impl Fn() -> bool) -> io::Result<Option<TcpStream>> {
        let mut callers: Vec<Caller> = Vec::new();
        let mut pause = Duration::from_micros(20);
        while !has_ended() {
            if callers.len() == STRANGERS && callers[0].since.elapsed() >= STRANGERS_TIME {
                callers.remove(0);
            }
            // While some have not shown the password, they are looked at in turn.
            self.socket
                .set_nonblocking(!CAN_GIVE_UP || !callers.is_empty())?;
            let accepted = match callers.len() {
                STRANGERS => Err(io::ErrorKind::WouldBlock.into()),
                _ => self.socket.accept(),
            };
            match accepted {
                Ok((socket, _)) => {
                    socket.set_nonblocking(true)?;
                    callers.push(Caller {
                        socket,
                        matched: 0,
                        since: Instant::now(),
                    });
                }
                Err(error) if is_passing(&error) => {
                    if !CAN_GIVE_UP || !callers.is_empty() {
                        thread::sleep(pause);
                        pause = (pause * 3 / 2).min(Duration::from_millis(1));
                    }
                }
                Err(error) => {
                    // Time for minreq to send its CONNECT.
                    thread::sleep(PART);
                    return Err(error);
                }
            }
            callers.retain_mut(|caller| caller.matches(self.greeting.as_bytes()));
            if let Some(i) = callers
                .iter()
                .position(|caller| caller.matched == self.greeting.len())
            {
                let client = callers.swap_remove(i).socket;
                client.set_nonblocking(false)?;
                return Ok(Some(client));
            }
        }
        Ok(None)
    }
}

impl Caller {
    /// Compares what it sends with the greeting; `false` once that differs.
    fn matches(&mut self, greeting: &[u8]) -> bool {
        let mut buffer = [0; 64];
        while self.matched < greeting.len() {
            let rest = &greeting[self.matched..];
            let want = buffer.len().min(rest.len());
            match self.socket.read(&mut buffer[..want]) {
                Ok(n @ 1..) if rest.starts_with(&buffer[..n]) => self.matched += n,
                Err(error) if is_passing(&error) => return true,
                _ => return false,
            }
        }
        true
    }
}

/// Whether a wait for a connection can have a timeout: then it costs nothing.
const CAN_GIVE_UP: bool = cfg!(any(target_os = "linux", target_os = "android"));

#[cfg(any(target_os = "linux", target_os = "android"))]
fn giving_up_after(listener: TcpListener, timeout: Duration) -> io::Result<TcpListener> {
    use std::os::fd::OwnedFd;
    // The standard library has the option for streams only; here accepting keeps to it as well.
    let socket = TcpStream::from(OwnedFd::from(listener));
    socket.set_read_timeout(Some(timeout))?;
    Ok(OwnedFd::from(socket).into())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(clippy::unnecessary_wraps, reason = "it can fail elsewhere")]
fn giving_up_after(listener: TcpListener, _: Duration) -> io::Result<TcpListener> {
    Ok(listener)
}

/// Whether a read or a write only took longer than it may at a time.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
