//! The job with oauth2 for the token and the ureq that it brings, which keeps its connection open.

mod job;
use job::{arguments, check, Result, CONTENT, ENDPOINT};
use oauth2::basic::BasicClient;
use oauth2::{ClientId, ClientSecret, TokenResponse, TokenUrl};

fn main() -> Result<()> {
    let (url, gets) = arguments()?;
    let agent = ureq2::AgentBuilder::new().redirects(0).build();
    let token = BasicClient::new(ClientId::new("id".into()))
        .set_client_secret(ClientSecret::new("secret".into()))
        .set_token_uri(TokenUrl::new(format!("{url}{ENDPOINT}"))?)
        .exchange_client_credentials()
        .request(&agent)?;
    let authorization = format!("Bearer {}", token.access_token().secret());
    for _ in 0..gets {
        let response =
            agent.get(&format!("{url}{CONTENT}")).set("Authorization", &authorization).call()?;
        check(response.status(), response.into_string()?.as_bytes())?;
    }
    Ok(())
}
