//! Connections that are kept open between two requests, shared by the clones of a session. Called
//! by `http`, and by `response_content` at the end of a response. Knows nothing of requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::{Connection, Moment, Route};

/// Shared by all clones of a session. The one that was used last comes last.
#[derive(Clone, Default)]
pub(crate) struct Idle(Arc<Mutex<Vec<Connection>>>);

impl Idle {
    /// The connection of this route that was used last. The server may have closed it:
    /// [`Connection::is_open`] tells.
    pub(super) fn take(&self, route: &Route) -> Option<Connection> {
        let (process, now) = (std::process::id(), Moment::now());
        let mut connections = self.connections();
        let expired = connections.iter().take_while(|c| !c.is_reusable(process, &now)).count();
        connections.drain(..expired);
        loop {
            let i = connections.iter().rposition(|c| c.route == *route)?;
            let connection = connections.remove(i);
            if connection.is_reusable(process, &now) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose response has been read, unless more has come than that.
    pub(super) fn keep(&self, mut connection: Connection, most: usize) {
        if most == 0 || connection.has_unread_data() {
            return;
        }
        connection.mark_idle();
        let mut connections = self.connections();
        connections.push(connection);
        let surplus = connections.len().saturating_sub(most);
        connections.drain(..surplus);
    }

    /// Closes the connection of this route that was not used for the longest time.
    pub(super) fn close_one(&self, route: &Route) {
        let mut connections = self.connections();
        if let Some(i) = connections.iter().position(|c| c.route == *route) {
            connections.remove(i);
        }
    }

    /// Closes all connections of this route.
    pub(super) fn close_route(&self, route: &Route) {
        self.connections().retain(|c| c.route != *route);
    }

    /// Closes all connections. Returns whether there were any.
    pub(super) fn close_all(&self) -> bool {
        self.connections().drain(..).count() > 0
    }

    pub(super) fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
