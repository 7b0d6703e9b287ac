//! `Session::from_env`; alone in its process, because the environment is one for all threads.

use jas_session::{ErrorKind, Session};

#[test]
fn a_session_is_made_from_the_environment() {
    let all = [
        ("JAS_URL", "http://127.0.0.1:9/gw"),
        ("JAS_CLIENT_ID", "id"),
        ("JAS_CLIENT_SECRET", "hush"),
        ("JAS_API_KEY", "key"),
        ("JAS_TOKEN_ENDPOINT", "http://localhost:9/token"),
    ];
    for (name, _) in all {
        std::env::remove_var(name);
    }
    let message = || {
        let error = Session::from_env().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    };
    assert_eq!(
        message(),
        "environment variables missing or empty: JAS_URL, JAS_CLIENT_ID, JAS_CLIENT_SECRET"
    );
    std::env::set_var("JAS_URL", all[0].1);
    std::env::set_var("JAS_CLIENT_ID", "");
    std::env::set_var("JAS_CLIENT_SECRET", all[2].1);
    assert_eq!(
        message(),
        "environment variables missing or empty: JAS_CLIENT_ID"
    );
    for (name, value) in all {
        std::env::set_var(name, value);
    }
    let shown = format!("{:?}", Session::from_env().unwrap());
    assert_eq!(
        shown,
        "Session { base_url: http://127.0.0.1:9/gw, token_endpoint: http://localhost:9/token, \
         client_id: \"id\", timeout: 60s, renew_before: 60s, retries: 2, .. }"
    );
    std::env::set_var("JAS_API_KEY", "a b");
    assert_eq!(
        message(),
        "the API key can't be sent: character 2 is a blank (U+0020)"
    );
    std::env::set_var("JAS_API_KEY", "");
    std::env::set_var("JAS_TOKEN_ENDPOINT", "http://example.com/token");
    assert!(message().starts_with("the token endpoint's URL is not https"));
    std::env::set_var("JAS_CLIENT_SECRET", "hush\n");
    assert_eq!(
        message(),
        "the client secret ends with a line break, as the content of a file does: trim it"
    );
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt as _;
        std::env::set_var("JAS_URL", std::ffi::OsStr::from_bytes(b"\xff"));
        assert_eq!(message(), "the environment variable JAS_URL is not UTF-8");
    }
}
