//! A session's settings in environment variables, and in the files that they name. Called by
//! `session`. Knows nothing of calls.

use std::env::{self, VarError};

use super::Session;
use crate::error::Error;

/// What messages call a setting, and its value: empty if it is not set.
type Setting = (String, String);

pub(super) fn session() -> Result<Session, Error> {
    let names = ["JAS_URL", "JAS_CLIENT_ID", "JAS_CLIENT_SECRET"];
    let settings = [setting(names[0])?, setting(names[1])?, secret(names[2])?];
    let missing = names.iter().zip(&settings).filter(|(_, (_, value))| value.is_empty());
    let missing: Vec<_> = missing.map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(Error::invalid_input(format!(
            "environment variables missing or empty: {missing}"
        )));
    }
    let mut session =
        Session::checked(settings.each_ref().map(|(name, value)| (&**name, &**value)))?;
    let (name, key) = secret("JAS_API_KEY")?;
    if !key.is_empty() {
        session = session.named_api_key(&name, &key)?;
    }
    match setting("JAS_TOKEN_ENDPOINT")? {
        (_, endpoint) if endpoint.is_empty() => Ok(session),
        (name, endpoint) => session.named_token_endpoint(&name, &endpoint),
    }
}

fn setting(name: &str) -> Result<Setting, Error> {
    Ok((format!("environment variable {name}"), variable(name)?))
}

/// A variable, or else what is in the file that the variable `NAME_FILE` names, without the byte
/// order mark that Windows's editors put first, and without its last line break.
fn secret(name: &str) -> Result<Setting, Error> {
    let of_file = format!("{name}_FILE");
    let (setting, path) = (setting(name)?, variable(&of_file)?);
    if path.is_empty() {
        return Ok(setting);
    }
    if !setting.1.is_empty() {
        let message =
            format!("the environment variables {name} and {of_file} are both set: unset one");
        return Err(Error::invalid_input(message));
    }
    let what = format!("file {path} ({of_file})");
    let content = std::fs::read(&path).map_err(|cause| {
        Error::invalid_input(format!("the {what} can't be read")).with_source(cause)
    })?;
    // What is not UTF-8 is no character that can be sent.
    let content = String::from_utf8_lossy(&content);
    let text = content.strip_prefix('\u{feff}').unwrap_or(&content);
    let line = text.strip_suffix('\n').unwrap_or(text);
    match line.strip_suffix('\r').unwrap_or(line) {
        "" => Err(Error::invalid_input(format!("the {what} is empty"))),
        value => Ok((what, value.to_owned())),
    }
}

/// A variable's value; empty if it is not set.
pub(super) fn variable(name: &str) -> Result<String, Error> {
    match env::var(name) {
        Err(VarError::NotUnicode(_)) => {
            Err(Error::invalid_input(format!("the environment variable {name} is not UTF-8")))
        }
        value => Ok(value.unwrap_or_default()),
    }
}
