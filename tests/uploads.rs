//! Large requests, and responses that come before a request has been sent to its end.

use std::io::Read as _;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Error, ErrorKind, Response, Session};

#[path = "support/gate/mod.rs"]
mod gate;
#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use gate::{get, Gate};
use site::{pattern, Over, Site, BOTH, TOKEN_REQUEST};
use wire::{response, side_by_side, PATIENCE};

/// More than the buffers between client and server take.
const HUGE: usize = 5 << 20;

/// The timeout of a call.
const LONG: Duration = PATIENCE.checked_mul(3).unwrap();

/// How soon a call must see a refusal: long before a quarter of its timeout has passed.
const SOON: Duration = PATIENCE.checked_div(2).unwrap();

/// Longer than a write may block before the client looks for a response.
const PAUSE: Duration = Duration::from_millis(100);

const REASON: &str = "at most 1 MB";

fn huge() -> &'static [u8] {
    static HUGE_PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    HUGE_PATTERN.get_or_init(|| pattern(HUGE))
}

/// A 413 response with these fields.
fn too_large(fields: &str) -> Vec<u8> {
    response("413 Content Too Large", fields, REASON)
}

/// Sends a large request: on an idle connection or on a fresh one.
fn send_large(session: &Session, path: &str, is_idle: bool) -> Result<Response, Error> {
    let session = &session.clone().timeout(LONG);
    get(session, "/first");
    if is_idle {
        session.post_idempotent(path, "text/plain", huge())
    } else {
        session.post(path, "text/plain", huge())
    }
}

/// What a server does after it has responded to the beginning of a request.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    ReadsNoMore,
    ReadsOn,
    Closes,
}

/// A server that refuses large requests that have the old token. It sends the refusal in these parts.
/// If it reads no more, it waits for the gate.
fn refusing_early(over: Over, parts: Vec<Vec<u8>>, then: Then, gate: Gate) -> Site {
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
            for (number, part) in parts.iter().enumerate() {
                if number > 0 {
                    thread::sleep(PAUSE);
                }
                peer.respond(part);
            }
            match then {
                Then::ReadsNoMore => gate.wait(),
                Then::ReadsOn => {}
                Then::Closes => peer.close(),
            }
            peer.drain();
            break;
        }
    })
}

fn assert_refused(over: Over, refusal: Vec<Vec<u8>>, then: Then, is_idle: bool, what: &str) {
    let (call_is_over, gate) = Gate::new();
    let site = refusing_early(over, refusal, then, gate);
    let start = Instant::now();
    let error = send_large(&site.session, "/large", is_idle).expect_err(what);
    let took = start.elapsed();
    call_is_over.open();
    assert_eq!(error.status(), Some(413), "{what}: {error:?}");
    assert_eq!(error.content(), Some(REASON.as_bytes()), "{what}");
    assert!(!error.may_have_executed(), "{what}");
    assert!(took < SOON, "{what}: {took:?}");
    assert_eq!(get(&site.session, "/next"), "GET /next", "{what}");
}

fn for_each_large_request(run: impl Fn(Over, Then, bool, &str)) {
    for &over in BOTH {
        for then in [Then::ReadsNoMore, Then::ReadsOn, Then::Closes] {
            for is_idle in [false, true] {
                run(over, then, is_idle, &format!("{over:?}, {then:?}, idle: {is_idle}"));
            }
        }
    }
}

#[test]
fn early_refusal_ends_a_large_request() {
    for_each_large_request(|over, then, is_idle, what| {
        assert_refused(over, vec![too_large("")], then, is_idle, what);
    });
}

#[test]
fn long_or_divided_refusal_ends_a_large_request() {
    let short = too_large("Server: x\r\n");
    let long = too_large(&format!("X-A: {}\r\n", "x".repeat(10_000)));
    let many = too_large(&format!("X-A: {}\r\n", "x".repeat(46)).repeat(200));
    let head = short.len() - REASON.len();
    // Where each refusal is divided.
    let rows: [(&str, &[u8], &[usize]); 6] = [
        ("two halves of the head", &short, &[20]),
        ("line by line", &short, &[32, 43, head - 2]),
        ("the head and its end", &short, &[head - 1]),
        ("head and content", &short, &[head]),
        ("a long field", &long, &[]),
        ("many fields", &many, &[]),
    ];
    let rows = BOTH.iter().flat_map(|over| rows.map(|row| (*over, row)));
    side_by_side(rows, |(over, (what, refusal, divisions))| {
        let ends = divisions.iter().copied().chain([refusal.len()]);
        let begins = [0].into_iter().chain(divisions.iter().copied());
        let parts = begins.zip(ends).map(|(begin, end)| refusal[begin..end].to_vec());
        let what = format!("{over:?}, {what}");
        assert_refused(over, parts.collect(), Then::ReadsNoMore, false, &what);
    });
}

#[test]
fn refusal_before_a_reset_is_seen_or_in_doubt() {
    const CALLS: usize = 10;
    for (over, pause) in BOTH.iter().flat_map(|over| [(*over, 0), (*over, 20)]) {
        let site = Site::start(over, move |mut peer| {
            let request = peer.head().unwrap();
            if request.line == "GET /first" {
                return peer.serve(&request);
            }
            // After the pause, the client can send no more.
            thread::sleep(Duration::from_millis(pause));
            // The unread content makes the close a reset.
            peer.respond(&too_large(""));
        });
        for _ in 0..CALLS {
            let error = send_large(&site.session, "/large", false).unwrap_err();
            if error.status() == Some(413) {
                assert_eq!(error.content(), Some(REASON.as_bytes()));
            } else {
                let outcome = (error.kind(), error.status());
                assert_eq!(outcome, (ErrorKind::Exchange, None), "{over:?}: {error:?}");
                assert!(error.may_have_executed(), "{over:?}: {error:?}");
                // TLS reads the refusal before the reset.
                assert!(over == Over::Plain || pause == 0, "{error:?}");
            }
        }
        let all = site.requests().concat();
        assert_eq!(all.iter().filter(|line| *line == "POST /large").count(), CALLS);
    }
}

#[test]
fn large_request_is_retried_after_an_early_401() {
    let refusal = response("401 Unauthorized", "WWW-Authenticate: Bearer\r\n", "expired");
    for_each_large_request(|over, then, is_idle, what| {
        let (call_is_over, gate) = Gate::new();
        let site = refusing_early(over, vec![refusal.clone()], then, gate);
        let start = Instant::now();
        let response = send_large(&site.session, "/large", is_idle).expect(what);
        assert_eq!(response.text().unwrap(), "POST /large", "{what}");
        let took = start.elapsed();
        call_is_over.open();
        assert!(took < SOON, "{what}: {took:?}");
        // In the order of connections, not of time.
        let mut all = site.requests().concat();
        all.sort();
        assert_eq!(all, ["GET /first", "POST /large", "POST /large", TOKEN_REQUEST], "{what}");
    });
}

/// How a server responds to a large request.
#[derive(Clone, Default)]
struct Early {
    what: &'static str,
    /// It sends this when a part of the request has arrived, ...
    first: Vec<u8>,
    /// ... reads nothing for this time, ...
    pause: Duration,
    /// ... and sends this when it has read the rest.
    last: Vec<u8>,
}

/// A server that responds to requests to `/large/N` as the N-th row says.
fn responding_early(over: Over, rows: Vec<Early>) -> Site {
    Site::start(over, move |mut peer| {
        while let Some(mut request) = peer.head() {
            let Some((_, number)) = request.line.split_once("/large/") else {
                peer.serve(&request);
                continue;
            };
            let row = &rows[number.parse::<usize>().unwrap()];
            let mut part = vec![0; 100_000];
            if peer.read_exact(&mut part).is_err() {
                break;
            }
            request.content.append(&mut part);
            peer.respond(&row.first);
            thread::sleep(row.pause);
            let Some(request) = peer.rest_of(request) else {
                break;
            };
            assert!(request.content == huge(), "the content has changed");
            peer.respond(&row.last);
        }
    })
}

#[test]
fn early_success_does_not_end_a_large_request() {
    let made = response("201 Created", "", "made");
    let long = response("201 Created", "", &format!("made{}", " ".repeat(60_000)));
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    let processing = b"HTTP/1.1 102 Processing\r\nServer: x\r\n\r\n";
    let row = |what, first: &[u8], last: &[u8]| Early {
        what,
        first: first.to_vec(),
        pause: PAUSE,
        last: last.to_vec(),
    };
    let rows = [
        row("100", interim, &made),
        row("100 and 102", &[&interim[..], processing].concat(), &made),
        row("the response", &made, b""),
        row("100 and the response", &[&interim[..], &made].concat(), b""),
        row("its head", &made[..made.len() - 4], &made[made.len() - 4..]),
        row("half of its head", &made[..20], &made[20..]),
        Early { pause: Duration::from_millis(1200), ..row("a long response", &long, b"") },
    ];
    side_by_side(BOTH, |&over| {
        let site = responding_early(over, rows.to_vec());
        side_by_side(rows.iter().enumerate(), |(number, row)| {
            let what = format!("{over:?}: {}", row.what);
            let path = format!("/large/{number}");
            let response = send_large(&site.session, &path, number % 2 == 1).expect(&what);
            assert_eq!(response.status(), 201, "{what}");
            assert_eq!(response.text().unwrap().trim_end(), "made", "{what}");
            assert_eq!(get(&site.session, "/next"), "GET /next", "{what}");
        });
        let all = site.requests().concat();
        let large = all.iter().filter(|line| line.contains("/large/"));
        assert_eq!(large.count(), rows.len(), "{over:?}: {all:?}");
    });
}

#[test]
fn early_garbage_is_no_response_to_a_large_request() {
    let rows = [
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "not final"),
        ("HTTP/1.1 99 Nearly\r\nContent-Length: 0\r\n\r\n", "not final"),
        ("HTTP/1.1 20 Nearly\r\nLink: </x>\r\n\r\n", "not final"),
        ("HTTP/1.1 0 Nearly\r\nLink: </x>\r\n\r\n", "not final"),
        ("garbage\r\n\r\n", "not HTTP"),
    ];
    let responses = rows.map(|(first, _)| Early { first: first.into(), ..Early::default() });
    for &over in BOTH {
        let site = responding_early(over, responses.to_vec());
        for (number, (_, word)) in rows.iter().enumerate() {
            let path = format!("/large/{number}");
            let error = send_large(&site.session, &path, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exchange, "{over:?}: {error:?}");
            assert!(error.to_string().contains(word), "{over:?}: {error:?}");
            assert!(error.may_have_executed(), "{over:?}: {error:?}");
        }
    }
}
