//! Hosts with several addresses: an address that does not respond costs the first call little, and
//! the next call nothing. `localhost` has two, the first of which is 127.0.0.1.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jas_session::{ErrorKind, Session};

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use wire::{assert_in_time, request, response, until_closed, PATIENCE, TIMEOUT};

/// How long a call may take if it is to cost nothing, on a busy machine too.
const NOTHING: Duration = Duration::from_millis(200);

/// What a dead address may cost.
const LITTLE: Duration = Duration::from_millis(500);

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// One port of both addresses; none if this machine has no IPv6.
fn both() -> Option<(TcpListener, TcpListener)> {
    if let Err(error) = TcpListener::bind((V6, 0)) {
        eprintln!("not tested: there is no ::1 on this machine: {error}");
        return None;
    }
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "no port is free on both");
        let first = TcpListener::bind((V4, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        match TcpListener::bind((V6, port)) {
            Ok(second) => return Some((first, second)),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
        }
    }
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

/// A listener that no longer accepts: its backlog is full.
struct Silent {
    listener: TcpListener,
    waiting: Vec<TcpStream>,
}

impl Silent {
    fn new(listener: TcpListener) -> Silent {
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        Silent { listener, waiting }
    }

    /// It accepts again.
    fn accepts(mut self) -> TcpListener {
        for _ in self.waiting.drain(..) {
            self.listener.accept().unwrap();
        }
        self.listener
    }
}

/// A server that responds to each request with the address that it came to, and closes. Ends when
/// dropped.
struct Good {
    address: SocketAddr,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Good {
    fn new(listener: TcpListener) -> Good {
        let address = listener.local_addr().unwrap();
        let is_ending = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&is_ending);
        let thread = thread::spawn(move || loop {
            let (mut stream, _) = listener.accept().unwrap();
            if ending.load(Ordering::SeqCst) {
                break;
            }
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            request(&mut stream);
            let content = address.ip().to_string();
            let _ = stream.write_all(&response("200 OK", "Connection: close\r\n", &content));
            until_closed(&mut stream);
        });
        Good { address, is_ending, thread: Some(thread) }
    }
}

impl Drop for Good {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let ended = self.thread.take().map(JoinHandle::join);
        let is_good = matches!(ended, Some(Ok(())));
        assert!(is_good || thread::panicking(), "the server panicked");
    }
}

fn session(host: &str, port: u16) -> Session {
    wire::session(&format!("http://{host}:{port}"))
}

/// Calls, and tells which address has responded, and how long that took.
fn call(session: &Session) -> (String, Duration) {
    let start = Instant::now();
    let content = session.get("/").unwrap().text().unwrap();
    (content, start.elapsed())
}

/// How often a time is measured. The shortest counts, since a machine may be busy.
const TIMES: usize = 3;

/// Calls once with each session. This address has to respond, in less than this time.
fn assert_calls(sessions: &[Session], address: IpAddr, most: Duration, what: &str) {
    let took = sessions.iter().map(|session| {
        let (content, took) = call(session);
        assert_eq!(content, address.to_string(), "{what}");
        took
    });
    let least = took.min().unwrap();
    assert!(least < most, "{what}: {least:?}");
    println!("{what}: {least:?}");
}

/// Sessions that know nothing of each other.
fn sessions(port: u16) -> Vec<Session> {
    let sessions = (0..TIMES).map(|_| session("localhost", port));
    sessions.collect()
}

#[test]
fn the_first_address_is_taken_where_it_accepts() {
    let Some((first, second)) = both() else {
        return;
    };
    let sessions = sessions(port(&first));
    let (_first, _second) = (Good::new(first), Good::new(second));
    for _ in 0..2 {
        assert_calls(&sessions, V4, NOTHING, "both are good");
    }
}

#[test]
fn a_first_address_that_is_silent_costs_the_first_call_little_and_the_next_nothing() {
    let Some((first, second)) = both() else {
        return;
    };
    let sessions = sessions(port(&first));
    let _silent = Silent::new(first);
    let _good = Good::new(second);
    assert_calls(&sessions, V6, LITTLE, "the first call");
    for _ in 0..2 {
        assert_calls(&sessions, V6, NOTHING, "the next call");
    }
    let clones: Vec<_> = sessions.iter().map(Session::clone).collect();
    assert_calls(&clones, V6, NOTHING, "a clone's call");
    let posts = sessions.iter().map(|session| {
        let start = Instant::now();
        let response = session.post("/", "text/plain", "create").unwrap();
        assert_eq!(response.text().unwrap(), V6.to_string());
        start.elapsed()
    });
    assert!(posts.min().unwrap() < NOTHING, "a plain POST");
}

#[test]
fn an_address_that_worked_and_falls_silent_costs_one_call_little() {
    let Some((first, second)) = both() else {
        return;
    };
    let sessions = sessions(port(&first));
    let silent = Silent::new(first);
    let good = Good::new(second);
    assert_calls(&sessions, V6, LITTLE, "the first is silent");
    let address = good.address;
    drop(good);
    let good = Good::new(silent.accepts());
    let silent = Silent::new(TcpListener::bind(address).unwrap());
    assert_calls(&sessions, V4, LITTLE, "the second is silent");
    assert_calls(&sessions, V4, NOTHING, "the next call");
    drop((silent, good));
}

#[test]
fn a_first_address_that_refuses_costs_nothing() {
    let Some((first, second)) = both() else {
        return;
    };
    let sessions = sessions(port(&first));
    drop(first);
    let _good = Good::new(second);
    for _ in 0..2 {
        assert_calls(&sessions, V6, NOTHING, "the first refuses");
    }
}

#[test]
fn an_address_that_refuses_is_no_reason_to_give_up_one_that_is_slow() {
    let Some((first, second)) = both() else {
        return;
    };
    let session = session("localhost", port(&first));
    drop(second);
    assert_accepts_late(&session, Silent::new(first), V4);
}

#[test]
fn the_only_address_gets_all_the_time() {
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let session = session("127.0.0.1", port(&listener));
    assert_accepts_late(&session, Silent::new(listener), V4);
}

#[test]
fn addresses_that_are_all_slow_are_tried_again() {
    let Some((first, second)) = both() else {
        return;
    };
    let session = session("localhost", port(&first));
    let _silent = Silent::new(second);
    assert_accepts_late(&session, Silent::new(first), V4);
}

/// Calls an address that accepts only after a while.
fn assert_accepts_late(session: &Session, silent: Silent, address: IpAddr) {
    const LATER: Duration = Duration::from_millis(400);
    thread::scope(|scope| {
        let late = scope.spawn(move || {
            thread::sleep(LATER);
            Good::new(silent.accepts())
        });
        // The system itself tries again after a second, and then after two.
        let (content, took) = call(session);
        assert_eq!(content, address.to_string());
        assert!(took >= LATER && took < PATIENCE / 4, "{took:?}");
        drop(late.join().unwrap());
    });
}

#[test]
fn a_call_to_silent_addresses_ends_in_time() {
    let Some((first, second)) = both() else {
        return;
    };
    for (host, port) in [("localhost", port(&first)), ("127.0.0.1", port(&first))] {
        let (first, second) = (first.try_clone().unwrap(), second.try_clone().unwrap());
        let _silent = (Silent::new(first), Silent::new(second));
        let session = session(host, port).timeout(TIMEOUT);
        let start = Instant::now();
        let error = session.post("/", "text/plain", "create").unwrap_err();
        assert_in_time(start, &error);
        assert!(!error.may_have_executed());
        assert_eq!(
            error.to_string(),
            format!(
                "POST http://{host}:{port}/: the timeout of 300ms passed before a connection to \
                 the host was made"
            )
        );
    }
}

#[test]
fn addresses_that_refuse_are_an_error_at_once() {
    let Some((first, second)) = both() else {
        return;
    };
    let port = port(&first);
    drop((first, second));
    let start = Instant::now();
    let error = session("localhost", port).get("/").unwrap_err();
    assert!(start.elapsed() < NOTHING, "{:?}", start.elapsed());
    assert_eq!(error.kind(), ErrorKind::Exchange);
    assert!(!error.may_have_executed());
    assert_eq!(
        error.to_string(),
        format!(
            "GET http://localhost:{port}/: no connection to the host could be made: check host, \
             port and firewall"
        )
    );
}

#[cfg(feature = "tls")]
#[test]
fn a_proxy_s_first_address_that_is_silent_costs_the_first_call_little_and_the_next_nothing() {
    use site::{Over, Site};
    let Some((first, second)) = both() else {
        return;
    };
    let site = Site::start(Over::Tls, |mut peer| peer.serve_all());
    let proxy = format!("http://localhost:{}", port(&first));
    let silent = Silent::new(first);
    let target = site.address;
    let proxying = thread::spawn(move || {
        for _ in 0..2 * TIMES {
            let (mut near, _) = second.accept().unwrap();
            request(&mut near);
            near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let mut far = TcpStream::connect(target).unwrap();
            let ends = (near.try_clone().unwrap(), far.try_clone().unwrap());
            let back = thread::spawn(move || {
                let (mut near, mut far) = ends;
                let _ = io::copy(&mut far, &mut near);
            });
            let _ = io::copy(&mut near, &mut far);
            let _ = far.shutdown(std::net::Shutdown::Both);
            back.join().unwrap();
        }
    });
    let sessions: Vec<_> = (0..TIMES)
        .map(|_| {
            let session = Session::new(&site.url(), "id", "secret").unwrap();
            let session = session.resume("token", PATIENCE * 30).unwrap();
            let session = site::trusting(session.retries(0).timeout(PATIENCE));
            session.proxy(&proxy).unwrap().idle_connections(0)
        })
        .collect();
    for (most, what) in [(LITTLE, "the first call"), (NOTHING, "the next call")] {
        let took = sessions.iter().map(|session| {
            let (content, took) = call(session);
            assert_eq!(content, "GET /");
            took
        });
        let least = took.min().unwrap();
        assert!(least < most, "{what}: {least:?}");
        println!("{what}: {least:?}");
    }
    drop((sessions, silent));
    proxying.join().unwrap();
}
