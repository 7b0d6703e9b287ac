//! The job with `jas-session`. The third argument is a token to resume, if there is one.

mod job;
use std::time::Duration;

use jas_session::Session;
use job::{arguments, check, Result, CONTENT};

fn main() -> Result<()> {
    let (url, gets) = arguments()?;
    let mut session = Session::new(&url, "id", "secret")?;
    if let Some(token) = std::env::args().nth(3) {
        session = session.resume(&token, Duration::from_secs(600))?;
    }
    for _ in 0..gets {
        let response = session.get(CONTENT)?;
        check(response.status(), &response.bytes()?)?;
    }
    Ok(())
}
