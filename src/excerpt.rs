//! Text of a server made fit for a message: short, on one line, and without secrets.

use crate::error::{field, Refusal};
use crate::url::form_encoded;

/// What an answer that refused says of its reason, for the end of a message.
pub(crate) fn reason(refusal: &Refusal, secrets: &[&str]) -> String {
    let mut detail = match refusal.retry_after {
        Some(wait) => format!("; it asks to wait {wait:?}"),
        None => String::new(),
    };
    if let (300..=399, Some(location)) = (refusal.status, field(&refusal.fields, "location")) {
        return detail + &redirect(&redact(location, secrets));
    }
    let Ok(text) = std::str::from_utf8(&refusal.content) else {
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

/// Where an answer redirects to; `location` is redacted already, before it is cut.
fn redirect(location: &str) -> String {
    let Some((_, rest)) = location.split_once("//") else {
        return "; it redirects to another path, which is never followed".to_owned();
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = excerpt(host, &[]);
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
        let form = form_encoded(secret);
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
    use super::{excerpt, reason, Refusal, REDACTED};

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
    fn a_secret_in_a_location_or_a_page_is_redacted_before_it_is_taken_apart() {
        let secret = "se<cr>et/7@x";
        let refusal = |status, location: &str, content: &str| Refusal {
            status,
            fields: vec![("location".into(), location.into())],
            content: content.into(),
            retry_after: None,
        };
        for (refusal, text) in [
            (
                refusal(302, &format!("https://{secret}.example/"), ""),
                "; it redirects to [redacted].example, which is never followed",
            ),
            (
                refusal(500, "", &format!("<p>{secret}</p> <b>no</b>")),
                "; the answer says: [redacted] no",
            ),
        ] {
            assert_eq!(reason(&refusal, &[secret]), text);
        }
    }

    #[test]
    fn excerpt_is_one_line_without_control_characters() {
        let text = " <html>\r\n\t<b>no\u{7}\u{1b}[31m\u{202e}</b>\n";
        assert_eq!(excerpt(text, &[]), "<html> <b>no [31m?</b>");
    }
}
