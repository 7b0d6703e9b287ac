//! `Session::from_env` reads the variables and files that it names (its errors: `error_messages.rs`).
//! There is one test, because all threads of a process share the environment.

use jas_session::{ErrorKind, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[path = "support/scratch/mod.rs"]
mod scratch;
use sandbox::{Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};
use scratch::Directory;

const SHIPMENT: &str = "/tracking/v1/shipments/S505185992";
const OTHERS: [&str; 3] = ["JAS_CLIENT_SECRET_FILE", "JAS_API_KEY_FILE", "JAS_TOKEN_ENDPOINT"];

fn assert_complete() {
    let session = Session::from_env().unwrap();
    assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
}

fn assert_refused(name: &str) {
    let error = Session::from_env().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains(name), "{name}: {error}");
}

#[test]
fn session_is_made_from_the_environment() {
    let sandbox = Sandbox::start();
    let all = [
        ("JAS_URL", sandbox.url()),
        ("JAS_CLIENT_ID", CLIENT_ID.to_owned()),
        ("JAS_CLIENT_SECRET", CLIENT_SECRET.to_owned()),
        ("JAS_API_KEY", API_KEY.to_owned()),
    ];
    for name in OTHERS {
        std::env::remove_var(name);
    }
    for (name, value) in &all {
        std::env::set_var(name, value);
    }
    assert_complete();
    std::env::set_var("JAS_TOKEN_ENDPOINT", sandbox.url() + "/elsewhere");
    Session::from_env().unwrap().access_token().unwrap_err();
    let last = sandbox.requests().pop().unwrap();
    assert_eq!((last.place, &*last.target), (Place::Api, "/elsewhere"));
    std::env::remove_var("JAS_TOKEN_ENDPOINT");
    secrets_in_files();
}

/// Reads secrets from mounted files, as containers get them.
fn secrets_in_files() {
    let directory = Directory::new();
    for (name, value) in [("JAS_CLIENT_SECRET", CLIENT_SECRET), ("JAS_API_KEY", API_KEY)] {
        let of_file = format!("{name}_FILE");
        let file = directory.file(name);
        std::env::set_var(&of_file, &file);
        std::env::remove_var(name);
        // Only one line break is removed from its end.
        for wrong in [&b""[..], b"\n", b"hush\n\n", b"h\xffsh\r\n"] {
            std::fs::write(&file, wrong).unwrap();
            assert_refused(&of_file);
        }
        for end in ["", "\n", "\r\n"] {
            for mark in ["", "\u{feff}"] {
                std::fs::write(&file, format!("{mark}{value}{end}")).unwrap();
                assert_complete();
            }
        }
    }
}
