//! The loopback interface between minreq and the rest of the crate: nothing secret passes it, and
//! strangers who connect there get nothing and stop nothing.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use jas_session::Session;

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{Peer, Site, BOTH, TOKEN_REQUEST};
use wire::process::listening_ports;
use wire::{assert_nothing_left, assert_passes, held, response, this_test_alone, urls, PATIENCE};

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
const REFUSAL: &str = "content-of-a-refusal";

/// What only the server sees of a call, or says in one.
const SECRETS: [&str; 12] = [
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
    for seen in ["GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n", "HTTP/1.1 200\r\n", "JAS-Session: "] {
        assert!(minreq.contains(seen), "{seen:?} is not in {minreq:?}");
    }
    for secret in SECRETS {
        assert!(!minreq.contains(secret), "{secret} passes: {minreq}");
    }
    // Each head of a request has been written, and each head of a response been read.
    let calls = sites.into_iter().map(|site| site.requests().concat().len());
    let calls: usize = calls.sum();
    let ends = [("\r\nHost: 127.0.0.1:", calls), ("HTTP/1.1 401\r\n", BOTH.len())];
    for (text, count) in ends {
        // Once written and once read.
        assert_eq!(minreq.matches(text).count(), 2 * count, "{text:?}");
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

fn serve(mut peer: Peer) {
    let token = |token: &str| {
        let json =
            format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":600}}"#);
        response("200 OK", "", &json)
    };
    // The second token is requested on a connection of its own.
    let mut tokens = [NEW_TOKEN, TOKEN].to_vec();
    while let Some(request) = peer.request() {
        let is_old = request.head.contains(&format!("Bearer {TOKEN}\r\n"));
        let response = match &*request.line {
            TOKEN_REQUEST if peer.number == 0 => token(tokens.pop().unwrap_or(NEW_TOKEN)),
            TOKEN_REQUEST => token(NEW_TOKEN),
            "GET /refused" => response("409 Conflict", "", REFUSAL),
            "POST /renewed" if is_old => response("401 Unauthorized", "", REFUSAL),
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

/// What a crowd of strangers says, and how many they are.
const STRANGERS: &[(&str, usize)] = &[
    ("", 1),
    ("", 63),
    ("", 65),
    ("", 200),
    ("\r\n\r\n", 1),
    ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 1),
    ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 200),
    // A password, but not the one.
    ("GET / HTTP/1.1\r\nJAS-Session: \r\n\r\n", 1),
    ("GET / HTTP/1.1\r\nJAS-Session: 00000000000000000000000000000000\r\n\r\n", 1),
    ("GET / HTTP/1.1\r\nJAS-Session: 00000000000000000000000000000000\r\n\r\n", 200),
    ("GET / HTTP/1.1\r\nJAS-Session: ????????????????????????????????\r\n\r\n", 1),
    ("GET / HTTP/1.1\r\njas-session: 0\r\nJAS-Session: 0\r\nJAS-Session: 1\r\n\r\n", 1),
    // The beginning of what minreq says.
    ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nJAS-Session: ", 1),
    ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nJAS-Session: ", 200),
    ("G", 100),
    // Far more than minreq says, with an end and without.
    ("LONG", 5),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong", 100),
];

/// What they do then.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    Stay,
    SayNoMore,
    Leave,
}

/// The tests of strangers take turns: wine does not tell whose a listener is.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn strangers_that_come_before_minreq_get_nothing_and_stop_nothing() {
    const MOST: Duration = Duration::from_secs(5);
    if let [url] = &urls()[..] {
        // A call could wait for ever for a head that a stranger has taken.
        thread::spawn(|| {
            thread::sleep(PATIENCE * 6);
            eprintln!("a call never ends");
            std::process::exit(1);
        });
        let others = listening_ports();
        for (says, crowd) in STRANGERS {
            let says = says.replace("LONG", &"GET / HTTP/1.1\r\nX-A: b\r\n".repeat(5000));
            for then in [Then::Stay, Then::SayNoMore, Then::Leave] {
                let begin = &says[..says.len().min(60)];
                let what = format!("{crowd} say {begin:?} and {then:?}");
                let session = wire::session(url);
                let call = || session.get("/").and_then(jas_session::Response::text);
                assert_eq!(call().unwrap(), "GET /", "{what}");
                // minreq is awaited at one port, that of the connection that is idle now.
                let ports = listening_ports_but(&others);
                let [port] = ports[..] else {
                    panic!("{ports:?}");
                };
                let mut streams = strangers(port, says.as_bytes(), *crowd, then);
                for n in 0..3 {
                    let start = Instant::now();
                    assert_eq!(call().unwrap(), "GET /", "{what}");
                    let took = start.elapsed();
                    assert!(took < MOST, "{what}: {took:?}");
                    if took > MOST / 50 {
                        println!("{what}: call {n} took {took:?}");
                    }
                }
                for stream in &mut streams {
                    assert_got_nothing(stream, &what);
                }
                assert_eq!(listening_ports_but(&others), [port], "{what}");
            }
        }
        return;
    }
    let _turn = TURN.lock();
    let site = Site::start(site::Over::Plain, |mut peer| peer.serve_all());
    let test = "strangers_that_come_before_minreq_get_nothing_and_stop_nothing";
    assert_passes(this_test_alone(test, &[site.url()]));
    // Nobody else's request has come to the server, and none has come twice.
    let requests = site.requests();
    assert_eq!(requests.len(), STRANGERS.len() * 3);
    let each = requests.iter().all(|lines| lines[..] == ["GET /"; 4]);
    assert!(each, "{requests:?}");
}

#[test]
fn strangers_at_the_listener_get_nothing_and_stop_nothing() {
    const CALLS: usize = 200;
    const MET: usize = 20;
    if let [url] = &urls()[..] {
        let before = held();
        let others = &listening_ports();
        let done = AtomicBool::new(false);
        let met = AtomicUsize::new(0);
        // As minreq would say it, but for the password.
        let password = "0123456789abcdef".repeat(2);
        let greeting =
            format!("POST / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nJAS-Session: {password}\r\n\r\n");
        thread::scope(|scope| {
            // The last comes in a crowd, of more than are let in at a time.
            for (says, crowd) in [("", 1), (&greeting, 1), (&greeting[..60], 1), ("", 80)] {
                let (done, met) = (&done, &met);
                scope.spawn(move || {
                    while !done.load(Ordering::SeqCst) {
                        for port in listening_ports_but(others) {
                            met.fetch_add(passing_strangers(port, says, crowd), Ordering::SeqCst);
                        }
                    }
                });
            }
            let start = Instant::now();
            let mut calls = 0;
            let mut session = wire::session(url);
            let results = std::iter::from_fn(|| {
                let is_enough = calls >= CALLS && met.load(Ordering::SeqCst) >= MET;
                calls += 1;
                // Under wine a new port is gone before the strangers are told of it.
                if !cfg!(windows) || calls % 10 == 0 {
                    session = wire::session(url);
                }
                let call = || session.get("/").and_then(jas_session::Response::text);
                (!is_enough && start.elapsed() < PATIENCE).then(call)
            });
            let results: Vec<_> = results.collect();
            done.store(true, Ordering::SeqCst);
            println!(
                "{} calls, {} strangers, {:?}",
                results.len(),
                met.load(Ordering::SeqCst),
                start.elapsed()
            );
            for result in results {
                assert_eq!(result.unwrap(), "GET /");
            }
            assert_ne!(met.load(Ordering::SeqCst), 0, "no stranger has come in");
        });
        assert_nothing_left(before, "calls among strangers");
        return;
    }
    let _turn = TURN.lock();
    let site = Site::start(site::Over::Plain, |mut peer| peer.serve_all());
    let test = "strangers_at_the_listener_get_nothing_and_stop_nothing";
    assert_passes(this_test_alone(test, &[site.url()]));
    assert!(site.requests().concat().len() >= CALLS);
}

/// The ports at which minreq is awaited.
fn listening_ports_but(others: &[u16]) -> Vec<u16> {
    let mut ports = listening_ports();
    ports.retain(|port| !others.contains(port));
    ports
}

/// So many strangers connect and say this, as many as the system lets in.
fn strangers(port: u16, says: &[u8], crowd: usize, then: Then) -> Vec<TcpStream> {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
    let mut streams = Vec::new();
    for mut stream in (0..crowd).map_while(|_| connect()) {
        stream.set_nonblocking(true).unwrap();
        let _ = stream.write(says);
        match then {
            Then::Stay => streams.push(stream),
            Then::SayNoMore => {
                stream.shutdown(Shutdown::Write).unwrap();
                streams.push(stream);
            }
            Then::Leave => {}
        }
    }
    streams
}

/// So many strangers connect, say this and get nothing. Gives how many of them found a listener.
fn passing_strangers(port: u16, says: &str, crowd: usize) -> usize {
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok();
    let mut streams: Vec<_> = (0..crowd).map_while(|_| connect()).collect();
    // Where nobody listens any more, a connection may find itself.
    streams.retain(|stream| stream.local_addr().ok() != stream.peer_addr().ok());
    let says = &says.replace("PORT", &port.to_string());
    for stream in &mut streams {
        stream.set_read_timeout(Some(PATIENCE / 20)).unwrap();
        let _ = stream.write_all(says.as_bytes());
    }
    for stream in &mut streams {
        assert_got_nothing(stream, says);
    }
    streams.len()
}

fn assert_got_nothing(stream: &mut TcpStream, what: &str) {
    let mut got = [0; 64];
    if let Ok(n @ 1..) = stream.read(&mut got) {
        panic!("{what}: a stranger got {:?}", &got[..n]);
    }
}
