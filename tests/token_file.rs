//! The example `cron_job`: what a run keeps for the next one, and what it does not rely on.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

mod sandbox;
use sandbox::{Place, Sandbox, API_KEY, CLIENT_ID, CLIENT_SECRET};

const PATH: &str = "/tracking/v1/shipments/S505185992";

/// A directory of this test's own, gone when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Directory {
        let name = format!("jas-session-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // A process of this number that was killed may have left it.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Directory(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("jas-session-token")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn job(sandbox: &Sandbox, directory: &Directory, client_id: &str) -> Output {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/cron_job");
    let mut job = Command::new(path);
    job.arg(&directory.0).arg(PATH);
    job.env("JAS_URL", sandbox.url());
    job.env("JAS_CLIENT_ID", client_id);
    job.env("JAS_CLIENT_SECRET", CLIENT_SECRET);
    job.env("JAS_API_KEY", API_KEY);
    job.env_remove("JAS_TOKEN_ENDPOINT");
    job.output().expect("cargo build --example cron_job")
}

fn assert_good(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("PAR45176295"));
}

fn run(sandbox: &Sandbox, directory: &Directory) -> String {
    let output = job(sandbox, directory, CLIENT_ID);
    assert_good(&output);
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_next_run_needs_no_token_request() {
    let sandbox = Sandbox::start();
    let directory = Directory::new("next-run");
    assert_eq!(run(&sandbox, &directory), "");
    assert_eq!(run(&sandbox, &directory), "");
    assert_eq!(
        (sandbox.count(Place::Token), sandbox.count(Place::Api)),
        (1, 2)
    );
    let mode = fs::metadata(directory.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let names = fs::read_dir(&directory.0).unwrap().count();
    assert_eq!(names, 1, "nothing else is left");
}

#[test]
fn a_file_that_is_no_good_costs_a_token_request() {
    let sandbox = Sandbox::start();
    let directory = Directory::new("no-good");
    run(&sandbox, &directory);
    let good = fs::read_to_string(directory.file()).unwrap();
    let replaced = |from: &str, to: &str| {
        let text = good.replace(from, to);
        assert_ne!(text, good);
        text
    };
    let rest = good.split_once("\"begin\":").unwrap().1;
    let begin = rest.split(',').next().unwrap();
    let old = replaced(begin, "1000000000");
    let young = replaced(begin, "99999999999");
    let other_url = replaced(&sandbox.url(), "http://127.0.0.1:1");
    for (text, why) in [
        ("", "it is damaged"),
        ("{}", "it is damaged"),
        (&good[..good.len() - 1], "it is damaged"),
        (&old, "its time is over"),
        (&young, "its time is over"),
        (&other_url, "it is another client's"),
    ] {
        fs::write(directory.file(), text).unwrap();
        let tokens = sandbox.count(Place::Token);
        let said = run(&sandbox, &directory);
        assert!(said.trim_end().ends_with(why), "{said}");
        assert_eq!(sandbox.count(Place::Token), tokens + 1, "{why}");
        assert_eq!(run(&sandbox, &directory), "", "the file is good again");
        assert_eq!(sandbox.count(Place::Token), tokens + 1);
    }

    // Readable by others; a token that was refused; a place that can't be written to.
    fs::set_permissions(directory.file(), fs::Permissions::from_mode(0o640)).unwrap();
    let tokens = sandbox.count(Place::Token);
    assert!(run(&sandbox, &directory).contains("others may read it"));
    assert_eq!(sandbox.count(Place::Token), tokens + 1);
    sandbox.revoke();
    assert_eq!(run(&sandbox, &directory), "");
    assert_eq!(sandbox.count(Place::Token), tokens + 2);
    assert_eq!(run(&sandbox, &directory), "");
    assert_eq!(sandbox.count(Place::Token), tokens + 2);
    fs::remove_file(directory.file()).unwrap();
    fs::create_dir(directory.file()).unwrap();
    let said = run(&sandbox, &directory);
    assert!(said.contains("it is not a file"), "{said}");
    assert!(said.contains("the token is not kept"), "{said}");
}

#[test]
fn another_client_does_not_use_the_token() {
    let sandbox = Sandbox::start();
    let directory = Directory::new("another");
    run(&sandbox, &directory);
    let output = job(&sandbox, &directory, "another");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(sandbox.count(Place::Token), 2);
    assert_eq!(sandbox.count(Place::Api), 1);
}

#[test]
fn runs_at_the_same_time_do_each_other_no_harm() {
    let sandbox = Sandbox::start();
    let directory = Directory::new("same-time");
    for _ in 0..3 {
        let _ = fs::remove_file(directory.file());
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(run(&sandbox, &directory), ""));
            }
        });
        let tokens = sandbox.count(Place::Token);
        assert_eq!(run(&sandbox, &directory), "");
        assert_eq!(sandbox.count(Place::Token), tokens);
    }
    assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 1);
}
