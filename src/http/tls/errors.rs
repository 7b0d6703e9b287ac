//! What TLS's alerts and certificate errors mean, and what to do about them. Called by `stream`.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use httpdate::HttpDate;
use rustls::AlertDescription as Alert;
use rustls::Error::{AlertReceived, InvalidCertificate};
use rustls::{CertificateError, ProtocolVersion};

use super::since_1970;
use crate::error::Error;
use crate::http::CallContext;

pub(super) const NO_NAME: &str =
    "no certificate can be valid for this host: check the host in the URL";
pub(super) const NOT_SET_UP: &str = if cfg!(feature = "system-roots") {
    "TLS can't be set up: does this system have root certificates? SSL_CERT_FILE can name a file of them"
} else {
    "TLS can't be set up"
};
const CERTIFICATE_REQUIRED: &str =
    "the server requires a client certificate, which this crate does not support";
const RENEGOTIATION: &str =
    "the server refused the request within TLS: it may require a client certificate or other \
     ciphers for this path (renegotiation), which this crate does not support";
const UNKNOWN_ISSUER: &str = if cfg!(feature = "system-roots") {
    "the issuer of the server's certificate is not among this system's roots: \
     Session::root_certificates adds roots"
} else {
    "the issuer of the server's certificate is not among the compiled-in roots: \
     Session::root_certificates adds roots, and the feature system-roots trusts this system's \
     roots instead"
};

/// The server's own failure. The next attempt may succeed.
const SERVER_FAILED: rustls::Error = AlertReceived(Alert::InternalError);

/// Windows's code for a certificate without a known root. The verifier passes it on as text only.
const CERT_E_CHAINING: &str = "(os error -2146762486)";

const YEAR_9999: Duration = Duration::from_secs(253_402_300_799);

/// Wraps an error of TLS for the reader of the stream.
pub(super) fn io_error(cause: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

/// Returns the error of TLS that [`io_error`] or rustls has wrapped.
pub(super) fn tls_error(cause: &io::Error) -> Option<&rustls::Error> {
    cause.get_ref()?.downcast_ref()
}

/// Returns the error of a handshake. An error of TLS itself is final: it would come again.
pub(super) fn handshake_error(call: &CallContext, cause: io::Error) -> Error {
    if cause.kind() == io::ErrorKind::TimedOut {
        return call.timed_out("before the request was sent");
    }
    let refusal = tls_error(&cause);
    let why = refusal.map_or("the connection was lost in the TLS handshake".into(), reason);
    let is_final = refusal.is_some_and(|refusal| *refusal != SERVER_FAILED);
    call.error(why).with_source(cause).retryable(!is_final)
}

/// Returns what an alert in place of a response means, and whether the server may have executed the
/// request.
pub(super) fn alert_meaning(
    refusal: &rustls::Error, version: ProtocolVersion,
) -> Option<(&'static str, bool)> {
    match (refusal, version) {
        // In TLS 1.3 the client's handshake ends before the server sees that there is no
        // certificate.
        (
            AlertReceived(Alert::CertificateRequired | Alert::BadCertificate),
            ProtocolVersion::TLSv1_3,
        ) => Some((CERTIFICATE_REQUIRED, false)),
        (AlertReceived(Alert::HandshakeFailure), ProtocolVersion::TLSv1_2) => {
            Some((RENEGOTIATION, true))
        }
        _ => None,
    }
}

fn reason(refusal: &rustls::Error) -> String {
    use CertificateError as C;
    let clock = |what: &str| {
        // `HttpDate` would panic for a date before 1970, or for a year of more than four digits.
        let now = HttpDate::from(UNIX_EPOCH + since_1970().min(YEAR_9999));
        format!("the server's certificate {what}, or this device's clock is wrong: it says {now}")
    };
    match refusal {
        InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            return clock("is not valid yet")
        }
        InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => return clock("has expired"),
        InvalidCertificate(C::UnknownIssuer) => UNKNOWN_ISSUER,
        InvalidCertificate(C::Other(why)) if why.to_string().contains(CERT_E_CHAINING) => {
            UNKNOWN_ISSUER
        }
        InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "the server's certificate is for another host name: check the host in the URL"
        }
        InvalidCertificate(_) => "the server's certificate was refused",
        rustls::Error::General(_) => "this system can't check the server's certificate",
        rustls::Error::InvalidMessage(_) => {
            "the server does not speak TLS: check the port, and any proxy in between"
        }
        &SERVER_FAILED => "the server failed in the TLS handshake: try again later",
        AlertReceived(Alert::UnrecognisedName) => {
            "the server does not serve this host name (SNI): check the host in the URL"
        }
        AlertReceived(Alert::CertificateRequired | Alert::BadCertificate) => CERTIFICATE_REQUIRED,
        _ => {
            "the server and this device don't agree on TLS: this crate speaks 1.2 and 1.3, with \
             AES-GCM or ChaCha20 and ECDHE (X25519, P-256 or P-384), and has no client certificate"
        }
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{CertificateError, OtherError};

    use super::*;

    #[test]
    fn alert_in_place_of_a_response_is_explained() {
        let [tls12, tls13] = [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3];
        for (alert, version, expected) in [
            (Alert::CertificateRequired, tls13, Some((CERTIFICATE_REQUIRED, false))),
            (Alert::BadCertificate, tls13, Some((CERTIFICATE_REQUIRED, false))),
            (Alert::BadCertificate, tls12, None),
            (Alert::HandshakeFailure, tls12, Some((RENEGOTIATION, true))),
            (Alert::HandshakeFailure, tls13, None),
            (Alert::InternalError, tls13, None),
        ] {
            let refusal = AlertReceived(alert);
            assert_eq!(alert_meaning(&refusal, version), expected, "{alert:?}");
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
