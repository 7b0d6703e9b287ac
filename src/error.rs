//! The error that every call can give: its kind, its message, and what it keeps of a response.
//! Made by all modules. Knows none of them.

pub(crate) mod remote_text;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Why a call failed.
///
/// [`kind`](Error::kind) sorts errors by who can mend them, `Display` says what happened, where
/// and what to do, and [`source`](StdError::source) is the cause below, if there is one. None of
/// them shows a secret, a token or an API key; [`content`](Error::content) alone holds a response
/// as it was received.
#[derive(Clone)]
pub struct Error(Box<Inner>);

/// Who can mend an [`Error`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller: a URL, a field, a setting or an environment variable. Nothing was sent.
    InvalidInput,
    /// The credentials, or the token endpoint's URL: the endpoint refused the request for a token.
    /// [`Error::status`] is its response's, not the API's. A refusal of the credentials (400, 401,
    /// 403, or 2xx with an `error`) is remembered for ten seconds.
    Denied,
    /// The API responded with another status than 2xx: see [`Error::status`]. Or the token endpoint
    /// is busy or out of order (429, 5xx, or 403 with `Retry-After`).
    Status,
    /// The timeout of the call passed ([`Session::timeout`](crate::Session::timeout)).
    Timeout,
    /// The network or the server: no connection, no TLS, or a response that was truncated or not
    /// HTTP.
    Exchange,
    /// The token endpoint's 2xx response holds no usable bearer token.
    InvalidToken,
    /// The content of a 2xx response is over the limit, not UTF-8, or not the JSON asked for:
    /// [`Error::content`] keeps it.
    Content,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    received: Option<Arc<Received>>,
    may_have_executed: bool,
    is_final: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// A response that refused, or could not be used: what an [`Error`] keeps of it.
pub(crate) struct Received {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: Vec<u8>,
    pub(crate) retry_after: Option<Duration>,
}

/// What stands below an [`Error`] in an [`io::Error`], for [`Error::find`]: there are wrappers that
/// lead past the error itself, to its source. It shows what it stands before.
#[derive(Debug)]
struct Below(Error);

impl Error {
    /// Tells who can mend it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The status code of the response that refused, or whose content could not be read or used
    /// (2xx), if there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.received.as_ref().map(|received| received.status)
    }

    /// The value of a header field of that response: the first one of this name, compared without
    /// case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.0.received.as_ref()?.fields, name)
    }

    /// The content of that response as it was received: of a refusal 64 KiB at most, of a 2xx
    /// response as much as had been read.
    ///
    /// So the number of a booking is not lost when it is not in the expected shape, or when the
    /// response is truncated behind it. A server may have put anything there, a secret it was sent
    /// included: `Display` shows a cleaned excerpt. Of a token endpoint's responses only refusals
    /// are kept.
    #[must_use]
    pub fn content(&self) -> Option<&[u8]> {
        Some(&self.0.received.as_ref()?.content)
    }

    /// How long the server asks to wait before the next try (`Retry-After`, [RFC 9110, section
    /// 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)), uncapped.
    ///
    /// An HTTP-date is measured against the `Date` field of the same response. Ask
    /// [`may_have_executed`](Error::may_have_executed) before sending a create again: a 503 may
    /// have both. Not every rate limit says how long: see [`status`](Error::status) for 429, too.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.received.as_ref()?.retry_after
    }

    /// Whether the API may have done what was asked, or may still do it, although no good response
    /// arrived.
    ///
    /// `false`: the request was not executed, as far as a 4xx response tells. (A 409 may mean that
    /// an earlier one was.) After a 2xx response whose content could not be read or used, it is
    /// `true`.
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        self.0.may_have_executed
    }

    /// Finds the error of this crate in another one: `error` itself, the one within an
    /// [`io::Error`] (from reading a [`Response`](crate::Response)), or one of the sources below
    /// them, through any wrapper that has a source or keeps the [`io::Error`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let session = jas_session::Session::from_env()?;
    /// use jas_session::Error;
    ///
    /// let mut document = session.get("/documents/v1/PAR45176295.pdf")?;
    /// if let Err(error) = std::io::copy(&mut document, &mut std::io::sink()) {
    ///     let kind = Error::find(&error).map(Error::kind);
    ///     println!("{error} ({kind:?})");
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
        let mut next = Some(error);
        while let Some(error) = next {
            // What is within an `io::Error` is no source of it, but the source of that is.
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let error = inner.map_or(error, |inner| inner);
            if let Some(Below(found)) = error.downcast_ref() {
                return Some(found);
            }
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            received: None,
            may_have_executed: false,
            is_final: false,
            source: None,
        }))
    }

    pub(crate) fn invalid_input(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidInput, message)
    }

    pub(crate) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Error {
        self.0.source = Some(Arc::new(source));
        self
    }

    pub(crate) fn with_received(mut self, received: Received) -> Error {
        self.0.received = Some(Arc::new(received));
        self
    }

    /// The same with more to say.
    pub(crate) fn and(mut self, more: &str) -> Error {
        self.0.message.push_str(more);
        self
    }

    /// Once `true` it stays so: what an earlier attempt may have done is not undone by a later.
    pub(crate) fn or_executed(mut self, may_have_executed: bool) -> Error {
        self.0.may_have_executed |= may_have_executed;
        self
    }

    /// A retry would end in the same way: TLS refused a certificate, for example.
    pub(crate) fn finally(mut self, is_final: bool) -> Error {
        self.0.is_final = is_final;
        self
    }

    pub(crate) fn is_final(&self) -> bool {
        self.0.is_final
    }

    /// For a token request: whatever came of it, the API has done nothing.
    pub(crate) fn never_executed(mut self) -> Error {
        self.0.may_have_executed = false;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let mut cause = self.source().filter(|_| f.alternate());
        while let Some(error) = cause.filter(|error| !Below::is_alone(*error)) {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("status", &self.status())
            .field("may_have_executed", &self.0.may_have_executed)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.kind() {
            ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
            ErrorKind::Denied => io::ErrorKind::PermissionDenied,
            ErrorKind::Timeout => io::ErrorKind::TimedOut,
            ErrorKind::InvalidToken | ErrorKind::Content => io::ErrorKind::InvalidData,
            ErrorKind::Exchange | ErrorKind::Status => error
                .source()
                .and_then(|source| source.downcast_ref::<io::Error>())
                .map(io::Error::kind)
                // Readers would try again, without end.
                .filter(|kind| {
                    !matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
                })
                .unwrap_or(io::ErrorKind::Other),
        };
        let below = Below(error.clone());
        io::Error::new(kind, error.with_source(below))
    }
}

impl Below {
    /// Whether there is nothing that it stands before.
    fn is_alone(error: &(dyn StdError + 'static)) -> bool {
        let below = error.downcast_ref::<Below>();
        below.is_some_and(|below| below.0.source().is_none())
    }
}

impl fmt::Display for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.source() {
            Some(source) => write!(f, "{source}"),
            None => write!(f, "{:?}", self.0.kind()),
        }
    }
}

impl StdError for Below {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()?.source()
    }
}

/// What a status means, and what to do about it.
pub(crate) fn advice(status: u16) -> &'static str {
    match status {
        400 => ": the server could not read the request: check its content and its media type",
        404 => ": nothing is there: check the path and the base URL",
        405 => ": this path does not take this method",
        // It speaks of this request: nothing was done now.
        409 => ": it conflicts with what is there already, perhaps of an earlier request",
        413 => ": the content is larger than the server takes: send less at a time",
        415 => ": the server does not take this media type here: check it",
        429 => ": too many requests for now: send fewer at a time",
        500 => ": the server failed: try again later",
        502..=504 => ": the server, or one behind it, is down or overloaded: try again later",
        // The gateways of one maker say so.
        596 => ": no such route: check the base URL, the path, and the subscription to this API",
        _ => "",
    }
}

/// The first value of the field `name`, compared without case.
pub(crate) fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields
        .iter()
        .find(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_error_never_invites_readers_to_retry() {
        let retried = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
        let io_kind = |kind, cause: io::ErrorKind| {
            io::Error::from(Error::new(kind, "").with_source(io::Error::from(cause))).kind()
        };
        for kind in [ErrorKind::Exchange, ErrorKind::Status, ErrorKind::Timeout, ErrorKind::Content]
        {
            for cause in retried {
                assert!(!retried.contains(&io_kind(kind, cause)), "{kind:?} {cause:?}");
            }
        }
        let broken = io::ErrorKind::BrokenPipe;
        assert_eq!(io_kind(ErrorKind::Exchange, broken), broken);
    }
}
