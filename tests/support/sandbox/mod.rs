//! A stand-in for the JAS gateway on loopback: token endpoint, tracking, bookings and documents
//! as JAS describes them, with faults on demand. Plain HTTP/1.1, one connection per request.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(unreachable_pub, reason = "pub is what tests use")]

mod gateway;
mod http;

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jas_session::Session;

/// The client identifier that the token endpoint knows; form encoding touches most of it.
pub const CLIENT_ID: &str = "parcel desk+eu&id=7%2F/:a?#";
/// The secret of that client; form encoding touches most of it.
pub const CLIENT_SECRET: &str = "s3cr3t %41+&=/:;?#'<>@~*-._ end";
/// The key that the APIs want in `x-api-key`.
pub const API_KEY: &str = "sandbox-api-key-4711";

/// How often a blocked thread checks whether the sandbox is being dropped.
const SLICE: Duration = Duration::from_millis(50);

/// An address that refuses connections as long as this process lasts: one end of a connection holds
/// the port, so that no listener can get it.
pub fn closed_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("the address of a listener");
    let stream = TcpStream::connect(address).expect("a connection to it");
    let closed = stream.local_addr().expect("the stream's own address");
    std::mem::forget((listener, stream));
    closed
}

/// The same as a URL.
pub fn closed_url() -> String {
    format!("http://{}", closed_address())
}

/// The path of the program that Cargo built from this example.
pub fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("this test's path");
    path.pop();
    path.pop();
    path.extend(["examples", &format!("{name}{}", std::env::consts::EXE_SUFFIX)]);
    path
}

/// Runs a command with this as its standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let child = command.stderr(Stdio::piped()).spawn();
    let mut child = child.expect("cargo build --examples");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may end without reading any of it.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("its output")
}

/// A running gateway. Dropping it ends every connection and joins every thread; it panics if
/// one of them has panicked.
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<bool>>,
}

impl Sandbox {
    /// Starts a gateway on a free port of 127.0.0.1; its tokens live for 600 s.
    pub fn start() -> Sandbox {
        Sandbox::run(0, None).expect("a free port")
    }

    /// Starts a gateway that records no requests: it shows each to `watch`, which chooses its fault.
    pub fn watched_by(watch: Arc<dyn Watch>) -> Sandbox {
        Sandbox::on_port(0, watch).expect("a free port")
    }

    /// Does the same on this port.
    pub fn on_port(port: u16, watch: Arc<dyn Watch>) -> io::Result<Sandbox> {
        Sandbox::run(port, Some(watch))
    }

    fn run(port: u16, watch: Option<Arc<dyn Watch>>) -> io::Result<Sandbox> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State { lifetime: Duration::from_secs(600), ..State::default() }),
            watch,
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Ok(Sandbox { address, shared, acceptor: Some(acceptor) })
    }

    /// The base URL, `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A session with the credentials and the API key that the gateway knows.
    pub fn session(&self) -> Session {
        let session = Session::new(&self.url(), CLIENT_ID, CLIENT_SECRET);
        session.and_then(|session| session.api_key(API_KEY)).expect("a session")
    }

    /// The command of an example, with the environment for this gateway.
    pub fn example(&self, name: &str) -> Command {
        let mut command = Command::new(example(name));
        command.env("JAS_URL", self.url());
        command.env("JAS_CLIENT_ID", CLIENT_ID);
        command.env("JAS_CLIENT_SECRET", CLIENT_SECRET);
        command.env("JAS_API_KEY", API_KEY);
        command.env_remove("JAS_TOKEN_ENDPOINT");
        command
    }

    /// Sets the lifetime of the tokens issued from now on. `expires_in` gives its whole seconds.
    pub fn token_lifetime(&self, lifetime: Duration) {
        self.shared.lock().lifetime = lifetime;
    }

    /// Sets the JSON text that token responses give as `expires_in`. An empty text leaves it out.
    pub fn expires_in(&self, json: &str) {
        self.shared.lock().expires_in = Some(json.to_owned());
    }

    /// From now on refuses every token issued so far.
    pub fn revoke(&self) {
        self.shared.lock().tokens.clear();
    }

    /// Queues a fault. Each request to `place` takes one, in order.
    pub fn next(&self, place: Place, fault: Fault) {
        self.shared.lock().queued[place as usize].push_back(fault);
    }

    /// Sets the fault of all requests to `place` that find the queue empty.
    pub fn always(&self, place: Place, fault: Option<Fault>) {
        self.shared.lock().standing[place as usize] = fault;
    }

    /// The requests received, in order of arrival. Content may be incomplete.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// How many requests to `place` have arrived. A request counts once its head is complete.
    pub fn count(&self, place: Place) -> usize {
        self.shared.lock().count(place)
    }

    /// Waits until [`Sandbox::count`] is at least `n`. Panics after 10 s.
    pub fn await_count(&self, place: Place, n: usize) {
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), Duration::from_secs(10), |state| {
                state.count(place) < n
            })
            .unwrap_or_else(PoisonError::into_inner);
        let count = state.count(place);
        drop(state);
        assert!(!waited.timed_out(), "{count} of {n} requests to {place:?} after 10 s");
    }

    /// How many creates have been executed.
    pub fn bookings(&self) -> usize {
        self.shared.lock().bookings
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let state = self.shared.lock();
        self.shared.stopping.store(true, Ordering::SeqCst);
        drop(state);
        self.shared.changed.notify_all();
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        // A connection wakes the thread that accepts. If it fails, try again.
        while TcpStream::connect_timeout(&self.address, SLICE).is_err() && !acceptor.is_finished() {
        }
        let panicked = acceptor.join().unwrap_or(true);
        assert!(!panicked || thread::panicking(), "a thread of the sandbox panicked");
    }
}

/// The two parts of the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The token endpoint, `/oauth2/token`.
    Token,
    /// Everything else.
    Api,
}

/// What a request gets in place of a good response. The gateway reads its content first.
#[derive(Clone)]
pub enum Fault {
    /// Responds with this status, these fields and this content, and executes nothing. Adds
    /// `Content-Length` and `Connection` if they are not among the fields.
    Response(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Writes these bytes and closes, executing nothing.
    Raw(Vec<u8>),
    /// Executes the request, sends this many bytes of the good response and closes.
    Truncate(usize),
    /// Executes the request, sends the head and this many bytes of the content, or nothing, and
    /// is silent until the client closes.
    Stall(Option<usize>),
    /// Executes the request, sends the head and half of the content, and closes.
    Half,
    /// Waits for the gate, then responds as usual.
    Wait(Gate),
    /// Executes the request and responds as usual with these fields added.
    With(Vec<(&'static str, String)>),
    /// Executes the request and sends the good response byte by byte, with this pause after each.
    Drip(Duration),
    /// Executes the request and sends the good response in chunks of this size.
    Chunked(usize),
    /// Executes the request and sends the good response without a length, ended by closing.
    UntilClose,
    /// From now on refuses every token issued so far, including the token of this request.
    Revoke,
}

/// Watches a sandbox that serves more requests than fit into memory.
pub trait Watch: Send + Sync {
    /// Chooses the fault of a request whose head has arrived.
    fn fault(&self, request: &Request) -> Option<Fault>;

    /// Gets the status that the gateway gave a request, even if the response is not sent: 401 if it
    /// refused the token, 2xx if it executed the request.
    fn responded(&self, request: &Request, status: u16);
}

/// Holds requests until it is opened, for 20 s at most.
#[derive(Clone)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Makes a closed gate.
    pub fn new() -> Gate {
        Gate(Arc::new((Mutex::new(false), Condvar::new())))
    }

    /// Lets all requests pass, now and later.
    pub fn open(&self) {
        *self.0 .0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0 .1.notify_all();
    }

    fn pass(&self, shared: &Shared) {
        let start = Instant::now();
        let mut open = self.0 .0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open && !shared.is_stopping() && start.elapsed() < Duration::from_secs(20) {
            let woken = self.0 .1.wait_timeout(open, SLICE);
            open = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A received request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The part of the gateway that it is for.
    pub place: Place,
    /// The method.
    pub method: String,
    /// The request target: path and query.
    pub target: String,
    /// The whole head, line ends included.
    pub head: String,
    /// The header fields, in order.
    pub fields: Vec<(String, String)>,
    /// The content received so far.
    pub content: Vec<u8>,
}

impl Request {
    /// The value of the first field with this name. Case does not matter.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What the threads share.
struct Shared {
    state: Mutex<State>,
    watch: Option<Arc<dyn Watch>>,
    /// Notified when a request has arrived, and when the sandbox is dropped.
    changed: Condvar,
    stopping: AtomicBool,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    queued: [VecDeque<Fault>; 2],
    standing: [Option<Fault>; 2],
    lifetime: Duration,
    expires_in: Option<String>,
    /// The tokens that are accepted, each with its expiry.
    tokens: Vec<(String, Instant)>,
    issued: usize,
    bookings: usize,
}

impl State {
    fn count(&self, place: Place) -> usize {
        let requests = self.requests.iter();
        requests.filter(|request| request.place == place).count()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Records a request whose head has arrived. Returns its number, if it is recorded, and its
    /// fault.
    fn record(&self, request: &Request) -> (Option<usize>, Option<Fault>) {
        if let Some(watch) = &self.watch {
            return (None, watch.fault(request));
        }
        let mut state = self.lock();
        let place = request.place as usize;
        let queued = state.queued[place].pop_front();
        let fault = queued.or_else(|| state.standing[place].clone());
        state.requests.push(request.clone());
        let number = state.requests.len() - 1;
        drop(state);
        self.changed.notify_all();
        (Some(number), fault)
    }

    /// Waits for this long, or until the sandbox is dropped.
    fn pause(&self, pause: Duration) {
        let stopping = |_: &mut State| !self.is_stopping();
        drop(self.changed.wait_timeout_while(self.lock(), pause, stopping));
    }
}

/// Gives each connection a thread until the sandbox is dropped. Returns whether one panicked.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) -> bool {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut panicked = false;
    loop {
        let accepted = listener.accept();
        if shared.is_stopping() {
            break;
        }
        // Each ended thread holds its stack until it is joined.
        let (ended, running) = threads.into_iter().partition(JoinHandle::is_finished);
        threads = running;
        panicked |= any_panicked(ended);
        let Ok((stream, _)) = accepted else {
            shared.pause(SLICE); // out of descriptors: wait for a connection to end
            continue;
        };
        let shared = Arc::clone(shared);
        threads.push(thread::spawn(move || {
            // The client may close at any time.
            let _ = http::serve(&stream, &shared);
        }));
    }
    any_panicked(threads) || panicked
}

fn any_panicked(threads: Vec<JoinHandle<()>>) -> bool {
    let results = threads.into_iter().map(JoinHandle::join);
    results.filter(Result::is_err).count() > 0
}
