//! A process that forks, as legacy programs do: its child's copies of the sockets delay no call and keep
//! no connection open.
#![cfg(unix)]

use std::sync::{mpsc, Mutex};
use std::thread;
use std::time::Instant;

use jas_session::Response;

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{Site, BOTH};
use wire::{assert_in_time, assert_passes, this_test_alone, urls, Server, PATIENCE, TIMEOUT};

/// A forked process that holds copies of all sockets, and does nothing.
struct Fork(libc::pid_t);

impl Fork {
    #[allow(unsafe_code, reason = "the standard library does not fork alone")]
    fn new() -> Fork {
        // SAFETY: the child only makes a call that is safe after a fork.
        unsafe {
            match libc::fork() {
                0 => loop {
                    libc::pause();
                },
                child => Fork(child),
            }
        }
    }
}

impl Drop for Fork {
    #[allow(unsafe_code, reason = "the standard library does not fork alone")]
    fn drop(&mut self) {
        // SAFETY: the child is waited for once.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

#[test]
fn fork_during_a_token_request_delays_no_call() {
    if urls().is_empty() {
        let test = "fork_during_a_token_request_delays_no_call";
        return assert_passes(this_test_alone(test, &["child".to_owned()]));
    }
    let (sender, arrived) = mpsc::channel();
    let server = Server::start(move |stream| {
        wire::request(stream);
        sender.send(()).unwrap();
        wire::until_closed(stream)
    });
    let session = wire::session_without_token(&server.url()).timeout(TIMEOUT);
    let start = Instant::now();
    let call = thread::spawn(move || session.access_token().unwrap_err());
    arrived.recv().unwrap();
    let fork = Fork::new();
    assert_in_time(start, &call.join().unwrap());
    drop(server);
    drop(fork);
}

#[test]
fn forked_process_keeps_no_connection_open() {
    if let [url] = &urls()[..] {
        let session = site::trusting(wire::session(url));
        session.get("/first").unwrap();
        let fork = Fork::new();
        // The server serves this once the first connection is closed.
        let response = session.post("/second", "text/plain", "create");
        assert_eq!(response.and_then(Response::text).unwrap(), "POST /second");
        drop(fork);
        return;
    }
    for &over in BOTH {
        let (sender, closed) = mpsc::channel();
        let closed = Mutex::new(closed);
        let site = Site::start(over, move |mut peer| {
            if peer.number > 0 {
                closed.lock().unwrap().recv_timeout(PATIENCE / 2).unwrap();
            }
            peer.serve_all();
            sender.send(()).unwrap();
        });
        let test = "forked_process_keeps_no_connection_open";
        assert_passes(site::trusted_by(this_test_alone(test, &[site.url()])));
        assert_eq!(site.requests(), [["GET /first"], ["POST /second"]]);
    }
}
