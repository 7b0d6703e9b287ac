//! minreq alone, with ring, under load.

mod job;
mod load;

use job::{authorization, ENDPOINT, FORM, FORM_TYPE};

fn main() -> job::Result<()> {
    let url = std::env::args().nth(2).ok_or("no URL")?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let response = minreq::post(format!("{url}{ENDPOINT}"))
        .with_header("Content-Type", FORM_TYPE)
        .with_body(FORM)
        .send()?;
    let authorization = authorization(response.status_code.try_into()?, response.as_str()?)?;
    load::run(|path| {
        let response = minreq::get(format!("{url}{path}"))
            .with_header("Authorization", &authorization)
            .with_timeout(load::TIMEOUT.as_secs())
            .send_lazy()?;
        Ok((response.status_code.try_into()?, response))
    })
}
