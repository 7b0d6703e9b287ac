//! The session: its settings, its calls, and the loop that obeys `retry`. Called by users. Knows
//! nothing of sockets, nor of how a token is requested.

mod from_env;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crate::error::remote_text::reason;
use crate::error::{advice, field, Error, ErrorKind, Received};
use crate::http::{self, Call, Deadline, Network, Proxy, Request, USER_AGENT};
use crate::response::Response;
use crate::retry::{decide, is_token_refused, random, Attempt, Next, RateLimit};
use crate::token::{self, Client, Token, Tokens};
use crate::url::{
    check_credential, check_field_name, check_field_value, check_media_type, check_visible, Url,
};

/// What the session puts on a request by itself.
const OWNED: &str = "Authorization Host Content-Length Content-Type Transfer-Encoding Connection \
                     Expect Accept-Encoding x-api-key";

const TOO_SOON: &str = "; a token was replaced less than 10 seconds ago: try again later";
const LOOK_FIRST: &str = "; the request may have been executed: look before you send it again";

/// A value of a field that is as long may be a key, and is shown in no message.
const LIKE_A_KEY: usize = 12;

/// Calls the JAS APIs with an access token that it requests and renews by itself.
///
/// A session is made once and used for all calls, from any number of threads: they share one
/// token. A clone shares the token, too, and has settings of its own.
///
/// Settings take the session and return it, in any order (but [`resume`](Session::resume) comes
/// after [`token_endpoint`](Session::token_endpoint)), and are checked at once:
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
    /// Copied when a clone changes one of them.
    settings: Arc<Settings>,
}

#[derive(Clone)]
struct Settings {
    base: Url,
    fields: Vec<(String, String)>,
    timeout: Duration,
    /// Those that count for the token, too.
    common: token::Settings,
}

/// What a session and its clones have done so far: see [`Session::counts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Tokens received from the token endpoint.
    pub tokens: u64,
    /// Connections made, those for token requests included.
    pub connections: u64,
    /// Retries of calls, after a failure, a rate limit or a refused token. Retries of token
    /// requests are not counted.
    pub retries: u64,
}

impl Session {
    /// Makes a session for the APIs behind `base_url`, with the credentials that the JAS portal
    /// calls key and secret. Sends nothing yet.
    ///
    /// The base URL is `https://HOST`, perhaps with a port and a path; `http` is accepted for this
    /// machine only (`localhost`, 127.0.0.0/8, `[::1]`). Tokens are requested from `base_url` +
    /// `/oauth2/token`, unless [`token_endpoint`](Session::token_endpoint) says otherwise.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if one of the three can't be used: it says
    /// which character of it, and never what a secret is.
    pub fn new(base_url: &str, client_id: &str, client_secret: &str) -> Result<Session, Error> {
        let secret = ("client secret", client_secret);
        Session::checked([("base URL", base_url), ("client id", client_id), secret])
    }

    /// Takes the three with what errors call them.
    fn checked([url, id, secret]: [(&str, &str); 3]) -> Result<Session, Error> {
        let base = Url::base(url.0, url.1)?;
        check_tls(&base)?;
        check_credential(id.0, id.1)?;
        check_credential(secret.0, secret.1)?;
        let endpoint = Url { path: format!("{}/oauth2/token", base.path), ..base.clone() };
        let common = token::Settings {
            network: Network { idle_connections: 8, ..Network::default() },
            api_key: None,
            renew_before: Duration::from_secs(60),
            retries: 2,
        };
        let timeout = Duration::from_secs(60);
        Ok(Session {
            tokens: Arc::new(Tokens::new(Client {
                endpoint,
                id: id.1.to_owned(),
                secret: secret.1.to_owned(),
            })),
            rate_limit: Arc::default(),
            retried: Arc::default(),
            settings: Arc::new(Settings { base, fields: Vec::new(), timeout, common }),
        })
    }

    /// Makes a session from the environment: `JAS_URL` (the base URL), `JAS_CLIENT_ID` and
    /// `JAS_CLIENT_SECRET`, and, if they are set, `JAS_API_KEY` and `JAS_TOKEN_ENDPOINT`.
    ///
    /// In place of the secret and the key, `JAS_CLIENT_SECRET_FILE` and `JAS_API_KEY_FILE` may name
    /// files that they are read from, without the last line break.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput): it names each variable that is missing or empty,
    /// or the one that can't be used, and why.
    pub fn from_env() -> Result<Session, Error> {
        from_env::session()
    }

    /// Sets the URL that tokens are requested from: by default the base URL +
    /// `/oauth2/token`. The session starts without a token, and shares none with earlier clones.
    ///
    /// The response has to be JSON with an `access_token` that is a bearer token: `token_type` is
    /// `Bearer` (in any case), `BearerToken` or missing. Without `expires_in` a token is taken to
    /// live ten minutes, as JAS documents.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the URL can't be used.
    pub fn token_endpoint(self, url: &str) -> Result<Session, Error> {
        self.requesting_from("token endpoint's URL", url)
    }

    fn requesting_from(mut self, name: &str, url: &str) -> Result<Session, Error> {
        let endpoint = Url::parse(name, url)?;
        check_tls(&endpoint)?;
        self.tokens = Arc::new(self.tokens.at(endpoint));
        Ok(self)
    }

    /// Keeps the token in this file, so that the next run of a job that runs often makes no token
    /// request. None by default. Clones made before keep it there as well.
    ///
    /// Whenever a token is needed, that of the file is taken first. It must still be good by this
    /// device's clock, and come from the same endpoint for the same client id. Each new token is
    /// written to the file.
    ///
    /// - Processes may share the file: it is always replaced as a whole. Each client id needs a
    ///   file of its own.
    /// - On Unix only its owner can read it (mode 0600), and it is ignored if others can. Elsewhere
    ///   the directory has to keep others out.
    /// - Best is a directory of this user that a reboot empties, such as `/run/user/1000`, on a
    ///   local disk: a network file system could delay a call. On Windows, take one below
    ///   `%LOCALAPPDATA%`.
    ///
    /// A file that is missing, damaged or not writable fails no call: a token is requested, and the
    /// feature `log` tells why. While the token of the file is good, a wrong client secret goes
    /// unnoticed.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), jas_session::Error> {
    /// # use jas_session::Session;
    /// let session = Session::from_env()?.token_file("/run/user/1000/jas-token")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the path has no file name, or if something else
    /// than a file is there: a directory or a device, say.
    pub fn token_file(self, path: impl Into<PathBuf>) -> Result<Session, Error> {
        let path = path.into();
        let is_other = path.metadata().is_ok_and(|found| !found.is_file());
        if path.file_name().is_none() || is_other {
            let path = path.display();
            let message = format!("the token file's path is not that of a file: \"{path}\"");
            return Err(Error::invalid_input(message));
        }
        // Without a slash at its end.
        self.tokens.keep_in(path.components().collect());
        Ok(self)
    }

    /// Sets the key that the JAS Connect team sent: it goes with every API call as `x-api-key`,
    /// and never with a token request. None by default.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it has a character other than visible ASCII.
    pub fn api_key(mut self, key: &str) -> Result<Session, Error> {
        check_visible("API key", key)?;
        self.change().common.api_key = Some(key.to_owned());
        Ok(self)
    }

    /// Sets a header field of every API call, never of a token request. It replaces an earlier
    /// value, and the session's own `User-Agent` (`jas-session/VERSION`) and `Accept` (the media
    /// type of a POST, else `*/*`). It may be a key of a gateway: a value of 12 characters or more
    /// that a server echoes is shown in no message.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the name or the value is not one ([RFC 9110,
    /// section 5](https://www.rfc-editor.org/rfc/rfc9110#section-5)), or if the session owns the
    /// field: Authorization, Host, Content-Length, Content-Type, Transfer-Encoding, Connection,
    /// Expect, Accept-Encoding and x-api-key.
    pub fn header(mut self, name: &str, value: &str) -> Result<Session, Error> {
        check_field_name("field name", name)?;
        if let Some(owned) = OWNED.split(' ').find(|owned| owned.eq_ignore_ascii_case(name)) {
            let advice = match owned {
                "x-api-key" => ": use Session::api_key",
                "Content-Type" => ": give it to Session::post",
                _ => "",
            };
            let message = format!("the field {owned} is the session's own{advice}");
            return Err(Error::invalid_input(message));
        }
        check_field_value(&format!("value of the field {name}"), value)?;
        let fields = &mut self.change().fields;
        fields.retain(|(field, _)| !field.eq_ignore_ascii_case(name));
        fields.push((name.to_owned(), value.to_owned()));
        Ok(self)
    }

    /// Sets the HTTP proxy that `https` goes through, token requests as well: none by default.
    /// `http`, which is for this machine only, never goes through it.
    ///
    /// The URL is `http://HOST:PORT`, or `http://USER:PASSWORD@HOST:PORT`; `http://` may be left
    /// out. The host is a name, an IPv4 address, or an IPv6 address in brackets. Without a port
    /// it is 1080, as for curl. In a user name and a password, percent-encode what a URL can't
    /// have there (`%23` for `#`, `%2F` for `/`, `%25` for `%`, `%40` for `@`).
    ///
    /// The proxy is asked for a tunnel (CONNECT) to the host and the port of the URL, and sees
    /// nothing more than these: what goes through the tunnel is TLS. It gets its user name and
    /// password (`Basic`) in clear text. A proxy that opens TLS shows a certificate of its own:
    /// the feature `system-roots` trusts it if this system does.
    ///
    /// ```
    /// # fn main() -> Result<(), jas_session::Error> {
    /// # #[cfg(feature = "tls")] {
    /// # use jas_session::Session;
    /// let session = Session::new("https://api.example.com", "my client id", "my client secret")?
    ///     .proxy("http://gateway:p%40ss@proxy.example.com:3128")?;
    /// # }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the URL can't be used. When the proxy opens no
    /// tunnel, a call fails with [`Exchange`](ErrorKind::Exchange) or
    /// [`Timeout`](ErrorKind::Timeout), and the message names the proxy. Nothing has reached the
    /// API then, so a plain POST is retried, too, unless the proxy refused (a status below 500).
    pub fn proxy(mut self, url: &str) -> Result<Session, Error> {
        let proxy = Proxy::parse("proxy's URL", url)?;
        self.change().common.network.proxy = Some(Arc::new(proxy));
        Ok(self)
    }

    /// Sets the proxy that the environment names, as curl reads it, in place of one that was set
    /// before. Without this call the environment is not looked at.
    ///
    /// - `https_proxy`, else `HTTPS_PROXY`, is a URL as [`proxy`](Session::proxy) takes it. If
    ///   neither is set, or both are empty, there is no proxy. `ALL_PROXY` and `HTTP_PROXY` do not
    ///   count.
    /// - `no_proxy`, else `NO_PROXY`, lists hosts that are connected to directly, separated by
    ///   commas or spaces: names and addresses, or `*` alone for all hosts. `example.com` and
    ///   `.example.com` both mean this name and all below it. An entry with a port, or a network
    ///   (`10.0.0.0/8`), is ignored.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), jas_session::Error> {
    /// # use jas_session::Session;
    /// let session = Session::from_env()?.proxy_from_env()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if a value can't be used: it names the variable.
    pub fn proxy_from_env(mut self) -> Result<Session, Error> {
        let proxy = Proxy::from_env(from_env::variable)?;
        self.change().common.network.proxy = proxy.map(Arc::new);
        Ok(self)
    }

    /// Trusts the issuers of these certificates, too (PEM, one or several): for a proxy that opens
    /// TLS, or for a stand-in in your tests. Called again, it adds to them. By default only the
    /// built-in roots are trusted: Mozilla's, or this system's with the feature `system-roots`. With
    /// that feature Windows ignores these certificates if the server sends its own root along: then
    /// install the issuer in Windows.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use jas_session::Session;
    /// let issuer = std::fs::read("company-ca.pem")?;
    /// let session = Session::from_env()?.root_certificates(&issuer)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there is no certificate in it, or one that
    /// can't be read, or if the crate was built without TLS.
    pub fn root_certificates(mut self, pem: &[u8]) -> Result<Session, Error> {
        let trust = self.settings.common.network.trust.extended(pem);
        let trust =
            trust.map_err(|why| Error::invalid_input(format!("the root certificates {why}")))?;
        self.change().common.network.trust = trust;
        Ok(self)
    }

    /// Sets how many idle connections are kept open for the next calls, at most: 8 by default. With
    /// 0, none is kept, and each call makes a connection of its own.
    ///
    /// Clones share the connections; the number is each clone's own. [`get`](Session::get) and
    /// [`post_idempotent`](Session::post_idempotent) use them. `post` and `post_json` never do: the
    /// server may just have closed an idle connection, and then nobody could tell whether a booking
    /// without a response was made. Token requests never do, either. The connections that these make
    /// are kept for a later `get` or `post_idempotent`.
    ///
    /// A call that opens a connection closes an idle one first, so a session never holds more
    /// connections to a server than it had calls in flight at once. A connection that was idle for
    /// 30 seconds, or is five minutes old, is closed at the next call, and all of them with the last
    /// clone. While a new connection is silent, others to the same server or proxy are closed one by
    /// one, at growing intervals from about a tenth of a second on: they may hold all of its workers.
    pub fn idle_connections(mut self, n: usize) -> Session {
        self.change().common.network.idle_connections = n;
        self
    }

    /// Sets how long one call may take: 60 seconds by default. It bounds all of a call, from
    /// waiting for a token to the last byte of the content that the caller reads. With zero,
    /// every call fails at once. For one call, `session.clone().timeout(...)` has the same token.
    pub fn timeout(mut self, timeout: Duration) -> Session {
        self.change().timeout = timeout;
        self
    }

    /// Sets how long before its expiry a token is renewed: 60 seconds by default, and never more
    /// than half of the token's lifetime.
    ///
    /// It is renewed after the response to a call, in a quarter of the time that this call has left
    /// and in 2 seconds at most. If that fails, the calls go on with the token as long as it is
    /// good, and the next try is made 10 seconds later.
    pub fn renew_before(mut self, margin: Duration) -> Session {
        self.change().common.renew_before = margin;
        self
    }

    /// Sets how many times a request that may be retried is retried: 2 by default. The token
    /// request and the call are counted separately. Not counted are the retry after a refused token,
    /// the one on a fresh connection when an idle one breaks before a byte of the response has come,
    /// and a second handshake when a server refuses an earlier TLS session.
    ///
    /// The pause before a retry is what the response's `Retry-After` asks for. Without that it is
    /// 250 ms, doubled each time, a quarter more or less; for a 429, four times as much. A pause
    /// that does not fit into the rest of the [`timeout`](Session::timeout) is not made: the error
    /// is returned at once.
    ///
    /// A rate limit (429, or 403 or 503 with `Retry-After`) of at most 30 seconds holds for the
    /// session and its clones. Their other calls wait for its end before they send, if that takes
    /// no more than half of their time. Those that were not refused themselves wait a quarter
    /// longer.
    pub fn retries(mut self, n: u32) -> Session {
        self.change().common.retries = n;
        self
    }

    /// Sends a GET.
    ///
    /// `path` is put behind the base URL: an absolute path, perhaps with a query. A full URL of
    /// the same origin (a `next` link) is taken as it is.
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
    /// Any of [`ErrorKind`] but [`Content`](ErrorKind::Content), which reading the response
    /// may give.
    pub fn get(&self, path: &str) -> Result<Response, Error> {
        self.call(path, None, true)
    }

    /// Sends a POST with `content` of this media type, to which JAS responds in the same media
    /// type. XML is handed over untouched: any XML crate makes and reads it, and escapes what you
    /// put in.
    ///
    /// A booking is not made twice: the POST is retried only if it never reached the API, or if the
    /// API refused the token. When it fails, [`may_have_executed`](Error::may_have_executed) tells
    /// whether to look before you send it again. For calls that only read there is
    /// [`post_idempotent`](Session::post_idempotent).
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
    /// becomes a JSON string: send text that is JSON already with `post`.
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
    /// 9110, section 9.2.2](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2)): if there was no
    /// response, or the server is busy, up to [`retries`](Session::retries) times. Content of up to
    /// 16 KiB is read within the call, and if it is truncated, the call is retried, too.
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

    /// Gives a valid token, for requests that are made by other means. Requests one if need be.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), jas_session::Error> {
    /// # let session = jas_session::Session::from_env()?;
    /// let token = session.access_token()?;
    /// let field = format!("Authorization: Bearer {token}");
    /// // When it was refused:
    /// session.invalidate(&token);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As a call whose token can't be had: [`Denied`](ErrorKind::Denied),
    /// [`Timeout`](ErrorKind::Timeout), [`Exchange`](ErrorKind::Exchange),
    /// [`InvalidToken`](ErrorKind::InvalidToken) or [`Status`](ErrorKind::Status).
    pub fn access_token(&self) -> Result<String, Error> {
        let deadline = Deadline::after(self.settings.timeout);
        let token = self.tokens.token(&self.settings.common, deadline)?;
        // At once, since the token leaves.
        self.tokens.renew_if_due(&self.settings.common, deadline);
        let held = self.tokens.held().map(|(held, _)| held);
        Ok(held.unwrap_or_else(|| token.value().to_owned()))
    }

    /// Gives the valid token held, if there is one, and what is left of its life. Requests none.
    ///
    /// [`token_file`](Session::token_file) keeps it for the next run. Where there is no file, keep
    /// it yourself, with the time at which it expires, and give it to [`resume`](Session::resume)
    /// with what is left then.
    #[must_use]
    pub fn held_token(&self) -> Option<(String, Duration)> {
        self.tokens.held()
    }

    /// Takes over a token from an earlier process, for this session and all its clones, with what
    /// is left of its life (24 hours at most). A token whose time is over does no harm: the first
    /// call requests another.
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

    /// Tells how many tokens, connections and retries this session and its clones have needed so
    /// far: for the last line of a job.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            tokens: self.tokens.received(),
            connections: self.settings.common.network.addresses.connected(),
            retries: self.retried.load(Ordering::Relaxed) as u64,
        }
    }

    /// Drops the token held if it is this one: for a token that was refused when it was used by
    /// other means.
    pub fn invalidate(&self, refused: &str) {
        self.tokens.invalidate(refused);
    }

    fn change(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
    }

    /// One call. `content` with its media type makes it a POST.
    fn call(
        &self, path: &str, content: Option<(&str, &[u8])>, is_idempotent: bool,
    ) -> Result<Response, Error> {
        let url = self.settings.base.join(path)?;
        if let Some((media_type, _)) = content {
            check_media_type(media_type)?;
        }
        let deadline = Deadline::after(self.settings.timeout);
        let result = self.attempts(&url, content, is_idempotent, deadline);
        // Not before, so that no call waits for a token endpoint while its token is good.
        let error = result.as_ref().err();
        if error.is_none_or(|error| error.status().is_some()) {
            self.tokens.renew_if_due(&self.settings.common, deadline);
        }
        result
    }

    /// Obeys [`decide`] until there is a response or an error for the caller.
    fn attempts(
        &self, url: &Url, content: Option<(&str, &[u8])>, is_idempotent: bool, deadline: Deadline,
    ) -> Result<Response, Error> {
        let mut attempt = Attempt { is_idempotent, ..Attempt::first(self.settings.common.retries) };
        // Of all attempts so far: what one may have done, a later one does not undo.
        let mut may_have_executed = false;
        let mut was_given = false;
        self.wait_for_rate_limit(false, deadline);
        let mut token = self.tokens.token(&self.settings.common, deadline)?;
        loop {
            let (error, token_refused) =
                match self.send(url, content, &token, deadline, is_idempotent) {
                    Ok(response) if response.is_success() => {
                        let session = self.clone();
                        let secrets = move || session.secrets(&token);
                        return Ok(Response::new(response, Box::new(secrets)));
                    }
                    Ok(response) => self.refused(response, &token, attempt.was_renewed),
                    Err(error) => (error, false),
                };
            self.rate_limit.note(&error);
            may_have_executed |= error.may_have_executed();
            attempt.time_left = deadline.left();
            attempt.jitter = random();
            let next = match decide(attempt, &error, token_refused) {
                Next::Return => Err(error),
                Next::Renew => match self.tokens.replace(&token, &self.settings.common, deadline) {
                    Ok(Some((token, is_new))) => {
                        // One that was there already may be refused as well: for once.
                        attempt.was_renewed = is_new || was_given;
                        was_given = true;
                        Ok(token)
                    }
                    Ok(None) => Err(error.and(TOO_SOON)),
                    Err(error) => Err(error),
                },
                Next::Retry(pause) => {
                    tell!(warn, "{error}; retrying in {pause:?}");
                    std::thread::sleep(pause);
                    attempt.retried += 1;
                    self.wait_for_rate_limit(true, deadline);
                    self.tokens.token(&self.settings.common, deadline)
                }
            };
            token = next.map_err(|error| {
                let error = error.or_executed(may_have_executed);
                if may_have_executed && !is_idempotent {
                    error.and(LOOK_FIRST)
                } else {
                    error
                }
            })?;
            self.retried.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for at most half of the time that is left.
    fn wait_for_rate_limit(&self, was_refused: bool, deadline: Deadline) {
        if self.rate_limit.is_none() {
            return;
        }
        let deadline = deadline.within(deadline.left() / 2);
        loop {
            let wait = self.rate_limit.wait(deadline.left(), was_refused);
            if wait.is_zero() {
                return;
            }
            // Another call may meet one meanwhile.
            std::thread::sleep(wait);
        }
    }

    fn send(
        &self, url: &Url, content: Option<(&str, &[u8])>, token: &Token, deadline: Deadline,
        is_repeatable: bool,
    ) -> Result<http::Response, Error> {
        let Settings { fields: own, common, .. } = &*self.settings;
        let authorization = ["Bearer ", token.value()].concat();
        let mut fields = Vec::with_capacity(8 + own.len());
        fields.push(("Authorization", &*authorization));
        fields.extend(common.api_key.as_deref().map(|key| ("x-api-key", key)));
        fields.extend(own.iter().map(|(name, value)| (&**name, &**value)));
        // An absent `Accept-Encoding` would allow any coding.
        fields.push(("Accept-Encoding", "identity"));
        fields.extend(content.map(|(media_type, _)| ("Content-Type", media_type)));
        let (method, accept) =
            content.map_or(("GET ", "*/*"), |(media_type, _)| ("POST ", media_type));
        for (name, value) in [("Accept", accept), ("User-Agent", USER_AGENT)] {
            if field(own, name).is_none() {
                fields.push((name, value));
            }
        }
        http::send(Request {
            call: Call { label: [method, &url.text()].concat(), deadline },
            url,
            fields: &fields,
            content: content.map(|(_, content)| content),
            is_repeatable,
            network: &common.network,
        })
    }

    /// The error for a response other than 2xx, and whether it refused the token.
    fn refused(&self, response: http::Response, token: &Token, was_renewed: bool) -> (Error, bool) {
        let label = response.content.call().label.clone();
        let received = Received::read(response);
        let (status, token_refused) = (received.status, is_token_refused(&received));
        let advice = match status {
            _ if token_refused && was_renewed => {
                ": a new access token was refused as well: check the application's subscription to \
                 this API, and that the token endpoint is this API's"
            }
            _ if token_refused => ": the access token was refused",
            403 if received.retry_after.is_some() => advice(429),
            403 if self.settings.common.api_key.is_none() => {
                ": no API key (x-api-key) was sent: set it with Session::api_key, or JAS_API_KEY"
            }
            403 => {
                ": check the API key (x-api-key), and the application's subscription to this API"
            }
            _ => advice(status),
        };
        let detail = reason(&received, &self.secrets(token), true);
        let message = format!("{label}: status {status}{advice}{detail}");
        // 4xx says that the request was not acted on; a redirect may follow what was done.
        let may_have_executed = !(400..500).contains(&status);
        let error = Error::new(ErrorKind::Status, message).or_executed(may_have_executed);
        (error.with_received(received), token_refused)
    }

    /// What the response to a call may echo, and no message may show.
    fn secrets(&self, token: &Token) -> Vec<String> {
        let mut secrets = self.tokens.secrets(&self.settings.common);
        secrets.push(token.value().to_owned());
        // Some gateways want a key in a field of their own.
        let own = self.settings.fields.iter().map(|(_, value)| value);
        secrets.extend(own.filter(|value| value.len() >= LIKE_A_KEY).cloned());
        secrets
    }
}

/// Without TLS compiled in, `https` would fail at the first call only.
fn check_tls(url: &Url) -> Result<(), Error> {
    if cfg!(feature = "tls") || !url.origin.https {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "{} needs TLS, and jas-session was built without it: turn on its feature tls (or \
         system-roots)",
        url.origin
    )))
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { base, timeout, common, .. } = &*self.settings;
        f.debug_struct("Session")
            .field("base_url", &base.to_string())
            .field("token_endpoint", &self.tokens.client.endpoint.to_string())
            .field("client_id", &self.tokens.client.id)
            .field("proxy", &common.network.proxy.as_ref().map(ToString::to_string))
            .field("timeout", timeout)
            .field("renew_before", &common.renew_before)
            .field("retries", &common.retries)
            .finish_non_exhaustive()
    }
}
