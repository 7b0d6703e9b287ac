//! What the TLS libraries are told, and what their refusals mean.

use std::io;

/// Whether rustls speaks TLS for minreq.
pub(crate) const HAS_RUSTLS: bool = cfg!(any(
    feature = "https-rustls",
    feature = "https-rustls-probe"
));

/// minreq keeps a failure to set TLS up. The only one known is that there are no roots.
#[cfg(feature = "https-rustls")]
pub(crate) const NOT_SET_UP: &str = "TLS can't be set up, and won't be while this process lasts";
#[cfg(all(feature = "https-rustls-probe", not(feature = "https-rustls")))]
pub(crate) const NOT_SET_UP: &str =
    "TLS can't be set up, and won't be while this process lasts: has this system root \
     certificates? SSL_CERT_FILE can name a file of them";

/// Has ring do the cryptography, unless the process has chosen another provider. rustls panics
/// when it has to choose between two, and aws-lc's start costs a small device most of a second.
#[cfg(any(feature = "https-rustls", feature = "https-rustls-probe"))]
pub(crate) fn install_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails if another thread was faster, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// Why TLS came to no connection. All of these are final: they would come again.
pub(crate) struct Refusal {
    pub(crate) why: String,
    /// Nothing is sent before the certificate has been accepted, but for an alert.
    pub(crate) is_certificate: bool,
}

/// What rustls says, if it was rustls: told by type.
#[cfg(any(feature = "https-rustls", feature = "https-rustls-probe"))]
pub(crate) fn refusal(cause: &io::Error) -> Option<Refusal> {
    use rustls::CertificateError as C;
    let clock = |what: &str| {
        format!(
            "the server's certificate {what}, or this device's clock is wrong: it says {}",
            device_time()
        )
    };
    let refusal = cause.get_ref()?.downcast_ref::<rustls::Error>()?;
    let certificate = match refusal {
        rustls::Error::InvalidCertificate(certificate) => Some(certificate),
        _ => None,
    };
    let why = match certificate {
        Some(C::NotValidYet | C::NotValidYetContext { .. }) => clock("is not valid yet"),
        Some(C::Expired | C::ExpiredContext { .. }) => clock("has expired"),
        Some(C::UnknownIssuer) if cfg!(feature = "https-rustls") => {
            "the issuer of the server's certificate is not among the compiled-in roots; the \
             feature https-rustls-probe uses this system's roots instead (with default-features \
             = false)"
                .to_owned()
        }
        Some(C::UnknownIssuer) => {
            "the issuer of the server's certificate is not among this system's roots".to_owned()
        }
        Some(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "the server's certificate is for another host name".to_owned()
        }
        Some(_) => "the server's certificate was refused".to_owned(),
        None if matches!(refusal, rustls::Error::InvalidMessage(_)) => {
            "what answers there is not TLS: check the port, and what stands in between".to_owned()
        }
        None => "the server and this device don't agree on TLS (1.2 or 1.3)".to_owned(),
    };
    Some(Refusal {
        why,
        is_certificate: certificate.is_some(),
    })
}

#[cfg(not(any(feature = "https-rustls", feature = "https-rustls-probe")))]
pub(crate) fn refusal(_: &io::Error) -> Option<Refusal> {
    None
}

/// What this device takes for the time, to the minute.
#[cfg(any(feature = "https-rustls", feature = "https-rustls-probe"))]
fn device_time() -> String {
    let Ok(since) = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) else {
        return "a time before 1970".to_owned();
    };
    utc(since.as_secs())
}

/// Seconds since 1970 as a date and a time. (httpdate's formatting would cost several kB.)
#[cfg(any(feature = "https-rustls", feature = "https-rustls-probe", test))]
fn utc(seconds: u64) -> String {
    let (mut days, minutes) = (seconds / 86_400, seconds / 60 % 1440);
    let is_leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    let lengths = [
        31,
        28 + u64::from(is_leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    format!(
        "{year}-{:02}-{:02} {:02}:{:02} UTC",
        month + 1,
        days + 1,
        minutes / 60,
        minutes % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_s_time_is_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (68_169_599, "1972-02-28 23:59 UTC"),
            (68_256_000, "1972-03-01 00:00 UTC"),
            (951_827_696, "2000-02-29 12:34 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
