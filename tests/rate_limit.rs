//! A rate limit holds for a session and its clones: they wait as one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jas_session::Session;

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{Fault, Gate, Place, Request, Sandbox, Watch, API_KEY, CLIENT_ID, CLIENT_SECRET};

const SHIPMENT: &str = "/tracking/v1/shipments/S505185992";

fn session(sandbox: &Sandbox) -> Session {
    Session::new(&sandbox.url(), CLIENT_ID, CLIENT_SECRET)
        .and_then(|session| session.api_key(API_KEY))
        .expect("a session")
}

fn limited(status: u16, retry_after: &str) -> Fault {
    Fault::Response(status, vec![("Retry-After", retry_after.to_owned())], vec![])
}

/// Lets ten calls pass in each window of half a second, which begins with the first of them.
struct Limit {
    /// What it says of its end, if anything.
    retry_after: Option<&'static str>,
    window: Mutex<(Instant, usize)>,
    refused: AtomicUsize,
}

impl Watch for Limit {
    fn fault(&self, request: &Request) -> Option<Fault> {
        if request.place == Place::Token {
            return None;
        }
        let mut window = self.window.lock().unwrap();
        if window.0.elapsed() >= Duration::from_millis(500) {
            *window = (Instant::now(), 0);
        }
        window.1 += 1;
        if window.1 <= 10 {
            return None;
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
        Some(match self.retry_after {
            Some(retry_after) => limited(429, retry_after),
            None => Fault::Response(429, vec![], vec![]),
        })
    }

    fn responded(&self, _: &Request, _: u16) {}
}

#[test]
fn eight_threads_at_a_limit_make_all_their_calls_with_the_usual_retries() {
    eight_threads_make_all_their_calls(Some("0.5"), 12);
}

#[test]
fn a_limit_that_tells_nothing_of_use_costs_longer_pauses_and_no_call() {
    eight_threads_make_all_their_calls(None, 3);
}

#[test]
fn a_limit_that_asks_to_come_again_at_once_is_no_better() {
    eight_threads_make_all_their_calls(Some("0"), 3);
}

/// Each of them makes as many.
fn eight_threads_make_all_their_calls(retry_after: Option<&'static str>, calls: usize) {
    let limit = Arc::new(Limit {
        retry_after,
        window: Mutex::new((Instant::now(), 0)),
        refused: AtomicUsize::new(0),
    });
    let sandbox = Sandbox::watched_by(limit.clone());
    let session = session(&sandbox);
    thread::scope(|scope| {
        for _ in 0..8 {
            let session = session.clone();
            scope.spawn(move || {
                for _ in 0..calls {
                    assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
                }
            });
        }
    });
    let refused = limit.refused.load(Ordering::SeqCst);
    assert!(refused > 0, "there was no limit");
    // If they did not wait as one, each window would end in eight refusals and more.
    assert!(refused <= 8 * 10, "{refused}");
}

#[test]
fn a_clone_waits_for_the_end_of_a_limit_that_another_call_has_met() {
    for status in [403, 429, 503] {
        let sandbox = Sandbox::start();
        let session = session(&sandbox);
        sandbox.next(Place::Api, limited(status, "0.4"));
        let start = Instant::now();
        let booking = session.post("/x", "text/plain", "").unwrap_err();
        assert_eq!(booking.status(), Some(status));
        assert_eq!(booking.retry_after(), Some(Duration::from_millis(400)));
        let clone = session.clone();
        assert_eq!(clone.get(SHIPMENT).unwrap().status(), 200);
        assert!(start.elapsed() >= Duration::from_millis(400));
    }
}

#[test]
fn a_limit_that_is_long_or_does_not_fit_is_its_own_call_s_alone() {
    for (retry_after, timeout) in [("31", 600), ("30", 59), ("3600", 5)] {
        let sandbox = Sandbox::start();
        let session = session(&sandbox).timeout(Duration::from_secs(timeout));
        sandbox.next(Place::Api, limited(429, retry_after));
        session.post("/x", "text/plain", "").unwrap_err();
        let start = Instant::now();
        assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn what_only_looks_like_a_limit_holds_up_nobody() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    for fault in [
        limited(500, "30"),
        limited(404, "30"),
        Fault::With(vec![("Retry-After", "30".to_owned())]),
        Fault::Response(503, vec![], vec![]),
        Fault::Response(403, vec![], vec![]),
    ] {
        sandbox.next(Place::Api, fault);
        let _ = session.post("/x", "text/plain", "");
    }
    let start = Instant::now();
    assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_call_that_is_under_way_is_not_held_up() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    session.access_token().unwrap();
    let gate = Gate::new();
    sandbox.next(Place::Api, Fault::Wait(gate.clone()));
    thread::scope(|scope| {
        let call = scope.spawn(|| session.get(SHIPMENT).map(|response| response.status()));
        sandbox.await_count(Place::Api, 1);
        sandbox.next(Place::Api, limited(429, "30"));
        session.post("/x", "text/plain", "").unwrap_err();
        let start = Instant::now();
        gate.open();
        assert_eq!(call.join().unwrap().unwrap(), 200);
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}
