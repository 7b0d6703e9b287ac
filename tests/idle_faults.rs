//! No call fails because of what a server does to an idle connection.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{mpsc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Error, ErrorKind, Session};

#[path = "support/gate/mod.rs"]
mod gate;
#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use gate::{get, post, serve_one, Gate};
use site::{good, pattern, Over, Peer, Site, BOTH, TOKEN_REQUEST};
use wire::{assert_in_time, side_by_side, PATIENCE, TIMEOUT};

const STRAY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const TIMED_OUT_AND_STAYS: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nslow";

/// When a server does something to a connection.
#[derive(Clone, Copy, PartialEq, Debug)]
enum When {
    /// Together with its response.
    AtOnce,
    /// When the client has read the response.
    Idle,
    /// After so many bytes of the next request, as they pass the wire.
    AfterBytes(usize),
    AfterHead,
    AfterRequest,
}

/// How the server ends the connection.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Close,
    /// Without `close_notify`.
    CloseTcp,
    Reset,
    Stay,
}

use End::{Close, CloseTcp, Reset, Stay};
use When::{AfterBytes, AfterHead, AfterRequest, AtOnce, Idle};

/// What a server does to a connection: when, what it sends, and how it ends the connection.
type Fault = (When, &'static [u8], End);

const FAULTS: &[Fault] = &[
    (AtOnce, b"", Close),
    (Idle, b"", Close),
    (Idle, b"", CloseTcp),
    (Idle, b"", Reset),
    (Idle, STRAY, Stay),
    (Idle, STRAY, Close),
    (Idle, INTERIM, Stay),
    (Idle, b"H", Stay),
    (Idle, TIMED_OUT, Close),
    (Idle, TIMED_OUT_AND_STAYS, Stay),
    (AfterBytes(1), b"", Close),
    (AfterBytes(1), b"", Reset),
    (AfterBytes(60), b"", Close),
    (AfterBytes(60), b"", Reset),
    (AfterHead, b"", Close),
    (AfterHead, b"", CloseTcp),
    (AfterHead, b"", Reset),
    (AfterHead, TIMED_OUT, Close),
    (AfterRequest, b"", Close),
    (AfterRequest, TIMED_OUT, Close),
    (AfterRequest, TIMED_OUT_AND_STAYS, Stay),
];

/// Serves one request, and does this to the connection.
fn misbehave(mut peer: Peer, gate: &Gate, (when, sends, end): Fault) {
    if (when, end) == (Idle, Reset) {
        // The request stays unread.
        peer.tcp().peek(&mut [0]).unwrap();
        peer.respond(&good("GET /first"));
    } else {
        serve_one(&mut peer);
    }
    let is_idle = matches!(when, AtOnce | Idle);
    if when != AtOnce {
        gate.wait();
    }
    if !is_idle {
        gate.open();
    }
    let has_request = match when {
        AtOnce | Idle => true,
        AfterBytes(bytes) => peer.tcp().read_exact(&mut vec![0; bytes]).is_ok(),
        AfterHead => peer.head().is_some(),
        AfterRequest => peer.request().is_some(),
    };
    if has_request {
        peer.respond(sends);
    }
    match end {
        Close => peer.close(),
        CloseTcp => peer.close_tcp(),
        Reset | Stay => {}
    }
    // To drop a connection with unread bytes resets it.
    let peer = (end != Reset).then_some(peer);
    if when == AtOnce {
        gate.wait();
    }
    if is_idle {
        gate.open();
    }
    match peer {
        Some(mut peer) if end == Stay => peer.serve_all(),
        Some(mut peer) => peer.drain(),
        None => {}
    }
}

/// More than goes out at a time.
const LARGE: usize = 256 << 10;

/// A call to `/second`.
struct Call {
    name: &'static str,
    /// The request line that it sends.
    line: &'static str,
    /// Whether it may use an idle connection.
    is_repeatable: bool,
    make: fn(&Session) -> Result<String, Error>,
}

const POST: &str = "POST /second";

const CALLS: [Call; 7] = [
    repeatable("get", "GET /second", |session| session.get("/second")?.text()),
    QUERY,
    repeatable("large post_idempotent", POST, |session| query(session, &pattern(LARGE))),
    once("access_token", TOKEN_REQUEST, |session| {
        let session = session.clone().resume("token", PATIENCE)?;
        session.invalidate("token");
        session.access_token()
    }),
    once("post", POST, |session| create(session, b"create")),
    once("large post", POST, |session| create(session, &pattern(LARGE))),
    once("post_json", POST, |session| session.post_json("/second", "create")?.text()),
];

const QUERY: Call = repeatable("post_idempotent", POST, |session| query(session, b"query"));

const fn repeatable(
    name: &'static str, line: &'static str, make: fn(&Session) -> Result<String, Error>,
) -> Call {
    Call { name, line, is_repeatable: true, make }
}

const fn once(
    name: &'static str, line: &'static str, make: fn(&Session) -> Result<String, Error>,
) -> Call {
    Call { name, line, is_repeatable: false, make }
}

fn query(session: &Session, content: &[u8]) -> Result<String, Error> {
    session.post_idempotent("/second", "text/plain", content)?.text()
}

fn create(session: &Session, content: &[u8]) -> Result<String, Error> {
    session.post("/second", "text/plain", content)?.text()
}

impl Call {
    fn expected(&self) -> &'static str {
        if self.line == TOKEN_REQUEST {
            "new"
        } else {
            self.line
        }
    }
}

/// Makes each call after the server did this to the connection of a GET.
fn assert_calls_succeed(over: Over, cases: &[(Fault, Call)]) {
    let (near, gate) = Gate::new();
    let faults: Vec<_> = cases.iter().map(|(fault, _)| *fault).collect();
    let site = Site::start(over, move |mut peer| {
        if peer.number > 0 {
            // The call of the case before, and the GET after it.
            serve_one(&mut peer);
            serve_one(&mut peer);
        }
        match faults.get(peer.number) {
            Some(fault) => misbehave(peer, &gate, *fault),
            None => peer.serve_all(),
        }
    });
    for (fault, call) in cases {
        let what = format!("{over:?}, {fault:?}, {}", call.name);
        assert_eq!(get(&site.session, "/first"), "GET /first", "{what}");
        near.open();
        near.wait();
        match (call.make)(&site.session) {
            Ok(content) => assert_eq!(content, call.expected(), "{what}"),
            Err(error) => panic!("{what}: {error:?}"),
        }
        // The good connection is kept.
        assert_eq!(get(&site.session, "/third"), "GET /third", "{what}");
    }
    let connections = site.requests();
    assert_eq!(connections.len(), cases.len() + 1, "{over:?}");
    for ((fault, call), pair) in cases.iter().zip(connections.windows(2)) {
        let what = format!("{over:?}, {fault:?}, {}: {pair:?}", call.name);
        assert_eq!(pair[1][..2], [call.line, "GET /third"], "{what}");
        let was_sent_before = pair[0].last().is_some_and(|line| line == call.line);
        assert!(call.is_repeatable || !was_sent_before, "{what}");
    }
}

#[test]
fn calls_succeed_whatever_happens_to_an_idle_connection() {
    side_by_side(BOTH, |over| {
        let cases = FAULTS.iter().flat_map(|fault| CALLS.map(|call| (*fault, call)));
        assert_calls_succeed(*over, &cases.collect::<Vec<_>>());
    });
}

/// The end is a close or a reset, in turn: the number of bytes decides what the server has received, and
/// the end only with which error the client learns it.
#[test]
fn idle_connection_may_die_at_any_byte_of_the_next_request() {
    side_by_side(BOTH, |&over| {
        let case = |n| {
            let end = if n % 2 == 0 { Close } else { Reset };
            ((AfterBytes(n), &b""[..], end), QUERY)
        };
        let cases: Vec<_> = (0..=length_of_query(over)).map(case).collect();
        assert_calls_succeed(over, &cases);
    });
}

/// How long the request of [`QUERY`] is as it passes the wire.
fn length_of_query(over: Over) -> usize {
    let (sender, receiver) = mpsc::channel();
    let site = Site::start(over, move |mut peer| {
        serve_one(&mut peer);
        let before = peer.received;
        serve_one(&mut peer);
        sender.send(peer.received - before).unwrap();
        peer.drain();
    });
    for _ in 0..2 {
        (QUERY.make)(&site.session).unwrap();
    }
    receiver.recv().unwrap()
}

#[test]
fn closed_idle_connections_cost_a_call_one_new_connection() {
    const IDLE: usize = 8;
    for &over in BOTH {
        let together = Barrier::new(IDLE);
        let (near, gates): (Vec<_>, Vec<_>) = (0..IDLE).map(|_| Gate::new()).unzip();
        let site = Site::start(over, move |mut peer| {
            let Some(gate) = gates.get(peer.number) else {
                return peer.serve_all();
            };
            let request = peer.request().unwrap();
            together.wait();
            peer.serve(&request);
            gate.wait();
            peer.close();
            gate.open();
            peer.drain();
        });
        let session = &site.session;
        side_by_side(0..IDLE, |_| drop(get(session, "/first")));
        for gate in near {
            gate.open();
            gate.wait();
        }
        assert_eq!(get(session, "/second"), "GET /second", "{over:?}");
        assert_eq!(post(session, "/third"), "POST /third", "{over:?}");
        let requests = site.requests();
        assert_eq!(requests.len(), IDLE + 2, "{over:?}: {requests:?}");
        assert_eq!(requests[IDLE..], [["GET /second"], ["POST /third"]]);
    }
}

#[test]
fn call_to_a_stopped_server_may_have_executed_if_it_was_sent() {
    for had_request in [false, true] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (near, gate) = Gate::new();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            drop(listener);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            wire::request(&mut stream);
            wire::respond(&mut stream, &good("GET /first"));
            if !had_request {
                drop(stream);
                return gate.open();
            }
            gate.open();
            wire::request(&mut stream);
        });
        let session = wire::session(&url);
        assert_eq!(get(&session, "/first"), "GET /first");
        near.wait();
        let error = session.get("/second").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exchange);
        assert_eq!(error.may_have_executed(), had_request, "{error:?}");
        server.join().unwrap();
    }
}

#[test]
fn call_on_a_silent_idle_connection_ends_in_time() {
    let rows = BOTH.iter().flat_map(|over| CALLS.map(|call| (*over, call)));
    side_by_side(rows, |(over, call)| {
        let site = Site::start(over, |mut peer| {
            if peer.number > 0 {
                return peer.serve_all();
            }
            serve_one(&mut peer);
            peer.request();
            peer.drain();
        });
        get(&site.session, "/first");
        let start = Instant::now();
        let result = (call.make)(&site.session.clone().timeout(TIMEOUT));
        if call.is_repeatable {
            let error = result.unwrap_err();
            assert_in_time(start, &error);
            assert!(error.may_have_executed(), "{}", call.name);
        } else {
            assert_eq!(result.unwrap(), call.expected());
        }
        // That connection is not used a third time.
        assert_eq!(get(&site.session, "/third"), "GET /third");
        let requests = site.requests();
        let sent = requests.concat().into_iter().filter(|line| line == call.line);
        assert_eq!(sent.count(), 1, "{over:?}, {}: {requests:?}", call.name);
    });
}

#[test]
fn calls_succeed_while_idle_connections_are_being_closed() {
    const CALLS: usize = 120;
    side_by_side(BOTH, |&over| {
        let site = Site::start(over, |mut peer| {
            let Some(request) = peer.request() else {
                return;
            };
            peer.serve(&request);
            // As long as a call takes, or less: the close and the next call cross.
            let n = u64::try_from(peer.number).unwrap();
            thread::sleep(Duration::from_micros(n * 7919 % 1500));
            peer.close();
            peer.drain();
        });
        for n in 0..CALLS {
            let (path, session) = (format!("/{n}"), &site.session);
            let (method, result) = match n % 3 {
                0 => ("GET", session.get(&path)),
                1 => ("POST", session.post_idempotent(&path, "text/plain", "query")),
                _ => ("POST", session.post(&path, "text/plain", "create")),
            };
            let content = result.unwrap().text().unwrap();
            assert_eq!(content, format!("{method} {path}"), "{over:?}");
        }
        let all = site.requests().concat();
        for n in (2..CALLS).step_by(3) {
            let line = format!("POST /{n}");
            assert_eq!(all.iter().filter(|sent| **sent == line).count(), 1);
        }
    });
}

#[test]
fn garbage_on_an_idle_connection_is_an_error_at_once() {
    for &over in BOTH {
        let site = Site::start(over, |mut peer| {
            serve_one(&mut peer);
            peer.request().unwrap();
            peer.respond(b"garbage\r\n\r\n");
            peer.drain();
        });
        assert_eq!(get(&site.session, "/first"), "GET /first");
        let error = site.session.get("/second").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exchange, "{error:?}");
        // The server has responded, so the request is not sent again.
        assert_eq!(site.requests(), [["GET /first", "GET /second"]]);
    }
}
