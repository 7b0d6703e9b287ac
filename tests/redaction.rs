//! No error, no source of one and no `Debug` shows a secret, a token or a key, whatever a server echoes.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::io;
use std::time::Duration;

use jas_session::{Error, Response, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[cfg(feature = "tls")]
#[path = "support/wire/mod.rs"]
mod wire;
use sandbox::{closed_url, Fault, Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};

/// The client secret as a token request carries it.
const FORM: &str = "s3cr3t+%2541%2B%26%3D%2F%3A%3B%3F%23%27%3C%3E%40%7E*-._+end";
const HIDDEN: &str = "[redacted]";

fn session(sandbox: &Sandbox) -> Session {
    sandbox.session().retries(0)
}

/// Returns a clone with a token of its own, which it has yet to request.
fn with_own_token(session: &Session, sandbox: &Sandbox) -> Session {
    session.clone().token_endpoint(&format!("{}/oauth2/token", sandbox.url())).unwrap()
}

fn response(status: u16, fields: &[(&'static str, &str)], content: impl AsRef<[u8]>) -> Fault {
    let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned()));
    Fault::Response(status, fields.collect(), content.as_ref().to_vec())
}

/// Everything that can be shown of a value.
fn debug(value: &(impl Debug + ?Sized)) -> String {
    format!("{value:?} {value:#?}")
}

/// Everything that can be shown of an error and its sources.
fn shown(error: Error) -> String {
    let sources = std::iter::successors(error.source(), |&error| error.source());
    let sources: Vec<_> = sources.map(|source| format!("{source} {source:?}")).collect();
    let own = format!("{error} {error:#} {} {}", debug(&error), sources.concat());
    own + &debug(&io::Error::from(error))
}

#[track_caller]
fn assert_hidden<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) {
    for secret in secrets {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

/// Returns what the message of a 500 shows of this content.
fn excerpt(session: &Session, sandbox: &Sandbox, content: &str) -> String {
    sandbox.next(Place::Api, response(500, &[], content));
    let error = session.get("/x").unwrap_err();
    let message = error.to_string();
    let says = message.split_once("; the response says: ").expect(&message).1.to_owned();
    assert_eq!(error.content(), Some(content.as_bytes()), "the content is as received");
    assert!(debug(&error).contains(&format!("{says:?}")[1..]), "{error:?}");
    says
}

// What a server echoes

/// A secret as servers echo it: as it is, or escaped for a URL, JSON, HTML or XML.
fn forms(secret: &str) -> Vec<String> {
    let (begin, end) = secret.split_at(secret.len() / 2);
    let all = |escape: fn(u32) -> String| {
        secret.chars().map(|c| escape(c.into())).collect::<Vec<_>>().concat()
    };
    let signs = |escape: fn(u32) -> String| {
        let sign = |c: char| if c.is_ascii_alphanumeric() { c.into() } else { escape(c.into()) };
        secret.chars().map(sign).collect::<Vec<_>>().concat()
    };
    vec![
        secret.to_owned(),
        signs(|c| format!("%{c:02X}")),
        signs(|c| format!("%{c:02x}")),
        signs(|c| format!("%25{c:02X}")),
        signs(|c| format!("\\u{c:04x}")),
        signs(|c| format!("\\\\u{c:04X}")),
        signs(|c| format!("&#{c};")),
        signs(|c| format!("&#x{c:X};")),
        signs(|c| format!("&#x{c:010x};")),
        signs(|c| format!("&amp;#{c};")),
        all(|c| format!("&#x{c:010x};")),
        all(|c| format!("%{c:02x}")),
        all(|c| format!("\\u{c:04x}")),
        all(|c| format!("&amp;#{c};")),
        all(|c| format!("&#38;#{c};")),
        all(|c| format!("\\u0026#{c};")),
        all(|c| format!("%26%23{c}%3B")),
        all(|c| format!("&#92;u{c:04x}")),
        // In pieces.
        format!("{begin}%20{end}"),
        format!("{begin}%0A{end}"),
        format!("{begin}&#8203;{end}"),
        format!("{begin}\\u200b{end}"),
        format!("{begin}\u{200b}{end}"),
        format!("{begin}\n{end}"),
        format!("{begin}\u{1}{end}"),
        format!("{begin}&#160;{end}"),
    ]
}

/// Content of a refusal, in which `SECRET` stands for what is echoed.
const SHAPES: &[&str] = &[
    "no SECRET",
    "SECRET\u{e9}",
    "\"SECRET\"",
    r#"{"message":"no SECRET"}"#,
    r#"{"fault":{"faultstring":"no SECRET","detail":{"errorcode":"SECRET"}}}"#,
    r#"{"errors":[{"message":"SECRET"#,
    "<fault><faultstring>SECRET</faultstring></fault>",
    "<p>no SECRET</p> <b>no</b>",
    "<a><![CDATA[SECRET]]></a>",
    "<html><head><title>SECRET</title></head></html>",
    r#"<error message="SECRET"/>"#,
];

/// Whether a text shows eight letters and digits of a secret in a row, with anything between them.
fn shows_part(text: &str, secret: &str) -> bool {
    let plain = |text: &str| {
        let kept = text.chars().filter(char::is_ascii_alphanumeric);
        kept.collect::<String>().to_lowercase()
    };
    let (text, secret) = (plain(text), plain(secret));
    secret.as_bytes().windows(8).any(|run| text.contains(std::str::from_utf8(run).unwrap()))
}

#[test]
fn echoed_secret_is_hidden_in_each_form_and_shape() {
    let sandbox = Sandbox::start();
    let keyed = session(&sandbox).header("Gateway-Key", "k3y-of-the-gateway").unwrap();
    let token = keyed.access_token().unwrap();
    let check = |session: &Session, secret, form: &str| {
        for shape in SHAPES {
            let content = shape.replace("SECRET", form);
            let text = excerpt(session, &sandbox, &content);
            assert!(text.contains(HIDDEN) && !shows_part(&text, secret), "{content}: {text}");
        }
    };
    for secret in [&token, API_KEY, "k3y-of-the-gateway"] {
        for form in forms(secret) {
            check(&keyed, secret, &form);
        }
    }
    // Pieces that a page shows as one text.
    let (half, other) = API_KEY.split_at(API_KEY.len() / 2);
    for between in ["<![CDATA[", "]]>", "<!-- -->", "<![CDATA[]]>"] {
        check(&keyed, API_KEY, &format!("{half}{between}{other}"));
    }
    // Secrets with characters that mean something in JSON, XML and URLs.
    for secret in ["Abcdefgh\"ijkl", "Abcdefgh\\nijkl", "Abcdefgh\\\\ijkl", "Abcd<efgh>/7@x?"] {
        check(&keyed.clone().api_key(secret).unwrap(), secret, secret);
    }
}

#[test]
fn echoed_secret_is_hidden_where_a_text_is_shortened() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    // A message shows 200 characters of the first 8 KiB.
    for shown in [190, 195, 8180, 8190] {
        for before in ["a".repeat(shown), " ".repeat(shown), "a ".repeat(shown / 2)] {
            for content in [format!("{before}{API_KEY} rest"), format!("{before}{API_KEY}")] {
                sandbox.next(Place::Api, response(500, &[], content));
                let message = session.get("/x").unwrap_err().to_string();
                assert!(
                    !shows_part(&message, API_KEY) && !message.contains("sandbox"),
                    "{message}"
                );
            }
        }
    }
}

#[test]
fn replaced_tokens_are_hidden() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let tokens = [0; 3].map(|_| {
        let token = session.access_token().unwrap();
        session.invalidate(&token);
        token
    });
    for token in &tokens {
        let text = excerpt(&session, &sandbox, &format!("no {token}"));
        assert!(text.contains(HIDDEN) && !shows_part(&text, token), "{text}");
    }
}

#[test]
fn echoes_of_the_token_endpoint_are_hidden() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let members = |secret: &str| format!(r#"{{"error":"bad {secret}","access_token":"tok"}}"#);
    let json = |secret: &str| secret.replace('\\', "\\\\").replace('"', "\\\"");
    // The token endpoint may be on the server of the API, and know the API key.
    for secret in forms(CLIENT_SECRET).iter().chain(&forms(FORM)).chain(&forms(API_KEY)) {
        sandbox.next(Place::Token, response(400, &[], members(&json(secret))));
        let error = with_own_token(&session, &sandbox).access_token().unwrap_err();
        let message = error.to_string();
        let is_shown = |secret| shows_part(&message, secret);
        assert!(!is_shown(CLIENT_SECRET) && !is_shown(API_KEY), "{secret}: {message}");
    }
    // The type of a token may be the token itself.
    for kind in ["secret-token", CLIENT_SECRET] {
        let json = format!(r#"{{"access_token":"secret-token","token_type":"{kind}"}}"#);
        sandbox.next(Place::Token, response(200, &[], json));
        let error = with_own_token(&session, &sandbox).access_token().unwrap_err();
        assert!(error.to_string().contains(HIDDEN), "{error}");
        assert_hidden(&shown(error), ["secret-token", CLIENT_SECRET]);
    }
}

#[test]
fn secret_in_a_location_is_hidden() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let keyed = session.clone().api_key("Abcd<efgh>/7@x?").unwrap();
    let forms = forms(API_KEY).into_iter().take(5).map(|form| (&session, form));
    for (session, form) in forms.chain([(&keyed, "Abcd<efgh>/7@x?".to_owned())]) {
        for location in [format!("https://{form}.example/"), format!("/login/{form}/x?y")] {
            sandbox.next(Place::Api, response(307, &[("Location", &location)], ""));
            let error = session.get("/x").unwrap_err();
            assert!(error.to_string().contains(HIDDEN), "{error}");
            assert_hidden(&shown(error), [&*form]);
        }
    }
}

#[test]
fn secret_that_is_short_or_part_of_another_is_hidden() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox).header("Gateway-Key", "eyJkey1J9.payload").unwrap();
    for (key, content) in [("key1", "no eyJkey1J9.payload"), ("e", "e red e")] {
        let text = excerpt(&session.clone().api_key(key).unwrap(), &sandbox, content);
        assert!(text.contains(HIDDEN) && text.len() < 60, "{text}");
        assert_hidden(&text.replace(HIDDEN, ""), ["J9", "load", key]);
    }
}

#[test]
fn secret_in_content_that_is_no_json_is_hidden() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    for (content, is_named) in [
        (format!("[{{\"key\":\"{API_KEY}\"}}]"), true),
        (API_KEY.repeat(1000), true),
        (format!("{}{API_KEY}", "a b ".repeat(2048)), false),
        (format!("{}{API_KEY}", " ".repeat(8188)), false),
    ] {
        sandbox.next(Place::Api, response(200, &[], &content));
        let error = session.get("/x").unwrap().json::<Vec<u8>>().unwrap_err();
        let message = error.to_string();
        assert_eq!(message.contains(HIDDEN), is_named, "{message}");
        assert!(!message.contains("sandbox") && !shows_part(&message, API_KEY), "{message}");
        assert_eq!(error.content(), Some(content.as_bytes()), "the content is as received");
    }
}

#[test]
fn only_text_that_may_hold_a_secret_is_hidden() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    for (key, text, is_shown) in [
        ("Abcdefgh-12345678", "100% of Abcdefg 1234567 &c; \\ %2F at S505185992", true),
        ("Abcdefgh-1234", "no abcdefg 1234", true),
        ("Abcdefgh-1234", "no xABCDEFGHx", false),
        ("Abcdefgh-1234", "no e-f.g, h 1 2&3 4", false),
        ("Abcdefgh-1234", "no f-g h 1 2 3 4", true),
        // The longest run of the key is shorter.
        ("ab-cde-fg", "no cd e and fg", true),
        ("ab-cde-fg", "no CDEX", false),
        ("ab-cde-fg", "a b c d e f g", false),
        // A key without letters and digits can't be compared.
        ("-+-", "any", false),
        // Signs are escaped for good reasons, letters are not.
        ("Abcdefgh-1234", "no %2E \\u0026 &#39; &#x2F; 100% \\u12 &# &#99999999999;", true),
        ("Abcdefgh-1234", "no %2561", false),
    ] {
        let session = session.clone().api_key(key).unwrap();
        let expected = if is_shown { text } else { HIDDEN };
        assert_eq!(excerpt(&session, &sandbox, text), expected, "{key}");
    }
}

// What errors and types show

/// The errors of calls and token requests whose responses echo everything, as text and as JSON. Adds
/// what can be shown of good responses to `texts`, and each token to `tokens`.
fn echoing_errors(
    session: &Session, sandbox: &Sandbox, texts: &mut Vec<String>, tokens: &mut Vec<String>,
) -> Vec<Error> {
    let mut errors = Vec::new();
    for status in [200, 204, 302, 400, 401, 403, 404, 429, 500, 503] {
        for is_json in [false, true] {
            let token = session.access_token().unwrap();
            let echo = format!("{CLIENT_SECRET} {FORM} {token} {API_KEY}");
            let json =
                format!(r#"{{"error":"{CLIENT_SECRET}","code":"{token}","title":"{API_KEY}"}}"#);
            let content = if is_json { &json } else { &echo };
            let fields = [("X-Echo", &*echo), ("Location", &*echo)];
            // A refused token is replaced, and the next refusal is returned.
            sandbox.next(Place::Api, response(status, &fields, content));
            sandbox.next(Place::Api, response(status, &fields, content));
            let result = session.get("/x");
            texts.push(debug(&result));
            errors.extend(result.and_then(Response::json::<Vec<u8>>).err());
            sandbox.next(Place::Api, response(200, &[], "ok"));
            let _ = session.get("/x");
            let _ = session.get("/x");
            // A token endpoint gets neither the token nor the API key, but the secret.
            let content = content.replace(&token, FORM).replace(API_KEY, CLIENT_SECRET);
            sandbox.next(Place::Token, response(status, &[], content));
            errors.extend(with_own_token(session, sandbox).access_token().err());
            tokens.push(token);
        }
    }
    errors
}

/// The errors of calls and token requests whose responses are malformed or missing.
fn malformed_errors(session: &Session, sandbox: &Sandbox, token: &str) -> Vec<Error> {
    let mut errors = Vec::new();
    for fault in [
        response(200, &[("Content-Encoding", token)], "..."),
        response(200, &[("Content-Type", API_KEY)], ""),
        Fault::Raw(vec![]),
        Fault::Raw(format!("{CLIENT_SECRET} {token} {API_KEY}").into()),
        Fault::Truncate(50),
        Fault::Stall(None),
    ] {
        sandbox.next(Place::Api, fault.clone());
        let json = session.get("/x").and_then(Response::json::<Vec<u8>>);
        errors.extend(json.err());
        sandbox.next(Place::Token, fault);
        errors.extend(with_own_token(session, sandbox).access_token().err());
    }
    errors
}

/// The errors of input that is refused, and of a host that is not there.
fn input_errors(session: &Session, url: &str, token: &str) -> Vec<Error> {
    let dead = Session::new(&closed_url(), CLIENT_ID, CLIENT_SECRET).unwrap().retries(0);
    [
        Session::new(&format!("{url}/{CLIENT_SECRET}"), "id", CLIENT_SECRET).err(),
        Session::new(url, CLIENT_ID, &format!("{CLIENT_SECRET}\n")).err(),
        session.clone().api_key(&format!("{API_KEY}\n")).err(),
        session.clone().header("x", &format!("{token}\n")).err(),
        session.clone().resume(&format!("{token}\n"), Duration::ZERO).err(),
        dead.get("/x").err(),
    ]
    .map(|error| error.expect("an error"))
    .into()
}

#[test]
fn debug_shows_no_client_id_because_it_may_be_the_secret() {
    let swapped = Session::new("http://localhost:9", CLIENT_SECRET, CLIENT_ID).unwrap();
    assert_hidden(&debug(&swapped), [CLIENT_SECRET, CLIENT_ID]);
}

#[test]
fn no_error_and_no_public_type_shows_a_secret() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox).timeout(Duration::from_millis(500));
    let mut tokens = vec![session.access_token().unwrap()];
    let mut texts = vec![debug(&session), debug(&session.clone())];
    let mut errors = echoing_errors(&session, &sandbox, &mut texts, &mut tokens);
    let token = session.access_token().unwrap();
    errors.extend(malformed_errors(&session, &sandbox, &token));
    errors.extend(input_errors(&session, &sandbox.url(), &token));
    assert!(errors.len() > 40, "{}", errors.len());
    texts.extend(errors.into_iter().map(shown));
    tokens.extend([token, session.access_token().unwrap()]);
    for text in texts {
        assert_hidden(&text, [CLIENT_SECRET, FORM, API_KEY]);
        assert_hidden(&text, tokens.iter().map(String::as_str));
    }
}

/// The credentials of a proxy, and what it may echo of them.
#[cfg(feature = "tls")]
mod proxy {
    use super::wire::{response, Server};
    use super::*;

    const USER_INFO: &str = "gateway:p%40ss%2Fw%C3%BCrd";
    /// `gateway:p@ss/würd` in Base64, as the field `Proxy-Authorization` has it.
    const BASIC: &str = "Z2F0ZXdheTpwQHNzL3fDvHJk";
    const PARTS: [&str; 4] = ["p@ss/würd", USER_INFO, "ss%2F", BASIC];

    #[test]
    fn password_of_a_proxy_is_hidden_in_an_echo() {
        let sandbox = Sandbox::start();
        let proxy = format!("http://{USER_INFO}@proxy.example");
        let session = session(&sandbox).proxy(&proxy).unwrap();
        assert_hidden(&debug(&session), PARTS);
        for echo in ["p@ss/würd", "p%40ss%2Fw%C3%BCrd", "p@ss/w&#252;rd", "p@ss/w\\u00fcrd", BASIC]
        {
            let text = excerpt(&session, &sandbox, &format!("<p>no {echo}</p>"));
            assert!(text.contains(HIDDEN) && !text.contains(echo), "{text}");
        }
    }

    #[test]
    fn credentials_are_hidden_in_errors_of_a_proxy() {
        let session = Session::new("https://api.test", "id", "secret").unwrap().retries(0);
        let echo = format!("{} p%40ss%2fwürd", PARTS.join(" "));
        let fields = format!("Proxy-Authenticate: {echo}\r\nLocation: /{echo}\r\n");
        for status in [200, 302, 403, 407, 418, 502] {
            let proxy = Server::responding(&response(&format!("{status} {echo}"), &fields, &echo));
            let url = format!("http://{USER_INFO}@{}", proxy.address);
            let error = session.clone().proxy(&url).unwrap().get("/").unwrap_err();
            assert_hidden(&shown(error), PARTS);
            let received = proxy.ended().concat();
            assert!(String::from_utf8_lossy(&received).contains(BASIC));
        }
        for url in ["user:hush@", "socks5://user:hush@a:1", "http://user:hush@a:0"] {
            assert_hidden(&shown(session.clone().proxy(url).unwrap_err()), ["hush"]);
        }
    }
}
