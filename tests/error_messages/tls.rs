//! TLS: why a handshake failed.

use super::wire::tls::{https, tls, Authority, Days};
use super::wire::{session, until_closed, Server, TIMEOUT};

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};

use jas_session::ErrorKind;

const NO_TLS: &str = "the server does not speak TLS: check the port, and any proxy in between";
const NO_AGREEMENT: &str =
    "the server and this device don't agree on TLS: this crate speaks 1.2 and 1.3, with AES-GCM \
     or ChaCha20 and ECDHE (X25519, P-256 or P-384), and has no client certificate";
const CLOCK: &str = ", or this device's clock is wrong: it says DATE";
const UNKNOWN_ISSUER: &str = if cfg!(feature = "system-roots") {
    "the issuer of the server's certificate is not among this system's roots: \
     Session::root_certificates adds roots"
} else {
    "the issuer of the server's certificate is not among the compiled-in roots: \
     Session::root_certificates adds roots, and the feature system-roots trusts this system's \
     roots instead"
};

/// Bytes that a server sends after the client's hello before it closes, and the message.
const HELLOS: &[(&[u8], &str)] = &[
    (b"", "the connection was lost in the TLS handshake"),
    (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", NO_TLS),
    (b"SSH-2.0-OpenSSH_9.2\r\n", NO_TLS),
    // The alerts handshake_failure, protocol_version, internal_error and unrecognized_name.
    (&[21, 3, 3, 0, 2, 2, 40], NO_AGREEMENT),
    (&[21, 3, 2, 0, 2, 2, 70], NO_AGREEMENT),
    (&[21, 3, 3, 0, 2, 2, 80], "the server failed in the TLS handshake: try again later"),
    (
        &[21, 3, 3, 0, 2, 2, 112],
        "the server does not serve this host name (SNI): check the host in the URL",
    ),
];

#[test]
fn failed_handshake_is_explained() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |stream| {
        let (bytes, _) = HELLOS[count.fetch_add(1, Ordering::SeqCst)];
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        until_closed(stream)
    });
    let url = https(&server);
    for (_, reason) in HELLOS {
        let error = session(&url).get("/").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exchange);
        assert_eq!(error.to_string(), format!("GET {url}/: {reason}"));
    }
}

#[test]
fn refused_certificate_is_explained() {
    let authority = Authority::new();
    let config = |host, days| authority.config(host, days);
    let tls_13 = &rustls::version::TLS13;
    for (config, reason) in [
        (config("localhost", Days::Past), format!("the server's certificate has expired{CLOCK}")),
        (
            config("localhost", Days::Future),
            format!("the server's certificate is not valid yet{CLOCK}"),
        ),
        (
            config("api.example.com", Days::Now),
            "the server's certificate is for another host name: check the host in the URL".into(),
        ),
        (Authority::new().config("localhost", Days::Now), UNKNOWN_ISSUER.into()),
        (
            authority.config_for_certified("localhost", tls_13),
            "the server requires a client certificate, which this crate does not support".into(),
        ),
    ] {
        let server = tls(config, |_| Vec::new());
        let url = https(&server);
        let session = session(&url).root_certificates(authority.pem.as_bytes()).unwrap();
        let message = session.get("/").unwrap_err().to_string();
        // An HTTP-date, such as `Thu, 26 Nov 2026 13:49:33 GMT`.
        let message = match message.split_once(" it says ") {
            Some((begin, date)) if date.len() == 29 && date.ends_with(" GMT") => {
                format!("{begin} it says DATE")
            }
            _ => message,
        };
        assert_eq!(message, format!("GET {url}/: {reason}"));
    }
}

#[test]
fn timeout_in_a_handshake_is_explained() {
    let server = Server::start(until_closed);
    let url = https(&server);
    let error = session(&url).timeout(TIMEOUT).get("/").unwrap_err();
    let reason = "the timeout of 300ms passed before the request was sent";
    assert_eq!(error.to_string(), format!("GET {url}/: {reason}"));
}

#[test]
fn refused_root_certificates_are_explained() {
    let good = Authority::new().pem;
    let none = "hold no certificate (-----BEGIN CERTIFICATE-----)";
    for (pem, reason) in [
        ("", none),
        ("garbage", none),
        (&good.replace("CERTIFICATE", "PRIVATE KEY"), none),
        (&good[..good.len() - 30], "are not valid PEM: "),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "can't be used: "),
    ] {
        let session = session("https://api.example.com");
        let message = session.root_certificates(pem.as_bytes()).unwrap_err().to_string();
        // What rustls says follows.
        let expected = format!("the root certificates {reason}");
        assert!(message.starts_with(&expected), "{message}");
    }
}
