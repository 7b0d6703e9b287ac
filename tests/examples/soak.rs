//! Makes very many calls against a sandbox that keeps failing, and checks each by the rules: how it
//! ended, and how often the sandbox received and executed it.
//!
//! ```text
//! cargo run --release --example soak [CALLS]
//! ```
//!
//! 200,000 calls from 8 threads by default. The sandbox is a process of its own, so that the
//! threads, sockets and memory counted here are the crate's. Tokens live for 2 s. Each run of
//! calls has two parts, because a call fails if its token is refused during an outage:
//!
//! - in the first three quarters the token endpoint goes down over and over, for less than the margin:
//!   an early renewal fails, but when the token expires, the endpoint is up again;
//! - in the last quarter tokens are refused, no more often than the session replaces them. One thread
//!   chooses when, and takes each of the four ways in turn. A short run meets one or two of them.
//!
//! Exit status 1 if anything is not as the rules say. Linux only.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Error, ErrorKind, Response, Session};

#[path = "soak/remote.rs"]
mod remote;
#[path = "../support/sandbox/mod.rs"]
mod sandbox;
#[path = "../support/wire/mod.rs"]
mod wire;
use remote::{run_sandbox, Record, Remote};
use sandbox::{Fault, API_KEY, CLIENT_ID, CLIENT_SECRET};

const CALLS: usize = 200_000;
/// After these calls, the number of threads and sockets and the memory must not grow.
const FIRST_CALLS: usize = 1000;
const THREADS: usize = 8;
const SEED: u64 = 6749;

const LIFETIME: Duration = Duration::from_secs(2);
const MARGIN: Duration = Duration::from_secs(1);
/// The token endpoint is up and down in turn. The two do not add up to whole seconds, so that
/// the outages wander through the life of the tokens, which are renewed every second.
const UP: Duration = Duration::from_millis(1550);
const DOWN: Duration = Duration::from_millis(750);

/// The timeouts of a usual call, and of one whose response stalls.
const TIMEOUT: Duration = Duration::from_secs(30);
const SHORT_TIMEOUT: Duration = Duration::from_millis(100);

/// The time between two refusals of tokens: the session replaces one every ten seconds at most.
const BETWEEN_REFUSALS: Duration = Duration::from_millis(10_500);

/// The most that memory may grow. The heap and the stacks that glibc keeps of ended threads grow
/// slowly to the most ever used at once. A leak of six bytes a call exceeds it in 200,000 calls.
const RSS_TOLERANCE_KIB: usize = 1024;

/// The paths called with GET, with a POST that may be retried, and with a plain POST.
const API: [&str; 3] = [SHIPMENT, QUERY, BOOKINGS];
const SHIPMENT: &str = "/tracking/v1/shipments/S505185992";
const QUERY: &str = "/tracking/v1/shipments";
const BOOKINGS: &str = "/bookings/v1/bookings";
const JSON: &str = "application/json";

/// The argument that makes this program the sandbox, followed by the number of calls.
const AS_SANDBOX: &str = "--sandbox";

/// What a call meets: a name, its share of a thousand calls, how many attempts of the call meet
/// it, the fault of each, and how a call has to end: one that may be retried, and a plain POST.
struct Way(&'static str, u64, u32, fn(u32) -> Fault, Rule, Rule);

/// How a call must end, and how often it is sent, without attempts whose token is refused.
#[derive(Clone, Copy)]
struct Rule(End, u32);

/// How a call ended. A failure has its kind, its status and whether it may have been executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Success,
    Failure(ErrorKind, Option<u16>, bool),
}

impl End {
    fn is_late(self) -> bool {
        matches!(self, End::Failure(ErrorKind::Timeout, ..))
    }
}

const fn success(sent: u32) -> Rule {
    Rule(End::Success, sent)
}

const fn refused(status: u16, may_have_executed: bool, sent: u32) -> Rule {
    let end = End::Failure(ErrorKind::Status, Some(status), may_have_executed);
    Rule(end, sent)
}

const fn failed(sent: u32) -> Rule {
    Rule(End::Failure(ErrorKind::Exchange, None, true), sent)
}

/// The content of a booking's response is truncated, and its error keeps the part received.
const TRUNCATED: Rule = Rule(End::Failure(ErrorKind::Exchange, Some(201), true), 1);

const TIMED_OUT: Rule = Rule(End::Failure(ErrorKind::Timeout, None, true), 1);
const TIMED_OUT_IN_CONTENT: Rule = Rule(End::Failure(ErrorKind::Timeout, Some(201), true), 1);

/// Every fault of the sandbox but `Wait`, each for about one call in a hundred. The ways after
/// [`NO_FAULT`] refuse tokens, and are used in turn.
#[rustfmt::skip]
static WAYS: [Way; 28] = [
    //  name,                of 1000, attempts, fault of each,                     get, post_idempotent,   post
    Way("429",                         10, 1, |_| response(429, Some("0.001")),    success(2),             refused(429, false, 1)),
    Way("403, Retry-After",            10, 1, |_| response(403, Some("0")),        success(2),             refused(403, false, 1)),
    Way("502",                         10, 1, |_| response(502, Some("0")),        success(2),             refused(502, true, 1)),
    Way("503",                         10, 1, |_| response(503, Some("0")),        success(2),             refused(503, true, 1)),
    Way("504",                         10, 1, |_| response(504, Some("0")),        success(2),             refused(504, true, 1)),
    Way("503 for ever",                 5, 9, |_| response(503, Some("0")),        refused(503, true, 3),  refused(503, true, 1)),
    Way("500",                         10, 1, |_| response(500, None),             refused(500, true, 1),  refused(500, true, 1)),
    Way("403",                         10, 1, |_| response(403, None),             refused(403, false, 1), refused(403, false, 1)),
    Way("no response",                  5, 1, |_| Fault::Raw(Vec::new()),          success(2),             failed(1)),
    Way("garbage",                      5, 1, |_| Fault::Raw(b"garbage".to_vec()), success(2),             failed(1)),
    Way("garbage for ever",             2, 9, |_| Fault::Raw(b"garbage".to_vec()), failed(3),              failed(1)),
    Way("closed at once",               3, 1, |_| Fault::Truncate(0),              success(2),             failed(1)),
    Way("truncated status line",        3, 1, |_| Fault::Truncate(9),              success(2),             failed(1)),
    Way("truncated head",               3, 1, |_| Fault::Truncate(60),             success(2),             failed(1)),
    Way("truncated content",            2, 1, |_| Fault::Truncate(110),            success(2),             TRUNCATED),
    Way("truncated content for ever",   2, 9, |_| Fault::Truncate(110),            failed(3),              TRUNCATED),
    Way("stall",                        5, 9, |_| Fault::Stall(None),              TIMED_OUT,              TIMED_OUT),
    Way("stall in content",             5, 9, |_| Fault::Stall(Some(9)),           TIMED_OUT,              TIMED_OUT_IN_CONTENT),
    Way("misleading fields",           10, 1, |_| misleading_fields(),             success(1),             success(1)),
    Way("drip",                        10, 1, |_| Fault::Drip(MICROSECOND),        success(1),             success(1)),
    Way("chunked",                     10, 1, |_| Fault::Chunked(7),               success(1),             success(1)),
    Way("until close",                 10, 1, |_| Fault::UntilClose,               success(1),             success(1)),
    Way("truncated, then 403",          3, 9, truncated_then_refused,              refused(403, true, 2),  failed(1)),
    Way("nothing",                    847, 0, |_| Fault::Raw(Vec::new()),          success(1),             success(1)),
    Way("revoked",                      0, 1, |_| Fault::Revoke,                   success(1),             success(1)),
    Way("401",                          0, 1, |_| response(401, None),             success(1),             success(1)),
    Way("401 for ever",                 0, 9, |_| response(401, None),             refused(401, false, 0), refused(401, false, 0)),
    Way("401, then 503",                0, 9, token_refused_then_busy,             refused(503, true, 3),  refused(503, true, 1)),
];
const NO_FAULT: usize = 23;
const MICROSECOND: Duration = Duration::from_micros(1);

fn response(status: u16, retry_after: Option<&str>) -> Fault {
    let field = retry_after.map(|value| ("Retry-After", value.to_owned()));
    Fault::Response(status, field.into_iter().collect(), Vec::new())
}

/// An earlier attempt may have executed the request, so its refusal says no more.
fn truncated_then_refused(attempt: u32) -> Fault {
    match attempt {
        1 => Fault::Truncate(9),
        _ => response(403, None),
    }
}

fn token_refused_then_busy(attempt: u32) -> Fault {
    match attempt {
        1 => response(401, None),
        _ => response(503, Some("0")),
    }
}

/// Header fields that mean nothing in a 2xx response.
fn misleading_fields() -> Fault {
    let fields = [("Retry-After", "60"), ("WWW-Authenticate", r#"Bearer error="invalid_token""#)];
    let fields = fields.map(|(name, value)| (name, value.to_owned()));
    Fault::With(fields.into())
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().map_err(io::Error::other);
    let result = match words[..] {
        [] => soak(CALLS),
        [AS_SANDBOX, calls] => number(calls).and_then(run_sandbox),
        [calls] => number(calls).and_then(soak),
        _ => Err(io::Error::other("pass the number of calls, or nothing")),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the calls, prints the figures, and returns whether all calls obey the rules.
fn soak(calls: usize) -> io::Result<bool> {
    let mut sandbox = Remote::start(calls)?;
    let session = Session::new(&sandbox.url, CLIENT_ID, CLIENT_SECRET)
        .and_then(|session| session.api_key(API_KEY))
        .map_err(io::Error::other)?;
    let client = Client {
        session: session.renew_before(MARGIN).timeout(TIMEOUT),
        next: AtomicUsize::new(0),
        may_refuse_tokens: AtomicBool::new(false),
        refusals: Mutex::default(),
        // Allocated and written before memory is measured.
        calls: Mutex::new((0..calls).map(|_| None).collect()),
    };
    println!("{calls} calls from {THREADS} threads, seed {SEED}, tokens live {LIFETIME:?}");
    let start = Instant::now();
    client.run(FIRST_CALLS.min(calls), &mut sandbox)?;
    let before = held()?;
    client.run(calls, &mut sandbox)?;
    let (after, took) = (held()?, start.elapsed());
    let records = sandbox.report(calls)?;
    let seconds = took.as_secs_f64();
    let rate = calls as u128 * 1000 / took.as_millis().max(1);
    println!("{seconds:>8.1} seconds, {rate} calls a second");
    let wrong = judge(&client, &records);
    println!("{:>8} calls made, then all of them:", FIRST_CALLS.min(calls));
    for (i, what) in ["threads", "sockets", "KiB of memory (RSS)"].iter().enumerate() {
        println!("{:>8} {what}, then {}", before[i], after[i]);
    }
    let is_flat = before[..2] == after[..2] && after[2] <= before[2] + RSS_TOLERANCE_KIB;
    if !is_flat {
        println!("more is held at the end than after the first calls");
    }
    for text in wrong.iter().take(10) {
        println!("{text}");
    }
    Ok(wrong.is_empty() && is_flat)
}

/// Prints how the calls ended, and returns what contradicts the rules.
fn judge(client: &Client, records: &[Record]) -> Vec<String> {
    let mut counts = BTreeMap::new();
    let mut count = |what: String| *counts.entry(what).or_insert(0) += 1;
    let (mut wrong, mut doubled) = (Vec::new(), 0);
    for (id, call) in lock(&client.calls).iter().enumerate() {
        let (Some(call), record) = (call, records[id]) else {
            wrong.push(format!("call {id} was not made"));
            continue;
        };
        count(match call.end {
            End::Success => "succeeded".to_owned(),
            End::Failure(kind, ..) => format!("failed, {kind:?}"),
        });
        if call.is_plain() && record.received > 1 {
            count("plain POST sent once more after a refused token".to_owned());
            doubled += usize::from(record.received > 1 + record.refused);
        }
        if let Some(why) = call.breach(record) {
            wrong.push(format!("call {id} {why}: {record:?}, {call:?}"));
        }
    }
    for (what, count) in counts {
        println!("{count:>8} {what}");
    }
    println!("{:>8} met a refused token", lock(&client.refusals).len());
    println!("{:>8} against the rules", wrong.len());
    println!("{doubled:>8} plain POSTs received twice though no token was refused");
    let tokens = records.last().copied().unwrap_or_default();
    println!("{:>8} token requests, {} of them in an outage", tokens.received, tokens.refused);
    wrong
}

/// Returns the number of threads and sockets of this process, and its memory in KiB.
fn held() -> io::Result<[usize; 3]> {
    let status = fs::read_to_string("/proc/self/status")?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|rss| rss.split_whitespace().next()?.parse().ok());
    let rss = rss.ok_or_else(|| io::Error::other("no VmRSS"))?;
    let (threads, sockets) = wire::held();
    Ok([threads, sockets, rss])
}

/// State shared by the threads that make the calls.
struct Client {
    session: Session,
    next: AtomicUsize,
    may_refuse_tokens: AtomicBool,
    /// When the calls ended whose token was refused.
    refusals: Mutex<Vec<Instant>>,
    calls: Mutex<Vec<Option<Call>>>,
}

impl Client {
    /// Makes the calls up to number `end`, and takes the token endpoint down in between.
    fn run(&self, end: usize, sandbox: &mut Remote) -> io::Result<()> {
        let begin = self.next.load(Ordering::SeqCst);
        let refusals_from = end - (end - begin) / 4;
        let is_first_part = || self.next.load(Ordering::SeqCst) < refusals_from;
        self.may_refuse_tokens.store(false, Ordering::SeqCst);
        thread::scope(|scope| {
            let work = |thread| scope.spawn(move || self.work(thread == 0, end));
            let workers: Vec<_> = (0..THREADS).map(work).collect();
            for outage in ["silent", "busy"].iter().cycle() {
                let start = Instant::now();
                while start.elapsed() < UP && is_first_part() {
                    thread::sleep(Duration::from_millis(5));
                }
                if !is_first_part() {
                    break;
                }
                sandbox.order(outage)?;
                thread::sleep(DOWN);
                sandbox.order("up")?;
            }
            self.may_refuse_tokens.store(true, Ordering::SeqCst);
            // The end of a scope does not wait until its threads have left the system.
            let ended = workers.into_iter().map(thread::ScopedJoinHandle::join);
            assert!(ended.filter(Result::is_err).count() == 0, "a thread panicked");
            Ok(())
        })
    }

    /// Runs one thread. Only one of the threads `refuses` tokens.
    fn work(&self, refuses: bool, end: usize) {
        loop {
            let next = |id| (id < end).then_some(id + 1);
            let Ok(id) = self.next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next) else {
                return;
            };
            let random = mix(SEED + id as u64);
            let mut sum = 0;
            let is_chosen = |Way(_, share, ..): &Way| {
                sum += share;
                random % 1000 < sum
            };
            let mut way = WAYS.iter().position(is_chosen).unwrap_or(NO_FAULT);
            if refuses && self.may_refuse_tokens.load(Ordering::SeqCst) {
                let refusals = lock(&self.refusals);
                let last = refusals.last();
                if last.is_none_or(|end| end.elapsed() > BETWEEN_REFUSALS) {
                    way = NO_FAULT + 1 + refusals.len() % (WAYS.len() - NO_FAULT - 1);
                }
            }
            let call = self.call(id, API[(random / 1000 % 3) as usize], way);
            if way > NO_FAULT {
                lock(&self.refusals).push(Instant::now());
            }
            lock(&self.calls)[id] = Some(call);
        }
    }

    fn call(&self, id: usize, api: &'static str, way: usize) -> Call {
        let stalls = matches!(WAYS[way].3(1), Fault::Stall(_));
        let short = stalls.then(|| self.session.clone().timeout(SHORT_TIMEOUT));
        let session = short.as_ref().unwrap_or(&self.session);
        let path = format!("{api}?call={id}&way={way}");
        let result = match api {
            SHIPMENT => session.get(&path),
            QUERY => session.post_idempotent(&path, JSON, r#"{"houseBill":"PAR45176295"}"#),
            _ => session.post(&path, JSON, "{}"),
        };
        let error = result.and_then(Response::bytes).err();
        let end = error.as_ref().map_or(End::Success, |error| {
            End::Failure(error.kind(), error.status(), error.may_have_executed())
        });
        let mut call = Call { api, way: &WAYS[way], end, error: None };
        call.error = error.filter(|_| !call.is_as_ruled());
        call
    }
}

/// A call that has ended.
struct Call {
    api: &'static str,
    way: &'static Way,
    end: End,
    /// The error, if the call did not end as it must.
    error: Option<Error>,
}

impl Call {
    fn is_plain(&self) -> bool {
        self.api == BOOKINGS
    }

    fn rule(&self) -> Rule {
        let Way(.., retried, plain) = self.way;
        if self.is_plain() {
            *plain
        } else {
            *retried
        }
    }

    /// Whether the call ended as it must.
    fn is_as_ruled(&self) -> bool {
        let Rule(end, _) = self.rule();
        // The timeout may pass before the response arrives, or before anything is sent.
        let is_early = matches!(self.end, End::Failure(ErrorKind::Timeout, None, _));
        self.end == end || end.is_late() && is_early
    }

    /// Returns what contradicts the rules: how the call ended, or how often the sandbox received it.
    fn breach(&self, record: Record) -> Option<&'static str> {
        let Rule(end, sent) = self.rule();
        let Record { received, refused, executed } = record;
        Some(match self.end {
            _ if !self.is_as_ruled() => "did not end as it had to",
            _ if received > sent + refused => "was sent too often",
            _ if received < sent && !end.is_late() => "was not sent often enough",
            _ if self.is_plain() && executed > 1 => "was executed twice",
            End::Success if executed == 0 => "succeeded, but was not executed",
            End::Failure(.., false) if executed > 0 => "was executed, but may not have been",
            _ => return None,
        })
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { api, way, end, error } = self;
        write!(f, "{api} that met {:?}, {end:?}", way.0)?;
        error.as_ref().map_or(Ok(()), |error| write!(f, ": {error}"))
    }
}

/// The finalizer of `SplitMix64`: evenly spread numbers, the same in every run.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
