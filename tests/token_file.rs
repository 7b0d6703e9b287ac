//! `Session::token_file`: what one run keeps for the next, and that no fault of the file makes a call
//! fail. Runs are processes (the example `cron_job`), or sessions of this process.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use jas_session::{ErrorKind, Session};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[path = "support/scratch/mod.rs"]
mod scratch;
use sandbox::{Fault, Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};
use scratch::Directory;

const PATH: &str = "/tracking/v1/shipments/S505185992";

/// Where the example `cron_job` keeps its token.
fn token_of(directory: &Directory) -> PathBuf {
    directory.file("jas-session-token")
}

fn entries(directory: &Directory) -> usize {
    fs::read_dir(directory.path()).unwrap().count()
}

fn job(sandbox: &Sandbox, directory: &Directory) -> Command {
    let mut job = sandbox.example("cron_job");
    job.arg(directory.path()).arg(PATH);
    job
}

fn output(job: &mut Command) -> Output {
    job.output().expect("cargo build --example cron_job")
}

fn assert_good(output: &Output) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("PAR45176295"));
}

fn run(sandbox: &Sandbox, directory: &Directory) {
    assert_good(&output(&mut job(sandbox, directory)));
}

/// A session as a new run makes it.
fn session(sandbox: &Sandbox, file: PathBuf) -> Session {
    Session::new(&sandbox.url(), CLIENT_ID, CLIENT_SECRET)
        .and_then(|session| session.api_key(API_KEY)?.token_file(file))
        .expect("a session")
}

fn call(session: &Session) {
    assert_eq!(session.get(PATH).unwrap().status(), 200);
}

#[test]
fn the_next_run_needs_no_token_request() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    run(&sandbox, &directory);
    run(&sandbox, &directory);
    assert_eq!((sandbox.count(Place::Token), sandbox.count(Place::Api)), (1, 2));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(token_of(&directory)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_eq!(entries(&directory), 1, "nothing else is left");
}

#[test]
fn a_file_that_is_no_good_costs_a_token_request() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    run(&sandbox, &directory);
    let good = fs::read_to_string(token_of(&directory)).unwrap();
    let replaced = |from: &str, to: &str| {
        let text = good.replace(from, to);
        assert_ne!(text, good);
        text.into_bytes()
    };
    let rest = good.split_once("\"written_at\":").unwrap().1;
    let written_at = rest.split(',').next().unwrap();
    for content in [
        vec![],
        b"{}".to_vec(),
        b"\xff\xfe".to_vec(),
        good.as_bytes()[..good.len() - 1].to_vec(),
        replaced(written_at, "1000000000"),
        // The clock was set back.
        replaced(written_at, "99999999999"),
        replaced(&sandbox.url(), "http://127.0.0.1:1"),
        replaced(CLIENT_ID, "another"),
    ] {
        fs::write(token_of(&directory), content).unwrap();
        let tokens = sandbox.count(Place::Token);
        run(&sandbox, &directory);
        assert_eq!(sandbox.count(Place::Token), tokens + 1);
        // The file is good again.
        run(&sandbox, &directory);
        assert_eq!(sandbox.count(Place::Token), tokens + 1);
    }
    let tokens = sandbox.count(Place::Token);
    sandbox.revoke();
    run(&sandbox, &directory);
    run(&sandbox, &directory);
    assert_eq!(sandbox.count(Place::Token), tokens + 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(token_of(&directory), fs::Permissions::from_mode(0o640)).unwrap();
        run(&sandbox, &directory);
        run(&sandbox, &directory);
        assert_eq!(sandbox.count(Place::Token), tokens + 2);
    }
}

#[test]
fn a_file_that_cannot_be_used_makes_no_call_fail() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    // The directory is gone, or a directory stands in place of the file.
    call(&session(&sandbox, directory.file("gone").join("token")));
    let file = directory.file("becomes-a-directory");
    let late = session(&sandbox, file.clone());
    fs::create_dir(&file).unwrap();
    call(&late);
    assert_eq!(entries(&directory), 1, "nothing else is left");
    assert_eq!(sandbox.count(Place::Token), 2);
}

/// Without any file to write to, as on a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_or_a_pipe_in_place_of_the_file_makes_no_call_fail() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let job = job(&sandbox, &directory);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""]);
    shell.arg(job.get_program()).args(job.get_args());
    shell.envs(job.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert_good(&output(&mut shell));
    assert_eq!(entries(&directory), 0, "no part of it is left");

    // To open the pipe would be to wait for ever. It stays what it is.
    let late = session(&sandbox, token_of(&directory));
    let made = Command::new("mkfifo").arg(token_of(&directory)).status();
    assert!(made.expect("mkfifo").success());
    call(&late);
    assert!(!fs::metadata(token_of(&directory)).unwrap().is_file());
    assert_eq!(entries(&directory), 1);
}

#[test]
fn a_path_that_is_none_is_refused_at_once() {
    let sandbox = Sandbox::start();
    let temp = std::env::temp_dir();
    let device = if cfg!(unix) { "/dev/null" } else { "." };
    for path in ["", "/", "a/..", temp.to_str().unwrap(), device] {
        let session = Session::new(&sandbox.url(), CLIENT_ID, CLIENT_SECRET).unwrap();
        let error = session.token_file(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let message = format!("the token file's path is not that of a file: \"{path}\"");
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn another_client_does_not_use_the_token() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    run(&sandbox, &directory);
    let mut other = job(&sandbox, &directory);
    let output = output(other.env("JAS_CLIENT_ID", "another"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(sandbox.count(Place::Token), 2);
    assert_eq!(sandbox.count(Place::Api), 1);
}

#[test]
fn a_token_that_another_process_has_requested_is_taken_before_one_is_requested() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let [first, second] = [0; 2].map(|_| session(&sandbox, token_of(&directory)));
    call(&first);
    call(&second);
    assert_eq!(sandbox.count(Place::Token), 1);
    // Refused: the first one requests another, and the second one takes that.
    sandbox.revoke();
    call(&first);
    call(&second);
    assert_eq!(sandbox.count(Place::Token), 2);
    assert_eq!(second.held_token().unwrap().0, first.held_token().unwrap().0);
    assert_eq!((first.counts().tokens, second.counts().tokens), (2, 0));
    // Due: the token in the file is due, too.
    let [first, second] = [first, second].map(|session| session.renew_before(Duration::MAX));
    let due = |session: &Session| {
        let (token, left) = session.held_token().unwrap();
        drop(session.clone().resume(&token, left / 1000));
    };
    sandbox.token_lifetime(Duration::from_secs(900));
    for session in [&first, &second] {
        due(session);
        while session.held_token().is_some_and(|(_, left)| left.as_millis() > 250) {
            thread::sleep(Duration::from_millis(5));
        }
        call(session);
    }
    assert_eq!(sandbox.count(Place::Token), 3);
    assert_eq!(second.held_token().unwrap().0, first.held_token().unwrap().0);
}

#[test]
fn a_token_of_the_file_that_was_revoked_costs_no_call() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let [first, second] = [0; 2].map(|_| session(&sandbox, token_of(&directory)));
    call(&first);
    call(&second);
    first.invalidate(&first.held_token().unwrap().0);
    call(&first);
    // The token that is held, and that of the file.
    sandbox.revoke();
    for _ in 0..3 {
        call(&second);
    }
    assert_eq!(sandbox.count(Place::Token), 3);
}

#[test]
fn a_token_that_was_refused_is_left_to_no_other_run() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let first = session(&sandbox, token_of(&directory));
    let token = first.access_token().unwrap();
    // Refused elsewhere, to a caller who uses the token by other means.
    first.invalidate("another");
    assert_eq!(entries(&directory), 1);
    first.invalidate(&token);
    assert_eq!(entries(&directory), 0);
    // Refused by the API, while no other token can be had.
    call(&first);
    sandbox.revoke();
    sandbox.next(Place::Token, Fault::Response(500, vec![], vec![]));
    assert_eq!(first.get(PATH).unwrap_err().status(), Some(500));
    assert_eq!(entries(&directory), 0);
}

#[test]
fn a_token_that_leaves_is_as_fresh_as_without_a_file() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let old = session(&sandbox, token_of(&directory)).access_token().unwrap();
    let due = session(&sandbox, token_of(&directory)).renew_before(Duration::from_secs(300));
    assert_eq!(due.access_token().unwrap(), old);
    let kept = fs::read_to_string(token_of(&directory)).unwrap();
    let at = kept.find("\"written_at\":").unwrap() + "\"written_at\":".len();
    let written_at: u64 = kept[at..].split(',').next().unwrap().parse().unwrap();
    let older = kept.replace(&written_at.to_string(), &(written_at - 400).to_string());
    fs::write(token_of(&directory), older).unwrap();
    let due = session(&sandbox, token_of(&directory)).renew_before(Duration::from_secs(300));
    assert_ne!(due.access_token().unwrap(), old);
    assert_eq!(sandbox.count(Place::Token), 2);
}

#[test]
fn the_file_serves_whatever_the_order_of_the_settings() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let endpoint = format!("{}/oauth2/token?of=mine", sandbox.url());
    for _ in 0..2 {
        let session = session(&sandbox, token_of(&directory));
        call(&session.token_endpoint(&endpoint).unwrap());
    }
    assert_eq!(sandbox.count(Place::Token), 1);
    // A clone has it, too, and another endpoint's token is not taken.
    let session = session(&sandbox, token_of(&directory));
    call(&session.clone());
    assert_eq!(sandbox.count(Place::Token), 2);
    // A slash at its end changes nothing.
    let mut path = token_of(&directory).into_os_string();
    path.push("/");
    call(&self::session(&sandbox, path.into()));
    assert_eq!(sandbox.count(Place::Token), 2);
}

#[test]
fn a_run_that_fails_keeps_its_token_as_well() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    sandbox.next(Place::Api, Fault::Response(404, vec![], vec![]));
    let error = session(&sandbox, token_of(&directory)).get(PATH).unwrap_err();
    assert_eq!(error.status(), Some(404));
    call(&session(&sandbox, token_of(&directory)));
    assert_eq!(sandbox.count(Place::Token), 1);
}

#[test]
fn runs_at_the_same_time_do_each_other_no_harm() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    for _ in 0..3 {
        let _ = fs::remove_file(token_of(&directory));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| run(&sandbox, &directory));
            }
        });
        let tokens = sandbox.count(Place::Token);
        run(&sandbox, &directory);
        assert_eq!(sandbox.count(Place::Token), tokens);
    }
    assert_eq!(entries(&directory), 1);
}
