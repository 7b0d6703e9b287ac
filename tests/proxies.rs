//! Calls through a proxy, and proxies that refuse, fail and misbehave.
#![cfg(feature = "tls")]

use std::error::Error as _;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Error, ErrorKind, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::closed_address;
#[path = "support/wire/mod.rs"]
mod wire;
use wire::{
    assert_in_time, assert_nothing_left, assert_passes, held, request, respond, response, session,
    this_test_alone, until_closed, urls, Server, TIMEOUT,
};

const URL: &str = "https://api.test";
const USER_INFO: &str = "gateway:p%40ss%2F%C3%BC";
const PASSWORD: &str = "p@ss/ü";
/// `gateway:p@ss/ü`
const BASIC: &str = "Z2F0ZXdheTpwQHNzL8O8";
/// Of TLS: `handshake_failure`.
const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 40];

fn through(proxy: SocketAddr) -> Session {
    let session = session(URL).proxy(&format!("http://{USER_INFO}@{proxy}"));
    session.unwrap()
}

fn create(session: &Session) -> Error {
    session.post("/", "text/plain", "create").unwrap_err()
}

/// Checks that no text of the error and its causes shows a credential, and that nothing was
/// executed.
fn assert_harmless(error: &Error) {
    let mut shown = format!("{error} {error:?} {error:#?}");
    for cause in std::iter::successors(error.source(), |&error| error.source()) {
        shown = format!("{shown} {cause} {cause:?}");
    }
    for secret in [PASSWORD, USER_INFO, "ss%2F", BASIC] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    assert!(!error.may_have_executed(), "{error:?}");
    assert_eq!(error.status(), None);
    assert_eq!(error.retry_after(), None);
}

/// The error of a tunnel whose other end refuses TLS.
fn assert_handshake_failed(error: &Error) {
    assert_harmless(error);
    assert_eq!(error.kind(), ErrorKind::Exchange);
    let cause = format!("{:?}", error.source());
    assert!(cause.contains("HandshakeFailure"), "{error}: {cause}");
}

/// A proxy that responds in these pieces, and behind whose tunnel a server refuses TLS.
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

// What the proxy gets

#[test]
fn the_proxy_is_asked_for_the_host_with_decoded_credentials() {
    let asked = |url: &str, user_info: &str| {
        let proxy = tunnelling(vec![b"HTTP/1.1 200 OK\r\n\r\n".to_vec()]);
        let session = session(url).proxy(&format!("http://{user_info}{}/", proxy.address));
        assert_handshake_failed(&create(&session.unwrap()));
        let mut received = proxy.ended();
        assert_eq!(received.len(), 1);
        let received = received.remove(0);
        let end = received.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, hello) = received.split_at(end.unwrap() + 4);
        // A TLS record of the handshake.
        assert_eq!(hello[..2], [22, 3]);
        String::from_utf8(head.to_vec()).unwrap()
    };
    assert_eq!(
        asked(URL, "gateway:p%40ss%2F%C3%BC@"),
        format!(
            "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\nProxy-Authorization: Basic \
             {BASIC}\r\n\r\n"
        )
    );
    assert_eq!(
        asked("https://127.0.0.9:8443/v1", ""),
        "CONNECT 127.0.0.9:8443 HTTP/1.1\r\nHost: 127.0.0.9:8443\r\n\r\n"
    );
}

#[test]
fn every_response_with_2xx_opens_the_tunnel_and_no_byte_behind_it_is_lost() {
    let pieces = |all: &[&[u8]]| all.iter().map(|piece| piece.to_vec()).collect::<Vec<_>>();
    let padded = |length: usize| {
        let begin = "HTTP/1.1 200 Connection established\r\nX-A: ";
        let value = "x".repeat(length - begin.len() - 4);
        format!("{begin}{value}\r\n\r\n").into_bytes()
    };
    for pieces in [
        vec![padded(256)],
        padded(256).chunks(100).map(<[u8]>::to_vec).collect(),
        padded(256).chunks(1).map(<[u8]>::to_vec).collect(),
        vec![padded(16 * 1024)],
        pieces(&[b"HTTP/1.1 201 Created\r\n\r\n"]),
        pieces(&[b"HTTP/1.0 200 Connection established\r\n\r\n"]),
        pieces(&[b"HTTP/1.1 200\n\n"]),
        pieces(&[b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n"]),
        pieces(&[
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nA: b\r\n\r\nHTT",
            b"P/1.1 299 OK\r\n\r\n",
        ]),
    ] {
        let proxy = tunnelling(pieces);
        assert_handshake_failed(&create(&through(proxy.address).retries(2)));
        assert_eq!(proxy.ended().len(), 1);
    }
    // A server that talks first.
    let proxy = Server::start(|stream| {
        request(stream);
        respond(stream, &[b"HTTP/1.1 200 OK\r\n\r\n", ALERT].concat());
        until_closed(stream)
    });
    assert_handshake_failed(&create(&through(proxy.address).retries(2)));
    assert_eq!(proxy.ended().len(), 1);
}

// Proxies that refuse or fail

/// A create through a proxy that gives this response fails with this message, in which PROXY stands
/// for the proxy, and is retried once if another response might come.
fn assert_refused(response: &[u8], is_retried: bool, why: &str) {
    let all = response.to_vec();
    let is_truncated = why.contains("ended");
    let proxy = Server::start(move |stream| {
        let received = request(stream);
        respond(stream, &all);
        if is_truncated {
            let _ = stream.shutdown(Shutdown::Write);
        }
        [received, until_closed(stream)].concat()
    });
    let error = create(&through(proxy.address).retries(1));
    assert_harmless(&error);
    assert_eq!(error.kind(), ErrorKind::Exchange);
    let why = why.replace("PROXY", &proxy.address.to_string());
    assert_eq!(error.to_string(), format!("POST {URL}/: {why}"));
    let received = proxy.ended();
    assert_eq!(received.len(), 1 + usize::from(is_retried), "{why}");
    for received in received {
        assert!(received.ends_with(b"\r\n\r\n"), "more than CONNECT");
    }
}

#[test]
fn a_response_other_than_2xx_is_told() {
    let page = |status: &str| response(status, "Content-Type: text/html\r\n", "<p>page</p>");
    let wrong = ": check the user name and the password; if they are right, the proxy takes no Basic credentials, the only ones that this crate sends";
    let refused = ": it refuses connections to api.test:443: ask who runs it to allow them";
    for (status, is_retried, advice) in [
        ("407 Proxy Authentication Required", false, wrong),
        ("403 Forbidden", false, refused),
        ("502 Bad Gateway", true, ": it has no connection to api.test:443"),
        ("503 Service Unavailable", true, ": it has no connection to api.test:443"),
        ("504 Gateway Timeout", true, ": it has no connection to api.test:443"),
        ("500 Internal Server Error", true, ": it has no connection to api.test:443"),
        ("401 Unauthorized", false, wrong),
        ("429 Too Many Requests", false, ""),
        ("400 Bad Request", false, ""),
        ("302 Found", false, ""),
        ("101 Switching Protocols", false, ""),
    ] {
        let code = &status[..3];
        let why = format!("the proxy PROXY responded with status {code}{advice}");
        assert_refused(&page(status), is_retried, &why);
    }
    // Its reason phrase is never shown: a proxy may put anything there.
    for status in [
        "418",
        "418  ",
        "418 a\t\u{1b}[31mb\u{202e}",
        "418 no p@ss/ü, Z2F0ZXdheTpwQHNzL8O8!",
        "418 no p%40ss%2fü",
    ] {
        assert_refused(&page(status), false, "the proxy PROXY responded with status 418");
    }
    let latin = b"HTTP/1.1 418 caf\xe9\r\n\r\n";
    assert_refused(latin, false, "the proxy PROXY responded with status 418");
    assert_refused(
        b"HTTP/1.1 407 x\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n",
        false,
        &format!("the proxy PROXY responded with status 407{wrong}"),
    );
}

#[test]
fn a_proxy_that_wants_credentials_and_gets_none_says_how_to_give_them() {
    let proxy = Server::responding(&response("407 Proxy Authentication Required", "", ""));
    let session = session(URL).proxy(&proxy.address.to_string()).unwrap();
    assert_eq!(
        create(&session).to_string(),
        format!(
            "POST {URL}/: the proxy {} responded with status 407: it wants a user name and a \
             password: give them as http://USER:PASSWORD@HOST:PORT, percent-encoded",
            proxy.address
        )
    );
}

#[test]
fn a_response_that_is_none_is_told() {
    let none =
        "the response of the proxy PROXY is not HTTP: check the host and the port, and what \
         stands in between";
    for garbage in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"\r\n\r\n",
        b"\0",
        ALERT,
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
    ] {
        assert_refused(garbage, true, none);
    }
}

#[test]
fn a_response_that_is_truncated_or_does_not_end_is_told() {
    let truncated = "the connection ended before the response of the proxy PROXY was complete";
    for response in [
        &b""[..],
        b"H",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        assert_refused(response, true, truncated);
    }
    let long =
        "the response of the proxy PROXY has more than 64 KiB or 1024 lines of header fields or \
         trailers";
    let line = format!("HTTP/1.1 200 OK\r\nX-A: {}", "x".repeat(1 << 20));
    let lines = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:b\r\n".repeat(1025));
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(4000);
    for response in [line, lines, interim] {
        assert_refused(response.as_bytes(), true, long);
    }
}

#[test]
fn a_proxy_that_closes_at_once_or_is_not_there_is_told() {
    // What it has not read makes its close a reset.
    let hasty = Server::start(|stream| {
        stream.peek(&mut [0]).unwrap();
        Vec::new()
    });
    let error = create(&through(hasty.address).retries(1));
    assert_harmless(&error);
    assert_eq!(
        error.to_string(),
        format!(
            "POST {URL}/: the connection ended before the response of the proxy {} was complete",
            hasty.address
        )
    );
    assert_eq!(hasty.ended().len(), 2);

    let error = create(&through(closed_address()).retries(0));
    assert_harmless(&error);
    let message = error.to_string();
    assert_eq!(
        message.replace(|c: char| c.is_ascii_digit(), "").replace("...:", "PROXY"),
        format!(
            "POST {URL}/: no connection to the proxy PROXY could be made: check host, port and \
             firewall"
        )
    );
    let cause = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);

    // RFC 6761, section 6.4: no such name exists.
    let lost = session(URL).proxy("http://gateway:hush@proxy.invalid:3128");
    let error = create(&lost.unwrap());
    assert_harmless(&error);
    assert_eq!(
        error.to_string(),
        format!(
            "POST {URL}/: the host name of the proxy proxy.invalid:3128 was not found: check its \
             spelling, and the name server of this network"
        )
    );
}

#[test]
fn a_silent_proxy_ends_in_time_and_leaves_nothing_behind() {
    if let [first, rest @ ..] = &urls()[..] {
        let call = |proxy: &String| {
            let session = session(URL).proxy(proxy).unwrap();
            create(&session.timeout(TIMEOUT).retries(2))
        };
        // Reads the roots, which may take longer than the timeout of the calls.
        create(&session(&format!("https://{}", closed_address())));
        call(first); // sets up what is set up once
        let before = held();
        for proxy in rest {
            let start = Instant::now();
            let error = call(proxy);
            assert_in_time(start, &error);
            assert_harmless(&error);
            let place = proxy.rsplit('@').next().unwrap();
            assert_eq!(
                error.to_string(),
                format!(
                    "POST {URL}/: the timeout of 300ms passed before the response of the proxy \
                     {place} was complete"
                )
            );
            assert_nothing_left(before, proxy);
        }
        return;
    }
    let drip = |begin: &'static [u8]| {
        Server::start(move |stream| {
            let received = request(stream);
            for byte in begin.iter().chain(std::iter::repeat(&b'x')) {
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            received
        })
    };
    let servers = [
        Server::start(until_closed),
        Server::start(until_closed),
        drip(b"HTTP/1.1 200 OK\r\nX-A: "),
        drip(b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 1"),
    ];
    let proxies = servers.each_ref().map(|server| format!("http://{USER_INFO}@{}", server.address));
    let test = "a_silent_proxy_ends_in_time_and_leaves_nothing_behind";
    assert_passes(this_test_alone(test, &proxies));
    for server in servers {
        // Nothing was retried, and nothing sent later.
        assert_eq!(server.ended().len(), 1);
    }
}

#[test]
fn a_failed_tunnel_leaves_nothing_behind() {
    if let proxies @ [first, ..] = &urls()[..] {
        let call = |proxy: &String| create(&session(URL).proxy(proxy).unwrap().retries(1));
        call(first);
        let before = held();
        for proxy in proxies {
            assert_harmless(&call(proxy));
            assert_nothing_left(before, proxy);
        }
        return;
    }
    let refusing = Server::keeping_open(&response("502 Bad Gateway", "", "page"));
    let garbled = Server::keeping_open(b"garbage");
    let proxies = [&refusing, &garbled].map(|server| server.address.to_string());
    let test = "a_failed_tunnel_leaves_nothing_behind";
    assert_passes(this_test_alone(test, &proxies));
}

// What goes through it, and what does not

#[test]
fn token_requests_go_through_the_proxy_and_http_does_not() {
    let proxy = Server::responding(&response("403 Forbidden", "", ""));
    let fresh = Session::new(URL, "id", "secret").unwrap();
    let fresh = fresh.proxy(&proxy.address.to_string()).unwrap();
    assert_eq!(
        create(&fresh).to_string(),
        format!(
            "token request to {URL}/oauth2/token: the proxy {} responded with status 403: it \
             refuses connections to api.test:443: ask who runs it to allow them",
            proxy.address
        )
    );
    assert_eq!(proxy.ended().len(), 1);

    let server = Server::responding(&response("200 OK", "", "direct"));
    let direct = session(&server.url()).proxy(&closed_address().to_string()).unwrap();
    assert_eq!(direct.get("/").unwrap().text().unwrap(), "direct");
}

#[test]
fn a_proxy_is_a_setting_of_the_clone_and_debug_shows_where_it_is() {
    let proxy = Server::responding(&response("403 Forbidden", "", ""));
    let plain = session(&format!("https://{}", closed_address()));
    let other = plain.clone().proxy(&format!("http://{USER_INFO}@{}", proxy.address));
    let other = other.unwrap();
    assert!(create(&other).to_string().contains(": the proxy "));
    assert!(create(&plain).to_string().contains(": no connection to the host "));
    let shown = format!("{other:?}");
    assert!(shown.contains(&format!("proxy: Some(\"{}\")", proxy.address)), "{shown}");
    assert!(!shown.contains("gateway") && !shown.contains("p@ss"), "{shown}");
    assert!(format!("{plain:?}").contains("proxy: None"));
    // The last one counts.
    let other = other.proxy(&closed_address().to_string()).unwrap();
    assert!(create(&other).to_string().contains(": no connection to the proxy "));
}

#[test]
fn the_environment_counts_only_when_it_is_asked_for() {
    if let [url, how, expected] = &urls()[..] {
        let mut session = session(url);
        if how == "asked" {
            // In place of one that was set before.
            session = match session.proxy(&closed_address().to_string()).unwrap().proxy_from_env() {
                Ok(session) => session,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidInput);
                    let message = error.to_string().replace(' ', "_");
                    // On Windows both names are one.
                    let message = message.replace("https_proxy", "HTTPS_PROXY");
                    let message = message.replace("no_proxy", "NO_PROXY");
                    assert_eq!(message, *expected);
                    return;
                }
            };
        }
        let message = create(&session).to_string();
        let found = if message.contains(" the proxy ") { "proxy" } else { "direct" };
        assert_eq!(found, expected, "{message}");
        return;
    }
    let proxy = Server::responding(&response("403 Forbidden", "", ""));
    let address = proxy.address.to_string();
    let address = address.as_str();
    let dead = closed_address();
    #[cfg(unix)]
    let not_unicode: OsString = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
    #[cfg(windows)]
    let not_unicode: OsString = std::os::windows::ffi::OsStringExt::from_wide(&[0xd800]);
    let bad = "the_environment_variable_HTTPS_PROXY_has_a_port_that_is_not_from_1_to_65535";
    let garbled = "the_environment_variable_NO_PROXY_is_not_UTF-8";
    let mut through = 0;
    for (how, set, expected) in [
        ("silent", &[("HTTPS_PROXY", address), ("https_proxy", address)][..], "direct"),
        ("asked", &[], "direct"),
        ("asked", &[("HTTPS_PROXY", address)], "proxy"),
        #[cfg(not(windows))]
        ("asked", &[("https_proxy", address), ("HTTPS_PROXY", "x")], "proxy"),
        ("asked", &[("HTTPS_PROXY", address), ("NO_PROXY", "127.0.0.1")], "direct"),
        ("asked", &[("HTTPS_PROXY", address), ("NO_PROXY", "127.0.0.0/8")], "proxy"),
        ("asked", &[("ALL_PROXY", address), ("HTTP_PROXY", address)], "direct"),
        ("asked", &[("HTTPS_PROXY", "http://u:hush@a:x")], bad),
        ("asked", &[("HTTPS_PROXY", address), ("NO_PROXY", "\u{ff}")], garbled),
    ] {
        let test = "the_environment_counts_only_when_it_is_asked_for";
        let told = [format!("https://{dead}"), how.to_owned(), expected.to_owned()];
        let mut child = this_test_alone(test, &told);
        for name in ["https_proxy", "all_proxy", "http_proxy", "no_proxy"] {
            child.env_remove(name).env_remove(name.to_uppercase());
        }
        for (name, value) in set {
            match *value {
                "\u{ff}" => child.env(name, &not_unicode),
                value => child.env(name, value),
            };
        }
        assert_passes(child);
        through += usize::from(expected == "proxy");
    }
    assert_eq!(proxy.ended().len(), through);
}

/// In children that trust the test's own issuer.
mod trusted {
    use super::wire::tls::{finish, https, tls, Authority, Days};
    use super::wire::trusting;
    use super::*;
    use std::net::TcpStream;

    /// A proxy that does what it should. Gives what it was sent.
    fn forwarding() -> Server {
        Server::start(|stream| {
            let mut seen = request(stream);
            let text = String::from_utf8(seen.clone()).unwrap();
            let target = text.split(' ').nth(1).unwrap();
            let mut server = TcpStream::connect(target).unwrap();
            respond(stream, b"HTTP/1.1 200 Connection established\r\n\r\n");
            let (mut from, mut to) = (server.try_clone().unwrap(), stream.try_clone().unwrap());
            let back = thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                seen.extend_from_slice(&buffer[..n]);
                respond(&mut server, &buffer[..n]);
            }
            let _ = server.shutdown(Shutdown::Write);
            back.join().unwrap();
            seen
        })
    }

    #[test]
    fn a_token_is_requested_and_calls_are_made_and_the_proxy_sees_nothing_of_it() {
        let secrets = ["the-secret", "the-token", "the-key", "create"];
        let large = "x".repeat(1 << 20);
        if let [url, proxy] = &urls()[..] {
            let session = Session::new(url, "id", secrets[0])
                .and_then(|session| session.api_key(secrets[2]))
                .and_then(|session| session.proxy(proxy))
                .unwrap();
            let session = trusting(session);
            assert_eq!(session.get("/").unwrap().text().unwrap(), large);
            let response = session.post("/", "text/plain", secrets[3]).unwrap();
            assert_eq!(response.text().unwrap(), large);
            // A proxy that opens TLS may respond itself.
            let error = session.get("/echo").unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "GET {url}/echo: status 502: the server, or one behind it, is down or \
                     overloaded: try again later; the response says: [redacted] [redacted]"
                )
            );
            let echoing = session.token_endpoint(&format!("{url}/echo")).unwrap();
            let error = echoing.retries(0).get("/").unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "token request to {url}/echo: status 502: the server, or one behind it, is \
                     down or overloaded: try again later"
                )
            );
            return;
        }
        let authority = Authority::new();
        let server = tls(authority.config("localhost", Days::Now), move |stream| {
            let received = request(stream);
            let text = String::from_utf8_lossy(&received);
            let token = r#"{"access_token":"the-token","token_type":"Bearer"}"#;
            let bytes = match text.split(' ').nth(1).unwrap() {
                "/oauth2/token" => response("200 OK", "", token),
                "/echo" => response("502 x", "", &format!("{PASSWORD} {BASIC}")),
                _ => response("200 OK", "", &large),
            };
            finish(stream, &bytes);
            received
        });
        let proxy = forwarding();
        let urls = [https(&server), format!("http://{USER_INFO}@{}", proxy.address)];
        let test =
            "trusted::a_token_is_requested_and_calls_are_made_and_the_proxy_sees_nothing_of_it";
        assert_passes(authority.trusting(this_test_alone(test, &urls)));
        // `/echo` is tried three times, and once as a token endpoint.
        let received = server.ended();
        assert_eq!(received.len(), 7);
        for secret in secrets {
            assert!(received.iter().any(|received| contains(received, secret)));
        }
        let seen = proxy.ended();
        assert_eq!(seen.len(), 7);
        for seen in seen {
            assert!(contains(&seen, BASIC));
            for secret in secrets {
                assert!(!contains(&seen, secret));
            }
        }
    }

    fn contains(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}
