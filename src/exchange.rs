//! One request, one answer. The only module that calls minreq; what minreq does not do for us is
//! done here and in the relay.

use std::io::{self, Read};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Refusal};
use crate::relay::{self, Relay, HEAD_LIMIT};
use crate::retry::retry_after;
use crate::url::Url;

/// The end of a call's time, and how long that was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    timeout: Duration,
}

/// Longer timeouts are as good as none, and would overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What requests say they come from, unless `Session::header` replaces it.
pub(crate) const USER_AGENT: &str = concat!("jas-session/", env!("CARGO_PKG_VERSION"));

/// How much of the content of an answer that refused is kept.
const KEPT: u64 = 64 * 1024;

/// What is read at a time when content is read whole.
const PIECE: usize = 4 * 1024;

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Deadline {
        Deadline {
            at: Instant::now() + timeout.min(LONGEST),
            timeout,
        }
    }

    /// An earlier deadline: after `part`, if that is before this one.
    pub(crate) fn within(self, part: Duration) -> Deadline {
        let part = part.min(self.left());
        Deadline {
            at: Instant::now() + part,
            timeout: part,
        }
    }

    pub(crate) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub(crate) fn timeout(self) -> Duration {
        self.timeout
    }

    pub(crate) fn error(self, label: &str, when: &str) -> Error {
        Error::new(
            ErrorKind::Timeout,
            format!("{label}: the time of {:?} was up {when}", self.timeout),
        )
    }
}

/// A request: a GET, or a POST if it has content. Everything in it has been checked.
pub(crate) struct Request<'a> {
    /// What it is called in messages.
    pub(crate) label: String,
    pub(crate) url: &'a Url,
    pub(crate) fields: &'a [(&'a str, &'a str)],
    pub(crate) content: Option<&'a [u8]>,
    pub(crate) deadline: Deadline,
}

/// The final answer: its head, and its content as a stream.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: Content,
}

/// No answer.
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// A repetition would end in the same way.
    pub(crate) is_final: bool,
}

/// How the end of the content is found ([RFC 9112, section
/// 6.3](https://www.rfc-editor.org/rfc/rfc9112#section-6.3)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// The content of an answer as a stream.
pub(crate) struct Content {
    label: String,
    deadline: Deadline,
    framing: Framing,
    /// Of `Content-Length`, what has not been read.
    to_come: u64,
    is_cut: bool,
    /// Gone when the end has been reached. minreq's stream first, so that it closes first.
    source: Option<(minreq::ResponseLazy, Relay)>,
}

/// Sends a request and reads the head of the answer.
pub(crate) fn send(request: Request<'_>) -> Result<Answer, Failure> {
    let Request {
        label,
        url,
        fields,
        content,
        deadline,
    } = request;
    if deadline.left().is_zero() {
        return Err(passing(deadline.error(&label, "before anything was sent")));
    }
    #[cfg(any(feature = "https-rustls", feature = "https-rustls-probe"))]
    if url.origin.https {
        install_provider();
    }
    let relay = Relay::open(&url.origin, deadline.at)
        .map_err(|failure| passing(unconnected(&label, deadline, failure)))?;
    let proxy = minreq::Proxy::new(relay.proxy())
        .map_err(|cause| passing(broken(&label, "the relay can't be used").with_source(cause)))?;

    let method = if content.is_some() {
        minreq::Method::Post
    } else {
        minreq::Method::Get
    };
    let mut exchange = minreq::Request::new(method, format!("{}{}", url.origin, url.path))
        // minreq would send the token and the secret on to any host it is redirected to.
        .with_follow_redirects(false)
        // minreq's own limit can underflow; the relay has one.
        .with_max_headers_size(None)
        .with_max_status_line_length(None)
        .with_proxy(proxy);
    for (name, value) in fields {
        exchange = exchange.with_header(*name, *value);
    }
    if let Some(content) = content {
        exchange = exchange.with_body(content);
    }
    // Where this variable is set, minreq would take it for a timeout in place of the relay's,
    // which is kept all the same.
    if std::env::var_os("MINREQ_TIMEOUT").is_some() {
        exchange = exchange.with_timeout(LONGEST.as_secs());
    }

    let lazy = match unpanicked(|| exchange.send_lazy().map_err(Some), || None) {
        Ok(lazy) => lazy,
        Err(cause) => return Err(unanswered(&label, deadline, &relay, cause)),
    };
    // An end of the stream that is ours would look like the end of the head.
    if relay.has_head_ended() != Some(true) {
        if let Some(failure) = cut_short(&label, deadline, &relay) {
            return Err(failure);
        }
    }
    let fail =
        |message: &str| passing(broken(&label, message).or_executed(relay.has_request_begun()));
    if lazy.status_code == 503 && lazy.reason_phrase == "Server did not provide a status line" {
        // minreq makes this up, of an empty answer, too.
        return Err(fail("there was no answer, or one that is not HTTP"));
    }
    // minreq takes the end of the stream for the end of the head.
    if relay.has_head_ended() == Some(false) || lazy.headers.is_empty() {
        return Err(fail("the answer broke off in its header section"));
    }
    if !(200..1000).contains(&lazy.status_code) {
        return Err(fail("the answer's status code is not a final one"));
    }
    let fields: Vec<_> = lazy
        .headers
        .iter()
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let framing = match lazy.status_code {
        // These have no content, whatever their fields say; minreq would wait for one.
        204 | 304 => Framing::Length(0),
        _ => framing(&fields).map_err(fail)?,
    };
    if let (200..=299, Some(message)) = (lazy.status_code, coding(&fields)) {
        return Err(Failure {
            error: broken(&label, message).or_executed(true),
            is_final: true,
        });
    }
    relay.pass_head(framing == Framing::Chunked);
    let to_come = if let Framing::Length(length) = framing {
        length
    } else {
        0
    };
    let is_empty = framing == Framing::Length(0);
    Ok(Answer {
        status: lazy.status_code,
        fields,
        content: Content {
            label,
            deadline,
            framing,
            to_come,
            is_cut: false,
            source: (!is_empty).then_some((lazy, relay)),
        },
    })
}

impl Answer {
    /// All that an error keeps of an answer. Content that breaks off is kept as far as it came:
    /// the status tells enough.
    pub(crate) fn into_refusal(mut self) -> Refusal {
        let mut content = Vec::new();
        let _ = self.content.read_up_to(KEPT, &mut content);
        Refusal {
            status: self.status,
            retry_after: retry_after(&self.fields),
            fields: self.fields,
            content,
        }
    }
}

impl Content {
    /// The whole content if it is not longer than `limit`; else an error of the kind `Content`.
    pub(crate) fn whole(mut self, limit: u64) -> Result<Vec<u8>, Error> {
        let over = |label: &str| {
            Error::new(
                ErrorKind::Content,
                format!(
                    "{label}: the content is longer than the limit of {limit} bytes: raise it with \
                     Response::limit, or read it as a stream"
                ),
            )
            .or_executed(true)
        };
        let mut whole = Vec::new();
        if let Framing::Length(length) = self.framing {
            if length > limit {
                return Err(over(&self.label));
            }
            // Only what has arrived is believed to be there: a length alone allocates little.
            whole.reserve_exact(usize::try_from(length.min(KEPT)).unwrap_or(0));
        }
        self.read_up_to(limit, &mut whole)?;
        if self.read(&mut [0])? > 0 {
            return Err(over(&self.label));
        }
        Ok(whole)
    }

    /// Reads until the end, or until `limit` bytes are there.
    fn read_up_to(&mut self, limit: u64, whole: &mut Vec<u8>) -> Result<(), Error> {
        let mut buffer = [0; PIECE];
        while (whole.len() as u64) < limit {
            let room =
                usize::try_from(limit - whole.len() as u64).map_or(PIECE, |room| room.min(PIECE));
            match self.read(&mut buffer[..room])? {
                0 => break,
                n => whole.extend_from_slice(&buffer[..n]),
            }
        }
        Ok(())
    }

    /// Reads a part; 0 at the end, which is a success only if the content is whole.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let Some((lazy, relay)) = &mut self.source else {
            if self.is_cut {
                return Err(self.read_error(io::ErrorKind::UnexpectedEof.into()));
            }
            return Ok(0);
        };
        if buffer.is_empty() {
            return Ok(0);
        }
        let is_chunked = self.framing == Framing::Chunked;
        if is_chunked {
            relay.mark_read(true);
        }
        let read = loop {
            match unpanicked(|| lazy.read(buffer), || io::Error::other("minreq panicked")) {
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        if is_chunked {
            relay.mark_read(false);
        }
        let read = match read {
            Ok(0) => self.check_end().map(|()| 0),
            Ok(n) => {
                self.to_come = self.to_come.saturating_sub(n as u64);
                Ok(n)
            }
            Err(cause) => {
                // minreq wraps what happens between chunks once more.
                let kind = match cause.get_ref().and_then(|inner| inner.downcast_ref()) {
                    Some(minreq::Error::IoError(inner)) => inner.kind(),
                    _ => cause.kind(),
                };
                Err(self.read_error(io::Error::new(kind, cause)))
            }
        };
        // The connection is given back as soon as it has no more to give.
        let is_done = matches!(self.framing, Framing::Length(_)) && self.to_come == 0;
        if is_done || !matches!(read, Ok(1..)) {
            self.source = None;
        }
        // What was cut stays cut, however often it is read.
        self.is_cut = read.is_err();
        read
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The stream has ended: was that the end of the content?
    fn check_end(&self) -> Result<(), Error> {
        let Some((_, relay)) = &self.source else {
            return Ok(());
        };
        let is_tls = relay.has_head_ended().is_none();
        let is_whole = match self.framing {
            Framing::Length(_) => self.to_come == 0,
            // rustls reports a cut by itself.
            _ if is_tls && HAS_RUSTLS => true,
            Framing::UntilClose if !is_tls => relay.has_server_closed(),
            // minreq takes a cut for the end, too: a reset or our own deadline shows it. (TLS ends
            // before the connection does, so that its close may not have been seen yet.)
            Framing::Chunked | Framing::UntilClose => !relay.is_reset() && !relay.is_time_up(),
        };
        if is_whole && !relay.is_over_limit() {
            return Ok(());
        }
        Err(self.read_error(io::ErrorKind::UnexpectedEof.into()))
    }

    fn read_error(&self, cause: io::Error) -> Error {
        let label = &self.label;
        let relay = self.source.as_ref().map(|(_, relay)| relay);
        let error = if relay.is_some_and(Relay::is_time_up) {
            self.deadline
                .error(label, "before the content was complete")
        } else if relay.is_some_and(Relay::is_over_limit) {
            broken(
                label,
                format_args!("the answer's trailers are longer than {HEAD_LIMIT} bytes"),
            )
        } else {
            let message = match self.framing {
                Framing::Length(length) => format!(
                    "the content broke off: {} of {length} bytes were received",
                    length - self.to_come
                ),
                _ => "the content broke off".to_owned(),
            };
            broken(label, message).with_source(cause)
        };
        error.or_executed(true)
    }
}

/// Whether rustls speaks TLS for minreq.
const HAS_RUSTLS: bool = cfg!(any(
    feature = "https-rustls",
    feature = "https-rustls-probe"
));

/// Runs a call into minreq; its panics become the error that `panicked` gives. (With `panic =
/// "abort"` there is nothing to catch. The only one known needs the relay to close its listener
/// between minreq's connection and its CONNECT, which the relay avoids.)
fn unpanicked<T, E>(
    call: impl FnOnce() -> Result<T, E>,
    panicked: impl FnOnce() -> E,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(panicked()))
}

/// Refuses a content coding, which was not asked for: it would be taken for the content itself.
fn coding(fields: &[(String, String)]) -> Option<String> {
    let (_, coding) = fields.iter().find(|(name, value)| {
        name.eq_ignore_ascii_case("content-encoding")
            && !value.is_empty()
            && !value.eq_ignore_ascii_case("identity")
    })?;
    // A name that is not known is not shown: a server may have put anything there.
    let known = ["gzip", "deflate", "compress", "br", "zstd"];
    let name = known
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(coding));
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    Some(format!(
        "the content is encoded{name}, which was not asked for"
    ))
}

fn framing(fields: &[(String, String)]) -> Result<Framing, &'static str> {
    let values = |name: &'static str| {
        let named = move |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        fields.iter().filter(named).map(|(_, value)| value.as_str())
    };
    let mut codings = values("transfer-encoding");
    if let Some(coding) = codings.next() {
        // minreq would read another one, or a list, as if it were not there.
        if codings.next().is_some() || !coding.eq_ignore_ascii_case("chunked") {
            return Err("the answer's Transfer-Encoding is not `chunked`");
        }
        return Ok(Framing::Chunked);
    }
    let mut lengths = values("content-length");
    let Some(length) = lengths.next() else {
        return Ok(Framing::UntilClose);
    };
    // minreq would take the last of several, and a sign.
    if lengths.any(|other| other != length) {
        return Err("the answer has two different Content-Length fields");
    }
    match length.parse() {
        Ok(number) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(Framing::Length(number))
        }
        _ => Err(BAD_LENGTH),
    }
}

const BAD_LENGTH: &str = "the answer's Content-Length is not a number that this device can count";

fn broken(label: &str, message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Exchange, format!("{label}: {message}"))
}

fn passing(error: Error) -> Failure {
    Failure {
        error,
        is_final: false,
    }
}

fn unconnected(label: &str, deadline: Deadline, failure: relay::Failure) -> Error {
    match failure {
        relay::Failure::NotResolved(cause) => broken(
            label,
            "the host name was not found: check its spelling, and the name server of this network",
        )
        .with_source(cause),
        relay::Failure::NotResolvedInTime => {
            deadline.error(label, "before the host name was resolved")
        }
        relay::Failure::NotConnected(cause) => broken(
            label,
            "no connection to the host could be made: check host, port and firewall",
        )
        .with_source(cause),
        relay::Failure::NotConnectedInTime => deadline.error(label, "before a connection was made"),
        relay::Failure::Host(cause) => host_refused(label).with_source(cause),
    }
}

fn host_refused(label: &str) -> Error {
    broken(
        label,
        "this device refused a thread, a socket or its loopback interface",
    )
}

/// Why the relay ended the exchange before its head was complete, if it did.
fn cut_short(label: &str, deadline: Deadline, relay: &Relay) -> Option<Failure> {
    let was_sent = relay.has_request_begun();
    let error = if relay.is_time_up() {
        let when = if was_sent {
            "before the answer was complete"
        } else {
            "before the request was sent"
        };
        deadline.error(label, when)
    } else if relay.has_no_thread() {
        host_refused(label)
    } else if relay.is_over_limit() {
        let message = format!("the answer's header section is longer than {HEAD_LIMIT} bytes");
        broken(label, message)
    } else {
        return None;
    };
    Some(passing(error.or_executed(was_sent)))
}

/// Why `send_lazy` failed; `None` is a panic.
fn unanswered(
    label: &str,
    deadline: Deadline,
    relay: &Relay,
    cause: Option<minreq::Error>,
) -> Failure {
    let was_sent = relay.has_request_begun();
    if let Some(failure) = cut_short(label, deadline, relay) {
        return failure;
    }
    let Some(cause) = cause else {
        return passing(broken(label, "minreq panicked").or_executed(was_sent));
    };
    match cause {
        #[cfg(any(feature = "https-rustls", feature = "https-rustls-probe"))]
        minreq::Error::IoError(cause) if rustls_error(&cause).is_some() => {
            refused_by_rustls(label, was_sent, cause)
        }
        #[cfg(any(feature = "https-rustls", feature = "https-rustls-probe"))]
        minreq::Error::RustlsCreateConnection(cause) => Failure {
            error: broken(label, "TLS can't be set up").with_source(cause),
            is_final: true,
        },
        #[cfg(feature = "https-native-tls")]
        minreq::Error::NativeTlsCreateConnection(cause) => {
            let mut failure = refused_by_native_tls(label, &cause);
            // OpenSSL reports a close in the handshake like a refusal.
            failure.is_final &= !relay.has_server_closed() && !relay.is_reset();
            failure
        }
        minreq::Error::IoError(cause) => passing(
            broken(
                label,
                "the connection broke off before the answer was complete",
            )
            .with_source(cause)
            .or_executed(was_sent),
        ),
        minreq::Error::MalformedContentLength => {
            passing(broken(label, BAD_LENGTH).or_executed(was_sent))
        }
        cause if !was_sent => {
            passing(broken(label, "the relay or its connection can't be used").with_source(cause))
        }
        cause => passing(
            broken(label, "the answer is not valid HTTP")
                .with_source(cause)
                .or_executed(was_sent),
        ),
    }
}

/// Has ring do the cryptography, unless the process has chosen another provider. rustls panics
/// when it has to choose between two, and aws-lc's start costs a small device most of a second.
#[cfg(any(feature = "https-rustls", feature = "https-rustls-probe"))]
fn install_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails if another thread was faster, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

#[cfg(any(feature = "https-rustls", feature = "https-rustls-probe"))]
fn rustls_error(cause: &io::Error) -> Option<&rustls::Error> {
    cause.get_ref()?.downcast_ref()
}

/// A refusal of TLS is final: it would come again.
#[cfg(any(feature = "https-rustls", feature = "https-rustls-probe"))]
fn refused_by_rustls(label: &str, was_sent: bool, cause: io::Error) -> Failure {
    use rustls::CertificateError as C;
    let certificate = match rustls_error(&cause) {
        Some(rustls::Error::InvalidCertificate(certificate)) => Some(certificate),
        _ => None,
    };
    let is_certificate = certificate.is_some();
    let why = match certificate {
        Some(C::NotValidYet | C::NotValidYetContext { .. }) => format!(
            "the server's certificate is not valid yet, or this device's clock is wrong: it says {}",
            device_time()
        ),
        Some(C::Expired | C::ExpiredContext { .. }) => format!(
            "the server's certificate has expired, or this device's clock is wrong: it says {}",
            device_time()
        ),
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
        None => "the server and this device don't agree on TLS".to_owned(),
    };
    Failure {
        // Nothing is sent before the certificate has been accepted: what the relay saw was the
        // alert.
        error: broken(label, why)
            .with_source(cause)
            .or_executed(was_sent && !is_certificate),
        is_final: true,
    }
}

/// native-tls tells a refusal from a connection that broke off by what is below its error only.
#[cfg(feature = "https-native-tls")]
fn refused_by_native_tls(label: &str, cause: &dyn std::error::Error) -> Failure {
    let mut below = std::iter::successors(cause.source(), |error| error.source());
    let is_final = !below.any(<dyn std::error::Error>::is::<io::Error>);
    let message = "the TLS handshake failed: the server's certificate was refused, or the two \
                   don't agree on TLS, or the connection broke off";
    Failure {
        error: broken(label, message).with_source(io::Error::other(cause.to_string())),
        is_final,
    }
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

    #[test]
    fn how_the_end_of_a_content_is_found() {
        let chunked = "the answer's Transfer-Encoding is not `chunked`";
        let twice = "the answer has two different Content-Length fields";
        for (list, expected) in [
            (&[][..], Ok(Framing::UntilClose)),
            (&[("content-length", "5")], Ok(Framing::Length(5))),
            (
                &[("Content-Length", "5"), ("content-length", "5")],
                Ok(Framing::Length(5)),
            ),
            (
                &[("content-length", "5"), ("content-length", "6")],
                Err(twice),
            ),
            (&[("content-length", "5, 5")], Err(BAD_LENGTH)),
            (&[("content-length", "+5")], Err(BAD_LENGTH)),
            (&[("content-length", "")], Err(BAD_LENGTH)),
            (
                &[("content-length", "18446744073709551616")],
                Err(BAD_LENGTH),
            ),
            (&[("transfer-encoding", "chunked")], Ok(Framing::Chunked)),
            (
                &[("transfer-encoding", "Chunked"), ("content-length", "5")],
                Ok(Framing::Chunked),
            ),
            (&[("transfer-encoding", "gzip, chunked")], Err(chunked)),
            (
                &[
                    ("transfer-encoding", "gzip"),
                    ("transfer-encoding", "chunked"),
                ],
                Err(chunked),
            ),
        ] {
            let fields: Vec<_> = list
                .iter()
                .map(|(n, v)| ((*n).into(), (*v).into()))
                .collect();
            assert_eq!(framing(&fields), expected, "{list:?}");
        }
    }
}
