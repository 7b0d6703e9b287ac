//! A server that can't resume a TLS session costs a handshake, and at most one call.
#![cfg(feature = "tls")]

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::time::Instant;

#[path = "support/gate/mod.rs"]
mod gate;
#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use gate::{get, post};
use site::{Over, Peer, Site};
use wire::{assert_in_time, side_by_side, until_closed, with_token, PATIENCE, TIMEOUT};

const VERSIONS: [Over; 2] = [Over::Tls, Over::Tls12];

/// A server that calls `refuse` in place of a handshake that would resume a session. It is also its
/// own proxy, which opens no tunnel until the refused one is closed.
fn refusing(over: Over, refuse: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Site {
    let one_refused = Mutex::new(());
    Site::accepting(over, move |mut peer| {
        let mut first = [0];
        let is_proxy = peer.tcp().peek(&mut first).unwrap() > 0 && first == *b"C";
        let turn = is_proxy.then(|| one_refused.lock().unwrap());
        if is_proxy {
            peer.open_tunnel();
        }
        // The client's first message.
        if peer.read_record().is_ok() && peer.is_resumed() {
            refuse(peer.tcp());
            let _ = until_closed(peer.tcp());
            return;
        }
        drop(turn);
        if peer.flush().is_ok() {
            peer.serve_all();
        }
    })
}

/// Sends a fatal alert (RFC 8446, section 6), or closes without one.
fn alert(tcp: &mut TcpStream, description: Option<u8>) {
    if let Some(description) = description {
        tcp.write_all(&[21, 3, 3, 0, 2, 2, description]).unwrap();
    }
    tcp.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn refused_tls_session_costs_a_handshake_and_no_call() {
    // unexpected_message, handshake_failure, illegal_parameter, decrypt_error, internal_error
    for description in [None, Some(10), Some(40), Some(47), Some(51), Some(80)] {
        for (over, is_proxy) in VERSIONS.iter().flat_map(|over| [(*over, false), (*over, true)]) {
            let mut site = refusing(over, move |tcp| alert(tcp, description));
            if is_proxy {
                let session = site.session.clone().proxy(&site.address.to_string());
                site.session = with_token(session.unwrap());
            }
            let session = &site.session;
            assert_eq!(post(session, "/1"), "POST /1");
            let connections = session.counts().connections;
            for n in 2..6 {
                assert_eq!(post(session, &format!("/{n}")), format!("POST /{n}"));
            }
            // Four calls, and the refused handshake.
            assert_eq!(session.counts().connections - connections, 5, "{over:?} {description:?}");
            let requests = site.requests().concat();
            assert_eq!(requests, [1, 2, 3, 4, 5].map(|n| format!("POST /{n}")), "{over:?}");
        }
    }
}

#[test]
fn threads_with_refused_tls_sessions_lose_no_call() {
    for over in VERSIONS {
        let site = refusing(over, |tcp| alert(tcp, Some(40)));
        side_by_side(0..8, |thread| {
            for n in 0..10 {
                let path = format!("/{thread}/{n}");
                assert_eq!(post(&site.session, &path), format!("POST {path}"));
            }
        });
        assert_eq!(site.requests().concat().len(), 80);
    }
}

#[test]
fn silent_server_is_offered_no_tls_session_again() {
    for over in VERSIONS {
        let site = refusing(over, |_| ());
        let session = &site.session;
        assert_eq!(post(session, "/1"), "POST /1");
        let start = Instant::now();
        let call = session.clone().timeout(TIMEOUT).post("/2", "text/plain", "create");
        let error = call.unwrap_err();
        assert_in_time(start, &error);
        assert!(!error.may_have_executed());
        let others = [3, 4, 5].map(|n| post(session, &format!("/{n}")));
        assert_eq!(others, [3, 4, 5].map(|n| format!("POST /{n}")));
        assert_eq!(site.requests().concat().len(), 4, "{over:?}");
    }
}

#[test]
fn broken_resumed_connection_costs_one_call() {
    let breaks: [fn(&mut Peer); 4] = [
        Peer::close,
        Peer::close_tcp,
        |peer| {
            peer.request();
            peer.close();
        },
        |peer| drop(peer.request()),
    ];
    let each_break = |over| (0..breaks.len()).map(move |i| (over, i));
    for (over, i) in VERSIONS.into_iter().flat_map(each_break) {
        let break_connection = breaks[i];
        // The last break keeps the connection open: the call ends by its timeout.
        let timeout = if i == 3 { TIMEOUT * 2 } else { PATIENCE };
        let site = Site::start(over, move |mut peer| {
            if peer.is_resumed() {
                break_connection(&mut peer);
                return peer.drain();
            }
            peer.serve_all();
        });
        let session = &site.session;
        assert_eq!(post(session, "/1"), "POST /1");
        let call = session.clone().timeout(timeout).post("/2", "text/plain", "create");
        assert!(call.unwrap_err().may_have_executed());
        for n in 3..8 {
            assert_eq!(post(session, &format!("/{n}")), format!("POST /{n}"));
        }
        let session = session.clone().idle_connections(0);
        assert_eq!(get(&session, "/8"), "GET /8");
        drop(site);
    }
}

#[test]
fn get_on_a_broken_resumed_connection_is_retried_once() {
    for over in VERSIONS {
        let site = Site::start(over, |mut peer| {
            if peer.is_resumed() {
                return peer.close();
            }
            peer.serve_all();
        });
        let session = site.session.clone().idle_connections(0).retries(1);
        for n in 1..5 {
            assert_eq!(get(&session, &format!("/{n}")), format!("GET /{n}"));
        }
        assert_eq!(session.counts().retries, 1);
        drop(site);
    }
}

#[test]
fn broken_idle_connection_keeps_its_tls_session() {
    for over in VERSIONS {
        let site = Site::start(over, |mut peer| {
            if peer.number == 1 {
                assert!(peer.is_resumed());
                let first = peer.request().unwrap();
                peer.serve(&first);
                drop(peer.request());
                return peer.close();
            }
            assert_eq!(peer.is_resumed(), peer.number > 0);
            peer.serve_all();
        });
        let session = &site.session;
        assert_eq!(post(session, "/1"), "POST /1");
        assert_eq!(post(session, "/2"), "POST /2");
        assert_eq!(get(session, "/3"), "GET /3");
        let requests = site.requests();
        let expected: [&[_]; 3] = [&["POST /1"], &["POST /2", "GET /3"], &["GET /3"]];
        assert_eq!(requests, expected);
    }
}
