//! What to do after an attempt: one pure decision, and the numbers it rests on.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{field, Received};
use crate::excerpt::{members, text};
use crate::random::random;

/// The pause before the first repetition; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// As many times longer is a pause for a rate limit that does not tell how long it lasts: the limits
/// that are known count the calls of a second or more.
const LIMITED: u32 = 4;

/// A rate limit that lasts longer is that of its own call alone: other paths may have others.
const LONGEST_LIMIT: Duration = Duration::from_secs(30);

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// The request only reads, or may be executed more than once ([RFC 9110, section
    /// 9.2.2](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2)).
    pub(crate) is_idempotent: bool,
    /// How many times it has been repeated so far, and how many times it may be.
    pub(crate) repeats: u32,
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
            repeats: 0,
            retries,
            was_renewed: false,
            time_left: Duration::MAX,
            jitter: random(),
        }
    }
}

/// What came back.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Answer {
        status: u16,
        token_refused: bool,
        retry_after: Option<Duration>,
    },
    /// No whole answer.
    Broken {
        /// The server may have received the request, or a part of it.
        was_sent: bool,
        /// A repetition would end in the same way: TLS refused a certificate, for example.
        is_final: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Give what came back to the caller.
    Return,
    /// Replace the token, and send once more.
    Renew,
    /// Send once more after this pause.
    Repeat(Duration),
}

impl Outcome {
    /// That of a response other than 2xx.
    pub(crate) fn of(received: &Received, token_refused: bool) -> Outcome {
        let status = received.status;
        // To come again at once would only be refused again.
        let no_wait = |wait: &Duration| status != 429 || !wait.is_zero();
        Outcome::Answer { status, token_refused, retry_after: received.retry_after.filter(no_wait) }
    }
}

/// Decides what follows an attempt.
pub(crate) fn decide(attempt: Attempt, outcome: Outcome) -> Next {
    let (may_repeat, asked) = match outcome {
        Outcome::Answer { token_refused: true, .. } if !attempt.was_renewed => return Next::Renew,
        Outcome::Answer { token_refused: true, .. } => return Next::Return,
        Outcome::Answer { status, retry_after, .. } => {
            let is_passing = match status {
                429 | 502 | 503 | 504 => true,
                // How some gateways report a rate limit; without the field it is a refusal.
                403 => retry_after.is_some(),
                _ => false,
            };
            (is_passing && attempt.is_idempotent, retry_after)
        }
        Outcome::Broken { was_sent, is_final } => {
            (!is_final && (attempt.is_idempotent || !was_sent), None)
        }
    };
    let pause = asked.unwrap_or_else(|| {
        let pause = back_off(attempt.repeats, attempt.jitter);
        match outcome {
            Outcome::Answer { status: 429, .. } => pause.saturating_mul(LIMITED),
            _ => pause,
        }
    });
    if may_repeat && attempt.repeats < attempt.retries && pause < attempt.time_left {
        Next::Repeat(pause)
    } else {
        Next::Return
    }
}

/// The pause after `repeats` repetitions: doubled each time, from three quarters to five quarters
/// of itself by `jitter`.
fn back_off(repeats: u32, jitter: u64) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(repeats).unwrap_or(u32::MAX));
    let part = u32::try_from(jitter % 513).unwrap_or(0);
    (whole / 4 * 3).saturating_add(whole / 1024 * part)
}

/// The end of a rate limit that a call has met, and how long that was: for all calls of a session.
#[derive(Default)]
pub(crate) struct RateLimit(Mutex<Option<(Instant, Duration)>>);

impl RateLimit {
    /// Notes a response that limits the rate, if it does.
    pub(crate) fn note(&self, outcome: Outcome) {
        let Outcome::Answer { status, retry_after, .. } = outcome else {
            return;
        };
        let wait = match (status, retry_after) {
            (403 | 429 | 503, Some(wait)) => wait,
            (429, None) => FIRST_PAUSE * LIMITED,
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

/// `Retry-After` ([RFC 9110, section 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)):
/// delay-seconds, also with a fraction, or an HTTP-date, which is measured against the response's
/// own `Date`, so that a device without a set clock waits the right time. A date without a `Date`
/// can't be measured.
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
/// 3.1](https://www.rfc-editor.org/rfc/rfc6750#section-3.1)); or 400 or 403 with JSON that says so, or
/// that the token has expired, as some gateways do.
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
        Attempt {
            is_idempotent,
            repeats: 0,
            retries: 2,
            was_renewed: false,
            time_left: LONG,
            jitter: 256,
        }
    }

    fn answer(status: u16, retry_after: Option<u64>) -> Outcome {
        Outcome::Answer {
            status,
            token_refused: status == 401,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    fn broken(was_sent: bool, is_final: bool) -> Outcome {
        Outcome::Broken { was_sent, is_final }
    }

    #[test]
    fn what_follows_each_outcome() {
        let first = Next::Repeat(back_off(0, 256));
        let limited = Next::Repeat(back_off(0, 256) * LIMITED);
        let asked = Next::Repeat(Duration::from_secs(7));
        // What came back, then what follows a call that may be repeated and one that must not.
        for (outcome, idempotent, plain) in [
            (answer(401, None), Next::Renew, Next::Renew),
            (answer(401, Some(7)), Next::Renew, Next::Renew),
            (answer(300, None), Next::Return, Next::Return),
            (answer(400, Some(7)), Next::Return, Next::Return),
            (answer(403, None), Next::Return, Next::Return),
            (answer(403, Some(7)), asked, Next::Return),
            (answer(404, None), Next::Return, Next::Return),
            (answer(408, None), Next::Return, Next::Return),
            (answer(429, None), limited, Next::Return),
            (answer(429, Some(7)), asked, Next::Return),
            (answer(429, Some(0)), Next::Repeat(Duration::ZERO), Next::Return),
            (answer(429, Some(60)), Next::Return, Next::Return),
            (answer(500, Some(7)), Next::Return, Next::Return),
            (answer(502, None), first, Next::Return),
            (answer(503, Some(7)), asked, Next::Return),
            (answer(504, None), first, Next::Return),
            (answer(596, None), Next::Return, Next::Return),
            (broken(true, false), first, Next::Return),
            (broken(false, false), first, first),
            (broken(true, true), Next::Return, Next::Return),
            (broken(false, true), Next::Return, Next::Return),
        ] {
            assert_eq!(decide(attempt(true), outcome), idempotent, "{outcome:?}");
            assert_eq!(decide(attempt(false), outcome), plain, "{outcome:?}");
        }
    }

    #[test]
    fn a_second_refusal_is_returned() {
        let again = Attempt { was_renewed: true, ..attempt(true) };
        assert_eq!(decide(again, answer(401, None)), Next::Return);
    }

    #[test]
    fn repetitions_end_with_their_number_and_with_the_time() {
        let spent = Attempt { repeats: 2, ..attempt(true) };
        assert_eq!(decide(spent, broken(false, false)), Next::Return);
        let none = Attempt { retries: 0, ..attempt(true) };
        assert_eq!(decide(none, broken(false, false)), Next::Return);
        let late = Attempt { time_left: Duration::from_millis(180), ..attempt(true) };
        assert_eq!(decide(late, broken(false, false)), Next::Return);
        let over = Attempt { time_left: Duration::ZERO, ..attempt(true) };
        assert_eq!(decide(over, answer(429, Some(0))), Next::Return);
    }

    #[test]
    fn pauses_double_and_spread_by_a_quarter() {
        assert_eq!(back_off(0, 0), Duration::from_micros(187_500));
        for (repeats, millis) in [(0, 250), (1, 500), (2, 1000), (5, 8000)] {
            let middle = Duration::from_millis(millis);
            for jitter in [0, 1, 256, 512, 513, u64::MAX] {
                let pause = back_off(repeats, jitter);
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
        let wait = |status, asked: Option<u64>, was_refused, time: u64| {
            let limit = RateLimit::default();
            limit.note(answer(status, asked));
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
