//! Connections that are kept open between two requests, shared by the clones of a session. Called
//! by `http`, and by `response_content` at the end of a response. Knows nothing of requests.

use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::{Connection, Moment, Route};

/// Shared by all clones of a session. The one that was used last comes last.
///
/// Closing a connection takes system calls, so each method that removes some returns them, to be
/// dropped without the lock.
#[derive(Clone, Default)]
pub(crate) struct Idle(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    pub(super) connections: Vec<Connection>,
    /// The routes, and the processes, of the calls that wait for a server to respond at all.
    pub(super) waiting: Vec<(Route, u32)>,
}

type Closed = Vec<Connection>;

/// A call that the server has not responded to on a new connection: perhaps idle connections hold
/// all of the server's workers. While it exists, no connection of its route is kept.
pub(super) struct Waiting {
    idle: Idle,
    route: Route,
    is_announced: bool,
}

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
        if state.waiting.iter().any(|(route, process)| connection.is_for(route, *process)) {
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
        let found = connections.iter().position(|c| c.route == *route);
        closed.extend(found.map(|i| connections.remove(i)));
        closed
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

impl Waiting {
    pub(super) fn new(idle: &Idle, route: &Route) -> Waiting {
        Waiting { idle: idle.clone(), route: route.clone(), is_announced: false }
    }

    /// Closes the idle connections of the route, and has no more kept from now on.
    pub(super) fn announce(&mut self) {
        if !self.is_announced {
            self.is_announced = true;
            let entry = (self.route.clone(), std::process::id());
            self.idle.state().waiting.push(entry);
        }
        drop(self.idle.close_route(&self.route));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_announced {
            let waiting = &mut self.idle.state().waiting;
            let own = waiting.iter().position(|(route, _)| *route == self.route);
            own.map(|i| waiting.swap_remove(i));
        }
    }
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
