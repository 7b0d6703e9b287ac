//! URLs and header fields: which characters they may have, and which origins secrets may be sent
//! to. Called by all that takes input from outside. Knows nothing of requests.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::error::remote_text::excerpt;
use crate::error::Error;

/// At most this many characters of a refused path are considered for the error message.
const SHOWN_PATH: usize = 1000;

/// Scheme, host and port ([RFC 9110, section
/// 4.3.1](https://www.rfc-editor.org/rfc/rfc9110#section-4.3.1)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    pub(crate) https: bool,
    /// Lower case; an IPv6 address is without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The origin as a URL, without the port if that is the scheme's default.
    pub(crate) text: String,
}

/// An origin and a path, which starts with `/` (or is empty in a base URL) and may have a query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Url {
    pub(crate) origin: Arc<Origin>,
    pub(crate) path: String,
}

impl Origin {
    /// Parses a host and an optional port. Error messages call them `what`.
    pub(crate) fn parse(
        what: &str, https: bool, authority: &str, default_port: u16,
    ) -> Result<Origin, Error> {
        let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = if let Some((address, port)) = bracketed {
            let invalid = |_| invalid(what, "has no valid IPv6 address in its brackets");
            (address.parse::<Ipv6Addr>().map_err(invalid)?.to_string(), port)
        } else {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let host = host.to_ascii_lowercase();
            check_host(what, &host)?;
            (host, port)
        };
        let port = match (port, port.strip_prefix(':').map(str::parse)) {
            ("", _) => default_port,
            (text, Some(Ok(port))) if port != 0 && !text.starts_with(":+") => port,
            _ => return Err(invalid(what, "has a port that is not from 1 to 65535")),
        };
        let mut origin = Origin { https, host, port, text: String::new() };
        let (scheme, default) = if https { ("https://", ":443") } else { ("http://", ":80") };
        let authority = origin.authority();
        origin.text = [scheme, authority.strip_suffix(default).unwrap_or(&authority)].concat();
        Ok(origin)
    }

    /// The value of the field `Host`.
    pub(crate) fn host_field(&self) -> &str {
        &self.text[if self.https { "https://".len() } else { "http://".len() }..]
    }

    /// Whether the host is certainly this machine: no name look-up is needed, and `http` is safe.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }

    /// The host as an address, if it is one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> String {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        format!("{open}{}{close}:{}", self.host, self.port)
    }
}

impl Url {
    /// Returns the URL for messages: without the query, which may hold private data.
    pub(crate) fn text(&self) -> String {
        [&self.origin.text, self.path.split('?').next().unwrap_or_default()].concat()
    }

    /// Parses a base URL: no query, and no `/` at its end.
    pub(crate) fn base(what: &str, text: &str) -> Result<Url, Error> {
        let mut url = Url::parse(what, text)?;
        if url.path.contains('?') {
            return Err(invalid(what, "has a query, which it can't have"));
        }
        url.path.truncate(url.path.trim_end_matches('/').len());
        if let Some(base) = url.path.strip_suffix("/oauth2/token") {
            let why = "is that of the token endpoint: leave its path out";
            return Err(invalid(what, format_args!("{why} ({}{base})", url.origin.text)));
        }
        Ok(url)
    }

    /// Parses a URL. Error messages call it `what`.
    pub(crate) fn parse(what: &str, text: &str) -> Result<Url, Error> {
        check_uri(what, text)?;
        let (https, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return Err(invalid(what, "does not start with https://")),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            let why = "has user information before its host (`@`), which must not be sent";
            return Err(invalid(what, why));
        }
        let origin = Origin::parse(what, https, authority, if https { 443 } else { 80 })?;
        if !https && !origin.is_loopback() {
            let why = "is not https: http is for this machine only (localhost, 127.0.0.0/8, \
                       [::1]), because secrets would be readable on the way";
            return Err(invalid(what, why));
        }
        // RFC 9112, section 3.2.1: a request target starts with `/`.
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Url { origin: Arc::new(origin), path })
    }

    /// Appends `path` to this base URL. A full URL of the same origin is taken as it is.
    pub(crate) fn join(&self, path: &str) -> Result<Url, Error> {
        self.join_named("path", path).or_else(|error| {
            let start = path.chars().take_while(|&c| c != '?').take(SHOWN_PATH);
            let shown = excerpt(&start.collect::<String>(), &[]);
            // There may be a password before an `@`.
            if shown.is_empty() || path.contains('@') {
                return Err(error);
            }
            self.join_named(&format!("path \"{shown}\""), path)
        })
    }

    /// Joins like [`join`](Url::join). Error messages call the path `what`.
    fn join_named(&self, what: &str, path: &str) -> Result<Url, Error> {
        check_uri(what, path)?;
        if path.starts_with('/') {
            return Ok(Url { origin: self.origin.clone(), path: [&self.path, path].concat() });
        }
        if !path.contains("://") {
            return Err(invalid(what, "starts neither with `/` nor with the base URL's origin"));
        }
        let url = Url::parse(what, path)?;
        if url.origin == self.origin {
            return Ok(url);
        }
        let (own, other) = (&self.origin.text, &url.origin.text);
        let why = format!(
            "has the origin {other}, but the token and the API key are sent only to the base URL's \
             origin, {own}"
        );
        Err(invalid(what, why))
    }
}

/// Encodes `text` as `application/x-www-form-urlencoded` ([RFC 6749, appendix
/// B](https://www.rfc-editor.org/rfc/rfc6749#appendix-B)).
pub(crate) fn form_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b' ' => "+".to_owned(),
        _ if byte.is_ascii_alphanumeric() || b"*-._".contains(&byte) => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// Checks a client id or secret: printable ASCII ([RFC 6749, appendix
/// A](https://www.rfc-editor.org/rfc/rfc6749#appendix-A)).
pub(crate) fn check_credential(what: &str, text: &str) -> Result<(), Error> {
    check(what, text, |byte| (b' '..=b'~').contains(&byte))
}

/// Checks an access token or an API key: visible ASCII, so that it can be part of a field value.
pub(crate) fn check_visible(what: &str, text: &str) -> Result<(), Error> {
    check(what, text, |byte| byte.is_ascii_graphic())
}

/// Checks a field value ([RFC 9110, section
/// 5.5](https://www.rfc-editor.org/rfc/rfc9110#section-5.5)), which may be empty.
pub(crate) fn check_field_value(what: &str, text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Ok(());
    }
    check(what, text, |byte| byte == b'\t' || (b' '..=b'~').contains(&byte))
}

/// Checks a field name: a token of [RFC 9110, section
/// 5.6.2](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2).
pub(crate) fn check_field_name(what: &str, text: &str) -> Result<(), Error> {
    check(what, text, is_token_character)
}

/// Checks a media type: `type/subtype`, optionally with parameters.
pub(crate) fn check_media_type(text: &str) -> Result<(), Error> {
    let what = "media type";
    check(what, text, |byte| byte == b'\t' || (b' '..=b'~').contains(&byte))?;
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let (kind, subtype) = essence.split_once('/').unwrap_or_default();
    if is_token(kind.as_bytes()) && is_token(subtype.as_bytes()) {
        return Ok(());
    }
    Err(invalid(what, "is not of the form type/subtype, such as application/json"))
}

/// Whether this is a token of [RFC 9110, section
/// 5.6.2](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2).
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token_character(byte))
}

fn is_token_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Checks that `text` holds characters of a URI only ([RFC 3986, section
/// 2](https://www.rfc-editor.org/rfc/rfc3986#section-2)) and no fragment.
pub(crate) fn check_uri(what: &str, text: &str) -> Result<(), Error> {
    let is_sign = |byte| b"-._~:/?[]@!$&'()*+,;=%".contains(&byte);
    check(what, text, |byte| byte.is_ascii_alphanumeric() || is_sign(byte))?;
    let is_hex = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let is_escape = |i: usize| text.get(i + 1..i + 3).is_some_and(is_hex);
    let why = "without two hexadecimal digits after it: write %25 for a percent sign";
    match text.match_indices('%').find(|(i, _)| !is_escape(*i)) {
        Some((i, _)) => Err(invalid(what, format_args!("has a `%` as character {} {why}", i + 1))),
        None => Ok(()),
    }
}

fn check_host(what: &str, host: &str) -> Result<(), Error> {
    let is_label = |label: &str| {
        matches!(label.len(), 1..=63)
            && label.trim_matches('-') == label
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
    };
    if host.len() > 253 || !host.split('.').all(is_label) {
        return Err(invalid(what, "has no valid host name"));
    }
    // Resolvers read `127.1`, `0x7f.0.0.1` and `2130706433` as addresses, too.
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_number = last.starts_with("0x") || last.bytes().all(|byte| byte.is_ascii_digit());
    if is_number && host.parse::<Ipv4Addr>().is_err() {
        let why = "has a host that is neither a name nor an IPv4 address in four decimal parts";
        return Err(invalid(what, why));
    }
    Ok(())
}

/// Checks that `text` is not empty, holds only these bytes, which are ASCII, and neither starts nor
/// ends with a space.
fn check(what: &str, text: &str, is_allowed: impl Fn(u8) -> bool) -> Result<(), Error> {
    if text.is_empty() {
        return Err(invalid(what, "is empty"));
    }
    let Some(i) = text.bytes().position(|byte| !is_allowed(byte)) else {
        if text.trim_ascii().len() < text.len() {
            return Err(invalid(what, "starts or ends with a space"));
        }
        return Ok(());
    };
    if i > 0 && text.ends_with('\n') && text.trim_end_matches(['\r', '\n']).len() == i {
        let why = "ends with a line break, as the content of a file does: trim it";
        return Err(invalid(what, why));
    }
    // Only ASCII comes before it, so the index counts characters.
    let c = text[i..].chars().next().unwrap_or_default();
    let name = match c {
        '\n' | '\r' => "a line break",
        '\t' => "a tab",
        ' ' => "a space",
        '#' => "a `#`",
        c if c.is_control() => "a control character",
        c if !c.is_ascii() => "not ASCII",
        _ => "not allowed there",
    };
    let (number, code) = (i + 1, u32::from(c));
    Err(invalid(what, format_args!("can't be sent: character {number} is {name} (U+{code:04X})")))
}

pub(crate) fn invalid(what: &str, why: impl fmt::Display) -> Error {
    Error::invalid_input(format!("the {what} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the kind: `tests/error_messages/input.rs` has the messages.
    fn assert_refused<T: fmt::Debug>(text: &str, result: Result<T, Error>) {
        let error = result.expect_err(text);
        assert_eq!(error.kind(), crate::ErrorKind::InvalidInput, "{text}");
    }

    #[test]
    fn valid_base_urls_are_accepted() {
        for (text, origin, path) in [
            ("https://api.jas.com", "https://api.jas.com", ""),
            ("HTTPS://API.jas.com/", "https://api.jas.com", ""),
            ("https://api.jas.com:443/x/", "https://api.jas.com", "/x"),
            ("https://api.jas.com:8443", "https://api.jas.com:8443", ""),
            ("https://10.0.0.7/v1", "https://10.0.0.7", "/v1"),
            ("http://localhost:80", "http://localhost", ""),
            ("http://127.0.0.9:8080//", "http://127.0.0.9:8080", ""),
            ("https://a_b.example/%20", "https://a_b.example", "/%20"),
            ("https://[2001:DB8:0::1]/v1", "https://[2001:db8::1]", "/v1"),
            ("http://[::1]:8080", "http://[::1]:8080", ""),
        ] {
            let url = Url::base("base URL", text).expect(text);
            assert_eq!((&*url.origin.text, &*url.path), (origin, path));
        }
    }

    #[test]
    fn invalid_base_urls_are_refused() {
        for text in [
            "",
            "api.jas.com",
            "ftp://api.jas.com",
            "https://",
            "https:///x",
            "https://a..b",
            "https://-a.b",
            "https://a.b.",
            "https://127.1",
            "https://0x7f000001",
            "https://18446744073709551616",
            "https://a:0",
            "https://a:65979",
            "https://a:+443",
            "https://a:",
            "https://[::1/",
            "https://[::g]/",
            "https://[10.0.0.7]/",
            "https://[::1]8/",
            "http://[2001:db8::1]/",
            "https://a/?q",
            "https://a?q",
            "https://a/#x",
            "https://a\r\n",
            "https://a\n/",
            "https://é",
            "https://a b",
            "https://a\\b",
            "https://a/%2",
            "http://127.0.0.9:pw@api.example.com/",
            "http://api.jas.com",
            "http://localhost.evil.com",
            "https://api.jas.com/x/oauth2/token",
        ] {
            assert_refused(text, Url::base("base URL", text));
        }
    }

    #[test]
    fn path_is_appended_to_the_base_url() {
        let base = Url::base("base URL", "https://api.jas.com/gw").unwrap();
        for (path, whole) in [
            ("/a/b?c=d", "/gw/a/b?c=d"),
            ("/", "/gw/"),
            ("//evil.com/x", "/gw//evil.com/x"),
            ("https://API.jas.com/next?page=2", "/next?page=2"),
            ("HTTPS://api.jas.com:443", "/"),
            ("https://api.jas.com?x", "/?x"),
            ("/a?u=https://b/", "/gw/a?u=https://b/"),
        ] {
            assert_eq!(base.join(path).expect(path).path, whole);
        }
        for path in [
            "",
            "a?key=hush",
            "?a",
            "/a#b",
            "/a\0",
            "/a{",
            "https://user:hush@api.jas.com/",
            "https://user:hu?sh@api.jas.com/",
            "https://api.jas.com:444/x?y",
            "https://api.jas.com.evil.com",
        ] {
            assert_refused(path, base.join(path));
        }
    }

    #[test]
    fn form_encoding_gives_the_vectors_of_rfc_6749() {
        // Appendix B: U+0020, U+0025, U+0026, U+002B, U+00A3 and U+20AC.
        assert_eq!(form_encoded(" %&+£€"), "+%25%26%2B%C2%A3%E2%82%AC");
        assert_eq!(form_encoded("aZ09*-._~"), "aZ09*-._%7E");
    }

    #[test]
    fn credentials_fields_and_media_types_are_checked() {
        assert!(check_credential("x", " ").is_err());
        assert!(check_credential("x", "a b\"\\").is_ok());
        assert!(check_credential("x", "hush ").is_err());
        assert!(check_visible("x", "a b").is_err());
        assert!(check_field_value("x", "").is_ok());
        assert!(check_field_value("x", "a\tb c").is_ok());
        for bad in ["\0", "a\r\nb: c", "é", "\u{7f}", " a", "a\n"] {
            assert!(check_credential("x", bad).is_err(), "{bad:?}");
            assert!(check_field_value("x", bad).is_err(), "{bad:?}");
            assert!(check_field_name("x", bad).is_err(), "{bad:?}");
            assert!(check_visible("x", bad).is_err(), "{bad:?}");
        }
        assert!(check_field_name("x", "x-y").is_ok());
        assert!(check_field_name("x", "x:y").is_err());
        assert!(check_field_name("x", "").is_err());
        for good in ["application/json", "application/xml; charset=utf-8", "a/b;c=\"d e\""] {
            assert!(check_media_type(good).is_ok(), "{good}");
        }
        for bad in ["", "json", "/json", "a/", "a /b", "a/b/c", "a/b\r\nx: y", " a/b", "ä/b"] {
            assert!(check_media_type(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn long_text_of_any_character_causes_no_panic() {
        let base = Url::base("base URL", "https://a").unwrap();
        for c in ['a', '%', '/', ':', '@', '\0', 'é', '?', '['] {
            let text = c.to_string().repeat(1 << 15);
            let _ = Url::base("base URL", &text);
            let _ = Url::base("base URL", &format!("https://{text}"));
            let _ = base.join(&text);
            let _ = base.join(&format!("/{text}"));
            let _ = check_credential("x", &text);
            let _ = check_visible("x", &text);
            let _ = check_field_name("x", &text);
            let _ = check_field_value("x", &text);
            let _ = check_media_type(&text);
        }
    }
}
