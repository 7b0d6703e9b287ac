//! One exchange: a request, and its response as a head and a stream. Called by `session` and
//! `token`. Outside of this module and its folder nothing knows minreq, rustls or a socket; inside
//! nothing knows tokens or retries.

mod addresses;
mod connection;
mod exchange;
mod idle;
mod minreq_loopback;
mod proxy;
mod response_content;
mod response_head;
mod socket;
#[cfg_attr(not(feature = "tls"), path = "http/no_tls.rs")]
mod tls;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use addresses::Addresses;
use connection::{Connection, Route};
use exchange::Exchange;
pub(crate) use idle::Idle;
use minreq_loopback::Written;
pub(crate) use proxy::Proxy;
pub(crate) use response_content::{Content, KEPT};
use response_head::{is_encoded, Head, Trouble};
pub(crate) use tls::Trust;

use crate::error::{Error, ErrorKind};
use crate::url::Url;

/// What requests say they come from, unless `Session::header` replaces it.
pub(crate) const USER_AGENT: &str = concat!("jas-session/", env!("CARGO_PKG_VERSION"));

/// Content up to this size is read with the head, if the request may be retried: then it can be
/// when the content is truncated.
const SMALL: u64 = 16 * 1024;

/// Longer timeouts are as good as none, and would overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The end of a call's time, and how long that was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    timeout: Duration,
}

/// What messages call a request, and when its time is up.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) label: String,
    pub(crate) deadline: Deadline,
}

/// How a session reaches servers. Clones share the idle connections.
#[derive(Clone, Default)]
pub(crate) struct Network {
    pub(crate) proxy: Option<Arc<Proxy>>,
    pub(crate) trust: Trust,
    pub(crate) addresses: Addresses,
    pub(crate) idle: Idle,
    /// How many are kept, at most.
    pub(crate) idle_connections: usize,
}

/// A request: a GET, or a POST if it has content. Everything in it has been checked.
pub(crate) struct Request<'a> {
    pub(crate) call: Call,
    pub(crate) url: &'a Url,
    /// Fields that anybody may see.
    pub(crate) fields: &'a [(&'a str, &'a str)],
    /// Fields that may hold secrets.
    pub(crate) secret_fields: &'a [(&'a str, &'a str)],
    pub(crate) content: Option<&'a [u8]>,
    /// It may be sent more than once, and so on an idle connection: of a request that gets no
    /// response there, nobody could tell whether it was received.
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
        Deadline { at: Instant::now() + timeout.min(LONGEST), timeout }
    }

    /// An earlier deadline: after `part`, if that is before this one.
    pub(crate) fn within(self, part: Duration) -> Deadline {
        Deadline::after(part.min(self.left()))
    }

    pub(crate) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

impl Call {
    pub(crate) fn late(&self, when: &str) -> Error {
        let Call { label, deadline } = self;
        let message = format!("{label}: the timeout of {:?} passed {when}", deadline.timeout);
        Error::new(ErrorKind::Timeout, message)
    }

    fn failed(&self, message: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Exchange, format!("{}: {message}", self.label))
    }

    fn refused_by_host(&self, cause: io::Error) -> Error {
        let message =
            "this device refused a thread, a socket or its loopback interface: check its \
                       memory and its limit of open files";
        self.failed(message).with_source(cause)
    }

    /// Why `what` is not there, or not whole.
    fn incomplete(&self, what: &str, trouble: Trouble) -> Error {
        let cause = match trouble {
            _ if self.deadline.left().is_zero() => {
                return self.late(&format!("before {what} was complete"));
            }
            Trouble::Malformed(why) => return self.failed(format_args!("{what} {why}")),
            Trouble::Io(cause) => cause,
        };
        let message = format!("the connection ended before {what} was complete");
        self.failed(message).with_source(cause)
    }
}

impl Network {
    /// Whether a request goes through the same proxy, and trusts the same, so that it would fail in
    /// the same way.
    pub(crate) fn is_same_way(&self, other: &Network) -> bool {
        self.proxy == other.proxy && self.trust == other.trust
    }
}

/// Sends a request and reads the head of the response.
pub(crate) fn send(request: Request<'_>) -> Result<Response, Error> {
    let (call, network) = (&request.call, request.network);
    if call.deadline.left().is_zero() {
        return Err(call.late("before anything was sent"));
    }
    let proxy = network.proxy.clone().filter(|_| request.url.origin.https);
    let route = Route { origin: request.url.origin.clone(), proxy, trust: network.trust.clone() };
    let (mut connection, is_reused) = request.connection(&route, request.is_repeatable)?;
    let listener = connection.listener.take().map_or_else(minreq_loopback::listen, Ok);
    let listener = listener.map_err(|cause| call.refused_by_host(cause))?;
    let length = request.content.map(<[u8]>::len);
    let ((status, mut fields), head, mut connection, listener) =
        minreq_loopback::pass(listener, request.fields, length, call, |written| {
            request.exchange(&request.head(written), &route, connection, is_reused)
        })?;
    connection.listener = Some(listener);
    fields.extend(head.framing_fields);
    let keep = head.is_persistent.then(|| (network.idle.clone(), network.idle_connections));
    let is_repeatable = request.is_repeatable;
    let content = Content::new(request.call, head.framing, connection, keep);
    let mut response = Response { status, fields, content };
    response.read_small(is_repeatable)?;
    Ok(response)
}

impl Request<'_> {
    /// The head as it goes out: what minreq has written, and what it must not see.
    fn head(&self, written: &Written) -> String {
        let origin = self.url.origin.to_string();
        let host = origin.split_once("://").map_or("", |(_, host)| host);
        let Written { method, fields } = written;
        let mut head = format!("{method} {} HTTP/1.1\r\nHost: {host}\r\n", self.url.path);
        for (name, value) in self.secret_fields {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head + fields
    }

    /// A connection, and whether it was idle.
    fn connection(&self, route: &Route, may_be_idle: bool) -> Result<(Connection, bool), Error> {
        let Network { addresses, idle, idle_connections, .. } = self.network;
        if may_be_idle && *idle_connections > 0 {
            if let Some(mut connection) = idle.take(route) {
                connection.socket().deadline = self.call.deadline;
                return Ok((connection, true));
            }
        }
        Ok((Connection::open(route, addresses, &self.call)?, false))
    }

    /// Sends the request and reads the head of the response. A connection that was idle is given
    /// up for another if the server has closed it.
    fn exchange(
        &self, head: &str, route: &Route, mut connection: Connection, mut is_reused: bool,
    ) -> Result<(Head, Connection), Error> {
        let mut was_sent = false;
        loop {
            // What stands there already is no response to this request.
            if !is_reused || connection.is_quiet() {
                let mut exchange = Exchange::on(&mut connection);
                let received = exchange.run(head, self.content.unwrap_or_default());
                was_sent = true;
                let is_stale = is_reused && exchange.is_stale(&received);
                if !is_stale || self.call.deadline.left().is_zero() {
                    let head = received.map_err(|why| self.call.incomplete("the response", why));
                    return Ok((head.map_err(|error| error.or_executed(true))?, connection));
                }
            }
            let other = self.connection(route, !was_sent);
            (connection, is_reused) = other.map_err(|error| error.or_executed(was_sent))?;
        }
    }
}

impl Response {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Refuses content that is coded, and reads what is small, so that the request can be retried
    /// if it is truncated.
    fn read_small(&mut self, is_repeatable: bool) -> Result<(), Error> {
        if !self.is_success() {
            return Ok(());
        }
        if is_encoded(&self.fields) {
            if self.content.read_ahead(1)? > 0 {
                let message = "the content is encoded (Content-Encoding), which was not asked for";
                return Err(self.content.call().failed(message).or_executed(true).finally(true));
            }
        } else if is_repeatable && self.content.length().is_none_or(|length| length <= SMALL) {
            self.content.read_ahead(SMALL)?;
        }
        Ok(())
    }
}
