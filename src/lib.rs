//! A blocking client for the JAS freight APIs: shipments, bookings and tracking.
//!
//! A [`Session`] requests an OAuth 2.0 access token (client credentials, [RFC 6749, section
//! 4.4](https://www.rfc-editor.org/rfc/rfc6749#section-4.4)) and sends it with every call. It
//! renews the token before it expires, and replaces a token that the API refused. It retries
//! read-only requests. It never retries a booking that may have been made.
//!
//! # Quick start
//!
//! Add the crate (`cargo add --path CLONE`). Then:
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
//! - [`Session::from_env`] reads the same values from `JAS_URL`, `JAS_CLIENT_ID`,
//!   `JAS_CLIENT_SECRET` and `JAS_API_KEY`.
//! - To read, call [`get`](Session::get) or [`post_idempotent`](Session::post_idempotent). To book,
//!   call [`post`](Session::post) or [`post_json`](Session::post_json).
//!
//! # Errors
//!
//! Every response other than 2xx is an [`Error`], so an error page is never taken for data.
//!
//! - [`Error::kind`] is the cause: your input, the credentials, the server or the network.
//! - [`Error::may_have_executed`] is whether the API may have executed the request.
//! - `{error:#}` prints an error with its causes.
//! - [`Error::find`] finds an [`Error`] inside an [`io::Error`](std::io::Error).
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
//!     // May be booked. This includes a 503 with `Retry-After`.
//!     Err(error) if error.may_have_executed() => println!("look before you retry: {error:#}"),
//!     // Not booked now, but an earlier run may have booked it.
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
//! Any number of threads can use one session at the same time. Share it by reference, or clone it:
//! clones share the token and the idle connections. Here four threads track a list:
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
//! ends. All calls of the session, also a POST, wait for the end of the limit before they send, if
//! the limit lasts 30 seconds at most and the wait fits into half of the time that the call has
//! left.
//!
//! - If the limit allows as many simultaneous calls as you have threads, you need no setting.
//! - With more threads, raise [`retries`](Session::retries): for example, to 20 for 16 threads and
//!   a limit of 5 calls a second. Raise the [`timeout`](Session::timeout), too: it includes the
//!   waits.
//! - A [`post`](Session::post) is not retried after a rate limit. See [`Error::retry_after`].
//!   `may_have_executed()` is `false` after a 429, and `true` after a 503.
//!
//! **When to stop.** After these errors, further calls will fail as well:
//!
//! - [`Denied`](ErrorKind::Denied), [`InvalidToken`](ErrorKind::InvalidToken) and
//!   [`InvalidInput`](ErrorKind::InvalidInput).
//! - [`Exchange`](ErrorKind::Exchange), if `may_have_executed()` is `false`: there is no
//!   connection.
//! - [`Status`](ErrorKind::Status) 401 or 403, if `retry_after()` is `None`: the API key or the
//!   subscription is wrong.
//!
//! The example `track_shipments` of the repository is a complete job: it writes CSV in the order of
//! its input, shows its progress and sets an exit status. [`Session::counts`] returns how many
//! tokens, connections and retries were used, for the end of a job's log.
//!
//! # Cron jobs
//!
//! [`Session::token_file`] keeps the token for the next run. A JAS token is valid for ten minutes.
//! Until it expires, further runs make no token request:
//!
//! ```no_run
//! # use jas_session::Session;
//! # fn main() -> Result<(), jas_session::Error> {
//! let session = Session::from_env()?.token_file("/run/user/1000/jas-token")?;
//! let shipment = session.get("/tracking/v1/shipments/S505185992")?.text()?;
//! # Ok(()) }
//! ```
//!
//! If the file is missing or damaged, the session requests a token. The feature `log` logs damage.
//! To keep the token elsewhere, use [`Session::held_token`] and [`Session::resume`].
//!
//! A token may expire while the device is suspended. The API then refuses it, and the session
//! replaces it.
//!
//! # Windows
//!
//! - **Certificates.** A proxy of your company may decrypt TLS. If Windows trusts the issuer of its
//!   certificate, turn on the feature `system-roots`. Otherwise export the issuer as "Base-64
//!   encoded X.509", and pass it to [`Session::root_certificates`].
//! - **Proxies.** Windows's settings are not read: use [`Session::proxy`]. The proxy must accept
//!   Basic credentials or none.
//! - **Token file.** Keep it below `%LOCALAPPDATA%`, where other users can't read it.
//! - **Task Scheduler.** It shows the exit status of a job. The example `fetch` has one for each
//!   kind of error.
//!
//! # JSON and XML
//!
//! [`post_json`](Session::post_json) and [`Response::json`] work with miniserde's derives. With
//! other crates, pass content as text or bytes. This example uses `serde_json` and `quick-xml`:
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
//! To show a percentage, divide by [`Response::content_length`], as the example `download` does.
//! Some servers send no length.
//!
//! # Proxy
//!
//! Connections are direct by default. [`Session::proxy`] sets an HTTP proxy.
//! [`Session::proxy_from_env`] takes it from the environment.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use jas_session::Session;
//! let issuer = std::fs::read("company-ca.pem")?;
//! let session = Session::from_env()?
//!     .proxy("http://user:password@proxy.example.com:3128")?
//!     .root_certificates(&issuer)?; // only for a proxy that decrypts TLS
//! # Ok(()) }
//! ```
//!
//! A proxy that decrypts TLS sends a certificate of your company. Trust its issuer with
//! [`Session::root_certificates`]. If your system trusts the issuer already, turn on the feature
//! `system-roots` instead.
//!
//! If another crate turns on minreq's feature `proxy`, leave the variables `http_proxy` and
//! `all_proxy` unset. If one is set, token requests fail, and the error says so.
//!
//! # Your own tests
//!
//! You can test a job without JAS, over `http` on 127.0.0.1. The example `sandbox` of the
//! repository is a server that imitates JAS: start it before your tests (`cargo run --example
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
//! /// Passes the request line and the content to `respond`, sends what it returns, and closes.
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
//! <details><summary>A server on another host, such as a container of docker-compose</summary>
//!
//! It needs TLS, because `http` is accepted for this machine only. Make an issuer and a certificate
//! for the name of the service, here `jas`:
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
//! 1. Install `jas.pem` and `jas.key` in the server, or in an nginx in front of it. If the server
//!    listens on 127.0.0.1 only, run nginx in its network (`network_mode: "service:jas"`).
//! 2. Set `JAS_URL=https://jas` for your program.
//! 3. Call [`Session::root_certificates`] with the content of `ca.pem`.
//!
//! </details>
//!
//! `http` never goes through a proxy. To test your proxy, call [`Session::access_token`] with the
//! base URL and credentials of the real JAS.
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
//! - **Connections** stay open for later calls: see [`Session::idle_connections`]. A `post` never
//!   uses an idle connection: the server may be closing it just then, and it would be unknown
//!   whether the booking was made.
//! - **Threads.** A new connection to a host name starts a thread, for the look-up. A token request
//!   starts one, for minreq. Nothing else starts a thread.
//! - **Token requests.** The crate minreq requests the tokens. By itself it can't obey the
//!   session's timeout, proxy and roots. So it connects to this crate, on a port of 127.0.0.1.
//!   There it writes the header fields of the request and reads the status of the response. This
//!   crate adds the credentials and makes the exchange with the server. So a token request needs
//!   the loopback interface. Other calls don't.
//! - **Stack.** A thread that makes calls needs 100 KiB of stack in a debug build, and 50 KiB in a
//!   release build.
//!
//! # Limits
//!
//! - **TLS.** Versions 1.2 and 1.3, with AES-GCM or ChaCha20-Poly1305, and a key exchange by
//!   X25519, P-256 or P-384. A server is not supported if all its ciphers use CBC, if it offers no
//!   key exchange but RSA or DHE, or if its key is P-521.
//! - **Client certificates** are not supported. If a server requires one, the error says so.
//! - **Renegotiation** of TLS 1.2 is not supported. Apache needs it where a `Location` or
//!   `Directory` has its own `SSLVerifyClient` or `SSLCipherSuite`: calls to these fail, and the
//!   error says so.
//! - **The year 2038.** After 19 January 2038, the standard library aborts 32-bit programs for
//!   musl. Other programs are not affected.
//! - **The clock.** Certificates can be checked only if the device's clock is right. If it is
//!   wrong, calls fail, and the error shows the clock's time.
//!
//! # Features
//!
//! | feature | effect |
//! |---|---|
//! | `tls` (default) | HTTPS with rustls and ring. Mozilla's roots are compiled in. |
//! | `system-roots` | HTTPS that trusts the system's roots instead of the compiled-in ones. On Windows and macOS the system checks the certificates. Not on Android. |
//! | `log` | Reports to the `log` crate, with target `jas_session`: token requests and renewals (`info`, `debug`), refusals and retries (`warn`). |
//!
//! If the application has installed a default [`CryptoProvider`] of rustls, the session uses that
//! instead of ring. It never installs one itself.
//!
//! A logger must make no call with the session: that would deadlock. It may call
//! [`Session::held_token`] and [`Session::counts`].
//!
//! [`CryptoProvider`]: https://docs.rs/rustls/0.23/rustls/crypto/struct.CryptoProvider.html
//!
//! # Versions
//!
//! The crate follows semantic versioning. It needs Rust 1.85 or newer; minor versions may raise
//! that, patch versions never do. The texts of error messages are not part of the API: match on
//! [`Error::kind`] and [`Error::status`].

#![forbid(unsafe_code)]

/// Logs a message with the `log` crate, if the feature is on.
#[cfg(feature = "log")]
macro_rules! log_event {
    ($level:ident, $($message:tt)*) => { log::$level!(target: "jas_session", $($message)*) };
}
#[cfg(not(feature = "log"))]
macro_rules! log_event {
    ($level:ident, $($message:tt)*) => { if false { let _ = format_args!($($message)*); } };
}

mod error;
mod http;
mod json;
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

// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
