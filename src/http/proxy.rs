//! A proxy in front of the server: its settings, by URL or by environment variables, and the
//! CONNECT request that opens a tunnel ([RFC 9110, section
//! 9.3.6](https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6)). Called by `connection`. Knows
//! nothing of TLS and of requests.

use std::fmt;
use std::io::{self, BufReader, Write as _};
use std::sync::Arc;
use std::time::Instant;

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;

use super::response_head::{read_head, status_line, HEAD_LIMIT, NO_HTTP};
use super::socket::Socket;
use super::{CallContext, Network};
use crate::error::Error;
use crate::url::{check_uri, invalid, Origin};

/// The port of a proxy whose URL has none, as in curl.
const DEFAULT_PORT: u16 = 1080;

#[derive(PartialEq)]
pub(crate) struct Proxy {
    pub(super) origin: Arc<Origin>,
    /// The password, and the credentials in `Proxy-Authorization` after `Basic` ([RFC
    /// 7617](https://www.rfc-editor.org/rfc/rfc7617)).
    credentials: Option<[String; 2]>,
    /// The hosts that are connected to directly: `no_proxy` in lower case.
    exempt: String,
}

impl Proxy {
    /// Reads the URL of a proxy, named `what` in errors.
    pub(crate) fn parse(what: &str, text: &str) -> Result<Proxy, Error> {
        check_uri(what, text)?;
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        if !scheme.eq_ignore_ascii_case("http") {
            let why = "does not start with http://: HTTPS and SOCKS proxies are not supported \
                       (an http:// proxy is enough: requests to the API stay encrypted on their \
                       way through it)";
            return Err(invalid(what, why));
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !matches!(path, "" | "/") {
            let why = "has a path or a query, which it can't have: in a user name or a password \
                       write %2F for `/` and %3F for `?`";
            return Err(invalid(what, why));
        }
        let (user_info, host_port) = authority.rsplit_once('@').unwrap_or(("", authority));
        let origin = Origin::parse(what, false, host_port, DEFAULT_PORT)?;
        let credentials = (!user_info.is_empty()).then(|| credentials(what, user_info));
        let credentials = credentials.transpose()?;
        Ok(Proxy { origin: Arc::new(origin), credentials, exempt: String::new() })
    }

    /// Reads the proxy that environment variables name, if there is one. `variable` returns an
    /// empty value for a variable that is not set: curl treats both alike.
    pub(crate) fn from_env(
        variable: impl Fn(&str) -> Result<String, Error>,
    ) -> Result<Option<Proxy>, Error> {
        let first = |names: [&'static str; 2]| match variable(names[0])? {
            value if value.is_empty() => Ok((names[1], variable(names[1])?)),
            value => Ok((names[0], value)),
        };
        let (name, url) = first(["https_proxy", "HTTPS_PROXY"])?;
        if url.is_empty() {
            return Ok(None);
        }
        let mut proxy = Proxy::parse(&format!("environment variable {name}"), &url)?;
        let (_, hosts) = first(["no_proxy", "NO_PROXY"])?;
        proxy.exempt = hosts.to_ascii_lowercase();
        Ok(Some(proxy))
    }

    /// Whether `no_proxy` lists this host, as curl's
    /// [`lib/noproxy.c`](https://github.com/curl/curl/blob/master/lib/noproxy.c) reads it, except
    /// that networks (`10.0.0.0/8`) match nothing. Only a lone `*` is special, and an entry with a
    /// port matches no host.
    pub(super) fn exempts(&self, origin: &Origin) -> bool {
        let address = origin.address();
        let is_listed = |entry: &str| match address {
            Some(address) => entry.trim_matches(['[', ']']).parse() == Ok(address),
            None => is_in_domain(&origin.host, entry),
        };
        self.exempt == "*" || self.exempt.split([',', ' ', '\t']).any(is_listed)
    }

    /// Connects to `origin` through the proxy.
    pub(super) fn connect(
        &self, origin: &Origin, network: &Network, call: &CallContext,
    ) -> Result<Socket, Error> {
        let socket = network.connect(&self.origin, &format!(" of the proxy {self}"), call)?;
        let mut reader = BufReader::new(socket);
        let start = Instant::now();
        let target = origin.authority();
        let authorization = match &self.credentials {
            Some([_, basic]) => format!("Proxy-Authorization: Basic {basic}\r\n"),
            None => String::new(),
        };
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
        let response = format!("the response of the proxy {self}");
        let incomplete = |cause| call.incomplete(&response, cause);
        reader.get_mut().write_all(request.as_bytes()).map_err(incomplete)?;
        match final_status(&mut reader).map_err(incomplete)? {
            // A 2xx has no content, whatever its fields say: the tunnel follows the head.
            200..=299 => {
                let mut socket = reader.into_inner();
                network.pool.watch(&mut socket, &self.origin, Some(start.elapsed()));
                Ok(socket)
            }
            status => Err(self.status_error(call, status, &target)),
        }
    }

    /// Returns the secrets that the proxy may echo, so that messages can hide them.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = String> + '_ {
        self.credentials.iter().flatten().cloned()
    }

    fn status_error(&self, call: &CallContext, status: u16, target: &str) -> Error {
        let advice = match status {
            // tinyproxy responds with 401 to wrong credentials.
            401 | 407 if self.credentials.is_some() => {
                ": check the user name and the password; if they are right, the proxy does not \
                 accept Basic authentication, and this crate supports no other"
                    .to_owned()
            }
            407 => ": it wants a user name and a password: give them as \
                    http://USER:PASSWORD@HOST:PORT, percent-encoded"
                .to_owned(),
            403 => {
                format!(": it refuses connections to {target}: ask its administrator to allow them")
            }
            500.. => format!(": it has no connection to {target}"),
            _ => String::new(),
        };
        let message = format!("the proxy {self} responded with status {status}{advice}");
        call.error(message).retryable(status >= 500)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin.authority())
    }
}

/// Reads the response to a CONNECT, after interim ones.
fn final_status(reader: &mut BufReader<Socket>) -> io::Result<u16> {
    let mut head_budget = HEAD_LIMIT;
    loop {
        let mut head = Vec::new();
        read_head(reader, &mut head_budget, &mut head)?;
        match status_line(&head).filter(|(version, _)| version.starts_with(b"1.")) {
            // 101 is final, but no CONNECT asks for it.
            Some((_, 100 | 102..=199)) => {}
            // TLS clients speak first, so the server has sent nothing yet.
            Some((_, 200..=299)) if !reader.buffer().is_empty() => {
                return Err(io::Error::other(
                    "has content, which the response to a CONNECT can't have: check the URL of \
                     the proxy",
                ))
            }
            Some((_, status @ 100..)) => return Ok(status),
            _ => return Err(io::Error::other(NO_HTTP)),
        }
    }
}

/// Returns the password, and the value for `Basic`, of a percent-encoded `user:password`.
fn credentials(what: &str, user_info: &str) -> Result<[String; 2], Error> {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let (Some(user), Some(password)) = (percent_decoded(user), percent_decoded(password)) else {
        return Err(invalid(
            what,
            "has a user name or a password that is not UTF-8 or holds a control character",
        ));
    };
    if user.contains(':') {
        return Err(invalid(what, "has a colon in its user name, which HTTP can't carry"));
    }
    let basic = STANDARD.encode(format!("{user}:{password}"));
    Ok([password, basic])
}

/// Returns `text` without its percent-encoding, or `None` if it is then not UTF-8 or holds a
/// control character.
fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

/// Whether a host is the domain of an entry of `no_proxy`, or below it. Both are in lower case.
fn is_in_domain(host: &str, entry: &str) -> bool {
    let domain = entry.strip_suffix('.').unwrap_or(entry);
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    let is_label_end = |start: &str| start.is_empty() || start.ends_with('.');
    !domain.is_empty() && host.strip_suffix(domain).is_some_and(is_label_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T>(result: Result<T, Error>) -> String {
        let error = result.err().expect("must be refused");
        assert_eq!(error.kind(), crate::ErrorKind::InvalidInput);
        error.to_string()
    }

    fn basic(text: &str) -> String {
        STANDARD.encode(text)
    }

    #[test]
    fn valid_urls_are_accepted() {
        for (text, place, credentials) in [
            ("http://proxy.example:3128", "proxy.example:3128", None),
            ("HTTP://Proxy.Example:3128/", "proxy.example:3128", None),
            ("proxy.example:3128", "proxy.example:3128", None),
            ("proxy", "proxy:1080", None),
            ("http://10.0.0.7", "10.0.0.7:1080", None),
            ("http://[::1]:8080", "[::1]:8080", None),
            ("http://[2001:DB8:0::1]/", "[2001:db8::1]:1080", None),
            ("http://@a:1", "a:1", None),
            ("http://user@a:1", "a:1", Some("user:")),
            ("http://user:@a:1", "a:1", Some("user:")),
            ("http://:pw@a:1", "a:1", Some(":pw")),
            ("user:pw@a:1", "a:1", Some("user:pw")),
            ("http://user:p:w@a:1", "a:1", Some("user:p:w")),
            ("http://user:p@w@a:1", "a:1", Some("user:p@w")),
            ("http://u%20s:%2f%3a%40%25%22@a:1", "a:1", Some("u s:/:@%\"")),
            ("http://us%C3%A9r:p%e2%82%ac@a:1", "a:1", Some("usér:p€")),
            // RFC 7617, section 2
            ("http://Aladdin:open%20sesame@a:1", "a:1", Some("Aladdin:open sesame")),
        ] {
            let proxy = Proxy::parse("URL", text).expect(text);
            assert_eq!(proxy.to_string(), place);
            let expected =
                credentials.map(|text| [text.split_once(':').unwrap().1.to_owned(), basic(text)]);
            assert_eq!(proxy.credentials, expected, "{text}");
        }
        assert_eq!(basic("Aladdin:open sesame"), "QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn invalid_urls_are_refused() {
        for text in [
            "",
            "https://a:1",
            "socks5://a:1",
            "socks5h://user:hush@a:1",
            "user:hush://@a:1",
            "http://a:1/x",
            "http://a:1?x",
            "http://user:1/hush@a:1",
            "http://a:1/#",
            "http://",
            "http://user:hush@",
            "http://:1",
            "http://::1",
            "http://a..b:1",
            "http://[::1",
            "http://[hush]:1",
            "http://[fe80::1%25eth0]:1",
            "http://[::1]1",
            "http://a:",
            "http://a:0",
            "http://a:65536",
            "http://a:+1",
            "http://user:hush",
            "http://a:1\n",
            "http://a\r\nx:1",
            "http://us er:hush@a:1",
            "http://u:%0d%0aX:y@a:1",
            "http://u%00:hush@a:1",
            "http://u:%7F@a:1",
            "http://u:hush%FF@a:1",
            "http://u%3av:hush@a:1",
            "http://u:hush%2@a:1",
        ] {
            // `tests/error_messages/input.rs` has the messages.
            assert!(!message(Proxy::parse("URL", text)).contains("hush"), "{text}");
        }
        for c in ['a', '%', '/', ':', '@', '[', ']', '\0', 'é', '?'] {
            let many = c.to_string().repeat(1 << 13);
            let _ = Proxy::parse("URL", &many);
            let _ = Proxy::parse("URL", &format!("http://{many}@a"));
            let _ = Proxy::parse("URL", &format!("http://a:{many}@a"));
            let _ = Proxy::parse("URL", &format!("http://[{many}"));
        }
    }

    fn environment<'a>(set: &'a [(&str, &str)]) -> impl Fn(&str) -> Result<String, Error> + 'a {
        |name| {
            let found = set.iter().find(|(set, _)| *set == name);
            Ok(found.map_or(String::new(), |(_, value)| (*value).to_owned()))
        }
    }

    #[test]
    fn first_variable_that_is_not_empty_counts() {
        for (set, expected) in [
            (&[][..], None),
            (&[("http_proxy", "a"), ("all_proxy", "a"), ("ALL_PROXY", "a")], None),
            (&[("https_proxy", "")], None),
            (&[("https_proxy", ""), ("HTTPS_PROXY", "")], None),
            (&[("no_proxy", "x"), ("NO_PROXY", "y")], None),
            (&[("https_proxy", "a:1")], Some(("a:1", ""))),
            (&[("HTTPS_PROXY", "a:1")], Some(("a:1", ""))),
            (&[("https_proxy", "a:1"), ("HTTPS_PROXY", "b:1")], Some(("a:1", ""))),
            (&[("https_proxy", ""), ("HTTPS_PROXY", "b:1")], Some(("b:1", ""))),
            (&[("https_proxy", "a:1"), ("no_proxy", "x"), ("NO_PROXY", "y")], Some(("a:1", "x"))),
            (&[("https_proxy", "a:1"), ("no_proxy", ""), ("NO_PROXY", "y")], Some(("a:1", "y"))),
        ] {
            let proxy = Proxy::from_env(environment(set)).unwrap_or_default();
            let found = proxy.map(|proxy| (proxy.to_string(), proxy.exempt));
            let expected = expected.map(|(place, list)| (place.to_owned(), list.to_owned()));
            assert_eq!(found, expected, "{set:?}");
        }
        for name in ["https_proxy", "HTTPS_PROXY"] {
            let message = message(Proxy::from_env(environment(&[(name, "http://u:hush@:1")])));
            assert!(message.contains(name) && !message.contains("hush"), "{message}");
        }
        let garbled = |name: &str| match name {
            "no_proxy" => Err(Error::invalid_input("no_proxy is not UTF-8")),
            _ => Ok("a:1".to_owned()),
        };
        assert_eq!(message(Proxy::from_env(garbled)), "no_proxy is not UTF-8");
    }

    fn exempts(no_proxy: &str, origin: &Origin) -> bool {
        let variables = [("https_proxy", "a:1"), ("no_proxy", no_proxy)];
        let proxy = Proxy::from_env(environment(&variables)).unwrap().unwrap();
        proxy.exempts(origin)
    }

    /// curl 7.88.1 does the same, except for networks.
    #[test]
    fn no_proxy_exempts_hosts_and_addresses() {
        for (list, is_direct) in [
            ("", false),
            (",", false),
            ("*", true),
            (" *", false),
            ("*,x", false),
            ("x,*", false),
            ("*.test", false),
            ("b.test", true),
            ("B.TEST", true),
            (".b.test", true),
            ("b.test.", true),
            (".b.test.", true),
            ("..b.test", false),
            ("test", true),
            (".test", true),
            ("est", false),
            ("a.b.test", false),
            ("bb.test", false),
            (".", false),
            ("b.test:443", false),
            ("a.test,b.test", true),
            ("a.test b.test", true),
            ("a.test\tb.test", true),
            ("a.test  ,,  b.test ", true),
            ("a.test b", false),
        ] {
            let host = Origin::parse("URL", true, "b.test", 443).unwrap();
            assert_eq!(exempts(list, &host), is_direct, "{list}");
        }
        for (list, is_direct) in [
            ("*", true),
            ("127.0.0.9", true),
            ("127.0.0.8", false),
            ("127.0.0.0/8", false),
            ("127.0.0.9/32", false),
            ("127.0.0.9:7", false),
            ("127.0.0.9.", false),
            (".127.0.0.9", false),
            ("0.0.9", false),
            ("9", false),
            ("::ffff:127.0.0.9", false),
            ("x 127.0.0.9", true),
            ("x, y, 127.0.0.9,", true),
        ] {
            let host = Origin::parse("URL", true, "127.0.0.9:7", 443).unwrap();
            assert_eq!(exempts(list, &host), is_direct, "{list}");
        }
        for (list, is_direct) in
            [("[2001:DB8::1]", true), ("2001:db8:0::1", true), ("2001:db8::2", false)]
        {
            let host = Origin::parse("URL", true, "[2001:db8::1]:7", 443).unwrap();
            assert_eq!(exempts(list, &host), is_direct, "{list}");
        }
    }
}
