//! Reads requests, writes responses, and plays faults.

use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{gateway, Fault, Place, Request, Shared, SLICE};

/// Maximum length of a request head.
const MAX_HEAD: u64 = 256 * 1024;

/// A response to be sent; its content may be too long for memory.
pub(super) struct Response {
    status: u16,
    fields: Vec<(&'static str, String)>,
    length: u64,
    content: Box<dyn Read>,
}

impl Response {
    pub(super) fn new(status: u16, media_type: &str, content: impl Into<Vec<u8>>) -> Response {
        let content = content.into();
        let length = content.len() as u64;
        Response::stream(status, media_type, length, Cursor::new(content))
    }

    pub(super) fn stream(
        status: u16, media_type: &str, length: u64, content: impl Read + 'static,
    ) -> Response {
        Response {
            status,
            fields: vec![("Content-Type", media_type.to_owned())],
            length,
            content: Box::new(content),
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: &str) -> Response {
        self.fields.push((name, value.to_owned()));
        self
    }

    /// The head. `framing` is the field that says where the content ends, if there is one.
    fn head(&self, framing: Option<(&'static str, String)>) -> Vec<u8> {
        let own = framing.into_iter().chain([("Connection", "close".into())]);
        let own = own.filter(|(name, _)| {
            let mut given = self.fields.iter();
            !given.any(|(other, _)| other.eq_ignore_ascii_case(name))
        });
        let fields = self.fields.iter().cloned().chain(own);
        let lines: Vec<_> = fields.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (status, reason) = (self.status, reason(self.status));
        format!("HTTP/1.1 {status} {reason}\r\n{}\r\n", lines.concat()).into_bytes()
    }

    fn measured_head(&self) -> Vec<u8> {
        self.head(Some(("Content-Length", self.length.to_string())))
    }

    fn whole(self) -> impl Read {
        Cursor::new(self.measured_head()).chain(self.content)
    }
}

/// Reads one request and responds to it.
pub(super) fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SLICE))?;
    stream.set_write_timeout(Some(SLICE))?;
    let mut reader = BufReader::new(Socket(stream, shared));
    let mut request = read_head(&mut reader)?;
    let length = request.field("Content-Length").map(str::parse);
    let length: u64 = length.and_then(Result::ok).unwrap_or(0);
    let (number, fault) = shared.record(&request);
    let read = reader.take(length).read_to_end(&mut request.content);
    if let Some(number) = number {
        let mut state = shared.lock();
        state.requests[number].content.clone_from(&request.content);
    }
    if (read? as u64) < length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    respond(&request, fault, Socket(stream, shared))
}

/// Responds to a request, as this fault wants it.
fn respond(request: &Request, fault: Option<Fault>, mut socket: Socket) -> io::Result<()> {
    let shared = socket.1;
    let good = || {
        let response = gateway::execute(request, shared);
        if let Some(watch) = &shared.watch {
            watch.responded(request, response.status);
        }
        response
    };
    match &fault {
        Some(Fault::Wait(gate)) => gate.pass(shared),
        Some(Fault::Revoke) => shared.lock().tokens.clear(),
        _ => {}
    }
    match fault {
        None | Some(Fault::Wait(_) | Fault::Revoke) => send(&mut good().whole(), &mut socket),
        Some(Fault::Response(status, fields, content)) => {
            let mut response = Response::new(status, "", content);
            response.fields = fields;
            send(&mut response.whole(), &mut socket)
        }
        Some(Fault::Raw(bytes)) => socket.write_all(&bytes),
        Some(Fault::Truncate(n)) => send(&mut good().whole().take(n as u64), &mut socket),
        Some(Fault::Half) => {
            let response = good();
            socket.write_all(&response.measured_head())?;
            send(&mut response.content.take(response.length / 2), &mut socket)
        }
        Some(Fault::Stall(n)) => {
            let response = good();
            if let Some(n) = n {
                socket.write_all(&response.measured_head())?;
                send(&mut response.content.take(n as u64), &mut socket)?;
            }
            send(&mut socket, &mut io::sink())
        }
        Some(Fault::With(fields)) => {
            let mut response = good();
            response.fields.extend(fields);
            send(&mut response.whole(), &mut socket)
        }
        Some(Fault::Drip(pause)) => drip(good(), pause, &mut socket),
        Some(Fault::Chunked(size)) => send_chunks(good(), size, &mut socket),
        Some(Fault::UntilClose) => {
            let mut response = good();
            socket.write_all(&response.head(None))?;
            send(&mut response.content, &mut socket)
        }
    }
}

fn drip(response: Response, pause: Duration, socket: &mut Socket) -> io::Result<()> {
    for byte in BufReader::new(response.whole()).bytes() {
        socket.write_all(&[byte?])?;
        socket.1.pause(pause);
    }
    Ok(())
}

fn send_chunks(mut response: Response, size: usize, socket: &mut Socket) -> io::Result<()> {
    socket.write_all(&response.head(Some(("Transfer-Encoding", "chunked".into()))))?;
    loop {
        let mut chunk = Vec::new();
        let mut part = response.content.by_ref().take(size.max(1) as u64);
        let n = part.read_to_end(&mut chunk)?;
        // One write sends size, content and line end. The chunk of size 0 is the last.
        chunk.splice(0..0, format!("{n:x}\r\n").into_bytes());
        chunk.extend(b"\r\n");
        socket.write_all(&chunk)?;
        if n == 0 {
            return Ok(());
        }
    }
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Request> {
    let mut head = Vec::new();
    let mut reader = reader.take(MAX_HEAD);
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default().to_owned();
    let fields = lines.filter_map(|line| line.split_once(':'));
    let fields = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Ok(Request {
        place: match target.split('?').next() {
            Some(gateway::TOKEN_PATH) => Place::Token,
            _ => Place::Api,
        },
        method,
        target,
        fields: fields.collect(),
        head,
        content: Vec::new(),
    })
}

fn send(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    io::copy(from, to).map(drop)
}

/// A connection whose reads and writes end when the sandbox is dropped.
struct Socket<'a>(&'a TcpStream, &'a Shared);

impl Socket<'_> {
    fn retry<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        while !self.1.is_stopping() {
            match attempt() {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                result => return result,
            }
        }
        Err(ErrorKind::ConnectionAborted.into())
    }
}

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.retry(|| { self.0 }.read(buffer))
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry(|| { self.0 }.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Other",
    }
}
