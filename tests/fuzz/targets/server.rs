//! The server that plays the responses of an input.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use crate::play::{End, Play, Split};
use crate::reader::{read, Content};
use crate::{contains, PATIENCE};

/// The number of bytes that are sent one by one.
const DRIPS: usize = 48;

/// The head of a request, or the part of it that was received.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) bytes: Vec<u8>,
    /// Whether it is the first request of its connection.
    pub(crate) is_first: bool,
}

/// What the server has received for one play.
#[derive(Default, Debug)]
pub(crate) struct Received {
    pub(crate) token: Vec<Request>,
    pub(crate) api: Vec<Request>,
    /// The requests of the second call.
    pub(crate) next: Vec<Request>,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) plays: Sender<Play>,
    pub(crate) received: Receiver<Received>,
}

pub(crate) static SERVER: LazyLock<Mutex<Server>> = LazyLock::new(|| {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (plays, plays_of_server) = mpsc::channel();
    let (received_by_server, received) = mpsc::channel();
    thread::spawn(move || {
        for play in plays_of_server {
            received_by_server.send(serve(&listener, &play)).unwrap();
        }
    });
    Mutex::new(Server { address, plays, received })
});

/// The number of responses that are being sent.
pub(crate) static BUSY: AtomicUsize = AtomicUsize::new(0);

pub(crate) const TOKEN_PATH: &str = "POST /oauth2/token ";
pub(crate) const API_PATH: &str = " /a HTTP/1.1\r\n";
pub(crate) const NEXT_PATH: &str = "GET /b HTTP/1.1\r\n";
/// What the harness sends when the calls are over. No request begins so.
pub(crate) const OVER: &[u8] = b"over";
/// What the second call gets on a connection of its own, and on one that was in use, unless the
/// input has one.
pub(crate) const FRESH: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh";
pub(crate) const NEXT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext";

/// Serves each connection in a thread, until one of the harness's own comes, and then until the
/// client has closed all of them.
pub(crate) fn serve(listener: &TcpListener, play: &Play) -> Received {
    let received = Mutex::default();
    thread::scope(|scope| loop {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut begin = [0];
        if matches!(stream.peek(&mut begin), Ok(1)) && begin == OVER[..1] {
            break;
        }
        scope.spawn(|| serve_one(stream, play, &received));
    });
    received.into_inner().unwrap()
}

/// Responds to all requests of a connection.
pub(crate) fn serve_one(mut stream: TcpStream, play: &Play, received: &Mutex<Received>) {
    let mut is_first = true;
    loop {
        let bytes = request(&mut stream, play.end == End::Reset);
        if bytes.is_empty() {
            // The client has closed, or the timeout passed between connection and request.
            return;
        }
        BUSY.fetch_add(1, Ordering::SeqCst);
        let has_path = |path: &str| contains(&bytes, path.as_bytes());
        let (is_token, is_next) = (has_path(TOKEN_PATH), has_path(NEXT_PATH));
        let request = Request { bytes, is_first };
        let mut received = received.lock().unwrap();
        let (stays, is_part) = if is_token {
            received.token.push(request);
            drop(received);
            let token = play.token.as_deref().unwrap_or_default();
            let _ = stream.write_all(token);
            (matches!(read(token, false).content, Content::Whole(_)), false)
        } else if is_next {
            received.next.push(request);
            drop(received);
            let _ = stream.write_all(if is_first { FRESH } else { play.next() });
            (false, false)
        } else {
            received.api.push(request);
            drop(received);
            response(&mut stream, play);
            (!play.closes(), play.end == End::Reset)
        };
        BUSY.fetch_sub(1, Ordering::SeqCst);
        match (stays, is_part) {
            (true, false) => is_first = false,
            (true, true) => return drop(stream.read_to_end(&mut Vec::new())),
            // It is reset.
            (false, true) => return,
            (false, false) => return until_closed(stream),
        }
    }
}

/// A request, head and content; or the first bytes of the first call's, so that closing resets.
pub(crate) fn request(stream: &mut TcpStream, is_part: bool) -> Vec<u8> {
    const PART: usize = 24;
    let mut request = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        let text = String::from_utf8_lossy(&request);
        if is_part && request.len() >= PART && text.contains(&API_PATH[..8]) {
            return request;
        }
        if let Some((head, content)) = text.split_once("\r\n\r\n") {
            let length = head
                .split_once("Content-Length: ")
                .map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
            if content.len() >= length {
                return request;
            }
        }
        let room = if request.len() < PART { PART - request.len() } else { buffer.len() };
        match stream.read(&mut buffer[..room]) {
            Ok(n @ 1..) => request.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("the client stays after {request:?}")
            }
            _ => return request,
        }
    }
}

/// Sends the API's response. The client may close at any time.
pub(crate) fn response(stream: &mut TcpStream, play: &Play) {
    let sent = play.sent();
    let (first, rest) = sent.split_at(play.at());
    let _ = stream.write_all(first);
    let mut rest = rest;
    match play.split {
        Split::Pause => thread::sleep(Duration::from_micros(300)),
        Split::Apart => thread::yield_now(),
        Split::Drip => {
            let (apart, after) = rest.split_at(rest.len().min(DRIPS));
            for byte in apart {
                let _ = stream.write_all(&[*byte]);
            }
            rest = after;
        }
        _ => {}
    }
    let _ = stream.write_all(rest);
}

/// Closes for writing and waits until the client closes, so that nothing is reset.
pub(crate) fn until_closed(mut stream: TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    match stream.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the client stays"),
        _ => {}
    }
}
