//! Servers and proxies with few workers, each of which serves one connection until the client closes
//! it: idle connections give way to waiting calls, and stay open at servers with more workers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Response, Session};

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{Over, Site, BOTH};
#[cfg(feature = "tls")]
use wire::urls;
use wire::{side_by_side, with_token, PATIENCE};

/// When a connection takes a worker.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Taken {
    AtOnce,
    /// Before the response to a CONNECT.
    ByProxy,
    /// After the TLS handshake: something else makes it.
    AfterHandshake,
}

/// A server with this many workers. It responds to `GET /slow` after a message by `is_released`, and
/// to `GET /pause` after 20 ms.
fn with_workers(over: Over, workers: usize, taken: Taken, is_released: mpsc::Receiver<()>) -> Site {
    let (free, changed) = (Mutex::new(workers), Condvar::new());
    let is_released = Mutex::new(is_released);
    let mut site = Site::accepting(over, move |mut peer| {
        if taken == Taken::AfterHandshake {
            peer.handshake();
        }
        *changed.wait_while(free.lock().unwrap(), |free| *free == 0).unwrap() -= 1;
        if taken == Taken::ByProxy {
            peer.open_tunnel();
        }
        while let Some(request) = peer.request() {
            match &*request.line {
                "GET /slow" => is_released.lock().unwrap().recv().unwrap(),
                "GET /pause" => thread::sleep(Duration::from_millis(20)),
                _ => {}
            }
            peer.serve(&request);
        }
        *free.lock().unwrap() += 1;
        changed.notify_one();
    });
    if taken == Taken::ByProxy {
        let session = site.session.clone().proxy(&site.address.to_string());
        site.session = with_token(session.unwrap());
    }
    site
}

fn ways() -> Vec<(Over, Taken)> {
    let mut ways = BOTH.iter().map(|over| (*over, Taken::AtOnce)).collect::<Vec<_>>();
    ways.extend(BOTH.get(1).map(|over| (*over, Taken::ByProxy)));
    ways
}

fn get(session: &Session, path: &str) {
    let text = session.get(path).and_then(Response::text);
    assert_eq!(text.unwrap(), format!("GET {path}"));
}

fn post(session: &Session, path: &str, length: usize) {
    let response = session.post(path, "text/plain", vec![b'x'; length]);
    assert_eq!(response.and_then(Response::text).unwrap(), format!("POST {path}"));
}

fn await_connections(session: &Session, n: u64) {
    while session.counts().connections < n {
        thread::yield_now();
    }
}

#[test]
fn waiting_call_gets_the_worker_of_an_idle_connection() {
    let mut ways = ways();
    ways.extend(BOTH.get(1).map(|over| (*over, Taken::AfterHandshake)));
    // A large request fills the buffers of the system, and then waits in a write.
    let rows = ways.into_iter().flat_map(|way| [(way, 6), (way, 5 << 20)]);
    // One after the other: in a debug build, large requests over TLS take the processors' time.
    for ((over, taken), length) in rows {
        let (release, is_released) = mpsc::channel();
        let site = with_workers(over, 1, taken, is_released);
        let session = &site.session;
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| get(session, "/slow"));
            await_connections(session, 1);
            scope.spawn(|| post(session, "/booking", length));
            await_connections(session, 2);
            // Now the first connection is idle, and the second call waits.
            release.send(()).unwrap();
        });
        assert!(start.elapsed() < PATIENCE / 4, "{over:?} {taken:?} {length}");
        site.requests();
    }
}

#[test]
fn busy_reader_leaves_the_worker_to_a_booking() {
    side_by_side(ways(), |(over, taken)| {
        let site = with_workers(over, 1, taken, mpsc::channel().1);
        let session = &site.session;
        let start = Instant::now();
        let is_booked = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_booked.load(Ordering::SeqCst) {
                    get(session, "/pause");
                }
            });
            await_connections(session, 1);
            post(session, "/booking", 6);
            is_booked.store(true, Ordering::SeqCst);
        });
        assert!(start.elapsed() < PATIENCE / 4, "{over:?} {taken:?}");
        drop(site);
    });
}

#[cfg(feature = "tls")]
#[test]
fn host_exempt_from_the_proxy_has_its_own_workers() {
    let test = "host_exempt_from_the_proxy_has_its_own_workers";
    if let [url] = &urls()[..] {
        let session = site::trusting(wire::session_without_token(url));
        let session = with_token(session.proxy_from_env().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| get(&session, "/pause"));
            await_connections(&session, 1);
            let start = Instant::now();
            post(&session, "/booking", 6);
            assert!(start.elapsed() < PATIENCE / 4);
        });
        return;
    }
    let site = with_workers(Over::Tls, 1, Taken::AtOnce, mpsc::channel().1);
    let mut child = site::trusted_by(wire::this_test_alone(test, &[site.url()]));
    child.env("https_proxy", "http://127.0.0.1:9").env("no_proxy", "127.0.0.1");
    wire::assert_passes(child);
}

#[test]
fn more_threads_than_workers_do_not_wait_for_each_other() {
    const THREADS: usize = 8;
    const CALLS: usize = 3;
    let rows = ways().into_iter().flat_map(|way| [(way, 1), (way, 3)]);
    side_by_side(rows, |((over, taken), workers)| {
        let site = with_workers(over, workers, taken, mpsc::channel().1);
        let session = &site.session;
        let start = Instant::now();
        side_by_side(0..THREADS, |thread| {
            for call in 0..CALLS {
                let path = format!("/{thread}/{call}");
                get(session, &path);
                post(session, &path, 6);
            }
        });
        assert!(start.elapsed() < PATIENCE / 2, "{over:?} {taken:?} {workers}");
        assert_eq!(site.requests().concat().len(), THREADS * CALLS * 2);
    });
}

#[cfg(feature = "tls")]
#[test]
fn two_origins_share_a_proxy_with_one_worker() {
    let site = with_workers(Over::Tls, 1, Taken::ByProxy, mpsc::channel().1);
    // The proxy is the server of both.
    let session = site.session.clone().token_endpoint("https://127.0.0.1:9/oauth2/token").unwrap();
    let start = Instant::now();
    for n in 0..3 {
        get(&session, &format!("/{n}"));
        session.invalidate("new");
        post(&session, &format!("/{n}"), 6);
    }
    assert!(start.elapsed() < PATIENCE / 4);
    drop(session);
    // Each POST needs a new token, and so does the first GET.
    assert_eq!(site.requests().concat().len(), 3 * 3 + 1);
}

#[test]
fn slow_handshakes_cost_no_idle_connections() {
    const THREADS: usize = 8;
    const ROUNDS: usize = 3;
    side_by_side(BOTH, |&over| {
        let one_at_a_time = Mutex::new(());
        let site = Site::accepting(over, move |mut peer| {
            let turn = one_at_a_time.lock().unwrap();
            // A queue of all threads is longer than a connection may be silent.
            thread::sleep(Duration::from_millis(20));
            drop(turn);
            peer.serve_all();
        });
        let session = &site.session;
        side_by_side(0..THREADS, |_| {
            for _ in 0..ROUNDS {
                (0..5).for_each(|_| get(session, "/"));
                post(session, "/", 6);
            }
        });
        // Each POST needs one, and so does the first GET of each thread. Some idle connections are
        // closed before the session knows how many are served at once.
        let connections = session.counts().connections;
        let needed = u64::try_from(THREADS * (ROUNDS + 1)).unwrap();
        assert!(connections <= 2 * needed, "{over:?}: {connections}");
        drop(site);
    });
}

#[test]
fn slow_server_keeps_its_connections() {
    const THREADS: usize = 2;
    side_by_side(BOTH, |&over| {
        // Both pauses are longer than a silent connection is waited for.
        let site = Site::accepting(over, |mut peer| {
            thread::sleep(Duration::from_millis(250));
            while let Some(request) = peer.request() {
                if request.line == "GET /slow" {
                    thread::sleep(Duration::from_millis(1200));
                }
                peer.serve(&request);
            }
        });
        let session = &site.session;
        get(session, "/");
        get(session, "/");
        assert_eq!(session.counts().connections, 1, "{over:?}");
        side_by_side(0..THREADS, |_| {
            get(session, "/slow");
            get(session, "/");
        });
        // Without TLS, a slow response looks like a busy worker.
        let more = u64::from(over == Over::Plain);
        assert!(session.counts().connections <= THREADS as u64 + more, "{over:?}");
        drop(site);
    });
}

#[test]
fn silence_to_one_call_costs_the_others_few_connections() {
    const THREADS: usize = 4;
    side_by_side(BOTH, |&over| {
        let (release, is_released) = mpsc::channel::<()>();
        let (has_come, silent_one) = mpsc::channel();
        let is_released = Mutex::new(is_released);
        let site = Site::accepting(over, move |mut peer| {
            if peer.number > 0 {
                return peer.serve_all();
            }
            has_come.send(()).unwrap();
            let _ = is_released.lock().unwrap().recv();
        });
        let session = &site.session;
        thread::scope(|scope| {
            let silent = scope.spawn(|| session.post("/", "text/plain", "booking"));
            silent_one.recv().unwrap();
            let start = Instant::now();
            let others = [(); THREADS].map(|()| {
                scope.spawn(move || {
                    while start.elapsed() < Duration::from_millis(500) {
                        get(session, "/");
                    }
                })
            });
            for other in others {
                other.join().unwrap();
            }
            drop(release);
            // A lost handshake is repeated, since the server has completed others.
            let was_sent = silent.join().unwrap().is_ok();
            assert_eq!(was_sent, over != Over::Plain, "{over:?}");
        });
        // After 100, 200 and 400 ms an idle connection is closed for the silent one.
        let connections = session.counts().connections;
        assert!(connections <= 1 + THREADS as u64 + 4, "{over:?}: {connections}");
        drop(site);
    });
}
