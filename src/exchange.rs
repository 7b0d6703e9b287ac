//! One request, one answer. The only module that calls minreq; what minreq does not do for us is
//! done here and in the relay.

use std::io::{self, Read};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

use crate::connect;
use crate::error::{Error, ErrorKind, Refusal};
use crate::framing::{coding, framing, Framing, BAD_LENGTH};
use crate::proxy::Proxy;
use crate::relay::Relay;
use crate::retry::retry_after;
use crate::scan::{HEAD_LIMIT, LINE_LIMIT};
use crate::tls;
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
    /// For `https`; `http` stays on this machine.
    pub(crate) proxy: Option<&'a Proxy>,
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
        proxy,
        deadline,
    } = request;
    if deadline.left().is_zero() {
        return Err(passing(deadline.error(&label, "before anything was sent")));
    }
    #[cfg(any(feature = "https-rustls", feature = "https-rustls-probe"))]
    if url.origin.https {
        tls::install_provider();
    }
    let proxy = proxy.filter(|_| url.origin.https);
    let mut relay = Relay::open(&url.origin, proxy, deadline.at)
        .map_err(|failure| unconnected(&label, deadline, failure))?;
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
        // It would start a thread for that, and panic if this host refused it.
        let thread = std::thread::Builder::new().spawn(|| ());
        thread.map_err(|cause| passing(host_refused(&label).with_source(cause)))?;
        exchange = exchange.with_timeout(LONGEST.as_secs());
    }

    let mut lazy = match unpanicked(|| exchange.send_lazy().map_err(Some), || None) {
        Ok(lazy) => lazy,
        Err(cause) => {
            // What minreq has written may still be on its way; behind this it is not.
            relay.stop();
            return Err(unanswered(&label, deadline, &relay, cause));
        }
    };
    let (fields, framing) = match read_head(&mut lazy, &relay, &label, deadline) {
        Ok(head) => head,
        Err(Failure { error, is_final }) => {
            relay.stop();
            let error = error.or_executed(relay.has_request_begun());
            return Err(Failure { error, is_final });
        }
    };
    relay.pass_head(framing);
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

/// The fields of the answer, and where its content ends.
fn read_head(
    lazy: &mut minreq::ResponseLazy,
    relay: &Relay,
    label: &str,
    deadline: Deadline,
) -> Result<(Vec<(String, String)>, Framing), Failure> {
    // An end of the stream that is ours would look like the end of the head.
    if relay.has_head_ended() != Some(true) || relay.is_over_limit() {
        if let Some(failure) = cut_short(label, deadline, relay) {
            return Err(failure);
        }
    }
    let fail = |message: &str| passing(broken(label, message));
    check_head(lazy, relay).map_err(fail)?;
    let fields: Vec<_> = std::mem::take(&mut lazy.headers)
        .into_iter()
        .map(|(name, value)| (trimmed(name), trimmed(value)))
        .collect();
    let framing = match lazy.status_code {
        // These have no content, whatever their fields say; minreq would wait for one.
        204 | 304 => Framing::Length(0),
        _ => framing(&fields).map_err(fail)?,
    };
    if let (200..=299, Some(message)) = (lazy.status_code, coding(&fields)) {
        return Err(Failure {
            error: broken(label, message).or_executed(true),
            is_final: true,
        });
    }
    Ok((fields, framing))
}

/// Finds what minreq lets pass for the head of an answer.
fn check_head(lazy: &minreq::ResponseLazy, relay: &Relay) -> Result<(), &'static str> {
    if lazy.status_code == 503 && lazy.reason_phrase == "Server did not provide a status line" {
        // minreq makes this up, of an empty answer, too.
        return Err("there was no answer, or one that is not HTTP");
    }
    // It takes the end of the stream for the end of the head.
    if relay.has_head_ended() == Some(false) || relay.is_head_cut() || lazy.headers.is_empty() {
        return Err("the answer broke off in its header section");
    }
    if !(200..1000).contains(&lazy.status_code) {
        return Err("the answer's status code is not a final one");
    }
    // It takes the rest of a folded line for a field of its own, such as `Content-Length`.
    let mut names = lazy.headers.iter().map(|(name, _)| name);
    if names.any(|name| name.starts_with([' ', '\t'])) {
        return Err("the answer has a header field that goes on in a second line");
    }
    Ok(())
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
        if matches!(self.framing, Framing::Length(length) if length > limit) {
            return Err(over(&self.label));
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
        let most = match self.framing {
            Framing::Length(length) => length.min(limit),
            Framing::Chunked | Framing::UntilClose => limit,
        };
        while (whole.len() as u64) < limit {
            let room =
                usize::try_from(limit - whole.len() as u64).map_or(PIECE, |room| room.min(PIECE));
            match self.read(&mut buffer[..room])? {
                0 => break,
                n => {
                    grow(whole, n, most);
                    whole.extend_from_slice(&buffer[..n]);
                }
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
        // What has arrived in time could still be read, but how much that is nobody can say.
        if self.deadline.left().is_zero() {
            self.source = None;
            self.is_cut = true;
            return Err(self.late());
        }
        let is_chunked = self.framing == Framing::Chunked;
        if is_chunked {
            relay.begin_read();
        }
        let read = loop {
            match unpanicked(|| lazy.read(buffer), || io::Error::other("minreq panicked")) {
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        if is_chunked {
            relay.end_read(*read.as_ref().unwrap_or(&0));
        }
        let read = match read {
            Ok(0) => self.check_end().map(|()| 0),
            Ok(n) => {
                self.to_come = self.to_come.saturating_sub(n as u64);
                Ok(n)
            }
            // What TLS made of the mark says nothing.
            Err(_) if relay.is_end_marked() => {
                Err(self.read_error(io::ErrorKind::UnexpectedEof.into()))
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
            // minreq takes a cut for the end, too. Over TLS it does not get to see one: rustls
            // reports it, and the relay keeps the server's own end of TLS back.
            Framing::Chunked if !is_tls => relay.has_last_chunk_ended(),
            Framing::UntilClose if !is_tls => relay.has_server_closed(),
            _ if tls::HAS_RUSTLS => true,
            // TLS ends before the connection does, so that its close may not have been seen yet.
            Framing::Chunked | Framing::UntilClose => !relay.is_reset() && !relay.is_time_up(),
        };
        if is_whole && !relay.is_over_limit() {
            return Ok(());
        }
        Err(self.read_error(io::ErrorKind::UnexpectedEof.into()))
    }

    fn late(&self) -> Error {
        let when = "before the content was complete";
        self.deadline.error(&self.label, when).or_executed(true)
    }

    fn read_error(&self, cause: io::Error) -> Error {
        let label = &self.label;
        let relay = self.source.as_ref().map(|(_, relay)| relay);
        if relay.is_some_and(Relay::is_time_up) || self.deadline.left().is_zero() {
            return self.late();
        }
        let error = if relay.is_some_and(Relay::is_over_limit) {
            over_limit(label)
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

/// Makes room for `n` bytes more: twice what there was, but for no more than `most` in all. Only
/// what has arrived is believed to be there, so a `Content-Length` alone allocates little.
fn grow(whole: &mut Vec<u8>, n: usize, most: u64) {
    if whole.capacity() - whole.len() >= n {
        return;
    }
    let twice = whole.capacity().saturating_mul(2);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let wanted = twice.min(most).max(whole.len() + n);
    whole.reserve_exact(wanted - whole.len());
}

/// Runs a call into minreq; its panics become the error that `panicked` gives. (With `panic =
/// "abort"` there is nothing to catch. The only one known needs the relay to close its listener
/// between minreq's connection and its CONNECT, which the relay avoids.)
fn unpanicked<T, E>(
    call: impl FnOnce() -> Result<T, E>,
    panicked: impl FnOnce() -> E,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(panicked()))
}

fn trimmed(text: String) -> String {
    match text.trim_ascii() {
        trimmed if trimmed.len() == text.len() => text,
        trimmed => trimmed.to_owned(),
    }
}

fn broken(label: &str, message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Exchange, format!("{label}: {message}"))
}

fn over_limit(label: &str) -> Error {
    broken(
        label,
        format_args!(
            "the answer's header section, or its trailers, are longer than {HEAD_LIMIT} bytes or \
             {LINE_LIMIT} lines"
        ),
    )
}

fn passing(error: Error) -> Failure {
    Failure {
        error,
        is_final: false,
    }
}

fn unconnected(label: &str, deadline: Deadline, failure: connect::Failure) -> Failure {
    passing(match failure {
        connect::Failure::NotResolved(cause) => broken(
            label,
            "the host name was not found: check its spelling, and the name server of this network",
        )
        .with_source(cause),
        connect::Failure::NotResolvedInTime => {
            deadline.error(label, "before the host name was resolved")
        }
        connect::Failure::NotConnected(cause) => broken(
            label,
            "no connection to the host could be made: check host, port and firewall",
        )
        .with_source(cause),
        connect::Failure::NotConnectedInTime => {
            deadline.error(label, "before a connection was made")
        }
        connect::Failure::Host(cause) => host_refused(label).with_source(cause),
        connect::Failure::Proxy {
            why,
            cause,
            is_final,
        } => {
            let error = broken(label, why);
            let error = match cause {
                Some(cause) => error.with_source(cause),
                None => error,
            };
            return Failure { error, is_final };
        }
        connect::Failure::ProxyInTime(when) => deadline.error(label, &when),
    })
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
    } else if relay.is_refused_by_host() {
        host_refused(label)
    } else if relay.is_over_limit() {
        over_limit(label)
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
    if let minreq::Error::IoError(io) = &cause {
        if let Some(tls::Refusal {
            why,
            is_certificate,
        }) = tls::refusal(io)
        {
            return Failure {
                error: broken(label, why)
                    .with_source(cause)
                    .or_executed(was_sent && !is_certificate),
                is_final: true,
            };
        }
    }
    match cause {
        #[cfg(any(feature = "https-rustls", feature = "https-rustls-probe"))]
        minreq::Error::RustlsCreateConnection(cause) => Failure {
            error: broken(label, tls::NOT_SET_UP).with_source(cause),
            is_final: true,
        },
        #[cfg(feature = "https-native-tls")]
        minreq::Error::NativeTlsCreateConnection(cause) => {
            // It tells a refusal from a connection that broke off by what is below its error only,
            // and OpenSSL reports a close in the handshake like a refusal. But who refuses says so,
            // and the server closes then.
            let error: &dyn std::error::Error = &cause;
            let mut below = std::iter::successors(error.source(), |error| error.source());
            let is_final = !below.any(<dyn std::error::Error>::is::<io::Error>)
                && (relay.has_seen_alert() || !relay.has_server_closed() && !relay.is_reset());
            let message = "the TLS handshake failed: the server's certificate was refused, or the \
                           two don't agree on TLS, or the connection broke off";
            Failure {
                error: broken(label, message).with_source(io::Error::other(cause.to_string())),
                is_final,
            }
        }
        minreq::Error::IoError(cause) if !was_sent && connect::is_out_of_files(&cause) => {
            passing(host_refused(label).with_source(cause))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_takes_its_size_if_that_is_known_and_never_more_than_twice() {
        for (length, most) in [
            (10, 10),
            (10, 1 << 20),
            (100_000, 100_000),
            (100_000, 1 << 20),
            (1 << 20, 1 << 20),
            ((1 << 20) + 1, u64::MAX),
        ] {
            let mut whole = Vec::new();
            while whole.len() < length {
                let n = PIECE.min(length - whole.len());
                grow(&mut whole, n, most);
                whole.resize(whole.len() + n, 0);
                assert!(whole.capacity() <= 2 * whole.len(), "{length} {most}");
            }
            if most == length as u64 {
                assert_eq!(whole.capacity(), length);
            }
        }
    }
}
