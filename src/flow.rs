//! How much of an answer may be handed to minreq at a time, so that neither header fields nor
//! trailers grow without end: minreq's own limit on them can underflow, and the relay can't see
//! over TLS where they end.

use std::time::{Duration, Instant};

/// How long minreq may take to come to the end of a head that has reached the limit.
const PATIENCE: Duration = Duration::from_secs(1);

/// Once minreq has been reading for so long without being handed more, it has read all there was.
pub(crate) const HUNGER: Duration = Duration::from_millis(5);

/// What has been handed over, and what may be.
pub(crate) struct Flow {
    /// Bytes; `None` while they are content, but for chunks whose trailers can't be seen.
    limit: Option<usize>,
    /// Since the exchange, or the read of the caller's that lasts, began.
    delivered: usize,
    /// At most so much data is on its way to minreq, or inside it. It must not pile up while
    /// content is read: what follows the last chunk would find it there.
    unread: usize,
    /// While content is read, no less is handed over at a time, so that the two do not wake each
    /// other for every few bytes. A record that is not complete, the most that minreq can't read
    /// yet, leaves room for that.
    step: usize,
    /// minreq is reading; else the caller is busy.
    is_reading: bool,
    /// A part of the request is being sent, so that minreq may not have come to read yet.
    is_sending: bool,
    /// When anything was carried, or a read began.
    last: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Bytes(usize),
    /// Look again when something has changed, or after this.
    Wait(Option<Duration>),
    /// minreq wants more than it may have.
    OverLimit,
}

impl Flow {
    pub(crate) fn new(limit: usize, now: Instant) -> Flow {
        Flow {
            limit: Some(limit),
            delivered: 0,
            unread: 0,
            step: 0,
            is_reading: true,
            is_sending: false,
            last: now,
        }
    }

    /// The request begins, and with it another limit: what was delivered before was TLS's.
    pub(crate) fn begin(&mut self, limit: usize, now: Instant) {
        *self = Flow::new(limit, now);
    }

    /// A part of the request is on its way, or has gone.
    pub(crate) fn send(&mut self, is_sending: bool, now: Instant) {
        self.is_sending = is_sending;
        self.last = now;
    }

    /// So many bytes are handed over, of which so many may be data of HTTP: the rest is TLS's.
    pub(crate) fn deliver(&mut self, bytes: usize, data: usize, now: Instant) {
        self.delivered += bytes;
        self.unread += data;
        self.last = now;
    }

    /// The head has been read. Chunks whose trailers can't be seen keep the limit.
    pub(crate) fn pass_head(&mut self, keeps_limit: bool) {
        match self.limit {
            Some(limit) if keeps_limit => self.step = limit / 4,
            _ => self.limit = None,
        }
        self.is_reading = false;
    }

    pub(crate) fn begin_read(&mut self, now: Instant) {
        self.delivered = 0;
        self.is_reading = true;
        self.last = now;
    }

    /// Tells whether there is room again.
    pub(crate) fn end_read(&mut self, content: usize) -> bool {
        self.unread = self.unread.saturating_sub(content);
        self.is_reading = false;
        self.limit.is_none_or(|limit| self.free(limit) > 0)
    }

    pub(crate) fn room(&mut self, now: Instant) -> Room {
        let Some(limit) = self.limit else {
            return Room::Bytes(usize::MAX);
        };
        let idle = now.saturating_duration_since(self.last);
        if self.is_waiting() && idle >= HUNGER {
            self.unread = 0;
        }
        let room = self.free(limit).min(limit.saturating_sub(self.delivered));
        if room > 0 {
            return Room::Bytes(room);
        }
        if !self.is_reading {
            // Nobody tells when the caller begins to: that would be a system call for each read.
            return Room::Wait(Some(HUNGER));
        }
        if self.is_sending {
            return Room::Wait(None);
        }
        if self.delivered < limit {
            return Room::Wait(Some(HUNGER.saturating_sub(idle)));
        }
        match PATIENCE.saturating_sub(idle) {
            Duration::ZERO => Room::OverLimit,
            patience => Room::Wait(Some(patience)),
        }
    }

    fn free(&self, limit: usize) -> usize {
        let free = limit.saturating_sub(self.unread);
        if free < self.step {
            0
        } else {
            free
        }
    }

    /// How much longer minreq may take; not limited while it has nothing to do.
    pub(crate) fn patience(&self, now: Instant) -> Option<Duration> {
        let idle = now.saturating_duration_since(self.last);
        self.is_waiting().then(|| PATIENCE.saturating_sub(idle))
    }

    fn is_waiting(&self) -> bool {
        self.is_reading && !self.is_sending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_its_limit_and_minreq_its_time() {
        let now = Instant::now();
        let mut flow = Flow::new(100, now);
        assert_eq!(flow.room(now), Room::Bytes(100));
        flow.deliver(99, 99, now);
        assert_eq!(flow.room(now), Room::Bytes(1));
        flow.deliver(1, 1, now);
        assert_eq!(flow.room(now), Room::Wait(Some(PATIENCE)));
        // While a part of the request is being sent, minreq can't read.
        flow.send(true, now);
        assert_eq!(flow.room(now + PATIENCE), Room::Wait(None));
        flow.send(false, now + PATIENCE);
        let later = now + PATIENCE + HUNGER;
        let rest = PATIENCE.saturating_sub(HUNGER);
        assert_eq!(flow.room(later), Room::Wait(Some(rest)));
        assert_eq!(flow.room(now + 2 * PATIENCE), Room::OverLimit);
        flow.pass_head(false);
        assert_eq!(flow.room(now), Room::Bytes(usize::MAX));
    }

    #[test]
    fn what_is_not_read_does_not_pile_up_behind_chunks() {
        let now = Instant::now();
        let mut flow = Flow::new(100, now);
        flow.deliver(60, 60, now);
        flow.pass_head(true);
        flow.deliver(40, 40, now);
        // The caller is busy, for as long as it likes.
        assert_eq!(flow.room(now + PATIENCE), Room::Wait(Some(HUNGER)));
        for content in [5, 5, 5, 5, 5] {
            assert_eq!(flow.room(now), Room::Wait(Some(HUNGER)));
            flow.begin_read(now);
            assert_eq!(flow.end_read(content), flow.unread == 75);
        }
        assert_eq!(flow.room(now), Room::Bytes(25));
        // Of these, 5 are TLS's own.
        flow.deliver(25, 20, now);
        flow.begin_read(now);
        assert!(!flow.end_read(10));
        assert!(flow.end_read(10));
        flow.deliver(25, 25, now);
        // The rest were chunk sizes and line ends: minreq has read them, or it would not wait.
        flow.begin_read(now);
        assert_eq!(flow.room(now), Room::Wait(Some(HUNGER)));
        assert_eq!(flow.room(now + HUNGER), Room::Bytes(100));
        flow.deliver(100, 100, now + HUNGER);
        let end = now + HUNGER + PATIENCE;
        assert_eq!(
            flow.room(now + 2 * HUNGER),
            Room::Wait(Some(PATIENCE.saturating_sub(HUNGER)))
        );
        assert_eq!(flow.room(end), Room::OverLimit);
    }
}
