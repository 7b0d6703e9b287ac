//! Starts real servers, one after the other, and calls each with a session: small servers, to compare
//! the times with curl's, larger ones, which close connections early or restart, and some that refuse
//! a request within TLS. The script `connections` runs it in /srv, with certificates and the files of
//! `servers`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use jas_session::{Response, Session};

const URL: &str = "https://server.test";
/// Maximum duration of a call and of any wait for a server.
const PATIENCE: Duration = Duration::from_secs(10);

/// The servers that serve few connections at a time, and the others, by their names in `start`.
const SMALL: [&str; 4] =
    ["Apache, 1 process", "haproxy, 1 connection", "Python, 1 thread", "Apache, 8 processes"];
const LARGE: [&str; 6] = ["nginx", "haproxy", "Apache", "lighttpd", "Java", "Node"];

/// The steps of each thread, one letter for each: `G` and `P` are a GET and a POST, `W` waits
/// until the server has closed idle connections, `R` restarts the server.
type Threads = Vec<String>;

/// The durations of the GETs, and those of the POSTs, both sorted.
type Times = [Vec<Duration>; 2];

/// Makes a POST, or else a GET, to a path. Returns the content of the response.
type Client<'a> = &'a (dyn Fn(bool, &str) -> Result<String, String> + Sync);

fn main() -> ExitCode {
    let faults = small_servers() + large_servers() + refusals();
    ExitCode::from(u8::from(faults > 0))
}

/// Returns the number of faults.
fn small_servers() -> usize {
    // How much longer than curl's slowest call a call may take. A server that waits for a request on an
    // idle connection would delay other calls by seconds.
    let (alone, together) = (Duration::from_millis(200), Duration::from_millis(400));
    let scenes = [
        ("GET, 3 POSTs", vec!["GPPP".to_owned()], alone),
        ("2 threads: 40 GETs, 10 POSTs", vec!["G".repeat(40), "P".repeat(10)], together),
        ("8 threads, each 4 times GET, POST", vec!["GP".repeat(4); 8], together),
    ];
    print!("| server | calls | outcome | connections ");
    println!("| a GET: median, slowest | curl's | a POST: median, slowest | curl's |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut faults = 0;
    for name in SMALL {
        for (calls, threads, slack) in &scenes {
            let server = Server::start(name, "TLSv1.3", 5, 1000);
            let (curls, result) = server.run(threads, &curl);
            result.expect("curl");
            let (ours, result, connections) = server.run_session(threads);
            let [gets, posts] = [0, 1].map(|i| (&ours[i], &curls[i]));
            let is_late =
                [gets, posts].iter().any(|(our, curl)| slowest(our) > slowest(curl) + *slack);
            let outcome = match result {
                Ok(_) if is_late => "**fault:** a call took much longer than curl's".to_owned(),
                Ok(_) => "ok".to_owned(),
                Err(why) => format!("**fault:** {why}"),
            };
            faults += usize::from(outcome != "ok");
            print!("| {name} | {calls} | {outcome} | {connections} ");
            for times in [gets.0, gets.1, posts.0, posts.1] {
                let median = times.get(times.len() / 2).map_or(0, Duration::as_millis);
                print!("| {median}, {} ms ", slowest(times).as_millis());
            }
            println!("|");
        }
    }
    println!();
    faults
}

/// Returns the number of faults.
fn large_servers() -> usize {
    let alone = |steps: &str| vec![steps.to_owned()];
    // The idle seconds and the requests after which the server closes a connection, the steps of the
    // threads, and the minimum number of connections, as the server closes some.
    let scenes = [
        (60, 1000, alone(&["G".repeat(50), "P".repeat(20)].concat()), 21),
        (60, 1000, vec!["GGGGGPP".repeat(2); 8], 33),
        (1, 1000, alone("GGPGWGGPPWPG"), 6),
        (60, 3, alone("GGGGGGGPPGGGGG"), 5),
        (60, 1000, alone("GGPGRGGPGRPPGG"), 6),
    ];
    print!("| server | TLS | 50 GETs, 20 POSTs | 8 threads, each 10 GETs, 4 POSTs ");
    println!("| closes after 1 s | closes after 3 requests | restarts twice |");
    println!("|---|---|---|---|---|---|---|");
    let mut faults = 0;
    for name in LARGE {
        for tls in ["TLSv1.2", "TLSv1.3"] {
            print!("| {name} | {} ", &tls[4..]);
            for (idle, requests, threads, least) in &scenes {
                let server = Server::start(name, tls, *idle, *requests);
                let (_, result, connections) = server.run_session(threads);
                print!("| {connections} ");
                let outcome = match result {
                    Ok(_) if connections < *least => {
                        Err("the server closed no connection".to_owned())
                    }
                    result => result,
                };
                match outcome {
                    Ok(0) => {}
                    Ok(resumed) => print!("({resumed}) "),
                    Err(why) => {
                        print!("**fault:** {why} ");
                        faults += 1;
                    }
                }
            }
            println!("|");
        }
    }
    faults
}

/// Returns the number of faults.
fn refusals() -> usize {
    let no_agreement = "the server and this device don't agree on TLS";
    let certificate = "the server requires a client certificate";
    let renegotiation = "the server refused the request within TLS";
    println!("\n| server | TLS | a POST: may have executed |");
    println!("|---|---|---|");
    let mut faults = 0;
    for (name, tls, expected, may_have_executed) in [
        ("CERTIFICATE", "TLSv1.2", no_agreement, false),
        ("CERTIFICATE", "TLSv1.3", certificate, false),
        ("PATH", "TLSv1.2", renegotiation, true),
        // Here Apache responds with status 403.
        ("PATH", "TLSv1.3", "status 403", false),
        ("CIPHERS", "TLSv1.2", renegotiation, true),
        ("P-521", "TLSv1.3", no_agreement, false),
        ("CBC", "TLSv1.2", no_agreement, false),
    ] {
        let _server = Server::start(name, tls, 60, 1000);
        let session = session();
        // Each fails after one connection, whatever its content.
        for length in [7, 100_000] {
            let content = vec![b'x'; length];
            let error = session.post("/", "text/plain", content).unwrap_err();
            let is_good = error.to_string().contains(expected)
                && error.may_have_executed() == may_have_executed;
            let mark = if is_good { "" } else { "**fault:** " };
            faults += usize::from(!is_good);
            println!("| {name} | {} | {mark}{error:#}: {} |", &tls[4..], error.may_have_executed());
        }
        faults += usize::from(session.counts().connections != 2);
    }
    faults
}

fn session() -> Session {
    let session = Session::new(URL, "id", "secret").unwrap();
    let session = session.root_certificates(&fs::read("ca.pem").unwrap()).unwrap();
    // No server checks the token.
    session.resume("a-token", Duration::from_secs(600)).unwrap().timeout(PATIENCE)
}

fn slowest(times: &[Duration]) -> Duration {
    times.last().copied().unwrap_or_default()
}

fn curl(is_post: bool, path: &str) -> Result<String, String> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--http1.1", "--cacert", "ca.pem", "--max-time", "10"]);
    if is_post {
        curl.args(["--data", path]);
    }
    let output = curl.arg([URL, path].concat()).output().unwrap();
    let written = if output.status.success() { Ok(output.stdout) } else { Err(output.stderr) };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    written.map(text).map_err(text)
}

/// A running server. Dropping it stops it.
struct Server {
    running: Mutex<(Command, Child)>,
    /// The paths of the POSTs that succeeded.
    posted: Mutex<Vec<String>>,
}

impl Server {
    /// Starts a server that speaks only this version of TLS, and closes a connection after so many
    /// idle seconds or so many requests.
    fn start(name: &str, tls: &str, idle: u32, requests: u32) -> Server {
        let _ = fs::remove_file("access.log");
        let open = |log| File::options().append(true).create(true).open(log).unwrap();
        // Apache ends its whole process group.
        let mut start = Command::new("setsid");
        start.args(["./start", name]).stdout(open("access.log")).stderr(open("errors.log"));
        start.env("TLS", tls).env("IDLE", idle.to_string()).env("REQUESTS", requests.to_string());
        let process = launch(&mut start);
        Server { running: Mutex::new((start, process)), posted: Mutex::default() }
    }

    /// Makes the calls with a session, and checks the log. Returns the times, how many POSTs resumed
    /// a TLS session or why a call failed, and how many connections were made.
    fn run_session(&self, threads: &Threads) -> (Times, Result<usize, String>, u64) {
        let session = session();
        let (times, result) = self.run(threads, &|is_post, path| {
            let response =
                if is_post { session.post(path, "text/plain", path) } else { session.get(path) };
            response.and_then(Response::text).map_err(|error| format!("{error:#}"))
        });
        (times, result.and_then(|()| self.check_log()), session.counts().connections)
    }

    /// Makes the calls. A thread ends when one fails. Returns the times, and why a call failed.
    fn run(&self, threads: &Threads, client: Client) -> (Times, Result<(), String>) {
        let times = Mutex::new(Times::default());
        let take_step = |step| {
            match step {
                'W' => thread::sleep(Duration::from_millis(1100)),
                'R' => self.restart(),
                _ => {
                    let is_post = step == 'P';
                    let (took, result) = self.call(is_post, client);
                    times.lock().unwrap()[usize::from(is_post)].push(took);
                    return result;
                }
            }
            Ok(())
        };
        let result = thread::scope(|scope| {
            let run = |steps: &str| steps.chars().try_for_each(take_step);
            let threads: Vec<_> =
                threads.iter().map(|steps| scope.spawn(move || run(steps))).collect();
            let results: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
            results.into_iter().collect()
        });
        let mut times = times.into_inner().unwrap();
        for times in &mut times {
            times.sort_unstable();
        }
        (times, result)
    }

    /// Makes one call, with a unique path.
    fn call(&self, is_post: bool, client: Client) -> (Duration, Result<(), String>) {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let path = format!("/{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let start = Instant::now();
        let content = client(is_post, &path);
        let took = start.elapsed();
        let result = match content {
            Ok(content) if content.trim_end() == path => Ok(()),
            Ok(content) => Err(format!("the response to {path} is \"{content}\"")),
            Err(why) => Err(why),
        };
        if is_post && result.is_ok() {
            self.posted.lock().unwrap().push(path);
        }
        (took, result)
    }

    /// Waits until the log has each POST, and checks that it has none twice. Returns how many
    /// resumed a TLS session.
    fn check_log(&self) -> Result<usize, String> {
        let posted = self.posted.lock().unwrap();
        let start = Instant::now();
        loop {
            let log = fs::read_to_string("access.log").unwrap();
            let lines = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            let posts = lines.filter_map(|line| line.strip_prefix("POST ")?.split_once(' '));
            let mut seen = HashMap::new();
            let mut resumed = 0;
            for (path, reused) in posts {
                *seen.entry(path).or_insert(0) += 1;
                resumed += usize::from(["r", "Resumed", "1", "true", "True"].contains(&reused));
            }
            if let Some((path, _)) = seen.iter().find(|(_, n)| **n > 1) {
                return Err(format!("the POST to {path} was executed twice"));
            }
            match posted.iter().find(|path| !seen.contains_key(path.as_str())) {
                None => return Ok(resumed),
                Some(path) if start.elapsed() > PATIENCE => {
                    return Err(format!("the POST to {path} is not in the log"));
                }
                Some(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn restart(&self) {
        let (start, process) = &mut *self.running.lock().unwrap();
        stop(process);
        *process = launch(start);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop(&mut self.running.get_mut().unwrap().1);
    }
}

fn launch(command: &mut Command) -> Child {
    let process = command.spawn().unwrap();
    let start = Instant::now();
    while TcpStream::connect("127.0.0.1:443").is_err() {
        assert!(start.elapsed() < PATIENCE, "a server has not started: {command:?}");
        thread::sleep(Duration::from_millis(5));
    }
    process
}

/// Stops a server and its processes: a signal of `Child` would end only the first of these.
fn stop(process: &mut Child) {
    Command::new("kill").arg(process.id().to_string()).status().unwrap();
    process.wait().unwrap();
}
