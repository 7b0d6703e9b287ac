//! Which certificate issuers a session trusts: the built-in roots, and those that are added.
#![cfg(feature = "tls")]

use jas_session::{ErrorKind, Session};

#[path = "support/wire/mod.rs"]
mod wire;
use wire::tls::{https, responding, Authority, Days};
use wire::{response, session, with_token};

fn trusting(session: &Session, pem: &str) -> Session {
    with_token(session.clone().root_certificates(pem.as_bytes()).unwrap())
}

fn is_trusted(session: &Session) -> bool {
    match session.get("/") {
        Ok(response) => response.text().unwrap() == "good",
        Err(error) => {
            assert!(error.to_string().contains("issuer"), "{error}");
            assert!(!error.may_have_executed());
            false
        }
    }
}

#[test]
fn certificates_add_up_and_belong_to_the_clone() {
    let issuers = [Authority::new(), Authority::new()];
    let servers = issuers.each_ref().map(|issuer| {
        responding(issuer.config("localhost", Days::Now), &response("200 OK", "", "good"))
    });
    let [first, second] = servers.each_ref().map(|server| session(&https(server)));
    assert!(!is_trusted(&first));
    let first_trusted = trusting(&first, &issuers[0].pem);
    assert!(is_trusted(&first_trusted));
    // Neither the setting nor a connection of the clone is used.
    assert!(!is_trusted(&first));
    assert!(is_trusted(&trusting(&first_trusted, &issuers[1].pem)));
    assert!(!is_trusted(&trusting(&second, &issuers[0].pem)));
    let one_by_one = trusting(&trusting(&second, &issuers[0].pem), &issuers[1].pem);
    assert!(is_trusted(&one_by_one));
    let both = format!("a comment\n{}{}", issuers[0].pem, issuers[1].pem);
    assert!(is_trusted(&trusting(&second, &both)));
}

#[test]
fn certificates_are_read_with_any_line_ends_and_checked() {
    let session = session("https://api.example.com");
    let good = Authority::new().pem;
    for pem in [good.clone(), format!("\u{feff}{good}"), good.replace('\n', "\r\n")] {
        assert!(session.clone().root_certificates(pem.as_bytes()).is_ok(), "{pem:?}");
    }
    let error = session.root_certificates(good.replace("MII", "M!I").as_bytes()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("PEM"), "{error}");
}
