//! One request for a token ([RFC 6749, section
//! 4.4](https://www.rfc-editor.org/rfc/rfc6749#section-4.4)), and what its response means. Called
//! by `token`. Knows nothing of the token held, of waiting callers, or of retries.

use std::time::{Duration, Instant};

use miniserde::json::{from_str, Number, Value};

use super::{minreq, Token};
use crate::error::remote_text::{excerpt, members, reason, text};
use crate::error::{Error, ErrorKind, ErrorResponse, ERROR_CONTENT_LIMIT};
use crate::http::{CallContext, Deadline, Network, Request, USER_AGENT};
use crate::json;
use crate::url::{check_visible, form_encoded, Url};

/// The lifetime in seconds if the response has no `expires_in` (JAS documents ten minutes).
const DEFAULT_LIFETIME: u64 = 600;

/// The client (RFC 6749, section 2), and where it requests tokens.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) endpoint: Url,
    pub(crate) id: String,
    pub(crate) secret: String,
}

impl Client {
    pub(super) fn context(&self, deadline: Deadline) -> CallContext {
        let label = format!("token request to {}", self.endpoint.text());
        CallContext { label, deadline }
    }

    /// Requests a token, once.
    pub(super) fn request(
        &self, network: &Network, deadline: Deadline, secrets: &[String],
    ) -> Result<Token, Error> {
        // JAS wants the credentials in the content (RFC 6749, section 2.3.1).
        let (id, secret) = (form_encoded(&self.id), form_encoded(&self.secret));
        let content =
            format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
        let fields = [
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("User-Agent", USER_AGENT),
        ];
        // The lifetime is counted from before the request, so that it never ends too late.
        let start = Instant::now();
        log_event!(debug, "requesting a token from {}", self.endpoint.text());
        let response = minreq::send(Request {
            call: self.context(deadline),
            url: &self.endpoint,
            fields: &fields,
            content: Some(content.as_bytes()),
            // On a new connection: an idle one may hold a late response to another request.
            is_repeatable: false,
            network,
        })?;
        if !response.is_success() {
            return Err(self.refused(response.into_error_response(), secrets));
        }
        let content = response.content.whole(ERROR_CONTENT_LIMIT);
        let content = content.map_err(|(error, _)| match error.kind() {
            ErrorKind::Content => self.unusable("it is longer than 64 KiB"),
            _ => error,
        })?;
        match read(&content, secrets) {
            Ok((value, lifetime)) => {
                log_event!(info, "token received, good for {lifetime:?}");
                Ok(Token::new(&value, lifetime, start))
            }
            Err(_) if is_refusal(&content) => {
                let response = ErrorResponse::new(response.status, response.fields, content);
                Err(self.refused(response, secrets))
            }
            Err(why) => Err(self.unusable(&why)),
        }
    }

    fn error(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, format!("token request to {}: {what}", self.endpoint.text()))
    }

    fn unusable(&self, why: &str) -> Error {
        let what = format!("the response holds no usable token: {why}");
        self.error(ErrorKind::InvalidToken, &what)
    }

    /// Returns the error for a refusal ([RFC 6749, section
    /// 5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2)).
    fn refused(&self, response: ErrorResponse, secrets: &[String]) -> Error {
        let status = response.status;
        let (kind, advice) = response.token_advice();
        let detail = reason(&response, secrets, false);
        let with = if status < 300 { " with an error in it" } else { "" };
        let what = format!("status {status}{with}{advice}{detail}");
        self.error(kind, &what).with_response(response)
    }
}

/// The members of a token endpoint's 2xx response that are read ([RFC 6749, section
/// 5.1](https://www.rfc-editor.org/rfc/rfc6749#section-5.1)).
#[derive(miniserde::Deserialize)]
struct Members {
    access_token: Option<String>,
    token_type: Option<String>,
    expires_in: Option<Value>,
}

/// Returns the token of a 2xx response and its lifetime, or why it is unusable. Quotes only
/// `token_type`: the content may hold the token.
pub(crate) fn read(content: &[u8], secrets: &[String]) -> Result<(String, Duration), String> {
    // Tokens are ASCII, so invalid UTF-8 can be replaced.
    let json = String::from_utf8_lossy(content);
    let members: Members = json::read(&json)
        .ok_or("it is not a JSON object as RFC 6749, section 5.1, describes it")?;
    let value = members.access_token.filter(|value| !value.is_empty());
    let value = value.ok_or("it has no access_token")?;
    check_visible("access_token", &value)
        .map_err(|_| "its access_token is not valid in a header field")?;
    let kind = members.token_type.unwrap_or_default();
    // Some gateways send `BearerToken`, or leave it out.
    if !["", "bearer", "bearertoken"].contains(&&*kind.trim().to_ascii_lowercase()) {
        let kind = excerpt(&kind, &[secrets, &[value]].concat());
        return Err(format!("its token_type is \"{kind}\", not Bearer"));
    }
    let seconds = seconds(members.expires_in).ok_or("its expires_in is not a number")?;
    Ok((value, Duration::from_secs(seconds)))
}

/// Whether the content of a 2xx response is a refusal.
fn is_refusal(content: &[u8]) -> bool {
    let text = text(content);
    text.contains("\"error\"") && !members(&text).is_empty()
}

/// Returns the seconds of `expires_in`: a number, a number in a string, null, or missing.
fn seconds(expires_in: Option<Value>) -> Option<u64> {
    let number = match expires_in {
        None | Some(Value::Null) => Number::U64(DEFAULT_LIFETIME),
        Some(Value::Number(number)) => number,
        // The standard library's parser for f64 would add 16 kB to the binary.
        Some(Value::String(number)) => from_str(number.trim()).ok()?,
        Some(_) => return None,
    };
    // Saturates at both ends.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(match number {
        Number::U64(seconds) => seconds,
        Number::I64(_) => 0,
        Number::F64(seconds) => seconds as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEARER: &str = r#"{"access_token":"abc","token_type":"Bearer"}"#;

    #[test]
    fn token_is_read_in_all_the_forms_that_servers_send() {
        let with = |member: &str| BEARER.replace('}', &format!(",{member}}}"));
        let typed = |token_type: &str| BEARER.replace("\"Bearer\"", token_type);
        let lasting = |expires_in: &str| with(&format!("\"expires_in\":{expires_in}"));
        for (content, expected) in [
            (BEARER.to_owned(), 600),
            (typed("\"bearer \""), 600),
            (typed("\"BearerToken\""), 600),
            (typed("null"), 600),
            (r#"{"access_token":"abc"}"#.to_owned(), 600),
            (format!("\u{feff}{BEARER}"), 600),
            (with(r#""error":null,"errors":[{"error":"old"}]"#), 600),
            (lasting("30"), 30),
            (lasting("\"30\""), 30),
            (lasting("\" 30 \""), 30),
            (lasting("30.9"), 30),
            (lasting("\"3e1\""), 30),
            (lasting("null"), 600),
            (lasting("0"), 0),
            (lasting("-1"), 0),
            (lasting("\"-600\""), 0),
            (lasting("-0.5"), 0),
            (lasting("1e99"), u64::MAX),
            (lasting("18446744073709551615"), u64::MAX),
            (lasting("99999999999999999999999999"), u64::MAX),
        ] {
            let token = read(content.as_bytes(), &[]);
            let expected = ("abc".to_owned(), Duration::from_secs(expected));
            assert_eq!(token, Ok(expected), "{content}");
        }
        let latin_1 = b"{\"access_token\":\"abc\",\"organization\":\"Z\xfcrich\"}";
        assert_eq!(read(latin_1, &[]).unwrap().0, "abc");
    }

    #[test]
    fn response_without_a_usable_token_says_why() {
        let secrets = ["hush".to_owned(), "dXNlcjpodXNo".to_owned()];
        let deep = "[".repeat(1 << 20);
        let deep_object = format!(r#"{{"access_token":{deep}"#);
        for (content, why) in [
            ("", "not a JSON object"),
            ("[]", "not a JSON object"),
            (&deep, "not a JSON object"),
            (&deep_object, "not a JSON object"),
            (r#"{"access_token":["a"]}"#, "not a JSON object"),
            (r#"{"access_token":"abc","expires_in":1e999}"#, "not a JSON object"),
            ("{}", "no access_token"),
            ("\u{feff}{}", "no access_token"),
            (r#"{"access_token":"","token_type":"Bearer"}"#, "no access_token"),
            (r#"{"access_token":"","error":""}"#, "no access_token"),
            (r#"{"access_token":"a b"}"#, "header field"),
            (r#"{"access_token":"a\r\nx: y"}"#, "header field"),
            (r#"{"access_token":"\u00fc"}"#, "header field"),
            (r#"{"access_token":"secret-token","token_type":"mac"}"#, "\"mac\""),
            (r#"{"access_token":"secret-token","token_type":"secret-token"}"#, "\"[redacted]\""),
            (
                r#"{"access_token":"secret-token","token_type":"hush dXNlcjpodXNo"}"#,
                "\"[redacted] [redacted]\"",
            ),
        ] {
            let error = read(content.as_bytes(), &secrets).unwrap_err();
            assert!(error.contains(why), "{error}: {content:.60}");
            assert!(!error.contains("secret-token"), "{error}");
        }
        let no_numbers = [
            "\"1e999\"",
            "\"soon\"",
            "\"\"",
            "\"nan\"",
            "\"inf\"",
            "\"null\"",
            "true",
            "{}",
            "[600]",
        ];
        for json in no_numbers {
            let content = format!(r#"{{"access_token":"abc","expires_in":{json}}}"#);
            let error = read(content.as_bytes(), &[]).unwrap_err();
            assert!(error.contains("expires_in"), "{json}: {error}");
        }
    }
}
