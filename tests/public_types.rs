//! What users can do with the public types: send them to threads, read the response that an error
//! keeps, and find the error in what wraps it.

use std::error::Error as StdError;
use std::fmt::{self, Debug};
use std::io::{self, Read as _};
use std::time::Duration;

use jas_session::{Error, ErrorKind, Response, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{Fault, Place, Sandbox};

const TRUNCATED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"a\":";

fn session(sandbox: &Sandbox) -> Session {
    sandbox.session().retries(0)
}

#[test]
fn public_types_can_be_sent_to_threads_and_boxed() {
    fn is_shared<T: Send + Sync + Debug + 'static>() {}
    fn is_sent<T: Send + Debug + 'static>() {}
    fn is_io_error<T: Into<io::Error> + StdError>() {}
    is_shared::<Session>();
    is_shared::<Error>();
    is_shared::<ErrorKind>();
    is_sent::<Response>();
    is_io_error::<Error>();
    assert_eq!(std::mem::size_of::<Error>(), std::mem::size_of::<usize>());
}

#[test]
fn error_keeps_the_response_that_refused() {
    let sandbox = Sandbox::start();
    let long = "x".repeat(70_000);
    let trace = vec![("X-Trace", "  7  ".to_owned())];
    sandbox.next(Place::Api, Fault::Response(418, trace, long.clone().into()));
    let error = session(&sandbox).get("/x").unwrap_err();
    assert_eq!(error.status(), Some(418));
    assert_eq!(error.header("x-trace"), Some("7"));
    assert_eq!(error.header("x-none"), None);
    assert_eq!(error.content(), Some(&long.as_bytes()[..65_536]));
    assert_eq!(error.retry_after(), None);
    assert!(error.source().is_none());
}

#[test]
fn error_keeps_a_good_response_that_can_t_be_used() {
    const BOOKED: &[u8] = b"{\"bookingNumber\":\"B7\",\"consignee\":\"M\xfcller\"}";
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let created = || {
        let fields = vec![("Location", "/bookings/v1/bookings/B7".to_owned())];
        sandbox.next(Place::Api, Fault::Response(201, fields, BOOKED.to_vec()));
        session.post("/x", "text/plain", "").unwrap()
    };
    for (error, kept) in [
        (created().text().unwrap_err(), BOOKED),
        (created().json::<u32>().unwrap_err(), BOOKED),
        (created().limit(40).bytes().unwrap_err(), &BOOKED[..40]),
    ] {
        assert_eq!((error.kind(), error.status()), (ErrorKind::Content, Some(201)));
        assert_eq!(error.content(), Some(kept));
        assert_eq!(error.header("location"), Some("/bookings/v1/bookings/B7"));
        assert!(error.may_have_executed());
    }
}

#[test]
fn error_keeps_the_content_that_arrived_in_time() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox).timeout(Duration::from_millis(400));
    for (fault, kind) in
        [(Fault::Half, ErrorKind::Exchange), (Fault::Stall(Some(15)), ErrorKind::Timeout)]
    {
        session.access_token().unwrap();
        sandbox.next(Place::Api, fault);
        let booking = session.post("/bookings/v1/bookings", "application/json", "{}");
        let error = booking.unwrap().text().unwrap_err();
        assert_eq!((error.kind(), error.status()), (kind, Some(201)));
        assert_eq!(error.content(), Some(&b"{\"bookingNumber\""[..15]));
        assert!(error.may_have_executed());
    }
}

#[test]
fn error_keeps_a_byte_order_mark_that_json_ignores() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let json = b"\xef\xbb\xbf[\"B7\"]".to_vec();
    let chunks =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", json.len());
    let chunked = [chunks.as_bytes(), &json, b"\r\n0\r\n\r\n"].concat();
    for fault in [Fault::Response(200, vec![], json.clone()), Fault::Raw(chunked)] {
        let get = || {
            sandbox.next(Place::Api, fault.clone());
            session.get("/x").unwrap()
        };
        let error = get().json::<u32>().unwrap_err();
        assert_eq!(error.content(), Some(&json[..]));
        let error = get().limit(8).text().unwrap_err();
        assert_eq!(error.content(), Some(&json[..8]));
        assert_eq!(get().limit(9).json::<Vec<String>>().unwrap(), ["B7"]);
    }
}

/// Keeps an error as a source only.
#[derive(Debug)]
struct Wrapper(Box<dyn StdError + Send + Sync>);

impl fmt::Display for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no shipment")
    }
}

impl StdError for Wrapper {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

#[test]
fn error_is_found_in_its_wrappers() {
    let sandbox = Sandbox::start();
    let session = session(&sandbox);
    let reading = || {
        sandbox.next(Place::Api, Fault::Raw(TRUNCATED.to_vec()));
        session.post("/x", "text/plain", "").unwrap()
    };
    let copying = || io::copy(&mut reading(), &mut io::sink()).unwrap_err();
    let parsing = || serde_json::from_reader::<_, serde_json::Value>(reading()).unwrap_err();
    let direct = reading().bytes().unwrap_err();
    let reading_xml = || {
        let mut reader = quick_xml::Reader::from_reader(io::BufReader::new(reading()));
        loop {
            if let Err(error) = reader.read_event_into(&mut Vec::new()) {
                return error;
            }
        }
    };
    let errors: [Box<dyn StdError>; 7] = [
        Box::new(direct.clone()),
        Box::new(copying()),
        Box::new(io::Error::other(copying())),
        Box::new(io::Error::other(Wrapper(Box::new(copying())))),
        Box::new(Wrapper(Box::new(Wrapper(Box::new(copying()))))),
        Box::new(io::Error::from(parsing())),
        Box::new(reading_xml()),
    ];
    for error in &errors {
        let found = Error::find(&**error).unwrap_or_else(|| panic!("not in {error:?}"));
        assert_eq!((found.kind(), found.may_have_executed()), (ErrorKind::Exchange, true));
        assert_eq!(found.to_string(), direct.to_string());
    }
    assert!(Error::find(&io::Error::other("no")).is_none());
    // A report that prints each source prints no cause twice.
    for error in &errors[..2] {
        let chain = std::iter::successors(Some(&**error), |&error| error.source());
        let report: Vec<_> = chain.map(ToString::to_string).collect();
        assert_eq!(report.join(": "), format!("{direct:#}"));
    }
}

#[test]
fn error_of_a_read_is_repeated_by_the_next_read() {
    let sandbox = Sandbox::start();
    sandbox.next(Place::Api, Fault::Raw(TRUNCATED.to_vec()));
    // The content of a plain POST is not read before the caller does.
    let mut response = session(&sandbox).post("/x", "text/plain", "").unwrap();
    let mut content = Vec::new();
    let error = response.read_to_end(&mut content).unwrap_err();
    assert_eq!((error.kind(), &content[..]), (io::ErrorKind::UnexpectedEof, &b"{\"a\":"[..]));
    assert!(Error::find(&error).is_some());
    let again = response.read(&mut [0; 8]).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::UnexpectedEof);
}
