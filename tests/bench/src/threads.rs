//! Calls per second by threads that share one session, agent or client.

use crate::clients::{earlier, Client, OUR_LOAD, REQWEST_LOAD, UREQ_LOAD};
use crate::measure::{median, usage};
use crate::server::Counts;
use crate::{command, progress, Bench, Result};

/// Numbers of threads, each with the goal: the ratio to the calls of ureq 3.
const THREADS: [(usize, f64); 3] = [(1, 1.5), (8, 3.0), (64, 3.0)];
/// How often each client runs, and for how long. The clients take turns, in many short slices, so that
/// disturbances affect all of them.
const ROUNDS: usize = 15;
const MILLISECONDS: usize = 250;

pub fn measure(bench: &mut Bench) -> Result<()> {
    let mut clients = vec![OUR_LOAD, UREQ_LOAD, REQWEST_LOAD];
    clients.extend(earlier().map(|[_, load]| load));
    for client in &clients {
        bench.build(client)?;
    }
    println!("\nCalls per second over TLS, and the ratio of ours to them:\n");
    let names: Vec<_> = clients.iter().map(|client| client.name).collect();
    let columns = "---|".repeat(clients.len());
    println!("| threads | {} | our token requests |\n|---|{columns}---|", names.join(" | "));
    for (threads, goal) in THREADS {
        let mut rounds: Vec<Vec<f64>> = Vec::new();
        let mut tokens = 0;
        for round in 1..=ROUNDS {
            progress(format_args!("{threads} threads, {round} of {ROUNDS}"));
            let mut speeds = Vec::new();
            for client in &clients {
                let before = Counts::of(&bench.server)?.tokens;
                let url = &bench.server.tls;
                speeds.push(slices(bench, client, url, threads, 1, MILLISECONDS)?[0]);
                if client.name == OUR_LOAD.name {
                    tokens = tokens.max(Counts::of(&bench.server)?.tokens - before);
                }
            }
            rounds.push(speeds);
        }
        let ratio = |i: usize| median(rounds.iter().map(|speeds| speeds[0] / speeds[i]));
        print!("| {threads} ");
        for i in 0..clients.len() {
            let speed = median(rounds.iter().map(|speeds| speeds[i]));
            print!("| {speed:.0} ({:.2}) ", ratio(i));
        }
        println!("| {tokens} |");
        for (i, goal) in [(1, goal), (2, 1.5)] {
            let what = format!("calls per second / {}'s, TLS, {threads} threads", clients[i].name);
            bench.at_least(&what, ratio(i), goal);
        }
        bench.at_most(&format!("token requests, {threads} threads"), tokens as f64, 1.0);
    }
    without_pause(bench)
}

/// Checks that neither ports nor memory run out.
fn without_pause(bench: &mut Bench) -> Result<()> {
    progress(format_args!("10 s without a pause"));
    let speeds = slices(bench, &OUR_LOAD, &bench.server.plain, 8, 10, 1000)?;
    let cells: Vec<_> = speeds.iter().map(|speed| format!("{speed:.0}")).collect();
    println!("\nCalls per second over plain HTTP by 8 threads, in each of 10 s without a pause:");
    println!("{}", cells.join(", "));
    let [first, last] = [&speeds[..3], &speeds[7..]].map(|part| median(part.iter().copied()));
    let what = "speed in the last of 10 s without a pause / in the first";
    bench.at_least(what, last / first, 0.9);
    Ok(())
}

/// Returns the calls per second in each slice of time.
fn slices(
    bench: &Bench, client: &Client, url: &str, threads: usize, slices: usize, milliseconds: usize,
) -> Result<Vec<f64>> {
    let [threads, count, length] = [threads, slices, milliseconds].map(|n| n.to_string());
    let program = client.path(&bench.directory);
    let speeds = usage(&command(program, &["calls", url, &threads, &count, &length]))?.printed;
    if speeds.len() != slices {
        return Err(format!("{} printed too little", client.name).into());
    }
    Ok(speeds)
}
