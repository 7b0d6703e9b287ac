//! One exchange: a request, and its response as a head and a stream. Called by `session` and
//! `token`. Outside of this module and its folder nothing knows minreq, rustls or a socket; inside
//! nothing knows tokens or retries.

mod connection;
mod content;
mod framing;
mod head;
mod idle;
mod proxy;
mod socket;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
mod tls {
    /// There is nobody to trust without TLS.
    #[derive(Clone, Default, PartialEq)]
    pub(crate) struct Trust(());

    impl Trust {
        #[allow(clippy::unused_self, reason = "with TLS it is used")]
        pub(crate) fn extended(&self, _: &[u8]) -> Result<Trust, String> {
            Err("need TLS: turn on the feature tls (or system-roots) of jas-session".to_owned())
        }
    }
}

use std::fmt;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use connection::{Connection, Route};
pub(crate) use content::{Content, KEPT};
use framing::{coding, read_head, Head, Trouble, HEAD_LIMIT, LINE_LIMIT};
use head::{Minreq, Written};
pub(crate) use idle::Idle;
pub(crate) use proxy::Proxy;
use socket::{flush_all, is_passing, is_passing_write, write_all};
pub(crate) use tls::Trust;

use crate::counts::Counter;
use crate::error::{Error, ErrorKind};
use crate::url::Url;

/// What requests say they come from, unless `Session::header` replaces it.
pub(crate) const USER_AGENT: &str = concat!("jas-session/", env!("CARGO_PKG_VERSION"));

/// How many idle connections are kept, unless `Session::idle_connections` tells.
const IDLE_CONNECTIONS: usize = 8;

/// Content up to this size is read with the head, if the request may be sent again: then it can be
/// when the content is truncated.
const SMALL: u64 = 16 * 1024;

/// Content up to this size is sent together with the head; longer content in parts of this size.
const PART: usize = 16 * 1024;

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
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) proxy: Option<Arc<Proxy>>,
    pub(crate) trust: Trust,
    pub(crate) idle: Arc<Idle>,
    pub(crate) counts: Arc<Counter>,
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

/// No response.
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// A repetition would end in the same way.
    pub(crate) is_final: bool,
}

/// One request on one connection.
struct Exchange<'a> {
    connection: &'a mut Connection,
    /// How long the heads of the response may still become.
    left: usize,
    /// What has come of the next one.
    head: Vec<u8>,
    /// The response, if it has begun before the request was sent to its end.
    early: Option<Result<Head, Trouble>>,
}

/// The head of a response, and whether the request was sent to its end.
struct Received {
    head: Head,
    is_sent: bool,
}

/// Why there is no head of a response.
#[derive(Default)]
struct Broken {
    trouble: Trouble,
    /// A byte of the response was there.
    has_begun: bool,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Deadline {
        Deadline { at: Instant::now() + timeout.min(LONGEST), timeout }
    }

    /// An earlier deadline: after `part`, if that is before this one.
    pub(crate) fn within(self, part: Duration) -> Deadline {
        let part = part.min(self.left());
        Deadline { at: Instant::now() + part, timeout: part }
    }

    pub(crate) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

impl Call {
    pub(crate) fn late(&self, when: &str) -> Error {
        let Call { label, deadline } = self;
        let message = format!("{label}: the time of {:?} was up {when}", deadline.timeout);
        Error::new(ErrorKind::Timeout, message)
    }

    fn failed(&self, message: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Exchange, format!("{}: {message}", self.label))
    }

    fn refused_by_host(&self, cause: io::Error) -> Error {
        self.failed("this device refused a thread, a socket or its loopback interface")
            .with_source(cause)
    }

    fn over_limit(&self) -> Error {
        self.failed(format_args!(
            "the answer's header section, or its trailers, are longer than {HEAD_LIMIT} bytes or \
             {LINE_LIMIT} lines"
        ))
    }
}

impl Default for Network {
    fn default() -> Network {
        Network {
            proxy: None,
            trust: Trust::default(),
            idle: Arc::default(),
            counts: Arc::default(),
            idle_connections: IDLE_CONNECTIONS,
        }
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
pub(crate) fn send(request: Request<'_>) -> Result<Response, Failure> {
    let (call, network) = (&request.call, request.network);
    if call.deadline.left().is_zero() {
        return Err(call.late("before anything was sent").into());
    }
    let route = request.route();
    let idle = request.idle(&route);
    let is_reused = idle.is_some();
    let mut connection = idle.map_or_else(|| request.open(&route), Ok)?;
    let (listener, length) = (connection.listener.take(), request.content.map(<[u8]>::len));
    let (minreq, written) = Minreq::write_head(listener, request.fields, length, call)?;
    let head = request.head(&written);
    let Received { head, is_sent } = request.exchange(&mut connection, is_reused, &route, &head)?;
    let ((status, mut fields), listener) =
        minreq.read_head(&head.text, call).map_err(|error| error.or_executed(true))?;
    connection.listener = listener;
    fields.extend(head.framing_fields);
    let keep = (head.is_persistent && is_sent)
        .then(|| (Arc::clone(&network.idle), network.idle_connections));
    let mut response = Response {
        status,
        fields,
        content: Content::new(request.call, head.framing, connection, keep),
    };
    response.check_coding()?;
    response.read_small(request.is_repeatable)?;
    Ok(response)
}

impl Request<'_> {
    fn route(&self) -> Route {
        let origin = &self.url.origin;
        Route {
            origin: origin.clone(),
            proxy: self.network.proxy.clone().filter(|_| origin.https),
            trust: self.network.trust.clone(),
        }
    }

    /// An idle connection, if there is one and the request may go out on it.
    fn idle(&self, route: &Route) -> Option<Connection> {
        if !self.is_repeatable || self.network.idle_connections == 0 {
            return None;
        }
        let mut connection = self.network.idle.take(route)?;
        connection.socket().deadline = self.call.deadline;
        Some(connection)
    }

    fn open(&self, route: &Route) -> Result<Connection, Failure> {
        let opened = Connection::open(route.clone(), &self.network.idle, &self.call)?;
        self.network.counts.add(|counts| counts.connections += 1);
        Ok(opened)
    }

    /// The head as it goes out: what minreq has written, and what it must not see.
    fn head(&self, written: &Written) -> String {
        let origin = self.url.origin.to_string();
        let host = origin.split_once("://").map_or("", |(_, host)| host);
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", written.method, self.url.path);
        for (name, value) in self.secret_fields {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.push_str(&written.fields);
        head
    }

    /// Sends the request and reads the head of the response. A connection that was idle is given
    /// up for another if the server has closed it.
    fn exchange(
        &self, connection: &mut Connection, mut is_reused: bool, route: &Route, head: &str,
    ) -> Result<Received, Failure> {
        let content = self.content.unwrap_or_default();
        // What stands there already is no response to this request.
        while is_reused && !connection.is_quiet() {
            let other = self.idle(route);
            is_reused = other.is_some();
            *connection = other.map_or_else(|| self.open(route), Ok)?;
        }
        let mut received = Exchange::on(connection).run(head, content);
        if is_reused && is_stale(&received, self.call.deadline) {
            let opened = self.open(route);
            *connection = opened
                .map_err(|failure| Failure { error: failure.error.or_executed(true), ..failure })?;
            received = Exchange::on(connection).run(head, content);
        }
        Ok(received.map_err(|broken| no_response(&self.call, broken).or_executed(true))?)
    }
}

/// Another attempt may succeed.
impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, is_final: false }
    }
}

impl Response {
    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Refuses content that is coded, if there is content.
    fn check_coding(&mut self) -> Result<(), Failure> {
        let (true, Some(message)) = (self.is_success(), coding(&self.fields)) else {
            return Ok(());
        };
        if self.content.read_ahead(1)? == 0 {
            return Ok(());
        }
        Err(Failure {
            error: self.content.call().failed(message).or_executed(true),
            is_final: true,
        })
    }

    fn read_small(&mut self, is_repeatable: bool) -> Result<(), Error> {
        let is_small = self.content.length().is_none_or(|length| length <= SMALL);
        if self.is_success() && is_repeatable && is_small {
            self.content.read_ahead(SMALL)?;
        }
        Ok(())
    }
}

impl Exchange<'_> {
    fn on(connection: &mut Connection) -> Exchange<'_> {
        Exchange { connection, left: HEAD_LIMIT, head: Vec::new(), early: None }
    }

    /// Sends the request, and reads the head of the final response.
    fn run(mut self, head: &str, content: &[u8]) -> Result<Received, Broken> {
        let sent = self.send(head, content);
        // The server may have responded before it closed.
        let received = match self.early.take() {
            Some(received) => received,
            None => self.final_head(),
        };
        match received {
            Ok(head) => Ok(Received { head, is_sent: matches!(sent, Ok(true)) }),
            Err(trouble) => Err(Broken {
                has_begun: self.left < HEAD_LIMIT || self.connection.has_surplus(),
                trouble: sent.err().map_or(trouble, Trouble::Io),
            }),
        }
    }

    /// Sends the request; `false` if the server has refused it before its end.
    fn send(&mut self, head: &str, content: &[u8]) -> io::Result<bool> {
        let (first, rest) = content.split_at(content.len().min(PART));
        let stream = self.connection.reader.get_mut();
        write_all(stream, &[head.as_bytes(), first].concat())?;
        for part in rest.chunks(PART) {
            if !self.send_part(part)? {
                return Ok(false);
            }
        }
        // What TLS still holds.
        if rest.is_empty() {
            return flush_all(self.connection.reader.get_mut()).map(|()| true);
        }
        self.send_part(&[])
    }

    fn send_part(&mut self, mut part: &[u8]) -> io::Result<bool> {
        let mut blocked = None;
        while !self.is_refused() {
            let stream = self.connection.reader.get_mut();
            let written =
                if part.is_empty() { stream.flush().map(|()| 0) } else { stream.write(part) };
            match written {
                Ok(n) if n == part.len() => return Ok(true),
                Ok(n) => {
                    part = &part[n..];
                    blocked = None;
                }
                Err(error) if is_passing_write(&error) => {
                    let since = *blocked.get_or_insert_with(Instant::now);
                    // It has responded, as it seems, and reads no more.
                    let has_responded = self.early.is_some() || !self.head.is_empty();
                    let patience = self.connection.socket().deadline.left() / 4;
                    if has_responded && since.elapsed() > patience {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether the server has responded in a way that makes the rest of the request needless.
    /// After a 2xx it may want all of it.
    fn is_refused(&mut self) -> bool {
        if self.early.is_none() {
            self.connection.socket().waits = false;
            self.early = match self.final_head() {
                Err(Trouble::Io(error)) if is_passing(&error) => None,
                received => Some(received),
            };
            self.connection.socket().waits = true;
        }
        match &self.early {
            Some(Ok(head)) => !(200..300).contains(&head.status),
            Some(Err(_)) => true,
            None => false,
        }
    }

    fn final_head(&mut self) -> Result<Head, Trouble> {
        loop {
            let head = self.next_head()?;
            if !is_interim(head.status) {
                return Ok(head);
            }
        }
    }

    fn next_head(&mut self) -> Result<Head, Trouble> {
        read_head(&mut self.connection.reader, &mut self.left, &mut self.head)?;
        match Head::parse(&std::mem::take(&mut self.head)) {
            Ok(head) if head.status < 200 && !is_interim(head.status) => {
                Err(Trouble::Malformed("the answer's status code is not a final one"))
            }
            parsed => parsed.map_err(Trouble::Malformed),
        }
    }
}

/// Another response follows (101 would be final, and nobody has asked for it).
fn is_interim(status: u16) -> bool {
    matches!(status, 100 | 102..=199)
}

/// Whether a connection that was idle has been closed by the server before it came to know of
/// this request ([RFC 9110, section 15.5.9](https://www.rfc-editor.org/rfc/rfc9110#section-15.5.9)
/// for 408).
fn is_stale(received: &Result<Received, Broken>, deadline: Deadline) -> bool {
    match received {
        Ok(received) => received.head.status == 408,
        Err(broken) => !broken.has_begun && !deadline.left().is_zero(),
    }
}

/// The request was sent, or a part of it, and no response came.
fn no_response(call: &Call, broken: Broken) -> Error {
    match broken.trouble {
        _ if call.deadline.left().is_zero() => call.late("before the answer was complete"),
        Trouble::Io(cause) => call
            .failed("the connection broke off before the answer was complete")
            .with_source(cause),
        Trouble::Ended if broken.has_begun => {
            call.failed("the answer broke off in its header section")
        }
        Trouble::Ended => call.failed(framing::NO_HTTP),
        Trouble::OverLimit => call.over_limit(),
        Trouble::Malformed(why) => call.failed(why),
    }
}
