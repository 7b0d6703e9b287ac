//! Gives the fuzz target `inputs` access to private functions. Not part of the public interface.

use std::fmt;
use std::time::Duration;

use crate::error::{remote_text, Error, ErrorResponse};
use crate::url::Url;
use crate::{token, url};

/// ErrorResponse header fields: names and values.
pub type Fields<'a> = &'a [(String, String)];

/// A parsed URL: its origin and the request target.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// The origin, as in a URL.
    pub origin: String,
    /// The path, optionally with a query.
    pub path: String,
}

/// Parses a base URL.
pub fn base(text: &str) -> Result<Target, Error> {
    Url::base("base URL", text).map(Target::from)
}

/// Parses the URL of a token endpoint.
pub fn endpoint(text: &str) -> Result<Target, Error> {
    Url::parse("token endpoint's URL", text).map(Target::from)
}

/// Appends a path to a base URL, or resolves a URL of the same origin.
pub fn join(base: &str, path: &str) -> Result<Target, Error> {
    Url::base("base URL", base)?.join(path).map(Target::from)
}

/// Encodes a value for the token request's form.
#[must_use]
pub fn form_encoded(text: &str) -> String {
    url::form_encoded(text)
}

/// Checks a client id or secret.
pub fn check_credential(text: &str) -> Result<(), Error> {
    url::check_credential("client secret", text)
}

/// Checks an access token or an API key.
pub fn check_visible(text: &str) -> Result<(), Error> {
    url::check_visible("API key", text)
}

/// Checks the name of a header field.
pub fn check_field_name(text: &str) -> Result<(), Error> {
    url::check_field_name("field name", text)
}

/// Checks the value of a header field.
pub fn check_field_value(text: &str) -> Result<(), Error> {
    url::check_field_value("field value", text)
}

/// Checks a media type.
pub fn check_media_type(text: &str) -> Result<(), Error> {
    url::check_media_type(text)
}

/// Parses `Retry-After`.
#[must_use]
pub fn retry_after(fields: Fields<'_>) -> Option<Duration> {
    ErrorResponse::new(0, fields.to_vec(), Vec::new()).retry_after
}

/// Returns whether a response refuses the token.
#[must_use]
pub fn is_token_refused(status: u16, fields: Fields<'_>, content: &[u8]) -> bool {
    ErrorResponse::new(status, fields.to_vec(), content.to_vec()).is_token_refused()
}

/// Reads the token and its lifetime from the content of a token endpoint's 2xx response.
pub fn token(content: &[u8], secrets: &[String]) -> Result<(String, Duration), String> {
    token::read(content, secrets)
}

/// Prepares text from a server for a message.
#[must_use]
pub fn excerpt(text: &str, secrets: &[String]) -> String {
    remote_text::excerpt(text, secrets)
}

/// Returns the reason that a refusal gives, for a message.
#[must_use]
pub fn reason(status: u16, fields: Fields<'_>, content: &[u8], secrets: &[String]) -> String {
    let response = ErrorResponse::new(status, fields.to_vec(), content.to_vec());
    remote_text::reason(&response, secrets, true)
}

impl From<Url> for Target {
    fn from(url: Url) -> Target {
        Target { origin: url.origin.text.clone(), path: url.path }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}
