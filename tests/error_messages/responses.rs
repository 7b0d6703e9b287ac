//! Responses that are malformed or truncated, and content that can't be used.

use super::*;

use jas_session::ErrorKind;
use wire::LOOK_FIRST;

const NOT_HTTP: &str =
    "the response is not HTTP: check the host, the port, and any proxy in between";
const BAD_NAME: &str = "the response has a header field without a valid name";
const TWO_LENGTHS: &str = "the response has two different Content-Length fields";
const BAD_LENGTH: &str = "the response has a Content-Length that is not a number of 64 bits";
const BAD_CODING: &str = "the response has a Transfer-Encoding other than `chunked`";
const NOT_FINAL: &str = "the response has a status code (1xx) that is not final";
const NO_RESPONSE: &str = "the connection ended before the response was complete";
const TRUNCATED: &str = "the connection ended before the content was complete";
const TOO_LONG: &str = "has more than 64 KiB or 1024 lines of header fields or trailers";
const ENCODED: &str = "the content is encoded (Content-Encoding), which was not asked for";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Bytes that a server sends before it closes, and the message.
const FAULTS: &[(&[u8], &str)] = &[
    // No response.
    (b"", NO_RESPONSE),
    (b"HTTP/1.1 200 OK\r\nContent-Le", NO_RESPONSE),
    (b"HTTP/1.1 100 Continue\r\n\r\n", NO_RESPONSE),
    (b"garbage\r\n\r\n", NOT_HTTP),
    (b"SSH-2.0-OpenSSH_9.2\r\n", NOT_HTTP),
    (b"\0", NOT_HTTP),
    (b"HTTP/1.1 2000 OK\r\n\r\n", NOT_HTTP),
    (
        b"HTTP/2 200\r\nContent-Length: 4\r\n\r\ngood",
        "the response has a version other than HTTP/1",
    ),
    (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", NOT_FINAL),
    (b"HTTP/1.1 99 Nearly\r\nContent-Length: 0\r\n\r\n", NOT_FINAL),
    // Header fields.
    (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", BAD_NAME),
    (b"HTTP/1.1 200 OK\r\nContent-Length\x0b: 4\r\n\r\ngood", BAD_NAME),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\ngood", TWO_LENGTHS),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4, 5\r\n\r\ngood", TWO_LENGTHS),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4 4\r\n\r\ngood", BAD_LENGTH),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", BAD_LENGTH),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", BAD_CODING),
    (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n....", ENCODED),
    // Content.
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        "the connection ended before the content was complete (5 of 100 bytes came)",
    ),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nshort", TRUNCATED),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nlonger",
        "the content has a chunk longer than its size says",
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        "the content has a chunk without a valid size",
    ),
];

#[test]
fn fault_of_a_response_is_named() {
    let sandbox = Sandbox::start();
    for (bytes, reason) in FAULTS {
        let error = api_error(&sandbox, Fault::Raw(bytes.to_vec()));
        assert_eq!(error.kind(), ErrorKind::Exchange);
        assert_get(&sandbox, &error, reason);
    }
    let lines = "a:b\r\n".repeat(1025);
    for (bytes, what) in [
        (format!("HTTP/1.1 200 OK\r\n{lines}\r\n"), "response"),
        (format!("{CHUNKED}0\r\n{lines}\r\n"), "content"),
    ] {
        let error = api_error(&sandbox, Fault::Raw(bytes.into()));
        assert_get(&sandbox, &error, &format!("the {what} {TOO_LONG}"));
    }
}

#[test]
fn failed_post_says_whether_to_look_first() {
    let sandbox = Sandbox::start();
    for (fault, end) in [
        (Fault::Raw(Vec::new()), LOOK_FIRST),
        (Fault::Raw(b"garbage".to_vec()), LOOK_FIRST),
        (Fault::Stall(None), LOOK_FIRST),
        (response(302, &[("Location", "/")], ""), LOOK_FIRST),
        (response(500, &[], "no"), LOOK_FIRST),
        (response(400, &[], "no"), "; the response says: no"),
        (response(409, &[], "no"), "; the response says: no"),
    ] {
        sandbox.next(Place::Api, fault);
        let session = session(&sandbox).timeout(wire::TIMEOUT);
        let error = session.post("/x", "text/plain", "").unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with(&format!("POST {}/x: ", sandbox.url())), "{message}");
        assert!(message.ends_with(end), "{message}");
        assert_eq!(error.may_have_executed(), end == LOOK_FIRST, "{message}");
    }
}

#[test]
fn json_of_another_shape_is_shown() {
    let sandbox = Sandbox::start();
    let long = format!("{{\"a\":\"{}\"}}", "b".repeat(300));
    let cut = format!("{}...", &long[..200]);
    for (content, shown) in [
        ("<html>", "<html>"),
        ("{\"a\":\n1}", "{\"a\": 1}"),
        (&long, &cut),
        // A word that is longer than the 8 KiB which are looked at.
        (&"ab".repeat(8192), &format!("{}...", "ab".repeat(100))),
        ("", ""),
        (" \n", ""),
    ] {
        sandbox.next(Place::Api, response(200, &[], content));
        let error = session(&sandbox).get("/x").unwrap().json::<Vec<u8>>().unwrap_err();
        let length = content.len();
        let what = format!("({length} bytes) is not JSON of the shape of alloc::vec::Vec<u8>");
        let begins = if shown.is_empty() { "" } else { "; it begins with: " };
        assert_get(&sandbox, &error, &format!("the content {what}{begins}{shown}"));
        assert_eq!(error.content(), Some(content.as_bytes()));
    }
}

#[test]
fn content_that_is_not_utf_8_is_named() {
    let sandbox = Sandbox::start();
    let latin = || {
        sandbox.next(Place::Api, response(200, &[], b"ab\xff"));
        session(&sandbox).get("/x").unwrap()
    };
    for error in [latin().text().unwrap_err(), latin().json::<u32>().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Content);
        assert_get(&sandbox, &error, "the content is not UTF-8 from byte 2 on");
    }
}

#[test]
fn reason_why_there_is_no_token_is_named() {
    let sandbox = Sandbox::start();
    let long = format!("{{\"access_token\":\"{}\"}}", "x".repeat(65_536));
    for (content, reason) in [
        ("<html>", "it is not a JSON object as RFC 6749, section 5.1, describes it"),
        ("{}", "it has no access_token"),
        (r#"{"access_token":"a b"}"#, "its access_token is not valid in a header field"),
        (r#"{"access_token":"a","expires_in":"soon"}"#, "its expires_in is not a number"),
        (r#"{"access_token":"abc","token_type":"mac"}"#, "its token_type is \"mac\", not Bearer"),
        (&long, "it is longer than 64 KiB"),
    ] {
        let error = token_error(&sandbox, response(200, &[], content));
        let kept = (error.kind(), error.status(), error.content());
        assert_eq!(kept, (ErrorKind::InvalidToken, None, None));
        let reason = format!("the response holds no usable token: {reason}");
        assert_token_request(&sandbox, &error, &reason);
    }
}

#[test]
fn cause_is_shown_on_demand_and_once() {
    let sandbox = Sandbox::start();
    let error = api_error(&sandbox, Fault::Raw(b"HTTP/1.1 200 OK\r\n".to_vec()));
    let message = error.to_string();
    assert_get(&sandbox, &error, NO_RESPONSE);
    let whole = format!("{message}: unexpected end of file");
    assert_eq!(format!("{error:#}"), whole);
    let error = std::io::Error::from(error);
    assert_eq!(error.to_string(), message);
    assert_eq!(format!("{:#}", Error::find(&error).unwrap()), whole);
}
