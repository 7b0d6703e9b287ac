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
pub(crate) struct Idle(Arc<Mutex<Vec<Connection>>>);

type Closed = Vec<Connection>;

impl Idle {
    /// The connection of this route that was used last. The server may have closed it:
    /// [`Connection::is_open`] tells.
    pub(super) fn take(&self, route: &Route) -> (Option<Connection>, Closed) {
        let mut connections = self.connections();
        let closed = expired(&mut connections);
        let found = connections.iter().rposition(|c| c.route == *route);
        (found.map(|i| connections.remove(i)), closed)
    }

    /// Keeps a connection whose response has been read, unless more has come than that.
    pub(super) fn keep(&self, mut connection: Connection, most: usize) -> Closed {
        if most == 0 || connection.has_unread_data() {
            return vec![connection];
        }
        connection.mark_idle();
        let mut connections = self.connections();
        connections.push(connection);
        let surplus = connections.len().saturating_sub(most);
        connections.drain(..surplus).collect()
    }

    /// Removes the connection of this route that was not used for the longest time.
    pub(super) fn close_one(&self, route: &Route) -> Closed {
        let mut connections = self.connections();
        let mut closed = expired(&mut connections);
        let found = connections.iter().position(|c| c.route == *route);
        closed.extend(found.map(|i| connections.remove(i)));
        closed
    }

    /// Removes all connections of this route.
    pub(super) fn close_route(&self, route: &Route) -> Closed {
        remove(&mut self.connections(), |c| c.route == *route)
    }

    /// Removes all connections.
    pub(super) fn close_all(&self) -> Closed {
        take(&mut self.connections())
    }

    pub(super) fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
