//! Connections that are kept open between two requests, shared by the clones of a session. Called
//! by `http` and, when a response has been read, by `content`.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::connection::{Connection, Route};
use super::socket::{connect, look_up, Socket};
use super::Call;
use crate::error::Error;
use crate::url::Origin;

/// How many addresses that worked are remembered.
const ADDRESSES: usize = 8;

/// The connections that are idle, and the addresses that worked.
#[derive(Default)]
pub(crate) struct Idle {
    connections: Mutex<Vec<Connection>>,
    /// The latest first, and how long it took to connect.
    addresses: Mutex<Vec<(SocketAddr, Duration)>>,
}

impl Idle {
    /// The connection that leads there and was used last. The server may have closed it, which is
    /// seen when it [is quiet](Connection::is_quiet) no more.
    pub(crate) fn take(&self, route: &Route) -> Option<Connection> {
        let mut connections = self.connections();
        connections.retain(Connection::is_fresh);
        let i = connections.iter().rposition(|c| c.route == *route)?;
        Some(connections.remove(i))
    }

    /// Keeps a connection whose response has been read, unless something stands behind that.
    pub(crate) fn keep(&self, mut connection: Connection, most: usize) {
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

    /// Connects to a host. The address that worked last comes first.
    pub(crate) fn connect(
        &self, origin: &Origin, whose: &str, call: &Call,
    ) -> Result<Socket, Error> {
        let mut addresses = look_up(origin, whose, call)?;
        let worked = self.addresses().clone();
        let known = worked.iter().find_map(|(good, took)| {
            let place = addresses.iter().position(|address| address == good)?;
            Some((place, *took))
        });
        let mut took = Duration::ZERO;
        if let Some((place, before)) = known {
            addresses[..=place].rotate_right(1);
            took = before;
        }
        let (socket, took) = connect(&addresses, took * 3, whose, call)?;
        if let (Ok(address), true) = (socket.peer(), addresses.len() > 1) {
            let mut worked = self.addresses();
            worked.retain(|(other, _)| *other != address);
            worked.insert(0, (address, took));
            worked.truncate(ADDRESSES);
        }
        Ok(socket)
    }

    pub(crate) fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn addresses(&self) -> MutexGuard<'_, Vec<(SocketAddr, Duration)>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
