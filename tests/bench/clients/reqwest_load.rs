//! A blocking reqwest under load, with enough connections for all threads.

mod job;
mod load;

use job::{authorization, ENDPOINT, FORM, FORM_TYPE};

fn main() -> job::Result<()> {
    let url = std::env::args().nth(2).ok_or("no URL")?;
    let client = reqwest::blocking::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(load::TIMEOUT)
        .pool_max_idle_per_host(load::IDLE)
        .build()?;
    let response = client
        .post(format!("{url}{ENDPOINT}"))
        .header("Content-Type", FORM_TYPE)
        .body(FORM)
        .send()?;
    let authorization = authorization(response.status().as_u16(), &response.text()?)?;
    load::run(|path| {
        let response =
            client.get(format!("{url}{path}")).header("Authorization", &authorization).send()?;
        Ok((response.status().as_u16(), response))
    })
}
