//! A timer's signal every few milliseconds, as profilers send it: every call ends in time and with the
//! right result.
//!
//! `JAS_SESSION_SIGNAL_CALLS` sets how many calls are made with each timer: 12 by default. With 1,000 or
//! more, uploads have 20 MB and downloads 50 MB.
#![cfg(unix)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Response, Session};

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{pattern, Over, Peer, Site};
use wire::{assert_passes, response, this_test_alone, urls, LATE, PATIENCE};

/// How often the signal comes, in microseconds.
const INTERVALS: [u64; 6] = [200, 500, 1000, 2000, 4000, 6000];

/// What is sent to a server that responds at once and reads later: more than the system buffers.
const EARLY: usize = 8 << 20;

/// In each so many calls, one needs a new token, and one is a POST with a connection of its own.
const CALLS_PER_TOKEN: usize = 24;
const CALLS_PER_POST: usize = 8;

fn calls() -> usize {
    let calls = std::env::var("JAS_SESSION_SIGNAL_CALLS");
    calls.map_or(12, |calls| calls.parse().expect("a number"))
}

/// What is uploaded and what is downloaded.
fn contents() -> &'static (Vec<u8>, Vec<u8>) {
    static CONTENTS: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    let lengths = if calls() < 1000 { (200_000, 500_000) } else { (20_000_000, 50_000_000) };
    CONTENTS.get_or_init(|| (pattern(lengths.0), pattern(lengths.1)))
}

fn serve(mut peer: Peer) {
    let (upload, download) = contents();
    while let Some(head) = peer.head() {
        let is_early = head.line == "POST /early";
        if is_early {
            peer.respond(&response("201 Created", "", "early"));
            // Much longer than it takes the signals to count for a quarter of the timeout, if each
            // counted as the longest wait.
            thread::sleep(Duration::from_millis(800));
        }
        let Some(request) = peer.rest_of(head) else { return assert!(!is_early, "a part came") };
        match &*request.line {
            "POST /early" => assert!(request.content.len() == EARLY),
            "POST /upload" => {
                assert!(&request.content == upload, "something else was uploaded");
                peer.respond(&response("201 Created", "", "uploaded"));
            }
            "GET /download" => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", download.len());
                peer.respond(&[head.as_bytes(), download].concat());
            }
            _ => peer.serve(&request),
        }
    }
}

/// Where a child finds how often the signal comes, and whether the system restarts what it interrupts.
const TIMER: &str = "JAS_SESSION_TEST_TIMER";

/// How many calls have ended.
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// Ends the process when a call never does.
fn watch() {
    let mut ended = 0;
    loop {
        thread::sleep(PATIENCE * 2);
        let before = std::mem::replace(&mut ended, ENDED.load(Ordering::SeqCst));
        if before == ended {
            eprintln!("a call never ends");
            std::process::exit(1);
        }
    }
}

/// Makes the calls by one thread, then by four.
fn run(test: &str, over: Over) {
    with_timers(test, over, &INTERVALS, |session| {
        for threads in [1, 4] {
            let start = Instant::now();
            make_calls(session, threads);
            println!("{threads} threads: {:?}", start.elapsed());
        }
    });
}

#[test]
fn signals_delay_no_call_over_plain_http() {
    run("signals_delay_no_call_over_plain_http", Over::Plain);
}

#[test]
fn signals_truncate_no_request_over_plain_http() {
    early("signals_truncate_no_request_over_plain_http", Over::Plain);
}

#[cfg(feature = "tls")]
#[test]
fn signals_truncate_no_request_over_tls() {
    early("signals_truncate_no_request_over_tls", Over::Tls);
}

/// The server's `assert` tells whether all of the content has come.
fn early(test: &str, over: Over) {
    with_timers(test, over, &[1000, 10_000], |session| {
        timer::let_in();
        let response = session.post("/early", "text/plain", vec![b'x'; EARLY]);
        assert_eq!(response.and_then(Response::text).unwrap(), "early");
    });
}

#[cfg(feature = "tls")]
#[test]
fn signals_delay_no_call_over_tls() {
    run("signals_delay_no_call_over_tls", Over::Tls);
}

/// Has each timer send signals to calls of this process's child.
fn with_timers(test: &str, over: Over, intervals: &[u64], calls: impl Fn(&Session)) {
    if let [url] = &urls()[..] {
        thread::spawn(watch);
        let timer = std::env::var(TIMER).unwrap();
        let (interval, is_restarting) = timer.split_once(' ').unwrap();
        timer::set(interval.parse().unwrap(), is_restarting == "true");
        let session = site::trusting(Session::new(url, "id", "secret").unwrap());
        return calls(&session.retries(0).timeout(PATIENCE));
    }
    for is_restarting in [false, true] {
        for interval in intervals {
            let site = Site::start(over, serve);
            let mut child = site::trusted_by(this_test_alone(test, &[site.url()]));
            child.env(TIMER, format!("{interval} {is_restarting}"));
            assert_passes(timer::held_back(child));
        }
    }
}

fn make_calls(session: &Session, threads: usize) {
    thread::scope(|scope| {
        for number in 0..threads {
            let (upload, download) = contents();
            scope.spawn(move || {
                timer::let_in();
                let in_time = |call: &dyn Fn() -> Vec<u8>, expected: &[u8]| {
                    let start = Instant::now();
                    let content = call();
                    assert!(start.elapsed() < PATIENCE + LATE);
                    assert!(content == expected, "another content");
                    ENDED.fetch_add(1, Ordering::SeqCst);
                };
                let bytes = |response: Response| response.limit(1 << 30).bytes().unwrap();
                let post = || bytes(session.post("/upload", "text/plain", upload).unwrap());
                in_time(&post, b"uploaded");
                in_time(&|| bytes(session.get("/download").unwrap()), download);
                for call in 0..calls().div_ceil(threads) {
                    if call % CALLS_PER_TOKEN == 0 {
                        session.invalidate("new");
                    }
                    let path = format!("/{number}/{call}");
                    if call % CALLS_PER_POST == 0 {
                        let post = || bytes(session.post(&path, "text/plain", "create").unwrap());
                        in_time(&post, format!("POST {path}").as_bytes());
                    } else {
                        let get = || bytes(session.get(&path).unwrap());
                        in_time(&get, format!("GET {path}").as_bytes());
                    }
                }
            });
        }
    });
}

/// The timer. Its signal comes to those threads only that let it in: it must not always find the same
/// idle one.
#[allow(unsafe_code, reason = "the standard library has no signals")]
mod timer {
    use std::mem::zeroed;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;
    use std::ptr::null_mut;

    extern "C" fn ignore(_: libc::c_int) {}

    /// The child holds the signal back in all of its threads.
    pub(super) fn held_back(mut child: Command) -> Command {
        // SAFETY: it makes one system call, on memory of its own.
        unsafe {
            child.pre_exec(|| {
                mask(libc::SIG_BLOCK);
                Ok(())
            })
        };
        child
    }

    /// Lets the signal in to this thread, and to those that it starts.
    pub(super) fn let_in() {
        mask(libc::SIG_UNBLOCK);
    }

    fn mask(how: libc::c_int) {
        // SAFETY: the set is valid for each call.
        unsafe {
            let mut set = zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGALRM);
            assert_eq!(libc::pthread_sigmask(how, &raw const set, null_mut()), 0);
        }
    }

    /// Sends the signal every so many microseconds. With `is_restarting`, the system restarts what
    /// it interrupts, where it can.
    pub(super) fn set(microseconds: u64, is_restarting: bool) {
        let time = libc::timeval { tv_sec: 0, tv_usec: microseconds.try_into().unwrap() };
        let times = libc::itimerval { it_interval: time, it_value: time };
        // SAFETY: the handler does nothing, and the structures are valid for each call.
        unsafe {
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = if is_restarting { libc::SA_RESTART } else { 0 };
            assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, null_mut()), 0);
            assert_eq!(libc::setitimer(libc::ITIMER_REAL, &raw const times, null_mut()), 0);
        }
    }
}
