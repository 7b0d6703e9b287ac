//! Calls need few descriptors of their process, and nothing of its environment.

use std::thread;
use std::time::{Duration, Instant};

#[path = "support/wire/mod.rs"]
mod wire;
use wire::{
    assert_in_time, assert_nothing_left, assert_passes, held, request, respond, response, session,
    session_without_token, side_by_side, this_test_alone, until_closed, urls, Server, TIMEOUT,
    TOKEN,
};

#[test]
fn minreq_timeout_in_the_environment_changes_nothing() {
    if let [good, slow, silent] = &urls()[..] {
        for url in [good, slow] {
            assert_eq!(session_without_token(url).access_token().unwrap(), "new");
        }
        let before = held();
        let start = Instant::now();
        let session = session_without_token(silent).timeout(TIMEOUT);
        let error = session.post("/", "text/plain", "create").unwrap_err();
        assert_in_time(start, &error);
        assert_nothing_left(before, "a silent token endpoint");
        assert!(!error.may_have_executed());
        return;
    }
    let good = Server::responding(&response("200 OK", "", TOKEN));
    let slow = Server::start(|stream| {
        let received = request(stream);
        // Longer than the variable says.
        thread::sleep(Duration::from_millis(1200));
        respond(stream, &response("200 OK", "", TOKEN));
        [received, until_closed(stream)].concat()
    });
    let silent = Server::keeping_open(b"");
    let urls = [good.url(), slow.url(), silent.url()];
    let test = "minreq_timeout_in_the_environment_changes_nothing";
    side_by_side(["0", "1", "garbage", "", "18446744073709551615"], |value| {
        let mut child = this_test_alone(test, &urls);
        child.env("MINREQ_TIMEOUT", value);
        assert_passes(child);
    });
}

#[test]
fn proxies_in_the_environment_are_not_used() {
    if let [url] = &urls()[..] {
        assert_eq!(session_without_token(url).get("/").unwrap().text().unwrap(), TOKEN);
        return;
    }
    let server = Server::responding(&response("200 OK", "", TOKEN));
    let proxy = Server::responding(&response("200 OK", "", "through a proxy"));
    let mut child = this_test_alone("proxies_in_the_environment_are_not_used", &[server.url()]);
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        child.env(name, proxy.url());
        child.env(name.to_uppercase(), proxy.url());
    }
    assert_passes(child);
    assert_eq!(server.ended().len(), 2);
    assert_eq!(proxy.ended().len(), 0);
}

/// With a limit of open files. Windows has none.
#[cfg(unix)]
mod descriptors {
    use std::fs::File;
    use std::iter;
    use std::process::Command;
    use std::sync::Barrier;

    use jas_session::Error;

    use super::*;

    /// Opens files until this process may open this many descriptors more.
    fn leave_free(free: usize) -> Vec<File> {
        let mut open: Vec<_> = iter::from_fn(|| File::open("/dev/null").ok()).collect();
        assert!(open.len() > 16 && open.len() < 200, "{}", open.len());
        open.truncate(open.len() - free);
        open
    }

    fn assert_passes_with_few(alone: &Command) {
        let mut child = Command::new("sh");
        child.args(["-c", r#"ulimit -n 64; exec "$0" "$@""#]);
        child.arg(alone.get_program()).args(alone.get_args());
        child.envs(alone.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert_passes(child);
    }

    #[test]
    fn process_without_descriptors_gets_errors_and_no_panic() {
        let test = "descriptors::process_without_descriptors_gets_errors_and_no_panic";
        if let [url] = &urls()[..] {
            let session = session(url).timeout(TIMEOUT).idle_connections(0);
            let token = || {
                session.invalidate("token");
                session.invalidate("new");
                session.access_token()
            };
            let booking = || session.post("/", "text/plain", "create")?.text();
            let before = held();
            // For a token: both ends of minreq's connection, and its port or the server's connection.
            let calls: [(&dyn Fn() -> Result<String, Error>, _); 2] = [(&booking, 1), (&token, 3)];
            for (call, needed) in calls {
                for free in (0..8).rev() {
                    let open = leave_free(free);
                    let result = call();
                    drop(open);
                    assert_eq!(result.is_ok(), free >= needed, "{free}: {result:?}");
                    if let Err(error) = result {
                        assert!(!error.may_have_executed(), "{error:?}");
                        assert!(error.to_string().contains("too many files"), "{error}");
                    }
                    assert_nothing_left(before, &format!("{free} of {needed}"));
                }
            }
            return;
        }
        let server = Server::responding(&response("200 OK", "", TOKEN));
        assert_passes_with_few(&this_test_alone(test, &[server.url()]));
    }

    #[test]
    fn idle_connections_make_room_for_a_call() {
        const IDLE: usize = 3;
        let test = "descriptors::idle_connections_make_room_for_a_call";
        if let [url, other] = &urls()[..] {
            // The idle connections are to another origin than the request.
            let session = session_without_token(url).token_endpoint(other).unwrap();
            session.access_token().unwrap();
            let open = leave_free(0);
            session.post("/", "text/plain", "create").unwrap();
            drop(open);

            side_by_side(0..IDLE, |_| drop(session.get("/").unwrap().text().unwrap()));
            let open = leave_free(0);
            session.invalidate("new");
            session.access_token().unwrap();
            drop(open);
            return;
        }
        // Responds when all have arrived, so that each has a connection of its own.
        let together = Barrier::new(IDLE);
        let server = Server::start(move |stream| {
            let received = request(stream);
            if received.starts_with(b"GET") {
                together.wait();
            }
            respond(stream, &response("200 OK", "", TOKEN));
            [received, until_closed(stream)].concat()
        });
        let other = Server::keeping_open(&response("200 OK", "", TOKEN));
        let urls = [server.url(), other.url()];
        assert_passes_with_few(&this_test_alone(test, &urls));
    }

    #[test]
    fn thread_that_reads_and_books_needs_one_descriptor() {
        let test = "descriptors::thread_that_reads_and_books_needs_one_descriptor";
        if let [url] = &urls()[..] {
            let session = session(url);
            let open = leave_free(1);
            for _ in 0..20 {
                assert_eq!(session.get("/").unwrap().text().unwrap(), "done");
                let booking = session.post("/", "text/plain", "create");
                assert_eq!(booking.unwrap().text().unwrap(), "done");
            }
            drop(open);
            return;
        }
        let server = Server::start(|stream| {
            let mut received = Vec::new();
            loop {
                let request = request(stream);
                if request.is_empty() {
                    return received;
                }
                received.extend(request);
                respond(stream, &response("200 OK", "", "done"));
            }
        });
        assert_passes_with_few(&this_test_alone(test, &[server.url()]));
    }
}
