//! The two ends of what the scripts beside it show: a server that stands in a network namespace of
//! its own and can cut its link, and a client that makes one call and prints a row of a Markdown
//! table.

use std::error::Error as _;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, iter, panic, thread};

use base64::Engine as _;
use jas_session::{Error, ErrorKind, Session};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

#[path = "../support/wire/mod.rs"]
mod wire;
use wire::process::{sockets, threads};
use wire::{LATE, PATIENCE};

/// How long the content of `/large` is; that of most responses is a token.
const LARGE: usize = 256 * 1024;
const TOKEN: &str = r#"{"access_token":"abc","token_type":"Bearer","expires_in":600}"#;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", address, root] => serve(address, root),
        ["call", name, timeout, expected, url, ref options @ ..] => {
            return call(name, timeout, expected, url, options)
        }
        _ => panic!("run by the scripts in tests/network only"),
    }
    ExitCode::SUCCESS
}

// The server

/// Serves until it is killed: TLS on port 443, a link that is cut in the handshake on port 444, and a
/// name server that knows no name. The file `root` appears when all of it is there.
fn serve(address: &str, root: &str) {
    let names = ["api.test", "two.test", address].map(str::to_owned);
    let own = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key);
    let config = Arc::new(config.unwrap());

    let names = UdpSocket::bind((address, 53)).unwrap();
    let dying = TcpListener::bind((address, 444)).unwrap();
    let listener = TcpListener::bind((address, 443)).unwrap();
    let base64 = base64::engine::general_purpose::STANDARD.encode(own.cert.der());
    let lines: Vec<_> = base64.as_bytes().chunks(64).collect();
    let pem = [&b"-----BEGIN CERTIFICATE-----"[..], &lines.join(&b'\n')].join(&b'\n');
    fs::write(root, [&pem[..], b"\n-----END CERTIFICATE-----\n"].concat()).unwrap();

    thread::spawn(move || know_no_name(&names));
    thread::spawn(move || {
        for stream in dying.incoming().map(Result::unwrap) {
            // The ClientHello is there.
            stream.peek(&mut [0]).unwrap();
            cut_link();
            thread::spawn(move || wire::until_closed(&mut &stream));
        }
    });
    for stream in listener.incoming().map(Result::unwrap) {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        // Errors do not count: the client may close at any time.
        thread::spawn(move || serve_client(StreamOwned::new(connection, stream)));
    }
}

/// Responds to requests until the client closes.
fn serve_client(mut stream: StreamOwned<ServerConnection, TcpStream>) -> io::Result<()> {
    stream.sock.set_nodelay(true)?;
    let mut received = String::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => received += &String::from_utf8_lossy(&buffer[..n]).to_lowercase(),
        }
        let path = received.split(' ').nth(1).unwrap_or_default();
        if !is_complete(&received) && path != "/cut/request" {
            continue;
        }
        let content = match path {
            "/large" | "/cut/content" => "x".repeat(LARGE),
            _ => TOKEN.to_owned(),
        };
        let length = content.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let sent = match path {
            "/cut/request" => 0,
            "/cut/head" => head.len() - 4,
            "/cut/content" => head.len() + 1000,
            _ => head.len() + length,
        };
        stream.write_all(&(head + &content).as_bytes()[..sent])?;
        stream.flush()?;
        if path.starts_with("/cut/") {
            cut_link();
        }
        received.clear();
    }
}

/// The request has a head and, if that announces it, its content.
fn is_complete(received: &str) -> bool {
    let Some((head, content)) = received.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.split_once("\r\ncontent-length: ");
    let length = length.and_then(|(_, rest)| rest.lines().next()?.parse().ok());
    content.len() >= length.unwrap_or(0)
}

/// From now on packets are dropped, both ways, until the script heals the link.
fn cut_link() {
    for chain in ["INPUT", "OUTPUT"] {
        let status = Command::new("iptables").args(["-P", chain, "DROP"]).status();
        assert!(status.unwrap().success());
    }
}

/// NXDOMAIN, whatever is asked ([RFC 1035, section
/// 4.1.1](https://www.rfc-editor.org/rfc/rfc1035#section-4.1.1)).
fn know_no_name(socket: &UdpSocket) {
    let mut message = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut message).unwrap();
        message[2] |= 0x80; // a response
        message[3] = 0x83; // recursion is available; the name is not
        socket.send_to(&message[..length], from).unwrap();
    }
}

// The client

/// Sends a create and prints what came of it. Fails unless that is as expected: a text in the
/// outcome, the time, and what the options say.
///
/// - `executed`: the API may have acted.
/// - `least=MS`, `most=MS`: it takes that long.
/// - `get`: a GET is sent instead.
/// - `warm`: after a call that succeeds; `then=COMMAND`: and after this.
/// - `idle=N`: so many connections are idle then. Without this option one is if the call succeeds.
/// - `leaves=N`: each of N calls leaves a thread and a socket of the system's, which go when that
///   gives up.
/// - `cold`: a token has to be requested, of an endpoint whose link dies.
/// - `fresh`: a token has to be requested, and can be.
/// - `proxy=URL`: through this proxy; `environment`: through the environment's.
/// - `root=FILE`: trusts this certificate, too.
/// - `content=BYTES`: so large a create.
/// - `files=N`: only so many can be opened during the call; with `later`, during one before it.
/// - `fault=PART`: a known fault; fails when it has been mended, so that the option goes.
fn call(name: &str, timeout: &str, expected: &str, url: &str, options: &[&str]) -> ExitCode {
    static HAS_PANICKED: AtomicBool = AtomicBool::new(false);
    panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        HAS_PANICKED.store(true, Ordering::SeqCst);
    }));
    let value = |name: &str| value(options, name);
    let number = |name: &str| value(name).map(|value| value.parse::<usize>().unwrap());
    let leaves = number("leaves=").unwrap_or_default();
    let content = "x".repeat(number("content=").unwrap_or(1));
    let milliseconds = |n: usize| Duration::from_millis(n as u64);
    let timeout = milliseconds(timeout.parse().unwrap());
    let least = milliseconds(number("least=").unwrap_or_default());
    let most = number("most=").map_or(timeout + LATE, milliseconds);
    let (base, path) = url.split_once(" /").unwrap();
    let path = format!("/{path}");
    let session = session(base, options).timeout(timeout);
    let make_call = || {
        if options.contains(&"get") {
            session.get(&path)
        } else {
            session.post(&path, "text/plain", &content)
        }
    };

    let before = (threads(), sockets());
    if options.contains(&"warm") {
        make_call().unwrap().text().unwrap();
    }
    if let Some(command) = value("then=") {
        let status = Command::new("sh").args(["-c", command]).status();
        assert!(status.unwrap().success());
    }
    let mut open = Vec::new();
    if let Some(files) = number("files=") {
        open.extend(iter::from_fn(|| fs::File::open("/dev/null").ok()));
        open.truncate(open.len() - files);
    }
    if options.contains(&"later") {
        let _ = make_call();
        open.clear();
    }
    let mut faults = Vec::new();
    let mut row = String::new();
    let mut idle = 0;
    for _ in 0..leaves.max(1) {
        let start = Instant::now();
        let result = make_call().and_then(jas_session::Response::text);
        let took = start.elapsed();
        let is_timeout = matches!(&result, Err(error) if error.kind() == ErrorKind::Timeout);
        let (outcome, executed) = match result {
            Ok(text) => {
                idle = 1;
                (format!("ok, {} bytes", text.len()), false)
            }
            Err(error) => (told(&error), error.may_have_executed()),
        };
        if took > most || took < least || is_timeout && took < timeout {
            faults.push("time");
        }
        if !outcome.contains(expected) {
            faults.push("outcome");
        }
        if executed != options.contains(&"executed") {
            faults.push("executed");
        }
        row = format!("{name} | {timeout:.1?} | {took:.2?} | {outcome} | {executed}");
    }
    drop(open);
    if HAS_PANICKED.load(Ordering::SeqCst) {
        faults.push("panic");
    }

    let idle = number("idle=").unwrap_or(idle);
    let expected_now = (leaves, leaves + idle);
    let (threads_now, sockets_now) = held_more(before, expected_now, LATE);
    if (threads_now, sockets_now) != expected_now {
        faults.push("left");
    }
    // Idle connections end with their session.
    drop(session);
    let start = Instant::now();
    let patience = if leaves == 0 { LATE } else { PATIENCE };
    let gone = match held_more(before, (0, 0), patience) {
        (0, 0) if leaves == 0 => String::new(),
        (0, 0) => format!("; none after {:.1?} more", start.elapsed()),
        _ => {
            faults.push("stays");
            "; they stay".to_owned()
        }
    };
    let mark = if faults.is_empty() { "" } else { "**fault:** " };
    println!("| {mark}{row} | {threads_now}, {sockets_now}{gone} |");
    if faults.iter().eq(value("fault=").iter()) {
        return ExitCode::SUCCESS;
    }
    eprintln!("{name}: faults {faults:?}; expected {expected}, {expected_now:?}");
    ExitCode::FAILURE
}

/// How many more threads and sockets there are than `before`, as soon as these are as many as
/// `expected`, or after this time. A thread that has been joined is listed for a moment more.
fn held_more(
    before: (usize, usize), expected: (usize, usize), patience: Duration,
) -> (usize, usize) {
    let start = Instant::now();
    loop {
        let more = (threads() - before.0, sockets() - before.1);
        if more == expected || start.elapsed() > patience {
            return more;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// What stands behind `name` in the option that begins so.
fn value<'a>(options: &[&'a str], name: &str) -> Option<&'a str> {
    options.iter().find_map(|option| option.strip_prefix(name))
}

/// A session for these options.
fn session(base: &str, options: &[&str]) -> Session {
    let mut session = Session::new(base, "id", "secret").unwrap();
    if let Some(proxy) = value(options, "proxy=") {
        session = session.proxy(proxy).unwrap();
    }
    if options.contains(&"environment") {
        session = session.proxy_from_env().unwrap();
    }
    if let Some(root) = value(options, "root=") {
        session = session.root_certificates(&fs::read(root).unwrap()).unwrap();
    }
    if options.contains(&"cold") {
        let endpoint = format!("{base}/cut/request");
        session = session.token_endpoint(&endpoint).unwrap();
    } else if !options.contains(&"fresh") {
        let lifetime = Duration::from_secs(600);
        session = session.resume("token", lifetime).unwrap();
    }
    session
}

/// Kind, message without the URL, and cause.
fn told(error: &Error) -> String {
    let message = error.to_string();
    let message = message.split_once(": ").map_or(&*message, |(_, why)| why);
    let cause = error.source().map(|cause| format!(" ({cause})"));
    format!("{:?}: {message}{}", error.kind(), cause.unwrap_or_default())
}
