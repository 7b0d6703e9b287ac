//! `jas-session` under load. Only this client has `whole URL PATH`, `post URL LENGTH TOKEN` and
//! `idle URL CONNECTIONS`.

mod job;
mod load;

use std::env;
use std::fs;
use std::time::Duration;

use jas_session::Session;
use job::{check, Result, CONTENT};

/// Content that is too long to be read together with the head.
const LONG: &str = "/content/65536";

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let url = arguments.get(1).ok_or("no URL")?;
    let session =
        Session::new(url, "id", "secret")?.timeout(load::TIMEOUT).idle_connections(load::IDLE);
    match arguments[..] {
        ["whole", _, path] => {
            session.get(path)?.limit(u64::MAX).bytes()?;
            Ok(())
        }
        ["post", _, length, token] => {
            let session = session.resume(token, Duration::from_secs(600))?;
            let content = vec![b'x'; length.parse()?];
            let response = session.post(CONTENT, "text/plain", &content)?;
            check(response.status(), &response.bytes()?)
        }
        ["idle", _, connections] => idle(&session, connections.parse()?),
        _ => load::run(|path| {
            let response = session.get(path)?;
            Ok((response.status(), response))
        }),
    }
}

/// Holds this many responses at a time, twice. The second time, the idle connections are used again.
/// Prints the resident memory, in KiB, while all connections are idle.
fn idle(session: &Session, connections: usize) -> Result<()> {
    let at_a_time = || -> Result<()> {
        let responses: std::result::Result<Vec<_>, _> =
            (0..connections).map(|_| session.get(LONG)).collect();
        for response in responses? {
            response.bytes()?;
        }
        Ok(())
    };
    at_a_time()?;
    let status = fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
    println!("{}", resident.ok_or("no VmRSS")?.trim());
    at_a_time()
}
