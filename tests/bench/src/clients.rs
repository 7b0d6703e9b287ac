//! The clients: their names, builds and crates.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::measure::output;
use crate::{progress, Bench, Result};

pub struct Client {
    /// The name in the tables.
    pub name: &'static str,
    /// The feature of `clients/Cargo.toml` that builds it.
    feature: &'static str,
    program: &'static str,
    /// Whether it is built from the checkout that `BENCH_BEFORE` names, and not from this one.
    is_earlier: bool,
}

pub const OURS: Client = client("jas-session", "jas-session", "jas-session");
/// The jas-session of the checkout that `BENCH_BEFORE` names. Not a peer.
const EARLIER: Client = Client { name: "jas-session before", is_earlier: true, ..OURS };
const EARLIER_LOAD: Client = Client { name: EARLIER.name, is_earlier: true, ..OUR_LOAD };
/// The minimum that a client over TLS needs. Not a peer.
pub const RUSTLS: Client = client("rustls alone", "rustls-alone", "rustls");
/// The library that requests the tokens, without jas-session. Not a peer.
pub const MINREQ: Client = client("minreq, ring installed", "minreq-ring", "minreq");
/// Without gzip, which no other client has.
pub const UREQ: Client = client("ureq 3, without gzip", "ureq", "ureq");
pub const UREQ_DEFAULT: Client = client("ureq 3", "ureq-default", "ureq");
pub const OAUTH2_UREQ: Client = client("oauth2 + ureq 2", "oauth2-ureq", "oauth2-ureq");
pub const OAUTH2_REQWEST: Client = client("oauth2 + reqwest", "oauth2-reqwest", "oauth2-reqwest");
pub const ATTOHTTPC: Client = client("attohttpc (aws-lc)", "attohttpc", "attohttpc");
pub const MINREQ_DEFAULT: Client = client("minreq with its defaults (aws-lc)", "minreq", "minreq");

/// The clients for many calls and long contents.
pub const OUR_LOAD: Client = client("jas-session", "jas-session", "jas-session-load");
pub const UREQ_LOAD: Client = client("ureq 3", "ureq", "ureq-load");
pub const REQWEST_LOAD: Client = client("reqwest", "reqwest", "reqwest-load");
pub const MINREQ_LOAD: Client = client("minreq", "minreq-ring", "minreq-load");

const fn client(name: &'static str, feature: &'static str, program: &'static str) -> Client {
    Client { name, feature, program, is_earlier: false }
}

/// The clients of the earlier jas-session, if `BENCH_BEFORE` is set: for jobs, and for load.
pub fn earlier() -> Option<[Client; 2]> {
    env::var_os("BENCH_BEFORE").map(|_| [EARLIER, EARLIER_LOAD])
}

impl Client {
    /// Path of the program after it was built.
    pub fn path(&self, directory: &Path) -> PathBuf {
        let before = if self.is_earlier { "before" } else { "" };
        let programs = directory.join("programs").join(before).join(self.feature);
        programs.join(self.program)
    }

    fn cargo(&self, bench: &Bench, command: &str) -> Result<Command> {
        let own = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/clients"));
        let directory = match env::var_os("BENCH_BEFORE") {
            Some(checkout) if self.is_earlier => of_checkout(own, bench, Path::new(&checkout))?,
            _ => own.to_owned(),
        };
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.arg(command).arg("--manifest-path").arg(directory.join("Cargo.toml"));
        cargo.args(["--features", self.feature]);
        cargo.env("BENCH_ROOTS", bench.directory.join("roots.rs"));
        Ok(cargo)
    }
}

/// The same clients, with the jas-session of another checkout.
fn of_checkout(own: &Path, bench: &Bench, checkout: &Path) -> Result<PathBuf> {
    let copy = bench.directory.join("before");
    fs::create_dir_all(&copy)?;
    for file in fs::read_dir(own)? {
        let file = file?.path();
        if file.is_file() {
            fs::copy(&file, copy.join(file.file_name().ok_or("no name")?))?;
        }
    }
    let manifest = fs::read_to_string(own.join("Cargo.toml"))?;
    let paths = [("../../..", checkout.to_owned()), ("../roots", own.join("../roots"))];
    let manifest = paths.iter().fold(manifest, |manifest, (path, other)| {
        manifest.replace(&format!("\"{path}\""), &format!("{:?}", other.display().to_string()))
    });
    fs::write(copy.join("Cargo.toml"), manifest)?;
    Ok(copy)
}

impl Bench {
    /// Builds a client's program and copies it, because another feature may build another program of
    /// the same name.
    pub fn build(&self, client: &Client) -> Result<PathBuf> {
        progress(format_args!("building {} ({})", client.program, client.feature));
        let mut cargo = client.cargo(self, "build")?;
        cargo.args(["--release", "--bin", client.program, "--target-dir"]);
        output(cargo.arg(&self.directory))?;
        let program = client.path(&self.directory);
        fs::create_dir_all(program.parent().ok_or("no directory")?)?;
        fs::copy(self.directory.join("release").join(client.program), &program)?;
        Ok(program)
    }

    /// The crates of a client, without the client itself, with their versions.
    pub fn crates(&self, client: &Client) -> Result<Vec<String>> {
        let mut cargo = client.cargo(self, "tree")?;
        let tree = output(cargo.args(["--edges=normal", "--prefix=none"]))?.0;
        let mut crates: Vec<String> = tree
            .lines()
            .skip(1) // the client itself
            .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
            .collect();
        crates.sort();
        crates.dedup();
        Ok(crates)
    }
}
