//! The demonstration without an account. The stand-in's tokens live for two seconds, so that a token is
//! requested, renewed, and replaced after a refusal in a run of a few seconds.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use jas_session::{Error, Session};

#[path = "../../support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};

const LIFETIME: Duration = Duration::from_secs(2);
/// The shipments tracked when no number is given.
pub(crate) const SAMPLES: [&str; 5] =
    ["S505185992", "MIL45176311", "S505186240", "GOT45176533", "S505186418"];
/// The row before which the stand-in refuses every token it has issued.
const REVOKED_ROW: usize = 2;

pub(crate) struct Demo {
    sandbox: Sandbox,
    /// The token that was printed last.
    token: Mutex<Option<String>>,
}

impl Demo {
    pub(crate) fn start() -> Demo {
        eprintln!("JAS_URL is not set: a stand-in responds, whose tokens live for 2 s");
        let sandbox = Sandbox::start();
        sandbox.token_lifetime(LIFETIME);
        Demo { sandbox, token: Mutex::default() }
    }

    pub(crate) fn session(&self) -> Result<Session, Error> {
        let session = Session::new(&self.sandbox.url(), CLIENT_ID, CLIENT_SECRET)?;
        Ok(session.api_key(API_KEY)?.renew_before(LIFETIME / 2))
    }

    /// Makes the call for a row, and prints what happened to the token.
    pub(crate) fn watch<T>(&self, session: &Session, row: usize, call: impl FnOnce() -> T) -> T {
        let what = match row {
            0 => "requested",
            REVOKED_ROW => {
                eprintln!("[stand-in] every token so far is refused from now on");
                self.sandbox.revoke();
                "replaced after a refusal"
            }
            _ => {
                eprintln!(
                    "[stand-in] a pause of 1.1 s, in which the token becomes due for renewal"
                );
                thread::sleep(Duration::from_millis(1100));
                "renewed before its expiry"
            }
        };
        let result = call();
        let held = session.held_token();
        let mut printed = self.token.lock().expect("no panic");
        if let Some((token, left)) = held.filter(|(token, _)| printed.as_ref() != Some(token)) {
            eprintln!("[token] {what}, good for {:.1} s", left.as_secs_f64());
            *printed = Some(token);
        }
        result
    }
}
