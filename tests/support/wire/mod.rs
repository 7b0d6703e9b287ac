//! Servers that send any bytes, sessions that call them, tests in a child process, and counts of what
//! a process holds.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(unreachable_pub, reason = "pub is what tests use")]

pub mod process;
#[cfg(feature = "tls")]
pub mod tls;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, iter};

use jas_session::{Error, ErrorKind, Session};

use process::{sockets, threads};

/// Variable with the URLs that a child process calls, separated by spaces.
pub const URLS: &str = "JAS_SESSION_TEST_URLS";
/// End of the message of a plain POST that may have been executed.
pub const LOOK_FIRST: &str = "; the request may have been executed: look before you send it again";
/// Maximum wait for anything that a test expects.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// What a token endpoint responds.
pub const TOKEN: &str = r#"{"access_token":"new","token_type":"Bearer","expires_in":600}"#;
/// Timeout of calls that end by it, and how much later they may end.
pub const TIMEOUT: Duration = Duration::from_millis(300);
pub const LATE: Duration = Duration::from_millis(500);

/// A server on a free port of 127.0.0.1 with a thread for each connection. Dropping it joins the
/// threads, and panics if one of them has panicked.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    is_stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<Vec<Vec<u8>>>>,
}

impl Server {
    /// Calls `serve` with each connection. It returns the bytes that it has received.
    pub fn start(serve: impl Fn(&mut TcpStream) -> Vec<u8> + Send + Sync + 'static) -> Server {
        Server::handing_over(move |mut stream| serve(&mut stream))
    }

    /// Does the same, but `serve` owns the connection.
    pub fn handing_over(serve: impl Fn(TcpStream) -> Vec<u8> + Send + Sync + 'static) -> Server {
        Server::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), serve)
    }

    /// Does the same on this port.
    pub fn on(
        listener: TcpListener, serve: impl Fn(TcpStream) -> Vec<u8> + Send + Sync + 'static,
    ) -> Server {
        let address = listener.local_addr().unwrap();
        let is_stopping = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&is_stopping);
        let acceptor = thread::spawn(move || {
            thread::scope(|scope| {
                let mut connections = Vec::new();
                loop {
                    let (stream, _) = listener.accept().unwrap();
                    if stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    stream.set_nodelay(true).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.set_write_timeout(Some(PATIENCE)).unwrap();
                    let serve = &serve;
                    connections.push(scope.spawn(move || serve(stream)));
                }
                let received = connections.into_iter().map(|thread| thread.join().unwrap());
                received.collect()
            })
        });
        Server { address, is_stopping, acceptor: Some(acceptor) }
    }

    /// Responds to each request with these bytes, and closes.
    pub fn responding(bytes: &[u8]) -> Server {
        let bytes = bytes.to_vec();
        Server::start(move |stream| {
            let received = request(stream);
            respond(stream, &bytes);
            let _ = stream.shutdown(Shutdown::Write);
            [received, until_closed(stream)].concat()
        })
    }

    /// Responds to each request with these bytes, and waits until the client closes.
    pub fn keeping_open(bytes: &[u8]) -> Server {
        let bytes = bytes.to_vec();
        Server::start(move |stream| {
            let received = request(stream);
            respond(stream, &bytes);
            [received, until_closed(stream)].concat()
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits for all connections to end. Returns what each has received.
    pub fn ended(mut self) -> Vec<Vec<u8>> {
        self.end().unwrap()
    }

    fn end(&mut self) -> thread::Result<Vec<Vec<u8>>> {
        let Some(acceptor) = self.acceptor.take() else {
            return Ok(Vec::new());
        };
        self.is_stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        acceptor.join()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.end();
        assert!(ended.is_ok() || thread::panicking(), "the server panicked");
    }
}

/// Reads one request: head and content.
pub fn request(stream: &mut impl Read) -> Vec<u8> {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&received);
        if let Some((head, content)) = text.split_once("\r\n\r\n") {
            let length = head
                .split_once("Content-Length: ")
                .map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
            if content.len() >= length {
                return received;
            }
        }
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => received.extend_from_slice(&buffer[..n]),
            _ => return received,
        }
    }
}

/// The numbers in the field `X-Length` of a request.
pub fn lengths(request: &[u8]) -> Vec<usize> {
    let text = String::from_utf8_lossy(request);
    let (_, rest) = text.split_once("X-Length: ").unwrap();
    rest.lines().next().unwrap().split(' ').map(|number| number.parse().unwrap()).collect()
}

/// Reads until the client closes or resets the connection.
pub fn until_closed(stream: &mut impl Read) -> Vec<u8> {
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            panic!("the client does not close")
        }
        _ => received,
    }
}

/// Writes these bytes. The client may have closed already.
pub fn respond(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

/// Writes `begin`, and then `next` over and over, a byte each 10 ms, until the client closes.
pub fn drip(stream: &mut impl Write, begin: &[u8], next: u8) {
    for byte in begin.iter().chain(iter::repeat(&next)) {
        if stream.write_all(&[*byte]).and_then(|()| stream.flush()).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Serves a proxy's client: reads a CONNECT, and forwards everything after it to `target` and back.
/// Returns what the client has sent.
pub fn tunnel(stream: &mut TcpStream, target: SocketAddr) -> Vec<u8> {
    let mut received = request(stream);
    let mut server = TcpStream::connect(target).unwrap();
    respond(stream, b"HTTP/1.1 200 Connection established\r\n\r\n");
    let (mut from, mut to) = (server.try_clone().unwrap(), stream.try_clone().unwrap());
    let back = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        received.extend_from_slice(&buffer[..n]);
        respond(&mut server, &buffer[..n]);
    }
    let _ = server.shutdown(Shutdown::Write);
    back.join().unwrap();
    received
}

/// A session that holds a token and retries nothing.
pub fn session(url: &str) -> Session {
    with_token(session_without_token(url))
}

/// Gives the session a token.
pub fn with_token(session: Session) -> Session {
    session.resume("token", Duration::from_secs(600)).unwrap()
}

/// A session that retries nothing.
pub fn session_without_token(url: &str) -> Session {
    Session::new(url, "id", "secret").unwrap().retries(0).timeout(PATIENCE)
}

/// Runs each row in a thread of its own.
pub fn side_by_side<T: Send>(rows: impl IntoIterator<Item = T>, run: impl Fn(T) + Sync) {
    thread::scope(|scope| {
        for row in rows {
            scope.spawn(|| run(row));
        }
    });
}

/// Returns the content of a GET.
pub fn text(url: &str) -> Result<String, Error> {
    session(url).get("/")?.text()
}

pub fn assert_in_time(start: Instant, error: &Error) {
    let took = start.elapsed();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(took >= TIMEOUT && took < TIMEOUT + LATE, "{took:?}");
    println!("ended after {took:?}");
}

/// The URLs that this process calls, if it is a child.
pub fn urls() -> Vec<String> {
    let urls = env::var(URLS).unwrap_or_default();
    urls.split_whitespace().map(str::to_owned).collect()
}

/// A command that runs this test alone in a child process, where [`urls`] returns `urls`, and whose
/// roots are the system's.
pub fn this_test_alone(test: &str, urls: &[String]) -> Command {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    child.env(URLS, urls.join(" "));
    child.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
    child
}

pub fn assert_passes(mut child: Command) {
    assert_passed(child.output().unwrap());
}

/// Checks the output of a child.
pub fn assert_passed(output: Output) {
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("test result: ok. 1 passed"), "{printed}");
    println!("{printed}");
}

/// A response with a `Content-Length`.
pub fn response(status: &str, fields: &str, content: &str) -> Vec<u8> {
    let length = content.len();
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n{content}").into_bytes()
}

/// The number of threads and sockets of this process. The system lists a joined thread for a moment
/// more, so this takes the lowest of several counts.
pub fn held() -> (usize, usize) {
    let counts = iter::repeat_with(|| {
        thread::sleep(Duration::from_millis(1));
        threads()
    });
    (counts.take(20).min().unwrap_or_default(), sockets())
}

/// Checks that this process has as many threads and sockets as before.
pub fn assert_nothing_left(before: (usize, usize), what: &str) {
    // The system lists a joined thread for a moment more.
    let start = Instant::now();
    while threads() != before.0 && start.elapsed() < PATIENCE {
        thread::yield_now();
    }
    assert_eq!((threads(), sockets()), before, "{what}");
}
