//! The error of every call: its kind, its message, and the response that it keeps. Made by all
//! modules. Knows none of them.

pub(crate) mod remote_text;
mod response;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use response::{ErrorResponse, ERROR_CONTENT_LIMIT};

/// Why a call failed.
///
/// [`kind`](Error::kind) sorts errors by who can mend them. `Display` says what happened, where,
/// and what to do. [`source`](StdError::source) is the cause, if there is one. None of them shows a
/// secret, a token or an API key. Only [`content`](Error::content) returns a response as it was
/// received.
#[derive(Clone)]
pub struct Error(Box<Inner>);

/// The kind of an [`Error`]: who can mend it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller can mend it: a URL, a field, a setting or an environment variable is invalid.
    /// Nothing was sent.
    InvalidInput,
    /// The token endpoint refused to issue a token: the credentials or its URL are wrong.
    /// [`Error::status`] is the endpoint's status, not the API's. Calls within ten seconds after
    /// refused credentials (400, 401, 403, or 2xx with an `error`) get the same error.
    Denied,
    /// The API responded with a status other than 2xx: see [`Error::status`]. Or the token endpoint
    /// is overloaded or failed (429, 5xx, or 403 with `Retry-After`).
    Status,
    /// The call took longer than its timeout ([`Session::timeout`](crate::Session::timeout)).
    Timeout,
    /// The exchange with the server failed: no connection, no TLS, or a response that was truncated
    /// or not HTTP.
    Exchange,
    /// The token endpoint's 2xx response holds no usable bearer token.
    InvalidToken,
    /// The content of a 2xx response is over the limit, not UTF-8, or not the expected JSON:
    /// [`Error::content`] returns it.
    Content,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    response: Option<Arc<ErrorResponse>>,
    may_have_executed: bool,
    is_retryable: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the status code of the response, if there was one. It is 2xx if the content could
    /// not be read or used.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        Some(self.response()?.status)
    }

    /// Returns the first value of a header field of that response. The name is compared without
    /// case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.response()?.fields, name)
    }

    /// Returns the content of that response as it was received. After a 2xx status, this is
    /// everything that was read. After any other status, it is at most the first 64 KiB.
    ///
    /// So the number of a booking is not lost if the content doesn't have the expected shape, or if
    /// it is truncated after the number. The content may hold anything, including a secret that the
    /// server received: `Display` shows a cleaned excerpt. A token endpoint's response that
    /// contains a token is not kept.
    #[must_use]
    pub fn content(&self) -> Option<&[u8]> {
        Some(&self.response()?.content)
    }

    /// Returns how long the server asks to wait before the next attempt (`Retry-After`, [RFC 9110,
    /// section 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)), without a maximum.
    ///
    /// An HTTP-date is measured against the `Date` field of the same response. Before you send a
    /// booking again, check [`may_have_executed`](Error::may_have_executed): a 503 can have
    /// `Retry-After` although the booking was made. A rate limit may come without `Retry-After`, so
    /// check [`status`](Error::status) for 429, too.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.response()?.retry_after
    }

    /// Returns whether the API may have executed the request, or may still execute it.
    ///
    /// `false` if nothing was sent, or if the status is 4xx. (A 409 can mean that an earlier
    /// request was executed.) `true` after a 2xx response whose content could not be read or used.
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        self.0.may_have_executed
    }

    /// Returns the error of this crate in another error: `error` itself, the error inside an
    /// [`io::Error`] (from reading a [`Response`](crate::Response)), or one of its sources.
    ///
    /// An error that wraps the [`io::Error`] has to return it as its source. `serde_json::Error`
    /// does not: convert it with `io::Error::from` first.
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
        let cause = |&error: &&'a (dyn StdError + 'static)| {
            // An `io::Error` does not return the error inside it as its source. Some crates, such
            // as quick-xml, keep it in an `Arc`.
            let shared = || error.downcast_ref::<Arc<io::Error>>().map(|shared| &**shared);
            let io = error.downcast_ref::<io::Error>().or_else(shared);
            match io.and_then(io::Error::get_ref) {
                Some(inner) => Some(inner as _),
                None => error.source(),
            }
        };
        iter::successors(Some(error), cause).find_map(|error| error.downcast_ref())
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            response: None,
            may_have_executed: false,
            is_retryable: true,
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

    pub(crate) fn with_response(mut self, response: ErrorResponse) -> Error {
        self.0.response = Some(Arc::new(response));
        self
    }

    /// Appends `more` to the message.
    pub(crate) fn append(mut self, more: &str) -> Error {
        self.0.message.push_str(more);
        self
    }

    /// Sets `may_have_executed` if it is true, and never resets it: a later attempt doesn't undo
    /// what an earlier one may have done.
    pub(crate) fn executed_at_least(mut self, may_have_executed: bool) -> Error {
        self.0.may_have_executed |= may_have_executed;
        self
    }

    /// Sets whether a retry can help. It can't after a refused certificate, for example.
    pub(crate) fn retryable(mut self, is_retryable: bool) -> Error {
        self.0.is_retryable = is_retryable;
        self
    }

    pub(crate) fn response(&self) -> Option<&ErrorResponse> {
        self.0.response.as_deref()
    }

    pub(crate) fn is_retryable(&self) -> bool {
        self.0.is_retryable
    }

    /// Marks the error as that of a token request: no API request was sent, so the API has executed
    /// nothing.
    pub(crate) fn not_executed(mut self) -> Error {
        self.0.may_have_executed = false;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let cause = self.source().filter(|_| f.alternate());
        iter::successors(cause, |&error| error.source())
            .try_for_each(|error| write!(f, ": {error}"))
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
        let cause = error.source().and_then(|source| source.downcast_ref()).map(io::Error::kind);
        let kind = match (error.kind(), cause) {
            (ErrorKind::InvalidInput, _) => io::ErrorKind::InvalidInput,
            (ErrorKind::Denied, _) => io::ErrorKind::PermissionDenied,
            (ErrorKind::Timeout, _) => io::ErrorKind::TimedOut,
            (ErrorKind::InvalidToken | ErrorKind::Content, _) => io::ErrorKind::InvalidData,
            // With these kinds, code that reads in a loop would call `read` again without end.
            (_, Some(io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)) => {
                io::ErrorKind::Other
            }
            (_, cause) => cause.unwrap_or(io::ErrorKind::Other),
        };
        io::Error::new(kind, error)
    }
}

/// Returns the first value of the field `name`, compared without case.
pub(crate) fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
    found.map(|(_, value)| &**value)
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
