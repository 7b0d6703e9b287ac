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
use crate::url::{check_field_name, check_field_value, check_visible, invalid, Url};

/// The header fields that the session sets itself.
const OWNED: &str = "Authorization Host Content-Length Content-Type Transfer-Encoding Connection \
                     Expect Accept-Encoding x-api-key";

/// The value of a header field may be a key, so it is a secret from this length on. The values of
/// [`PUBLIC`] fields are not: to hide their common words would spoil messages.
const KEY_LENGTH: usize = 12;
const PUBLIC: &str = "Accept Accept-Language User-Agent";

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) base: Url,
    /// The fields of every API call, the API key among them.
    pub(super) fields: Vec<(String, String)>,
    pub(super) timeout: Duration,
    /// The settings that token requests obey, too.
    pub(super) common: token::Settings,
}

impl Settings {
    pub(super) fn new(base: Url) -> Settings {
        let minute = Duration::from_secs(60);
        let network = Network { idle_connections: 8, ..Network::default() };
        let common =
            token::Settings { network, renew_before: minute, retries: 2, secrets: Vec::new() };
        Settings { base, fields: Vec::new(), timeout: minute, common }
    }
}

impl Session {
    /// Sets the URL that tokens are requested from: by default the base URL + `/oauth2/token`. The
    /// session drops its token. Earlier clones keep theirs.
    ///
    /// The response has to be JSON with an `access_token` that is a bearer token: `token_type` is
    /// `Bearer` (in any case), `BearerToken` or missing. Without `expires_in` the lifetime is ten
    /// minutes, as JAS documents.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the URL can't be used.
    pub fn token_endpoint(self, url: &str) -> Result<Session, Error> {
        self.named_token_endpoint("token endpoint's URL", url)
    }

    /// Sets the token endpoint. Error messages call its URL `name`.
    pub(super) fn named_token_endpoint(mut self, name: &str, url: &str) -> Result<Session, Error> {
        let endpoint = Url::parse(name, url)?;
        check_tls(&endpoint)?;
        self.tokens = Arc::new(self.tokens.with_endpoint(endpoint));
        Ok(self)
    }

    /// Stores the token in this file, so that the next run of a job needs no token request. None by
    /// default. Applies to earlier clones as well.
    ///
    /// When a token is needed, the file is read first. Its token is used if it is still valid by
    /// this device's clock, and was issued by the same endpoint to the same client id. Each new
    /// token is written to the file.
    ///
    /// - Processes may share the file: it is always replaced as a whole. Each client id needs its
    ///   own file.
    /// - On Unix only its owner can read it (mode 0600). It is ignored if others can read it. On
    ///   other systems the directory has to keep others out.
    /// - A good place is a directory of this user that a reboot empties, such as `/run/user/1000`,
    ///   on a local disk, since a network file system could delay a call. On Windows, use a
    ///   directory in `%LOCALAPPDATA%`.
    ///
    /// A file that is missing, damaged or not writable fails no call: a token is requested. The
    /// feature `log` logs why a file could not be used. While the token of the file is valid, a
    /// wrong client secret goes unnoticed.
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
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the path has no file name, or is that of
    /// something else than a file, such as a directory or a device.
    pub fn token_file(self, path: impl Into<PathBuf>) -> Result<Session, Error> {
        let path = path.into();
        let is_other = path.metadata().is_ok_and(|found| !found.is_file());
        if path.file_name().is_none() || is_other {
            let why = format!("does not name a file: \"{}\"", path.display());
            return Err(invalid("token file's path", why));
        }
        // The components leave out a slash at the end.
        self.tokens.store_in(path.components().collect());
        Ok(self)
    }

    /// Sets the API key that the JAS Connect team sent you. Every API call has it as `x-api-key`,
    /// no token request does. None by default.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it has a character other than visible ASCII.
    pub fn api_key(self, key: &str) -> Result<Session, Error> {
        self.named_api_key("API key", key)
    }

    /// Sets the API key. Error messages call it `name`.
    pub(super) fn named_api_key(mut self, name: &str, key: &str) -> Result<Session, Error> {
        check_visible(name, key)?;
        self.set_field("x-api-key", key, true);
        Ok(self)
    }

    /// Sets a header field of every API call, but of no token request. It replaces an earlier
    /// value, and the session's own `User-Agent` (`jas-session/VERSION`) and `Accept` (the media
    /// type of a POST, else `*/*`). A value of 12 characters or more may be a key of a gateway, so
    /// messages hide it. They show the values of `Accept`, `Accept-Language` and `User-Agent`.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the name or the value is not valid ([RFC 9110,
    /// section 5](https://www.rfc-editor.org/rfc/rfc9110#section-5)), or if the session sets the
    /// field itself: Authorization, Host, Content-Length, Content-Type, Transfer-Encoding,
    /// Connection, Expect, Accept-Encoding and x-api-key.
    pub fn header(mut self, name: &str, value: &str) -> Result<Session, Error> {
        check_field_name("field name", name)?;
        if let Some(owned) = find(OWNED, name) {
            let advice = match owned {
                "x-api-key" => ": use Session::api_key",
                "Content-Type" => ": give it to Session::post",
                _ => "",
            };
            return Err(invalid("field", format_args!("{owned} is set by the session{advice}")));
        }
        check_field_value(&format!("value of the field {name}"), value)?;
        // Some gateways take a key in a field of their own.
        let is_secret = value.len() >= KEY_LENGTH && find(PUBLIC, name).is_none();
        self.set_field(name, value, is_secret);
        Ok(self)
    }

    /// Sets the HTTP proxy for `https`, including token requests: none by default. `http`, which is
    /// for this machine only, never uses it.
    ///
    /// The URL is `http://HOST:PORT`, or `http://USER:PASSWORD@HOST:PORT`; `http://` may be left
    /// out. The host is a name, an IPv4 address, or an IPv6 address in brackets. The default port
    /// is 1080, as in curl. In a user name and a password, percent-encode the characters that a URL
    /// can't have there (`%23` for `#`, `%2F` for `/`, `%25` for `%`, `%40` for `@`).
    ///
    /// The session asks the proxy for a tunnel (CONNECT) to the host and the port of the URL. The
    /// proxy sees nothing else, because the tunnel carries TLS. The user name and the password for
    /// the proxy itself are sent to it in clear text (`Basic`). A proxy that decrypts TLS has its
    /// own certificate: the feature `system-roots` trusts it if this system does.
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
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the URL can't be used. If the proxy opens no
    /// tunnel, a call fails with [`Exchange`](ErrorKind::Exchange) or
    /// [`Timeout`](ErrorKind::Timeout), and the message names the proxy. Nothing has reached the
    /// API, so a plain POST is retried, too, unless the proxy refused (a status below 500).
    pub fn proxy(self, url: &str) -> Result<Session, Error> {
        Ok(self.with_proxy(Some(Proxy::parse("proxy's URL", url)?)))
    }

    fn with_proxy(mut self, proxy: Option<Proxy>) -> Session {
        self.own_tokens();
        let common = &mut self.change().common;
        common.secrets.extend(proxy.iter().flat_map(Proxy::secrets));
        common.network.proxy = proxy.map(Arc::new);
        self
    }

    /// Sets the proxy that the environment names, read as curl does. It replaces a proxy set
    /// before. Without this call the environment has no effect.
    ///
    /// - `https_proxy`, else `HTTPS_PROXY`, is a URL as [`proxy`](Session::proxy) takes it. If
    ///   neither is set, or both are empty, there is no proxy. `ALL_PROXY` and `HTTP_PROXY` do not
    ///   count.
    /// - `no_proxy`, else `NO_PROXY`, lists hosts that are connected to directly, separated by
    ///   commas or spaces: names and addresses, or `*` alone for all hosts. `example.com` and
    ///   `.example.com` both mean this name and all its subdomains. An entry with a port, or a
    ///   network (`10.0.0.0/8`), is ignored.
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
        Ok(self.with_proxy(Proxy::from_env(variable)?))
    }

    /// Trusts the issuers of these certificates, too (PEM, one or several), for a proxy that
    /// decrypts TLS or a sandbox in your tests. Each call adds to them. By default only the
    /// built-in roots are trusted: Mozilla's, or this system's with the feature `system-roots`.
    /// With that feature, Windows ignores these certificates if the server also sends its root
    /// certificate. In that case install the issuer in Windows.
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
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it contains no certificate, or one that can't
    /// be read, or if the crate was built without TLS.
    pub fn root_certificates(mut self, pem: &[u8]) -> Result<Session, Error> {
        let roots = self.settings.common.network.roots.extended(pem);
        let roots = roots.map_err(|why| invalid("root certificates", why))?;
        self.own_tokens();
        self.change().common.network.roots = roots;
        Ok(self)
    }

    /// Sets the maximum number of idle connections that are kept for the next calls: 8 by default.
    /// With 0, none is kept, and each call makes its own connection.
    ///
    /// Clones share the connections, but each clone has its own maximum. [`get`](Session::get) and
    /// [`post_idempotent`](Session::post_idempotent) use idle connections. `post`, `post_json` and
    /// token requests never do: the server may just have closed an idle connection, and then it is
    /// unknown whether a booking without a response was made. The connections that they make are
    /// kept for a later `get` or `post_idempotent`.
    ///
    /// A call that opens a connection closes an idle one first. So a session's connections to a
    /// server never exceed the largest number of calls that were in flight at the same time. The
    /// next call closes connections that were idle for 30 seconds or are five minutes old. Dropping
    /// the last clone closes all. Idle connections may occupy all workers of a small server. So
    /// while a new connection gets no response, idle ones to the same server or proxy are closed
    /// one by one: the first after about a tenth of a second, the others at growing intervals.
    pub fn idle_connections(mut self, n: usize) -> Session {
        self.change().common.network.idle_connections = n;
        self
    }

    /// Sets how long one call may take: 60 seconds by default. It includes everything from waiting
    /// for a token to the last byte of the content that the caller reads. With zero, every call
    /// fails at once. For a single call, use `session.clone().timeout(...)`, which shares the
    /// token.
    pub fn timeout(mut self, timeout: Duration) -> Session {
        self.change().timeout = timeout;
        self
    }

    /// Sets how long before its expiry a token is renewed: 60 seconds by default, and never more
    /// than half of the token's lifetime.
    ///
    /// It is renewed after the response to a call. The renewal may take a quarter of the time that
    /// this call has left, but at most 2 seconds. If that fails, calls use the old token while it
    /// is valid, and the next attempt comes 10 seconds later.
    pub fn renew_before(mut self, margin: Duration) -> Session {
        self.change().common.renew_before = margin;
        self
    }

    /// Sets how many times a request that may be retried is retried: 2 by default. The token
    /// request and the call are counted separately. These don't count:
    ///
    /// - the request with another token, after the first one was refused,
    /// - the request on a new connection, after an idle one broke before a byte of the response
    ///   came, or a 408 came on it,
    /// - a second TLS handshake, without resumption, if the first one fails with a server that
    ///   completed one before.
    ///
    /// The pause before a retry is the response's `Retry-After`. Without one it is 250 ms, doubled
    /// for each retry, and up to a quarter shorter or longer at random; after a 429, four times
    /// that. If the pause doesn't fit into the rest of the [`timeout`](Session::timeout), the error
    /// is returned at once.
    ///
    /// A rate limit (429, or 403 or 503 with `Retry-After`) of at most 30 seconds applies to the
    /// session and its clones. Their other calls wait for its end before they send, if that takes
    /// at most half of their time. A call that got no refusal of its own waits a quarter of
    /// the limit longer, so that the refused calls go first.
    pub fn retries(mut self, n: u32) -> Session {
        self.change().common.retries = n;
        self
    }

    fn set_field(&mut self, name: &str, value: &str, is_secret: bool) {
        let Settings { fields, common, .. } = self.change();
        if let Some(i) = fields.iter().position(|(field, _)| field.eq_ignore_ascii_case(name)) {
            let (_, old) = fields.remove(i);
            if let Some(i) = common.secrets.iter().position(|secret| *secret == old) {
                common.secrets.remove(i);
            }
        }
        fields.push((name.to_owned(), value.to_owned()));
        common.secrets.extend(is_secret.then(|| value.to_owned()));
    }

    /// Gives a clone its own token, since the other clones reach the token endpoint in another way.
    /// A session without clones keeps its token.
    fn own_tokens(&mut self) {
        if Arc::strong_count(&self.tokens) > 1 {
            // The token endpoint may echo the tokens of the other clones.
            self.change().common.secrets = self.tokens.secrets(&self.settings.common);
            self.tokens = Arc::new(self.tokens.with_endpoint(self.tokens.client.endpoint.clone()));
        }
    }

    pub(super) fn change(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
    }
}

/// Finds a field name in a list, compared without case.
fn find(list: &'static str, name: &str) -> Option<&'static str> {
    list.split(' ').find(|listed| listed.eq_ignore_ascii_case(name))
}

/// Fails for `https` if the crate was built without TLS. Otherwise the first call would fail.
pub(super) fn check_tls(url: &Url) -> Result<(), Error> {
    if cfg!(feature = "tls") || !url.origin.https {
        return Ok(());
    }
    let why = "needs TLS, and jas-session was built without it: turn on its feature tls (or \
               system-roots)";
    Err(Error::invalid_input(format!("{} {why}", url.origin.text)))
}
