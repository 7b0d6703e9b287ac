//! How many connections a session holds, how it closes them, and what it does not take for an idle one.

#[cfg(feature = "tls")]
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Barrier, Mutex};
use std::thread;
use std::time::Instant;

use jas_session::{Response, Session};

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
#[cfg(feature = "tls")]
use site::Over;
use site::{good, Site, BOTH, TOKEN_REQUEST};
use wire::{assert_in_time, request, respond, response, PATIENCE, TIMEOUT};

fn get(session: &Session, path: &str) -> String {
    session.get(path).and_then(Response::text).unwrap()
}

fn post(session: &Session, path: &str) -> String {
    session.post(path, "text/plain", "create").and_then(Response::text).unwrap()
}

#[test]
fn a_server_with_one_worker_makes_no_call_wait() {
    const CALLS: usize = 9;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // As Apache does with one process: it serves a connection until the client closes it.
    let server = thread::spawn(move || {
        let mut lines = Vec::new();
        while lines.len() < CALLS {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            loop {
                let request = String::from_utf8(request(&mut stream)).unwrap();
                let Some((line, _)) = request.split_once(" HTTP/1.1\r\n") else { break };
                lines.push(line.to_owned());
                respond(&mut stream, &good(line));
            }
        }
        lines
    });
    let session = wire::session(&url);
    let start = Instant::now();
    assert_eq!(get(&session, "/1"), "GET /1");
    assert_eq!(post(&session, "/2"), "POST /2");
    assert_eq!(post(&session, "/3"), "POST /3");
    session.invalidate("token");
    assert_eq!(post(&session, "/4"), "POST /4");
    session.invalidate("new");
    assert_eq!(session.access_token().unwrap(), "new");
    assert_eq!(get(&session, "/5"), "GET /5");
    assert_eq!(get(&session.clone(), "/6"), "GET /6");
    assert_eq!(post(&session, "/7"), "POST /7");
    assert!(start.elapsed() < PATIENCE / 4);
    drop(session);
    assert_eq!(server.join().unwrap().len(), CALLS);
}

#[test]
fn a_connection_is_made_when_the_broken_one_before_it_is_closed() {
    for &over in BOTH {
        // The second connection is served when the first is closed by both.
        let (first_is_closed, closed) = mpsc::channel();
        let (first_is_closed, closed) = (Mutex::new(first_is_closed), Mutex::new(closed));
        let site = Site::start(over, move |mut peer| {
            if peer.number == 0 {
                let request = peer.request().unwrap();
                peer.serve(&request);
                peer.close();
                peer.drain();
                return first_is_closed.lock().unwrap().send(()).unwrap();
            }
            closed.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            peer.serve_all();
        });
        assert_eq!(get(&site.session, "/1"), "GET /1");
        assert_eq!(get(&site.session, "/2"), "GET /2");
        assert_eq!(site.requests(), [["GET /1"], ["GET /2"]], "{over:?}");
    }
}

#[test]
fn a_timeout_on_an_idle_connection_closes_the_others() {
    const IDLE: usize = 4;
    const HALF: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf";
    // Connections that a firewall has forgotten, at once or within a response.
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
        thread::scope(|scope| {
            for _ in 0..IDLE {
                scope.spawn(|| get(session, "/first"));
            }
        });
        let start = Instant::now();
        let error = session.clone().timeout(TIMEOUT).get("/second").unwrap_err();
        assert_in_time(start, &error);
        assert_eq!(get(session, "/third"), "GET /third", "{over:?}");
        assert_eq!(session.counts().connections, IDLE as u64 + 1);
        site.requests();
    }
}

/// A server that sends a refusal beside a good response, once: as a gateway does that has given up
/// waiting, or that could not read what it took for a request.
#[test]
fn a_stray_refusal_is_the_response_to_no_later_request() {
    const LATER: usize = 10;
    let statuses = [400, 408, 413, 414, 431, 500, 501, 502, 503, 504, 505, 507, 511, 520, 599];
    for (over, status) in BOTH.iter().flat_map(|over| statuses.map(|status| (*over, status))) {
        for at in ["GET /2", TOKEN_REQUEST] {
            let has_come = AtomicBool::new(false);
            let site = Site::start(over, move |mut peer| {
                // Each response comes one request late from then on.
                let mut late = None;
                while let Some(request) = peer.request() {
                    let good = good(&request.line);
                    if request.line == at && !has_come.swap(true, Ordering::SeqCst) {
                        late = Some(good);
                        peer.respond(&response(&format!("{status} Stray"), "", "stray"));
                    } else if let Some(late) = &mut late {
                        peer.respond(&std::mem::replace(late, good));
                    } else {
                        peer.respond(&good);
                    }
                }
            });
            let session = &site.session;
            if at == TOKEN_REQUEST {
                session.invalidate("token");
            } else {
                assert_eq!(get(session, "/1"), "GET /1");
            }
            // It gets the stray one (nobody can tell them apart), or another after a 408.
            let result = session.get("/2").and_then(Response::text);
            match result.map_err(|error| error.status()) {
                Ok(text) => assert_eq!((text.as_str(), status, at), ("GET /2", 408, "GET /2")),
                Err(received) => assert_eq!(received, Some(status)),
            }
            // A refusal of the credentials is remembered.
            let session = match at {
                TOKEN_REQUEST => &session.clone().resume("token", PATIENCE).unwrap(),
                _ => session,
            };
            for n in 0..LATER {
                let path = format!("/{n}");
                assert_eq!(get(session, &path), format!("GET {path}"), "{over:?} {status} {at}");
            }
        }
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_connection_is_closed_with_close_notify() {
    /// An alert of two bytes in a record of TLS 1.3.
    const CLOSE_NOTIFY: usize = 5 + 2 + 1 + 16;
    let uses: [fn(&Session); 4] = [
        // Idle until the session goes, or another connection is made.
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

/// Part of a TLS record that the server sends beside a good response, with it or just after.
#[cfg(feature = "tls")]
#[test]
fn a_part_of_a_tls_record_is_no_quiet_connection() {
    for over in [Over::Tls, Over::Tls12] {
        for bytes in 1..=60 {
            for is_glued in [false, true] {
                let (is_read, reading) = mpsc::channel();
                let (was_written, written) = mpsc::channel();
                let ends = Mutex::new((reading, was_written));
                let site = Site::start(over, move |mut peer| {
                    let Some(request) = peer.request() else { return };
                    if request.line != "GET /first" {
                        peer.serve(&request);
                        return peer.drain();
                    }
                    let good = peer.sealed(&good(&request.line));
                    let stray = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
                    let stray = peer.sealed(stray);
                    let (begin, rest) = stray.split_at(bytes);
                    if is_glued {
                        peer.tcp().write_all(&[&good, begin].concat()).unwrap();
                    } else {
                        let ends = ends.lock().unwrap();
                        peer.tcp().write_all(&good).unwrap();
                        ends.0.recv().unwrap();
                        peer.tcp().write_all(begin).unwrap();
                        ends.1.send(()).unwrap();
                    }
                    // What is read next is the end of the connection, or a request.
                    if peer.tcp().read(&mut [0]).is_ok_and(|length| length > 0) {
                        let _ = peer.tcp().write_all(rest);
                    }
                    peer.drain();
                });
                assert_eq!(get(&site.session, "/first"), "GET /first");
                if !is_glued {
                    is_read.send(()).unwrap();
                    written.recv().unwrap();
                }
                let what = format!("{over:?}, {bytes} bytes, {is_glued}");
                assert_eq!(get(&site.session, "/second"), "GET /second", "{what}");
                drop(site.requests());
            }
        }
    }
}
