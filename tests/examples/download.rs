//! Downloads a document into a file, in constant memory and with a percentage on standard error.
//!
//! ```text
//! download PATH FILE
//! ```
//!
//! The content is written to FILE.part, which is renamed when it is complete, so that no part is ever
//! taken for a document.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, error::Error, process};

use jas_session::{Response, Session};

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [path, file] = &arguments[..] else {
        eprintln!("usage: download PATH FILE");
        process::exit(2);
    };
    if let Err(error) = run(path, Path::new(file)) {
        eprintln!("error: {error:#}");
        process::exit(1);
    }
}

fn run(path: &str, file: &Path) -> Result<(), Box<dyn Error>> {
    // The timeout includes the whole download.
    let session = Session::from_env()?.timeout(Duration::from_secs(600));
    let document = session.get(path)?;
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut progress = Progress::of(document);
    let mut output = File::create(&part)?;
    let copied = io::copy(&mut progress, &mut output).and_then(|_| output.sync_all());
    eprintln!();
    if let Err(error) = copied {
        // The error of the copy contains the error of the call, which says more.
        let error =
            jas_session::Error::find(&error).map_or(error.to_string(), |e| format!("{e:#}"));
        return Err(format!("{error} (the part is in {})", part.display()).into());
    }
    fs::rename(&part, file)?;
    Ok(())
}

/// Reads a response, and shows how much of it has arrived.
struct Progress {
    response: Response,
    length: Option<u64>,
    received: u64,
    shown: String,
}

impl Progress {
    fn of(response: Response) -> Progress {
        Progress { length: response.content_length(), response, received: 0, shown: String::new() }
    }
}

impl Read for Progress {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.response.read(buffer)?;
        self.received += n as u64;
        let shown = match self.length {
            Some(length) => format!("{} %", self.received * 100 / length.max(1)),
            // Not every server sends the length.
            None => format!("{} MB", self.received / 1_000_000),
        };
        if shown != self.shown {
            eprint!("\r{shown}");
            io::stderr().flush()?;
            self.shown = shown;
        }
        Ok(n)
    }
}
