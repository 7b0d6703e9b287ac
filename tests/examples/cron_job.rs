//! A short job that runs often: it keeps its token from one run to the next, so that a run within
//! the token's life makes no token request.
//!
//! ```text
//! cron_job DIRECTORY PATH…
//! ```
//!
//! Gets each path and writes the answers to standard output. The token lies in a file in
//! DIRECTORY, best a tmpfs that only this user may write to (`/run/user/1000`, say). The file is
//! never needed: if there is none, or anything is wrong with it, a token is requested. The
//! environment gives the credentials: see `Session::from_env`.

use std::env;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jas_session::miniserde::{self, json, Deserialize, Serialize};
use jas_session::Session;

/// No file that is longer was written here.
const LONGEST: u64 = 64 * 1024;

/// A token, whose it is, and for how long.
#[derive(Serialize, Deserialize)]
struct Kept {
    url: String,
    client_id: String,
    access_token: String,
    /// Seconds since 1970.
    begin: u64,
    /// Seconds from then on.
    expires_in: u64,
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let (Some(directory), paths) = (arguments.next(), arguments.collect::<Vec<_>>()) else {
        eprintln!("cron_job DIRECTORY PATH...");
        return ExitCode::from(2);
    };
    match run(Path::new(&directory), &paths) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path, paths: &[String]) -> Result<(), Box<dyn Error>> {
    let mut session = Session::from_env()?;
    let file = directory.join("jas-session-token");
    let kept = read(&file).unwrap_or_else(|why| {
        eprintln!("no token from {}: {why}", file.display());
        None
    });
    if let Some((token, left)) = &kept {
        session = session.resume(token, *left)?;
    }
    let result = get_all(&session, paths);
    // After a failure, too: the token may be good. A file that can't be written does no harm.
    if let Some((token, left)) = session.held_token() {
        if kept.is_none_or(|(old, _)| old != token) {
            if let Err(why) = write(&file, token, left) {
                eprintln!("the token is not kept in {}: {why}", file.display());
            }
        }
    }
    result
}

fn get_all(session: &Session, paths: &[String]) -> Result<(), Box<dyn Error>> {
    for path in paths {
        io::copy(&mut session.get(path)?, &mut io::stdout())?;
        println!();
    }
    Ok(())
}

/// The token that is kept, if it is good for this job, and what is left of its life.
fn read(path: &Path) -> Result<Option<(String, Duration)>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    // Of the file that is open, whatever lies at its path by now.
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".into());
    }
    private::check(&metadata)?;
    let mut text = String::new();
    file.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    let kept: Kept = json::from_str(&text).map_err(|_| "it is damaged")?;
    if (kept.url.as_str(), kept.client_id.as_str())
        != (&variable("JAS_URL"), &variable("JAS_CLIENT_ID"))
    {
        return Err("it is another client's".into());
    }
    // A clock that was set back would make an old token look young.
    let age = now().checked_sub(kept.begin);
    match age.and_then(|age| kept.expires_in.checked_sub(age)) {
        Some(left @ 1..) => Ok(Some((kept.access_token, Duration::from_secs(left)))),
        _ => Err("its time is over".into()),
    }
}

/// Puts the file in its place in one step, so that another run finds the old one or the new one.
fn write(path: &Path, access_token: String, left: Duration) -> io::Result<()> {
    let kept = Kept {
        url: variable("JAS_URL"),
        client_id: variable("JAS_CLIENT_ID"),
        access_token,
        begin: now(),
        expires_in: left.as_secs(),
    };
    let part = PathBuf::from(format!("{}.{}", path.display(), std::process::id()));
    // Left behind by a run that was killed, with the same number.
    let _ = fs::remove_file(&part);
    let mut options = OpenOptions::new();
    private::make(options.write(true).create_new(true));
    let file = options.open(&part);
    let written = file
        .and_then(|mut file| file.write_all(json::to_string(&kept).as_bytes()))
        .and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// What keeps a file from others.
#[cfg(unix)]
mod private {
    use std::fs::{self, Metadata, OpenOptions};
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

    pub(crate) fn make(options: &mut OpenOptions) {
        options.mode(0o600);
    }

    pub(crate) fn check(metadata: &Metadata) -> Result<(), String> {
        let own = fs::metadata("/proc/self").map_err(|error| error.to_string())?;
        if metadata.uid() != own.uid() {
            return Err("it is another user's".into());
        }
        if metadata.mode() & 0o077 != 0 {
            return Err("others may read it".into());
        }
        Ok(())
    }
}

/// Elsewhere the directory has to.
#[cfg(not(unix))]
mod private {
    use std::fs::{Metadata, OpenOptions};

    pub(crate) fn make(_: &mut OpenOptions) {}

    pub(crate) fn check(_: &Metadata) -> Result<(), String> {
        Ok(())
    }
}
