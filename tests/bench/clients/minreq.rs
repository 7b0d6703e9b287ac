//! The job with minreq alone, without an OAuth library.

mod job;
use job::{arguments, authorization, check, Result, CONTENT, ENDPOINT, FORM, FORM_TYPE};

fn main() -> Result<()> {
    let (url, gets) = arguments()?;
    #[cfg(feature = "minreq-ring")]
    let _ = rustls::crypto::ring::default_provider().install_default();
    let response = minreq::post(format!("{url}{ENDPOINT}"))
        .with_header("Content-Type", FORM_TYPE)
        .with_body(FORM)
        .send()?;
    let authorization = authorization(response.status_code.try_into()?, response.as_str()?)?;
    for _ in 0..gets {
        let response = minreq::get(format!("{url}{CONTENT}"))
            .with_header("Authorization", &authorization)
            .send()?;
        check(response.status_code.try_into()?, response.as_bytes())?;
    }
    Ok(())
}
