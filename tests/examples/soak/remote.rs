//! The sandbox of `soak` and its process.

use std::env;
use std::io::{self, BufRead, BufReader, BufWriter, Lines, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::sandbox::{Fault, Place, Request, Sandbox, Watch};
use super::{lock, response, Way, AS_SANDBOX, LIFETIME, WAYS};

/// The sandbox's process, which ends with its standard input.
pub(super) struct Remote {
    pub(super) url: String,
    orders: ChildStdin,
    responses: Lines<BufReader<ChildStdout>>,
}

impl Remote {
    pub(super) fn start(calls: usize) -> io::Result<Remote> {
        let process = Command::new(env::current_exe()?)
            .args([AS_SANDBOX, &calls.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = process.stdin.zip(process.stdout);
        let (orders, responses) = pipes.ok_or_else(|| io::Error::other("no pipes"))?;
        let responses = BufReader::new(responses).lines();
        let mut remote = Remote { url: String::new(), orders, responses };
        remote.url = remote.line()?;
        Ok(remote)
    }

    /// Sends an order, and waits until the sandbox has obeyed it.
    pub(super) fn order(&mut self, order: &str) -> io::Result<()> {
        writeln!(self.orders, "{order}")?;
        self.line().map(drop)
    }

    /// Returns the record of each call, and of the token requests.
    pub(super) fn report(&mut self, calls: usize) -> io::Result<Vec<Record>> {
        writeln!(self.orders, "report")?;
        let record = |_| {
            let line = self.line()?;
            let numbers: Vec<_> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
            match numbers[..] {
                [received, refused, executed] => Ok(Record { received, refused, executed }),
                _ => Err(io::Error::other(format!("no record: {line}"))),
            }
        };
        (0..=calls).map(record).collect()
    }

    fn line(&mut self) -> io::Result<String> {
        let line = self.responses.next();
        line.unwrap_or_else(|| Err(io::Error::other("the sandbox has ended")))
    }
}

/// What the sandbox counted of a call, or of all token requests. Those in an outage are refused.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Record {
    pub(super) received: u32,
    pub(super) refused: u32,
    pub(super) executed: u32,
}

/// Watches the sandbox, in its process.
struct Watcher {
    /// One for each call, and one for the token requests.
    records: Mutex<Vec<Record>>,
    outage: Mutex<Option<Fault>>,
}

impl Watch for Watcher {
    fn fault(&self, request: &Request) -> Option<Fault> {
        let mut records = lock(&self.records);
        let tokens = records.len() - 1;
        let record = records.get_mut(number(request, "call=").unwrap_or(tokens))?;
        record.received += 1;
        let fault = match number(request, "way=").map(|way| &WAYS[way]) {
            Some(Way(_, _, attempts, fault, ..)) if record.received <= *attempts => {
                Some(fault(record.received))
            }
            Some(_) => None,
            None => lock(&self.outage).clone(),
        };
        let is_refused = matches!(fault, Some(Fault::Response(401, ..)));
        record.refused += u32::from(is_refused || fault.is_some() && request.place == Place::Token);
        fault
    }

    fn responded(&self, request: &Request, status: u16) {
        let mut records = lock(&self.records);
        if let Some(record) = number(request, "call=").and_then(|call| records.get_mut(call)) {
            record.refused += u32::from(status == 401);
            record.executed += u32::from((200..300).contains(&status));
        }
    }
}

/// Returns a number in the query of a request.
fn number(request: &Request, name: &str) -> Option<usize> {
    let (_, query) = request.target.split_once('?')?;
    let mut pairs = query.split('&');
    pairs.find_map(|pair| pair.strip_prefix(name)?.parse().ok())
}

/// Runs the sandbox, and obeys the orders on standard input until it ends.
pub(super) fn run_sandbox(calls: usize) -> io::Result<bool> {
    let watcher = Arc::new(Watcher {
        records: Mutex::new(vec![Record::default(); calls + 1]),
        outage: Mutex::default(),
    });
    let sandbox = Sandbox::watched_by(Arc::clone(&watcher) as Arc<dyn Watch>);
    sandbox.token_lifetime(LIFETIME);
    println!("{}", sandbox.url());
    for order in io::stdin().lines() {
        let outage = match order?.as_str() {
            "silent" => Some(Fault::Raw(Vec::new())),
            "busy" => Some(response(503, None)),
            "up" => None,
            _ => {
                let mut output = BufWriter::new(io::stdout());
                for Record { received, refused, executed } in lock(&watcher.records).iter() {
                    writeln!(output, "{received} {refused} {executed}")?;
                }
                continue;
            }
        };
        *lock(&watcher.outage) = outage;
        println!();
    }
    Ok(true)
}
