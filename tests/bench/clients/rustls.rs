//! The job with rustls alone: the minimum that a client over TLS needs. It accepts only the responses of
//! this benchmark's server, and has no timeout.

mod job;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use job::{arguments, check, Result, CONTENT, ENDPOINT, FORM, FORM_TYPE};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn main() -> Result<()> {
    let (url, gets) = arguments()?;
    let host = url.strip_prefix("https://").ok_or("not https")?;
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = host.split(':').next().unwrap_or_default().to_owned();
    let tls = ClientConnection::new(Arc::new(config), ServerName::try_from(name)?)?;
    let socket = TcpStream::connect(host)?;
    socket.set_nodelay(true)?;
    let mut stream = StreamOwned::new(tls, socket);

    let length = FORM.len();
    let request = format!(
        "POST {ENDPOINT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {FORM_TYPE}\r\n\
         Content-Length: {length}\r\n\r\n{FORM}"
    );
    let (_, content) = exchange(&mut stream, &request)?;
    let content = String::from_utf8(content)?;
    let (_, rest) = content.split_once("\"access_token\":\"").ok_or("no token")?;
    let token = rest.split('"').next().unwrap_or_default();
    let request =
        format!("GET {CONTENT} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n");
    for _ in 0..gets {
        let (status, content) = exchange(&mut stream, &request)?;
        check(status, &content)?;
    }
    Ok(())
}

/// Makes a request. Returns the status and the content of the response, which must have a length.
fn exchange(stream: &mut Stream, request: &str) -> Result<(u16, Vec<u8>)> {
    stream.write_all(request.as_bytes())?;
    let mut received = Vec::with_capacity(4096);
    let mut buffer = [0; 4096];
    let end = loop {
        let length = stream.read(&mut buffer)?;
        received.extend_from_slice(&buffer[..length]);
        let end = received.windows(4).position(|four| four == b"\r\n\r\n");
        if end.is_some() || length == 0 {
            break end.ok_or("no head")? + 4;
        }
    };
    let head = std::str::from_utf8(&received[..end])?;
    let status = head.get(9..12).ok_or("no status")?.parse()?;
    let (_, rest) = head.split_once("\r\nContent-Length: ").ok_or("no length")?;
    let length: usize = rest.split('\r').next().unwrap_or_default().parse()?;
    let mut content = received.split_off(end);
    while content.len() < length {
        match stream.read(&mut buffer)? {
            0 => return Err("truncated".into()),
            n => content.extend_from_slice(&buffer[..n]),
        }
    }
    Ok((status, content))
}
