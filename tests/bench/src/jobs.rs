//! Short jobs: size, memory, instructions and time of a token request and a few GETs.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use crate::clients::{
    earlier, Client, ATTOHTTPC, MINREQ, MINREQ_DEFAULT, OAUTH2_REQWEST, OAUTH2_UREQ, OURS, RUSTLS,
    UREQ, UREQ_DEFAULT,
};
use crate::measure::{has, instructions, median, usage, Usage};
use crate::{command, progress, server, Bench, Result, Server};

pub const PEERS: [Client; 6] =
    [UREQ, UREQ_DEFAULT, OAUTH2_UREQ, OAUTH2_REQWEST, ATTOHTTPC, MINREQ_DEFAULT];
/// How many GETs follow the token request.
const GETS: [&str; 2] = ["1", "10"];
/// Runs of each job. The jobs take turns.
const ROUNDS: usize = 31;
/// How often the instructions of a job are counted: only once if there are many, because counting is slow.
const COUNTS: usize = 5;
const MANY: f64 = 100e6;

/// A client and the numbers of its jobs.
struct Row {
    name: &'static str,
    /// Size of the program, in kB.
    size: f64,
    /// Number of crates that the program is built from.
    crates: usize,
    /// One for each of `GETS`.
    jobs: [Job; 2],
}

struct Job {
    command: Command,
    instructions: Vec<f64>,
    used: Vec<Usage>,
}

pub fn measure(bench: &mut Bench) -> Result<()> {
    let mut rows = vec![row(bench, &OURS, OURS.name, &[])?];
    let name = "the same, with a resumed token";
    rows.push(row(bench, &OURS, name, &[server::TOKEN])?);
    let others: Vec<Client> = earlier().into_iter().map(|[job, _]| job).collect();
    for client in others.iter().chain(&[RUSTLS, MINREQ]).chain(&PEERS) {
        rows.push(row(bench, client, client.name, &[])?);
    }
    check_trust(bench, &rows)?;
    if has("valgrind") {
        count_instructions(&mut rows)?;
    } else {
        println!("\nInstructions are not counted: valgrind is not installed.");
    }
    run_jobs(&mut rows)?;
    print(&rows);
    set_goals(bench, &rows);
    set_goals_of_crates(bench)
}

/// Builds a client, and prepares its jobs.
fn row(bench: &Bench, client: &Client, name: &'static str, last: &[&str]) -> Result<Row> {
    let program = bench.build(client)?;
    let size = fs::metadata(&program)?.len() as f64 / 1e3;
    let jobs = GETS.map(|gets| Job {
        command: command(&program, &[&[&*bench.server.tls, gets], last].concat()),
        instructions: Vec::new(),
        used: Vec::new(),
    });
    Ok(Row { name, size, crates: bench.crates(client)?.len(), jobs })
}

/// Checks that each client refuses a server whose certificate issuer it does not trust.
fn check_trust(bench: &Bench, rows: &[Row]) -> Result<()> {
    let stranger = Server::start(&bench.directory.join("stranger"), Ipv4Addr::LOCALHOST)?;
    for row in rows {
        let mut job = Command::new(row.jobs[0].command.get_program());
        let arguments = row.jobs[0].command.get_args().skip(1);
        job.arg(&stranger.tls).args(arguments);
        let status = job.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if status.success() {
            return Err(format!("{} trusts any certificate", row.name).into());
        }
    }
    Ok(())
}

fn count_instructions(rows: &mut [Row]) -> Result<()> {
    for round in 1..=COUNTS {
        progress(format_args!("counting instructions, {round} of {COUNTS}"));
        for job in rows.iter_mut().flat_map(|row| &mut row.jobs) {
            if job.instructions.first().is_none_or(|&count| count < MANY) {
                job.instructions.push(instructions(&job.command)?);
            }
        }
    }
    Ok(())
}

fn run_jobs(rows: &mut [Row]) -> Result<()> {
    for round in 1..=ROUNDS {
        progress(format_args!("running the jobs, {round} of {ROUNDS}"));
        for job in rows.iter_mut().flat_map(|row| &mut row.jobs) {
            job.used.push(usage(&job.command)?);
        }
    }
    Ok(())
}

impl Job {
    fn memory(&self) -> f64 {
        median(self.used.iter().map(|used| used.memory))
    }

    /// Instructions in millions, or NaN if they were not counted.
    fn instructions(&self) -> f64 {
        median(self.instructions.iter().copied()) / 1e6
    }

    fn cpu(&self) -> f64 {
        median(self.used.iter().map(|used| used.cpu * 1e3))
    }

    fn wall(&self) -> f64 {
        median(self.used.iter().map(|used| used.wall * 1e3))
    }
}

fn print(rows: &[Row]) {
    println!(
        "\nEach number is followed by its ratio to that of jas-session. N is the number of GETs.\n\n| client \
         | binary, kB | peak RSS, KiB, N = 1 | N = 10 | instructions, M, N = 1 | N = 10 \
         | CPU, ms, N = 1 | N = 10 | time, ms, N = 1 | N = 10 | crates |\n|---{}|",
        "|---".repeat(10)
    );
    let columns = |row: &Row| {
        let of = |number: fn(&Job) -> f64| row.jobs.each_ref().map(number);
        let of = [Job::memory, Job::instructions, Job::cpu, Job::wall].map(of);
        [&[row.size], of.as_flattened()].concat()
    };
    let ours = columns(&rows[0]);
    for row in rows {
        print!("| {} ", row.name);
        for (column, (number, ours)) in columns(row).iter().zip(&ours).enumerate() {
            let digits = if column < 3 { 0 } else { 2 };
            print!("| {number:.digits$} ({:.3}) ", number / ours);
        }
        println!("| {} |", row.crates);
    }
}

fn set_goals(bench: &mut Bench, rows: &[Row]) {
    let (ours, peers) = (&rows[0], &rows[rows.len() - PEERS.len()..]);
    let least = |of: &dyn Fn(&Row) -> f64| peers.iter().map(of).fold(f64::INFINITY, f64::min);
    let ureq = &peers[1];
    bench.at_most(&format!("binary / that of {}", ureq.name), ours.size / ureq.size, 0.91);
    for (n, gets) in GETS.iter().enumerate() {
        let memory = |row: &Row| row.jobs[n].memory();
        let what = format!("peak RSS / that of the best peer, N = {gets}");
        bench.at_most(&what, memory(ours) / least(&memory), 0.92);
    }
    if !has("valgrind") {
        return;
    }
    for (n, (gets, limit)) in GETS.iter().zip([0.98, 0.92]).enumerate() {
        let instructions = |row: &Row| row.jobs[n].instructions();
        let ratio = instructions(ours) / least(&instructions);
        let what = format!("instructions / those of the best peer, N = {gets}");
        bench.at_most(&what, ratio, limit);
    }
}

fn set_goals_of_crates(bench: &mut Bench) -> Result<()> {
    let crates = bench.crates(&OURS)?;
    // One of them is jas-session.
    bench.at_most("crates without jas-session", crates.len() as f64 - 1.0, 24.0);
    let aws_lc = crates.iter().filter(|name| name.starts_with("aws-lc"));
    bench.at_most("crates of aws-lc", aws_lc.count() as f64, 0.0);
    Ok(())
}
