//! A blocking session for the JAS freight APIs: it requests an OAuth 2.0 access token (client
//! credentials, [RFC 6749, section 4.4](https://www.rfc-editor.org/rfc/rfc6749#section-4.4)),
//! puts it on every call, renews it before it expires and after it was refused, and sends
//! nothing twice that must not be.
//!
//! ```no_run
//! use jas_session::Session;
//!
//! # fn main() -> Result<(), jas_session::Error> {
//! let session = Session::new("https://api.example.com", "client id", "client secret")?
//!     .api_key("api-key")?;
//! let query = "<ShipmentQuery><HouseBill>PAR45176295</HouseBill></ShipmentQuery>";
//! let status = session
//!     .post_idempotent("/tracking/v1/shipments", "application/xml", query)?
//!     .text()?;
//! println!("{status}");
//! # Ok(()) }
//! ```
//!
//! # Errors
//!
//! An answer other than 2xx is an [`Error`], so that `?` never takes an error page for data.
//! [`Error::kind`] sorts errors by who can mend them; [`Error::may_have_executed`] tells whether
//! the API may have done what was asked all the same. `{error:#}` shows the causes, too, and
//! [`Error::find`] finds it within an [`io::Error`](std::io::Error) and what wraps that.
//!
//! A booking job has to look in this order:
//!
//! ```no_run
//! use jas_session::{miniserde, ErrorKind, Session}; // miniserde: in each module that derives
//!
//! #[derive(miniserde::Serialize)]
//! struct Booking { reference: String, pieces: u32 }
//!
//! # fn main() -> Result<(), jas_session::Error> {
//! let session = Session::from_env()?;
//! let booking = Booking { reference: "PO-4711".into(), pieces: 3 };
//! let answer = session.post_json("/bookings/v1/bookings", &booking);
//! match answer.and_then(|answer| answer.text()) {
//!     Ok(text) => println!("{} is booked: {text}", booking.reference),
//!     // Booked, but not in UTF-8, or longer than the limit.
//!     Err(error) if error.kind() == ErrorKind::Content => {
//!         println!("{} is booked: {:?}", booking.reference, error.content());
//!     }
//!     // Before the others: a 503 may have this and a `Retry-After`, too.
//!     Err(error) if error.may_have_executed() => println!("look before booking again: {error:#}"),
//!     // Nothing was done now, but an earlier run may have booked it.
//!     Err(error) if error.status() == Some(409) => println!("look whether it is booked: {error}"),
//!     Err(error) if error.status() == Some(429) || error.retry_after().is_some() => {
//!         let minute = std::time::Duration::from_secs(60);
//!         println!("not booked; again in {:?}", error.retry_after().unwrap_or(minute));
//!     }
//!     Err(error) => println!("not booked: {error}"),
//! }
//! # Ok(()) }
//! ```
//!
//! # Jobs that run often
//!
//! A token can be kept from one run to the next. What is left of its life does not stand still
//! between them, so keep the time at which it ends, in a file that nobody else can read. The
//! repository's example `cron_job` (in `tests/examples`) does that with all its traps: mode 0600, a
//! file for each client, written whole and then renamed, kept after a failure, too. In short:
//!
//! ```no_run
//! # use jas_session::Session;
//! use std::time::{Duration, SystemTime};
//!
//! # fn keep(token: &str, until: SystemTime) {}
//! # fn kept() -> Option<(String, SystemTime)> { None }
//! # fn main() -> Result<(), jas_session::Error> {
//! let mut session = Session::from_env()?;
//! if let Some((token, until)) = kept() {
//!     // A time that is over is as good as no token; a refused token is replaced.
//!     let left = until.duration_since(SystemTime::now()).unwrap_or_default();
//!     session = session.resume(&token, left)?;
//! }
//! session.get("/tracking/v1/shipments/S505185992")?;
//! if let Some((token, left)) = session.held_token() {
//!     keep(&token, SystemTime::now() + left);
//! }
//! # Ok(()) }
//! ```
//!
//! # Behind a proxy
//!
//! [`Session::proxy`] sets an HTTP proxy, and [`Session::proxy_from_env`] the one that the
//! environment names; without them connections are direct, whatever the environment says. A proxy
//! that opens TLS shows a certificate of the company's own: trust its issuer with
//! [`Session::root_certificates`], or turn on the feature `system-roots` if this system trusts it.
//!
//! # Guarantees
//!
#![doc = include_str!("guarantees.md")]
//!
//! # Features
//!
//! | feature | what it brings |
//! |---|---|
//! | `tls` (default) | HTTPS: TLS by rustls with ring, and Mozilla's roots, compiled in |
//! | `system-roots` | HTTPS with the system's roots in place of the compiled-in ones |
//! | `log` | tells the `log` crate, under the target `jas_session`, about token requests and renewals (`info`, `debug`), refusals and retries (`warn`). A logger must not use the session: it would wait for itself |
//!
//! ring becomes the process's cryptography provider at the first call, unless the application has
//! installed one before
//! ([`CryptoProvider::install_default`](https://docs.rs/rustls/0.23/rustls/crypto/struct.CryptoProvider.html#method.install_default)).
//!
//! # Common mistakes
//!
#![doc = include_str!("mistakes.md")]
//!
//! (`#[derive(miniserde::Serialize)]` says "cannot find module or crate `miniserde`": write `use
//! jas_session::miniserde;` in each module that derives.)
//!
//! # Your own tests
//!
//! A batch job can be tested without JAS: `http` is accepted for this machine, and a few lines
//! of the standard library answer as JAS would. (`http` passes by every proxy, so a stand-in says
//! nothing about yours: [`access_token`](Session::access_token) of the real JAS does.)
//!
//! ```
//! use std::io::{BufRead, BufReader, Read, Write};
//! use std::net::TcpListener;
//! use std::time::Duration;
//! use jas_session::{ErrorKind, Session};
//!
//! /// Answers each request, one after another, with what `answer` makes of its head and its
//! /// content: status and header fields, and content.
//! fn stub(answer: impl Fn(&str, &str) -> (&'static str, String) + Send + 'static) -> String {
//!     let listener = TcpListener::bind("127.0.0.1:0").unwrap();
//!     let url = format!("http://{}", listener.local_addr().unwrap());
//!     std::thread::spawn(move || {
//!         for stream in listener.incoming() {
//!             let mut stream = BufReader::new(stream.unwrap()); // closed after one request
//!             let (mut head, mut length) = (String::new(), 0);
//!             while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {
//!                 let line = head.lines().last().unwrap().to_lowercase();
//!                 if let Some(value) = line.strip_prefix("content-length:") {
//!                     length = value.trim().parse().unwrap();
//!                 }
//!             }
//!             let mut content = vec![0; length];
//!             stream.read_exact(&mut content).unwrap();
//!             let (status, content) = answer(&head, &String::from_utf8_lossy(&content));
//!             let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", content.len());
//!             // The client may have gone.
//!             let _ = stream.get_mut().write_all((head + &content).as_bytes());
//!         }
//!     });
//!     url
//! }
//!
//! # fn main() -> Result<(), jas_session::Error> {
//! let url = stub(|head, content| match head.split(' ').nth(1) {
//!     Some("/oauth2/token") => {
//!         let token = r#"{"access_token":"a-token-for-tests","token_type":"Bearer"}"#;
//!         ("200 OK", token.to_owned())
//!     }
//!     Some("/tracking/v1/shipments") if content.contains("PAR45176295") => {
//!         ("200 OK\r\nContent-Type: application/xml", "<shipment/>".to_owned())
//!     }
//!     Some("/tracking/v1/shipments") => ("404 Not Found", String::new()),
//!     _ => ("429 Too Many Requests\r\nRetry-After: 3600", String::new()),
//! });
//! let session = Session::new(&url, "id", "a-secret-for-tests")?;
//! let track = |bill: &str| {
//!     session.post_idempotent("/tracking/v1/shipments", "application/xml", bill)
//! };
//! assert_eq!(track("<HouseBill>PAR45176295</HouseBill>")?.text()?, "<shipment/>");
//! let error = track("<HouseBill>X</HouseBill>").unwrap_err();
//! assert_eq!((error.kind(), error.status()), (ErrorKind::Status, Some(404)));
//! let error = session.get("/documents").unwrap_err();
//! assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
//! # Ok(()) }
//! ```
//!
//! # What a call costs
//!
//! A session keeps its connections open ([`Session::idle_connections`]): the first call takes four
//! round trips with its token request, each further `get` or `post_idempotent` one, and a `post`,
//! which always has a connection of its own, three. [`Session::held_token`] with
//! [`Session::resume`] saves the token request of a job that is started often. Calls from several
//! threads run side by side.
//!
//! minreq is the HTTP library that this crate is built on: it writes the head of every request and
//! reads the head of every response, over a short connection to a port of 127.0.0.1, because a
//! connection that is kept open, bounded in time and trusted to tell where a response ends can't be
//! given to it. Neither secrets nor content pass there. That takes one short-lived thread a call,
//! and the loopback interface must be up.
//!
//! Content is sent from the caller's own memory, and read as it is asked for; that of up to 16 KiB
//! is read within the call. HTTP and TLS run on the caller's stack: leave 100 KiB in a debug build,
//! 50 KiB in a release build. A time in which the device is suspended does not count: a token that
//! expired in the meantime is refused, and replaced.
//!
//! Should another crate turn on minreq's feature `proxy`, the variables `http_proxy` and
//! `all_proxy` must not be set: the call fails and says so.

/// Tells the `log` crate, if the feature is on.
#[cfg(feature = "log")]
macro_rules! tell {
    ($level:ident, $($message:tt)*) => { log::$level!(target: "jas_session", $($message)*) };
}
#[cfg(not(feature = "log"))]
macro_rules! tell {
    ($level:ident, $($message:tt)*) => { if false { let _ = format_args!($($message)*); } };
}

mod counts;
mod error;
mod excerpt;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod json;
mod random;
mod response;
mod retry;
mod session;
mod token;
mod url;

pub use counts::Counts;
pub use error::{Error, ErrorKind};
pub use miniserde;
pub use response::Response;
pub use session::Session;

// Has the compiler check the README's lines.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
