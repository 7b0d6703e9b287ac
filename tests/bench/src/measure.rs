//! Measures time, memory and instructions of a program, and computes medians.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Instant;

use crate::Result;

/// Keeps glibc from copying by `rep movsb`. On some AMD processors, its speed depends on the addresses:
/// the same program may stream at half the speed because of its heap.
const COPYING: &str = "glibc.cpu.x86_rep_movsb_threshold=1000000000";

/// Resources that one run of a program used, and its output.
pub struct Usage {
    /// Peak of the resident memory, in KiB.
    pub memory: f64,
    /// Seconds on all processors.
    pub cpu: f64,
    pub wall: f64,
    /// The numbers that it printed.
    pub printed: Vec<f64>,
}

/// Runs a program, started by a process in between: the peak of a process begins with that of the
/// process that started it, and the peak of this process is larger than a client's.
pub fn usage(program: &Command) -> Result<Usage> {
    let mut between = Command::new(env::current_exe()?);
    between.arg("run").arg(program.get_program());
    between.env("GLIBC_TUNABLES", COPYING);
    let printed = output(between.args(program.get_args()))?.0;
    let mut printed: Vec<f64> = printed.lines().filter_map(|line| line.parse().ok()).collect();
    let [Some(wall), Some(cpu), Some(memory)] = [printed.pop(), printed.pop(), printed.pop()]
    else {
        return Err("nothing was measured".into());
    };
    Ok(Usage { memory, cpu, wall, printed })
}

/// The process in between: runs a program and prints what it used.
pub fn print_usage(program: &str, arguments: &[&str]) -> Result<()> {
    let start = Instant::now();
    let child = Command::new(program).args(arguments).spawn()?;
    let mut status = 0;
    // SAFETY: the structure has only numbers.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call, and no other code waits for this child.
    unsafe { libc::wait4(child.id().try_into()?, &mut status, 0, &mut used) };
    let wall = start.elapsed().as_secs_f64();
    if !ExitStatus::from_raw(status).success() {
        return Err(format!("{program} {arguments:?} failed").into());
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let cpu = seconds(used.ru_utime) + seconds(used.ru_stime);
    println!("{}\n{cpu}\n{wall}", used.ru_maxrss);
    Ok(())
}

pub fn has(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok()
}

/// Counts the user-space instructions of a run, by callgrind.
pub fn instructions(program: &Command) -> Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.arg(program.get_program()).args(program.get_args());
    let printed = output(&mut valgrind)?.1;
    let collected = printed.lines().find_map(|line| line.split_once("Collected : "));
    Ok(collected.ok_or("callgrind counted nothing")?.1.parse()?)
}

/// Returns what a command prints on both streams. If it fails, the error contains that.
pub fn output(command: &mut Command) -> Result<(String, String)> {
    let output = command.output()?;
    let [printed, errors] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b));
    if !output.status.success() {
        return Err(format!("{command:?} failed:\n{printed}{errors}").into());
    }
    Ok((printed.into_owned(), errors.into_owned()))
}

pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => (numbers[middle - 1] + numbers[middle]) / 2.0,
        _ => numbers[middle],
    }
}
