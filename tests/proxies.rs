//! What a proxy gets, and the errors of proxies that refuse, fail or are silent.
#![cfg(feature = "tls")]

use std::env;
use std::error::Error as _;
use std::fmt::Display;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr};
use std::time::Instant;

use jas_session::{Error, ErrorKind, Response, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::closed_address;
#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{Over, Site, TOKEN_REQUEST};
use wire::{
    assert_in_time, assert_nothing_left, assert_passes, drip, held, request, respond, response,
    session, session_without_token, side_by_side, this_test_alone, tunnel, until_closed, urls,
    with_token, Server, TIMEOUT,
};

const URL: &str = "https://api.test";
const USER_INFO: &str = "gateway:p%40ss%2F%C3%BC";
/// `gateway:p@ss/ü`, encoded.
const BASIC: &str = "Z2F0ZXdheTpwQHNzL8O8";
/// The TLS alert `handshake_failure`.
const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 40];

fn through(proxy: SocketAddr) -> Session {
    to_proxy(URL, &format!("http://{USER_INFO}@{proxy}"))
}

fn to_proxy(url: &str, proxy: &str) -> Session {
    with_token(session_without_token(url).proxy(proxy).unwrap())
}

fn create(session: &Session) -> Error {
    session.post("/", "text/plain", "create").unwrap_err()
}

/// Checks the error of a proxy at this address. Nothing was executed.
fn assert_names(error: &Error, proxy: impl Display) {
    assert!(error.to_string().contains(&format!("the proxy {proxy}")), "{error}");
    assert!(!error.may_have_executed(), "{error:?}");
    assert_eq!((error.status(), error.retry_after()), (None, None));
}

/// Checks that the tunnel was opened, and that the server after it refused TLS.
fn assert_handshake_failed(error: &Error) {
    assert!(!error.may_have_executed(), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Exchange);
    let cause = format!("{:?}", error.source());
    assert!(cause.contains("HandshakeFailure"), "{error}: {cause}");
}

/// A proxy that responds with these pieces. The server at the end of its tunnel refuses TLS.
fn tunnelling(pieces: Vec<Vec<u8>>) -> Server {
    Server::start(move |stream| {
        let mut received = request(stream);
        for piece in &pieces {
            respond(stream, piece);
        }
        let mut hello = [0; 4096];
        let n = stream.read(&mut hello).unwrap();
        received.extend_from_slice(&hello[..n]);
        respond(stream, ALERT);
        until_closed(stream);
        received
    })
}

fn forbidding() -> Server {
    Server::responding(&response("403 Forbidden", "", ""))
}

// CONNECT

#[test]
fn proxy_gets_the_host_and_the_decoded_credentials() {
    for (url, user_info, expected) in [
        (
            URL,
            "gateway:p%40ss%2F%C3%BC@",
            format!(
                "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\nProxy-Authorization: Basic \
                 {BASIC}\r\n\r\n"
            ),
        ),
        (
            "https://127.0.0.9:8443/v1",
            "",
            "CONNECT 127.0.0.9:8443 HTTP/1.1\r\nHost: 127.0.0.9:8443\r\n\r\n".into(),
        ),
    ] {
        let proxy = tunnelling(vec![b"HTTP/1.1 200 OK\r\n\r\n".to_vec()]);
        let session = to_proxy(url, &format!("http://{user_info}{}/", proxy.address));
        assert_handshake_failed(&create(&session));
        let received = proxy.ended().concat();
        let (head, hello) = received.split_at(expected.len());
        assert_eq!(head, expected.as_bytes());
        // A TLS record of the handshake.
        assert_eq!(hello[..2], [22, 3]);
    }
}

#[test]
fn each_2xx_opens_the_tunnel() {
    let padded = |length: usize| {
        let begin = "HTTP/1.1 200 Connection established\r\nX-A: ";
        let value = "x".repeat(length - begin.len() - 4);
        format!("{begin}{value}\r\n\r\n").into_bytes()
    };
    let whole = |response: &[u8]| vec![response.to_vec()];
    for pieces in [
        whole(&padded(256)),
        padded(256).chunks(100).map(<[u8]>::to_vec).collect(),
        padded(256).chunks(1).map(<[u8]>::to_vec).collect(),
        whole(&padded(16 * 1024)),
        whole(b"HTTP/1.1 201 Created\r\n\r\n"),
        whole(b"HTTP/1.0 200 Connection established\r\n\r\n"),
        whole(b"HTTP/1.1 200\n\n"),
        whole(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n"),
        vec![
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nA: b\r\n\r\nHTT".to_vec(),
            b"P/1.1 299 OK\r\n\r\n".to_vec(),
        ],
    ] {
        let proxy = tunnelling(pieces);
        assert_handshake_failed(&create(&through(proxy.address).retries(2)));
        assert_eq!(proxy.ended().len(), 1);
    }
}

// Proxies that refuse or fail

/// Makes a create through a proxy for each of these responses, after which the proxy waits or closes.
fn assert_refused(responses: Vec<Vec<u8>>, is_retried: bool, closes: bool) {
    side_by_side(responses, |response| {
        let what = response.escape_ascii().to_string();
        let proxy = Server::start(move |stream| {
            let received = request(stream);
            respond(stream, &response);
            if closes {
                let _ = stream.shutdown(Shutdown::Write);
            }
            [received, until_closed(stream)].concat()
        });
        let error = create(&through(proxy.address).retries(1));
        assert_names(&error, proxy.address);
        assert_eq!(error.kind(), ErrorKind::Exchange);
        let received = proxy.ended();
        assert_eq!(received.len(), 1 + usize::from(is_retried), "{what:.200}");
        for received in received {
            assert!(received.ends_with(b"\r\n\r\n"), "more than CONNECT");
        }
    });
}

#[test]
fn only_a_5xx_of_a_proxy_is_retried() {
    let page = |status: &u16| response(&status.to_string(), "", "<p>page</p>");
    assert_refused([500, 502, 503, 504].iter().map(page).collect(), true, false);
    let mut others: Vec<_> = [101, 302, 400, 401, 403, 407, 418, 429].iter().map(page).collect();
    // A proxy may put anything into its reason phrase.
    others.push(b"HTTP/1.1 418 caf\xe9 \x1b[31m\r\n\r\n".to_vec());
    assert_refused(others, false, false);
}

#[test]
fn malformed_truncated_or_endless_response_is_retried() {
    let malformed = [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"\r\n\r\n",
        b"\0",
        ALERT,
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
    ];
    assert_refused(malformed.map(<[u8]>::to_vec).into(), true, false);
    let truncated = [
        &b""[..],
        b"H",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ];
    assert_refused(truncated.map(<[u8]>::to_vec).into(), true, true);
    let endless = [
        format!("HTTP/1.1 200 OK\r\nX-A: {}", "x".repeat(1 << 20)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:b\r\n".repeat(1025)),
        "HTTP/1.1 100 Continue\r\n\r\n".repeat(4000),
    ];
    assert_refused(endless.map(String::into_bytes).into(), true, false);
    // TLS clients speak first.
    let with_content = [b"HTTP/1.1 200 OK\r\n\r\n", ALERT].concat();
    assert_refused(vec![with_content], true, false);
}

#[test]
fn reset_by_a_proxy_is_retried() {
    // The unread request makes the close a reset.
    let resetting = Server::start(|stream| {
        stream.peek(&mut [0]).unwrap();
        Vec::new()
    });
    let error = create(&through(resetting.address).retries(1));
    assert_names(&error, resetting.address);
    assert_eq!(resetting.ended().len(), 2);
}

#[test]
fn failed_call_ends_in_time_and_leaves_nothing() {
    if let [first, rest @ ..] = &urls()[..] {
        let call = |proxy: &String| create(&to_proxy(URL, proxy).timeout(TIMEOUT).retries(2));
        // Reading the roots may take longer than the timeout of the calls.
        create(&session(&format!("https://{}", closed_address())));
        call(first); // initializes what all calls share
        let before = held();
        for (i, proxy) in rest.iter().enumerate() {
            let start = Instant::now();
            let error = call(proxy);
            if i > 0 {
                assert_in_time(start, &error);
            }
            assert_names(&error, proxy.rsplit('@').next().unwrap());
            assert_nothing_left(before, proxy);
        }
        return;
    }
    let dripping = |begin: &'static [u8]| {
        Server::start(move |stream| {
            let received = request(stream);
            drip(stream, begin, b'x');
            received
        })
    };
    let servers = [
        Server::keeping_open(b"garbage"),
        Server::keeping_open(&response("403 Forbidden", "", "page")),
        Server::start(until_closed),
        dripping(b"HTTP/1.1 200 OK\r\nX-A: "),
        dripping(b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 1"),
    ];
    let proxies = servers.each_ref().map(|server| format!("http://{USER_INFO}@{}", server.address));
    assert_passes(this_test_alone("failed_call_ends_in_time_and_leaves_nothing", &proxies));
    for server in servers.into_iter().skip(1) {
        // Nothing was retried, and nothing was sent later.
        assert_eq!(server.ended().len(), 1);
    }
}

// What goes through a proxy

#[test]
fn http_uses_no_proxy() {
    let server = Server::responding(&response("200 OK", "", "direct"));
    let direct = to_proxy(&server.url(), &closed_address().to_string());
    assert_eq!(direct.get("/").unwrap().text().unwrap(), "direct");
}

#[test]
fn proxy_belongs_to_the_clone_and_debug_shows_its_address() {
    let proxy = forbidding();
    let plain = session(&format!("https://{}", closed_address()));
    let other = plain.clone().proxy(&format!("http://{USER_INFO}@{}", proxy.address)).unwrap();
    let call = |session: &Session| create(&with_token(session.clone()));
    assert_names(&call(&other), proxy.address);
    assert!(!call(&plain).to_string().contains("proxy"));
    let shown = format!("{other:?}");
    assert!(shown.contains(&format!("proxy: Some(\"{}\")", proxy.address)), "{shown}");
    assert!(format!("{plain:?}").contains("proxy: None"));
    // The last setting counts.
    let closed = closed_address();
    let error = call(&other.proxy(&closed.to_string()).unwrap());
    assert_names(&error, closed);
    let cause = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn environment_counts_only_after_proxy_from_env() {
    let test = "environment_counts_only_after_proxy_from_env";
    let [url, address] = &urls()[..] else {
        let proxy = forbidding();
        let urls = [format!("https://{}", closed_address()), proxy.address.to_string()];
        assert_passes(this_test_alone(test, &urls));
        assert_eq!(proxy.ended().len(), 3 - usize::from(cfg!(windows)));
        return;
    };
    let (address, wrong) = (address.as_str(), "http://u:hush@a:x");
    for (upper, lower, no_proxy, expected) in [
        ("", "", "", "direct"),
        (address, "", "", "proxy"),
        // On Windows both names are one.
        #[cfg(not(windows))]
        (wrong, address, "", "proxy"),
        (address, "", "127.0.0.1", "direct"),
        (address, "", "127.0.0.0/8", "proxy"),
        (wrong, "", "", "HTTPS_PROXY"),
    ] {
        for (name, value) in [
            ("no_proxy", ""),
            ("NO_PROXY", no_proxy),
            ("https_proxy", lower),
            ("HTTPS_PROXY", upper),
            ("ALL_PROXY", address),
            ("HTTP_PROXY", address),
        ] {
            env::set_var(name, value);
        }
        // In place of a proxy that was set before.
        let session = session(url).proxy(&closed_address().to_string()).unwrap();
        let found = match session.proxy_from_env() {
            Ok(session) => create(&with_token(session)).to_string(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                error.to_string().to_uppercase()
            }
        };
        match expected {
            "direct" => assert!(!found.contains("proxy"), "{found}"),
            expected => assert!(found.contains(expected), "{expected}: {found}"),
        }
        // Without `proxy_from_env` nothing of it counts.
        assert!(!create(&wire::session(url)).to_string().contains("proxy"));
    }
}

#[test]
fn proxy_sees_no_secret_of_calls_and_token_requests() {
    let secrets = ["the-secret", "the-token", "the-key", "create"];
    let large = "x".repeat(1 << 20);
    let content = large.clone();
    let site = Site::start(Over::Tls, move |mut peer| {
        let request = peer.request().unwrap();
        let sent = format!("{}{}", request.head, String::from_utf8_lossy(&request.content));
        let (shown, content) = match &*request.line {
            TOKEN_REQUEST => {
                (&secrets[..1], r#"{"access_token":"the-token","token_type":"Bearer"}"#)
            }
            _ => (&secrets[1..3], &*content),
        };
        assert!(shown.iter().all(|secret| sent.contains(secret)), "{sent}");
        peer.respond(&response("200 OK", "", content));
        peer.close();
        peer.drain();
    });
    let target = site.address;
    let proxy = Server::start(move |stream| tunnel(stream, target));
    let session = Session::new(&site.url(), "id", secrets[0])
        .and_then(|session| session.api_key(secrets[2]))
        .and_then(|session| session.proxy(&format!("http://{USER_INFO}@{}", proxy.address)));
    let session = site::trusting(session.unwrap());
    assert_eq!(session.get("/").and_then(Response::text).unwrap(), large);
    let booking = session.post("/", "text/plain", secrets[3]);
    assert_eq!(booking.and_then(Response::text).unwrap(), large);
    drop(session);
    assert_eq!(site.requests().len(), 3);
    let seen = proxy.ended();
    assert_eq!(seen.len(), 3);
    for seen in seen {
        let contains = |text: &str| seen.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(contains(BASIC));
        assert!(!secrets.iter().any(|secret| contains(secret)));
    }
}
