//! The job with ureq, which keeps its connection open.

mod job;
use job::{arguments, authorization, check, Result, CONTENT, ENDPOINT, FORM, FORM_TYPE};

fn main() -> Result<()> {
    let (url, gets) = arguments()?;
    let agent = ureq::Agent::new_with_defaults();
    let mut answer = agent
        .post(format!("{url}{ENDPOINT}"))
        .content_type(FORM_TYPE)
        .send(FORM)?;
    let status = answer.status().as_u16();
    let authorization = authorization(status, &answer.body_mut().read_to_string()?)?;
    for _ in 0..gets {
        let mut answer = agent
            .get(format!("{url}{CONTENT}"))
            .header("Authorization", &authorization)
            .call()?;
        check(answer.status().as_u16(), &answer.body_mut().read_to_vec()?)?;
    }
    Ok(())
}
