//! What ends the content of a response, and whether its connection is used again.

use std::time::Instant;

use jas_session::{ErrorKind, Session};

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{Over, Site, BOTH};
use wire::{response, PATIENCE};

/// What a response results in.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Outcome {
    /// This content, and the connection is used again.
    Kept(&'static str),
    /// This content, and the connection is closed.
    Closed(&'static str),
    /// The same, after the server has closed.
    UntilClose(&'static str),
    /// An error, at once.
    Invalid,
    /// An error, after the server has closed.
    Truncated,
}

use Outcome::{Closed, Invalid, Kept, Truncated, UntilClose};

/// Responses in ISO 8859-1, with `\n` for each line end.
const RESPONSES: &[(&str, Outcome)] = &[
    // Lengths.
    ("HTTP/1.1 200 OK\nContent-Length: 4\n\ngood", Kept("good")),
    ("HTTP/1.1 201 Created\ncontent-length: 4\n\nmade", Kept("made")),
    ("HTTP/1.1 200 OK\nContent-Length :\t4 \n\ngood", Kept("good")),
    ("HTTP/1.1 200 OK\nContent-Length:\n 4\n\ngood", Kept("good")),
    ("HTTP/1.1 200 OK\nX-A:\n Content-Length: 9\nContent-Length: 4\n\ngood", Kept("good")),
    ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", Kept("")),
    ("HTTP/1.1 200 OK\nContent-Length: 4, 4\n\ngood", Kept("good")),
    ("HTTP/1.1 200 OK\nContent-Length: 4,4 ,\t4\n\ngood", Kept("good")),
    ("HTTP/1.1 200 OK\nContent-Length: 4\nContent-Length: 4\n\ngood", Closed("good")),
    ("HTTP/1.1 200 OK\nContent-Length: 4,4\nContent-Length:4\n\ngood", Closed("good")),
    ("HTTP/1.1 200 OK\nContent-Length: 4\nContent-Length: 5\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: 4, 5\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: 4,\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: 4 4\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: 4\n 4\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: 4\n Content-Length: 4\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\n Content-Length: 4\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length\x0b: 4\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: four\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: +4\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: -4\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: 0x4\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: \u{a0}4\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: 4\0\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length:\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: 18446744073709551616\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nContent-Length: 18446744073709551615\n\ngood", Truncated),
    // Its lower 32 bits are the length of the content.
    ("HTTP/1.1 200 OK\nContent-Length: 4294967300\n\ngood", Truncated),
    // Chunks.
    ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\ngood\n0\n\n", Kept("good")),
    ("HTTP/1.1 200 OK\nTransfer-Encoding:\n\tChunked\n\n4\ngood\n0\n\n", Kept("good")),
    (
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1;x=y\ng\n3\nood\n0\nX-A: b\n\n",
        Kept("good"),
    ),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\na\n0123456789\n0\n\n", Kept("0123456789")),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nA\n0123456789\n0\n\n", Kept("0123456789")),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n0\n\n", Kept("")),
    (
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Length: 9\n\n4\ngood\n0\n\n",
        Closed("good"),
    ),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\ngood\nx\n\n", Invalid),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\ngood!\n0\n\n", Invalid),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked, chunked\n\n4\ngood\n0\n\n", Invalid),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n", Invalid),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: gzip\nTransfer-Encoding: chunked\n\n0\n\n", Invalid),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n0\n\n", Invalid),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n x: a\n\n0\n\n", Invalid),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: gzip\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nTransfer-Encoding:\nContent-Length: 4\n\ngood", Invalid),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: identity\nContent-Length: 4\n\ngood", Invalid),
    // Neither a length nor chunks.
    ("HTTP/1.1 200 OK\n\n", UntilClose("")),
    ("HTTP/1.1 200 OK\n\ngood", UntilClose("good")),
    ("HTTP/1.0 200\n\ngood", UntilClose("good")),
    ("HTTP/1.1 200 OK\nX-A: b\n Content-Length: 1\n\ngood", UntilClose("good")),
    ("HTTP/1.1 200 OK\nX-A: b\n\tTransfer-Encoding: chunked\n  X-A: b\n\n0", UntilClose("0")),
    // Responses without content.
    ("HTTP/1.1 204 No Content\n\n", Kept("")),
    ("HTTP/1.1 204 No Content\nContent-Length: 4\n\n", Closed("")),
    ("HTTP/1.1 204 No Content\nTransfer-Encoding: chunked\n\n", Closed("")),
    ("HTTP/1.1 304 Not Modified\n\n", Kept("")),
    ("HTTP/1.1 304 Not Modified\nContent-Length: 4\n\n", Closed("")),
    ("HTTP/1.1 304 Not Modified\nTransfer-Encoding: chunked\n\n", Closed("")),
    // Interim responses.
    ("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 4\n\ngood", Kept("good")),
    (
        "HTTP/1.1 103 Early Hints\nConnection: close\nContent-Length: 9\n\n\
         HTTP/1.1 200 OK\nContent-Length: 4\n\ngood",
        Kept("good"),
    ),
    ("HTTP/1.1 100 Continue\n\nHTTP/1.1 204 No Content\n\n", Kept("")),
    // The field Connection, and versions.
    ("HTTP/1.1 200 OK\nConnection: Keep-Alive\nContent-Length: 4\n\ngood", Kept("good")),
    ("HTTP/1.1 200 OK\nConnection: close\nContent-Length: 4\n\ngood", Closed("good")),
    ("HTTP/1.1 200 OK\nConnection: x, Close\nContent-Length: 4\n\ngood", Closed("good")),
    ("HTTP/1.1 200 OK\nConnection: x\nconnection:close\nContent-Length: 4\n\ngood", Closed("good")),
    ("HTTP/1.1 204 No Content\nConnection: close\n\n", Closed("")),
    ("HTTP/1.1 404 Not Found\nConnection: close\nContent-Length: 2\n\nno", Closed("no")),
    ("HTTP/1.0 200 OK\nContent-Length: 4\n\ngood", Closed("good")),
    ("HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 4\n\ngood", Closed("good")),
    ("HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n4\ngood\n0\n\n", Closed("good")),
    // More than the content.
    ("HTTP/1.1 200 OK\nContent-Length: 4\n\ngoodb", Closed("good")),
    ("HTTP/1.1 200 OK\nContent-Length: 4\n\ngood\n", Closed("good")),
    (
        "HTTP/1.1 200 OK\nContent-Length: 4\n\ngoodHTTP/1.1 200 OK\nContent-Length: 5\n\nstray",
        Closed("good"),
    ),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\ngood\n0\n\nb", Closed("good")),
    ("HTTP/1.1 204 No Content\n\nb", Closed("")),
    ("HTTP/1.1 404 Not Found\nContent-Length: 2\n\nnob", Closed("no")),
    // Codings of the content.
    ("HTTP/1.1 200 OK\nContent-Encoding: identity\nContent-Length: 4\n\ngood", Kept("good")),
    ("HTTP/1.1 200 OK\nContent-Encoding:\nContent-Length: 4\n\ngood", Kept("good")),
    ("HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 0\n\n", Kept("")),
    ("HTTP/1.1 200 OK\nContent-Encoding: br\nTransfer-Encoding: chunked\n\n0\n\n", Kept("")),
    ("HTTP/1.1 200 OK\nContent-Encoding: gzip\n\n", UntilClose("")),
    ("HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 4\n\n\x1f\u{8b}\x08\0", Invalid),
    ("HTTP/1.1 200 OK\nContent-Encoding: x\nTransfer-Encoding: chunked\n\n4\ngood\n0\n\n", Invalid),
    // Other statuses are never lost. After some of them a second response may follow.
    ("HTTP/1.1 302 Found\nLocation: /x\nContent-Length: 0\n\n", Kept("")),
    ("HTTP/1.1 404 Not Found\nContent-Length: 2\n\nno", Kept("no")),
    ("HTTP/1.1 404 Not Found\nTransfer-Encoding: chunked\n\n2\nno\n0\n\n", Kept("no")),
    ("HTTP/1.1 409 Conflict\nContent-Length: 5, 5\n\ntaken", Kept("taken")),
    ("HTTP/1.1 409 Conflit d\u{e9}j\u{e0}\nContent-Length: 5\n\ntaken", Kept("taken")),
    ("HTTP/1.1 429 Too Many\nRetry-After: 0.001\nContent-Length: 2\n\nno", Kept("no")),
    ("HTTP/1.1 400 Bad Request\nContent-Length: 2\n\nno", Closed("no")),
    ("HTTP/1.1 408 Request Timeout\nContent-Length: 2\n\nno", Closed("no")),
    ("HTTP/1.1 413 Content Too Large\nContent-Length: 2\n\nno", Closed("no")),
    ("HTTP/1.1 414 URI Too Long\nContent-Length: 2\n\nno", Closed("no")),
    ("HTTP/1.1 431 Request Header Fields Too Large\nContent-Length: 2\n\nno", Closed("no")),
    ("HTTP/1.1 500 Internal Server Error\nContent-Length: 2\n\nno", Closed("no")),
    ("HTTP/1.1 503 Unavailable\nTransfer-Encoding: chunked\n\n2\nno\n0\n\n", Closed("no")),
    ("HTTP/1.1 599 Odd\nContent-Length: 2\n\nno", Closed("no")),
    ("HTTP/1.1 409 Conflict\nContent-Length: 2\nContent-Length: 3\n\nno", Closed("")),
    ("HTTP/1.1 409 Conflict\nContent-Length: five\n\ntaken", Closed("")),
    ("HTTP/1.1 409 Conflict\nTransfer-Encoding: gzip\n\ntaken", Closed("")),
    ("HTTP/1.1 409 Conflict\nno colon\nContent-Length: 5\n\ntaken", Closed("taken")),
    ("HTTP/2.0 409 Conflict\nContent-Length: 5\n\ntaken", Closed("taken")),
    ("HTTP/2 403\nContent-Length: 2\n\nno", Closed("no")),
    ("HTTP/1.1 409 Conflict\nContent-Length: 9\n\ntaken", UntilClose("taken")),
];

/// Sizes of the chunk `hello`.
const SIZES: &[(&str, Outcome)] = &[
    ("00000000000000000005", Kept("hello")),
    ("5 \t", Kept("hello")),
    ("5\r", Kept("hello")),
    ("5 ; name=\"\u{c3}\u{a9}\"", Kept("hello")),
    ("80000000", Truncated),
    ("100000005", Truncated),
    ("7fffffffffffffff", Truncated),
    ("ffffffffffffffff", Truncated),
    ("10000000000000000", Invalid),
    ("5 ; name=\"\u{e9}\"", Invalid),
    ("-1", Invalid),
    ("+5", Invalid),
    ("0x5", Invalid),
    ("5_0", Invalid),
    (" 5", Invalid),
    ("5 5", Invalid),
    ("", Invalid),
    (";x", Invalid),
    ("g", Invalid),
    ("\u{ef}\u{bc}\u{95}", Invalid),
    ("\0", Invalid),
];

fn rows() -> Vec<(String, Outcome)> {
    let long = "0".repeat(5000);
    let chunk =
        |size: &str| format!("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n{size}\nhello\n0\n\n");
    let responses = RESPONSES.iter().map(|(text, outcome)| ((*text).to_owned(), *outcome));
    let sizes = SIZES.iter().map(|(size, outcome)| (chunk(size), *outcome));
    responses.chain(sizes).chain([(chunk(&(long + "5")), Invalid)]).collect()
}

/// Responds to a request for `/N` with the N-th of these responses, and to others with the request
/// that came before on the same connection.
fn site(over: Over, rows: Vec<(Vec<u8>, Outcome)>) -> Site {
    Site::start(over, move |mut peer| {
        let mut before = String::new();
        while let Some(request) = peer.request() {
            let number = request.line.rsplit('/').next().unwrap().parse::<usize>();
            let Ok(number) = number else {
                peer.respond(&response("200 OK", "", &before));
                continue;
            };
            let (bytes, outcome) = &rows[number];
            peer.respond(bytes);
            if matches!(outcome, UntilClose(_) | Truncated) {
                peer.close();
                return peer.drain();
            }
            before = request.line;
        }
    })
}

/// The status and the content of a response, or `None` if the exchange failed.
fn call(session: &Session, method: &str, path: &str, what: &str) -> Option<(u16, String)> {
    let result = match method {
        "GET" => session.get(path),
        _ => session.post(path, "text/plain", "create"),
    };
    let whole =
        result.and_then(|response| Ok((response.status(), response.limit(u64::MAX).text()?)));
    match whole {
        Ok(whole) => Some(whole),
        Err(error) if error.kind() == ErrorKind::Status => {
            let content = error.content().unwrap().to_vec();
            Some((error.status().unwrap(), String::from_utf8(content).unwrap()))
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Exchange, "{what}: {error}");
            assert!(error.may_have_executed(), "{what}: {error}");
            None
        }
    }
}

/// The status of the last head.
fn status(text: &str) -> u16 {
    let mut words = text.rsplit("HTTP/").next().unwrap().split([' ', '\n']);
    words.nth(1).unwrap().parse().unwrap()
}

fn run(over: Over, line_end: &str, method: &str) {
    let rows = rows();
    let bytes = |text: &str| {
        let text = text.replace('\n', line_end);
        text.chars().map(|c| u8::try_from(c).unwrap()).collect()
    };
    let site = site(over, rows.iter().map(|(text, outcome)| (bytes(text), *outcome)).collect());
    for (number, (text, outcome)) in rows.iter().enumerate() {
        let what = format!("{over:?}, {method}: {text:?}");
        let start = Instant::now();
        let got = call(&site.session, method, &format!("/{number}"), &what);
        let expected = match outcome {
            Kept(content) | Closed(content) | UntilClose(content) => Some(*content),
            Invalid | Truncated => None,
        };
        let expected = expected.map(|content| (status(text), content.to_owned()));
        assert_eq!(got, expected, "{what}");
        // A call waits for missing content of a refusal for a quarter of its timeout.
        assert!(start.elapsed() < PATIENCE / 4, "{what}: {:?}", start.elapsed());
        let before = site.session.get("/next").unwrap().text().unwrap();
        let is_kept = before == format!("{method} /{number}");
        assert_eq!(is_kept, matches!(outcome, Kept(_)), "{what}: {before}");
    }
}

#[test]
fn response_ends_where_its_framing_says() {
    for &over in BOTH {
        run(over, "\r\n", "GET");
    }
}

#[test]
fn response_with_bare_line_feeds_ends_where_its_framing_says() {
    run(Over::Plain, "\n", "POST");
}
