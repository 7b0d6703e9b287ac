//! Refusals in the shapes in which gateways send them: what the error says of each, to the letter.

use jas_session::{Error, ErrorKind, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{Fault, Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};

/// Status, fields, content, and what follows "status ".
type Row = (u16, &'static [(&'static str, &'static str)], &'static str, &'static str);

const HTML: &str = "<!DOCTYPE html>\n<HTML><HEAD><title>502 Bad Gateway</title>\
    <style>h1 { color: red }</style></HEAD>\r\n<body onload=\"x()\"><!-- a > b --><h1>Bad Gateway\
    </h1><script>if (1 < 2) { document.write('no') }</script><p>The server is down.</p></body></HTML>";

const API: &[Row] = &[
    // Rate limits
    (
        429,
        &[],
        "",
        "429: too many requests for now: send fewer at a time",
    ),
    (
        429,
        &[("Retry-After", "30")],
        r#"{"message":"API rate limit exceeded"}"#,
        "429: too many requests for now: send fewer at a time; it asks to wait 30s; the response says: API rate limit exceeded",
    ),
    (
        403,
        &[("Retry-After", "1"), ("X-Mashery-Error-Code", "ERR_403_DEVELOPER_OVER_QPS")],
        "<h1>Developer Over Qps</h1>",
        "403: too many requests for now: send fewer at a time; it asks to wait 1s; the response says: Developer Over Qps",
    ),
    (
        403,
        &[
            ("Date", "Wed, 25 Nov 2026 10:00:00 GMT"),
            ("Retry-After", "Wed, 25 Nov 2026 10:05:00 GMT"),
        ],
        "<?xml version=\"1.0\"?>\n<error><code>over-quota</code>\n<message>Quota is used up</message></error>",
        "403: too many requests for now: send fewer at a time; it asks to wait 300s; the response says: over-quota Quota is used up",
    ),
    (
        429,
        &[],
        r#"{"fault":{"faultstring":"Rate limit quota violation. Quota limit  exceeded.","detail":{"errorcode":"policies.ratelimit.QuotaViolation"}}}"#,
        "429: too many requests for now: send fewer at a time; the response says: Rate limit quota violation. Quota limit exceeded.: policies.ratelimit.QuotaViolation",
    ),
    // Routes
    (
        596,
        &[("X-Mashery-Error-Code", "ERR_596_SERVICE_NOT_FOUND")],
        "<h1>596 Service Not Found</h1>",
        "596: no such route: check the base URL, the path, and the subscription to this API; the response says: 596 Service Not Found",
    ),
    (
        404,
        &[],
        r#"{"statusCode": 404, "message": "Resource not found"}"#,
        "404: nothing is there: check the path and the base URL; the response says: Resource not found",
    ),
    (405, &[], "", "405: this path does not take this method"),
    // Requests
    (
        400,
        &[],
        "<soap:Envelope><soap:Body><soap:Fault><faultcode>soap:Client</faultcode>\
         <faultstring><![CDATA[House bill <PAR> is unknown]]></faultstring></soap:Fault></soap:Body></soap:Envelope>",
        "400: the server could not read the request: check its content and its media type; the response says: soap:Client House bill <PAR> is unknown",
    ),
    (
        400,
        &[],
        r#"<error code="E17" message="no house bill"/>"#,
        "400: the server could not read the request: check its content and its media type; the response says: <error code=\"E17\" message=\"no house bill\"/>",
    ),
    (
        413,
        &[],
        "<html><head><title>413 Request Entity Too Large</title></head><body><center><h1>413 Request Entity Too Large</h1></center><hr><center>nginx</center></body></html>",
        "413: the content is larger than the server takes: send less at a time; the response says: 413 Request Entity Too Large nginx",
    ),
    (415, &[], "", "415: the server does not take this media type here: check it"),
    (
        422,
        &[("Content-Type", "application/problem+json")],
        r#"{"type":"https://example.com/x","title":"Not a valid booking","status":422,"detail":"Pieces must not be 0"}"#,
        "422; the response says: Not a valid booking: Pieces must not be 0",
    ),
    (
        422,
        &[],
        r#"{"errors":[{"code":"B-1","message":"No consignee"},{"code":"B-2","message":"No shipper"}]}"#,
        "422; the response says: B-1: No consignee",
    ),
    (
        409,
        &[],
        r#"{"message":"PO-4711 exists"}"#,
        "409: it conflicts with what is there already, perhaps of an earlier request; the response says: PO-4711 exists",
    ),
    // Keys and tokens
    (
        403,
        &[],
        r#"{"message":"Forbidden"}"#,
        "403: check the API key (x-api-key), and the application's subscription to this API; the response says: Forbidden",
    ),
    (
        403,
        &[],
        r#"{"Message":"User is not authorized to access this resource with an explicit deny"}"#,
        "403: check the API key (x-api-key), and the application's subscription to this API; the response says: User is not authorized to access this resource with an explicit deny",
    ),
    (
        403,
        &[("X-Mashery-Error-Code", "ERR_403_DEVELOPER_INACTIVE")],
        "<h1>Developer Inactive</h1>",
        "403: check the API key (x-api-key), and the application's subscription to this API; the response says: Developer Inactive",
    ),
    (
        403,
        &[],
        r#"{"error":"insufficient_scope","error_description":"The token lacks \"tracking\""}"#,
        "403: check the API key (x-api-key), and the application's subscription to this API; the response says: insufficient_scope: The token lacks \"tracking\"",
    ),
    // The server's own
    (500, &[], "", "500: the server failed: try again later"),
    (
        500,
        &[],
        r#"{"error":{"code":"E-500","message":"Internal","details":[]}}"#,
        "500: the server failed: try again later; the response says: E-500: Internal",
    ),
    (
        502,
        &[("Content-Type", "text/html")],
        HTML,
        "502: the server, or one behind it, is down or overloaded: try again later; the response says: Bad Gateway The server is down.",
    ),
    (
        503,
        &[("Retry-After", "120")],
        "upstream connect error",
        "503: the server, or one behind it, is down or overloaded: try again later; it asks to wait 120s; the response says: upstream connect error",
    ),
    (
        504,
        &[],
        "<html><head><title>504 Gateway Time-out</title></head><body></body></html>",
        "504: the server, or one behind it, is down or overloaded: try again later; the response says: 504 Gateway Time-out",
    ),
    (
        502,
        &[],
        "<html><head><title>Oops</title><style>p { }</style><body><p>Out of order",
        "502: the server, or one behind it, is down or overloaded: try again later; the response says: Out of order",
    ),
    // Contents that are not what they seem
    (418, &[], "\"Duplicate house bill\"", "418; the response says: \"Duplicate house bill\""),
    (
        418,
        &[],
        r#"{"error":"duplicate","message":"Booked on 1 Ma"#,
        "418; the response says: duplicate",
    ),
    (418, &[], "{\"a\":1", "418; the response says: {\"a\":1"),
    (
        418,
        &[],
        "\u{feff}{\"message\":\"\\u001b[31mred\\u001b[0m \\u202edne\\u061c\\nof \\u00fcber\"}",
        "418; the response says: [31mred [0m ?dne? of über",
    ),
    (418, &[], " \r\n\t", "418"),
    (
        418,
        &[],
        "{\"message\":\"\",\"reason\":\"closed\"}",
        "418; the response says: closed",
    ),
];

const TOKEN: &[Row] = &[
    (
        401,
        &[],
        r#"{"error_description":"Client authentication failed","error":"invalid_client"}"#,
        "401: check the client id and the client secret, and that the application is subscribed to an API; the response says: Client authentication failed: invalid_client",
    ),
    (
        403,
        &[],
        r#"{"fault":{"faultstring":"Invalid ApiKey","detail":{"errorcode":"oauth.v2.InvalidApiKey"}}}"#,
        "403: check the client id and the client secret, and that the application is subscribed to an API; the response says: Invalid ApiKey: oauth.v2.InvalidApiKey",
    ),
    (
        403,
        &[("Retry-After", "100")],
        "<h1>Developer Over Rate</h1>",
        "403: too many requests for now: send fewer at a time; it asks to wait 100s",
    ),
    (
        596,
        &[],
        "<h1>596 Service Not Found</h1>",
        "596: no token endpoint is there: check the base URL, or give the endpoint's own URL with Session::token_endpoint, or JAS_TOKEN_ENDPOINT",
    ),
    (500, &[], r#"{"access_token":"secret of another kind"}"#, "500: the server failed: try again later"),
    (
        503,
        &[("Retry-After", "100")],
        "",
        "503: the server, or one behind it, is down or overloaded: try again later; it asks to wait 100s",
    ),
];

fn response(status: u16, fields: &[(&'static str, &str)], content: &[u8]) -> Fault {
    let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned()));
    Fault::Response(status, fields.collect(), content.to_vec())
}

fn session(sandbox: &Sandbox) -> Session {
    Session::new(&sandbox.url(), CLIENT_ID, CLIENT_SECRET)
        .and_then(|session| session.api_key(API_KEY))
        .unwrap()
        .retries(0)
}

#[test]
fn an_api_s_refusals_tell_what_to_do() {
    let sandbox = Sandbox::start();
    for (status, fields, content, expected) in API {
        // A rate limit holds for a session and its clones, so each row has a session of its own.
        let session = session(&sandbox);
        sandbox.next(Place::Api, response(*status, fields, content.as_bytes()));
        let error = session.get("/x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Status);
        let expected = format!("GET {}/x: status {expected}", sandbox.url());
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.content(), Some(content.as_bytes()));
    }
}

#[test]
fn a_token_endpoint_s_refusals_tell_what_to_do() {
    for (status, fields, content, expected) in TOKEN {
        // A refusal is remembered, so each row has a session of its own.
        let sandbox = Sandbox::start();
        sandbox.next(Place::Token, response(*status, fields, content.as_bytes()));
        let error: Error = session(&sandbox).get("/x").unwrap_err();
        let endpoint = format!("{}/oauth2/token", sandbox.url());
        let expected = format!("token request to {endpoint}: status {expected}");
        assert_eq!(error.to_string(), expected);
        let is_denied = expected.contains("check");
        assert_eq!(error.kind() == ErrorKind::Denied, is_denied, "{expected}");
    }
}

#[test]
fn a_text_in_another_charset_is_shown_and_what_is_no_text_is_not() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    for (content, expected) in [
        (
            &b"<m>Zollst\xf6rung</m>"[..],
            "500: the server failed: try again later; the response says: Zollstörung",
        ),
        (b"\x1f\x8b\x08\x00\x00", "500: the server failed: try again later"),
        (b"\xff\xfen\x00o\x00", "500: the server failed: try again later"),
        (
            b"Zollst\xc3\xb6rung in K\xc3",
            "500: the server failed: try again later; the response says: Zollstörung in K",
        ),
        (b"Zoll-Caf\xe9", "500: the server failed: try again later; the response says: Zoll-Café"),
    ] {
        sandbox.next(Place::Api, response(500, &[], content));
        let error = session.get("/x").unwrap_err();
        let expected = format!("GET {}/x: status {expected}", sandbox.url());
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_long_text_is_shortened() {
    let sandbox = Sandbox::start();
    let long = format!("{{\"message\":\"{}\"}}", "é".repeat(300));
    sandbox.next(Place::Api, response(500, &[], long.as_bytes()));
    let error = session(&sandbox).get("/x").unwrap_err().to_string();
    let expected = format!("the response says: {}...", "é".repeat(200));
    assert!(error.ends_with(&expected), "{error}");
}

#[test]
fn a_secret_within_any_shape_is_not_shown() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let token = session.access_token().unwrap();
    for shape in [
        r#"{"message":"SECRET"}"#,
        r#"{"fault":{"faultstring":"no SECRET","detail":{"errorcode":"SECRET"}}}"#,
        r#"{"errors":[{"message":"SECRET"#,
        "<fault><faultstring>SECRET</faultstring></fault>",
        "<a><![CDATA[SECRET]]></a>",
        "<html><head><title>SECRET</title></head></html>",
        r#"<error message="SECRET"/>"#,
        "\"SECRET\"",
        "SECRET\u{e9}",
    ] {
        for secret in [&token[..], API_KEY] {
            for dash in ["-", "\\u002d", "%2D", "&#45;", "&#x2d;"] {
                let secret = secret.replace('-', dash);
                let content = shape.replace("SECRET", &secret);
                sandbox.next(Place::Api, response(500, &[], content.as_bytes()));
                let error = session.get("/x").unwrap_err();
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains(&secret), "{shown}");
                assert!(!shown.contains(secret.trim_end_matches('0')), "{shown}");
            }
        }
    }
}

#[test]
fn a_secret_in_pieces_that_a_page_shows_as_one_is_not_shown() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let (half, other) = API_KEY.split_at(API_KEY.len() / 2);
    for content in [
        format!("<p>no <![CDATA[{half}]]>{other}</p>"),
        format!("<p>no {half}<![CDATA[{other}]]></p>"),
        format!("<p>no {half}<!-- -->{other}</p>"),
        format!("<head><title>no {half}<![CDATA[{other}]]></title></head>"),
    ] {
        sandbox.next(Place::Api, response(500, &[], content.as_bytes()));
        let error = session.get("/x").unwrap_err().to_string();
        assert!(error.ends_with("; the response says: no [redacted]"), "{error}");
    }
}

#[test]
fn a_secret_with_a_quotation_mark_or_a_backslash_is_not_shown_if_json_has_it_as_it_is() {
    let sandbox = Sandbox::start();
    for secret in ["Abcdefgh\"ijklmnop", "Abcdefgh\\nijklmnop", "Abcdefgh\\\\ijklmnop"] {
        let session = session(&sandbox).api_key(secret).unwrap();
        let content = format!("{{\"error\":\"bad key {secret}\"}}");
        sandbox.next(Place::Api, response(500, &[], content.as_bytes()));
        let error = session.get("/x").unwrap_err().to_string();
        assert!(error.ends_with("says: bad key [redacted]"), "{error}");
    }
}
