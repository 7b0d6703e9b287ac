//! Reads a session's settings from environment variables and the files that they name. Called by
//! `session`. Knows nothing of calls.

use std::env::{self, VarError};

use super::Session;
use crate::error::Error;
use crate::json::BYTE_ORDER_MARK;
use crate::url::invalid;

/// The name of a setting for messages, and its value, which is empty if it is not set.
type Setting = (String, String);

pub(super) fn session() -> Result<Session, Error> {
    let names = ["JAS_URL", "JAS_CLIENT_ID", "JAS_CLIENT_SECRET"];
    let settings = [setting(names[0])?, setting(names[1])?, secret(names[2])?];
    let missing = names.iter().zip(&settings).filter(|(_, (_, value))| value.is_empty());
    let missing: Vec<_> = missing.map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        let message = format!("environment variables missing or empty: {}", missing.join(", "));
        return Err(Error::invalid_input(message));
    }
    let mut session =
        Session::checked(settings.each_ref().map(|(name, value)| (&**name, &**value)))?;
    let (name, key) = secret("JAS_API_KEY")?;
    if !key.is_empty() {
        session = session.named_api_key(&name, &key)?;
    }
    let (name, endpoint) = setting("JAS_TOKEN_ENDPOINT")?;
    if !endpoint.is_empty() {
        session = session.named_token_endpoint(&name, &endpoint)?;
    }
    Ok(session)
}

fn setting(name: &str) -> Result<Setting, Error> {
    Ok((format!("environment variable {name}"), variable(name)?))
}

/// Reads a variable, or the file that the variable `NAME_FILE` names: without the byte order mark
/// that editors on Windows write, and without the last line break.
fn secret(name: &str) -> Result<Setting, Error> {
    let of_file = format!("{name}_FILE");
    let (setting, path) = (setting(name)?, variable(&of_file)?);
    if path.is_empty() {
        return Ok(setting);
    }
    if !setting.1.is_empty() {
        let what = format!("environment variables {name} and {of_file}");
        return Err(invalid(&what, "are both set: unset one"));
    }
    let what = format!("file {path} ({of_file})");
    let content = std::fs::read(&path);
    let content = content.map_err(|cause| invalid(&what, "can't be read").with_source(cause))?;
    // Invalid UTF-8 becomes a character that is refused later.
    let content = String::from_utf8_lossy(&content);
    let text = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&content);
    let line = text.strip_suffix('\n').unwrap_or(text);
    match line.strip_suffix('\r').unwrap_or(line) {
        "" => Err(invalid(&what, "is empty")),
        value => Ok((what, value.to_owned())),
    }
}

/// Returns a variable's value, which is empty if it is not set.
pub(super) fn variable(name: &str) -> Result<String, Error> {
    match env::var(name) {
        Err(VarError::NotUnicode(_)) => {
            Err(invalid(&format!("environment variable {name}"), "is not UTF-8"))
        }
        value => Ok(value.unwrap_or_default()),
    }
}
