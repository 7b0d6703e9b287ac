//! Connections that are kept open between two requests, shared by the clones of a session. Called
//! by `http`, and by `response_content` at the end of a response. Knows nothing of requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::{Connection, Route};

/// Shared by all clones of a session.
#[derive(Clone, Default)]
pub(crate) struct Idle(Arc<Mutex<Vec<Connection>>>);

impl Idle {
    /// The connection that leads there and was used last. The server may have closed it:
    /// [`is_quiet`](Connection::is_quiet) tells.
    pub(super) fn take(&self, route: &Route) -> Option<Connection> {
        let mut connections = self.connections();
        connections.retain(Connection::is_fresh);
        let i = connections.iter().rposition(|c| c.route == *route)?;
        Some(connections.remove(i))
    }

    /// Keeps a connection whose response has been read, unless something stands behind that.
    pub(super) fn keep(&self, mut connection: Connection, most: usize) {
        if most == 0 || connection.has_surplus() {
            return;
        }
        connection.mark_idle();
        let mut connections = self.connections();
        connections.retain(Connection::is_fresh);
        connections.push(connection);
        let surplus = connections.len().saturating_sub(most);
        connections.drain(..surplus);
    }

    pub(super) fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
