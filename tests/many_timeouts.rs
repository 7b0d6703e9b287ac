//! A hundred calls to a server that never responds: each connects, and leaves no thread and no socket.

use std::time::{Duration, Instant};

use jas_session::ErrorKind;

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::closed_url;
#[path = "support/wire/mod.rs"]
mod wire;
use wire::process::sockets;
use wire::{
    assert_nothing_left, assert_passes, held, response, session, side_by_side, text,
    this_test_alone, until_closed, urls, Server, LATE,
};

const CALLS: usize = 100;
const TIMEOUT: Duration = Duration::from_millis(10);

#[test]
fn timeouts_in_sequence_leave_nothing_behind() {
    time_out("timeouts_in_sequence_leave_nothing_behind", "http", in_sequence);
}

#[test]
fn timeouts_in_parallel_leave_nothing_behind() {
    time_out("timeouts_in_parallel_leave_nothing_behind", "http", in_parallel);
}

#[cfg(feature = "tls")]
#[test]
fn tls_timeouts_in_sequence_leave_nothing_behind() {
    time_out("tls_timeouts_in_sequence_leave_nothing_behind", "https", in_sequence);
}

#[cfg(feature = "tls")]
#[test]
fn tls_timeouts_in_parallel_leave_nothing_behind() {
    time_out("tls_timeouts_in_parallel_leave_nothing_behind", "https", in_parallel);
}

fn in_sequence(url: &str) {
    let before = sockets();
    for i in 1..=CALLS {
        call(url);
        // wine takes a second to count them.
        if !cfg!(windows) || i == CALLS {
            assert_eq!(sockets(), before, "after {i} calls");
        }
    }
}

fn in_parallel(url: &str) {
    side_by_side(0..CALLS, |_| call(url));
}

/// Runs the calls in a child process, and counts the connections that the server accepted.
fn time_out(test: &str, scheme: &str, calls: fn(&str)) {
    if let [good, url] = &urls()[..] {
        assert_eq!(text(good).unwrap(), "good");
        // Reads the roots, which may take longer than the timeout of the calls.
        let (scheme, _) = url.split_once("://").unwrap();
        text(&closed_url().replace("http", scheme)).unwrap_err();
        let before = held();
        calls(url);
        assert_nothing_left(before, "after all calls");
        assert_eq!(text(good).unwrap(), "good");
        return;
    }
    let good = Server::responding(&response("200 OK", "", "good"));
    let silent = Server::start(until_closed);
    let url = silent.url().replace("http", scheme);
    assert_passes(this_test_alone(test, &[good.url(), url]));
    // The client has closed each connection, so nothing more can be sent on it.
    let connections = silent.ended();
    // On a busy machine, the timeout of a few may pass before they have connected.
    assert!((CALLS * 9 / 10..=CALLS).contains(&connections.len()), "{}", connections.len());
    for bytes in connections {
        let received = String::from_utf8_lossy(&bytes);
        let requests = received.matches("POST / HTTP/1.1\r\n").count();
        assert!(requests <= usize::from(scheme == "http"), "{received}");
    }
}

fn call(url: &str) {
    let start = Instant::now();
    let session = session(url).timeout(TIMEOUT);
    let error = session.post("/", "text/plain", "create").unwrap_err();
    let took = start.elapsed();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    // Parallel calls also wait for one another.
    assert!(took < TIMEOUT + 2 * LATE, "{took:?}");
}
