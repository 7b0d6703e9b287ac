//! TLS servers, and the issuers of their certificates.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{request, until_closed, Server};

#[path = "../scratch/mod.rs"]
pub mod scratch;
use scratch::Directory;

pub type Stream = StreamOwned<ServerConnection, TcpStream>;

/// A server that calls `serve` after each successful handshake.
pub fn tls(
    config: Arc<ServerConfig>, serve: impl Fn(&mut Stream) -> Vec<u8> + Send + Sync + 'static,
) -> Server {
    Server::handing_over(move |mut stream| {
        let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        while connection.is_handshaking() {
            if connection.complete_io(&mut stream).is_err() {
                let _ = until_closed(&mut stream);
                return Vec::new();
            }
        }
        serve(&mut StreamOwned::new(connection, stream.try_clone().unwrap()))
    })
}

/// A TLS server that responds to each request with these bytes, and closes.
pub fn responding(config: Arc<ServerConfig>, bytes: &[u8]) -> Server {
    let bytes = bytes.to_vec();
    tls(config, move |stream| {
        let received = request(stream);
        finish(stream, &bytes);
        received
    })
}

pub fn https(server: &Server) -> String {
    format!("https://localhost:{}", server.address.port())
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub enum Days {
    Past,
    Now,
    Future,
}

/// An issuer of certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
    directory: Directory,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        // Issuers with the same name would differ in their signatures only.
        let name = format!("issuer {:?}", rcgen::PublicKeyData::der_bytes(&key));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).unwrap();
        let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, own.der());
        let lines: Vec<_> = base64.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        Authority {
            issuer: Issuer::new(params, key),
            pem: format!(
                "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
                lines.join("\n")
            ),
            directory: Directory::new(),
        }
    }

    /// The configuration of a server with a certificate for `host`.
    pub fn config(&self, host: &str, days: Days) -> Arc<ServerConfig> {
        self.config_of(host, days, rustls::ALL_VERSIONS, 1)
    }

    /// Does the same with these versions, and with the certificate so many times. More than one cost the
    /// client time.
    pub fn config_of(
        &self, host: &str, days: Days, versions: &[&'static rustls::SupportedProtocolVersion],
        certificates: usize,
    ) -> Arc<ServerConfig> {
        let (certificate, key) = self.certificate(host, days);
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate; certificates], key);
        let mut config = config.unwrap();
        // With tickets, both versions of TLS can resume.
        config.ticketer = ring::Ticketer::new().unwrap();
        Arc::new(config)
    }

    /// The configuration of a server that requires a client certificate by this authority.
    pub fn config_for_certified(
        &self, host: &str, version: &'static rustls::SupportedProtocolVersion,
    ) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let (certificate, key) = self.certificate(host, Days::Now);
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![certificate], key);
        Arc::new(config.unwrap())
    }

    fn certificate(
        &self, host: &str, days: Days,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (first, last) = match days {
            Days::Past => (2001, 2002),
            Days::Now => (2001, 2999),
            Days::Future => (2998, 2999),
        };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(first, 1, 1);
        params.not_after = rcgen::date_time_ymd(last, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (certificate.der().clone(), key)
    }

    /// Makes this authority the only root in the system of a child process.
    pub fn as_system(&self, mut child: std::process::Command) -> std::process::Command {
        child.env("SSL_CERT_FILE", self.file());
        child
    }

    /// Writes its certificate to a file.
    pub fn file(&self) -> std::path::PathBuf {
        let file = self.directory.file("root.pem");
        std::fs::write(&file, &self.pem).unwrap();
        file
    }
}

/// Sends the rest of a response, and closes TLS and the connection.
pub fn finish(stream: &mut Stream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
    stream.conn.send_close_notify();
    let _ = stream.flush();
    let _ = stream.sock.shutdown(std::net::Shutdown::Write);
    let _ = until_closed(&mut stream.sock);
}
