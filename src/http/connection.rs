//! A connection to a server, along its route: directly or through a proxy, with TLS or without.
//! Called by `http`, and kept by `idle`. Knows nothing of requests.

use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::head::Listener;
use super::idle::Idle;
use super::proxy::Proxy;
use super::socket::{is_passing, Reader, Socket, BUFFER};
use super::tls::Trust;
use super::{Call, Failure};
use crate::url::Origin;

/// Servers close what was idle for longer, and they need not be asked.
const IDLE: Duration = Duration::from_secs(30);

/// Where a connection leads to, and whom it trusts to be there. It may be used again for the very
/// same only.
#[derive(Clone, PartialEq)]
pub(crate) struct Route {
    pub(crate) origin: Origin,
    /// For `https`; `http` stays on this machine.
    pub(crate) proxy: Option<Arc<Proxy>>,
    pub(crate) trust: Trust,
}

/// A connection, with the port at which minreq writes and reads the heads that pass it.
pub(crate) struct Connection {
    pub(crate) reader: Reader,
    pub(crate) listener: Option<Listener>,
    pub(crate) route: Route,
    /// After a fork, two processes would speak on one connection.
    process: u32,
    /// When it was used last, by both clocks: while a device sleeps, the first stands still.
    since: (Instant, SystemTime),
}

impl Route {
    fn open(&self, idle: &Idle, call: &Call) -> Result<Reader, Failure> {
        let socket = match &self.proxy {
            Some(proxy) => proxy.connect(&self.origin, idle, call)?,
            None => idle.connect(&self.origin, "", call)?,
        };
        #[cfg(feature = "tls")]
        if self.origin.https {
            let stream = super::tls::Stream::open(&self.origin.host, &self.trust, socket, call)?;
            return Ok(BufReader::with_capacity(BUFFER, Box::new(stream)));
        }
        Ok(BufReader::with_capacity(BUFFER, Box::new(socket)))
    }
}

impl Connection {
    pub(crate) fn open(route: Route, idle: &Idle, call: &Call) -> Result<Connection, Failure> {
        Ok(Connection {
            reader: route.open(idle, call)?,
            listener: None,
            route,
            process: std::process::id(),
            since: (Instant::now(), SystemTime::now()),
        })
    }

    pub(crate) fn socket(&mut self) -> &mut Socket {
        self.reader.get_mut().socket()
    }

    /// The server has said nothing that has not been read, nor closed it.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.socket().waits = false;
        let input = self.reader.fill_buf().map(drop);
        self.socket().waits = true;
        matches!(input, Err(error) if is_passing(&error))
    }

    /// Something stands behind the response that has been read.
    pub(crate) fn has_surplus(&self) -> bool {
        !self.reader.buffer().is_empty()
    }

    /// It is idle from now on.
    pub(crate) fn mark_idle(&mut self) {
        self.since = (Instant::now(), SystemTime::now());
    }

    /// It has not been idle for long, and belongs to this process.
    pub(crate) fn is_fresh(&self) -> bool {
        let slept = self.since.1.elapsed().unwrap_or_default();
        self.process == std::process::id() && self.since.0.elapsed().max(slept) < IDLE
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::http::Deadline;
    use crate::url::Url;

    fn connection(idle: &Idle, server: &TcpListener) -> Connection {
        let url = format!("http://{}", server.local_addr().unwrap());
        let route = Route {
            origin: Url::base("base URL", &url).unwrap().origin,
            proxy: None,
            trust: Trust::default(),
        };
        let call =
            Call { label: "GET /".to_owned(), deadline: Deadline::after(Duration::from_secs(20)) };
        let opened = Connection::open(route, idle, &call);
        opened.map_err(|failure| failure.error).unwrap()
    }

    #[test]
    fn what_was_idle_for_long_or_belongs_to_another_process_is_not_used_again() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let idle = Idle::default();
        let fresh = connection(&idle, &server);
        let route = fresh.route.clone();
        idle.keep(fresh, 8);
        assert!(idle.take(&route).is_some());
        assert!(idle.take(&route).is_none());

        let mut slept = connection(&idle, &server);
        slept.since.1 = SystemTime::now() - IDLE;
        let mut forked = connection(&idle, &server);
        forked.process += 1;
        // A device that has just been started has no such time.
        let long_ago = Instant::now().checked_sub(IDLE);
        let old = long_ago.map(|long_ago| {
            let mut old = connection(&idle, &server);
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
