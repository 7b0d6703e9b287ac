//! What the session promises over plain HTTP, against servers that keep to no rule.

use std::env;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::{mpsc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Error, ErrorKind, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[path = "support/wire/mod.rs"]
mod wire;
use sandbox::{Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};
use wire::process::IDLE_SOCKETS;
use wire::{
    assert_in_time, assert_nothing_left, assert_passes, held, request, respond, response, session,
    text, this_test_alone, until_closed, urls, Server, LATE, LOOK_FIRST, PATIENCE, TIMEOUT,
};

/// How long a head may be, and how many fields it may have.
const HEAD_LIMIT: usize = 64 * 1024;
const LINE_LIMIT: usize = 1024;
const OVER_LIMIT: &str =
    "the response has more than 64 KiB or 1024 lines of header fields or trailers";
const TRAILERS_OVER_LIMIT: &str =
    "the content has more than 64 KiB or 1024 lines of header fields or trailers";
const NO_HTTP: &str =
    "the response is not HTTP: check the host and the port, and what stands in between";

/// What a token endpoint responds.
const TOKEN: &str = r#"{"access_token":"new","token_type":"Bearer","expires_in":600}"#;

/// Content up to this size is read within a call that may be retried.
const SMALL: usize = 16 * 1024;

// Environment

#[test]
fn minreq_timeout_in_the_environment_changes_nothing() {
    let token = |url: &str, timeout| {
        let session = session(url).timeout(timeout);
        session.invalidate("token");
        session.access_token()
    };
    if let [good, slow, silent] = &urls()[..] {
        assert_eq!(token(good, PATIENCE).unwrap(), "new");
        assert_eq!(token(slow, PATIENCE).unwrap(), "new");
        let before = held();
        let start = Instant::now();
        let error = token(silent, TIMEOUT).unwrap_err();
        assert_in_time(start, &error);
        assert_nothing_left(before, "a silent token endpoint");
        return;
    }
    let good = Server::responding(&response("200 OK", "", TOKEN));
    let slow = Server::start(|stream| {
        let received = request(stream);
        thread::sleep(Duration::from_millis(1200)); // longer than the variable says
        respond(stream, &response("200 OK", "", TOKEN));
        [received, until_closed(stream)].concat()
    });
    let silent = Server::keeping_open(b"");
    let urls = [good.url(), slow.url(), silent.url()];
    let test = "minreq_timeout_in_the_environment_changes_nothing";
    let children: Vec<_> = ["0", "1", "garbage", "", "18446744073709551615"]
        .into_iter()
        .map(|value| {
            let mut child = this_test_alone(test, &urls);
            child.env("MINREQ_TIMEOUT", value);
            thread::spawn(move || assert_passes(child))
        })
        .collect();
    for child in children {
        child.join().unwrap();
    }
}

#[test]
fn proxies_in_the_environment_are_not_used() {
    if let [url] = &urls()[..] {
        let session = session(url);
        session.invalidate("token");
        assert_eq!(session.get("/").unwrap().text().unwrap(), TOKEN);
        return;
    }
    let server = Server::responding(&response("200 OK", "", TOKEN));
    let proxy = Server::responding(&response("200 OK", "", "through a proxy"));
    let mut child = this_test_alone("proxies_in_the_environment_are_not_used", &[server.url()]);
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        child.env(name, proxy.url());
        child.env(name.to_uppercase(), proxy.url());
    }
    assert_passes(child);
    assert_eq!(server.ended().len(), 2);
    assert_eq!(proxy.ended().len(), 0);
}

/// Of Unix only: Windows has no such limit.
#[cfg(unix)]
#[test]
fn a_process_out_of_descriptors_gets_errors_and_no_panic() {
    let test = "a_process_out_of_descriptors_gets_errors_and_no_panic";
    if let [url] = &urls()[..] {
        let refused =
            "too many files are open, and each connection counts as one: raise the limit of \
                       open files, or keep fewer responses that are not read to their end";
        let session = session(url).timeout(TIMEOUT).idle_connections(0);
        let before = held();
        // For a token: a port, both ends of minreq's connection to it, and the connection.
        for (is_token, needed) in [(false, 1), (true, 3)] {
            for free in (0..8).rev() {
                let open = all_descriptors_but(free);
                let result = if is_token {
                    session.invalidate("token");
                    session.invalidate("new");
                    session.access_token()
                } else {
                    let response = session.post("/", "text/plain", "create");
                    response.map(|response| response.text().unwrap())
                };
                drop(open);
                match result {
                    Ok(_) => assert!(free >= needed, "{free}"),
                    Err(error) => {
                        assert!(free < needed, "{free}: {error:?}");
                        assert!(!error.may_have_executed(), "{error:?}");
                        assert!(error.to_string().ends_with(refused), "{error}");
                    }
                }
                assert_nothing_left(before, &format!("{free}, {is_token}"));
            }
        }
        return;
    }
    let server = Server::responding(&response("200 OK", "", TOKEN));
    assert_passes(with_few_descriptors(&this_test_alone(test, &[server.url()])));
}

#[cfg(unix)]
#[test]
fn idle_connections_make_room_for_a_call_without_descriptors() {
    const IDLE: usize = 3;
    let test = "idle_connections_make_room_for_a_call_without_descriptors";
    if let [url, other] = &urls()[..] {
        for is_token in [false, true] {
            // What is idle leads to another origin than the request.
            let session = session(url).token_endpoint(other).unwrap();
            if is_token {
                let session = session.resume("token", PATIENCE).unwrap();
                thread::scope(|scope| {
                    for _ in 0..IDLE {
                        scope.spawn(|| session.get("/").unwrap().text().unwrap());
                    }
                });
                let open = all_descriptors_but(0);
                session.invalidate("token");
                session.access_token().unwrap();
                drop(open);
            } else {
                session.invalidate("token");
                session.access_token().unwrap();
                let open = all_descriptors_but(0);
                session.post("/", "text/plain", "create").unwrap();
                drop(open);
            }
        }
        return;
    }
    // It responds when all of them have arrived, so that each has a connection of its own.
    let together = std::sync::Barrier::new(IDLE);
    let server = Server::start(move |stream| {
        let received = request(stream);
        if received.starts_with(b"GET") {
            together.wait();
        }
        respond(stream, &response("200 OK", "", TOKEN));
        [received, until_closed(stream)].concat()
    });
    let other = Server::keeping_open(&response("200 OK", "", TOKEN));
    let urls = [server.url(), other.url()];
    assert_passes(with_few_descriptors(&this_test_alone(test, &urls)));
}

#[cfg(unix)]
#[test]
fn one_thread_that_reads_and_books_needs_one_descriptor() {
    let test = "one_thread_that_reads_and_books_needs_one_descriptor";
    if let [url] = &urls()[..] {
        let session = session(url).resume("token", PATIENCE).unwrap().retries(0);
        let open = all_descriptors_but(1);
        for _ in 0..20 {
            assert_eq!(session.get("/").unwrap().text().unwrap(), "done");
            let booking = session.post("/", "text/plain", "create");
            assert_eq!(booking.unwrap().text().unwrap(), "done");
        }
        drop(open);
        return;
    }
    let server = Server::start(|stream| {
        let mut received = Vec::new();
        loop {
            let request = request(stream);
            if request.is_empty() {
                return received;
            }
            received.extend(request);
            respond(stream, &response("200 OK", "", "done"));
        }
    });
    assert_passes(with_few_descriptors(&this_test_alone(test, &[server.url()])));
}

/// All descriptors that this process may open, but so many.
#[cfg(unix)]
fn all_descriptors_but(free: usize) -> Vec<std::fs::File> {
    let mut open: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert!(open.len() > 16 && open.len() < 200, "{}", open.len());
    open.truncate(open.len() - free);
    open
}

#[cfg(unix)]
fn with_few_descriptors(alone: &std::process::Command) -> std::process::Command {
    let mut child = std::process::Command::new("sh");
    child.args(["-c", r#"ulimit -n 64; exec "$0" "$@""#]);
    child.arg(alone.get_program()).args(alone.get_args());
    child.envs(alone.get_envs().filter_map(|(name, value)| Some((name, value?))));
    child
}

// Requests

#[test]
fn requests_go_out_to_the_byte() {
    let sandbox = Sandbox::start();
    let session = Session::new(&sandbox.url(), CLIENT_ID, CLIENT_SECRET)
        .and_then(|session| session.api_key(API_KEY))
        .and_then(|session| session.header("X-Trace", "a  b"))
        .unwrap();
    let content = r#"{"shipmentNumber":"S00012345"}"#;
    let _ = session.post("/tracking/v1/shipments", "application/json", content);
    let _ = session.get("/tracking/v1/shipments/S00012345?page=2&x=%20");
    let token = session.access_token().unwrap();

    let host = sandbox.url().replace("http://", "");
    let version = env!("CARGO_PKG_VERSION");
    let sent: Vec<_> = sandbox
        .requests()
        .into_iter()
        .map(|request| request.head + &String::from_utf8(request.content).unwrap())
        .collect();
    let form =
        "grant_type=client_credentials&client_id=parcel+desk%2Beu%26id%3D7%252F%2F%3Aa%3F%23\
         &client_secret=s3cr3t+%2541%2B%26%3D%2F%3A%3B%3F%23%27%3C%3E%40%7E*-._+end";
    let expected = [
        format!(
            "POST /oauth2/token HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n\
             Accept-Encoding: identity\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             User-Agent: jas-session/{version}\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        ),
        format!(
            "POST /tracking/v1/shipments HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer \
             {token}\r\nx-api-key: {API_KEY}\r\nX-Trace: a  b\r\nAccept-Encoding: identity\r\n\
             Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: \
             jas-session/{version}\r\nContent-Length: {}\r\n\r\n{content}",
            content.len()
        ),
        format!(
            "GET /tracking/v1/shipments/S00012345?page=2&x=%20 HTTP/1.1\r\nHost: {host}\r\n\
             Authorization: Bearer {token}\r\nx-api-key: {API_KEY}\r\nX-Trace: a  b\r\n\
             Accept-Encoding: identity\r\nAccept: */*\r\nUser-Agent: jas-session/{version}\r\n\r\n"
        ),
    ];
    assert_eq!(sent, expected);
}

#[test]
fn a_redirect_is_never_followed_and_the_error_names_where_to() {
    let elsewhere = Server::responding(&response("200 OK", "", "stolen"));
    for status in [301, 302, 303, 307, 308] {
        let location = format!("Location: {}/x?y\r\n", elsewhere.url());
        let server = Server::responding(&response(&format!("{status} Moved"), &location, ""));
        let error = session(&server.url()).post("/bookings", "text/plain", "create").unwrap_err();
        let url = server.url();
        assert_eq!(
            error.to_string(),
            format!(
                "POST {url}/bookings: status {status}; it redirects to {}/x, which is never \
                 followed{LOOK_FIRST}",
                elsewhere.url()
            )
        );
        assert_eq!(error.status(), Some(status));

        let error =
            Session::new(&url, "id", "secret").unwrap().retries(0).access_token().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "token request to {url}/oauth2/token: status {status}: no token endpoint is \
                 there: check the base URL, or give the endpoint's own URL with \
                 Session::token_endpoint, or JAS_TOKEN_ENDPOINT; it redirects to {}/x, which is \
                 never followed",
                elsewhere.url()
            )
        );
        assert_eq!(server.ended().len(), 2);
    }
    assert_eq!(elsewhere.ended().len(), 0);
}

// Responses

#[test]
fn a_content_shorter_than_its_length_is_an_unexpected_eof() {
    let server = Server::responding(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort");
    let url = server.url();
    let create = || session(&url).post("/", "text/plain", "create").unwrap();
    let mut response = create();
    let mut content = Vec::new();
    let error = response.read_to_end(&mut content).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(content, b"short");
    let again = response.read(&mut [0; 8]).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::UnexpectedEof);

    // So little content is read within a call that may be retried.
    let get = session(&url).get("/");
    for (result, method) in [(create().bytes(), "POST"), (get.map(|_| vec![]), "GET")] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exchange);
        assert_eq!(
            error.to_string(),
            format!(
                "{method} {url}/: the connection ended before the content was complete (5 of \
                 100 bytes came)"
            )
        );
        assert!(error.may_have_executed());
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn small_content_is_read_within_a_call_that_may_be_retried_and_large_content_is_not() {
    let head = |length| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nx");
    let server = Server::responding(head(SMALL).as_bytes());
    let session = session(&server.url()).retries(1);
    let error = session.get("/").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exchange);
    let error = session.post_idempotent("/", "text/plain", "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exchange);
    let response = session.post("/", "text/plain", "").unwrap();
    assert_eq!(response.bytes().unwrap_err().kind(), ErrorKind::Exchange);
    assert_eq!(server.ended().len(), 5);

    for large in [
        head(SMALL + 1),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{SMALL:x}\r\n{}",
            "x".repeat(SMALL)
        ),
    ] {
        let server = Server::responding(large.as_bytes());
        let response = self::session(&server.url()).retries(1).get("/").unwrap();
        assert_eq!(response.bytes().unwrap_err().kind(), ErrorKind::Exchange);
        assert_eq!(server.ended().len(), 1);
    }
}

/// 4 GiB and 5 bytes: without its upper half, the length of what arrives.
#[test]
fn a_length_that_needs_more_than_32_bits_is_never_a_short_success() {
    let server = Server::responding(b"HTTP/1.1 200 OK\r\nContent-Length: 4294967301\r\n\r\nshort");
    let url = server.url();
    let session = session(&url);
    let mut content = Vec::new();
    let mut response = session.get("/").unwrap();
    assert_eq!(response.content_length(), Some(4_294_967_301));
    let error = response.read_to_end(&mut content);
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(content, b"short");
    let truncated =
        "the connection ended before the content was complete (5 of 4294967301 bytes came)";
    let over = "the content is longer than the limit of 1048576 bytes: raise it with \
                Response::limit, or read it as a stream";
    for (limit, kind, message) in
        [(1 << 20, ErrorKind::Content, over), (u64::MAX, ErrorKind::Exchange, truncated)]
    {
        let error = session.get("/").unwrap().limit(limit).bytes().unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.to_string(), format!("GET {url}/: {message}"));
    }
}

#[test]
fn a_503_is_a_status_and_no_response_is_a_failed_exchange() {
    for nothing in [
        &b""[..],
        b"\r\n\r\n",
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n",
        b"HTTP/1.1\r\nServer: x\r\n\r\n",
        b"HTTP/1.1 OK\r\nServer: x\r\n\r\n",
        b"HTTP/1.1 99999999 OK\r\nServer: x\r\n\r\n",
    ] {
        let server = Server::responding(nothing);
        let error = session(&server.url()).get("/").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exchange, "{nothing:?}");
        assert_eq!(error.status(), None);
        assert!(error.may_have_executed());
    }
    let server = Server::responding(&response("503 Service Unavailable", "", "come back"));
    let error = session(&server.url()).get("/").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Status);
    assert_eq!(error.status(), Some(503));
    assert_eq!(error.content(), Some(&b"come back"[..]));
}

#[test]
fn an_interim_response_is_not_taken_for_the_final_one() {
    for status in [101, 0, 20, 99] {
        let interim = format!("HTTP/1.1 {status} Early\r\nLink: </x>\r\n\r\n");
        let last = response("200 OK", "", "final");
        let server = Server::responding(&[interim.as_bytes(), &last].concat());
        let url = server.url();
        let error = session(&url).get("/").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exchange);
        assert_eq!(
            error.to_string(),
            format!("GET {url}/: the response has a status code (1xx) that is not final")
        );
        assert!(error.may_have_executed());

        // Nor while content is still on its way.
        let server = Server::start(move |stream| {
            let mut begin = [0; 1024];
            stream.read_exact(&mut begin).unwrap();
            respond(stream, interim.as_bytes());
            [&begin[..], &until_closed(stream)].concat()
        });
        let content = vec![b'x'; 8 << 20];
        let error = session(&server.url()).post("/", "text/plain", &content);
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Exchange, None));
        assert!(error.may_have_executed());
    }

    let interim = [100, 102, 103, 199].map(|status| {
        ["", "Link: </x>\r\nContent-Length: 4\r\n"]
            .map(|fields| format!("HTTP/1.1 {status} Early\r\n{fields}\r\n"))
    });
    let interim = interim.concat();
    let all = interim.concat();
    for interim in interim.iter().chain([&all]) {
        let last = response("200 OK", "X-A: b\r\n", "final");
        let server = Server::responding(&[interim.as_bytes(), &last].concat());
        let response = session(&server.url()).get("/").unwrap();
        assert_eq!((response.status(), response.header("link")), (200, None));
        assert_eq!(response.header("x-a"), Some("b"));
        assert_eq!(response.text().unwrap(), "final");
        // Nor is one taken for a final response that is missing.
        let server = Server::responding(interim.as_bytes());
        let url = server.url();
        let error = session(&url).get("/").unwrap_err();
        assert_exchange_failed(
            &error,
            &server,
            "the connection ended before the response was complete",
        );
    }
}

#[test]
fn who_speaks_another_protocol_and_stays_is_told_at_once() {
    let start = Instant::now();
    for greeting in
        [&b"220 mail.example.com ESMTP\r\n"[..], b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP 200", b"\0"]
    {
        let server = Server::keeping_open(greeting);
        let error = session(&server.url()).get("/").unwrap_err();
        assert_exchange_failed(&error, &server, NO_HTTP);
    }
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn the_responses_204_and_304_have_no_content_though_the_server_stays() {
    let start = Instant::now();
    for fields in ["Server: x\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        let head = format!("HTTP/1.1 204 No Content\r\n{fields}\r\n");
        let server = Server::keeping_open(head.as_bytes());
        assert_eq!(text(&server.url()).unwrap(), "");

        let head = format!("HTTP/1.1 304 Not Modified\r\n{fields}\r\n");
        let server = Server::keeping_open(head.as_bytes());
        let error = session(&server.url()).get("/").unwrap_err();
        assert_eq!(error.status(), Some(304));
        assert_eq!(error.content(), Some(&b""[..]));
    }
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn the_content_of_a_server_that_stays_ends_where_its_framing_says() {
    let start = Instant::now();
    for (fields, content) in [
        ("Content-Length: 4\r\n", "good"),
        ("Content-Length: 4\r\nContent-Length: 4\r\n", "good"),
        ("Content-Length: 4, 4\r\n", "good"),
        ("Content-Length: 4,4\r\nContent-Length:4\r\n", "good"),
        ("Transfer-Encoding: Chunked\r\n", "4\r\ngood\r\n0\r\n\r\n"),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 9\r\n",
            "1;x=y\r\ng\r\n3\r\nood\r\n0\r\nX-A: b\r\n\r\n",
        ),
    ] {
        let all = format!("HTTP/1.1 200 OK\r\n{fields}\r\n{content}");
        let server = Server::keeping_open(all.as_bytes());
        assert_eq!(text(&server.url()).unwrap(), "good", "{fields}");
    }
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn framing_that_can_be_read_in_two_ways_is_refused() {
    let length = "the response has a Content-Length that is not a number of 64 bits";
    let lengths = "the response has two different Content-Length fields";
    let coding = "the response has a Transfer-Encoding other than `chunked`";
    for (fields, message) in [
        ("Content-Length: 4\r\nContent-Length: 5\r\n", lengths),
        ("Content-Length: 4, 5\r\n", lengths),
        ("Content-Length: 4 4\r\n", length),
        ("Content-Length: +4\r\n", length),
        ("Content-Length: -4\r\n", length),
        ("Content-Length: 0x4\r\n", length),
        ("Content-Length: 18446744073709551616\r\n", length),
        ("Transfer-Encoding: gzip, chunked\r\n", coding),
        ("Transfer-Encoding: gzip\r\n", coding),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", coding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", coding),
        ("Transfer-Encoding: identity\r\nContent-Length: 4\r\n", coding),
    ] {
        let all = format!("HTTP/1.1 200 OK\r\n{fields}\r\n4\r\ngood\r\n0\r\n\r\n");
        let server = Server::responding(all.as_bytes());
        let url = server.url();
        let error = session(&url).get("/").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exchange);
        assert_eq!(error.to_string(), format!("GET {url}/: {message}"));
        assert!(error.may_have_executed());
    }
}

#[test]
fn field_values_are_trimmed_and_names_match_in_any_case() {
    let all =
        "HTTP/1.1 200 OK\r\nX-Trace: \t a  b \t\r\nx-trace: second\r\nContent-Length :  4 \r\n\
         \r\ngood";
    let server = Server::responding(all.as_bytes());
    let response = session(&server.url()).get("/").unwrap();
    assert_eq!(response.header("X-TRACE"), Some("a  b"));
    assert_eq!(response.header("content-length"), Some("4"));
    assert_eq!(response.header("trace"), None);
    assert_eq!(response.text().unwrap(), "good");

    // What is not UTF-8 is ISO 8859-1.
    let all = b"HTTP/1.1 200 Voil\xe0\r\nX-A: \xff\r\nX-B: \xc3\xbf\r\nContent-Length: 0\r\n\r\n";
    let server = Server::responding(all);
    let response = session(&server.url()).get("/").unwrap();
    assert_eq!(response.header("x-a"), Some("\u{ff}"));
    assert_eq!(response.header("x-b"), Some("\u{ff}"));

    let name = "the response has a header field without a valid name";
    let version = "the response has a version other than HTTP/1";
    for (begin, message) in [
        ("HTTP/1.1 200 OK\r\nno colon\r\n", name),
        ("HTTP/1.1 200 OK\r\nContent-Length\x0b: 4\r\n", name),
        ("HTTP/1.1 200 OK\r\n: no name\r\n", name),
        ("HTTP/2 200 OK\r\nContent-Length: 4\r\n", version),
        ("HTTP/0.9 200 OK\r\nContent-Length: 4\r\n", version),
        ("ICY 200 OK\r\nContent-Length: 4\r\n", NO_HTTP),
    ] {
        let server = Server::responding(format!("{begin}\r\ngood").as_bytes());
        let error = session(&server.url()).get("/").unwrap_err();
        assert_exchange_failed(&error, &server, message);
    }
}

// Limits

#[test]
fn heads_pass_up_to_the_limit_and_not_a_byte_further() {
    // Bare line feeds, long lines and short ones; minreq's own cap stood at 8192.
    let near = |limit: usize| limit - 3..limit + 3;
    let lengths: Vec<_> = near(8192).chain(near(HEAD_LIMIT)).collect();
    let calls: Vec<_> = ["\r\n", "\n"]
        .into_iter()
        .flat_map(|line_end| lengths.iter().map(move |length| (line_end, *length)))
        .flat_map(|(line_end, length)| {
            [80, length - 160].map(|line| head_of(length, line_end, line))
        })
        .chain([LINE_LIMIT, LINE_LIMIT + 1].map(|fields| {
            let fields = "a:\n".repeat(fields);
            format!("HTTP/1.1 200 OK\n{fields}\n")
        }))
        .map(|head| {
            thread::spawn(move || {
                let content = "content ".repeat(8192);
                let server = Server::responding(&[head.as_bytes(), content.as_bytes()].concat());
                let result = text(&server.url());
                // The first line, and the empty one.
                if head.len() <= HEAD_LIMIT && head.lines().count() <= LINE_LIMIT + 2 {
                    assert_eq!(result.unwrap(), content, "{}", head.len());
                } else {
                    assert_exchange_failed(&result.unwrap_err(), &server, OVER_LIMIT);
                }
            })
        })
        .collect();
    for call in calls {
        call.join().unwrap();
    }
}

#[test]
fn a_head_or_trailers_without_end_are_given_up() {
    let head = b"HTTP/1.1 200 OK\r\n".to_vec();
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n";
    let calls = [
        (head.clone(), "X-A: b\r\n", OVER_LIMIT),
        (head, "X", OVER_LIMIT),
        (b"HTTP/1.1 200 ".to_vec(), "X", OVER_LIMIT),
        (Vec::new(), "HTTP/1.1 100 Continue\r\n\r\n", OVER_LIMIT),
        (Vec::new(), "X", NO_HTTP),
        (chunked.to_vec(), "X-A: b\r\n", TRAILERS_OVER_LIMIT),
        (chunked.to_vec(), "X", TRAILERS_OVER_LIMIT),
    ]
    .map(|(begin, repeated, message)| {
        thread::spawn(move || {
            let server = Server::start(move |stream| {
                let received = request(stream);
                respond(stream, &begin);
                let part = repeated.repeat(1024);
                let mut sent = 0;
                while let Ok(n) = stream.write(part.as_bytes()) {
                    sent += n;
                }
                // What the sockets' buffers took. If the client read on, there would be no end.
                assert!(sent < 64 << 20, "{sent}");
                received
            });
            let error = text(&server.url()).unwrap_err();
            assert_exchange_failed(&error, &server, message);
        })
    });
    for call in calls {
        call.join().unwrap();
    }
}

#[test]
fn content_of_exactly_the_limit_is_accepted() {
    const DEFAULT: usize = 1024 * 1024;
    let framings = [
        |content: &str| response("200 OK", "", content),
        |content: &str| format!("HTTP/1.1 200 OK\r\nServer: x\r\n\r\n{content}").into_bytes(),
        |content: &str| {
            let length = content.len();
            let chunk = match length {
                0 => String::new(),
                _ => format!("{length:x}\r\n{content}\r\n"),
            };
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked";
            format!("{head}\r\n\r\n{chunk}0\r\n\r\n").into_bytes()
        },
    ];
    for framed in framings {
        for (limit, length) in [
            (None, DEFAULT),
            (None, DEFAULT + 1),
            (Some(5), 5),
            (Some(5), 6),
            (Some(0), 0),
            (Some(0), 1),
            (Some(u64::MAX), DEFAULT + 1),
        ] {
            let server = Server::responding(&framed(&"x".repeat(length)));
            let url = server.url();
            let response = session(&url).get("/").unwrap();
            let response = match limit {
                Some(limit) => response.limit(limit),
                None => response,
            };
            let limit = limit.unwrap_or(DEFAULT as u64);
            let result = response.bytes();
            if length as u64 <= limit {
                assert_eq!(result.unwrap().len(), length);
                continue;
            }
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Content);
            assert_eq!(
                error.to_string(),
                format!(
                    "GET {url}/: the content is longer than the limit of {limit} bytes: raise it \
                     with Response::limit, or read it as a stream"
                )
            );
            assert!(error.may_have_executed());
        }
    }
}

// Endings

#[test]
fn a_reset_inside_content_is_never_a_short_success() {
    for fields in ["Server: x", "Transfer-Encoding: chunked", "Content-Length: 99"] {
        let begin = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n4\r\nhalf\r\n");
        let server = Server::start(move |stream| {
            // What is left unread makes the close a reset.
            let mut first = [0];
            stream.read_exact(&mut first).unwrap();
            stream.peek(&mut [0]).unwrap();
            respond(stream, begin.as_bytes());
            first.to_vec()
        });
        for _ in 0..20 {
            let error = text(&server.url()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exchange, "{fields}: {error:?}");
            assert!(error.may_have_executed());
        }
    }
}

#[test]
fn an_early_refusal_of_a_large_content_is_seen() {
    let refusal = response("413 Content Too Large", "", "at most 1 MB");
    let server = Server::start(move |stream| {
        let mut begin = [0; 1024];
        stream.read_exact(&mut begin).unwrap();
        respond(stream, &refusal);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = until_closed(stream);
        begin.to_vec()
    });
    let content = vec![b'x'; 8 << 20];
    for _ in 0..5 {
        let error = session(&server.url()).post("/bookings", "text/plain", &content).unwrap_err();
        assert_eq!(error.status(), Some(413), "{error:?}");
        assert_eq!(error.content(), Some(&b"at most 1 MB"[..]));
        assert!(!error.may_have_executed());
    }
}

#[test]
fn a_long_response_that_comes_before_a_slow_server_has_read_all_is_whole() {
    let long = "x".repeat(60_000);
    let good = response("201 Created", "", &long);
    let server = Server::start(move |stream| {
        let mut begin = [0; 1024];
        stream.read_exact(&mut begin).unwrap();
        stream.write_all(&good).unwrap();
        // Longer than a head that has reached the limit may take.
        thread::sleep(Duration::from_millis(1200));
        let _ = until_closed(stream);
        begin.to_vec()
    });
    let content = vec![b'x'; 16 << 20];
    let response = session(&server.url()).post("/bookings", "text/plain", &content).unwrap();
    assert_eq!((response.status(), response.text().unwrap()), (201, long));
}

#[test]
fn an_early_refusal_by_a_server_that_closes_is_seen_or_in_doubt() {
    let refusal = response("413 Content Too Large", "", "at most 1 MB");
    let server = Server::start(move |stream| {
        let mut begin = [0; 1024];
        stream.read_exact(&mut begin).unwrap();
        respond(stream, &refusal);
        begin.to_vec()
    });
    let content = vec![b'x'; 8 << 20];
    for _ in 0..20 {
        let error = session(&server.url()).post("/bookings", "text/plain", &content).unwrap_err();
        if error.status().is_none() {
            assert_eq!(error.kind(), ErrorKind::Exchange);
            assert!(error.may_have_executed());
        } else {
            assert_eq!(error.status(), Some(413));
        }
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "one scene: the calls, and the servers of each")]
fn calls_end_in_time_and_leave_nothing_behind() {
    const SIZE: usize = 32 << 20;
    let test = "calls_end_in_time_and_leave_nothing_behind";
    if let [good, rest @ ..] = &urls()[..] {
        let content = vec![b'x'; SIZE];
        assert_eq!(text(good).unwrap(), "good");
        let before = held();
        let [silent, half_head, drip, half_content, unread, no_token, forgotten] = rest else {
            panic!("a URL is missing");
        };
        // Only an idle connection stays.
        let session = session(good);
        let none = session.clone().idle_connections(0);
        assert_eq!(none.get("/").unwrap().text().unwrap(), "good");
        assert_nothing_left(before, "a session that keeps no connection");
        assert_eq!(session.get("/").unwrap().text().unwrap(), "good");
        assert_nothing_left((before.0, before.1 + IDLE_SOCKETS), "one that does");
        drop((session, none));
        assert_nothing_left(before, "the last clone");

        let session = |url: &str| wire::session(url).timeout(TIMEOUT);
        for url in [silent, half_head, drip] {
            for is_post in [false, true] {
                let session = session(url);
                let start = Instant::now();
                let (method, result, advice) = if is_post {
                    ("POST", session.post("/", "text/plain", "create"), LOOK_FIRST)
                } else {
                    ("GET", session.get("/"), "")
                };
                let error = result.unwrap_err();
                assert_in_time(start, &error);
                assert_nothing_left(before, url);
                assert_eq!(
                    error.to_string(),
                    format!(
                        "{method} {url}/: the timeout of 300ms passed before the response was \
                         complete{advice}"
                    )
                );
                assert!(error.may_have_executed());
            }
        }

        let half = session(half_content);
        for is_post in [false, true] {
            let start = Instant::now();
            let error = if is_post {
                let response = half.post("/", "text/plain", "create");
                response.unwrap().bytes().unwrap_err()
            } else {
                half.get("/").unwrap_err()
            };
            assert_in_time(start, &error);
            assert_nothing_left(before, "half a content");
            assert_eq!(
                error.to_string(),
                format!(
                    "{} {half_content}/: the timeout of 300ms passed before the content was complete (4 of 8 \
                     bytes came)",
                    if is_post { "POST" } else { "GET" }
                )
            );
            assert!(error.may_have_executed());
        }

        let start = Instant::now();
        let error = session(unread).post("/", "text/plain", &content).unwrap_err();
        assert_in_time(start, &error);
        assert_nothing_left(before, "a content that nobody reads");
        assert!(error.may_have_executed());

        let start = Instant::now();
        let error = Session::new(no_token, "id", "secret")
            .unwrap()
            .timeout(TIMEOUT)
            .post("/", "text/plain", "create")
            .unwrap_err();
        assert_in_time(start, &error);
        assert_nothing_left(before, "a silent token endpoint");
        assert!(!error.may_have_executed());

        // Dropped unread, and kept for longer than its timeout.
        let session = session(forgotten);
        drop(session.get("/").unwrap());
        assert_nothing_left(before, "a response that was dropped");
        let start = Instant::now();
        let mut response = session.get("/").unwrap();
        assert_nothing_left(
            (before.0, before.1 + IDLE_SOCKETS),
            "a response that is held has no threads",
        );
        assert!(start.elapsed() < TIMEOUT + LATE);
        thread::sleep(TIMEOUT.saturating_sub(start.elapsed()));
        let error = io::copy(&mut response, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(response);
        assert_nothing_left(before, "a response that was held");
        return;
    }
    let good = Server::keeping_open(&response("200 OK", "", "good"));
    let silent = Server::keeping_open(b"");
    let half_head = Server::keeping_open(b"HTTP/1.1 200 OK\r\nContent-Le");
    let drip = Server::start(|stream| {
        let received = request(stream);
        let bytes = b"HTTP/1.1 200 OK\r\nX-A: ".iter().chain([&b'x']);
        for byte in bytes.chain(std::iter::repeat(&b'x')) {
            if stream.write_all(&[*byte]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        [received, until_closed(stream)].concat()
    });
    let half_content = Server::keeping_open(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
    // Reads nothing while the call lasts. The kernel does not report a close behind unread bytes, so
    // the end of the child does.
    let (child_is_running, end_of_child) = mpsc::channel::<()>();
    let end_of_child = Mutex::new(end_of_child);
    let unread = Server::start(move |stream| {
        let mut begin = [0; 1024];
        stream.read_exact(&mut begin).unwrap();
        let _ = end_of_child.lock().unwrap().recv_timeout(PATIENCE);
        [&begin[..], &until_closed(stream)].concat()
    });
    let no_token = Server::keeping_open(b"");
    let forgotten = Server::start(|stream| {
        let received = request(stream);
        respond(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let part = [b'x'; 4096];
        while stream.write_all(&part).is_ok() {}
        received
    });
    let servers =
        [&good, &silent, &half_head, &drip, &half_content, &unread, &no_token, &forgotten];
    assert_passes(this_test_alone(test, &servers.map(Server::url)));
    drop(child_is_running);

    // One connection for each call, and one request on each.
    for server in [silent, half_head, drip] {
        let received = server.ended();
        let requests = received.iter().map(|bytes| String::from_utf8_lossy(bytes));
        let begins: Vec<_> = requests
            .map(|request| (request.matches(" HTTP/1.1\r\n").count(), request.ends_with("create")))
            .collect();
        assert_eq!(begins, [(1, false), (1, true)]);
    }
    assert_eq!(half_content.ended().len(), 2);
    let received = unread.ended();
    assert_eq!(received.len(), 1);
    assert!(received[0].len() < SIZE, "{}", received[0].len());
    assert_eq!(no_token.ended().len(), 1);
}

// Helpers

/// A head of this length with lines of about `line` bytes; the content ends with the connection.
fn head_of(length: usize, line_end: &str, line: usize) -> String {
    let mut head = format!("HTTP/1.1 200 OK{line_end}");
    let end = length - line_end.len();
    while head.len() < end {
        let left = end - head.len();
        let line = if left < 2 * line { left } else { line };
        let value = "x".repeat(line - "X-A: ".len() - line_end.len());
        head.extend(["X-A: ", &value, line_end]);
    }
    head += line_end;
    assert_eq!(head.len(), length);
    head
}

fn assert_exchange_failed(error: &Error, server: &Server, message: &str) {
    assert_eq!(error.kind(), ErrorKind::Exchange);
    let url = server.url();
    assert_eq!(error.to_string(), format!("GET {url}/: {message}"));
    assert!(error.may_have_executed());
}

#[test]
fn a_host_may_be_an_ipv6_address() {
    let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
        return;
    };
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let received = request(&mut stream);
        stream.write_all(&response("200 OK", "", "good")).unwrap();
        received
    });
    assert_eq!(text(&format!("http://{address}")).unwrap(), "good");
    let received = String::from_utf8(server.join().unwrap()).unwrap();
    assert!(received.starts_with(&format!("GET / HTTP/1.1\r\nHost: {address}\r\n")), "{received}");
}
