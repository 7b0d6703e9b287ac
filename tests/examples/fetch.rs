//! One call from a script: the response goes to standard output, errors to standard error, and
//! the exit status says what to do. `fetch --help` says more.

use std::error::Error as _;
use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use jas_session::{Error, ErrorKind, Response, Session};

const HELP: &str = "\
Sends one call to the JAS APIs and writes the content of the response to standard output.

  fetch get PATH
  fetch post PATH MEDIA_TYPE FILE     a create, which is never sent twice
  fetch query PATH MEDIA_TYPE FILE    a query, which may be retried

FILE is what to send; - is standard input. PATH starts with /, or is a full URL of the
same origin.

The environment gives the credentials: JAS_URL, JAS_CLIENT_ID and JAS_CLIENT_SECRET, and if
there are any JAS_API_KEY and JAS_TOKEN_ENDPOINT; JAS_CLIENT_SECRET_FILE and JAS_API_KEY_FILE
name files instead.

Exit status:
  0  the whole response was written
  1  it could not be written, or FILE could not be read
  2  the command line, a variable or an argument is wrong; nothing was sent
  3  the credentials were refused
  4  the API responded, but not with 2xx; its content is on standard error
  5  the network or the server failed; nothing was done, try again later
  6  the API may have done what a `post` asked for: look before sending it again
";

/// Why a run failed.
enum Failure {
    Usage(String),
    File(String, io::Error),
    Call { error: Error, is_create: bool },
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    #[cfg(feature = "log")]
    logger::install();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(report(&failure)),
    }
}

fn run(arguments: &[&str]) -> Result<(), Failure> {
    let is_create = arguments.first() == Some(&"post");
    let failed = |error| Failure::Call { error, is_create };
    let response = match *arguments {
        ["get", path] => session(is_create)?.get(path),
        ["post", path, media_type, file] => {
            let content = content(file)?;
            session(is_create)?.post(path, media_type, content)
        }
        ["query", path, media_type, file] => {
            let content = content(file)?;
            session(is_create)?.post_idempotent(path, media_type, content)
        }
        _ => {
            return Err(Failure::Usage(
                "expected get PATH, post PATH MEDIA_TYPE FILE or query PATH MEDIA_TYPE FILE; \
                 see --help"
                    .to_owned(),
            ))
        }
    };
    write(response.map_err(failed)?, is_create)
}

fn session(is_create: bool) -> Result<Session, Failure> {
    Session::from_env().map_err(|error| Failure::Call { error, is_create })
}

fn content(file: &str) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let read = if file == "-" {
        io::stdin().lock().read_to_end(&mut content).map(|_| ())
    } else {
        fs::read(file).map(|bytes| content = bytes)
    };
    read.map_err(|cause| Failure::File(format!("{file} could not be read"), cause))?;
    Ok(content)
}

/// Writes the content as it arrives.
fn write(mut response: Response, is_create: bool) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    match io::copy(&mut response, &mut output).and_then(|_| output.flush()) {
        Ok(()) => Ok(()),
        // The error of `Read` contains the error of the call.
        Err(cause) => Err(match cause.downcast::<Error>() {
            Ok(error) => Failure::Call { error, is_create },
            Err(cause) => Failure::File("the response could not be written".to_owned(), cause),
        }),
    }
}

/// Writes the error to standard error, and returns the exit status.
fn report(failure: &Failure) -> u8 {
    let (error, is_create) = match failure {
        Failure::Usage(message) => {
            eprintln!("error: {message}");
            return 2;
        }
        Failure::File(message, cause) => {
            eprintln!("error: {message}: {cause}");
            return 1;
        }
        Failure::Call { error, is_create } => (error, *is_create),
    };
    eprintln!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("  caused by: {cause}");
        source = cause.source();
    }
    if let Some(content) = error.content() {
        let _ = io::stderr().write_all(content);
        eprintln!();
    }
    match error.kind() {
        ErrorKind::InvalidInput => 2,
        ErrorKind::Denied => 3,
        _ if is_create && error.may_have_executed() => 6,
        ErrorKind::Status => 4,
        _ => 5,
    }
}

/// Writes what the feature `log` logs to standard error.
#[cfg(feature = "log")]
mod logger {
    struct Stderr;

    impl log::Log for Stderr {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.target() == "jas_session"
        }

        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                eprintln!("[{}] {}", record.level(), record.args());
            }
        }

        fn flush(&self) {}
    }

    pub(crate) fn install() {
        if log::set_logger(&Stderr).is_ok() {
            log::set_max_level(log::LevelFilter::Debug);
        }
    }
}
