//! Responses other than 2xx: the advice for a status, and what the message shows of the response.

use super::*;

use jas_session::ErrorKind;

type Fields = &'static [(&'static str, &'static str)];

const CHECK_KEY: &str =
    ": check the API key (x-api-key), and the application's subscription to this API";
const SLOW_DOWN: &str = ": rate limit exceeded: send fewer requests at a time";
const OVERLOADED: &str = ": the server or its backend is down or overloaded: try again later";
const FAILED: &str = ": the server failed: try again later";

/// A status of the API, and the advice that follows it.
const ADVICE: &[(u16, &str)] = &[
    (400, ": the server could not read the request: check its content and its media type"),
    (402, ""),
    (403, CHECK_KEY),
    (404, ": not found: check the base URL, the path and any number in it"),
    (405, ": this path does not accept this method"),
    (409, ": it conflicts with existing data, which an earlier request may have made"),
    (413, ": the content is too large: send less at a time"),
    (415, ": the server does not accept this media type here: check it"),
    (418, ""),
    (422, ""),
    (429, SLOW_DOWN),
    (500, FAILED),
    (501, ""),
    (502, OVERLOADED),
    (503, OVERLOADED),
    (504, OVERLOADED),
    (596, ": no such route: check the base URL, the path, and the subscription to this API"),
];

/// A status of the token endpoint, its header fields, and the advice that follows the status.
const TOKEN_ADVICE: &[(u16, Fields, &str)] = &[
    (301, &[], NO_ENDPOINT),
    (400, &[], CHECK_CREDENTIALS),
    (401, &[], CHECK_CREDENTIALS),
    (403, &[], CHECK_CREDENTIALS),
    (403, &[("Retry-After", "100")], SLOW_DOWN),
    (404, &[], NO_ENDPOINT),
    (429, &[], SLOW_DOWN),
    (500, &[], FAILED),
    (503, &[], OVERLOADED),
    (596, &[], NO_ENDPOINT),
];

const CHECK_CREDENTIALS: &str = ": check the client id and the client secret, and that the \
                                 application is subscribed to an API";
const NO_ENDPOINT: &str = ": there is no token endpoint: check the base URL, or give the \
                           endpoint's own URL with Session::token_endpoint, or JAS_TOKEN_ENDPOINT";

/// The header fields of a response, and the time that the message shows.
const WAITS: &[(Fields, &str)] = &[
    (&[("Retry-After", "30")], "30s"),
    (&[("Retry-After", "1"), ("X-Mashery-Error-Code", "ERR_403_DEVELOPER_OVER_QPS")], "1s"),
    (
        &[
            ("Date", "Wed, 25 Nov 2026 10:00:00 GMT"),
            ("Retry-After", "Wed, 25 Nov 2026 10:05:00 GMT"),
        ],
        "300s",
    ),
];

/// A `Location`, and what the message shows of it: no user, password, query or fragment.
const REDIRECTS: &[(&str, &str)] = &[
    ("https://user:pw@evil.example:8443/login?x#y", "https://evil.example:8443/login"),
    ("//evil.example?a", "//evil.example"),
    ("/login?next=https://evil.example/", "/login"),
    ("/tracking/v1/shipments/", "/tracking/v1/shipments/"),
    ("shipments/?token=a#b", "shipments/"),
    ("https://jas.example/v2/x?key=a", "https://jas.example/v2/x"),
    ("https://user:p/w@jas.example", "https://user:p/w@jas.example"),
    ("https://user:pw@jas.example", "https://jas.example"),
    ("//jas.example:8443/@x", "//jas.example:8443/@x"),
    ("?a", ""),
];

const HTML: &str = "<!DOCTYPE html>\n<HTML><HEAD><title>502 Bad Gateway</title>\
    <style>h1 { color: red }</style></HEAD>\r\n<body onload=\"x()\"><!-- a > b --><h1>Bad Gateway\
    </h1><script>if (1 < 2) { document.write('no') }</script><p>The server is down.</p></body></HTML>";

const NGINX: &str = "<html><head><title>413 Request Entity Too Large</title></head><body><center>\
    <h1>413 Request Entity Too Large</h1></center><hr><center>nginx</center></body></html>";

const SOAP: &str = "<soap:Envelope><soap:Body><soap:Fault><faultcode>soap:Client</faultcode>\
    <faultstring><![CDATA[House bill <PAR> is unknown]]></faultstring></soap:Fault></soap:Body>\
    </soap:Envelope>";

const PROBLEM: &str = r#"{"type":"https://example.com/x","title":"Not a valid booking",
    "status":422,"detail":"Pieces must not be 0"}"#;

const APIGEE: &str = r#"{"fault":{"faultstring":"Rate limit quota violation. Quota limit  exceeded.",
    "detail":{"errorcode":"policies.ratelimit.QuotaViolation"}}}"#;

const TWO_ERRORS: &str = r#"{"errors":[{"code":"B-1","message":"No consignee"},
    {"code":"B-2","message":"No shipper"}]}"#;

/// Content of a refusal, and what the message shows of it.
#[rustfmt::skip]
const CONTENTS: &[(&str, &str)] = &[
    ("slow down", "slow down"),
    // JSON, as APIs and gateways send it.
    (r#"{"message":"Forbidden"}"#, "Forbidden"),
    (r#"{"Message":"User is not authorized with an explicit deny"}"#,
        "User is not authorized with an explicit deny"),
    (r#"{"statusCode": 404, "message": "Resource not found"}"#, "Resource not found"),
    (r#"{"error":"not_found","error_description":"no such shipment"}"#,
        "not_found: no such shipment"),
    (r#"{"error":"insufficient_scope","error_description":"The token lacks \"tracking\""}"#,
        "insufficient_scope: The token lacks \"tracking\""),
    (r#"{"error":{"code":"E-500","message":"Internal","details":[]}}"#, "E-500: Internal"),
    (r#"{"message":"","reason":"closed"}"#, "closed"),
    (PROBLEM, "Not a valid booking: Pieces must not be 0"),
    (TWO_ERRORS, "B-1: No consignee"),
    (APIGEE, "Rate limit quota violation. Quota limit exceeded.: \
        policies.ratelimit.QuotaViolation"),
    // Pages and XML.
    ("<h1>596 Service Not Found</h1>", "596 Service Not Found"),
    (HTML, "Bad Gateway The server is down."),
    (NGINX, "413 Request Entity Too Large nginx"),
    ("<html><head><title>504 Gateway Time-out</title></head><body></body></html>",
        "504 Gateway Time-out"),
    ("<html><head><title>Oops</title><style>p { }</style><body><p>Out of order", "Out of order"),
    ("<error>\r\n  <text>no\tContent-Type</text>\n</error>", "no Content-Type"),
    ("<?xml version=\"1.0\"?>\n<error><code>over-quota</code>\n<message>Quota is used up</message></error>",
        "over-quota Quota is used up"),
    (SOAP, "soap:Client House bill <PAR> is unknown"),
    (r#"<error code="E17" message="no house bill"/>"#,
        r#"<error code="E17" message="no house bill"/>"#),
    // Malformed and truncated content.
    (r#""Duplicate house bill""#, r#""Duplicate house bill""#),
    (r#"{"error":"duplicate","message":"Booked on 1 Ma"#, "duplicate"),
    ("{\"a\":1", "{\"a\":1"),
    ("\u{feff}{\"message\":\"\\u001b[31mred\\u001b[0m \\u202edne\\u061c\\nof \\u00fcber\"}",
        "[31mred [0m ?dne? of über"),
    (" <html>\r\n\t<b>no\u{7}\u{1b}[31m\u{202e}</b>\n", "no [31m?"),
    (" \r\n\t", ""),
    ("", ""),
];

/// Content that is not UTF-8, or no text at all, and what the message shows of it.
const BYTES: &[(&[u8], &str)] = &[
    (b"<m>Zollst\xf6rung</m>", "Zollstörung"),
    (b"Zollst\xc3\xb6rung in K\xc3", "Zollstörung in K"),
    (b"Zoll-Caf\xe9", "Zoll-Café"),
    (b"\x1f\x8b\x08\x00\x00", ""),
    (b"\xff\xfen\x00o\x00", ""),
];

/// The end of a message that shows this of the content.
fn says(shown: &str) -> String {
    if shown.is_empty() {
        String::new()
    } else {
        format!("; the response says: {shown}")
    }
}

#[test]
fn status_of_the_api_is_followed_by_advice() {
    let sandbox = Sandbox::start();
    for (status, advice) in ADVICE {
        let error = api_error(&sandbox, response(*status, &[], ""));
        assert_eq!(error.kind(), ErrorKind::Status);
        assert_get(&sandbox, &error, &format!("status {status}{advice}"));
    }
}

#[test]
fn status_of_the_token_endpoint_is_followed_by_advice() {
    let sandbox = Sandbox::start();
    for (status, fields, advice) in TOKEN_ADVICE {
        let error = token_error(&sandbox, response(*status, fields, ""));
        let wait = if fields.is_empty() { "" } else { "; it asks to wait 100s" };
        assert_token_request(&sandbox, &error, &format!("status {status}{advice}{wait}"));
        let is_denied = advice.contains(": check ");
        assert_eq!(error.kind() == ErrorKind::Denied, is_denied, "{error:?}");
    }
    // Some endpoints refuse with a good status.
    let error = token_error(&sandbox, response(200, &[], r#"{"error":"invalid_client"}"#));
    let reason = format!("status 200 with an error in it{CHECK_CREDENTIALS}");
    assert_token_request(&sandbox, &error, &(reason + &says("invalid_client")));
}

#[test]
fn refused_token_is_named() {
    let sandbox = Sandbox::start();
    let refusal = || response(401, &[("WWW-Authenticate", "Bearer error=\"invalid_token\"")], "");
    sandbox.always(Place::Api, Some(refusal()));
    let session = session(&sandbox);
    for reason in [
        "a new access token was refused as well: check the application's subscription to this \
         API, and that the token endpoint is this API's",
        "the access token was refused; a token was replaced less than 10 seconds ago: try again \
         later",
    ] {
        let error = session.get("/x").unwrap_err();
        assert_get(&sandbox, &error, &format!("status 401: {reason}"));
    }
}

#[test]
fn requested_wait_is_shown() {
    let sandbox = Sandbox::start();
    for (fields, wait) in WAITS {
        for status in [403, 429, 503] {
            let error = api_error(&sandbox, response(status, fields, "slow down"));
            let advice = if status == 503 { OVERLOADED } else { SLOW_DOWN };
            let wait = format!("; it asks to wait {wait}");
            let reason = format!("status {status}{advice}{wait}{}", says("slow down"));
            assert_get(&sandbox, &error, &reason);
        }
    }
}

#[test]
fn location_of_a_redirect_is_shown_in_part() {
    let sandbox = Sandbox::start();
    for (location, shown) in REDIRECTS {
        let redirect = |status| response(status, &[("Location", location)], "moved");
        let end = format!("; it redirects to {shown}, which is never followed");
        for status in [301, 302, 303, 307, 308] {
            let error = api_error(&sandbox, redirect(status));
            assert_get(&sandbox, &error, &format!("status {status}{end}"));
        }
        let error = token_error(&sandbox, redirect(301));
        assert_token_request(&sandbox, &error, &format!("status 301{NO_ENDPOINT}{end}"));
    }
    let requests = sandbox.requests();
    assert!(requests.iter().all(|request| ["/x", "/oauth2/token"].contains(&&*request.target)));
}

#[test]
fn reason_is_shown_in_the_shapes_of_real_gateways() {
    let sandbox = Sandbox::start();
    let texts = CONTENTS.iter().map(|(content, shown)| (content.as_bytes(), *shown));
    for (content, shown) in texts.chain(BYTES.iter().copied()) {
        let error = api_error(&sandbox, response(418, &[], content));
        assert_get(&sandbox, &error, &format!("status 418{}", says(shown)));
        assert_eq!(error.content(), Some(content));
    }
}

#[test]
fn reason_of_the_token_endpoint_is_shown_only_from_json() {
    let sandbox = Sandbox::start();
    for (content, shown) in [
        (
            r#"{"error_description":"Client authentication failed","error":"invalid_client"}"#,
            "Client authentication failed: invalid_client",
        ),
        (
            r#"{"fault":{"faultstring":"Invalid ApiKey","detail":{"errorcode":"InvalidApiKey"}}}"#,
            "Invalid ApiKey: InvalidApiKey",
        ),
        (r#"{"access_token":"another token","id":"x"}"#, ""),
        ("access_token=another-token&error=x", ""),
        ("<h1>Developer Over Rate</h1>", ""),
    ] {
        let error = token_error(&sandbox, response(401, &[], content));
        let reason = format!("status 401{CHECK_CREDENTIALS}{}", says(shown));
        assert_token_request(&sandbox, &error, &reason);
    }
}

#[test]
fn long_reason_is_shortened() {
    let sandbox = Sandbox::start();
    let long = |space: usize| format!("{}<p>last</p>", " ".repeat(space));
    for (content, shown) in [
        (format!("{{\"message\":\"{}\"}}", "é".repeat(300)), format!("{}...", "é".repeat(200))),
        ("x".repeat(8192), format!("{}...", "x".repeat(200))),
        // Only the first 8 KiB are looked at.
        (long(8000), "last".to_owned()),
        (long(8192), String::new()),
    ] {
        let error = api_error(&sandbox, response(418, &[], content));
        assert_get(&sandbox, &error, &format!("status 418{}", says(&shown)));
    }
}
