//! The feature `log`: what is logged at which level, and that no secret is.
#![cfg(feature = "log")]

use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use jas_session::Session;

#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[path = "support/scratch/mod.rs"]
mod scratch;
use sandbox::{Fault, Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};
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
            // A logger may look at the session: nothing is logged under a lock.
            let _ = SESSION.get().map(Session::held_token);
            let line = format!("{} {}", record.level(), record.args());
            LINES.lock().expect("no panic").push(line);
        }
    }

    fn flush(&self) {}
}

#[test]
fn requests_renewals_refusals_and_retries_are_told_without_a_secret() {
    log::set_logger(&Recorder).expect("the only logger");
    log::set_max_level(log::LevelFilter::Trace);
    let sandbox = Sandbox::start();
    let url = sandbox.url();
    let told = || std::mem::take(&mut *LINES.lock().expect("no panic")).join("\n");
    let shipment = "/tracking/v1/shipments/S505185992";

    let session = Session::new(&url, CLIENT_ID, CLIENT_SECRET)
        .and_then(|session| session.api_key(API_KEY))
        .expect("a session");
    SESSION.set(session.clone()).expect("set once");
    let old = session.access_token().unwrap();
    let mut all = told();
    let requested = format!(
        "DEBUG requesting a token from {url}/oauth2/token\nINFO token received, good for 600s"
    );
    assert_eq!(all, requested);

    sandbox.revoke();
    session.get(shipment).unwrap();
    let lines = told();
    assert_eq!(lines, format!("WARN the token was refused; requesting another\n{requested}"));
    all += &lines;

    let echo = format!("{CLIENT_SECRET} {API_KEY} {}", session.access_token().unwrap());
    let busy = vec![("Retry-After", "0".to_owned())];
    sandbox.next(Place::Api, Fault::Response(503, busy, echo.into()));
    session.get(shipment).unwrap();
    let lines = told();
    assert_eq!(
        lines,
        format!(
            "WARN GET {url}{shipment}: status 503: the server, or one behind it, is down or \
             overloaded: try again later; the response says: [redacted] [redacted] [redacted]; \
             retrying in 0ns"
        )
    );
    all += &lines;

    sandbox.token_lifetime(Duration::from_secs(1));
    session.invalidate(&session.access_token().unwrap());
    session.access_token().unwrap();
    while session.held_token().is_some_and(|(_, left)| left > Duration::from_millis(500)) {
        std::thread::sleep(Duration::from_millis(5));
    }
    sandbox.next(Place::Token, Fault::Raw(CLIENT_SECRET.into()));
    session.access_token().unwrap();
    let lines = told();
    let last = lines.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("WARN the token could not be renewed yet: token request to"),
        "{last}"
    );
    all += &lines;

    // What is wrong with a token file is told nowhere else.
    let scratch = Directory::new();
    let directory = scratch.file("gone");
    let file = directory.join("token");
    let shown = file.display();
    sandbox.token_lifetime(Duration::from_secs(600));
    let run = || {
        let session = Session::new(&url, CLIENT_ID, CLIENT_SECRET)
            .and_then(|session| session.token_file(&file))
            .expect("a session");
        let token = session.access_token().unwrap();
        let lines = told();
        assert!(!lines.contains(&token), "{lines}");
        lines
    };
    let kept = format!("{requested}\nWARN the token is not kept in {shown}: ");
    let lines = run();
    assert!(lines.starts_with(&kept), "{lines}");
    std::fs::create_dir(&directory).unwrap();
    assert_eq!(run(), requested);
    let lines = run();
    assert_eq!(lines, "DEBUG the token is that of the token file");
    std::fs::write(&file, "{").unwrap();
    let damaged = format!("WARN no token from {shown}: it is damaged\n{requested}");
    assert_eq!(run(), damaged);

    let new = session.access_token().unwrap();
    for secret in [CLIENT_SECRET, API_KEY, &old, &new] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
}
