//! No call fails or gets a wrong response because of what a server does to an idle connection.

use std::collections::HashSet;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{mpsc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Error, ErrorKind, Response, Session};

#[path = "support/gate/mod.rs"]
mod gate;
#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use gate::{for_each, get, post, serve_one, Gate};
use site::{good, pattern, Over, Peer, Site, BOTH, TOKEN_REQUEST};
use wire::{assert_in_time, response, PATIENCE, TIMEOUT};

const STRAY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const TIMED_OUT_AND_STAYS: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nslow";

/// When a server does it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum When {
    /// Together with the first response.
    AtOnce,
    /// When the client has read the first response.
    Idle,
    /// After so many bytes of the second request, as they pass the wire.
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

/// A server that does something to its first connection: when, what it sends, and how it ends.
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

/// Serves the first request, and does this to the connection.
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

#[derive(Clone, Copy, PartialEq, Debug)]
enum Call {
    Get,
    PostIdempotent,
    PostIdempotentLarge,
    Token,
    Post,
    PostLarge,
    PostJson,
}

impl Call {
    const ALL: [Call; 7] = [
        Call::Get,
        Call::PostIdempotent,
        Call::PostIdempotentLarge,
        Call::Token,
        Call::Post,
        Call::PostLarge,
        Call::PostJson,
    ];

    /// Whether it never uses an idle connection.
    fn is_always_fresh(self) -> bool {
        matches!(self, Call::Token | Call::Post | Call::PostLarge | Call::PostJson)
    }

    fn line(self) -> &'static str {
        match self {
            Call::Get => "GET /second",
            Call::Token => TOKEN_REQUEST,
            _ => "POST /second",
        }
    }

    fn make(self, session: &Session) -> Result<String, Error> {
        let (path, media_type) = ("/second", "text/plain");
        match self {
            Call::Get => session.get(path)?.text(),
            Call::PostIdempotent => session.post_idempotent(path, media_type, "query")?.text(),
            Call::PostIdempotentLarge => {
                session.post_idempotent(path, media_type, pattern(LARGE))?.text()
            }
            Call::Token => {
                session.invalidate("token");
                session.access_token()
            }
            Call::Post => session.post(path, media_type, "create")?.text(),
            Call::PostLarge => session.post(path, media_type, pattern(LARGE))?.text(),
            Call::PostJson => session.post_json(path, "create")?.text(),
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Call::Token => "new",
            call => call.line(),
        }
    }
}

/// Makes each call after the server did this to the connection of a GET.
fn assert_calls_succeed_after(over: Over, fault: Fault) {
    let (near, gate) = Gate::new();
    let site = Site::start(over, move |mut peer| {
        if peer.number % 2 == 0 {
            return misbehave(peer, &gate, fault);
        }
        while let Some(request) = peer.request() {
            if request.line == "GET /third" {
                // The next call begins on a new connection.
                peer.respond(&response("200 OK", "Connection: close\r\n", "last"));
            } else {
                peer.serve(&request);
            }
        }
    });
    for call in Call::ALL {
        let what = format!("{over:?}, {fault:?}, {call:?}");
        assert_eq!(get(&site.session, "/first"), "GET /first", "{what}");
        near.open();
        near.wait();
        match call.make(&site.session) {
            Ok(content) => assert_eq!(content, call.expected(), "{what}"),
            Err(error) => panic!("{what}: {error:?}"),
        }
        // The good connection is kept.
        assert_eq!(get(&site.session, "/third"), "last", "{what}");
    }
    let connections = site.requests();
    assert_eq!(connections.len(), 2 * Call::ALL.len(), "{over:?}, {fault:?}: {connections:?}");
    for (call, pair) in Call::ALL.into_iter().zip(connections.chunks(2)) {
        let what = format!("{over:?}, {fault:?}, {call:?}: {pair:?}");
        assert_eq!(pair[1], [call.line(), "GET /third"], "{what}");
        if call.is_always_fresh() {
            assert!(pair[0].iter().all(|line| line == "GET /first"), "{what}");
        }
    }
}

#[test]
fn calls_succeed_whatever_happens_to_an_idle_connection() {
    thread::scope(|scope| {
        for &over in BOTH {
            scope.spawn(move || {
                for fault in FAULTS {
                    assert_calls_succeed_after(over, *fault);
                }
            });
        }
    });
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
        thread::scope(|scope| {
            for _ in 0..IDLE {
                scope.spawn(|| get(session, "/first"));
            }
        });
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
    let run = |over, call: Call| {
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
        let result = call.make(&site.session.clone().timeout(TIMEOUT));
        if call.is_always_fresh() {
            assert_eq!(result.unwrap(), call.expected());
        } else {
            let error = result.unwrap_err();
            assert_in_time(start, &error);
            assert!(error.may_have_executed(), "{call:?}");
        }
        // That connection is not used a third time.
        assert_eq!(get(&site.session, "/third"), "GET /third");
        let requests = site.requests();
        let sent = requests.concat().into_iter().filter(|line| line == call.line());
        assert_eq!(sent.count(), 1, "{over:?}, {call:?}: {requests:?}");
    };
    for &over in BOTH {
        thread::scope(|scope| {
            for call in Call::ALL {
                scope.spawn(move || run(over, call));
            }
        });
    }
}

#[test]
fn calls_succeed_while_idle_connections_are_being_closed() {
    const CALLS: usize = 120;
    let run = |over| {
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
    };
    thread::scope(|scope| {
        for &over in BOTH {
            scope.spawn(move || run(over));
        }
    });
}

/// The request of the sweep, always of the same length.
fn query(session: &Session, n: usize) -> Result<String, Error> {
    let path = format!("/query/{n:04}");
    session.post_idempotent(&path, "text/plain", "a query")?.text()
}

/// How long that request is as it passes the wire.
fn length_of_query(over: Over) -> usize {
    let (sender, receiver) = mpsc::channel();
    let site = Site::start(over, move |mut peer| {
        serve_one(&mut peer);
        let before = peer.received;
        serve_one(&mut peer);
        sender.send(peer.received - before).unwrap();
        peer.drain();
    });
    query(&site.session, 0).unwrap();
    query(&site.session, 1).unwrap();
    receiver.recv().unwrap()
}

/// The end is a close or a reset, in turn: the number of bytes decides what the server has received, and
/// the end only with which error the client learns it.
#[test]
fn idle_connection_may_die_at_any_byte_of_the_next_request() {
    let run = |over| {
        let length = length_of_query(over);
        // Each connection serves one request, and takes one byte more of the next than the connection
        // before it.
        let site = Site::start(over, move |mut peer| {
            serve_one(&mut peer);
            let mut bytes = vec![0; peer.number];
            let _ = peer.tcp().read_exact(&mut bytes);
            if peer.number % 2 == 0 && peer.number < length {
                let _ = peer.tcp().peek(&mut [0]);
            } else {
                peer.close();
                peer.drain();
            }
        });
        let calls = 0..length + 2;
        for n in calls.clone() {
            match query(&site.session, n) {
                Ok(content) => assert_eq!(content, format!("POST /query/{n:04}")),
                Err(error) => panic!("{over:?}: dead after {} bytes: {error:?}", n.max(1) - 1),
            }
        }
        let expected = calls.map(|n| [format!("POST /query/{n:04}")]);
        assert_eq!(site.requests(), expected.collect::<Vec<_>>());
    };
    thread::scope(|scope| {
        for &over in BOTH {
            scope.spawn(move || run(over));
        }
    });
}

const BREAKS_OFF: usize = 8;
const CLOSES: usize = 9;

/// What a server does with the request of this number.
fn deed(n: usize) -> usize {
    // Mixes the bits, so that neighbours differ.
    let mixed = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(((mixed ^ (mixed >> 29)) >> 7) % 10).unwrap()
}

fn respond_in_many_ways(mut peer: Peer) {
    while let Some(request) = peer.request() {
        let content = &request.line;
        let whole = good(content);
        let deed = deed(content["GET /".len()..].parse().unwrap());
        match deed {
            0..=3 | 7 => peer.respond(&whole),
            4 => {
                thread::sleep(Duration::from_millis(2));
                peer.respond(&whole);
            }
            5 => peer.respond(&[whole, good("GET /wrong")].concat()),
            6 => {
                let length = content.len();
                peer.respond(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                peer.respond(format!("{length:x}\r\n{content}\r\n0\r\n\r\n").as_bytes());
            }
            BREAKS_OFF => peer.respond(&whole[..whole.len() - 2]),
            _ => {}
        }
        if deed >= 7 {
            peer.close();
            break;
        }
    }
    peer.drain();
}

#[test]
fn parallel_calls_each_get_their_own_response() {
    const THREADS: usize = 10;
    const CALLS: usize = 500;
    for &over in BOTH {
        let site = Site::start(over, respond_in_many_ways);
        let session = site.session.clone().idle_connections(8);
        for_each(0..CALLS, THREADS, |n| {
            let path = format!("/{n}");
            match session.get(&path).and_then(Response::text) {
                Ok(content) => {
                    assert_eq!(content, format!("GET {path}"), "{over:?}");
                    assert!(deed(n) < BREAKS_OFF, "{n}");
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Exchange, "{n}: {error:?}");
                    assert!([BREAKS_OFF, CLOSES].contains(&deed(n)), "{n}: {error:?}");
                    assert!(error.may_have_executed());
                }
            }
        });
        drop(session);
        let requests = site.requests();
        let all = requests.concat();
        let sent: HashSet<_> = all.iter().collect();
        assert_eq!(sent.len(), CALLS);
        // Only a request whose connection was closed may have been sent twice.
        for n in (0..CALLS).filter(|n| deed(*n) != CLOSES) {
            let line = format!("GET /{n}");
            let count = all.iter().filter(|sent| **sent == line).count();
            assert_eq!(count, 1, "{over:?}: {n}, {}", deed(n));
        }
        assert!(requests.len() < CALLS * 3 / 4, "{}", requests.len());
    }
}
