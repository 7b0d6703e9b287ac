//! Which issuers of certificates a session trusts: the built-in roots, and those it is told to.
#![cfg(feature = "tls")]

use jas_session::{ErrorKind, Session};

#[path = "support/wire/mod.rs"]
mod wire;
use wire::tls::{finish, https, tls, Authority, Days};
use wire::{request, response, Server, PATIENCE};

fn session(url: &str) -> Session {
    let session = Session::new(url, "id", "secret").unwrap();
    let session = session.resume("token", PATIENCE).unwrap();
    session.retries(0).timeout(PATIENCE)
}

fn good(authority: &Authority) -> Server {
    tls(authority.config("localhost", Days::Now), |stream| {
        let received = request(stream);
        finish(stream, &response("200 OK", "", "good"));
        received
    })
}

fn is_trusted(session: &Session) -> bool {
    match session.get("/") {
        Ok(response) => response.text().unwrap() == "good",
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("is not among"), "{message}");
            assert!(!error.may_have_executed());
            false
        }
    }
}

#[test]
fn certificates_add_up_and_are_a_setting_of_the_clone() {
    let issuers = [Authority::new(), Authority::new()];
    let servers = issuers.each_ref().map(good);
    let [first, second] = servers.each_ref().map(|server| session(&https(server)));
    assert!(!is_trusted(&first));
    let trusting = |session: &Session, pem: &str| {
        let session = session.clone().root_certificates(pem.as_bytes()).unwrap();
        // The clone has no token yet.
        session.resume("token", PATIENCE).unwrap()
    };
    let first_trusted = trusting(&first, &issuers[0].pem);
    assert!(is_trusted(&first_trusted));
    // Neither the clone's setting nor a connection of the clone is used.
    assert!(!is_trusted(&first));
    assert!(is_trusted(&trusting(&first_trusted, &issuers[1].pem)));
    assert!(!is_trusted(&trusting(&second, &issuers[0].pem)));
    let one_by_one = trusting(&trusting(&second, &issuers[0].pem), &issuers[1].pem);
    assert!(is_trusted(&one_by_one));
    let both = format!("a comment\n{}{}", issuers[0].pem, issuers[1].pem);
    assert!(is_trusted(&trusting(&second, &both)));
}

#[test]
fn certificates_that_are_none_are_refused_by_the_setting() {
    let session = session("https://api.example.com");
    let good = Authority::new().pem;
    let key = good.replace("CERTIFICATE", "PRIVATE KEY");
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (pem, why) in [
        ("", "hold no certificate (-----BEGIN CERTIFICATE-----)"),
        ("garbage", "hold no certificate (-----BEGIN CERTIFICATE-----)"),
        (&*key, "hold no certificate (-----BEGIN CERTIFICATE-----)"),
        (&good[..good.len() - 30], "are not valid PEM: "),
        (&*good.replace("MII", "M!I"), "are not valid PEM: "),
        (no_certificate, "can't be used: "),
    ] {
        let error = session.clone().root_certificates(pem.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let message = error.to_string();
        let expected = format!("the root certificates {why}");
        assert!(message.starts_with(&expected), "{message}");
    }
    for pem in [good.clone(), format!("\u{feff}{good}"), good.replace('\n', "\r\n")] {
        assert!(session.clone().root_certificates(pem.as_bytes()).is_ok(), "{pem:?}");
    }
}
