//! A call ends within its timeout, however slow the server is, and leaves neither thread nor socket.

use std::io::{self, Read, Write};
use std::sync::{mpsc, Mutex};
use std::thread;
use std::time::Instant;

use jas_session::{Error, Response, Session};

#[path = "support/wire/mod.rs"]
mod wire;
use wire::process::IDLE_SOCKETS;
use wire::{
    assert_in_time, assert_nothing_left, assert_passes, drip, held, request, respond, response,
    session, side_by_side, text, this_test_alone, until_closed, urls, Server, LATE, PATIENCE,
    TIMEOUT,
};

/// Too large for the buffers of the sockets.
const SIZE: usize = 32 << 20;

type Call = fn(&Session) -> Result<Vec<u8>, Error>;

fn get(session: &Session) -> Result<Vec<u8>, Error> {
    session.get("/").and_then(Response::bytes)
}

fn post(session: &Session) -> Result<Vec<u8>, Error> {
    session.post("/", "text/plain", "create").and_then(Response::bytes)
}

fn upload(session: &Session) -> Result<Vec<u8>, Error> {
    session.post("/", "text/plain", vec![b'x'; SIZE]).and_then(Response::bytes)
}

fn good() -> Server {
    Server::keeping_open(&response("200 OK", "", "good"))
}

/// Threads and sockets of this child after a first call.
fn held_after_a_call(good: &str) -> (usize, usize) {
    assert_eq!(text(good).unwrap(), "good");
    held()
}

/// In a child: the calls end in time, leave nothing, and may have been executed.
fn assert_end_in_time(good: &str, slow: &str, calls: &[Call]) {
    let before = held_after_a_call(good);
    for (number, call) in calls.iter().enumerate() {
        let session = session(slow).timeout(TIMEOUT);
        let start = Instant::now();
        let error = call(&session).unwrap_err();
        assert_in_time(start, &error);
        assert_nothing_left(before, &format!("call {number}"));
        assert!(error.may_have_executed(), "call {number}: {error:?}");
    }
}

#[test]
fn call_to_a_slow_server_ends_in_time_and_leaves_nothing() {
    let test = "call_to_a_slow_server_ends_in_time_and_leaves_nothing";
    if let [good, slow] = &urls()[..] {
        return assert_end_in_time(good, slow, &[get, post]);
    }
    let good = good();
    let slow = [
        Server::keeping_open(b""),
        Server::keeping_open(b"HTTP/1.1 200 OK\r\nContent-Le"),
        Server::start(|stream| {
            let received = request(stream);
            drip(stream, b"HTTP/1.1 200 OK\r\nX-A: ", b'x');
            [received, until_closed(stream)].concat()
        }),
        Server::keeping_open(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf"),
    ];
    side_by_side(&slow, |server| {
        assert_passes(this_test_alone(test, &[good.url(), server.url()]));
    });
    // One connection for each call, and one request on each.
    for server in slow {
        let received = server.ended();
        let requests = received.iter().map(|bytes| String::from_utf8_lossy(bytes));
        let requests: Vec<_> = requests
            .map(|request| (request.matches(" HTTP/1.1\r\n").count(), request.ends_with("create")))
            .collect();
        assert_eq!(requests, [(1, false), (1, true)]);
    }
}

#[test]
fn upload_that_the_server_does_not_read_ends_in_time() {
    let test = "upload_that_the_server_does_not_read_ends_in_time";
    if let [good, unread] = &urls()[..] {
        return assert_end_in_time(good, unread, &[upload]);
    }
    let (is_running, end) = mpsc::channel::<()>();
    let end = Mutex::new(end);
    let unread = Server::start(move |stream| {
        let mut begin = [0; 1024];
        stream.read_exact(&mut begin).unwrap();
        // The kernel does not report a close after unread bytes, so wait for the child's end.
        let _ = end.lock().unwrap().recv_timeout(PATIENCE);
        [&begin[..], &until_closed(stream)].concat()
    });
    let good = good();
    assert_passes(this_test_alone(test, &[good.url(), unread.url()]));
    drop(is_running);
    let received = unread.ended();
    assert_eq!(received.len(), 1);
    assert!(received[0].len() < SIZE, "{}", received[0].len());
}

#[test]
fn response_and_idle_connection_hold_one_socket_each() {
    let test = "response_and_idle_connection_hold_one_socket_each";
    if let [good, endless] = &urls()[..] {
        let before = held_after_a_call(good);
        let idle = session(good);
        get(&idle).unwrap();
        assert_nothing_left((before.0, before.1 + IDLE_SOCKETS), "an idle connection");
        drop(idle);
        assert_nothing_left(before, "a session that was dropped");

        let session = session(endless).timeout(TIMEOUT);
        drop(session.get("/").unwrap());
        assert_nothing_left(before, "a response that was dropped");
        let start = Instant::now();
        let mut response = session.get("/").unwrap();
        assert_nothing_left((before.0, before.1 + IDLE_SOCKETS), "a response that is held");
        assert!(start.elapsed() < TIMEOUT + LATE);
        // A response is held for longer than its timeout.
        thread::sleep(TIMEOUT.saturating_sub(start.elapsed()));
        let error = io::copy(&mut response, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(response);
        assert_nothing_left(before, "a response that was held");
        return;
    }
    let endless = Server::start(|stream| {
        let received = request(stream);
        respond(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
        received
    });
    let good = good();
    assert_passes(this_test_alone(test, &[good.url(), endless.url()]));
}
