//! Proxies that refuse, fail, or are not there.

use super::wire::{request, respond, response, session, until_closed, Server, TIMEOUT};
use super::*;

use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};

use jas_session::ErrorKind;
use sandbox::closed_address;

const URL: &str = "https://api.test";
const WRONG: &str = ": check the user name and the password; if they are right, the proxy does \
                     not accept Basic authentication, and this crate supports no other";
const MISSING: &str = ": it wants a user name and a password: give them as \
                       http://USER:PASSWORD@HOST:PORT, percent-encoded";
const REFUSED: &str =
    ": it refuses connections to api.test:443: ask its administrator to allow them";
const FAILED: &str = ": it has no connection to api.test:443";

/// A status of a proxy, and the advice that follows it.
const ADVICE: &[(u16, &str)] = &[
    (101, ""),
    (302, ""),
    (400, ""),
    (401, WRONG),
    (403, REFUSED),
    (407, WRONG),
    (418, ""),
    (429, ""),
    (500, FAILED),
    (502, FAILED),
    (503, FAILED),
    (504, FAILED),
];

const NOT_HTTP: &str = "the response of the proxy PROXY is not HTTP: check the host, the port, \
                        and any proxy in between";
const TRUNCATED: &str = "the connection ended before the response of the proxy PROXY was complete";
const WITH_CONTENT: &str = "the response of the proxy PROXY has content, which the response to a \
                            CONNECT can't have: check the URL of the proxy";
const TOO_LONG: &str = "the response of the proxy PROXY has more than 64 KiB or 1024 lines of \
                        header fields or trailers";

/// A proxy that gives the n-th connection the n-th response, and closes.
fn proxy(responses: Vec<Vec<u8>>) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |stream| {
        let received = request(stream);
        respond(stream, &responses[count.fetch_add(1, Ordering::SeqCst)]);
        let _ = stream.shutdown(Shutdown::Write);
        [received, until_closed(stream)].concat()
    })
}

/// Checks the message of a call through this proxy, where `PROXY` stands for its address.
#[track_caller]
fn assert_message(proxy: &Server, user_info: &str, reason: &str) {
    let session = session(URL).proxy(&format!("http://{user_info}{}", proxy.address)).unwrap();
    let error = session.get("/").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exchange);
    let message = error.to_string().replace(&proxy.address.to_string(), "PROXY");
    assert_eq!(message, format!("GET {URL}/: {reason}"));
}

#[test]
fn status_of_a_proxy_is_followed_by_advice() {
    let missing = &[(407, MISSING)];
    let rows = ADVICE.iter().map(|row| ("user:wrong@", row));
    let rows: Vec<_> = rows.chain(missing.iter().map(|row| ("", row))).collect();
    // Neither its reason phrase nor its content is shown.
    let page = |status: u16| response(&format!("{status} phrase"), "", "<p>page</p>");
    let server = proxy(rows.iter().map(|(_, (status, _))| page(*status)).collect());
    for (user_info, (status, advice)) in rows {
        let reason = format!("the proxy PROXY responded with status {status}{advice}");
        assert_message(&server, user_info, &reason);
    }
}

#[test]
fn malformed_response_of_a_proxy_is_named() {
    let lines = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:b\r\n".repeat(1025));
    let rows: [(&[u8], &str); 7] = [
        (b"", TRUNCATED),
        (b"HTTP/1.1 200 OK\r\nX-A: b\r\n", TRUNCATED),
        (b"HTTP/1.1 100 Continue\r\n\r\n", TRUNCATED),
        (b"SSH-2.0-OpenSSH_9.2\r\n", NOT_HTTP),
        (b"HTTP/2 200\r\n\r\n", NOT_HTTP),
        (lines.as_bytes(), TOO_LONG),
        (b"HTTP/1.1 200 OK\r\n\r\n<p>page</p>", WITH_CONTENT),
    ];
    let server = proxy(rows.iter().map(|(bytes, _)| bytes.to_vec()).collect());
    for (_, reason) in rows {
        assert_message(&server, "", reason);
    }
}

#[test]
fn proxy_without_a_connection_is_named() {
    let dead = closed_address();
    let server = Server::start(until_closed);
    let silent = server.address;
    let refused = "could be made: check host, port and firewall";
    for (proxy, reason) in [
        (dead.to_string(), format!("no connection to the proxy {dead} {refused}")),
        (
            silent.to_string(),
            format!(
                "the timeout of 300ms passed before the response of the proxy {silent} was complete"
            ),
        ),
    ] {
        let session = session(URL).proxy(&proxy).unwrap().timeout(TIMEOUT);
        let error = session.get("/").unwrap_err();
        assert_eq!(error.to_string(), format!("GET {URL}/: {reason}"));
    }
    // RFC 6761, section 6.4: no such name exists.
    let session = session(URL).proxy("http://proxy.invalid:3128").unwrap();
    let reason =
        "the host name of the proxy proxy.invalid:3128 was not found: check its spelling, \
                  and the name server of this network";
    let error = session.get("/").unwrap_err();
    assert_eq!(error.to_string(), format!("GET {URL}/: {reason}"));
}

#[test]
fn failed_token_request_names_the_proxy() {
    let server = proxy(vec![response("403 Forbidden", "", "")]);
    let address = server.address.to_string();
    let fresh = Session::new(URL, "id", "secret").and_then(|session| session.proxy(&address));
    let error = fresh.unwrap().retries(0).access_token().unwrap_err();
    let reason = format!("the proxy {address} responded with status 403{REFUSED}");
    assert_eq!(error.to_string(), format!("token request to {URL}/oauth2/token: {reason}"));
}
