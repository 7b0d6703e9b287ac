//! `jas-session` under load; `whole URL PATH` reads all of a content into memory.

mod job;
mod load;

use std::env;

use jas_session::Session;

fn main() -> job::Result<()> {
    let url = env::args().nth(2).ok_or("no URL")?;
    let session = Session::new(&url, "id", "secret")?.timeout(load::TIMEOUT);
    if env::args().nth(1).as_deref() == Some("whole") {
        let answer = session.get(&env::args().nth(3).ok_or("no path")?)?;
        answer.limit(u64::MAX).bytes()?;
        return Ok(());
    }
    load::run(|path| {
        let answer = session.get(path)?;
        Ok((answer.status(), answer))
    })
}
