//! A connection to a server, directly or through a proxy, with TLS or without.
//! Called by `http`, and kept by `pool`. Knows nothing of requests.

use std::io::{BufRead as _, BufReader};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::proxy::Proxy;
use super::socket::{is_transient, Stream};
use super::tls::Roots;
use super::{CallContext, Network};
use crate::error::Error;
use crate::url::Origin;

/// Maximum idle time. Most servers have closed the connection by then.
const MAX_IDLE: Duration = Duration::from_secs(30);

/// Maximum age of an idle connection. The host name may have moved to another address.
const MAX_AGE: Duration = Duration::from_secs(300);

/// Origin, proxy and roots. Only a request with an identical route may reuse a connection.
#[derive(Clone, PartialEq)]
pub(super) struct Route {
    pub(super) origin: Arc<Origin>,
    /// Only for `https`: `http` stays on this machine.
    pub(super) proxy: Option<Arc<Proxy>>,
    pub(super) roots: Roots,
}

/// An open connection. Dropping it closes it.
pub(super) struct Connection {
    pub(super) stream: Box<dyn Stream>,
    pub(super) route: Route,
    /// The process that opened it. After a fork, the other process must not use it.
    process: u32,
    /// Whether it was idle before its current request.
    pub(super) was_idle: bool,
    opened: Moment,
    pub(super) last_used: Moment,
}

/// A moment by both clocks. The first may not advance while a device is suspended.
#[derive(Clone, Copy)]
pub(super) struct Moment(Instant, SystemTime);

impl Route {
    /// Returns the proxy if there is one, else the server.
    pub(super) fn first_hop(&self) -> &Arc<Origin> {
        self.proxy.as_ref().map_or(&self.origin, |proxy| &proxy.origin)
    }
}

impl Connection {
    pub(super) fn open(
        route: &Route, network: &Network, call: &CallContext,
    ) -> Result<Connection, Error> {
        let Route { origin, proxy, .. } = route;
        let connect = || match proxy {
            Some(proxy) => proxy.connect(origin, network, call),
            None => network.connect(origin, "", call),
        };
        let stream: Box<dyn Stream> = match origin.https {
            #[cfg(feature = "tls")]
            true => {
                let mut stream =
                    super::tls::Stream::open(&origin.host, &route.roots, call, connect)?;
                network.pool.watch(stream.socket(), route.first_hop(), None);
                stream
            }
            _ => Box::new(BufReader::new(connect()?)),
        };
        let now = Moment::now();
        let process = std::process::id();
        let route = route.clone();
        Ok(Connection { stream, route, process, was_idle: false, opened: now, last_used: now })
    }

    /// Whether the connection is open with no unread data.
    pub(super) fn is_open(&mut self) -> bool {
        self.stream.socket().blocking = false;
        let input = self.stream.fill_buf().map(drop);
        self.stream.socket().blocking = true;
        matches!(input, Err(error) if is_transient(&error)) && !self.stream.has_unread_data()
    }

    /// Whether it belongs to this process, has not been idle for too long, and is not too old.
    pub(super) fn is_reusable(&self, process: u32, now: &Moment) -> bool {
        self.process == process
            && now.since(&self.last_used) < MAX_IDLE
            && now.since(&self.opened) < MAX_AGE
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // After a fork, the process that opened it may still use it.
        if self.process == std::process::id() {
            self.stream.close();
            // Closing the descriptor is not enough: a forked process may hold a copy.
            self.stream.socket().shut_down();
        }
    }
}

impl Moment {
    pub(super) fn now() -> Moment {
        Moment(Instant::now(), SystemTime::now())
    }

    fn since(&self, earlier: &Moment) -> Duration {
        let system = self.1.duration_since(earlier.1).unwrap_or_default();
        self.0.saturating_duration_since(earlier.0).max(system)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::http::{Deadline, Pool};
    use crate::url::Url;

    fn call() -> CallContext {
        CallContext {
            label: "GET /".to_owned(),
            deadline: Deadline::after(Duration::from_secs(20)),
        }
    }

    fn connection(server: &TcpListener) -> Connection {
        let url = format!("http://{}", server.local_addr().unwrap());
        let route = Route {
            origin: Url::base("base URL", &url).unwrap().origin,
            proxy: None,
            roots: Roots::default(),
        };
        Connection::open(&route, &Network::default(), &call()).unwrap()
    }

    #[test]
    fn an_expired_or_foreign_connection_is_not_used_again() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let idle = Pool::default();
        let fresh = connection(&server);
        let route = fresh.route.clone();
        idle.keep(fresh, 8);
        assert!(idle.take(&route).is_some());
        assert!(idle.take(&route).is_none());

        let changed = |change: fn(&mut Connection)| {
            let mut changed = connection(&server);
            change(&mut changed);
            changed
        };
        for (connection, is_reusable) in [
            (changed(|c| c.last_used.1 -= MAX_IDLE), false),
            (changed(|c| c.last_used.1 -= MAX_IDLE / 2), true),
            (changed(|c| c.opened.1 -= MAX_AGE), false),
            (changed(|c| c.opened.1 -= MAX_AGE / 2), true),
            // A device that has just been started has no earlier time.
            (
                changed(|c| {
                    c.last_used.0 = c.opened.0.checked_sub(MAX_IDLE).unwrap_or(c.opened.0);
                }),
                Instant::now().checked_sub(MAX_IDLE).is_none(),
            ),
            (changed(|c| c.process += 1), false),
        ] {
            idle.state().connections.push(connection);
            assert_eq!(idle.close_expired(), !is_reusable);
            assert_eq!(idle.take(&route).is_some(), is_reusable);
            assert!(idle.state().connections.is_empty());
        }
    }
}
