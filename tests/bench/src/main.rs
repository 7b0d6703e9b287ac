//! Measures `jas-session` beside its peers, and prints tables. `README.md` tells what and how.

mod measure;
mod server;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use measure::{instructions, median, output, usage, Usage};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A client: its name, the feature that builds it, and its program.
struct Client(&'static str, &'static str, &'static str);

const OURS: Client = Client("jas-session", "jas-session", "jas-session");
/// The same transport by hand: the floor for ours.
const FLOOR: Client = Client("minreq, ring installed", "minreq-ring", "minreq");
const OTHERS: [Client; 6] = [
    Client("minreq as it comes (aws-lc)", "minreq", "minreq"),
    Client("ureq 3, without gzip", "ureq", "ureq"),
    Client("ureq 3", "ureq-default", "ureq"),
    Client("oauth2 + ureq 2", "oauth2-ureq", "oauth2-ureq"),
    Client("oauth2 + reqwest", "oauth2-reqwest", "oauth2-reqwest"),
    Client("attohttpc", "attohttpc", "attohttpc"),
];
const OUR_LOAD: Client = Client("", "jas-session", "jas-session-load");
const FLOOR_LOAD: Client = Client("", "minreq-ring", "minreq-load");

/// How many GETs follow the token request in a job.
const GETS: [&str; 2] = ["1", "10"];
/// How often each job is measured, turn by turn with the others.
const ROUNDS: usize = 31;
/// How often its instructions are counted; once if they are many, because that takes long.
const COUNTS: usize = 5;
const MANY: f64 = 100e6;
/// How often a long answer is read, and calls are made by so many threads.
const LOADS: usize = 5;
const THREADS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const CALLS: [usize; 2] = [1000, 4000]; // over TLS, over plain HTTP
const LONG: usize = 64 << 20;

/// What every part needs.
struct Bench {
    directory: PathBuf,
    server: Child,
    /// The base URLs, over TLS and over plain HTTP.
    urls: [String; 2],
    /// What was measured, the number, the goal, and whether it holds.
    goals: Vec<(String, f64, String, bool)>,
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    match arguments.next().as_deref() {
        Some("serve") => server::run(arguments.next().ok_or("no directory")?.as_ref()),
        Some("measure") => {
            let mut program = Command::new(arguments.next().ok_or("no program")?);
            program.args(arguments);
            measure::print_usage(program)
        }
        part => {
            let mut bench = Bench::start()?;
            let is_asked_for = |name| part.is_none_or(|part| part == name);
            if is_asked_for("jobs") {
                bench.jobs()?;
            }
            if is_asked_for("streaming") {
                bench.streaming()?;
            }
            if is_asked_for("threads") {
                bench.threads()?;
            }
            bench.print_goals();
            Ok(())
        }
    }
}

impl Bench {
    fn start() -> Result<Bench> {
        let own = env::current_exe()?;
        let target = own.ancestors().nth(2).ok_or("not in a target directory")?;
        let directory = target.join("bench-clients");
        let (server, urls) = serve(&directory)?;
        Ok(Bench {
            directory,
            server,
            urls,
            goals: Vec::new(),
        })
    }

    /// One-shot jobs of all clients.
    fn jobs(&mut self) -> Result<()> {
        let url = self.urls[0].clone();
        let mut clients = Vec::new();
        for client in [OURS, FLOOR].iter().chain(&OTHERS) {
            let program = self.build(client)?;
            let jobs = GETS.map(|gets| arguments(&program, &[&url, gets]));
            let crates = self.crates(client)?.to_string();
            clients.push((client.0, fs::metadata(&program)?.len(), crates, jobs));
            if client.0 == OURS.0 {
                let jobs = GETS.map(|gets| arguments(&program, &[&url, gets, server::TOKEN]));
                clients.push((
                    "the same, token carried over",
                    clients[0].1,
                    "".into(),
                    jobs,
                ));
            }
        }
        self.distrust(clients.iter().map(|client| (client.0, &client.3[0])))?;
        let has_valgrind = Command::new("valgrind").arg("--version").output().is_ok();
        let jobs: Vec<_> = clients.iter().flat_map(|client| &client.3).collect();
        let mut counted = vec![Vec::new(); jobs.len()];
        for round in 0..COUNTS * usize::from(has_valgrind) {
            progress(format_args!(
                "counting instructions, round {} of {COUNTS}",
                round + 1
            ));
            for (job, counted) in jobs.iter().zip(&mut counted) {
                if counted.first().is_none_or(|&count| count < MANY) {
                    counted.push(instructions(job)?);
                }
            }
        }
        let mut used: Vec<Vec<Usage>> = jobs.iter().map(|_| Vec::new()).collect();
        for round in 0..ROUNDS {
            progress(format_args!(
                "running the jobs, round {} of {ROUNDS}",
                round + 1
            ));
            for (job, used) in jobs.iter().zip(&mut used) {
                used.push(usage(job)?);
            }
        }
        // By client: size; then of each job memory, instructions, CPU and wall time.
        let rows: Vec<[f64; 9]> = (0..clients.len())
            .map(|i| {
                let job = |j| 2 * i + j;
                let middle = |j: usize, of: fn(&Usage) -> f64| median(used[job(j)].iter().map(of));
                let counted = |j: usize| median(counted[job(j)].iter().copied()) / 1e6;
                let [one, ten] = [0, 1].map(|j| {
                    let (cpu, wall) = (middle(j, |used| used.cpu), middle(j, |used| used.wall));
                    [
                        middle(j, |used| used.memory),
                        counted(j),
                        cpu * 1e3,
                        wall * 1e3,
                    ]
                });
                let size = clients[i].1 as f64 / 1e3;
                [
                    size, one[0], ten[0], one[1], ten[1], one[2], ten[2], one[3], ten[3],
                ]
            })
            .collect();
        println!(
            "\nEach: the number, and its ratio to ours. N is the number of GETs.\n\n| client \
             | binary, kB | peak RSS, KiB, N = 1 | N = 10 | instructions, M, N = 1 | N = 10 \
             | CPU, ms, N = 1 | N = 10 | time, ms, N = 1 | N = 10 | crates |\n|---{}|",
            "|---".repeat(10)
        );
        for (client, row) in clients.iter().zip(&rows) {
            let cells = row
                .iter()
                .zip(&rows[0])
                .enumerate()
                .map(|(column, (number, ours))| {
                    let digits = if column < 3 { 0 } else { 2 };
                    format!("{number:.digits$} ({:.3})", number / ours)
                });
            let cells: Vec<_> = cells.collect();
            println!("| {} | {} | {} |", client.0, cells.join(" | "), client.2);
        }
        let least = |rows: &[[f64; 9]], column: usize| {
            rows.iter()
                .map(|row| row[column])
                .fold(f64::INFINITY, f64::min)
        };
        let (ours, resumed, floor, peers) = (rows[0], rows[1], rows[2], &rows[4..]);
        // ureq without gzip has less to offer than the others.
        self.at_most(
            "binary / the smallest TLS peer's",
            ours[0] / least(&peers[1..], 0),
            0.87,
        );
        for (n, column) in GETS.iter().zip([1, 2]) {
            let ratio = ours[column] / least(peers, column);
            self.at_most(
                &format!("peak RSS / the best TLS peer's, N = {n}"),
                ratio,
                0.95,
            );
        }
        if has_valgrind {
            for (n, column) in GETS.iter().zip([3, 4]) {
                let ratio = ours[column] / floor[column];
                self.at_most(
                    &format!("instructions / minreq's with ring, N = {n}"),
                    ratio,
                    1.02,
                );
            }
            let ratio = resumed[3] / least(&rows[2..], 3);
            self.at_most(
                "instructions, token carried over / the least cold job's",
                ratio,
                1.0,
            );
        }
        let symbols = fs::read(self.build(&OUR_LOAD)?)?;
        let count = |name: &[u8]| {
            symbols
                .windows(name.len())
                .filter(|part| part == &name)
                .count()
        };
        self.at_most(
            "symbols of aws-lc in an unstripped program",
            count(b"aws_lc_0_") as f64,
            0.0,
        );
        self.at_least("symbols of ring there", count(b"ring_core_0_") as f64, 1.0);
        Ok(())
    }

    /// Sends each client to a server whose certificate is of an issuer that none of them trusts.
    fn distrust<'a>(&self, jobs: impl Iterator<Item = (&'a str, &'a Command)>) -> Result<()> {
        let (mut server, urls) = serve(&self.directory.join("stranger"))?;
        let mut trusting = Vec::new();
        for (name, job) in jobs {
            let mut job = copy_of(job, &self.urls[0], &urls[0]);
            let status = job.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            if status.success() {
                trusting.push(name);
            }
        }
        server.kill()?;
        server.wait()?;
        if trusting.is_empty() {
            return Ok(());
        }
        Err(format!("these trust any certificate: {}", trusting.join(", ")).into())
    }

    /// A long answer copied to a file, and read whole.
    fn streaming(&mut self) -> Result<()> {
        let programs = [self.build(&OUR_LOAD)?, self.build(&FLOOR_LOAD)?];
        let file = self.directory.join("copy").display().to_string();
        println!("\n| 64 MiB copied to a file | peak RSS of 4 kB, KiB | of 64 MiB | more | MB/s | minreq's MB/s | ratio |\n|---|---|---|---|---|---|---|");
        for (name, url, how) in [
            ("plain", 1, "content"),
            ("plain, chunked", 1, "chunked"),
            ("TLS", 0, "content"),
            ("TLS, chunked", 0, "chunked"),
        ] {
            progress(format_args!("64 MiB, {name}"));
            let paths = [4096, LONG].map(|length| format!("/{how}/{length}"));
            let mut used: [Vec<Usage>; 3] = Default::default();
            for _ in 0..LOADS {
                for (used, (program, path)) in used.iter_mut().zip([(0, 0), (0, 1), (1, 1)]) {
                    let job = ["copy", &self.urls[url], &paths[path], &file];
                    used.push(usage(&arguments(&programs[program], &job))?);
                    if fs::metadata(&file)?.len() != [4096, LONG as u64][path] {
                        return Err("the copy is not as long as the answer".into());
                    }
                    fs::remove_file(&file)?;
                }
            }
            let [short, long] = [0, 1].map(|i| median(used[i].iter().map(|used| used.memory)));
            let speed = |i: usize| LONG as f64 / 1e6 / median(used[i].iter().map(|used| used.wall));
            let [ours, floor] = [1, 2].map(speed);
            println!(
                "| {name} | {short:.0} | {long:.0} | {:.0} | {ours:.0} | {floor:.0} | {:.2} |",
                long - short,
                ours / floor
            );
            let more = format!("KiB more for 64 MiB than for 4 kB, {name}");
            self.at_most(&more, long - short, 256.0);
            if url == 0 {
                self.at_least(
                    &format!("throughput / minreq's, {name}"),
                    ours / floor,
                    0.85,
                );
            }
        }
        println!("\n| 64 MiB read whole | peak RSS / content |\n|---|---|");
        for how in ["content", "chunked"] {
            let job = ["whole", &self.urls[0], &format!("/{how}/{LONG}")];
            let ratio = usage(&arguments(&programs[0], &job))?.memory * 1024.0 / LONG as f64;
            println!("| TLS, {how} | {ratio:.3} |");
            self.at_most(
                &format!("peak RSS / content when read whole, {how}"),
                ratio,
                2.0,
            );
        }
        Ok(())
    }

    /// Many calls, by many threads.
    fn threads(&mut self) -> Result<()> {
        let programs = [self.build(&OUR_LOAD)?, self.build(&FLOOR_LOAD)?];
        let run = |program: usize, url: &str, threads: usize, slices: usize, calls: usize| {
            let numbers = [threads, slices, calls].map(|number| number.to_string());
            let mut job = vec!["calls", url];
            job.extend(numbers.iter().map(String::as_str));
            usage(&arguments(&programs[program], &job)).map(|used| used.printed)
        };
        println!("\n| threads | TLS, calls/s | minreq's | ratio | plain, calls/s | minreq's | ratio | token requests |\n|---|---|---|---|---|---|---|---|");
        for threads in THREADS {
            progress(format_args!("{threads} threads"));
            let mut cells = Vec::new();
            let mut most = 0;
            for (url, calls) in self.urls.iter().zip(CALLS) {
                let mut speeds = [Vec::new(), Vec::new()];
                for _ in 0..LOADS {
                    for (program, speeds) in speeds.iter_mut().enumerate() {
                        let before = self.requested()?;
                        speeds.extend(run(program, url, threads, 1, calls)?);
                        if program == 0 {
                            most = most.max(self.requested()? - before);
                        }
                    }
                }
                cells.push(speeds.map(median));
            }
            let [[ours, floor], [our_plain, plain]] = [cells[0], cells[1]];
            println!(
                "| {threads} | {ours:.0} | {floor:.0} | {:.2} | {our_plain:.0} | {plain:.0} | {:.2} | {most} |",
                ours / floor,
                our_plain / plain
            );
            let calls = format!("calls per second / minreq's, TLS, {threads} threads");
            self.at_least(&calls, ours / floor, 0.8);
            self.at_most(
                &format!("token requests, {threads} threads"),
                most as f64,
                1.0,
            );
        }
        progress(format_args!("50,000 calls without a pause"));
        println!("\nCalls per second of 50,000 over plain HTTP by 8 threads, each 5,000:\n");
        for (i, name) in ["jas-session", "minreq"].into_iter().enumerate() {
            let speeds = run(i, &self.urls[1], 8, 10, 5000)?;
            let cells: Vec<_> = speeds.iter().map(|speed| format!("{speed:.0}")).collect();
            println!("- {name}: {}", cells.join(", "));
            if i == 0 {
                let [first, last] = [&speeds[..3], &speeds[7..]].map(|part| median(part.to_vec()));
                self.at_least(
                    "speed of the last of 50,000 calls / of the first",
                    last / first,
                    0.9,
                );
            }
        }
        Ok(())
    }

    /// Builds a client's program and puts it aside: another feature may make another one of the
    /// same name. Those for loads keep their symbols.
    fn build(&self, client: &Client) -> Result<PathBuf> {
        progress(format_args!("building {} ({})", client.2, client.1));
        let mut cargo = self.cargo("rustc", client);
        cargo
            .args(["--release", "--bin", client.2, "--target-dir"])
            .arg(&self.directory);
        if client.2.ends_with("-load") {
            cargo.args(["--", "-C", "strip=none"]);
        }
        output(&mut cargo)?;
        let programs = self.directory.join("programs").join(client.1);
        fs::create_dir_all(&programs)?;
        let program = programs.join(client.2);
        fs::copy(self.directory.join("release").join(client.2), &program)?;
        Ok(program)
    }

    /// How many crates a client is made of, without itself.
    fn crates(&self, client: &Client) -> Result<usize> {
        let mut cargo = self.cargo("tree", client);
        let tree = output(cargo.args(["--edges=normal", "--prefix=none"]))?.0;
        let mut crates: Vec<Vec<_>> = Vec::new();
        crates.extend(tree.lines().map(|line| line.split(' ').take(2).collect()));
        crates.sort();
        crates.dedup();
        Ok(crates.len() - 1)
    }

    fn cargo(&self, command: &str, client: &Client) -> Command {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/Cargo.toml");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args([command, "--manifest-path", manifest, "--features", client.1]);
        cargo.env("BENCH_ROOTS", self.directory.join("roots.rs"));
        cargo
    }

    /// How many tokens the server has given.
    fn requested(&self) -> Result<usize> {
        let address = self.urls[1].trim_start_matches("http://");
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /requested HTTP/1.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().last().unwrap_or_default().parse()?)
    }

    fn at_most(&mut self, what: &str, number: f64, limit: f64) {
        self.goals.push((
            what.to_owned(),
            number,
            format!("at most {limit}"),
            number <= limit,
        ));
    }

    fn at_least(&mut self, what: &str, number: f64, limit: f64) {
        self.goals.push((
            what.to_owned(),
            number,
            format!("at least {limit}"),
            number >= limit,
        ));
    }

    fn print_goals(&self) {
        println!("\n| measured | | goal | holds |\n|---|---|---|---|");
        for (what, number, goal, holds) in &self.goals {
            let holds = if *holds { "yes" } else { "**no**" };
            println!("| {what} | {number:.3} | {goal} | {holds} |");
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Starts a server whose root is in this directory, and tells its URLs.
fn serve(directory: &Path) -> Result<(Child, [String; 2])> {
    server::root(directory)?;
    let mut server = Command::new(env::current_exe()?)
        .arg("serve")
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(server.stdout.take().ok_or("no output")?).lines();
    let mut url = || lines.next().ok_or("the server did not start");
    let urls = [url()??, url()??];
    Ok((server, urls))
}

fn arguments(program: &PathBuf, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// The same job with another URL.
fn copy_of(job: &Command, url: &str, other: &str) -> Command {
    let mut copy = Command::new(job.get_program());
    copy.args(job.get_args().map(|argument| {
        if argument == url {
            other.as_ref()
        } else {
            argument
        }
    }));
    copy
}

/// Says on one line what is going on.
fn progress(what: std::fmt::Arguments<'_>) {
    eprint!("\r\x1b[K{what} ...");
}
