//! Errors: their messages to the letter, and nothing secret in any of them.

use std::error::Error as _;
use std::fmt::Debug;
use std::io::{self, Read};
use std::time::Duration;

use jas_session::{Error, ErrorKind, Response, Session};

mod sandbox;
use sandbox::{closed_url, Fault, Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};

fn session(sandbox: &Sandbox) -> Session {
    Session::new(&sandbox.url(), CLIENT_ID, CLIENT_SECRET)
        .and_then(|session| session.api_key(API_KEY))
        .expect("a session")
        .retries(0)
}

fn answer(status: u16, fields: &[(&'static str, &str)], content: &str) -> Fault {
    let fields = fields
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    Fault::Answer(status, fields.collect(), content.into())
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
        "the path starts neither with `/` nor with the base URL's origin"
    );

    let error = Session::new(&url, CLIENT_ID, "wrong")
        .unwrap()
        .access_token()
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Denied, Some(403))
    );
    assert_eq!(
        error.to_string(),
        format!(
            "token request to {url}/oauth2/token: answered with 403: check the client id and the \
             client secret, and that the application is subscribed to an API; the answer says: \
             invalid_client: invalid credentials"
        )
    );

    let error = session
        .clone()
        .api_key("wrong")
        .unwrap()
        .get("/x?y=z")
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Status, Some(403))
    );
    assert_eq!(error.content(), Some(&br#"{"message":"Forbidden"}"#[..]));
    assert_eq!(
        error.to_string(),
        format!(
            "GET {url}/x: answered with 403: the credentials or the API key (x-api-key) are \
             invalid, or the subscription to this API is missing; the answer says: Forbidden"
        )
    );

    sandbox.next(Place::Api, Fault::Stall(Some(3)));
    let hasty = session.clone().timeout(Duration::from_millis(300));
    let error = hasty.get("/tracking/v1/shipments/S505185992").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(
        error.to_string(),
        format!(
            "GET {url}/tracking/v1/shipments/S505185992: the time of 300ms was up before the \
             content was complete"
        )
    );

    let error = Session::new(&dead, "id", "secret")
        .unwrap()
        .retries(0)
        .get("/x")
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exchange);
    assert_eq!(
        error.to_string(),
        format!("token request to {dead}/oauth2/token: no connection to the host could be made: check host, port and firewall")
    );
    let source = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    assert_eq!(
        source.map(io::Error::kind),
        Some(io::ErrorKind::ConnectionRefused)
    );
    assert_eq!(
        io::Error::from(error).kind(),
        io::ErrorKind::ConnectionRefused
    );

    sandbox.next(Place::Token, answer(200, &[], "{}"));
    let fresh = session
        .clone()
        .token_endpoint(&format!("{url}/oauth2/token"))
        .unwrap();
    let error = fresh.get("/x").unwrap_err();
    assert_eq!(
        (error.kind(), error.status(), error.content()),
        (ErrorKind::InvalidToken, None, None)
    );
    assert_eq!(
        error.to_string(),
        format!(
            "token request to {url}/oauth2/token: the answer holds no usable token: it has no \
             access_token"
        )
    );

    sandbox.next(
        Place::Api,
        answer(200, &[("Content-Type", "text/html")], "<html>"),
    );
    let error = session.get("/x").unwrap().json::<Vec<u8>>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Content);
    assert!(error.may_have_executed());
    assert_eq!(
        error.to_string(),
        format!(
            "GET {url}/x: the content looks like HTML or XML; it is not JSON of the shape of \
             alloc::vec::Vec<u8>"
        )
    );
    for (content, what) in [("", "is empty, not"), ("{\"a\":1}", "(7 bytes) is not")] {
        sandbox.next(Place::Api, answer(200, &[], content));
        let error = session.get("/x").unwrap().json::<Vec<u8>>().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("GET {url}/x: the content {what} JSON of the shape of alloc::vec::Vec<u8>")
        );
    }
    sandbox.next(Place::Api, Fault::Answer(200, vec![], b"ab\xff".to_vec()));
    assert_eq!(
        session.get("/x").unwrap().text().unwrap_err().to_string(),
        format!("GET {url}/x: the content is not UTF-8 from byte 2 on")
    );
}

#[test]
fn statuses_come_with_advice_and_with_what_the_answer_says() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    for (fault, message) in [
        (
            answer(400, &[], "<error>\r\n  <text>no\tContent-Type</text>\n</error>"),
            "400: bad request, usually a missing or wrong media type; the answer says: no Content-Type",
        ),
        (
            answer(403, &[("Retry-After", "5")], ""),
            "403: too many requests for now; it asks to wait 5s",
        ),
        (
            answer(404, &[], r#"{"error":"not_found","error_description":"no such shipment"}"#),
            "404: not found; the answer says: not_found: no such shipment",
        ),
        (
            answer(429, &[("Retry-After", "5")], "slow down"),
            "429: too many requests for now; it asks to wait 5s; the answer says: slow down",
        ),
        (
            answer(302, &[("Location", "https://user:pw@evil.example:8443/login?x#y")], "moved"),
            "302; it redirects to evil.example:8443, which is never followed",
        ),
        (
            answer(308, &[("Location", "//evil.example?a")], ""),
            "308; it redirects to evil.example, which is never followed",
        ),
        (
            answer(307, &[("Location", "/login?next=https://evil.example/")], ""),
            "307; it redirects to another path, which is never followed",
        ),
    ] {
        sandbox.next(Place::Api, fault);
        let error = session.get("/x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Status);
        assert_eq!(error.to_string(), format!("GET {}/x: answered with {message}", sandbox.url()));
    }
    // A redirect was not followed, to wherever it may lead.
    sandbox.next(Place::Api, answer(307, &[("Location", "/elsewhere")], ""));
    session.get("/x").unwrap_err();
    assert!(sandbox
        .requests()
        .iter()
        .all(|request| request.target != "/elsewhere"));
}

#[test]
fn nothing_of_an_answer_that_refused_is_lost() {
    let sandbox = Sandbox::start();
    let long = "x".repeat(70_000);
    sandbox.next(Place::Api, answer(418, &[("X-Trace", "  7  ")], &long));
    let error = session(&sandbox).get("/x").unwrap_err();
    assert_eq!(error.status(), Some(418));
    assert_eq!(error.header("x-trace"), Some("7"));
    assert_eq!(error.header("x-none"), None);
    assert_eq!(error.content(), Some(&long.as_bytes()[..65_536]));
    assert_eq!(error.retry_after(), None);
    assert!(error.source().is_none());
}

#[test]
fn a_content_coding_that_was_not_asked_for_is_an_error() {
    let sandbox = Sandbox::start();
    sandbox.next(
        Place::Api,
        answer(200, &[("Content-Encoding", "gzip")], "..."),
    );
    let error = session(&sandbox).get("/x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exchange);
    assert!(error.may_have_executed());
    assert_eq!(
        error.to_string(),
        format!(
            "GET {}/x: the content is encoded (gzip), which was not asked for",
            sandbox.url()
        )
    );
    sandbox.next(
        Place::Api,
        answer(200, &[("Content-Encoding", "identity")], "..."),
    );
    assert_eq!(session(&sandbox).get("/x").unwrap().text().unwrap(), "...");
    // Where there is no content, nothing is encoded.
    sandbox.next(Place::Api, answer(200, &[("Content-Encoding", "gzip")], ""));
    assert_eq!(session(&sandbox).get("/x").unwrap().text().unwrap(), "");
}

#[test]
fn what_was_cut_stays_cut_and_its_error_travels_in_an_io_error() {
    let sandbox = Sandbox::start();
    let raw = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello";
    sandbox.next(Place::Api, Fault::Raw(raw.to_vec()));
    // The content of a plain POST is not read before the caller does.
    let mut response = session(&sandbox).post("/x", "text/plain", "").unwrap();
    let mut content = Vec::new();
    let error = response.read_to_end(&mut content).unwrap_err();
    assert_eq!(
        (error.kind(), &content[..]),
        (io::ErrorKind::UnexpectedEof, &b"hello"[..])
    );
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
        .unwrap();
    assert_eq!(
        inner.to_string(),
        format!(
            "POST {}/x: the content broke off: 5 of 100 bytes were received",
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
            // A server that echoes all it was sent, wherever it can.
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
            sandbox.next(Place::Api, answer(status, &fields, &content));
            sandbox.next(Place::Api, answer(status, &fields, &content));
            let result = session.get("/x");
            texts.push(shown(&result));
            match result {
                Ok(response) => errors.extend(response.json::<Vec<u8>>().err()),
                Err(error) => errors.push(error),
            }
            sandbox.next(Place::Api, Fault::Answer(200, vec![], b"ok".to_vec()));
            let _ = session.get("/x");
            let _ = session.get("/x");

            // A token endpoint is not sent the token or the API key, but knows the secret.
            let content = content
                .replace(&token, form)
                .replace(API_KEY, CLIENT_SECRET);
            let fresh = session
                .clone()
                .token_endpoint(&format!("{url}/oauth2/token"))
                .unwrap();
            sandbox.next(Place::Token, answer(status, &[], &content));
            errors.extend(fresh.access_token().err());
            tokens.push(token);
        }
    }
    let token = session.access_token().unwrap();
    let location = format!("https://{API_KEY}.example/");
    sandbox.next(Place::Api, answer(307, &[("Location", &location)], ""));
    errors.extend(session.get("/x").err());
    for kind in [token.as_str(), CLIENT_SECRET] {
        let json = format!(r#"{{"access_token":"{token}","token_type":"{kind}"}}"#);
        sandbox.next(Place::Token, answer(200, &[], &json));
        let fresh = session
            .clone()
            .token_endpoint(&format!("{url}/oauth2/token"))
            .unwrap();
        errors.extend(fresh.access_token().err());
    }
    let coding = answer(200, &[("Content-Encoding", &token)], "...");
    sandbox.next(Place::Api, coding);
    errors.push(session.get("/x").unwrap_err());
    let media_type = answer(200, &[("Content-Type", API_KEY)], "");
    sandbox.next(Place::Api, media_type);
    errors.extend(session.get("/x").unwrap().json::<Vec<u8>>().err());

    for fault in [
        Fault::Raw(vec![]),
        Fault::Raw(format!("{CLIENT_SECRET} {token} {API_KEY}").into()),
        Fault::Cut(50),
        Fault::Stall(None),
    ] {
        sandbox.next(Place::Api, fault.clone());
        errors.extend(session.get("/x").err());
        let fresh = session
            .clone()
            .token_endpoint(&format!("{url}/oauth2/token"))
            .unwrap();
        sandbox.next(Place::Token, fault);
        errors.extend(fresh.access_token().err());
    }
    errors.extend(Session::new(&format!("{url}/{CLIENT_SECRET}"), "id", CLIENT_SECRET).err());
    errors.extend(Session::new(&url, CLIENT_ID, &format!("{CLIENT_SECRET}\n")).err());
    errors.extend(session.clone().api_key(&format!("{API_KEY}\n")).err());
    errors.extend(session.clone().header("x", &format!("{token}\n")).err());
    errors.extend(
        session
            .clone()
            .resume(&format!("{token}\n"), Duration::ZERO)
            .err(),
    );
    errors.extend(
        Session::new(&closed_url(), CLIENT_ID, CLIENT_SECRET)
            .unwrap()
            .retries(0)
            .get("/x")
            .err(),
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
        for secret in [CLIENT_SECRET, form, API_KEY]
            .into_iter()
            .chain(tokens.iter().map(String::as_str))
        {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
