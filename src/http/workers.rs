//! How many workers of a server or a proxy this session's connections hold. Called by `idle`. Knows
//! nothing of sockets.

use std::sync::Arc;

use crate::url::Origin;

/// A small server has few workers, and an idle connection may hold one. No server says how many it has:
/// there may be no more than were ever seen to serve at once.
#[derive(Default)]
pub(super) struct Workers(Vec<Host>);

/// A server or a proxy that is connected to.
struct Host {
    origin: Arc<Origin>,
    /// Each open connection has a clone.
    open: Arc<()>,
    /// Each of these on which no byte has come has a clone.
    silent: Arc<()>,
    /// How many connections it has served side by side, at most.
    most: usize,
    /// How many connections are to be closed when their calls end.
    owed: usize,
}

/// As long as it exists, a connection counts.
pub(super) type Counted = Arc<()>;

impl Workers {
    /// Counts an open connection. It counts as silent until the second one is dropped.
    pub(super) fn count(&mut self, origin: &Arc<Origin>) -> (Counted, Counted) {
        let host = self.host(origin);
        (Arc::clone(&host.open), Arc::clone(&host.silent))
    }

    /// Whether a silent connection may be waiting for a worker that another connection holds. One that
    /// `waits_long` shows that there are fewer than before.
    pub(super) fn may_all_be_held(&mut self, origin: &Arc<Origin>, waits_long: bool) -> bool {
        let host = self.host(origin);
        if waits_long {
            host.most = 0;
        }
        let served = host.note_served();
        served > 0 && served == host.most
    }

    /// Has one more connection closed when its call ends, but no more than there are silent ones.
    pub(super) fn owe(&mut self, origin: &Arc<Origin>) {
        let host = self.host(origin);
        host.owed = (host.owed + 1).min(host.silent());
    }

    /// Whether a connection whose call has ended is to be closed.
    pub(super) fn is_owed(&mut self, origin: &Arc<Origin>) -> bool {
        let host = self.host(origin);
        host.note_served();
        host.owed = host.owed.min(host.silent());
        let is_owed = host.owed > 0;
        host.owed -= usize::from(is_owed);
        is_owed
    }

    fn host(&mut self, origin: &Arc<Origin>) -> &mut Host {
        let found = self.0.iter().position(|host| host.origin == *origin);
        let i = found.unwrap_or_else(|| {
            let (open, silent) = Default::default();
            self.0.push(Host { origin: Arc::clone(origin), open, silent, most: 0, owed: 0 });
            self.0.len() - 1
        });
        &mut self.0[i]
    }
}

impl Host {
    fn silent(&self) -> usize {
        Arc::strong_count(&self.silent) - 1
    }

    /// Returns how many connections it serves now.
    fn note_served(&mut self) -> usize {
        // The silent ones first: one that ends just now must not count as served.
        let silent = self.silent();
        let served = (Arc::strong_count(&self.open) - 1).saturating_sub(silent);
        self.most = self.most.max(served);
        served
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::Url;

    #[test]
    fn as_many_workers_may_be_there_as_have_served_side_by_side() {
        let origin = |url| Url::base("base URL", url).unwrap().origin;
        let (one, other) = (origin("https://one.example"), origin("https://other.example"));
        let mut workers = Workers::default();
        let mut connections: Vec<_> = (0..3).map(|_| workers.count(&one)).collect();
        // None is held.
        assert!(!workers.may_all_be_held(&one, false) && !workers.may_all_be_held(&one, true));
        let mut served: Vec<_> = connections.drain(..2).map(|(open, _)| open).collect();
        assert!(workers.may_all_be_held(&one, false));
        served.pop();
        // Two were served side by side: one is free.
        assert!(!workers.may_all_be_held(&one, false));
        assert!(workers.may_all_be_held(&one, true));
        assert!(workers.may_all_be_held(&one, false));
        served.extend(connections.into_iter().map(|(open, _)| open));
        assert!(workers.may_all_be_held(&one, false));
        assert_eq!(served.len(), 2);

        // One is owed for each that is silent, as long as it is.
        for (silent, expected) in [(1, [true, false]), (0, [false, false])] {
            let silent: Vec<_> = (0..silent).map(|_| workers.count(&one)).collect();
            workers.owe(&one);
            workers.owe(&one);
            assert!(!workers.is_owed(&other));
            assert_eq!([(); 2].map(|()| workers.is_owed(&one)), expected);
            workers.owe(&one);
            drop(silent);
        }
        assert!(!workers.is_owed(&one));
    }
}
