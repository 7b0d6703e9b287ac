//! Input and environment variables that are refused before anything is sent.

use super::*;

use jas_session::ErrorKind;

const NO_FILE: &str = if cfg!(unix) { "/dev/null" } else { "NUL" };

#[test]
fn refused_input_is_named() {
    let session = wire::session("http://localhost:9/v1");
    let header = |name| session.clone().header(name, "x").err();
    let key = |key| session.clone().api_key(key).err();
    let token_file = |path| session.clone().token_file(path).err();
    let own = |name, advice| format!("the field {name} is the session's own{advice}");
    let no_file = |path| format!("the token file's path is not that of a file: \"{path}\"");
    let rows = [
        (header("authorization"), own("Authorization", "")),
        (header("Host"), own("Host", "")),
        (header("content-length"), own("Content-Length", "")),
        (header("content-type"), own("Content-Type", ": give it to Session::post")),
        (header("transfer-encoding"), own("Transfer-Encoding", "")),
        (header("connection"), own("Connection", "")),
        (header("EXPECT"), own("Expect", "")),
        (header("accept-encoding"), own("Accept-Encoding", "")),
        (header("X-API-Key"), own("x-api-key", ": use Session::api_key")),
        (
            header("x:y"),
            "the field name can't be sent: character 2 is not allowed there (U+003A)".into(),
        ),
        (key(""), "the API key is empty".into()),
        (key("a b"), "the API key can't be sent: character 2 is a blank (U+0020)".into()),
        (
            session.clone().header("X-A", " a").err(),
            "the value of the field X-A starts or ends with a blank".into(),
        ),
        (
            session.post("/x", "json", "").err(),
            "the media type is not of the form type/subtype, such as application/json".into(),
        ),
        (session.clone().resume("", wire::PATIENCE).err(), "the access token is empty".into()),
        (
            session.clone().token_endpoint("https://a b").err(),
            "the token endpoint's URL can't be sent: character 10 is a blank (U+0020)".into(),
        ),
        (Session::new("http://localhost", "", "secret").err(), "the client id is empty".into()),
        (
            Session::new("http://localhost", "id", "hush ").err(),
            "the client secret starts or ends with a blank".into(),
        ),
        (token_file(""), no_file("")),
        (token_file("a/.."), no_file("a/..")),
        (token_file("/"), no_file("/")),
        (token_file("."), no_file(".")),
        #[cfg(unix)]
        (token_file(NO_FILE), no_file(NO_FILE)),
    ];
    for (error, message) in rows {
        let message: String = message;
        let error = error.unwrap_or_else(|| panic!("accepted: {message}"));
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), message);
    }
}

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
    ("https://a b", "can't be sent: character 10 is a blank (U+0020)"),
    ("https://a\\b", "can't be sent: character 10 is not allowed there (U+005C)"),
    (
        "https://a/%2",
        "has a `%` as character 11 without two hexadecimal digits behind it: write %25 for a \
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
        "\"https://api.jas.com:444/x\" is a URL of another origin (https://api.jas.com:444) than \
         the base URL's (https://api.jas.com), where neither token nor API key may go",
    ),
];

/// A proxy's URL, and the end of the message.
const PROXIES: &[(&str, &str)] = &[
    (
        "socks5://user:hush@a:1",
        "does not start with http://, which is how this device speaks to a proxy (what goes \
         through it is TLS): HTTPS and SOCKS proxies are not supported",
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
    ("http://us er:hush@a:1", "can't be sent: character 10 is a blank (U+0020)"),
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

/// Variables, and the message of `from_env`.
const VARIABLES: &[(&[(&str, &str)], &str)] = &[
    (&[("JAS_CLIENT_ID", "")], "environment variables missing or empty: JAS_CLIENT_ID"),
    (
        &[("JAS_URL", "api.jas.com")],
        "the environment variable JAS_URL does not start with https://",
    ),
    (
        &[("JAS_CLIENT_SECRET", "hush\n")],
        "the environment variable JAS_CLIENT_SECRET ends with a line break, as the content of a \
         file does: trim it",
    ),
    (
        &[("JAS_API_KEY", "a b")],
        "the environment variable JAS_API_KEY can't be sent: character 2 is a blank (U+0020)",
    ),
    (
        &[("JAS_TOKEN_ENDPOINT", "x")],
        "the environment variable JAS_TOKEN_ENDPOINT does not start with https://",
    ),
    (
        &[("JAS_CLIENT_SECRET_FILE", "secret")],
        "the environment variables JAS_CLIENT_SECRET and JAS_CLIENT_SECRET_FILE are both set: \
         unset one",
    ),
    (
        &[("JAS_API_KEY_FILE", "/no/such/file")],
        "the file /no/such/file (JAS_API_KEY_FILE) can't be read",
    ),
    #[cfg(feature = "tls")]
    (
        &[("HTTPS_PROXY", "proxy:0")],
        "the environment variable HTTPS_PROXY has a port that is not from 1 to 65535",
    ),
];

/// All variables that are removed before a row's are set.
const OTHERS: [&str; 6] = [
    "JAS_API_KEY",
    "JAS_API_KEY_FILE",
    "JAS_CLIENT_SECRET_FILE",
    "JAS_TOKEN_ENDPOINT",
    "HTTPS_PROXY",
    "https_proxy",
];

/// Where a child finds the message that it expects.
const EXPECTED: &str = "JAS_SESSION_TEST_EXPECTED";

#[test]
fn refused_variable_is_named() {
    if let Ok(expected) = std::env::var(EXPECTED) {
        let session = Session::from_env();
        #[cfg(feature = "tls")]
        let session = session.and_then(Session::proxy_from_env);
        let error = session.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), expected);
        return;
    }
    let child = |message: &str| {
        let mut child = wire::this_test_alone("input::refused_variable_is_named", &[]);
        child.env("JAS_URL", "http://localhost:9").env("JAS_CLIENT_ID", "id");
        child.env("JAS_CLIENT_SECRET", "hush").env(EXPECTED, message);
        for name in OTHERS {
            child.env_remove(name);
        }
        child
    };
    for (variables, message) in VARIABLES {
        let mut child = child(message);
        child.envs(variables.iter().copied());
        wire::assert_passes(child);
    }
    let mut empty = child(&format!("the file {NO_FILE} (JAS_API_KEY_FILE) is empty"));
    empty.env("JAS_API_KEY_FILE", NO_FILE);
    wire::assert_passes(empty);
    let mut garbled = child("the environment variable JAS_URL is not UTF-8");
    garbled.env("JAS_URL", not_unicode());
    wire::assert_passes(garbled);
}

fn not_unicode() -> std::ffi::OsString {
    #[cfg(unix)]
    return std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
    #[cfg(windows)]
    return std::os::windows::ffi::OsStringExt::from_wide(&[0xd800]);
}
