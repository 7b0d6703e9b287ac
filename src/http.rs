//! Sends a request and returns the head of its response, with the content as a stream. Called by
//! `session` and `token`. Knows nothing of tokens, retries or minreq. Nothing outside of this
//! module and its folder knows rustls or a socket, except `token/minreq`.

mod addresses;
mod connection;
mod exchange;
mod pool;
mod proxy;
mod response_content;
mod response_head;
mod socket;
#[cfg_attr(not(feature = "tls"), path = "http/no_tls.rs")]
mod tls;

use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use addresses::{is_out_of_files, Addresses};
use connection::{Connection, Route};
use exchange::PART;
pub(crate) use pool::Pool;
pub(crate) use proxy::Proxy;
pub(crate) use response_content::Content;
use response_head::{is_encoded, Head};
use socket::Socket;
pub(crate) use tls::Roots;

use crate::error::{Error, ErrorKind, ErrorResponse, ERROR_CONTENT_LIMIT};
use crate::url::{Origin, Url};

/// The `User-Agent` of requests, unless `Session::header` replaces it.
pub(crate) const USER_AGENT: &str = concat!("jas-session/", env!("CARGO_PKG_VERSION"));

/// If a request may be sent more than once, response content up to this size is read together with
/// the head. Then truncated content is an error that can be retried.
const READ_AHEAD_LIMIT: u64 = 16 * 1024;

/// Maximum size of a request's head without path, host and fields.
const HEAD_ROOM: usize = 80;

/// Longer timeouts are shortened to this: their end could overflow an `Instant`.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// When a call's time ends, and its timeout for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    timeout: Duration,
}

/// The name of a request in messages, and its deadline.
#[derive(Clone)]
pub(crate) struct CallContext {
    pub(crate) label: String,
    pub(crate) deadline: Deadline,
}

/// How a session reaches servers. Clones share the idle connections.
#[derive(Clone, Default)]
pub(crate) struct Network {
    pub(crate) proxy: Option<Arc<Proxy>>,
    pub(crate) roots: Roots,
    pub(crate) addresses: Addresses,
    pub(crate) pool: Pool,
    /// Maximum number of idle connections.
    pub(crate) idle_connections: usize,
}

/// A request: a GET, or a POST if it has content. Everything in it has been checked.
pub(crate) struct Request<'a> {
    pub(crate) call: CallContext,
    pub(crate) url: &'a Url,
    /// The header fields, without `Host` and `Content-Length`.
    pub(crate) fields: &'a [(&'a str, &'a str)],
    pub(crate) content: Option<&'a [u8]>,
    /// May be sent twice, so may use an idle connection. If that breaks, it is unknown whether the
    /// server received the request.
    pub(crate) is_repeatable: bool,
    pub(crate) network: &'a Network,
}

/// The final response: its head, and its content as a stream.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: Content,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Deadline {
        Deadline { at: Instant::now() + timeout.min(MAX_TIMEOUT), timeout }
    }

    /// Returns the earlier of this deadline and one after `part`.
    pub(crate) fn within(self, part: Duration) -> Deadline {
        Deadline::after(part.min(self.remaining()))
    }

    pub(crate) fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Returns the remaining time, or an error if there is none.
    fn time_left(self) -> io::Result<Duration> {
        match self.remaining() {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

impl CallContext {
    pub(crate) fn timed_out(&self, when: &str) -> Error {
        let CallContext { label, deadline } = self;
        let message = format!("{label}: the timeout of {:?} passed {when}", deadline.timeout);
        Error::new(ErrorKind::Timeout, message)
    }

    pub(crate) fn error(&self, message: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Exchange, format!("{}: {message}", self.label))
    }

    pub(crate) fn refused_thread(&self, cause: io::Error) -> Error {
        let why = "this device refused a thread: check its memory and its limit of threads";
        self.error(why).with_source(cause)
    }

    /// Returns the error after this device refused to open a socket, or refused a connection to its
    /// own address 127.0.0.1.
    pub(crate) fn refused_by_device(&self, cause: io::Error) -> Error {
        let why = if is_out_of_files(&cause) {
            "too many files are open, and each connection counts as one: raise the limit of open \
             files, or read responses to their end, or drop them"
        } else {
            "127.0.0.1 can't be reached, and tokens are requested over it: check the loopback \
             interface and the firewall"
        };
        self.error(why).with_source(cause)
    }

    /// Tries to open a socket, and returns an error if the limit of open files is reached.
    /// Libraries that fail for this reason may not say so.
    fn refused_files(&self) -> Option<Error> {
        let refused = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).err().filter(is_out_of_files);
        refused.map(|cause| self.refused_by_device(cause))
    }

    /// Returns the error of an exchange. A cause of the kind [`Other`](io::ErrorKind::Other) comes
    /// from this crate, never from the system: `what` is malformed. Any other cause means that the
    /// connection ended before `what` was complete.
    fn incomplete(&self, what: &str, cause: io::Error) -> Error {
        if self.deadline.remaining().is_zero() {
            return self.timed_out(&format!("before {what} was complete"));
        }
        if cause.kind() == io::ErrorKind::Other {
            return self.error(format_args!("{what} {cause}"));
        }
        let message = format!("the connection ended before {what} was complete");
        self.error(message).with_source(cause)
    }
}

impl Network {
    /// Connects to a server or a proxy. For messages, `peer` is " of the proxy ...", or empty.
    fn connect(&self, to: &Arc<Origin>, peer: &str, call: &CallContext) -> Result<Socket, Error> {
        let (mut socket, took) = self.addresses.connect(to, peer, call)?;
        self.pool.watch(&mut socket, to, Some(took));
        Ok(socket)
    }

    /// If the system has refused a file descriptor, closes the idle connections. Returns whether
    /// any were closed, so that another attempt may succeed.
    pub(crate) fn frees_descriptors(&self, error: &Error) -> bool {
        let cause = error.source().and_then(|source| source.downcast_ref());
        cause.is_some_and(is_out_of_files) && self.pool.close(|_| true)
    }
}

/// Sends a request and reads the head of the response.
pub(crate) fn send(request: Request<'_>) -> Result<Response, Error> {
    let (call, network) = (&request.call, request.network);
    if call.deadline.remaining().is_zero() {
        return Err(call.timed_out("before anything was sent"));
    }
    let origin = Arc::clone(&request.url.origin);
    let proxy = network.proxy.clone().filter(|proxy| origin.https && !proxy.exempts(&origin));
    let route = Route { origin, proxy, roots: network.roots.clone() };
    let (head, connection) = request.exchange(&route)?;
    let Head { status, fields, framing, is_persistent } = head;
    let most = if is_persistent { network.idle_connections } else { 0 };
    let is_repeatable = request.is_repeatable;
    let content = Content::new(request.call, framing, connection, network.pool.clone(), most);
    let mut response = Response { status, fields, content };
    if response.is_success() {
        if is_encoded(&response.fields) {
            response.content.refuse_encoded()?;
        }
        if is_repeatable
            && response.content.length().is_none_or(|length| length <= READ_AHEAD_LIMIT)
        {
            response.content.read_ahead(READ_AHEAD_LIMIT)?;
        }
    }
    Ok(response)
}

impl Request<'_> {
    /// Sends the request on an idle connection if possible, else on a new one. Returns the head of
    /// the response and the connection that its content comes from.
    fn exchange(&self, route: &Route) -> Result<(Head, Connection), Error> {
        let content = self.content.unwrap_or_default();
        let (first, rest) = content.split_at(content.len().min(PART));
        let beginning = self.beginning(first);
        self.network.pool.close_expired();
        let idle = self.idle_connection(route);
        let was_sent = idle.is_some();
        if let Some(mut connection) = idle {
            let (received, is_stale) = exchange::run(&mut connection, &beginning, rest);
            if is_stale || received.is_err() {
                // The other idle connections of the route may be broken, too.
                self.network.pool.close(|c| c.route == *route);
            }
            if !is_stale || self.call.deadline.remaining().is_zero() {
                return self.outcome(received, connection, false);
            }
        }
        let opened = self.open(route).and_then(|mut connection| {
            let (received, is_stale) = exchange::run(&mut connection, &beginning, rest);
            self.outcome(received, connection, is_stale)
        });
        opened.map_err(|error| error.executed_at_least(was_sent))
    }

    /// Returns the head of the request, followed by the first part of its content.
    fn beginning(&self, content: &[u8]) -> Vec<u8> {
        let (path, host) = (&self.url.path, self.url.origin.host_field());
        let size = |(name, value): &(&str, &str)| name.len() + value.len() + "\r\n: ".len();
        let fields: usize = self.fields.iter().map(size).sum();
        let room = path.len() + host.len() + fields + HEAD_ROOM + content.len();
        let mut head = String::with_capacity(room);
        let method = if self.content.is_some() { "POST " } else { "GET " };
        head.extend([method, path, " HTTP/1.1\r\nHost: ", host]);
        for (name, value) in self.fields {
            head.extend(["\r\n", name, ": ", value]);
        }
        if let Some(content) = self.content {
            head.extend(["\r\nContent-Length: ", &content.len().to_string()]);
        }
        head.push_str("\r\n\r\n");
        let mut beginning = head.into_bytes();
        beginning.extend_from_slice(content);
        beginning
    }

    /// Returns an idle connection that is still open, if the request may use one.
    fn idle_connection(&self, route: &Route) -> Option<Connection> {
        if !self.is_repeatable || self.network.idle_connections == 0 {
            return None;
        }
        loop {
            let mut connection = self.network.pool.take(route)?;
            connection.stream.socket().deadline = self.call.deadline;
            if connection.is_open() {
                return Some(connection);
            }
        }
    }

    /// Closes an idle connection, then opens a new one: a server may have a single worker, which
    /// the idle connection occupies.
    fn open(&self, route: &Route) -> Result<Connection, Error> {
        self.network.pool.close_one(|c| c.route == *route);
        let connection = loop {
            match Connection::open(route, self.network, &self.call) {
                Err(error) if self.network.frees_descriptors(&error) => {}
                opened => break opened?,
            }
        };
        if self.call.deadline.remaining().is_zero() {
            return Err(self.call.timed_out("before the request was sent"));
        }
        Ok(connection)
    }

    /// Returns the result of an exchange. If `is_silent`, the connection is new and has received no
    /// byte of a response: the server may have refused it within TLS.
    fn outcome(
        &self, received: io::Result<Head>, connection: Connection, is_silent: bool,
    ) -> Result<(Head, Connection), Error> {
        let cause = match received {
            Ok(head) => return Ok((head, connection)),
            Err(cause) => cause,
        };
        let refusal = if is_silent { connection.stream.refusal(&cause) } else { None };
        let Some((why, may_have_executed)) = refusal else {
            return Err(self.call.incomplete("the response", cause).executed_at_least(true));
        };
        let error = self.call.error(why).with_source(cause).retryable(false);
        Err(error.executed_at_least(may_have_executed))
    }
}

impl Response {
    /// Reads what an error keeps of a response: its content up to 64 KiB, as far as it arrives in a
    /// quarter of the remaining time. If the content is truncated, the status says enough.
    pub(crate) fn into_error_response(self) -> ErrorResponse {
        ErrorResponse::new(self.status, self.fields, self.content.beginning(ERROR_CONTENT_LIMIT))
    }

    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}
