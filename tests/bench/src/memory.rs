//! The memory that long contents and idle connections take.

use std::path::Path;

use crate::clients::OUR_LOAD;
use crate::measure::{median, usage};
use crate::server::{Counts, TOKEN};
use crate::{command, progress, Bench, Result};

const READ: usize = 64 << 20;
const SENT: usize = 32 << 20;
/// Idle connections at a time.
const IDLE: usize = 64;
const ROUNDS: usize = 5;

pub fn measure(bench: &mut Bench) -> Result<()> {
    let program = bench.build(&OUR_LOAD)?;
    let url = bench.server.tls.clone();
    progress(format_args!("memory"));
    for how in ["content", "chunked"] {
        let path = format!("/{how}/{READ}");
        let ratio = peak(&program, &["whole", &url, &path])? * 1024.0 / READ as f64;
        let what = format!("peak RSS / content, 64 MiB read whole, TLS, {how}");
        bench.at_most(&what, ratio, 2.0);
    }
    let [tiny, long] = [1, SENT].map(|length| {
        let length = length.to_string();
        peak(&program, &["post", &url, &length, TOKEN])
    });
    let more = long? - tiny? - SENT as f64 / 1024.0;
    let what = "KiB more than its content, POST of 32 MiB compared with 1 byte";
    bench.at_most(what, more, 256.0);
    idle_connections(bench, &program)
}

/// Returns the peak of the resident memory, in KiB.
fn peak(program: &Path, arguments: &[&str]) -> Result<f64> {
    let command = command(program, arguments);
    let peaks: Result<Vec<f64>> = (0..ROUNDS).map(|_| Ok(usage(&command)?.memory)).collect();
    Ok(median(peaks?))
}

fn idle_connections(bench: &mut Bench, program: &Path) -> Result<()> {
    let mut made = 0;
    let mut resident = |idle: usize| -> Result<f64> {
        let command = command(program, &["idle", &bench.server.tls, &idle.to_string()]);
        let mut resident = Vec::new();
        for _ in 0..ROUNDS {
            let before = Counts::of(&bench.server)?.connections;
            resident.extend(usage(&command)?.printed);
            made = Counts::of(&bench.server)?.connections - before;
        }
        Ok(median(resident))
    };
    let one = resident(1)?;
    let cost = (resident(IDLE)? - one) / (IDLE - 1) as f64;
    bench.at_most("KiB for an idle connection", cost, 48.0);
    let what = format!("connections for {IDLE} responses at a time, twice");
    bench.at_most(&what, made as f64, IDLE as f64);
    Ok(())
}
