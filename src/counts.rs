use std::sync::{Mutex, PoisonError};

/// What a session and its clones have done so far: see [`Session::counts`](crate::Session::counts).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Tokens received from the token endpoint.
    pub tokens: u64,
    /// Connections made, those for token requests included.
    pub connections: u64,
    /// How many times calls were sent again, after a failure, a rate limit or a refused token. Token
    /// requests are not counted.
    pub retries: u64,
}

/// Counts for all clones of a session.
#[derive(Default)]
pub(crate) struct Counter(Mutex<Counts>);

impl Counter {
    pub(crate) fn add(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn get(&self) -> Counts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
