//! Idle connections, over plain HTTP and over TLS: which requests share them, which are kept, and that
//! nothing that a server does with one costs a call more than a fresh connection.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Barrier, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Error, ErrorKind, Response, Session};

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{good, pattern, Over, Peer, Site, BOTH, TOKEN_REQUEST};
use wire::process::{go_on, stop};
use wire::{assert_in_time, response, urls, LOOK_FIRST, PATIENCE, TIMEOUT};

fn get(session: &Session, path: &str) -> String {
    session.get(path).and_then(Response::text).unwrap()
}

/// A server that does nothing wrong.
fn good_site(over: Over) -> Site {
    Site::start(over, |mut peer| peer.serve_all())
}

fn assert_requests(site: Site, expected: &[&[&str]], what: &str) {
    assert_eq!(site.requests(), expected, "{what}");
}

// Who shares a connection

#[test]
fn requests_that_may_be_retried_share_one_connection() {
    for &over in BOTH {
        let site = good_site(over);
        let session = &site.session;
        session.invalidate("token");
        assert_eq!(get(session, "/1"), "GET /1");
        let status = session.post_idempotent("/2", "text/plain", "query");
        assert_eq!(status.unwrap().text().unwrap(), "POST /2");
        let clone = session.clone().timeout(PATIENCE / 2);
        assert_eq!(get(&clone, "/3"), "GET /3");
        session.invalidate("new");
        assert_eq!(session.access_token().unwrap(), "new");
        thread::scope(|scope| {
            scope.spawn(|| assert_eq!(get(session, "/4"), "GET /4"));
        });
        drop(clone);
        // A token request makes a connection of its own, and leaves it to later calls.
        let first: &[_] = &[TOKEN_REQUEST, "GET /1", "POST /2", "GET /3"];
        let second: &[_] = &[TOKEN_REQUEST, "GET /4"];
        assert_requests(site, &[first, second], &format!("{over:?}"));
    }
}

#[test]
fn no_connection_is_kept_where_none_is_wanted() {
    for &over in BOTH {
        let site = good_site(over);
        let none = site.session.clone().idle_connections(0);
        get(&none, "/1");
        get(&none, "/2");
        // Nor is a connection used that another clone has kept.
        get(&site.session, "/3");
        get(&none, "/4");
        get(&none, "/5");
        drop(none);
        let paths = ["GET /1", "GET /2", "GET /3", "GET /4", "GET /5"];
        let expected = &paths.each_ref().map(std::slice::from_ref);
        assert_requests(site, expected, &format!("{over:?}"));
    }
}

#[test]
fn no_more_connections_are_kept_than_wanted() {
    const CALLS: usize = 5;
    const KEPT: usize = 2;
    for &over in BOTH {
        // The server responds to a round of calls when all of them have arrived.
        let (together, closed) = (Barrier::new(CALLS), Arc::new(AtomicUsize::new(0)));
        let closed_so_far = Arc::clone(&closed);
        let site = Site::start(over, move |mut peer| {
            while let Some(request) = peer.request() {
                together.wait();
                peer.serve(&request);
            }
            closed_so_far.fetch_add(1, Ordering::SeqCst);
        });
        let session = site.session.clone().idle_connections(KEPT);
        for round in 1..=3 {
            thread::scope(|scope| {
                for _ in 0..CALLS {
                    scope.spawn(|| assert_eq!(get(&session, "/"), "GET /"));
                }
            });
            // The surplus is closed, and nothing else.
            let start = Instant::now();
            while closed.load(Ordering::SeqCst) < round * (CALLS - KEPT) {
                assert!(start.elapsed() < PATIENCE, "the surplus stays");
                thread::yield_now();
            }
        }
        drop(session);
        let mut counts: Vec<_> = site.requests().iter().map(Vec::len).collect();
        assert_eq!(counts.len(), CALLS + 2 * (CALLS - KEPT), "{over:?}");
        assert_eq!(counts.iter().sum::<usize>(), 3 * CALLS);
        counts.retain(|count| *count > 1);
        assert!(!counts.is_empty() && counts.len() <= 2 * KEPT, "{over:?}");
    }
}

#[test]
fn another_origin_has_connections_of_its_own() {
    for &over in BOTH {
        let site = good_site(over);
        let tokens = good_site(over);
        let endpoint = format!("{}/oauth2/token", tokens.url());
        let session = site.session.clone().token_endpoint(&endpoint).unwrap();
        for path in ["/1", "/2"] {
            get(&session, path);
            session.invalidate("new");
        }
        drop(session);
        assert_requests(site, &[&["GET /1", "GET /2"]], &format!("{over:?}"));
        let each: &[_] = &[TOKEN_REQUEST];
        assert_requests(tokens, &[each, each], &format!("{over:?}"));
    }
}

#[cfg(feature = "tls")]
#[test]
fn other_trust_has_connections_of_its_own() {
    let site = good_site(Over::Tls);
    let other = site::trusting(site.session.clone());
    for path in ["/1", "/2"] {
        get(&site.session, path);
        get(&other, path);
    }
    drop(other);
    let both: &[_] = &["GET /1", "GET /2"];
    assert_requests(site, &[both, both], "two trusts");
}

#[cfg(feature = "tls")]
#[test]
fn another_proxy_has_connections_of_its_own() {
    let site = good_site(Over::Tls);
    // Stands for the server behind it.
    let open_tunnel = |tcp: &mut TcpStream| {
        wire::request(tcp);
        wire::respond(tcp, b"HTTP/1.1 200 OK\r\n\r\n");
    };
    let proxies = [1, 2].map(|_| Site::behind(Over::Tls, open_tunnel, |mut peer| peer.serve_all()));
    let [one, two] = proxies.each_ref().map(|proxy| {
        let url = format!("http://{}", proxy.address);
        site.session.clone().proxy(&url).unwrap()
    });
    for path in ["/1", "/2"] {
        for session in [&site.session, &one, &two] {
            get(session, path);
        }
    }
    drop((one, two));
    for site in [site].into_iter().chain(proxies) {
        assert_requests(site, &[&["GET /1", "GET /2"]], "two proxies");
    }
}

#[test]
fn connections_are_closed_with_the_last_clone() {
    for &over in BOTH {
        let (closed, is_closed) = mpsc::channel();
        let site = Site::start(over, move |mut peer| {
            peer.serve_all();
            closed.send(()).unwrap();
        });
        let session = site.session.clone();
        let clone = session.clone();
        get(&session, "/1");
        drop(session);
        get(&clone, "/2");
        assert!(is_closed.try_recv().is_err(), "{over:?}");
        let Site { session, .. } = &site;
        let last = session.clone();
        drop(clone);
        get(&last, "/3");
        drop(last);
        assert!(is_closed.try_recv().is_err(), "{over:?}");
        let expected: &[_] = &["GET /1", "GET /2", "GET /3"];
        assert_requests(site, &[expected], &format!("{over:?}"));
        is_closed.recv_timeout(PATIENCE).unwrap();
    }
}

#[test]
fn a_response_may_outlive_its_session() {
    let long = "x".repeat(40_000);
    for &over in BOTH {
        let (closed, is_closed) = mpsc::channel();
        let whole = response("200 OK", "", &long);
        let site = Site::start(over, move |mut peer| {
            peer.request().unwrap();
            peer.respond(&whole);
            assert!(peer.request().is_none());
            closed.send(()).unwrap();
        });
        let session = site.session.clone();
        let response = session.get("/").unwrap();
        // Only the site's server is left.
        let requests = thread::spawn(move || site.requests());
        drop(session);
        assert_eq!(response.text().unwrap(), long, "{over:?}");
        is_closed.recv_timeout(PATIENCE).unwrap();
        assert_eq!(requests.join().unwrap(), [["GET /"]], "{over:?}");
    }
}

#[test]
fn the_time_of_a_call_is_its_own_on_a_connection_in_use_again() {
    for &over in BOTH {
        let site = good_site(over);
        let short = site.session.clone().timeout(TIMEOUT);
        get(&short, "/1");
        thread::sleep(TIMEOUT * 5 / 4); // longer than the first call might have taken
        get(&short, "/2");
        get(&site.session, "/3");
        drop(short);
        let expected: &[_] = &["GET /1", "GET /2", "GET /3"];
        assert_requests(site, &[expected], &format!("{over:?}"));
    }
}

#[cfg(feature = "tls")]
#[test]
fn what_tls_says_on_an_idle_connection_is_no_response() {
    let (near, gate) = Gate::new();
    let site = Site::start(Over::Tls, move |mut peer| {
        for _ in 0..3 {
            first(&mut peer);
            gate.wait();
            peer.renew_keys();
            gate.open();
        }
        peer.serve_all();
    });
    for path in ["/1", "/2", "/3"] {
        get(&site.session, path);
        near.open();
        near.wait();
    }
    get(&site.session, "/4");
    let expected: &[_] = &["GET /1", "GET /2", "GET /3", "GET /4"];
    assert_requests(site, &[expected], "new keys");
}

#[test]
fn a_plain_post_always_has_a_fresh_connection() {
    for &over in BOTH {
        let site = good_site(over);
        for n in 0..3 {
            get(&site.session, &format!("/get/{n}"));
            let path = format!("/post/{n}");
            let response = site.session.post(&path, "text/plain", "create").unwrap();
            assert_eq!(response.text().unwrap(), format!("POST {path}"));
            let path = format!("/post_json/{n}");
            let response = site.session.post_json(&path, "create").unwrap();
            assert_eq!(response.text().unwrap(), format!("POST {path}"));
        }
        let connections = site.requests();
        for requests in &connections {
            let posts = requests.iter().skip(1).filter(|line| line.contains("/post"));
            assert_eq!(posts.count(), 0, "{over:?}: {connections:?}");
        }
        // Each status query has found the connection of the booking before it.
        assert_eq!(connections.len(), 1 + 2 * 3, "{over:?}: {connections:?}");
        assert_eq!(connections.concat().len(), 3 * 3);
    }
}

// Which connections are kept

/// Responses after which a connection is used again. Lines end with CRLF.
const KEPT: &[&str] = &[
    "HTTP/1.1 200 OK\nContent-Length: 4\n\ngood",
    "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "HTTP/1.1 200 OK\nContent-Length: 4, 4\n\ngood",
    "HTTP/1.1 200 OK\nConnection: keep-alive\nContent-Length: 4\n\ngood",
    "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\ngood\n0\n\n",
    "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1\ng\n3\nood\n0\nX-A: b\n\n",
    "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n0\n\n",
    "HTTP/1.1 201 Created\nContent-Length: 4\n\nmade",
    "HTTP/1.1 204 No Content\n\n",
    "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 4\n\ngood",
    "HTTP/1.1 103 Early Hints\nLink: </x>\n\nHTTP/1.1 200 OK\nContent-Length: 4\n\ngood",
    "HTTP/1.1 302 Found\nLocation: /x\nContent-Length: 0\n\n",
    "HTTP/1.1 304 Not Modified\n\n",
    "HTTP/1.1 404 Not Found\nContent-Length: 2\n\nno",
    "HTTP/1.1 404 Not Found\nTransfer-Encoding: chunked\n\n2\nno\n0\n\n",
    "HTTP/1.1 429 Too Many Requests\nContent-Length: 2\n\nno",
];

/// Responses after which it is not used again: it is to be closed, nobody can tell where the content
/// ends, or more follows, or may: the server failed or could not read the request.
const NOT_KEPT: &[&str] = &[
    "HTTP/1.1 200 OK\nConnection: close\nContent-Length: 4\n\ngood",
    "HTTP/1.1 200 OK\nConnection: x, Close\nContent-Length: 4\n\ngood",
    "HTTP/1.1 200 OK\nConnection: x\nConnection: close\nContent-Length: 4\n\ngood",
    "HTTP/1.1 204 No Content\nConnection: close\n\n",
    "HTTP/1.1 404 Not Found\nConnection: close\nContent-Length: 2\n\nno",
    "HTTP/1.0 200 OK\nContent-Length: 4\n\ngood",
    "HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 4\n\ngood",
    "HTTP/1.1 200 OK\nContent-Length: 4\n\ngoodb",
    "HTTP/1.1 200 OK\nContent-Length: 4\n\ngood\n",
    "HTTP/1.1 200 OK\nContent-Length: 4\n\ngoodHTTP/1.1 200 OK\nContent-Length: 5\n\nstray",
    "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\ngood\n0\n\nb",
    "HTTP/1.1 204 No Content\n\nb",
    "HTTP/1.1 204 No Content\nContent-Length: 4\n\n",
    "HTTP/1.1 404 Not Found\nContent-Length: 2\n\nnob",
    "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\ngood\nx\n\n",
    "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Length: 4\n\n4\ngood\n0\n\n",
    "HTTP/1.1 200 OK\nContent-Length: 4\nContent-Length: 4\n\ngood",
    "HTTP/1.1 200 OK\nContent-Length: 4\nContent-Length: 5\n\ngood",
    "HTTP/1.1 404 Not Found\nContent-Length: 2\nContent-Length: 3\n\nno",
    "HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 4\n\ngood",
    "HTTP/1.1 400 Bad Request\nContent-Length: 2\n\nno",
    "HTTP/1.1 408 Request Timeout\nContent-Length: 2\n\nno",
    "HTTP/1.1 413 Content Too Large\nContent-Length: 2\n\nno",
    "HTTP/1.1 414 URI Too Long\nContent-Length: 2\n\nno",
    "HTTP/1.1 431 Request Header Fields Too Large\nContent-Length: 2\n\nno",
    "HTTP/1.1 500 Internal Server Error\nContent-Length: 2\n\nno",
    "HTTP/1.1 503 Service Unavailable\nTransfer-Encoding: chunked\n\n2\nno\n0\n\n",
    "HTTP/1.1 599 Odd\nContent-Length: 2\n\nno",
];

/// How many requests each connection gets when `call` gets this response and another call follows.
fn uses(over: Over, first: Vec<u8>, is_closing: bool, call: impl FnOnce(&Session)) -> Vec<usize> {
    let site = Site::start(over, move |mut peer| {
        let Some(request) = peer.head() else {
            return;
        };
        if !request.line.ends_with("/first") {
            peer.serve(&request);
            return peer.serve_all();
        }
        peer.respond(&first);
        if is_closing {
            peer.close();
        }
        if request.line.starts_with("POST") {
            return peer.drain();
        }
        peer.serve_all();
    });
    call(&site.session);
    assert_eq!(get(&site.session, "/second"), "GET /second");
    site.requests().iter().map(Vec::len).collect()
}

#[test]
fn a_connection_is_kept_after_a_whole_response_of_unambiguous_length_only() {
    let read = |session: &Session| drop(session.get("/first").and_then(Response::text));
    for &over in BOTH {
        for response in KEPT {
            let bytes = response.replace('\n', "\r\n").into_bytes();
            assert_eq!(uses(over, bytes, false, read), [2], "{over:?}: {response:?}");
        }
        for response in NOT_KEPT {
            let bytes = response.replace('\n', "\r\n").into_bytes();
            assert_eq!(uses(over, bytes, false, read), [1, 1], "{over:?}: {response:?}");
        }
        let until_close = b"HTTP/1.1 200 OK\r\n\r\ngood".to_vec();
        assert_eq!(uses(over, until_close, true, read), [1, 1], "{over:?}");
    }
}

#[test]
fn a_connection_is_kept_only_if_the_response_has_been_read() {
    let long = response("200 OK", "", &"x".repeat(40_000));
    let short = response("200 OK", "", "good");
    for &over in BOTH {
        let of = |call: fn(&Session), response: &[u8]| uses(over, response.to_vec(), false, call);
        assert_eq!(of(|session| drop(session.get("/first").unwrap().bytes()), &long), [2]);
        // Small content is read within the call.
        assert_eq!(of(|session| drop(session.get("/first").unwrap()), &short), [2]);
        assert_eq!(of(|session| drop(session.get("/first").unwrap()), &long), [1, 1]);
        let half = |session: &Session| {
            let mut response = session.get("/first").unwrap();
            response.read_exact(&mut vec![0; 20_000]).unwrap();
        };
        assert_eq!(of(half, &long), [1, 1]);
        let over_limit = |session: &Session| {
            let error = session.get("/first").unwrap().limit(30_000).bytes();
            assert_eq!(error.unwrap_err().kind(), ErrorKind::Content);
        };
        assert_eq!(of(over_limit, &long), [1, 1]);
        let booking = |session: &Session| drop(session.post("/first", "text/plain", ""));
        assert_eq!(of(booking, &long), [1, 1]);
    }
}

#[test]
fn a_connection_is_kept_only_if_the_request_was_sent_to_its_end() {
    for &over in BOTH {
        let refusal = response("413 Content Too Large", "", "at most 1 MB");
        let counts = uses(over, refusal, false, |session| {
            let error = session.post_idempotent("/first", "text/plain", huge());
            assert_eq!(error.unwrap_err().status(), Some(413));
        });
        assert_eq!(counts, [1, 1], "{over:?}");
    }
}

#[test]
fn a_refused_call_is_repeated_on_the_token_request_s_connection() {
    let refusals = [
        response("401 Unauthorized", "WWW-Authenticate: Bearer\r\n", "expired"),
        b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"
            .to_vec(),
    ];
    for &over in BOTH {
        for refusal in refusals.clone() {
            let site = Site::start(over, move |mut peer| {
                while let Some(request) = peer.request() {
                    if request.head.contains("Authorization: Bearer token\r\n") {
                        peer.respond(&refusal);
                    } else {
                        peer.serve(&request);
                    }
                }
            });
            assert_eq!(get(&site.session, "/1"), "GET /1");
            let renewed: &[_] = &[TOKEN_REQUEST, "GET /1"];
            assert_requests(site, &[&["GET /1"], renewed], &format!("{over:?}"));
        }
    }
}

// What a server does with an idle connection

/// What the test and the server tell each other of the first connection. They use a connection of its
/// own: when something arrives on it, all that the server did before on the first has arrived, too.
struct Gate(TcpStream);

impl Gate {
    fn new() -> (Gate, Gate) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        (Gate(near), Gate(far))
    }

    fn open(&self) {
        (&self.0).write_all(b"!").unwrap();
    }

    fn wait(&self) {
        (&self.0).read_exact(&mut [0]).unwrap();
    }
}

type Fault = fn(Peer, &Gate);

const STRAY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const TIMED_OUT_AND_STAYS: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nslow";

/// Serves the first request.
fn first(peer: &mut Peer) {
    let request = peer.request().unwrap();
    peer.serve(&request);
}

/// Serves the first request, and says this when the client has read the response.
fn stray(peer: &mut Peer, gate: &Gate, says: &[u8]) {
    first(peer);
    gate.wait();
    peer.respond(says);
}

/// Serves the first request, and reads so many bytes of the second, counted as they pass the wire.
fn some_of_the_second(peer: &mut Peer, gate: &Gate, bytes: usize) {
    first(peer);
    gate.open();
    let _ = peer.tcp().read_exact(&mut vec![0; bytes]);
}

const FAULTS: &[(&str, Fault)] = &[
    // While it is idle.
    ("closes with the response", |mut peer, gate| {
        first(&mut peer);
        peer.close();
        gate.open();
        peer.drain();
    }),
    ("closes", |mut peer, gate| {
        stray(&mut peer, gate, b"");
        peer.close();
        gate.open();
        peer.drain();
    }),
    ("closes without a word of TLS", |mut peer, gate| {
        stray(&mut peer, gate, b"");
        peer.close_tcp();
        gate.open();
        peer.drain();
    }),
    ("resets", |mut peer, gate| {
        peer.tcp().peek(&mut [0]).unwrap();
        peer.respond(&good("GET /first"));
        gate.wait();
        // What is left unread makes a close a reset.
        peer.tcp().peek(&mut [0]).unwrap();
        drop(peer);
        gate.open();
    }),
    ("sends a stray response", |mut peer, gate| {
        stray(&mut peer, gate, STRAY);
        gate.open();
        peer.serve_all();
    }),
    ("sends a stray response, and closes", |mut peer, gate| {
        stray(&mut peer, gate, STRAY);
        peer.close();
        gate.open();
        peer.drain();
    }),
    ("sends a stray interim response", |mut peer, gate| {
        stray(&mut peer, gate, b"HTTP/1.1 100 Continue\r\n\r\n");
        gate.open();
        peer.serve_all();
    }),
    ("sends a byte", |mut peer, gate| {
        stray(&mut peer, gate, b"H");
        gate.open();
        peer.serve_all();
    }),
    ("sends a stray 408, and closes", |mut peer, gate| {
        stray(&mut peer, gate, TIMED_OUT);
        peer.close();
        gate.open();
        peer.drain();
    }),
    ("sends a stray 408, and stays", |mut peer, gate| {
        stray(&mut peer, gate, TIMED_OUT_AND_STAYS);
        gate.open();
        peer.serve_all();
    }),
    // When it is used again.
    ("closes at the first byte", |mut peer, gate| {
        some_of_the_second(&mut peer, gate, 1);
        peer.close();
        peer.drain();
    }),
    ("resets at the first byte", |mut peer, gate| {
        some_of_the_second(&mut peer, gate, 1);
    }),
    ("closes in the middle of the head", |mut peer, gate| {
        some_of_the_second(&mut peer, gate, 60);
        peer.close();
        peer.drain();
    }),
    ("resets in the middle of the head", |mut peer, gate| {
        some_of_the_second(&mut peer, gate, 60);
    }),
    ("closes behind the head", |mut peer, gate| {
        first(&mut peer);
        gate.open();
        peer.head();
        peer.close();
        peer.drain();
    }),
    ("resets behind the head", |mut peer, gate| {
        first(&mut peer);
        gate.open();
        peer.head();
    }),
    ("closes without a word of TLS behind the head", |mut peer, gate| {
        first(&mut peer);
        gate.open();
        peer.head();
        peer.close_tcp();
        peer.drain();
    }),
    ("closes behind the request", |mut peer, gate| {
        first(&mut peer);
        gate.open();
        peer.request();
        peer.close();
        peer.drain();
    }),
    ("responds with 408, and closes", |mut peer, gate| {
        first(&mut peer);
        gate.open();
        if peer.request().is_some() {
            peer.respond(TIMED_OUT);
        }
        peer.close();
        peer.drain();
    }),
    ("responds with 408, and stays", |mut peer, gate| {
        first(&mut peer);
        gate.open();
        if peer.request().is_some() {
            peer.respond(TIMED_OUT_AND_STAYS);
        }
        peer.serve_all();
    }),
    ("responds with 408 to the head, and closes", |mut peer, gate| {
        first(&mut peer);
        gate.open();
        if peer.head().is_some() {
            peer.respond(TIMED_OUT);
        }
        peer.close();
        peer.drain();
    }),
];

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

    /// It never goes out on an idle connection.
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
                let content = pattern(LARGE);
                session.post_idempotent(path, media_type, content)?.text()
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

/// Has the server do this to the first connection, and then makes this call.
fn call_after(over: Over, what: &str, fault: Fault, call: Call) {
    let (near, gate) = Gate::new();
    let site = Site::start(over, move |mut peer| match peer.number {
        0 => fault(peer, &gate),
        _ => peer.serve_all(),
    });
    let what = format!("{over:?}, {what}, {call:?}");
    assert_eq!(get(&site.session, "/first"), "GET /first", "{what}");
    near.open();
    near.wait();
    match call.make(&site.session) {
        Ok(content) => assert_eq!(content, call.expected(), "{what}"),
        Err(error) => panic!("{what}: {error:?}"),
    }
    // The connection that was good is kept.
    assert_eq!(get(&site.session, "/third"), "GET /third", "{what}");
    let requests = site.requests();
    assert_eq!(requests.len(), 2, "{what}: {requests:?}");
    assert_eq!(requests[1], [call.line(), "GET /third"], "{what}");
    if call.is_always_fresh() {
        let all = requests.concat();
        let sent = all.iter().filter(|line| *line == call.line());
        assert_eq!(sent.count(), 1, "{what}: {requests:?}");
    }
}

#[test]
fn whatever_a_server_does_with_an_idle_connection_a_call_succeeds_and_a_plain_post_is_sent_once() {
    thread::scope(|scope| {
        for &over in BOTH {
            scope.spawn(move || {
                for (what, fault) in FAULTS {
                    for call in Call::ALL {
                        call_after(over, what, *fault, call);
                    }
                }
            });
        }
    });
}

#[test]
fn idle_connections_that_are_all_closed_cost_a_call_one_fresh_connection() {
    const IDLE: usize = 8;
    for &over in BOTH {
        let together = Barrier::new(IDLE);
        let (close, closing) = Gate::new();
        let closing = Mutex::new(Some(closing));
        let all_closed = Barrier::new(IDLE);
        let site = Site::start(over, move |mut peer| {
            if peer.number >= IDLE {
                return peer.serve_all();
            }
            let request = peer.request().unwrap();
            together.wait();
            peer.serve(&request);
            let gate =
                (together.wait().is_leader()).then(|| closing.lock().unwrap().take()).flatten();
            if let Some(gate) = &gate {
                gate.wait();
            }
            together.wait();
            peer.close();
            all_closed.wait();
            if let Some(gate) = gate {
                gate.open();
            }
            peer.drain();
        });
        let session = &site.session;
        thread::scope(|scope| {
            for _ in 0..IDLE {
                scope.spawn(|| get(session, "/first"));
            }
        });
        close.open();
        close.wait();
        assert_eq!(get(session, "/second"), "GET /second", "{over:?}");
        let response = session.post("/third", "text/plain", "create").unwrap();
        assert_eq!(response.text().unwrap(), "POST /third", "{over:?}");
        let requests = site.requests();
        assert_eq!(requests.len(), IDLE + 2, "{over:?}: {requests:?}");
        assert_eq!(requests[IDLE..], [["GET /second"], ["POST /third"]]);
    }
}

#[test]
fn a_server_that_is_gone_has_executed_nothing_unless_it_had_the_request() {
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
        assert_eq!(
            error.to_string(),
            format!(
                "GET {url}/second: no connection to the host could be made: check host, port and \
                 firewall"
            )
        );
        server.join().unwrap();
    }
}

#[test]
fn a_server_that_keeps_an_idle_connection_and_never_responds_ends_a_call_in_time() {
    for &over in BOTH {
        for call in Call::ALL {
            let site = Site::start(over, |mut peer| match peer.number {
                0 => {
                    first(&mut peer);
                    peer.request();
                    peer.drain();
                }
                _ => peer.serve_all(),
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
            let sent = requests.concat();
            let sent = sent.iter().filter(|line| *line == call.line());
            assert_eq!(sent.count(), 1, "{over:?}, {call:?}: {requests:?}");
        }
    }
}

#[test]
fn a_server_may_close_an_idle_connection_at_any_moment() {
    const CALLS: usize = 120;
    thread::scope(|scope| {
        for &over in BOTH {
            scope.spawn(move || {
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
    });
}

// At each byte

const QUERY: &str = "a query";

fn query(session: &Session, n: usize) -> Result<String, Error> {
    let path = format!("/query/{n:04}");
    session.post_idempotent(&path, "text/plain", QUERY)?.text()
}

/// How long that request is as it passes the wire.
fn length_of_query(over: Over) -> usize {
    let (tell, told) = mpsc::channel();
    let site = Site::start(over, move |mut peer| {
        first(&mut peer);
        let before = peer.received;
        first(&mut peer);
        tell.send(peer.received - before).unwrap();
        peer.drain();
    });
    query(&site.session, 0).unwrap();
    query(&site.session, 1).unwrap();
    told.recv().unwrap()
}

#[test]
fn a_connection_that_dies_at_any_byte_of_the_next_request_costs_nothing() {
    thread::scope(|scope| {
        for &over in BOTH {
            for is_reset in [false, true] {
                scope.spawn(move || {
                    let length = length_of_query(over);
                    // Each connection serves one request, and takes one byte more of the next than
                    // the connection before it.
                    let site = Site::start(over, move |mut peer| {
                        first(&mut peer);
                        let mut bytes = vec![0; peer.number];
                        let _ = peer.tcp().read_exact(&mut bytes);
                        if is_reset && peer.number < length {
                            let _ = peer.tcp().peek(&mut [0]);
                        } else {
                            peer.close();
                            peer.drain();
                        }
                    });
                    let calls = 0..length + 2;
                    for n in calls.clone() {
                        let what =
                            format!("{over:?}, {is_reset}: dead after {} bytes", n.max(1) - 1);
                        match query(&site.session, n) {
                            Ok(content) => assert_eq!(content, format!("POST /query/{n:04}")),
                            Err(error) => panic!("{what}: {error:?}"),
                        }
                    }
                    let expected = calls.map(|n| [format!("POST /query/{n:04}")]);
                    assert_eq!(site.requests(), expected.collect::<Vec<_>>());
                });
            }
        }
    });
}

/// How a server closes in the middle of a response.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Close,
    CloseTcp,
}

/// A server that truncates the first response to each path `/N` after N bytes. They are bytes of HTTP
/// or, if `sealed`, bytes as they pass the wire.
fn truncating(over: Over, end: End, sealed: bool) -> Site {
    let seen = Mutex::new(HashSet::new());
    Site::start(over, move |mut peer| {
        while let Some(request) = peer.request() {
            let response = good(&request.line);
            let number = request.line.split('/').nth(1).unwrap().parse().ok();
            let is_first = seen.lock().unwrap().insert(request.line);
            let Some(bytes) = number.filter(|_| is_first) else {
                peer.respond(&response);
                continue;
            };
            if sealed {
                let sealed = peer.sealed(&response);
                let begin: &[u8] = &sealed[..sealed.len().min(bytes)];
                let _ = peer.tcp().write_all(begin);
            } else {
                peer.respond(&response[..response.len().min(bytes)]);
            }
            match end {
                End::Close => peer.close(),
                End::CloseTcp => peer.close_tcp(),
            }
            peer.drain();
            break;
        }
    })
}

#[test]
fn a_response_truncated_on_a_connection_in_use_again_is_an_error_from_its_first_byte_on() {
    let length = good("GET /00").len();
    thread::scope(|scope| {
        for &over in BOTH {
            for end in [End::Close, End::CloseTcp] {
                scope.spawn(move || {
                    let site = truncating(over, end, false);
                    for n in 0..=length {
                        get(&site.session, &format!("/warm/{n}"));
                        let path = format!("/{n:02}");
                        let result = site.session.get(&path).and_then(Response::text);
                        let what = format!("{over:?}, {end:?}: {n} bytes");
                        if n == 0 || n == length {
                            assert_eq!(result.unwrap(), format!("GET {path}"), "{what}");
                            continue;
                        }
                        let error = result.expect_err(&what);
                        assert_eq!(error.kind(), ErrorKind::Exchange, "{what}");
                        assert!(error.may_have_executed(), "{what}");
                    }
                    let all = site.requests().concat();
                    for n in 1..=length {
                        let line = format!("GET /{n:02}");
                        assert_eq!(all.iter().filter(|sent| **sent == line).count(), 1, "{n}");
                    }
                });
            }
        }
    });
}

#[test]
fn a_truncated_response_is_asked_for_again_where_that_is_allowed() {
    let length = good("GET /00").len();
    let head = length - "GET /00".len();
    thread::scope(|scope| {
        for &over in BOTH {
            for n in [1, 9, 20, head - 1, head, head + 1, length - 1] {
                scope.spawn(move || {
                    let site = truncating(over, End::Close, false);
                    let session = site.session.clone().retries(1);
                    get(&session, "/warm");
                    let path = format!("/{n:02}");
                    assert_eq!(get(&session, &path), format!("GET {path}"), "{over:?}: {n}");
                    drop(session);
                    let all = site.requests().concat();
                    assert_eq!(all.len(), 3, "{over:?}: {n}: {all:?}");
                });
            }
        }
    });
}

#[cfg(feature = "tls")]
#[test]
fn a_truncated_tls_record_is_never_a_short_success() {
    let length = good("GET /00").len() + 22; // a record has a header, a type and a tag
    for end in [End::Close, End::CloseTcp] {
        let site = truncating(Over::Tls, end, true);
        for n in 0..=length {
            get(&site.session, &format!("/warm/{n}"));
            let path = format!("/{n:02}");
            match site.session.get(&path).and_then(Response::text) {
                Ok(content) => assert_eq!(content, format!("GET {path}"), "{end:?}: {n}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Exchange, "{end:?}: {n}: {error:?}");
                    assert!(error.may_have_executed());
                }
            }
        }
    }
}

// Many threads

/// What a server does with a request of this number.
fn deed(n: usize) -> usize {
    // Mixes the bits, so that neighbours differ.
    let mixed = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(((mixed ^ (mixed >> 29)) >> 7) % 10).unwrap()
}

#[test]
fn no_response_is_taken_for_that_of_another_request() {
    const THREADS: usize = 10;
    const CALLS: usize = 500;
    const BREAKS_OFF: usize = 8;
    const CLOSES: usize = 9;
    for &over in BOTH {
        let site = Site::start(over, |mut peer| {
            while let Some(request) = peer.request() {
                let n: usize = request.line["GET /".len()..].parse().unwrap();
                let whole = good(&request.line);
                match deed(n) {
                    0..=3 => peer.respond(&whole),
                    4 => {
                        thread::sleep(Duration::from_millis(2));
                        peer.respond(&whole);
                    }
                    5 => {
                        let wrong = good("GET /wrong");
                        peer.respond(&[whole, wrong].concat());
                    }
                    6 => {
                        let content = &request.line;
                        let length = content.len();
                        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                        peer.respond(head.as_bytes());
                        peer.respond(format!("{length:x}\r\n{content}\r\n0\r\n\r\n").as_bytes());
                    }
                    7 => {
                        peer.respond(&whole);
                        peer.close();
                        break;
                    }
                    BREAKS_OFF => {
                        peer.respond(&whole[..whole.len() - 2]);
                        peer.close();
                        break;
                    }
                    _ => {
                        peer.close();
                        break;
                    }
                }
            }
            peer.drain();
        });
        let session = site.session.clone().idle_connections(8);
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= CALLS {
                        break;
                    }
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

// Large requests

/// More than the buffers between client and server take.
const HUGE: usize = 5 << 20;

fn huge() -> &'static [u8] {
    static HUGE_PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    HUGE_PATTERN.get_or_init(|| pattern(HUGE))
}

/// What a server does after it has responded to the beginning of a request.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    ReadsNoMore,
    ReadsOn,
    Closes,
}

const THEN: [Then; 3] = [Then::ReadsNoMore, Then::ReadsOn, Then::Closes];

/// A server that refuses requests with the old token, or all large ones, with this response.
fn refusing_early(
    over: Over, refusal: &[u8], then: Then, call_is_over: mpsc::Receiver<()>,
) -> Site {
    let refusal = refusal.to_vec();
    let call_is_over = Mutex::new(call_is_over);
    Site::start(over, move |mut peer| {
        while let Some(request) = peer.head() {
            let is_large = request.head.contains(&format!("Content-Length: {HUGE}\r\n"));
            let is_old = request.head.contains("Authorization: Bearer token\r\n");
            if !is_large || !is_old {
                let request = peer.rest_of(request).unwrap();
                assert!(!is_large || request.content == huge(), "the content has changed");
                peer.serve(&request);
                continue;
            }
            peer.respond(&refusal);
            match then {
                Then::ReadsNoMore => {
                    let _ = call_is_over.lock().unwrap().recv_timeout(PATIENCE);
                }
                Then::ReadsOn => {}
                Then::Closes => peer.close(),
            }
            peer.drain();
            break;
        }
    })
}

fn for_each_large_request(run: impl Fn(Over, Then, bool, &str) + Copy + Send) {
    for &over in BOTH {
        for then in THEN {
            for is_idle in [false, true] {
                run(over, then, is_idle, &format!("{over:?}, {then:?}, idle: {is_idle}"));
            }
        }
    }
}

/// How soon a refusal has to be there: long before a quarter of a call's timeout has passed.
const SOON: Duration = PATIENCE.checked_div(2).unwrap();
const LONG: Duration = PATIENCE.checked_mul(3).unwrap();

/// Sends a large request: on an idle connection or on a fresh one.
fn send_large(session: &Session, is_idle: bool) -> Result<Response, Error> {
    let session = &session.clone().timeout(LONG);
    get(session, "/first");
    if is_idle {
        session.post_idempotent("/large", "text/plain", huge())
    } else {
        session.post("/large", "text/plain", huge())
    }
}

#[test]
fn a_large_request_that_is_refused_early_gets_the_refusal_in_time() {
    let refusal = response("413 Content Too Large", "", "at most 1 MB");
    for_each_large_request(|over, then, is_idle, what| {
        let (end, call_is_over) = mpsc::channel();
        let site = refusing_early(over, &refusal, then, call_is_over);
        let start = Instant::now();
        let error = send_large(&site.session, is_idle).expect_err(what);
        let took = start.elapsed();
        end.send(()).unwrap();
        assert_eq!(error.status(), Some(413), "{what}: {error:?}");
        assert_eq!(error.content(), Some(&b"at most 1 MB"[..]), "{what}");
        assert!(!error.may_have_executed(), "{what}");
        assert!(took < SOON, "{what}: {took:?}");
        assert_eq!(get(&site.session, "/next"), "GET /next", "{what}");
    });
}

#[test]
fn a_refusal_that_is_long_or_comes_in_parts_ends_a_large_request_in_time() {
    let refusal = |fields: &str| response("413 Content Too Large", fields, "at most 1 MB");
    let short = refusal("Server: x\r\n");
    let long = refusal(&format!("X-A: {}\r\n", "x".repeat(10_000)));
    let fields = "X-A: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n".repeat(200);
    let many = refusal(&fields);
    let head = short.len() - "at most 1 MB".len();
    let rows: [(&str, &[u8], &[usize]); 6] = [
        ("two halves of the head", &short, &[20]),
        ("line by line", &short, &[32, 43, head - 2]),
        ("the head and its end", &short, &[head - 1]),
        ("head and content", &short, &[head]),
        ("a long field", &long, &[]),
        ("many fields", &many, &[]),
    ];
    thread::scope(|scope| {
        for &over in BOTH {
            for (what, refusal, parts) in rows {
                scope.spawn(move || {
                    let (end, call_is_over) = mpsc::channel();
                    let (parts, refusal) = (parts.to_vec(), refusal.to_vec());
                    let call_is_over = Mutex::new(call_is_over);
                    let site = Site::start(over, move |mut peer| {
                        if peer.head().is_none() {
                            return;
                        }
                        let mut sent = 0;
                        for &part in parts.iter().chain([&refusal.len()]) {
                            peer.respond(&refusal[sent..part]);
                            sent = part;
                            // The next one comes a moment later.
                            thread::sleep(Duration::from_millis(100));
                        }
                        let _ = call_is_over.lock().unwrap().recv_timeout(PATIENCE);
                        peer.drain();
                    });
                    let start = Instant::now();
                    let session = site.session.clone().timeout(LONG);
                    let result = session.post("/large", "text/plain", huge());
                    let took = start.elapsed();
                    end.send(()).unwrap();
                    let error = result.unwrap_err();
                    assert_eq!(error.status(), Some(413), "{over:?}, {what}: {error:?}");
                    assert_eq!(error.content(), Some(&b"at most 1 MB"[..]), "{over:?}, {what}");
                    assert!(took < SOON, "{over:?}, {what}: {took:?}");
                });
            }
        }
    });
}

#[test]
fn a_large_request_whose_token_is_refused_early_is_sent_again_with_a_new_one() {
    let refusal = response("401 Unauthorized", "WWW-Authenticate: Bearer\r\n", "expired");
    for_each_large_request(|over, then, is_idle, what| {
        let (end, call_is_over) = mpsc::channel();
        let site = refusing_early(over, &refusal, then, call_is_over);
        let start = Instant::now();
        let response = send_large(&site.session, is_idle).expect(what);
        assert_eq!(response.text().unwrap(), "POST /large", "{what}");
        let took = start.elapsed();
        end.send(()).unwrap();
        assert!(took < SOON, "{what}: {took:?}");
        let all = site.requests().concat();
        let expected = ["GET /first", "POST /large", TOKEN_REQUEST, "POST /large"];
        // In the order of connections, not of time.
        let sorted = |mut lines: Vec<String>| {
            lines.sort();
            lines
        };
        assert_eq!(sorted(all), sorted(expected.map(str::to_owned).to_vec()), "{what}");
    });
}

/// Sends this when a part of a large request has arrived, pauses, and reads the rest. Then it sends the
/// response, unless that has been sent already.
fn responding_early(over: Over, early: &[u8], last: &[u8]) -> Site {
    let (early, last) = (early.to_vec(), last.to_vec());
    Site::start(over, move |mut peer| {
        while let Some(mut request) = peer.head() {
            if !request.line.ends_with("/large") {
                peer.serve(&request);
                continue;
            }
            let mut part = vec![0; 100_000];
            if peer.read_exact(&mut part).is_err() {
                break;
            }
            request.content.append(&mut part);
            peer.respond(&early);
            // Longer than a write may block before the client looks for a response.
            thread::sleep(Duration::from_millis(100));
            let Some(request) = peer.rest_of(request) else {
                break;
            };
            assert!(request.content == huge(), "the content has changed");
            peer.respond(&last);
        }
    })
}

#[test]
fn the_content_of_a_large_request_is_sent_to_its_end_whatever_good_is_said_meanwhile() {
    let last = response("201 Created", "", "made");
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    let processing = b"HTTP/1.1 102 Processing\r\nServer: x\r\n\r\n";
    let rows = [
        ("100", interim.to_vec(), last.clone()),
        ("100 and 102", [&interim[..], processing].concat(), last.clone()),
        ("the response", last.clone(), Vec::new()),
        ("100 and the response", [&interim[..], &last].concat(), Vec::new()),
        ("its head", last[..last.len() - 4].to_vec(), b"made".to_vec()),
    ];
    thread::scope(|scope| {
        for &over in BOTH {
            let rows = &rows;
            scope.spawn(move || {
                for (n, (what, early, last)) in rows.iter().enumerate() {
                    let site = responding_early(over, early, last);
                    let what = format!("{over:?}: {what}");
                    let response = send_large(&site.session, n % 2 == 1).expect(&what);
                    assert_eq!(response.status(), 201, "{what}");
                    assert_eq!(response.text().unwrap(), "made", "{what}");
                    assert_eq!(get(&site.session, "/next"), "GET /next", "{what}");
                    let all = site.requests().concat();
                    assert_eq!(all.iter().filter(|line| *line == "POST /large").count(), 1);
                }
            });
        }
    });
}

#[test]
fn a_head_that_comes_half_before_and_half_behind_the_content_of_a_request_is_read() {
    let whole = response("201 Created", "", "made");
    let (begin, end) = whole.split_at(20);
    for &over in BOTH {
        let site = responding_early(over, begin, end);
        let response = send_large(&site.session, false).unwrap();
        assert_eq!(response.text().unwrap(), "made", "{over:?}");
    }
}

#[test]
fn what_is_no_response_to_a_large_request_is_none_before_its_end_either() {
    for (early, message) in [
        (
            &b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"[..],
            "the response has a status code (1xx) that is not final",
        ),
        (
            b"HTTP/1.1 99 Nearly\r\nContent-Length: 0\r\n\r\n",
            "the response has a status code (1xx) that is not final",
        ),
        (
            b"garbage\r\n\r\n",
            "the response is not HTTP: check the host and the port, and what stands in between",
        ),
    ] {
        for &over in BOTH {
            let site = responding_early(over, early, b"");
            let error = send_large(&site.session, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exchange, "{error:?}");
            let expected = format!("POST {}/large: {message}{LOOK_FIRST}", site.url());
            assert_eq!(error.to_string(), expected, "{over:?}");
            assert!(error.may_have_executed());
        }
    }
}

// A process that is stopped

/// How long a process is stopped.
const STOPPED: Duration = Duration::from_secs(3);

/// What a child calls.
const CALLS: usize = 7;

/// When a server stops the process that calls it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Moment {
    /// Before the handshake of the connection of this number.
    Accepted(usize),
    /// In the response to the request of this number, after so many bytes. The rest of the response
    /// has arrived when the process goes on.
    Responding(usize, usize),
    /// The same, and the rest comes later.
    RespondingSlowly(usize, usize),
    /// After the response. The server closes the idle connection meanwhile.
    Closing(usize),
    /// While the content of the request is being sent.
    Uploading(usize),
}

use Moment::{Accepted, Closing, Responding, RespondingSlowly, Uploading};

/// A process that is killed when this is dropped.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(mut command: Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    /// Waits for the end of a test that passes.
    fn assert_passes(&mut self, what: &str) {
        let mut said = String::new();
        let (stdout, stderr) = (self.0.stdout.take(), self.0.stderr.take());
        stdout.unwrap().read_to_string(&mut said).unwrap();
        stderr.unwrap().read_to_string(&mut said).unwrap();
        assert!(self.0.wait().unwrap().success(), "{what}: {said}");
        assert!(said.contains("test result: ok. 1 passed"), "{what}: {said}");
    }
}

#[test]
fn a_process_that_was_stopped_sends_the_rest_of_its_request() {
    const SIZE: usize = 16 << 20;
    if let [url] = &urls()[..] {
        let session = Session::new(url, "id", "secret").unwrap();
        let session = session.resume("token", PATIENCE).unwrap().timeout(STOPPED * 3);
        let response = session.post("/", "text/plain", vec![b'x'; SIZE]).unwrap();
        assert_eq!(response.status(), 201);
        return;
    }
    let pid = Arc::new(OnceLock::new());
    let child = Arc::clone(&pid);
    let server = wire::Server::start(move |stream| {
        let mut begin = vec![0; 1024];
        stream.read_exact(&mut begin).unwrap();
        stream.write_all(&response("201 Created", "", "early")).unwrap();
        let pid: u32 = loop {
            match child.get() {
                Some(pid) => break *pid,
                None => thread::yield_now(),
            }
        };
        assert!(stop(pid));
        thread::sleep(STOPPED);
        assert!(go_on(pid));
        [begin, wire::until_closed(stream)].concat()
    });
    let test = "a_process_that_was_stopped_sends_the_rest_of_its_request";
    let mut running = Running::start(wire::this_test_alone(test, &[server.url()]));
    pid.set(running.0.id()).unwrap();
    running.assert_passes("an upload");
    assert!(server.ended()[0].len() > SIZE);
}

/// In a child: calls of each kind, the token request first.
fn call_each(url: &str, calls: usize) {
    let session = site::trusting(Session::new(url, "id", "secret").unwrap());
    let session = session.retries(0).timeout(PATIENCE);
    for n in 0..calls {
        let path = format!("/{n}");
        let result = match n % 3 {
            0 => session.get(&path),
            1 => session.post_idempotent(&path, "text/plain", pattern(LARGE)),
            _ => session.post(&path, "text/plain", pattern(LARGE)),
        };
        let method = if n % 3 == 0 { "GET" } else { "POST" };
        let content = result.and_then(Response::text);
        assert_eq!(content.unwrap(), format!("{method} {path}"));
    }
}

/// A child that finds this URL, and trusts the server there.
fn calling(test: &str, url: String) -> Command {
    site::trusted_by(wire::this_test_alone(test, &[url]))
}

#[test]
fn a_process_that_is_stopped_in_a_call_loses_nothing_but_the_time() {
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
    thread::scope(|scope| {
        for &over in BOTH {
            for moment in moments {
                scope.spawn(move || stop_at(over, moment));
            }
        }
    });
}

/// Runs a child, and stops it at this moment.
fn stop_at(over: Over, moment: Moment) {
    let pid = Arc::new(OnceLock::new());
    let is_stopped = Arc::new(AtomicUsize::new(0));
    let (known, count) = (Arc::clone(&pid), Arc::clone(&is_stopped));
    // Stops the child, and lets it go on after that time.
    let pause = Arc::new(move |meanwhile: &mut dyn FnMut()| {
        let start = Instant::now();
        let pid = loop {
            assert!(start.elapsed() < PATIENCE);
            match known.get() {
                Some(pid) => break *pid,
                None => thread::yield_now(),
            }
        };
        count.fetch_add(1, Ordering::SeqCst);
        assert!(stop(pid));
        meanwhile();
        thread::sleep(STOPPED);
        assert!(go_on(pid));
    });
    let (connections, requests) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let greeting = Arc::clone(&pause);
    let greet = move |_: &mut TcpStream| {
        if moment == Accepted(connections.fetch_add(1, Ordering::SeqCst)) {
            greeting(&mut || {});
        }
    };
    let site = Site::behind(over, greet, move |mut peer| {
        while let Some(request) = peer.head() {
            let number = requests.fetch_add(1, Ordering::SeqCst);
            if moment == Uploading(number) {
                pause(&mut || {});
            }
            let Some(request) = peer.rest_of(request) else {
                break;
            };
            let response = good(&request.line);
            match moment {
                Responding(n, bytes) if n == number => {
                    let (begin, end) = response.split_at(bytes);
                    peer.respond(begin);
                    pause(&mut || peer.respond(end));
                }
                RespondingSlowly(n, bytes) if n == number => {
                    let (begin, end) = response.split_at(bytes);
                    peer.respond(begin);
                    pause(&mut || {});
                    peer.respond(end);
                }
                Closing(n) if n == number => {
                    peer.respond(&response);
                    pause(&mut || peer.close());
                    break;
                }
                _ => peer.respond(&response),
            }
        }
        peer.drain();
    });
    let test = "a_process_that_is_stopped_in_a_call_loses_nothing_but_the_time";
    let mut child = Running::start(calling(test, site.url()));
    pid.set(child.0.id()).unwrap();
    child.assert_passes(&format!("{over:?}, {moment:?}"));
    let count = is_stopped.load(Ordering::SeqCst);
    assert_eq!(count, 1, "{over:?}, {moment:?}: it was never stopped");
    assert!(site.requests().concat().len() > CALLS);
}

#[test]
fn a_process_that_is_stopped_over_and_over_loses_nothing_but_the_time() {
    if let [url] = &urls()[..] {
        return call_each(url, 10 * CALLS);
    }
    thread::scope(|scope| {
        for &over in BOTH {
            scope.spawn(move || {
                let site = good_site(over);
                let test = "a_process_that_is_stopped_over_and_over_loses_nothing_but_the_time";
                let mut child = Running::start(calling(test, site.url()));
                let pid = child.0.id();
                thread::spawn(move || {
                    while stop(pid) {
                        thread::sleep(Duration::from_millis(30));
                        go_on(pid);
                        thread::sleep(Duration::from_millis(10));
                    }
                });
                child.assert_passes(&format!("{over:?}"));
            });
        }
    });
}
