//! TLS by rustls: whom it trusts, the handshake, the stream, and what its refusals mean. Called by
//! `http`. Knows nothing of HTTP.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::crypto::ring::{self, cipher_suite as suites};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Error, SupportedCipherSuite};

use super::socket::{flush_all, is_passing_write, Socket};
use super::{Call, Failure};

/// How many sessions are kept, to resume them with a shorter handshake: rustls counts eight for
/// each server.
const SESSIONS: usize = 64;

/// What is offered to servers: of the suites that are equally good, those with the smaller hash
/// first, which a small device computes in a fraction of the time.
const CIPHER_SUITES: &[SupportedCipherSuite] = &[
    suites::TLS13_AES_128_GCM_SHA256,
    suites::TLS13_AES_256_GCM_SHA384,
    suites::TLS13_CHACHA20_POLY1305_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The issuers of certificates that are accepted: the built-in ones, and perhaps more.
#[derive(Clone, Default)]
pub(crate) struct Trust(Option<Arc<Extended>>);

struct Extended {
    config: Arc<ClientConfig>,
    roots: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// Trusts these certificates in PEM as well; the error says what is wrong with them.
    pub(crate) fn extended(&self, pem: &[u8]) -> Result<Trust, String> {
        let mut roots = self.0.as_ref().map_or(Vec::new(), |own| own.roots.clone());
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.push(certificate.map_err(|cause| format!("are not valid PEM: {cause}"))?);
        }
        if roots.len() == before {
            return Err("hold no certificate (-----BEGIN CERTIFICATE-----)".to_owned());
        }
        let config = config(&roots).map_err(|cause| format!("can't be used: {cause}"))?;
        Ok(Trust(Some(Arc::new(Extended { config, roots }))))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        static BUILT_IN: Mutex<Option<Arc<ClientConfig>>> = Mutex::new(None);
        if let Some(own) = &self.0 {
            return Ok(Arc::clone(&own.config));
        }
        // Others wait meanwhile: to read the system's roots takes a while.
        let mut built_in = BUILT_IN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*built_in {
            return Ok(Arc::clone(config));
        }
        let config = config(&[])?;
        *built_in = Some(Arc::clone(&config));
        Ok(config)
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Trust) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }
}

/// Does the cryptography: ring, unless the application has chosen another provider before.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let choose = || {
        if let Some(chosen) = CryptoProvider::get_default() {
            return Arc::clone(chosen);
        }
        // rustls would panic where others leave the choice between two of them to it. Fails if
        // another thread was faster, which is as good.
        let _ = ring::default_provider().install_default();
        Arc::new(CryptoProvider {
            cipher_suites: CIPHER_SUITES.to_vec(),
            ..ring::default_provider()
        })
    };
    Arc::clone(PROVIDER.get_or_init(choose))
}

/// Trusts the built-in roots and these.
fn config(roots: &[CertificateDer<'static>]) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions()?;
    #[cfg(feature = "system-roots")]
    let builder = {
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(
            roots.iter().cloned(),
            provider,
        )?;
        let builder = builder.dangerous();
        builder.with_custom_certificate_verifier(Arc::new(verifier))
    };
    #[cfg(not(feature = "system-roots"))]
    let builder = {
        let mut store = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in roots {
            store.add(root.clone())?;
        }
        builder.with_root_certificates(store)
    };
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Arc::new(config))
}

/// A TLS connection whose every read and write ends by the deadline of its socket.
pub(crate) struct Stream {
    tls: ClientConnection,
    socket: Socket,
}

impl Stream {
    /// Does the handshake with this host.
    pub(crate) fn open(
        host: &str, trust: &Trust, socket: Socket, call: &Call,
    ) -> Result<Stream, Failure> {
        let config = trust.config().map_err(|cause| Failure {
            error: call.failed(NOT_SET_UP).with_source(cause),
            is_final: true,
        })?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other);
        name.and_then(|name| ClientConnection::new(config, name).map_err(io::Error::other))
            .and_then(|tls| {
                let mut stream = Stream { tls, socket };
                stream.shake_hands().map(|()| stream)
            })
            .map_err(|cause| failure(call, cause))
    }

    fn shake_hands(&mut self) -> io::Result<()> {
        while self.tls.is_handshaking() {
            flush_all(self)?;
            // The last message of the handshake goes out with the request.
            if self.tls.is_handshaking() && self.receive()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Reads TLS records, and does with them what TLS wants done; 0 is the end.
    fn receive(&mut self) -> io::Result<usize> {
        let n = self.tls.read_tls(&mut self.socket)?;
        self.process().map(|()| n)
    }

    fn process(&mut self) -> io::Result<()> {
        self.tls.process_new_packets().map(drop).map_err(|error| {
            // An alert that tells the server, as far as that can be done at once.
            let _ = self.tls.write_tls(&mut self.socket);
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }
}

impl super::socket::Stream for Stream {
    fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl Read for Stream {
    /// Reads content. 0 is an end of TLS that the server has announced; a connection that ends
    /// without is an error.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            // A failure comes back each time; content may stand before it.
            self.process()?;
            // What TLS wants said meanwhile, such as new keys.
            let _ = self.flush();
            self.tls.read_tls(&mut self.socket)?;
            let _ = self.process();
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let n = self.tls.writer().write(bytes)?;
        // What can't be sent yet is sent by the next write, or by `flush`.
        match self.flush() {
            Err(error) if !is_passing_write(&error) => Err(error),
            _ => Ok(n),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

#[cfg(not(feature = "system-roots"))]
const NOT_SET_UP: &str = "TLS can't be set up";
#[cfg(feature = "system-roots")]
const NOT_SET_UP: &str = "TLS can't be set up: has this system root certificates? SSL_CERT_FILE \
                          can name a file of them";

/// Why the handshake did not come about. What TLS itself refuses is final: it would come again.
fn failure(call: &Call, cause: io::Error) -> Failure {
    if cause.kind() == io::ErrorKind::TimedOut {
        return call.late("before the request was sent").into();
    }
    let refusal = cause.get_ref().and_then(|inner| inner.downcast_ref());
    let why = refusal.map_or("the connection broke off in the TLS handshake".into(), refused);
    Failure { is_final: refusal.is_some(), error: call.failed(why).with_source(cause) }
}

fn refused(refusal: &Error) -> String {
    use rustls::CertificateError as C;
    let clock = |what: &str| {
        format!(
            "the server's certificate {what}, or this device's clock is wrong: it says {}",
            device_time()
        )
    };
    let Error::InvalidCertificate(certificate) = refusal else {
        return match refusal {
            Error::InvalidMessage(_) => {
                "what answers there is not TLS: check the port, and what stands in between"
            }
            _ => "the server and this device don't agree on TLS (1.2 or 1.3)",
        }
        .to_owned();
    };
    match certificate {
        C::NotValidYet | C::NotValidYetContext { .. } => clock("is not valid yet"),
        C::Expired | C::ExpiredContext { .. } => clock("has expired"),
        C::UnknownIssuer if cfg!(feature = "system-roots") => {
            "the issuer of the server's certificate is not among this system's roots; \
             Session::root_certificates trusts more"
                .to_owned()
        }
        C::UnknownIssuer => {
            "the issuer of the server's certificate is not among the compiled-in roots; \
             Session::root_certificates trusts more, and the feature system-roots trusts this \
             system's roots instead"
                .to_owned()
        }
        C::NotValidForName | C::NotValidForNameContext { .. } => {
            "the server's certificate is for another host name".to_owned()
        }
        _ => "the server's certificate was refused".to_owned(),
    }
}

/// What this device takes for the time.
fn device_time() -> String {
    let now = SystemTime::now();
    let mut text = String::new();
    // A date before 1970 would panic, and so would one that has more than four digits.
    match now.duration_since(UNIX_EPOCH) {
        Ok(since) if since.as_secs() < 253_402_300_800 => {
            let _ = write!(text, "{}", httpdate::HttpDate::from(now));
        }
        Ok(_) => text.push_str("a time after the year 9999"),
        Err(_) => text.push_str("a time before 1970"),
    }
    text
}
