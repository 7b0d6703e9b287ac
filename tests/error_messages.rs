//! Messages to the letter: a table for each way in which a call can fail. `documentation.rs` has the
//! messages of common mistakes.

use jas_session::{Error, Response, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[path = "support/wire/mod.rs"]
mod wire;

#[path = "error_messages/connections.rs"]
mod connections;
#[path = "error_messages/input.rs"]
mod input;
#[cfg(feature = "tls")]
#[path = "error_messages/proxies.rs"]
mod proxies;
#[path = "error_messages/responses.rs"]
mod responses;
#[path = "error_messages/statuses.rs"]
mod statuses;
#[cfg(feature = "tls")]
#[path = "error_messages/tls.rs"]
mod tls;
#[cfg(feature = "tls")]
#[path = "error_messages/urls.rs"]
mod urls;

use sandbox::{Fault, Place, Sandbox};

/// A token that has nothing in common with the texts of the tests.
const TOKEN: &str = "7f3a9c1e-5b2d8460";

/// A session that holds a token, has an API key, and retries nothing.
fn session(sandbox: &Sandbox) -> Session {
    sandbox.session().resume(TOKEN, wire::PATIENCE * 30).unwrap().retries(0)
}

/// A response with this status, these header fields and this content.
fn response(status: u16, fields: &[(&'static str, &str)], content: impl AsRef<[u8]>) -> Fault {
    let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned()));
    Fault::Response(status, fields.collect(), content.as_ref().to_vec())
}

/// Returns the error of `GET /x`, or of reading its response. Each call has a new session, because a
/// rate limit lasts for a session.
fn api_error(sandbox: &Sandbox, fault: Fault) -> Error {
    sandbox.next(Place::Api, fault);
    session(sandbox).get("/x").and_then(Response::bytes).unwrap_err()
}

/// Returns the error of a token request, with a new session each time, because it is remembered.
fn token_error(sandbox: &Sandbox, fault: Fault) -> Error {
    sandbox.next(Place::Token, fault);
    sandbox.session().retries(0).access_token().unwrap_err()
}

/// Compares the message of `GET /x` with the expected reason.
#[track_caller]
fn assert_get(sandbox: &Sandbox, error: &Error, reason: &str) {
    assert_eq!(error.to_string(), format!("GET {}/x: {reason}", sandbox.url()));
}

/// Compares the message of a token request with the expected reason.
#[track_caller]
fn assert_token_request(sandbox: &Sandbox, error: &Error, reason: &str) {
    let endpoint = format!("{}/oauth2/token", sandbox.url());
    assert_eq!(error.to_string(), format!("token request to {endpoint}: {reason}"));
}
