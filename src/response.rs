//! The response to a call: its status, its fields, and its content as a stream or whole. Made by
//! `session`. Knows nothing of tokens and retries.

use std::fmt;
use std::io::{self, Read};

use crate::error::remote_text::beginning;
use crate::error::{field, Error, ErrorKind, Received};
use crate::http;
use crate::json::{self, BYTE_ORDER_MARK};

/// The most that [`Response::bytes`], [`Response::text`] and [`Response::json`] read.
const LIMIT: u64 = 1024 * 1024;

/// A response with a 2xx status.
///
/// Its content is read from the connection as it is asked for: as a stream in constant memory by
/// [`Read`], or whole by [`bytes`](Response::bytes), [`text`](Response::text) or
/// [`json`](Response::json). All reading has to be over within the timeout of the call, which
/// counts from its start. A response that is dropped before its end closes its connection.
/// [`Error::find`] finds the [`Error`] of a read, whatever became of its [`io::Error`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let session = jas_session::Session::from_env()?;
/// let mut document = session.get("/documents/v1/PAR45176295.pdf")?;
/// // Renamed when it is whole: a truncated download leaves no file of that name.
/// std::io::copy(&mut document, &mut std::fs::File::create("PAR45176295.part")?)?;
/// std::fs::rename("PAR45176295.part", "PAR45176295.pdf")?;
/// # Ok(()) }
/// ```
pub struct Response {
    inner: http::Response,
    limit: u64,
    secrets: Secrets,
}

/// What no message about the content may show.
type Secrets = Box<dyn Fn() -> Vec<String> + Send + Sync>;

impl Response {
    pub(crate) fn new(inner: http::Response, secrets: Secrets) -> Response {
        Response { inner, limit: LIMIT, secrets }
    }

    /// The status code: always 2xx.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.inner.status
    }

    /// The value of a header field: the first one of this name, compared without case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.inner.fields, name)
    }

    /// The length of the content, if the server told it before it sent the content.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.inner.content.length()
    }

    /// Sets the most bytes that [`bytes`](Response::bytes), [`text`](Response::text) and
    /// [`json`](Response::json) accept: 1 MiB by default. Content of exactly this length is
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
    /// [`Error::content`] has its beginning then. [`Timeout`](ErrorKind::Timeout) if the time of
    /// the call is up, [`Exchange`](ErrorKind::Exchange) if it is truncated: [`Error::content`] has
    /// what came.
    pub fn bytes(self) -> Result<Vec<u8>, Error> {
        self.whole(|content, _| Ok(content))
    }

    /// Reads the whole content as UTF-8. A byte order mark at its start is removed.
    ///
    /// # Errors
    ///
    /// As [`bytes`](Response::bytes), and [`Content`](ErrorKind::Content) if it is not UTF-8:
    /// [`Error::content`] has it then.
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
    /// As [`text`](Response::text), and [`Content`](ErrorKind::Content) if it is not JSON, or
    /// not JSON of this type: a member that `T` needs is missing or of another type.
    /// The message shows how it begins, and [`Error::content`] has all of it. JSON that is nested
    /// deeper than 128 levels is not read.
    pub fn json<T: miniserde::Deserialize>(self) -> Result<T, Error> {
        self.whole(|content, secrets| {
            let text = utf8(content)?;
            json::read(&text).ok_or_else(|| {
                let wanted = std::any::type_name::<T>();
                let mut why =
                    format!("({} bytes) is not JSON of the shape of {wanted}", text.len());
                let start = beginning(&text, &secrets());
                if !start.is_empty() {
                    why = why + "; it begins with: " + &start;
                }
                (why, text.into())
            })
        })
    }

    /// Reads the whole content and makes something of it. What could not be used is in the error.
    fn whole<T>(
        self, read: impl FnOnce(Vec<u8>, &Secrets) -> Result<T, Unfit>,
    ) -> Result<T, Error> {
        let http::Response { status, fields, content } = self.inner;
        let label = content.call().label.clone();
        let result = content.whole(self.limit).and_then(|content| {
            read(content, &self.secrets).map_err(|(why, content)| {
                let message = format!("{label}: the content {why}");
                // The status was 2xx: the API has done what was asked.
                (Error::new(ErrorKind::Content, message).or_executed(true), content)
            })
        });
        result
            .map_err(|(error, content)| error.with_received(Received::new(status, fields, content)))
    }
}

/// Why content could not be used, and the content.
type Unfit = (String, Vec<u8>);

fn utf8(content: Vec<u8>) -> Result<String, Unfit> {
    String::from_utf8(content).map_err(|cause| {
        let place = cause.utf8_error().valid_up_to();
        let why = format!("is not UTF-8 from byte {place} on");
        (why, cause.into_bytes())
    })
}

impl Read for Response {
    /// Reads a part of the content. Truncated content is an error of the kind
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof), and a timeout one of the kind
    /// [`TimedOut`](io::ErrorKind::TimedOut); the [`Error`] is inside.
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
