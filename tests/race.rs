//! Threads, clones, revocations and outages at once, with tokens of a second: no call fails, and the
//! token endpoint receives at most one request for each second, outage and revocation.
//!
//! `JAS_SESSION_RACE_SECONDS` sets how long it runs: 2 by default, 30 in CI.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{Fault, Place, Request, Sandbox, Watch};

const THREADS: usize = 100;
/// The pause between two calls of a thread. Without it the system would run out of ports.
const PAUSE: Duration = Duration::from_millis(250);
/// No token is replaced within ten seconds of another one.
const BETWEEN_REVOCATIONS: Duration = Duration::from_secs(11);

/// Counts token requests, lets every second one fail, in four ways in turn, and revokes tokens.
struct Chaos {
    token_requests: AtomicUsize,
    revocations: AtomicUsize,
    next_revocation: Mutex<Instant>,
}

impl Watch for Chaos {
    fn fault(&self, request: &Request) -> Option<Fault> {
        if request.place == Place::Api {
            let mut next = self.next_revocation.lock().unwrap();
            if Instant::now() < *next {
                return None;
            }
            *next += BETWEEN_REVOCATIONS;
            self.revocations.fetch_add(1, Ordering::SeqCst);
            return Some(Fault::Revoke);
        }
        let n = self.token_requests.fetch_add(1, Ordering::SeqCst);
        let busy = |status| Fault::Response(status, vec![], vec![]);
        match n % 8 {
            1 => Some(Fault::Raw(vec![])),
            3 => Some(Fault::Truncate(60)),
            5 => Some(busy(503)),
            // The longest pause follows it: 2 seconds are too short for it.
            7 => Some(busy(429)),
            _ => None,
        }
    }

    fn responded(&self, _: &Request, _: u16) {}
}

#[test]
fn race_fails_no_call_and_takes_few_token_requests() {
    let seconds = std::env::var("JAS_SESSION_RACE_SECONDS");
    let seconds = seconds.map_or(2, |seconds| seconds.parse().expect("whole seconds"));
    let start = Instant::now();
    let chaos = Arc::new(Chaos {
        token_requests: AtomicUsize::new(0),
        revocations: AtomicUsize::new(0),
        next_revocation: Mutex::new(start + Duration::from_secs(1)),
    });
    let sandbox = Sandbox::watched_by(chaos.clone());
    sandbox.token_lifetime(Duration::from_secs(1));
    let session = sandbox.session();
    thread::scope(|scope| {
        for i in 0..THREADS {
            let timeout = Duration::from_secs(20 + i as u64);
            let session = session.clone().timeout(timeout);
            scope.spawn(move || {
                while start.elapsed() < Duration::from_secs(seconds) {
                    let result = match i % 3 {
                        0 => session.post("/bookings/v1/bookings", "application/json", "{}"),
                        _ => session.get("/tracking/v1/shipments/S505185992"),
                    };
                    result.expect("no failure").bytes().expect("content");
                    thread::sleep(PAUSE);
                }
            });
        }
    });
    let requests = chaos.token_requests.load(Ordering::SeqCst);
    let (outages, revocations) = (requests / 2, chaos.revocations.load(Ordering::SeqCst));
    println!("{requests} requests, {outages} outages, {revocations} revocations");
    assert!(revocations > 0 && outages > 0);
    let took = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    assert!(
        requests <= took + 1 + outages + revocations,
        "{requests} requests in {took} s with {outages} outages and {revocations} revocations"
    );
}
