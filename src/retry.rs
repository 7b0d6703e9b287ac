//! What to do after an attempt: one pure decision, and the numbers it rests on.

use std::time::Duration;

use crate::error::field;

/// The pause before the first repetition; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// The request only reads, or may be executed more than once ([RFC 9110, section
    /// 9.2.2](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2)).
    pub(crate) is_idempotent: bool,
    /// How many times it has been repeated so far, and how many times it may be.
    pub(crate) repeats: u32,
    pub(crate) retries: u32,
    /// A token was refused during this call before.
    pub(crate) was_renewed: bool,
    pub(crate) time_left: Duration,
    /// Any number; spreads the pauses of callers that failed at the same time.
    pub(crate) jitter: u64,
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

/// Decides what follows an attempt.
pub(crate) fn decide(attempt: Attempt, outcome: Outcome) -> Next {
    let (may_repeat, asked) = match outcome {
        Outcome::Answer {
            token_refused: true,
            ..
        } if !attempt.was_renewed => return Next::Renew,
        Outcome::Answer {
            token_refused: true,
            ..
        } => return Next::Return,
        Outcome::Answer {
            status,
            retry_after,
            ..
        } => {
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
    let pause = asked.unwrap_or_else(|| back_off(attempt.repeats, attempt.jitter));
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

/// `Retry-After` ([RFC 9110, section 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)):
/// delay-seconds, or an HTTP-date, which is measured against the answer's own `Date`, so that a
/// device without a set clock waits the right time. A date without a `Date` can't be measured.
pub(crate) fn retry_after(fields: &[(String, String)]) -> Option<Duration> {
    let value = field(fields, "retry-after")?;
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = httpdate::parse_http_date(field(fields, "date")?).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

/// Whether an answer says that the token is no longer good: 401, or a Bearer challenge with
/// `error="invalid_token"` ([RFC 6750, section 3.1](https://www.rfc-editor.org/rfc/rfc6750#section-3.1)).
pub(crate) fn is_token_refused(status: u16, fields: &[(String, String)]) -> bool {
    status == 401
        || status >= 300
            && fields.iter().any(|(name, value)| {
                name.eq_ignore_ascii_case("www-authenticate") && is_invalid_token(value)
            })
}

/// Looks for a Bearer challenge with the auth-param `error=invalid_token`, quoted or not. Quoted
/// strings are skipped whole, so that no `realm` can forge one.
fn is_invalid_token(challenges: &str) -> bool {
    let mut in_bearer = false;
    let mut rest = challenges;
    while let Some(start) = rest.find(|c: char| c != ',' && c != ' ' && c != '\t') {
        rest = &rest[start..];
        let end = rest.find([',', ' ', '\t', '=', '"']).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        let trimmed = behind.trim_start_matches([' ', '\t']);
        let Some(value) = trimmed.strip_prefix('=') else {
            // A word without a value names the scheme that the next parameters belong to.
            in_bearer = word.eq_ignore_ascii_case("bearer");
            rest = behind.strip_prefix('"').unwrap_or(behind);
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let (text, behind) = match value.strip_prefix('"') {
            Some(quoted) => {
                let end = end_of_quotes(quoted);
                (&quoted[..end], quoted.get(end + 1..).unwrap_or_default())
            }
            None => value.split_at(value.find([',', ' ', '\t']).unwrap_or(value.len())),
        };
        if in_bearer && word.eq_ignore_ascii_case("error") && text == "invalid_token" {
            return true;
        }
        rest = behind;
    }
    false
}

fn end_of_quotes(text: &str) -> usize {
    let mut is_escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            '"' if !is_escaped => return i,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    text.len()
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
            (answer(429, None), first, Next::Return),
            (answer(429, Some(7)), asked, Next::Return),
            (
                answer(429, Some(0)),
                Next::Repeat(Duration::ZERO),
                Next::Return,
            ),
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
        let again = Attempt {
            was_renewed: true,
            ..attempt(true)
        };
        assert_eq!(decide(again, answer(401, None)), Next::Return);
    }

    #[test]
    fn repetitions_end_with_their_number_and_with_the_time() {
        let spent = Attempt {
            repeats: 2,
            ..attempt(true)
        };
        assert_eq!(decide(spent, broken(false, false)), Next::Return);
        let none = Attempt {
            retries: 0,
            ..attempt(true)
        };
        assert_eq!(decide(none, broken(false, false)), Next::Return);
        let late = Attempt {
            time_left: Duration::from_millis(180),
            ..attempt(true)
        };
        assert_eq!(decide(late, broken(false, false)), Next::Return);
        let over = Attempt {
            time_left: Duration::ZERO,
            ..attempt(true)
        };
        assert_eq!(decide(over, answer(429, Some(0))), Next::Return);
    }

    #[test]
    fn pauses_double_and_spread_by_a_quarter() {
        assert_eq!(back_off(0, 0), Duration::from_micros(187_500));
        for (repeats, millis) in [(0, 250), (1, 500), (2, 1000), (5, 8000)] {
            let middle = Duration::from_millis(millis);
            for jitter in [0, 1, 256, 512, 513, u64::MAX] {
                let pause = back_off(repeats, jitter);
                assert!(
                    pause >= middle / 4 * 3 && pause <= middle / 4 * 5,
                    "{pause:?}"
                );
            }
        }
        assert!(back_off(u32::MAX, u64::MAX) > LONG);
    }

    fn fields(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(n, v)| ((*n).into(), (*v).into()))
            .collect()
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_servers_own_clock() {
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        for (list, expected) in [
            (vec![("retry-after", "120")], Some(Duration::from_secs(120))),
            (vec![("Retry-After", "0")], Some(Duration::ZERO)),
            (
                vec![("retry-after", "99999999999999999999999")],
                Some(Duration::from_secs(u64::MAX)),
            ),
            (vec![("retry-after", "-1")], None),
            (vec![("retry-after", "+1")], None),
            (vec![("retry-after", "1.5")], None),
            (vec![("retry-after", "")], None),
            (vec![("retry-after", "soon")], None),
            (
                vec![
                    ("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT"),
                    ("date", date),
                ],
                Some(Duration::from_secs(30)),
            ),
            (
                vec![
                    ("retry-after", "Wednesday, 21-Oct-15 07:29:00 GMT"),
                    ("date", date),
                ],
                Some(Duration::from_secs(60)),
            ),
            (
                vec![("retry-after", "Wed Oct 21 07:28:01 2015"), ("date", date)],
                Some(Duration::from_secs(1)),
            ),
            (
                vec![
                    ("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT"),
                    ("date", date),
                ],
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
    fn which_answers_refuse_the_token() {
        let challenge = |value| fields(&[("www-authenticate", value)]);
        assert!(is_token_refused(401, &[]));
        assert!(is_token_refused(401, &challenge("Basic realm=\"x\"")));
        for (value, refused) in [
            ("Bearer error=\"invalid_token\"", true),
            ("bearer realm=\"a, b\", error = invalid_token", true),
            (
                "Basic realm=\"x\", Bearer scope=\"a\",error=\"invalid_token\"",
                true,
            ),
            ("Bearer error=\"insufficient_scope\"", false),
            ("Basic error=\"invalid_token\"", false),
            ("Bearer realm=\"error=\\\"invalid_token\\\"\"", false),
            ("Bearer realm=\"x, error=invalid_token\"", false),
            ("Bearer, Digest error=\"invalid_token\"", false),
            ("Bearer error=\"", false),
            ("=,\"\"==\"\\", false),
            ("", false),
        ] {
            assert_eq!(is_token_refused(403, &challenge(value)), refused, "{value}");
            assert_eq!(is_token_refused(400, &challenge(value)), refused, "{value}");
            assert!(!is_token_refused(200, &challenge(value)), "{value}");
        }
    }
}
