//! The settings of a session. Called by users, and by `from_env`. Knows nothing of calls.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::from_env::variable;
use super::Session;
use crate::error::Error;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::http::{Network, Proxy};
use crate::token;
use crate::url::{check_field_name, check_field_value, check_visible, Url};

/// What the session puts on a request by itself.
const OWNED: &str = "Authorization Host Content-Length Content-Type Transfer-Encoding Connection \
                     Expect Accept-Encoding x-api-key";

/// A value of a field that is as long may be a key, and is shown in no message.
const LIKE_A_KEY: usize = 12;

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) base: Url,
    pub(super) api_key: Option<String>,
    pub(super) fields: Vec<(String, String)>,
    pub(super) timeout: Duration,
    /// The settings that token requests obey, too.
    pub(super) common: token::Settings,
}

impl Settings {
    pub(super) fn new(base: Url) -> Settings {
        let common = token::Settings {
            network: Network { idle_connections: 8, ..Network::default() },
            renew_before: Duration::from_secs(60),
            retries: 2,
            secrets: Vec::new(),
        };
        let timeout = Duration::from_secs(60);
        Settings { base, api_key: None, fields: Vec::new(), timeout, common }
    }
}

impl Session {
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
        self.named_token_endpoint("token endpoint's URL", url)
    }

    /// Sets the token endpoint, whose URL errors call `name`.
    pub(super) fn named_token_endpoint(mut self, name: &str, url: &str) -> Result<Session, Error> {
        let endpoint = Url::parse(name, url)?;
        check_tls(&endpoint)?;
        self.tokens = Arc::new(self.tokens.with_endpoint(endpoint));
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
        self.tokens.store_in(path.components().collect());
        Ok(self)
    }

    /// Sets the key that the JAS Connect team sent: it goes with every API call as `x-api-key`,
    /// and never with a token request. None by default.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it has a character other than visible ASCII.
    pub fn api_key(self, key: &str) -> Result<Session, Error> {
        self.named_api_key("API key", key)
    }

    /// Sets the API key, which errors call `name`.
    pub(super) fn named_api_key(mut self, name: &str, key: &str) -> Result<Session, Error> {
        check_visible(name, key)?;
        let settings = self.change();
        settings.api_key = Some(key.to_owned());
        settings.common.secrets.push(key.to_owned());
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
        let settings = self.change();
        settings.fields.retain(|(field, _)| !field.eq_ignore_ascii_case(name));
        settings.fields.push((name.to_owned(), value.to_owned()));
        // Some gateways take a key in a field of their own.
        if value.len() >= LIKE_A_KEY {
            settings.common.secrets.push(value.to_owned());
        }
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
    pub fn proxy(self, url: &str) -> Result<Session, Error> {
        let proxy = Proxy::parse("proxy's URL", url)?;
        Ok(self.through(Some(proxy)))
    }

    fn through(mut self, proxy: Option<Proxy>) -> Session {
        self.own_tokens();
        let common = &mut self.change().common;
        common.secrets.extend(Proxy::secrets(proxy.as_ref()));
        common.network.proxy = proxy.map(Arc::new);
        self
    }

    /// Sets the proxy that the environment names, as curl reads it, in place of one that was set
    /// before. Without this call the environment is not looked at.
    ///
    /// - `https_proxy`, else `HTTPS_PROXY`, is a URL as [`proxy`](Session::proxy) takes it. If
    ///   neither is set, or both are empty, there is no proxy. `ALL_PROXY` and `HTTP_PROXY` do not
    ///   count.
    /// - `no_proxy`, else `NO_PROXY`, lists hosts that are connected to directly, parted by commas
    ///   or blanks: names, addresses and networks (`10.0.0.0/8`), or `*` alone for all hosts.
    ///   `example.com` and `.example.com` both stand for this name and all below it. An entry with
    ///   a port is ignored.
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
    pub fn proxy_from_env(self) -> Result<Session, Error> {
        Ok(self.through(Proxy::from_env(variable)?))
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
        self.own_tokens();
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

    /// Gives a clone a token of its own, since the other clones reach the token endpoint in
    /// another way. A session without clones keeps its token.
    fn own_tokens(&mut self) {
        if Arc::strong_count(&self.tokens) > 1 {
            self.tokens = Arc::new(self.tokens.with_endpoint(self.tokens.client.endpoint.clone()));
        }
    }

    pub(super) fn change(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
    }
}

/// Without TLS compiled in, `https` would fail at the first call only.
pub(super) fn check_tls(url: &Url) -> Result<(), Error> {
    if cfg!(feature = "tls") || !url.origin.https {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "{} needs TLS, and jas-session was built without it: turn on its feature tls (or \
         system-roots)",
        url.origin
    )))
}
