//! A server over plain HTTP or TLS whose test controls each byte that it reads and writes, and a
//! session that calls it.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(unreachable_pub, reason = "pub is what tests use")]
#![cfg_attr(
    not(feature = "tls"),
    allow(unused_variables, clippy::unused_self, reason = "TLS needs it")
)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
#[cfg(feature = "tls")]
use std::sync::OnceLock;
use std::sync::{Arc, Mutex};

use jas_session::Session;

#[cfg(feature = "tls")]
use rustls::{version::TLS12, ServerConfig, ServerConnection};

#[cfg(feature = "tls")]
use crate::wire::tls::{Authority, Days};
use crate::wire::{self, session_without_token, with_token, Server, PATIENCE, TOKEN};

/// The protocol of a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    Plain,
    #[cfg(feature = "tls")]
    Tls,
    #[cfg(feature = "tls")]
    Tls12,
}

pub const BOTH: &[Over] = &[
    Over::Plain,
    #[cfg(feature = "tls")]
    Over::Tls,
];

/// Variable with the issuer's certificate that the sessions of a child process trust.
#[cfg(feature = "tls")]
const ISSUER: &str = "JAS_SESSION_TEST_ISSUER";

/// Variable with the directory of the system's roots.
#[cfg(feature = "tls")]
const ROOTS: &str = "SSL_CERT_DIR";

pub const TOKEN_REQUEST: &str = "POST /oauth2/token";

/// A server, and a session that holds a token for it, trusts it and retries nothing.
pub struct Site {
    pub session: Session,
    pub address: SocketAddr,
    url: String,
    /// The requests of each connection.
    log: Arc<Mutex<Vec<Vec<String>>>>,
    server: Server,
}

/// The server's end of a connection.
pub struct Peer {
    /// The number of earlier connections.
    pub number: usize,
    /// The number of bytes read from the socket.
    pub received: usize,
    tcp: TcpStream,
    #[cfg(feature = "tls")]
    tls: Option<Box<ServerConnection>>,
    log: Arc<Mutex<Vec<Vec<String>>>>,
}

pub struct Request {
    /// Method and path.
    pub line: String,
    pub head: String,
    pub content: Vec<u8>,
}

impl Site {
    /// Calls `serve` with each connection after its handshake.
    pub fn start(over: Over, serve: impl Fn(Peer) + Send + Sync + 'static) -> Site {
        Site::accepting(over, move |mut peer| {
            if peer.handshake() {
                serve(peer);
            }
        })
    }

    /// Calls `serve` with each connection before its handshake.
    pub fn accepting(over: Over, serve: impl Fn(Peer) + Send + Sync + 'static) -> Site {
        let log = Arc::default();
        let shared = Arc::clone(&log);
        let server = Server::handing_over(move |tcp| {
            serve(Peer::new(over, tcp, Arc::clone(&shared)));
            Vec::new()
        });
        let address = server.address;
        let scheme = if over == Over::Plain { "http" } else { "https" };
        let url = format!("{scheme}://{address}");
        let session = with_token(trusting(session_without_token(&url)));
        Site { session, address, url, log, server }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Waits for all connections to end. Returns the requests of each.
    pub fn requests(self) -> Vec<Vec<String>> {
        drop(self.session);
        self.server.ended();
        let log = self.log.lock().unwrap();
        log.clone()
    }
}

/// The TLS configurations of this process's sites (any version, and 1.2 only), and the certificate of
/// their issuer.
#[cfg(feature = "tls")]
fn trusted() -> &'static ([Arc<ServerConfig>; 2], String) {
    static TRUSTED: OnceLock<([Arc<ServerConfig>; 2], String)> = OnceLock::new();
    TRUSTED.get_or_init(|| {
        // With `system-roots`, each session that trusts more would read all of the system's roots
        // again. Either variable names some.
        if cfg!(feature = "system-roots") {
            std::env::set_var(ROOTS, "/nonexistent");
            std::env::remove_var("SSL_CERT_FILE");
        }
        let authority = Authority::new();
        let config = |versions| authority.config_of("127.0.0.1", Days::Now, versions, 1);
        ([config(rustls::ALL_VERSIONS), config(&[&TLS12])], authority.pem.clone())
    })
}

/// The TLS configuration of a site.
#[cfg(feature = "tls")]
pub fn config(over: Over) -> Arc<ServerConfig> {
    Arc::clone(&trusted().0[usize::from(over == Over::Tls12)])
}

/// Makes the session trust the sites of this process or, in a child, of its parent.
#[cfg(feature = "tls")]
pub fn trusting(session: Session) -> Session {
    let pem = std::env::var(ISSUER).unwrap_or_else(|_| trusted().1.clone());
    session.root_certificates(pem.as_bytes()).unwrap()
}

#[cfg(not(feature = "tls"))]
pub fn trusting(session: Session) -> Session {
    session
}

/// Makes the sessions of a child process trust the sites of this process.
#[cfg(feature = "tls")]
pub fn trusted_by(mut child: Command) -> Command {
    child.env(ISSUER, &trusted().1).env(ROOTS, "/nonexistent");
    child
}

#[cfg(not(feature = "tls"))]
pub fn trusted_by(child: Command) -> Command {
    child
}

impl Peer {
    fn new(over: Over, tcp: TcpStream, log: Arc<Mutex<Vec<Vec<String>>>>) -> Peer {
        // On a busy machine the client may be late.
        tcp.set_read_timeout(Some(PATIENCE * 3)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE * 3)).unwrap();
        let number = {
            let mut log = log.lock().unwrap();
            log.push(Vec::new());
            log.len() - 1
        };
        Peer {
            number,
            received: 0,
            tcp,
            #[cfg(feature = "tls")]
            tls: (over != Over::Plain)
                .then(|| Box::new(ServerConnection::new(config(over)).unwrap())),
            log,
        }
    }

    /// Opens the tunnel of a CONNECT, which comes before the handshake: a site may be its own proxy.
    pub fn open_tunnel(&mut self) {
        assert!(wire::request(&mut self.tcp).starts_with(b"CONNECT "));
        wire::respond(&mut self.tcp, b"HTTP/1.1 200 OK\r\n\r\n");
    }

    /// Makes the handshake, if there is one to make. `false` if the client closes in it.
    pub fn handshake(&mut self) -> bool {
        #[cfg(feature = "tls")]
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            if !matches!(self.read_record(), Ok(1..)) || self.flush().is_err() {
                return false;
            }
        }
        true
    }

    /// Reads one TLS record and no byte more. Returns its length, 0 at the end.
    #[cfg(feature = "tls")]
    pub fn read_record(&mut self) -> io::Result<usize> {
        let mut record = vec![0; 5];
        if self.tcp.read(&mut record[..1])? == 0 {
            return Ok(0);
        }
        self.tcp.read_exact(&mut record[1..])?;
        let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(5 + length, 0);
        self.tcp.read_exact(&mut record[5..])?;
        self.received += record.len();
        let tls = self.tls.as_mut().unwrap();
        let mut left = &record[..];
        while !left.is_empty() {
            tls.read_tls(&mut left)?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
        Ok(record.len())
    }

    /// Reads the next request. `None` if the client has closed.
    pub fn request(&mut self) -> Option<Request> {
        let request = self.head()?;
        self.rest_of(request)
    }

    /// Reads the head of the next request, and the content that came with it.
    pub fn head(&mut self) -> Option<Request> {
        if !self.handshake() {
            return None;
        }
        let mut received = Vec::new();
        let mut buffer = [0; 4096];
        let end = loop {
            let end = received.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            match self.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("the client does not close")
                }
                Ok(0) | Err(_) => return None,
                Ok(n) => received.extend_from_slice(&buffer[..n]),
            }
        };
        let content = received.split_off(end);
        let head = String::from_utf8(received).unwrap();
        let line = head.split(" HTTP/1.1\r\n").next().unwrap().to_owned();
        self.log.lock().unwrap()[self.number].push(line.clone());
        Some(Request { line, head, content })
    }

    /// Reads the rest of a request's content. `None` if the client closes first.
    pub fn rest_of(&mut self, mut request: Request) -> Option<Request> {
        let field = request.head.split_once("Content-Length: ");
        let length = field.map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
        let begin = request.content.len();
        assert!(begin <= length, "more than one request was sent");
        request.content.resize(length, 0);
        self.read_exact(&mut request.content[begin..]).ok()?;
        Some(request)
    }

    /// Writes these bytes. The client may have closed already.
    pub fn respond(&mut self, bytes: &[u8]) {
        let _ = self.write_all(bytes);
        let _ = self.flush();
    }

    /// Responds to a request as a good server does: with its own line, or with a token.
    pub fn serve(&mut self, request: &Request) {
        self.respond(&good(&request.line));
    }

    /// Responds to all requests as a good server does, until the client closes.
    pub fn serve_all(&mut self) {
        while let Some(request) = self.request() {
            self.serve(&request);
        }
    }

    /// Encrypts these bytes, if this is TLS.
    pub fn sealed(&mut self, bytes: &[u8]) -> Vec<u8> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            let mut sealed = Vec::new();
            tls.writer().write_all(bytes).unwrap();
            while tls.wants_write() {
                tls.write_tls(&mut sealed).unwrap();
            }
            return sealed;
        }
        bytes.to_vec()
    }

    /// Renews the TLS keys of both ends.
    #[cfg(feature = "tls")]
    pub fn renew_keys(&mut self) {
        self.tls.as_mut().unwrap().refresh_traffic_keys().unwrap();
        self.flush().unwrap();
    }

    /// Whether the handshake resumes an earlier TLS session, as far as it was made.
    #[cfg(feature = "tls")]
    pub fn is_resumed(&self) -> bool {
        let kind = self.tls.as_ref().and_then(|tls| tls.handshake_kind());
        kind == Some(rustls::HandshakeKind::Resumed)
    }

    /// The socket below TLS.
    pub fn tcp(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// Closes TLS and the TCP connection.
    pub fn close(&mut self) {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = self.flush();
        }
        self.close_tcp();
    }

    /// Closes the TCP connection only.
    pub fn close_tcp(&mut self) {
        let _ = self.tcp.shutdown(Shutdown::Write);
    }

    /// Reads until the client closes.
    pub fn drain(&mut self) {
        wire::until_closed(&mut self.tcp);
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        while let Some(tls) = &mut self.tls {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            if self.read_record()? == 0 {
                return Ok(0);
            }
        }
        let n = self.tcp.read(buffer)?;
        self.received += n;
        Ok(n)
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            let n = tls.writer().write(bytes)?;
            self.flush()?;
            return Ok(n);
        }
        self.tcp.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.tcp)?;
            }
        }
        Ok(())
    }
}

/// The response of a good server to a request with this line: the line, or a token.
pub fn good(line: &str) -> Vec<u8> {
    let content = match line {
        TOKEN_REQUEST => TOKEN,
        line => line,
    };
    wire::response("200 OK", "", content)
}

/// Bytes that depend on their offset, so that a missing or misplaced one is noticed.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 3);
    for n in 0..u32::try_from(length.div_ceil(4)).unwrap() {
        bytes.extend_from_slice(&n.wrapping_mul(2_654_435_761).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
