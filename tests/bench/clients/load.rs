//! Load for a client: one long response, or many calls.

use std::env;
use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use crate::job::{check, Result, CONTENT};

/// Long enough for a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(300);
/// Maximum number of idle connections, which is the maximum number of threads.
pub const IDLE: usize = 64;

/// `read URL PATH`: reads content piece by piece, drops it, and prints its length.
///
/// `calls URL THREADS SLICES MILLISECONDS`: prints calls per second in each slice of that length,
/// after one slice that opens the connections and is not counted.
pub fn run<R: Read>(get: impl Fn(&str) -> Result<(u16, R)> + Sync) -> Result<()> {
    let arguments: Vec<_> = env::args().skip(3).collect();
    if env::args().nth(1).as_deref() == Some("read") {
        let (_, mut content) = get(&arguments[0])?;
        println!("{}", io::copy(&mut content, &mut io::sink())?);
        return Ok(());
    }
    let threads = arguments[0].parse()?;
    let length = Duration::from_millis(arguments[2].parse()?);
    let call = || {
        let (status, mut response) = get(CONTENT)?;
        let mut content = Vec::new();
        response.read_to_end(&mut content)?;
        check(status, &content)
    };
    slice(threads, length / 4, &call);
    for _ in 0..arguments[1].parse()? {
        println!("{}", slice(threads, length, &call));
    }
    Ok(())
}

/// Returns the calls per second that this many threads make in this time.
fn slice(threads: usize, length: Duration, call: &(impl Fn() -> Result<()> + Sync)) -> f64 {
    let start = Instant::now();
    let calls = || {
        let mut calls = 0;
        while start.elapsed() < length {
            call().expect("a response");
            calls += 1;
        }
        calls
    };
    let made: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(calls)).collect();
        let made = threads.into_iter().map(|thread| thread.join());
        made.map(|made| made.expect("no panic")).sum()
    });
    made as f64 / start.elapsed().as_secs_f64()
}
