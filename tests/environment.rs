//! `Session::from_env`. One test, alone in its process: all threads share the environment.

use std::ffi::OsString;

use jas_session::{ErrorKind, Session};

#[path = "support/scratch/mod.rs"]
mod scratch;
use scratch::Directory;

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
    assert_eq!(message(), "environment variables missing or empty: JAS_CLIENT_ID");
    for (name, value) in all {
        std::env::set_var(name, value);
    }
    let shown = format!("{:?}", Session::from_env().unwrap());
    assert_eq!(
        shown,
        "Session { base_url: \"http://127.0.0.1:9/gw\", token_endpoint: \"http://localhost:9/token\", \
         client_id: \"id\", proxy: None, timeout: 60s, renew_before: 60s, retries: 2, .. }"
    );
    std::env::set_var("JAS_API_KEY", "a b");
    assert_eq!(
        message(),
        "the environment variable JAS_API_KEY can't be sent: character 2 is a blank (U+0020)"
    );
    std::env::set_var("JAS_API_KEY", "");
    std::env::set_var("JAS_TOKEN_ENDPOINT", "http://example.com/token");
    assert!(message().starts_with("the environment variable JAS_TOKEN_ENDPOINT is not https"));
    std::env::set_var("JAS_CLIENT_SECRET", "hush\n");
    assert_eq!(
        message(),
        "the environment variable JAS_CLIENT_SECRET ends with a line break, as the content of a file \
         does: trim it"
    );
    std::env::set_var("JAS_URL", "http://api.jas.com");
    assert!(message().starts_with("the environment variable JAS_URL is not https"));
    std::env::set_var("JAS_URL", all[0].1);
    secrets_in_files();
    #[cfg(unix)]
    let not_unicode: OsString = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
    #[cfg(windows)]
    let not_unicode: OsString = std::os::windows::ffi::OsStringExt::from_wide(&[0xd800]);
    std::env::set_var("JAS_URL", not_unicode);
    assert_eq!(message(), "the environment variable JAS_URL is not UTF-8");
}

/// Secrets in mounted files, as containers get them.
fn secrets_in_files() {
    for name in ["JAS_CLIENT_SECRET", "JAS_API_KEY", "JAS_TOKEN_ENDPOINT"] {
        std::env::remove_var(name);
    }
    let directory = Directory::new();
    let path = directory.file("secret");
    let shown = path.display();
    std::env::set_var("JAS_CLIENT_SECRET_FILE", &path);
    std::env::set_var("JAS_API_KEY_FILE", &path);
    let message = || Session::from_env().unwrap_err().to_string();
    // The file is missing, or holds no secret. Only one line break at its end is taken off.
    let error = Session::from_env().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let what = format!("the file {shown} (JAS_CLIENT_SECRET_FILE)");
    assert!(format!("{error:#}").starts_with(&format!("{what} can't be read: ")));
    for (content, why) in [
        (&b""[..], "is empty"),
        (b"\n", "is empty"),
        (b"hush\n\n", "ends with a line break, as the content of a file does: trim it"),
        (b"h\xffsh\r\n", "can't be sent: character 2 is not ASCII (U+FFFD)"),
    ] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(message(), format!("{what} {why}"));
    }
    for content in ["hush", "hush\n", "hush\r\n", "\u{feff}hush\r\n"] {
        std::fs::write(&path, content).unwrap();
        assert!(Session::from_env().is_ok(), "{content:?}");
    }
    std::env::set_var("JAS_API_KEY", "key");
    assert_eq!(
        message(),
        "the environment variables JAS_API_KEY and JAS_API_KEY_FILE are both set: unset one"
    );
    std::env::remove_var("JAS_API_KEY_FILE");
    assert!(Session::from_env().is_ok());
    std::env::remove_var("JAS_CLIENT_SECRET_FILE");
    std::env::set_var("JAS_CLIENT_SECRET", "hush");
}
