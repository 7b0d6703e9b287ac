//! The life of a token: what the token endpoint's response means, how long a token is held, and when
//! one is replaced because the API refused it.

use std::thread;
use std::time::Duration;

use jas_session::ErrorKind;

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{Fault, Gate, Place, Sandbox};

const SHIPMENT: &str = "/tracking/v1/shipments/S505185992";
const BOOKINGS: &str = "/bookings/v1/bookings";
const CHALLENGE: &str = "Bearer error=\"invalid_token\"";

/// A response that refuses the token.
fn refusal() -> Fault {
    Fault::Response(401, vec![("WWW-Authenticate", CHALLENGE.to_owned())], vec![])
}

// Responses of the token endpoint

#[test]
fn error_of_the_token_endpoint_has_its_kind_and_is_remembered() {
    let invalid_client = r#"{"error":"invalid_client","error_description":"no such client"}"#;
    for (status, retry_after, content, kind, is_remembered) in [
        (200, None, invalid_client, ErrorKind::Denied, true),
        (400, None, "why", ErrorKind::Denied, true),
        (401, None, "why", ErrorKind::Denied, true),
        (403, None, "why", ErrorKind::Denied, true),
        (403, Some("7"), "why", ErrorKind::Status, false),
        (302, None, "why", ErrorKind::Denied, false),
        (404, None, "why", ErrorKind::Denied, false),
        (596, None, "why", ErrorKind::Denied, false),
        (429, None, "why", ErrorKind::Status, false),
        (500, None, "why", ErrorKind::Status, false),
        (503, None, "why", ErrorKind::Status, false),
    ] {
        let sandbox = Sandbox::start();
        let fields = retry_after.map(|value| ("Retry-After", value.to_owned()));
        let fields = fields.into_iter().collect();
        sandbox.next(Place::Token, Fault::Response(status, fields, content.into()));
        let session = sandbox.session().retries(0);
        let error = session.get(SHIPMENT).unwrap_err();
        assert_eq!((error.kind(), error.status()), (kind, Some(status)));
        assert_eq!(error.content(), Some(content.as_bytes()));
        assert!(!error.may_have_executed());
        let again = session.access_token().err().map(|error| error.status());
        assert_eq!(again, is_remembered.then_some(Some(status)), "{status}");
        assert_eq!(sandbox.count(Place::Token), if is_remembered { 1 } else { 2 }, "{status}");
        assert_eq!(sandbox.count(Place::Api), 0);
    }
}

#[test]
fn token_without_a_lifetime_serves_the_call_that_requested_it() {
    let sandbox = Sandbox::start();
    let session = sandbox.session();
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

// The token held

#[test]
fn token_of_an_earlier_process_is_used_while_it_is_good() {
    let sandbox = Sandbox::start();
    let (token, left) = {
        let session = sandbox.session();
        session.access_token().unwrap();
        session.held_token().unwrap()
    };
    assert!(left > Duration::from_secs(590) && left <= Duration::from_secs(600), "{left:?}");
    let later = sandbox.session().resume(&token, left).unwrap();
    assert_eq!(later.get(SHIPMENT).unwrap().status(), 200);
    assert_eq!(sandbox.count(Place::Token), 1);

    let expired = sandbox.session().resume(&token, Duration::ZERO).unwrap();
    assert_eq!(expired.held_token(), None);
    assert_eq!(expired.get(SHIPMENT).unwrap().status(), 200);
    assert_eq!(sandbox.count(Place::Token), 2);

    sandbox.revoke();
    let refused = sandbox.session().resume(&token, Duration::MAX).unwrap();
    assert!(refused.held_token().unwrap().1 <= Duration::from_secs(86_400));
    assert_eq!(refused.get(SHIPMENT).unwrap().status(), 200);
    assert_eq!(sandbox.count(Place::Token), 3);
}

#[test]
fn invalidate_drops_only_the_token_that_it_names() {
    let sandbox = Sandbox::start();
    let session = sandbox.session();
    let token = session.access_token().unwrap();
    session.invalidate("another");
    assert_eq!(session.access_token().unwrap(), token);
    session.invalidate(&token);
    assert_eq!(session.held_token(), None);
    assert_ne!(session.access_token().unwrap(), token);
}

#[test]
fn clone_shares_the_token_until_it_sets_endpoint_or_proxy() {
    let sandbox = Sandbox::start();
    let session = sandbox.session();
    let clone = session.clone().timeout(Duration::from_secs(5));
    let token = clone.access_token().unwrap();
    assert_eq!(session.held_token().unwrap().0, token);
    let endpoint = format!("{}/oauth2/token", sandbox.url());
    let apart = session.clone().token_endpoint(&endpoint).unwrap();
    assert_eq!(apart.held_token(), None);
    assert_ne!(apart.access_token().unwrap(), token);
    assert_eq!(session.access_token().unwrap(), token);
    // All tokens count.
    assert_eq!((session.counts().tokens, apart.counts().tokens), (2, 2));
    let proxied = session.clone().proxy("http://127.0.0.1:1").unwrap();
    assert_eq!(proxied.held_token(), None);
}

// Tokens that the API refuses

#[test]
fn token_that_a_response_refuses_is_replaced_once() {
    let sandbox = Sandbox::start();
    for (status, challenge, content, is_replaced) in [
        (401, CHALLENGE, "", true),
        (403, CHALLENGE, "", true),
        (403, "", r#"{"message":"The incoming token has expired"}"#, true),
        (403, "", r#"{"code":"InvalidTokenError"}"#, true),
        (400, "", r#"{"error":"invalid_token"}"#, true),
        (403, "", "", false),
        (302, CHALLENGE, "", false),
        (500, CHALLENGE, "", false),
    ] {
        let session = sandbox.session();
        let old = session.access_token().unwrap();
        let refusal = || {
            let fields = vec![("WWW-Authenticate", challenge.to_owned())];
            Fault::Response(status, fields, content.into())
        };
        let before = (sandbox.requests().len(), sandbox.bookings());
        sandbox.next(Place::Api, refusal());
        let booking = session.post(BOOKINGS, "application/json", "{}");
        let requests = &sandbox.requests()[before.0..];
        if is_replaced {
            assert_eq!(booking.unwrap().status(), 201, "{status} {content}");
            let [first, token_request, second] = requests else { panic!("{requests:?}") };
            assert_eq!(token_request.place, Place::Token);
            let new = session.held_token().unwrap().0;
            for (request, token) in [(first, old), (second, new)] {
                let expected = format!("Bearer {token}");
                assert_eq!(request.field("authorization"), Some(&*expected));
                assert_eq!(request.content, b"{}");
            }
            // A second refusal comes too soon.
            sandbox.next(Place::Api, refusal());
            assert_eq!(session.get(SHIPMENT).unwrap_err().status(), Some(status));
            assert_eq!(sandbox.requests().len(), before.0 + 4, "{status} {content}");
        } else {
            let error = booking.unwrap_err();
            assert_eq!(error.status(), Some(status));
            assert_eq!(error.may_have_executed(), status != 403);
            assert_eq!(requests.len(), 1, "{status} {content}");
        }
        assert_eq!(sandbox.bookings(), before.1 + usize::from(is_replaced));
    }
}

#[test]
fn call_whose_tokens_are_refused_is_sent_at_most_three_times() {
    // While a refused request is in flight, another caller replaces its token by one that is no
    // better: once, so that the call then requests a token itself, or twice.
    for (replacements, status) in [(1, Some(201)), (2, None)] {
        let sandbox = Sandbox::start();
        let session = sandbox.session();
        session.access_token().unwrap();
        sandbox.revoke();
        let gates: Vec<_> = (0..replacements).map(|_| Gate::new()).collect();
        for gate in &gates {
            sandbox.next(Place::Api, Fault::Wait(gate.clone()));
        }
        let result = thread::scope(|scope| {
            let call = scope.spawn(|| session.post(BOOKINGS, "application/json", "{}"));
            for (n, gate) in (1..).zip(&gates) {
                sandbox.await_count(Place::Api, n);
                drop(session.clone().resume(&format!("no-{n}"), Duration::from_secs(600)));
                gate.open();
            }
            call.join().expect("no panic")
        });
        if let Err(error) = &result {
            assert_eq!(error.status(), Some(401));
        }
        assert_eq!(result.ok().map(|response| response.status()), status);
        let booked = usize::from(status.is_some());
        assert_eq!((sandbox.count(Place::Api), sandbox.bookings()), (3, booked));
    }
}

#[test]
fn error_says_whether_a_refused_token_was_replaced() {
    let sandbox = Sandbox::start();
    let session = sandbox.session();
    // Each call has its first token replaced while it pauses, which counts as no refusal. The second
    // call's next token is refused less than ten seconds after that of the first.
    for (refusals, says) in [(2, "a new access token"), (1, "10 seconds")] {
        let token = session.access_token().unwrap();
        let busy = vec![("Retry-After", "0.5".to_owned())];
        sandbox.next(Place::Api, Fault::Response(503, busy, vec![]));
        for _ in 0..refusals {
            sandbox.next(Place::Api, refusal());
        }
        let before = sandbox.count(Place::Api);
        let error = thread::scope(|scope| {
            let call = scope.spawn(|| session.get(SHIPMENT).unwrap_err());
            sandbox.await_count(Place::Api, before + 1);
            session.invalidate(&token);
            call.join().expect("no panic").to_string()
        });
        assert!(error.contains(says), "{error}");
        assert_eq!(sandbox.count(Place::Api), before + 1 + refusals);
    }
}

#[test]
fn path_that_refuses_each_token_costs_one_token_request() {
    let sandbox = Sandbox::start();
    let session = sandbox.session();
    let refused = || {
        let error = session.post("/refused", "text/plain", "").unwrap_err();
        assert_eq!(error.status(), Some(401));
        assert!(!error.may_have_executed());
    };
    // The first call is sent once more, with another token.
    sandbox.next(Place::Api, refusal());
    sandbox.next(Place::Api, refusal());
    refused();
    for _ in 0..50 {
        assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
        sandbox.next(Place::Api, refusal());
        refused();
    }
    sandbox.always(Place::Api, Some(refusal()));
    for _ in 0..100 {
        refused();
    }
    assert_eq!((sandbox.count(Place::Token), sandbox.count(Place::Api)), (2, 202));
}
