//! Connections that are kept open between two requests, shared by the clones of a session. Called
//! by `http`, and by `response_content` at the end of a response. Knows nothing of requests.

use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::connection::{Connection, Moment, Route};
use super::socket::{OnSilence, Socket};
use crate::url::Origin;

/// How long a response over TLS may take before an idle connection is closed to free a worker.
#[cfg(feature = "tls")]
const SLOW_RESPONSE: Duration = Duration::from_secs(1);

/// The idle connections, shared by all clones of a session.
///
/// Closing a connection takes system calls. So methods return the connections that they remove, and
/// the caller drops them without the lock.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    /// The most recently used one comes last.
    pub(super) connections: Vec<Connection>,
    /// All open connections. The socket of each holds one reference, and a second one as long as no
    /// byte has been received.
    open: Vec<Weak<Hop>>,
    /// Silent connections that wait for a worker. For each of them, one connection to the same hop is
    /// closed when its response has been read.
    owed: Vec<Weak<Hop>>,
}

/// The server or proxy that a connection was made to.
pub(super) type Hop = Arc<Origin>;

type Closed = Vec<Connection>;

impl Pool {
    /// Removes the most recently used connection of this route. The server may have closed it: check
    /// [`Connection::is_open`].
    pub(super) fn take(&self, route: &Route) -> (Option<Connection>, Closed) {
        let connections = &mut self.state().connections;
        let closed = expired(connections);
        let found = connections.iter().rposition(|c| c.route == *route);
        (found.map(|i| connections.remove(i)), closed)
    }

    /// Keeps a connection after its response has been read, unless it has unread data.
    pub(super) fn keep(&self, mut connection: Connection, most: usize) -> Closed {
        if most == 0 || connection.stream.has_unread_data() {
            return vec![connection];
        }
        connection.mark_idle();
        let state = &mut *self.state();
        let hop = connection.route.first_hop();
        let is_owed = |silent: &Weak<Hop>| silent.strong_count() == 2 && is_to(silent, hop);
        if remove_first(&mut state.owed, is_owed).is_some() {
            return vec![connection];
        }
        state.connections.push(connection);
        let surplus = state.connections.len().saturating_sub(most);
        state.connections.drain(..surplus).collect()
    }

    /// Removes the least recently used connection of this route.
    pub(super) fn close_one(&self, route: &Route) -> Closed {
        let connections = &mut self.state().connections;
        let mut closed = expired(connections);
        closed.extend(remove_first(connections, |c| c.route == *route));
        closed
    }

    /// Watches a new connection. As long as it is silent, other connections to the same hop are closed,
    /// one at a time: they may occupy all workers of a small server.
    pub(super) fn watch(&self, socket: &mut Socket, hop: &Hop, patience: Duration) {
        let (pool, this) = (self.clone(), Arc::new(Arc::clone(hop)));
        let open = &mut self.state().open;
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(&this));
        socket.counted = Some(Arc::clone(&this));
        let act = move || drop(pool.make_way(&this));
        socket.on_silence = Some(OnSilence::new(patience, false, act));
    }

    /// Watches a connection after its TLS handshake. If the response takes long, the server may be slow,
    /// or may wait for a worker itself. So only idle connections are closed.
    #[cfg(feature = "tls")]
    pub(super) fn watch_response(&self, socket: &mut Socket, hop: &Hop) {
        let (pool, hop) = (self.clone(), Arc::clone(hop));
        let act = move || drop(pool.remove_idle(&hop));
        socket.on_silence = Some(OnSilence::new(SLOW_RESPONSE, true, act));
    }

    /// Removes an idle connection. If there is none, notes that one is to be closed after its response.
    fn make_way(&self, this: &Arc<Hop>) -> Option<Connection> {
        let found = self.remove_idle(this);
        let State { open, owed, .. } = &mut *self.state();
        let is_held = |other: &Weak<Hop>| other.strong_count() == 1 && is_to(other, this);
        if found.is_none() && open.iter().any(is_held) {
            owed.retain(|other| other.strong_count() == 2 && !other.ptr_eq(&Arc::downgrade(this)));
            owed.push(Arc::downgrade(this));
        }
        found
    }

    /// Removes the least recently used connection to this server or proxy.
    fn remove_idle(&self, hop: &Hop) -> Option<Connection> {
        remove_first(&mut self.state().connections, |c| c.route.first_hop() == hop)
    }

    /// Removes all connections of this route, or of all routes.
    pub(super) fn close(&self, route: Option<&Route>) -> Closed {
        remove(&mut self.state().connections, |c| route.is_none_or(|route| c.route == *route))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_to(connection: &Weak<Hop>, hop: &Hop) -> bool {
    connection.upgrade().as_deref() == Some(hop)
}

fn remove_first<T>(items: &mut Vec<T>, is_one: impl Fn(&T) -> bool) -> Option<T> {
    items.iter().position(is_one).map(|i| items.remove(i))
}

/// Removes the connections that must not be used again.
fn expired(connections: &mut Vec<Connection>) -> Closed {
    let (process, now) = (std::process::id(), Moment::now());
    remove(connections, |c| !c.is_reusable(process, &now))
}

fn remove(connections: &mut Vec<Connection>, is_one: impl Fn(&Connection) -> bool) -> Closed {
    // Fast path: nearly always, there is none.
    if !connections.iter().any(&is_one) {
        return Vec::new();
    }
    let (closed, kept) = take(connections).into_iter().partition(is_one);
    *connections = kept;
    closed
}
