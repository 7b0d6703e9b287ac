//! A stand-in for JAS that stays up until Ctrl-C, to try programs without an account: it serves what
//! JAS describes, and plays faults on demand. `sandbox --help` says more.

use std::io::{self, BufRead as _};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

#[path = "../support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{Fault, Place, Request, Sandbox, Watch, API_KEY, CLIENT_ID, CLIENT_SECRET};

const HELP: &str = "\
Stands in for JAS on this machine until Ctrl-C, and prints each request on one line.

  sandbox [--port N] [--token-life SECONDS] [--calls-per-second N]

  --port N               the port to listen on; any free port by default
  --token-life SECONDS   the lifetime of a token; 600 by default
  --calls-per-second N   refuses more calls with 429 and Retry-After; no limit by default

It serves:
  POST /oauth2/token                    tokens
  POST /tracking/v1/shipments           a status query, in JSON by shipmentNumber or houseBill, in
                                        XML by <ShipmentQuery> with ShipmentNumber or HouseBill
  GET  /tracking/v1/shipments/NUMBER    the same; S505185992 (house bill PAR45176295), S505186107,
                                        S505186240, S505186355 and S505186418 are known
  POST /bookings/v1/bookings            a booking in JSON or XML; gives bookingNumber
  GET  /documents/v1/large?bytes=N      a document of N bytes
It closes each connection after its response.

Type a fault, and Enter:
  limit [SECONDS]   the next call is refused with 429 and Retry-After (2 by default)
  revoke            every token issued so far is refused from now on
  slow [SECONDS]    the next response takes that long (5 by default)
  truncate          the next response is truncated
  down              the token endpoint responds with 503, until you type: up
";

struct Desk {
    start: Instant,
    calls_per_second: Option<u32>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The fault of the next call.
    next: Option<Order>,
    is_down: bool,
    /// The second in which the last call arrived, and how many calls arrived in it.
    calls: (u64, u32),
}

#[derive(Clone, Copy)]
enum Order {
    Limit(u64),
    Slow(u64),
    Truncate,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let (mut port, mut life, mut calls_per_second) = (0, 600, None);
    for pair in arguments.chunks(2) {
        let number = pair.get(1).and_then(|number| number.parse::<u32>().ok());
        match (pair[0].as_str(), number) {
            ("--port", Some(n)) if u16::try_from(n).is_ok() => port = u16::try_from(n).unwrap(),
            ("--token-life", Some(n)) => life = n,
            ("--calls-per-second", Some(n)) => calls_per_second = Some(n),
            _ => {
                eprintln!("error: {} is not understood; see --help", pair.join(" "));
                return ExitCode::from(2);
            }
        }
    }
    let desk = Arc::new(Desk { start: Instant::now(), calls_per_second, state: Mutex::default() });
    let sandbox = match Sandbox::on_port(port, desk.clone()) {
        Ok(sandbox) => sandbox,
        Err(error) => {
            eprintln!("error: port {port} can't be had: {error}");
            return ExitCode::FAILURE;
        }
    };
    sandbox.token_lifetime(Duration::from_secs(life.into()));
    println!("A stand-in for JAS is up. Paste these lines into another terminal:\n");
    for (name, value) in [
        ("JAS_URL", sandbox.url().as_str()),
        ("JAS_CLIENT_ID", CLIENT_ID),
        ("JAS_CLIENT_SECRET", CLIENT_SECRET),
        ("JAS_API_KEY", API_KEY),
    ] {
        println!("{}", export(name, value));
    }
    println!("\nand run there, for example:\n");
    println!("cargo run --example fetch -- get /tracking/v1/shipments/S505185992\n");
    println!("Faults: limit, revoke, slow, truncate, down and up (see --help). Ctrl-C ends it.\n");
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        desk.obey(&line, &sandbox);
    }
    // Standard input has ended, but the server goes on.
    loop {
        thread::park();
    }
}

/// Returns a line that sets a variable in a POSIX shell or in PowerShell.
fn export(name: &str, value: &str) -> String {
    if cfg!(windows) {
        return format!("$env:{name} = '{}'", value.replace('\'', "''"));
    }
    format!("export {name}='{}'", value.replace('\'', r"'\''"))
}

impl Desk {
    fn obey(&self, line: &str, sandbox: &Sandbox) {
        let words: Vec<_> = line.split_whitespace().collect();
        let (order, number) = match words[..] {
            [] => return,
            [order] => (order, None),
            [order, number] => (order, number.parse().ok()),
            _ => ("", None),
        };
        let mut state = self.state();
        match order {
            "limit" => state.next = Some(Order::Limit(number.unwrap_or(2))),
            "slow" => state.next = Some(Order::Slow(number.unwrap_or(5))),
            "truncate" => state.next = Some(Order::Truncate),
            "down" => state.is_down = true,
            "up" => state.is_down = false,
            "revoke" => sandbox.revoke(),
            _ => return println!("not understood: {line}"),
        }
        println!("ordered: {}", line.trim());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, request: &Request, what: &str) {
        let Request { method, target, .. } = request;
        let time = self.start.elapsed().as_secs_f64();
        println!("{time:8.3} s  {method} {target}  {what}");
    }

    /// Returns the fault of this call.
    fn order(&self) -> Option<Order> {
        let mut state = self.state();
        let second = self.start.elapsed().as_secs();
        if state.calls.0 != second {
            state.calls = (second, 0);
        }
        state.calls.1 += 1;
        let is_over = self.calls_per_second.is_some_and(|n| state.calls.1 > n);
        state.next.take().or(is_over.then_some(Order::Limit(1)))
    }
}

impl Watch for Desk {
    fn fault(&self, request: &Request) -> Option<Fault> {
        if request.place == Place::Token {
            let fault = self.state().is_down.then(|| Fault::Response(503, vec![], vec![]));
            if fault.is_some() {
                self.print(request, "503 (down)");
            }
            return fault;
        }
        match self.order()? {
            Order::Limit(seconds) => {
                self.print(request, &format!("429 (Retry-After: {seconds})"));
                let field = ("Retry-After", seconds.to_string());
                Some(Fault::Response(429, vec![field], vec![]))
            }
            Order::Slow(seconds) => {
                self.print(request, &format!("waits for {seconds} s"));
                thread::sleep(Duration::from_secs(seconds));
                None
            }
            Order::Truncate => {
                self.print(request, "is truncated");
                Some(Fault::Half)
            }
        }
    }

    fn responded(&self, request: &Request, status: u16) {
        self.print(request, &status.to_string());
    }
}
