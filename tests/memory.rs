//! A response without end costs little memory, whatever it is made of.

use std::io::Write;

use jas_session::{ErrorKind, Response, Session};

#[path = "support/wire/mod.rs"]
mod wire;
use wire::process::peak_memory;
use wire::{
    assert_passes, request, respond, response, session, this_test_alone, trusting, urls, Server,
    PATIENCE,
};

/// The most that a hostile response may cost more than a good one, in KiB.
const MOST: usize = 256 + OTHER_PAGES;

/// The same for the longest head that is accepted, all of which is kept.
const LONGEST_HEAD: usize = 512 + OTHER_PAGES;

/// Where pages of code can't be told apart from the rest, what is counted besides.
const OTHER_PAGES: usize = if cfg!(target_os = "linux") { 0 } else { 1024 };

/// How a response begins, and what follows over and over.
type Row = (&'static str, &'static str);

const OK: &str = "HTTP/1.1 200 OK\r\n";
const LAST_CHUNK: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n";
const CHUNK: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;";
const FIELD: &str = "X-A: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n";

const LONG_FIELDS: [Row; 5] = [
    (OK, FIELD),
    (OK, "X"),
    ("HTTP/1.1 200 ", "O"),
    ("", "HTTP/1.1 100 Continue\r\n\r\n"),
    ("", "X"),
];

const LONG_TRAILERS: [Row; 3] = [(LAST_CHUNK, FIELD), (LAST_CHUNK, "X"), (CHUNK, "X")];

/// Many small chunks, each of which takes a read, while trailers pile up behind them.
const CHUNKS: &str =
    concat!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "CHUNKS0\r\n");

const SHORT_LINES: [Row; 5] = [
    (CHUNKS, ":\n"),
    (OK, "X-A: b\r\n"),
    (OK, ":\n"),
    (LAST_CHUNK, "X-A: b\r\n"),
    (LAST_CHUNK, ":\n"),
];

/// Of a token endpoint.
const TOKENS: [Row; 7] = [
    ("HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", "{"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n", "{"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "8\r\n\"aaaaaa,\r\n"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n{\"x\":", "["),
    ("HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n{", "\"\":{},"),
    ("HTTP/1.1 400 X\r\nServer: x\r\n\r\n{\"error\":\"", "\\n"),
    ("HTTP/1.1 400 X\r\nContent-Length: 65536\r\n\r\n{\"error\":", "{\"a\":"),
];

#[test]
fn long_lines_without_end_cost_little() {
    let test = "long_lines_without_end_cost_little";
    let rows = LONG_FIELDS.iter().chain(&LONG_TRAILERS);
    for_each(test, rows, call_api);
}

#[test]
fn short_lines_without_end_cost_little() {
    let test = "short_lines_without_end_cost_little";
    for_each(test, &SHORT_LINES, call_api);
}

#[test]
fn a_token_response_without_end_costs_little() {
    let test = "a_token_response_without_end_costs_little";
    for_each(test, &TOKENS, |url| {
        let session = Session::new(url, "id", "secret").unwrap();
        let result = session.timeout(PATIENCE).retries(0).access_token();
        let kind = result.unwrap_err().kind();
        let expected = [ErrorKind::InvalidToken, ErrorKind::Denied];
        assert!(expected.contains(&kind), "{kind:?}");
    });
}

#[test]
fn the_longest_head_that_is_accepted_costs_little() {
    let test = "the_longest_head_that_is_accepted_costs_little";
    if !urls().is_empty() {
        return assert_cheap(LONGEST_HEAD, |url| {
            let response = session(url).get("/").unwrap();
            assert!(response.header("x-1022").is_some());
            assert_eq!(response.text().unwrap(), "good");
        });
    }
    let good = Server::start(|stream| {
        let received = request(stream);
        respond(stream, &usual(&received));
        received
    });
    let long = Server::start(|stream| {
        let received = request(stream);
        let field = |i| format!("X-{i}: {}\r\n", "x".repeat(53));
        let fields: Vec<_> = (0..1023).map(field).collect();
        respond(stream, &response("200 OK", &fields.concat(), "good"));
        received
    });
    assert_passes(this_test_alone(test, &[good.url(), long.url()]));
}

// Helpers

fn call_api(url: &str) {
    let result = session(url).get("/").and_then(Response::bytes);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Exchange);
}

/// Runs this test for each row in a child process of its own, so that no call finds memory that
/// another has left.
fn for_each(test: &str, rows: impl IntoIterator<Item = &'static Row>, call: fn(&str)) {
    if !urls().is_empty() {
        return assert_cheap(MOST, call);
    }
    let good = Server::start(|stream| {
        let received = request(stream);
        respond(stream, &usual(&received));
        received
    });
    for row in rows {
        let hostile = Server::start(|stream| without_end(stream, row));
        assert_passes(this_test_alone(test, &[good.url(), hostile.url()]));
    }
}

/// Responses of the usual size: good ones, refusals, trailers.
fn usual(request: &[u8]) -> Vec<u8> {
    let refusal = r#"{"error":"invalid_client","error_description":"no such client"}"#;
    let content = "x".repeat(4096);
    if request.starts_with(b"POST ") {
        return response("400 Bad Request", "", refusal);
    }
    format!("{OK}Transfer-Encoding: chunked\r\n\r\n1000\r\n{content}\r\n0\r\nX-A: b\r\n\r\n")
        .into_bytes()
}

/// In the child: compares what the call costs with what good ones do.
fn assert_cheap(most: usize, call: fn(&str)) {
    let [good, hostile] = &urls()[..] else {
        panic!("a URL is missing");
    };
    let call_good = || {
        let response = session(good).get("/").unwrap();
        assert_eq!(response.text().unwrap().len(), 4096);
        let error = trusting(Session::new(good, "id", "secret").unwrap()).access_token();
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Denied);
    };
    call_good();
    let usual = peak_memory(call_good);
    let cost = peak_memory(|| call(hostile)).saturating_sub(usual);
    println!("costs {cost} KiB");
    assert!(cost <= most, "costs {cost} KiB");
}

/// Writes until the client has had enough.
fn without_end(stream: &mut (impl std::io::Read + Write), (begin, repeated): &Row) -> Vec<u8> {
    let received = request(stream);
    let part = repeated.repeat((16 << 10) / repeated.len());
    let begin = begin.replace("CHUNKS", &"1\r\nx\r\n".repeat(5000));
    let mut result = stream.write_all(begin.as_bytes());
    while result.is_ok() {
        result = stream.write_all(part.as_bytes());
    }
    received
}

/// In children that trust the test's own issuer.
#[cfg(feature = "tls")]
mod encrypted {
    use super::wire::tls::{finish, https, tls, Authority, Days};
    use super::*;

    #[test]
    fn long_fields_without_end_cost_little() {
        let test = "encrypted::long_fields_without_end_cost_little";
        for_each(test, &LONG_FIELDS);
    }

    #[test]
    fn short_lines_and_trailers_without_end_cost_little() {
        let test = "encrypted::short_lines_and_trailers_without_end_cost_little";
        for_each(test, LONG_TRAILERS.iter().chain(&SHORT_LINES));
    }

    fn for_each(test: &str, rows: impl IntoIterator<Item = &'static Row>) {
        if !urls().is_empty() {
            return assert_cheap(MOST, call_api);
        }
        for row in rows {
            let authority = Authority::new();
            let config = authority.config("localhost", Days::Now);
            let good = tls(config.clone(), |stream| {
                let received = request(stream);
                finish(stream, &usual(&received));
                received
            });
            let hostile = tls(config, |stream| without_end(stream, row));
            let child = this_test_alone(test, &[https(&good), https(&hostile)]);
            assert_passes(authority.trusting(child));
        }
    }
}
