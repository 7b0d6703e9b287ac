//! TLS by rustls: whom it trusts, the handshake, the stream, and what its refusals mean. Called by
//! `http`. Knows nothing of HTTP.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::crypto::ring::{self, cipher_suite as suites};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::AlertDescription as Alert;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion,
    SupportedCipherSuite,
};

use super::socket::{BufferedSocket, Socket, Stream as _};
use super::Call;
use crate::error::Error;

// On Android the verifier needs Java code in the app, and takes no more roots.
#[cfg(all(feature = "system-roots", target_os = "android"))]
compile_error!(
    "system-roots does not work on Android: turn it off. Session::root_certificates trusts more"
);

/// How many sessions are kept, to resume them with a shorter handshake: rustls counts eight for
/// each server.
const SESSIONS: usize = 64;

/// How long no session is kept of a server that refused one in the handshake. That costs no call, and
/// may have been the network.
const UNRESUMED: Duration = Duration::from_secs(3600);

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
    client: Arc<Client>,
    roots: Vec<CertificateDer<'static>>,
}

/// The settings of rustls, and the sessions that it may resume.
struct Client {
    config: ClientConfig,
    sessions: Arc<ClientSessionMemoryCache>,
    /// Servers that could not go on with a session, and when one refused it. Without a time, one broke
    /// a resumed connection: that costs a call, so it is remembered for good.
    failed: Mutex<Vec<(ServerName<'static>, Option<Instant>)>>,
}

impl Trust {
    /// Trusts these certificates in PEM as well; the error says what is wrong with them.
    pub(crate) fn extended(&self, pem: &[u8]) -> Result<Trust, String> {
        let mut roots = self.0.as_ref().map_or(Vec::new(), |own| own.roots.clone());
        let before = roots.len();
        // The byte order mark of an editor on Windows would hide the first line.
        let pem = pem.strip_prefix(b"\xef\xbb\xbf").unwrap_or(pem);
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.push(certificate.map_err(|cause| format!("are not valid PEM: {cause}"))?);
        }
        if roots.len() == before {
            return Err("hold no certificate (-----BEGIN CERTIFICATE-----)".to_owned());
        }
        let client = Client::trusting(&roots).map_err(|cause| format!("can't be used: {cause}"))?;
        Ok(Trust(Some(Arc::new(Extended { client: Arc::new(client), roots }))))
    }

    fn client(&self) -> Result<Arc<Client>, rustls::Error> {
        static BUILT_IN: Mutex<Option<Arc<Client>>> = Mutex::new(None);
        if let Some(own) = &self.0 {
            return Ok(Arc::clone(&own.client));
        }
        // Others wait meanwhile: to read the system's roots takes a while.
        let mut built_in = BUILT_IN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*built_in {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(Client::trusting(&[])?);
        *built_in = Some(Arc::clone(&client));
        Ok(client)
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Trust) -> bool {
        self.0.as_ref().map(Arc::as_ptr) == other.0.as_ref().map(Arc::as_ptr)
    }
}

/// Does the cryptography: ring, unless the application has installed another provider.
fn provider() -> Arc<CryptoProvider> {
    let ring =
        || CryptoProvider { cipher_suites: CIPHER_SUITES.to_vec(), ..ring::default_provider() };
    CryptoProvider::get_default().map_or_else(|| Arc::new(ring()), Arc::clone)
}

/// Trusts the built-in roots and these.
fn config(roots: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let builder = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(Clock));
    let builder = builder.with_safe_default_protocol_versions()?;
    #[cfg(feature = "system-roots")]
    let builder = {
        use rustls_platform_verifier::Verifier;
        let verifier = match roots {
            // Windows would look an unknown issuer up once more, among no roots.
            [] => Verifier::new(provider)?,
            _ => Verifier::new_with_extra_roots(roots.iter().cloned(), provider)?,
        };
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
    Ok(builder.with_no_client_auth())
}

impl Client {
    fn trusting(roots: &[CertificateDer<'static>]) -> Result<Client, rustls::Error> {
        let sessions = Arc::new(ClientSessionMemoryCache::new(SESSIONS));
        Ok(Client { config: config(roots)?, sessions, failed: Mutex::default() })
    }

    /// The settings for one connection.
    fn config(&self, resumption: Resumption) -> Arc<ClientConfig> {
        let mut config = self.config.clone();
        config.resumption = resumption;
        Arc::new(config)
    }

    fn forget_sessions(&self, server: &ServerName<'static>, is_for_good: bool) {
        self.sessions.remove_tls12_session(server);
        while self.sessions.take_tls13_ticket(server).is_some() {}
        let mut failed = self.failed();
        failed.retain(|(other, _)| other != server);
        failed.push((server.clone(), (!is_for_good).then(Instant::now)));
    }

    fn may_resume(&self, server: &ServerName<'static>) -> bool {
        let mut failed = self.failed();
        failed.retain(|(_, time)| time.is_none_or(|time| time.elapsed() < UNRESUMED));
        failed.iter().all(|(other, _)| other != server)
    }

    fn failed(&self) -> MutexGuard<'_, Vec<(ServerName<'static>, Option<Instant>)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sessions as one connection sees them. Notes whether rustls took one to offer it: rustls itself
/// does not tell.
#[derive(Debug)]
struct Offer {
    sessions: Arc<ClientSessionMemoryCache>,
    was_made: AtomicBool,
}

impl Offer {
    fn take_note<T>(&self, session: Option<T>) -> Option<T> {
        self.was_made.fetch_or(session.is_some(), Ordering::Relaxed);
        session
    }
}

impl ClientSessionStore for Offer {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.sessions.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.sessions.set_tls12_session(server, session);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.take_note(self.sessions.tls12_session(server))
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.sessions.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.sessions.insert_tls13_ticket(server, ticket);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.take_note(self.sessions.take_tls13_ticket(server))
    }
}

/// The system's clock. rustls would panic before 1970.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(since_1970()))
    }
}

/// The time since 1970 by the system's clock; zero if it says an earlier time.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A TLS connection whose every read and write ends by the deadline of its socket.
pub(super) struct Stream {
    tls: ClientConnection,
    socket: Records,
    client: Arc<Client>,
    server: ServerName<'static>,
}

/// A socket, and where within TLS's records the bytes that were read from it end.
struct Records {
    socket: BufferedSocket,
    /// The bytes of a record's header that have come, and how many.
    header: u64,
    header_length: usize,
    /// Bytes of the record that are still to come.
    left: usize,
}

impl Stream {
    /// Connects to this host and does the handshake. If a handshake fails that offered an earlier
    /// session, all sessions with the host are forgotten, and a second connection does a full
    /// handshake.
    pub(super) fn open(
        host: &str, trust: &Trust, call: &Call, connect: impl Fn() -> Result<BufferedSocket, Error>,
    ) -> Result<Box<Stream>, Error> {
        let client = trust.client().map_err(|cause| {
            let other = || call.failed(NOT_SET_UP).with_source(cause).finally(true);
            call.refused_files().unwrap_or_else(other)
        })?;
        let server = ServerName::try_from(host.to_owned());
        let server =
            server.map_err(|cause| call.failed(NO_NAME).with_source(cause).finally(true))?;
        let sessions = Arc::clone(&client.sessions);
        let offer = Arc::new(Offer { sessions, was_made: AtomicBool::new(false) });
        let resumption = if client.may_resume(&server) {
            Resumption::store(Arc::clone(&offer) as _)
        } else {
            Resumption::disabled()
        };
        let mut stream = Stream::on(connect()?, client, server, resumption, call)?;
        match stream.shake_hands(call) {
            Err(error) if offer.was_made.load(Ordering::Relaxed) => {
                // The server may have one worker only.
                let Stream { client, server, socket, .. } = *stream;
                drop(socket);
                client.forget_sessions(&server, false);
                if call.deadline.left().is_zero() {
                    return Err(error);
                }
                stream = Stream::on(connect()?, client, server, Resumption::disabled(), call)?;
                stream.shake_hands(call)?;
                Ok(stream)
            }
            result => result.map(|()| stream),
        }
    }

    /// Boxed at once: it is large, and threads may have a small stack.
    fn on(
        socket: BufferedSocket, client: Arc<Client>, server: ServerName<'static>,
        resumption: Resumption, call: &Call,
    ) -> Result<Box<Stream>, Error> {
        let tls = ClientConnection::new(client.config(resumption), server.clone());
        let tls =
            tls.map_err(|cause| call.failed(reason(&cause)).with_source(cause).finally(true))?;
        Ok(Box::new(Stream { tls, socket: Records::of(socket), client, server }))
    }

    fn shake_hands(&mut self, call: &Call) -> Result<(), Error> {
        while self.tls.is_handshaking() {
            match self.tls.complete_io(&mut self.socket) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => {
                    // The server may have sent an alert before it closed.
                    self.socket().waits = false;
                    let _ = self.tls.read_tls(&mut self.socket);
                    let alert = self.tls.process_new_packets().err();
                    return Err(failure(call, alert.map_or(cause, invalid)));
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }
}

/// What reads fail with once TLS has failed.
fn invalid(cause: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

impl super::socket::Stream for Stream {
    fn reader(&mut self) -> &mut dyn BufRead {
        self
    }

    fn writer(&mut self) -> &mut dyn Write {
        self
    }

    fn socket(&mut self) -> &mut Socket {
        self.socket.socket.get_mut()
    }

    fn has_unread_data(&self) -> bool {
        // While it holds plaintext, TLS wants to read no more.
        self.socket.is_within_record()
            || self.socket.socket.has_unread_data()
            || !self.tls.wants_read()
    }

    fn close(&mut self) {
        if self.tls.is_handshaking() || self.tls.wants_write() {
            return;
        }
        self.tls.send_close_notify();
        self.flush_at_once();
    }

    fn forget_session(&self) {
        if self.tls.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.client.forget_sessions(&self.server, true);
        }
    }

    fn refusal(&self, cause: &io::Error) -> Option<(&'static str, bool)> {
        match refusal(cause)? {
            rustls::Error::AlertReceived(alert) => meaning(*alert, self.tls.protocol_version()),
            _ => None,
        }
    }
}

impl Stream {
    /// Sends what TLS wants to send, such as new keys or an alert, as far as that takes no waiting.
    /// The server may have responded before it closed, so that a failure is no matter.
    fn flush_at_once(&mut self) {
        if self.tls.wants_write() {
            let waits = std::mem::replace(&mut self.socket().waits, false);
            let _ = self.flush();
            self.socket().waits = waits;
        }
    }
}

impl BufRead for Stream {
    /// Returns content that has come. None is an end of TLS that the server has announced; a
    /// connection that ends without is an error.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.tls.reader().fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok(_) => return self.tls.reader().into_first_chunk(),
            }
            // A failure comes back each time; content may stand before it.
            let state = self.tls.process_new_packets().map(drop);
            self.flush_at_once();
            state.map_err(invalid)?;
            self.tls.read_tls(&mut self.socket)?;
            let _ = self.tls.process_new_packets();
        }
    }

    fn consume(&mut self, length: usize) {
        self.tls.reader().consume(length);
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill_buf()?;
        self.tls.reader().read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let n = self.tls.writer().write(bytes)?;
        // What can't be sent yet is sent by the next write, or by `flush`.
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
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

impl Records {
    fn of(mut socket: BufferedSocket) -> Records {
        // TLS has a buffer of its own. This one may hold what has come behind a proxy's response.
        if !socket.has_unread_data() {
            socket = BufReader::with_capacity(0, socket.into_inner());
        }
        Records { socket, header: 0, header_length: 0, left: 0 }
    }

    /// Takes note of bytes that were read.
    fn pass(&mut self, mut bytes: &[u8]) {
        loop {
            let rest = bytes.get(self.left..).unwrap_or_default();
            self.left -= bytes.len() - rest.len();
            let [byte, rest @ ..] = rest else { return };
            bytes = rest;
            self.header = self.header << 8 | u64::from(*byte);
            self.header_length += 1;
            // Type, version and length.
            if self.header_length == 5 {
                self.left = (self.header & 0xffff) as usize;
                self.header_length = 0;
            }
        }
    }

    fn is_within_record(&self) -> bool {
        self.left > 0 || self.header_length > 0
    }
}

impl Read for Records {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.socket.read(buffer)?;
        self.pass(&buffer[..length]);
        Ok(length)
    }
}

impl Write for Records {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.get_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The server's own failure, which may be over at the next try.
const OUT_OF_ORDER: rustls::Error = rustls::Error::AlertReceived(Alert::InternalError);

const CERTIFICATE_REQUIRED: &str =
    "the server requires a client certificate, which this crate does not support";
const RENEGOTIATION: &str =
    "the server refused the request within TLS: it may require a client certificate or other \
     ciphers for this path (renegotiation), which this crate does not support";
const NO_NAME: &str = "the host is no name that a certificate can have: check the host in the URL";
const NOT_SET_UP: &str = if cfg!(feature = "system-roots") {
    "TLS can't be set up: has this system root certificates? SSL_CERT_FILE can name a file of them"
} else {
    "TLS can't be set up"
};

/// Why the handshake failed. What TLS itself refuses is final: it would refuse it again.
fn failure(call: &Call, cause: io::Error) -> Error {
    if cause.kind() == io::ErrorKind::TimedOut {
        return call.late("before the request was sent");
    }
    let refusal = refusal(&cause);
    let why = refusal.map_or("the connection was lost in the TLS handshake".into(), reason);
    let is_final = refusal.is_some_and(|refusal| *refusal != OUT_OF_ORDER);
    call.failed(why).with_source(cause).finally(is_final)
}

fn refusal(cause: &io::Error) -> Option<&rustls::Error> {
    cause.get_ref()?.downcast_ref()
}

/// Why a server ends TLS with this alert in place of a response, and whether it may have executed the
/// request.
fn meaning(alert: Alert, version: Option<ProtocolVersion>) -> Option<(&'static str, bool)> {
    match (alert, version) {
        // Here the client's handshake ends before the server has seen that it has no certificate.
        (Alert::CertificateRequired | Alert::BadCertificate, Some(ProtocolVersion::TLSv1_3)) => {
            Some((CERTIFICATE_REQUIRED, false))
        }
        (Alert::HandshakeFailure, Some(ProtocolVersion::TLSv1_2)) => Some((RENEGOTIATION, true)),
        _ => None,
    }
}

fn reason(refusal: &rustls::Error) -> String {
    use rustls::CertificateError as C;
    let clock = |what: &str| {
        // A date before 1970 would panic, and so would one that has more than four digits.
        let now = HttpDate::from(UNIX_EPOCH + since_1970().min(YEAR_9999));
        format!("the server's certificate {what}, or this device's clock is wrong: it says {now}")
    };
    let rustls::Error::InvalidCertificate(certificate) = refusal else {
        return match refusal {
            rustls::Error::General(_) => "this system can't check the server's certificate",
            rustls::Error::InvalidMessage(_) => {
                "the server does not speak TLS: check the port, and what stands in between"
            }
            &OUT_OF_ORDER => "the server failed in the TLS handshake: try again later",
            rustls::Error::AlertReceived(Alert::UnrecognisedName) => {
                "the server does not serve this host name (SNI): check the host in the URL"
            }
            rustls::Error::AlertReceived(Alert::CertificateRequired | Alert::BadCertificate) => {
                CERTIFICATE_REQUIRED
            }
            _ => {
                "the server and this device don't agree on TLS: this crate speaks 1.2 and 1.3, with \
                 AES-GCM or ChaCha20 and ECDHE (X25519, P-256 or P-384), and has no client \
                 certificate"
            }
        }
        .to_owned();
    };
    match certificate {
        C::Other(why) if why.to_string().contains(CERT_E_CHAINING) => {
            return reason(&C::UnknownIssuer.into());
        }
        C::NotValidYet | C::NotValidYetContext { .. } => return clock("is not valid yet"),
        C::Expired | C::ExpiredContext { .. } => return clock("has expired"),
        C::UnknownIssuer if cfg!(feature = "system-roots") => {
            "the issuer of the server's certificate is not among this system's roots; \
             Session::root_certificates trusts more"
        }
        C::UnknownIssuer => {
            "the issuer of the server's certificate is not among the compiled-in roots; \
             Session::root_certificates trusts more, and the feature system-roots trusts this \
             system's roots instead"
        }
        C::NotValidForName | C::NotValidForNameContext { .. } => {
            "the server's certificate is for another host name: check the host in the URL"
        }
        _ => "the server's certificate was refused",
    }
    .to_owned()
}

/// Windows's code for a certificate that leads to no root. The verifier passes it on as text only.
const CERT_E_CHAINING: &str = "(os error -2146762486)";

const YEAR_9999: Duration = Duration::from_secs(253_402_300_799);

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, OtherError};

    use super::*;

    #[test]
    fn refused_session_is_offered_after_an_hour_a_broken_one_never() {
        let client = Trust::default().client().unwrap();
        let server = ServerName::try_from("unresumed.example").unwrap();
        for (is_for_good, expected) in [(false, true), (true, false)] {
            client.forget_sessions(&server, is_for_good);
            assert!(!client.may_resume(&server));
            for (_, time) in client.failed().iter_mut() {
                // Just after the start of a device there is no earlier time.
                let Some(earlier) = Instant::now().checked_sub(UNRESUMED) else { return };
                *time = time.map(|_| earlier);
            }
            assert_eq!(client.may_resume(&server), expected);
        }
    }

    #[test]
    fn alert_in_place_of_a_response_is_explained() {
        let [tls12, tls13] = [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3].map(Some);
        for (alert, version, expected) in [
            (Alert::CertificateRequired, tls13, Some((CERTIFICATE_REQUIRED, false))),
            (Alert::BadCertificate, tls13, Some((CERTIFICATE_REQUIRED, false))),
            (Alert::BadCertificate, tls12, None),
            (Alert::HandshakeFailure, tls12, Some((RENEGOTIATION, true))),
            (Alert::HandshakeFailure, tls13, None),
            (Alert::InternalError, tls13, None),
        ] {
            assert_eq!(meaning(alert, version), expected, "{alert:?}");
        }
    }

    #[test]
    fn unknown_issuer_is_recognized_on_windows() {
        let refusal = |code| {
            let why = OtherError(Arc::new(io::Error::from_raw_os_error(code)));
            reason(&CertificateError::Other(why).into())
        };
        let unknown = refusal(-2_146_762_486);
        assert_eq!(unknown, reason(&CertificateError::UnknownIssuer.into()));
        assert_eq!(refusal(-2_146_869_244), "the server's certificate was refused");
    }
}
