//! What differs over TLS when the system's library speaks it.
#![cfg(all(target_os = "linux", feature = "https-native-tls"))]

use std::io::Write as _;
use std::net::Shutdown;
use std::sync::Arc;

use jas_session::{ErrorKind, Response};
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

mod wire;
use wire::{assert_passes, request, session, this_test_alone, until_closed, urls, Server};

/// How a server ends a connection: TLS and then, if it closes, the connection; or that alone, or
/// that within the next record.
#[derive(Clone, Copy)]
enum End {
    Tls,
    TlsAndConnection,
    Connection,
    WithinRecord,
}

use End::{Connection, Tls, TlsAndConnection, WithinRecord};

const HEAD: &str = "HTTP/1.1 200 OK\r\nServer: x\r\n";
const CHUNKS: &str = "Transfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n";

/// Answers to `/a`, `/b` and so on, what the server does behind them, and whether they are whole.
fn answers() -> [(String, End, bool); 11] {
    [
        (format!("{HEAD}\r\nwhole"), Tls, true),
        (format!("{HEAD}\r\nwhole"), TlsAndConnection, true),
        (format!("{HEAD}\r\nwhole"), Connection, false),
        (format!("{HEAD}{CHUNKS}0\r\n\r\n"), TlsAndConnection, true),
        (format!("{HEAD}{CHUNKS}0\r\n\r\n"), Connection, true),
        (format!("{HEAD}{CHUNKS}"), TlsAndConnection, false),
        (format!("{HEAD}{CHUNKS}"), Connection, false),
        (format!("{HEAD}{CHUNKS}5\r\nwh"), Connection, false),
        (format!("{HEAD}{CHUNKS}"), WithinRecord, false),
        (format!("{HEAD}{CHUNKS}2000\r\n"), WithinRecord, false),
        (HEAD.to_owned(), Connection, false),
    ]
}

/// A server that gives these answers, and then waits for the client to close. With it, its
/// certificate in PEM.
fn server() -> (Server, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &certificate);
    let lines: Vec<_> = base64
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    );
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let server = Server::handing_over(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let received = request(&mut stream);
        let [b'G', b'E', b'T', b' ', b'/', i, ..] = received[..] else {
            return received;
        };
        let (answer, end, _) = &answers()[usize::from(i - b'a')];
        stream.write_all(answer.as_bytes()).unwrap();
        if let Tls | TlsAndConnection = end {
            stream.conn.send_close_notify();
        }
        if let WithinRecord = end {
            let mut record = Vec::new();
            stream.conn.writer().write_all(&[b'x'; 0x2000]).unwrap();
            stream.conn.write_tls(&mut record).unwrap();
            record.truncate(0x1000);
            let _ = stream.sock.write_all(&record);
        }
        // The client may have gone already.
        let _ = stream.flush();
        if !matches!(end, Tls) {
            let _ = stream.sock.shutdown(Shutdown::Write);
        }
        let _ = until_closed(&mut stream.sock);
        received
    });
    (server, pem)
}

fn https(server: &Server) -> String {
    format!("https://localhost:{}", server.address.port())
}

#[test]
fn only_content_that_was_cut_is_an_error() {
    if let [url] = &urls()[..] {
        for (letter, (answer, _, is_whole)) in ('a'..).zip(&answers()) {
            let has_content = answer.contains("\r\n\r\n");
            let answer = answer.escape_debug();
            let result = session(url)
                .get(&format!("/{letter}"))
                .and_then(Response::text);
            let error = match result {
                Ok(text) => {
                    assert!(*is_whole, "{answer}");
                    assert_eq!(text, "whole", "{answer}");
                    continue;
                }
                Err(error) => error,
            };
            assert!(!is_whole, "{error}: {answer}");
            assert_eq!(error.kind(), ErrorKind::Exchange, "{answer}");
            assert!(error.may_have_executed(), "{answer}");
            if has_content {
                let error = std::io::Error::from(error);
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{answer}");
            }
        }
        return;
    }
    let (server, pem) = server();
    let name = format!("jas-session-native-tls-{}.pem", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, pem).unwrap();
    let mut child = this_test_alone("only_content_that_was_cut_is_an_error", &[https(&server)]);
    child.env("SSL_CERT_FILE", &file);
    assert_passes(child);
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_refused_certificate_is_final() {
    const CALLS: usize = 40;
    let (server, _) = server();
    // The server closes as soon as it is told, which may be seen before the refusal is.
    for _ in 0..CALLS {
        let error = session(&https(&server)).retries(2).get("/").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exchange);
        assert!(!error.may_have_executed());
    }
    assert_eq!(server.ended().len(), CALLS);
}
