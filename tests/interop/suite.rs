//! Calls through real servers, which the script in this folder starts. Each scene is a row of a Markdown
//! table: its name, its outcome, and what nginx logged.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use jas_session::{miniserde, Error, Response, Session};

#[path = "suite/content.rs"]
mod content;
#[path = "suite/servers.rs"]
mod servers;
#[path = "suite/tls.rs"]
mod tls;
#[path = "suite/tokens.rs"]
mod tokens;
use servers::{Line, Log, Server};

const API: &str = "https://api.test";
const KEY: &str = "k7Q2mX94bTz1";
/// The servers without TLS.
const AUTH_PORT: u16 = 8001;
const API_PORT: u16 = 8002;
const SILENT_PORT: u16 = 8003;
const NGINX_PORT: u16 = 8080;
/// Maximum wait for anything that a scene expects.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long after its end nginx may log a call.
const LATE: Duration = Duration::from_secs(5);
/// Without them, each session gets the certificate of the issuer.
const HAS_SYSTEM_ROOTS: bool = cfg!(feature = "system-roots");

/// The content of the API's large responses.
const LARGE: usize = 3 * 1024 * 1024;
const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<ShipmentQuery>\r\n\
    \t<Consignee>M\u{fc}ller &amp; S\u{f6}hne &lt;K\u{f6}ln&gt; &#228;&#xDF;</Consignee>\r\n\
    \t<Note><![CDATA[a < b && c > \"d\" \u{20ac}]]></Note>\n<Empty/> \r\n</ShipmentQuery>\r\n";

#[derive(Clone, miniserde::Serialize)]
struct Client {
    #[serde(rename = "client_id")]
    id: String,
    #[serde(rename = "client_secret")]
    secret: String,
    /// Lifetime of its tokens, in seconds.
    lifetime: u32,
    has_grant: bool,
}

impl Client {
    fn new(id: impl Into<String>, secret: impl Into<String>) -> Client {
        Client { id: id.into(), secret: secret.into(), lifetime: 600, has_grant: true }
    }

    /// Makes a session.
    fn session(&self) -> Session {
        session(API, &self.id, &self.secret)
    }
}

fn session(url: &str, id: &str, secret: &str) -> Session {
    let session = without_key(url, id, secret);
    session.api_key(KEY).unwrap().timeout(PATIENCE)
}

fn without_key(url: &str, id: &str, secret: &str) -> Session {
    let session = Session::new(url, id, secret).unwrap();
    #[cfg(all(feature = "tls", not(feature = "system-roots")))]
    let session = {
        let root = fs::read("root.pem").unwrap();
        session.root_certificates(&root).unwrap()
    };
    session
}

/// A session with a token that the server has not issued.
fn with_token(url: &str) -> Session {
    let session = session(url, "id", "secret");
    session.resume("token", Duration::from_secs(600)).unwrap()
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [url] = &arguments[..] {
        let result = with_token(url).get("/");
        println!("{}", outcome(result.map(|_| "ok".to_owned())));
        return ExitCode::SUCCESS;
    }
    let mut suite = Suite::start();
    suite.credentials();
    suite.tokens();
    suite.restarts();
    suite.tls();
    suite.content();
    suite.refusals();
    suite.connections();
    if suite.faults == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("{} outcomes were unexpected", suite.faults);
    ExitCode::FAILURE
}

struct Suite {
    job: Client,
    brief: Client,
    briefest: Client,
    without_grant: Client,
    /// Clients with every character in id and secret.
    odd: Vec<Client>,
    auth: Server,
    _api: Server,
    faults: u32,
    access: Log,
    errors: Log,
    /// The number of requests that ended a scene.
    marks: u32,
    /// The access log.
    lines: Vec<Line>,
}

impl Suite {
    fn start() -> Suite {
        let job = Client::new("job", "the secret of the job");
        let lasting = |id: &str, lifetime| Client { lifetime, ..Client::new(id, "secret") };
        let (brief, briefest) = (lasting("brief", 4), lasting("briefest", 2));
        let without_grant = Client { has_grant: false, ..Client::new("without grant", "secret") };
        let odd = odd_clients();
        let all = [&job, &brief, &briefest, &without_grant];
        let all: Vec<_> = all.into_iter().chain(&odd).cloned().collect();
        fs::write("clients.json", miniserde::json::to_string(&all)).unwrap();
        Suite {
            job,
            brief,
            briefest,
            without_grant,
            odd,
            auth: Server::start("auth", AUTH_PORT),
            _api: Server::start("api", API_PORT),
            faults: 0,
            access: Log::open("access.log"),
            errors: Log::open("error.log"),
            marks: 0,
            lines: Vec::new(),
        }
    }

    /// Runs a scene, and prints its outcome and what nginx logged. The outcome has to begin with
    /// `expected`. `seen` lists what nginx has to log, separated by commas, each with a count or its
    /// bounds after `×` unless it is 1. A connection is counted at its first request.
    fn scene(
        &mut self, name: &str, expected: &str, seen: &str,
        run: impl FnOnce(&mut Server) -> Result<String, Error>,
    ) {
        let outcome = outcome(run(&mut self.auth));
        let counts = self.seen(seen);
        let is_good = outcome.starts_with(expected) && is_as(&counts, seen);
        let counts: Vec<_> = counts
            .into_iter()
            .map(|(what, n)| if n == 1 { what } else { format!("{what} ×{n}") })
            .collect();
        let counts = counts.join(", ");
        let mark = if is_good { "" } else { "**fault:** " };
        println!("| {name} | {mark}{outcome} | {counts} |");
        if !is_good {
            self.faults += 1;
            eprintln!("{name}: {outcome}: {counts}\n  expected {expected}: {seen}");
        }
    }

    /// Counts what nginx has logged since the last scene. nginx has one worker, so a request of this
    /// program marks the end of the log. nginx may log later what it notices when the client closes, so
    /// this waits for all that is `expected`.
    fn seen(&mut self, expected: &str) -> BTreeMap<String, usize> {
        self.marks += 1;
        let mark = format!("/{}", self.marks);
        plain(NGINX_PORT, &format!("GET {mark} HTTP/1.0\r\n\r\n"));
        let start = Instant::now();
        let mut counts = BTreeMap::new();
        let mut is_marked = false;
        loop {
            for line in self.access.new_lines() {
                let line = Line::new(&line);
                let what = match &*line.uri {
                    uri if uri == mark => {
                        is_marked = true;
                        continue;
                    }
                    "/oauth2/token" => "token",
                    _ => &line.method,
                };
                *counts.entry(format!("{what} {}", line.status)).or_default() += 1;
                if line.is_first {
                    *counts.entry("connection".to_owned()).or_default() += 1;
                }
                self.lines.push(line);
            }
            for line in self.errors.new_lines() {
                if line.contains("while SSL handshaking") {
                    *counts.entry("no handshake".to_owned()).or_default() += 1;
                }
            }
            if is_marked && is_as(&counts, expected) || start.elapsed() > LATE {
                return counts;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Each character alone, all characters at once, and texts that look encoded.
fn odd_clients() -> Vec<Client> {
    let all: String = (' '..='~').collect();
    let all = all.trim_start();
    let backwards: String = all.chars().rev().collect();
    let long = format!("{all} ").repeat(20) + all;
    let pairs = [
        (all, &*backwards),
        ("long", &long),
        ("plus", "Tq7-Zx93+kW"),
        ("encoded", "a%20b%2Bc+d%25"),
        ("100%", "%zz%"),
        ("a&client_id=b", "c&client_secret=d"),
        ("a;b", "c;d=e"),
        ("\"quoted\"", "\\u0041&amp;"),
        ("..", "//?#"),
    ];
    let pairs = pairs.map(|(id, secret)| Client::new(id, secret));
    let each = (' '..='~').map(|c| Client::new(format!("i{c}d"), format!("s{c}{c}t")));
    each.chain(pairs).collect()
}

/// Sends a request without TLS and without this crate.
fn plain(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// Kind, message without method and URL, and cause.
fn outcome(result: Result<String, Error>) -> String {
    let error = match result {
        Ok(text) => return text,
        Err(error) => error,
    };
    let message = error.to_string();
    let (label, why) = message.split_once(": ").unwrap_or(("", &message));
    let message = if label.contains("https://") { why } else { &message };
    let executed = if error.may_have_executed() { ", may have executed" } else { "" };
    let cause = error.source().map(|cause| format!(" ({cause})"));
    let cause = cause.unwrap_or_default();
    format!("{:?}{executed}: {message}{cause}", error.kind())
}

/// Whether `counts` match `seen`.
fn is_as(counts: &BTreeMap<String, usize>, seen: &str) -> bool {
    let mut left = counts.clone();
    let items = seen.split(", ").filter(|item| !item.is_empty());
    let mut are_good = items.map(|item| {
        let (what, range) = item.split_once(" ×").unwrap_or((item, "1"));
        let (least, most) = range.split_once('-').unwrap_or((range, range));
        let count = left.remove(what).unwrap_or(0);
        (least.parse().unwrap()..=most.parse().unwrap()).contains(&count)
    });
    are_good.all(|is_good| is_good) && left.is_empty()
}
