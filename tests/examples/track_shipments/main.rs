//! Tracks shipments: one status query and one row for each number, in the order given.
//! `track_shipments --help` says more.
//!
//! With `JAS_URL` set, the session comes from the environment (see `Session::from_env`). Without it,
//! a stand-in on this machine responds, and shows what happens to the token (see `demo`).

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Read as _, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use jas_session::miniserde::{self, json, Deserialize};
use jas_session::{Error, ErrorKind, Session};

mod demo;
use demo::Demo;

const HELP: &str = "\
Tracks shipments: one row for each number, in the order given.

  track_shipments [--jobs N] [--retries N] [--csv] [--file FILE] [NUMBER…]

  NUMBER        a shipment number (S505185992) or a house bill number (PAR45176295);
                - reads numbers from standard input, one a line
  --file FILE   reads numbers from a file, one a line
  --jobs N      sends as many queries at a time; 4 by default
  --retries N   how often a query is retried; 2 by default. Raise it where a rate limit allows
                fewer calls than jobs
  --csv         writes comma-separated values

The environment gives the credentials: JAS_URL, JAS_CLIENT_ID and JAS_CLIENT_SECRET, and if there
are any JAS_API_KEY and JAS_TOKEN_ENDPOINT; JAS_CLIENT_SECRET_FILE and JAS_API_KEY_FILE name files
instead. Without JAS_URL a stand-in on this machine responds.

Exit status:
  0  each shipment was found
  1  one was not found, or failed, or the credentials, the network or the server stopped the run
  2  the command line, a file or a variable is wrong; nothing was asked for
";

const STATUS_QUERY: &str = "/tracking/v1/shipments";
const JOBS: usize = 4;
/// The width of the progress line, which with the cursor fits any terminal.
const PROGRESS: usize = 79;
const COLUMNS: [&str; 7] =
    ["SHIPMENT", "HOUSE BILL", "FROM", "TO", "DEPARTURE", "ARRIVAL", "LAST MILESTONE"];

/// The part of a response that the table shows. The names of the members are the stand-in's,
/// because JAS publishes none.
#[derive(Deserialize)]
struct Shipment {
    #[serde(rename = "shipmentNumber")]
    number: String,
    #[serde(rename = "houseBill")]
    house_bill: String,
    origin: String,
    destination: String,
    departure: Option<String>,
    arrival: Option<String>,
    milestones: Vec<Milestone>,
}

#[derive(Deserialize)]
struct Milestone {
    description: String,
    place: String,
}

/// The arguments.
struct Options {
    numbers: Vec<String>,
    jobs: Option<usize>,
    retries: u32,
    csv: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let mut options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(message) => return fail(2, &message),
    };
    let demo = env::var_os("JAS_URL").is_none().then(Demo::start);
    let session = demo.as_ref().map_or_else(Session::from_env, Demo::session);
    let session = match session {
        Ok(session) => session.retries(options.retries),
        Err(error) => return fail(2, &format!("{error:#}")),
    };
    if demo.is_some() && options.numbers.is_empty() {
        options.numbers = demo::SAMPLES.map(str::to_owned).to_vec();
    }
    if options.numbers.is_empty() {
        return fail(2, "no numbers to track; see --help");
    }
    match track_all(&session, &options, demo.as_ref()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(message) => fail(1, &message),
    }
}

fn fail(status: u8, message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(status)
}

impl Options {
    fn parse(arguments: Vec<String>) -> Result<Options, String> {
        let mut options = Options { numbers: Vec::new(), jobs: None, retries: 2, csv: false };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--csv" => options.csv = true,
                "--jobs" => {
                    let jobs = arguments.next().and_then(|n| n.parse().ok());
                    options.jobs = jobs.filter(|n| (1..=100).contains(n));
                    if options.jobs.is_none() {
                        return Err("--jobs needs a number from 1 to 100".to_owned());
                    }
                }
                "--retries" => {
                    let retries = arguments.next().and_then(|n| n.parse().ok());
                    options.retries = retries.ok_or("--retries needs a number")?;
                }
                "--file" => {
                    let file = arguments.next().ok_or("--file needs the name of a file")?;
                    options.add_lines(&file, fs::read(&file))?;
                }
                "-" => {
                    let mut bytes = Vec::new();
                    let read = io::stdin().read_to_end(&mut bytes);
                    options.add_lines("standard input", read.map(|_| bytes))?;
                }
                _ if argument.starts_with('-') => {
                    return Err(format!("{argument} is not understood; see --help"));
                }
                _ => options.numbers.push(argument),
            }
        }
        Ok(options)
    }

    fn add_lines(&mut self, source: &str, read: io::Result<Vec<u8>>) -> Result<(), String> {
        let text = read.and_then(text).map_err(|error| format!("{source}: {error}"))?;
        // Some editors begin with a byte order mark.
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        let numbers = lines.filter(|line| !line.is_empty()).map(str::to_owned);
        self.numbers.extend(numbers);
        Ok(())
    }
}

/// Reads UTF-8, or UTF-16 after a byte order mark, as Windows writes it.
fn text(bytes: Vec<u8>) -> io::Result<String> {
    let Some(pairs) = bytes.strip_prefix(b"\xff\xfe") else {
        return String::from_utf8(bytes).map_err(io::Error::other);
    };
    let unit = |pair: &[u8]| u16::from_le_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
    let units: Vec<_> = pairs.chunks(2).map(unit).collect();
    String::from_utf16(&units).map_err(io::Error::other)
}

/// Queries all shipments from several threads, and writes the rows in order. Returns the number of
/// failures, or why the run was stopped.
fn track_all(session: &Session, options: &Options, demo: Option<&Demo>) -> Result<usize, String> {
    let numbers = &options.numbers;
    // The demonstration makes one call at a time.
    let jobs = options.jobs.unwrap_or(if demo.is_some() { 1 } else { JOBS });
    let (next, is_stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sender, results) = mpsc::channel();
    let mut table = Table::new(options, demo.is_none() && io::stderr().is_terminal());
    let written = thread::scope(|scope| {
        for _ in 0..jobs.min(numbers.len()) {
            // All threads use one session, and share its token and its connections.
            let (sender, next, is_stopped) = (sender.clone(), &next, &is_stopped);
            scope.spawn(move || {
                while !is_stopped.load(Ordering::Relaxed) {
                    let row = next.fetch_add(1, Ordering::Relaxed);
                    let Some(number) = numbers.get(row) else {
                        return;
                    };
                    let result = match demo {
                        Some(demo) => demo.watch(session, row, || track(session, number)),
                        None => track(session, number),
                    };
                    if result.as_ref().is_err_and(stops_all) {
                        is_stopped.store(true, Ordering::Relaxed);
                    }
                    if sender.send((row, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let written = table.write(results);
        // The reader may have closed the pipe: `track_shipments … | head`.
        is_stopped.store(true, Ordering::Relaxed);
        written
    });
    let (failed, seconds) = (table.failed, table.start.elapsed().as_secs_f64());
    let (done, counts) = (table.done, session.counts());
    let all = numbers.len();
    eprintln!("shipments: {done} of {all} in {seconds:.1} s, failed: {failed}");
    eprintln!(
        "tokens: {}, connections: {}, retries: {}",
        counts.tokens, counts.connections, counts.retries
    );
    match (written, table.stop) {
        (Err(error), _) => Err(format!("the table can't be written: {error}")),
        (_, Some(error)) => Err(report(&error)),
        _ => Ok(failed),
    }
}

/// Queries one shipment. The query only reads, so it may be retried.
fn track(session: &Session, number: &str) -> Result<Shipment, Error> {
    let name = if is_shipment_number(number) { "shipmentNumber" } else { "houseBill" };
    let query = json::to_string(&BTreeMap::from([(name, number)]));
    session.post_idempotent(STATUS_QUERY, "application/json", query)?.json()
}

fn is_shipment_number(number: &str) -> bool {
    let digits = number.strip_prefix('S').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether the other shipments would fail in the same way.
fn stops_all(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::Denied | ErrorKind::InvalidToken => true,
        // There was no connection.
        ErrorKind::Exchange => !error.may_have_executed(),
        // The API key or the subscription is wrong.
        ErrorKind::Status => {
            matches!(error.status(), Some(401 | 403)) && error.retry_after().is_none()
        }
        _ => false,
    }
}

/// Returns what failed, why, and what to do.
fn report(error: &Error) -> String {
    let advice = match error.kind() {
        ErrorKind::InvalidInput => "correct the setting or argument that the message names",
        ErrorKind::Denied => "check JAS_CLIENT_ID and JAS_CLIENT_SECRET",
        ErrorKind::Status => "check JAS_API_KEY and what your subscription covers, or ask JAS",
        ErrorKind::InvalidToken => "check JAS_TOKEN_ENDPOINT: what responds there issues no token",
        _ => "check JAS_URL and the network",
    };
    format!("{error:#}\nadvice: {advice}")
}

/// The rows, and the progress.
struct Table<'a> {
    options: &'a Options,
    start: Instant,
    done: usize,
    failed: usize,
    /// What stopped the run.
    stop: Option<Error>,
    /// Whether there is a terminal for the progress line, whether the line is shown, and since when.
    has_terminal: bool,
    is_shown: bool,
    shown_at: Option<Instant>,
}

impl<'a> Table<'a> {
    fn new(options: &'a Options, has_terminal: bool) -> Table<'a> {
        Table {
            options,
            start: Instant::now(),
            done: 0,
            failed: 0,
            stop: None,
            has_terminal,
            is_shown: false,
            shown_at: None,
        }
    }

    /// Writes each row after all rows before it.
    fn write(
        &mut self, results: mpsc::Receiver<(usize, Result<Shipment, Error>)>,
    ) -> io::Result<()> {
        self.row(COLUMNS)?;
        let (mut waiting, mut next) = (BTreeMap::new(), 0);
        for (row, result) in results {
            self.done += 1;
            self.failed += usize::from(result.is_err());
            waiting.insert(row, result);
            while let Some(result) = waiting.remove(&next) {
                self.result(next, result)?;
                next += 1;
            }
            self.progress();
        }
        // The rows after a row that was never queried.
        for (row, result) in waiting {
            self.result(row, result)?;
        }
        self.hide_progress();
        Ok(())
    }

    fn result(&mut self, row: usize, result: Result<Shipment, Error>) -> io::Result<()> {
        let error = match result {
            Ok(shipment) => return self.shipment(&shipment),
            Err(error) => error,
        };
        let number = self.options.numbers[row].as_str();
        if stops_all(&error) {
            self.stop.get_or_insert(error);
            return Ok(());
        }
        let why = if error.status() == Some(404) {
            "not found"
        } else {
            self.hide_progress();
            eprintln!("{number}: {error:#}");
            "failed"
        };
        let mut cells = ["", "", why, "", "", "", ""];
        cells[usize::from(!is_shipment_number(number))] = number;
        self.row(cells)
    }

    fn shipment(&mut self, shipment: &Shipment) -> io::Result<()> {
        let milestone = match shipment.milestones.last() {
            Some(last) => format!("{}, {}", last.description, last.place),
            None => String::new(),
        };
        self.row([
            &shipment.number,
            &shipment.house_bill,
            &shipment.origin,
            &shipment.destination,
            &minutes(shipment.departure.as_deref()),
            &minutes(shipment.arrival.as_deref()),
            &milestone,
        ])
    }

    fn row(&mut self, cells: [&str; 7]) -> io::Result<()> {
        self.hide_progress();
        if self.options.csv {
            return writeln!(io::stdout(), "{}", cells.map(quoted).join(","));
        }
        let [number, house_bill, from, to, departure, arrival, milestone] = cells;
        let row = format!(
            "{number:<11} {house_bill:<12} {from:<12} {to:<12} {departure:<16} {arrival:<16} {milestone}"
        );
        writeln!(io::stdout(), "{}", row.trim_end())
    }

    /// Shows the progress on a terminal, at most ten times a second.
    fn progress(&mut self) {
        let is_early = self.shown_at.is_some_and(|at| at.elapsed() < Duration::from_millis(100));
        if is_early || !self.has_terminal {
            return;
        }
        let (done, all) = (self.done, self.options.numbers.len());
        #[allow(clippy::cast_precision_loss, reason = "only shown")]
        let rate = done as f64 / self.start.elapsed().as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "only shown")]
        let left = (all - done) as f64 / rate;
        let failed = self.failed;
        let line =
            format!("{done} of {all} done, {failed} failed, {rate:.1} a second, {left:.0} s left");
        // Spaces, because consoles of older Windows show escape sequences.
        eprint!("\r{line:PROGRESS$}");
        (self.is_shown, self.shown_at) = (true, Some(Instant::now()));
    }

    fn hide_progress(&mut self) {
        if self.is_shown {
            eprint!("\r{:PROGRESS$}\r", "");
            self.is_shown = false;
        }
    }
}

/// Formats a cell of comma-separated values (RFC 4180).
fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\r', '\n']) {
        return format!("\"{}\"", cell.replace('"', "\"\""));
    }
    cell.to_owned()
}

/// Formats `2026-03-02T10:25:00Z` as `2026-03-02 10:25`.
fn minutes(time: Option<&str>) -> String {
    let time = time.unwrap_or("-").replacen('T', " ", 1);
    time.chars().take(16).collect()
}
