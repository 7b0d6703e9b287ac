//! A process that forks, as legacy programs do: the copies of the sockets that its child holds delay no
//! call, and keep no connection open.
#![cfg(unix)]

use std::sync::mpsc;
use std::sync::Mutex;
use std::time::Instant;

use jas_session::{Response, Session};

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{Site, BOTH};
use wire::{assert_in_time, assert_passes, this_test_alone, urls, Server, PATIENCE, TIMEOUT};

/// A forked process that holds all that this one held, and does nothing.
struct Fork(libc::pid_t);

impl Fork {
    #[allow(unsafe_code, reason = "the standard library does not fork alone")]
    fn new() -> Fork {
        // SAFETY: the child makes no other call than one that is safe after a fork.
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
fn a_fork_during_a_token_request_delays_no_call() {
    if let [url] = &urls()[..] {
        // The request has arrived when the server says so, by a second connection.
        let at = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = at.local_addr().unwrap().to_string();
        let session = Session::new(url, &address, "secret").unwrap().retries(0).timeout(TIMEOUT);
        let start = Instant::now();
        let call = std::thread::spawn(move || session.access_token().unwrap_err());
        at.accept().unwrap();
        let fork = Fork::new();
        let error = call.join().unwrap();
        assert_in_time(start, &error);
        drop(fork);
        return;
    }
    let server = Server::start(|stream| {
        let request = String::from_utf8(wire::request(stream)).unwrap();
        let (_, rest) = request.split_once("client_id=").unwrap();
        let address = rest.split('&').next().unwrap().replace("%3A", ":");
        let told = std::net::TcpStream::connect(address).unwrap();
        let _ = wire::until_closed(stream);
        drop(told);
        Vec::new()
    });
    let test = "a_fork_during_a_token_request_delays_no_call";
    assert_passes(this_test_alone(test, &[server.url()]));
}

#[test]
fn a_forked_process_keeps_no_connection_open() {
    let test = "a_forked_process_keeps_no_connection_open";
    if let [url] = &urls()[..] {
        let session = site::trusting(wire::session(url));
        session.get("/first").unwrap();
        let fork = Fork::new();
        // Its connection opens when the first is closed.
        let response = session.post("/second", "text/plain", "create");
        assert_eq!(response.and_then(Response::text).unwrap(), "POST /second");
        drop(fork);
        return;
    }
    for &over in BOTH {
        let (closed, is_closed) = mpsc::channel();
        let ends = (Mutex::new(closed), Mutex::new(is_closed));
        let site = Site::start(over, move |mut peer| {
            if peer.number > 0 {
                ends.1.lock().unwrap().recv_timeout(PATIENCE / 2).unwrap();
            }
            peer.serve_all();
            ends.0.lock().unwrap().send(()).unwrap();
        });
        assert_passes(site::trusted_by(this_test_alone(test, &[site.url()])));
        assert_eq!(site.requests(), [["GET /first"], ["POST /second"]]);
    }
}
