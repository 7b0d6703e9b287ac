use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Why a call failed.
///
/// [`kind`](Error::kind) sorts errors by who can mend them, `Display` says what happened, where
/// and what to do, and [`source`](StdError::source) is the cause below, if there is one. None of
/// them shows a secret, a token or an API key; [`content`](Error::content) alone holds an answer
/// as it was received.
pub struct Error(Box<Inner>);

/// Who can mend an [`Error`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller: a URL, a field, a setting or an environment variable. Nothing was sent.
    InvalidInput,
    /// The credentials, or the token endpoint's URL: the endpoint refused the request for a
    /// token. [`Error::status`] is its answer's, not the API's.
    Denied,
    /// See [`Error::status`]: the API answered, but not with 2xx; or the token endpoint is busy
    /// or out of order (429, 5xx, 403 with `Retry-After`).
    Status,
    /// The call's time was up ([`Session::timeout`](crate::Session::timeout)).
    Timeout,
    /// The network or the server: no connection, TLS, an answer that broke off or was no HTTP.
    Exchange,
    /// The token endpoint's 2xx answer holds no usable bearer token.
    InvalidToken,
    /// The content is over the limit, not UTF-8, or not the JSON asked for.
    Content,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    refusal: Option<Refusal>,
    may_have_executed: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The answer that refused: what an [`Error`] keeps of it.
#[derive(Clone)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: Vec<u8>,
    pub(crate) retry_after: Option<Duration>,
}

impl Error {
    /// Tells who can mend it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The status code of the answer that refused, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.refusal.as_ref().map(|refusal| refusal.status)
    }

    /// The value of a header field of that answer: the first one of this name, compared without
    /// case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.0.refusal.as_ref()?.fields, name)
    }

    /// The content of that answer as it was received, at most 64 KiB.
    ///
    /// A server may have put anything there, a secret it was sent included: `Display` shows a
    /// cleaned excerpt. Of a token endpoint's answers only refusals are kept.
    #[must_use]
    pub fn content(&self) -> Option<&[u8]> {
        Some(&self.0.refusal.as_ref()?.content)
    }

    /// How long the server asks to wait before the next try (`Retry-After`, [RFC 9110, section
    /// 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)), uncapped.
    ///
    /// An HTTP-date is measured against the `Date` field of the same answer.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.refusal.as_ref()?.retry_after
    }

    /// Whether the API may have done what was asked, or may still do it, although no good answer
    /// arrived.
    ///
    /// `false` is a promise: nothing of the request was acted on, and it may be sent again.
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        self.0.may_have_executed
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            refusal: None,
            may_have_executed: false,
            source: None,
        }))
    }

    pub(crate) fn invalid_input(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidInput, message)
    }

    pub(crate) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Error {
        self.0.source = Some(Arc::new(source));
        self
    }

    pub(crate) fn with_refusal(mut self, refusal: Refusal) -> Error {
        self.0.refusal = Some(refusal);
        self
    }

    /// Once `true` it stays so: what an earlier attempt may have done is not undone by a later.
    pub(crate) fn or_executed(mut self, may_have_executed: bool) -> Error {
        self.0.may_have_executed |= may_have_executed;
        self
    }

    /// For a token request: whatever came of it, the API has done nothing.
    pub(crate) fn never_executed(mut self) -> Error {
        self.0.may_have_executed = false;
        self
    }

    /// The same error once more, for another thread that waited for the same token request.
    pub(crate) fn copy(&self) -> Error {
        Error(self.0.clone())
    }
}

impl Refusal {
    /// What the answer says of its reason, for the end of a message.
    pub(crate) fn detail(&self, secrets: &[&str]) -> String {
        let mut detail = match self.retry_after {
            Some(wait) => format!("; it asks to wait {wait:?}"),
            None => String::new(),
        };
        if let (300..=399, Some(location)) = (self.status, field(&self.fields, "location")) {
            return detail + &redirect(location, secrets);
        }
        let Ok(text) = std::str::from_utf8(&self.content) else {
            return detail;
        };
        let reason: Reason = miniserde::json::from_str(text).unwrap_or_default();
        let parts = [reason.error, reason.error_description, reason.message];
        let known: Vec<_> = parts.into_iter().flatten().collect();
        let text = if known.is_empty() {
            // Redacted before anything is taken out of it.
            without_tags(&redact(text, secrets))
        } else {
            known.join(": ")
        };
        let text = excerpt(&text, secrets);
        if !text.is_empty() {
            detail.push_str("; the answer says: ");
            detail.push_str(&text);
        }
        detail
    }
}

fn redirect(location: &str, secrets: &[&str]) -> String {
    let Some((_, rest)) = location.split_once("//") else {
        return "; it redirects to another path, which is never followed".to_owned();
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = excerpt(host, secrets);
    format!("; it redirects to {host}, which is never followed")
}

/// The text of an HTML or XML page; other text as it is.
fn without_tags(text: &str) -> String {
    if !text.trim_start().starts_with('<') {
        return text.to_owned();
    }
    let mut plain = String::new();
    for part in text.split('<') {
        plain.push(' ');
        plain.push_str(part.split_once('>').map_or("", |(_, behind)| behind));
    }
    plain
}

/// Where JSON answers give their reason: [RFC 6749, section
/// 5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2), and what gateways add.
#[derive(Default, miniserde::Deserialize)]
struct Reason {
    error: Option<String>,
    error_description: Option<String>,
    message: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("status", &self.status())
            .field("may_have_executed", &self.0.may_have_executed)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.kind() {
            ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
            ErrorKind::Denied => io::ErrorKind::PermissionDenied,
            ErrorKind::Timeout => io::ErrorKind::TimedOut,
            ErrorKind::InvalidToken | ErrorKind::Content => io::ErrorKind::InvalidData,
            ErrorKind::Exchange | ErrorKind::Status => error
                .source()
                .and_then(|source| source.downcast_ref::<io::Error>())
                .map_or(io::ErrorKind::Other, io::Error::kind),
        };
        io::Error::new(kind, error)
    }
}

/// The first value of the field `name`, compared without case.
pub(crate) fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields
        .iter()
        .find(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// What stands where a secret stood.
const REDACTED: &str = "[redacted]";

/// The most characters of remote text that a message shows.
const EXCERPT: usize = 200;

/// Remote text made fit for a message: secrets redacted, blanks and control characters folded
/// into single blanks, and cut.
pub(crate) fn excerpt(text: &str, secrets: &[&str]) -> String {
    let text = redact(text, secrets);
    let mut clean = String::new();
    let mut count = 0;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        for (i, c) in word.chars().enumerate() {
            if count == EXCERPT {
                clean.push_str("...");
                return clean;
            }
            if i == 0 && !clean.is_empty() {
                clean.push(' ');
            }
            // What reorders or hides text on a terminal has no place in a message.
            let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
            clean.push(if hides { '?' } else { c });
            count += 1;
        }
    }
    clean
}

/// `text` without the secrets, in each form in which a server may echo them.
fn redact(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let form = crate::url::form_encoded(secret);
        let escaped = secret.replace('\\', "\\\\").replace('"', "\\\"");
        let html = secret
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        let forms = [
            form.replace('+', "%20"),
            form,
            escaped.replace('/', "\\/"),
            escaped,
            html.replace('"', "&quot;"),
            html,
            (*secret).to_owned(),
        ];
        for form in &forms {
            if text.contains(form.as_str()) {
                text = text.replace(form.as_str(), REDACTED);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{excerpt, REDACTED};

    #[test]
    fn excerpt_redacts_every_form_of_a_secret_before_it_cuts() {
        let secret = "p w+/\"<x>";
        for echoed in [
            "p w+/\"<x>",
            "p+w%2B%2F%22%3Cx%3E",
            "p%20w%2B%2F%22%3Cx%3E",
            "p w+/\\\"<x>",
            "p w+\\/\\\"<x>",
            "p w+/\"&lt;x&gt;",
            "p w+/&quot;&lt;x&gt;",
        ] {
            let text = format!("{}{echoed} rest", "a".repeat(195));
            let shown = excerpt(&text, &[secret]);
            assert_eq!(shown, format!("{}{}...", "a".repeat(195), &REDACTED[..5]));
        }
    }

    #[test]
    fn excerpt_is_one_line_without_control_characters() {
        let text = " <html>\r\n\t<b>no\u{7}\u{1b}[31m\u{202e}</b>\n";
        assert_eq!(excerpt(text, &[]), "<html> <b>no [31m?</b>");
    }
}
