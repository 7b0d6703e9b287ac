//! `Session::token_file`: the next run needs no token request, and no fault of the file makes a call
//! fail. Runs are processes (the example `cron_job`), or sessions of this process.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use jas_session::Session;

#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[path = "support/scratch/mod.rs"]
mod scratch;
use sandbox::{Fault, Place, Sandbox};
use scratch::Directory;

const PATH: &str = "/tracking/v1/shipments/S505185992";

/// Where the example `cron_job` stores its token.
fn token_file(directory: &Directory) -> PathBuf {
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

/// The session of a new run.
fn session(sandbox: &Sandbox, file: PathBuf) -> Session {
    sandbox.session().token_file(file).expect("a session")
}

fn call(session: &Session) {
    assert_eq!(session.get(PATH).unwrap().status(), 200);
}

/// Two runs at the same time.
fn two_sessions(sandbox: &Sandbox, directory: &Directory) -> [Session; 2] {
    [0; 2].map(|_| session(sandbox, token_file(directory)))
}

/// The token that a session holds.
fn held(session: &Session) -> String {
    session.held_token().expect("a token").0
}

#[test]
fn next_run_needs_no_token_request() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    // The first run's call fails.
    sandbox.next(Place::Api, Fault::Response(404, vec![], vec![]));
    assert!(!output(&mut job(&sandbox, &directory)).status.success());
    run(&sandbox, &directory);
    assert_eq!((sandbox.count(Place::Token), sandbox.count(Place::Api)), (1, 2));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(token_file(&directory)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_eq!(entries(&directory), 1, "nothing else is left");
}

#[test]
fn unusable_file_costs_one_token_request() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let file = token_file(&directory);
    let assert_costs_one = |spoil: &dyn Fn()| {
        let before = sandbox.count(Place::Token);
        spoil();
        // The second run finds a good file.
        for _ in 0..2 {
            call(&session(&sandbox, file.clone()));
            assert_eq!(sandbox.count(Place::Token), before + 1);
        }
    };
    assert_costs_one(&|| {});
    assert_costs_one(&|| fs::write(&file, "{}").unwrap());
    assert_costs_one(&|| sandbox.revoke());
    #[cfg(unix)]
    assert_costs_one(&|| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    });
}

#[test]
fn missing_or_wrong_directory_makes_no_call_fail() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    // The directory is missing, or the file's path becomes that of a directory.
    call(&session(&sandbox, directory.file("gone").join("token")));
    let file = directory.file("becomes-a-directory");
    let late = session(&sandbox, file.clone());
    fs::create_dir(&file).unwrap();
    call(&late);
    assert_eq!(entries(&directory), 1, "nothing else is left");
    assert_eq!(sandbox.count(Place::Token), 2);
}

#[cfg(unix)]
#[test]
fn full_disk_or_pipe_makes_no_call_fail() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let job = job(&sandbox, &directory);
    let mut shell = Command::new("sh");
    // No file may have any content, as on a full disk.
    shell.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""]);
    shell.arg(job.get_program()).args(job.get_args());
    shell.envs(job.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert_good(&output(&mut shell));
    assert_eq!(entries(&directory), 0, "no part of it is left");

    // Opening the pipe would block for ever. It is not replaced.
    let late = session(&sandbox, token_file(&directory));
    let made = Command::new("mkfifo").arg(token_file(&directory)).status();
    assert!(made.expect("mkfifo").success());
    call(&late);
    assert!(!fs::metadata(token_file(&directory)).unwrap().is_file());
    assert_eq!(entries(&directory), 1);
}

#[test]
fn token_of_another_run_is_used_before_one_is_requested() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let [first, second] = two_sessions(&sandbox, &directory);
    call(&first);
    call(&second);
    assert_eq!(sandbox.count(Place::Token), 1);
    // Refused: the first session requests another token, and the second one uses it.
    sandbox.revoke();
    call(&first);
    call(&second);
    assert_eq!(sandbox.count(Place::Token), 2);
    assert_eq!(held(&second), held(&first));
    assert_eq!((first.counts().tokens, second.counts().tokens), (2, 0));
    // Due in both sessions and in the file: the first one renews it for both.
    sandbox.token_lifetime(Duration::from_secs(900));
    for session in [&first, &second] {
        let session = session.clone().renew_before(Duration::MAX);
        let token = held(&session);
        let session = session.resume(&token, Duration::from_millis(600)).unwrap();
        while session.held_token().unwrap().1 > Duration::from_millis(300) {
            thread::sleep(Duration::from_millis(5));
        }
        call(&session);
    }
    assert_eq!(sandbox.count(Place::Token), 3);
    assert_eq!(held(&second), held(&first));
}

#[test]
fn revoked_token_of_the_file_makes_no_call_fail() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let [first, second] = two_sessions(&sandbox, &directory);
    call(&first);
    call(&second);
    first.invalidate(&held(&first));
    call(&first);
    // The token that the second session holds is refused, and then that of the file.
    sandbox.revoke();
    for _ in 0..3 {
        call(&second);
    }
    assert_eq!(sandbox.count(Place::Token), 3);
}

#[test]
fn refused_token_is_removed_from_the_file() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let first = session(&sandbox, token_file(&directory));
    let token = first.access_token().unwrap();
    // The caller used the token by other means, and it was refused.
    first.invalidate("another");
    assert_eq!(entries(&directory), 1);
    first.invalidate(&token);
    assert_eq!(entries(&directory), 0);
    // The API refuses it, and the token endpoint fails.
    call(&first);
    sandbox.revoke();
    sandbox.next(Place::Token, Fault::Response(500, vec![], vec![]));
    assert_eq!(first.get(PATH).unwrap_err().status(), Some(500));
    assert_eq!(entries(&directory), 0);
}

#[test]
fn due_token_of_the_file_is_renewed_before_it_is_handed_out() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let file = token_file(&directory);
    let token = || {
        let session = session(&sandbox, file.clone()).renew_before(Duration::from_secs(300));
        session.access_token().unwrap()
    };
    let old = token();
    assert_eq!(token(), old);
    let content = fs::read_to_string(&file).unwrap();
    let (_, rest) = content.split_once("\"written_at\":").unwrap();
    let written_at: u64 = rest.split(',').next().unwrap().parse().unwrap();
    let older = content.replace(&written_at.to_string(), &(written_at - 400).to_string());
    fs::write(&file, older).unwrap();
    assert_ne!(token(), old);
    assert_eq!(sandbox.count(Place::Token), 2);
}

#[test]
fn file_serves_one_endpoint_whatever_the_order_of_settings() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let endpoint = format!("{}/oauth2/token?of=mine", sandbox.url());
    for _ in 0..2 {
        let session = session(&sandbox, token_file(&directory));
        call(&session.token_endpoint(&endpoint).unwrap());
    }
    assert_eq!(sandbox.count(Place::Token), 1);
    // A clone uses the file, too, but not another endpoint's token.
    let session = session(&sandbox, token_file(&directory));
    call(&session.clone());
    assert_eq!(sandbox.count(Place::Token), 2);
    // A slash at the end of its path changes nothing.
    let mut path = token_file(&directory).into_os_string();
    path.push("/");
    call(&self::session(&sandbox, path.into()));
    assert_eq!(sandbox.count(Place::Token), 2);
}

#[test]
fn runs_at_the_same_time_leave_a_good_file() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    for _ in 0..3 {
        let _ = fs::remove_file(token_file(&directory));
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
