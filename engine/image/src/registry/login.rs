//! Logging in: whether a registry takes credentials, and the token that it gives for them.

use reqwest::header::AUTHORIZATION;
use reqwest::{Client, Response, StatusCode};

use super::{Endpoint, Failure, PATIENCE, auth, failure, own_endpoints, tls};
use crate::reference::DEFAULT_DOMAIN;
use crate::{Options, RegistryAuth};
use engine_error::{Error, Kind, Result};

/// Tries credentials at a registry, which may be written as a URL; Docker Hub if it is empty. The
/// answer is a token that stands for the password from now on, or nothing.
pub(crate) async fn login(server: &str, auth: &RegistryAuth, options: &Options) -> Result<String> {
    let mut failure = Error::invalid(format!("no registry at {server:?}"));
    for place in own_endpoints(&domain(server), options) {
        match login_at(place, auth).await {
            Err(Refused::Unreachable(error)) => failure = error,
            Err(Refused::For(error)) => return Err(error),
            Ok(token) => return Ok(token),
        }
    }
    Err(failure)
}

/// Why a place did not let somebody in.
enum Refused {
    /// Another place may.
    Unreachable(Error),
    For(Error),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        let unreachable = failure.is_unreachable();
        let error = failure.into_plain_error();
        if unreachable { Self::Unreachable(error) } else { Self::For(error) }
    }
}

/// The registry that a user means, without scheme and path.
fn domain(server: &str) -> String {
    let bare = server.split_once("://").map_or(server, |(_, rest)| rest);
    match bare.split('/').next().unwrap_or_default() {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN.to_owned(),
        host => host.to_owned(),
    }
}

async fn login_at(place: Endpoint, auth: &RegistryAuth) -> Result<String, Refused> {
    let (host, verify, plain) = (place.host, place.verify, place.base.starts_with("http:"));
    let made =
        tokio::task::spawn_blocking(move || tls::client(&host, verify, plain, Some(PATIENCE)));
    let client = made.await.map_err(|error| Failure::Other(error.to_string()))??;
    let url = format!("{}/v2/", place.base);
    let response = get(&client, &url, None).await?;
    if response.status() != StatusCode::UNAUTHORIZED {
        return welcomed(&response, &url).map(|()| String::new());
    }
    let none = || Failure::Unauthorized("unauthorized: authentication required".into());
    let challenge = auth::Challenge::best(response.headers()).ok_or_else(none)?;
    let asker = auth::Asker {
        client: &client,
        base: &place.base,
        auth: Some(auth),
        scopes: Vec::new(),
        offline: true,
    };
    let answer = challenge.answer(&asker, &url).await.map_err(|failure| match failure {
        Failure::Unauthorized(text) => {
            Refused::For(Error::new(Kind::Unauthorized, format!("Get \"{url}\": {text}")))
        }
        Failure::NoCredentials(_) => {
            let text = format!("Get \"{url}\": no basic auth credentials");
            Refused::For(Error::new(Kind::Internal, text))
        }
        other => other.into(),
    })?;
    let response = get(&client, &url, Some(&answer.authorization)).await?;
    welcomed(&response, &url).map(|()| answer.refresh)
}

async fn get(client: &Client, url: &str, authorization: Option<&str>) -> Result<Response, Failure> {
    let mut request = client.get(url);
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    request.send().await.map_err(|error| failure::of_transport(url, &error))
}

fn welcomed(response: &Response, url: &str) -> Result<(), Refused> {
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(());
    }
    let (number, reason) = (status.as_u16(), status.canonical_reason().unwrap_or_default());
    let text = format!("login attempt to {url} failed with status: {number} {reason}");
    Err(Refused::For(Error::new(Kind::Internal, text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_known_by_its_host() {
        for (server, host) in [
            ("reg:5000", "reg:5000"),
            ("https://reg.example/v1/", "reg.example"),
            ("http://127.0.0.1:5000/", "127.0.0.1:5000"),
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
        ] {
            assert_eq!(domain(server), host, "{server}");
        }
    }
}
