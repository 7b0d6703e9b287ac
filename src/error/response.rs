//! The response that an error keeps, and what its status means: the advice in the message, whether
//! a retry can help, whether the token was refused. Used by `session`, `token` and `retry`. Reads
//! nothing from a connection.

use std::time::Duration;

use super::remote_text::{members, text};
use super::{field, ErrorKind};

const WRONG_CREDENTIALS: &str = ": check the client id and the client secret, and that the \
    application is subscribed to an API";
const NO_ENDPOINT: &str = ": there is no token endpoint: check the base URL, or give the \
    endpoint's own URL with Session::token_endpoint, or JAS_TOKEN_ENDPOINT";

/// How much content an error keeps.
pub(crate) const ERROR_CONTENT_LIMIT: u64 = 64 * 1024;

/// A response that refused the request, or that could not be used.
pub(crate) struct ErrorResponse {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: Vec<u8>,
    pub(crate) retry_after: Option<Duration>,
}

impl ErrorResponse {
    pub(crate) fn new(
        status: u16, fields: Vec<(String, String)>, content: Vec<u8>,
    ) -> ErrorResponse {
        ErrorResponse { status, retry_after: retry_after(&fields), fields, content }
    }

    /// What the caller of the API can do about the status, for the end of a message.
    pub(crate) fn advice(&self, has_api_key: bool) -> &'static str {
        match self.status {
            403 if self.retry_after.is_some() => advice(429),
            403 if has_api_key => {
                ": check the API key (x-api-key), and the application's subscription to this API"
            }
            403 => {
                ": no API key (x-api-key) was sent: set it with Session::api_key, or JAS_API_KEY"
            }
            status => advice(status),
        }
    }

    /// What the status of a token endpoint means, and what the caller can do about it ([RFC 6749,
    /// section 5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2)).
    pub(crate) fn token_advice(&self) -> (ErrorKind, &'static str) {
        match self.status {
            403 if self.retry_after.is_some() => (ErrorKind::Status, advice(429)),
            status @ (429 | 500..=595 | 597..) => (ErrorKind::Status, advice(status)),
            200..=299 | 400 | 401 | 403 => (ErrorKind::Denied, WRONG_CREDENTIALS),
            // Not `Status`: a caller must not take this 404 for one of the API. Some gateways send
            // 596 for it.
            _ => (ErrorKind::Denied, NO_ENDPOINT),
        }
    }

    /// Whether the API may have executed the request. A 4xx says that it did not; a redirect may
    /// follow an execution.
    pub(crate) fn may_have_executed(&self) -> bool {
        !(400..500).contains(&self.status)
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn is_transient(&self) -> bool {
        self.is_rate_limit() || matches!(self.status, 502..=504)
    }

    /// Whether the response reports a rate limit. A 429 always does, even without `Retry-After`.
    /// Some gateways send a 403 with `Retry-After` instead. Without it, a 403 is a refusal.
    pub(crate) fn is_rate_limit(&self) -> bool {
        self.status == 429 || matches!(self.status, 403 | 503) && self.retry_after.is_some()
    }

    /// How long the server asks to wait. After a 429, zero is ignored: a retry at once would be
    /// refused again.
    pub(crate) fn requested_pause(&self) -> Option<Duration> {
        self.retry_after.filter(|wait| self.status != 429 || !wait.is_zero())
    }

    /// Whether the token is no longer valid: 401; another 4xx with a Bearer challenge and
    /// `error="invalid_token"` ([RFC 6750, section
    /// 3.1](https://www.rfc-editor.org/rfc/rfc6750#section-3.1)); or 400 or 403 with JSON that says
    /// so, or that the token has expired, as some gateways do.
    pub(crate) fn is_token_refused(&self) -> bool {
        match self.status {
            401 => true,
            400 | 403 if says_invalid_token(&self.content) => true,
            400..=499 => self.fields.iter().any(|(name, value)| {
                let value = value.to_ascii_lowercase().replace([' ', '\t', '"'], "");
                name.eq_ignore_ascii_case("www-authenticate")
                    && value.contains("bearer")
                    && value.contains("error=invalid_token")
            }),
            _ => false,
        }
    }
}

/// What a status means to a caller, and what to do about it.
fn advice(status: u16) -> &'static str {
    match status {
        400 => ": the server could not read the request: check its content and its media type",
        404 => ": not found: check the base URL, the path and any number in it",
        405 => ": this path does not accept this method",
        // A 409 means that this request did nothing. An earlier one may have.
        409 => ": it conflicts with existing data, which an earlier request may have made",
        413 => ": the content is too large: send less at a time",
        415 => ": the server does not accept this media type here: check it",
        429 => ": rate limit exceeded: send fewer requests at a time",
        500 => ": the server failed: try again later",
        502..=504 => ": the server or its backend is down or overloaded: try again later",
        // Mashery's gateways send it.
        596 => ": no such route: check the base URL, the path, and the subscription to this API",
        _ => "",
    }
}

/// `Retry-After` ([RFC 9110, section
/// 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)): delay-seconds, also with a
/// fraction, or an HTTP-date, which is measured against the response's own `Date`, so that a device
/// without a set clock waits the right time. A date without a `Date` can't be measured.
fn retry_after(fields: &[(String, String)]) -> Option<Duration> {
    let value = field(fields, "retry-after")?;
    let (seconds, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number(seconds) && is_number(fraction) {
        let nanos = format!("{fraction:0<9.9}").parse().unwrap_or(0);
        return Some(Duration::new(seconds.parse().unwrap_or(u64::MAX), nanos));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = httpdate::parse_http_date(field(fields, "date")?).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

fn says_invalid_token(content: &[u8]) -> bool {
    members(&text(content)).into_iter().any(|mut reason| {
        reason.retain(|c| c.is_ascii_alphabetic());
        let reason = reason.to_ascii_lowercase();
        // The whole text must match: XML parsers, too, report "not well-formed (invalid token)".
        matches!(&*reason, "invalidtoken" | "invalidtokenerror" | "invalidaccesstoken")
            || reason.contains("token") && reason.contains("expired")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect()
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_servers_own_clock() {
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        for (list, expected) in [
            (vec![("retry-after", "120")], Some(Duration::from_secs(120))),
            (vec![("Retry-After", "0")], Some(Duration::ZERO)),
            (vec![("retry-after", "99999999999999999999999")], Some(Duration::from_secs(u64::MAX))),
            (vec![("retry-after", "-1")], None),
            (vec![("retry-after", "+1")], None),
            (vec![("retry-after", "292.05")], Some(Duration::from_millis(292_050))),
            (vec![("retry-after", "0.0000000019")], Some(Duration::from_nanos(1))),
            (vec![("retry-after", "1.")], None),
            (vec![("retry-after", ".5")], None),
            (vec![("retry-after", "1.-5")], None),
            (vec![("retry-after", "")], None),
            (vec![("retry-after", "soon")], None),
            (
                vec![("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT"), ("date", date)],
                Some(Duration::from_secs(30)),
            ),
            (
                vec![("retry-after", "Wednesday, 21-Oct-15 07:29:00 GMT"), ("date", date)],
                Some(Duration::from_secs(60)),
            ),
            (
                vec![("retry-after", "Wed Oct 21 07:28:01 2015"), ("date", date)],
                Some(Duration::from_secs(1)),
            ),
            (
                vec![("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT"), ("date", date)],
                Some(Duration::ZERO),
            ),
            (vec![("retry-after", date)], None),
            (vec![("retry-after", date), ("date", "yesterday")], None),
            (vec![], None),
        ] {
            assert_eq!(retry_after(&fields(&list)), expected, "{list:?}");
        }
    }

    #[test]
    fn which_responses_refuse_the_token() {
        let refused = |status, challenge: &str, content: &str| {
            let fields = fields(&[("www-authenticate", challenge)]);
            ErrorResponse::new(status, fields, content.into()).is_token_refused()
        };
        assert!(refused(401, "", ""));
        assert!(refused(401, "Basic realm=\"x\"", ""));
        for (challenge, expected) in [
            ("Bearer error=\"invalid_token\"", true),
            ("bearer realm=\"a, b\", error = invalid_token", true),
            ("Basic realm=\"x\", Bearer scope=\"a\",error=\"invalid_token\"", true),
            ("Bearer error=\"insufficient_scope\"", false),
            ("Bearer error_description=\"invalid_token\"", false),
            ("Basic error=\"invalid_token\"", false),
            ("", false),
        ] {
            assert_eq!(refused(403, challenge, ""), expected, "{challenge}");
            assert_eq!(refused(400, challenge, ""), expected, "{challenge}");
            for status in [200, 302, 500] {
                assert!(!refused(status, challenge, ""), "{challenge}");
            }
        }
        for (content, expected) in [
            (r#"{"message":"The incoming token has expired"}"#, true),
            (r#"{"code":"InvalidTokenError"}"#, true),
            (r#"{"error":"invalid_token"}"#, true),
            (r#"{"fault":{"faultstring":"Access Token expired"}}"#, true),
            (r#"{"message":"Invalid token"}"#, true),
            (r#"{"error":"not well-formed (invalid token): line 3"}"#, false),
            (r#"{"message":"Forbidden"}"#, false),
            (r#"{"message":"the offer has expired"}"#, false),
            (r#"{"id":"invalid_token"}"#, false),
            ("invalid_token", false),
            ("", false),
        ] {
            assert_eq!(refused(403, "", content), expected, "{content}");
            assert_eq!(refused(400, "", content), expected, "{content}");
            assert!(!refused(404, "", content), "{content}");
            assert!(!refused(200, "", content), "{content}");
        }
    }
}
