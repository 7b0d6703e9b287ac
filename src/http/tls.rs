//! TLS by rustls: its configuration, the roots that it trusts, and the sessions that it resumes.
//! Called by `http`. Knows nothing of HTTP.

mod errors;
mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, SupportedCipherSuite};
pub(super) use stream::Stream;

use super::Deadline;

// On Android the verifier needs Java code in the app, and takes no more roots.
#[cfg(all(feature = "system-roots", target_os = "android"))]
compile_error!(
    "system-roots does not work on Android: turn it off. Session::root_certificates adds roots"
);

/// The maximum number of TLS sessions, kept for shorter handshakes. rustls reserves eight for each
/// server, so this is enough for eight servers.
const SESSIONS: usize = 64;

/// How long no TLS session is offered to a server that refused one in the handshake. Not for ever:
/// the refusal made no call fail, and the network may have caused it.
const REFUSED: Duration = Duration::from_secs(3600);

/// The same for a server that broke a resumed connection. That makes a call fail, so here the
/// period is practically unlimited.
const BROKEN: Duration = Duration::MAX;

/// The accepted issuers of certificates: the built-in ones, and optionally more.
#[derive(Clone, Default)]
pub(crate) struct Roots(Option<Arc<Client>>);

/// rustls's configuration, with the TLS sessions that it may resume.
struct Client {
    config: Arc<ClientConfig>,
    /// The roots that are trusted in addition to the built-in ones.
    roots: Vec<CertificateDer<'static>>,
    /// Servers that completed a handshake, and until when they are offered no TLS session.
    known: Mutex<HashMap<ServerName<'static>, Deadline>>,
}

impl Roots {
    /// Trusts these certificates in PEM as well; the error says what is wrong with them.
    pub(crate) fn extended(&self, pem: &[u8]) -> Result<Roots, String> {
        let mut roots = self.0.as_ref().map_or(Vec::new(), |client| client.roots.clone());
        let before = roots.len();
        // The byte order mark of an editor on Windows would hide the first line.
        let pem = pem.strip_prefix(b"\xef\xbb\xbf").unwrap_or(pem);
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.push(certificate.map_err(|cause| format!("are not valid PEM: {cause}"))?);
        }
        if roots.len() == before {
            return Err("hold no certificate (-----BEGIN CERTIFICATE-----)".to_owned());
        }
        let client = Client::trusting(roots).map_err(|cause| format!("can't be used: {cause}"))?;
        Ok(Roots(Some(Arc::new(client))))
    }

    fn client(&self) -> Result<Arc<Client>, rustls::Error> {
        static BUILT_IN: Mutex<Option<Arc<Client>>> = Mutex::new(None);
        if let Some(client) = &self.0 {
            return Ok(Arc::clone(client));
        }
        // Reading the system's roots takes a while: other threads wait for this one.
        let mut built_in = BUILT_IN.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match built_in.take() {
            Some(client) => client,
            None => Arc::new(Client::trusting(Vec::new())?),
        };
        Ok(Arc::clone(built_in.insert(client)))
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Roots) -> bool {
        self.0.as_ref().map(Arc::as_ptr) == other.0.as_ref().map(Arc::as_ptr)
    }
}

impl Client {
    /// Trusts the built-in roots and these.
    fn trusting(roots: Vec<CertificateDer<'static>>) -> Result<Client, rustls::Error> {
        let provider = provider();
        let builder = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(Clock));
        let builder = builder.with_safe_default_protocol_versions()?;
        #[cfg(feature = "system-roots")]
        let builder = {
            use rustls_platform_verifier::Verifier;
            let verifier = match &*roots {
                // Not `new_with_extra_roots`: with an empty list, Windows would search twice for an
                // unknown issuer.
                [] => Verifier::new(provider)?,
                _ => Verifier::new_with_extra_roots(roots.iter().cloned(), provider)?,
            };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        };
        #[cfg(not(feature = "system-roots"))]
        let builder = {
            let mut store =
                rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            for root in &roots {
                store.add(root.clone())?;
            }
            builder.with_root_certificates(store)
        };
        let mut config = builder.with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Client { config: Arc::new(config), roots, known: Mutex::default() })
    }

    fn offer_no_session(&self, server: &ServerName<'static>, period: Duration) {
        self.known().insert(server.clone(), Deadline::after(period));
    }

    fn may_resume(&self, server: &ServerName<'static>) -> bool {
        self.known().get(server).is_none_or(|end| end.remaining().is_zero())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<ServerName<'static>, Deadline>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the cryptography: ring's, unless the application has installed another provider.
fn provider() -> Arc<CryptoProvider> {
    if let Some(installed) = CryptoProvider::get_default() {
        return Arc::clone(installed);
    }
    let mut provider = ring::default_provider();
    // A small device computes SHA-256 in a fraction of the time of SHA-384. To sort the suites
    // would add 3 kB of code.
    let is_sha256 = |suite: &SupportedCipherSuite| match suite {
        SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider.output_len() == 32,
        SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider.output_len() == 32,
    };
    let (first, last): (Vec<_>, Vec<_>) = provider.cipher_suites.into_iter().partition(is_sha256);
    provider.cipher_suites = [first, last].concat();
    Arc::new(provider)
}

/// The system's clock. rustls's own would panic before 1970.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(since_1970()))
    }
}

/// Returns the time since 1970 by the system's clock; zero if that is earlier.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_session_is_offered_after_an_hour_a_broken_one_never() {
        let client = Roots::default().client().unwrap();
        let server = ServerName::try_from("unresumed.example").unwrap();
        assert!(client.may_resume(&server));
        for (period, least) in [(REFUSED, 3590), (BROKEN, 360 * 24 * 3600)] {
            client.offer_no_session(&server, period);
            assert!(!client.may_resume(&server));
            let left = client.known()[&server].remaining();
            assert!(left > Duration::from_secs(least) && left <= period, "{left:?}");
        }
        client.offer_no_session(&server, Duration::ZERO);
        assert!(client.may_resume(&server));
    }
}
