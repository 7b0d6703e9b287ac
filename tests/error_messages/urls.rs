//! URLs and paths that are refused before anything is sent.

use super::*;

use jas_session::ErrorKind;

const HTTPS_ONLY: &str = "is not https: http is for this machine only (localhost, 127.0.0.0/8, \
                          [::1]), because secrets would be readable on the way";
const USER_INFO: &str = "has user information before its host (`@`), which must not be sent";
const BAD_PORT: &str = "has a port that is not from 1 to 65535";
const BAD_HOST: &str = "has no valid host name";
const BAD_ADDRESS: &str = "has no valid IPv6 address in its brackets";
const LINE_BREAK: &str = "ends with a line break, as the content of a file does: trim it";

/// A base URL, and the end of the message.
const BASE_URLS: &[(&str, &str)] = &[
    ("", "is empty"),
    ("api.jas.com", "does not start with https://"),
    ("https://", BAD_HOST),
    (
        "https://127.1",
        "has a host that is neither a name nor an IPv4 address in four decimal parts",
    ),
    ("https://a:0", BAD_PORT),
    ("https://[::g]/", BAD_ADDRESS),
    ("http://localhost.evil.com", HTTPS_ONLY),
    ("https://a?q", "has a query, which it can't have"),
    ("https://a\r\n", LINE_BREAK),
    ("https://a/#x", "can't be sent: character 11 is a `#` (U+0023)"),
    ("https://a\n/", "can't be sent: character 10 is a line break (U+000A)"),
    ("https://a\0/", "can't be sent: character 10 is a control character (U+0000)"),
    ("https://é", "can't be sent: character 9 is not ASCII (U+00E9)"),
    ("https://a b", "can't be sent: character 10 is a space (U+0020)"),
    ("https://a\\b", "can't be sent: character 10 is not allowed there (U+005C)"),
    (
        "https://a/%2",
        "has a `%` as character 11 without two hexadecimal digits after it: write %25 for a \
         percent sign",
    ),
    ("http://127.0.0.9:pw@api.example.com/", USER_INFO),
    (
        "https://api.jas.com/x/oauth2/token",
        "is that of the token endpoint: leave its path out (https://api.jas.com/x)",
    ),
];

/// A path for the base URL `https://api.jas.com/gw`, and the end of the message.
const PATHS: &[(&str, &str)] = &[
    ("", "is empty"),
    ("a?key=hush", "\"a\" starts neither with `/` nor with the base URL's origin"),
    ("?a", "starts neither with `/` nor with the base URL's origin"),
    ("/a#b", "\"/a#b\" can't be sent: character 3 is a `#` (U+0023)"),
    ("https://user:hush@api.jas.com/", USER_INFO),
    ("https://user:hu?sh@api.jas.com/", BAD_PORT),
    (
        "https://api.jas.com:444/x?y",
        "\"https://api.jas.com:444/x\" has the origin https://api.jas.com:444, but the token and \
         the API key are sent only to the base URL's origin, https://api.jas.com",
    ),
];

/// A proxy's URL, and the end of the message.
const PROXIES: &[(&str, &str)] = &[
    (
        "socks5://user:hush@a:1",
        "does not start with http://: HTTPS and SOCKS proxies are not supported (an http:// proxy \
         is enough: requests to the API stay encrypted on their way through it)",
    ),
    (
        "http://user:1/hush@a:1",
        "has a path or a query, which it can't have: in a user name or a password write %2F for \
         `/` and %3F for `?`",
    ),
    (
        "http://u:hush%FF@a:1",
        "has a user name or a password that is not UTF-8 or holds a control character",
    ),
    ("http://u%3av:hush@a:1", "has a colon in its user name, which HTTP can't carry"),
    ("http://user:hush", BAD_PORT),
    ("http://user:hush@", BAD_HOST),
    ("http://[hush]:1", BAD_ADDRESS),
    ("http://us er:hush@a:1", "can't be sent: character 10 is a space (U+0020)"),
    ("http://a:1\n", LINE_BREAK),
];

type Call<'a> = &'a dyn Fn(&str) -> Option<Error>;

#[test]
fn refused_url_or_path_is_named() {
    let session = wire::session("https://api.jas.com/gw");
    let base = |text: &str| Session::new(text, "id", "secret").err();
    let path = |text: &str| session.get(text).err();
    let proxy = |text: &str| session.clone().proxy(text).err();
    let calls: [(&str, Call, _); 3] =
        [("base URL", &base, BASE_URLS), ("path", &path, PATHS), ("proxy's URL", &proxy, PROXIES)];
    for (name, call, rows) in calls {
        for (text, reason) in rows {
            let error = call(text).unwrap_or_else(|| panic!("accepted: {text:?}"));
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert_eq!(error.to_string(), format!("the {name} {reason}"), "{text:?}");
        }
    }
}
