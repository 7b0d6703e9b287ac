//! The programs that the scripts in this folder run: a server that can cut the link of its network
//! namespace, and a client that makes one call and prints it as a row of a Markdown table.

use std::error::Error as _;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, iter, panic, thread};

use base64::Engine as _;
use jas_session::{Error, ErrorKind, Response, Session};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

#[path = "../support/wire/mod.rs"]
mod wire;
use wire::process::{sockets, threads};
use wire::{LATE, PATIENCE};

/// Length of the content of `/large`. Most other responses are a token.
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

/// Serves until it is killed: TLS on port 443, TLS on port 444 that cuts the link within the handshake,
/// and a name server that has no names. Writes its certificate to the file `root` when all are ready.
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

    thread::spawn(move || deny_names(&names));
    thread::spawn(move || {
        for stream in dying.incoming().map(Result::unwrap) {
            // The client has sent its first message.
            stream.peek(&mut [0]).unwrap();
            cut_link();
            thread::spawn(move || wire::until_closed(&mut &stream));
        }
    });
    for stream in listener.incoming().map(Result::unwrap) {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        // Ignores errors: the client may close at any time.
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

/// Whether the request has its head and all of its content.
fn is_complete(received: &str) -> bool {
    let Some((head, content)) = received.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.split_once("\r\ncontent-length: ");
    let length = length.and_then(|(_, rest)| rest.lines().next()?.parse().ok());
    content.len() >= length.unwrap_or(0)
}

/// Drops packets in both directions until the script restores the link.
fn cut_link() {
    for chain in ["INPUT", "OUTPUT"] {
        let status = Command::new("iptables").args(["-P", chain, "DROP"]).status();
        assert!(status.unwrap().success());
    }
}

/// Responds to each query with NXDOMAIN ([RFC 1035, section
/// 4.1.1](https://www.rfc-editor.org/rfc/rfc1035#section-4.1.1)).
fn deny_names(socket: &UdpSocket) {
    let mut message = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut message).unwrap();
        message[2] |= 0x80; // a response
        message[3] = 0x83; // recursion is available; the name is not
        socket.send_to(&message[..length], from).unwrap();
    }
}

// The client

/// Sends a POST and prints its outcome. Fails unless the outcome contains `expected`, and time and
/// options match:
///
/// - `executed`: the API may have acted.
/// - `least=MS`, `most=MS`: bounds of the call's duration.
/// - `get`: sends a GET in place of the POST.
/// - `warm`: makes a call before, which succeeds. `then=COMMAND`: runs this command after it.
/// - `idle=N`: the number of idle connections after the call: 1 by default if the call succeeds.
/// - `leaves=N`: each of N calls leaves a thread and a socket until the system gives up.
/// - `cold`: the call needs a token, and the link to the token endpoint dies.
/// - `fresh`: the call needs a token, and gets it.
/// - `proxy=URL`: uses this proxy. `environment`: uses the environment's proxy.
/// - `root=FILE`: trusts this certificate, too.
/// - `content=BYTES`: the length of the POST's content.
/// - `files=N`: only N files can be opened during the call, or with `later` during an earlier call.
/// - `fault=PART`: a known fault. Fails once it is fixed, so that the option is removed.
fn call(name: &str, timeout: &str, expected: &str, url: &str, options: &[&str]) -> ExitCode {
    static HAS_PANICKED: AtomicBool = AtomicBool::new(false);
    panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        HAS_PANICKED.store(true, Ordering::SeqCst);
    }));
    let content = "x".repeat(number(options, "content=").unwrap_or(1));
    let timeout = milliseconds(timeout.parse().unwrap());
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
    let open = prepare(options, make_call);
    let mut faults = Vec::new();
    let (row, is_idle) = make_calls(options, timeout, expected, make_call, &mut faults);
    drop(open);
    if HAS_PANICKED.load(Ordering::SeqCst) {
        faults.push("panic");
    }

    let leaves = number(options, "leaves=").unwrap_or_default();
    let idle = number(options, "idle=").unwrap_or(is_idle.into());
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
        (0, 0) => format!("; none {:.1?} later", start.elapsed()),
        _ => {
            faults.push("stays");
            "; they stay".to_owned()
        }
    };
    let mark = if faults.is_empty() { "" } else { "**fault:** " };
    println!("| {mark}{name} | {timeout:.1?} | {row} | {threads_now}, {sockets_now}{gone} |");
    if faults.iter().eq(value(options, "fault=").iter()) {
        return ExitCode::SUCCESS;
    }
    eprintln!("{name}: faults {faults:?}; expected {expected}, {expected_now:?}");
    ExitCode::FAILURE
}

/// Does what the options want before the call. Returns the files that are open during the call.
fn prepare(options: &[&str], make_call: impl Fn() -> Result<Response, Error>) -> Vec<fs::File> {
    if options.contains(&"warm") {
        make_call().unwrap().text().unwrap();
    }
    if let Some(command) = value(options, "then=") {
        let status = Command::new("sh").args(["-c", command]).status();
        assert!(status.unwrap().success());
    }
    let mut open = Vec::new();
    if let Some(files) = number(options, "files=") {
        open.extend(iter::from_fn(|| fs::File::open("/dev/null").ok()));
        open.truncate(open.len() - files);
    }
    if options.contains(&"later") {
        let _ = make_call();
        open.clear();
    }
    open
}

/// Makes the calls. Returns the last one's part of the row, and whether a call has left an idle
/// connection.
fn make_calls(
    options: &[&str], timeout: Duration, expected: &str,
    make_call: impl Fn() -> Result<Response, Error>, faults: &mut Vec<&str>,
) -> (String, bool) {
    let least = milliseconds(number(options, "least=").unwrap_or_default());
    let most = number(options, "most=").map_or(timeout + LATE, milliseconds);
    let calls = number(options, "leaves=").unwrap_or_default().max(1);
    let mut row = String::new();
    let mut is_idle = false;
    for _ in 0..calls {
        let start = Instant::now();
        let result = make_call().and_then(Response::text);
        let took = start.elapsed();
        let is_timeout = matches!(&result, Err(error) if error.kind() == ErrorKind::Timeout);
        let (outcome, executed) = match result {
            Ok(text) => {
                is_idle = true;
                (format!("ok, {} bytes", text.len()), false)
            }
            Err(error) => (outcome(&error), error.may_have_executed()),
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
        row = format!("{took:.2?} | {outcome} | {executed}");
    }
    (row, is_idle)
}

fn milliseconds(n: usize) -> Duration {
    Duration::from_millis(n as u64)
}

/// Waits until there are as many more threads and sockets than `before` as expected, for this time at
/// most. Returns how many more there are. The system lists a joined thread for a moment more.
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

/// The rest of the option that begins with `name`.
fn value<'a>(options: &[&'a str], name: &str) -> Option<&'a str> {
    options.iter().find_map(|option| option.strip_prefix(name))
}

fn number(options: &[&str], name: &str) -> Option<usize> {
    value(options, name).map(|value| value.parse().unwrap())
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
fn outcome(error: &Error) -> String {
    let message = error.to_string();
    let message = message.split_once(": ").map_or(&*message, |(_, why)| why);
    let cause = error.source().map(|cause| format!(" ({cause})"));
    format!("{:?}: {message}{}", error.kind(), cause.unwrap_or_default())
}
