//! The life of the access token: who requests it, who waits for it, when it is renewed, replaced
//! and dropped. Called by `session`, whose clones share it. Knows nothing of API calls.

mod file;
mod minreq;
mod request;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[cfg(jas_session_fuzzing)]
pub(crate) use request::read;
pub(crate) use request::Client;

use crate::error::{Error, ErrorKind};
use crate::http::{Deadline, Network, Proxy};
use crate::retry::{decide, random, Attempt, Next};

/// No lifetime is taken for longer than this.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// After a refusal, a failed early renewal or a replacement: no further one so soon.
const CALM: Duration = Duration::from_secs(10);

/// The most time that an early renewal takes: a token is renewed while it is still good, so that
/// there is no need to wait longer.
const LONGEST_RENEWAL: Duration = Duration::from_secs(2);

/// Who has less time than this does not begin what another one has had too little time for.
const SHORTEST: Duration = Duration::from_millis(50);

/// How many tokens are remembered, for a server that echoes one.
const RECENT: usize = 8;

/// An access token with its expiry.
#[derive(Clone)]
pub(crate) struct Token {
    value: Arc<str>,
    lifetime: Duration,
    expiry: Instant,
    /// It comes from a file, and may have been refused before.
    is_kept: bool,
}

/// The settings of a session that count for its token, too.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) network: Network,
    /// Not sent to the token endpoint, but a server may know and echo it.
    pub(crate) api_key: Option<String>,
    pub(crate) renew_before: Duration,
    pub(crate) retries: u32,
}

/// The token held, shared by all clones of a session.
pub(crate) struct Tokens {
    pub(crate) client: Client,
    /// How many have been received from token endpoints, by all clones of the session.
    received: Arc<AtomicUsize>,
    state: Mutex<State>,
    changed: Condvar,
}

/// What all know of the token. Those who need one stand in line: the first one requests it, once at
/// a time, and all others wait for what comes of that.
#[derive(Default)]
struct State {
    held: Option<Token>,
    /// The values of the tokens held last.
    recent: VecDeque<Arc<str>>,
    /// Those who request a token or need one, by their number, in the order in which they came.
    line: VecDeque<u64>,
    /// The number given to the last one.
    last_number: u64,
    /// What came of the last request out of need, when, and on which way.
    last: Option<(Instant, Result<Token, Error>, Network)>,
    /// When a token was last replaced because it was refused.
    replaced: Option<Instant>,
    /// When an early renewal has failed: it is left alone for a while by whoever has no more time
    /// for it than this, and no other way.
    failed_early: Option<(Instant, Duration, Network)>,
    /// Where the token is kept for other runs.
    file: Option<Arc<dyn file::Keep>>,
}

/// A token, and whether it was requested after the other one was refused.
type Replacement = Option<(Token, bool)>;

/// A place in the line, left when it is dropped, even by a panic.
struct Place<'a> {
    tokens: &'a Tokens,
    number: u64,
}

impl Token {
    /// A token whose life began at `start`.
    fn new(value: &str, lifetime: Duration, start: Instant) -> Token {
        let lifetime = lifetime.min(LONGEST_LIFETIME);
        Token { value: value.into(), lifetime, expiry: start + lifetime, is_kept: false }
    }

    pub(crate) fn value(&self) -> &str {
        &self.value
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

    /// What a caller with these settings need not request any more: the token held, or what has
    /// come of requests `since` then.
    fn outcome(&self, settings: &Settings, since: Instant) -> Option<Result<Token, Error>> {
        if let Some(token) = self.valid() {
            return Some(Ok(token));
        }
        let (at, result, way) = self.last.as_ref()?;
        let is_due = match result {
            Err(error) if is_denied(error) && at.elapsed() < CALM => true,
            Err(error) => *at > since && concerns(error, settings, way),
            // Even if it was good for that moment only.
            Ok(_) => *at > since,
        };
        is_due.then(|| result.clone())
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

    /// A token for one call: the one held, or a new one.
    pub(crate) fn token(&self, settings: &Settings, deadline: Deadline) -> Result<Token, Error> {
        // Nearly always: then nobody has to stand in line, which would keep others from renewing.
        if let Some(token) = self.state().valid() {
            return Ok(token);
        }
        // What ends behind this moment counts for this caller, too.
        let mut since = Instant::now();
        let mut attempt = Attempt::first(settings.retries);
        loop {
            let error = match self.next_token(settings, deadline, &mut since) {
                Ok(token) => return Ok(token),
                Err(error) => error,
            };
            attempt.time_left = deadline.left();
            attempt.jitter = random();
            let Next::Retry(pause) = decide(attempt, &error, false) else { return Err(error) };
            attempt.retried += 1;
            // Who pauses stands in no line, and holds up nobody.
            let is_open = |state: &mut State| state.outcome(settings, since).is_none();
            drop(self.changed.wait_timeout_while(self.state(), pause, is_open));
        }
    }

    /// The token held, or what comes of the next request: this caller's own, or that of another
    /// one.
    fn next_token(
        &self, settings: &Settings, deadline: Deadline, since: &mut Instant,
    ) -> Result<Token, Error> {
        let place = self.place(&mut self.state());
        loop {
            let state = self.state();
            if let Some(outcome) = state.outcome(settings, *since) {
                *since = Instant::now();
                return outcome;
            }
            let left = deadline.left();
            let has_failed = state.last.as_ref().is_some_and(|(at, ..)| at > since);
            if left.is_zero() || has_failed && left < SHORTEST {
                let call = self.client.call(deadline);
                return Err(call.late("while another thread requested the token"));
            }
            if state.line[0] == place.number {
                drop(state);
                return self.request(settings, deadline, since);
            }
            drop(self.changed.wait_timeout(state, left));
        }
    }

    /// Requests a token for all who stand in line. Notes when that ended.
    fn request(
        &self, settings: &Settings, deadline: Deadline, ended: &mut Instant,
    ) -> Result<Token, Error> {
        let result = self.obtain(settings, deadline, |_| true);
        if let Err(error) = &result {
            tell!(warn, "{error}");
        }
        let mut state = self.state();
        if let Ok(token) = &result {
            state.hold(token.clone());
        }
        *ended = Instant::now();
        state.last = Some((*ended, result.clone(), settings.network.clone()));
        self.changed.notify_all();
        result
    }

    /// Renews the token held if it is due: once, in a part of the caller's time, and before the
    /// token expires. Of a failure nobody hears.
    pub(crate) fn renew_if_due(&self, settings: &Settings, deadline: Deadline) {
        let now = Instant::now();
        let is_due = |token: &Token| token.is_due(now, settings.renew_before);
        let mut state = self.state();
        let Some(held) = state.valid().filter(is_due) else {
            return;
        };
        let part = (deadline.left() / 4).min(LONGEST_RENEWAL);
        let part = part.min(held.expiry.saturating_duration_since(now));
        let is_left = state.failed_early.as_ref().is_some_and(|(at, most, way)| {
            at.elapsed() < CALM && part <= *most && settings.network.is_same_way(way)
        });
        if is_left || part < SHORTEST || !state.line.is_empty() {
            return;
        }
        let _place = self.place(&mut state);
        drop(state);
        // Some endpoints hand out the same token until it is over.
        let is_better = |token: &Token| token.expiry > held.expiry && !is_due(token);
        let result = self.obtain(settings, deadline.within(part), is_better);
        if let Err(error) = &result {
            tell!(warn, "the token could not be renewed yet: {error}");
        }
        let mut state = self.state();
        // If it was refused meanwhile, the new one may have been revoked as well.
        if state.held.as_ref().map(Token::value) != Some(held.value()) {
            return;
        }
        match result {
            Ok(token) if is_better(&token) => state.hold(token),
            // Callers alike have a moment more or less.
            _ => state.failed_early = Some((now, part * 2, settings.network.clone())),
        }
    }

    /// A token in place of an old one that was refused, or `None` if one was replaced just now.
    pub(crate) fn replace(
        &self, old: &Token, settings: &Settings, deadline: Deadline,
    ) -> Result<Replacement, Error> {
        let mut state = self.state();
        let dropped = state.held.take_if(|held| held.value == old.value);
        // One that has expired is renewed as any other. Servers that count whole seconds end a
        // token up to a second early.
        let early = (old.lifetime / 2).min(Duration::from_secs(1));
        let has_expired = old.expiry <= Instant::now() + early && !early.is_zero();
        if dropped.is_some() && !has_expired && !old.is_kept {
            if state.replaced.is_some_and(|at| at.elapsed() < CALM) {
                state.held = dropped;
                return Ok(None);
            }
            state.replaced = Some(Instant::now());
        }
        // A logger may ask for the token held.
        drop(state);
        if dropped.is_some() {
            tell!(warn, "the token was refused; requesting another");
            self.forget(old.value());
        }
        let token = self.token(settings, deadline)?;
        let is_new = dropped.is_some() && !token.is_kept;
        Ok(Some((token, is_new)))
    }

    pub(crate) fn held(&self) -> Option<(String, Duration)> {
        let token = self.state().valid()?;
        Some((token.value().to_owned(), token.expiry - Instant::now()))
    }

    pub(crate) fn hold(&self, value: &str, lifetime: Duration) {
        self.state().hold(Token::new(value, lifetime, Instant::now()));
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed) as u64
    }

    pub(crate) fn invalidate(&self, refused: &str) {
        self.state().held.take_if(|held| held.value() == refused);
        self.forget(refused);
    }

    /// What a server may echo, and no message may show: the credentials in use, and the last
    /// tokens.
    pub(crate) fn secrets(&self, settings: &Settings) -> Vec<String> {
        let mut secrets = Proxy::secrets(settings.network.proxy.as_deref()).to_vec();
        secrets.push(self.client.secret.clone());
        secrets.extend(settings.api_key.clone());
        secrets.extend(self.state().recent.iter().map(ToString::to_string));
        secrets
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place at the end of the line.
    fn place(&self, state: &mut State) -> Place<'_> {
        state.last_number += 1;
        let (tokens, number) = (self, state.last_number);
        state.line.push_back(number);
        Place { tokens, number }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.tokens.state().line.retain(|n| *n != self.number);
        self.tokens.changed.notify_all();
    }
}

/// Whether the credentials were refused, so that the next request would be, too.
fn is_denied(error: &Error) -> bool {
    error.kind() == ErrorKind::Denied && matches!(error.status(), Some(200..=299 | 400 | 401 | 403))
}

/// Whether a caller with these settings, who may have more time or another way than this, would
/// have met this error as well.
fn concerns(error: &Error, settings: &Settings, way: &Network) -> bool {
    match error.kind() {
        ErrorKind::Timeout => false,
        ErrorKind::Exchange => settings.network.is_same_way(way),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Received;
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
        Settings { network, api_key: None, renew_before: Duration::ZERO, retries: 0 }
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

    /// Somebody has the first place in line, until it is dropped.
    fn stand_first(tokens: &Tokens) -> Place<'_> {
        tokens.place(&mut tokens.state())
    }

    fn failure(kind: ErrorKind, status: u16) -> Error {
        let received = Received::new(status, vec![], vec![]);
        Error::new(kind, "no").with_received(received).finally(true)
    }

    /// What eight callers get that stand in line when a request ends in this way.
    fn of_eight_who_waited(last: Result<Token, Error>, way: Network) -> Vec<Result<Token, Error>> {
        let tokens = tokens();
        let place = stand_first(&tokens);
        std::thread::scope(|scope| {
            let waiting: Vec<_> =
                (0..8).map(|_| scope.spawn(|| token(&tokens, Duration::from_secs(20)))).collect();
            while tokens.state().line.len() < 9 {
                std::thread::yield_now();
            }
            tokens.state().last = Some((Instant::now(), last, way));
            drop(place);
            let ended = waiting.into_iter().map(std::thread::ScopedJoinHandle::join);
            ended.map(|result| result.expect("no panic")).collect()
        })
    }

    #[test]
    fn a_failure_of_another_proxy_is_that_of_its_own_clones_alone() {
        let proxy = Proxy::parse("URL", "http://proxy.example").unwrap();
        let way = Network { proxy: Some(Arc::new(proxy)), ..Network::default() };
        let failed = Err(failure(ErrorKind::Exchange, 407));
        for result in of_eight_who_waited(failed, way) {
            // They have asked themselves.
            assert_ne!(result.err().unwrap().to_string(), "no");
        }
    }

    #[test]
    fn those_who_waited_share_a_token_even_without_a_lifetime() {
        let token = Token::new("a", Duration::ZERO, Instant::now());
        for result in of_eight_who_waited(Ok(token), Network::default()) {
            assert_eq!(result.ok().unwrap().value(), "a");
        }
    }

    #[test]
    fn caller_does_not_queue_for_a_valid_token() {
        let tokens = tokens();
        tokens.hold("a", Duration::from_secs(60));
        assert_eq!(token(&tokens, Duration::ZERO).ok().unwrap().value(), "a");
        assert_eq!(tokens.state().last_number, 0);
    }

    #[test]
    fn panicking_caller_leaves_the_queue() {
        let tokens = tokens();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _place = stand_first(&tokens);
            panic!("on purpose");
        }));
        assert!(panicked.is_err() && tokens.state().line.is_empty());
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
        assert_eq!((other.value(), is_new), ("second", false));
        assert!(matches!(replace(&second), Ok(None)));
        assert!(tokens.held().is_some(), "it may be good for other paths");
        tokens.state().replaced = Instant::now().checked_sub(CALM);
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
        tokens.state().last = Some((Instant::now(), denied(), Network::default()));
        assert_eq!(kind(&tokens), Some(ErrorKind::Denied));
        let before = Instant::now().checked_sub(CALM).unwrap();
        tokens.state().last = Some((before, denied(), Network::default()));
        // A request is made, for which there is no time.
        assert_eq!(kind(&tokens), Some(ErrorKind::Timeout));
    }

    #[test]
    fn an_early_renewal_that_failed_is_left_to_those_with_more_time_or_another_way() {
        let tokens = tokens();
        let second = Duration::from_secs(1);
        let mut behind = Network::default();
        let proxy = Proxy::parse("URL", "http://proxy.example").unwrap();
        behind.proxy = Some(Arc::new(proxy));
        for (most, way, timeout, is_tried) in [
            (second * 3, behind, 60, true),
            (second * 3, Network::default(), 60, false),
            (second, Network::default(), 60, true),
            (second, Network::default(), 3, false),
        ] {
            tokens.state().hold(Token::new("due", second * 60, Instant::now()));
            tokens.state().held.as_mut().unwrap().expiry -= second * 40;
            let before = Instant::now();
            tokens.state().failed_early = Some((before, most, way));
            let settings = Settings { renew_before: second * 60, ..settings() };
            tokens.renew_if_due(&settings, Deadline::after(second * timeout));
            // It fails at once, and for all.
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
            while tokens.state().last.is_none() || !tokens.state().line.is_empty() {
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
        let mut secrets = tokens.secrets(&Settings { api_key: Some("key".into()), ..settings() });
        secrets.retain(|secret| !secret.is_empty());
        let expected = (2..10).rev().map(|i| format!("token-{i}"));
        let expected: Vec<_> =
            ["hush".to_owned(), "key".to_owned()].into_iter().chain(expected).collect();
        assert_eq!(secrets, expected);
    }
}
