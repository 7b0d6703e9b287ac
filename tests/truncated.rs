//! Responses and requests that are truncated at every byte: no truncated response is taken for a whole
//! one, no request is sent twice, and each error tells what may have been executed.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use jas_session::{Error, ErrorKind, Response, Session};

#[path = "support/wire/mod.rs"]
mod wire;
use wire::{request, respond, response, trusting, until_closed, Server, PATIENCE};

const CONTENT: &str = "all of the content";
const TOKEN: &str = r#"{"access_token":"t0ken","token_type":"Bearer","expires_in":600}"#;
const SECRET: &str = "s3cret";

/// How the end of the content is marked.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
}

use Framing::{Chunked, Length, UntilClose};

const FRAMINGS: [Framing; 3] = [Length, Chunked, UntilClose];

impl Framing {
    /// The response with this content, and where the content begins in it.
    fn of(self, content: &str) -> (Vec<u8>, usize) {
        let all = match self {
            Length => response("200 OK", "X-A: b\r\n", content),
            Chunked => {
                let (first, second) = content.split_at(11);
                format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n\
                     {:x};x=y\r\n{second}\r\n0\r\nX-B: c\r\n\r\n",
                    first.len(),
                    second.len()
                )
                .into_bytes()
            }
            UntilClose => format!("HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n{content}").into_bytes(),
        };
        let head = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        (all, head)
    }

    /// HTTP itself cannot show that content is truncated if it ends with the connection.
    fn hides(self, at: usize, head: usize) -> bool {
        self == UntilClose && at >= head
    }
}

/// How the server closes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Close,
    Reset,
}

/// Ends a connection with the response's first bytes. What is left unread makes a close a reset.
fn truncate(stream: &mut TcpStream, begin: &[u8], end: End) {
    respond(stream, begin);
    if end == End::Close {
        let _ = stream.shutdown(Shutdown::Write);
        let _ = until_closed(stream);
    }
}

fn session(url: &str) -> Session {
    trusting(Session::new(url, "id", SECRET).unwrap()).timeout(PATIENCE)
}

fn with_token(url: &str) -> Session {
    let session = session(url).resume("t0ken", PATIENCE * 30).unwrap();
    session.api_key("k3y").unwrap()
}

fn book(session: &Session) -> Result<Vec<u8>, Error> {
    let result = session.post("/bookings", "text/plain", "create");
    result.and_then(Response::bytes)
}

fn assert_error(error: &Error, kind: ErrorKind, what: &str) {
    assert_eq!(error.kind(), kind, "{what}: {error:?}");
    let said = format!("{error} {error:?}");
    for secret in ["t0ken", SECRET, "k3y"] {
        assert!(!said.contains(secret), "{what}: {said}");
    }
}

/// Runs these numbers on a few threads, which share the work.
fn for_each(numbers: Range<usize>, threads: usize, run: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(numbers.start);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= numbers.end {
                    break;
                }
                run(number);
            });
        }
    });
}

// Over plain HTTP

#[test]
fn a_response_truncated_at_any_byte_is_an_error_unless_http_cannot_show_it() {
    truncate_everywhere(End::Close);
}

#[test]
fn a_response_reset_at_any_byte_is_whole_or_an_error() {
    truncate_everywhere(End::Reset);
}

fn truncate_everywhere(end: End) {
    for framing in FRAMINGS {
        let (all, head) = framing.of(CONTENT);
        for_each(0..all.len() + 1, 4, |at| {
            let what = format!("{framing:?} {end:?} {at}");
            let begin = all[..at].to_vec();
            let server = Server::start(move |stream| {
                let received = match end {
                    End::Close => request(stream),
                    End::Reset => {
                        let mut received = [0; 16];
                        stream.read_exact(&mut received).unwrap();
                        stream.peek(&mut [0]).unwrap();
                        received.to_vec()
                    }
                };
                truncate(stream, &begin, end);
                received
            });
            match book(&with_token(&server.url())) {
                // A reset may overtake what was sent before it.
                Err(error) if end == End::Reset || at < all.len() => {
                    assert_error(&error, ErrorKind::Exchange, &what);
                    assert!(error.may_have_executed(), "{what}");
                    assert!(end == End::Reset || !framing.hides(at, head), "{what}");
                }
                Ok(content) if framing.hides(at, head) && end == End::Close => {
                    assert_eq!(content, all[head..at], "{what}");
                }
                result => assert_eq!(result.expect(&what), CONTENT.as_bytes(), "{what}"),
            }
            assert_eq!(server.ended().len(), 1, "{what}");
        });
    }
}

#[test]
fn a_head_truncated_at_any_byte_is_a_failed_exchange() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\n\r\n";
    for line_end in ["\r\n", "\n"] {
        let head = head.replace("\r\n", line_end);
        for at in 0..head.len() {
            let server = Server::responding(&head.as_bytes()[..at]);
            let error = wire::session(&server.url()).get("/").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exchange, "truncated at {at}");
            assert!(error.may_have_executed());
        }
        let server = Server::responding(head.as_bytes());
        assert_eq!(wire::text(&server.url()).unwrap(), "");
    }
}

#[test]
fn a_token_response_truncated_at_any_byte_gives_no_token() {
    for framing in FRAMINGS {
        let (all, head) = framing.of(TOKEN);
        for_each(0..all.len() + 1, 4, |at| {
            let what = format!("{framing:?} {at}");
            let begin = all[..at].to_vec();
            let server = Server::start(move |stream| {
                let received = request(stream);
                if received.starts_with(b"POST /oauth2/token ") {
                    truncate(stream, &begin, End::Close);
                } else {
                    respond(stream, &response("200 OK", "", CONTENT));
                }
                received
            });
            let result = book(&session(&server.url()).retries(0));
            if at == all.len() {
                assert_eq!(result.unwrap(), CONTENT.as_bytes());
                assert_eq!(server.ended().len(), 2);
                return;
            }
            let error = result.unwrap_err();
            let kind =
                if framing.hides(at, head) { ErrorKind::InvalidToken } else { ErrorKind::Exchange };
            assert_error(&error, kind, &what);
            assert!(!error.may_have_executed(), "{what}");
            assert_eq!(server.ended().len(), 1, "{what}");
        });
    }
}

#[test]
fn a_server_that_closes_at_any_byte_of_the_request_gets_it_once() {
    let server = Server::responding(&response("200 OK", "", ""));
    book(&with_token(&server.url())).unwrap();
    let length = server.ended()[0].len();
    // A port with a digit less makes the field `Host` shorter.
    for_each(0..length, 4, |at| {
        for end in [End::Close, End::Reset] {
            let server = Server::start(move |stream| {
                let mut received = vec![0; at];
                stream.read_exact(&mut received).unwrap();
                truncate(stream, b"", end);
                received
            });
            let error = book(&with_token(&server.url())).unwrap_err();
            assert_error(&error, ErrorKind::Exchange, &format!("{at}"));
            // Nobody can know how much of it the server had read.
            assert!(error.may_have_executed(), "{at}");
            assert_eq!(server.ended().len(), 1, "{at}");
        }
    });
}

/// In child processes that trust the test's own issuer.
#[cfg(feature = "tls")]
mod encrypted {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};

    use super::wire::tls::{finish, https, tls, Authority, Days};
    use super::wire::{assert_passes, lengths, this_test_alone, urls};
    use super::*;

    /// In the parent process: runs this test in a child, which gets the authority that it trusts.
    fn in_child(test: &str) -> Option<Authority> {
        if urls().is_empty() {
            let child = this_test_alone(test, &["child".to_owned()]);
            assert_passes(Authority::new().trusting(child));
            return None;
        }
        Some(Authority::trusted())
    }

    /// Lets so many bytes pass, and closes.
    struct Limited<'a> {
        stream: &'a mut TcpStream,
        left: usize,
        /// More was written than may pass.
        is_over: bool,
    }

    impl Read for Limited<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.stream.read(buffer)
        }
    }

    impl Write for Limited<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = self.left.min(bytes.len());
            self.stream.write_all(&bytes[..n])?;
            self.left -= n;
            if n < bytes.len() {
                self.is_over = true;
                let _ = self.stream.shutdown(Shutdown::Write);
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Reads what the client says, though nothing can be written any more.
    struct Listening<'a>(&'a mut ServerConnection, &'a mut TcpStream);

    impl Read for Listening<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            loop {
                match self.0.reader().read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                }
                self.0.read_tls(self.1)?;
                self.0.process_new_packets().map_err(io::Error::other)?;
            }
        }
    }

    /// What became of a connection.
    struct Outcome {
        request: Vec<u8>,
        /// All of the response was sent, and all of the end of TLS.
        is_responded: bool,
        is_ended: bool,
        /// How much more could have been sent before the response, and after the end.
        left: [usize; 2],
    }

    /// Responds to the first request, and ends TLS in order, as far as the limit lets it.
    fn serve(
        stream: &mut TcpStream, config: &Arc<ServerConfig>, all: &[u8], limit: usize,
    ) -> Outcome {
        let mut connection = ServerConnection::new(Arc::clone(config)).unwrap();
        let mut limited = Limited { stream, left: limit, is_over: false };
        while connection.is_handshaking() && connection.complete_io(&mut limited).is_ok() {}
        let mut received = Vec::new();
        if !connection.is_handshaking() {
            received = request(&mut Listening(&mut connection, limited.stream));
        }
        let left = limited.left;
        let _ = connection.writer().write_all(all);
        while connection.wants_write() && connection.write_tls(&mut limited).is_ok() {}
        let is_responded = !limited.is_over;
        connection.send_close_notify();
        while connection.wants_write() && connection.write_tls(&mut limited).is_ok() {}
        let _ = limited.stream.shutdown(Shutdown::Write);
        let _ = until_closed(limited.stream);
        Outcome {
            request: received,
            is_responded,
            is_ended: !limited.is_over,
            left: [left, limited.left],
        }
    }

    fn config(
        authority: &Authority, version: &'static SupportedProtocolVersion,
    ) -> Arc<ServerConfig> {
        let config = authority.config_of("localhost", Days::Now, &[version]);
        let mut config = Arc::unwrap_or_clone(config);
        // Each handshake is to be a full one.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Arc::new(config)
    }

    /// Calls servers that truncate what they send, each one byte later than the one before: in the
    /// handshake, too, or only after it. A call gives `expected` if, and only if, its response was
    /// whole.
    fn truncate_everywhere(
        config: &Arc<ServerConfig>, has_handshake: bool, framing: Framing, content: &str,
        expected: &str, call: impl Fn(&str) -> Result<Vec<u8>, Error> + Sync,
    ) {
        const ENDLESS: usize = usize::MAX;
        let (all, _) = framing.of(content);
        let run = |at| {
            let what = format!("{framing:?} truncated at {at}");
            let outcome = Arc::new(Mutex::new(None));
            let server = {
                let (config, all, outcome) =
                    (Arc::clone(config), all.clone(), Arc::clone(&outcome));
                Server::start(move |stream| {
                    *outcome.lock().unwrap() = Some(serve(stream, &config, &all, at));
                    Vec::new()
                })
            };
            let result = call(&https(&server));
            assert_eq!(server.ended().len(), 1, "{what}");
            let outcome = outcome.lock().unwrap().take().unwrap();
            let is_whole = match framing {
                Length | Chunked => outcome.is_responded,
                // The end of TLS is that of the content.
                UntilClose => outcome.is_ended,
            };
            match result {
                Ok(content) => {
                    assert!(is_whole, "{what}");
                    assert_eq!(content, expected.as_bytes(), "{what}");
                }
                Err(error) => {
                    assert!(!is_whole, "{what}: {error:?}");
                    assert_error(&error, ErrorKind::Exchange, &what);
                    // The server reads on, so it has received what was sent.
                    let is_booking = outcome.request.ends_with(b"create");
                    assert_eq!(error.may_have_executed(), is_booking, "{what}");
                }
            }
            outcome.left
        };
        // The length of a signature varies by a few bytes.
        let [handshake, length] = run(ENDLESS).map(|left| ENDLESS - left);
        let begin = if has_handshake { 0 } else { handshake - 8 };
        println!("{framing:?}: {begin} to {length}");
        for_each(begin..length + 8, 4, |at| {
            run(at);
        });
    }

    #[test]
    fn a_response_truncated_at_any_byte_is_an_error() {
        let Some(authority) = in_child("encrypted::a_response_truncated_at_any_byte_is_an_error")
        else {
            return;
        };
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let config = config(&authority, version);
            for framing in FRAMINGS {
                // The handshake is the same for all.
                truncate_everywhere(&config, framing == Length, framing, CONTENT, CONTENT, |url| {
                    book(&with_token(url).retries(0))
                });
            }
        }
    }

    #[test]
    fn a_token_response_truncated_at_any_byte_gives_no_token() {
        let Some(authority) =
            in_child("encrypted::a_token_response_truncated_at_any_byte_gives_no_token")
        else {
            return;
        };
        let config = config(&authority, &rustls::version::TLS13);
        for framing in FRAMINGS {
            truncate_everywhere(&config, framing == Length, framing, TOKEN, "t0ken", |url| {
                let token = session(url).retries(0).access_token();
                token.map(String::into_bytes)
            });
        }
    }

    #[test]
    fn a_response_truncated_without_close_notify_is_an_error() {
        let framed = [
            String::from_utf8(response("200 OK", "", CONTENT)).unwrap(),
            format!("HTTP/1.1 200 OK\r\nServer: x\r\n\r\n{CONTENT}"),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nall of\r\nc\r\n the \
             content\r\n0\r\n\r\n"
                .into(),
        ];
        if let [url] = &urls()[..] {
            for (i, all) in framed.iter().enumerate() {
                // Only a content with a length is whole without close_notify.
                let whole = all.len() - usize::from(i == 0);
                for at in (0..=whole).filter(|at| at % 3 == 0 || whole - at < 6) {
                    let mut session = wire::session(url);
                    session = session.header("X-Length", &format!("{i} {at}")).unwrap();
                    let result = session.get("/").and_then(Response::bytes);
                    if i == 2 && at == whole {
                        assert_eq!(result.unwrap(), CONTENT.as_bytes());
                        continue;
                    }
                    let error = result.expect_err(&format!("{i} {at}"));
                    assert_eq!(error.kind(), ErrorKind::Exchange, "{i} {at}");
                    assert!(error.may_have_executed());
                }
                let whole = wire::session(url).header("X-Length", &format!("{i} 999")).unwrap();
                let response = whole.get("/").unwrap();
                assert_eq!(response.text().unwrap(), CONTENT);
            }
            return;
        }
        let authority = Authority::new();
        let server = tls(authority.config("localhost", Days::Now), move |stream| {
            let received = request(stream);
            let numbers = lengths(&received);
            let all = framed[numbers[0]].as_bytes();
            if let Some(begin) = all.get(..numbers[1]) {
                stream.write_all(begin).unwrap();
                let _ = stream.sock.shutdown(Shutdown::Write);
                let _ = until_closed(&mut stream.sock);
            } else {
                finish(stream, all);
            }
            received
        });
        let test = "encrypted::a_response_truncated_without_close_notify_is_an_error";
        assert_passes(authority.trusting(this_test_alone(test, &[https(&server)])));
    }

    /// As a proxy ends TLS when the server behind it goes away.
    #[test]
    fn a_response_truncated_by_an_orderly_end_of_tls_is_an_error_unless_http_cannot_show_it() {
        let test = "encrypted::a_response_truncated_by_an_orderly_end_of_tls_is_an_error_unless_http_cannot_show_it";
        let Some(authority) = in_child(test) else {
            return;
        };
        let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
        for (version, framing) in
            [(0, Length), (0, Chunked), (0, UntilClose), (1, Chunked), (1, UntilClose)]
        {
            let config = config(&authority, versions[version]);
            let (all, head) = framing.of(CONTENT);
            for_each(0..all.len() + 1, 16, |at| {
                let what = format!("{version} {framing:?} {at}");
                let begin = all[..at].to_vec();
                let server = tls(Arc::clone(&config), move |stream| {
                    let received = request(stream);
                    // Two bytes make records as short as the end of TLS.
                    for piece in begin.chunks(if at % 2 == 0 { 2 } else { 1000 }) {
                        stream.write_all(piece).unwrap();
                    }
                    finish(stream, b"");
                    received
                });
                match book(&with_token(&https(&server)).retries(0)) {
                    Err(error) => {
                        assert_error(&error, ErrorKind::Exchange, &what);
                        assert!(error.may_have_executed(), "{what}");
                        assert!(at < all.len() && !framing.hides(at, head), "{what}: {error:?}");
                    }
                    Ok(content) if framing.hides(at, head) => {
                        assert_eq!(content, all[head..at], "{what}");
                    }
                    Ok(content) => {
                        assert_eq!(at, all.len(), "{what}");
                        assert_eq!(content, CONTENT.as_bytes(), "{what}");
                    }
                }
                assert_eq!(server.ended().len(), 1);
            });
        }
    }

    /// As of servers that do not end TLS: the last record may be as short as that end.
    #[test]
    fn content_with_a_length_needs_no_end_of_tls() {
        let test = "encrypted::content_with_a_length_needs_no_end_of_tls";
        let Some(authority) = in_child(test) else {
            return;
        };
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let config = config(&authority, version);
            for content in ["", "1", "{}", "123"] {
                for pieces in [1, 2] {
                    let server = tls(Arc::clone(&config), move |stream| {
                        let received = request(stream);
                        let all = response("200 OK", "", content);
                        let (head, rest) = all.split_at(all.len() - content.len());
                        let parts = [head, rest];
                        for part in parts.chunks(3 - pieces) {
                            stream.write_all(&part.concat()).unwrap();
                        }
                        let _ = stream.sock.shutdown(Shutdown::Write);
                        [received, until_closed(&mut stream.sock)].concat()
                    });
                    let result = book(&with_token(&https(&server)));
                    assert_eq!(result.unwrap(), content.as_bytes(), "{version:?} {pieces}");
                }
            }
        }
    }

    /// The request has been sent by then. It must neither be retried nor be taken for unsent.
    #[test]
    fn a_truncation_behind_a_second_server_hello_is_an_error() {
        use rustls::crypto::ring::{default_provider, kx_group};
        let test = "encrypted::a_truncation_behind_a_second_server_hello_is_an_error";
        let Some(authority) = in_child(test) else {
            return;
        };
        let chunks = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        let head = "X-A: b\r\n";
        // The client begins with the key exchange group of the server before, which is never the right
        // one. So the server says hello twice, with a change of the cipher in between.
        for (group, rest) in [
            (kx_group::SECP384R1, chunks),
            (kx_group::X25519, chunks),
            (kx_group::SECP384R1, head),
            (kx_group::X25519, head),
        ] {
            let mut provider = default_provider();
            provider.kx_groups = vec![group];
            let certified = authority.config("localhost", Days::Now);
            let config = ServerConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::clone(&certified.cert_resolver));
            let response = format!("HTTP/1.1 200 OK\r\n{rest}");
            let server = tls(Arc::new(config), move |stream| {
                let received = request(stream);
                finish(stream, response.as_bytes());
                received
            });
            let error = book(&with_token(&https(&server)).retries(0)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exchange, "{error}");
            assert!(error.may_have_executed(), "{error}");
        }
    }

    #[test]
    fn a_server_that_half_closes_behind_the_handshake_gets_a_plain_post_once() {
        const CALLS: usize = 200;
        let test =
            "encrypted::a_server_that_half_closes_behind_the_handshake_gets_a_plain_post_once";
        let Some(authority) = in_child(test) else {
            return;
        };
        // Handshakes that take the client more and more time.
        let versions = [&rustls::version::TLS13];
        let configs: Vec<_> = (0..40)
            .map(|more| authority.config_with("localhost", Days::Now, &versions, 2 * more))
            .collect();
        let next = AtomicUsize::new(0);
        let server = Server::start(move |stream| {
            let number = next.fetch_add(1, Ordering::SeqCst);
            let config = &configs[number % configs.len()];
            let mut connection = ServerConnection::new(Arc::clone(config)).unwrap();
            // What the server sends in the handshake, and no more.
            while connection.is_handshaking() && !connection.wants_write() {
                connection.read_tls(stream).unwrap();
                connection.process_new_packets().unwrap();
            }
            while connection.wants_write() {
                connection.write_tls(stream).unwrap();
            }
            let _ = stream.shutdown(Shutdown::Write);
            let received = request(&mut Listening(&mut connection, stream));
            [received, until_closed(stream)].concat()
        });
        let session = with_token(&https(&server)).retries(1);
        for_each(0..CALLS, 8, |i| {
            let path = format!("/number/{i}/");
            let error = session.post(&path, "text/plain", "create").unwrap_err();
            assert_error(&error, ErrorKind::Exchange, &path);
            assert!(error.may_have_executed(), "{path}");
        });
        let received = server.ended();
        assert_eq!(received.len(), CALLS);
        let requests: Vec<_> =
            received.iter().map(|bytes| String::from_utf8_lossy(bytes)).collect();
        for i in 0..CALLS {
            let line = format!("POST /number/{i}/ ");
            let executed = requests.iter().filter(|request| request.contains(&line));
            assert_eq!(executed.count(), 1, "{i}");
        }
    }

    #[test]
    fn the_last_line_end_may_stand_in_a_record_of_its_own_and_the_server_stay() {
        let test =
            "encrypted::the_last_line_end_may_stand_in_a_record_of_its_own_and_the_server_stay";
        let Some(authority) = in_child(test) else {
            return;
        };
        let (all, _) = Chunked.of(CONTENT);
        let server = tls(config(&authority, &rustls::version::TLS13), move |stream| {
            let received = request(stream);
            let (begin, end) = all.split_at(all.len() - 2);
            stream.write_all(begin).unwrap();
            stream.write_all(end).unwrap();
            [received, until_closed(&mut stream.sock)].concat()
        });
        let start = Instant::now();
        let content = book(&with_token(&https(&server))).unwrap();
        assert_eq!(content, CONTENT.as_bytes());
        assert!(start.elapsed() < PATIENCE / 2);
    }
}
