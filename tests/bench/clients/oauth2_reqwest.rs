//! The job with oauth2 for the token and a blocking reqwest, which keeps its connection open.

mod job;
use job::{arguments, check, Result, CONTENT, ENDPOINT};
use oauth2::basic::BasicClient;
use oauth2::{ClientId, ClientSecret, TokenResponse, TokenUrl};

fn main() -> Result<()> {
    let (url, gets) = arguments()?;
    let client =
        reqwest::blocking::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let token = BasicClient::new(ClientId::new("id".into()))
        .set_client_secret(ClientSecret::new("secret".into()))
        .set_token_uri(TokenUrl::new(format!("{url}{ENDPOINT}"))?)
        .exchange_client_credentials()
        .request(&client)?;
    for _ in 0..gets {
        let response = client
            .get(format!("{url}{CONTENT}"))
            .bearer_auth(token.access_token().secret())
            .send()?;
        check(response.status().as_u16(), &response.bytes()?)?;
    }
    Ok(())
}
