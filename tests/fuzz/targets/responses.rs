//! Plays bytes as the responses of a token endpoint and of an API to calls of a session, over
//! loopback, and checks what the crate promises (`src/guarantees.md`) against a simple reading of
//! the same bytes.
//!
//! The first eight bytes are parameters ([`Play::of`]). The token endpoint's response follows and,
//! after a line `%%`, the API's. Without such a line there is no token request: the session holds a
//! token. After a line `&&` follows the response to a second call, if its request comes on a used
//! connection.
#![no_main]

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{fs, thread};

use jas_session::miniserde::json::{self, Value};
use jas_session::{Error, ErrorKind, Response, Session};
use libfuzzer_sys::fuzz_target;

mod play;
mod reader;
mod server;
use play::{Call, End, Play, Reading};
use reader::{read, Content, Reference};
use server::{Received, Request, API_PATH, BUSY, OVER, SERVER};

/// Secrets that no message may show. Seeds and dictionary contain them.
const SECRET: &str = "hush-5f1d2c3b4a59";
const TOKEN: &str = "tok-9e8d7c6b5a40";
const KEY: &str = "key-0a1b2c3d4e5f";

/// Maximum duration of a call whose server closes or sends all that it announces, and of a call whose
/// server may be silent.
const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(5);
/// How much later than its timeout a call may end.
const LATE: Duration = Duration::from_millis(500);
/// Failures that a busy machine may cause are a finding after this many in a row.
const RUNS: u32 = 3;
/// How long the server waits for a dropped session to close its connections.
const PATIENCE: Duration = Duration::from_secs(20);
/// Threads and sockets are counted each time after this many executions.
const COUNT_EVERY: u64 = 256;

fuzz_target!(|data: &[u8]| {
    let Some(play) = Play::of(data) else { return };
    let mut runs = 1;
    while let Err(why) = run(&play) {
        assert!(runs < RUNS, "{why}");
        runs += 1;
    }
});

/// Plays once; the error is something that a busy machine can be the reason of.
fn run(play: &Play) -> Result<(), String> {
    let server = SERVER.lock().unwrap();
    server.plays.send(play.clone()).unwrap();
    let mut session = Session::new(&format!("http://{}", server.address), "id", SECRET)
        .and_then(|session| session.api_key(KEY))
        .unwrap()
        .timeout(play.timeout())
        .retries(play.retries);
    if play.token.is_none() {
        session = session.resume(TOKEN, Duration::from_secs(600)).unwrap();
    }
    let start = Instant::now();
    let outcome = call(&session, play);
    let took = start.elapsed();
    let held = session.held_token();
    // Where a token has to be requested, or is renewed early, another response comes in between.
    let is_held = matches!(&held, Some((_, left)) if *left > Duration::from_secs(61));
    let next = (outcome.is_ok() && is_held).then(|| next_call(&session));
    drop(session);
    TcpStream::connect(server.address).and_then(|mut stream| stream.write_all(OVER)).unwrap();
    let received = server.received.recv().unwrap();
    let held = held.map(|(token, _)| token);
    check(play, &outcome, &received, held.as_deref());
    count_what_is_left();
    if took > play.timeout() + LATE {
        let timeout = play.timeout();
        return Err(format!("a call with {timeout:?} ended after {took:?}"));
    }
    next.map_or(Ok(()), |next| check_next(play, &next, &received, held))
}

/// A second call, when all of the first one's response is there. Its server always closes.
fn next_call(session: &Session) -> Result<Vec<u8>, Error> {
    while BUSY.load(Ordering::SeqCst) > 0 {
        thread::yield_now();
    }
    let session = session.clone().timeout(LONG);
    session.get("/b").and_then(Response::bytes)
}

/// What came of a call: its content (none if it was not read).
type Outcome = Result<Option<Vec<u8>>, Error>;

fn call(session: &Session, play: &Play) -> Outcome {
    let media_type = "application/json";
    let response = match play.call {
        Call::Get => session.get("/a"),
        Call::Post => session.post("/a", media_type, "{}"),
        Call::PostIdempotent => session.post_idempotent("/a", media_type, "{}"),
        Call::PostJson => session.post_json("/a", "a"),
        Call::AccessToken => {
            return session.access_token().map(|token| Some(token.into_bytes()));
        }
    }?;
    assert!((200..300).contains(&response.status()));
    let response = match play.limit {
        Some(limit) => response.limit(limit),
        None => response,
    };
    match play.reading {
        Reading::Bytes => response.bytes().map(Some),
        Reading::Text => response.text().map(|text| Some(text.into_bytes())),
        Reading::Json => {
            response.json::<Value>().map(|value| Some(json::to_string(&value).into_bytes()))
        }
        Reading::Pieces(size) => pieces(response, size).map(Some),
        Reading::None => Ok(None),
    }
}

fn pieces(mut response: Response, size: usize) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    let mut piece = vec![0; size];
    loop {
        assert_eq!(response.read(&mut []).unwrap(), 0);
        match response.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => content.extend_from_slice(&piece[..n]),
            Err(error) => {
                assert!(
                    response.read(&mut piece).is_err(),
                    "what is truncated stays truncated: {error:?}"
                );
                let error = error.into_inner().unwrap();
                return Err(*error.downcast::<Error>().unwrap());
            }
        }
    }
    assert_eq!(response.read(&mut piece).unwrap(), 0, "the end stays the end");
    Ok(content)
}

fn check(play: &Play, outcome: &Outcome, received: &Received, held: Option<&str>) {
    let sent = play.sent();
    check_requests(play, received, &sent);
    let reading = read(&sent, play.closes());
    match outcome {
        Err(error) => check_error(play, error, received, &reading, held),
        Ok(None) => assert!(matches!(reading.status, Some(200..=299)), "{reading:?}"),
        Ok(Some(token)) if play.call == Call::AccessToken => {
            assert_eq!(Some(token.as_slice()), held.map(str::as_bytes));
            assert_eq!(received.api.len(), 0);
        }
        Ok(Some(content)) => check_content(play, content, &reading),
    }
}

/// A plain POST is received once, or once more after its token was refused, and always on a
/// connection of its own. Other requests are received once more for each retry, and for each
/// connection in use on which they got no response.
fn check_requests(play: &Play, received: &Received, sent: &[u8]) {
    let refuses = |response: &[u8]| {
        let mut letters = response.to_ascii_lowercase();
        letters.retain(u8::is_ascii_alphabetic);
        contains(response, b"401") || contains(&letters, b"token")
    };
    let is_refused = refuses(sent);
    let is_plain = matches!(play.call, Call::Post | Call::PostJson);
    let retries = if is_plain { 0 } else { play.retries as usize };
    let in_use = |requests: &[Request]| requests.iter().filter(|one| !one.is_first).count();
    let reused = in_use(&received.api);
    assert!(!is_plain || reused == 0, "{reused} creates on one in use");
    let most = 1 + retries + usize::from(is_refused) + reused;
    assert!(received.api.len() <= most, "received {} times", received.api.len());
    let refusals = usize::from(is_refused) + usize::from(refuses(play.next()));
    let most = (1 + play.retries as usize) * (1 + refusals) + in_use(&received.token);
    assert!(received.token.len() <= most, "{} token requests", received.token.len());
    for request in &received.token {
        assert!(!contains(&request.bytes, KEY.as_bytes()));
    }
    // A token endpoint may hand out anything as a token.
    let is_token = |token: &Vec<u8>| contains(token, SECRET.as_bytes());
    let is_handed_out = play.token.as_ref().is_some_and(is_token);
    for request in &received.api {
        assert!(is_handed_out || !contains(&request.bytes, SECRET.as_bytes()));
        let text = String::from_utf8_lossy(&request.bytes);
        let is_whole = play.end != End::Reset && text.contains("\r\n\r\n");
        assert!(!is_whole || text.contains(API_PATH) && text.contains(KEY), "{text}");
    }
}

fn check_error(
    play: &Play, error: &Error, received: &Received, reading: &Reference, held: Option<&str>,
) {
    check_shown(play, error, held);
    // With seconds left, an error must not say that the timeout has passed.
    let is_lively = play.timeout() == LONG;
    assert!(!is_lively || error.kind() != ErrorKind::Timeout, "{error}");
    if error.kind() == ErrorKind::InvalidToken {
        assert!(error.content().is_none() && error.status().is_none());
    }
    if !error.may_have_executed() && !received.api.is_empty() {
        let is_refused = matches!(reading.status, Some(400..=499));
        assert!(is_refused, "the API has received it: {error:?}");
    }
    if error.may_have_executed() {
        assert_ne!(play.call, Call::AccessToken, "{error:?}");
    }
}

fn check_shown(play: &Play, error: &Error, held: Option<&str>) {
    let mut shown = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(below) = cause {
        let _ = write!(shown, " {below} {below:?}");
        cause = below.source();
    }
    // No server makes minreq fail.
    assert!(!shown.contains("minreq can't be used"), "{shown}");
    for secret in secrets(play, error, held) {
        assert!(!shown.contains(secret), "{shown} shows {secret}");
    }
    assert!(!error.to_string().contains(char::is_control), "{error}");
    assert!(error.content().is_none_or(|content| content.len() <= 64 * 1024));
    assert_ne!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

/// The second call gets what was sent for it, and nothing of what was sent before. A response that
/// is still on its way when the connection is looked at can be taken for its own.
fn check_next(
    play: &Play, outcome: &Result<Vec<u8>, Error>, received: &Received, held: Option<String>,
) -> Result<(), String> {
    let is_fresh = received.next.last().is_some_and(|request| request.is_first);
    let expected = match read(play.next(), true) {
        _ if is_fresh => Some(b"fresh".to_vec()),
        Reference { status: Some(200..=299), content: Content::Whole(content) } => Some(content),
        _ => None,
    };
    let is_good = match outcome {
        Ok(content) => expected.as_ref() == Some(content),
        Err(error) => {
            check_shown(play, error, held.as_deref());
            play.next.is_some() && received.next.iter().any(|request| !request.is_first)
        }
    };
    if is_good {
        return Ok(());
    }
    let shown = |content: &Vec<u8>| String::from_utf8_lossy(content).into_owned();
    let (outcome, expected) = (outcome.as_ref().map(shown), expected.as_ref().map(shown));
    Err(format!("the second call got {outcome:?}, not {expected:?}, fresh: {is_fresh}"))
}

/// What no message may show of what the server that responded may echo. The token endpoint knows
/// neither key nor older tokens; its 2xx response, which holds a new token, is never quoted.
fn secrets<'a>(play: &Play, error: &Error, held: Option<&'a str>) -> Vec<&'a str> {
    let mut secrets = vec![SECRET];
    if !error.to_string().starts_with("token request") {
        secrets.push(KEY);
        // A short token may be in a message by chance.
        secrets.extend(held.filter(|held| held.len() >= 12));
    } else if let (ErrorKind::InvalidToken, Some(token)) = (error.kind(), &play.token) {
        let text = String::from_utf8_lossy(token);
        let given = format!("\"access_token\":\"{TOKEN}\"");
        if text.contains(&given) && text.matches("access_token").count() == 1 {
            secrets.push(TOKEN);
        }
    }
    secrets
}

fn check_content(play: &Play, content: &[u8], reading: &Reference) {
    assert!(matches!(reading.status, Some(200..=299)), "{reading:?}");
    let expected = match &reading.content {
        Content::Whole(expected) => expected.clone(),
        Content::Unusable => panic!("{content:?} is taken for whole: {reading:?}"),
    };
    let limit = play.limit.unwrap_or(1024 * 1024);
    let is_limited = !matches!(play.reading, Reading::Pieces(_));
    assert!(!is_limited || expected.len() as u64 <= limit, "over the limit");
    let expected = match play.reading {
        Reading::Text => expected.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&expected).to_vec(),
        Reading::Json => {
            let text = std::str::from_utf8(&expected).unwrap();
            let value: Value = json::from_str(text.trim_start_matches('\u{feff}')).unwrap();
            json::to_string(&value).into_bytes()
        }
        _ => expected,
    };
    assert_eq!(content, expected, "{reading:?}");
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Checks that a dropped session leaves no thread and no socket.
fn count_what_is_left() {
    static SEEN: Mutex<(u64, usize, usize)> = Mutex::new((0, usize::MAX, usize::MAX));
    let mut seen = SEEN.lock().unwrap();
    seen.0 += 1;
    if seen.0 % COUNT_EVERY != 0 {
        return;
    }
    let entries = |path| fs::read_dir(path).unwrap().count();
    let start = Instant::now();
    loop {
        let (threads, files) = (entries("/proc/self/task"), entries("/proc/self/fd"));
        if seen.1 == usize::MAX {
            (seen.1, seen.2) = (threads, files);
        }
        // The system lists a joined thread for a moment more.
        if threads <= seen.1 && files <= seen.2 {
            return;
        }
        let limit = (seen.1, seen.2);
        assert!(start.elapsed() < PATIENCE, "{threads} threads, {files} files, not {limit:?}");
        thread::sleep(Duration::from_millis(1));
    }
}
