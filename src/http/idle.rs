//! Connections that are kept open between two requests, shared by the clones of a session. Called
//! by `http`, and by `response_content` at the end of a response. Knows nothing of requests.

use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::connection::{Connection, Moment, Route};
use super::socket::{OnSilence, Socket};
use super::workers::Workers;
use crate::url::Origin;

/// A call that has waited for so long has others make way in any case.
const LONG: Duration = Duration::from_secs(1);

/// Shared by all clones of a session. The one that was used last comes last.
///
/// Closing a connection takes system calls, so each method that removes some returns them, to be
/// dropped without the lock.
#[derive(Clone, Default)]
pub(crate) struct Idle(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    pub(super) connections: Vec<Connection>,
    workers: Workers,
}

type Closed = Vec<Connection>;

impl Idle {
    /// The connection of this route that was used last. The server may have closed it:
    /// [`Connection::is_open`] tells.
    pub(super) fn take(&self, route: &Route) -> (Option<Connection>, Closed) {
        let connections = &mut self.state().connections;
        let closed = expired(connections);
        let found = connections.iter().rposition(|c| c.route == *route);
        (found.map(|i| connections.remove(i)), closed)
    }

    /// Keeps a connection whose response has been read, unless more has come than that.
    pub(super) fn keep(&self, mut connection: Connection, most: usize) -> Closed {
        if most == 0 || connection.has_unread_data() {
            return vec![connection];
        }
        connection.mark_idle();
        let state = &mut *self.state();
        if state.workers.is_owed(connection.route.first_hop()) {
            return vec![connection];
        }
        state.connections.push(connection);
        let surplus = state.connections.len().saturating_sub(most);
        state.connections.drain(..surplus).collect()
    }

    /// Removes the connection of this route that was not used for the longest time.
    pub(super) fn close_one(&self, route: &Route) -> Closed {
        let connections = &mut self.state().connections;
        let mut closed = expired(connections);
        closed.extend(oldest(connections, |c| c.route == *route));
        closed
    }

    /// Counts a new connection to a server or a proxy. As long as it stays silent, others make way, now
    /// and then: they may hold all of the workers.
    pub(super) fn watch(&self, socket: &mut Socket, hop: &Arc<Origin>, patience: Duration) {
        let (open, silent) = self.state().workers.count(hop);
        let (idle, hop) = (self.clone(), Arc::clone(hop));
        socket.counted = Some(open);
        socket.on_silence = Some(OnSilence::new(patience, false, move |waited| {
            let _ = &silent;
            drop(idle.make_way(&hop, waited >= LONG));
        }));
    }

    /// Watches a connection further once TLS is there: the server may pass the request on to one with
    /// few workers, or only be slow. So others make way only if they are idle.
    #[cfg(feature = "tls")]
    pub(super) fn watch_response(&self, socket: &mut Socket, hop: &Arc<Origin>) {
        let (idle, hop) = (self.clone(), Arc::clone(hop));
        let act = move |_| {
            let found = oldest(&mut idle.state().connections, |c| c.route.first_hop() == &hop);
            // Without the lock.
            drop(found);
        };
        socket.on_silence = Some(OnSilence::new(LONG, true, act));
    }

    /// Removes a connection to this server or proxy, or has the next one closed whose call ends.
    fn make_way(&self, hop: &Arc<Origin>, waits_long: bool) -> Option<Connection> {
        let State { connections, workers } = &mut *self.state();
        if !workers.may_all_be_held(hop, waits_long) {
            return None;
        }
        let found = oldest(connections, |c| c.route.first_hop() == hop);
        if found.is_none() {
            workers.owe(hop);
        }
        found
    }

    /// Removes all connections of this route.
    pub(super) fn close_route(&self, route: &Route) -> Closed {
        remove(&mut self.state().connections, |c| c.route == *route)
    }

    /// Removes all connections.
    pub(super) fn close_all(&self) -> Closed {
        take(&mut self.state().connections)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the one of these that was not used for the longest time.
fn oldest(
    connections: &mut Vec<Connection>, is_one: impl Fn(&Connection) -> bool,
) -> Option<Connection> {
    connections.iter().position(is_one).map(|i| connections.remove(i))
}

/// Removes those that must not be used any more.
fn expired(connections: &mut Vec<Connection>) -> Closed {
    let (process, now) = (std::process::id(), Moment::now());
    remove(connections, |c| !c.is_reusable(process, &now))
}

fn remove(connections: &mut Vec<Connection>, goes: impl Fn(&Connection) -> bool) -> Closed {
    // Mostly none goes.
    if !connections.iter().any(&goes) {
        return Vec::new();
    }
    let (closed, kept) = take(connections).into_iter().partition(goes);
    *connections = kept;
    closed
}
