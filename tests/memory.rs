//! A response without end costs little memory, whatever it is made of.

use std::io::Write;

use jas_session::{ErrorKind, Response, Session};

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{trusted_by, trusting, Peer, Site, BOTH};
use wire::process::peak_memory;
use wire::{assert_passes, response, session_without_token, this_test_alone, urls, with_token};

/// How much more than a good response a hostile one may cost, in KiB.
const MOST: usize = 256 + OTHER_PAGES;

/// The same for the longest head that is accepted, all of which is kept.
const LONGEST_HEAD: usize = 512 + OTHER_PAGES;

/// Other systems than Linux count pages of code, too.
const OTHER_PAGES: usize = if cfg!(target_os = "linux") { 0 } else { 1024 };

/// How a response begins, and what is repeated after that without end.
type Row = (&'static str, &'static str);

const OK: &str = "HTTP/1.1 200 OK\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const LAST_CHUNK: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n";
const FIELD: &str = "X-A: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n";

/// Many small chunks, each of which takes a read, while trailers arrive.
const MANY_CHUNKS: &str =
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n[x 5000]0\r\n";

const LINES: &[Row] = &[
    (OK, FIELD),
    (OK, "X"),
    ("HTTP/1.1 200 ", "O"),
    ("", "HTTP/1.1 100 Continue\r\n\r\n"),
    ("", "X"),
    (LAST_CHUNK, FIELD),
    (LAST_CHUNK, "X"),
    (CHUNKED, "5;"),
    (MANY_CHUNKS, ":\n"),
    (OK, "X-A: b\r\n"),
    (OK, ":\n"),
    (LAST_CHUNK, "X-A: b\r\n"),
    (LAST_CHUNK, ":\n"),
];

const TOKENS: &[Row] = &[
    ("HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", "{"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n", "{"),
    (CHUNKED, "8\r\n\"aaaaaa,\r\n"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n{\"x\":", "["),
    ("HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n{", "\"\":{},"),
    ("HTTP/1.1 400 X\r\nServer: x\r\n\r\n{\"error\":\"", "\\n"),
    ("HTTP/1.1 400 X\r\nContent-Length: 65536\r\n\r\n{\"error\":", "{\"a\":"),
];

fn session(url: &str) -> Session {
    trusting(session_without_token(url))
}

#[test]
fn lines_without_end_cost_little() {
    for_each("lines_without_end_cost_little", LINES, |url| {
        let result = with_token(session(url)).get("/").and_then(Response::bytes);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Exchange);
    });
}

#[test]
fn token_response_without_end_costs_little() {
    for_each("token_response_without_end_costs_little", TOKENS, |url| {
        let kind = session(url).access_token().unwrap_err().kind();
        assert!([ErrorKind::InvalidToken, ErrorKind::Denied].contains(&kind), "{kind:?}");
    });
}

#[test]
fn longest_head_that_is_accepted_costs_little() {
    let test = "longest_head_that_is_accepted_costs_little";
    let field = |i| format!("X-{i}: {}\r\n", "x".repeat(53));
    let fields: Vec<_> = (0..1023).map(field).collect();
    let longest = response("200 OK", &fields.concat(), "good");
    let serve = move |peer: &mut Peer, _| peer.respond(&longest);
    compare(test, LONGEST_HEAD, 1, serve, |url| {
        let response = with_token(session(url)).get("/").unwrap();
        assert!(response.header("x-1022").is_some());
        assert_eq!(response.text().unwrap(), "good");
    });
}

fn for_each(test: &str, rows: &'static [Row], call: fn(&str)) {
    let serve = |peer: &mut Peer, number: usize| {
        let (begin, repeated) = rows[number];
        let begin = begin.replace("[x 5000]", &"1\r\nx\r\n".repeat(4999));
        let part = repeated.repeat((16 << 10) / repeated.len());
        let mut result = peer.write_all(begin.as_bytes());
        // Until the client closes.
        while result.is_ok() {
            result = peer.write_all(part.as_bytes());
        }
    };
    compare(test, MOST, rows.len(), serve, call);
}

/// Runs this test in a child process for each number of a hostile response, so that no call finds
/// memory that another has left. A child's call may cost `most` more than good ones.
fn compare(
    test: &str, most: usize, rows: usize,
    serve: impl Fn(&mut Peer, usize) + Clone + Send + Sync + 'static, call: fn(&str),
) {
    if let [good, hostile] = &urls()[..] {
        call_good(good);
        let usual = peak_memory(|| call_good(good));
        let cost = peak_memory(|| call(hostile)).saturating_sub(usual);
        println!("costs {cost} KiB");
        assert!(cost <= most, "costs {cost} KiB");
        return;
    }
    for &over in BOTH {
        let serve = serve.clone();
        let site = Site::start(over, move |mut peer| {
            while let Some(request) = peer.request() {
                let target = request.line.split('/').nth(1).unwrap();
                match target.parse() {
                    Ok(number) => return serve(&mut peer, number),
                    Err(_) => peer.respond(&usual(&request.line)),
                }
            }
        });
        for number in 0..rows {
            let urls = [site.url(), format!("{}/{number}", site.url())];
            assert_passes(trusted_by(this_test_alone(test, &urls)));
        }
    }
}

/// A response of the usual size: a refusal of a token, or content with trailers.
fn usual(line: &str) -> Vec<u8> {
    if line.starts_with("POST ") {
        let refusal = r#"{"error":"invalid_client","error_description":"no such client"}"#;
        return response("400 Bad Request", "", refusal);
    }
    let content = "x".repeat(4096);
    format!("{CHUNKED}1000\r\n{content}\r\n0\r\nX-A: b\r\n\r\n").into_bytes()
}

fn call_good(url: &str) {
    let response = with_token(session(url)).get("/").unwrap();
    assert_eq!(response.text().unwrap().len(), 4096);
    let error = session(url).access_token().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}
