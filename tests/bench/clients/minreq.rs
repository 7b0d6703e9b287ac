//! The job by hand with minreq alone.

mod job;
use job::{arguments, authorization, check, Result, CONTENT, ENDPOINT, FORM, FORM_TYPE};

fn main() -> Result<()> {
    let (url, gets) = arguments()?;
    #[cfg(feature = "minreq-ring")]
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = minreq::post(format!("{url}{ENDPOINT}"))
        .with_header("Content-Type", FORM_TYPE)
        .with_body(FORM)
        .send()?;
    let authorization = authorization(answer.status_code.try_into()?, answer.as_str()?)?;
    for _ in 0..gets {
        let answer = minreq::get(format!("{url}{CONTENT}"))
            .with_header("Authorization", &authorization)
            .send()?;
        check(answer.status_code.try_into()?, answer.as_bytes())?;
    }
    Ok(())
}
