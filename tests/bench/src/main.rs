//! Compares `jas-session` with its peers, and prints tables and whether the goals are met. `README.md`
//! says what is measured, and how.

mod clients;
mod further;
mod jobs;
mod link;
mod measure;
mod memory;
mod round_trips;
mod server;
mod streaming;
mod threads;

use std::env;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measures, prints, and records whether goals are met.
type Part = fn(&mut Bench) -> Result<()>;

/// The parts by name.
const PARTS: [(&str, Part); 6] = [
    ("jobs", jobs::measure),
    ("further", further::measure),
    ("streaming", streaming::measure),
    ("memory", memory::measure),
    ("threads", threads::measure),
    ("round-trips", round_trips::measure),
];

/// Used by every part.
struct Bench {
    /// The target directory of the clients, which also contains the root that they trust.
    directory: PathBuf,
    server: Server,
    goals: Vec<Goal>,
}

struct Goal {
    what: String,
    number: f64,
    goal: String,
    holds: bool,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // This program starts itself with the first three.
    match arguments[..] {
        ["serve", directory, address] => server::run(directory.as_ref(), address.parse()?),
        ["run", program, ref arguments @ ..] => measure::print_usage(program, arguments),
        ["link", directory] => round_trips::print(directory.as_ref()),
        ref parts => run(parts),
    }
}

/// Measures these parts, or all parts if there are none.
fn run(parts: &[&str]) -> Result<()> {
    let names = PARTS.map(|(name, _)| name);
    if let Some(unknown) = parts.iter().find(|part| !names.contains(part)) {
        return Err(format!("no part `{unknown}`: there are {}", names.join(", ")).into());
    }
    let own = env::current_exe()?;
    let target = own.ancestors().nth(2).ok_or("not in a target directory")?;
    let directory = target.join("bench-clients");
    let mut bench = Bench {
        server: Server::start(&directory, Ipv4Addr::LOCALHOST)?,
        directory,
        goals: Vec::new(),
    };
    for (name, measure) in PARTS {
        if parts.is_empty() || parts.contains(&name) {
            measure(&mut bench)?;
        }
    }
    bench.print_goals();
    Ok(())
}

impl Bench {
    fn at_most(&mut self, what: &str, number: f64, limit: f64) {
        self.goals.push(Goal {
            what: what.to_owned(),
            number,
            goal: format!("at most {limit}"),
            holds: number <= limit,
        });
    }

    fn at_least(&mut self, what: &str, number: f64, limit: f64) {
        self.goals.push(Goal {
            what: what.to_owned(),
            number,
            goal: format!("at least {limit}"),
            holds: number >= limit,
        });
    }

    fn print_goals(&self) {
        println!("\n| measured | | goal | met |\n|---|---|---|---|");
        for goal in &self.goals {
            let holds = if goal.holds { "yes" } else { "**no**" };
            println!("| {} | {:.3} | {} | {holds} |", goal.what, goal.number, goal.goal);
        }
    }
}

/// The server in a child process. Dropping this stops it.
struct Server {
    process: Child,
    /// The base URL over TLS.
    tls: String,
    /// The base URL over plain HTTP.
    plain: String,
}

impl Server {
    /// Starts a server on this address, with a certificate that the root in this directory issues.
    fn start(root: &Path, address: Ipv4Addr) -> Result<Server> {
        server::root(root)?;
        let mut process = Command::new(env::current_exe()?)
            .arg("serve")
            .args([root.as_os_str(), address.to_string().as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("no output")?;
        let mut lines = BufReader::new(output).lines();
        let mut port = || lines.next().ok_or("the server did not start");
        Ok(Server {
            tls: format!("https://{address}:{}", port()??),
            plain: format!("http://{address}:{}", port()??),
            process,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(program: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments);
    command
}

/// Shows the progress on one line.
fn progress(what: std::fmt::Arguments<'_>) {
    eprint!("\r\x1b[K{what} ...");
}
