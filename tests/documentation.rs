//! Each common mistake ends in the message that the documentation shows for it.

use jas_session::{Error, ErrorKind, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{closed_url, Fault, Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};

const TABLE: &str = include_str!("../src/mistakes.md");
const SHIPMENT: &str = "/tracking/v1/shipments/S505185992";

#[derive(jas_session::miniserde::Deserialize)]
struct Shipment {
    #[serde(rename = "shipmentNumber")]
    #[allow(dead_code, reason = "only its name counts")]
    number: String,
}

/// Compares an error with its row of the table, which has `https://api.example.com` for `url`.
fn assert_documented(mistake: &str, url: &str, error: Option<Error>) {
    let error = error.unwrap_or_else(|| panic!("{mistake}: no error"));
    let message = error.to_string().replace(url, "https://api.example.com");
    let row = format!("| {mistake} | `{:?}` | `` {} `` |", error.kind(), reason(&error, &message));
    assert!(TABLE.lines().any(|line| line == row), "not in the table:\n{row}");
}

/// A message without the request at its beginning.
fn reason<'a>(error: &Error, message: &'a str) -> &'a str {
    if error.kind() == ErrorKind::InvalidInput {
        return message;
    }
    let (request, reason) = message.split_once(": ").expect("a request");
    let requests = ["token request to https://", "GET https://", "POST https://"];
    assert!(requests.iter().any(|begin| request.starts_with(begin)), "{message}");
    reason
}

#[test]
fn each_mistake_ends_in_the_documented_message() {
    let sandbox = Sandbox::start();
    let url = sandbox.url();
    let new = |url: &str, secret: &str| Session::new(url, CLIENT_ID, secret);
    let session = new(&url, CLIENT_SECRET).expect("a session");
    let keyed = session.clone().api_key(API_KEY).expect("a key");
    let check = |mistake, error| assert_documented(mistake, &url, error);

    check("the secret is wrong", new(&url, "wrong").unwrap().get("/x").err());
    check("the secret was read from a file with its last line break", new(&url, "hush\r\n").err());
    let forbidden = Fault::Response(403, vec![], br#"{"message":"Forbidden"}"#.to_vec());
    sandbox.next(Place::Api, forbidden);
    check(
        "the application has no subscription to the API",
        keyed.post("/bookings/v1/bookings", "application/json", "{}").err(),
    );
    check("no API key was set", session.get(SHIPMENT).err());
    check("the API key is wrong", session.clone().api_key("wrong").unwrap().get(SHIPMENT).err());
    check(
        "the URL from the portal has `/oauth2/token` in it",
        new(&format!("{url}/oauth2/token"), CLIENT_SECRET).err(),
    );
    check("the URL begins with `http://`", new("http://api.jas.com", CLIENT_SECRET).err());
    let dead = closed_url();
    assert_documented(
        "nothing listens there, or a firewall refuses",
        &dead,
        new(&dead, CLIENT_SECRET).unwrap().retries(0).get("/x").err(),
    );
    sandbox.next(Place::Token, Fault::Response(404, vec![], vec![]));
    let fresh = new(&url, CLIENT_SECRET).unwrap();
    check("the token endpoint is elsewhere", fresh.get("/x").err());
    check(
        "the proxy is not an HTTP proxy",
        session.clone().proxy("socks5://proxy.example.com").err(),
    );
    check("the path has no `/` at its start", session.get("tracking/v1/shipments").err());
    sandbox.next(Place::Api, Fault::Response(200, vec![], br#"{"id":42}"#.to_vec()));
    check("the JSON has another shape", keyed.get(SHIPMENT).unwrap().json::<Shipment>().err());
    let large = keyed.get("/documents/v1/large?bytes=1048577").unwrap();
    check("the response is longer than the limit", large.bytes().err());
    for name in ["JAS_URL", "JAS_CLIENT_ID", "JAS_CLIENT_SECRET"] {
        std::env::remove_var(name);
    }
    check("variables are not set", Session::from_env().err());
    assert_eq!(TABLE.lines().count(), 2 + 18);
}

#[test]
fn readme_can_be_read_in_ten_minutes() {
    let readme = include_str!("../README.md");
    assert!(readme.lines().count() <= 130);
    for cell in readme.lines().filter(|line| line.starts_with('|')).flat_map(|row| row.split('|')) {
        assert!(cell.trim().chars().count() <= 100, "{cell}");
    }
}

#[cfg(feature = "tls")]
mod over_tls {
    use super::*;
    use std::io::{self, Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::thread::{self, JoinHandle};

    use rcgen::{date_time_ymd, CertificateParams, KeyPair};
    use rustls::crypto::ring;

    /// A TLS server with a self-signed certificate, for one connection.
    fn server(not_before: i32) -> (String, JoinHandle<()>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(not_before, 1, 1);
        params.not_after = date_time_ymd(4000, 1, 1);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            // The client refuses the certificate, which is an error of the server, too.
            let _: io::Result<_> = connection.complete_io(&mut stream);
        });
        (url, thread)
    }

    /// The error of a call to such a server, which is not retried.
    fn refusal(not_before: i32) -> (String, Error) {
        let (url, thread) = server(not_before);
        let session = Session::new(&url, "id", "secret").unwrap();
        let error = session.get("/x").unwrap_err();
        thread.join().unwrap();
        assert!(!error.may_have_executed());
        (url, error)
    }

    /// With `system-roots` the message is shorter.
    #[cfg(not(feature = "system-roots"))]
    #[test]
    fn proxy_that_opens_tls_is_explained() {
        let (url, error) = refusal(1975);
        assert_documented("a proxy of the company opens TLS", &url, Some(error));
    }

    #[test]
    fn wrong_password_of_a_proxy_is_explained() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = listener.local_addr().unwrap().to_string();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            let response = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
            stream.write_all(response).unwrap();
        });
        let session = Session::new("https://api.example.com", "id", "secret").unwrap();
        let session = session.proxy(&format!("http://user:wrong@{proxy}")).unwrap();
        let error = session.get("/x").unwrap_err();
        thread.join().unwrap();
        let message = error.to_string().replace(&proxy, "proxy.example.com:3128");
        let row = format!(
            "| the password of the proxy is wrong | `{:?}` | `` {} `` |",
            error.kind(),
            reason(&error, &message)
        );
        assert!(TABLE.lines().any(|line| line == row), "{row}");
    }

    #[test]
    fn wrong_clock_is_explained() {
        let (url, error) = refusal(3000);
        let message = error.to_string().replace(&url, "https://api.example.com");
        let (text, time) = reason(&error, &message).rsplit_once(" it says ").unwrap();
        let row = format!(
            "| the clock stands at 1970 | `Exchange` | `` {text} it says Thu, 01 Jan 1970 00:00:00 GMT `` |"
        );
        assert!(TABLE.contains(&row), "{row}");
        // The date of today, in the same form.
        assert_eq!(time.len(), "Thu, 01 Jan 1970 00:00:00 GMT".len());
        assert!(time.contains(" 20") && time.ends_with(" GMT"), "{time}");
    }

    #[test]
    fn misspelt_host_is_explained() {
        // RFC 6761, section 6.4: no such name exists.
        let session = Session::new("https://api.example.invalid", "id", "secret").unwrap();
        let error = session.retries(0).get("/x").err();
        assert_documented("the host is misspelt", "https://api.example.com", error);
    }
}
