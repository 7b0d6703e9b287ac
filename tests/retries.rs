//! Which requests are retried, counted where they are received.

use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Error, ErrorKind, Response, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{closed_url, Fault, Place, Sandbox};

const SHIPMENT: &str = "/tracking/v1/shipments/S505185992";
const BOOKINGS: &str = "/bookings/v1/bookings";

/// A session that holds a token.
fn session(sandbox: &Sandbox) -> Session {
    let session = sandbox.session();
    session.access_token().expect("a token");
    session
}

fn book(session: &Session) -> Result<Response, Error> {
    session.post(BOOKINGS, "application/json", "{}")
}

fn response(status: u16, retry_after: Option<&str>) -> Fault {
    let fields = retry_after.map(|value| ("Retry-After", value.to_owned()));
    Fault::Response(status, fields.into_iter().collect(), vec![])
}

#[test]
fn plain_post_without_a_good_response_was_sent_once() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox).timeout(Duration::from_millis(400));
    let statuses = [300, 302, 303, 307, 400, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504, 596];
    let with_pause = |pause| statuses.map(|status| (response(status, pause), Some(status)));
    let mut faults = [with_pause(None), with_pause(Some("0"))].concat();
    // `truncation.rs` has each byte, and `malformed_heads.rs` what is no good head. The head of a good
    // response is longer than 60 bytes.
    faults.extend([0, 60].map(|n| (Fault::Truncate(n), None)));
    // The second response has a head.
    faults.extend([(Fault::Stall(None), None), (Fault::Stall(Some(0)), Some(201))]);
    for (i, (fault, status)) in faults.into_iter().enumerate() {
        let executes = matches!(fault, Fault::Truncate(_) | Fault::Stall(_));
        let (received, booked) = (sandbox.count(Place::Api), sandbox.bookings());
        sandbox.next(Place::Api, fault);
        let error = book(&session).and_then(Response::bytes).expect_err("no good response");
        assert_eq!(error.status(), status, "{i}: {error}");
        assert_eq!(sandbox.count(Place::Api), received + 1, "{i}: {error}");
        assert_eq!(sandbox.bookings() - booked, usize::from(executes), "{i}: {error}");
        let refused = status.is_some_and(|status| (400..500).contains(&status));
        assert_eq!(error.may_have_executed(), !refused, "{i}: {error}");
    }
    assert_eq!(sandbox.count(Place::Token), 1);
}

#[test]
fn idempotent_calls_are_retried() {
    let is_retried = |fault: Fault| {
        let sandbox = Sandbox::start();
        let session = session(&sandbox);
        sandbox.next(Place::Api, fault.clone());
        assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
        assert_eq!(sandbox.count(Place::Api), 2);
        sandbox.next(Place::Api, fault);
        let query = r#"{"houseBill":"PAR45176295"}"#;
        let response = session.post_idempotent("/tracking/v1/shipments", "application/json", query);
        assert_eq!(response.unwrap().status(), 200);
        assert_eq!(sandbox.count(Place::Api), 4);
    };
    thread::scope(|scope| {
        for fault in [
            Fault::Raw(vec![]),
            Fault::Truncate(9),
            response(429, Some("0.1")),
            response(403, Some("0")),
            response(502, Some("0")),
            response(503, Some("0")),
            response(504, Some("0")),
        ] {
            scope.spawn(move || is_retried(fault));
        }
    });
}

#[test]
fn number_of_retries_can_be_set() {
    let sandbox = Sandbox::start();
    sandbox.always(Place::Api, Some(response(503, Some("0"))));
    let session = session(&sandbox);
    for (session, attempts) in
        [(session.clone(), 3), (session.clone().retries(0), 1), (session.clone().retries(5), 6)]
    {
        let before = sandbox.count(Place::Api);
        assert_eq!(session.get(SHIPMENT).unwrap_err().status(), Some(503));
        assert_eq!(sandbox.count(Place::Api), before + attempts);
    }
}

#[test]
fn token_request_is_retried() {
    let sandbox = Sandbox::start();
    sandbox.next(Place::Token, response(503, Some("0")));
    sandbox.next(Place::Token, Fault::Truncate(30));
    let _ = session(&sandbox);
    assert_eq!(sandbox.count(Place::Token), 3);
}

#[test]
fn pause_that_does_not_fit_into_the_time_ends_the_call() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox).timeout(Duration::from_secs(20));
    sandbox.next(Place::Api, response(429, Some("3600")));
    let start = Instant::now();
    let error = session.get(SHIPMENT).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert_eq!(error.header("RETRY-AFTER"), Some("3600"));
    assert_eq!(sandbox.count(Place::Api), 1);
}

#[test]
fn plain_post_that_was_not_sent_is_retried() {
    let session = Session::new(&closed_url(), "id", "secret")
        .and_then(|session| session.resume("token", Duration::from_secs(60)))
        .unwrap();
    let start = Instant::now();
    let error = book(&session).unwrap_err();
    // Two pauses of 250 and 500 ms, each a quarter shorter at most.
    assert!(start.elapsed() >= Duration::from_millis(562));
    assert_eq!(error.kind(), ErrorKind::Exchange);
    assert!(!error.may_have_executed());
    let start = Instant::now();
    book(&session.retries(0)).unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(562));
}

#[test]
fn error_counts_what_an_earlier_attempt_may_have_done() {
    let sandbox = Sandbox::start();
    sandbox.next(Place::Api, Fault::Truncate(9));
    for may_have_executed in [true, false] {
        let error = session(&sandbox).get("/unknown").unwrap_err();
        assert_eq!(error.status(), Some(404));
        assert_eq!(error.may_have_executed(), may_have_executed);
    }
}

#[test]
fn longest_durations_are_accepted() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox).timeout(Duration::MAX).renew_before(Duration::MAX);
    assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
}
