//! Scenes of credentials, of tokens, and of servers that restart.

use super::*;

impl Suite {
    pub(super) fn credentials(&mut self) {
        self.odd_credentials();
        self.refused_credentials();
    }

    fn odd_credentials(&mut self) {
        let odd = self.odd.clone();
        let all = format!("ok, {} clients", odd.len());
        self.scene(
            "each printable ASCII character in id and secret, and texts that look encoded",
            &all,
            &format!("token 200 ×{0}, GET 200 ×{0}, connection ×{0}", odd.len()),
            |_| {
                for client in &odd {
                    let named = client.session().get("/whoami")?.text()?;
                    assert_eq!(named, client.id);
                }
                Ok(all.clone())
            },
        );
        self.scene(
            "a secret with a character that is not ASCII",
            "InvalidInput: the client secret",
            "",
            |_| Session::new(API, "job", "geheimni\u{df}").map(|_| String::new()),
        );
    }

    fn refused_credentials(&mut self) {
        let check = "check the client id and the client secret, and that the application is \
                     subscribed to an API; the response says: ";
        let denied = &*format!("status 401: {check}invalid_client: ");
        for (name, id, secret) in [
            ("a wrong secret", "job", "another secret"),
            ("a space where the secret has a plus", "plus", "Tq7-Zx93 kW"),
            ("an unknown client", "nobody", "secret"),
        ] {
            let expected = format!("Denied: {denied}client authentication failed");
            self.scene(name, &expected, "token 401, connection", |_| {
                let session = session(API, id, secret);
                // The second call is refused without a request.
                assert!(session.get("/whoami").is_err());
                session.get("/whoami")?.text()
            });
        }
        let client = self.without_grant.clone();
        let expected = format!("Denied: status 400: {check}invalid_request: requested grant type");
        self.scene("a client without the grant", &expected, "token 400, connection", |_| {
            client.session().get("/whoami")?.text()
        });
        let client = self.job.clone();
        self.scene(
            "the token endpoint is elsewhere",
            "Denied: status 404: there is no token endpoint: check the base URL, or give \
             the endpoint's own URL with Session::token_endpoint, or JAS_TOKEN_ENDPOINT",
            "POST 404, connection",
            |_| {
                let endpoint = format!("{API}/oauth/token");
                let session = client.session().token_endpoint(&endpoint)?;
                session.get("/whoami")?.text()
            },
        );
        self.scene(
            "the API key is missing",
            "Status: status 403: no API key (x-api-key) was sent",
            "token 200, GET 403, connection",
            |_| {
                let session = without_key(API, &client.id, &client.secret);
                session.get("/whoami")?.text()
            },
        );
    }

    pub(super) fn tokens(&mut self) {
        let session = self.brief.session();
        self.scene(
            "tokens of 4 s, calls for 9 s",
            "ok, 90 calls",
            "token 200 ×4-9, GET 200 ×90, connection ×4-9",
            |_| calls_for(&session, 90),
        );
        let session = self.briefest.session().renew_before(Duration::ZERO);
        self.scene(
            "tokens of 2 s without early renewal, calls for 5 s",
            "ok, 50 calls",
            "token 200 ×3-9, GET 200 ×50, GET 401 ×0-9, connection ×3-9",
            |_| calls_for(&session, 50),
        );

        let session = self.job.session();
        let client = self.job.clone();
        let mut booked = 0;
        self.scene(
            "the token in use is revoked before a POST",
            "ok: booking ",
            "token 200 ×2, POST 201 ×2, POST 401, connection ×5",
            |_| {
                let first = booking(&session)?;
                let token = session.access_token()?;
                let response = revoke(&client, &token);
                assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
                let second = booking(&session)?;
                assert_eq!(second, first + 1);
                assert_ne!(session.access_token()?, token);
                booked = second;
                Ok("ok: booking once".to_owned())
            },
        );
        self.scene(
            "a resumed token that was revoked",
            "ok: job",
            "token 200, GET 401, GET 200, connection ×2",
            |_| {
                let (token, left) = session.held_token().unwrap();
                revoke(&client, &token);
                let next = client.session().resume(&token, left)?;
                Ok(format!("ok: {}", next.get("/whoami")?.text()?))
            },
        );
    }

    pub(super) fn restarts(&mut self) {
        let session = self.job.session().retries(6);
        self.scene(
            "the authorization server restarts while 4 threads make calls",
            "ok, 120 calls",
            "token 200 ×2, GET 200 ×120, GET 401 ×1-4, GET 503 ×0-24, connection ×1-32",
            |auth| {
                let (done, calls) = mpsc::channel();
                thread::scope(|scope| {
                    for _ in 0..4 {
                        let (done, session) = (done.clone(), &session);
                        scope.spawn(move || {
                            for _ in 0..30 {
                                let response = session.get("/whoami").and_then(Response::text);
                                done.send(response).unwrap();
                            }
                        });
                    }
                    drop(done);
                    for response in calls.iter().take(40) {
                        response?;
                    }
                    auth.restart_after(Duration::ZERO);
                    calls.iter().try_for_each(|response| response.map(drop))
                })?;
                Ok("ok, 120 calls".to_owned())
            },
        );
        self.outages(&session);
    }

    fn outages(&mut self, session: &Session) {
        let down = Duration::from_millis(700);
        self.scene(
            "... is down during a token request",
            "ok: job",
            "token 200, token 502 ×1-6, GET 200, connection ×2-7",
            |auth| {
                session.invalidate(&session.access_token()?);
                auth.stop();
                thread::scope(|scope| {
                    scope.spawn(|| auth.restart_after(down));
                    Ok(format!("ok: {}", session.get("/whoami")?.text()?))
                })
            },
        );
        self.scene(
            "... is down during a whole call that needs a token",
            "Status: status 502: the server or its backend is down or overloaded: try again \
             later",
            "token 502 ×2, connection ×2",
            |auth| {
                session.invalidate(&session.access_token()?);
                auth.stop();
                let result = session.clone().retries(1).get("/whoami");
                auth.restart_after(Duration::ZERO);
                result?.text()
            },
        );
        self.scene(
            "... is down while the API checks the token of a POST",
            "Status, may have executed: status 503: the server or its backend is down or \
             overloaded: try again later; the response says: tokens can't be checked now",
            "token 200, POST 503, connection ×2",
            |auth| {
                session.access_token()?;
                auth.stop();
                let result = booking(session);
                auth.restart_after(Duration::ZERO);
                result.map(|n| format!("ok: booking {n}"))
            },
        );
    }
}

/// Makes this many calls, one each tenth of a second.
fn calls_for(session: &Session, calls: u32) -> Result<String, Error> {
    let start = Instant::now();
    for i in 0..calls {
        let at = start + Duration::from_millis(100) * i;
        thread::sleep(at.saturating_duration_since(Instant::now()));
        session.get("/whoami")?.text()?;
    }
    Ok(format!("ok, {calls} calls"))
}

/// Revokes a token ([RFC 7009](https://www.rfc-editor.org/rfc/rfc7009)).
fn revoke(client: &Client, token: &str) -> String {
    let content = format!(
        "token={token}&client_id={}&client_secret={}",
        client.id,
        client.secret.replace(' ', "+")
    );
    let head = format!(
        "POST /token/revocation HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\nContent-Type: \
         application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
        content.len()
    );
    plain(AUTH_PORT, &(head + &content))
}

/// Books, and returns the number of all bookings so far.
fn booking(session: &Session) -> Result<u32, Error> {
    let booked = session.post("/bookings", "text/plain", "a booking")?.text()?;
    Ok(booked.strip_prefix("booking ").unwrap().parse().unwrap())
}
