//! The server: a token endpoint and contents of any length, over TLS 1.3 and over plain HTTP.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::version::TLS13;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::{link, Result, Server};

pub const TOKEN: &str = "a-token-of-common-length-0123456789abcdef0123456789abcdef";

/// Token requests, and connections over TLS.
static TOKENS: AtomicUsize = AtomicUsize::new(0);
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

/// Serves until the standard input ends, with a certificate that the root in this directory issues.
/// Prints the ports for TLS and for plain HTTP.
pub fn run(root: &Path, address: Ipv4Addr) -> Result<()> {
    let config = config(root)?;
    let tls = listen(address, move |mut stream| {
        CONNECTIONS.fetch_add(1, Ordering::SeqCst);
        let connection = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        let mut tls = StreamOwned::new(connection, &mut stream);
        respond_to_all(&mut tls)?;
        tls.conn.send_close_notify();
        tls.flush()?;
        finish(&mut stream)
    })?;
    let plain = listen(address, |mut stream| {
        respond_to_all(&mut stream)?;
        finish(&mut stream)
    })?;
    println!("{tls}\n{plain}");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// The counts of a server since it started.
pub struct Counts {
    /// Token requests.
    pub tokens: usize,
    /// Connections over TLS.
    pub connections: usize,
}

impl Counts {
    pub fn of(server: &Server) -> Result<Counts> {
        let mut stream = TcpStream::connect(server.plain.trim_start_matches("http://"))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /counts HTTP/1.1\r\nConnection: close\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let counts = response.lines().last().and_then(|line| line.split_once(' '));
        let (tokens, connections) = counts.ok_or("no counts")?;
        Ok(Counts { tokens: tokens.parse()?, connections: connections.parse()? })
    }
}

/// Returns the root whose key is in this directory. The file `roots.rs` there has all roots that the
/// clients trust. Both files are created only once, because built clients trust this root.
pub fn root(directory: &Path) -> Result<Issuer<'static, KeyPair>> {
    let file = directory.join("key.der");
    let key = match fs::read(&file) {
        Ok(der) => KeyPair::try_from(der)?,
        Err(_) => KeyPair::generate()?, // ECDSA P-256
    };
    let mut params = CertificateParams::new([])?;
    params.distinguished_name.push(DnType::CommonName, "bench");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    if !file.exists() {
        let own = params.self_signed(&key)?;
        let own = webpki::anchor_from_trusted_cert(own.der())?;
        let der = |bytes: &[u8]| format!("Der::from_slice(&{bytes:?})");
        let anchors = webpki_roots::TLS_SERVER_ROOTS.iter().chain([&own]);
        let anchors = anchors.map(|anchor| {
            let constraints = anchor.name_constraints.as_ref();
            format!(
                "TrustAnchor {{ subject: {}, subject_public_key_info: {}, name_constraints: {} }},",
                der(&anchor.subject),
                der(&anchor.subject_public_key_info),
                constraints.map_or("None".into(), |bytes| format!("Some({})", der(bytes)))
            )
        });
        fs::create_dir_all(directory)?;
        let anchors = anchors.collect::<Vec<_>>().join("\n");
        fs::write(directory.join("roots.rs"), format!("[{anchors}]"))?;
        fs::write(file, key.serialize_der())?;
    }
    Ok(Issuer::new(params, key))
}

fn config(root: &Path) -> Result<Arc<ServerConfig>> {
    let issuer = self::root(root)?;
    let key = KeyPair::generate()?;
    let names = [Ipv4Addr::LOCALHOST, link::THERE].map(|address| address.to_string());
    let params = CertificateParams::new(names)?;
    let certificate = params.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok(Arc::new(config))
}

/// Listens on a free port, and serves each connection in its own thread.
fn listen(
    address: Ipv4Addr, serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> Result<u16> {
    let listener = TcpListener::bind((address, 0))?;
    let port = listener.local_addr()?.port();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                // A client that fails reports its error itself.
                let _ = serve(stream);
            });
        }
    });
    Ok(port)
}

/// Responds to requests until the client closes the connection or sends `Connection: close`.
fn respond_to_all(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length = field(&head, "content-length").and_then(|length| length.parse().ok());
        io::copy(&mut (&mut reader).take(length.unwrap_or(0)), &mut io::sink())?;
        respond(&head, reader.get_mut())?;
        if field(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            return Ok(());
        }
    }
}

fn respond(head: &str, stream: &mut impl Write) -> io::Result<()> {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let json = |json: &str| {
        let length = json.len();
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}")
    };
    match path {
        "/oauth2/token" => {
            TOKENS.fetch_add(1, Ordering::SeqCst);
            let token =
                format!(r#"{{"access_token":"{TOKEN}","token_type":"Bearer","expires_in":600}}"#);
            return stream.write_all(json(&token).as_bytes());
        }
        "/counts" => {
            let [tokens, connections] = [&TOKENS, &CONNECTIONS].map(|n| n.load(Ordering::SeqCst));
            return stream.write_all(json(&format!("{tokens} {connections}")).as_bytes());
        }
        _ => {}
    }
    let content = path.rsplit_once('/').map(|(how, length)| (how, length.parse()));
    match content {
        _ if field(head, "authorization").and_then(|value| value.strip_prefix("Bearer "))
            != Some(TOKEN) =>
        {
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        }
        Some(("/content", Ok(length))) => {
            let mut part = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
            )
            .into_bytes();
            pieces(length, |piece| {
                part.extend_from_slice(piece);
                stream.write_all(&part)?;
                part.clear();
                Ok(())
            })
        }
        Some(("/chunked", Ok(length))) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            pieces(length, |piece| {
                let size = format!("{:x}\r\n", piece.len());
                stream.write_all(&[size.as_bytes(), piece, b"\r\n"].concat())
            })?;
            stream.write_all(b"0\r\n\r\n")
        }
        _ => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    }
}

/// Passes this many bytes to `send`, in pieces.
fn pieces(length: usize, mut send: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    const PIECE: [u8; 16 * 1024] = [b'x'; 16 * 1024];
    let mut left = length;
    while left > 0 {
        let piece = left.min(PIECE.len());
        send(&PIECE[..piece])?;
        left -= piece;
    }
    Ok(())
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(field, _)| field.eq_ignore_ascii_case(name))?;
    Some(value.trim())
}

/// Closes in order, so that the client can still read what it has not read yet.
fn finish(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    io::copy(stream, &mut io::sink()).map(drop)
}
