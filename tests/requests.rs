//! What is sent, to the letter, and what is refused before anything is sent.

use std::time::Duration;

use jas_session::{ErrorKind, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{Fault, Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};

const QUERY: &str = r#"{"shipmentNumber":"S505185992"}"#;

fn session(sandbox: &Sandbox) -> Session {
    Session::new(&sandbox.url(), CLIENT_ID, CLIENT_SECRET)
        .and_then(|session| session.api_key(API_KEY))
        .expect("a session")
}

fn host(sandbox: &Sandbox) -> String {
    sandbox.url().replace("http://", "")
}

#[test]
fn token_request_and_calls_are_sent_as_documented() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let token = session.access_token().unwrap();
    session.get("/tracking/v1/shipments/S505185992?a=b%20c").unwrap();
    session.post("/tracking/v1/shipments", "application/json", QUERY).unwrap();
    let host = host(&sandbox);
    let agent = concat!("jas-session/", env!("CARGO_PKG_VERSION"));
    let requests = sandbox.requests();
    assert_eq!(
        requests[0].head,
        format!(
            "POST /oauth2/token HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n\
             Accept-Encoding: identity\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             User-Agent: {agent}\r\nContent-Length: 157\r\n\r\n"
        )
    );
    assert_eq!(
        String::from_utf8_lossy(&requests[0].content),
        "grant_type=client_credentials\
         &client_id=parcel+desk%2Beu%26id%3D7%252F%2F%3Aa%3F%23\
         &client_secret=s3cr3t+%2541%2B%26%3D%2F%3A%3B%3F%23%27%3C%3E%40%7E*-._+end"
    );
    assert_eq!(
        requests[1].head,
        format!(
            "GET /tracking/v1/shipments/S505185992?a=b%20c HTTP/1.1\r\nHost: {host}\r\n\
             Authorization: Bearer {token}\r\nx-api-key: {API_KEY}\r\n\
             Accept-Encoding: identity\r\nAccept: */*\r\nUser-Agent: {agent}\r\n\r\n"
        )
    );
    assert_eq!(
        requests[2].head,
        format!(
            "POST /tracking/v1/shipments HTTP/1.1\r\nHost: {host}\r\n\
             Authorization: Bearer {token}\r\nx-api-key: {API_KEY}\r\n\
             Accept-Encoding: identity\r\nContent-Type: application/json\r\n\
             Accept: application/json\r\nUser-Agent: {agent}\r\nContent-Length: 31\r\n\r\n"
        )
    );
    assert_eq!(requests[2].content, QUERY.as_bytes());
}

#[test]
fn fields_of_the_caller_go_with_calls_but_not_with_token_requests() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox)
        .header("X-Trace", "1")
        .and_then(|session| session.header("user-agent", "erp/7"))
        .and_then(|session| session.header("ACCEPT", "application/xml"))
        .and_then(|session| session.header("x-trace", "2"))
        .unwrap();
    session.get("/tracking/v1/shipments/S505185992").unwrap();
    let requests = sandbox.requests();
    for name in ["x-trace", "x-api-key"] {
        assert_eq!(requests[0].field(name), None);
    }
    assert_eq!(requests[0].field("accept"), Some("application/json"));
    let sent = |name: &str| {
        let fields = requests[1].fields.iter();
        fields
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(sent("x-trace"), ["2"]);
    assert_eq!(sent("user-agent"), ["erp/7"]);
    assert_eq!(sent("accept"), ["application/xml"]);
}

#[test]
fn json_is_sent_and_read_by_type() {
    #[derive(jas_session::miniserde::Serialize)]
    struct Query {
        #[serde(rename = "houseBill")]
        house_bill: &'static str,
    }
    #[derive(jas_session::miniserde::Deserialize)]
    struct Shipment {
        #[serde(rename = "shipmentNumber")]
        number: String,
    }
    let sandbox = Sandbox::start();
    let query = Query { house_bill: "PAR45176295" };
    let response = session(&sandbox).post_json("/tracking/v1/shipments", &query).unwrap();
    assert_eq!(response.header("CONTENT-TYPE"), Some("application/json"));
    assert_eq!(response.json::<Shipment>().unwrap().number, "S505185992");
    assert_eq!(sandbox.requests()[1].content, br#"{"houseBill":"PAR45176295"}"#);
}

#[test]
fn xml_is_handed_over_untouched() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let path = "/tracking/v1/shipments";
    let query = "\u{feff}<?xml version=\"1.0\"?>\r\n<?a b?>\r\n<ShipmentQuery><!-- \u{fc} -->\
                 <HouseBill>PAR45176295</HouseBill><Note><![CDATA[a & b]]></Note></ShipmentQuery>\n";
    let response = session.post_idempotent(path, "application/xml", query).unwrap();
    assert_eq!(response.header("content-type"), Some("application/xml"));
    assert!(response.text().unwrap().contains("S505185992"));
    assert_eq!(sandbox.requests()[1].content, query.as_bytes());
    assert_eq!(sandbox.requests()[1].field("accept"), Some("application/xml"));

    // Neither need be UTF-8.
    let latin = b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><City>M\xfcnchen</City>\r\n\0";
    let fields = vec![("Content-Type", "application/xml".to_owned())];
    sandbox.next(Place::Api, Fault::Response(200, fields, latin.to_vec()));
    let response = session.post(path, "application/xml", latin).unwrap();
    assert_eq!(response.bytes().unwrap(), latin);
    assert_eq!(sandbox.requests()[2].content, latin);

    // A byte order mark belongs to the bytes, not to the text.
    let marked = "\u{feff}<a>\r\n</a>";
    for _ in 0..2 {
        sandbox.next(Place::Api, Fault::Response(200, vec![], marked.into()));
    }
    let ask = || session.post_idempotent(path, "application/xml", query);
    assert_eq!(ask().unwrap().bytes().unwrap(), marked.as_bytes());
    assert_eq!(ask().unwrap().text().unwrap(), "<a>\r\n</a>");
}

#[test]
fn a_path_is_put_behind_the_base_url_and_a_next_link_is_taken_as_it_is() {
    let sandbox = Sandbox::start();
    let base = format!("{}/gateway/", sandbox.url());
    let session = Session::new(&base, CLIENT_ID, CLIENT_SECRET)
        .and_then(|session| session.token_endpoint(&format!("{}/oauth2/token", sandbox.url())))
        .unwrap();
    let _ = session.get("/a");
    let _ = session.get(&format!("{}/b?page=2", sandbox.url()));
    let targets: Vec<_> = sandbox.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(targets, ["/oauth2/token", "/gateway/a", "/b?page=2"]);
}

#[test]
fn bad_input_is_refused_before_anything_is_sent() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let long = "x".repeat(1 << 20) + "\n";
    let strings = ["", " ", "\0", "a\r\nb: c", "é", "a b", "\u{7f}", long.as_str()];
    for bad in strings {
        let refused = [
            session.get(bad).err(),
            session.get(&format!("/{bad} ")).err(),
            session.post("/x", bad, "").err(),
            Session::new(bad, "id", "secret").err(),
            session.clone().token_endpoint(bad).err(),
            session.clone().api_key(bad).err(),
            session.clone().header(bad, "x").err(),
            session.clone().resume(bad, Duration::from_secs(60)).err(),
        ];
        for (i, error) in refused.into_iter().enumerate() {
            let error = error.unwrap_or_else(|| panic!("{bad:.9?} was accepted by {i}"));
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:.9?}");
            assert!(!error.may_have_executed());
        }
    }
    for bad in ["\0", "a\r\nb: c", "é", "\u{7f}", " a", "a\n"] {
        for error in [
            Session::new(&sandbox.url(), bad, "secret").err(),
            Session::new(&sandbox.url(), "id", bad).err(),
            session.clone().header("x", bad).err(),
        ] {
            assert_eq!(error.unwrap().kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
    }
    for path in ["https://127.0.0.1/", "http://example.com/", "x", "/#", "//"] {
        if path != "//" {
            assert_eq!(session.get(path).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }
    assert_eq!(sandbox.requests().len(), 0);
}

#[test]
fn the_fields_that_the_session_owns_are_refused() {
    let sandbox = Sandbox::start();
    for (name, message) in [
        ("authorization", "the field Authorization is the session's own"),
        ("Host", "the field Host is the session's own"),
        ("content-length", "the field Content-Length is the session's own"),
        ("content-type", "the field Content-Type is the session's own: give it to Session::post"),
        ("transfer-encoding", "the field Transfer-Encoding is the session's own"),
        ("connection", "the field Connection is the session's own"),
        ("EXPECT", "the field Expect is the session's own"),
        ("accept-encoding", "the field Accept-Encoding is the session's own"),
        ("X-API-Key", "the field x-api-key is the session's own: use Session::api_key"),
    ] {
        let error = session(&sandbox).header(name, "x").unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn a_megabyte_of_secret_is_sent_correctly() {
    let sandbox = Sandbox::start();
    let secret = "+ ".repeat(1 << 19) + "+";
    let session = Session::new(&sandbox.url(), CLIENT_ID, &secret).unwrap();
    assert_eq!(session.get("/x").unwrap_err().kind(), ErrorKind::Denied);
    let content = &sandbox.requests()[0].content;
    let sent = content.rsplit(|&byte| byte == b'=').next().unwrap();
    assert_eq!(sent.len(), (1 << 19) * 4 + 3);
}

#[test]
fn content_is_limited_where_it_is_read_whole_and_a_byte_order_mark_is_removed() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let large = |bytes: u64| session.get(&format!("/documents/v1/large?bytes={bytes}")).unwrap();
    assert_eq!(large(1 << 20).bytes().unwrap().len(), 1 << 20);
    assert_eq!(large(10).limit(10).bytes().unwrap().len(), 10);
    for shape in [Fault::With(vec![]), Fault::Chunked(3), Fault::UntilClose] {
        sandbox.next(Place::Api, shape);
        let error = large(11).limit(10).text().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Content);
        assert_eq!(
            error.to_string(),
            format!(
                "GET {}/documents/v1/large: the content is longer than the limit of 10 bytes: \
                 raise it with Response::limit, or read it as a stream",
                sandbox.url()
            )
        );
        assert!(error.may_have_executed());
    }
    let mut file = Vec::new();
    assert_eq!(std::io::copy(&mut large(3 << 20), &mut file).unwrap(), 3 << 20);

    let response = |content: &[u8]| {
        sandbox.next(Place::Api, Fault::Response(200, vec![], content.to_vec()));
        session.get("/x").unwrap()
    };
    assert_eq!(response("\u{feff}a\u{feff}".as_bytes()).text().unwrap(), "a\u{feff}");
    assert_eq!(response("\u{feff}[1]".as_bytes()).json::<Vec<u8>>().unwrap(), [1]);
    assert_eq!(response(b"").text().unwrap(), "");
}
