//! What follows a failed attempt: one pure decision, and the rate limit of a session. Called by
//! `session` and `token`. Sends nothing and waits for nothing.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, ErrorResponse};

/// The pause before the first retry; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Factor for the pause after a 429 without `Retry-After`: known limits are per second or longer,
/// so 250 ms would be too short.
const RATE_LIMIT_FACTOR: u32 = 4;

/// Longer limits apply only to the call that met them: other paths may have other limits.
const LONGEST_LIMIT: Duration = Duration::from_secs(30);

/// The attempts of one call so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempt {
    /// The request only reads, or may be executed more than once ([RFC 9110, section
    /// 9.2.2](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2)).
    pub(crate) is_idempotent: bool,
    /// The request has a token, which the response may refuse. Token requests have none.
    pub(crate) has_token: bool,
    /// How many retries were made.
    pub(crate) retried: u32,
    /// How many retries are allowed.
    pub(crate) retries: u32,
    /// The token was replaced during this call, so that another refusal is final.
    pub(crate) was_renewed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Return the error to the caller.
    Return,
    /// Replace the token and send the request again.
    Replace,
    /// Send the request again after this pause.
    Retry(Duration),
}

/// Decides what follows an attempt that failed with this error. `jitter` is a random number, which
/// spreads the pauses of callers that failed at the same time.
pub(crate) fn decide(attempt: Attempt, error: &Error, time_left: Duration, jitter: u64) -> Next {
    let response = error.response();
    if attempt.has_token && response.is_some_and(ErrorResponse::is_token_refused) {
        return if attempt.was_renewed { Next::Return } else { Next::Replace };
    }
    let may_retry = match error.kind() {
        ErrorKind::Status => {
            attempt.is_idempotent && response.is_some_and(ErrorResponse::is_transient)
        }
        ErrorKind::Timeout | ErrorKind::Exchange => {
            error.is_retryable() && (attempt.is_idempotent || !error.may_have_executed())
        }
        _ => false,
    };
    let pause = response.and_then(ErrorResponse::requested_pause).unwrap_or_else(|| {
        let factor = if error.status() == Some(429) { RATE_LIMIT_FACTOR } else { 1 };
        back_off(attempt.retried, jitter).saturating_mul(factor)
    });
    if may_retry && attempt.retried < attempt.retries && pause < time_left {
        Next::Retry(pause)
    } else {
        Next::Return
    }
}

/// Returns an unpredictable number. It differs in each call, and after a fork in each process.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// Returns the pause after so many retries: it doubles each time, and `jitter` makes it up to a
/// quarter shorter or longer.
fn back_off(retried: u32, jitter: u64) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(retried).unwrap_or(u32::MAX));
    let part = u32::try_from(jitter % 513).unwrap_or(0);
    (whole / 4 * 3).saturating_add(whole / 1024 * part)
}

/// The rate limit that applies to all calls of a session: when it ends, and how long it is.
#[derive(Default)]
pub(crate) struct RateLimit(Mutex<Option<(Instant, Duration)>>);

impl RateLimit {
    /// Whether no call has met a rate limit yet.
    pub(crate) fn is_none(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Remembers the rate limit that an error reports, if it reports one.
    pub(crate) fn note(&self, error: &Error) {
        let Some(response) = error.response().filter(|response| response.is_rate_limit()) else {
            return;
        };
        let wait = response.requested_pause().unwrap_or(FIRST_PAUSE * RATE_LIMIT_FACTOR);
        if wait <= LONGEST_LIMIT {
            let mut limit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *limit = (*limit).max(Some((Instant::now() + wait, wait)));
        }
    }

    /// Returns how long a call has to wait before it sends: until the end of the limit. A call that
    /// was not refused itself waits for another quarter of the limit's length, so that refused
    /// calls go first. `None` if the limit has ended, or if the wait would take longer than `time`.
    pub(crate) fn wait(&self, time: Duration, was_refused: bool) -> Option<Duration> {
        let (end, length) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let wait = end.saturating_duration_since(Instant::now());
        let longer = if was_refused { Duration::ZERO } else { length / 4 };
        (!wait.is_zero() && wait <= time).then(|| (wait + longer).min(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn attempt(is_idempotent: bool) -> Attempt {
        Attempt { is_idempotent, has_token: true, retries: 2, ..Attempt::default() }
    }

    fn status(status: u16, retry_after: Option<u64>) -> Error {
        let field = retry_after.map(|wait| ("retry-after".to_owned(), wait.to_string()));
        let response = ErrorResponse::new(status, field.into_iter().collect(), Vec::new());
        Error::new(ErrorKind::Status, "no").with_response(response)
    }

    fn broken(was_sent: bool, is_final: bool) -> Error {
        Error::new(ErrorKind::Exchange, "no").executed_at_least(was_sent).retryable(!is_final)
    }

    #[test]
    fn what_follows_each_error() {
        let first = Next::Retry(back_off(0, 256));
        let limited = Next::Retry(back_off(0, 256) * RATE_LIMIT_FACTOR);
        let asked = Next::Retry(Duration::from_secs(7));
        // What came back, then what follows a call that may be retried and one that must not.
        for (error, idempotent, plain) in [
            (status(300, None), Next::Return, Next::Return),
            (status(400, Some(7)), Next::Return, Next::Return),
            (status(403, None), Next::Return, Next::Return),
            (status(403, Some(7)), asked, Next::Return),
            (status(404, None), Next::Return, Next::Return),
            (status(408, None), Next::Return, Next::Return),
            (status(429, None), limited, Next::Return),
            (status(429, Some(7)), asked, Next::Return),
            (status(429, Some(0)), limited, Next::Return),
            (status(429, Some(60)), Next::Return, Next::Return),
            (status(500, Some(7)), Next::Return, Next::Return),
            (status(502, None), first, Next::Return),
            (status(503, Some(7)), asked, Next::Return),
            (status(503, Some(0)), Next::Retry(Duration::ZERO), Next::Return),
            (status(504, None), first, Next::Return),
            (status(596, None), Next::Return, Next::Return),
            (broken(true, false), first, Next::Return),
            (broken(false, false), first, first),
            (broken(true, true), Next::Return, Next::Return),
            (broken(false, true), Next::Return, Next::Return),
            (Error::new(ErrorKind::Denied, "no"), Next::Return, Next::Return),
        ] {
            assert_eq!(decide(attempt(true), &error, LONG, 256), idempotent, "{error:?}");
            assert_eq!(decide(attempt(false), &error, LONG, 256), plain, "{error:?}");
        }
    }

    #[test]
    fn a_token_that_was_refused_is_renewed_once() {
        for (is_idempotent, wait) in [(true, None), (false, None), (false, Some(7))] {
            let attempt = attempt(is_idempotent);
            assert_eq!(decide(attempt, &status(401, wait), LONG, 256), Next::Replace);
            let again = Attempt { was_renewed: true, ..attempt };
            assert_eq!(decide(again, &status(401, wait), LONG, 256), Next::Return);
        }
    }

    #[test]
    fn retries_end_with_their_number_and_with_the_time() {
        let unsent = broken(false, false);
        let spent = Attempt { retried: 2, ..attempt(true) };
        assert_eq!(decide(spent, &unsent, LONG, 256), Next::Return);
        let none = Attempt { retries: 0, ..attempt(true) };
        assert_eq!(decide(none, &unsent, LONG, 256), Next::Return);
        let short = Duration::from_millis(180);
        assert_eq!(decide(attempt(true), &unsent, short, 256), Next::Return);
        let at_once = status(503, Some(0));
        assert_eq!(decide(attempt(true), &at_once, Duration::ZERO, 256), Next::Return);
    }

    #[test]
    fn pauses_double_and_spread_by_a_quarter() {
        assert_eq!(back_off(0, 0), Duration::from_micros(187_500));
        for (retried, millis) in [(0, 250), (1, 500), (2, 1000), (5, 8000)] {
            let middle = Duration::from_millis(millis);
            for jitter in [0, 1, 256, 512, 513, u64::MAX] {
                let pause = back_off(retried, jitter);
                assert!(pause >= middle / 4 * 3 && pause <= middle / 4 * 5, "{pause:?}");
            }
        }
        assert!(back_off(u32::MAX, u64::MAX) > LONG);
    }

    #[test]
    fn a_rate_limit_is_waited_for_if_it_is_short_and_there_is_time() {
        let wait = |code, asked: Option<u64>, was_refused, time: u64| {
            let limit = RateLimit::default();
            limit.note(&status(code, asked));
            let wait = limit.wait(Duration::from_secs(time), was_refused).unwrap_or_default();
            // Whole seconds, of which a moment has passed.
            wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
        };
        for status in [403, 429, 503] {
            for (asked, was_refused, time, expected) in [
                (8, false, 30, 10),
                (8, false, 9, 9),
                (8, false, 8, 8),
                (8, false, 7, 0),
                (8, true, 8, 8),
                (8, true, 7, 0),
                (30, false, 30, 30),
                (31, true, 90, 0),
            ] {
                let waited = wait(status, Some(asked), was_refused, time);
                assert_eq!(waited, expected, "{asked} {was_refused} {time}");
            }
        }
        assert_eq!(wait(429, None, false, 60), 2, "one and a quarter");
        assert_eq!(wait(403, None, false, 60), 0);
        assert_eq!(wait(503, None, false, 60), 0);
        assert_eq!(wait(500, Some(10), false, 60), 0);
    }
}
