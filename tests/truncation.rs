//! Responses and requests that are truncated at every byte, over plain HTTP and over TLS: no truncated
//! response is taken for a whole one, and no POST is sent twice.

use std::io::{self, Read, Write};
use std::sync::mpsc;

use jas_session::{Error, ErrorKind, Response, Session};

#[cfg(feature = "tls")]
#[path = "truncation/encrypted.rs"]
mod encrypted;
#[path = "support/gate/mod.rs"]
mod gate;
#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use gate::{get, serve_one};
use site::{good, Over, Peer, Site, BOTH, TOKEN_REQUEST};
use wire::{response, side_by_side, Server};

const CONTENT: &str = "all of the content";
const TOKEN: &str = r#"{"access_token":"t0ken","token_type":"Bearer","expires_in":600}"#;

/// How the end of the content is marked.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
    /// The same, and lines end without CR.
    BareLines,
}

use Framing::{BareLines, Chunked, Length, UntilClose};

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
            BareLines => format!("HTTP/1.1 200 OK\nX-A: b\n\n{content}").into_bytes(),
        };
        let empty_line: &[u8] = if self == BareLines { b"\n\n" } else { b"\r\n\r\n" };
        let head = all.windows(empty_line.len()).position(|bytes| bytes == empty_line).unwrap();
        (all, head + empty_line.len())
    }

    fn ends_with_connection(self) -> bool {
        matches!(self, UntilClose | BareLines)
    }
}

/// How the server ends the connection.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    /// In order: over TLS, with `close_notify`.
    Close,
    /// Without `close_notify`.
    CloseTcp,
    Reset,
}

use End::{Close, CloseTcp, Reset};

/// Ends the connection. Bytes that were not read make it a reset.
fn finish(mut peer: Peer, end: End) {
    match end {
        Close => peer.close(),
        CloseTcp => peer.close_tcp(),
        Reset => return,
    }
    peer.drain();
}

/// Sends as many bytes of a response as there were connections before, and ends the connection.
fn truncate(mut peer: Peer, all: &[u8], end: End) {
    if end == Reset {
        peer.tcp().read_exact(&mut [0; 16]).unwrap();
        peer.tcp().peek(&mut [0]).unwrap();
    } else {
        peer.request().unwrap();
    }
    // With two bytes, a TLS record is as short as close_notify.
    let size = if peer.number % 2 == 0 { 2 } else { 1000 };
    for piece in all[..peer.number].chunks(size) {
        peer.respond(piece);
    }
    finish(peer, end);
}

fn book(session: &Session) -> Result<Vec<u8>, Error> {
    let result = session.post("/bookings", "text/plain", "create");
    result.and_then(Response::bytes)
}

fn assert_exchange_failed(error: &Error, what: &str) {
    assert_eq!(error.kind(), ErrorKind::Exchange, "{what}: {error:?}");
    assert!(error.may_have_executed(), "{what}: {error:?}");
}

const FRAMINGS: &[Framing] = &[Length, Chunked, UntilClose, BareLines];

#[test]
fn truncated_response_is_an_error_unless_http_hides_it() {
    sweep(&FRAMINGS.iter().map(|framing| (Over::Plain, *framing, Close)).collect::<Vec<_>>());
}

#[test]
fn response_with_a_reset_is_whole_or_an_error() {
    sweep(&FRAMINGS.iter().map(|framing| (Over::Plain, *framing, Reset)).collect::<Vec<_>>());
}

/// TLS 1.2 differs only in what follows the content, which is the same for a length and for chunks.
#[cfg(feature = "tls")]
#[test]
fn response_truncated_over_tls_is_an_error() {
    let tls = [Length, Chunked, UntilClose].map(|framing| (Over::Tls, framing));
    let tls12 = [Chunked, UntilClose].map(|framing| (Over::Tls12, framing));
    let all = tls.into_iter().chain(tls12);
    let all = all.flat_map(|(over, framing)| [Close, CloseTcp].map(|end| (over, framing, end)));
    sweep(&all.collect::<Vec<_>>());
}

/// Truncates a response everywhere, two of these at a time.
fn sweep(all: &[(Over, Framing, End)]) {
    for pair in all.chunks(2) {
        std::thread::scope(|scope| {
            for (over, framing, end) in pair {
                scope.spawn(|| truncate_everywhere(*over, *framing, *end));
            }
        });
    }
}

fn truncate_everywhere(over: Over, framing: Framing, end: End) {
    let (all, head) = framing.of(CONTENT);
    let response = all.clone();
    let site = Site::start(over, move |peer| truncate(peer, &response, end));
    for at in 0..=all.len() {
        let what = format!("{over:?} {framing:?} {end:?}: {at} bytes");
        let is_whole = !framing.ends_with_connection() && at == all.len();
        // HTTP ends this content by an orderly end of the connection.
        let is_hidden = framing.ends_with_connection() && at >= head && end == Close;
        match book(&site.session) {
            Ok(content) => {
                assert!(is_whole || is_hidden, "{what}: {content:?}");
                let expected = if is_whole { CONTENT.as_bytes() } else { &all[head..at] };
                assert_eq!(content, expected, "{what}");
            }
            Err(error) => {
                assert_exchange_failed(&error, &what);
                // A reset may overtake what was sent before it.
                assert!(end == Reset || !is_whole && !is_hidden, "{what}: {error:?}");
            }
        }
    }
    assert_eq!(site.requests().len(), all.len() + 1, "{over:?} {framing:?} {end:?}");
}

/// A token request is an exchange as any other, so TLS need not be swept again: one end without
/// `close_notify` shows that the content of a token response obeys the same rule.
#[test]
fn truncated_token_response_gives_no_token() {
    truncate_tokens(Over::Plain, Length, Close);
    truncate_tokens(Over::Plain, Chunked, Close);
    truncate_tokens(Over::Plain, UntilClose, Close);
}

#[cfg(feature = "tls")]
#[test]
fn token_response_truncated_over_tls_gives_no_token() {
    truncate_tokens(Over::Tls, UntilClose, CloseTcp);
}

fn truncate_tokens(over: Over, framing: Framing, end: End) {
    let (all, head) = framing.of(TOKEN);
    let response = all.clone();
    let site = Site::start(over, move |mut peer| match response.get(peer.number..) {
        Some(_) => truncate(peer, &response, end),
        None => peer.serve_all(),
    });
    site.session.invalidate("token");
    let mut expected = vec![[TOKEN_REQUEST]; all.len() + 1];
    for at in 0..=all.len() {
        let what = format!("{over:?} {framing:?} {end:?}: {at} bytes");
        let result = book(&site.session);
        if at == all.len() && end == Close {
            assert_eq!(result.unwrap(), b"POST /bookings", "{what}");
            expected.push(["POST /bookings"]);
            continue;
        }
        let error = result.expect_err(&what);
        let is_hidden = framing == UntilClose && at >= head && end == Close;
        let kind = if is_hidden { ErrorKind::InvalidToken } else { ErrorKind::Exchange };
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
        assert!(!error.may_have_executed(), "{what}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("t0ken"), "{what}: {error:?}");
    }
    assert_eq!(site.requests(), expected, "{over:?} {framing:?} {end:?}");
}

#[test]
fn post_is_sent_once_if_the_server_ends_at_any_byte() {
    for end in [Close, Reset] {
        let (sender, receiver) = mpsc::channel();
        let site = Site::start(Over::Plain, move |mut peer| {
            let Some(bytes) = peer.number.checked_sub(1) else {
                serve_one(&mut peer);
                return sender.send(peer.received).unwrap();
            };
            peer.tcp().read_exact(&mut vec![0; bytes]).unwrap();
            finish(peer, end);
        });
        book(&site.session).unwrap();
        let length = receiver.recv().unwrap();
        for at in 0..length {
            // The client cannot know how much of it the server has read.
            let error = book(&site.session).unwrap_err();
            assert_exchange_failed(&error, &format!("{end:?}: {at} bytes"));
        }
        assert_eq!(site.requests().len(), 1 + length, "{end:?}");
    }
}

#[test]
fn content_shorter_than_its_length_is_an_unexpected_eof() {
    let server = Server::responding(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort");
    let session = wire::session(&server.url());
    // The call does not read the content of a POST.
    let mut response = session.post("/", "text/plain", "create").unwrap();
    assert_eq!(response.content_length(), Some(100));
    let mut content = Vec::new();
    let error = response.read_to_end(&mut content).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(content, b"short");
    let again = response.read(&mut [0; 8]).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::UnexpectedEof);

    let error = session.get("/").and_then(Response::bytes).unwrap_err();
    assert_exchange_failed(&error, "a GET");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::UnexpectedEof);
}

// On a connection in use again

/// A server that truncates the response to `GET /N`, if it was idle before, after N bytes. They are
/// bytes of HTTP or, if `is_sealed`, bytes as they pass the wire.
fn truncating(over: Over, end: End, is_sealed: bool) -> Site {
    Site::start(over, move |mut peer| {
        let mut was_idle = false;
        while let Some(request) = peer.request() {
            let response = good(&request.line);
            let bytes = request.line["GET /".len()..].parse().ok();
            let Some(bytes) = bytes.filter(|_| was_idle) else {
                peer.respond(&response);
                was_idle = true;
                continue;
            };
            if is_sealed {
                let sealed = peer.sealed(&response);
                let _ = peer.tcp().write_all(&sealed[..sealed.len().min(bytes)]);
            } else {
                peer.respond(&response[..bytes]);
            }
            return finish(peer, end);
        }
    })
}

/// A TLS record may be truncated, too. Without TLS, both ends are the same.
const REUSED: &[(Over, End, bool)] = &[
    (Over::Plain, CloseTcp, false),
    #[cfg(feature = "tls")]
    (Over::Tls, Close, false),
    #[cfg(feature = "tls")]
    (Over::Tls, CloseTcp, false),
    #[cfg(feature = "tls")]
    (Over::Tls, Close, true),
    #[cfg(feature = "tls")]
    (Over::Tls, CloseTcp, true),
];

#[test]
fn truncation_on_a_reused_connection_is_an_error() {
    for &(over, end, is_sealed) in REUSED {
        // A record has a header, a type and a tag.
        let length = good("GET /00").len() + if is_sealed { 22 } else { 0 };
        let site = truncating(over, end, is_sealed);
        for n in 0..=length {
            get(&site.session, "/warm");
            let path = format!("/{n:02}");
            let what = format!("{over:?}, {end:?}, {is_sealed}: {n} bytes");
            match site.session.get(&path).and_then(Response::text) {
                Ok(content) => {
                    // Without a byte of HTTP, the connection was closed while it was idle.
                    assert!(n == 0 || n == length || is_sealed, "{what}");
                    assert_eq!(content, format!("GET {path}"), "{what}");
                }
                Err(error) => {
                    assert!(n > 0 && n < length, "{what}: {error:?}");
                    assert_exchange_failed(&error, &what);
                }
            }
        }
        let all = site.requests().concat();
        for n in (1..=length).filter(|_| !is_sealed) {
            let line = format!("GET /{n:02}");
            assert_eq!(all.iter().filter(|sent| **sent == line).count(), 1, "{n}");
        }
    }
}

#[test]
fn truncated_response_to_a_get_is_retried() {
    let length = good("GET /00").len();
    let head = length - "GET /00".len();
    let places = [1, 9, 20, head - 1, head, head + 1, length - 1];
    let rows = BOTH.iter().flat_map(|over| places.map(|n| (*over, n)));
    side_by_side(rows, |(over, n)| {
        let site = truncating(over, Close, false);
        let session = site.session.clone().retries(1);
        get(&session, "/warm");
        let path = format!("/{n:02}");
        assert_eq!(get(&session, &path), format!("GET {path}"), "{over:?}: {n}");
        drop(session);
        let all = site.requests().concat();
        assert_eq!(all.len(), 3, "{over:?}: {n}: {all:?}");
    });
}
