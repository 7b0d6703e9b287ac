//! How long heads, trailers and content may be.

use jas_session::{Error, ErrorKind, Response, Session};

#[path = "support/wire/mod.rs"]
mod wire;
use wire::{request, respond, response, session, Server};

const HEAD_LIMIT: usize = 64 * 1024;
const LINE_LIMIT: usize = 1024;

/// The default of `Response::limit`.
const CONTENT_LIMIT: usize = 1024 * 1024;

/// Content up to this size is read within a call that may be retried.
const SMALL: usize = 16 * 1024;

type Call = fn(&Session) -> Result<Response, Error>;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Responds to a request for `/N` with the N-th of these responses, and closes.
fn server(responses: Vec<Vec<u8>>) -> Server {
    Server::start(move |stream| {
        let received = request(stream);
        let text = String::from_utf8_lossy(&received);
        let number = text.split([' ', '/']).nth(2).unwrap().parse::<usize>().unwrap();
        respond(stream, &responses[number]);
        received
    })
}

/// The first line, field lines of about `line` bytes, and the empty line: so many bytes.
fn head(length: usize, line_end: &str, line: usize) -> String {
    let mut head = format!("HTTP/1.1 200 OK{line_end}");
    let end = length - line_end.len();
    while head.len() < end {
        let left = end - head.len();
        let line = if left < 2 * line { left } else { line };
        let value = "x".repeat(line - "X-A: ".len() - line_end.len());
        head.extend(["X-A: ", &value, line_end]);
    }
    head + line_end
}

#[test]
fn heads_pass_up_to_their_limits() {
    // Lines that count for nothing: they are content.
    let content = "content\n".repeat(3 * LINE_LIMIT);
    let mut heads = Vec::new();
    for line_end in ["\r\n", "\n"] {
        for length in [HEAD_LIMIT - 1, HEAD_LIMIT, HEAD_LIMIT + 1] {
            for line in [80, 8192, length - 160] {
                heads.push((head(length, line_end, line), length <= HEAD_LIMIT));
            }
        }
    }
    for fields in [LINE_LIMIT, LINE_LIMIT + 1] {
        let head = format!("HTTP/1.1 200 OK\n{}\n", "a:\n".repeat(fields));
        heads.push((head, fields <= LINE_LIMIT));
    }
    let server = server(heads.iter().map(|(head, _)| (head.clone() + &content).into()).collect());
    for (number, (head, passes)) in heads.iter().enumerate() {
        let result = session(&server.url()).get(&format!("/{number}")).and_then(Response::text);
        let what = format!("{} bytes, {} lines", head.len(), head.lines().count());
        match result {
            Ok(text) => assert!(*passes && text == content, "{what}"),
            Err(error) => {
                assert!(!passes, "{what}: {error}");
                assert_eq!(error.kind(), ErrorKind::Exchange, "{what}: {error}");
            }
        }
    }
}

#[test]
fn trailers_pass_up_to_their_limits() {
    let lines = |lines: usize| "a:\n".repeat(lines);
    // With the line end of the last line.
    let bytes = |length: usize| format!("a: {}\n", "b".repeat(length - "a: \n\n".len()));
    let trailers = [
        (lines(LINE_LIMIT), true),
        (lines(LINE_LIMIT + 1), false),
        (bytes(HEAD_LIMIT), true),
        (bytes(HEAD_LIMIT + 1), false),
    ];
    let all = |trailers: &str| format!("{CHUNKED}4\ngood\n0\n{trailers}\n").into_bytes();
    let server = server(trailers.iter().map(|(trailers, _)| all(trailers)).collect());
    for (number, (_, passes)) in trailers.iter().enumerate() {
        let result = session(&server.url()).get(&format!("/{number}")).and_then(Response::text);
        match result {
            Ok(text) => assert!(*passes && text == "good", "{number}"),
            Err(error) => {
                assert!(!passes, "{number}: {error}");
                assert_eq!(error.kind(), ErrorKind::Exchange, "{number}: {error}");
            }
        }
    }
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
            (None, CONTENT_LIMIT),
            (None, CONTENT_LIMIT + 1),
            (Some(5), 5),
            (Some(5), 6),
            (Some(0), 0),
            (Some(0), 1),
            (Some(u64::MAX), CONTENT_LIMIT + 1),
        ] {
            let server = Server::responding(&framed(&"x".repeat(length)));
            let response = session(&server.url()).get("/").unwrap();
            let response = match limit {
                Some(limit) => response.limit(limit),
                None => response,
            };
            let passes = length as u64 <= limit.unwrap_or(CONTENT_LIMIT as u64);
            match response.bytes() {
                Ok(content) => assert!(passes && content.len() == length, "{limit:?}, {length}"),
                Err(error) => {
                    assert!(!passes, "{limit:?}, {length}: {error}");
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
