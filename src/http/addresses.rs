//! Connecting to a host: the look-up of its name, the order of its addresses, and the memory of the
//! one that worked. Called by `http`. Knows nothing of what is sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{mpsc, Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::socket::Socket;
use super::CallContext;
use crate::error::Error;
use crate::url::Origin;

/// The stack of the thread that looks up a name. The system's resolver may load modules in it.
const RESOLVER_STACK: usize = 256 * 1024;

/// How long the first round waits for an address before it tries the next one. Each further round
/// waits twice as long.
const FIRST_PATIENCE: Duration = Duration::from_millis(250);

/// Shared by all clones of a session.
#[derive(Clone, Default)]
pub(crate) struct Addresses(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// The address that worked last, for each host with several.
    worked: Vec<(Arc<Origin>, SocketAddr)>,
    /// How many connections have been made.
    connected: u64,
}

impl Addresses {
    /// Connects to a host, and returns how long that took. The address that worked last time is
    /// tried first. `peer` is " of the proxy ..." for messages, or empty.
    pub(super) fn connect(
        &self, origin: &Arc<Origin>, peer: &str, call: &CallContext,
    ) -> Result<(Socket, Duration), Error> {
        let mut addresses = look_up(origin, peer, call)?;
        if let Some((_, good)) = self.known().worked.iter().find(|(host, _)| host == origin) {
            if let Some(i) = addresses.iter().position(|address| address == good) {
                addresses[..=i].rotate_right(1);
            }
        }
        let has_several = addresses.len() > 1;
        let (socket, address, took) = connect(addresses, peer, call)?;
        let known = &mut *self.known();
        known.connected += 1;
        if has_several {
            known.worked.retain(|(host, _)| host != origin);
            known.worked.push((Arc::clone(origin), address));
        }
        Ok((socket, took))
    }

    pub(crate) fn connected(&self) -> u64 {
        self.known().connected
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the addresses of a host. The system's resolver can't be stopped: a look-up that has not
/// ended in time keeps its thread until it does.
fn look_up(origin: &Origin, peer: &str, call: &CallContext) -> Result<Vec<SocketAddr>, Error> {
    let port = origin.port;
    if let Some(address) = origin.address() {
        return Ok(vec![(address, port).into()]);
    }
    if origin.is_loopback() {
        // RFC 6761, section 6.3: no name server is asked for `localhost`.
        let addresses: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(addresses.map(|address| (address, port).into()).to_vec());
    }
    let host = origin.host.clone();
    let (found, addresses) = mpsc::channel();
    let spawned = thread::Builder::new().stack_size(RESOLVER_STACK).spawn(move || {
        // The call may have timed out.
        let _ = found.send((host.as_str(), port).to_socket_addrs());
    });
    spawned.map_err(|cause| call.refused_thread(cause))?;
    match addresses.recv_timeout(call.deadline.remaining()) {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(cause)) => Err(call.refused_files().unwrap_or_else(|| {
            call.error(format_args!(
                "the host name{peer} was not found: check its spelling, and the name server \
                 of this network"
            ))
            .with_source(cause)
        })),
        Err(_) => Err(call.timed_out(&format!("before the host name{peer} was resolved"))),
    }
}

/// Connects to the first address that accepts. Tries all in turn with little patience, then the
/// silent ones with twice as much, and so on, so that a dead address costs little. ([RFC
/// 8305](https://www.rfc-editor.org/rfc/rfc8305) tries them side by side.) If only one is left, it
/// gets all the remaining time. Returns the address, too, and how long it took to accept.
fn connect(
    mut silent: Vec<SocketAddr>, peer: &str, call: &CallContext,
) -> Result<(Socket, SocketAddr, Duration), Error> {
    let to = peer.strip_prefix(" of ").unwrap_or("the host");
    let mut patience = FIRST_PATIENCE;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    while !silent.is_empty() {
        let is_alone = silent.len() == 1;
        for address in std::mem::take(&mut silent) {
            let left = call.deadline.remaining();
            if left.is_zero() {
                return Err(call.timed_out(&format!("before a connection to {to} was made")));
            }
            let most = if is_alone { left } else { patience.min(left) };
            let start = Instant::now();
            let tcp = TcpStream::connect_timeout(&address, most.max(Duration::from_millis(1)));
            match tcp.and_then(|tcp| Socket::new(tcp, call.deadline)) {
                Ok(socket) => return Ok((socket, address, start.elapsed())),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => silent.push(address),
                Err(error) if is_out_of_files(&error) => return Err(call.refused_by_device(error)),
                Err(error) => last = error,
            }
        }
        patience = patience.saturating_mul(2);
    }
    let why = format!("no connection to {to} could be made: check host, port and firewall");
    Err(call.error(why).with_source(last))
}

/// Whether the limit of open files is reached, of this process or of this host.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    // ENFILE and EMFILE; WSAEMFILE and WSAENOBUFS.
    let codes = if cfg!(windows) { [10024, 10055] } else { [23, 24] };
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}
