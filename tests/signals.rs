//! A timer's signal every few milliseconds, as profilers send it: every call ends in time with the right
//! result.
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
use site::{pattern, Over, Peer, Site, BOTH};
use wire::{assert_passes, response, this_test_alone, urls, LATE, PATIENCE};

/// The intervals of the signal, in microseconds.
const INTERVALS: [u64; 6] = [200, 500, 1000, 2000, 4000, 6000];

/// The length of a content for a server that responds at once and reads later: more than the system
/// buffers.
const EARLY: usize = 8 << 20;

/// One of so many calls needs a new token, and one of so many is a POST with its own connection.
const CALLS_PER_TOKEN: usize = 24;
const CALLS_PER_POST: usize = 8;

fn calls() -> usize {
    let calls = std::env::var("JAS_SESSION_SIGNAL_CALLS");
    calls.map_or(12, |calls| calls.parse().expect("a number"))
}

/// The contents of an upload and of a download.
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
            // If each signal counted as the longest wait, a quarter of the timeout would pass sooner.
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

/// Names the variable that gives a child the interval of the signal, and whether the system restarts
/// what it interrupts.
const TIMER: &str = "JAS_SESSION_TEST_TIMER";

/// The number of calls that have ended.
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// Ends the process if no call ends for a long time.
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

#[test]
fn signals_delay_no_call() {
    if let Some(session) = session_of_child() {
        for threads in [1, 4] {
            let start = Instant::now();
            make_calls(&session, threads);
            println!("{threads} threads: {:?}", start.elapsed());
        }
        return;
    }
    for over in BOTH {
        for timer in timers(&INTERVALS) {
            assert_child_passes("signals_delay_no_call", *over, &timer);
        }
    }
}

/// The server's `assert` fails if a part of the content is missing.
#[test]
fn signals_truncate_no_request() {
    if let Some(session) = session_of_child() {
        timer::unblock();
        let response = session.post("/early", "text/plain", vec![b'x'; EARLY]);
        assert_eq!(response.and_then(Response::text).unwrap(), "early");
        return;
    }
    thread::scope(|scope| {
        for over in BOTH {
            for timer in timers(&[1000, 10_000]) {
                let test = "signals_truncate_no_request";
                scope.spawn(move || assert_child_passes(test, *over, &timer));
            }
        }
    });
}

/// Timers of these intervals, with and without the system restarting what they interrupt.
fn timers(intervals: &[u64]) -> Vec<String> {
    let restarting = [false, true].map(|is_restarting| {
        intervals.iter().map(move |interval| format!("{interval} {is_restarting}"))
    });
    restarting.into_iter().flatten().collect()
}

/// In a child: a session for the site of its parent, once the timer is set.
fn session_of_child() -> Option<Session> {
    let url = urls().pop()?;
    thread::spawn(watch);
    let timer = std::env::var(TIMER).unwrap();
    let (interval, is_restarting) = timer.split_once(' ').unwrap();
    timer::set(interval.parse().unwrap(), is_restarting == "true");
    Some(site::trusting(wire::session_without_token(&url)))
}

/// Runs the test in a child with this timer, which calls a site of this process.
fn assert_child_passes(test: &str, over: Over, timer: &str) {
    let site = Site::start(over, serve);
    let mut child = site::trusted_by(this_test_alone(test, &[site.url()]));
    child.env(TIMER, timer);
    assert_passes(timer::blocked_in(child));
}

fn make_calls(session: &Session, threads: usize) {
    thread::scope(|scope| {
        for number in 0..threads {
            let (upload, download) = contents();
            scope.spawn(move || {
                timer::unblock();
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

/// The timer. Only threads that unblock its signal receive it: otherwise the same idle thread could
/// receive each.
#[allow(unsafe_code, reason = "the standard library has no signals")]
mod timer {
    use std::mem::zeroed;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;
    use std::ptr::null_mut;

    extern "C" fn ignore(_: libc::c_int) {}

    /// Blocks the signal in all threads of the child.
    pub(super) fn blocked_in(mut child: Command) -> Command {
        // SAFETY: it makes one system call, on memory of its own.
        unsafe {
            child.pre_exec(|| {
                mask(libc::SIG_BLOCK);
                Ok(())
            })
        };
        child
    }

    /// Unblocks the signal in this thread, and in those that it starts.
    pub(super) fn unblock() {
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

    /// Sends the signal at this interval. With `is_restarting`, the system restarts what it interrupts
    /// where it can.
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
