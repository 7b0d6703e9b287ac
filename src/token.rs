//! The access token's life: when it is requested, renewed, replaced and dropped, and which callers
//! wait for it. Called by `session`, whose clones share it. Knows nothing of API calls.

mod file;
mod minreq;
mod request;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[cfg(jas_session_fuzzing)]
pub(crate) use request::read;
pub(crate) use request::Client;

use crate::error::{Error, ErrorKind};
use crate::http::{Deadline, Network};
use crate::retry::{decide, random, Attempt, Next};
use crate::url::Url;
use file::{TokenFile, TokenStore};

/// A longer lifetime is shortened to this.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The pause after refused credentials before the next token request, after a failed early renewal
/// before the next one, and after the replacement of a refused token before the next one.
const COOLDOWN: Duration = Duration::from_secs(10);

/// The most time that an early renewal takes: the token is still valid, so a call should not wait
/// for long.
const LONGEST_RENEWAL: Duration = Duration::from_secs(2);

/// With less time than this left, don't repeat a request that just failed.
const SHORTEST: Duration = Duration::from_millis(50);

/// How many tokens are remembered, so that no message shows one that a server echoes.
const RECENT: usize = 8;

/// An access token and its expiry.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) value: Arc<str>,
    lifetime: Duration,
    expiry: Instant,
    /// An earlier run stored it. It may have been refused since.
    from_file: bool,
}

/// The settings of a session that token requests obey, too.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) network: Network,
    pub(crate) renew_before: Duration,
    pub(crate) retries: u32,
    /// Secrets of the session besides the client's, which no message may show.
    pub(crate) secrets: Vec<String>,
}

/// The token of a session and its clones, and how another is requested.
pub(crate) struct Tokens {
    pub(crate) client: Client,
    /// Tokens received from token endpoints, counted for all clones of the session.
    pub(crate) received: Arc<AtomicUsize>,
    state: Mutex<State>,
    changed: Condvar,
}

/// State shared by all clones. Callers that need a token queue; the first requests it, the rest
/// wait for the result.
#[derive(Default)]
struct State {
    held: Option<Token>,
    /// The values of the last tokens, the newest first.
    recent: VecDeque<Arc<str>>,
    /// The numbers of the callers that request a token or wait for one, the first in front.
    queue: VecDeque<u64>,
    /// The number of the caller that queued last.
    last_number: u64,
    /// The last request that was made because no token was valid: when it ended, and its result.
    /// `None` after a successful early renewal.
    last: Option<(Instant, Result<Token, Error>)>,
    /// When a refused token was last replaced.
    replaced: Option<Instant>,
    /// The last failed early renewal: when it began, and twice the time that it was allowed. Until
    /// the cooldown ends, only a caller that can allow more than the stored time tries again.
    failed_early: Option<(Instant, Duration)>,
    store: Option<Arc<dyn TokenStore>>,
}

/// A caller's position in the queue. When it is dropped, even by a panic, the caller is removed
/// from the queue.
struct QueueSlot<'a> {
    tokens: &'a Tokens,
    number: u64,
}

impl Token {
    /// A token whose lifetime began at `start`.
    fn new(value: &str, lifetime: Duration, start: Instant) -> Token {
        let lifetime = lifetime.min(LONGEST_LIFETIME);
        Token { value: value.into(), lifetime, expiry: start + lifetime, from_file: false }
    }

    fn is_due(&self, now: Instant, renew_before: Duration) -> bool {
        now + renew_before.min(self.lifetime / 2) >= self.expiry
    }
}

impl State {
    fn valid(&self) -> Option<Token> {
        let held = self.held.clone();
        held.filter(|token| Instant::now() < token.expiry)
    }

    /// Returns the token held, or the result of a request that ended after `since`. Refused
    /// credentials count for ten seconds.
    fn outcome(&self, since: Instant) -> Option<Result<Token, Error>> {
        if let Some(token) = self.valid() {
            return Some(Ok(token));
        }
        let (at, result) = self.last.as_ref()?;
        let applies = match result {
            Err(error) if is_denied(error) && at.elapsed() < COOLDOWN => true,
            // This caller may have more time.
            Err(error) if error.kind() == ErrorKind::Timeout => false,
            // A token counts even if its lifetime is zero.
            _ => *at > since,
        };
        applies.then(|| result.clone())
    }

    fn hold(&mut self, token: Token) {
        self.recent.retain(|other| *other != token.value);
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(Arc::clone(&token.value));
        self.held = Some(token);
        self.last = None;
        self.failed_early = None;
    }
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Tokens {
        let received = Arc::default();
        Tokens { client, received, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Returns an empty holder for the tokens that another endpoint issues to the same client.
    pub(crate) fn with_endpoint(&self, endpoint: Url) -> Tokens {
        let tokens = Tokens::new(Client { endpoint, ..self.client.clone() });
        tokens.state().store.clone_from(&self.state().store);
        Tokens { received: Arc::clone(&self.received), ..tokens }
    }

    pub(crate) fn store_in(&self, path: PathBuf) {
        self.state().store = Some(Arc::new(TokenFile(path)));
    }

    /// Returns a token for one call: the one held, or a new one.
    pub(crate) fn token(&self, settings: &Settings, deadline: Deadline) -> Result<Token, Error> {
        // Fast path. Queueing here would stop others from renewing.
        if let Some(token) = self.state().valid() {
            return Ok(token);
        }
        // Requests that end after this point count for this caller, too.
        let mut since = Instant::now();
        let mut attempt =
            Attempt { is_idempotent: true, retries: settings.retries, ..Attempt::default() };
        loop {
            let error = match self.next_token(settings, deadline, since) {
                Ok(token) => return Ok(token),
                Err(error) => error,
            };
            since = Instant::now();
            let next = decide(attempt, &error, deadline.remaining(), random());
            let Next::Retry(pause) = next else { return Err(error) };
            attempt.retried += 1;
            // Pause outside the queue, so that no other caller waits for this one.
            let is_open = |state: &mut State| state.outcome(since).is_none();
            drop(self.changed.wait_timeout_while(self.state(), pause, is_open));
        }
    }

    /// Returns the token held, or the result of the next request: this caller's or another's.
    fn next_token(
        &self, settings: &Settings, deadline: Deadline, since: Instant,
    ) -> Result<Token, Error> {
        let slot = self.queue_up(&mut self.state());
        let mut outcome = None;
        let state = self.changed.wait_timeout_while(self.state(), deadline.remaining(), |state| {
            outcome = state.outcome(since);
            outcome.is_none() && state.queue[0] != slot.number
        });
        if let Some(outcome) = outcome {
            return outcome;
        }
        let (state, _) = state.unwrap_or_else(PoisonError::into_inner);
        let timed_out = |when| Err(self.client.context(deadline).timed_out(when));
        if state.queue[0] != slot.number {
            return timed_out("while another thread requested the token");
        }
        let has_failed = state.last.as_ref().is_some_and(|(at, ..)| *at > since);
        drop(state);
        let left = deadline.remaining();
        if left.is_zero() || has_failed && left < SHORTEST {
            return timed_out("before a token was requested");
        }
        let result = self.load_or_request(settings, deadline, |_| true);
        let result = result.inspect_err(|error| log_event!(warn, "{error}"));
        let mut state = self.state();
        if let Ok(token) = &result {
            state.hold(token.clone());
        }
        state.last = Some((Instant::now(), result.clone()));
        result
    }

    /// Renews the token held if it is due, in a part of the caller's time and before the token
    /// expires. Failures are only logged.
    pub(crate) fn renew_if_due(&self, settings: &Settings, deadline: Deadline) {
        let now = Instant::now();
        let is_due = |token: &Token| token.is_due(now, settings.renew_before);
        let mut state = self.state();
        let Some(held) = state.valid().filter(is_due) else {
            return;
        };
        let part = (deadline.remaining() / 4).min(LONGEST_RENEWAL);
        let part = part.min(held.expiry.saturating_duration_since(now));
        let is_cooling_down =
            state.failed_early.is_some_and(|(at, most)| at.elapsed() < COOLDOWN && part <= most);
        if is_cooling_down || part < SHORTEST || !state.queue.is_empty() {
            return;
        }
        let _slot = self.queue_up(&mut state);
        drop(state);
        // Some endpoints return the same token until it expires.
        let is_better = |token: &Token| token.expiry > held.expiry && !is_due(token);
        let result = self.load_or_request(settings, deadline.within(part), is_better);
        let result = result
            .inspect_err(|error| log_event!(warn, "the token could not be renewed yet: {error}"));
        let mut state = self.state();
        // If the old token was refused in between, the new one may have been revoked as well.
        if state.held.as_ref().map(|token| &token.value) != Some(&held.value) {
            return;
        }
        match result {
            Ok(token) if is_better(&token) => state.hold(token),
            // Twice the time, since similar callers have slightly different deadlines.
            _ => state.failed_early = Some((now, part * 2)),
        }
    }

    /// Returns a token in place of a refused one, and whether it was requested after the refusal.
    /// Returns `None`, and keeps the old token, if a refused token was already replaced within the
    /// last ten seconds.
    pub(crate) fn replace(
        &self, old: &Token, settings: &Settings, deadline: Deadline,
    ) -> Result<Option<(Token, bool)>, Error> {
        let mut state = self.state();
        let dropped = state.held.take_if(|held| held.value == old.value);
        // An expired token doesn't count as replaced. Servers that count whole seconds end a token
        // up to a second early.
        let early = (old.lifetime / 2).min(Duration::from_secs(1));
        let has_expired = old.expiry <= Instant::now() + early && !early.is_zero();
        if dropped.is_some() && !has_expired && !old.from_file {
            if state.replaced.is_some_and(|at| at.elapsed() < COOLDOWN) {
                state.held = dropped;
                return Ok(None);
            }
            state.replaced = Some(Instant::now());
        }
        // A logger may call `held_token`, which locks the state, too.
        drop(state);
        if dropped.is_some() {
            log_event!(warn, "the token was refused; requesting another");
            self.remove_stored(&old.value);
        }
        let token = self.token(settings, deadline)?;
        let is_new = dropped.is_some() && !token.from_file;
        Ok(Some((token, is_new)))
    }

    pub(crate) fn held(&self) -> Option<(String, Duration)> {
        let token = self.state().valid()?;
        Some((token.value.to_string(), token.expiry - Instant::now()))
    }

    pub(crate) fn hold(&self, value: &str, lifetime: Duration) {
        self.state().hold(Token::new(value, lifetime, Instant::now()));
    }

    pub(crate) fn invalidate(&self, refused: &str) {
        self.state().held.take_if(|held| *held.value == *refused);
        self.remove_stored(refused);
    }

    /// Returns what no message may show if a server echoes it.
    pub(crate) fn secrets(&self, settings: &Settings) -> Vec<String> {
        let mut secrets = settings.secrets.clone();
        secrets.push(self.client.secret.clone());
        secrets.extend(self.state().recent.iter().map(ToString::to_string));
        secrets
    }

    /// Returns the stored token if it is acceptable, else one from the token endpoint.
    fn load_or_request(
        &self, settings: &Settings, deadline: Deadline, is_acceptable: impl FnOnce(&Token) -> bool,
    ) -> Result<Token, Error> {
        let store = self.state().store.clone();
        let stored = store.as_ref().and_then(|store| store.read(&self.client));
        if let Some(token) = stored.filter(is_acceptable) {
            // Don't use a token that was held before: it was refused, or is about to expire.
            if !self.state().recent.contains(&token.value) {
                log_event!(debug, "using the token of the token file");
                return Ok(token);
            }
        }
        let token = self.client.request(&settings.network, deadline, &self.secrets(settings));
        // The API has executed nothing.
        let token = token.map_err(Error::not_executed)?;
        self.received.fetch_add(1, Ordering::Relaxed);
        if let Some(store) = store {
            store.write(&self.client, &token);
        }
        Ok(token)
    }

    fn remove_stored(&self, refused: &str) {
        let store = self.state().store.clone();
        if let Some(store) = store {
            store.remove(&self.client, refused);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the caller at the end of the queue.
    fn queue_up(&self, state: &mut State) -> QueueSlot<'_> {
        state.last_number += 1;
        let (tokens, number) = (self, state.last_number);
        state.queue.push_back(number);
        QueueSlot { tokens, number }
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        self.tokens.state().queue.retain(|n| *n != self.number);
        self.tokens.changed.notify_all();
    }
}

/// Whether the token endpoint refused the credentials, and so would refuse the next request.
fn is_denied(error: &Error) -> bool {
    error.kind() == ErrorKind::Denied && matches!(error.status(), Some(200..=299 | 400 | 401 | 403))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorResponse;
    use crate::url::Url;

    /// Tokens of an endpoint that refuses connections: one end of a connection has its port.
    fn tokens() -> Tokens {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let endpoint = format!("http://{}", stream.local_addr().unwrap());
        std::mem::forget((listener, stream));
        Tokens::new(Client {
            endpoint: Url::base("base URL", &endpoint).unwrap(),
            id: "id".into(),
            secret: "hush".into(),
        })
    }

    fn settings() -> Settings {
        let network = Network::default();
        Settings { network, renew_before: Duration::ZERO, retries: 0, secrets: Vec::new() }
    }

    /// A token within this time.
    fn token(tokens: &Tokens, timeout: Duration) -> Result<Token, Error> {
        tokens.token(&settings(), Deadline::after(timeout))
    }

    #[test]
    fn token_is_due_a_margin_before_its_expiry() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        for (lifetime, margin, due) in
            [(600, 60, 540), (600, 0, 600), (600, 3600, 300), (10, 60, 5)]
        {
            let token = Token::new("a", second * lifetime, start);
            let margin = second * margin;
            assert!(!token.is_due(start + second * (due - 1), margin), "{lifetime}");
            assert!(token.is_due(start + second * due, margin), "{lifetime}");
            assert_eq!(token.expiry, start + second * lifetime);
        }
    }

    /// The first slot of the queue, until it is dropped.
    fn queue_first(tokens: &Tokens) -> QueueSlot<'_> {
        tokens.queue_up(&mut tokens.state())
    }

    fn failure(kind: ErrorKind, status: u16) -> Error {
        let received = ErrorResponse::new(status, vec![], vec![]);
        Error::new(kind, "no").with_response(received).retryable(false)
    }

    /// The results of eight callers that are in the queue when a request has this result.
    fn results_of_queued_callers(last: Result<Token, Error>) -> Vec<Result<Token, Error>> {
        let tokens = tokens();
        let place = queue_first(&tokens);
        std::thread::scope(|scope| {
            let waiting: Vec<_> =
                (0..8).map(|_| scope.spawn(|| token(&tokens, Duration::from_secs(20)))).collect();
            while tokens.state().queue.len() < 9 {
                std::thread::yield_now();
            }
            tokens.state().last = Some((Instant::now(), last));
            drop(place);
            let ended = waiting.into_iter().map(std::thread::ScopedJoinHandle::join);
            ended.map(|result| result.expect("no panic")).collect()
        })
    }

    #[test]
    fn queued_callers_share_a_token_without_a_lifetime() {
        let token = Token::new("a", Duration::ZERO, Instant::now());
        for result in results_of_queued_callers(Ok(token)) {
            assert_eq!(&*result.ok().unwrap().value, "a");
        }
    }

    #[test]
    fn caller_does_not_queue_for_a_valid_token() {
        let tokens = tokens();
        tokens.hold("a", Duration::from_secs(60));
        assert_eq!(&*token(&tokens, Duration::ZERO).ok().unwrap().value, "a");
        assert_eq!(tokens.state().last_number, 0);
    }

    #[test]
    fn panicking_caller_leaves_the_queue() {
        let tokens = tokens();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _place = queue_first(&tokens);
            panic!("on purpose");
        }));
        assert!(panicked.is_err() && tokens.state().queue.is_empty());
    }

    #[test]
    fn no_two_tokens_are_replaced_within_ten_seconds() {
        let tokens = tokens();
        let now = Deadline::after(Duration::ZERO);
        let replace = |refused: &Token| tokens.replace(refused, &settings(), now);
        tokens.hold("first", Duration::from_secs(60));
        let first = tokens.state().valid().unwrap();
        // The token is dropped, and there is no time to request another.
        let error = replace(&first).err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::Timeout));
        assert_eq!(tokens.held(), None);
        tokens.hold("second", Duration::from_secs(60));
        let second = tokens.state().valid().unwrap();
        // A token that has already been replaced is not replaced again.
        let other = replace(&first).ok().flatten();
        let (other, is_new) = other.unwrap();
        assert_eq!((&*other.value, is_new), ("second", false));
        assert!(matches!(replace(&second), Ok(None)));
        assert!(tokens.held().is_some(), "it may be good for other paths");
        tokens.state().replaced = Instant::now().checked_sub(COOLDOWN);
        let error = replace(&second).err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::Timeout));
    }

    #[test]
    fn expired_token_does_not_count_as_replaced() {
        let tokens = tokens();
        // A token has expired in its last second, if it had two seconds or more.
        for (lifetime, passed, counts) in
            [(10_000, 9500, false), (10_000, 8000, true), (2000, 0, true), (0, 0, true)]
        {
            let millis = Duration::from_millis;
            let start = Instant::now().checked_sub(millis(passed)).unwrap();
            let token = Token::new("a", millis(lifetime), start);
            tokens.state().hold(token.clone());
            tokens.state().replaced = None;
            let now = Deadline::after(Duration::ZERO);
            assert!(tokens.replace(&token, &settings(), now).is_err());
            assert!(tokens.state().held.is_none());
            assert_eq!(tokens.state().replaced.is_some(), counts, "{lifetime}");
        }
    }

    #[test]
    fn refused_credentials_are_forgotten_after_ten_seconds() {
        let tokens = tokens();
        let kind = |tokens: &Tokens| token(tokens, Duration::ZERO).err().map(|error| error.kind());
        let denied = || Err(failure(ErrorKind::Denied, 401));
        tokens.state().last = Some((Instant::now(), denied()));
        assert_eq!(kind(&tokens), Some(ErrorKind::Denied));
        let before = Instant::now().checked_sub(COOLDOWN).unwrap();
        tokens.state().last = Some((before, denied()));
        // There is no time for the next request.
        assert_eq!(kind(&tokens), Some(ErrorKind::Timeout));
    }

    #[test]
    fn failed_renewal_is_retried_by_callers_with_more_time() {
        let tokens = tokens();
        let second = Duration::from_secs(1);
        for (most, timeout, is_tried) in
            [(second * 3, 60, false), (second, 60, true), (second, 3, false)]
        {
            tokens.state().hold(Token::new("due", second * 60, Instant::now()));
            tokens.state().held.as_mut().unwrap().expiry -= second * 40;
            let before = Instant::now();
            tokens.state().failed_early = Some((before, most));
            let settings = Settings { renew_before: second * 60, ..settings() };
            tokens.renew_if_due(&settings, Deadline::after(second * timeout));
            // If it is tried, it fails at once.
            let failed = tokens.state().failed_early.take().unwrap();
            assert_eq!(failed.0 != before, is_tried, "{most:?} {timeout}");
        }
    }

    #[test]
    fn pausing_caller_delays_no_other() {
        let tokens = tokens();
        let patient = Settings { retries: 100, ..settings() };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Each pause is longer, until one does not fit.
                let _ = tokens.token(&patient, Deadline::after(Duration::from_secs(20)));
            });
            while tokens.state().last.is_none() || !tokens.state().queue.is_empty() {
                std::thread::yield_now();
            }
            // Others don't wait for it: their own requests fail.
            for _ in 0..20 {
                let error = token(&tokens, Duration::from_secs(20)).err().unwrap();
                assert_eq!(error.kind(), ErrorKind::Exchange);
            }
            tokens.hold("from elsewhere", Duration::from_secs(60));
            tokens.changed.notify_all();
        });
    }

    #[test]
    fn last_eight_tokens_are_secrets() {
        let tokens = tokens();
        for i in 0..10 {
            for _ in 0..3 {
                tokens.hold(&format!("token-{i}"), Duration::ZERO);
            }
        }
        let mut secrets = tokens.secrets(&Settings { secrets: vec!["key".into()], ..settings() });
        secrets.retain(|secret| !secret.is_empty());
        let expected = (2..10).rev().map(|i| format!("token-{i}"));
        let expected: Vec<_> =
            ["key".to_owned(), "hush".to_owned()].into_iter().chain(expected).collect();
        assert_eq!(secrets, expected);
    }
}
