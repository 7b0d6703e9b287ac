//! The life of a token: who requests it, who waits, and when it is renewed, dropped and kept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Error, ErrorKind, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{Fault, Gate, Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};

const SHIPMENT: &str = "/tracking/v1/shipments/S505185992";

fn session(sandbox: &Sandbox) -> Session {
    Session::new(&sandbox.url(), CLIENT_ID, CLIENT_SECRET)
        .and_then(|session| session.api_key(API_KEY))
        .expect("a session")
}

/// A session whose secret the sandbox does not know.
fn denied_session(sandbox: &Sandbox) -> Session {
    Session::new(&sandbox.url(), CLIENT_ID, "wrong").expect("a session")
}

/// What `n` threads get that call at the same time.
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

/// Waits until the token held has at most this left.
fn wait_until_left(session: &Session, left: Duration) {
    while session.held_token().is_some_and(|(_, l)| l > left) {
        thread::sleep(Duration::from_millis(5));
    }
}

/// A session whose token is due for renewal, with a second left; and that token.
fn due_session(sandbox: &Sandbox) -> (Session, String) {
    sandbox.token_lifetime(Duration::from_secs(2));
    let session = session(sandbox);
    let token = session.access_token().unwrap();
    wait_until_left(&session, Duration::from_secs(1));
    (session, token)
}

fn refusal() -> Fault {
    let challenge = "Bearer error=\"invalid_token\"".to_owned();
    Fault::Response(401, vec![("WWW-Authenticate", challenge)], vec![])
}

#[test]
fn one_token_request_serves_a_hundred_waiting_threads() {
    let sandbox = Sandbox::start();
    let gate = Gate::new();
    sandbox.next(Place::Token, Fault::Wait(gate.clone()));
    let session = session(&sandbox);
    thread::scope(|scope| {
        scope.spawn(|| {
            sandbox.await_count(Place::Token, 1);
            gate.open();
        });
        for result in from_threads(100, &session) {
            assert_eq!(result.unwrap(), 200);
        }
    });
    assert_eq!(sandbox.count(Place::Token), 1);
}

#[test]
fn waiting_threads_share_a_refusal_and_it_is_remembered() {
    let sandbox = Sandbox::start();
    let gate = Gate::new();
    sandbox.next(Place::Token, Fault::Wait(gate.clone()));
    let session = denied_session(&sandbox);
    let mut messages = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            sandbox.await_count(Place::Token, 1);
            gate.open();
        });
        for result in from_threads(20, &session) {
            let error = result.unwrap_err();
            assert_eq!((error.kind(), error.status()), (ErrorKind::Denied, Some(403)));
            messages.push(error.to_string());
        }
    });
    messages.push(session.access_token().unwrap_err().to_string());
    messages.dedup();
    assert_eq!(
        messages,
        [format!(
            "token request to {}/oauth2/token: status 403: check the client id and the \
             client secret, and that the application is subscribed to an API; the response says: \
             invalid_client: invalid credentials",
            sandbox.url()
        )]
    );
    assert_eq!(sandbox.count(Place::Token), 1);
}

#[test]
fn a_silent_token_endpoint_costs_each_waiting_thread_its_own_timeout_and_few_requests() {
    let sandbox = Sandbox::start();
    sandbox.always(Place::Token, Some(Fault::Stall(None)));
    let timeout = Duration::from_millis(300);
    let session = session(&sandbox).timeout(timeout);
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
fn a_thread_with_more_time_goes_on_when_another_one_s_timeout_has_passed() {
    let sandbox = Sandbox::start();
    sandbox.next(Place::Token, Fault::Stall(None));
    let patient = session(&sandbox);
    let hasty = patient.clone().timeout(Duration::from_millis(200));
    thread::scope(|scope| {
        let hasty = scope.spawn(move || hasty.get(SHIPMENT).unwrap_err().kind());
        sandbox.await_count(Place::Token, 1);
        assert_eq!(patient.get(SHIPMENT).unwrap().status(), 200);
        assert_eq!(hasty.join().unwrap(), ErrorKind::Timeout);
    });
    assert_eq!(sandbox.count(Place::Token), 2);
}

#[test]
fn a_thread_with_more_retries_or_more_time_goes_on_when_another_one_gives_up() {
    for give_up in [
        |session: Session| session.retries(1),
        // The second pause does not fit: it takes 375 ms at the least, after a first of 187 ms.
        |session: Session| session.timeout(Duration::from_millis(500)),
    ] {
        let sandbox = Sandbox::start();
        for _ in 0..2 {
            sandbox.next(Place::Token, Fault::Response(503, vec![], vec![]));
        }
        let session = session(&sandbox);
        let first = give_up(session.clone());
        thread::scope(|scope| {
            let first = scope.spawn(move || first.access_token());
            sandbox.await_count(Place::Token, 1);
            // The first one pauses now.
            session.access_token().expect("a token");
            let error = first.join().expect("no panic").unwrap_err();
            assert_eq!(error.status(), Some(503));
        });
        assert_eq!(sandbox.count(Place::Token), 3);
    }
}

#[test]
fn threads_with_little_time_do_not_starve_one_with_much() {
    let sandbox = Sandbox::start();
    // A response takes half a second.
    sandbox.always(Place::Token, Some(Fault::Drip(Duration::from_millis(2))));
    let patient = session(&sandbox);
    let hasty = patient.clone().timeout(Duration::from_millis(100));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let hasty: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut messages = Vec::new();
                    while !is_over.load(Ordering::SeqCst) {
                        messages.extend(hasty.access_token().err().map(|error| error.to_string()));
                    }
                    messages
                })
            })
            .collect();
        sandbox.await_count(Place::Token, 1);
        let token = patient.access_token();
        is_over.store(true, Ordering::SeqCst);
        token.unwrap();
        for message in hasty.into_iter().flat_map(|thread| thread.join().expect("no panic")) {
            assert!(message.contains(": the timeout of 100ms passed "), "{message}");
        }
    });
    // Those of the hasty ones that came before the patient one, and its own.
    assert!(sandbox.count(Place::Token) <= 5, "{}", sandbox.count(Place::Token));
}

#[test]
fn a_thread_that_waited_in_vain_speaks_of_its_own_time() {
    let sandbox = Sandbox::start();
    sandbox.always(Place::Token, Some(Fault::Stall(None)));
    let patient = session(&sandbox).timeout(Duration::from_millis(700));
    let hasty = patient.clone().timeout(Duration::from_millis(500));
    thread::scope(|scope| {
        let hasty = scope.spawn(move || hasty.access_token().unwrap_err().to_string());
        sandbox.await_count(Place::Token, 1);
        let start = Instant::now();
        let error = patient.access_token().unwrap_err().to_string();
        assert!(error.contains("the timeout of 700ms passed"), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(650));
        let error = hasty.join().expect("no panic");
        assert!(error.contains("the timeout of 500ms passed"), "{error}");
    });
}

#[test]
fn a_token_that_is_due_does_not_hold_up_a_booking() {
    let sandbox = Sandbox::start();
    sandbox.token_lifetime(Duration::from_secs(3));
    let session = session(&sandbox).timeout(Duration::from_secs(1));
    let old = session.access_token().unwrap();
    wait_until_left(&session, Duration::from_millis(1500));
    sandbox.always(Place::Token, Some(Fault::Stall(None)));
    let gate = Gate::new();
    sandbox.next(Place::Api, Fault::Wait(gate.clone()));
    thread::scope(|scope| {
        scope.spawn(|| {
            sandbox.await_count(Place::Api, 1);
            // More than what is left of the timeout without a quarter.
            thread::sleep(Duration::from_millis(780));
            gate.open();
        });
        let response = session.post("/bookings/v1/bookings", "application/json", "{}");
        assert_eq!(response.unwrap().status(), 201);
    });
    assert_eq!(session.held_token().unwrap().0, old);
}

#[test]
fn a_caller_without_time_leaves_the_renewal_to_others() {
    let sandbox = Sandbox::start();
    let (session, old) = due_session(&sandbox);
    sandbox.next(Place::Token, Fault::Stall(None));
    let hasty = session.clone().timeout(Duration::from_secs(1));
    // It tries once, for a quarter of that.
    for _ in 0..3 {
        assert_eq!(hasty.access_token().unwrap(), old);
    }
    assert_eq!(sandbox.count(Place::Token), 2);
    assert_ne!(session.access_token().unwrap(), old);
}

#[test]
fn a_due_token_is_renewed_by_one_thread_while_the_others_go_on() {
    let sandbox = Sandbox::start();
    let (session, old) = due_session(&sandbox);
    let gate = Gate::new();
    sandbox.next(Place::Token, Fault::Wait(gate.clone()));
    thread::scope(|scope| {
        let renewer = scope.spawn(|| session.get(SHIPMENT).unwrap().status());
        sandbox.await_count(Place::Token, 2);
        assert_eq!(session.access_token().unwrap(), old);
        assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
        gate.open();
        assert_eq!(renewer.join().unwrap(), 200);
    });
    assert_ne!(session.access_token().unwrap(), old);
    assert_eq!(sandbox.count(Place::Token), 2);
}

#[test]
fn a_call_outlives_the_revocation_of_its_token_and_of_the_one_that_came_meanwhile() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    session.access_token().unwrap();
    let other = self::session(&sandbox).access_token().unwrap();
    let gate = Gate::new();
    sandbox.next(Place::Api, Fault::Wait(gate.clone()));
    thread::scope(|scope| {
        let call = scope.spawn(|| session.post("/bookings/v1/bookings", "application/json", "{}"));
        sandbox.await_count(Place::Api, 1);
        // As an early renewal does it.
        drop(session.clone().resume(&other, Duration::from_secs(600)));
        sandbox.revoke();
        gate.open();
        let response = call.join().expect("no panic").expect("no failure");
        assert_eq!(response.status(), 201);
    });
    assert_eq!((sandbox.count(Place::Api), sandbox.bookings()), (3, 1));
}

#[test]
fn a_call_whose_token_is_refused_is_sent_three_times_at_most() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let gates = [0; 2].map(|_| Gate::new());
    for gate in &gates {
        sandbox.next(Place::Api, Fault::Wait(gate.clone()));
    }
    session.access_token().unwrap();
    sandbox.revoke();
    thread::scope(|scope| {
        let call = scope.spawn(|| session.post("/bookings/v1/bookings", "application/json", "{}"));
        // Each refused token has been replaced already, by one that is no better.
        for (n, gate) in (1..).zip(&gates) {
            sandbox.await_count(Place::Api, n);
            drop(session.clone().resume(&format!("no-{n}"), Duration::from_secs(600)));
            gate.open();
        }
        let error = call.join().expect("no panic").unwrap_err();
        assert_eq!(error.status(), Some(401));
    });
    assert_eq!((sandbox.count(Place::Api), sandbox.bookings()), (3, 0));
}

#[test]
fn what_an_early_renewal_brings_is_not_held_if_the_old_token_was_refused_meanwhile() {
    let sandbox = Sandbox::start();
    let (session, old) = due_session(&sandbox);
    let gate = Gate::new();
    sandbox.next(Place::Token, Fault::Wait(gate.clone()));
    thread::scope(|scope| {
        scope.spawn(|| session.get(SHIPMENT).unwrap());
        sandbox.await_count(Place::Token, 2);
        session.invalidate(&old);
        gate.open();
    });
    // It may have been issued before all of them were revoked.
    assert_eq!(session.held_token(), None);
    assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
}

#[test]
fn an_early_renewal_that_fails_is_seen_by_nobody_and_not_retried_at_once() {
    let sandbox = Sandbox::start();
    let (session, old) = due_session(&sandbox);
    for fault in [Fault::Raw(vec![]), Fault::Response(400, vec![], vec![])] {
        sandbox.next(Place::Token, fault);
    }
    for _ in 0..3 {
        assert_eq!(session.access_token().unwrap(), old);
    }
    assert_eq!(sandbox.count(Place::Token), 2, "one attempt, and calm");
    wait_until_left(&session, Duration::ZERO);
    // The token has expired: now a failure would be seen. A refusal is not retried.
    assert_eq!(session.access_token().unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(sandbox.count(Place::Token), 3);
}

#[test]
fn a_refused_early_renewal_is_not_held_against_the_next_request() {
    let sandbox = Sandbox::start();
    let (session, _) = due_session(&sandbox);
    sandbox.next(Place::Token, Fault::Response(401, vec![], vec![]));
    session.access_token().unwrap();
    wait_until_left(&session, Duration::ZERO);
    session.access_token().unwrap();
    assert_eq!(sandbox.count(Place::Token), 3);
}

#[test]
fn a_renewed_token_that_lives_no_longer_does_not_replace_the_one_held() {
    let sandbox = Sandbox::start();
    let (session, old) = due_session(&sandbox);
    for json in ["0", "1"] {
        sandbox.expires_in(json);
        assert_eq!(session.access_token().unwrap(), old);
    }
    assert_eq!(sandbox.count(Place::Token), 2, "and it is not retried at once");
}

#[test]
fn a_call_without_time_does_not_spoil_the_early_renewal_of_others() {
    let sandbox = Sandbox::start();
    let (session, old) = due_session(&sandbox);
    let hasty = session.clone().timeout(Duration::ZERO);
    assert_eq!(hasty.get(SHIPMENT).unwrap_err().kind(), ErrorKind::Timeout);
    assert_ne!(session.access_token().unwrap(), old);
}

#[test]
fn an_early_renewal_spends_at_most_a_quarter_of_the_time_and_ends_before_the_token() {
    let sandbox = Sandbox::start();
    let session = due_session(&sandbox).0.timeout(Duration::from_millis(1200));
    sandbox.next(Place::Token, Fault::Stall(None));
    let start = Instant::now();
    assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_millis(800), "{took:?}");
}

#[test]
fn a_refused_token_is_replaced_and_the_call_is_sent_once_more() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let old = session.access_token().unwrap();
    sandbox.revoke();
    let response = session.post("/bookings/v1/bookings", "application/json", "{}").unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(sandbox.bookings(), 1);
    assert_eq!((sandbox.count(Place::Token), sandbox.count(Place::Api)), (2, 2));
    let requests = sandbox.requests();
    assert_eq!(requests[1].field("authorization"), Some(format!("Bearer {old}").as_str()));
    let new = session.held_token().unwrap().0;
    assert_eq!(requests[3].field("authorization"), Some(format!("Bearer {new}").as_str()));
    assert_eq!(requests[1].content, requests[3].content);
}

#[test]
fn a_call_whose_first_token_was_renewed_does_not_say_that_it_was_refused() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let first = session.access_token().unwrap();
    let busy = vec![("Retry-After", "1".to_owned())];
    sandbox.next(Place::Api, Fault::Response(503, busy, vec![]));
    // One refusal, within ten seconds of none.
    for _ in 0..2 {
        sandbox.next(Place::Api, refusal());
    }
    let error = thread::scope(|scope| {
        let call = scope.spawn(|| session.get(SHIPMENT).unwrap_err());
        sandbox.await_count(Place::Api, 1);
        session.invalidate(&first);
        call.join().expect("no panic").to_string()
    });
    let ending =
        ": a new access token was refused as well: check the application's subscription to \
         this API, and that the token endpoint is this API's";
    assert!(error.ends_with(ending), "{error}");
    // Another one, whose token is renewed while it pauses, and refused so soon.
    let second = session.access_token().unwrap();
    let busy = vec![("Retry-After", "1".to_owned())];
    sandbox.next(Place::Api, Fault::Response(503, busy, vec![]));
    sandbox.next(Place::Api, refusal());
    let before = sandbox.count(Place::Api);
    let error = thread::scope(|scope| {
        let call = scope.spawn(|| session.get(SHIPMENT).unwrap_err());
        sandbox.await_count(Place::Api, before + 1);
        session.invalidate(&second);
        call.join().expect("no panic").to_string()
    });
    let ending =
        "the access token was refused; a token was replaced less than 10 seconds ago: try again \
         later";
    assert!(error.ends_with(ending), "{error}");
}

#[test]
fn a_challenge_beside_a_status_of_the_server_s_own_renews_nothing() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    for status in [302, 500] {
        let Fault::Response(_, fields, _) = refusal() else { unreachable!() };
        sandbox.next(Place::Api, Fault::Response(status, fields, vec![]));
        let error = session.post("/x", "text/plain", "").unwrap_err();
        assert_eq!(error.status(), Some(status));
        assert!(error.may_have_executed());
    }
    assert_eq!(sandbox.count(Place::Api), 2);
    assert_eq!(sandbox.count(Place::Token), 1);
}

#[test]
fn a_token_refused_by_a_challenge_is_replaced_whatever_the_status() {
    let sandbox = Sandbox::start();
    let Fault::Response(_, fields, _) = refusal() else { unreachable!() };
    sandbox.next(Place::Api, Fault::Response(403, fields, vec![]));
    assert_eq!(session(&sandbox).get(SHIPMENT).unwrap().status(), 200);
    assert_eq!(sandbox.count(Place::Token), 2);
}

#[test]
fn another_403_never_renews() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox).api_key("wrong").unwrap();
    for _ in 0..3 {
        assert_eq!(session.get(SHIPMENT).unwrap_err().status(), Some(403));
    }
    assert_eq!((sandbox.count(Place::Token), sandbox.count(Place::Api)), (1, 3));
}

#[test]
fn ten_thousand_refusals_do_not_become_ten_thousand_token_requests() {
    let sandbox = Sandbox::start();
    sandbox.always(Place::Api, Some(refusal()));
    let session = session(&sandbox);
    assert_eq!(
        session.get(SHIPMENT).unwrap_err().to_string(),
        format!(
            "GET {}{SHIPMENT}: status 401: a new access token was refused as well: check the \
             application's subscription to this API, and that the token endpoint is this API's",
            sandbox.url()
        )
    );
    for _ in 0..199 {
        assert_eq!(session.get(SHIPMENT).unwrap_err().status(), Some(401));
    }
    // The first call is sent with the first token and once more; the others once.
    assert_eq!((sandbox.count(Place::Token), sandbox.count(Place::Api)), (2, 201));
}

#[test]
fn a_path_that_refuses_each_token_costs_no_more_requests_beside_one_that_accepts_it() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    for _ in 0..2 {
        sandbox.next(Place::Api, refusal());
    }
    session.post("/refused", "text/plain", "").unwrap_err();
    let before = sandbox.count(Place::Api);
    for _ in 0..50 {
        assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
        sandbox.next(Place::Api, refusal());
        let error = session.post("/refused", "text/plain", "").unwrap_err();
        assert_eq!(error.status(), Some(401));
        assert!(!error.may_have_executed());
    }
    assert_eq!(sandbox.count(Place::Token), 2);
    assert_eq!(sandbox.count(Place::Api), before + 100);
}

#[test]
fn a_gateway_that_says_in_json_that_the_token_has_expired_gets_a_new_one() {
    for (status, content) in [
        (403, r#"{"message":"The incoming token has expired"}"#),
        (403, r#"{"code":"InvalidTokenError"}"#),
        (400, r#"{"error":"invalid_token"}"#),
    ] {
        let sandbox = Sandbox::start();
        let session = session(&sandbox);
        let refusal = || Fault::Response(status, vec![], content.into());
        sandbox.next(Place::Api, refusal());
        let response = session.post("/bookings/v1/bookings", "application/json", "{}");
        assert_eq!(response.unwrap().status(), 201, "{content}");
        assert_eq!((sandbox.count(Place::Token), sandbox.count(Place::Api)), (2, 2));
        // Another one, so soon.
        sandbox.next(Place::Api, refusal());
        let error = session.get(SHIPMENT).unwrap_err().to_string();
        let advice = format!("status {status}: the access token was refused; ");
        assert!(error.contains(&advice), "{error}");
        assert_eq!(sandbox.count(Place::Token), 2);
    }
}

#[test]
fn threads_whose_token_was_refused_at_the_same_time_replace_it_once() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
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
fn a_token_without_a_lifetime_is_good_for_the_call_that_requested_it() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    for json in ["0", "-5"] {
        sandbox.expires_in(json);
        let before = sandbox.count(Place::Token);
        for _ in 0..2 {
            assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
            assert_eq!(session.held_token(), None);
        }
        assert_eq!(sandbox.count(Place::Token), before + 2);
    }
}

#[test]
fn expires_in_that_is_missing_counts_as_ten_minutes() {
    let sandbox = Sandbox::start();
    for (json, low, high) in
        [("", 590, 600), ("null", 590, 600), ("\"30\"", 25, 30), ("1e30", 86_000, 86_400)]
    {
        sandbox.expires_in(json);
        let session = session(&sandbox);
        session.access_token().unwrap();
        let left = session.held_token().unwrap().1.as_secs_f64();
        assert!(left > f64::from(low) && left <= f64::from(high), "{json}: {left}");
    }
}

#[test]
fn a_token_is_carried_over_from_an_earlier_process() {
    let sandbox = Sandbox::start();
    let (token, left) = {
        let session = session(&sandbox);
        session.access_token().unwrap();
        session.held_token().unwrap()
    };
    let later = session(&sandbox).resume(&token, left).unwrap();
    assert_eq!(later.get(SHIPMENT).unwrap().status(), 200);
    assert_eq!(sandbox.count(Place::Token), 1);

    let over = session(&sandbox).resume(&token, Duration::ZERO).unwrap();
    assert_eq!(over.held_token(), None);
    assert_eq!(over.get(SHIPMENT).unwrap().status(), 200);
    assert_eq!(sandbox.count(Place::Token), 2);

    sandbox.revoke();
    let refused = session(&sandbox).resume(&token, Duration::MAX).unwrap();
    assert!(refused.held_token().unwrap().1 <= Duration::from_secs(86_400));
    assert_eq!(refused.get(SHIPMENT).unwrap().status(), 200);
    assert_eq!(sandbox.count(Place::Token), 3);
}

#[test]
fn invalidate_drops_only_the_token_it_names() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let token = session.access_token().unwrap();
    session.invalidate("another");
    assert_eq!(session.access_token().unwrap(), token);
    session.invalidate(&token);
    assert_eq!(session.held_token(), None);
    assert_ne!(session.access_token().unwrap(), token);
}

#[test]
fn a_clone_shares_the_token_until_it_has_a_token_endpoint_of_its_own() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let clone = session.clone().timeout(Duration::from_secs(5));
    let token = clone.access_token().unwrap();
    assert_eq!(session.held_token().unwrap().0, token);
    let endpoint = format!("{}/oauth2/token", sandbox.url());
    let apart = session.clone().token_endpoint(&endpoint).unwrap();
    assert_eq!(apart.held_token(), None);
    assert_ne!(apart.access_token().unwrap(), token);
    assert_eq!(session.access_token().unwrap(), token);
}

#[test]
fn what_is_no_refusal_of_the_credentials_is_not_remembered() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox).retries(0);
    for status in [404, 302, 596, 500, 429] {
        sandbox.next(Place::Token, Fault::Response(status, vec![], vec![]));
        let error = session.access_token().unwrap_err();
        assert_eq!(error.status(), Some(status));
        let token = session.access_token().unwrap();
        session.invalidate(&token);
    }
}

#[test]
fn a_good_status_with_an_error_in_it_is_a_refusal() {
    let sandbox = Sandbox::start();
    let content = br#"{"error":"invalid_client","error_description":"no such client"}"#;
    sandbox.next(Place::Token, Fault::Response(200, vec![], content.to_vec()));
    let session = session(&sandbox);
    for _ in 0..2 {
        let error = session.get(SHIPMENT).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(error.status(), Some(200));
        assert_eq!(error.content(), Some(&content[..]));
        assert_eq!(
            error.to_string(),
            format!(
                "token request to {}/oauth2/token: status 200 with an error in it: check the client id and the client \
                 secret, and that the application is subscribed to an API; the response says: \
                 invalid_client: no such client",
                sandbox.url()
            )
        );
    }
    assert_eq!(sandbox.count(Place::Token), 1, "it is remembered");
}

#[test]
fn a_token_is_read_in_each_form_in_which_servers_send_it() {
    let sandbox = Sandbox::start();
    for content in [
        &b"\xef\xbb\xbf{\"access_token\":\"abc\",\"token_type\":\"Bearer\"}"[..],
        br#"{"access_token":"abc","token_type":"bearer "}"#,
        br#"{"access_token":"abc","token_type":"BearerToken"}"#,
        br#"{"access_token":"abc"}"#,
        b"{\"access_token\":\"abc\",\"token_type\":\"Bearer\",\"owner\":\"M\xfcller\"}",
    ] {
        sandbox.next(Place::Token, Fault::Response(200, vec![], content.to_vec()));
        let token = session(&sandbox).access_token();
        assert_eq!(token.unwrap(), "abc", "{}", content.escape_ascii());
    }
}

#[test]
fn the_token_endpoint_s_errors_are_sorted() {
    let sandbox = Sandbox::start();
    let retry_after = || vec![("Retry-After", "7".to_owned())];
    for (status, fields, kind) in [
        (400, vec![], ErrorKind::Denied),
        (401, vec![], ErrorKind::Denied),
        (403, vec![], ErrorKind::Denied),
        (403, retry_after(), ErrorKind::Status),
        (302, vec![], ErrorKind::Denied),
        (404, vec![], ErrorKind::Denied),
        (429, vec![], ErrorKind::Status),
        (500, vec![], ErrorKind::Status),
        (503, vec![], ErrorKind::Status),
    ] {
        sandbox.next(Place::Token, Fault::Response(status, fields, b"why".to_vec()));
        let error = session(&sandbox).retries(0).get(SHIPMENT).unwrap_err();
        assert_eq!((error.kind(), error.status()), (kind, Some(status)));
        assert_eq!(error.content(), Some(&b"why"[..]));
        assert!(!error.may_have_executed());
    }
    assert_eq!(sandbox.count(Place::Api), 0);
}

#[test]
fn tokens_are_counted_for_all_clones_whatever_their_token_endpoint() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    session.access_token().unwrap();
    let other = session.clone().token_endpoint(&format!("{}/oauth2/token", sandbox.url())).unwrap();
    other.access_token().unwrap();
    assert_eq!((session.counts().tokens, other.counts().tokens), (2, 2));
}
