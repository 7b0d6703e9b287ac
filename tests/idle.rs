//! Which requests share a connection, and which calls keep theirs, over plain HTTP and over TLS.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Barrier};
use std::thread;
use std::time::Instant;

use jas_session::{ErrorKind, Session};

#[path = "support/gate/mod.rs"]
mod gate;
#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use gate::{get, good_site, post};
#[cfg(feature = "tls")]
use gate::{serve_one, Gate};
#[cfg(feature = "tls")]
use site::Over;
use site::{Site, BOTH, TOKEN_REQUEST};
use wire::{response, side_by_side, PATIENCE, TIMEOUT};

fn assert_requests(site: Site, expected: &[&[&str]], what: &str) {
    assert_eq!(site.requests(), expected, "{what}");
}

#[test]
fn repeatable_requests_share_one_connection() {
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
fn clone_without_idle_connections_keeps_and_uses_none() {
    for &over in BOTH {
        let site = good_site(over);
        let none = site.session.clone().idle_connections(0);
        get(&none, "/1");
        get(&none, "/2");
        // Nor does it use one that another clone has kept.
        get(&site.session, "/3");
        get(&none, "/4");
        drop(none);
        let paths = ["GET /1", "GET /2", "GET /3", "GET /4"];
        let expected = &paths.each_ref().map(std::slice::from_ref);
        assert_requests(site, expected, &format!("{over:?}"));
    }
}

#[test]
fn only_surplus_connections_are_closed() {
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
            side_by_side(0..CALLS, |_| assert_eq!(get(&session, "/"), "GET /"));
            let start = Instant::now();
            while closed.load(Ordering::SeqCst) < round * (CALLS - KEPT) {
                assert!(start.elapsed() < PATIENCE, "a surplus connection stays open");
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
fn each_origin_has_its_own_connections() {
    for &over in BOTH {
        let (site, tokens) = (good_site(over), good_site(over));
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
fn each_set_of_roots_and_each_proxy_has_its_own_connections() {
    let site = good_site(Over::Tls);
    let other = wire::with_token(site::trusting(site.session.clone()));
    // A proxy that also is the server.
    let proxies = [1, 2].map(|_| {
        Site::accepting(Over::Tls, |mut peer| {
            peer.open_tunnel();
            peer.serve_all();
        })
    });
    let [one, two] = proxies.each_ref().map(|proxy| {
        let url = format!("http://{}", proxy.address);
        wire::with_token(site.session.clone().proxy(&url).unwrap())
    });
    for path in ["/1", "/2"] {
        for session in [&site.session, &other, &one, &two] {
            get(session, path);
        }
    }
    drop((other, one, two));
    let both: &[_] = &["GET /1", "GET /2"];
    assert_requests(site, &[both, both], "two sets of roots");
    for proxy in proxies {
        assert_requests(proxy, &[both], "two proxies");
    }
}

#[test]
fn last_clone_closes_the_connections() {
    for &over in BOTH {
        let (closed, is_closed) = mpsc::channel();
        let site = Site::start(over, move |mut peer| {
            peer.serve_all();
            closed.send(()).unwrap();
        });
        let clone = site.session.clone();
        get(&clone, "/1");
        drop(clone);
        get(&site.session, "/2");
        assert!(is_closed.try_recv().is_err(), "{over:?}");
        assert_requests(site, &[&["GET /1", "GET /2"]], &format!("{over:?}"));
        is_closed.recv_timeout(PATIENCE).unwrap();
    }
}

#[test]
fn response_outlives_its_session() {
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
        let response = site.session.get("/").unwrap();
        // Drops the session, and waits for the server.
        let requests = thread::spawn(move || site.requests());
        assert_eq!(response.text().unwrap(), long, "{over:?}");
        is_closed.recv_timeout(PATIENCE).unwrap();
        assert_eq!(requests.join().unwrap(), [["GET /"]], "{over:?}");
    }
}

#[test]
fn reused_connection_has_the_deadline_of_its_call() {
    let sites: Vec<_> = BOTH.iter().map(|over| good_site(*over)).collect();
    let short = |site: &Site| site.session.clone().timeout(TIMEOUT);
    for site in &sites {
        get(&short(site), "/1");
    }
    thread::sleep(TIMEOUT * 5 / 4); // longer than the first call might have taken
    for site in sites {
        get(&short(&site), "/2");
        get(&site.session, "/3");
        assert_requests(site, &[&["GET /1", "GET /2", "GET /3"]], "in time");
    }
}

#[cfg(feature = "tls")]
#[test]
fn tls_message_on_an_idle_connection_is_no_response() {
    let (near, gate) = Gate::new();
    let site = Site::start(Over::Tls, move |mut peer| {
        for _ in 0..3 {
            serve_one(&mut peer);
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
    assert_requests(site, &[&["GET /1", "GET /2", "GET /3", "GET /4"]], "new keys");
}

#[test]
fn plain_post_always_has_a_new_connection() {
    for &over in BOTH {
        let site = good_site(over);
        for n in 0..3 {
            get(&site.session, &format!("/get/{n}"));
            let path = format!("/post/{n}");
            assert_eq!(post(&site.session, &path), format!("POST {path}"));
            let path = format!("/post_json/{n}");
            let response = site.session.post_json(&path, "create").unwrap();
            assert_eq!(response.text().unwrap(), format!("POST {path}"));
        }
        let connections = site.requests();
        for requests in &connections {
            let posts = requests.iter().skip(1).filter(|line| line.contains("/post"));
            assert_eq!(posts.count(), 0, "{over:?}: {connections:?}");
        }
        // Each GET reuses the connection of the POST before it.
        assert_eq!(connections.len(), 1 + 2 * 3, "{over:?}: {connections:?}");
        assert_eq!(connections.concat().len(), 3 * 3);
    }
}

#[test]
fn call_after_401_reuses_the_token_requests_connection() {
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

/// A response, the call that gets it, and whether the next call uses the same connection.
type Row = (Vec<u8>, fn(&Session, &str), bool);

fn rows() -> [Row; 7] {
    let long = || response("200 OK", "", &"x".repeat(40_000));
    // Its status alone would let the connection be kept.
    let refusal = response("403 Forbidden", "", "no");
    [
        (long(), |session, path| drop(session.get(path).unwrap().bytes().unwrap()), true),
        // Small content is read within the call.
        (response("200 OK", "", "good"), |session, path| drop(session.get(path).unwrap()), true),
        (long(), |session, path| drop(session.get(path).unwrap()), false),
        (
            long(),
            |session, path| {
                let mut response = session.get(path).unwrap();
                response.read_exact(&mut vec![0; 20_000]).unwrap();
            },
            false,
        ),
        (
            long(),
            |session, path| {
                let error = session.get(path).unwrap().limit(30_000).bytes();
                assert_eq!(error.unwrap_err().kind(), ErrorKind::Content);
            },
            false,
        ),
        (long(), |session, path| drop(session.post(path, "text/plain", "").unwrap()), false),
        (
            refusal,
            |session, path| {
                // More than the buffers take, so that it is not sent to its end.
                let error = session.post_idempotent(path, "text/plain", vec![b'x'; 5 << 20]);
                assert_eq!(error.unwrap_err().status(), Some(403));
            },
            false,
        ),
    ]
}

#[test]
fn connection_is_kept_after_a_whole_exchange() {
    let rows = rows();
    for &over in BOTH {
        let responses = rows.each_ref().map(|(response, ..)| response.clone());
        // Responds to `/N` with the N-th response, and to others with the request before on the
        // same connection.
        let site = Site::start(over, move |mut peer| {
            let mut before = String::new();
            while let Some(request) = peer.head() {
                match request.line.rsplit('/').next().unwrap().parse::<usize>() {
                    Ok(number) => peer.respond(&responses[number]),
                    Err(_) => peer.respond(&response("200 OK", "", &before)),
                }
                if request.line.starts_with("POST") {
                    return peer.drain();
                }
                before = request.line;
            }
        });
        for (number, (_, call, is_kept)) in rows.iter().enumerate() {
            let path = format!("/{number}");
            call(&site.session, &path);
            let before = get(&site.session, "/next");
            let same = before == format!("GET {path}");
            assert_eq!(same, *is_kept, "{over:?}, row {number}: {before}");
        }
    }
}
