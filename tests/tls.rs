//! TLS handshakes that fail, stall or succeed, and responses in TLS records of any size.
#![cfg(feature = "tls")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use jas_session::{Error, ErrorKind, Response, Session};
use rustls::crypto::{ring, CryptoProvider};
use rustls::version::{TLS12, TLS13};

#[path = "support/gate/mod.rs"]
mod gate;
#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use gate::{get, post};
use site::{Over, Site};
use wire::tls::{https, tls, Authority, Days};
use wire::{
    assert_in_time, assert_nothing_left, assert_passes, drip, held, respond, response,
    session_without_token, text, this_test_alone, until_closed, urls, with_token, Server, TIMEOUT,
};

// Handshakes that fail

/// Checks that the error is final, that it names the reason, and that nothing was executed.
fn assert_refused(error: &Error, reason: &str) {
    assert_eq!(error.kind(), ErrorKind::Exchange, "{error:?}");
    assert!(error.to_string().contains(reason), "{reason}: {error}");
    assert!(!error.may_have_executed());
}

/// A server that responds to the client's first message with these bytes, and closes.
fn garbage(bytes: &[u8]) -> Server {
    let bytes = bytes.to_vec();
    Server::start(move |stream| {
        let _ = stream.read(&mut [0; 4096]);
        respond(stream, &bytes);
        Vec::new()
    })
}

/// A `ServerHello` of TLS 1.1, with `TLS_RSA_WITH_AES_128_CBC_SHA`.
fn tls_1_1_hello() -> Vec<u8> {
    let hello = [&[3, 2][..], &[7; 32], &[0], &[0, 0x2f], &[0]].concat();
    let length = u8::try_from(hello.len()).unwrap();
    [&[22, 3, 2, 0, length + 4, 2, 0, 0, length], &hello[..]].concat()
}

#[test]
fn only_a_close_within_the_handshake_is_retried() {
    let authority = Authority::new();
    let certified =
        |authority: &Authority, host, days| tls(authority.config(host, days), |_| Vec::new());
    let rows = [
        (garbage(b""), 2, ""),
        (garbage(b"HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n"), 1, "not speak TLS"),
        (garbage(b"SSH-2.0-OpenSSH_9.2\r\n"), 1, "not speak TLS"),
        (garbage(&[0; 64]), 1, "not speak TLS"),
        (garbage(&[21, 3, 3, 0, 2, 2, 40]), 1, "agree on TLS"), // alert: handshake_failure
        // Two servers that speak TLS 1.1 only.
        (garbage(&[21, 3, 2, 0, 2, 2, 70]), 1, "agree on TLS"), // alert: protocol_version
        (garbage(&tls_1_1_hello()), 1, "agree on TLS"),
        (garbage(&[21, 3, 3, 0, 2, 2, 112]), 1, "SNI"), // alert: unrecognized_name
        (certified(&authority, "localhost", Days::Past), 1, "has expired"),
        (certified(&authority, "localhost", Days::Future), 1, "not valid yet"),
        (certified(&authority, "api.example.com", Days::Now), 1, "another host name"),
        (certified(&Authority::new(), "localhost", Days::Now), 1, "issuer"),
    ];
    for (server, attempts, reason) in rows {
        let session = session_without_token(&https(&server)).retries(1);
        let session = session.root_certificates(authority.pem.as_bytes()).unwrap();
        assert_refused(&session.access_token().unwrap_err(), reason);
        assert_refused(&with_token(session).get("/").unwrap_err(), reason);
        assert_eq!(server.ended().len(), 2 * attempts, "{reason}");
    }
}

#[test]
fn required_client_certificate_is_named_and_final() {
    let authority = Authority::new();
    // In TLS 1.3 the server says so in place of a response.
    for version in [&TLS12, &TLS13] {
        let config = authority.config_for_certified("localhost", version);
        let server = tls(config, |_| unreachable!("the handshake fails"));
        let session = session_without_token(&https(&server));
        let session = session.root_certificates(authority.pem.as_bytes()).unwrap().retries(2);
        let token_request = session.get("/");
        let session = with_token(session);
        for result in [
            token_request,
            session.get("/"),
            session.post("/", "text/plain", "booking"),
            session.post("/", "text/plain", vec![b'x'; 8 << 20]),
        ] {
            assert_refused(&result.unwrap_err(), "client certificate");
        }
        assert_eq!(session.counts().connections, 4);
        drop(session);
        server.ended();
    }
}

// Handshakes that succeed

#[test]
fn calls_leave_the_crypto_provider_of_the_process() {
    if let [url, provider] = &urls()[..] {
        let suites = || CryptoProvider::get_default().map(|own| own.cipher_suites.clone());
        if provider == "own" {
            let mut own = ring::default_provider();
            own.cipher_suites.truncate(1);
            own.install_default().unwrap();
        }
        let before = suites();
        assert_refused(&text(url).unwrap_err(), "certificate");
        assert_eq!(suites(), before);
        assert_eq!(before.is_some(), provider == "own");
        return;
    }
    let server = tls(Authority::new().config("localhost", Days::Now), |_| Vec::new());
    for provider in ["own", "none"] {
        let urls = [https(&server), provider.to_owned()];
        assert_passes(this_test_alone("calls_leave_the_crypto_provider_of_the_process", &urls));
    }
    assert_eq!(server.ended().len(), 2);
}

#[test]
fn token_and_calls_pass_tls_1_2_and_1_3_on_a_small_stack() {
    // The minimum in the crate's documentation.
    const STACK: usize = if cfg!(debug_assertions) { 100 } else { 50 } * 1024;
    for over in [Over::Tls, Over::Tls12] {
        let site = Site::start(over, |mut peer| peer.serve_all());
        thread::scope(|scope| {
            let calls = || {
                let session = Session::new(&site.url(), "id", "secret").unwrap();
                let session = site::trusting(session);
                assert_eq!(get(&session, "/shipments"), "GET /shipments");
                assert_eq!(post(&session, "/bookings"), "POST /bookings");
            };
            thread::Builder::new().stack_size(STACK).spawn_scoped(scope, calls).unwrap();
        });
        let expected = ["POST /oauth2/token", "GET /shipments", "POST /bookings"];
        assert_eq!(site.requests().concat(), expected);
    }
}

// Only there `SSL_CERT_FILE` replaces the system's roots.
#[cfg(all(feature = "system-roots", unix, not(target_vendor = "apple")))]
#[test]
fn system_roots_are_trusted_and_more_on_demand() {
    if let [url, other, root] = &urls()[..] {
        assert_eq!(text(url).unwrap(), "good");
        assert_refused(&text(other).unwrap_err(), "this system's roots");
        let root = std::fs::read(root).unwrap();
        for url in [url, other] {
            let session = wire::session(url).root_certificates(&root).unwrap();
            assert_eq!(with_token(session).get("/").unwrap().text().unwrap(), "good");
        }
        return;
    }
    let (system, more) = (Authority::new(), Authority::new());
    let servers = [&system, &more].map(|authority| {
        let config = authority.config("localhost", Days::Now);
        wire::tls::responding(config, &response("200 OK", "", "good"))
    });
    let [url, other] = servers.each_ref().map(https);
    let root = more.file().to_str().unwrap().to_owned();
    let test = "system_roots_are_trusted_and_more_on_demand";
    assert_passes(system.as_system(this_test_alone(test, &[url, other, root])));
}

// Responses

#[test]
fn response_before_an_unreadable_record_counts() {
    for status in ["201 Created", "409 Conflict"] {
        let site = Site::start(Over::Tls, move |mut peer| {
            peer.request();
            let good = peer.sealed(&response(status, "", "booking 4711"));
            let unreadable = [&[23, 3, 3, 0, 17][..], &[7; 17]].concat();
            peer.tcp().write_all(&[good, unreadable].concat()).unwrap();
            peer.close_tcp();
            peer.drain();
        });
        match site.session.post("/", "text/plain", "create") {
            Ok(response) => {
                assert_eq!(response.status(), 201);
                assert_eq!(response.text().unwrap(), "booking 4711");
            }
            Err(error) => {
                assert_eq!(error.status(), Some(409), "{error:?}");
                assert_eq!(error.content(), Some(&b"booking 4711"[..]));
            }
        }
        assert_eq!(site.requests().len(), 1);
    }
}

/// What the server does on the n-th connection.
const STALLS: [&str; 7] = [
    "good",
    "silent-handshake",
    "handshake-in-bytes",
    "silence",
    "head-in-records",
    "head-in-bytes",
    "content-in-bytes",
];

#[test]
fn stalled_tls_ends_in_time_and_leaves_nothing() {
    if let [url] = &urls()[..] {
        let call = |what: &str| {
            let session = with_token(site::trusting(session_without_token(url)));
            let result = session.timeout(TIMEOUT).post(what, "text/plain", "create");
            result.and_then(Response::bytes)
        };
        assert_eq!(call("/good").unwrap(), b"POST /good");
        let before = held();
        for what in &STALLS[1..] {
            let start = Instant::now();
            let error = call("/").expect_err(what);
            assert_in_time(start, &error);
            assert_eq!(error.may_have_executed(), !what.contains("handshake"), "{what}");
            assert_nothing_left(before, what);
        }
        return;
    }
    let site = Site::accepting(Over::Tls, |mut peer| {
        let stall = STALLS[peer.number];
        if stall.contains("handshake") {
            return stall_in_handshake(peer.tcp(), stall == "handshake-in-bytes");
        }
        let Some(request) = peer.request() else { return };
        match stall {
            // Whole records, each with one byte.
            "head-in-records" => drip(&mut peer, b"HTTP/1.1 200 OK\r\nX-A: ", b'x'),
            // One record, byte by byte.
            "head-in-bytes" | "content-in-bytes" => {
                if stall == "content-in-bytes" {
                    peer.respond(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n");
                }
                let record = peer.sealed(&[b'x'; 9000]);
                drip(peer.tcp(), &record, 0);
            }
            "good" => peer.serve(&request),
            _ => {}
        }
        peer.drain();
    });
    let test = "stalled_tls_ends_in_time_and_leaves_nothing";
    assert_passes(site::trusted_by(this_test_alone(test, &[site.url()])));
    // Nothing was retried.
    assert_eq!(site.requests().len(), STALLS.len());
}

/// Is silent, or sends a handshake record byte by byte, until the client closes.
fn stall_in_handshake(tcp: &mut TcpStream, drips: bool) {
    if drips {
        drip(tcp, &[22, 3, 3, 0x3f, 0xff, 2, 0, 0x3f, 0xfb], 3);
    }
    let received = until_closed(tcp);
    // One record: the client's first message.
    let [22, _, _, high, low, rest @ ..] = &received[..] else { panic!("{received:?}") };
    assert_eq!(rest.len(), usize::from(u16::from_be_bytes([*high, *low])));
}

#[test]
fn long_heads_and_contents_pass_in_large_records() {
    let content = "x".repeat(1 << 20);
    let all = content.clone();
    let site = Site::start(Over::Tls, move |mut peer| {
        while let Some(request) = peer.request() {
            let length: usize = request.line.rsplit('/').next().unwrap().parse().unwrap();
            let begin = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-A: ", all.len());
            let value = "y".repeat(length - begin.len() - 4);
            peer.respond(format!("{begin}{value}\r\n\r\n{all}").as_bytes());
        }
    });
    for length in [1_000, 15_000, 20_000] {
        assert!(get(&site.session, &format!("/{length}")) == content, "{length}");
    }
}

#[test]
fn chunks_pass_in_records_of_any_size() {
    // The second ends before the line end of a chunk of 4096. The third is full.
    const RECORDS: [usize; 6] = [47, 4102, 16_384, 1369, 4229, 8_000];
    let site = Site::start(Over::Tls, |mut peer| {
        while let Some(request) = peer.request() {
            let size: usize = request.line.rsplit('/').next().unwrap().parse().unwrap();
            let mut all = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in vec![b'x'; 200_000].chunks(size) {
                all.extend(format!("{:x}\r\n", chunk.len()).bytes());
                all.extend([chunk, b"\r\n"].concat());
            }
            all.extend(b"0\r\n\r\n");
            let mut sizes = RECORDS.iter().cycle();
            while !all.is_empty() {
                let rest = all.split_off((*sizes.next().unwrap()).min(all.len()));
                peer.respond(&all);
                all = rest;
            }
        }
    });
    for size in [1, 100, 4096, 8000, 16_000, 40_000] {
        assert_eq!(get(&site.session, &format!("/{size}")).len(), 200_000, "{size}");
    }
}
