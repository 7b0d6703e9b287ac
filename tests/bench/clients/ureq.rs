//! The job with ureq, which keeps its connection open.

mod job;
use job::{arguments, authorization, check, Result, CONTENT, ENDPOINT, FORM, FORM_TYPE};

fn main() -> Result<()> {
    let (url, gets) = arguments()?;
    let agent = ureq::Agent::new_with_defaults();
    let mut response = agent.post(format!("{url}{ENDPOINT}")).content_type(FORM_TYPE).send(FORM)?;
    let status = response.status().as_u16();
    let authorization = authorization(status, &response.body_mut().read_to_string()?)?;
    for _ in 0..gets {
        let mut response =
            agent.get(format!("{url}{CONTENT}")).header("Authorization", &authorization).call()?;
        check(response.status().as_u16(), &response.body_mut().read_to_vec()?)?;
    }
    Ok(())
}
