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
    let own = |name, advice| format!("the field {name} is set by the session{advice}");
    let no_file = |path| format!("the token file's path does not name a file: \"{path}\"");
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
        (key("a b"), "the API key can't be sent: character 2 is a space (U+0020)".into()),
        (
            session.clone().header("X-A", " a").err(),
            "the value of the field X-A starts or ends with a space".into(),
        ),
        (
            session.post("/x", "json", "").err(),
            "the media type is not of the form type/subtype, such as application/json".into(),
        ),
        (session.clone().resume("", wire::PATIENCE).err(), "the access token is empty".into()),
        (
            session.clone().token_endpoint("https://a b").err(),
            "the token endpoint's URL can't be sent: character 10 is a space (U+0020)".into(),
        ),
        (Session::new("http://localhost", "", "secret").err(), "the client id is empty".into()),
        (
            Session::new("http://localhost", "id", "hush ").err(),
            "the client secret starts or ends with a space".into(),
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
        "the environment variable JAS_API_KEY can't be sent: character 2 is a space (U+0020)",
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
        &[("https_proxy", "proxy:0")],
        "the environment variable https_proxy has a port that is not from 1 to 65535",
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
