//! A blocking client for the JAS freight APIs: shipments, bookings and tracking.
//!
//! A [`Session`] requests an OAuth 2.0 access token (client credentials, [RFC 6749, section
//! 4.4](https://www.rfc-editor.org/rfc/rfc6749#section-4.4)) and puts it on every call. It renews
//! the token before it expires, and replaces a token that the API refused. It retries requests that
//! only read. It never retries a booking that may have been made.
//!
//! # Quick start
//!
//! Add the crate (`cargo add --path CLONE`), then:
//!
//! ```no_run
//! use jas_session::Session;
//!
//! # fn main() -> Result<(), jas_session::Error> {
//! let session = Session::new("https://api.example.com", "client id", "client secret")?
//!     .api_key("api-key")?;
//! let query = "<ShipmentQuery><HouseBill>PAR45176295</HouseBill></ShipmentQuery>";
//! let response = session.post_idempotent("/tracking/v1/shipments", "application/xml", query)?;
//! println!("{}", response.text()?);
//! # Ok(()) }
//! ```
//!
//! - The base URL is the one in the JAS portal, without `/oauth2/token`. Its host is a name, an
//!   IPv4 address, or an IPv6 address in brackets. `http` is accepted for this machine only.
//! - [`Session::from_env`] takes the same from `JAS_URL`, `JAS_CLIENT_ID`, `JAS_CLIENT_SECRET` and
//!   `JAS_API_KEY`.
//! - To read, call [`get`](Session::get) or [`post_idempotent`](Session::post_idempotent). To book,
//!   call [`post`](Session::post) or [`post_json`](Session::post_json).
//!
//! # Errors
//!
//! Every response other than 2xx is an [`Error`], so an error page is never taken for data.
//!
//! - [`Error::kind`] tells the cause: your input, the credentials, the server or the network.
//! - [`Error::may_have_executed`] tells whether the API may have done what you asked.
//! - Print it with `{error:#}`: that shows its causes, too.
//! - [`Error::find`] finds it inside an [`io::Error`](std::io::Error).
//!
//! When you book, check in this order:
//!
//! ```no_run
//! use std::time::Duration;
//! use jas_session::{miniserde, ErrorKind, Session}; // miniserde: for the derive
//!
//! #[derive(miniserde::Serialize)]
//! struct Booking { reference: String, pieces: u32 }
//!
//! # fn main() -> Result<(), jas_session::Error> {
//! let session = Session::from_env()?;
//! let booking = Booking { reference: "PO-4711".into(), pieces: 3 };
//! let response = session.post_json("/bookings/v1/bookings", &booking);
//! match response.and_then(|response| response.text()) {
//!     Ok(text) => println!("booked: {text}"),
//!     // Booked, but the response is too long, or not UTF-8.
//!     Err(error) if error.kind() == ErrorKind::Content => {
//!         println!("booked: {:?}", error.content());
//!     }
//!     // Perhaps booked. A 503 with `Retry-After` belongs here, too.
//!     Err(error) if error.may_have_executed() => println!("look before you retry: {error:#}"),
//!     // Not booked now, but perhaps by an earlier run.
//!     Err(error) if error.status() == Some(409) => println!("look: {error}"),
//!     // Not booked: a rate limit.
//!     Err(error) if error.status() == Some(429) || error.retry_after().is_some() => {
//!         let pause = error.retry_after().unwrap_or(Duration::from_secs(60));
//!         println!("not booked; retry in {pause:?}");
//!     }
//!     Err(error) => println!("not booked: {error:#}"),
//! }
//! # Ok(()) }
//! ```
//!
//! # Threads
//!
//! One session serves all threads. Share it by reference, or clone it: clones share the token and
//! the idle connections. Calls run side by side. Here four threads track a list:
//!
//! ```no_run
//! use std::sync::atomic::{AtomicUsize, Ordering};
//! # use jas_session::Session;
//!
//! # fn main() -> Result<(), jas_session::Error> {
//! let session = Session::from_env()?;
//! let numbers = ["S505185992", "S505186107", "S505186240"];
//! let next = AtomicUsize::new(0);
//! let track = || {
//!     while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
//!         let response = session.get(&format!("/tracking/v1/shipments/{number}"));
//!         match response.and_then(|response| response.text()) {
//!             Ok(shipment) => println!("{shipment}"),
//!             Err(error) => eprintln!("{number}: {error:#}"),
//!         }
//!     }
//! };
//! std::thread::scope(|scope| {
//!     for _ in 0..4 {
//!         scope.spawn(track);
//!     }
//! });
//! # Ok(()) }
//! ```
//!
//! **Rate limits.** A 429 is a rate limit, and so is a 403 or 503 with `Retry-After`. The session
//! retries [`get`](Session::get) and [`post_idempotent`](Session::post_idempotent) when the limit
//! ends. Its other calls wait for the end, too, if the limit lasts 30 seconds at most and the wait
//! fits into half of the time that they have left.
//!
//! - If the limit allows as many calls at a time as you have threads, no setting is needed.
//! - With more threads, raise [`retries`](Session::retries): to 20 for 16 threads at 5 calls a
//!   second, for example. Raise the [`timeout`](Session::timeout), too: it includes the waiting.
//! - A [`post`](Session::post) is not retried after a rate limit. See [`Error::retry_after`].
//!   `may_have_executed()` is `false` after a 429, and `true` after a 503.
//!
//! **When to stop.** After these errors, the other calls would fail as well:
//!
//! - [`Denied`](ErrorKind::Denied), [`InvalidToken`](ErrorKind::InvalidToken) and
//!   [`InvalidInput`](ErrorKind::InvalidInput).
//! - [`Exchange`](ErrorKind::Exchange), if `may_have_executed()` is `false`: there is no
//!   connection.
//! - [`Status`](ErrorKind::Status) 401 or 403, if `retry_after()` is `None`: the API key or the
//!   subscription is wrong.
//!
//! The example `track_shipments` of the repository is a whole job: rows in order, CSV, a progress
//! line and an exit status. [`Session::counts`] gives the numbers for its last line.
//!
//! # Cron jobs
//!
//! [`Session::token_file`] keeps the token for the next run. A JAS token lives ten minutes. Until
//! it expires, further runs make no token request:
//!
//! ```no_run
//! # use jas_session::Session;
//! # fn main() -> Result<(), jas_session::Error> {
//! let session = Session::from_env()?.token_file("/run/user/1000/jas-token")?;
//! let shipment = session.get("/tracking/v1/shipments/S505185992")?.text()?;
//! # Ok(()) }
//! ```
//!
//! A missing or damaged file makes no call fail. The feature `log` reports it. To keep the token
//! elsewhere, use [`Session::held_token`] and [`Session::resume`].
//!
//! A token may expire while the device is suspended. The API then refuses it, and the session
//! replaces it.
//!
//! # Windows
//!
//! - **Certificates.** If Windows trusts the issuer that a proxy of your company has, turn on the
//!   feature `system-roots`. Else give the issuer to [`Session::root_certificates`], exported as
//!   "Base-64 encoded X.509".
//! - **Proxies.** Windows's settings are not read: use [`Session::proxy`]. The proxy must take
//!   Basic credentials or none.
//! - **Token file.** Keep it below `%LOCALAPPDATA%`, where other users can't read it.
//! - **Task Scheduler.** It shows the exit status of a job. The example `fetch` has one for each
//!   kind of outcome.
//!
//! # JSON and XML
//!
//! [`post_json`](Session::post_json) and [`Response::json`] work with miniserde's derives. With any
//! other crate, pass content as text or bytes. This example uses `serde_json` and `quick-xml`:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let session = jas_session::Session::from_env()?;
//! #[derive(serde::Serialize)]
//! struct ShipmentQuery { #[serde(rename = "HouseBill")] house_bill: String }
//! #[derive(serde::Deserialize)]
//! struct Shipment { arrival: Option<String> }
//!
//! let path = "/tracking/v1/shipments";
//! let query = serde_json::json!({ "houseBill": "PAR45176295" }).to_string();
//! let response = session.post_idempotent(path, "application/json", query)?;
//! let shipment: Shipment = serde_json::from_slice(&response.bytes()?)?;
//!
//! let query = quick_xml::se::to_string(&ShipmentQuery { house_bill: "PAR45176295".into() })?;
//! let response = session.post_idempotent(path, "application/xml", query)?;
//! let shipment: Shipment = quick_xml::de::from_str(&response.text()?)?;
//! # Ok(()) }
//! ```
//!
//! After a booking, keep the content until it is parsed: if parsing fails, it still holds the
//! booking number.
//!
//! # Large documents
//!
//! A [`Response`] is a stream, so [`std::io::copy`] saves it in constant memory. A truncated
//! document is an error. Write to another name first, and rename the file when it is complete:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let session = jas_session::Session::from_env()?;
//! use std::time::Duration;
//!
//! let session = session.timeout(Duration::from_secs(600)); // for the whole download
//! let mut document = session.get("/documents/v1/PAR45176295.pdf")?;
//! std::io::copy(&mut document, &mut std::fs::File::create("bill.pdf.part")?)?;
//! std::fs::rename("bill.pdf.part", "bill.pdf")?;
//! # Ok(()) }
//! ```
//!
//! For a percentage, divide by [`Response::content_length`], as the example `download` does. Not
//! every server sends a length.
//!
//! # Proxy
//!
//! Connections are direct by default. [`Session::proxy`] sets an HTTP proxy, and
//! [`Session::proxy_from_env`] the one that the environment names:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use jas_session::Session;
//! let issuer = std::fs::read("company-ca.pem")?;
//! let session = Session::from_env()?
//!     .proxy("http://user:password@proxy.example.com:3128")?
//!     .root_certificates(&issuer)?; // only for a proxy that opens TLS
//! # Ok(()) }
//! ```
//!
//! A proxy that opens TLS shows a certificate of your company. Trust its issuer with
//! [`Session::root_certificates`]. If your system trusts the issuer already, turn on the feature
//! `system-roots` instead.
//!
//! If another crate turns on minreq's feature `proxy`, leave the variables `http_proxy` and
//! `all_proxy` unset. If one is set, token requests fail, and the error says so.
//!
//! # Your own tests
//!
//! You can test a job without JAS, over `http` on 127.0.0.1. The example `sandbox` of the
//! repository is a stand-in for JAS that you can start beside your tests (`cargo run --example
//! sandbox -- --help`). Or write a stub with the standard library:
//!
//! <details><summary>A stub that responds like JAS, or like a bad network</summary>
//!
//! ```
//! use std::io::{BufRead, BufReader, Read, Write};
//! use std::net::TcpListener;
//! use std::time::Duration;
//! use jas_session::{ErrorKind, Session};
//!
//! /// Gives `respond` the request line and the content, sends what it returns, and closes.
//! fn stub(respond: impl Fn(&str, &str) -> String + Send + 'static) -> String {
//!     let listener = TcpListener::bind("127.0.0.1:0").unwrap();
//!     let url = format!("http://{}", listener.local_addr().unwrap());
//!     std::thread::spawn(move || {
//!         for stream in listener.incoming() {
//!             let mut stream = BufReader::new(stream.unwrap());
//!             let lines = stream.by_ref().lines().map_while(Result::ok);
//!             let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
//!             let length = head.iter().find_map(|line| {
//!                 line.to_lowercase().strip_prefix("content-length: ")?.parse().ok()
//!             });
//!             let mut content = String::new();
//!             let _ = stream.by_ref().take(length.unwrap_or(0)).read_to_string(&mut content);
//!             let response = respond(head.first().map_or("", |line| line), &content);
//!             let _ = stream.get_mut().write_all(response.as_bytes());
//!         }
//!     });
//!     url
//! }
//!
//! fn response(status: &str, content: &str) -> String {
//!     format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{content}", content.len())
//! }
//!
//! # fn main() -> Result<(), jas_session::Error> {
//! let url = stub(|request_line, content| match request_line {
//!     "POST /oauth2/token HTTP/1.1" => {
//!         response("200 OK", r#"{"access_token":"a-test-token","token_type":"Bearer"}"#)
//!     }
//!     "POST /tracking/v1/shipments HTTP/1.1" if content.contains("PAR45176295") => {
//!         response("200 OK", "<shipment/>")
//!     }
//!     "GET /limited HTTP/1.1" => response("429 Too Many Requests\r\nRetry-After: 3600", ""),
//!     "GET /truncated HTTP/1.1" => "HTTP/1.1 200\r\nContent-Length: 10\r\n\r\nhalf".into(),
//!     "GET /slow HTTP/1.1" => {
//!         std::thread::sleep(Duration::from_secs(1));
//!         response("200 OK", "")
//!     }
//!     "POST /closed HTTP/1.1" => String::new(), // no response
//!     _ => response("404 Not Found", ""),
//! });
//! let session = Session::new(&url, "id", "a-test-secret")?.retries(0);
//! let track = |bill: &str| {
//!     session.post_idempotent("/tracking/v1/shipments", "application/xml", bill)
//! };
//! assert_eq!(track("<HouseBill>PAR45176295</HouseBill>")?.text()?, "<shipment/>");
//! assert_eq!(track("<HouseBill>X</HouseBill>").unwrap_err().status(), Some(404));
//!
//! let error = session.get("/limited").unwrap_err();
//! assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
//! assert_eq!(session.get("/truncated").unwrap_err().kind(), ErrorKind::Exchange);
//! assert!(session.post("/closed", "text/plain", "").unwrap_err().may_have_executed());
//! let hasty = session.timeout(Duration::from_millis(200));
//! assert_eq!(hasty.get("/slow").unwrap_err().kind(), ErrorKind::Timeout);
//! # Ok(()) }
//! ```
//!
//! </details>
//!
//! <details><summary>A stand-in on another host, such as a container of docker-compose</summary>
//!
//! It has to speak TLS, because `http` is accepted for this machine only. Make an issuer, and a
//! certificate for the name of the service, here `jas`:
//!
//! ```sh
//! openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=test-issuer \
//!     -keyout ca.key -out ca.pem
//! openssl req -newkey rsa:2048 -nodes -subj /CN=jas -keyout jas.key -out jas.csr
//! echo subjectAltName=DNS:jas > names
//! openssl x509 -req -in jas.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 \
//!     -extfile names -out jas.pem
//! ```
//!
//! 1. Give `jas.pem` and `jas.key` to the stand-in, or to an nginx in front of it. If the stand-in
//!    listens on 127.0.0.1 only, run nginx in its network (`network_mode: "service:jas"`).
//! 2. Give your program `JAS_URL=https://jas` and `ca.pem`.
//! 3. Call [`Session::root_certificates`] with the content of `ca.pem`.
//!
//! </details>
//!
//! `http` never goes through a proxy. To test your proxy, call [`Session::access_token`] against
//! the real JAS.
//!
//! # Common mistakes
//!
//! Error messages say what to do. If a derive says "cannot find module or crate `miniserde`", write
//! `use jas_session::miniserde;` in that module.
//!
//! <details><summary>The common mistakes, and the error of each</summary>
//!
#![doc = include_str!("mistakes.md")]
//!
//! </details>
//!
//! # Guarantees
//!
#![doc = include_str!("guarantees.md")]
//!
//! # Cost
//!
//! | call, over TLS 1.3 | round trips |
//! |---|---|
//! | the first one, with its token request to the same host | 4 |
//! | each further `get` or `post_idempotent`, on an idle connection | 1 |
//! | each `post` or `post_json`, always on a new connection | 3 |
//!
//! - **Connections** stay open for later calls: see [`Session::idle_connections`]. A `post` uses
//!   none of them. If an idle connection broke, nobody could tell whether the booking was made.
//! - **Threads.** A new connection to a host name starts one, for the look-up. A token request starts
//!   one, for minreq. Nothing else does.
//! - **Token requests.** minreq requests the tokens, over 127.0.0.1: it writes the header fields of
//!   the request and reads the status of the response. This crate adds the credentials and exchanges
//!   both with the server, within the timeout, through the proxy, and with the roots of the session.
//!   So the loopback interface must be up for a token request. A call that has a token does without.
//! - **Stack.** A thread that makes calls needs 100 KiB of stack in a debug build, and 50 KiB in a
//!   release build.
//!
//! # Limits
//!
//! - **TLS.** Versions 1.2 and 1.3, with AES-GCM or ChaCha20-Poly1305, and a key exchange by X25519,
//!   P-256 or P-384. A server that only has CBC, a key exchange by RSA or DHE, or a P-521 key can't be
//!   reached.
//! - **Client certificates** are not supported. The error names a server that requires one.
//! - **Renegotiation** of TLS 1.2 is not supported. Apache needs it where a `Location` or `Directory`
//!   has its own `SSLVerifyClient` or `SSLCipherSuite`: there, calls fail, and the error says so.
//! - **The year 2038.** The standard library aborts a 32-bit program for musl once the clock is past
//!   19 January 2038. It does not abort a 64-bit program, or one for glibc.
//! - **The clock.** A certificate can be checked only if the device's clock is right. If it is not, a
//!   call fails, and the error says what the clock says.
//!
//! # Features
//!
//! | feature | effect |
//! |---|---|
//! | `tls` (default) | HTTPS with rustls and ring. Mozilla's roots are compiled in. |
//! | `system-roots` | HTTPS that trusts the system's roots instead of the compiled-in ones. On Windows and macOS the system checks the certificates. Not on Android. |
//! | `log` | Reports to the `log` crate, with target `jas_session`: token requests and renewals (`info`, `debug`), refusals and retries (`warn`). |
//!
//! If the application has installed a default [`CryptoProvider`] of rustls, the session uses it
//! instead of ring. The session installs none.
//!
//! A logger must not call the session: that would be a deadlock.
//!
//! [`CryptoProvider`]: https://docs.rs/rustls/0.23/rustls/crypto/struct.CryptoProvider.html
//!
//! # Versions
//!
//! The crate follows semantic versioning. It needs Rust 1.85 or newer (MSRV), which is raised in
//! minor versions only. The texts of error messages are not part of the API: match on
//! [`Error::kind`] and [`Error::status`].

#![forbid(unsafe_code)]

/// Tells the `log` crate, if the feature is on.
#[cfg(feature = "log")]
macro_rules! tell {
    ($level:ident, $($message:tt)*) => { log::$level!(target: "jas_session", $($message)*) };
}
#[cfg(not(feature = "log"))]
macro_rules! tell {
    ($level:ident, $($message:tt)*) => { if false { let _ = format_args!($($message)*); } };
}

mod error;
mod http;
mod response;
mod retry;
mod session;
mod token;
mod url;

pub use error::{Error, ErrorKind};
pub use miniserde;
pub use response::Response;
pub use session::{Counts, Session};

#[cfg(jas_session_fuzzing)]
#[doc(hidden)]
#[path = "../tests/fuzz/hooks.rs"]
pub mod fuzzing;

// Has the compiler check the README's lines.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
