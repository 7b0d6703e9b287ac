//! Requests tokens via minreq. minreq opens a socket of its own and gives no access to it, but a
//! token request has to obey the deadline, the proxy and the roots of its call. So minreq connects
//! to a port of 127.0.0.1, which is closed as soon as it has connected. On this
//! connection minreq writes and reads only heads without secrets. `http` makes the exchange with
//! the server. Called by `request`. Knows
//! nothing of tokens.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread::{self, sleep, JoinHandle};
use std::time::Duration;
use std::{env, iter, mem};

use minreq::{Error::IoError, Method, Request};

use crate::error::Error;
use crate::http::{self, is_out_of_files, CallContext};
use crate::retry::random;

/// The header field that identifies minreq, by a random value for each request.
const FIELD: &str = "JAS-Session";

/// The header fields of a response that minreq reads. Others may echo secrets of the request.
const HARMLESS: [&str; 3] = ["retry-after", "date", "content-type"];

/// The maximum number of connections that have not sent the field yet.
const CALLER_LIMIT: usize = 64;

/// The maximum length of the head that minreq writes.
const HEAD_LIMIT: usize = 1024;

/// The pauses between polls of the connections: the first ones are short.
const SHORT_PAUSE: Duration = Duration::from_micros(100);
const SHORT_PAUSES: usize = 10;
const PAUSE: Duration = Duration::from_millis(1);

/// How long to wait for minreq's thread after its port is closed. This is a number of pauses, not a
/// deadline: a deadline could already be over if the process was stopped for a while.
const EXIT_PAUSES: u32 = 50;

/// The stack of the thread that minreq runs on.
const STACK: usize = 64 * 1024;

/// Why minreq may have connected elsewhere.
const PROXY_ADVICE: &str = ": if another crate has turned on minreq's feature `proxy`, the \
                            variables http_proxy and all_proxy must not be set";

/// The status and the header fields that minreq read.
type MinreqResult = Result<(u16, Vec<(String, String)>), minreq::Error>;

/// minreq's socket, the head that it wrote to it, and its thread.
type Minreq = (TcpStream, String, JoinHandle<MinreqResult>);

/// A port of 127.0.0.1 for minreq.
struct Port {
    listener: TcpListener,
    /// The value of [`FIELD`].
    password: String,
    /// The accepted connections, and what was received on each.
    callers: Vec<(TcpStream, String)>,
    /// The last poll may have left connections unaccepted.
    is_full: bool,
    /// Connections were closed to make room. One of them may have been minreq's.
    has_closed_some: bool,
}

/// Sends a POST with the header fields that minreq writes, which must hold no secrets. The response
/// has the status and the harmless header fields that minreq read.
pub(super) fn send(request: http::Request<'_>) -> Result<http::Response, Error> {
    let call = request.call.clone();
    let (mut socket, head, thread) = loop {
        let port = Port::open(&call).map_err(|cause| call.refused_by_device(cause));
        match port.and_then(|port| wait_for_minreq(port, request.fields, &call)) {
            Err(error) if request.network.frees_descriptors(&error) => {}
            met => break met?,
        }
    };
    // These are for the port only.
    let is_local = |name| ["Host", FIELD, "Content-Length"].contains(&name);
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let fields: Vec<_> = fields.filter(|(name, _)| !is_local(name)).collect();
    let response = http::send(http::Request { fields: &fields, ..request });
    let is_harmless = |(name, _): &(String, String)| HARMLESS.contains(&&**name);
    if let Ok(http::Response { status, fields, .. }) = &response {
        let fields = fields.iter().filter(|field| is_harmless(field));
        let fields: String = fields.flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
        let _ = socket.write_all(format!("HTTP/1.1 {status}\r\n{fields}\r\n").as_bytes());
    }
    // Dropping it is not enough: a forked process may have a copy.
    let _ = socket.shutdown(Shutdown::Both);
    let read = thread.join().ok().and_then(Result::ok);
    let mut response = response?;
    // Without a head, minreq invents a status.
    let read = read.filter(|(status, _)| *status == response.status);
    let (_, fields) = read.ok_or_else(|| failure(None, &call))?;
    response.fields.retain(|field| !is_harmless(field));
    response.fields.extend(fields);
    Ok(response)
}

/// Starts minreq and waits until it has connected and written its head. No system call here
/// may block: a signal restarts it, so repeated signals could make it last for ever.
fn wait_for_minreq(
    mut port: Port, fields: &[(&str, &str)], call: &CallContext,
) -> Result<Minreq, Error> {
    let timed_out = || call.timed_out("before the request was sent").append(proxy_advice());
    let start = |port: &Port| port.start(fields, call).map_err(|cause| call.refused_thread(cause));
    let mut thread = start(&port)?;
    let mut pauses = iter::repeat_n(SHORT_PAUSE, SHORT_PAUSES);
    let error = loop {
        match port.poll() {
            Ok(Some((socket, head))) => return Ok((socket, head, thread)),
            Err(cause) => break Some(call.refused_by_device(cause)),
            Ok(None) if call.deadline.remaining().is_zero() => break Some(timed_out()),
            Ok(None) if !thread.is_finished() => {}
            Ok(None) if mem::take(&mut port.has_closed_some) => thread = start(&port)?,
            Ok(None) => break None,
        }
        sleep(if port.is_full { Duration::ZERO } else { pauses.next().unwrap_or(PAUSE) });
    };
    drop(port);
    // minreq ends at once, unless it waits for a proxy.
    (0..EXIT_PAUSES).take_while(|_| !thread.is_finished()).for_each(|_| sleep(PAUSE));
    let ended = thread.is_finished().then(|| thread.join());
    Err(error.unwrap_or_else(|| failure(ended, call)))
}

impl Port {
    fn open(call: &CallContext) -> io::Result<Port> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let password = format!("{:016x}{:016x}", random(), random());
        // If the loopback interface is down, this fails by the deadline. minreq would wait
        // for as long as the system does.
        TcpStream::connect_timeout(&listener.local_addr()?, call.deadline.remaining().max(PAUSE))?;
        Ok(Port { listener, password, callers: Vec::new(), is_full: false, has_closed_some: false })
    }

    /// Starts minreq on a thread of its own.
    fn start(
        &self, fields: &[(&str, &str)], call: &CallContext,
    ) -> io::Result<JoinHandle<MinreqResult>> {
        let url = format!("http://{}/", self.listener.local_addr()?);
        let mut request = Request::new(Method::Post, url)
            // minreq's own limits can underflow, and `http` has its own.
            .with_max_headers_size(None)
            .with_max_status_line_length(None)
            .with_follow_redirects(false)
            .with_header(FIELD, &*self.password)
            .with_headers(fields.iter().copied());
        // Without a timeout of ours, MINREQ_TIMEOUT would set it, or minreq would wait for a proxy
        // for ever.
        if !proxy_advice().is_empty() || env::var_os("MINREQ_TIMEOUT").is_some() {
            // If a timeout is set, minreq starts a thread, and panics if it can't. So test first
            // that a thread can be started.
            thread::Builder::new().spawn(|| ())?;
            request = request.with_timeout(call.deadline.remaining().as_secs() + 1);
        }
        let thread = thread::Builder::new().stack_size(STACK);
        thread.spawn(|| request.send_lazy().map(|read| (read.status_code, read.headers)))
    }

    /// Accepts and reads all connections once. Returns minreq's socket and the head that it wrote,
    /// if it is complete.
    fn poll(&mut self) -> io::Result<Option<(TcpStream, String)>> {
        self.is_full = false;
        while !self.is_full {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(true)?;
                    self.callers.push((socket, String::new()));
                }
                Err(error) if !is_out_of_files(&error) => break,
                Err(error) if self.callers.is_empty() => return Err(error),
                Err(_) => self.is_full = true,
            }
            self.is_full |= self.callers.len() == CALLER_LIMIT;
        }
        let mut buffer = [0; HEAD_LIMIT];
        self.callers.retain_mut(|(socket, head)| match socket.read(&mut buffer) {
            Ok(length) => {
                head.push_str(&String::from_utf8_lossy(&buffer[..length]));
                length > 0 && head.len() <= HEAD_LIMIT
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        let field = format!("\r\n{FIELD}: {}\r\n", self.password);
        let mut heads = self.callers.iter().map(|(_, head)| head);
        if let Some(i) = heads.position(|h| h.ends_with("\r\n\r\n") && h.contains(&field)) {
            let (socket, head) = self.callers.swap_remove(i);
            socket.set_nonblocking(false)?;
            return Ok(Some((socket, head)));
        }
        if self.is_full {
            // Closes the oldest connections.
            self.callers.drain(..self.callers.len().div_ceil(2));
            self.has_closed_some = true;
        }
        Ok(None)
    }
}

/// Makes the error for the result of minreq's thread, if that ended.
fn failure(ended: Option<thread::Result<MinreqResult>>, call: &CallContext) -> Error {
    let unusable = call.error(format_args!("minreq can't be used{PROXY_ADVICE}"));
    match ended {
        Some(Ok(Err(IoError(cause)))) => call.refused_by_device(cause).append(proxy_advice()),
        Some(Ok(Err(cause))) => unusable.with_source(cause),
        _ => unusable,
    }
}

/// Returns the advice if a variable is set that minreq's feature `proxy` reads. Another crate may
/// have turned that on.
fn proxy_advice() -> &'static str {
    let mut names = ["http_proxy", "all_proxy", "ALL_PROXY"].iter();
    names.find(|name| env::var_os(name).is_some()).map_or("", |_| PROXY_ADVICE)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;
    use crate::error::ErrorKind::Timeout;
    use crate::http::Deadline;

    const FIELDS: [(&str, &str); 2] = [("Accept", "*/*"), ("User-Agent", "x")];
    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(20);

    fn call(timeout: Duration) -> CallContext {
        CallContext { label: "token request".to_owned(), deadline: Deadline::after(timeout) }
    }

    /// As many strangers as the system accepts, which have sent this.
    fn strangers(port: &Port, says: &str, crowd: usize) -> Vec<TcpStream> {
        let address = port.listener.local_addr().unwrap();
        let connect = |_| TcpStream::connect_timeout(&address, SHORT).ok();
        let mut strangers: Vec<_> = (0..crowd).map_while(connect).collect();
        for stranger in &mut strangers {
            stranger.set_read_timeout(Some(LONG)).unwrap();
            let _ = stranger.write_all(says.as_bytes());
        }
        strangers
    }

    /// Lets minreq connect after these strangers, and sends it a response.
    fn meet_after(strangers: Vec<TcpStream>, port: Port, what: &str) {
        let (mut socket, written, thread) =
            wait_for_minreq(port, &FIELDS, &call(LONG)).expect(what);
        let fields = "\r\nAccept: */*\r\nUser-Agent: x\r\nContent-Length: 0\r\n\r\n";
        assert!(written.ends_with(fields), "{what}: {written}");
        socket.write_all(b"HTTP/1.1 429\r\ndate: now\r\n\r\n").unwrap();
        let (status, fields) = thread.join().unwrap().unwrap();
        assert_eq!((status, &*fields), (429, &[("date".to_owned(), "now".to_owned())][..]));
        for mut stranger in strangers {
            let mut heard = Vec::new();
            // A reset is a close, too.
            let _ = stranger.read_to_end(&mut heard);
            assert_eq!(String::from_utf8_lossy(&heard), "", "{what}");
        }
    }

    #[test]
    fn minreq_is_found_after_strangers() {
        let guess = format!("POST / HTTP/1.1\r\n{FIELD}: {}\r\n\r\n", "0".repeat(32));
        let long = "GET / HTTP/1.1\r\nX-A: b\r\n".repeat(5000);
        for (says, crowd) in [
            ("", 0),
            ("", 1),
            ("", 63),
            ("", 64),
            ("", 65),
            ("", 300),
            ("P", 100),
            ("\r\n\r\n", 1),
            ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 200),
            ("POST / HTTP/1.1\r\nJAS-Session: \r\n\r\n", 1),
            (&*guess, 200),
            (&guess[..40], 200),
            (&long, 3),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong", 100),
        ] {
            for is_leaving in [false, true] {
                let port = Port::open(&call(LONG)).unwrap();
                let strangers = strangers(&port, says, crowd);
                if is_leaving {
                    for stranger in &strangers {
                        let _ = stranger.shutdown(Shutdown::Both);
                    }
                }
                let what = format!("{} of {:?}", strangers.len(), says.get(..40).unwrap_or(says));
                meet_after(strangers, port, &what);
            }
        }
    }

    #[test]
    fn minreq_is_found_among_strangers_without_end() {
        for says in ["", "PPPPPPPP"] {
            let port = Port::open(&call(LONG)).unwrap();
            let address = port.listener.local_addr().unwrap();
            let (is_busy, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut crowd = Vec::new();
                    while !is_over.load(Ordering::SeqCst) {
                        if let Ok(mut stranger) = TcpStream::connect_timeout(&address, SHORT) {
                            let _ = stranger.write_all(says.as_bytes());
                            crowd.push(stranger);
                        }
                        crowd.drain(..crowd.len().saturating_sub(300));
                        is_busy.store(true, Ordering::SeqCst);
                    }
                });
                while !is_busy.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                meet_after(Vec::new(), port, says);
                is_over.store(true, Ordering::SeqCst);
            });
        }
    }

    #[test]
    fn deadline_is_obeyed_among_strangers() {
        for timeout in [Duration::ZERO, SHORT] {
            let port = Port::open(&call(LONG)).unwrap();
            // More than are let in at the first look.
            let strangers = strangers(&port, "POST / HTTP/1.1\r\n", CALLER_LIMIT + 10);
            let start = Instant::now();
            match wait_for_minreq(port, &FIELDS, &call(timeout)) {
                Ok(_) => assert!(!timeout.is_zero()),
                Err(error) => assert_eq!(error.kind(), Timeout, "{error}"),
            }
            assert!(start.elapsed() < timeout + Duration::from_millis(500));
            drop(strangers);
        }
    }
}
