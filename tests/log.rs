//! The feature `log` logs each event at its level, and no secret.
#![cfg(feature = "log")]

use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use jas_session::Session;

#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[path = "support/scratch/mod.rs"]
mod scratch;
use sandbox::{Fault, Place, Sandbox, API_KEY, CLIENT_SECRET};
use scratch::Directory;

static SESSION: OnceLock<Session> = OnceLock::new();
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Recorder;

impl log::Log for Recorder {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "jas_session"
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            // Loggers may use the session, because nothing is logged while it is locked.
            let _ = SESSION.get().map(Session::held_token);
            let line = format!("{} {}", record.level(), record.args());
            LINES.lock().expect("no panic").push(line);
        }
    }

    fn flush(&self) {}
}

/// The lines logged since the last call.
fn logged() -> String {
    std::mem::take(&mut *LINES.lock().expect("no panic")).join("\n")
}

/// The lines of a token request.
fn requested(sandbox: &Sandbox) -> String {
    let endpoint = format!("{}/oauth2/token", sandbox.url());
    format!("DEBUG requesting a token from {endpoint}\nINFO token received, good for 600s")
}

/// There is one test, because all threads of a process share the logger.
#[test]
fn events_are_logged_without_a_secret() {
    log::set_logger(&Recorder).expect("the only logger");
    log::set_max_level(log::LevelFilter::Trace);
    let sandbox = Sandbox::start();
    tokens_and_retries(&sandbox);
    token_files(&sandbox);
}

fn tokens_and_retries(sandbox: &Sandbox) {
    const SHIPMENT: &str = "/tracking/v1/shipments/S505185992";
    let url = sandbox.url();
    let session = sandbox.session();
    SESSION.set(session.clone()).expect("set once");
    let old = session.access_token().unwrap();
    let first = logged();
    assert_eq!(first, requested(sandbox));

    sandbox.revoke();
    session.get(SHIPMENT).unwrap();
    let replaced = logged();
    let refused = "WARN the token was refused; requesting another\n".to_owned();
    assert_eq!(replaced, refused + &requested(sandbox));

    let new = session.access_token().unwrap();
    let echo = format!("{CLIENT_SECRET} {API_KEY} {new}");
    let busy = vec![("Retry-After", "0".to_owned())];
    sandbox.next(Place::Api, Fault::Response(503, busy, echo.into()));
    session.get(SHIPMENT).unwrap();
    let retried = logged();
    assert!(retried.starts_with(&format!("WARN GET {url}{SHIPMENT}: status 503")), "{retried}");
    assert!(retried.ends_with("; retrying in 0ns"), "{retried}");

    sandbox.token_lifetime(Duration::from_secs(1));
    session.invalidate(&new);
    session.access_token().unwrap();
    while session.held_token().is_some_and(|(_, left)| left > Duration::from_millis(500)) {
        std::thread::sleep(Duration::from_millis(5));
    }
    sandbox.next(Place::Token, Fault::Raw(CLIENT_SECRET.into()));
    session.access_token().unwrap();
    let failed = logged();
    let last = failed.lines().last().unwrap_or_default();
    let expected = "WARN the token could not be renewed yet: token request to";
    assert!(last.starts_with(expected), "{last}");

    let all = [first, replaced, retried, failed].concat();
    for secret in [CLIENT_SECRET, API_KEY, &old, &new, &session.access_token().unwrap()] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
}

/// A fault of a token file is only logged.
fn token_files(sandbox: &Sandbox) {
    let scratch = Directory::new();
    let directory = scratch.file("gone");
    let file = directory.join("token");
    let shown = file.display();
    sandbox.token_lifetime(Duration::from_secs(600));
    let run = || {
        let session = sandbox.session().token_file(&file).expect("a session");
        let token = session.access_token().unwrap();
        let lines = logged();
        assert!(!lines.contains(&token), "{lines}");
        lines
    };
    logged();
    let requested = requested(sandbox);
    let lines = run();
    let begin = format!("{requested}\nWARN the token could not be stored in {shown}: ");
    assert!(lines.starts_with(&begin), "{lines}");
    std::fs::create_dir(&directory).unwrap();
    assert_eq!(run(), requested);
    assert_eq!(run(), "DEBUG using the token of the token file");
    std::fs::write(&file, "{").unwrap();
    assert_eq!(run(), format!("WARN no token from {shown}: it is damaged\n{requested}"));
}
