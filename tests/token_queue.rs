//! Threads that need a token at the same time: one of them requests it, the others wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Error, ErrorKind, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{Fault, Gate, Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};

const SHIPMENT: &str = "/tracking/v1/shipments/S505185992";

/// The results of `n` threads that call at the same time.
fn from_threads(n: usize, session: &Session) -> Vec<Result<u16, Error>> {
    let start = Barrier::new(n);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..n)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    session.get(SHIPMENT).map(|response| response.status())
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect()
    })
}

#[test]
fn one_token_request_serves_all_waiting_threads() {
    let refusal = (ErrorKind::Denied, Some(403));
    for (secret, threads, expected) in [(CLIENT_SECRET, 100, Ok(200)), ("wrong", 20, Err(refusal))]
    {
        let sandbox = Sandbox::start();
        let gate = Gate::new();
        sandbox.next(Place::Token, Fault::Wait(gate.clone()));
        let session =
            Session::new(&sandbox.url(), CLIENT_ID, secret).unwrap().api_key(API_KEY).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                sandbox.await_count(Place::Token, 1);
                gate.open();
            });
            for result in from_threads(threads, &session) {
                let result = result.map_err(|error| (error.kind(), error.status()));
                assert_eq!(result, expected);
            }
        });
        assert_eq!(sandbox.count(Place::Token), 1);
    }
}

#[test]
fn threads_with_the_same_refused_token_replace_it_once() {
    let sandbox = Sandbox::start();
    let session = sandbox.session();
    session.access_token().unwrap();
    let gate = Gate::new();
    for _ in 0..16 {
        sandbox.next(Place::Api, Fault::Wait(gate.clone()));
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            sandbox.await_count(Place::Api, 16);
            sandbox.revoke();
            gate.open();
        });
        for result in from_threads(16, &session) {
            assert_eq!(result.unwrap(), 200);
        }
    });
    assert_eq!((sandbox.count(Place::Token), sandbox.count(Place::Api)), (2, 32));
}

#[test]
fn silent_endpoint_costs_each_thread_its_own_timeout() {
    let sandbox = Sandbox::start();
    sandbox.always(Place::Token, Some(Fault::Stall(None)));
    let timeout = Duration::from_millis(300);
    let session = sandbox.session().timeout(timeout);
    let start = Instant::now();
    for result in from_threads(100, &session) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
    }
    assert!(start.elapsed() < timeout + Duration::from_millis(500));
    assert!(sandbox.count(Place::Token) <= 3);
}

#[test]
fn thread_with_more_time_reports_its_own_timeout() {
    let sandbox = Sandbox::start();
    sandbox.always(Place::Token, Some(Fault::Stall(None)));
    let patient = sandbox.session().timeout(Duration::from_millis(500));
    let hasty = patient.clone().timeout(Duration::from_millis(300));
    thread::scope(|scope| {
        let hasty = scope.spawn(move || hasty.access_token().unwrap_err().to_string());
        sandbox.await_count(Place::Token, 1);
        let start = Instant::now();
        let error = patient.access_token().unwrap_err().to_string();
        assert!(error.contains("500ms"), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(450));
        let error = hasty.join().expect("no panic");
        assert!(error.contains("300ms"), "{error}");
    });
}

#[test]
fn thread_with_more_retries_or_time_outlasts_another() {
    let settings: [fn(Session) -> Session; 2] = [
        |session| session.retries(1),
        // The second pause does not fit: it takes 375 ms at the least, after a first of 187 ms.
        |session| session.timeout(Duration::from_millis(500)),
    ];
    let outlasts = |first: fn(Session) -> Session| {
        let sandbox = Sandbox::start();
        for _ in 0..2 {
            sandbox.next(Place::Token, Fault::Response(503, vec![], vec![]));
        }
        let session = sandbox.session();
        let first = first(session.clone());
        thread::scope(|scope| {
            let first = scope.spawn(move || first.access_token());
            // From now on it pauses.
            sandbox.await_count(Place::Token, 1);
            session.access_token().expect("a token");
            let error = first.join().expect("no panic").unwrap_err();
            assert_eq!(error.status(), Some(503));
        });
        assert_eq!(sandbox.count(Place::Token), 3);
    };
    thread::scope(|scope| {
        for setting in settings {
            scope.spawn(move || outlasts(setting));
        }
    });
}

#[test]
fn threads_with_little_time_do_not_starve_one_with_much() {
    let sandbox = Sandbox::start();
    // A response takes half a second.
    sandbox.always(Place::Token, Some(Fault::Drip(Duration::from_millis(2))));
    let patient = sandbox.session();
    let hasty = patient.clone().timeout(Duration::from_millis(100));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let hasty: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut errors = Vec::new();
                    while !is_over.load(Ordering::SeqCst) {
                        errors.extend(hasty.access_token().err());
                    }
                    errors
                })
            })
            .collect();
        sandbox.await_count(Place::Token, 1);
        let token = patient.access_token();
        is_over.store(true, Ordering::SeqCst);
        token.unwrap();
        for error in hasty.into_iter().flat_map(|thread| thread.join().expect("no panic")) {
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        }
    });
    // The requests of hasty threads before the patient one came, and its own.
    assert!(sandbox.count(Place::Token) <= 5, "{}", sandbox.count(Place::Token));
}
