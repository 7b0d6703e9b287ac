//! What the tests of a site's connections share: simple calls, and a gate between test and server.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(unreachable_pub, reason = "pub is what tests use")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use jas_session::{Response, Session};

use crate::site::{Over, Peer, Site};
use crate::wire::PATIENCE;

/// The content of a GET.
pub fn get(session: &Session, path: &str) -> String {
    session.get(path).and_then(Response::text).unwrap()
}

/// The content of the response to a plain POST.
pub fn post(session: &Session, path: &str) -> String {
    session.post(path, "text/plain", "create").and_then(Response::text).unwrap()
}

/// A server that responds correctly to each request.
pub fn good_site(over: Over) -> Site {
    Site::start(over, |mut peer| peer.serve_all())
}

/// Serves one request of a connection.
pub fn serve_one(peer: &mut Peer) {
    let request = peer.request().unwrap();
    peer.serve(&request);
}

/// Runs these numbers on a few threads, which share the work.
pub fn for_each(numbers: Range<usize>, threads: usize, run: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(numbers.start);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= numbers.end {
                    break;
                }
                run(number);
            });
        }
    });
}

/// One end of a connection over which test and server wait for each other. Bytes that the server sent
/// to the client before it opens the gate have arrived when the test has waited for it.
pub struct Gate(TcpStream);

impl Gate {
    /// Both ends.
    pub fn new() -> (Gate, Gate) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        (Gate(near), Gate(far))
    }

    /// Lets the other end pass once.
    pub fn open(&self) {
        (&self.0).write_all(b"!").unwrap();
    }

    /// Waits until the other end opens the gate.
    pub fn wait(&self) {
        (&self.0).read_exact(&mut [0]).unwrap();
    }
}
