//! Connections that are not made or are lost, and timeouts: what the call was waiting for.

use super::*;

use std::error::Error as _;
use std::io;
use std::thread;
use std::time::Duration;

use jas_session::ErrorKind;
use sandbox::{closed_url, Gate};
use wire::TIMEOUT;

#[test]
fn host_that_refuses_connections_is_named() {
    let url = closed_url();
    let advice = "no connection to the host could be made: check host, port and firewall";
    let held = wire::session(&url).get("/x").unwrap_err();
    assert_eq!(held.to_string(), format!("GET {url}/x: {advice}"));
    let error = Session::new(&url, "id", "secret").unwrap().retries(0).get("/x").unwrap_err();
    assert_eq!(error.to_string(), format!("token request to {url}/oauth2/token: {advice}"));
    assert_eq!(error.kind(), ErrorKind::Exchange);
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::ConnectionRefused));
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::ConnectionRefused);
}

/// The listener's queue of connections is full, so the system makes no further one.
#[test]
fn timeout_names_the_connection_that_was_not_made() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connect = || std::net::TcpStream::connect_timeout(&address, TIMEOUT).ok();
    let waiting: Vec<_> = std::iter::from_fn(connect).collect();
    let error = wire::session(&format!("http://{address}")).timeout(TIMEOUT).get("/").unwrap_err();
    let late = "the timeout of 300ms passed before a connection to the host was made";
    assert_eq!(error.to_string(), format!("GET http://{address}/: {late}"));
    drop(waiting);
}

#[test]
fn timeout_names_what_was_not_complete() {
    let sandbox = Sandbox::start();
    let fresh = sandbox.session().retries(0);
    fresh.access_token().unwrap();
    let path = "/tracking/v1/shipments/S505185992";
    for (fault, reason) in [
        (Fault::Stall(None), "the response was complete"),
        (Fault::Stall(Some(3)), "the content was complete (3 of 614 bytes came)"),
    ] {
        sandbox.next(Place::Api, fault);
        let error = fresh.clone().timeout(TIMEOUT).get(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let reason = format!("the timeout of 300ms passed before {reason}");
        assert_eq!(error.to_string(), format!("GET {}{path}: {reason}", sandbox.url()));
    }
    let error = session(&sandbox).timeout(Duration::ZERO).get("/x").unwrap_err();
    let reason = "the timeout of 0ns passed before anything was sent";
    assert_get(&sandbox, &error, reason);
    // An error without a cause has none in an `io::Error` either.
    let text = error.to_string();
    assert_eq!(format!("{error:#}"), text);
    let error = io::Error::from(error);
    assert_eq!(format!("{:#}", Error::find(&error).unwrap()), text);
}

#[test]
fn timeout_names_the_other_thread_that_requests_the_token() {
    let sandbox = Sandbox::start();
    let gate = Gate::new();
    sandbox.next(Place::Token, Fault::Wait(gate.clone()));
    let patient = sandbox.session();
    thread::scope(|scope| {
        scope.spawn(|| patient.access_token().unwrap());
        sandbox.await_count(Place::Token, 1);
        let error = patient.clone().timeout(TIMEOUT).access_token().unwrap_err();
        let reason = "the timeout of 300ms passed while another thread requested the token";
        assert_token_request(&sandbox, &error, reason);
        gate.open();
    });
}

/// On Unix only: Windows has no such limit.
#[cfg(unix)]
#[test]
fn too_many_open_files_are_named() {
    if let [url] = &wire::urls()[..] {
        let session = wire::session(url);
        let open: Vec<_> =
            std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).take(200).collect();
        let error = session.get("/").unwrap_err();
        drop(open);
        let reason = "too many files are open, and each connection counts as one: raise the limit \
                      of open files, or read responses to their end, or drop them";
        assert_eq!(error.to_string(), format!("GET {url}/: {reason}"));
        return;
    }
    let test = "connections::too_many_open_files_are_named";
    let alone = wire::this_test_alone(test, &[closed_url()]);
    let mut child = std::process::Command::new("sh");
    child.args(["-c", r#"ulimit -n 64; exec "$0" "$@""#]);
    child.arg(alone.get_program()).args(alone.get_args());
    child.envs(alone.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wire::assert_passes(child);
}
