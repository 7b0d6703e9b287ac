//! ureq under load, with enough connections for all threads.

mod job;
mod load;

use job::{authorization, ENDPOINT, FORM, FORM_TYPE};

fn main() -> job::Result<()> {
    let url = std::env::args().nth(2).ok_or("no URL")?;
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(load::TIMEOUT))
        .max_idle_connections(load::IDLE)
        .max_idle_connections_per_host(load::IDLE)
        .build()
        .new_agent();
    let mut response = agent.post(format!("{url}{ENDPOINT}")).content_type(FORM_TYPE).send(FORM)?;
    let status = response.status().as_u16();
    let authorization = authorization(status, &response.body_mut().read_to_string()?)?;
    load::run(|path| {
        let response =
            agent.get(format!("{url}{path}")).header("Authorization", &authorization).call()?;
        Ok((response.status().as_u16(), response.into_body().into_reader()))
    })
}
