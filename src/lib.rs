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
//! [`Session::token_file`] keeps the token from one run to the next, so that while it lives (ten
//! minutes), further runs make no token request:
//!
//! ```no_run
//! # use jas_session::Session;
//! # fn main() -> Result<(), jas_session::Error> {
//! let session = Session::from_env()?.token_file("/run/user/1000/jas-token")?;
//! let shipment = session.get("/tracking/v1/shipments/S505185992")?.text()?;
//! # Ok(()) }
//! ```
//!
//! Nothing that is wrong with the file makes a call fail; the feature `log` tells it. To keep a token
//! elsewhere there are [`Session::held_token`] and [`Session::resume`].
//!
//! # Many calls
//!
//! One session serves all threads: share it by reference, or clone it. Its calls run side by side,
//! with one token, and keep their connections for the next calls. Here four threads track a list:
//!
//! ```no_run
//! # use jas_session::Session;
//! use std::sync::atomic::{AtomicUsize, Ordering};
//!
//! # fn main() -> Result<(), jas_session::Error> {
//! let session = Session::from_env()?.retries(5);
//! let (numbers, next) = (["S505185992", "S505186107", "S505186240"], AtomicUsize::new(0));
//! std::thread::scope(|scope| {
//!     for _ in 0..4 {
//!         scope.spawn(|| {
//!             while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
//!                 let path = format!("/tracking/v1/shipments/{number}");
//!                 match session.get(&path).and_then(|response| response.text()) {
//!                     Ok(shipment) => println!("{shipment}"),
//!                     Err(error) => eprintln!("{number}: {error:#}"),
//!                 }
//!             }
//!         });
//!     }
//! });
//! let counts = session.counts();
//! eprintln!("{} tokens, {} retries", counts.tokens, counts.retries);
//! # Ok(()) }
//! ```
//!
//! **A rate limit** (429, or 403 or 503 with `Retry-After`) is met by the session: the call that was
//! refused is sent again when the limit ends, if it only reads, and the other calls wait for that, too,
//! if it lasts 30 seconds at most and fits into half of their time. With no more threads than the
//! limit allows calls at a time, a job needs nothing of its own. With more, a call may be refused
//! several times in a row: raise [`retries`](Session::retries) (to 20 for 16 threads at 5 calls a
//! second), and the [`timeout`](Session::timeout), which counts the waiting. A `post` is not sent again by itself: its
//! error has [`Error::retry_after`], and `may_have_executed()` tells whether to look first (after a 503
//! it does, after a 429 not).
//!
//! **What fails for all** need not be asked for again: [`Denied`](ErrorKind::Denied),
//! [`InvalidToken`](ErrorKind::InvalidToken) and [`InvalidInput`](ErrorKind::InvalidInput), an
//! [`Exchange`](ErrorKind::Exchange) for which `may_have_executed()` is `false` (no connection), and a
//! [`Status`](ErrorKind::Status) of 401 or 403 without `retry_after()` (API key, subscription).
//!
//! The repository's example `track_shipments` has all that a job needs besides: rows in order, CSV, a
//! progress line, which errors stop a run, and the exit status.
//!
//! # JSON and XML with serde
//!
//! [`post_json`](Session::post_json) and [`Response::json`] take miniserde's derives, which are small.
//! Any other crate works on content as text or bytes (the example `with_serde`, with quick-xml, too):
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let session = jas_session::Session::from_env()?;
//! #[derive(serde::Serialize)]
//! struct Query { #[serde(rename = "houseBill")] house_bill: String }
//! #[derive(serde::Deserialize)]
//! struct Shipment { arrival: Option<String> }
//!
//! let query = serde_json::to_vec(&Query { house_bill: "PAR45176295".into() })?;
//! let response = session.post_idempotent("/tracking/v1/shipments", "application/json", query)?;
//! let shipment: Shipment = serde_json::from_slice(&response.bytes()?)?;
//!
//! #[derive(serde::Serialize)]
//! #[serde(rename = "ShipmentQuery")]
//! struct XmlQuery { #[serde(rename = "HouseBill")] house_bill: String }
//! let query = quick_xml::se::to_string(&XmlQuery { house_bill: "PAR45176295".into() })?;
//! let response = session.post_idempotent("/tracking/v1/shipments", "application/xml", query)?;
//! let shipment: Shipment = quick_xml::de::from_str(&response.text()?)?;
//! # Ok(()) }
//! ```
//!
//! After a `post`, keep the content ([`Response::bytes`]) until it has been read: what was booked is in
//! there, whatever its shape.
//!
//! # Large documents
//!
//! A [`Response`] is a stream: [`std::io::copy`] writes it to a file in constant memory, and
//! [`Response::content_length`] gives what a percentage needs. The timeout counts for all of the
//! download. What is truncated is an error, so write to another name, and rename what is whole:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let session = jas_session::Session::from_env()?;
//! use std::fs::{rename, File};
//! use std::io::{Read, Write};
//!
//! let mut document = session.get("/documents/v1/PAR45176295.pdf")?;
//! let length = document.content_length(); // not every server tells it
//! let (mut file, mut buffer, mut come) = (File::create("bill.pdf.part")?, [0; 64 * 1024], 0);
//! loop {
//!     let n = document.read(&mut buffer)?;
//!     if n == 0 {
//!         break;
//!     }
//!     file.write_all(&buffer[..n])?;
//!     come += n as u64;
//!     if let Some(length) = length {
//!         eprint!("\r{} %", come * 100 / length);
//!     }
//! }
//! rename("bill.pdf.part", "bill.pdf")?;
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
//! of the standard library respond as JAS would, or as a bad network does. (`http` passes by every
//! proxy, so a stand-in says nothing about yours: [`access_token`](Session::access_token) of the real
//! JAS does.)
//!
//! ```
//! use std::io::{BufRead, BufReader, Read, Write};
//! use std::net::TcpListener;
//! use std::sync::Arc;
//! use std::time::Duration;
//! use jas_session::{ErrorKind, Session};
//!
//! /// Sends what `respond` makes of the head and the content of each request, and closes.
//! fn stub(respond: impl Fn(&str, &str) -> String + Send + Sync + 'static) -> String {
//!     let listener = TcpListener::bind("127.0.0.1:0").unwrap();
//!     let url = format!("http://{}", listener.local_addr().unwrap());
//!     let respond = Arc::new(respond);
//!     std::thread::spawn(move || {
//!         for stream in listener.incoming() {
//!             let (mut stream, respond) = (BufReader::new(stream.unwrap()), respond.clone());
//!             std::thread::spawn(move || {
//!                 let (mut head, mut length) = (String::new(), 0);
//!                 while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {
//!                     let line = head.lines().last().unwrap().to_lowercase();
//!                     if let Some(value) = line.strip_prefix("content-length:") {
//!                         length = value.trim().parse().unwrap();
//!                     }
//!                 }
//!                 let mut content = vec![0; length];
//!                 stream.read_exact(&mut content).unwrap();
//!                 let response = respond(&head, &String::from_utf8_lossy(&content));
//!                 // The client may have gone.
//!                 let _ = stream.get_mut().write_all(response.as_bytes());
//!             });
//!         }
//!     });
//!     url
//! }
//!
//! /// A whole response: status and header fields, and content.
//! fn response(status: &str, content: &str) -> String {
//!     format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{content}", content.len())
//! }
//!
//! # fn main() -> Result<(), jas_session::Error> {
//! let url = stub(|head, content| match head.split(' ').nth(1) {
//!     Some("/oauth2/token") => {
//!         response("200 OK", r#"{"access_token":"a-token-for-tests","token_type":"Bearer"}"#)
//!     }
//!     Some("/tracking/v1/shipments") if content.contains("PAR45176295") => {
//!         response("200 OK\r\nContent-Type: application/xml", "<shipment/>")
//!     }
//!     Some("/tracking/v1/shipments") => response("404 Not Found", ""),
//!     Some("/limited") => response("429 Too Many Requests\r\nRetry-After: 3600", ""),
//!     // Too late, truncated, and closed without a response.
//!     Some("/slow") => {
//!         std::thread::sleep(Duration::from_secs(5));
//!         response("200 OK", "")
//!     }
//!     Some("/truncated") => response("200 OK", "a document").replace("document", "doc"),
//!     _ => String::new(),
//! });
//! let session = Session::new(&url, "id", "a-secret-for-tests")?.retries(0);
//! let track = |bill: &str| {
//!     session.post_idempotent("/tracking/v1/shipments", "application/xml", bill)
//! };
//! assert_eq!(track("<HouseBill>PAR45176295</HouseBill>")?.text()?, "<shipment/>");
//! let error = track("<HouseBill>X</HouseBill>").unwrap_err();
//! assert_eq!((error.kind(), error.status()), (ErrorKind::Status, Some(404)));
//! let error = session.get("/limited").unwrap_err();
//! assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
//! let hasty = session.clone().timeout(Duration::from_millis(200));
//! assert_eq!(hasty.get("/slow").unwrap_err().kind(), ErrorKind::Timeout);
//! assert_eq!(session.get("/truncated").unwrap_err().kind(), ErrorKind::Exchange);
//! let error = session.post("/closed", "application/json", "{}").unwrap_err();
//! assert!(error.may_have_executed());
//! # Ok(()) }
//! ```
//!
//! The repository's example `sandbox` is a whole stand-in that stays up (`cargo run --example sandbox
//! -- --help`).
//!
//! A stand-in on another host, such as a container of docker-compose, has to speak TLS: `http` is for
//! this machine only. Make an issuer, and a certificate for the name of its service (here `jas`):
//!
//! ```sh
//! openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=test-issuer -keyout ca.key -out ca.pem
//! openssl req -newkey rsa:2048 -nodes -subj /CN=jas -keyout jas.key -out jas.csr
//! echo subjectAltName=DNS:jas > names
//! openssl x509 -req -in jas.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -extfile names \
//!     -out jas.pem
//! ```
//!
//! Give `jas.pem` and `jas.key` to the stand-in, or to an nginx before it (in the same container, or
//! with `network_mode: "service:jas"`, if the stand-in listens on 127.0.0.1 only). Give your program
//! `JAS_URL=https://jas` and `ca.pem`, and have it call [`Session::root_certificates`] with that file.
//!
//! # What a call costs
//!
//! A session keeps its connections open ([`Session::idle_connections`]): the first call takes four
//! round trips with its token request, each further `get` or `post_idempotent` one, and a `post`,
//! which always has a connection of its own, three. [`Session::token_file`] saves the token request
//! of a job that is started often.
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
