//! Each common mistake ends in the message that the documentation shows for it.

use jas_session::{Error, ErrorKind, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[cfg(feature = "tls")]
#[path = "support/wire/mod.rs"]
mod wire;
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
    assert_row(mistake, &error, &error.to_string().replace(url, "https://api.example.com"));
}

fn assert_row(mistake: &str, error: &Error, message: &str) {
    let row = format!("| {mistake} | `{:?}` | `` {} `` |", error.kind(), reason(error, message));
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
    use super::wire::tls::{https, tls, Authority, Days};
    use super::wire::{response, Server};
    use super::*;

    /// The error of a call to a server with such a certificate, which is not retried.
    fn refusal(days: Days) -> (String, Error) {
        let server = tls(Authority::new().config("localhost", days), |_| Vec::new());
        let url = https(&server);
        let error = Session::new(&url, "id", "secret").unwrap().get("/x").unwrap_err();
        assert!(!error.may_have_executed());
        assert_eq!(server.ended().len(), 1);
        (url, error)
    }

    /// With `system-roots` the message is shorter.
    #[cfg(not(feature = "system-roots"))]
    #[test]
    fn proxy_that_opens_tls_is_explained() {
        let (url, error) = refusal(Days::Now);
        assert_documented("a company proxy decrypts TLS", &url, Some(error));
    }

    #[test]
    fn wrong_password_of_a_proxy_is_explained() {
        let server = Server::responding(&response("407 Proxy Authentication Required", "", ""));
        let proxy = server.address.to_string();
        let session = Session::new("https://api.example.com", "id", "secret").unwrap();
        let session = session.proxy(&format!("http://user:wrong@{proxy}")).unwrap();
        let error = session.get("/x").unwrap_err();
        let message = error.to_string().replace(&proxy, "proxy.example.com:3128");
        assert_row("the password of the proxy is wrong", &error, &message);
    }

    #[test]
    fn wrong_clock_is_explained() {
        let (url, error) = refusal(Days::Future);
        let message = error.to_string().replace(&url, "https://api.example.com");
        let (text, time) = message.rsplit_once(" it says ").unwrap();
        let then = "Thu, 01 Jan 1970 00:00:00 GMT";
        assert_row("the clock is at 1970", &error, &format!("{text} it says {then}"));
        // The date of today has the same form.
        assert_eq!(time.len(), then.len());
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
