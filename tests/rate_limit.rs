//! A rate limit holds for a session and its clones: all calls wait for its end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{Fault, Gate, Place, Request, Sandbox, Watch};

const SHIPMENT: &str = "/tracking/v1/shipments/S505185992";

fn limited(status: u16, retry_after: &str) -> Fault {
    Fault::Response(status, vec![("Retry-After", retry_after.to_owned())], vec![])
}

/// Lets ten calls pass in each window of half a second, which begins with the first of them.
struct Limit {
    /// What the refusals say of its end, in turn.
    retry_after: &'static [Option<&'static str>],
    window: Mutex<(Instant, usize)>,
    windows: AtomicUsize,
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
            self.windows.fetch_add(1, Ordering::SeqCst);
        }
        window.1 += 1;
        if window.1 <= 10 {
            return None;
        }
        let n = self.refused.fetch_add(1, Ordering::SeqCst);
        Some(match self.retry_after[n % self.retry_after.len()] {
            Some(retry_after) => limited(429, retry_after),
            None => Fault::Response(429, vec![], vec![]),
        })
    }

    fn responded(&self, _: &Request, _: u16) {}
}

#[test]
fn eight_threads_at_a_limit_make_all_their_calls() {
    let makes_all_calls = |retry_after, calls| {
        let limit = Arc::new(Limit {
            retry_after,
            window: Mutex::new((Instant::now(), 0)),
            windows: AtomicUsize::new(1),
            refused: AtomicUsize::new(0),
        });
        let sandbox = Sandbox::watched_by(limit.clone());
        let session = sandbox.session();
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
        let windows = limit.windows.load(Ordering::SeqCst);
        let refused = limit.refused.load(Ordering::SeqCst);
        println!("{refused} calls refused in {windows} windows");
        assert!(refused > 0, "there was no limit");
        // If each thread waited for itself, each window would end in eight refusals or more.
        assert!(refused <= 8 * windows, "{refused} in {windows}");
    };
    thread::scope(|scope| {
        scope.spawn(|| makes_all_calls(&[Some("0.5")], 4));
        // Without a useful time to wait, the pauses are longer.
        scope.spawn(|| makes_all_calls(&[None, Some("0")], 2));
    });
}

#[test]
fn clone_waits_for_the_end_of_a_limit_that_another_call_met() {
    let waits_after = |status| {
        let sandbox = Sandbox::start();
        let session = sandbox.session();
        sandbox.next(Place::Api, limited(status, "0.4"));
        let start = Instant::now();
        let error = session.post("/x", "text/plain", "").unwrap_err();
        assert_eq!(error.status(), Some(status));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(400)));
        let clone = session.clone();
        assert_eq!(clone.get(SHIPMENT).unwrap().status(), 200);
        assert!(start.elapsed() >= Duration::from_millis(400));
    };
    thread::scope(|scope| {
        for status in [403, 429, 503] {
            scope.spawn(move || waits_after(status));
        }
    });
}

/// The unit tests of `src/retry.rs` have the responses that report none.
#[test]
fn long_limit_or_a_success_delays_no_other_call() {
    let sandbox = Sandbox::start();
    for (timeout, fault) in [
        // No call waits for longer than half of its time.
        (59, limited(429, "30")),
        (60, Fault::With(vec![("Retry-After", "30".to_owned())])),
    ] {
        let session = sandbox.session().timeout(Duration::from_secs(timeout));
        sandbox.next(Place::Api, fault);
        let _ = session.post("/x", "text/plain", "");
        let start = Instant::now();
        assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn call_in_flight_is_not_delayed_by_a_limit() {
    let sandbox = Sandbox::start();
    let session = sandbox.session();
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
