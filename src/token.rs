//! The access token: its request and answer, its life, and who renews it.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use miniserde::de::{Deserialize, Visitor};
use miniserde::make_place;

use crate::error::{Error, ErrorKind, Refusal};
use crate::excerpt::excerpt;
use crate::http::{self, Call, Deadline, Network, Proxy, Request, USER_AGENT};
use crate::json;
use crate::random::random;
use crate::reason::{token_reason, trouble};
use crate::retry::{decide, Attempt, Next, Outcome};
use crate::url::{check_visible, form_encoded, Url};

/// The lifetime of a token whose answer does not tell (JAS documents ten minutes).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);

/// No lifetime is taken for longer than this.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// After a refusal, a failed early renewal or a fruitless replacement: no further request so
/// soon.
const CALM: Duration = Duration::from_secs(10);

/// A renewed token that does not live longer by this (or a quarter of the lifetime) is no gain.
const LEAST_GAIN: Duration = Duration::from_secs(1);

/// A caller with less time than this for an early renewal leaves it to others.
const SHORTEST_RENEWAL: Duration = Duration::from_millis(50);

/// How much of an answer of the token endpoint is read.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// An access token with its expiry.
#[derive(Clone)]
pub(crate) struct Token {
    value: Arc<str>,
    lifetime: Duration,
    expiry: Instant,
}

/// What a caller asks for when it needs a token.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) network: &'a Network,
    pub(crate) deadline: Deadline,
    pub(crate) renew_before: Duration,
    pub(crate) retries: u32,
}

/// Where tokens come from.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) endpoint: Url,
    pub(crate) id: String,
    pub(crate) secret: String,
}

/// The token held, shared by all clones of a session.
pub(crate) struct Tokens {
    client: Client,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Token>,
    /// The value of the token held last, for messages: the token endpoint may name it.
    last: Option<Arc<str>>,
    /// The request under way.
    flight: Option<Arc<Flight>>,
    /// No early renewal before this.
    next_early: Option<Instant>,
    /// The refusal of the token endpoint, until the given time.
    denied: Option<(Error, Instant)>,
    /// A token was replaced after a refusal, and no call has been accepted since. Until the
    /// given time, it is not replaced again.
    unproven: Option<Instant>,
}

/// One request for a token, and those who wait for it.
#[derive(Default)]
struct Flight {
    /// The time of the caller that makes the request.
    timeout: Duration,
    landed: Mutex<Option<Landing>>,
    landing: Condvar,
}

enum Landing {
    Token(Token),
    Failure(Failure),
    /// Look again: an early renewal that failed is nobody's failure.
    Nothing,
}

/// No token, and the last attempt, if another may mend that: others may have more time or more
/// repetitions left.
struct Failure {
    error: Error,
    last: Option<(Attempt, Outcome)>,
}

/// The holder makes the request of a flight. If it panics, those who wait must not.
struct Pilot<'a> {
    tokens: &'a Tokens,
    flight: Arc<Flight>,
}

impl Token {
    /// A token whose life began at `start`.
    fn new(value: &str, lifetime: Duration, start: Instant) -> Token {
        let lifetime = lifetime.min(LONGEST_LIFETIME);
        Token {
            value: value.into(),
            lifetime,
            expiry: start + lifetime,
        }
    }

    pub(crate) fn value(&self) -> &str {
        &self.value
    }

    fn is_valid(&self, now: Instant) -> bool {
        now < self.expiry
    }

    fn is_due(&self, now: Instant, renew_before: Duration) -> bool {
        now + renew_before.min(self.lifetime / 2) >= self.expiry
    }
}

impl State {
    fn hold(&mut self, token: Token) {
        self.last = Some(Arc::clone(&token.value));
        self.held = Some(token);
    }
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Tokens {
        Tokens {
            client,
            state: Mutex::default(),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A token for one call: the one held, or a new one.
    pub(crate) fn token(&self, mut terms: Terms<'_>) -> Result<Token, Error> {
        loop {
            let now = Instant::now();
            let mut state = self.state();
            let held = state.held.clone().filter(|token| token.is_valid(now));
            if let Some(token) = held {
                let may_renew =
                    state.flight.is_none() && state.next_early.is_none_or(|at| now >= at);
                let has_time = terms.deadline.left() / 4 >= SHORTEST_RENEWAL;
                if !may_renew || !has_time || !token.is_due(now, terms.renew_before) {
                    return Ok(token);
                }
                let pilot = self.take_off(&mut state, terms.deadline);
                drop(state);
                self.renew_early(pilot, &token, terms);
                continue;
            }
            if let Some((error, until)) = &state.denied {
                if now < *until {
                    return Err(error.copy());
                }
            }
            if let Some(flight) = state.flight.clone() {
                drop(state);
                match self.wait(&flight, &mut terms)? {
                    Some(token) => return Ok(token),
                    None => continue,
                }
            }
            let pilot = self.take_off(&mut state, terms.deadline);
            drop(state);
            let result = self.request(terms);
            pilot.land(match &result {
                Ok(token) => Landing::Token(token.clone()),
                Err(failure) => Landing::Failure(failure.copy()),
            });
            return result.map_err(|failure| failure.error);
        }
    }

    /// A token in place of one that was refused, or `None` if that would be fruitless: the
    /// refused token was a replacement itself, and no call has been accepted since.
    pub(crate) fn replace(
        &self,
        refused: &Token,
        terms: Terms<'_>,
    ) -> Result<Option<Token>, Error> {
        let now = Instant::now();
        let mut state = self.state();
        let is_held = state
            .held
            .as_ref()
            .is_some_and(|token| token.value == refused.value);
        if is_held {
            if state.unproven.is_some_and(|until| now < until) {
                return Ok(None);
            }
            state.held = None;
            state.unproven = Some(now + CALM);
        }
        // A logger may ask for the token held.
        drop(state);
        if is_held {
            tell!(warn, "the token was refused; requesting another");
        }
        self.token(terms).map(Some)
    }

    /// A call with the token held has been accepted.
    pub(crate) fn accept(&self) {
        self.state().unproven = None;
    }

    pub(crate) fn held(&self) -> Option<(String, Duration)> {
        let now = Instant::now();
        let state = self.state();
        let token = state.held.as_ref().filter(|token| token.is_valid(now))?;
        Some((token.value.as_ref().to_owned(), token.expiry - now))
    }

    pub(crate) fn hold(&self, value: &str, lifetime: Duration) {
        let token = Token::new(value, lifetime, Instant::now());
        self.state().hold(token);
    }

    pub(crate) fn invalidate(&self, refused: &str) {
        let mut state = self.state();
        if state
            .held
            .as_ref()
            .is_some_and(|token| token.value() == refused)
        {
            state.held = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_off(&self, state: &mut State, deadline: Deadline) -> Pilot<'_> {
        let flight = Arc::new(Flight {
            timeout: deadline.timeout(),
            ..Flight::default()
        });
        state.flight = Some(Arc::clone(&flight));
        Pilot {
            tokens: self,
            flight,
        }
    }

    /// Tries once, in a part of the caller's time and before the token held expires, so that
    /// nobody ever waits for it.
    fn renew_early(&self, pilot: Pilot<'_>, held: &Token, terms: Terms<'_>) {
        let part =
            (terms.deadline.left() / 4).min(held.expiry.saturating_duration_since(Instant::now()));
        let once = Terms {
            deadline: terms.deadline.within(part),
            retries: 0,
            ..terms
        };
        match self.request(once) {
            // Some endpoints hand out the same token until it is over.
            Ok(token) if token.expiry < held.expiry + (held.lifetime / 4).min(LEAST_GAIN) => {
                tell!(info, "the token is good for no longer yet");
                pilot.land(Landing::Nothing);
            }
            Ok(token) => {
                tell!(info, "token renewed");
                pilot.land(Landing::Token(token));
            }
            Err(Failure { error, .. }) => {
                tell!(warn, "the token could not be renewed yet: {error}");
                pilot.land(Landing::Nothing);
            }
        }
    }

    /// Waits for another thread's request: its token, its failure, or `None` to look again. What
    /// that thread has tried is taken from this one's repetitions.
    fn wait(&self, flight: &Flight, terms: &mut Terms<'_>) -> Result<Option<Token>, Error> {
        let landed = flight.landed.lock().unwrap_or_else(PoisonError::into_inner);
        let (landed, _) = flight
            .landing
            .wait_timeout_while(landed, terms.deadline.left(), |landed| landed.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        match &*landed {
            Some(Landing::Token(token)) => Ok(Some(token.clone())),
            // Who has not waited for long, or has more time left than that thread had in all, may
            // have more luck.
            Some(Landing::Failure(Failure { error, .. })) if error.kind() == ErrorKind::Timeout => {
                let left = terms.deadline.left();
                if left > flight.timeout || left > terms.deadline.timeout() / 2 {
                    return Ok(None);
                }
                Err(error.copy())
            }
            Some(Landing::Failure(Failure { error, last })) => {
                let Some((attempt, outcome)) = *last else {
                    return Err(error.copy());
                };
                let attempt = Attempt {
                    retries: terms.retries,
                    time_left: terms.deadline.left(),
                    ..attempt
                };
                let Next::Repeat(pause) = decide(attempt, outcome) else {
                    return Err(error.copy());
                };
                let error = error.copy();
                drop(landed);
                tell!(warn, "{error}; again in {pause:?}");
                terms.retries -= attempt.repeats + 1;
                std::thread::sleep(pause);
                Ok(None)
            }
            Some(Landing::Nothing) => Ok(None),
            None => {
                let (label, deadline) = (self.label(), terms.deadline);
                Err(Call { label, deadline }.late("while another thread requested the token"))
            }
        }
    }

    fn label(&self) -> String {
        format!("token request to {}", self.client.endpoint)
    }

    /// Requests a token ([RFC 6749, section
    /// 4.4.2](https://www.rfc-editor.org/rfc/rfc6749#section-4.4.2)), at most `retries` times
    /// more.
    fn request(&self, terms: Terms<'_>) -> Result<Token, Failure> {
        let Terms {
            network,
            deadline,
            retries,
            ..
        } = terms;
        let proxy = network.proxy.as_deref();
        // The credentials stand in the content (RFC 6749, section 2.3.1), as JAS wants them.
        let content = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}",
            form_encoded(&self.client.id),
            form_encoded(&self.client.secret)
        );
        let fields = [
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("User-Agent", USER_AGENT),
        ];
        let mut repeats = 0;
        loop {
            // The life of the token is counted from before it began.
            let start = Instant::now();
            tell!(debug, "requesting a token from {}", self.client.endpoint);
            let answer = http::send(Request {
                call: Call {
                    label: self.label(),
                    deadline,
                },
                url: &self.client.endpoint,
                fields: &fields,
                secret_fields: &[],
                content: Some(content.as_bytes()),
                is_repeatable: true,
                network,
            });
            let (error, outcome) = match answer {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    match answer.content.whole(ANSWER_LIMIT) {
                        Ok(content) => return Ok(self.read(&content, start, proxy)?),
                        Err(error) if error.kind() == ErrorKind::Content => {
                            return Err(self.unusable("it is longer than 64 KiB").into())
                        }
                        // No token was used: whatever may have been issued is of no consequence.
                        Err(error) => (
                            error,
                            Outcome::Broken {
                                was_sent: true,
                                is_final: false,
                            },
                        ),
                    }
                }
                Ok(answer) => {
                    let refusal = Refusal::read(answer);
                    let outcome = Outcome::Answer {
                        status: refusal.status,
                        token_refused: false,
                        retry_after: refusal.retry_after,
                    };
                    (self.refused(refusal, proxy), outcome)
                }
                Err(failure) => (
                    failure.error,
                    Outcome::Broken {
                        was_sent: true,
                        is_final: failure.is_final,
                    },
                ),
            };
            let attempt = Attempt {
                is_idempotent: true,
                repeats,
                retries,
                was_renewed: true,
                time_left: deadline.left(),
                jitter: random(),
            };
            match decide(attempt, outcome) {
                Next::Repeat(pause) => {
                    tell!(warn, "{error}; again in {pause:?}");
                    std::thread::sleep(pause);
                    repeats += 1;
                }
                Next::Return | Next::Renew => {
                    return Err(Failure {
                        error: error.never_executed(),
                        last: Some((attempt, outcome)),
                    })
                }
            }
        }
    }

    /// The token of a 2xx answer. Its content is never quoted: it may hold the token.
    fn read(&self, content: &[u8], start: Instant, proxy: Option<&Proxy>) -> Result<Token, Error> {
        let answer: TokenAnswer = std::str::from_utf8(content)
            .ok()
            .and_then(json::read)
            .ok_or_else(|| {
                self.unusable("it is not a JSON object as RFC 6749, section 5.1, describes it")
            })?;
        let value = answer
            .access_token
            .ok_or_else(|| self.unusable("it has no access_token"))?;
        check_visible("access_token", &value).map_err(|_| {
            self.unusable("its access_token is empty or can't stand in a header field")
        })?;
        match answer.token_type {
            Some(kind) if kind.eq_ignore_ascii_case("bearer") => {}
            Some(kind) => {
                let [password, basic] = Proxy::secrets(proxy);
                let secrets = [&*value, &self.client.secret, password, basic];
                let kind = excerpt(&kind, &secrets);
                return Err(self.unusable(format_args!("its token_type is \"{kind}\", not Bearer")));
            }
            None => return Err(self.unusable("it has no token_type")),
        }
        let lifetime = match answer.expires_in {
            ExpiresIn::Seconds(seconds) => Duration::from_secs(seconds),
            ExpiresIn::Missing => DEFAULT_LIFETIME,
            ExpiresIn::NoNumber => return Err(self.unusable("its expires_in is not a number")),
        };
        tell!(info, "token received, good for {lifetime:?}");
        Ok(Token::new(&value, lifetime, start))
    }

    fn unusable(&self, why: impl fmt::Display) -> Error {
        let label = self.label();
        Error::new(
            ErrorKind::InvalidToken,
            format!("{label}: the answer holds no usable token: {why}"),
        )
    }

    /// An answer other than 2xx ([RFC 6749, section 5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2)).
    fn refused(&self, refusal: Refusal, proxy: Option<&Proxy>) -> Error {
        let label = self.label();
        let status = refusal.status;
        let held = self.state().last.clone().unwrap_or_default();
        let [password, basic] = Proxy::secrets(proxy);
        let secrets = [&*self.client.secret, &held, password, basic];
        let detail = token_reason(&refusal, &secrets);
        let is_limited = status == 429 || status == 403 && refusal.retry_after.is_some();
        let (kind, advice) = match status {
            _ if is_limited => (ErrorKind::Status, trouble(429)),
            500..=595 | 597.. => (ErrorKind::Status, trouble(status)),
            400 | 401 | 403 => (
                ErrorKind::Denied,
                ": check the client id and the client secret, and that the application is \
                 subscribed to an API",
            ),
            // Not `Status`: a caller must not take this 404 for one of the API. 596 is how some
            // gateways say it.
            _ => (
                ErrorKind::Denied,
                ": no token endpoint is there: check the base URL, or give the endpoint's own URL \
                 with Session::token_endpoint, or JAS_TOKEN_ENDPOINT",
            ),
        };
        Error::new(
            kind,
            format!("{label}: answered with {status}{advice}{detail}"),
        )
        .with_refusal(refusal)
    }
}

impl Failure {
    fn copy(&self) -> Failure {
        Failure {
            error: self.error.copy(),
            last: self.last,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, last: None }
    }
}

#[cfg(fuzzing)]
impl Tokens {
    /// The token of a 2xx answer, and its lifetime.
    pub(crate) fn read_answer(&self, content: &[u8]) -> Result<(String, Duration), Error> {
        let token = self.read(content, Instant::now(), None)?;
        Ok((token.value().to_owned(), token.lifetime))
    }
}

impl Pilot<'_> {
    /// Ends the flight: the result is kept, and handed to those who wait.
    fn land(self, landing: Landing) {
        let mut state = self.tokens.state();
        match &landing {
            Landing::Token(token) => {
                state.hold(token.clone());
                state.denied = None;
                state.next_early = None;
            }
            Landing::Failure(Failure { error, .. }) if error.kind() == ErrorKind::Denied => {
                state.denied = Some((error.copy(), Instant::now() + CALM));
            }
            Landing::Failure(_) => {}
            Landing::Nothing => state.next_early = Some(Instant::now() + CALM),
        }
        drop(state);
        self.publish(landing);
    }

    fn publish(&self, landing: Landing) {
        self.tokens.state().flight = None;
        let mut landed = self
            .flight
            .landed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        landed.get_or_insert(landing);
        drop(landed);
        self.flight.landing.notify_all();
    }
}

impl Drop for Pilot<'_> {
    fn drop(&mut self) {
        let landed = self
            .flight
            .landed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if landed.is_none() {
            drop(landed);
            self.publish(Landing::Nothing);
        }
    }
}

/// What is read of a token endpoint's answer ([RFC 6749, section
/// 5.1](https://www.rfc-editor.org/rfc/rfc6749#section-5.1)).
#[derive(miniserde::Deserialize)]
struct TokenAnswer {
    access_token: Option<String>,
    token_type: Option<String>,
    expires_in: ExpiresIn,
}

/// `expires_in` as servers send it: a number, a number in a string, null, or not at all.
#[derive(Debug, PartialEq)]
enum ExpiresIn {
    Seconds(u64),
    Missing,
    NoNumber,
}

make_place!(Place);

impl Deserialize for ExpiresIn {
    fn begin(out: &mut Option<Self>) -> &mut dyn Visitor {
        Place::new(out)
    }

    fn default() -> Option<Self> {
        Some(ExpiresIn::Missing)
    }
}

impl Visitor for Place<ExpiresIn> {
    fn null(&mut self) -> miniserde::Result<()> {
        self.out = Some(ExpiresIn::Missing);
        Ok(())
    }

    fn boolean(&mut self, _: bool) -> miniserde::Result<()> {
        self.out = Some(ExpiresIn::NoNumber);
        Ok(())
    }

    fn string(&mut self, text: &str) -> miniserde::Result<()> {
        let text = text.trim_ascii();
        let is_number = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        // Read like one without quotes: the standard library's own parser would cost 16 kB.
        self.out = is_number
            .then(|| miniserde::json::from_str(text).ok())
            .flatten()
            .or(Some(ExpiresIn::NoNumber));
        Ok(())
    }

    fn negative(&mut self, _: i64) -> miniserde::Result<()> {
        self.out = Some(ExpiresIn::Seconds(0));
        Ok(())
    }

    fn nonnegative(&mut self, seconds: u64) -> miniserde::Result<()> {
        self.out = Some(ExpiresIn::Seconds(seconds));
        Ok(())
    }

    fn float(&mut self, seconds: f64) -> miniserde::Result<()> {
        // Saturates at both ends; what is no number becomes 0.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let seconds = seconds as u64;
        self.out = Some(ExpiresIn::Seconds(seconds));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens::new(Client {
            endpoint: Url::base("https://api.test").unwrap(),
            id: "id".into(),
            secret: "hush".into(),
        })
    }

    #[test]
    fn expires_in_in_all_its_forms() {
        let cases: &[(&str, Result<u64, ()>)] = &[
            ("600", Ok(600)),
            ("\"600\"", Ok(600)),
            ("\" 600 \"", Ok(600)),
            ("600.9", Ok(600)),
            ("\"6e2\"", Ok(600)),
            ("null", Ok(600)),
            ("0", Ok(0)),
            ("-1", Ok(0)),
            ("\"-600\"", Ok(0)),
            ("-0.5", Ok(0)),
            ("1e99", Ok(86_400)),
            ("1e999", Err(())),
            ("\"1e999\"", Err(())),
            ("18446744073709551615", Ok(86_400)),
            ("99999999999999999999999999", Ok(86_400)),
            ("86401", Ok(86_400)),
            ("\"ten minutes\"", Err(())),
            ("\"\"", Err(())),
            ("\"nan\"", Err(())),
            ("\"inf\"", Err(())),
            ("true", Err(())),
            ("[600]", Err(())),
        ];
        let now = Instant::now();
        for (json, expected) in cases {
            let content =
                format!(r#"{{"access_token":"a","token_type":"bearer","expires_in":{json}}}"#);
            let result = tokens().read(content.as_bytes(), now, None);
            match result {
                Ok(token) => {
                    assert_eq!(Ok(token.lifetime.as_secs()), *expected, "{json}");
                    assert_eq!(token.expiry, now + token.lifetime, "{json}");
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidToken);
                    assert!(expected.is_err(), "{json}: {error}");
                }
            }
        }
    }

    #[test]
    fn answers_that_hold_no_usable_token() {
        let proxy = Proxy::parse("URL", "http://user:hush@proxy.example").unwrap();
        for (content, why) in [
            (
                "",
                "it is not a JSON object as RFC 6749, section 5.1, describes it",
            ),
            (
                "[]",
                "it is not a JSON object as RFC 6749, section 5.1, describes it",
            ),
            (
                "\u{feff}{}",
                "it is not a JSON object as RFC 6749, section 5.1, describes it",
            ),
            ("{}", "it has no access_token"),
            (
                r#"{"access_token":"","token_type":"Bearer"}"#,
                "its access_token is empty or can't stand in a header field",
            ),
            (
                r#"{"access_token":"a b","token_type":"Bearer"}"#,
                "its access_token is empty or can't stand in a header field",
            ),
            (
                r#"{"access_token":"a\r\nx: y","token_type":"Bearer"}"#,
                "its access_token is empty or can't stand in a header field",
            ),
            (r#"{"access_token":"secret-token"}"#, "it has no token_type"),
            (
                r#"{"access_token":"secret-token","token_type":"mac"}"#,
                "its token_type is \"mac\", not Bearer",
            ),
            (
                r#"{"access_token":"secret-token","token_type":"secret-token"}"#,
                "its token_type is \"[redacted]\", not Bearer",
            ),
            (
                r#"{"access_token":"secret-token","token_type":"hush dXNlcjpodXNo"}"#,
                "its token_type is \"[redacted] [redacted]\", not Bearer",
            ),
        ] {
            let error = tokens()
                .read(content.as_bytes(), Instant::now(), Some(&proxy))
                .err()
                .expect(content);
            assert_eq!(
                error.to_string(),
                format!(
                    "token request to https://api.test: the answer holds no usable token: {why}"
                )
            );
            assert_eq!(error.content(), None);
        }
        let mut deep = "[".repeat(1 << 20);
        assert!(tokens()
            .read(deep.as_bytes(), Instant::now(), None)
            .is_err());
        deep.insert_str(0, r#"{"access_token":"#);
        assert!(tokens()
            .read(deep.as_bytes(), Instant::now(), None)
            .is_err());
    }

    #[test]
    fn a_token_is_due_before_its_expiry_by_the_margin_but_not_before_half_of_its_life() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        for (lifetime, margin, due) in
            [(600, 60, 540), (600, 0, 600), (600, 3600, 300), (10, 60, 5)]
        {
            let token = Token::new("a", second * lifetime, start);
            let margin = second * margin;
            assert!(
                !token.is_due(start + second * (due - 1), margin),
                "{lifetime}"
            );
            assert!(token.is_due(start + second * due, margin), "{lifetime}");
            assert!(token.is_valid(start + second * (lifetime - 1)));
            assert!(!token.is_valid(start + second * lifetime));
        }
    }

    fn terms(timeout: Duration) -> Terms<'static> {
        static NETWORK: std::sync::OnceLock<Network> = std::sync::OnceLock::new();
        Terms {
            network: NETWORK.get_or_init(Network::default),
            deadline: Deadline::after(timeout),
            renew_before: Duration::ZERO,
            retries: 0,
        }
    }

    #[test]
    fn those_who_waited_share_the_outcome_even_a_token_without_a_lifetime() {
        let tokens = tokens();
        let now = Instant::now();
        let denied = || Landing::Failure(Error::new(ErrorKind::Denied, "no").into());
        for landing in [
            Landing::Token(Token::new("a", Duration::ZERO, now)),
            denied(),
            Landing::Nothing,
        ] {
            let expected = match &landing {
                Landing::Token(token) => Some(Ok(token.value.to_string())),
                Landing::Failure(Failure { error, .. }) => Some(Err(error.to_string())),
                Landing::Nothing => None,
            };
            let pilot = tokens.take_off(&mut tokens.state(), Deadline::after(CALM));
            let flight = Arc::clone(&pilot.flight);
            std::thread::scope(|scope| {
                let waiting: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| tokens.wait(&flight, &mut terms(Duration::from_secs(20))))
                    })
                    .collect();
                pilot.land(landing);
                for thread in waiting {
                    let outcome = thread.join().expect("no panic").transpose();
                    let outcome = outcome.map(|result| match result {
                        Ok(token) => Ok(token.value.to_string()),
                        Err(error) => Err(error.to_string()),
                    });
                    assert_eq!(outcome, expected);
                }
            });
        }
    }

    #[test]
    fn a_request_that_panics_leaves_nobody_waiting() {
        let tokens = tokens();
        let pilot = tokens.take_off(&mut tokens.state(), Deadline::after(CALM));
        let flight = Arc::clone(&pilot.flight);
        drop(pilot);
        assert!(matches!(
            tokens.wait(&flight, &mut terms(Duration::from_secs(20))),
            Ok(None)
        ));
        assert!(tokens.state().flight.is_none());
    }

    #[test]
    fn a_replacement_is_not_replaced_until_a_call_is_accepted() {
        let tokens = tokens();
        tokens.hold("new", Duration::from_secs(60));
        tokens.state().unproven = Some(Instant::now() + CALM);
        let refused = tokens.state().held.clone().expect("the token held");
        assert!(matches!(
            tokens.replace(&refused, terms(Duration::ZERO)),
            Ok(None)
        ));
        assert!(
            tokens.held().is_some(),
            "it is kept, in case the API recovers"
        );
        tokens.accept();
        // It is dropped now, and there is no time to request another.
        let error = tokens.replace(&refused, terms(Duration::ZERO)).err();
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Timeout));
        assert!(tokens.held().is_none());
        // A token that another thread has replaced already is of no more interest.
        tokens.hold("newer", Duration::from_secs(60));
        let replaced = tokens.replace(&refused, terms(Duration::ZERO));
        assert_eq!(
            replaced.ok().flatten().map(|t| t.value.to_string()),
            Some("newer".into())
        );
    }

    #[test]
    fn a_refusal_is_forgotten_after_ten_seconds() {
        let tokens = tokens();
        let until = Instant::now() + CALM;
        tokens.state().denied = Some((Error::new(ErrorKind::Denied, "no"), until));
        let kind = |tokens: &Tokens| tokens.token(terms(Duration::ZERO)).err().map(|e| e.kind());
        assert_eq!(kind(&tokens), Some(ErrorKind::Denied));
        tokens.state().denied = Some((Error::new(ErrorKind::Denied, "no"), Instant::now()));
        // A request is made, for which there is no time.
        assert_eq!(kind(&tokens), Some(ErrorKind::Timeout));
    }
}
