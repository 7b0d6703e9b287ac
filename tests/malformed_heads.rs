//! Odd heads are read, refusals keep their status whatever is wrong with them, and a 2xx head that may
//! be misread is an error.

use std::collections::HashSet;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Error, ErrorKind, Response, Session};

#[path = "support/gate/mod.rs"]
mod gate;
#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{good, trusting, Over, Site, BOTH, TOKEN_REQUEST};

/// What a server does after the faulty response.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    Stays,
    Closes,
}

use Then::{Closes, Stays};

/// The timeout of a call. It waits for missing content of a refusal for a quarter of it.
const TIME: Duration = Duration::from_secs(4);

fn post(session: &Session) -> Result<Response, Error> {
    session.post("/x", "text/plain", "create")
}

/// A head, and content, in ISO 8859-1 with `\n` for each line end.
fn bytes(text: &str, line_end: &str) -> Vec<u8> {
    let text = text.replace('\n', line_end);
    text.chars().map(|c| u8::try_from(c).unwrap()).collect()
}

/// Method, number and path of a request for `/NUMBER/path`.
fn parts(line: &str) -> (String, usize) {
    let (method, target) = line.split_once(" /").unwrap();
    let (number, path) = target.split_once('/').unwrap();
    (format!("{method} /{path}"), number.parse().unwrap())
}

/// Gives the N-th response to the first request with this line below `/N`, and good ones to others.
fn site(over: Over, responses: Vec<(Vec<u8>, Then)>, line: &'static str) -> Site {
    let is_over = Mutex::new(HashSet::new());
    Site::start(over, move |mut peer| {
        while let Some(request) = peer.request() {
            let (asked, number) = parts(&request.line);
            let is_faulty = asked == line && is_over.lock().unwrap().insert(number);
            if !is_faulty {
                peer.respond(&good(&asked));
                continue;
            }
            let (response, then) = &responses[number];
            peer.respond(response);
            if *then == Closes {
                peer.close();
                return peer.drain();
            }
        }
    })
}

/// Makes a call for each of the responses, with a session of its own, over plain HTTP and TLS. The first
/// request with this line gets the response. Compares the requests with those expected.
fn for_each(
    responses: &[(Vec<u8>, Then)], line: &'static str, requests: &[&str],
    call: impl Fn(Session, usize, &str) + Sync,
) {
    let run = |over| {
        let site = site(over, responses.to_vec(), line);
        let url = site.url();
        let run_row = |number: usize| {
            let (response, then) = &responses[number];
            let session = trusting(wire::session(&format!("{url}/{number}"))).timeout(TIME);
            let what = format!("{over:?}, {then:?}: {:.200}", response.escape_ascii());
            let start = Instant::now();
            call(session, number, &what);
            assert!(start.elapsed() < TIME, "{what}: {:?}", start.elapsed());
        };
        // Many rows take a quarter of the timeout, so all are run at once.
        gate::for_each(0..responses.len(), responses.len(), run_row);
        let all: Vec<_> = site.requests().concat().iter().map(|line| parts(line)).collect();
        for (number, (response, _)) in responses.iter().enumerate() {
            let of_it = all.iter().filter(|(_, other)| *other == number);
            let mut lines: Vec<_> = of_it.map(|(line, _)| &**line).collect();
            lines.sort_unstable();
            assert_eq!(lines, requests, "{over:?}: {:.200}", response.escape_ascii());
        }
    };
    thread::scope(|scope| {
        for &over in BOTH {
            scope.spawn(move || run(over));
        }
    });
}

// Odd heads

type Fields = &'static [(&'static str, &'static str)];

/// Responses with the content `good`, their statuses, and fields of them.
const ODD: &[(&str, u16, Fields)] = &[
    // Bytes that are not ASCII, or not visible.
    ("HTTP/1.1 200 Voil\u{e0}\nContent-Length: 4\n\ngood", 200, &[("Content-Length", "4")]),
    ("HTTP/1.1 200 Voil\u{c3}\u{a0}\nContent-Length: 4\n\ngood", 200, &[]),
    (
        "HTTP/1.1 200 OK\nContent-Disposition: attachment; filename=\"caf\u{e9}.pdf\"\n\
         X-Utf-8: caf\u{c3}\u{a9}.pdf\nX-A: \u{ff}\nX-B: \u{a0}\u{85}\nX-C: a\0b\x1bc\rd\n\
         Content-Length: 4\n\ngood",
        200,
        &[
            ("content-disposition", "attachment; filename=\"café.pdf\""),
            ("x-utf-8", "café.pdf"),
            ("x-a", "\u{ff}"),
            ("x-b", "\u{a0}\u{85}"),
            ("x-c", "a b c d"),
        ],
    ),
    // Spaces, cases and folds.
    (
        "HTTP/1.1 200 OK\nX-Trace: \t a  b \t\nx-trace: second\nContent-Length :  4 \nX-Empty:\n\
         X-Fold: one\n  two\n\tthree \nX-Later:\n there\n\ngood",
        200,
        &[
            ("X-TRACE", "a  b"),
            ("content-length", "4"),
            ("trace", "none"),
            ("x-empty", ""),
            ("x-fold", "one two three"),
            ("x-later", "there"),
        ],
    ),
    // Status lines.
    ("HTTP/1.1 201\nContent-Length: 4\n\ngood", 201, &[]),
    ("HTTP/1.1 201 \nContent-Length: 4\n\ngood", 201, &[]),
    ("HTTP/1.0 200 Not  bad\nContent-Length: 4\n\ngood", 200, &[]),
    // Interim responses.
    (
        "HTTP/1.1 103 Early Hints\nLink: </x>\nContent-Length: 9\nConnection: close\n\n\
         HTTP/1.1 200 OK\nX-A: b\nContent-Length: 4\n\ngood",
        200,
        &[("Content-Length", "4"), ("Link", "none"), ("X-A", "b")],
    ),
    (
        "HTTP/1.1 100 \u{e0} suivre\n\nHTTP/1.1 102 Processing\nServer: x\n\n\
         HTTP/1.0 199\n\nHTTP/1.1 100 Continue\n\nHTTP/1.1 201 Created\nContent-Length: 4\n\ngood",
        201,
        &[("Server", "none")],
    ),
];

#[test]
fn odd_head_is_read() {
    for (line_end, line) in [("\r\n", "GET /x"), ("\n", "POST /x")] {
        let responses: Vec<_> = ODD.iter().map(|row| (bytes(row.0, line_end), Stays)).collect();
        for_each(&responses, line, &[line], |session, number, what| {
            let (_, status, fields) = ODD[number];
            let result = if line == "GET /x" { session.get("/x") } else { post(&session) };
            let response = result.expect(what);
            assert_eq!(response.status(), status, "{what}");
            for (name, value) in fields {
                assert_eq!(response.header(name).unwrap_or("none"), *value, "{what}: {name}");
            }
            assert_eq!(response.text().unwrap(), "good", "{what}");
        });
    }
}

#[test]
fn token_is_taken_from_an_odd_response() {
    const TOKEN: &str = r#"{"access_token":"new","token_type":"Bearer","expires_in":600}"#;
    let length = TOKEN.len();
    let heads = [
        format!("HTTP/1.1 200 Voil\u{e0}\nContent-Length: {length}\n\n"),
        format!("HTTP/1.1 200 OK\nX-A: \u{e9}\nContent-Length: {length}\n\n"),
        format!("HTTP/1.1 102 Wait\n\nHTTP/1.1 200\nContent-Length: {length}\n\n"),
        format!("HTTP/1.1 200 OK\nContent-Length:\n {length}, {length}\n\n"),
    ];
    let responses = heads.map(|head| (bytes(&(head + TOKEN), "\r\n"), Stays));
    for_each(&responses, TOKEN_REQUEST, &["GET /x", TOKEN_REQUEST], |session, _, what| {
        session.invalidate("token");
        assert_eq!(session.access_token().expect(what), "new", "{what}");
        assert_eq!(session.get("/x").unwrap().text().unwrap(), "GET /x", "{what}");
    });
}

// Refusals

/// Refusals, with `STATUS` for the status code, and `RETRY` where a field may be.
const REFUSALS: &[(&str, Then)] = &[
    ("HTTP/1.1 STATUS Non-Autoris\u{e9}\nRETRYContent-Length: 2\n\nno", Stays),
    ("HTTP/1.1 STATUS\nRETRYContent-Length: 2\n\nno", Stays),
    ("HTTP/1.1 STATUS No\nRETRY\n", Closes),
    ("HTTP/1.1 STATUS No\nRETRY\nno", Closes),
    ("HTTP/1.1 STATUS No\nX-A: \u{e9}\nRETRYContent-Length: 2\n\nno", Stays),
    ("HTTP/1.1 100 Continue\n\nHTTP/1.1 STATUS No\nRETRYContent-Length: 2\n\nno", Stays),
    // Framing.
    ("HTTP/1.1 STATUS No\nContent-Length: 2\nRETRYContent-Length: 3\n\nno", Stays),
    ("HTTP/1.1 STATUS No\nRETRYContent-Length: two\n\nno", Stays),
    ("HTTP/1.1 STATUS No\nRETRYTransfer-Encoding: gzip, chunked\n\nno", Stays),
    ("HTTP/1.1 STATUS No\nRETRYTransfer-Encoding: chunked\n\nno", Stays),
    (
        "HTTP/1.1 STATUS No\nTransfer-Encoding: chunked\nRETRYContent-Length: 2\n\n2\nno\n0\n\n",
        Stays,
    ),
    // Coding.
    (
        "HTTP/1.1 STATUS No\nContent-Encoding: gzip\nRETRYContent-Length: 4\n\n\x1f\u{8b}\x08\0",
        Stays,
    ),
    // Fields.
    ("HTTP/1.1 STATUS No\nContent-Length\x0b: 2\nRETRYContent-Length: 2\n\nno", Stays),
    ("HTTP/1.1 STATUS No\nContent-Length\x0b: 2\nRETRY\nno", Closes),
    ("HTTP/1.1 STATUS No\nno colon\nRETRYContent-Length: 2\n\nno", Stays),
    ("HTTP/1.1 STATUS No\n: no name\nRETRYContent-Length: 2\n\nno", Stays),
    ("HTTP/1.1 STATUS No\n\u{e9}: x\nRETRYContent-Length: 2\n\nno", Stays),
    ("HTTP/1.1 STATUS No\n folded: first\nRETRYContent-Length: 2\n\nno", Stays),
    ("HTTP/1.1 STATUS No\nX-A: LONG\nRETRYContent-Length: 2\n\nno", Stays),
    // Versions.
    ("HTTP/2.0 STATUS No\nRETRYContent-Length: 2\n\nno", Stays),
    ("HTTP/2 STATUS\nRETRYContent-Length: 2\n\nno", Stays),
    ("HTTP/1.0 STATUS No\nRETRYContent-Length: 2\n\nno", Closes),
    // Truncated or missing content.
    ("HTTP/1.1 STATUS No\nRETRYContent-Length: 9\n\nno", Closes),
    ("HTTP/1.1 STATUS No\nRETRYTransfer-Encoding: chunked\n\n9\nno", Closes),
    ("HTTP/1.1 STATUS No\nRETRYContent-Length: 9\n\nno", Stays),
    ("HTTP/1.1 STATUS No\nRETRYContent-Length: 9\n\n", Stays),
    ("HTTP/1.1 STATUS No\nRETRYTransfer-Encoding: chunked\n\n9\nno", Stays),
    ("HTTP/1.1 STATUS No\nRETRY\nno", Stays),
];

fn refusals(status: &str, retry: &str) -> Vec<(Vec<u8>, Then)> {
    let long = "x".repeat(60 * 1024);
    let refusal = |template: &str| {
        let text = template.replace("STATUS", status).replace("RETRY", retry);
        bytes(&text.replace("LONG", &long), "\r\n")
    };
    REFUSALS.iter().map(|(template, then)| (refusal(template), *then)).collect()
}

#[test]
fn malformed_401_renews_the_token() {
    // Not even a booking is lost: it was refused.
    let requests = [TOKEN_REQUEST, "POST /x", "POST /x"];
    for_each(&refusals("401", ""), "POST /x", &requests, |session, _, what| {
        assert_eq!(post(&session).expect(what).text().unwrap(), "POST /x", "{what}");
    });
}

#[test]
fn malformed_409_keeps_its_status() {
    for_each(&refusals("409", ""), "POST /x", &["POST /x"], |session, _, what| {
        let error = post(&session).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Status, "{what}: {error:?}");
        assert_eq!(error.status(), Some(409), "{what}: {error:?}");
        assert!(!error.may_have_executed(), "{what}");
    });
}

#[test]
fn malformed_429_is_retried() {
    let refusals = refusals("429", "Retry-After: 0.001\n");
    for_each(&refusals, "GET /x", &["GET /x", "GET /x"], |session, _, what| {
        let response = session.retries(1).get("/x").expect(what);
        assert_eq!(response.text().unwrap(), "GET /x", "{what}");
    });
}

#[test]
fn malformed_429_of_a_plain_post_says_how_long_to_wait() {
    let refusals = refusals("429", "Retry-After: 7\n");
    for_each(&refusals, "POST /x", &["POST /x"], |session, _, what| {
        let error = post(&session).expect_err(what);
        assert_eq!(error.status(), Some(429), "{what}: {error:?}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)), "{what}");
        assert!(!error.may_have_executed(), "{what}");
    });
}

#[test]
fn malformed_401_to_a_token_request_means_denied() {
    for_each(&refusals("401", ""), TOKEN_REQUEST, &[TOKEN_REQUEST], |session, _, what| {
        session.invalidate("token");
        let error = session.access_token().expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Denied, "{what}: {error:?}");
        assert_eq!(error.status(), Some(401), "{what}: {error:?}");
        assert!(!error.may_have_executed(), "{what}");
    });
}

// Heads that may be misread

/// Bytes that are no HTTP response, and heads that can be read in two ways. (`framing.rs` has more.)
const INVALID: &[(&str, Then)] = &[
    // Another protocol: its server may wait for the client.
    ("", Closes),
    ("\n\n", Stays),
    ("\0", Stays),
    ("garbage\n\n", Stays),
    ("220 mail.example.com ESMTP\n", Stays),
    ("SSH-2.0-OpenSSH_9.2\n", Stays),
    ("\u{ff}\u{fb}\x01 login:\n\n", Stays),
    ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\n\n", Stays),
    ("ICY 200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP 200", Stays),
    // Status lines.
    ("http/1.1 200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.1\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.1 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.1 200OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.1  200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.1 2000 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.1 +200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/x 200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1. 200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.\u{e9} 200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.11 200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/11 200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/2.0 200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/2 200\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/0.9 200 OK\nContent-Length: 4\n\ngood", Stays),
    // Interim responses without a final one, and statuses that HTTP doesn't have.
    ("HTTP/1.1 100 Continue\n\nICY 200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.1 100 Continue\n\n", Closes),
    ("HTTP/1.1 103 Early Hints\nLink: </x>\nContent-Length: 4\n\n", Closes),
    ("HTTP/1.1 100 Continue\n\nHTTP/1.1 199 X\nContent-Length: 4\n\n", Closes),
    ("HTTP/1.1 101 X\nLink: </x>\n\nHTTP/1.1 200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.1 0 X\nLink: </x>\n\nHTTP/1.1 200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.1 20 X\nLink: </x>\n\nHTTP/1.1 200 OK\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.1 99 X\nLink: </x>\n\nHTTP/1.1 200 OK\nContent-Length: 4\n\ngood", Stays),
    // Names of fields.
    ("HTTP/1.1 200 OK\nContent-Length\x0b: 4\nContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.1 200 OK\n\x0bContent-Length: 4\n\ngood", Stays),
    ("HTTP/1.1 200 OK\nContent-Length\u{a0}: 4\n\ngood", Stays),
    ("HTTP/1.1 200 OK\nContent-Length: 4\nno colon\n\ngood", Stays),
    ("HTTP/1.1 200 OK\nContent-Length: 4\n: no name\n\ngood", Stays),
    ("HTTP/1.1 200 OK\nContent-Length: 4\nX A: b\n\ngood", Stays),
    ("HTTP/1.1 200 OK\nContent-Length: 4\n\u{e9}: x\n\ngood", Stays),
    ("HTTP/1.1 200 OK\nContent-Length: 4\nX\0: x\n\ngood", Stays),
    ("HTTP/1.1 204 No Content\nX-A\x0b: 4\n\n", Stays),
    // Framing.
    ("HTTP/1.1 200 OK\nTransfer-Encoding: x\n\ngood", Stays),
];

fn invalid() -> Vec<(Vec<u8>, Then)> {
    INVALID.iter().map(|(text, then)| (bytes(text, "\r\n"), *then)).collect()
}

#[test]
fn head_that_may_be_misread_is_an_error() {
    for_each(&invalid(), "POST /x", &["POST /x"], |session, _, what| {
        let error = post(&session.retries(2)).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Exchange, "{what}: {error:?}");
        assert_eq!(error.status(), None, "{what}: {error:?}");
        assert!(error.may_have_executed(), "{what}");
    });
}

#[test]
fn query_is_retried_after_a_head_that_may_be_misread() {
    // Each retry takes a pause, so only some of each kind.
    let some: Vec<_> = invalid().into_iter().step_by(6).collect();
    for_each(&some, "GET /x", &["GET /x", "GET /x"], |session, _, what| {
        let response = session.retries(1).get("/x").expect(what);
        assert_eq!(response.text().unwrap(), "GET /x", "{what}");
    });
}
