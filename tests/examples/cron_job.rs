//! A short job that runs often: it keeps its token from one run to the next, so that a run within
//! the token's life makes no token request.
//!
//! ```text
//! cron_job DIRECTORY PATH…
//! ```
//!
//! Gets each path and writes the responses to standard output. The token is kept in DIRECTORY, preferably
//! one that only this user may write to and that a reboot empties, such as `/run/user/1000`. The
//! environment gives the credentials: see `Session::from_env`.

use std::path::Path;
use std::{env, process};

use jas_session::{Error, Session};

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let (Some(directory), Some(_)) = (arguments.first(), arguments.get(1)) else {
        eprintln!("usage: cron_job DIRECTORY PATH...");
        process::exit(2);
    };
    if let Err(error) = run(Path::new(directory), &arguments[1..]) {
        // `#` adds the causes.
        eprintln!("error: {error:#}");
        process::exit(1);
    }
}

fn run(directory: &Path, paths: &[String]) -> Result<(), Error> {
    let session = Session::from_env()?.token_file(directory.join("jas-session-token"))?;
    for path in paths {
        println!("{}", session.get(path)?.text()?);
    }
    Ok(())
}
