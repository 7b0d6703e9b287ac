//! The job with attohttpc.

mod job;
use job::{arguments, authorization, check, Result, CONTENT, ENDPOINT, FORM, FORM_TYPE};

fn main() -> Result<()> {
    let (url, gets) = arguments()?;
    let session = attohttpc::Session::new();
    let answer = session
        .post(format!("{url}{ENDPOINT}"))
        .header("Content-Type", FORM_TYPE)
        .text(FORM)
        .send()?;
    let status = answer.status().as_u16();
    let authorization = authorization(status, &answer.text()?)?;
    for _ in 0..gets {
        let answer = session
            .get(format!("{url}{CONTENT}"))
            .header("Authorization", &authorization)
            .send()?;
        check(answer.status().as_u16(), &answer.bytes()?)?;
    }
    Ok(())
}
