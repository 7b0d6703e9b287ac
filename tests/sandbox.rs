//! The example `sandbox`, as a new user tries it: with its lines pasted into a shell, calls by the
//! example `fetch`, and faults typed at its prompt.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::example;

const SHIPMENT: &str = "/tracking/v1/shipments/S505185992";

/// A running `sandbox`, which ends when this is dropped.
struct Running {
    child: Child,
    keyboard: ChildStdin,
    screen: Lines<BufReader<ChildStdout>>,
    /// The lines to paste.
    exports: String,
}

impl Running {
    fn start(arguments: &[&str]) -> Running {
        let mut child = Command::new(example("sandbox"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cargo build --example sandbox");
        let (keyboard, stdout) = (child.stdin.take(), child.stdout.take());
        let mut screen = BufReader::new(stdout.unwrap()).lines();
        let mut exports = Vec::new();
        for line in screen.by_ref().map(Result::unwrap) {
            if line.starts_with("export ") || line.starts_with("$env:") {
                exports.push(line);
            } else if line.starts_with("Faults: ") {
                break;
            }
        }
        assert_eq!(screen.next().unwrap().unwrap(), "");
        Running { child, keyboard: keyboard.unwrap(), screen, exports: exports.join("\n") }
    }

    fn order(&mut self, order: &str) {
        writeln!(self.keyboard, "{order}").unwrap();
        assert_eq!(self.line(), format!("ordered: {order}"));
    }

    fn line(&mut self) -> String {
        self.screen.next().expect("a line").unwrap()
    }

    /// The next line of a request, without its time.
    fn request(&mut self) -> String {
        let line = self.line();
        let (time, request) = line.split_once(" s  ").expect("a request");
        assert!(time.trim().parse::<f64>().is_ok(), "{line}");
        request.to_owned()
    }

    #[cfg(windows)]
    fn fetch(&self, path: &str) -> Output {
        let mut fetch = Command::new(example("fetch"));
        // Reads the lines as PowerShell does, which wine lacks.
        for line in self.exports.lines() {
            let (name, value) = line.strip_prefix("$env:").unwrap().split_once(" = ").unwrap();
            let value = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap();
            assert!(!value.replace("''", "").contains('\''), "{line}");
            fetch.env(name, value.replace("''", "'"));
        }
        fetch.args(["get", path]).env_remove("JAS_TOKEN_ENDPOINT").output().unwrap()
    }

    #[cfg(unix)]
    fn fetch(&self, path: &str) -> Output {
        let pasted = format!("{}\nexec \"$0\" \"$@\"", self.exports);
        let mut shell = Command::new("sh");
        shell.args(["-c", &pasted]).arg(example("fetch"));
        let shell = shell.args(["get", path]).env_remove("JAS_TOKEN_ENDPOINT");
        shell.output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn printed_lines_can_be_pasted_and_requests_are_shown() {
    let mut sandbox = Running::start(&["--token-life", "30"]);
    let output = sandbox.fetch(SHIPMENT);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("PAR45176295"));
    assert_eq!(sandbox.request(), "POST /oauth2/token  200");
    assert_eq!(sandbox.request(), format!("GET {SHIPMENT}  200"));
    let output = sandbox.fetch("/documents/v1/large?bytes=100000");
    assert_eq!(output.stdout.len(), 100_000);
}

#[test]
fn faults_are_played_on_demand() {
    let mut sandbox = Running::start(&[]);
    let token = "POST /oauth2/token  200";
    let good = format!("GET {SHIPMENT}  200");
    for (order, lines) in [
        ("limit 1", vec![token, "429 (Retry-After: 1)", &good]),
        ("slow 0", vec![token, "waits for 0 s", &good]),
        // A short response is read within the call, which is then retried.
        ("truncate", vec![token, "is truncated", &good, &good]),
        ("down", vec!["503 (down)", "503 (down)", "503 (down)"]),
        ("up", vec![token, &good]),
    ] {
        sandbox.order(order);
        let output = sandbox.fetch(SHIPMENT);
        let expected = if order == "down" { 4 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{order}");
        for line in lines {
            let request = sandbox.request();
            assert!(request.ends_with(line), "{order}: {request}");
        }
    }
    writeln!(sandbox.keyboard, "what").unwrap();
    assert_eq!(sandbox.line(), "not understood: what");
}

#[test]
fn arguments_limit_calls_or_are_refused() {
    let mut sandbox = Running::start(&["--calls-per-second", "0"]);
    assert_eq!(sandbox.fetch(SHIPMENT).status.code(), Some(4));
    assert_eq!(sandbox.request(), "POST /oauth2/token  200");
    for _ in 0..3 {
        let limited = format!("GET {SHIPMENT}  429 (Retry-After: 1)");
        assert_eq!(sandbox.request(), limited);
    }
    for wrong in [&["--port"][..], &["--port", "70000"], &["what"]] {
        let output = Command::new(example("sandbox")).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
