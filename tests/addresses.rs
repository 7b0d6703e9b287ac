//! Hosts with several addresses: an address that does not respond costs the first call a third of a
//! second, and the next call nothing. `localhost` has two: 127.0.0.1, then `::1`.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{ErrorKind, Session};

#[path = "support/wire/site.rs"]
#[cfg(feature = "tls")]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use wire::{assert_in_time, request, respond, response, until_closed, Server, PATIENCE, TIMEOUT};

/// Maximum duration of a call that costs nothing, on a busy machine too.
const NOTHING: Duration = Duration::from_millis(200);

/// Maximum duration of a call that meets a silent address.
const LITTLE: Duration = Duration::from_millis(500);

/// The number of sessions that measure a time. The shortest counts, since the machine may be busy.
const TIMES: usize = 3;

const V4: &str = "127.0.0.1";
const V6: &str = "::1";

/// Listeners on both addresses with the same port. `None` if this machine has no IPv6.
fn both() -> Option<(TcpListener, TcpListener)> {
    if let Err(error) = TcpListener::bind((V6, 0)) {
        eprintln!("not tested: this machine has no ::1: {error}");
        return None;
    }
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "no port is free on both");
        let first = TcpListener::bind((V4, 0)).unwrap();
        match TcpListener::bind((V6, port(&first))) {
            Ok(second) => return Some((first, second)),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
        }
    }
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

/// A listener whose backlog is full, so that it does not respond to new connections.
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

    /// Empties the backlog.
    fn accepting(mut self) -> TcpListener {
        for _ in self.waiting.drain(..) {
            self.listener.accept().unwrap();
        }
        self.listener
    }
}

/// A server that responds with its own address and closes.
fn good(listener: TcpListener) -> Server {
    Server::on(listener, |mut stream| {
        let received = request(&mut stream);
        let content = stream.local_addr().unwrap().ip().to_string();
        respond(&mut stream, &response("200 OK", "Connection: close\r\n", &content));
        until_closed(&mut stream);
        received
    })
}

fn session(host: &str, port: u16) -> Session {
    wire::session(&format!("http://{host}:{port}"))
}

/// Sessions that share nothing.
fn sessions(listener: &TcpListener) -> [Session; TIMES] {
    [(); TIMES].map(|()| session("localhost", port(listener)))
}

/// Makes a call with each session. Checks the content of the responses, and the shortest duration.
fn assert_calls(sessions: &[Session], content: &str, most: Duration, what: &str) {
    let call = |session: &Session| {
        let start = Instant::now();
        let text = session.get("/").unwrap().text().unwrap();
        assert_eq!(text, content, "{what}");
        start.elapsed()
    };
    let least = thread::scope(|scope| {
        let calls: Vec<_> =
            sessions.iter().map(|session| scope.spawn(move || call(session))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).min().unwrap()
    });
    assert!(least < most, "{what}: {least:?}");
    println!("{what}: {least:?}");
}

#[test]
fn first_address_is_used_unless_it_refuses() {
    for (accepts, content) in [(true, V4), (false, V6)] {
        let Some((first, second)) = both() else { return };
        let sessions = sessions(&first);
        let _first = accepts.then(|| good(first));
        let _second = good(second);
        for _ in 0..2 {
            assert_calls(&sessions, content, NOTHING, "both accept, or the second");
        }
    }
}

#[test]
fn silent_first_address_costs_one_call_little() {
    let Some((first, second)) = both() else { return };
    let sessions = sessions(&first);
    let _silent = Silent::new(first);
    let _good = good(second);
    assert_calls(&sessions, V6, LITTLE, "the first call");
    for _ in 0..2 {
        assert_calls(&sessions, V6, NOTHING, "the next call");
    }
    let clones = sessions.each_ref().map(Session::clone);
    assert_calls(&clones, V6, NOTHING, "a clone's call");
    let posts = sessions.iter().map(|session| {
        let start = Instant::now();
        let response = session.post("/", "text/plain", "create").unwrap();
        assert_eq!(response.text().unwrap(), V6);
        start.elapsed()
    });
    assert!(posts.min().unwrap() < NOTHING, "a plain POST");
}

#[test]
fn working_address_that_falls_silent_costs_one_call_little() {
    let Some((first, second)) = both() else { return };
    let sessions = sessions(&first);
    let silent = Silent::new(first);
    let server = good(second);
    assert_calls(&sessions, V6, LITTLE, "the first is silent");
    let address = server.address;
    drop(server);
    let _silent = Silent::new(TcpListener::bind(address).unwrap());
    let _good = good(silent.accepting());
    assert_calls(&sessions, V4, LITTLE, "the second is silent");
    assert_calls(&sessions, V4, NOTHING, "the next call");
}

#[test]
fn slow_address_is_waited_for_if_no_other_accepts() {
    const LATER: Duration = Duration::from_millis(400);
    let accepts_late = |host: &str, first: TcpListener, second: Option<TcpListener>, what| {
        let session = session(host, port(&first));
        let silent = Silent::new(first);
        let _second = second.map(Silent::new);
        let start = Instant::now();
        thread::scope(|scope| {
            let late = scope.spawn(move || {
                thread::sleep(LATER);
                good(silent.accepting())
            });
            // The system itself tries again after a second, and then after two.
            let text = session.get("/").unwrap().text().unwrap();
            assert_eq!(text, V4, "{what}");
            let took = start.elapsed();
            assert!(took >= LATER && took < PATIENCE / 4, "{what}: {took:?}");
            drop(late.join().unwrap());
        });
    };
    thread::scope(|scope| {
        let listener = TcpListener::bind((V4, 0)).unwrap();
        scope.spawn(move || accepts_late("127.0.0.1", listener, None, "the only address"));
        let Some((first, _)) = both() else { return };
        scope.spawn(move || accepts_late("localhost", first, None, "the other refuses"));
        let Some((first, second)) = both() else { return };
        scope.spawn(move || accepts_late("localhost", first, Some(second), "the other is silent"));
    });
}

#[test]
fn call_to_silent_addresses_ends_in_time() {
    let Some((first, second)) = both() else { return };
    let port = port(&first);
    let _silent = (Silent::new(first), Silent::new(second));
    for host in ["localhost", "127.0.0.1"] {
        let session = session(host, port).timeout(TIMEOUT);
        let start = Instant::now();
        let error = session.post("/", "text/plain", "create").unwrap_err();
        assert_in_time(start, &error);
        assert!(!error.may_have_executed());
    }
}

#[test]
fn refusing_addresses_are_an_error_at_once() {
    let Some((first, second)) = both() else { return };
    let port = port(&first);
    drop((first, second));
    let start = Instant::now();
    let error = session("localhost", port).get("/").unwrap_err();
    assert!(start.elapsed() < NOTHING, "{:?}", start.elapsed());
    assert_eq!(error.kind(), ErrorKind::Exchange);
    assert!(!error.may_have_executed());
}

#[cfg(feature = "tls")]
#[test]
fn silent_first_address_of_a_proxy_costs_one_call_little() {
    use site::{Over, Site};
    let Some((first, second)) = both() else { return };
    let site = Site::start(Over::Tls, |mut peer| peer.serve_all());
    let proxy = format!("http://localhost:{}", port(&first));
    let _silent = Silent::new(first);
    let target = site.address;
    let _proxy = Server::on(second, move |mut stream| wire::tunnel(&mut stream, target));
    let sessions = [(); TIMES].map(|()| {
        let session = site::trusting(wire::session_without_token(&site.url()));
        wire::with_token(session.proxy(&proxy).unwrap().idle_connections(0))
    });
    assert_calls(&sessions, "GET /", LITTLE, "the first call");
    assert_calls(&sessions, "GET /", NOTHING, "the next call");
}
