//! How many connections a session holds, how it closes them, and that no call gets the response to
//! another one.

use std::collections::HashSet;
#[cfg(feature = "tls")]
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{ErrorKind, Response};

#[path = "support/gate/mod.rs"]
mod gate;
#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
#[cfg(feature = "tls")]
use gate::Gate;
use gate::{for_each, get, post, serve_one};
use site::{good, Over, Peer, Site, BOTH, TOKEN_REQUEST};
use wire::{assert_in_time, response, side_by_side, PATIENCE, TIMEOUT};

/// A server that serves one connection at a time, as Apache does with one process.
fn one_worker(over: Over, serve: impl Fn(Peer) + Send + Sync + 'static) -> Site {
    let worker = Mutex::new(());
    Site::start(over, move |peer| {
        let _is_busy = worker.lock().unwrap();
        serve(peer);
    })
}

#[test]
fn server_with_one_worker_keeps_no_call_waiting() {
    let run = || {
        let site = one_worker(Over::Plain, |mut peer| peer.serve_all());
        let session = &site.session;
        let start = Instant::now();
        assert_eq!(get(session, "/1"), "GET /1");
        assert_eq!(post(session, "/2"), "POST /2");
        assert_eq!(post(session, "/3"), "POST /3");
        session.invalidate("token");
        assert_eq!(post(session, "/4"), "POST /4");
        session.invalidate("new");
        assert_eq!(session.access_token().unwrap(), "new");
        assert_eq!(get(session, "/5"), "GET /5");
        assert_eq!(get(&session.clone(), "/6"), "GET /6");
        assert_eq!(post(session, "/7"), "POST /7");
        let took = start.elapsed();
        assert_eq!(site.requests().concat().len(), 9);
        took
    };
    // Each call that waited would wait for a tenth of a second. A busy machine delays some runs.
    let fastest = (0..5).map(|_| run()).min().unwrap();
    assert!(fastest < Duration::from_millis(400), "{fastest:?}");
}

#[test]
fn broken_connection_is_closed_before_the_next_is_made() {
    for &over in BOTH {
        let site = one_worker(over, |mut peer| {
            serve_one(&mut peer);
            peer.close();
            // The worker is free when the client has closed as well.
            peer.drain();
        });
        assert_eq!(get(&site.session, "/1"), "GET /1");
        assert_eq!(get(&site.session, "/2"), "GET /2");
        assert_eq!(site.requests(), [["GET /1"], ["GET /2"]], "{over:?}");
    }
}

#[test]
fn timeout_on_an_idle_connection_closes_the_others() {
    const IDLE: usize = 4;
    const HALF: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf";
    // A firewall forgets the connections: at once, or within a response.
    for (over, begin) in BOTH.iter().flat_map(|over| [(*over, ""), (*over, HALF)]) {
        let together = Barrier::new(IDLE);
        let site = Site::start(over, move |mut peer| {
            if peer.number >= IDLE {
                return peer.serve_all();
            }
            let request = peer.request().unwrap();
            together.wait();
            peer.serve(&request);
            if peer.request().is_some() {
                peer.respond(begin.as_bytes());
            }
            peer.drain();
        });
        let session = &site.session;
        side_by_side(0..IDLE, |_| drop(get(session, "/first")));
        let start = Instant::now();
        let error = session.clone().timeout(TIMEOUT).get("/second").unwrap_err();
        assert_in_time(start, &error);
        assert_eq!(get(session, "/third"), "GET /third", "{over:?}");
        assert_eq!(session.counts().connections, IDLE as u64 + 1);
        site.requests();
    }
}

#[cfg(feature = "tls")]
#[test]
fn connection_is_closed_with_close_notify() {
    /// An alert of two bytes in a record of TLS 1.3.
    const CLOSE_NOTIFY: usize = 5 + 2 + 1 + 16;
    let uses: [fn(&jas_session::Session); 4] = [
        // Idle until the session is dropped, or another connection is made.
        |session| drop(session.get("/")),
        |session| drop((session.get("/"), session.post("/", "text/plain", "create"))),
        |session| drop(session.clone().idle_connections(0).get("/")),
        // Not read to its end.
        |session| drop(session.get("/until_close")),
    ];
    for (number, call) in uses.into_iter().enumerate() {
        let site = Site::start(Over::Tls, move |mut peer| {
            let request = peer.request().unwrap();
            peer.respond(match &*request.line {
                "GET /until_close" => b"HTTP/1.1 200 OK\r\n\r\n",
                _ => b"HTTP/1.1 204 No Content\r\n\r\n",
            });
            let mut rest = Vec::new();
            peer.tcp().read_to_end(&mut rest).unwrap();
            assert_eq!(rest.len(), CLOSE_NOTIFY, "{number}");
        });
        call(&site.session.clone().timeout(TIMEOUT));
        site.requests();
    }
}

/// A server that sends an extra refusal once, to this request: as a gateway does that gives up waiting, or
/// cannot read what it takes for a request. From then on, each response comes one request late.
fn one_response_late(over: Over, status: u16, line: &'static str) -> Site {
    let has_refused = AtomicBool::new(false);
    Site::start(over, move |mut peer| {
        let mut late = None;
        while let Some(request) = peer.request() {
            let good = good(&request.line);
            if request.line == line && !has_refused.swap(true, Ordering::SeqCst) {
                late = Some(good);
                peer.respond(&response(&format!("{status} Stray"), "", "stray"));
            } else if let Some(late) = &mut late {
                peer.respond(&std::mem::replace(late, good));
            } else {
                peer.respond(&good);
            }
        }
    })
}

#[test]
fn stray_refusal_shifts_no_later_response() {
    const LATER: usize = 10;
    let statuses = [400, 408, 413, 414, 431, 500, 501, 502, 503, 504, 505, 507, 511, 520, 599];
    for (over, status) in BOTH.iter().flat_map(|over| statuses.map(|status| (*over, status))) {
        for line in ["GET /2", TOKEN_REQUEST] {
            let site = one_response_late(over, status, line);
            let session = &site.session;
            if line == TOKEN_REQUEST {
                session.invalidate("token");
            } else {
                assert_eq!(get(session, "/1"), "GET /1");
            }
            // It gets the refusal, or the response to a retry after a 408.
            let result = session.get("/2").and_then(Response::text);
            match result.map_err(|error| error.status()) {
                Ok(text) => assert_eq!((text.as_str(), status, line), ("GET /2", 408, "GET /2")),
                Err(received) => assert_eq!(received, Some(status)),
            }
            // The session remembers a refusal of its credentials.
            let session = match line {
                TOKEN_REQUEST => &session.clone().resume("token", PATIENCE).unwrap(),
                _ => session,
            };
            for n in 0..LATER {
                let path = format!("/{n}");
                assert_eq!(get(session, &path), format!("GET {path}"), "{over:?} {status} {line}");
            }
        }
    }
}

/// The server sends the part together with a good response, or just after it.
#[cfg(feature = "tls")]
#[test]
fn connection_with_a_part_of_a_record_is_not_reused() {
    const STRAY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
    const PARTS: std::ops::Range<usize> = 1..61;
    for over in [Over::Tls, Over::Tls12] {
        for is_glued in [false, true] {
            let (near, gate) = Gate::new();
            // Each part takes two connections.
            let site = Site::start(over, move |mut peer| {
                if peer.number % 2 == 1 {
                    serve_one(&mut peer);
                    return;
                }
                let request = peer.request().unwrap();
                let good = peer.sealed(&good(&request.line));
                let stray = peer.sealed(STRAY);
                let (begin, rest) = stray.split_at(PARTS.start + peer.number / 2);
                if is_glued {
                    peer.tcp().write_all(&[&good, begin].concat()).unwrap();
                } else {
                    peer.tcp().write_all(&good).unwrap();
                    gate.wait();
                    peer.tcp().write_all(begin).unwrap();
                    gate.open();
                }
                // What is read next is the end of the connection, or a request.
                if peer.tcp().read(&mut [0]).is_ok_and(|length| length > 0) {
                    let _ = peer.tcp().write_all(rest);
                }
                peer.drain();
            });
            for bytes in PARTS {
                assert_eq!(get(&site.session, "/first"), "GET /first");
                if !is_glued {
                    near.open();
                    near.wait();
                }
                let what = format!("{over:?}, {bytes} bytes, {is_glued}");
                assert_eq!(get(&site.session, "/second"), "GET /second", "{what}");
            }
            let all = site.requests();
            assert_eq!(all.len(), 2 * PARTS.len(), "{over:?}, {is_glued}: {all:?}");
        }
    }
}

const TRUNCATES: usize = 8;
const CLOSES: usize = 9;

/// What a server does with the request of this number.
fn action(n: usize) -> usize {
    // Mixes the bits, so that neighbours differ.
    let mixed = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(((mixed ^ (mixed >> 29)) >> 7) % 10).unwrap()
}

fn respond_in_many_ways(mut peer: Peer) {
    while let Some(request) = peer.request() {
        let content = &request.line;
        let whole = good(content);
        let action = action(content["GET /".len()..].parse().unwrap());
        match action {
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
            TRUNCATES => peer.respond(&whole[..whole.len() - 2]),
            _ => {}
        }
        if action >= 7 {
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
                    assert!(action(n) < TRUNCATES, "{n}");
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Exchange, "{n}: {error:?}");
                    assert!([TRUNCATES, CLOSES].contains(&action(n)), "{n}: {error:?}");
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
        for n in (0..CALLS).filter(|n| action(*n) != CLOSES) {
            let line = format!("GET /{n}");
            let count = all.iter().filter(|sent| **sent == line).count();
            assert_eq!(count, 1, "{over:?}: {n}, {}", action(n));
        }
        assert!(requests.len() < CALLS * 3 / 4, "{}", requests.len());
    }
}
