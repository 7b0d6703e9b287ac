//! What differs over TLS when the system's library speaks it.
#![cfg(all(target_os = "linux", feature = "https-native-tls"))]

use std::io::Write as _;
use std::sync::Arc;

use jas_session::ErrorKind;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

mod wire;
use wire::{assert_passes, request, session, text, this_test_alone, until_closed, urls, Server};

/// A server that answers with content ended by closing: it ends TLS, and leaves the connection
/// to the client. With it, its certificate in PEM.
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
        if !received.is_empty() {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nwhole")
                .unwrap();
            stream.conn.send_close_notify();
            stream.flush().unwrap();
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
fn content_is_whole_when_tls_has_ended_though_the_connection_has_not() {
    if let [url] = &urls()[..] {
        assert_eq!(text(url).unwrap(), "whole");
        return;
    }
    let (server, pem) = server();
    let name = format!("jas-session-native-tls-{}.pem", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, pem).unwrap();
    let test = "content_is_whole_when_tls_has_ended_though_the_connection_has_not";
    let mut child = this_test_alone(test, &[https(&server)]);
    child.env("SSL_CERT_FILE", &file);
    assert_passes(child);
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_refused_certificate_is_final() {
    let (server, _) = server();
    let error = session(&https(&server)).retries(2).get("/").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exchange);
    assert!(!error.may_have_executed());
    assert_eq!(server.ended().len(), 1);
}
