//! A token is renewed before it expires, after a call, in a part of the call's time; failures are
//! not seen.

use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jas_session::{ErrorKind, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[path = "support/scratch/mod.rs"]
mod scratch;
use sandbox::{Fault, Gate, Place, Sandbox, CLIENT_ID};
use scratch::Directory;

const SHIPMENT: &str = "/tracking/v1/shipments/S505185992";

/// A session whose token is due for renewal, with a minute left, and that token. It comes from a token file, which is
/// gone afterwards: so no time has to pass until it is due.
fn due_session(sandbox: &Sandbox) -> (Session, String) {
    let directory = Directory::new();
    let session = || sandbox.session().token_file(directory.file("token")).expect("a session");
    let token = session().access_token().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let content = format!(
        r#"{{"token_endpoint":"{}/oauth2/token","client_id":"{CLIENT_ID}",
            "access_token":"{token}","written_at":{},"expires_in":600}}"#,
        sandbox.url(),
        now - 540
    );
    fs::write(directory.file("token"), content).unwrap();
    let session = session();
    let loaded = session.clone().renew_before(Duration::ZERO).access_token().unwrap();
    assert_eq!(loaded, token);
    (session, token)
}

#[test]
fn due_token_delays_no_booking() {
    let sandbox = Sandbox::start();
    let (session, old) = due_session(&sandbox);
    let session = session.timeout(Duration::from_secs(1));
    sandbox.always(Place::Token, Some(Fault::Stall(None)));
    let gate = Gate::new();
    sandbox.next(Place::Api, Fault::Wait(gate.clone()));
    thread::scope(|scope| {
        scope.spawn(|| {
            sandbox.await_count(Place::Api, 1);
            // A renewal before the call would leave it less time than this.
            thread::sleep(Duration::from_millis(780));
            gate.open();
        });
        let response = session.post("/bookings/v1/bookings", "application/json", "{}");
        assert_eq!(response.unwrap().status(), 201);
    });
    assert_eq!(session.held_token().unwrap().0, old);
}

#[test]
fn caller_with_little_time_leaves_the_renewal_to_others() {
    let sandbox = Sandbox::start();
    let (session, old) = due_session(&sandbox);
    let late = session.clone().timeout(Duration::ZERO);
    let error = late.get(SHIPMENT).unwrap_err();
    assert_eq!((error.kind(), error.may_have_executed()), (ErrorKind::Timeout, false));
    assert_eq!(sandbox.count(Place::Api), 0);
    sandbox.next(Place::Token, Fault::Stall(None));
    let hasty = session.clone().timeout(Duration::from_millis(400));
    // It tries once, for a quarter of its time.
    for _ in 0..3 {
        assert_eq!(hasty.access_token().unwrap(), old);
    }
    assert_eq!(sandbox.count(Place::Token), 2);
    assert_ne!(session.access_token().unwrap(), old);
}

#[test]
fn due_token_is_renewed_by_one_thread_while_others_use_it() {
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
fn renewed_token_is_dropped_if_the_old_one_was_refused() {
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
    // It may have been issued before all tokens were revoked.
    assert_eq!(session.held_token(), None);
    assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
}

#[test]
fn failed_renewal_is_not_seen_retried_or_remembered() {
    let sandbox = Sandbox::start();
    let (session, old) = due_session(&sandbox);
    for status in [401, 400] {
        sandbox.next(Place::Token, Fault::Response(status, vec![], vec![]));
    }
    for _ in 0..3 {
        assert_eq!(session.access_token().unwrap(), old);
    }
    assert_eq!(sandbox.count(Place::Token), 2);
    // Without a token another request is made, whose failure is seen.
    session.invalidate(&old);
    assert_eq!(session.access_token().unwrap_err().status(), Some(400));
    assert_eq!(sandbox.count(Place::Token), 3);
}

#[test]
fn renewed_token_that_expires_sooner_is_not_used() {
    let sandbox = Sandbox::start();
    for json in ["0", "30"] {
        let (session, old) = due_session(&sandbox);
        let before = sandbox.count(Place::Token);
        sandbox.expires_in(json);
        for _ in 0..2 {
            assert_eq!(session.access_token().unwrap(), old);
        }
        assert_eq!(sandbox.count(Place::Token), before + 1, "it is not retried at once");
        sandbox.expires_in("600");
    }
}

#[test]
fn renewal_takes_at_most_a_quarter_of_the_time() {
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
fn renewal_ends_before_the_token_expires() {
    let sandbox = Sandbox::start();
    let (session, token) = due_session(&sandbox);
    let session = session.renew_before(Duration::MAX);
    let session = session.resume(&token, Duration::from_secs(1)).unwrap();
    while session.held_token().unwrap().1 > Duration::from_millis(500) {
        thread::sleep(Duration::from_millis(5));
    }
    sandbox.next(Place::Token, Fault::Stall(None));
    let start = Instant::now();
    assert_eq!(session.get(SHIPMENT).unwrap().status(), 200);
    assert_eq!(sandbox.count(Place::Token), 2);
    assert!(start.elapsed() < Duration::from_secs(1));
}
