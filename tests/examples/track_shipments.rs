//! Tracks shipments: one status query for each number given, one row for each answer.
//!
//! ```text
//! cargo run --example track_shipments [NUMBER…]
//! ```
//!
//! A number such as `S505185992` is a shipment number, any other a house bill number. With
//! `JAS_URL` set, the session comes from the environment (see `Session::from_env`). Without it,
//! a sandbox on this machine stands in for JAS; its tokens live for 2 seconds, so that a run of
//! a few seconds shows a token requested, renewed, and recovered after a refusal.

use std::collections::BTreeMap;
use std::env;
use std::error::Error as _;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use jas_session::miniserde::{self, json, Deserialize};
use jas_session::{Error, ErrorKind, Session};

#[path = "../sandbox/mod.rs"]
mod sandbox;
use sandbox::{Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};

const STATUS_QUERY: &str = "/tracking/v1/shipments";
/// What is tracked in the sandbox when no number is given.
const SAMPLES: [&str; 5] = [
    "S505185992",
    "MIL45176311",
    "S505186240",
    "GOT45176533",
    "S505186418",
];
/// The row before which the sandbox refuses every token it has issued.
const REVOKED_ROW: usize = 2;

/// The part of an answer that the table shows. JAS does not publish the names of the members:
/// these are the sandbox's.
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

fn main() -> ExitCode {
    let mut numbers: Vec<String> = env::args().skip(1).collect();
    let sandbox = env::var_os("JAS_URL").is_none().then(Sandbox::start);
    if numbers.is_empty() {
        if sandbox.is_none() {
            eprintln!("error: pass the shipment or house bill numbers to track");
            return ExitCode::FAILURE;
        }
        numbers = SAMPLES.map(str::to_owned).to_vec();
    }
    match track_all(sandbox.as_ref(), &numbers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn track_all(sandbox: Option<&Sandbox>, numbers: &[String]) -> Result<(), Error> {
    let start = Instant::now();
    let (session, margin) = match sandbox {
        Some(sandbox) => {
            eprintln!("JAS_URL is not set: a sandbox stands in for JAS, its tokens live for 2 s");
            sandbox.token_lifetime(Duration::from_secs(2));
            let session = Session::new(&sandbox.url(), CLIENT_ID, CLIENT_SECRET)?;
            (session.api_key(API_KEY)?, Duration::from_secs(1))
        }
        None => (Session::from_env()?, Duration::from_secs(60)),
    };
    let session = session.renew_before(margin);
    let mut tokens = Tokens::default();

    print_row([
        "SHIPMENT",
        "HOUSE BILL",
        "FROM",
        "TO",
        "DEPARTURE",
        "ARRIVAL",
        "LAST MILESTONE",
    ]);
    for (row, number) in numbers.iter().enumerate() {
        match sandbox {
            Some(sandbox) if row == REVOKED_ROW => {
                eprintln!("[sandbox] every token so far is refused from now on");
                sandbox.revoke();
            }
            Some(_) if row > 0 => {
                eprintln!("[sandbox] a pause of 1.1 s, in which the token becomes due for renewal");
                thread::sleep(Duration::from_millis(1100));
            }
            _ => {}
        }
        let answer = tokens.watch(&session, margin, || track(&session, number));
        match answer {
            Ok(shipment) => print_shipment(&shipment),
            Err(error) if error.status() == Some(404) && is_shipment_number(number) => {
                print_row([number, "", "not found", "", "", "", ""]);
            }
            Err(error) if error.status() == Some(404) => {
                print_row(["", number, "not found", "", "", "", ""]);
            }
            Err(error) => return Err(error),
        }
    }

    let Tokens {
        requested,
        renewed,
        recovered,
    } = tokens;
    println!(
        "{} shipments in {:.1} s; tokens: {requested} requested, {renewed} renewed, {recovered} recovered",
        numbers.len(),
        start.elapsed().as_secs_f64(),
    );
    Ok(())
}

/// Asks for one shipment. The query only reads, so it may be sent again after a fault.
fn track(session: &Session, number: &str) -> Result<Shipment, Error> {
    let name = if is_shipment_number(number) {
        "shipmentNumber"
    } else {
        "houseBill"
    };
    let query = json::to_string(&BTreeMap::from([(name, number)]));
    session
        .post_idempotent(STATUS_QUERY, "application/json", query)?
        .json()
}

fn is_shipment_number(number: &str) -> bool {
    let digits = number.strip_prefix('S').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Counts what happens to the token, and tells it on standard error.
#[derive(Default)]
struct Tokens {
    requested: u32,
    renewed: u32,
    recovered: u32,
}

impl Tokens {
    /// Makes a call, and compares the token held before it with the one held after it.
    fn watch<T>(&mut self, session: &Session, margin: Duration, call: impl FnOnce() -> T) -> T {
        let before = session.held_token();
        let answer = call();
        if let Some((token, left)) = session.held_token() {
            let (what, count) = match before {
                Some((old, _)) if old == token => return answer,
                // It was not due for renewal, so the gateway must have refused it.
                Some((_, left)) if left > margin => {
                    ("recovered after a refusal", &mut self.recovered)
                }
                Some(_) => ("renewed before its expiry", &mut self.renewed),
                None => ("requested", &mut self.requested),
            };
            *count += 1;
            eprintln!("[token] {what}, good for {:.1} s", left.as_secs_f64());
        }
        answer
    }
}

fn print_shipment(shipment: &Shipment) {
    let milestone = match shipment.milestones.last() {
        Some(last) => format!("{}, {}", last.description, last.place),
        None => String::new(),
    };
    print_row([
        &shipment.number,
        &shipment.house_bill,
        &shipment.origin,
        &shipment.destination,
        &minutes(shipment.departure.as_deref()),
        &minutes(shipment.arrival.as_deref()),
        &milestone,
    ]);
}

fn print_row([number, house_bill, from, to, departure, arrival, milestone]: [&str; 7]) {
    let row = format!(
        "{number:<11} {house_bill:<12} {from:<12} {to:<12} {departure:<16} {arrival:<16} {milestone}"
    );
    println!("{}", row.trim_end());
}

/// `2026-03-02T10:25:00Z` as `2026-03-02 10:25`.
fn minutes(time: Option<&str>) -> String {
    let time = time.unwrap_or("-").replacen('T', " ", 1);
    time.chars().take(16).collect()
}

/// Tells what went wrong, why, and what to do.
fn report(error: &Error) {
    eprintln!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("  caused by: {cause}");
        source = cause.source();
    }
    let advice = match error.kind() {
        ErrorKind::InvalidInput => "correct the setting or argument that the message names",
        ErrorKind::Denied => "check JAS_CLIENT_ID and JAS_CLIENT_SECRET",
        ErrorKind::Status => "check JAS_API_KEY and what your subscription covers, or ask JAS",
        ErrorKind::Timeout => "try again later; the query only reads, so nothing is done twice",
        ErrorKind::Exchange => "check JAS_URL and the network",
        ErrorKind::InvalidToken => "check JAS_TOKEN_ENDPOINT: what answers there issues no token",
        ErrorKind::Content => "compare the answer with the members that this program reads",
        _ => "see the documentation of jas_session::ErrorKind",
    };
    eprintln!("advice: {advice}");
}
