//! A connection to a server, along its route: directly or through a proxy, with TLS or without.
//! Called by `http`, and kept by `idle`. Knows nothing of requests.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::addresses::Addresses;
use super::proxy::Proxy;
use super::socket::{is_passing, Reader, Socket, Stream, BUFFER};
use super::tls::Trust;
use super::Call;
use crate::error::Error;
use crate::url::Origin;

/// Servers close what was idle for longer, and they need not be asked.
const IDLE: Duration = Duration::from_secs(30);

/// Where a connection leads to, and whom it trusts to be there. It may be used again for the very
/// same only.
#[derive(Clone, PartialEq)]
pub(super) struct Route {
    pub(super) origin: Origin,
    /// For `https`; `http` stays on this machine.
    pub(super) proxy: Option<Arc<Proxy>>,
    pub(super) trust: Trust,
}

/// A connection, with the port at which minreq writes and reads the heads that pass it.
pub(super) struct Connection {
    pub(super) reader: Reader,
    pub(super) listener: Option<TcpListener>,
    pub(super) route: Route,
    /// After a fork, two processes would speak on one connection.
    process: u32,
    /// When it was used last, by both clocks: while a device sleeps, the first stands still.
    since: (Instant, SystemTime),
}

impl Connection {
    pub(super) fn open(
        route: &Route, addresses: &Addresses, call: &Call,
    ) -> Result<Connection, Error> {
        let Route { origin, proxy, .. } = route;
        let socket = match proxy {
            Some(proxy) => proxy.connect(origin, addresses, call)?,
            None => addresses.connect(origin, "", call)?,
        };
        let stream: Box<dyn Stream> = match origin.https {
            #[cfg(feature = "tls")]
            true => Box::new(super::tls::Stream::open(&origin.host, &route.trust, socket, call)?),
            _ => Box::new(socket),
        };
        Ok(Connection {
            reader: BufReader::with_capacity(BUFFER, stream),
            listener: None,
            route: route.clone(),
            process: std::process::id(),
            since: (Instant::now(), SystemTime::now()),
        })
    }

    pub(super) fn socket(&mut self) -> &mut Socket {
        self.reader.get_mut().socket()
    }

    /// The server has said nothing that has not been read, nor closed it.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.socket().waits = false;
        let input = self.reader.fill_buf().map(drop);
        self.socket().waits = true;
        matches!(input, Err(error) if is_passing(&error))
    }

    /// Something stands behind the response that has been read.
    pub(super) fn has_surplus(&self) -> bool {
        !self.reader.buffer().is_empty()
    }

    /// It is idle from now on.
    pub(super) fn mark_idle(&mut self) {
        self.since = (Instant::now(), SystemTime::now());
    }

    /// It has not been idle for long, and belongs to this process.
    pub(super) fn is_fresh(&self) -> bool {
        let slept = self.since.1.elapsed().unwrap_or_default();
        self.process == std::process::id() && self.since.0.elapsed().max(slept) < IDLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Deadline, Idle};
    use crate::url::Url;

    fn call() -> Call {
        Call { label: "GET /".to_owned(), deadline: Deadline::after(Duration::from_secs(20)) }
    }

    fn connection(server: &TcpListener) -> Connection {
        let url = format!("http://{}", server.local_addr().unwrap());
        let route = Route {
            origin: Url::base("base URL", &url).unwrap().origin,
            proxy: None,
            trust: Trust::default(),
        };
        Connection::open(&route, &Addresses::default(), &call()).unwrap()
    }

    #[test]
    fn what_was_idle_for_long_or_belongs_to_another_process_is_not_used_again() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let idle = Idle::default();
        let fresh = connection(&server);
        let route = fresh.route.clone();
        idle.keep(fresh, 8);
        assert!(idle.take(&route).is_some());
        assert!(idle.take(&route).is_none());

        let mut slept = connection(&server);
        slept.since.1 = SystemTime::now() - IDLE;
        let mut forked = connection(&server);
        forked.process += 1;
        // A device that has just been started has no such time.
        let long_ago = Instant::now().checked_sub(IDLE);
        let old = long_ago.map(|long_ago| {
            let mut old = connection(&server);
            old.since.0 = long_ago;
            old
        });
        for connection in [Some(slept), Some(forked), old].into_iter().flatten() {
            idle.connections().push(connection);
            assert!(idle.take(&route).is_none());
            assert!(idle.connections().is_empty());
        }
    }
}
