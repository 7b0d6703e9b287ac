//! Heads that are odd or wrong, over plain HTTP and over TLS: an odd one is read, a refusal keeps its
//! status whatever is wrong, and a 2xx response that could be misread is an error.

use std::thread;
use std::time::{Duration, Instant};

use jas_session::{ErrorKind, Response, Session};

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{Over, Site, BOTH, TOKEN_REQUEST};
use wire::{LOOK_FIRST, PATIENCE};

/// What a server does after the faulty response.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    Stays,
    Closes,
}

use Then::{Closes, Stays};

/// The token that a session begins with.
const OLD: &str = "Authorization: Bearer token\r\n";

/// Gives this response once: to a request for this path.
fn once(over: Over, path: &'static str, response: &[u8], then: Then) -> Site {
    let response = response.to_vec();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    Site::start(over, move |mut peer| {
        while let Some(request) = peer.request() {
            let is_asked = request.line.ends_with(path);
            if !is_asked || is_over.swap(true, std::sync::atomic::Ordering::SeqCst) {
                peer.serve(&request);
                continue;
            }
            peer.respond(&response);
            if then == Closes {
                peer.close();
                peer.drain();
                break;
            }
        }
    })
}

fn post(session: &Session) -> Result<Response, jas_session::Error> {
    session.post("/x", "text/plain", "create")
}

/// Runs each row over plain HTTP and over TLS, on a few threads.
fn for_each<T: Sync>(rows: &[T], run: impl Fn(Over, &T) + Sync) {
    const THREADS: usize = 4;
    thread::scope(|scope| {
        for &over in BOTH {
            for first in 0..THREADS {
                let run = &run;
                scope.spawn(move || {
                    for row in rows.iter().skip(first).step_by(THREADS) {
                        run(over, row);
                    }
                });
            }
        }
    });
}

// Odd

/// A response, what follows, its status and content, and a field of it.
type Odd = (&'static [u8], Then, (u16, &'static str), Option<(&'static str, &'static str)>);

const ODD: &[Odd] = &[
    // Bytes that are not ASCII.
    (
        b"HTTP/1.1 200 Voil\xe0\r\nContent-Length: 4\r\n\r\ngood",
        Stays,
        (200, "good"),
        Some(("Content-Length", "4")),
    ),
    (b"HTTP/1.1 200 Voil\xc3\xa0\r\nContent-Length: 4\r\n\r\ngood", Stays, (200, "good"), None),
    (
        b"HTTP/1.1 200 OK\r\nContent-Disposition: attachment; filename=\"caf\xe9.pdf\"\r\n\
                                                                         Content-Length: 4\r\n\r\ngood",
        Stays,
        (200, "good"),
        Some(("content-disposition", "attachment; filename=\"café.pdf\"")),
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Disposition: attachment; filename=\"caf\xc3\xa9.pdf\"\r\n\
                                                                         Content-Length: 4\r\n\r\ngood",
        Stays,
        (200, "good"),
        Some(("content-disposition", "attachment; filename=\"café.pdf\"")),
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-A: \xff\r\n\r\ngood",
        Stays,
        (200, "good"),
        Some(("X-A", "\u{ff}")),
    ),
    (
        b"HTTP/1.1 200 OK\r\nX-A: \xa0\x85\r\nContent-Length: 4\r\n\r\ngood",
        Stays,
        (200, "good"),
        Some(("X-A", "\u{a0}\u{85}")),
    ),
    (
        b"HTTP/1.1 200 OK\r\nX-A: a\0b\x1bc\r\nContent-Length: 4\r\n\r\ngood",
        Stays,
        (200, "good"),
        Some(("X-A", "a b c")),
    ),
    // Interim responses.
    (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        Stays,
        (200, "good"),
        None,
    ),
    (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 9\r\n\r\n\
          HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        Stays,
        (200, "good"),
        Some(("Content-Length", "4")),
    ),
    (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nConnection: close\r\n\r\n\
          HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        Stays,
        (200, "good"),
        Some(("Link", "")),
    ),
    (
        b"HTTP/1.1 100 \xe0 suivre\r\n\r\nHTTP/1.1 102 Processing\r\nServer: x\r\n\r\n\
          HTTP/1.0 199\r\n\r\nHTTP/1.1 100 Continue\n\nHTTP/1.1 201 Created\r\n\
          Content-Length: 4\r\n\r\ngood",
        Stays,
        (201, "good"),
        None,
    ),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Stays, (204, ""), None),
    // Heads without fields, or without a reason.
    (b"HTTP/1.1 204 No Content\r\n\r\n", Stays, (204, ""), None),
    (b"HTTP/1.1 204\r\n\r\n", Stays, (204, ""), None),
    (b"HTTP/1.1 204 \n\n", Stays, (204, ""), None),
    (b"HTTP/1.1 200 OK\r\n\r\n", Closes, (200, ""), None),
    (b"HTTP/1.1 200 OK\r\n\r\ngood", Closes, (200, "good"), None),
    (b"HTTP/1.0 200\r\n\r\ngood", Closes, (200, "good"), None),
    // An encoding where there is no content.
    (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
        Stays,
        (200, ""),
        Some(("Content-Encoding", "gzip")),
    ),
    (b"HTTP/1.1 204 No Content\r\nContent-Encoding: gzip\r\n\r\n", Stays, (204, ""), None),
    (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Stays,
        (200, ""),
        None,
    ),
    (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", Closes, (200, ""), None),
    (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 4\r\n\r\ngood",
        Stays,
        (200, "good"),
        None,
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Encoding:\r\nContent-Length: 4\r\n\r\ngood",
        Stays,
        (200, "good"),
        None,
    ),
    // Folded fields.
    (
        b"HTTP/1.1 200 OK\r\nX-A: one\r\n  two\r\n\tthree \r\nContent-Length: 4\r\n\r\ngood",
        Stays,
        (200, "good"),
        Some(("X-A", "one two three")),
    ),
    (
        b"HTTP/1.1 200 OK\r\nX-A:\r\n Content-Length: 9\r\nContent-Length:\r\n 4\r\n\r\ngood",
        Stays,
        (200, "good"),
        Some(("X-A", "Content-Length: 9")),
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
        Stays,
        (200, "good"),
        Some(("Transfer-Encoding", "chunked")),
    ),
    // Equal lengths.
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 7, 7\r\n\r\nperfect",
        Stays,
        (200, "perfect"),
        Some(("Content-Length", "7, 7")),
    ),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 7,7 ,\t7\r\n\r\nperfect", Stays, (200, "perfect"), None),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 7\r\n\r\nperfect",
        Stays,
        (200, "perfect"),
        None,
    ),
];

#[test]
fn what_is_only_odd_is_read() {
    for_each(ODD, |over, (response, then, (status, content), field)| {
        let what = format!("{over:?}: {}", response.escape_ascii());
        for is_post in [false, true] {
            let site = once(over, "/x", response, *then);
            let result = if is_post { post(&site.session) } else { site.session.get("/x") };
            let response = result.expect(&what);
            assert_eq!(response.status(), *status, "{what}");
            if let Some((name, value)) = field {
                assert_eq!(response.header(name).unwrap_or_default(), *value, "{what}");
            }
            assert_eq!(response.text().unwrap(), *content, "{what}");
            assert_eq!(site.requests().concat().len(), 1, "{what}");
        }
    });
}

#[test]
fn a_token_is_taken_from_an_odd_response() {
    const TOKEN: &str = r#"{"access_token":"new","token_type":"Bearer","expires_in":600}"#;
    let length = TOKEN.len();
    let heads = [
        format!("HTTP/1.1 200 Voil\u{e0}\r\nContent-Length: {length}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\nX-A: \u{e9}\r\nContent-Length: {length}\r\n\r\n"),
        format!("HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 200\r\nContent-Length: {length}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\nContent-Length:\r\n {length}, {length}\r\n\r\n"),
    ];
    for_each(&heads, |over, head| {
        let latin_1: Vec<_> = head.chars().map(|c| u8::try_from(c).unwrap()).collect();
        let response = [&latin_1, TOKEN.as_bytes()].concat();
        let site = once(over, "/oauth2/token", &response, Stays);
        site.session.invalidate("token");
        assert_eq!(site.session.access_token().unwrap(), "new", "{over:?}: {head}");
        let content = site.session.get("/x").unwrap().text().unwrap();
        assert_eq!(content, "GET /x");
        assert_eq!(site.requests(), [[TOKEN_REQUEST, "GET /x"]], "{over:?}: {head}");
    });
}

/// Fields of 60 KiB in all: one, a few, and many.
fn long_fields() -> [String; 3] {
    const LENGTH: usize = 60 * 1024;
    let of = |count: usize| {
        let value = "x".repeat(LENGTH / count - "X-A: \r\n".len());
        format!("X-A: {value}\r\n").repeat(count)
    };
    [of(1), of(8), of(700)]
}

#[test]
fn a_header_section_of_60_kib_is_accepted() {
    for_each(&long_fields(), |over, fields| {
        let content = "content ".repeat(5000);
        let length = content.len();
        let all = format!(
            "HTTP/1.1 200 OK\r\n{fields}X-Last: last\r\nContent-Length: {length}\r\n\r\n{content}"
        );
        let site = once(over, "/x", all.as_bytes(), Stays);
        let response = site.session.get("/x").unwrap();
        assert_eq!(response.header("X-Last"), Some("last"));
        assert_eq!(response.text().unwrap(), content);
        // A refusal with them is a refusal.
        let all = format!("HTTP/1.1 401 No\r\n{fields}Content-Length: 2\r\n\r\nno");
        let site = once(over, "/x", all.as_bytes(), Stays);
        assert_eq!(site.session.get("/x").unwrap().text().unwrap(), "GET /x");
    });
}

// Refusals

/// Heads of refusals, with `STATUS` for the status code, and fields for `RETRY`; their content; and
/// what follows.
const REFUSALS: &[(&[u8], Then)] = &[
    (b"HTTP/1.1 STATUS Non-Autoris\xe9\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\nRETRY\r\n", Closes),
    (b"HTTP/1.1 STATUS No\r\nRETRY\r\nno", Closes),
    (b"HTTP/1.1 STATUS No\r\nX-A: \xe9\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 STATUS No\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    // Framing.
    (b"HTTP/1.1 STATUS No\r\nContent-Length: 2\r\nRETRYContent-Length: 3\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\nRETRYContent-Length: 2, 3\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\nRETRYContent-Length: two\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\nRETRYContent-Length: -2\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\nRETRYContent-Length:\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\nRETRYContent-Length: 18446744073709551616\r\n\r\nno", Stays),
    (
        b"HTTP/1.1 STATUS No\r\nTransfer-Encoding: chunked\r\nRETRYTransfer-Encoding: chunked\r\n\
          \r\n2\r\nno\r\n0\r\n\r\n",
        Stays,
    ),
    (b"HTTP/1.1 STATUS No\r\nRETRYTransfer-Encoding: gzip, chunked\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\nRETRYTransfer-Encoding: identity\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\nRETRYTransfer-Encoding: chunked\r\n\r\nno", Stays),
    (
        b"HTTP/1.1 STATUS No\r\nTransfer-Encoding: chunked\r\nRETRYContent-Length: 2\r\n\r\n2\r\nno\
          \r\n0\r\n\r\n",
        Stays,
    ),
    // Coding.
    (
        b"HTTP/1.1 STATUS No\r\nContent-Encoding: gzip\r\nRETRYContent-Length: 4\r\n\r\n\x1f\x8b\x08\0",
        Stays,
    ),
    (b"HTTP/1.1 STATUS No\r\nContent-Encoding: x\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    // Fields.
    (b"HTTP/1.1 STATUS No\r\nContent-Length\x0b: 2\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\nContent-Length\x0b: 2\r\nRETRY\r\nno", Closes),
    (b"HTTP/1.1 STATUS No\r\nno colon\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\n: no name\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\n\xe9: x\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\n folded: first\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    // Versions.
    (b"HTTP/2.0 STATUS No\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    (b"HTTP/2 STATUS\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    (b"HTTP/0.9 STATUS No\r\nRETRYContent-Length: 2\r\n\r\nno", Stays),
    (b"HTTP/1.0 STATUS No\r\nRETRYContent-Length: 2\r\n\r\nno", Closes),
    // Content that ends too early, or never comes.
    (b"HTTP/1.1 STATUS No\r\nRETRYContent-Length: 9\r\n\r\nno", Closes),
    (b"HTTP/1.1 STATUS No\r\nRETRYTransfer-Encoding: chunked\r\n\r\n9\r\nno", Closes),
    (b"HTTP/1.1 STATUS No\r\nRETRYContent-Length: 9\r\n\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\nRETRYContent-Length: 9\r\n\r\n", Stays),
    (b"HTTP/1.1 STATUS No\r\nRETRYTransfer-Encoding: chunked\r\n\r\n9\r\nno", Stays),
    (b"HTTP/1.1 STATUS No\r\nRETRY\r\nno", Stays),
];

/// Long enough: a quarter of what is left of it is spent waiting for content that does not come.
const TIME: Duration = Duration::from_secs(4);

/// A refusal with this status.
fn refusal(template: &[u8], status: &str, retry: &str) -> Vec<u8> {
    let replaced = |text: Vec<u8>, from: &str, to: &str| {
        let place = text.windows(from.len()).position(|part| part == from.as_bytes());
        let place = place.unwrap();
        [&text[..place], to.as_bytes(), &text[place + from.len()..]].concat()
    };
    let text = replaced(template.to_vec(), "STATUS", status);
    replaced(text, "RETRY", retry)
}

#[test]
fn a_refused_token_is_renewed_whatever_is_wrong_with_the_refusal() {
    for_each(REFUSALS, |over, (template, then)| {
        let what = format!("{over:?}, {then:?}: {}", template.escape_ascii());
        let response = refusal(template, "401", "");
        let is_old = |head: &str| head.contains(OLD);
        let then = *then;
        let site = Site::start(over, move |mut peer| {
            while let Some(request) = peer.request() {
                if !is_old(&request.head) {
                    peer.serve(&request);
                    continue;
                }
                peer.respond(&response);
                if then == Closes {
                    peer.close();
                    peer.drain();
                    break;
                }
            }
        });
        let start = Instant::now();
        let session = site.session.clone().timeout(TIME);
        // Not even a booking is lost: it was refused.
        let response = post(&session).expect(&what);
        assert_eq!(response.text().unwrap(), "POST /x", "{what}");
        assert!(start.elapsed() < TIME, "{what}");
        drop(session);
        let mut all = site.requests().concat();
        all.sort();
        assert_eq!(all, [TOKEN_REQUEST, "POST /x", "POST /x"], "{what}");
    });
}

#[test]
fn a_conflict_stays_a_conflict_whatever_is_wrong_with_it() {
    for_each(REFUSALS, |over, (template, then)| {
        let what = format!("{over:?}, {then:?}: {}", template.escape_ascii());
        let site = once(over, "/x", &refusal(template, "409", ""), *then);
        let start = Instant::now();
        let error = post(&site.session.clone().timeout(TIME)).expect_err(&what);
        assert_eq!(error.kind(), ErrorKind::Status, "{what}: {error:?}");
        assert_eq!(error.status(), Some(409), "{what}: {error:?}");
        assert!(!error.may_have_executed(), "{what}");
        let begin = format!(
            "POST {}/x: status 409: it conflicts with what is there already, perhaps of an \
             earlier request",
            site.url()
        );
        let text = error.to_string();
        assert!(text.starts_with(&begin), "{what}: {text}");
        assert!(start.elapsed() < TIME, "{what}");
        assert_eq!(site.requests().concat().len(), 1, "{what}");
    });
}

#[test]
fn too_many_requests_are_retried_whatever_is_wrong_with_the_refusal() {
    for_each(REFUSALS, |over, (template, then)| {
        let what = format!("{over:?}, {then:?}: {}", template.escape_ascii());
        let response = refusal(template, "429", "Retry-After: 0.001\r\n");
        let site = once(over, "/x", &response, *then);
        let session = site.session.clone().retries(1).timeout(TIME);
        let start = Instant::now();
        let response = session.get("/x").expect(&what);
        assert_eq!(response.text().unwrap(), "GET /x", "{what}");
        assert!(start.elapsed() < TIME, "{what}");
        drop(session);
        assert_eq!(site.requests().concat(), ["GET /x", "GET /x"], "{what}");
        // A plain POST is not retried, and its error says how long to wait.
        let response = refusal(template, "429", "Retry-After: 7\r\n");
        let site = once(over, "/x", &response, *then);
        let error = post(&site.session.clone().timeout(TIME)).expect_err(&what);
        assert_eq!(error.status(), Some(429), "{what}: {error:?}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)), "{what}");
        assert!(!error.may_have_executed(), "{what}");
    });
}

#[test]
fn refused_credentials_are_denied_whatever_is_wrong_with_the_refusal() {
    for_each(REFUSALS, |over, (template, then)| {
        let what = format!("{over:?}, {then:?}: {}", template.escape_ascii());
        let site = once(over, "/oauth2/token", &refusal(template, "401", ""), *then);
        let session = site.session.clone().timeout(TIME);
        session.invalidate("token");
        let start = Instant::now();
        let error = session.access_token().expect_err(&what);
        assert_eq!(error.kind(), ErrorKind::Denied, "{what}: {error:?}");
        assert_eq!(error.status(), Some(401), "{what}: {error:?}");
        assert!(!error.may_have_executed(), "{what}");
        assert!(start.elapsed() < TIME, "{what}");
        drop(session);
        assert_eq!(site.requests().concat(), [TOKEN_REQUEST], "{what}");
    });
}

#[test]
fn what_a_faulty_refusal_says_is_shown_where_its_end_is_known() {
    for_each(
        &[
            &b"HTTP/1.1 409 Conflit d\xe9j\xe0\r\nContent-Length: 5\r\n\r\ntaken"[..],
            b"HTTP/2.0 409 Conflict\r\nContent-Length: 5\r\n\r\ntaken",
            b"HTTP/1.1 409 Conflict\r\nno colon\r\nContent-Length: 5\r\n\r\ntaken",
            b"HTTP/1.1 409 Conflict\r\nContent-Length: 9\r\n\r\ntaken",
            b"HTTP/1.1 409 Conflict\r\nContent-Length: 5, 5\r\n\r\ntaken",
        ],
        |over, response| {
            let site = once(over, "/x", response, Closes);
            let error = post(&site.session).unwrap_err();
            assert_eq!(error.content(), Some(&b"taken"[..]), "{over:?}: {error:?}");
            let end = "perhaps of an earlier request; the response says: taken";
            assert!(error.to_string().ends_with(end), "{over:?}: {error}");
        },
    );
}

// Wrong

const NO_HTTP: &str =
    "the response is not HTTP: check the host and the port, and what stands in between";
const NO_NAME: &str = "the response has a header field without a valid name";
const NOT_CHUNKED: &str = "the response has a Transfer-Encoding other than `chunked`";
const LENGTHS: &str = "the response has two different Content-Length fields";
const NO_LENGTH: &str = "the response has a Content-Length that is not a number of 64 bits";
const NOT_1: &str = "the response has a version other than HTTP/1";

const WRONG: &[(&[u8], &str)] = &[
    (b"ICY 200 OK\r\nContent-Length: 4\r\n\r\ngood", NO_HTTP),
    (b"http/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood", NO_HTTP),
    (b"\xff\xfb\x01 login:\r\n\r\n", NO_HTTP),
    (b"HTTP/1.1 2000 OK\r\nContent-Length: 4\r\n\r\ngood", NO_HTTP),
    (b"HTTP/1.1 +200 OK\r\nContent-Length: 4\r\n\r\ngood", NO_HTTP),
    (b"HTTP/x 200 OK\r\nContent-Length: 4\r\n\r\ngood", NO_HTTP),
    (b"HTTP/1.1 100 Continue\r\n\r\nICY 200 OK\r\nContent-Length: 4\r\n\r\ngood", NO_HTTP),
    (b"HTTP/1.1 200 OK\r\nContent-Length\x0b: 4\r\n\r\ngood", NO_NAME),
    (b"HTTP/1.1 200 OK\r\nContent-Length\x0b: 4\r\nContent-Length: 4\r\n\r\ngood", NO_NAME),
    (b"HTTP/1.1 200 OK\r\n\x0bContent-Length: 4\r\n\r\ngood", NO_NAME),
    (b"HTTP/1.1 200 OK\r\nContent-Length\xa0: 4\r\n\r\ngood", NO_NAME),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nno colon\r\n\r\ngood", NO_NAME),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n: no name\r\n\r\ngood", NO_NAME),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX A: b\r\n\r\ngood", NO_NAME),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\xe9: x\r\n\r\ngood", NO_NAME),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX\0: x\r\n\r\ngood", NO_NAME),
    (b"HTTP/1.1 200 OK\r\n folded: first\r\nContent-Length: 4\r\n\r\ngood", NO_NAME),
    (b"HTTP/1.1 204 No Content\r\nX-A\x0b: 4\r\n\r\n", NO_NAME),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\
          good\r\n0\r\n\r\n",
        NOT_CHUNKED,
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
        NOT_CHUNKED,
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 4\r\n\r\ngood",
        NOT_CHUNKED,
    ),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", NOT_CHUNKED),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\ngood", NOT_CHUNKED),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\nContent-Length: 4\r\n\r\ngood", NOT_CHUNKED),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\ngood", LENGTHS),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4, 5\r\n\r\ngood", LENGTHS),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4,\r\n\r\ngood", LENGTHS),
    (b"HTTP/1.1 200 OK\r\nContent-Length: four\r\n\r\ngood", NO_LENGTH),
    (b"HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\ngood", NO_LENGTH),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\ngood", NO_LENGTH),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4 4\r\n\r\ngood", NO_LENGTH),
    (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\ngood", NO_LENGTH),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\ngood", NO_LENGTH),
    (b"HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\ngood", NOT_1),
    (b"HTTP/2 200\r\nContent-Length: 4\r\n\r\ngood", NOT_1),
    (b"HTTP/0.9 200 OK\r\nContent-Length: 4\r\n\r\ngood", NOT_1),
    (b"HTTP/11 200 OK\r\nContent-Length: 4\r\n\r\ngood", NO_HTTP),
    (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\0",
        "the content is encoded (Content-Encoding), which was not asked for",
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\
          \r\n\r\n",
        "the content is encoded (Content-Encoding), which was not asked for",
    ),
];

#[test]
fn a_good_status_with_a_head_that_may_be_misread_is_an_error() {
    for_each(WRONG, |over, (response, message)| {
        let what = format!("{over:?}: {}", response.escape_ascii());
        for (then, is_post) in [(Stays, false), (Stays, true), (Closes, true)] {
            let site = once(over, "/x", response, then);
            let start = Instant::now();
            let (method, result, advice) = if is_post {
                ("POST", post(&site.session.clone().retries(2)), LOOK_FIRST)
            } else {
                ("GET", site.session.get("/x"), "")
            };
            let error = result.expect_err(&what);
            assert_eq!(error.kind(), ErrorKind::Exchange, "{what}: {error:?}");
            let expected = format!("{method} {}/x: {message}{advice}", site.url());
            assert_eq!(error.to_string(), expected, "{what}");
            assert!(error.may_have_executed(), "{what}");
            assert!(start.elapsed() < PATIENCE / 4, "{what}: the server stays");
            assert_eq!(site.requests().concat().len(), 1, "{what}");
        }
    });
}

#[test]
fn a_query_with_such_a_response_is_retried() {
    // One of each kind but the encoding, which a retry would meet again.
    let kinds = [NO_HTTP, NO_NAME, NOT_CHUNKED, LENGTHS, NO_LENGTH, NOT_1];
    let wrong = kinds.map(|kind| WRONG.iter().find(|row| row.1 == kind).unwrap());
    for_each(&wrong, |over, (response, _)| {
        let what = format!("{over:?}: {}", response.escape_ascii());
        let site = once(over, "/x", response, Stays);
        let session = site.session.clone().retries(1);
        let response = session.get("/x").expect(&what);
        assert_eq!(response.text().unwrap(), "GET /x", "{what}");
    });
}
