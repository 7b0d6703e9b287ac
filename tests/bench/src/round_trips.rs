//! Round trips of a call, counted over a slow link.

use std::env;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::clients::{Client, MINREQ, OAUTH2_REQWEST, OURS, OUR_LOAD, UREQ};
use crate::measure::{output, usage};
use crate::server::TOKEN;
use crate::{command, link, progress, Bench, Result, Server};

const CLIENTS: [Client; 4] = [OURS, UREQ, OAUTH2_REQWEST, MINREQ];
/// Runs of each job. The shortest counts.
const ROUNDS: usize = 5;
/// How many more calls the longer job makes than the shorter one.
const FURTHER: f64 = 4.0;
/// How long starting a program and computing may take, in round trips.
const SLACK: f64 = 0.3;

/// Measures in a child process with its own network namespace, which prints the numbers.
pub fn measure(bench: &mut Bench) -> Result<()> {
    for client in CLIENTS.iter().chain([&OUR_LOAD]) {
        bench.build(client)?;
    }
    let alone = || command("unshare", &["--map-root-user", "--net"]);
    let is_possible = alone().arg("true").output().is_ok_and(|o| o.status.success());
    if !is_possible || link::device().is_err() {
        println!("\nRound trips are not measured: that needs `unshare --net` and /dev/net/tun.");
        return Ok(());
    }
    progress(format_args!("round trips"));
    let mut inner = alone();
    inner.arg(env::current_exe()?).arg("link");
    let printed = output(inner.arg(&bench.directory))?.0;
    let numbers: std::result::Result<Vec<f64>, _> = printed.lines().map(str::parse).collect();
    let numbers = numbers?;
    let (clients, ours) = numbers.split_at(2 * CLIENTS.len());
    println!("\n| round trips | first job | each further call | job with a resumed token | POST |");
    println!("|---|---|---|---|---|");
    for (i, (client, trips)) in CLIENTS.iter().zip(clients.chunks(2)).enumerate() {
        let mut cells = vec![trips[0], (trips[1] - trips[0]) / FURTHER];
        if i == 0 {
            cells.extend(ours);
        }
        let cells: Vec<_> = cells.iter().map(|trips| format!("{trips:.2}")).collect();
        println!("| {} | {} |", client.name, cells.join(" | "));
    }
    for (what, trips, limit) in [
        ("first job", clients[0], 4.0),
        ("each further call", (clients[1] - clients[0]) / FURTHER, 1.0),
        ("job with a resumed token", ours[0], 3.0),
        ("POST", ours[1], 3.0),
    ] {
        bench.at_most(&format!("round trips, {what}"), trips, limit + SLACK);
    }
    Ok(())
}

/// Prints the round trips of each job: of each client with one GET and with more, then of jas-session
/// with a resumed token, and of its POST.
pub fn print(directory: &Path) -> Result<()> {
    link::start()?;
    let server = Server::start(directory, link::HERE)?;
    let url = server.tls.replace(&link::HERE.to_string(), &link::THERE.to_string());
    let address = url.trim_start_matches("https://");
    let round_trip = least(|| {
        let start = Instant::now();
        TcpStream::connect(address)?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    let more = (1.0 + FURTHER).to_string();
    let mut jobs: Vec<Command> = Vec::new();
    for client in CLIENTS {
        let program = client.path(directory);
        jobs.extend(["1", &more].map(|gets| command(&program, &[&url, gets])));
    }
    jobs.push(command(OURS.path(directory), &[&url, "1", TOKEN]));
    jobs.push(command(OUR_LOAD.path(directory), &["post", &url, "1", TOKEN]));
    for job in jobs {
        let took = least(|| Ok(usage(&job)?.wall))?;
        println!("{}", took / round_trip);
    }
    Ok(())
}

fn least(measure: impl Fn() -> Result<f64>) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        least = least.min(measure()?);
    }
    Ok(least)
}
