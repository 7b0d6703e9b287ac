//! What is asked of a client under load: one long answer, or many calls.

use std::io::{self, Read};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::job::{check, Result, CONTENT};

/// Long enough for a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// `copy URL PATH FILE`, or `calls URL THREADS SLICES CALLS`: prints calls per second of each
/// slice of so many calls.
pub fn run<R: Read>(get: impl Fn(&str) -> Result<(u16, R)> + Sync) -> Result<()> {
    let arguments: Vec<_> = env::args().skip(3).collect();
    if env::args().nth(1).as_deref() == Some("copy") {
        let (_, mut content) = get(&arguments[0])?;
        io::copy(&mut content, &mut fs::File::create(&arguments[1])?)?;
        return Ok(());
    }
    let [threads, slices, calls] = [0, 1, 2].map(|i| arguments[i].parse::<usize>());
    let (threads, calls) = (threads?, calls?);
    let call = || {
        let (status, mut answer) = get(CONTENT)?;
        let mut content = Vec::new();
        answer.read_to_end(&mut content)?;
        check(status, &content)
    };
    call()?;
    for _ in 0..slices? {
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..calls / threads).for_each(|_| call().expect("an answer")));
            }
        });
        let done = calls / threads * threads;
        println!("{}", done as f64 / start.elapsed().as_secs_f64());
    }
    Ok(())
}
