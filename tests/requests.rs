//! What is sent, to the byte.

use std::net::TcpListener;

use jas_session::{ErrorKind, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[path = "support/wire/mod.rs"]
mod wire;
use sandbox::{Fault, Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};
use wire::{response, Server};

const PATH: &str = "/tracking/v1/shipments";

#[test]
fn token_request_and_calls_are_sent_to_the_byte() {
    let sandbox = Sandbox::start();
    let session = sandbox.session().header("X-Trace", "a  b").unwrap();
    let content = r#"{"shipmentNumber":"S505185992"}"#;
    session.post(PATH, "application/json", content).unwrap();
    session.get(&format!("{PATH}/S505185992?page=2&x=%20")).unwrap();
    let token = session.access_token().unwrap();
    let host = sandbox.url().replace("http://", "");
    let agent = concat!("jas-session/", env!("CARGO_PKG_VERSION"));
    let form =
        "grant_type=client_credentials&client_id=parcel+desk%2Beu%26id%3D7%252F%2F%3Aa%3F%23\
         &client_secret=s3cr3t+%2541%2B%26%3D%2F%3A%3B%3F%23%27%3C%3E%40%7E*-._+end";
    let expected = [
        format!(
            "POST /oauth2/token HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n\
             Accept-Encoding: identity\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             User-Agent: {agent}\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        ),
        format!(
            "POST {PATH} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
             x-api-key: {API_KEY}\r\nX-Trace: a  b\r\nAccept-Encoding: identity\r\n\
             Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: {agent}\r\n\
             Content-Length: {}\r\n\r\n{content}",
            content.len()
        ),
        format!(
            "GET {PATH}/S505185992?page=2&x=%20 HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer \
             {token}\r\nx-api-key: {API_KEY}\r\nX-Trace: a  b\r\nAccept-Encoding: identity\r\n\
             Accept: */*\r\nUser-Agent: {agent}\r\n\r\n"
        ),
    ];
    let sent = sandbox.requests().into_iter();
    let sent = sent.map(|request| request.head + &String::from_utf8(request.content).unwrap());
    assert_eq!(sent.collect::<Vec<_>>(), expected);
}

#[test]
fn host_may_be_an_ipv6_address() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        eprintln!("not tested: this machine has no ::1");
        return;
    };
    let server = Server::on(listener, |mut stream| {
        let received = wire::request(&mut stream);
        wire::respond(&mut stream, &response("200 OK", "", "good"));
        received
    });
    let address = server.address;
    assert_eq!(wire::text(&format!("http://{address}")).unwrap(), "good");
    let received = String::from_utf8(server.ended().concat()).unwrap();
    assert!(received.starts_with(&format!("GET / HTTP/1.1\r\nHost: {address}\r\n")), "{received}");
}

#[test]
fn header_fields_go_with_calls_but_not_with_token_requests() {
    let sandbox = Sandbox::start();
    let session = sandbox
        .session()
        .header("X-Trace", "1")
        .and_then(|session| session.header("user-agent", "erp/7"))
        .and_then(|session| session.header("ACCEPT", "application/xml"))
        .and_then(|session| session.header("x-trace", "2"))
        .unwrap();
    session.get(&format!("{PATH}/S505185992")).unwrap();
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
fn json_is_written_and_read_by_type() {
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
    let response = sandbox.session().post_json(PATH, &query).unwrap();
    assert_eq!(response.header("CONTENT-TYPE"), Some("application/json"));
    assert_eq!(response.json::<Shipment>().unwrap().number, "S505185992");
    assert_eq!(sandbox.requests()[1].content, br#"{"houseBill":"PAR45176295"}"#);
}

#[test]
fn xml_is_sent_and_returned_unchanged() {
    let sandbox = Sandbox::start();
    let session = sandbox.session();
    let query = "\u{feff}<?xml version=\"1.0\"?>\r\n<?a b?>\r\n<ShipmentQuery><!-- \u{fc} -->\
                 <HouseBill>PAR45176295</HouseBill><Note><![CDATA[a & b]]></Note></ShipmentQuery>\n";
    let response = session.post_idempotent(PATH, "application/xml", query).unwrap();
    assert_eq!(response.header("content-type"), Some("application/xml"));
    assert!(response.text().unwrap().contains("S505185992"));
    assert_eq!(sandbox.requests()[1].content, query.as_bytes());
    assert_eq!(sandbox.requests()[1].field("accept"), Some("application/xml"));

    // Content may be other than UTF-8.
    let latin = b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><City>M\xfcnchen</City>\r\n\0";
    sandbox.next(Place::Api, Fault::Response(200, vec![], latin.to_vec()));
    let response = session.post(PATH, "application/xml", latin).unwrap();
    assert_eq!(response.bytes().unwrap(), latin);
    assert_eq!(sandbox.requests()[2].content, latin);
}

#[test]
fn byte_order_mark_is_removed_from_text_and_json_only() {
    let sandbox = Sandbox::start();
    let session = sandbox.session();
    let response = |content: &str| {
        sandbox.next(Place::Api, Fault::Response(200, vec![], content.into()));
        session.get("/x").unwrap()
    };
    assert_eq!(response("\u{feff}a\u{feff}\r\n").text().unwrap(), "a\u{feff}\r\n");
    assert_eq!(response("\u{feff}[1]").json::<Vec<u8>>().unwrap(), [1]);
    assert_eq!(response("\u{feff}a").bytes().unwrap(), "\u{feff}a".as_bytes());
    assert_eq!(response("").text().unwrap(), "");
}

#[test]
fn path_follows_the_base_url_and_a_next_link_is_kept() {
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
fn secret_of_a_megabyte_is_sent_whole() {
    let sandbox = Sandbox::start();
    let secret = "+ ".repeat(1 << 19) + "+";
    let session = Session::new(&sandbox.url(), CLIENT_ID, &secret).unwrap();
    assert_eq!(session.get("/x").unwrap_err().kind(), ErrorKind::Denied);
    let content = &sandbox.requests()[0].content;
    let sent = content.rsplit(|&byte| byte == b'=').next().unwrap();
    assert_eq!(sent.len(), (1 << 19) * 4 + 3);
}
