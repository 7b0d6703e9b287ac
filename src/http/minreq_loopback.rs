//! Has minreq write the head of a request and read the head of a response. minreq opens a socket of
//! its own, so it speaks to a port of 127.0.0.1, where it gets to see neither secrets nor content.
//! Called by `http`; all that knows minreq is here, and goes the day minreq takes a stream.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::response_head::Head;
use super::socket::is_passing;
use super::Call;
use crate::error::Error;

/// How long one wait for minreq lasts. Then the other callers are looked at, and whether minreq has
/// failed.
const MOMENT: Duration = Duration::from_millis(4);

/// How many connections may be there without having shown the password, and how long the oldest
/// is kept then. minreq shows it at once.
const STRANGERS: usize = 64;
const STRANGERS_TIME: Duration = Duration::from_millis(10);

/// How long minreq may take to end once its port is closed.
const END: Duration = Duration::from_millis(50);

/// What may be to blame when minreq does not come, or fails.
const UNIFIED: &str = ": if another crate has turned on minreq's feature `proxy`, the variables \
                       http_proxy and all_proxy must not be set";

/// The stack of the thread that minreq runs on.
const STACK: usize = 64 * 1024;

/// As good as no timeout: when the call's time is up, the connection to minreq is closed.
const FOREVER: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// How long the head may be that minreq writes, besides the fields that it was given.
const OTHER_FIELDS: usize = 512;

/// The field that minreq is known by.
const PASSWORD: &str = "JAS-Session";

/// The status and the fields of a response, as minreq has read them.
type Response = (u16, Vec<(String, String)>);

/// The head of a request as minreq has written it.
pub(super) struct Written {
    pub(super) method: String,
    /// The fields but `Host`, and the end of the head.
    pub(super) fields: String,
}

/// Has minreq write the head of a request with these fields, and read the head of the response that
/// `exchange` gets for it: its status and its fields come back with what `exchange` gave, and the
/// listener, for the next one. `length` is that of the content of a POST.
pub(super) fn pass<T>(
    listener: TcpListener, fields: &[(&str, &str)], length: Option<usize>, call: &Call,
    exchange: impl FnOnce(&Written) -> Result<(Head, T), Error>,
) -> Result<(Response, Head, T, TcpListener), Error> {
    let refused = |cause| call.refused_by_host(cause);
    let random = || RandomState::new().hash_one(0);
    let password = format!("{:016x}{:016x}", random(), random());
    let port = listener.local_addr().map_err(refused)?.port();
    let request = request(port, &password, fields, length).map_err(refused)?;
    let spawned = thread::Builder::new().stack_size(STACK).spawn(move || {
        let response = request.send_lazy()?;
        Ok((response.status_code, response.headers))
    });
    let thread = spawned.map_err(refused)?;
    let password = format!("{PASSWORD}: {password}\r\n");
    let size = |(name, value): &(&str, &str)| name.len() + value.len() + ": \r\n".len();
    let most = fields.iter().map(size).sum::<usize>() + OTHER_FIELDS;
    let accepted = accept(&listener, &password, most, &thread, call.deadline.at);
    let Some((mut near, written)) = accepted.map_err(refused)? else {
        return Err(failure(listener, thread, call));
    };
    let received = exchange(&written);
    let _ = match &received {
        // Should that fail, minreq knows why.
        Ok((head, _)) => near.write_all(head.text.as_bytes()),
        // To close it would not be enough: a process that was forked may hold it, too.
        Err(_) => near.shutdown(Shutdown::Both),
    };
    // minreq closes first: the side that does keeps its port for a minute, and the listener's is
    // needed again.
    let ended = thread.join();
    let (head, other) = received?;
    match ended {
        Ok(Ok(response)) => Ok((response, head, other, listener)),
        Ok(Err(cause)) => Err(unusable(call).with_source(cause).or_executed(true)),
        Err(_) => Err(unusable(call).or_executed(true)),
    }
}

/// Why minreq has not come to the listener.
fn failure(
    listener: TcpListener, thread: JoinHandle<Result<Response, minreq::Error>>, call: &Call,
) -> Error {
    drop(listener);
    let closed = Instant::now();
    // It ends at once, unless a proxy keeps it, or the loopback interface is down.
    while !thread.is_finished() && closed.elapsed() < END {
        thread::sleep(Duration::from_millis(1));
    }
    match thread.is_finished().then(|| thread.join()) {
        _ if call.deadline.left().is_zero() => {
            let hint = if is_told_of_proxy() { UNIFIED } else { "" };
            call.late(&format!("before the request was sent{hint}"))
        }
        // Where it was told of a proxy, it has gone there.
        Some(Ok(Err(minreq::Error::IoError(cause)))) if !is_told_of_proxy() => {
            call.refused_by_host(cause)
        }
        Some(Ok(Err(cause))) => unusable(call).with_source(cause),
        _ => unusable(call),
    }
}

/// A port of 127.0.0.1 that minreq, and nobody else, speaks to: one exchange after another.
pub(super) fn listen() -> io::Result<TcpListener> {
    with_timeout(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

/// Waits for the connection that says this password, and gives all that it says; `None` if
/// minreq has failed, or time is up.
fn accept<T>(
    listener: &TcpListener, password: &str, most: usize, thread: &JoinHandle<T>, deadline: Instant,
) -> io::Result<Option<(TcpStream, Written)>> {
    let mut callers: Vec<Caller> = Vec::new();
    let mut pause = SHORTEST_PAUSE;
    while !thread.is_finished() && Instant::now() < deadline {
        if callers.len() == STRANGERS && callers[0].since.elapsed() >= STRANGERS_TIME {
            callers.remove(0);
        }
        let accepted = match callers.len() {
            STRANGERS => Err(io::ErrorKind::WouldBlock.into()),
            _ => listener.accept(),
        };
        match accepted {
            Ok((socket, _)) => {
                // minreq speaks at once. While some have not shown the password, all are looked
                // at in turn.
                if HAS_TIMEOUT && callers.is_empty() {
                    socket.set_read_timeout(Some(MOMENT))?;
                } else {
                    socket.set_nonblocking(true)?;
                }
                callers.push(Caller { socket, said: Vec::new(), since: Instant::now() });
            }
            Err(error) if is_passing(&error) => {
                if callers.len() == STRANGERS || !HAS_TIMEOUT {
                    thread::sleep(pause);
                    pause = (pause * 3 / 2).min(MOMENT / 4);
                }
            }
            // A stranger that has gone already: some systems tell.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
        callers.retain_mut(|caller| caller.listen(most));
        while let Some(i) = callers.iter().position(Caller::is_done) {
            let Caller { socket, said, .. } = callers.remove(i);
            if let Some(written) = Written::behind(password, &said) {
                socket.set_nonblocking(false)?;
                return Ok(Some((socket, written)));
            }
        }
    }
    Ok(None)
}

/// The request that minreq is to send.
fn request(
    port: u16, password: &str, fields: &[(&str, &str)], length: Option<usize>,
) -> io::Result<minreq::Request> {
    let method = match length {
        Some(_) => minreq::Method::Post,
        None => minreq::Method::Get,
    };
    let mut request = minreq::Request::new(method, format!("http://127.0.0.1:{port}/"))
        // minreq's own limit can underflow; ours has been kept before.
        .with_max_headers_size(None)
        .with_max_status_line_length(None)
        .with_follow_redirects(false)
        .with_header(PASSWORD, password);
    for (name, value) in fields {
        request = request.with_header(*name, *value);
    }
    if let Some(length) = length {
        request = request.with_header("Content-Length", length.to_string());
    }
    // Where this variable is set, minreq would take its value for a timeout.
    if std::env::var_os("MINREQ_TIMEOUT").is_some() {
        // It starts a thread for that, and would panic if this host refused it.
        thread::Builder::new().spawn(|| ())?;
        request = request.with_timeout(FOREVER.as_secs());
    }
    Ok(request)
}

/// Who has connected to the listener: minreq, or a stranger.
struct Caller {
    socket: TcpStream,
    said: Vec<u8>,
    since: Instant,
}

impl Caller {
    /// Takes what it says; `false` once it can't be minreq.
    fn listen(&mut self, most: usize) -> bool {
        let mut buffer = [0; 512];
        while !self.is_done() {
            match self.socket.read(&mut buffer) {
                Ok(n @ 1..) if self.said.len() + n <= most => {
                    self.said.extend_from_slice(&buffer[..n]);
                }
                Err(error) if is_passing(&error) => {
                    return self.socket.set_nonblocking(true).is_ok();
                }
                _ => return false,
            }
        }
        true
    }

    /// Its head is complete.
    fn is_done(&self) -> bool {
        self.said.ends_with(b"\r\n\r\n")
    }
}

impl Written {
    /// What stands behind the line with the password, if it is there: before it stands `Host`.
    fn behind(password: &str, head: &[u8]) -> Option<Written> {
        let head = std::str::from_utf8(head).ok()?;
        let mut lines = head.split_inclusive('\n');
        let method = lines.next()?.split(' ').next()?.to_owned();
        lines.find(|line| *line == password)?;
        Some(Written { method, fields: lines.collect() })
    }
}

fn unusable(call: &Call) -> Error {
    call.failed(format_args!("minreq can't be used{UNIFIED}"))
}

/// With minreq's feature `proxy`, which another crate may have turned on, these variables count.
fn is_told_of_proxy() -> bool {
    let mut names = ["http_proxy", "all_proxy", "ALL_PROXY"].into_iter();
    names.any(|name| std::env::var_os(name).is_some())
}

/// Whether a wait at the listener can have a timeout, so that it ends at once when minreq comes.
/// Elsewhere (Windows, macOS, the BSDs) it is looked again and again, after a pause.
const HAS_TIMEOUT: bool = cfg!(any(target_os = "linux", target_os = "android"));
const SHORTEST_PAUSE: Duration = Duration::from_micros(20);

#[cfg(any(target_os = "linux", target_os = "android"))]
fn with_timeout(listener: TcpListener) -> io::Result<TcpListener> {
    use std::os::fd::OwnedFd;
    // The standard library has the option for streams only; here accepting keeps to it as well.
    let socket = TcpStream::from(OwnedFd::from(listener));
    socket.set_read_timeout(Some(MOMENT))?;
    Ok(OwnedFd::from(socket).into())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn with_timeout(listener: TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    Ok(listener)
}
