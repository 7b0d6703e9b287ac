//! A connection to a host: the look-up of its name, and the first address that answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::url::Origin;

/// The stack of the thread that looks up a name, where the system's resolver may load modules.
const RESOLVER_STACK: usize = 256 * 1024;

/// Why there is no connection to the server. Nothing was sent.
#[derive(Debug)]
pub(crate) enum Failure {
    NotResolved(io::Error),
    NotResolvedInTime,
    NotConnected(io::Error),
    NotConnectedInTime,
    /// This host refused a thread, a socket or the loopback interface.
    Host(io::Error),
    /// The proxy opened no way to the server.
    Proxy {
        why: String,
        cause: Option<io::Error>,
        is_final: bool,
    },
    /// It did not do so in time.
    ProxyInTime(String),
}

/// The addresses of a host. The system's resolver can't be told to stop: a look-up that has not
/// ended in time keeps its thread until it does.
pub(crate) fn look_up(origin: &Origin, deadline: Instant) -> Result<Vec<SocketAddr>, Failure> {
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
        .map_err(Failure::Host)?;
    let (place, change) = &*found;
    let place = place.lock().unwrap_or_else(PoisonError::into_inner);
    let left = deadline.saturating_duration_since(Instant::now());
    let waited = change.wait_timeout_while(place, left, |addresses| addresses.is_none());
    let addresses = waited.unwrap_or_else(PoisonError::into_inner).0.take();
    match addresses {
        Some(Ok(addresses)) => Ok(addresses.collect()),
        // The resolver does not tell that it could not open a file or a socket.
        Some(Err(error)) => Err(match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) {
            Ok(_) => Failure::NotResolved(error),
            Err(refused) => Failure::Host(refused),
        }),
        None => Err(Failure::NotResolvedInTime),
    }
}

/// Connects to the first address that answers. Each gets a share of the time that is left, so
/// that one that is silent does not use up the time of the others.
pub(crate) fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Failure> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for (i, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let others = u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, (left / others).max(Duration::from_millis(1))) {
            Ok(server) => return Ok(server),
            Err(error) if is_out_of_files(&error) => return Err(Failure::Host(error)),
            Err(error) => last = error,
        }
    }
    if Instant::now() >= deadline {
        return Err(Failure::NotConnectedInTime);
    }
    Err(Failure::NotConnected(last))
}

/// Neither this process nor this host may open more.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    cfg!(unix) && matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}
