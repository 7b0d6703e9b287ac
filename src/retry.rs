//! What to do after an attempt that failed: one pure decision, and the rate limit that holds for
//! all calls. Called by `session` and `token`. Sends nothing, and waits for nothing.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::remote_text::{members, text};
use crate::error::{field, Error, ErrorKind, Received};

/// The pause before the first retry; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// As many times longer is a pause for a rate limit that does not tell how long it lasts: the
/// limits that are known count the calls of a second or more.
const LIMITED: u32 = 4;

/// A rate limit that lasts longer is that of its own call alone: other paths may have others.
const LONGEST_LIMIT: Duration = Duration::from_secs(30);

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// The request only reads, or may be executed more than once ([RFC 9110, section
    /// 9.2.2](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2)).
    pub(crate) is_idempotent: bool,
    /// How many times it has been retried so far, and how many times it may be.
    pub(crate) retried: u32,
    pub(crate) retries: u32,
    /// A token was refused during this call before, and another requested since.
    pub(crate) was_renewed: bool,
    pub(crate) time_left: Duration,
    /// Any number; spreads the pauses of callers that failed at the same time.
    pub(crate) jitter: u64,
}

impl Attempt {
    /// The first attempt of a request that only reads, and whose token is no matter.
    pub(crate) fn first(retries: u32) -> Attempt {
        Attempt {
            is_idempotent: true,
            retried: 0,
            retries,
            was_renewed: false,
            time_left: Duration::MAX,
            jitter: 0,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Give the error to the caller.
    Return,
    /// Replace the token, and send once more.
    Renew,
    /// Send once more after this pause.
    Retry(Duration),
}

/// Decides what follows an attempt that failed in this way.
pub(crate) fn decide(attempt: Attempt, error: &Error, token_refused: bool) -> Next {
    if token_refused {
        return if attempt.was_renewed { Next::Return } else { Next::Renew };
    }
    let may_retry = match (error.kind(), error.status()) {
        (ErrorKind::Status, Some(429 | 502 | 503 | 504)) => attempt.is_idempotent,
        // How some gateways report a rate limit; without the field it is a refusal.
        (ErrorKind::Status, Some(403)) => attempt.is_idempotent && error.retry_after().is_some(),
        (ErrorKind::Timeout | ErrorKind::Exchange, _) => {
            !error.is_final() && (attempt.is_idempotent || !error.may_have_executed())
        }
        _ => false,
    };
    let pause = match (asked(error), error.status()) {
        (Some(pause), _) => pause,
        (None, Some(429)) => back_off(attempt.retried, attempt.jitter).saturating_mul(LIMITED),
        (None, _) => back_off(attempt.retried, attempt.jitter),
    };
    if may_retry && attempt.retried < attempt.retries && pause < attempt.time_left {
        Next::Retry(pause)
    } else {
        Next::Return
    }
}

/// A number that nobody can guess, another one each time, and after a fork in each process.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// How long the server asks to wait. To retry a 429 at once would only be refused again.
fn asked(error: &Error) -> Option<Duration> {
    error.retry_after().filter(|wait| error.status() != Some(429) || !wait.is_zero())
}

/// The pause after so many retries: doubled each time, from three quarters to five quarters
/// of itself by `jitter`.
fn back_off(retried: u32, jitter: u64) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(retried).unwrap_or(u32::MAX));
    let part = u32::try_from(jitter % 513).unwrap_or(0);
    (whole / 4 * 3).saturating_add(whole / 1024 * part)
}

/// The end of a rate limit that a call has met, and how long that was: for all calls of a session.
#[derive(Default)]
pub(crate) struct RateLimit(Mutex<Option<(Instant, Duration)>>);

impl RateLimit {
    /// Whether no call has met one yet.
    pub(crate) fn is_none(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Notes an error that tells of a rate limit, if it does.
    pub(crate) fn note(&self, error: &Error) {
        let wait = match (error.status(), asked(error)) {
            (Some(403 | 429 | 503), Some(wait)) => wait,
            (Some(429), None) => FIRST_PAUSE * LIMITED,
            _ => return,
        };
        if wait <= LONGEST_LIMIT {
            let mut limit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *limit = (*limit).max(Some((Instant::now() + wait, wait)));
        }
    }

    /// How long a call has to wait before it sends, if `time` is enough for that: until the end,
    /// and up to a quarter longer if it has not been refused before. Those go first.
    pub(crate) fn wait(&self, time: Duration, was_refused: bool) -> Duration {
        let limit = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((end, length)) = limit else {
            return Duration::ZERO;
        };
        let wait = end.saturating_duration_since(Instant::now());
        if wait.is_zero() || wait > time {
            return Duration::ZERO;
        }
        let longer = if was_refused { Duration::ZERO } else { length / 4 };
        (wait + longer).min(time)
    }
}

/// `Retry-After` ([RFC 9110, section
/// 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)): delay-seconds, also with a
/// fraction, or an HTTP-date, which is measured against the response's own `Date`, so that a device
/// without a set clock waits the right time. A date without a `Date` can't be measured.
pub(crate) fn retry_after(fields: &[(String, String)]) -> Option<Duration> {
    let value = field(fields, "retry-after")?;
    let (seconds, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number(seconds) && is_number(fraction) {
        let nanos = format!("{fraction:0<9.9}").parse().unwrap_or(0);
        return Some(Duration::new(seconds.parse().unwrap_or(u64::MAX), nanos));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = httpdate::parse_http_date(field(fields, "date")?).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

/// Whether a response says that the token is no longer good: 401; another 4xx with a Bearer
/// challenge and `error="invalid_token"` ([RFC 6750, section
/// 3.1](https://www.rfc-editor.org/rfc/rfc6750#section-3.1)); or 400 or 403 with JSON that says so,
/// or that the token has expired, as some gateways do.
pub(crate) fn is_token_refused(received: &Received) -> bool {
    match received.status {
        401 => true,
        400 | 403 if says_invalid_token(&received.content) => true,
        400..=499 => received.fields.iter().any(|(name, value)| {
            let value = value.to_ascii_lowercase().replace([' ', '\t', '"'], "");
            name.eq_ignore_ascii_case("www-authenticate")
                && value.contains("bearer")
                && value.contains("error=invalid_token")
        }),
        _ => false,
    }
}

fn says_invalid_token(content: &[u8]) -> bool {
    members(&text(content)).into_iter().any(|mut reason| {
        reason.retain(|c| c.is_ascii_alphabetic());
        let reason = reason.to_ascii_lowercase();
        // Nothing else: a parser of XML calls what it can't read "(invalid token)", too.
        matches!(&*reason, "invalidtoken" | "invalidtokenerror" | "invalidaccesstoken")
            || reason.contains("token") && reason.contains("expired")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn attempt(is_idempotent: bool) -> Attempt {
        Attempt { is_idempotent, time_left: LONG, jitter: 256, ..Attempt::first(2) }
    }

    fn status(status: u16, retry_after: Option<u64>) -> Error {
        let field = retry_after.map(|wait| ("retry-after".to_owned(), wait.to_string()));
        let received = Received::new(status, field.into_iter().collect(), Vec::new());
        Error::new(ErrorKind::Status, "no").with_received(received)
    }

    fn broken(was_sent: bool, is_final: bool) -> Error {
        Error::new(ErrorKind::Exchange, "no").or_executed(was_sent).finally(is_final)
    }

    #[test]
    fn what_follows_each_error() {
        let first = Next::Retry(back_off(0, 256));
        let limited = Next::Retry(back_off(0, 256) * LIMITED);
        let asked = Next::Retry(Duration::from_secs(7));
        // What came back, then what follows a call that may be retried and one that must not.
        for (error, idempotent, plain) in [
            (status(300, None), Next::Return, Next::Return),
            (status(400, Some(7)), Next::Return, Next::Return),
            (status(401, None), Next::Return, Next::Return),
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
            assert_eq!(decide(attempt(true), &error, false), idempotent, "{error:?}");
            assert_eq!(decide(attempt(false), &error, false), plain, "{error:?}");
        }
    }

    #[test]
    fn a_token_that_was_refused_is_renewed_once() {
        for (is_idempotent, wait) in [(true, None), (false, None), (false, Some(7))] {
            let attempt = attempt(is_idempotent);
            assert_eq!(decide(attempt, &status(401, wait), true), Next::Renew);
            let again = Attempt { was_renewed: true, ..attempt };
            assert_eq!(decide(again, &status(401, wait), true), Next::Return);
        }
    }

    #[test]
    fn retries_end_with_their_number_and_with_the_time() {
        let unsent = broken(false, false);
        let spent = Attempt { retried: 2, ..attempt(true) };
        assert_eq!(decide(spent, &unsent, false), Next::Return);
        let none = Attempt { retries: 0, ..attempt(true) };
        assert_eq!(decide(none, &unsent, false), Next::Return);
        let late = Attempt { time_left: Duration::from_millis(180), ..attempt(true) };
        assert_eq!(decide(late, &unsent, false), Next::Return);
        let over = Attempt { time_left: Duration::ZERO, ..attempt(true) };
        assert_eq!(decide(over, &status(503, Some(0)), false), Next::Return);
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

    fn fields(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect()
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_servers_own_clock() {
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        for (list, expected) in [
            (vec![("retry-after", "120")], Some(Duration::from_secs(120))),
            (vec![("Retry-After", "0")], Some(Duration::ZERO)),
            (vec![("retry-after", "99999999999999999999999")], Some(Duration::from_secs(u64::MAX))),
            (vec![("retry-after", "-1")], None),
            (vec![("retry-after", "+1")], None),
            (vec![("retry-after", "292.05")], Some(Duration::from_millis(292_050))),
            (vec![("retry-after", "0.0000000019")], Some(Duration::from_nanos(1))),
            (vec![("retry-after", "1.")], None),
            (vec![("retry-after", ".5")], None),
            (vec![("retry-after", "1.-5")], None),
            (vec![("retry-after", "")], None),
            (vec![("retry-after", "soon")], None),
            (
                vec![("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT"), ("date", date)],
                Some(Duration::from_secs(30)),
            ),
            (
                vec![("retry-after", "Wednesday, 21-Oct-15 07:29:00 GMT"), ("date", date)],
                Some(Duration::from_secs(60)),
            ),
            (
                vec![("retry-after", "Wed Oct 21 07:28:01 2015"), ("date", date)],
                Some(Duration::from_secs(1)),
            ),
            (
                vec![("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT"), ("date", date)],
                Some(Duration::ZERO),
            ),
            (vec![("retry-after", date)], None),
            (vec![("retry-after", date), ("date", "yesterday")], None),
            (vec![], None),
        ] {
            assert_eq!(retry_after(&fields(&list)), expected, "{list:?}");
        }
    }

    #[test]
    fn which_responses_refuse_the_token() {
        let refused = |status, challenge: &str, content: &str| {
            is_token_refused(&Received::new(
                status,
                fields(&[("www-authenticate", challenge)]),
                content.into(),
            ))
        };
        assert!(refused(401, "", ""));
        assert!(refused(401, "Basic realm=\"x\"", ""));
        for (challenge, expected) in [
            ("Bearer error=\"invalid_token\"", true),
            ("bearer realm=\"a, b\", error = invalid_token", true),
            ("Basic realm=\"x\", Bearer scope=\"a\",error=\"invalid_token\"", true),
            ("Bearer error=\"insufficient_scope\"", false),
            ("Bearer error_description=\"invalid_token\"", false),
            ("Basic error=\"invalid_token\"", false),
            ("", false),
        ] {
            assert_eq!(refused(403, challenge, ""), expected, "{challenge}");
            assert_eq!(refused(400, challenge, ""), expected, "{challenge}");
            for status in [200, 302, 500] {
                assert!(!refused(status, challenge, ""), "{challenge}");
            }
        }
        for (content, expected) in [
            (r#"{"message":"The incoming token has expired"}"#, true),
            (r#"{"code":"InvalidTokenError"}"#, true),
            (r#"{"error":"invalid_token"}"#, true),
            (r#"{"fault":{"faultstring":"Access Token expired"}}"#, true),
            (r#"{"message":"Invalid token"}"#, true),
            (r#"{"error":"not well-formed (invalid token): line 3"}"#, false),
            (r#"{"message":"Forbidden"}"#, false),
            (r#"{"message":"the offer has expired"}"#, false),
            (r#"{"id":"invalid_token"}"#, false),
            ("invalid_token", false),
            ("", false),
        ] {
            assert_eq!(refused(403, "", content), expected, "{content}");
            assert_eq!(refused(400, "", content), expected, "{content}");
            assert!(!refused(404, "", content), "{content}");
            assert!(!refused(200, "", content), "{content}");
        }
    }

    #[test]
    fn a_rate_limit_is_waited_for_if_it_is_short_and_there_is_time() {
        let wait = |code, asked: Option<u64>, was_refused, time: u64| {
            let limit = RateLimit::default();
            limit.note(&status(code, asked));
            let wait = limit.wait(Duration::from_secs(time), was_refused);
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
