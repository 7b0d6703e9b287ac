//! The job with attohttpc.

mod job;
use job::{arguments, authorization, check, Result, CONTENT, ENDPOINT, FORM, FORM_TYPE};

fn main() -> Result<()> {
    let (url, gets) = arguments()?;
    let session = attohttpc::Session::new();
    let response = session
        .post(format!("{url}{ENDPOINT}"))
        .header("Content-Type", FORM_TYPE)
        .text(FORM)
        .send()?;
    let status = response.status().as_u16();
    let authorization = authorization(status, &response.text()?)?;
    for _ in 0..gets {
        let response = session
            .get(format!("{url}{CONTENT}"))
            .header("Authorization", &authorization)
            .send()?;
        check(response.status().as_u16(), &response.bytes()?)?;
    }
    Ok(())
}
