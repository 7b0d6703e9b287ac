//! One call of the API: the loop that obeys `retry`, and what each attempt sends. Called by
//! `session`. Knows nothing of sockets, nor of how a token is requested.

use std::sync::atomic::Ordering;

use super::{Session, Settings};
use crate::error::remote_text::reason;
use crate::error::{field, Error, ErrorKind};
use crate::http::{self, CallContext, Deadline, Request, USER_AGENT};
use crate::response::Response;
use crate::retry::{decide, random, Attempt, Next};
use crate::token::Token;
use crate::url::{check_media_type, Url};

const TOO_SOON: &str = "; a token was replaced less than 10 seconds ago: try again later";
const LOOK_FIRST: &str = "; the request may have been executed: look before you send it again";

/// What a call sends, and when it has to be over.
struct ApiRequest<'a> {
    url: Url,
    /// The media type and the content of a POST; a GET has none.
    content: Option<(&'a str, &'a [u8])>,
    is_idempotent: bool,
    deadline: Deadline,
}

impl Session {
    /// Makes one call. `content` with its media type makes it a POST.
    pub(super) fn call(
        &self, path: &str, content: Option<(&str, &[u8])>, is_idempotent: bool,
    ) -> Result<Response, Error> {
        let url = self.settings.base.join(path)?;
        if let Some((media_type, _)) = content {
            check_media_type(media_type)?;
        }
        let deadline = Deadline::after(self.settings.timeout);
        let result = self.attempts(&ApiRequest { url, content, is_idempotent, deadline });
        // Renew after the response: then an outage of the token endpoint can't fail this call, only
        // delay its return.
        let error = result.as_ref().err();
        if error.is_none_or(|error| error.status().is_some()) {
            self.tokens.renew_if_due(&self.settings.common, deadline);
        }
        result
    }

    /// Sends the request until there is a response, or [`decide`] says to stop.
    fn attempts(&self, request: &ApiRequest<'_>) -> Result<Response, Error> {
        let ApiRequest { is_idempotent, deadline, .. } = *request;
        let retries = self.settings.common.retries;
        let mut attempt = Attempt { is_idempotent, has_token: true, retries, ..Attempt::default() };
        // Counts all attempts: a later one does not undo what an earlier one may have done.
        let mut may_have_executed = false;
        let mut was_replaced = false;
        let mut token = self.token_after_limit(false, deadline)?;
        loop {
            let error = match self.send(request, &token) {
                Ok(response) if response.is_success() => {
                    let session = self.clone();
                    let secrets = move || session.secrets(&token);
                    return Ok(Response::new(response, Box::new(secrets)));
                }
                Ok(response) => self.status_error(response, &token, attempt.was_renewed),
                Err(error) => error,
            };
            self.rate_limit.note(&error);
            may_have_executed |= error.may_have_executed();
            let next = match decide(attempt, &error, deadline.remaining(), random()) {
                Next::Return => Err(error),
                Next::Replace => match self.tokens.replace(&token, &self.settings.common, deadline)
                {
                    Ok(Some((token, is_new))) => {
                        // If this token is not newly requested (another call had replaced the
                        // refused one already, or it is from the file), allow one more replacement.
                        attempt.was_renewed = is_new || was_replaced;
                        was_replaced = true;
                        Ok(token)
                    }
                    Ok(None) => Err(error.append(TOO_SOON)),
                    Err(error) => Err(error),
                },
                Next::Retry(pause) => {
                    log_event!(warn, "{error}; retrying in {pause:?}");
                    std::thread::sleep(pause);
                    attempt.retried += 1;
                    self.token_after_limit(true, deadline)
                }
            };
            token = next.map_err(|error| {
                let advice = if may_have_executed && !is_idempotent { LOOK_FIRST } else { "" };
                error.executed_at_least(may_have_executed).append(advice)
            })?;
            self.retried.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for the end of a rate limit, for at most half of the time that is left. Returns a
    /// token.
    fn token_after_limit(&self, was_refused: bool, deadline: Deadline) -> Result<Token, Error> {
        if !self.rate_limit.is_none() {
            let end = deadline.within(deadline.remaining() / 2);
            // Another call may be refused during this pause, and extend the limit.
            while let Some(wait) = self.rate_limit.wait(end.remaining(), was_refused) {
                std::thread::sleep(wait);
            }
        }
        self.tokens.token(&self.settings.common, deadline)
    }

    fn send(&self, request: &ApiRequest<'_>, token: &Token) -> Result<http::Response, Error> {
        let ApiRequest { url, content, is_idempotent, deadline } = request;
        let Settings { fields: own, common, .. } = &*self.settings;
        let authorization = ["Bearer ", &token.value].concat();
        let mut fields = Vec::with_capacity(8 + own.len());
        fields.push(("Authorization", &*authorization));
        fields.extend(own.iter().map(|(name, value)| (&**name, &**value)));
        // Without `Accept-Encoding` the server may use any coding.
        fields.push(("Accept-Encoding", "identity"));
        fields.extend(content.map(|(media_type, _)| ("Content-Type", media_type)));
        let (method, accept) =
            content.map_or(("GET ", "*/*"), |(media_type, _)| ("POST ", media_type));
        let defaults = [("Accept", accept), ("User-Agent", USER_AGENT)];
        fields.extend(defaults.into_iter().filter(|(name, _)| field(own, name).is_none()));
        http::send(Request {
            call: CallContext { label: [method, &url.text()].concat(), deadline: *deadline },
            url,
            fields: &fields,
            content: content.map(|(_, content)| content),
            is_repeatable: *is_idempotent,
            network: &common.network,
        })
    }

    /// Returns the error for a response whose status is not 2xx.
    fn status_error(&self, response: http::Response, token: &Token, was_renewed: bool) -> Error {
        let label = response.content.call().label.clone();
        let response = response.into_error_response();
        let advice = match response.is_token_refused() {
            true if was_renewed => {
                ": a new access token was refused as well: check the application's subscription to \
                 this API, and that the token endpoint is this API's"
            }
            true => ": the access token was refused",
            false => response.advice(field(&self.settings.fields, "x-api-key").is_some()),
        };
        let detail = reason(&response, &self.secrets(token), true);
        let message = format!("{label}: status {}{advice}{detail}", response.status);
        Error::new(ErrorKind::Status, message)
            .executed_at_least(response.may_have_executed())
            .with_response(response)
    }

    /// Returns the secrets that a server could echo in its response to a call. Messages must not
    /// show them.
    fn secrets(&self, token: &Token) -> Vec<String> {
        let mut secrets = self.tokens.secrets(&self.settings.common);
        secrets.push(token.value.to_string());
        secrets
    }
}
