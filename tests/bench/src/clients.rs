//! The clients: which there are, how they are built, and what they are made of.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::measure::output;
use crate::{progress, Bench, Result};

pub struct Client {
    /// Its name in the tables.
    pub name: &'static str,
    /// The feature of `clients/Cargo.toml` that builds it.
    feature: &'static str,
    program: &'static str,
}

pub const OURS: Client = client("jas-session", "jas-session", "jas-session");
/// What jas-session is built on, by hand: the floor for ours, and no peer.
pub const MINREQ: Client = client("minreq, ring installed", "minreq-ring", "minreq");
/// Without gzip, which none of the others has.
pub const UREQ: Client = client("ureq 3, without gzip", "ureq", "ureq");
pub const UREQ_DEFAULT: Client = client("ureq 3", "ureq-default", "ureq");
pub const OAUTH2_UREQ: Client = client("oauth2 + ureq 2", "oauth2-ureq", "oauth2-ureq");
pub const OAUTH2_REQWEST: Client = client("oauth2 + reqwest", "oauth2-reqwest", "oauth2-reqwest");
pub const ATTOHTTPC: Client = client("attohttpc (aws-lc)", "attohttpc", "attohttpc");
pub const MINREQ_DEFAULT: Client = client("minreq as it comes (aws-lc)", "minreq", "minreq");

/// Those for many calls and long contents.
pub const OUR_LOAD: Client = client("jas-session", "jas-session", "jas-session-load");
pub const UREQ_LOAD: Client = client("ureq 3", "ureq", "ureq-load");
pub const REQWEST_LOAD: Client = client("reqwest", "reqwest", "reqwest-load");
pub const MINREQ_LOAD: Client = client("minreq", "minreq-ring", "minreq-load");

const fn client(name: &'static str, feature: &'static str, program: &'static str) -> Client {
    Client { name, feature, program }
}

impl Client {
    /// Where its program is once it is built.
    pub fn path(&self, directory: &Path) -> PathBuf {
        let programs = directory.join("programs").join(self.feature);
        programs.join(self.program)
    }

    fn cargo(&self, bench: &Bench, command: &str) -> Command {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/Cargo.toml");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args([command, "--manifest-path", manifest]);
        cargo.args(["--features", self.feature]);
        cargo.env("BENCH_ROOTS", bench.directory.join("roots.rs"));
        cargo
    }
}

impl Bench {
    /// Builds a client's program and puts it aside: another feature may make another program of
    /// the same name.
    pub fn build(&self, client: &Client) -> Result<PathBuf> {
        progress(format_args!("building {} ({})", client.program, client.feature));
        let mut cargo = client.cargo(self, "build");
        cargo.args(["--release", "--bin", client.program, "--target-dir"]);
        output(cargo.arg(&self.directory))?;
        let program = client.path(&self.directory);
        fs::create_dir_all(program.parent().ok_or("no directory")?)?;
        fs::copy(self.directory.join("release").join(client.program), &program)?;
        Ok(program)
    }

    /// The crates that a client is linked from, without itself, each with its version.
    pub fn crates(&self, client: &Client) -> Result<Vec<String>> {
        let mut cargo = client.cargo(self, "tree");
        let tree = output(cargo.args(["--edges=normal", "--prefix=none"]))?.0;
        let mut crates: Vec<String> = tree
            .lines()
            .skip(1) // itself
            .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
            .collect();
        crates.sort();
        crates.dedup();
        Ok(crates)
    }
}
