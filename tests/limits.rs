//! How long heads, trailers and content may be.

use jas_session::{Error, ErrorKind, Response, Session};

#[path = "support/wire/mod.rs"]
mod wire;
use wire::{request, respond, response, session, Server};

const HEAD_LIMIT: usize = 64 * 1024;
const LINE_LIMIT: usize = 1024;

/// The default of `Response::limit`.
const CONTENT_LIMIT: u64 = 1024 * 1024;

/// Content up to this size is read within a call that may be retried.
const SMALL: usize = 16 * 1024;

type Call = fn(&Session) -> Result<Response, Error>;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Makes a call for each of these responses: it passes with this content, or is an error.
fn assert_pass(rows: &[(String, bool)], content: &str) {
    let responses: Vec<_> = rows.iter().map(|(response, _)| response.clone()).collect();
    let server = Server::start(move |stream| {
        let received = request(stream);
        let text = String::from_utf8_lossy(&received);
        let number = text.split([' ', '/']).nth(2).unwrap().parse::<usize>().unwrap();
        respond(stream, responses[number].as_bytes());
        received
    });
    for (number, (response, passes)) in rows.iter().enumerate() {
        let result = session(&server.url()).get(&format!("/{number}")).and_then(Response::text);
        let what = format!("{number}: {response:.80}");
        match result {
            Ok(text) => assert!(*passes && text == content, "{what}"),
            Err(error) => {
                assert!(!passes, "{what}: {error}");
                assert_eq!(error.kind(), ErrorKind::Exchange, "{what}: {error}");
            }
        }
    }
}

/// Field lines of this length with the empty line: `short` short ones and a longer one.
fn lines(begin: &str, short: usize, length: usize, line_end: &str) -> String {
    let begin = format!("{begin}{}X-A: ", format!("X-A: b{line_end}").repeat(short));
    let rest = "x".repeat(length - begin.len() - 2 * line_end.len());
    format!("{begin}{rest}{line_end}{line_end}")
}

#[test]
fn head_passes_up_to_its_limits() {
    // Lines of content don't count.
    let content = "content\n".repeat(3 * LINE_LIMIT);
    let mut rows = Vec::new();
    for line_end in ["\r\n", "\n"] {
        let begin = format!("HTTP/1.1 200 OK{line_end}");
        for length in [HEAD_LIMIT - 1, HEAD_LIMIT, HEAD_LIMIT + 1] {
            for short in [0, 1000] {
                let head = lines(&begin, short, length, line_end);
                rows.push((head + &content, length <= HEAD_LIMIT));
            }
        }
        for count in [LINE_LIMIT, LINE_LIMIT + 1] {
            let head = lines(&begin, count - 1, HEAD_LIMIT / 2, line_end);
            rows.push((head + &content, count <= LINE_LIMIT));
        }
    }
    assert_pass(&rows, &content);
}

#[test]
fn trailers_pass_up_to_their_limits() {
    let rows = [
        (LINE_LIMIT - 1, HEAD_LIMIT / 2, true),
        (LINE_LIMIT, HEAD_LIMIT / 2, false),
        (0, HEAD_LIMIT, true),
        (0, HEAD_LIMIT + 1, false),
    ]
    .map(|(short, length, passes)| {
        let trailers = lines("", short, length, "\r\n");
        (format!("{CHUNKED}4\r\ngood\r\n0\r\n{trailers}"), passes)
    });
    assert_pass(&rows, "good");
}

#[test]
fn content_passes_up_to_its_limit() {
    let framings = [
        |content: &str| response("200 OK", "", content),
        |content: &str| format!("HTTP/1.1 200 OK\r\nServer: x\r\n\r\n{content}").into_bytes(),
        |content: &str| match content.len() {
            0 => format!("{CHUNKED}0\r\n\r\n").into_bytes(),
            length => format!("{CHUNKED}{length:x}\r\n{content}\r\n0\r\n\r\n").into_bytes(),
        },
    ];
    for framed in framings {
        for (limit, length) in [
            (CONTENT_LIMIT, CONTENT_LIMIT),
            (CONTENT_LIMIT, CONTENT_LIMIT + 1),
            (5, 5),
            (5, 6),
            (0, 0),
            (0, 1),
            (u64::MAX, CONTENT_LIMIT + 1),
        ] {
            let content = "x".repeat(usize::try_from(length).unwrap());
            let server = Server::responding(&framed(&content));
            let mut response = session(&server.url()).get("/").unwrap();
            if limit != CONTENT_LIMIT {
                response = response.limit(limit);
            }
            let passes = length <= limit;
            match response.bytes() {
                Ok(bytes) => assert!(passes && bytes == content.as_bytes(), "{limit}, {length}"),
                Err(error) => {
                    assert!(!passes, "{limit}, {length}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Content);
                    assert!(error.may_have_executed());
                }
            }
        }
    }
}

#[test]
fn content_length_over_the_limit_is_an_error() {
    let server = Server::responding(b"HTTP/1.1 200 OK\r\nContent-Length: 4294967301\r\n\r\nshort");
    let response = session(&server.url()).get("/").unwrap();
    assert_eq!(response.content_length(), Some(4_294_967_301));
    assert_eq!(response.bytes().unwrap_err().kind(), ErrorKind::Content);
}

#[test]
fn only_small_content_is_read_within_a_call_that_is_retried() {
    let head = |length| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nx");
    let get = |session: &Session| session.get("/");
    let query = |session: &Session| session.post_idempotent("/", "text/plain", "");
    let post = |session: &Session| session.post("/", "text/plain", "");
    let chunk = format!("{CHUNKED}{SMALL:x}\r\n{}", "x".repeat(SMALL));
    for (truncated, call, requests) in [
        (head(SMALL), get as Call, 2),
        (head(SMALL), query, 2),
        (head(SMALL), post, 1),
        (head(SMALL + 1), get, 1),
        (chunk, get, 1),
    ] {
        let server = Server::responding(truncated.as_bytes());
        let error = call(&session(&server.url()).retries(1)).and_then(Response::bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exchange);
        assert_eq!(server.ended().len(), requests, "{truncated:.80}");
    }
}
