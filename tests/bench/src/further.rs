//! The cost of a further call: the difference between a long job and a short one, for each call.

use std::process::Command;

use crate::clients::{earlier, Client, OAUTH2_REQWEST, OAUTH2_UREQ, OURS, RUSTLS, UREQ_DEFAULT};
use crate::measure::{has, instructions, median, output};
use crate::{command, progress, Bench, Result};

const PEERS: [Client; 3] = [UREQ_DEFAULT, OAUTH2_UREQ, OAUTH2_REQWEST];
/// GETs of the two jobs.
const GETS: [u32; 2] = [10, 110];
/// How often instructions are counted.
const COUNTS: usize = 3;
/// Names of system calls.
const THREADS: [&str; 2] = ["clone(", "clone3("];
const LISTENERS: [&str; 1] = ["listen("];

/// The cost of one call.
struct Further {
    instructions: f64,
    system_calls: f64,
    threads: f64,
    listeners: f64,
}

pub fn measure(bench: &mut Bench) -> Result<()> {
    if !has("valgrind") || !has("strace") {
        println!("\nFurther calls are not measured: that needs valgrind and strace.");
        return Ok(());
    }
    let mut clients = vec![OURS, RUSTLS];
    clients.extend(PEERS);
    clients.extend(earlier().map(|[job, _]| job));
    println!("\n| a further call | instructions, thousand | system calls | threads | listeners |");
    println!("|---|---|---|---|---|");
    let mut measured = Vec::new();
    for client in &clients {
        let program = bench.build(client)?;
        progress(format_args!("further calls of {}", client.name));
        let jobs = GETS.map(|gets| command(&program, &[&bench.server.tls, &gets.to_string()]));
        let further = Further::of(&jobs)?;
        println!(
            "| {} | {:.1} | {:.2} | {:.2} | {:.2} |",
            client.name,
            further.instructions / 1e3,
            further.system_calls,
            further.threads,
            further.listeners
        );
        measured.push(further);
    }
    let (ours, floor) = (&measured[0], &measured[1]);
    let peers = &measured[2..2 + PEERS.len()];
    let least = peers.iter().map(|peer| peer.instructions).fold(f64::INFINITY, f64::min);
    bench.at_most("instructions of a further call, thousand", ours.instructions / 1e3, 55.0);
    bench.at_most("the same / those of the best peer", ours.instructions / least, 0.66);
    bench.at_most("the same / those of rustls alone", ours.instructions / floor.instructions, 1.8);
    bench.at_most("system calls of a further call", ours.system_calls, 6.0);
    bench.at_most("threads started by a further call", ours.threads, 0.0);
    bench.at_most("ports opened by a further call", ours.listeners, 0.0);
    Ok(())
}

impl Further {
    fn of(jobs: &[Command; 2]) -> Result<Further> {
        let each = |count: &dyn Fn(&Command) -> Result<f64>| -> Result<f64> {
            Ok((count(&jobs[1])? - count(&jobs[0])?) / f64::from(GETS[1] - GETS[0]))
        };
        let counts: Result<Vec<f64>> = (0..COUNTS).map(|_| each(&instructions)).collect();
        Ok(Further {
            instructions: median(counts?),
            system_calls: each(&|job| system_calls(job, &[""]))?,
            threads: each(&|job| system_calls(job, &THREADS))?,
            listeners: each(&|job| system_calls(job, &LISTENERS))?,
        })
    }
}

/// Counts the system calls with one of these names, or all, if the name is empty.
fn system_calls(job: &Command, names: &[&str]) -> Result<f64> {
    let mut strace = command("strace", &["-f", "-qq", "-o", "/dev/stderr", "-e", "signal=none"]);
    let trace = output(strace.arg(job.get_program()).args(job.get_args()))?.1;
    let calls = trace.lines().filter_map(|line| {
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        (!call.starts_with("<...")).then_some(call)
    });
    Ok(calls.filter(|call| names.iter().any(|name| call.starts_with(name))).count() as f64)
}
