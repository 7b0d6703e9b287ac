//! minreq and the rest of the crate exchange heads over 127.0.0.1 at a token request: no secret passes
//! there, and no port is open at other times.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use jas_session::Session;

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{Peer, Site, BOTH, TOKEN_REQUEST};
use wire::process::listening_ports;
use wire::{assert_nothing_left, assert_passes, held, response, this_test_alone, urls, PATIENCE};

const TOKEN: &str = "secret-token";
const NEW_TOKEN: &str = "secret-renewal";
const CONTENT: &str = "secret-content";
const RESPONSE: &str = "secret-response";
const REFUSAL: &str = "secret-refusal";
const ECHO: &str = "secret-echo";

/// The texts that only the server receives or sends: each follows `secret-`.
const SECRETS: &str = "id password token renewal key field agent path query content response \
                       refusal echo";

/// Whether strace is there, can leave out calls (since its version 5.3), and may trace.
fn can_trace() -> bool {
    let mut strace = Command::new("strace");
    let strace = strace.args(["-f", "--seccomp-bpf", "-o", "/dev/null", "true"]);
    strace.stderr(Stdio::null());
    strace.status().is_ok_and(|status| status.success())
}

#[test]
fn no_secret_passes_the_loopback_interface() {
    if !urls().is_empty() {
        return urls().iter().for_each(|url| make_calls(url));
    }
    if !can_trace() {
        eprintln!("not tested: strace is missing or old, or may not trace");
        return;
    }
    let sites: Vec<_> = BOTH.iter().map(|over| Site::start(*over, serve)).collect();
    let urls: Vec<_> = sites.iter().map(Site::url).collect();
    let child = this_test_alone("no_secret_passes_the_loopback_interface", &urls);
    let trace = trace(&site::trusted_by(child));
    let ports: Vec<_> = sites.iter().map(|site| site.address.port()).collect();
    let (mut server, mut minreq) = (String::new(), String::new());
    for ((near, far), bytes) in passed(&trace) {
        let is_servers = ports.contains(&near) || ports.contains(&far);
        let text = if is_servers { &mut server } else { &mut minreq };
        *text += &(String::from_utf8_lossy(&bytes) + "\n\n");
    }
    // The first check makes sure that the right connections were read.
    for secret in SECRETS.split_whitespace() {
        assert!(server.contains(&format!("secret-{secret}")), "{secret} was not sent at all");
    }
    assert!(!minreq.contains("secret"), "a secret passes: {minreq}");
    // Only token requests pass, each once written and once read.
    let calls = sites.into_iter().map(|site| site.requests().concat());
    let calls = calls.flatten().filter(|line| line == TOKEN_REQUEST).count();
    assert_eq!(calls, 3 * BOTH.len());
    let refusal = ["503", "date: now", "retry-after: 7", "content-type: text/plain", "", ""];
    let refusal = format!("HTTP/1.1 {}", refusal.join("\r\n"));
    for (text, count) in [
        ("\r\nHost: 127.0.0.1:", calls),
        ("POST / HTTP/1.1\r\n", calls),
        ("\r\nJAS-Session: ", calls),
        ("HTTP/1.1 200\r\ndate: now\r\n\r\n", 2 * BOTH.len()),
        (&refusal, BOTH.len()),
    ] {
        assert_eq!(minreq.matches(text).count(), 2 * count, "{text:?} in {minreq}");
    }
}

/// Runs a test that must pass, and returns the system calls by which it reads and writes.
fn trace(test: &Command) -> String {
    let mut strace = Command::new("strace");
    strace.args(["-f", "--seccomp-bpf", "-yy", "-xx", "-s", "1000000", "-o", "/dev/stderr"]);
    strace.args(["-e", "trace=%network,read,write,readv,writev", "-e", "signal=none"]);
    strace.arg(test.get_program()).args(test.get_args());
    strace.envs(test.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = strace.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("test result: ok. 1 passed"), "{said}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// In a child: makes calls with all secrets.
fn make_calls(url: &str) {
    let session = Session::new(url, "secret-id", "secret-password")
        .and_then(|session| session.api_key("secret-key"))
        .and_then(|session| session.header("X-Own", "secret-field"))
        .and_then(|session| session.header("User-Agent", "secret-agent"))
        .unwrap();
    let session = site::trusting(session).timeout(PATIENCE).retries(0);
    let error = session.access_token().unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    for (name, value) in [("Date", "now"), ("content-type", "text/plain"), ("X-Echo", ECHO)] {
        assert_eq!(error.header(name), Some(value));
    }
    assert_eq!(error.content(), Some(REFUSAL.as_bytes()));
    assert_eq!(session.access_token().unwrap(), TOKEN);
    let path = "/secret-path?key=secret-query";
    let get = || session.get(path).unwrap().text().unwrap();
    assert_eq!(get(), RESPONSE);
    let booking = session.post(path, "application/json", CONTENT).unwrap();
    assert_eq!(booking.text().unwrap(), RESPONSE);
    let query = session.post_idempotent(path, "text/plain", CONTENT.repeat(4096));
    assert_eq!(query.unwrap().text().unwrap(), RESPONSE);
    let error = session.get("/refused").unwrap_err();
    assert_eq!(error.content(), Some(REFUSAL.as_bytes()));
    let renewed = session.post("/renewed", "text/plain", CONTENT).unwrap();
    assert_eq!(renewed.text().unwrap(), RESPONSE);
    assert_eq!(get(), RESPONSE);
}

/// Refuses the first token request. Each token request has its own connection.
fn serve(mut peer: Peer) {
    while let Some(request) = peer.request() {
        let fields = format!("Set-Cookie: {ECHO}\r\nDate: now\r\nX-Echo: {ECHO}\r\n");
        let token = |token: &str| {
            let json =
                format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":600}}"#);
            response("200 OK", &fields, &json)
        };
        let busy = format!("{fields}Retry-After: 7\r\nContent-Type: text/plain\r\n");
        let is_old = request.head.contains(&format!("Bearer {TOKEN}\r\n"));
        let response = match (&*request.line, peer.number) {
            (TOKEN_REQUEST, 0) => response("503 Busy", &busy, REFUSAL),
            (TOKEN_REQUEST, 1) => token(TOKEN),
            (TOKEN_REQUEST, _) => token(NEW_TOKEN),
            ("GET /refused", _) => response("409 Conflict", "", REFUSAL),
            ("POST /renewed", _) if is_old => response("401 Unauthorized", "", REFUSAL),
            _ => response("200 OK", "", RESPONSE),
        };
        peer.respond(&response);
    }
}

/// The bytes that passed each TCP connection within 127.0.0.1, by its two ports, in strace's output.
fn passed(trace: &str) -> HashMap<(u16, u16), Vec<u8>> {
    let mut passed: HashMap<_, Vec<u8>> = HashMap::new();
    let mut unfinished: HashMap<&str, &str> = HashMap::new();
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let whole = if let Some(begin) = call.strip_suffix("<unfinished ...>") {
            unfinished.insert(pid, begin);
            continue;
        } else if let Some((_, end)) = call.split_once(" resumed>") {
            unfinished.remove(pid).unwrap_or_default().to_owned() + end
        } else {
            call.to_owned()
        };
        let connection = whole.split_once("<TCP:[127.0.0.1:");
        let connection = connection.and_then(|(_, rest)| rest.split_once("]>"));
        let Some((ends, rest)) = connection else { continue };
        let Some((near, far)) = ends.split_once("->127.0.0.1:") else { continue };
        let ends = (near.parse().unwrap(), far.parse().unwrap());
        let bytes = rest.split("\\x").skip(1);
        let bytes = bytes.filter_map(|part| u8::from_str_radix(part.get(..2)?, 16).ok());
        passed.entry(ends).or_default().extend(bytes);
    }
    passed
}

#[test]
fn port_is_open_only_while_a_token_is_requested() {
    if let [url] = &urls()[..] {
        let session = wire::session(url);
        let (others, before) = (listening_ports(), held());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..300 {
                    let result = match n % 3 {
                        0 => session.get("/"),
                        1 => session.post("/", "text/plain", "create"),
                        _ => session.post_idempotent("/", "text/plain", "query"),
                    };
                    result.unwrap();
                }
                done.store(true, Ordering::SeqCst);
            });
            while !done.load(Ordering::SeqCst) {
                assert_eq!(listening_ports(), others);
            }
        });
        session.invalidate("token");
        session.access_token().unwrap();
        assert_eq!(listening_ports(), others);
        drop(session);
        assert_nothing_left(before, "calls and a token request");
        return;
    }
    let site = Site::start(site::Over::Plain, |mut peer| peer.serve_all());
    assert_passes(this_test_alone("port_is_open_only_while_a_token_is_requested", &[site.url()]));
    assert_eq!(site.requests().concat().len(), 301);
}
