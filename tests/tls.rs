//! What the session promises over TLS, against servers that keep to no rule.
#![cfg(feature = "tls")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{ErrorKind, Session};
use rustls::crypto::{ring, CryptoProvider};

#[path = "support/wire/mod.rs"]
mod wire;
use wire::tls::{https, tls, Authority, Days};
use wire::{
    assert_in_time, assert_nothing_left, assert_passes, held, request, response, session, text,
    this_test_alone, trusting, until_closed, urls, Server, PATIENCE, TIMEOUT,
};

// Handshakes that do not come about

#[cfg(not(feature = "system-roots"))]
#[test]
fn an_unknown_issuer_is_final_and_the_message_names_the_feature() {
    let server = tls(Authority::new().config("localhost", Days::Now), |_| Vec::new());
    let url = https(&server);
    let error = session(&url).retries(2).get("/").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exchange);
    assert_eq!(
        error.to_string(),
        format!(
            "GET {url}/: the issuer of the server's certificate is not among the compiled-in \
             roots; Session::root_certificates trusts more, and the feature system-roots trusts \
             this system's roots instead"
        )
    );
    assert!(!error.may_have_executed());
    let error = Session::new(&url, "id", "secret").unwrap().post("/", "text/plain", "create");
    assert!(!error.unwrap_err().may_have_executed());
    assert_eq!(server.ended().len(), 2);
}

#[test]
fn a_stalled_handshake_ends_in_time_and_leaves_nothing_behind() {
    if let [good, rest @ ..] = &urls()[..] {
        let _ = text(good); // sets up what is set up once
        let before = held();
        for url in rest {
            let start = Instant::now();
            let error =
                session(url).timeout(TIMEOUT).post("/", "text/plain", "create").unwrap_err();
            assert_in_time(start, &error);
            assert!(!error.may_have_executed());
            assert_eq!(
                error.to_string(),
                format!("POST {url}/: the timeout of 300ms passed before the request was sent")
            );
            assert_nothing_left(before, url);
        }
        return;
    }
    let silent = Server::start(until_closed);
    // The header of a handshake record, and a drip of what it announces.
    let drip = Server::start(|stream| {
        let bytes = [22, 3, 3, 0x3f, 0xff, 2, 0, 0x3f, 0xfb].into_iter();
        for byte in bytes.chain(std::iter::repeat(3)) {
            if stream.write_all(&[byte]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        until_closed(stream)
    });
    let untrusted = tls(Authority::new().config("localhost", Days::Now), |_| Vec::new());
    let urls = [https(&untrusted), https(&silent), https(&drip)];
    let test = "a_stalled_handshake_ends_in_time_and_leaves_nothing_behind";
    assert_passes(this_test_alone(test, &urls));
    for server in [silent, drip] {
        let received = server.ended();
        assert_eq!(received.len(), 1);
        assert_eq!(record_types(&received[0]), [22]);
    }
}

#[test]
fn a_response_that_is_not_tls_is_final() {
    let no_tls = "the server does not speak TLS: check the port, and what stands in between";
    let no_agreement = "the server and this device don't agree on TLS: this crate speaks 1.2 and \
                        1.3, with AES-GCM or ChaCha20 and ECDHE (X25519, P-256 or P-384), and has \
                        no client certificate";
    let no_host = "the server does not serve this host name (SNI): check the host in the URL";
    for (garbage, why) in [
        (&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], no_tls),
        (b"SSH-2.0-OpenSSH_9.2\r\n", no_tls),
        (&[0; 64], no_tls),
        (&[21, 3, 3, 0, 2, 2, 40], no_agreement), // alert: handshake_failure
        // A peer that speaks TLS 1.1 only, and says so in one way or the other.
        (&[21, 3, 2, 0, 2, 2, 70], no_agreement), // alert: protocol_version
        (&tls_1_1_hello(), no_agreement),
        (&[21, 3, 3, 0, 2, 2, 112], no_host), // alert: unrecognized_name
    ] {
        let garbage = garbage.to_vec();
        let server = Server::start(move |stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&garbage);
            until_closed(stream)
        });
        let url = https(&server);
        let error = session(&url).retries(2).get("/").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exchange);
        assert_eq!(error.to_string(), format!("GET {url}/: {why}"));
        assert!(!error.may_have_executed());
        assert_eq!(server.ended().len(), 1);
    }
}

#[test]
fn a_close_inside_the_handshake_is_retried() {
    let server = Server::start(|stream| {
        let _ = stream.read(&mut [0; 4096]);
        Vec::new()
    });
    let error = session(&https(&server)).retries(1).get("/").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exchange);
    assert!(!error.may_have_executed());
    assert_eq!(server.ended().len(), 2);
}

#[test]
fn an_application_keeps_its_own_provider() {
    if let [url] = &urls()[..] {
        let mut own = ring::default_provider();
        own.cipher_suites.truncate(1);
        let kept = own.cipher_suites.clone();
        own.install_default().unwrap();
        let _ = text(url);
        let provider = CryptoProvider::get_default().unwrap();
        assert_eq!(provider.cipher_suites, kept);
        return;
    }
    let server = tls(Authority::new().config("localhost", Days::Now), |_| Vec::new());
    let test = "an_application_keeps_its_own_provider";
    assert_passes(this_test_alone(test, &[https(&server)]));
    assert_eq!(server.ended().len(), 1);
}

#[test]
fn no_provider_is_installed_for_the_process() {
    if let [url] = &urls()[..] {
        let error = text(url).unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(CryptoProvider::get_default().is_none());
        return;
    }
    let server = tls(Authority::new().config("localhost", Days::Now), |_| Vec::new());
    let test = "no_provider_is_installed_for_the_process";
    assert_passes(this_test_alone(test, &[https(&server)]));
    assert_eq!(server.ended().len(), 1);
}

// Responses in front of a fault of the connection

/// A session that trusts this issuer.
fn trusts(authority: &Authority, server: &Server) -> Session {
    let session = session(&https(server)).root_certificates(authority.pem.as_bytes());
    session.unwrap().retries(0).timeout(PATIENCE)
}

/// What these bytes are as TLS records.
fn sealed(stream: &mut wire::tls::Stream, bytes: &[u8]) -> Vec<u8> {
    stream.conn.writer().write_all(bytes).unwrap();
    let mut records = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut records).unwrap();
    }
    records
}

#[test]
fn what_stands_before_a_record_that_cannot_be_read_counts() {
    let authority = Authority::new();
    for (status, kept) in [("201 Created", true), ("409 Conflict", false)] {
        let server = tls(authority.config("localhost", Days::Now), move |stream| {
            let received = request(stream);
            let mut all = sealed(stream, &response(status, "", "booking 4711"));
            all.extend([23, 3, 3, 0, 17]);
            all.extend([7; 17]);
            stream.sock.write_all(&all).unwrap();
            let _ = stream.sock.shutdown(Shutdown::Write);
            let _ = until_closed(&mut stream.sock);
            received
        });
        let result = trusts(&authority, &server).post("/", "text/plain", "create");
        if kept {
            assert_eq!(result.unwrap().text().unwrap(), "booking 4711");
        } else {
            let error = result.unwrap_err();
            assert_eq!(error.status(), Some(409), "{error:?}");
            assert_eq!(error.content(), Some(&b"booking 4711"[..]));
        }
        assert_eq!(server.ended().len(), 1);
    }
}

#[test]
fn a_refusal_of_a_large_request_is_seen_although_the_server_has_gone() {
    let authority = Authority::new();
    let server = tls(authority.config("localhost", Days::Now), |stream| {
        let mut begin = [0; 1024];
        stream.read_exact(&mut begin).unwrap();
        // Until the client can send no more.
        thread::sleep(Duration::from_millis(20));
        let all = sealed(stream, &response("413 Content Too Large", "", "at most 1 MB"));
        let _ = stream.sock.write_all(&all);
        begin.to_vec()
    });
    let content = vec![b'x'; 8 << 20];
    for _ in 0..10 {
        let error = trusts(&authority, &server).post("/", "text/plain", &content).unwrap_err();
        assert_eq!(error.status(), Some(413), "{error:?}");
        assert_eq!(error.content(), Some(&b"at most 1 MB"[..]));
    }
}

#[test]
fn a_required_client_certificate_is_named_and_final() {
    let authority = Authority::new();
    let certificate = "the server requires a client certificate, which this crate does not support";
    // In TLS 1.3 the server says so in place of a response.
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = authority.config_for_certified("localhost", version);
        let server = tls(config, |_| unreachable!("the handshake fails"));
        let session = trusts(&authority, &server).retries(2);
        // A token request fails in the same way.
        session.invalidate("token");
        let small = session.post("/", "text/plain", "booking");
        let session = session.resume("token", PATIENCE).unwrap();
        let large = vec![b'x'; 8 << 20];
        for result in [
            small,
            session.get("/"),
            session.post("/", "text/plain", "booking"),
            session.post("/", "text/plain", &large),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exchange);
            assert!(error.to_string().ends_with(certificate), "{error:#}");
            assert!(!error.may_have_executed());
        }
        assert_eq!(session.counts().connections, 4);
        drop(session);
        server.ended();
    }
}

/// In children that trust the test's own issuer.
mod trusted {
    use super::wire::tls::{finish, rest};
    use super::wire::{lengths, request, response};
    use super::*;

    const UNKNOWN: &str = if cfg!(feature = "system-roots") {
        "the issuer of the server's certificate is not among this system's roots; \
         Session::root_certificates trusts more"
    } else {
        "the issuer of the server's certificate is not among the compiled-in roots; \
         Session::root_certificates trusts more, and the feature system-roots trusts this system's \
         roots instead"
    };

    /// What the crate's documentation asks for at least.
    const STACK: usize = if cfg!(debug_assertions) { 100 } else { 50 } * 1024;

    #[test]
    fn a_token_is_requested_and_calls_are_made_over_tls() {
        if let [tls13, tls12] = &urls()[..] {
            let call = |url: &str| {
                let session = trusting(Session::new(url, "id", "secret").unwrap());
                let response = session.get("/shipments").unwrap();
                assert_eq!(response.text().unwrap(), "GET /shipments HTTP/1.1");
                let response = session.post("/bookings", "text/plain", "create").unwrap();
                assert_eq!(response.text().unwrap(), "POST /bookings HTTP/1.1");
            };
            thread::scope(|scope| {
                for url in [tls13, tls12] {
                    let small = thread::Builder::new().stack_size(STACK);
                    small.spawn_scoped(scope, || call(url)).unwrap();
                }
            });
            return;
        }
        let authority = Authority::new();
        let config = authority.config("localhost", Days::Now);
        let old = authority.config_of("localhost", Days::Now, &[&rustls::version::TLS12]);
        let servers = [config, old].map(|config| {
            tls(config, |stream| {
                let received = request(stream);
                let line = String::from_utf8(received.clone()).unwrap();
                let line = line.lines().next().unwrap();
                let token = r#"{"access_token":"abc","token_type":"Bearer","expires_in":600}"#;
                let is_token = line.starts_with("POST /oauth2/token ");
                finish(stream, &response("200 OK", "", if is_token { token } else { line }));
                received
            })
        });
        let urls = servers.each_ref().map(https);
        let test = "trusted::a_token_is_requested_and_calls_are_made_over_tls";
        assert_passes(authority.trusting(this_test_alone(test, &urls)));
        for server in servers {
            assert_eq!(server.ended().len(), 3);
        }
    }

    // Only there `SSL_CERT_FILE` replaces the system's roots.
    #[cfg(all(feature = "system-roots", unix, not(target_vendor = "apple")))]
    #[test]
    fn the_system_s_roots_are_trusted_and_more_than_these_on_demand() {
        if let [url, other, root] = &urls()[..] {
            assert_eq!(text(url).unwrap(), "good");
            let refused = text(other).unwrap_err();
            assert_eq!(refused.to_string(), format!("GET {other}/: {UNKNOWN}"));
            let root = std::fs::read(root).unwrap();
            for url in [url, other] {
                let session = session(url).root_certificates(&root).unwrap();
                assert_eq!(session.get("/").unwrap().text().unwrap(), "good");
            }
            return;
        }
        let (system, more) = (Authority::new(), Authority::new());
        let servers = [&system, &more].map(|authority| {
            tls(authority.config("localhost", Days::Now), |stream| {
                let received = request(stream);
                finish(stream, &response("200 OK", "", "good"));
                received
            })
        });
        let [url, other] = servers.each_ref().map(https);
        let root = more.file().to_str().unwrap().to_owned();
        let test = "trusted::the_system_s_roots_are_trusted_and_more_than_these_on_demand";
        assert_passes(system.as_system(this_test_alone(test, &[url, other, root])));
    }

    #[test]
    fn refused_certificates_are_final_and_each_message_says_why() {
        if let [expired, early, other, unknown] = &urls()[..] {
            let clock = ", or this device's clock is wrong: it says DATE";
            for (url, why) in [
                (expired, format!("the server's certificate has expired{clock}")),
                (early, format!("the server's certificate is not valid yet{clock}")),
                (
                    other,
                    "the server's certificate is for another host name: check the host in the URL"
                        .into(),
                ),
                (unknown, UNKNOWN.into()),
            ] {
                let error = session(url).retries(2).get("/").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Exchange);
                assert!(!error.may_have_executed());
                let message = error.to_string();
                let said = message.strip_prefix(&format!("GET {url}/: ")).unwrap();
                // An HTTP-date, such as `Thu, 26 Nov 2026 13:49:33 GMT`.
                let said = match said.split_once(" says ") {
                    Some((begin, date)) if date.len() == 29 && date.ends_with(" GMT") => {
                        format!("{begin} says DATE")
                    }
                    _ => said.to_owned(),
                };
                assert_eq!(said, why);
            }
            return;
        }
        let authority = Authority::new();
        let servers = [
            authority.config("localhost", Days::Past),
            authority.config("localhost", Days::Future),
            authority.config("api.example.com", Days::Now),
            Authority::new().config("localhost", Days::Now),
        ]
        .map(|config| tls(config, |_| Vec::new()));
        let urls = servers.each_ref().map(https);
        let test = "trusted::refused_certificates_are_final_and_each_message_says_why";
        assert_passes(authority.trusting(this_test_alone(test, &urls)));
        for server in servers {
            assert_eq!(server.ended().len(), 1);
        }
    }

    #[test]
    fn stalls_behind_the_handshake_end_in_time_and_may_have_executed() {
        if let [good, rest @ ..] = &urls()[..] {
            assert_eq!(text(good).unwrap(), "good");
            let before = held();
            for url in rest {
                let start = Instant::now();
                let session = session(url).timeout(TIMEOUT);
                let result = session.post("/", "text/plain", "create");
                let error = result.and_then(jas_session::Response::bytes).unwrap_err();
                assert_in_time(start, &error);
                assert!(error.may_have_executed());
                assert_nothing_left(before, url);
            }
            return;
        }
        let authority = Authority::new();
        let config = || authority.config("localhost", Days::Now);
        let good = tls(config(), |stream| {
            let received = request(stream);
            finish(stream, &response("200 OK", "", "good"));
            received
        });
        let silent = tls(config(), |stream| {
            let received = request(stream);
            [received, rest(stream)].concat()
        });
        // Whole records, each with one byte of the head. Then one record that comes a byte at a time:
        // of the head, and of the content.
        let small = tls(config(), |stream| {
            let received = request(stream);
            let bytes = b"HTTP/1.1 200 OK\r\nX-A: ".iter();
            for byte in bytes.chain(std::iter::repeat(&b'x')) {
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            received
        });
        let [head, content] = [0, 1].map(|sent| {
            tls(config(), move |stream| {
                let received = request(stream);
                if sent > 0 {
                    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n";
                    stream.write_all(head).unwrap();
                }
                stream.conn.writer().write_all(&[b'x'; 9000]).unwrap();
                let mut record = Vec::new();
                while stream.conn.wants_write() {
                    stream.conn.write_tls(&mut record).unwrap();
                }
                for byte in record {
                    if stream.sock.write_all(&[byte]).is_err() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(10));
                }
                received
            })
        });
        let servers = [good, silent, small, head, content];
        let urls = servers.each_ref().map(https);
        let test = "trusted::stalls_behind_the_handshake_end_in_time_and_may_have_executed";
        assert_passes(authority.trusting(this_test_alone(test, &urls)));
        for server in servers {
            assert_eq!(server.ended().len(), 1);
        }
    }

    #[test]
    fn long_heads_and_contents_pass_in_large_records() {
        const LENGTHS: [usize; 3] = [1_000, 15_000, 20_000];
        let content = "x".repeat(1 << 20);
        if let [url] = &urls()[..] {
            let failed: Vec<_> = LENGTHS
                .into_iter()
                .filter_map(|length| {
                    let session = session(url).header("X-Length", &length.to_string()).unwrap();
                    match session.get("/").and_then(jas_session::Response::text) {
                        Ok(text) => {
                            assert!(text == content);
                            None
                        }
                        Err(error) => Some((length, error.to_string())),
                    }
                })
                .collect();
            assert_eq!(failed, []);
            return;
        }
        let authority = Authority::new();
        let server = tls(authority.config("localhost", Days::Now), move |stream| {
            let received = request(stream);
            let length = lengths(&received)[0];
            let begin = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-A: ", content.len());
            let value = "y".repeat(length - begin.len() - 4);
            finish(stream, format!("{begin}{value}\r\n\r\n{content}").as_bytes());
            received
        });
        let test = "trusted::long_heads_and_contents_pass_in_large_records";
        assert_passes(authority.trusting(this_test_alone(test, &[https(&server)])));
    }

    #[test]
    fn chunks_pass_however_they_lie_in_records() {
        let sizes = [1, 100, 4096, 8000, 16_000, 40_000];
        // The second ends before the line end of a chunk of 4096, and the third is a full one.
        let records = [47, 4102, 16_384, 1369, 4229, 8_000];
        if let [url] = &urls()[..] {
            for (i, size) in sizes.iter().enumerate() {
                let session = session(url).header("X-Case", &i.to_string()).unwrap();
                let text = session.get("/").unwrap().text().unwrap();
                assert_eq!(text.len(), 200_000, "{size}");
            }
            return;
        }
        let authority = Authority::new();
        let server = tls(authority.config("localhost", Days::Now), move |stream| {
            let received = request(stream);
            let text = String::from_utf8_lossy(&received);
            let (_, rest) = text.split_once("X-Case: ").unwrap();
            let size = sizes[rest.lines().next().unwrap().parse::<usize>().unwrap()];
            let mut all = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in vec![b'x'; 200_000].chunks(size) {
                all.extend(format!("{:x}\r\n", chunk.len()).bytes());
                all.extend(chunk);
                all.extend(b"\r\n");
            }
            all.extend(b"0\r\n\r\n");
            let mut left = &all[..];
            for record in records.iter().cycle() {
                let (record, rest) = left.split_at((*record).min(left.len()));
                stream.write_all(record).unwrap();
                left = rest;
                if left.is_empty() {
                    break;
                }
            }
            finish(stream, b"");
            received
        });
        let test = "trusted::chunks_pass_however_they_lie_in_records";
        assert_passes(authority.trusting(this_test_alone(test, &[https(&server)])));
    }
}

// Helpers

/// A `ServerHello` of TLS 1.1, with `TLS_RSA_WITH_AES_128_CBC_SHA`.
fn tls_1_1_hello() -> Vec<u8> {
    let hello = [&[3, 2][..], &[7; 32], &[0], &[0, 0x2f], &[0]].concat();
    let length = u8::try_from(hello.len()).unwrap();
    [&[22, 3, 2, 0, length + 4, 2, 0, 0, length], &hello[..]].concat()
}

/// The content types of TLS records.
fn record_types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = bytes {
        types.push(*kind);
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        bytes = rest.get(length..).unwrap_or_default();
    }
    types
}
