//! A process that is stopped in a call, as by Ctrl-Z or a debugger, loses nothing but time.

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Response, Session};

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{good, pattern, Over, Peer, Site, BOTH};
use wire::process::{go_on, stop};
use wire::{response, side_by_side, urls, PATIENCE};

/// How long a process is stopped.
const STOPPED: Duration = Duration::from_millis(1200);

/// How many calls a child makes.
const CALLS: usize = 7;

/// More than goes out at a time.
const LARGE: usize = 256 << 10;

/// When a server stops the process that calls it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Moment {
    /// Before the handshake of the connection of this number.
    Accepted(usize),
    /// In the response to the request of this number, after so many bytes. The rest of the response
    /// arrives while the process is stopped.
    Responding(usize, usize),
    /// The same, but the rest arrives after the process went on.
    RespondingSlowly(usize, usize),
    /// After the response. The server closes the idle connection while the process is stopped.
    Closing(usize),
    /// While the process sends the content of the request.
    Uploading(usize),
}

use Moment::{Accepted, Closing, Responding, RespondingSlowly, Uploading};

/// Starts this test in a child process, which finds this URL and trusts the server there.
fn start(test: &str, url: String) -> Child {
    let mut command = site::trusted_by(wire::this_test_alone(test, &[url]));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the end of the test.
fn assert_passes(child: Child, what: &str) {
    println!("{what}:");
    wire::assert_passed(child.wait_with_output().unwrap());
}

/// The process that a server stops.
#[derive(Default)]
struct Target {
    pid: OnceLock<u32>,
    stops: AtomicUsize,
}

impl Target {
    /// Stops the process, calls `act`, and lets the process go on after [`STOPPED`].
    fn stop_while(&self, act: impl FnOnce()) {
        let start = Instant::now();
        let pid = loop {
            assert!(start.elapsed() < PATIENCE);
            match self.pid.get() {
                Some(pid) => break *pid,
                None => thread::yield_now(),
            }
        };
        self.stops.fetch_add(1, Ordering::SeqCst);
        assert!(stop(pid));
        act();
        thread::sleep(STOPPED);
        assert!(go_on(pid));
    }
}

#[test]
fn upload_of_a_stopped_process_is_sent_to_its_end() {
    const SIZE: usize = 16 << 20;
    if let [url] = &urls()[..] {
        let session = Session::new(url, "id", "secret").unwrap();
        // So short that the stop is longer than a server may refuse to read.
        let session = session.resume("token", PATIENCE).unwrap().timeout(STOPPED * 4);
        let response = session.post("/", "text/plain", vec![b'x'; SIZE]).unwrap();
        assert_eq!(response.status(), 201);
        return;
    }
    let target = Arc::new(Target::default());
    let stopped = Arc::clone(&target);
    let server = wire::Server::start(move |stream| {
        let mut begin = vec![0; 1024];
        stream.read_exact(&mut begin).unwrap();
        stream.write_all(&response("201 Created", "", "early")).unwrap();
        // By then the buffers are full, and a write of the client sends nothing.
        thread::sleep(Duration::from_millis(150));
        stopped.stop_while(|| {});
        [begin, wire::until_closed(stream)].concat()
    });
    let child = start("upload_of_a_stopped_process_is_sent_to_its_end", server.url());
    target.pid.set(child.id()).unwrap();
    assert_passes(child, "an upload");
    assert!(server.ended()[0].len() > SIZE);
}

/// In a child: calls of each kind, and a token request first.
fn call_each(url: &str, calls: usize) {
    let session = site::trusting(Session::new(url, "id", "secret").unwrap());
    let session = session.retries(0).timeout(PATIENCE);
    for n in 0..calls {
        let path = format!("/{n}");
        let (method, result) = match n % 3 {
            0 => ("GET", session.get(&path)),
            1 => ("POST", session.post_idempotent(&path, "text/plain", pattern(LARGE))),
            _ => ("POST", session.post(&path, "text/plain", pattern(LARGE))),
        };
        let content = result.and_then(Response::text);
        assert_eq!(content.unwrap(), format!("{method} {path}"));
    }
}

#[test]
fn calls_of_a_process_stopped_at_any_moment_succeed() {
    if let [url] = &urls()[..] {
        return call_each(url, CALLS);
    }
    let head = good("GET /0").len() - "GET /0".len();
    let moments = [
        Accepted(0),
        Accepted(1),
        Responding(0, 10),
        Responding(1, 0),
        Responding(2, 10),
        Responding(3, 30),
        Responding(4, head),
        Responding(5, head + 2),
        Responding(6, 0),
        RespondingSlowly(1, 20),
        RespondingSlowly(4, head + 2),
        Closing(0),
        Closing(3),
        Uploading(2),
        Uploading(3),
    ];
    let rows = BOTH.iter().flat_map(|over| moments.map(|moment| (*over, moment)));
    side_by_side(rows, |(over, moment)| stop_at(over, moment));
}

/// Runs a child, and stops it at this moment.
fn stop_at(over: Over, moment: Moment) {
    let target = Arc::new(Target::default());
    let (serving, requests) = (Arc::clone(&target), AtomicUsize::new(0));
    let site = Site::accepting(over, move |peer| serve(peer, moment, &requests, &serving));
    let test = "calls_of_a_process_stopped_at_any_moment_succeed";
    let child = start(test, site.url());
    target.pid.set(child.id()).unwrap();
    assert_passes(child, &format!("{over:?}, {moment:?}"));
    let stops = target.stops.load(Ordering::SeqCst);
    assert_eq!(stops, 1, "{over:?}, {moment:?}: stopped {stops} times");
    assert!(site.requests().concat().len() > CALLS);
}

fn serve(mut peer: Peer, moment: Moment, requests: &AtomicUsize, target: &Target) {
    if moment == Accepted(peer.number) {
        target.stop_while(|| {});
    }
    while let Some(request) = peer.head() {
        let number = requests.fetch_add(1, Ordering::SeqCst);
        if moment == Uploading(number) {
            target.stop_while(|| {});
        }
        let Some(request) = peer.rest_of(request) else { break };
        let response = good(&request.line);
        match moment {
            Responding(n, bytes) if n == number => {
                let (begin, end) = response.split_at(bytes);
                peer.respond(begin);
                target.stop_while(|| peer.respond(end));
            }
            RespondingSlowly(n, bytes) if n == number => {
                let (begin, end) = response.split_at(bytes);
                peer.respond(begin);
                target.stop_while(|| {});
                peer.respond(end);
            }
            Closing(n) if n == number => {
                peer.respond(&response);
                target.stop_while(|| peer.close());
                break;
            }
            _ => peer.respond(&response),
        }
    }
    peer.drain();
}

#[test]
fn calls_of_a_process_stopped_again_and_again_succeed() {
    if let [url] = &urls()[..] {
        return call_each(url, 10 * CALLS);
    }
    side_by_side(BOTH, |&over| {
        let site = Site::start(over, |mut peer| peer.serve_all());
        let test = "calls_of_a_process_stopped_again_and_again_succeed";
        let child = start(test, site.url());
        let pid = child.id();
        thread::scope(|scope| {
            scope.spawn(move || {
                while stop(pid) {
                    thread::sleep(Duration::from_millis(30));
                    go_on(pid);
                    thread::sleep(Duration::from_millis(10));
                }
            });
            assert_passes(child, &format!("{over:?}"));
        });
    });
}
