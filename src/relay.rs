//! The socket of one exchange.
//!
//! minreq opens its own socket and hands out no handle on it. So it is pointed at a listener on
//! 127.0.0.1 as its proxy, and the connection to the server is ours: a relay that carries bytes
//! between the two, ciphertext only where TLS is spoken, and that closes both when time is up.
//! Whatever minreq or its TLS library is doing then ends, in any phase.
//!
//! Two threads carry the bytes, one each way. Both end with the exchange, because each of their
//! waits is bounded, and [`Relay`]'s drop waits for them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::connect::{connect, look_up, Failure};
use crate::flow::{Flow, Room, HUNGER};
use crate::framing::Framing;
use crate::listener::{is_passing, Listener};
use crate::proxy::Proxy;
use crate::scan::{Answer, Records, HEAD_LIMIT};
use crate::tls::HAS_RUSTLS;
use crate::url::Origin;

/// What a thread carries at a time. Larger buffers cost more memory than they save time.
const BUFFER: usize = 4 * 1024;

/// What it carries at a time of a long answer, once so much of it has come.
const LARGE_BUFFER: usize = 32 * 1024;

/// The stack of a thread that carries bytes.
const STACK: usize = 64 * 1024;

/// How much a server may send in TLS's handshake.
const HANDSHAKE_LIMIT: usize = 64 * 1024;

/// The longest TLS record ([RFC 8446, section
/// 5.2](https://www.rfc-editor.org/rfc/rfc8446#section-5.2)).
const RECORD: usize = 5 + 16 * 1024 + 256;

/// How long a server may take to close the connection behind its end of TLS.
const CLOSING: Duration = Duration::from_millis(250);

/// How often a write that waits for its peer looks whether the exchange has ended: shutting a
/// socket down does not end such a write.
const WRITE_PART: Duration = Duration::from_millis(50);

/// What the relay saw, as bits.
const ENDED: u16 = 1 << 0;
const TIME_UP: u16 = 1 << 1;
const REQUEST_BEGAN: u16 = 1 << 2;
const HEAD_ENDED: u16 = 1 << 3;
const SERVER_CLOSED: u16 = 1 << 4;
const RESET: u16 = 1 << 5;
const OVER_LIMIT: u16 = 1 << 6;
const REFUSED: u16 = 1 << 7;
const LAST_CHUNK_ENDED: u16 = 1 << 8;
const HEAD_CUT: u16 = 1 << 9;
const FRAMED: u16 = 1 << 10;
const CHUNKED: u16 = 1 << 11;
const UNTIL_CLOSE: u16 = 1 << 12;
const END_MARKED: u16 = 1 << 13;
const ALERT_SEEN: u16 = 1 << 14;

/// Carries one exchange. Dropping it closes both sockets and ends both threads.
pub(crate) struct Relay {
    link: Arc<Link>,
    up: Option<JoinHandle<()>>,
    proxy: String,
}

/// What both threads and the caller share.
struct Link {
    /// The sockets while the exchange lasts. Only the threads hold them longer: minreq's write
    /// that waits for a full window ends when they are closed, not when they are shut down.
    sockets: Mutex<Vec<Arc<TcpStream>>>,
    is_tls: bool,
    deadline: Instant,
    seen: AtomicU16,
    flow: Mutex<Flow>,
    /// The flow has changed, or the exchange has ended.
    change: Condvar,
    /// Somebody waits for that. Changed behind the lock of the flow only.
    is_awaited: AtomicBool,
    /// The thread that carries the answer, once there is one.
    down: Mutex<Option<JoinHandle<()>>>,
}

/// The exchange has ended, its time is up, or a socket is broken.
struct Stop;

impl Relay {
    /// Looks up the host, connects to it and waits for minreq.
    pub(crate) fn open(
        origin: &Origin,
        proxy: Option<&Proxy>,
        deadline: Instant,
    ) -> Result<Relay, Failure> {
        let server = match proxy {
            Some(proxy) => proxy.connect(origin, deadline)?,
            None => connect(&look_up(origin, deadline)?, deadline)?,
        };
        // An exchange would cost one more round trip: the request behind TLS's last handshake
        // message is held back until that is acknowledged.
        let _ = server.set_nodelay(true);
        let _ = server.set_write_timeout(Some(WRITE_PART));
        let listener = Listener::open(origin).map_err(Failure::Host)?;
        listener.check_loopback(deadline).map_err(Failure::Host)?;
        let server = Arc::new(server);
        let link = Arc::new(Link {
            sockets: Mutex::new(vec![Arc::clone(&server)]),
            is_tls: origin.https,
            deadline,
            seen: AtomicU16::new(0),
            flow: Mutex::new(Flow::new(
                if origin.https {
                    HANDSHAKE_LIMIT
                } else {
                    HEAD_LIMIT
                },
                Instant::now(),
            )),
            change: Condvar::new(),
            is_awaited: AtomicBool::new(false),
            down: Mutex::new(None),
        });
        let proxy = listener.proxy();
        let thread_link = Arc::clone(&link);
        let up = thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || carry_up(&thread_link, &server, listener))
            .map_err(Failure::Host)?;
        Ok(Relay {
            link,
            up: Some(up),
            proxy,
        })
    }

    /// The proxy that minreq is to use.
    pub(crate) fn proxy(&self) -> &str {
        &self.proxy
    }

    /// Closes both sockets and waits for both threads. From then on nothing is sent any more, and
    /// nothing more is seen.
    pub(crate) fn stop(&mut self) {
        self.link.end();
        // They end within `WRITE_PART`.
        if let Some(up) = self.up.take() {
            let _ = up.join();
        }
        if let Some(down) = self.link.down().take() {
            let _ = down.join();
        }
    }

    /// Says that the head of the answer has been read, and how its content ends. How much content
    /// is handed over is not limited, but for chunks over TLS: there, trailers can't be seen.
    pub(crate) fn pass_head(&self, framing: Framing) {
        self.link.note(match framing {
            Framing::Length(_) => FRAMED,
            Framing::Chunked => FRAMED | CHUNKED,
            Framing::UntilClose => UNTIL_CLOSE,
        });
        let keeps_limit = framing == Framing::Chunked && self.link.is_tls;
        self.link.change(|flow| flow.pass_head(keeps_limit));
    }

    /// Says that a read of chunked content begins.
    pub(crate) fn begin_read(&self) {
        if self.link.is_tls {
            self.link.flow().begin_read(Instant::now());
        }
    }

    /// Says that it has given so much content.
    pub(crate) fn end_read(&self, content: usize) {
        if self.link.is_tls {
            let has_room = self.link.flow().end_read(content);
            if has_room {
                self.link.tell();
            }
        }
    }

    /// The call's time was up before the exchange was over.
    pub(crate) fn is_time_up(&self) -> bool {
        self.link.has_seen(TIME_UP)
    }

    /// A part of the request may have reached the server. Over TLS that is encrypted data: in
    /// TLS 1.3 the client's last handshake message counts, too, because it looks the same.
    pub(crate) fn has_request_begun(&self) -> bool {
        self.link.has_seen(REQUEST_BEGAN) && !self.is_refused_by_host()
    }

    /// The answer's header section has ended (`None` over TLS, where the relay can't see it).
    pub(crate) fn has_head_ended(&self) -> Option<bool> {
        (!self.link.is_tls).then(|| self.link.has_seen(HEAD_ENDED))
    }

    /// The answer's last chunk has ended, if it has any (not seen over TLS).
    pub(crate) fn has_last_chunk_ended(&self) -> bool {
        self.link.has_seen(LAST_CHUNK_ENDED)
    }

    /// The server ended TLS, and closed, before the head of the answer was complete.
    pub(crate) fn is_head_cut(&self) -> bool {
        self.link.has_seen(HEAD_CUT)
    }

    /// The server closed the connection in order, and all it sent has been delivered.
    pub(crate) fn has_server_closed(&self) -> bool {
        self.link.has_seen(SERVER_CLOSED)
    }

    /// The connection to the server was reset.
    pub(crate) fn is_reset(&self) -> bool {
        self.link.has_seen(RESET)
    }

    /// One side sent the other an alert that shows its type: as long as the handshake lasts, a
    /// refusal.
    #[cfg(feature = "https-native-tls")]
    pub(crate) fn has_seen_alert(&self) -> bool {
        self.link.has_seen(ALERT_SEEN)
    }

    /// minreq reads an error where the connection ended, unless TLS has ended before.
    pub(crate) fn is_end_marked(&self) -> bool {
        self.link.has_seen(END_MARKED)
    }

    /// The server sent more than a head, or the trailers of a content, may hold.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.link.has_seen(OVER_LIMIT)
    }

    /// This host refused a thread or a socket; nothing was sent.
    pub(crate) fn is_refused_by_host(&self) -> bool {
        self.link.has_seen(REFUSED)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Link {
    fn note(&self, what: u16) {
        self.seen.fetch_or(what, Ordering::SeqCst);
    }

    fn has_seen(&self, what: u16) -> bool {
        self.seen.load(Ordering::SeqCst) & what != 0
    }

    /// Gives both sockets up, and ends every read on them.
    fn end(&self) {
        self.note(ENDED);
        // Not behind the lock: the others end as well, and would wait for it.
        let sockets = std::mem::take(&mut *self.sockets());
        for socket in sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Behind the lock, so that nobody has looked before and waits after.
        drop(self.flow());
        self.tell();
    }

    fn sockets(&self) -> MutexGuard<'_, Vec<Arc<TcpStream>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn down(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `HEAD_LIMIT` as bytes of the connection: its last byte may stand at the start of a TLS
    /// record, of which nothing can be read before its end.
    fn limit(&self) -> usize {
        HEAD_LIMIT + if self.is_tls { RECORD } else { 0 }
    }

    fn change(&self, change: impl FnOnce(&mut Flow)) {
        change(&mut self.flow());
        self.tell();
    }

    /// Wakes who waits for the flow, which has just been changed behind its lock.
    fn tell(&self) {
        // It would cost a system call even if nobody waits.
        if self.is_awaited.load(Ordering::SeqCst) {
            self.change.notify_all();
        }
    }

    /// Waits for a change, for this long at most.
    fn wait<'a>(&self, flow: MutexGuard<'a, Flow>, most: Duration) -> MutexGuard<'a, Flow> {
        self.is_awaited.store(true, Ordering::SeqCst);
        let waited = self.change.wait_timeout(flow, most);
        let flow = waited.unwrap_or_else(PoisonError::into_inner).0;
        self.is_awaited.store(false, Ordering::SeqCst);
        flow
    }

    /// Hands over what the server has sent over plain HTTP, and notes what can be seen of it.
    fn deliver_plain(
        &self,
        client: &TcpStream,
        bytes: &[u8],
        answer: &mut Answer,
    ) -> Result<(), Stop> {
        self.flow()
            .deliver(bytes.len(), bytes.len(), Instant::now());
        let head = answer.pass(bytes);
        if answer.has_head_ended() {
            self.note(HEAD_ENDED);
        }
        if answer.has_last_chunk_ended() {
            self.note(LAST_CHUNK_ENDED);
        }
        if answer.has_long_head {
            self.note(OVER_LIMIT);
            return Err(Stop);
        }
        let now = if answer.has_long_trailers {
            head
        } else {
            bytes.len()
        };
        let (head, rest) = bytes.split_at(now);
        self.deliver(client, head)?;
        // Other content may look like chunks with long trailers.
        if answer.has_long_trailers && self.is_chunked()? == Some(true) {
            self.note(OVER_LIMIT);
            return Err(Stop);
        }
        self.deliver(client, rest)
    }

    fn time_left(&self) -> Result<Duration, Stop> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.note(TIME_UP);
            return Err(Stop);
        }
        if self.has_seen(ENDED) {
            return Err(Stop);
        }
        Ok(left)
    }

    /// Waits until minreq may be handed more, and tells how much.
    fn room(&self) -> Result<usize, Stop> {
        let mut flow = self.flow();
        loop {
            let left = self.time_left()?;
            match flow.room(Instant::now()) {
                Room::Bytes(room) => return Ok(room),
                Room::Wait(most) => flow = self.wait(flow, most.unwrap_or(left).min(left)),
                Room::OverLimit => {
                    self.note(OVER_LIMIT);
                    return Err(Stop);
                }
            }
        }
    }

    /// Reads what there is. `set` is the socket's timeout, kept between calls.
    fn receive(
        &self,
        mut from: &TcpStream,
        buffer: &mut [u8],
        set: &mut Duration,
    ) -> Result<usize, Stop> {
        loop {
            let left = self.time_left()?;
            if set.is_zero() || *set > left / 8 * 7 {
                // Socket timeouts fire late, the later the longer they are: wait for a part of
                // what is left, and again.
                *set = (left / 4 * 3).max(Duration::from_millis(1));
                from.set_read_timeout(Some(*set)).map_err(|_| Stop)?;
            }
            match from.read(buffer) {
                // The other thread shuts the socket down: that is not the peer's close.
                Ok(0) if self.has_seen(ENDED) => return Err(Stop),
                Ok(n) => return Ok(n),
                Err(error) if is_passing(&error) => {}
                Err(_) => return Err(Stop),
            }
        }
    }

    /// Whether the server closes the connection behind what it has sent.
    fn is_closing(&self, server: &TcpStream) -> Result<bool, Stop> {
        let start = Instant::now();
        loop {
            let left = CLOSING.saturating_sub(start.elapsed());
            let left = self.time_left()?.min(left);
            if left.is_zero() {
                return Ok(false);
            }
            let left = left.max(Duration::from_millis(1));
            server.set_read_timeout(Some(left)).map_err(|_| Stop)?;
            match server.peek(&mut [0]) {
                Ok(1..) => return Ok(false),
                Err(error) if is_passing(&error) => {}
                Ok(0) | Err(_) => break,
            }
        }
        self.time_left().map(|_| true)
    }

    /// Whether the content is chunked. Waits until the caller knows; `None` if it does not come to
    /// know, because minreq still reads the head.
    fn is_chunked(&self) -> Result<Option<bool>, Stop> {
        let mut flow = self.flow();
        loop {
            let left = self.time_left()?;
            if self.has_seen(FRAMED | UNTIL_CLOSE) {
                return Ok(Some(self.has_seen(CHUNKED)));
            }
            let patience = flow.patience(Instant::now()).unwrap_or(left);
            if patience.is_zero() {
                return Ok(None);
            }
            flow = self.wait(flow, patience.min(left));
        }
    }

    /// Tells minreq that the server has closed, after a moment in which it may find that it needs
    /// no more: the side that closes first keeps its port, and thousands of the relay's would
    /// slow the next calls down.
    fn close_behind_server(&self, client: &TcpStream) {
        let start = Instant::now();
        let mut flow = self.flow();
        while !self.has_seen(ENDED | UNTIL_CLOSE) && start.elapsed() < HUNGER {
            flow = self.wait(flow, HUNGER);
        }
        drop(flow);
        self.end_answer(client);
    }

    /// Ends what minreq reads. Rust's binding to OpenSSL, whatever OpenSSL's version, takes the end
    /// of a connection for the end of TLS: a mark that is no TLS record, nor the rest of one, has
    /// it notice, unless TLS has ended before.
    fn end_answer(&self, client: &TcpStream) {
        if self.is_tls && !HAS_RUSTLS && self.has_seen(REQUEST_BEGAN) {
            self.note(END_MARKED);
            let _ = self.deliver(client, &vec![0; RECORD]);
        }
        let _ = client.shutdown(Shutdown::Write);
    }

    /// Hands over what the server has sent. minreq takes an end of TLS for the end of a head or of
    /// chunked content, although the server may have closed in the middle: a proxy does, when the
    /// server behind it goes away. So what may be that end (it is encrypted) waits until it is
    /// clear that it is one, and that the content is to end in this way.
    fn deliver_records(
        &self,
        server: &TcpStream,
        client: &TcpStream,
        bytes: &[u8],
        records: &mut Records,
        set: &mut Duration,
    ) -> Result<(), Stop> {
        let data = records.pass(bytes).unwrap_or(0);
        self.note_alert(records);
        self.flow().deliver(bytes.len(), data, Instant::now());
        let end = records.possible_end().unwrap_or(0);
        let (bytes, end) = bytes.split_at(bytes.len().saturating_sub(end));
        self.deliver(client, bytes)?;
        if !end.is_empty() {
            *set = Duration::ZERO;
            if self.is_closing(server)? {
                match self.is_chunked()? {
                    Some(true) => return Ok(()),
                    // minreq counts, or wants the end.
                    Some(false) => {}
                    None => self.note(HEAD_CUT),
                }
            }
            self.deliver(client, end)?;
        }
        Ok(())
    }

    fn note_alert(&self, records: &Records) {
        if records.is_alert() {
            self.note(ALERT_SEEN);
        }
    }

    fn deliver(&self, mut to: &TcpStream, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            match to.write(bytes) {
                Ok(0) => return Err(Stop),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if is_passing(&error) => {
                    self.time_left()?;
                }
                Err(_) => return Err(Stop),
            }
        }
        Ok(())
    }
}

/// Carries the request, from minreq to the server. Starts the thread that carries the answer.
fn carry_up(link: &Arc<Link>, server: &Arc<TcpStream>, listener: Listener) {
    // Whatever happens here, minreq is not left waiting.
    let _end = End(link);
    let client = listener.accept(|| link.has_seen(ENDED));
    drop(listener);
    let client = match client {
        Ok(Some(client)) => Arc::new(client),
        Ok(None) => return,
        Err(_) => return link.note(REFUSED),
    };
    let _ = client.set_nodelay(true);
    let _ = client.set_write_timeout(Some(WRITE_PART));
    link.sockets().push(Arc::clone(&client));
    // minreq reads the answer to its CONNECT in one piece of at most 256 bytes, and would take a
    // piece of exactly 256 for an unfinished one. Nothing may follow it before minreq's next
    // bytes.
    let answer = b"HTTP/1.1 200 OK\r\n\r\n";
    if let Ok(()) = link.time_left().and_then(|_| link.deliver(&client, answer)) {
        carry_request(link, server, &client);
    }
}

/// Ends the link when a thread ends.
struct End<'a>(&'a Link);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn carry_request(link: &Arc<Link>, server: &Arc<TcpStream>, client: &Arc<TcpStream>) {
    let mut buffer = [0; BUFFER];
    let mut set = Duration::ZERO;
    let mut records = Records::default();
    let mut is_refused = false;
    let mut is_answered = false;
    while let Ok(n @ 1..) = link.receive(client, &mut buffer, &mut set) {
        let begins = !link.is_tls || records.pass(&buffer[..n]).is_some();
        link.note_alert(&records);
        if begins && !link.has_seen(REQUEST_BEGAN) {
            link.note(REQUEST_BEGAN);
            link.change(|flow| flow.begin(link.limit(), Instant::now()));
        }
        if !is_answered {
            let shared = (Arc::clone(link), Arc::clone(server), Arc::clone(client));
            let thread = thread::Builder::new().stack_size(STACK);
            let Ok(thread) = thread.spawn(move || carry_down(&shared.0, &shared.1, &shared.2))
            else {
                link.note(REFUSED);
                break;
            };
            *link.down() = Some(thread);
            is_answered = true;
        }
        // A server that has refused a large content may stop reading and answer: what minreq
        // still writes is dropped, so that it comes to read that answer.
        link.change(|flow| flow.send(true, Instant::now()));
        is_refused = is_refused || link.deliver(server, &buffer[..n]).is_err();
        link.change(|flow| flow.send(false, Instant::now()));
    }
}

/// Carries the answer, from the server to minreq.
fn carry_down(link: &Link, server: &TcpStream, client: &TcpStream) {
    let mut buffer = vec![0; 2 * BUFFER];
    let mut carried = 0_usize;
    let mut set = Duration::ZERO;
    let mut records = Records::default();
    let mut answer = Answer::default();
    while let Ok(room) = link.room() {
        let room = room.min(buffer.len());
        match link.receive(server, &mut buffer[..room], &mut set) {
            Ok(0) => {
                link.note(SERVER_CLOSED);
                return link.close_behind_server(client);
            }
            Ok(n) => {
                let bytes = &buffer[..n];
                let delivered = if link.is_tls {
                    link.deliver_records(server, client, bytes, &mut records, &mut set)
                } else {
                    link.deliver_plain(client, bytes, &mut answer)
                };
                if delivered.is_err() {
                    break;
                }
                carried = carried.saturating_add(n);
                if carried >= LARGE_BUFFER && buffer.len() < LARGE_BUFFER {
                    buffer = vec![0; LARGE_BUFFER];
                }
            }
            Err(Stop) => {
                if link.has_seen(ENDED | TIME_UP) {
                    break;
                }
                link.note(RESET);
                // minreq may still be writing a content that the server has refused: it has to
                // come to read the answer.
                return link.end_answer(client);
            }
        }
    }
    link.end();
}
