//! The session, its constructors and its calls. Called by users. Knows nothing of sockets, nor of
//! how a token is requested.

mod call;
mod from_env;
mod settings;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::http::Deadline;
use crate::response::Response;
use crate::retry::RateLimit;
use crate::token::{Client, Tokens};
use crate::url::{check_credential, check_visible, Url};
use settings::{check_tls, Settings};

/// Calls the JAS APIs with an access token that it requests and renews by itself.
///
/// A session is made once and used for all calls, from any number of threads: they share one
/// token. Clones share the token, too, and each clone has its own settings. Four settings also give
/// the clone a token of its own: [`token_endpoint`](Session::token_endpoint),
/// [`proxy`](Session::proxy), [`proxy_from_env`](Session::proxy_from_env) and
/// [`root_certificates`](Session::root_certificates).
///
/// Each setting takes the session, checks its value and returns the session. Their order does not
/// matter, except that
/// [`resume`](Session::resume) has to come after [`token_endpoint`](Session::token_endpoint).
///
/// ```
/// use std::time::Duration;
/// use jas_session::Session;
///
/// # fn main() -> Result<(), jas_session::Error> {
/// # #[cfg(feature = "tls")] {
/// let session = Session::new("https://api.example.com", "my client id", "my client secret")?
///     .api_key("my-api-key")?
///     .timeout(Duration::from_secs(20));
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a setting returns the session"]
pub struct Session {
    tokens: Arc<Tokens>,
    rate_limit: Arc<RateLimit>,
    retried: Arc<AtomicUsize>,
    /// Copied when a clone changes a setting.
    settings: Arc<Settings>,
}

/// The tokens, connections and retries of a session and its clones: see [`Session::counts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Tokens received from the token endpoint.
    pub tokens: u64,
    /// Connections made, including those of token requests.
    pub connections: u64,
    /// Requests that were sent again after a failure, a rate limit or a refused token. Token
    /// requests are not counted.
    pub retries: u64,
}

impl Session {
    /// Makes a session for the APIs at `base_url`, with the credentials that the JAS portal calls
    /// key and secret. Sends nothing yet.
    ///
    /// The base URL is `https://HOST`, optionally with a port and a path. `http` is accepted for
    /// this machine only (`localhost`, 127.0.0.0/8, `[::1]`). Tokens are requested from `base_url`
    /// + `/oauth2/token`, unless [`token_endpoint`](Session::token_endpoint) is set.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if one of the three can't be used. The message
    /// names the character that is wrong, and never shows a secret.
    pub fn new(base_url: &str, client_id: &str, client_secret: &str) -> Result<Session, Error> {
        let secret = ("client secret", client_secret);
        Session::checked([("base URL", base_url), ("client id", client_id), secret])
    }

    /// Makes a session. Each argument is a name for error messages and a value.
    fn checked([url, id, secret]: [(&str, &str); 3]) -> Result<Session, Error> {
        let base = Url::base(url.0, url.1)?;
        check_tls(&base)?;
        check_credential(id.0, id.1)?;
        check_credential(secret.0, secret.1)?;
        let endpoint = Url { path: format!("{}/oauth2/token", base.path), ..base.clone() };
        let client = Client { endpoint, id: id.1.to_owned(), secret: secret.1.to_owned() };
        Ok(Session {
            tokens: Arc::new(Tokens::new(client)),
            rate_limit: Arc::default(),
            retried: Arc::default(),
            settings: Arc::new(Settings::new(base)),
        })
    }

    /// Makes a session from environment variables: `JAS_URL` (the base URL), `JAS_CLIENT_ID`,
    /// `JAS_CLIENT_SECRET`, and optionally `JAS_API_KEY` and `JAS_TOKEN_ENDPOINT`.
    ///
    /// The secret and the key can be read from files instead, without the last line break:
    /// `JAS_CLIENT_SECRET_FILE` and `JAS_API_KEY_FILE` name these files.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if a variable is missing, empty or can't be used.
    /// The message names the variable, and says why.
    pub fn from_env() -> Result<Session, Error> {
        from_env::session()
    }

    /// Sends a GET.
    ///
    /// `path` is appended to the base URL: an absolute path, optionally with a query. A full URL of
    /// the same origin (a `next` link) is used as it is.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), jas_session::Error> {
    /// # let session = jas_session::Session::from_env()?;
    /// let shipment = session.get("/tracking/v1/shipments/S505185992")?.text()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`] except [`Content`](ErrorKind::Content), which reading the response may
    /// return.
    pub fn get(&self, path: &str) -> Result<Response, Error> {
        self.call(path, None, true)
    }

    /// Sends a POST with `content` of this media type. JAS responds in the same media type. XML is
    /// sent unchanged: write and read it with any XML crate, which also escapes your values.
    ///
    /// A booking is not made twice: the POST is retried only if it never reached the API, or if the
    /// API refused the token. If it fails, [`may_have_executed`](Error::may_have_executed) says
    /// whether the booking may exist. If so, look for it before you send it again. For calls
    /// that only read, use [`post_idempotent`](Session::post_idempotent).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), jas_session::Error> {
    /// # let session = jas_session::Session::from_env()?;
    /// let booking = "<Booking><Reference>PO-4711</Reference></Booking>";
    /// let response = session.post("/bookings/v1/bookings", "application/xml", booking)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Session::get).
    pub fn post(
        &self, path: &str, media_type: &str, content: impl AsRef<[u8]>,
    ) -> Result<Response, Error> {
        self.call(path, Some((media_type, content.as_ref())), false)
    }

    /// Sends a POST with `content` as JSON, otherwise like [`post`](Session::post). A string
    /// becomes a JSON string: to send text that is JSON already, use `post`.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), jas_session::Error> {
    /// # let session = jas_session::Session::from_env()?;
    /// use jas_session::miniserde;
    ///
    /// #[derive(miniserde::Serialize)]
    /// struct Booking { reference: String }
    ///
    /// let booking = Booking { reference: "PO-4711".into() };
    /// let response = session.post_json("/bookings/v1/bookings", &booking)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Session::get).
    pub fn post_json<T: miniserde::Serialize + ?Sized>(
        &self, path: &str, content: &T,
    ) -> Result<Response, Error> {
        let json = miniserde::json::to_string(content);
        self.call(path, Some(("application/json", json.as_bytes())), false)
    }

    /// Sends a POST that only reads, such as JAS's status queries, and so may be retried ([RFC
    /// 9110, section 9.2.2](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2)): up to
    /// [`retries`](Session::retries) times if there is no response or the server is busy. Content
    /// of up to 16 KiB is read within the call. If it is truncated, the call is retried, too.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), jas_session::Error> {
    /// # let session = jas_session::Session::from_env()?;
    /// let query = r#"{"houseBill":"PAR45176295"}"#;
    /// let response = session.post_idempotent("/tracking/v1/shipments", "application/json", query)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Session::get).
    pub fn post_idempotent(
        &self, path: &str, media_type: &str, content: impl AsRef<[u8]>,
    ) -> Result<Response, Error> {
        self.call(path, Some((media_type, content.as_ref())), true)
    }

    /// Returns a valid token, for requests that another client sends. Requests one if necessary.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), jas_session::Error> {
    /// # let session = jas_session::Session::from_env()?;
    /// let token = session.access_token()?;
    /// let field = format!("Authorization: Bearer {token}");
    /// // If the token was refused:
    /// session.invalidate(&token);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of a token request: [`Denied`](ErrorKind::Denied),
    /// [`Timeout`](ErrorKind::Timeout), [`Exchange`](ErrorKind::Exchange),
    /// [`InvalidToken`](ErrorKind::InvalidToken) or [`Status`](ErrorKind::Status).
    pub fn access_token(&self) -> Result<String, Error> {
        let deadline = Deadline::after(self.settings.timeout);
        let token = self.tokens.token(&self.settings.common, deadline)?;
        // A call renews a due token after its response. Here another client sends the request, so
        // renew now.
        self.tokens.renew_if_due(&self.settings.common, deadline);
        let held = self.tokens.held().map(|(held, _)| held);
        Ok(held.unwrap_or_else(|| token.value.to_string()))
    }

    /// Returns the valid token held, if there is one, and how long it is valid. Requests none.
    ///
    /// [`token_file`](Session::token_file) stores it for the next run. On a system without files,
    /// store it yourself together with its expiry, and pass it to [`resume`](Session::resume) with
    /// the time that is left then.
    #[must_use]
    pub fn held_token(&self) -> Option<(String, Duration)> {
        self.tokens.held()
    }

    /// Uses a token from an earlier process, in this session and all its clones. `expires_in` is
    /// how long it is still valid, 24 hours at most. An expired token does no harm: the first call
    /// requests another.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), jas_session::Error> {
    /// # let session = jas_session::Session::from_env()?;
    /// use std::time::Duration;
    ///
    /// let session = session.resume("a token of an earlier run", Duration::from_secs(90))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the token has a character other than visible
    /// ASCII.
    pub fn resume(self, access_token: &str, expires_in: Duration) -> Result<Session, Error> {
        check_visible("access token", access_token)?;
        self.tokens.hold(access_token, expires_in);
        Ok(self)
    }

    /// Returns how many tokens, connections and retries this session and its clones have used so
    /// far, for the last line of a job's log.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            tokens: self.tokens.received.load(Ordering::Relaxed) as u64,
            connections: self.settings.common.network.addresses.connected(),
            retries: self.retried.load(Ordering::Relaxed) as u64,
        }
    }

    /// Drops the token held if it is this one. Call it when a server refused the token that
    /// [`access_token`](Session::access_token) returned.
    pub fn invalidate(&self, refused: &str) {
        self.tokens.invalidate(refused);
    }
}

/// Without the client id: a caller who swaps id and secret would print the secret.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { base, timeout, common, .. } = &*self.settings;
        f.debug_struct("Session")
            .field("base_url", &base.text())
            .field("token_endpoint", &self.tokens.client.endpoint.text())
            .field("proxy", &common.network.proxy.as_ref().map(ToString::to_string))
            .field("timeout", timeout)
            .field("renew_before", &common.renew_before)
            .field("retries", &common.retries)
            .finish_non_exhaustive()
    }
}
