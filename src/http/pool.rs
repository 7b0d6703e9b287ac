//! Connections that are kept open between two requests, shared by the clones of a session. Called
//! by `http`, and by `response_content` at the end of a response. Knows nothing of requests.

use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::connection::{Connection, Moment, Route};
use super::socket::Socket;
use super::Deadline;
use crate::url::Origin;

/// A new connection may be silent for this time, plus four times what connecting took. If it is
/// silent for longer, the server may have no free worker, so idle connections are closed.
const SILENCE: Duration = Duration::from_millis(100);

/// How long a response over TLS may take before an idle connection is closed to free a worker.
const SLOW_RESPONSE: Duration = Duration::from_secs(1);

/// The idle connections, shared by all clones of a session. Closing a connection takes system
/// calls, so it is done without the lock.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    /// The most recently used one comes last.
    pub(super) connections: Vec<Connection>,
    /// All open connections. Each is identified by an `Arc` of its own. While the connection is
    /// silent, its socket and its [`Watch`] hold this `Arc`. After its first byte, only the socket
    /// does.
    open: Vec<Weak<Hop>>,
    /// Silent connections that wait for a worker. For each of them, the next connection to the same
    /// hop that becomes idle is closed.
    owed: Vec<Weak<Hop>>,
}

/// The server or proxy that a connection was made to.
pub(super) type Hop = Arc<Origin>;

/// Watches a silent connection. Other connections to the same hop may occupy all workers of a small
/// server, so they are closed one by one while this one stays silent: for example after 100, 200
/// and 400 ms.
pub(super) struct Watch {
    pool: Pool,
    /// An `Arc` made for this connection alone, so its address identifies the connection.
    hop: Arc<Hop>,
    /// Whether the TLS handshake is over. If so, the watch ends with the head of the response,
    /// and it closes only connections that are idle already, since the server may just be slow. It
    /// does not ask for one that becomes idle later.
    pub(super) is_for_response: bool,
    start: Instant,
    pub(super) next: Deadline,
}

impl Pool {
    /// Removes the most recently used connection of this route. The server may have closed it:
    /// check [`Connection::is_open`].
    pub(super) fn take(&self, route: &Route) -> Option<Connection> {
        let connections = &mut self.state().connections;
        let found = connections.iter().rposition(|c| c.route == *route);
        found.map(|i| connections.remove(i))
    }

    /// Keeps a connection after its response has been read, unless it has unread data.
    pub(super) fn keep(&self, mut connection: Connection, most: usize) {
        if most == 0 || connection.stream.has_unread_data() {
            return;
        }
        connection.last_used = Moment::now();
        connection.was_idle = true;
        let mut state = self.state();
        let hop = connection.route.first_hop();
        let is_owed = |silent: &Weak<Hop>| silent.strong_count() == 2 && is_to(silent, hop);
        if remove_first(&mut state.owed, is_owed).is_some() {
            return;
        }
        state.connections.push(connection);
        let surplus = state.connections.len().saturating_sub(most);
        let closed: Vec<_> = state.connections.drain(..surplus).collect();
        drop(state);
        drop(closed);
    }

    /// Closes the connections that must not be used again. Returns whether there were any.
    pub(super) fn close_expired(&self) -> bool {
        let (process, now) = (std::process::id(), Moment::now());
        self.close(|c| !c.is_reusable(process, &now))
    }

    /// Closes these connections. Returns whether there were any.
    pub(super) fn close(&self, is_one: impl Fn(&Connection) -> bool) -> bool {
        let mut state = self.state();
        // Fast path: nearly always, there is none.
        if !state.connections.iter().any(&is_one) {
            return false;
        }
        let (closed, kept) = take(&mut state.connections).into_iter().partition(is_one);
        state.connections = kept;
        drop(state);
        drop::<Vec<_>>(closed);
        true
    }

    /// Closes the least recently used one of these connections. Returns whether there was one.
    pub(super) fn close_one(&self, is_one: impl Fn(&Connection) -> bool) -> bool {
        let closed = remove_first(&mut self.state().connections, is_one);
        closed.is_some()
    }

    /// Watches a new connection until anything is received on it, even a byte of the TLS handshake.
    /// `took` is how long it took to make. If `took` is `None`, watches it until the head of its
    /// response.
    pub(super) fn watch(&self, socket: &mut Socket, hop: &Hop, took: Option<Duration>) {
        let (pool, hop) = (self.clone(), Arc::new(Arc::clone(hop)));
        if took.is_some() {
            let open = &mut self.state().open;
            open.retain(|other| other.strong_count() > 0);
            open.push(Arc::downgrade(&hop));
            socket.counted = Some(Arc::clone(&hop));
        }
        let patience = took.map_or(SLOW_RESPONSE, |took| SILENCE + took * 4);
        let (start, next) = (Instant::now(), Deadline::after(patience));
        socket.watch = Some(Watch { pool, hop, is_for_response: took.is_none(), start, next });
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Closes an idle connection if it is time. If there is none, asks for the next one that
    /// becomes idle.
    pub(super) fn act_if_due(&mut self) {
        if !self.next.remaining().is_zero() {
            return;
        }
        self.next = Deadline::after(self.start.elapsed());
        let was_closed = self.pool.close_one(|c| c.route.first_hop() == &*self.hop);
        let State { open, owed, .. } = &mut *self.pool.state();
        let is_held = |other: &Weak<Hop>| other.strong_count() == 1 && is_to(other, &self.hop);
        if !was_closed && !self.is_for_response && open.iter().any(is_held) {
            let this = Arc::downgrade(&self.hop);
            owed.retain(|other| other.strong_count() == 2 && !other.ptr_eq(&this));
            owed.push(this);
        }
    }
}

fn is_to(connection: &Weak<Hop>, hop: &Hop) -> bool {
    connection.upgrade().as_deref() == Some(hop)
}

fn remove_first<T>(items: &mut Vec<T>, is_one: impl Fn(&T) -> bool) -> Option<T> {
    items.iter().position(is_one).map(|i| items.remove(i))
}
