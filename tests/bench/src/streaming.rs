//! A long response read piece by piece: speed and memory.

use crate::clients::{MINREQ_LOAD, OUR_LOAD};
use crate::measure::{median, usage, Usage};
use crate::{command, progress, Bench, Result};

const SHORT: u64 = 4096;
const LONG: u64 = 64 << 20;
const ROUNDS: usize = 15;

pub fn measure(bench: &mut Bench) -> Result<()> {
    let programs = [bench.build(&OUR_LOAD)?, bench.build(&MINREQ_LOAD)?];
    println!(
        "\n| 64 MiB | peak RSS of 4 KiB, KiB | of 64 MiB | more | MB/s \
         | minreq's MB/s | ratio | ratio by CPU time |\n|---|---|---|---|---|---|---|---|"
    );
    let [tls, plain] = [bench.server.tls.clone(), bench.server.plain.clone()];
    for (name, url, how, least) in [
        ("plain", &plain, "content", None),
        ("plain, chunked", &plain, "chunked", None),
        ("TLS", &tls, "content", Some(1.0)),
        ("TLS, chunked", &tls, "chunked", Some(0.95)),
    ] {
        progress(format_args!("64 MiB, {name}"));
        let read = |program: usize, length: u64| -> Result<Usage> {
            let path = format!("/{how}/{length}");
            let used = usage(&command(&programs[program], &["read", url, &path]))?;
            if used.printed != [length as f64] {
                return Err("the response is not as long as the content".into());
            }
            Ok(used)
        };
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push([read(0, SHORT)?, read(0, LONG)?, read(1, LONG)?]);
        }
        let [short, long] = [0, 1].map(|i| median(rounds.iter().map(|used| used[i].memory)));
        let speed = |i: usize| LONG as f64 / 1e6 / median(rounds.iter().map(|used| used[i].wall));
        let ratio = median(rounds.iter().map(|used| used[2].wall / used[1].wall));
        let by_cpu = median(rounds.iter().map(|used| used[2].cpu / used[1].cpu));
        println!(
            "| {name} | {short:.0} | {long:.0} | {:.0} | {:.0} | {:.0} | {ratio:.2} | {by_cpu:.2} |",
            long - short,
            speed(1),
            speed(2)
        );
        let what = format!("KiB more for 64 MiB than for 4 KiB, {name}");
        bench.at_most(&what, long - short, 256.0);
        if let Some(least) = least {
            bench.at_least(&format!("streaming / minreq's, {name}"), ratio, least);
        }
    }
    Ok(())
}
