//! Code that all clients share.
#![allow(dead_code, reason = "each client uses a part of it")]

use std::error::Error;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub const ENDPOINT: &str = "/oauth2/token";
pub const CONTENT: &str = "/content/3700";
pub const FORM: &str = "grant_type=client_credentials&client_id=id&client_secret=secret";
pub const FORM_TYPE: &str = "application/x-www-form-urlencoded";

/// Returns the server's URL, and the number of GETs after the token request.
pub fn arguments() -> Result<(String, usize)> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("arguments: URL GETS");
    Ok((next()?, next()?.parse()?))
}

pub fn check(status: u16, content: &[u8]) -> Result<()> {
    if status != 200 || content.len() != 3700 {
        return Err("an unexpected response".into());
    }
    Ok(())
}

/// Returns the value of `Authorization` for a response of the token endpoint.
#[cfg(feature = "miniserde")]
pub fn authorization(status: u16, content: &str) -> Result<String> {
    #[derive(miniserde::Deserialize)]
    struct Response {
        access_token: String,
    }
    if status != 200 {
        return Err("no token".into());
    }
    let response: Response = miniserde::json::from_str(content)?;
    Ok(format!("Bearer {}", response.access_token))
}
