//! Requests tokens via minreq. minreq opens a socket of its own and hands out no handle on it, but a
//! token request has to obey the deadline, the proxy and the roots of its call. So minreq connects to
//! a port of 127.0.0.1, which is open until it comes, and writes and reads heads there without
//! secrets; `http` makes the exchange with the server. Called by `request`. Knows nothing of tokens.

use std::env;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use minreq::{Method, Request};

use crate::error::{field, Error};
use crate::http::{self, Call};

/// The header field that minreq is known by: its value is made for one request.
const FIELD: &str = "JAS-Session";

/// The header fields of a response that minreq reads. No other may hold what the request held.
const HARMLESS: [&str; 3] = ["retry-after", "date", "content-type"];

/// Connections that are held at a time until they have shown the field.
const STRANGERS: usize = 64;

/// Bytes of the longest head that minreq writes here.
const HEAD_LIMIT: usize = 1024;

/// The pause between two looks at the connections: after `QUICK` looks, the longer one.
const PAUSES: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(1)];
const QUICK: u32 = 10;

/// How many looks minreq has to end once its port is closed. (By the clock, a process that was
/// stopped would give it no time at all.)
const LAST_LOOKS: u32 = 50;

/// The stack of the thread that minreq runs on.
const STACK: usize = 64 * 1024;

const NOT_SENT: &str = "before the request was sent";
const UNUSABLE: &str = "minreq can't be used";
const UNIFIED: &str = ": if another crate has turned on minreq's feature `proxy`, the variables \
                       http_proxy and all_proxy must not be set";

/// The status and the header fields of a response, as minreq reads them.
type Head = (u16, Vec<(String, String)>);

/// Sends a POST whose header fields, which may hold no secrets, minreq writes. The response has the
/// status and the harmless header fields that minreq reads.
pub(super) fn send(request: http::Request<'_>) -> Result<http::Response, Error> {
    let call = request.call.clone();
    let (mut socket, fields, thread) = loop {
        match meet(request.fields, &call) {
            Err(error) if request.network.makes_room(&error) => {}
            met => break met?,
        }
    };
    let fields = fields.lines().filter_map(|line| line.split_once(": "));
    // minreq knows of no content.
    let fields: Vec<_> = fields.filter(|(name, _)| *name != "Content-Length").collect();
    let mut response = http::send(http::Request { fields: &fields, ..request });
    if let Ok(response) = &response {
        let mut head = format!("HTTP/1.1 {}\r\n", response.status);
        for name in HARMLESS {
            let value = field(&response.fields, name);
            head.extend(value.iter().flat_map(|value| [name, ": ", value, "\r\n"]));
        }
        // Should that fail, minreq knows why.
        let _ = socket.write_all((head + "\r\n").as_bytes());
    }
    drop(socket);
    let read = thread.join();
    if let Ok(response) = &mut response {
        let (status, fields) = match read {
            Ok(Ok(head)) => head,
            Ok(Err(cause)) => return Err(call.failed(UNUSABLE).with_source(cause)),
            Err(_) => return Err(call.failed(UNUSABLE)),
        };
        response.status = status;
        response.fields.retain(|(name, _)| !HARMLESS.contains(&&**name));
        response.fields.extend(fields);
    }
    response
}

type Thread = JoinHandle<Result<Head, minreq::Error>>;

/// Starts minreq and waits until it connects: its socket, and the header fields that it writes.
fn meet(fields: &[(&str, &str)], call: &Call) -> Result<(TcpStream, String, Thread), Error> {
    let random = || RandomState::new().hash_one(0);
    let password = format!("{:016x}{:016x}", random(), random());
    let refused = |cause| call.refused_by_host(cause);
    let listener = listen(call)?;
    let port = listener.local_addr().map_err(refused)?.port();
    let start = || start(port, &password, fields, call).map_err(refused);
    let mut thread = start()?;
    let mut strangers = Strangers::default();
    let mut looks = 0;
    while !call.deadline.left().is_zero() {
        match strangers.look(&listener, &password) {
            Ok(Some((socket, written))) => return Ok((socket, written, thread)),
            Ok(None) => {}
            Err(cause) => {
                end(listener, strangers, thread);
                return Err(refused(cause));
            }
        }
        if thread.is_finished() {
            // It may have been taken for a stranger too many.
            if !std::mem::take(&mut strangers.had_to_go) {
                return Err(failure(thread.join(), call));
            }
            thread = start()?;
        }
        thread::sleep(PAUSES[usize::from(looks >= QUICK)]);
        looks += 1;
    }
    end(listener, strangers, thread);
    let hint = if is_told_of_proxy() { UNIFIED } else { "" };
    Err(call.late(&format!("{NOT_SENT}{hint}")))
}

/// Ends minreq, which has not come.
fn end(listener: TcpListener, strangers: Strangers, thread: Thread) {
    drop((listener, strangers));
    // It ends at once, unless a proxy keeps it.
    for _ in 0..LAST_LOOKS {
        if thread.is_finished() {
            let _ = thread.join();
            return;
        }
        thread::sleep(PAUSES[1]);
    }
}

/// Opens a port of 127.0.0.1 for minreq.
fn listen(call: &Call) -> Result<TcpListener, Error> {
    let open = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        // Where nothing passes the loopback interface, minreq would wait for as long as the system
        // does, and could not be stopped.
        let left = call.deadline.left().max(PAUSES[1]);
        TcpStream::connect_timeout(&listener.local_addr()?, left)?;
        Ok(listener)
    };
    open().map_err(|cause: io::Error| match cause.kind() {
        io::ErrorKind::TimedOut => call.late(NOT_SENT),
        _ => call.refused_by_host(cause),
    })
}

/// Starts minreq on a thread of its own.
fn start(
    port: u16, password: &str, fields: &[(&str, &str)], call: &Call,
) -> io::Result<Thread> {
    let mut request = Request::new(Method::Post, format!("http://127.0.0.1:{port}/"))
        // minreq's own limit can underflow; ours has been kept before.
        .with_max_headers_size(None)
        .with_max_status_line_length(None)
        .with_follow_redirects(false)
        .with_header(FIELD, password);
    for (name, value) in fields {
        request = request.with_header(*name, *value);
    }
    // minreq would take a timeout from its own variable, and a proxy may keep it for ever.
    if is_told_of_proxy() || env::var_os("MINREQ_TIMEOUT").is_some() {
        // It starts a thread for that, and would panic if this host refused it.
        thread::Builder::new().spawn(|| ())?;
        request = request.with_timeout(call.deadline.left().as_secs() + 1);
    }
    thread::Builder::new().stack_size(STACK).spawn(move || {
        let response = request.send_lazy()?;
        Ok((response.status_code, response.headers))
    })
}

/// Those who have connected to the port, and what they have said.
#[derive(Default)]
struct Strangers {
    callers: Vec<(TcpStream, Vec<u8>)>,
    /// Some were closed before they had said much.
    had_to_go: bool,
}

impl Strangers {
    /// Looks once at all that have connected, without waiting. Returns minreq's socket and the
    /// header fields that it has written.
    fn look(
        &mut self, listener: &TcpListener, password: &str,
    ) -> io::Result<Option<(TcpStream, String)>> {
        while self.callers.len() < STRANGERS {
            match listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(true)?;
                    self.callers.push((socket, Vec::new()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A stranger that has gone already: some systems tell.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if self.callers.is_empty() => return Err(error),
                Err(_) => self.make_room(),
            }
        }
        self.callers.retain_mut(|(socket, said)| hear(socket, said));
        let shown = format!("\r\n{FIELD}: {password}\r\n");
        for (i, (_, said)) in self.callers.iter().enumerate() {
            let said = std::str::from_utf8(said).unwrap_or_default();
            let whole = said.strip_suffix("\r\n\r\n");
            if let Some((_, fields)) = whole.and_then(|said| said.split_once(&shown)) {
                let fields = fields.to_owned();
                let (socket, _) = self.callers.swap_remove(i);
                socket.set_nonblocking(false)?;
                return Ok(Some((socket, fields)));
            }
        }
        if self.callers.len() == STRANGERS {
            self.make_room();
        }
        Ok(None)
    }

    /// Closes those who have been there for the longest time.
    fn make_room(&mut self) {
        self.callers.drain(..self.callers.len().div_ceil(2));
        self.had_to_go = true;
    }
}

/// Reads what has come; `false` if no more can come, or it is more than minreq says.
fn hear(socket: &mut TcpStream, said: &mut Vec<u8>) -> bool {
    let mut buffer = [0; HEAD_LIMIT];
    loop {
        match socket.read(&mut buffer) {
            Ok(n @ 1..) if said.len() + n <= HEAD_LIMIT => said.extend_from_slice(&buffer[..n]),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            Ok(_) => return false,
        }
    }
}

/// Why minreq has ended without coming here.
fn failure(ended: thread::Result<Result<Head, minreq::Error>>, call: &Call) -> Error {
    let unusable = call.failed(format_args!("{UNUSABLE}{UNIFIED}"));
    match ended {
        // Where it was told of a proxy, it has gone there.
        Ok(Err(minreq::Error::IoError(cause))) if !is_told_of_proxy() => {
            call.refused_by_host(cause)
        }
        Ok(Err(cause)) => unusable.with_source(cause),
        _ => unusable,
    }
}

/// With minreq's feature `proxy`, which another crate may have turned on, these variables count.
fn is_told_of_proxy() -> bool {
    ["http_proxy", "all_proxy", "ALL_PROXY"].iter().any(|name| env::var_os(name).is_some())
}
