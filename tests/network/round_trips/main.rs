//! Measures how many round trips a job takes with `jas-session`, with minreq alone and with ureq.
//! Run by the script beside it.

use std::env;
use std::error::Error;
use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use jas_session::Session;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the server gives as a token.
const TOKEN: &str = "abc";
const FORM: &str = "grant_type=client_credentials&client_id=id&client_secret=secret";

/// How often each job is done; the least time counts.
const TIMES: usize = 5;

fn main() -> Result<()> {
    let address = env::args().nth(1).ok_or("no address")?;
    let url = format!("https://{address}");
    // A connection takes one round trip.
    let connect = || timed(|| Ok(TcpStream::connect((&*address, 443))?));
    let [round_trip] = least(20, || Ok([connect()?]))?;
    println!("Round trip: {round_trip:.1?}. Each: time, round trips.\n");
    println!("| | job: token, then a call | the next call | job with a token carried over |");
    println!("|---|---|---|---|");
    for (name, jobs) in [
        ("jas-session", jas as fn(&str) -> Result<[Duration; 3]>),
        ("minreq", raw),
        ("ureq", pooled),
    ] {
        let took = least(TIMES, || jobs(&url))?;
        let cells = took.map(|took| {
            let trips = took.as_secs_f64() / round_trip.as_secs_f64();
            format!("{} ms, {trips:.1}", took.as_millis())
        });
        println!("| {name} | {} |", cells.join(" | "));
    }
    Ok(())
}

fn jas(url: &str) -> Result<[Duration; 3]> {
    let cold = Session::new(url, "id", "secret")?;
    // Not a clone of it: that would share the token.
    let warm = Session::new(url, "id", "secret")?.resume(TOKEN, Duration::from_secs(600))?;
    let call = |session: &Session| Ok(session.get("/")?.text()?);
    Ok([
        timed(|| call(&cold))?,
        timed(|| call(&cold))?,
        timed(|| call(&warm))?,
    ])
}

fn raw(url: &str) -> Result<[Duration; 3]> {
    let token = || minreq::post(format!("{url}/oauth2/token")).with_body(FORM);
    let call = || minreq::get(url).with_header("Authorization", format!("Bearer {TOKEN}"));
    let job = || {
        token().send()?;
        Ok(call().send()?)
    };
    let call = || Ok(call().send()?);
    Ok([timed(job)?, timed(call)?, timed(call)?])
}

fn pooled(url: &str) -> Result<[Duration; 3]> {
    let root = Certificate::from_pem(&fs::read(env::var("SSL_CERT_FILE")?)?)?;
    let agent = || {
        let roots = RootCerts::new_with_certs(std::slice::from_ref(&root));
        let tls = TlsConfig::builder().root_certs(roots).build();
        let config = ureq::Agent::config_builder().tls_config(tls);
        ureq::Agent::new_with_config(config.build())
    };
    let call = |agent: &ureq::Agent| {
        let request = agent.get(url);
        let request = request.header("Authorization", format!("Bearer {TOKEN}"));
        Ok(request.call()?.body_mut().read_to_string()?)
    };
    let job = |agent: &ureq::Agent| {
        let mut answer = agent.post(format!("{url}/oauth2/token")).send(FORM)?;
        answer.body_mut().read_to_string()?;
        call(agent)
    };
    let (cold, warm) = (agent(), agent());
    Ok([
        timed(|| job(&cold))?,
        timed(|| call(&cold))?,
        timed(|| call(&warm))?,
    ])
}

fn timed<T>(job: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let start = Instant::now();
    job()?;
    Ok(start.elapsed())
}

/// The least of each time, measured so often.
fn least<const N: usize>(
    times: usize,
    measure: impl Fn() -> Result<[Duration; N]>,
) -> Result<[Duration; N]> {
    let mut least = measure()?;
    for _ in 1..times {
        let more = measure()?;
        least = std::array::from_fn(|i| least[i].min(more[i]));
    }
    Ok(least)
}
