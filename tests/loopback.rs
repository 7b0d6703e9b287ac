//! The loopback interface between minreq and the rest of the crate, at a token request: nothing secret
//! passes it, and strangers who connect there get nothing and stop nothing.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{ErrorKind, Session};

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{Peer, Site, BOTH, TOKEN_REQUEST};
use wire::process::listening_ports;
use wire::{
    assert_nothing_left, assert_passes, held, response, this_test_alone, urls, LATE, PATIENCE,
};

// What passes

const CLIENT_ID: &str = "id-of-the-client";
const CLIENT_SECRET: &str = "secret-of-the-client";
const TOKEN: &str = "token-of-the-api";
const NEW_TOKEN: &str = "token-that-replaces-it";
const API_KEY: &str = "key-of-the-api";
const FIELD: &str = "value-of-an-own-field";
const AGENT: &str = "agent-of-the-caller";
const PATH: &str = "path-of-the-shipment";
const QUERY: &str = "query-of-the-caller";
const CONTENT: &str = "content-of-the-request";
const RESPONSE: &str = "content-of-the-response";
const ECHO: &str = "what-the-endpoint-echoes";
const REFUSAL: &str = "content-of-a-refusal";

/// What only the server sees of a call, or says in one.
const SECRETS: [&str; 13] = [
    ECHO,
    CLIENT_ID,
    CLIENT_SECRET,
    TOKEN,
    NEW_TOKEN,
    API_KEY,
    FIELD,
    AGENT,
    PATH,
    QUERY,
    CONTENT,
    RESPONSE,
    REFUSAL,
];

/// Whether calls can be traced here.
fn can_trace() -> bool {
    let mut strace = Command::new("strace");
    let strace = strace.args(["-f", "-o", "/dev/null", "true"]);
    strace.stderr(Stdio::null());
    strace.status().is_ok_and(|status| status.success())
}

#[test]
fn nothing_secret_passes_the_loopback_interface_but_to_the_server() {
    if !urls().is_empty() {
        return urls().iter().for_each(|url| make_calls(url));
    }
    if !can_trace() {
        eprintln!("not tested: strace is missing, or may not trace");
        return;
    }
    let sites: Vec<_> = BOTH.iter().map(|over| Site::start(*over, serve)).collect();
    let urls: Vec<_> = sites.iter().map(Site::url).collect();
    let test = "nothing_secret_passes_the_loopback_interface_but_to_the_server";
    let alone = site::trusted_by(this_test_alone(test, &urls));
    let mut child = Command::new("strace");
    child.args(["-f", "-yy", "-xx", "-s", "1000000", "-o", "/dev/stderr"]);
    child.args(["-e", "trace=%network,read,write,readv,writev", "-e", "signal=none"]);
    child.arg(alone.get_program()).args(alone.get_args());
    let variables = alone.get_envs();
    child.envs(variables.filter_map(|(name, value)| Some((name, value?))));
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("test result: ok. 1 passed"), "{said}");

    let ports: Vec<_> = sites.iter().map(|site| site.address.port()).collect();
    let passed = passed(&String::from_utf8_lossy(&output.stderr));
    let (server, minreq): (Vec<_>, Vec<_>) = passed
        .into_iter()
        .partition(|(ends, _)| ports.contains(&ends.0) || ports.contains(&ends.1));
    let of = |connections: Vec<((u16, u16), Vec<u8>)>| {
        let all: Vec<_> = connections.into_iter().map(|(_, bytes)| bytes).collect();
        String::from_utf8_lossy(&all.join(&b"\n\n"[..])).into_owned()
    };
    let (server, minreq) = (of(server), of(minreq));
    // What it would look like, and a check that the right connections were read.
    for secret in SECRETS {
        assert!(server.contains(secret), "{secret} was not sent at all");
    }
    for secret in SECRETS {
        assert!(!minreq.contains(secret), "{secret} passes: {minreq}");
    }
    // Only token requests pass, each once written and once read.
    let calls = sites.into_iter().map(|site| site.requests().concat());
    let calls: Vec<_> = calls.flatten().filter(|line| line == TOKEN_REQUEST).collect();
    assert_eq!(calls.len(), 3 * BOTH.len());
    let refusal = ["503", "date: now", "retry-after: 7", "content-type: text/plain", "", ""];
    let refusal = format!("HTTP/1.1 {}", refusal.join("\r\n"));
    for (text, count) in [
        ("\r\nHost: 127.0.0.1:", calls.len()),
        ("POST / HTTP/1.1\r\n", calls.len()),
        ("\r\nJAS-Session: ", calls.len()),
        ("HTTP/1.1 200\r\ndate: now\r\n\r\n", 2 * BOTH.len()),
        (&refusal, BOTH.len()),
    ] {
        assert_eq!(minreq.matches(text).count(), 2 * count, "{text:?} in {minreq}");
    }
}

/// In a child: calls with all that is secret.
fn make_calls(url: &str) {
    let session = Session::new(url, CLIENT_ID, CLIENT_SECRET)
        .and_then(|session| session.api_key(API_KEY))
        .and_then(|session| session.header("X-Own", FIELD))
        .and_then(|session| session.header("User-Agent", AGENT))
        .unwrap();
    let session = site::trusting(session).timeout(PATIENCE).retries(0);
    let error = session.access_token().unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    for (name, value) in [("Date", "now"), ("content-type", "text/plain"), ("X-Echo", ECHO)] {
        assert_eq!(error.header(name), Some(value));
    }
    assert_eq!(error.content(), Some(REFUSAL.as_bytes()));
    assert_eq!(session.access_token().unwrap(), TOKEN);
    let path = format!("/{PATH}?key={QUERY}");
    let get = || session.get(&path).unwrap().text().unwrap();
    assert_eq!(get(), RESPONSE);
    let booking = session.post(&path, "application/json", CONTENT).unwrap();
    assert_eq!(booking.text().unwrap(), RESPONSE);
    let query = session.post_idempotent(&path, "text/plain", CONTENT.repeat(4096));
    assert_eq!(query.unwrap().text().unwrap(), RESPONSE);
    let error = session.get("/refused").unwrap_err();
    assert_eq!(error.content(), Some(REFUSAL.as_bytes()));
    let renewed = session.post("/renewed", "text/plain", CONTENT).unwrap();
    assert_eq!(renewed.text().unwrap(), RESPONSE);
    assert_eq!(get(), RESPONSE);
}

/// The first token request is refused; each later one has a connection of its own, too.
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

/// What has passed each TCP connection within 127.0.0.1, by its two ports, as strace tells it.
fn passed(trace: &str) -> HashMap<(u16, u16), Vec<u8>> {
    let mut passed: HashMap<_, Vec<u8>> = HashMap::new();
    let mut unfinished: HashMap<&str, &str> = HashMap::new();
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let whole = if let Some(begin) = call.strip_suffix("<unfinished ...>") {
            unfinished.insert(pid, begin);
            continue;
        } else if let Some((_, end)) = call.split_once(" resumed>") {
            unfinished.remove(pid).unwrap_or_default().to_owned() + end
        } else {
            call.to_owned()
        };
        let Some((_, rest)) = whole.split_once("<TCP:[127.0.0.1:") else {
            continue;
        };
        let Some((ends, rest)) = rest.split_once("]>") else {
            continue;
        };
        let Some((near, far)) = ends.split_once("->127.0.0.1:") else {
            continue;
        };
        let ends = (near.parse().unwrap(), far.parse().unwrap());
        let bytes = rest.split("\\x").skip(1).filter_map(|part| {
            let digits = part.get(..2)?;
            u8::from_str_radix(digits, 16).ok()
        });
        passed.entry(ends).or_default().extend(bytes);
    }
    passed
}

// Strangers

/// The tests that look for ports take turns: wine does not tell whose a port is.
static TURN: Mutex<()> = Mutex::new(());

/// How long a token request may take among strangers.
const SHORT: Duration = Duration::from_millis(100);

#[test]
fn a_port_is_open_only_while_a_token_is_requested() {
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
    let _turn = TURN.lock();
    let site = Site::start(site::Over::Plain, |mut peer| peer.serve_all());
    assert_passes(this_test_alone("a_port_is_open_only_while_a_token_is_requested", &[site.url()]));
    assert_eq!(site.requests().concat().len(), 301);
}

/// What a stranger says, and how many come at a time.
const STRANGERS: [(&str, usize); 6] = [
    ("", 1),
    ("", 200),
    ("drip", 1),
    ("POST / HTTP/1.1\r\nJAS-Session: 0123456789abcdef0123456789abcdef\r\n\r\n", 1),
    ("POST / HTTP/1.1\r\nJAS-Session: 0123456789abcdef0123456789abcdef\r\n\r\n", 200),
    ("POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nJAS-Session: ", 70),
];

#[test]
fn strangers_get_nothing_and_delay_no_token_request() {
    const MET: usize = 5;
    if let [url] = &urls()[..] {
        let before = held();
        for (says, crowd) in STRANGERS {
            let (done, met) = (AtomicBool::new(false), AtomicUsize::new(0));
            let others = listening_ports();
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Ordering::SeqCst) {
                        let ports = listening_ports().into_iter();
                        for port in ports.filter(|port| !others.contains(port)) {
                            met.fetch_add(passing_strangers(port, says, crowd), Ordering::SeqCst);
                        }
                    }
                });
                let start = Instant::now();
                let mut results = Vec::new();
                while met.load(Ordering::SeqCst) < MET && start.elapsed() < PATIENCE {
                    let session = Session::new(url, "id", "secret").unwrap();
                    let start = Instant::now();
                    let result = session.timeout(SHORT).retries(0).access_token();
                    results.push((result, start.elapsed()));
                }
                done.store(true, Ordering::SeqCst);
                let good = results.iter().filter(|(result, _)| result.is_ok()).count();
                println!("{says:?}, {crowd}: {met:?} met, {good} of {} good", results.len());
                for (result, took) in results {
                    assert!(took < SHORT + LATE, "{took:?}");
                    match result {
                        Ok(token) => assert_eq!(token, "new"),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Timeout, "{error}"),
                    }
                }
                assert_ne!(met.load(Ordering::SeqCst), 0, "no stranger has come in");
            });
            assert_nothing_left(before, says);
        }
        return;
    }
    let _turn = TURN.lock();
    let site = Site::start(site::Over::Plain, |mut peer| peer.serve_all());
    let test = "strangers_get_nothing_and_delay_no_token_request";
    assert_passes(this_test_alone(test, &[site.url()]));
}

/// So many strangers come to this port, say this, and wait for what it says. Returns how many
/// found it open.
fn passing_strangers(port: u16, says: &str, crowd: usize) -> usize {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let connect = || TcpStream::connect_timeout(&address, SHORT).ok();
    let mut streams: Vec<_> = (0..crowd).map_while(|_| connect()).collect();
    for stream in &mut streams {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = match says {
            "drip" => drip(stream),
            says => stream.write_all(says.as_bytes()),
        };
    }
    for stream in &mut streams {
        let mut heard = Vec::new();
        // A reset is a close, too.
        let _ = stream.read_to_end(&mut heard);
        assert_eq!(String::from_utf8_lossy(&heard), "");
    }
    streams.len()
}

/// Says a byte every 1.5 ms until it is closed.
fn drip(stream: &mut TcpStream) -> std::io::Result<()> {
    loop {
        stream.write_all(b"P")?;
        thread::sleep(Duration::from_micros(1500));
    }
}
