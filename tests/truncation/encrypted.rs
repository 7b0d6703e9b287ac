//! Truncation within TLS: of the handshake, of records, and after unusual handshakes.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use rustls::crypto::ring::{default_provider, kx_group};
use rustls::crypto::SupportedKxGroup;
use rustls::version::TLS13;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};

use super::gate::for_each;
use super::wire::tls::{Authority, Days};
use super::wire::{request, until_closed, PATIENCE};
use super::*;

/// A session of its own with this server.
fn session(server: &Server) -> Session {
    let url = format!("https://{}", server.address);
    wire::with_token(site::trusting(wire::session_without_token(&url)))
}

/// Sends so many bytes, closes, and loses the rest.
struct Limited<'a> {
    stream: &'a mut TcpStream,
    left: usize,
    lost: usize,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.left.min(bytes.len());
        let _ = self.stream.write_all(&bytes[..n]);
        self.left -= n;
        if n < bytes.len() {
            self.lost += bytes.len() - n;
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

/// Responds to one request, and ends TLS in order, as far as the limit allows it.
fn serve(
    stream: &mut TcpStream, connection: &mut ServerConnection, all: &[u8], limit: usize,
) -> Outcome {
    let mut limited = Limited { stream, left: limit, lost: 0 };
    while connection.is_handshaking() && connection.complete_io(&mut limited).is_ok() {}
    let mut received = Vec::new();
    if !connection.is_handshaking() {
        received = request(&mut rustls::Stream::new(connection, &mut limited));
    }
    let before_response = limited.left;
    let mut send = |connection: &mut ServerConnection| {
        while connection.wants_write() {
            connection.write_tls(&mut limited).unwrap();
        }
        limited.lost == 0
    };
    connection.writer().write_all(all).unwrap();
    let is_responded = send(connection);
    connection.send_close_notify();
    let is_ended = send(connection);
    let _ = limited.stream.shutdown(Shutdown::Write);
    let _ = until_closed(limited.stream);
    let left = [before_response, limited.left];
    Outcome { request: received, is_responded, is_ended, left }
}

/// Truncates what a server sends one byte later for each call: in the handshake, too, or only
/// after it. A call succeeds if, and only if, its response was whole.
fn truncate_tls(over: Over, framing: Framing, in_handshake: bool) {
    const ENDLESS: usize = usize::MAX;
    let (all, _) = framing.of(CONTENT);
    let limit = Arc::new(AtomicUsize::new(ENDLESS));
    let (sender, outcomes) = mpsc::channel();
    let server = {
        let limit = Arc::clone(&limit);
        Server::start(move |stream| {
            let limit = limit.load(Ordering::SeqCst);
            let mut connection = ServerConnection::new(site::config(over)).unwrap();
            sender.send(serve(stream, &mut connection, &all, limit)).unwrap();
            Vec::new()
        })
    };
    let run = |at| {
        let what = format!("{over:?} {framing:?}: {at} bytes");
        limit.store(at, Ordering::SeqCst);
        // A session of its own, so that each handshake is a full one.
        let result = book(&session(&server));
        let outcome = outcomes.recv_timeout(PATIENCE).expect(&what);
        // The end of TLS is that of content without a length.
        let is_whole = if framing == UntilClose { outcome.is_ended } else { outcome.is_responded };
        match result {
            Ok(content) => {
                assert!(is_whole, "{what}");
                assert_eq!(content, CONTENT.as_bytes(), "{what}");
            }
            Err(error) => {
                assert!(!is_whole, "{what}: {error:?}");
                assert_eq!(error.kind(), ErrorKind::Exchange, "{what}: {error:?}");
                // The server has read on, so it has received what was sent.
                let was_sent = outcome.request.ends_with(b"create");
                assert_eq!(error.may_have_executed(), was_sent, "{what}");
            }
        }
        outcome.left
    };
    // The length of a signature varies by a few bytes.
    let [handshake, length] = run(ENDLESS).map(|left| ENDLESS - left);
    let begin = if in_handshake { 0 } else { handshake - 8 };
    let ends = begin..length + 8;
    let calls = ends.map(run).count();
    assert_eq!(server.ended().len(), 1 + calls);
}

#[test]
fn response_truncated_within_tls_is_an_error() {
    side_by_side([Over::Tls, Over::Tls12], |over| {
        // The handshake is the same for all. A record that is truncated gives no byte, so chunks are
        // as content with a length.
        truncate_tls(over, Length, true);
        truncate_tls(over, UntilClose, false);
    });
}

/// Some servers do not end TLS, and the last record may be as short as `close_notify`. Others stay.
#[test]
fn whole_content_needs_no_close_notify() {
    let mut rows = Vec::new();
    for content in ["", "1", "{}", "123"] {
        let all = response("200 OK", "", content);
        let head = all.len() - content.len();
        rows.push((content, all.clone(), 0, true));
        rows.push((content, all, head, true));
    }
    let (chunked, _) = Chunked.of(CONTENT);
    let last_line_end = chunked.len() - 2;
    rows.push((CONTENT, chunked, last_line_end, false));
    let start = Instant::now();
    for over in [Over::Tls, Over::Tls12] {
        let responses = rows.clone();
        let site = Site::start(over, move |mut peer| {
            peer.request().unwrap();
            let (_, all, record, is_closing) = &responses[peer.number];
            let (begin, end) = all.split_at(*record);
            peer.respond(begin);
            peer.respond(end);
            if *is_closing {
                peer.close_tcp();
            }
            peer.drain();
        });
        for (content, _, record, _) in &rows {
            let result = book(&site.session);
            assert_eq!(result.unwrap(), content.as_bytes(), "{over:?}: {record}");
        }
    }
    assert!(start.elapsed() < PATIENCE / 2);
}

/// The request has been sent by then. It must neither be retried nor be taken for unsent.
#[test]
fn truncation_after_a_second_server_hello_is_an_error() {
    const CHUNKS: &str = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    const ROWS: [(&dyn SupportedKxGroup, &str); 4] = [
        (kx_group::SECP384R1, CHUNKS),
        (kx_group::X25519, CHUNKS),
        (kx_group::SECP384R1, "X-A: b\r\n"),
        (kx_group::X25519, "X-A: b\r\n"),
    ];
    let next = AtomicUsize::new(0);
    // The client begins with the key exchange group of the call before, which is never the right
    // one. So the server says hello twice, with a change of the cipher in between.
    let server = Server::start(move |stream| {
        let (group, rest) = ROWS[next.fetch_add(1, Ordering::SeqCst)];
        let mut provider = default_provider();
        provider.kx_groups = vec![group];
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&site::config(Over::Tls).cert_resolver));
        let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
        let response = format!("HTTP/1.1 200 OK\r\n{rest}");
        let outcome = serve(stream, &mut connection, response.as_bytes(), usize::MAX);
        let kind = connection.handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::FullWithHelloRetryRequest));
        outcome.request
    });
    let session = session(&server);
    for (_, rest) in ROWS {
        assert_exchange_failed(&book(&session).unwrap_err(), rest);
    }
    assert_eq!(server.ended().len(), ROWS.len());
}

#[test]
fn post_after_a_half_closed_handshake_is_sent_once() {
    const CALLS: usize = 200;
    let authority = Authority::new();
    // Handshakes that take the client more and more time.
    let config = |n| authority.config_of("127.0.0.1", Days::Now, &[&TLS13], 1 + 2 * n);
    let configs: Vec<_> = (0..40_usize).map(config).collect();
    let next = AtomicUsize::new(0);
    let server = Server::start(move |stream| {
        let number = next.fetch_add(1, Ordering::SeqCst);
        let config = &configs[number % configs.len()];
        let mut connection = ServerConnection::new(Arc::clone(config)).unwrap();
        while connection.is_handshaking() && !connection.wants_write() {
            connection.read_tls(stream).unwrap();
            connection.process_new_packets().unwrap();
        }
        while connection.wants_write() {
            connection.write_tls(stream).unwrap();
        }
        // After its part of the handshake, the server sends nothing more.
        let _ = stream.shutdown(Shutdown::Write);
        let mut limited = Limited { stream, left: 0, lost: 0 };
        let received = request(&mut rustls::Stream::new(&mut connection, &mut limited));
        [received, until_closed(stream)].concat()
    });
    let session = session(&server).root_certificates(authority.pem.as_bytes()).unwrap();
    let session = wire::with_token(session.retries(1));
    for_each(0..CALLS, 8, |i| {
        let path = format!("/number/{i}/");
        let error = session.post(&path, "text/plain", "create").unwrap_err();
        assert_exchange_failed(&error, &path);
    });
    let received = server.ended();
    assert_eq!(received.len(), CALLS);
    let requests: Vec<_> = received.iter().map(|bytes| String::from_utf8_lossy(bytes)).collect();
    for i in 0..CALLS {
        let line = format!("POST /number/{i}/ ");
        let executed = requests.iter().filter(|request| request.contains(&line));
        assert_eq!(executed.count(), 1, "{i}");
    }
}
