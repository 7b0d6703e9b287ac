//! Sessions in a program in which another crate turns on minreq's features. With `proxy`, a proxy of the
//! environment gets no secret, and the error says what to do.
#![cfg(test)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{channel, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{ErrorKind, Session};

const HINT: &str = "if another crate has turned on minreq's feature `proxy`, the variables \
                    http_proxy and all_proxy must not be set";

/// A server that passes each connection to `serve`, and the first bytes of each to the receiver.
fn server(serve: fn(TcpStream)) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 4096];
            let n = stream.read(&mut bytes).unwrap();
            let _ = sender.send(String::from_utf8_lossy(&bytes[..n]).into_owned());
            thread::spawn(move || serve(stream));
        }
    });
    (url, received)
}

fn session(url: &str) -> Session {
    let session = Session::new(url, "id", "hush").unwrap();
    session.retries(0).timeout(Duration::from_secs(2))
}

/// There is one test, because all threads of a process share the environment.
#[test]
fn proxy_variable_stops_only_token_requests() {
    let (api, at_api) = server(|mut stream| {
        let token = r#"{"access_token":"token","token_type":"Bearer","expires_in":600}"#;
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{token}", token.len());
        let _ = stream.write_all(response.as_bytes());
    });
    let good = session(&api);
    assert_eq!(good.access_token().unwrap(), "token");
    assert!(at_api.recv().unwrap().starts_with("POST /oauth2/token HTTP/1.1\r\n"));
    let call = || {
        good.post("/a%20b?c=%41", "text/plain", "create").unwrap();
        // The feature `urlencoding` must not encode the path again.
        let request = at_api.recv().unwrap();
        assert!(request.starts_with("POST /a%20b?c=%41 HTTP/1.1\r\n"), "{request}");
    };
    call();

    let refusing = |mut stream: TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n");
    };
    let (refusing, at_refusing) = server(refusing);
    let (silent, at_silent) = server(|mut stream| {
        let _ = stream.read(&mut [0]);
    });
    for (proxy, seen, kind) in
        [(refusing, at_refusing, ErrorKind::Exchange), (silent, at_silent, ErrorKind::Timeout)]
    {
        std::env::set_var("http_proxy", proxy);
        call();
        let start = Instant::now();
        let error = session(&api).post("/", "text/plain", "create").unwrap_err();
        assert!(start.elapsed() < Duration::from_millis(2500));
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().ends_with(HINT), "{error}");
        assert!(!error.may_have_executed());
        let seen = seen.recv().unwrap();
        assert!(seen.starts_with("CONNECT 127.0.0.1:"), "{seen}");
        assert!(!seen.contains("hush") && !seen.contains("create"), "{seen}");
    }
    // The client may have connected, but sent nothing.
    assert!(at_api.try_iter().all(|request| request.is_empty()));
}
