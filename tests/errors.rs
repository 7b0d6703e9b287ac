//! Errors: their messages to the letter, and nothing secret in any of them.

use std::error::Error as _;
use std::fmt::Debug;
use std::io::{self, Read};
use std::time::Duration;

use jas_session::{Error, ErrorKind, Response, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{closed_url, Fault, Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};

fn session(sandbox: &Sandbox) -> Session {
    Session::new(&sandbox.url(), CLIENT_ID, CLIENT_SECRET)
        .and_then(|session| session.api_key(API_KEY))
        .expect("a session")
        .retries(0)
}

fn response(status: u16, fields: &[(&'static str, &str)], content: &str) -> Fault {
    let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned()));
    Fault::Response(status, fields.collect(), content.into())
}

/// A port where nobody listens.
#[test]
fn public_types_can_go_where_users_want_them() {
    fn is_shared<T: Send + Sync + Debug + 'static>() {}
    fn is_sent<T: Send + Debug + 'static>() {}
    fn is_io_error<T: Into<io::Error> + std::error::Error>() {}
    is_shared::<Session>();
    is_shared::<Error>();
    is_shared::<ErrorKind>();
    is_sent::<Response>();
    is_io_error::<Error>();
    assert_eq!(std::mem::size_of::<Error>(), std::mem::size_of::<usize>());
}

#[test]
#[allow(clippy::too_many_lines, reason = "a list")]
fn one_message_of_each_kind() {
    let sandbox = Sandbox::start();
    let url = sandbox.url();
    let session = session(&sandbox);
    let dead = closed_url();

    let error = session.get("shipments").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        "the path \"shipments\" starts neither with `/` nor with the base URL's origin"
    );

    let error = Session::new(&url, CLIENT_ID, "wrong").unwrap().access_token().unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Denied, Some(403)));
    assert_eq!(
        error.to_string(),
        format!(
            "token request to {url}/oauth2/token: status 403: check the client id and the \
             client secret, and that the application is subscribed to an API; the response says: \
             invalid_client: invalid credentials"
        )
    );

    let error = session.clone().api_key("wrong").unwrap().get("/x?y=z").unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Status, Some(403)));
    assert_eq!(error.content(), Some(&br#"{"message":"Forbidden"}"#[..]));
    assert_eq!(
        error.to_string(),
        format!(
            "GET {url}/x: status 403: check the API key (x-api-key), and the application's \
             subscription to this API; the response says: Forbidden"
        )
    );

    sandbox.next(Place::Api, Fault::Stall(Some(3)));
    let hasty = session.clone().timeout(Duration::from_millis(300));
    let error = hasty.get("/tracking/v1/shipments/S505185992").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(
        error.to_string(),
        format!(
            "GET {url}/tracking/v1/shipments/S505185992: the timeout of 300ms passed before the \
             content was complete (3 of 614 bytes came)"
        )
    );

    let error = Session::new(&dead, "id", "secret").unwrap().retries(0).get("/x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exchange);
    assert_eq!(
        error.to_string(),
        format!(
            "token request to {dead}/oauth2/token: no connection to the host could be made: \
             check host, port and firewall"
        )
    );
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::ConnectionRefused));
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::ConnectionRefused);

    sandbox.next(Place::Token, response(200, &[], "{}"));
    let fresh = session.clone().token_endpoint(&format!("{url}/oauth2/token")).unwrap();
    let error = fresh.get("/x").unwrap_err();
    assert_eq!(
        (error.kind(), error.status(), error.content()),
        (ErrorKind::InvalidToken, None, None)
    );
    assert_eq!(
        error.to_string(),
        format!(
            "token request to {url}/oauth2/token: the response holds no usable token: it has no \
             access_token"
        )
    );

    sandbox.next(Place::Api, response(200, &[("Content-Type", "text/html")], "<html>"));
    let error = session.get("/x").unwrap().json::<Vec<u8>>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Content);
    assert!(error.may_have_executed());
    assert_eq!(
        error.to_string(),
        format!(
            "GET {url}/x: the content (6 bytes) is not JSON of the \
             shape of alloc::vec::Vec<u8>; it begins with: <html>"
        )
    );
    let long = format!("{{\"a\":\"{}\"}}", "b".repeat(300));
    for (content, what, start) in [
        ("", "(0 bytes) is not", String::new()),
        (" \n", "(2 bytes) is not", String::new()),
        ("{\"a\":\n1}", "(8 bytes) is not", "{\"a\": 1}".into()),
        (&long, "(308 bytes) is not", format!("{}...", &long[..200])),
        // A server that echoes its client's key.
        (
            &format!("[{{\"key\":\"{API_KEY}\"}}]"),
            "(32 bytes) is not",
            "[{\"key\":\"[redacted]\"}]".into(),
        ),
    ] {
        sandbox.next(Place::Api, response(200, &[], content));
        let error = session.get("/x").unwrap().json::<Vec<u8>>().unwrap_err();
        let mut message =
            format!("GET {url}/x: the content {what} JSON of the shape of alloc::vec::Vec<u8>");
        if !start.is_empty() {
            message = message + "; it begins with: " + &start;
        }
        assert_eq!(error.to_string(), message);
        assert_eq!(error.content(), Some(content.as_bytes()));
    }
    sandbox.next(Place::Api, Fault::Response(200, vec![], b"ab\xff".to_vec()));
    assert_eq!(
        session.get("/x").unwrap().text().unwrap_err().to_string(),
        format!("GET {url}/x: the content is not UTF-8 from byte 2 on")
    );
}

#[test]
fn statuses_come_with_advice_and_with_what_the_response_says() {
    let sandbox = Sandbox::start();
    for (fault, message) in [
        (
            response(400, &[], "<error>\r\n  <text>no\tContent-Type</text>\n</error>"),
            "400: the server could not read the request: check its content and its media type; the \
             response says: no Content-Type",
        ),
        (
            response(403, &[("Retry-After", "5")], ""),
            "403: too many requests for now: send fewer at a time; it asks to wait 5s",
        ),
        (
            response(404, &[], r#"{"error":"not_found","error_description":"no such shipment"}"#),
            "404: nothing is there: check the path and the base URL; the response says: not_found: \
             no such shipment",
        ),
        (
            response(429, &[("Retry-After", "5")], "slow down"),
            "429: too many requests for now: send fewer at a time; it asks to wait 5s; the \
             response says: slow down",
        ),
        (
            response(302, &[("Location", "https://user:pw@evil.example:8443/login?x#y")], "moved"),
            "302; it redirects to https://evil.example:8443/login, which is never followed",
        ),
        (
            response(308, &[("Location", "//evil.example?a")], ""),
            "308; it redirects to //evil.example, which is never followed",
        ),
        (
            response(307, &[("Location", "/login?next=https://evil.example/")], ""),
            "307; it redirects to /login, which is never followed",
        ),
    ] {
        sandbox.next(Place::Api, fault);
        // A new session each time: a rate limit holds for a session and its clones.
        let error = session(&sandbox).get("/x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Status);
        assert_eq!(error.to_string(), format!("GET {}/x: status {message}", sandbox.url()));
    }
    // A redirect is not followed, wherever it leads.
    sandbox.next(Place::Api, response(307, &[("Location", "/elsewhere")], ""));
    session(&sandbox).get("/x").unwrap_err();
    assert!(sandbox.requests().iter().all(|request| request.target != "/elsewhere"));
}

#[test]
fn nothing_of_a_response_that_refused_is_lost() {
    let sandbox = Sandbox::start();
    let long = "x".repeat(70_000);
    sandbox.next(Place::Api, response(418, &[("X-Trace", "  7  ")], &long));
    let error = session(&sandbox).get("/x").unwrap_err();
    assert_eq!(error.status(), Some(418));
    assert_eq!(error.header("x-trace"), Some("7"));
    assert_eq!(error.header("x-none"), None);
    assert_eq!(error.content(), Some(&long.as_bytes()[..65_536]));
    assert_eq!(error.retry_after(), None);
    assert!(error.source().is_none());
}

#[test]
fn content_of_a_good_response_that_can_t_be_used_is_in_the_error() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let booked = b"{\"bookingNumber\":\"B7\",\"consignee\":\"M\xfcller\"}";
    let created = || {
        let fields = vec![("Location", "/bookings/v1/bookings/B7".to_owned())];
        sandbox.next(Place::Api, Fault::Response(201, fields, booked.to_vec()));
        session.post("/x", "text/plain", "").unwrap()
    };
    for (error, why) in [
        (created().text().unwrap_err(), "is not UTF-8 from byte 36 on"),
        (created().json::<u32>().unwrap_err(), "is not UTF-8 from byte 36 on"),
        (
            created().limit(40).bytes().unwrap_err(),
            "is longer than the limit of 40 bytes: raise it with Response::limit, or read it as a \
             stream",
        ),
    ] {
        assert_eq!(error.kind(), ErrorKind::Content);
        assert_eq!(error.to_string(), format!("POST {}/x: the content {why}", sandbox.url()));
        assert_eq!(error.content(), Some(if why.contains("40") { &booked[..40] } else { booked }));
        assert_eq!(error.status(), Some(201));
        assert_eq!(error.header("location"), Some("/bookings/v1/bookings/B7"));
        assert!(error.may_have_executed());
    }
    // Truncated, or too late: what came is kept, too.
    for (fault, kind) in
        [(Fault::Half, ErrorKind::Exchange), (Fault::Stall(Some(15)), ErrorKind::Timeout)]
    {
        sandbox.next(Place::Api, fault);
        let session = session.clone().timeout(Duration::from_millis(400));
        let booking = session.post("/bookings/v1/bookings", "application/json", "{}");
        let error = booking.unwrap().text().unwrap_err();
        assert_eq!((error.kind(), error.status()), (kind, Some(201)));
        let content = error.content().unwrap();
        assert_eq!(content, &b"{\"bookingNumber\":\"B700000001\"}"[..content.len()]);
        assert_eq!(content.len(), 15);
        assert!(error.may_have_executed());
    }
    let json = b"\xef\xbb\xbf[\"B7\"]".to_vec();
    for fault in [Fault::Response(200, vec![], json.clone()), {
        let chunks =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", json.len());
        Fault::Raw([chunks.as_bytes(), &json, b"\r\n0\r\n\r\n"].concat())
    }] {
        sandbox.next(Place::Api, fault.clone());
        let error = session.get("/x").unwrap().json::<u32>().unwrap_err();
        assert_eq!(error.content(), Some(&json[..]));
        sandbox.next(Place::Api, fault.clone());
        let error = session.get("/x").unwrap().limit(8).text().unwrap_err();
        assert_eq!(error.content(), Some(&json[..8]));
        sandbox.next(Place::Api, fault);
        let whole = session.get("/x").unwrap().limit(9).json::<Vec<String>>();
        assert_eq!(whole.unwrap(), ["B7"], "a byte order mark is no content");
    }
}

#[test]
fn a_redirect_shows_the_path_without_its_query() {
    let sandbox = Sandbox::start();
    for (location, shown) in [
        ("/tracking/v1/shipments/", "/tracking/v1/shipments/"),
        ("shipments/?token=a#b", "shipments/"),
        ("https://jas.example/v2/x?key=a", "https://jas.example/v2/x"),
        ("https://user:p/w@jas.example", "https://user:p/w@jas.example"),
        ("https://user:pw@jas.example", "https://jas.example"),
        ("//jas.example:8443/@x", "//jas.example:8443/@x"),
        ("?a", ""),
    ] {
        sandbox.next(Place::Api, response(308, &[("Location", location)], ""));
        let error = session(&sandbox).get("/tracking/v1/shipments").unwrap_err();
        let text = format!(
            "GET {}/tracking/v1/shipments: status 308; it redirects to {shown}, which is \
             never followed",
            sandbox.url()
        );
        assert_eq!(error.to_string(), text);
    }
}

/// Keeps an error as a source only.
#[derive(Debug)]
struct Wrapper(Box<dyn std::error::Error + Send + Sync>);

impl std::fmt::Display for Wrapper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no shipment")
    }
}

impl std::error::Error for Wrapper {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

#[test]
fn an_error_is_found_in_whatever_wraps_it() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let message = format!(
        "POST {}/x: the connection ended before the content was complete \
         (5 of 100 bytes came)",
        sandbox.url()
    );
    let reading = || {
        let raw = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"a\":";
        sandbox.next(Place::Api, Fault::Raw(raw.to_vec()));
        session.post("/x", "text/plain", "").unwrap()
    };
    let copying = || io::copy(&mut reading(), &mut io::sink()).unwrap_err();
    let parsing = || serde_json::from_reader::<_, serde_json::Value>(reading()).unwrap_err();
    let errors: [Box<dyn std::error::Error>; 6] = [
        Box::new(reading().bytes().unwrap_err()),
        Box::new(copying()),
        Box::new(io::Error::other(copying())),
        Box::new(io::Error::other(Wrapper(Box::new(copying())))),
        Box::new(Wrapper(Box::new(Wrapper(Box::new(copying()))))),
        Box::new(io::Error::from(parsing())),
    ];
    for error in &errors {
        let found = Error::find(&**error).unwrap_or_else(|| panic!("not in {error:?}"));
        assert_eq!((found.kind(), found.may_have_executed()), (ErrorKind::Exchange, true));
        assert_eq!(found.to_string(), message);
    }
    assert!(Error::find(&io::Error::other("no")).is_none());
    // Nothing stands twice in the chain.
    let chain = format!("{message}: unexpected end of file");
    for error in [&errors[0], &errors[1]] {
        assert_eq!(format!("{:#}", Error::find(&**error).unwrap()), chain);
        let mut told = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            told = format!("{told}: {cause}");
            source = cause.source();
        }
        assert_eq!(told, chain);
    }
    // An error without a cause has none in an `io::Error` either.
    let late = session.clone().timeout(Duration::ZERO).get("/x").unwrap_err();
    let text = late.to_string();
    assert_eq!(format!("{late:#}"), text);
    let late = io::Error::from(late);
    assert_eq!(format!("{:#}", Error::find(&late).unwrap()), text);
}

#[test]
fn a_secret_that_is_echoed_by_whoever_knows_it_is_not_shown() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox).retries(2);
    // A token that was neither the first nor the last token of a call.
    let middle = "middle-token-of-three";
    let first = session.access_token().unwrap();
    for content in
        [format!(r#"{{"access_token":"{middle}"}}"#), r#"{"access_token":"last"}"#.into()]
    {
        sandbox.next(Place::Token, response(200, &[], &content));
    }
    let echo = format!("no {first}, {middle}, last");
    sandbox.next(Place::Api, response(401, &[], ""));
    sandbox.next(Place::Api, response(503, &[("Retry-After", "1")], ""));
    sandbox.next(Place::Api, response(500, &[], &echo));
    let error = std::thread::scope(|scope| {
        let call = scope.spawn(|| session.get("/x").unwrap_err().to_string());
        sandbox.await_count(Place::Api, 2);
        session.invalidate(middle);
        call.join().unwrap()
    });
    let says = "the response says: no [redacted], [redacted], [redacted]";
    assert!(error.ends_with(says), "{error}");

    // Each character escaped, in a page.
    let escaped = API_KEY.chars().map(|c| format!("&#x{:010x};", c as u32));
    let escaped = escaped.collect::<Vec<_>>().concat();
    sandbox.next(Place::Api, response(500, &[], &format!("<p>no {escaped}</p>")));
    let error = session.get("/x").unwrap_err().to_string();
    assert!(error.ends_with("the response says: [redacted]"), "{error}");

    // A key of a gateway, in a field of its own.
    let keyed = session.clone().header("Gateway-Key", "k3y-of-the-gateway").unwrap();
    sandbox.next(Place::Api, response(500, &[], "no such key k3y-of-the-gateway"));
    let error = keyed.get("/x").unwrap_err().to_string();
    assert!(error.ends_with("says: no such key [redacted]"), "{error}");

    // A token endpoint on the same server: only known members are shown, without the API key.
    for (content, says) in [
        (format!(r#"{{"error":"bad {API_KEY}"}}"#), "; the response says: bad [redacted]"),
        ("access_token=another-token&error=x".to_owned(), ""),
        (r#"{"access_token":"another-token","id":"x"}"#.to_owned(), ""),
        ("<p>another-token</p>".to_owned(), ""),
    ] {
        sandbox.next(Place::Token, response(400, &[], &content));
        let endpoint = format!("{}/oauth2/token", sandbox.url());
        let fresh = session.clone().token_endpoint(&endpoint).unwrap();
        let error = fresh.access_token().unwrap_err().to_string();
        let end = format!("subscribed to an API{says}");
        assert!(error.ends_with(&end), "{error}");
    }
}

#[test]
fn a_content_coding_that_was_not_asked_for_is_an_error() {
    let sandbox = Sandbox::start();
    sandbox.next(Place::Api, response(200, &[("Content-Encoding", "gzip")], "..."));
    let error = session(&sandbox).get("/x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exchange);
    assert!(error.may_have_executed());
    assert_eq!(
        error.to_string(),
        format!(
            "GET {}/x: the content is encoded (Content-Encoding), which was not asked for",
            sandbox.url()
        )
    );
    sandbox.next(Place::Api, response(200, &[("Content-Encoding", "identity")], "..."));
    assert_eq!(session(&sandbox).get("/x").unwrap().text().unwrap(), "...");
    // Where there is no content, nothing is encoded.
    sandbox.next(Place::Api, response(200, &[("Content-Encoding", "gzip")], ""));
    assert_eq!(session(&sandbox).get("/x").unwrap().text().unwrap(), "");
}

#[test]
fn what_was_truncated_stays_truncated_and_its_error_travels_in_an_io_error() {
    let sandbox = Sandbox::start();
    let raw = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello";
    sandbox.next(Place::Api, Fault::Raw(raw.to_vec()));
    // The content of a plain POST is not read before the caller does.
    let mut response = session(&sandbox).post("/x", "text/plain", "").unwrap();
    let mut content = Vec::new();
    let error = response.read_to_end(&mut content).unwrap_err();
    assert_eq!((error.kind(), &content[..]), (io::ErrorKind::UnexpectedEof, &b"hello"[..]));
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).unwrap();
    assert_eq!(
        inner.to_string(),
        format!(
            "POST {}/x: the connection ended before the content was complete \
             (5 of 100 bytes came)",
            sandbox.url()
        )
    );
    let again = response.read(&mut [0; 8]).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::UnexpectedEof);
}

/// Everything that can be shown of a value.
fn shown(value: &(impl Debug + ?Sized)) -> String {
    format!("{value:?} {value:#?}")
}

#[test]
#[allow(clippy::too_many_lines, reason = "a list")]
fn no_error_and_no_public_type_shows_a_secret_a_token_or_an_api_key() {
    let sandbox = Sandbox::start();
    let url = sandbox.url();
    let session = session(&sandbox).timeout(Duration::from_millis(500));
    let token = session.access_token().unwrap();
    let mut texts = vec![shown(&session), shown(&session.clone())];
    let mut errors = Vec::new();

    let form = "s3cr3t+%2541%2B%26%3D%2F%3A%3B%3F%23%27%3C%3E%40%7E*-._+end";
    let mut tokens = vec![token.clone()];
    for status in [200, 204, 302, 400, 401, 403, 404, 429, 500, 503] {
        for is_json in [false, true] {
            // A server that echoes all that it was sent, wherever it can.
            let token = session.access_token().unwrap();
            let echo = format!("{CLIENT_SECRET} {form} {token} {API_KEY}");
            let content = if is_json {
                format!(
                    r#"{{"error":"{token}","error_description":"{CLIENT_SECRET}","message":"{API_KEY}"}}"#
                )
            } else {
                echo.clone()
            };
            let fields = [("X-Echo", echo.as_str()), ("Location", echo.as_str())];
            // A refused token is replaced, and the next refusal is returned.
            sandbox.next(Place::Api, response(status, &fields, &content));
            sandbox.next(Place::Api, response(status, &fields, &content));
            let result = session.get("/x");
            texts.push(shown(&result));
            match result {
                Ok(response) => errors.extend(response.json::<Vec<u8>>().err()),
                Err(error) => errors.push(error),
            }
            sandbox.next(Place::Api, Fault::Response(200, vec![], b"ok".to_vec()));
            let _ = session.get("/x");
            let _ = session.get("/x");

            // A token endpoint is not sent the token or the API key, but knows the secret.
            let content = content.replace(&token, form).replace(API_KEY, CLIENT_SECRET);
            let fresh = session.clone().token_endpoint(&format!("{url}/oauth2/token")).unwrap();
            sandbox.next(Place::Token, response(status, &[], &content));
            errors.extend(fresh.access_token().err());
            tokens.push(token);
        }
    }
    let token = session.access_token().unwrap();
    let location = format!("https://{API_KEY}.example/");
    sandbox.next(Place::Api, response(307, &[("Location", &location)], ""));
    errors.extend(session.get("/x").err());
    for kind in [token.as_str(), CLIENT_SECRET] {
        let json = format!(r#"{{"access_token":"{token}","token_type":"{kind}"}}"#);
        sandbox.next(Place::Token, response(200, &[], &json));
        let fresh = session.clone().token_endpoint(&format!("{url}/oauth2/token")).unwrap();
        errors.extend(fresh.access_token().err());
    }
    let coding = response(200, &[("Content-Encoding", &token)], "...");
    sandbox.next(Place::Api, coding);
    errors.push(session.get("/x").unwrap_err());
    let media_type = response(200, &[("Content-Type", API_KEY)], "");
    sandbox.next(Place::Api, media_type);
    errors.extend(session.get("/x").unwrap().json::<Vec<u8>>().err());

    for fault in [
        Fault::Raw(vec![]),
        Fault::Raw(format!("{CLIENT_SECRET} {token} {API_KEY}").into()),
        Fault::Truncate(50),
        Fault::Stall(None),
    ] {
        sandbox.next(Place::Api, fault.clone());
        errors.extend(session.get("/x").err());
        let fresh = session.clone().token_endpoint(&format!("{url}/oauth2/token")).unwrap();
        sandbox.next(Place::Token, fault);
        errors.extend(fresh.access_token().err());
    }
    errors.extend(Session::new(&format!("{url}/{CLIENT_SECRET}"), "id", CLIENT_SECRET).err());
    errors.extend(Session::new(&url, CLIENT_ID, &format!("{CLIENT_SECRET}\n")).err());
    errors.extend(session.clone().api_key(&format!("{API_KEY}\n")).err());
    errors.extend(session.clone().header("x", &format!("{token}\n")).err());
    errors.extend(session.clone().resume(&format!("{token}\n"), Duration::ZERO).err());
    errors.extend(
        Session::new(&closed_url(), CLIENT_ID, CLIENT_SECRET).unwrap().retries(0).get("/x").err(),
    );

    assert!(errors.len() > 40, "{}", errors.len());
    for error in errors {
        texts.push(shown(&error));
        texts.push(error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            texts.push(format!("{cause} {cause:?}"));
            source = cause.source();
        }
        texts.push(shown(&io::Error::from(error)));
    }
    tokens.extend([token, session.access_token().unwrap()]);
    for text in texts {
        for secret in
            [CLIENT_SECRET, form, API_KEY].into_iter().chain(tokens.iter().map(String::as_str))
        {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
