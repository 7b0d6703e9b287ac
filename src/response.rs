//! The response to a call: its status, its fields, and its content as a stream or whole. Made by
//! `session`. Knows nothing of tokens and retries.

use std::fmt;
use std::io::{self, Read};

use crate::error::remote_text::{self, excerpt};
use crate::error::{field, Error, ErrorKind, ErrorResponse};
use crate::http;
use crate::json::{self, BYTE_ORDER_MARK};

/// The default limit of [`Response::bytes`], [`Response::text`] and [`Response::json`].
const LIMIT: u64 = 1024 * 1024;

/// A response with a 2xx status.
///
/// Its content is read from the connection on demand: as a stream in constant memory with [`Read`],
/// or whole with [`bytes`](Response::bytes), [`text`](Response::text) or [`json`](Response::json).
/// All of it has to be read within the timeout of the call, which began with the call. A response
/// that is dropped before its end closes its connection. [`Error::find`] returns the [`Error`]
/// inside the [`io::Error`] of a read.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let session = jas_session::Session::from_env()?;
/// let mut document = session.get("/documents/v1/PAR45176295.pdf")?;
/// // Renamed when it is complete: a truncated download leaves no file of that name.
/// std::io::copy(&mut document, &mut std::fs::File::create("PAR45176295.part")?)?;
/// std::fs::rename("PAR45176295.part", "PAR45176295.pdf")?;
/// # Ok(()) }
/// ```
pub struct Response {
    inner: http::Response,
    limit: u64,
    secrets: Secrets,
}

/// Returns the secrets that no message about the content may show.
type Secrets = Box<dyn Fn() -> Vec<String> + Send + Sync>;

impl Response {
    pub(crate) fn new(inner: http::Response, secrets: Secrets) -> Response {
        Response { inner, limit: LIMIT, secrets }
    }

    /// Returns the status code, which is always 2xx.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.inner.status
    }

    /// Returns the first value of a header field. The name is compared without case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.inner.fields, name)
    }

    /// Returns the length of the content, if the server sent it in the head.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.inner.content.length()
    }

    /// Sets the maximum number of bytes that [`bytes`](Response::bytes), [`text`](Response::text)
    /// and [`json`](Response::json) accept: 1 MiB by default. Content of exactly this length is
    /// accepted. [`Read`] has no limit.
    #[must_use]
    pub fn limit(mut self, bytes: u64) -> Response {
        self.limit = bytes;
        self
    }

    /// Reads the whole content.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), jas_session::Error> {
    /// # let session = jas_session::Session::from_env()?;
    /// let label = session.get("/documents/v1/label.pdf")?.limit(8 << 20).bytes()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Content`](ErrorKind::Content) if it is longer than the [`limit`](Response::limit):
    /// [`Error::content`] returns its beginning. [`Timeout`](ErrorKind::Timeout) if the call took
    /// longer than its timeout, [`Exchange`](ErrorKind::Exchange) if the content is truncated:
    /// [`Error::content`] returns what arrived.
    pub fn bytes(self) -> Result<Vec<u8>, Error> {
        self.whole(|content, _| Ok(content))
    }

    /// Reads the whole content as UTF-8. A byte order mark at its start is removed.
    ///
    /// # Errors
    ///
    /// As [`bytes`](Response::bytes), and [`Content`](ErrorKind::Content) if it is not UTF-8:
    /// [`Error::content`] returns it.
    pub fn text(self) -> Result<String, Error> {
        let mut text = self.whole(|content, _| utf8(content))?;
        if text.starts_with(BYTE_ORDER_MARK) {
            text.drain(..BYTE_ORDER_MARK.len_utf8());
        }
        Ok(text)
    }

    /// Reads the whole content as JSON.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), jas_session::Error> {
    /// # let session = jas_session::Session::from_env()?;
    /// use jas_session::miniserde;
    ///
    /// #[derive(miniserde::Deserialize)]
    /// struct Shipment { arrival: Option<String> }
    ///
    /// let shipment: Shipment = session.get("/tracking/v1/shipments/S505185992")?.json()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`text`](Response::text), and [`Content`](ErrorKind::Content) if it is not JSON, or if a
    /// member that `T` needs is missing or of another type. The message shows the beginning, and
    /// [`Error::content`] returns all of it. JSON that is nested deeper than 128 levels is refused.
    pub fn json<T: miniserde::Deserialize>(self) -> Result<T, Error> {
        self.whole(|content, secrets| {
            let text = utf8(content)?;
            json::read(&text).ok_or_else(|| {
                let wanted = std::any::type_name::<T>();
                let mut why =
                    format!("({} bytes) is not JSON of the shape of {wanted}", text.len());
                let start = excerpt(&remote_text::text(text.as_bytes()), &secrets());
                if !start.is_empty() {
                    why = why + "; it begins with: " + &start;
                }
                (why, text.into())
            })
        })
    }

    /// Reads the whole content and converts it. The error keeps content that could not be used.
    fn whole<T>(
        self, read: impl FnOnce(Vec<u8>, &Secrets) -> Result<T, Unusable>,
    ) -> Result<T, Error> {
        let http::Response { status, fields, content } = self.inner;
        let label = content.call().label.clone();
        let result = content.whole(self.limit).and_then(|content| {
            read(content, &self.secrets).map_err(|(why, content)| {
                let message = format!("{label}: the content {why}");
                // The status was 2xx: the API has executed the request.
                (Error::new(ErrorKind::Content, message).executed_at_least(true), content)
            })
        });
        result.map_err(|(error, content)| {
            error.with_response(ErrorResponse::new(status, fields, content))
        })
    }
}

/// Why content could not be used, and the content.
type Unusable = (String, Vec<u8>);

fn utf8(content: Vec<u8>) -> Result<String, Unusable> {
    String::from_utf8(content).map_err(|cause| {
        let offset = cause.utf8_error().valid_up_to();
        let why = format!("is not UTF-8 from byte {offset} on");
        (why, cause.into_bytes())
    })
}

impl Read for Response {
    /// Reads a part of the content. Truncated content is an error of the kind
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof). A timeout is an error of the kind
    /// [`TimedOut`](io::ErrorKind::TimedOut). [`Error::find`] returns the [`Error`] inside.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.content.read(buffer).map_err(io::Error::from)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.inner.fields.iter().map(|(name, _)| name).collect();
        f.debug_struct("Response")
            .field("status", &self.inner.status)
            .field("fields", &names)
            .finish_non_exhaustive()
    }
}
