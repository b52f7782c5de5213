//! Searching: Docker Hub's old index, or that of a registry which still has one.

use reqwest::StatusCode;
use serde::Deserialize;

use super::{Endpoint, Failure, PATIENCE, auth, body, failure, own_endpoints, tls};
use crate::reference::DEFAULT_DOMAIN;
use crate::{Options, RegistryAuth};
use engine_error::{Error, Result};

/// The host of Docker Hub's index.
const HUB: &str = "index.docker.io";
/// Largest answer of an index.
const LARGEST: usize = 4 << 20;
/// How many are asked for at most.
const MOST: i64 = 100;

/// A repository that a search found.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SearchResult {
    /// Its name.
    pub name: String,
    /// What its owner says of it.
    #[serde(default)]
    pub description: String,
    /// How many people like it.
    #[serde(default)]
    pub star_count: i64,
    /// Whether it is one of Docker's own choice.
    #[serde(default)]
    pub is_official: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Vec<SearchResult>,
}

/// What an index has for a term, which may begin with the host of a registry.
pub(crate) async fn search(
    term: &str,
    limit: i64,
    auth: Option<&RegistryAuth>,
    options: &Options,
) -> Result<Vec<SearchResult>> {
    if !(1..=MOST).contains(&limit) {
        let text = format!("limit {limit} is outside the range of [1, {MOST}]");
        return Err(Error::invalid(text));
    }
    if term.contains("://") {
        return Err(Error::invalid(format!(
            "invalid repository name: repository name ({term}) should not have a scheme"
        )));
    }
    let (domain, rest) = split(term);
    let mut failure = Failure::Other(format!("no index for {term}"));
    for place in places(domain, options) {
        match search_at(place, rest, limit, auth).await {
            Ok(found) => return Ok(found),
            Err(error) if error.is_unreachable() => failure = error,
            Err(error) => return Err(error.into_plain_error()),
        }
    }
    Err(failure.into_plain_error())
}

/// The host of an index, and what to look for there.
fn split(term: &str) -> (&str, &str) {
    let (domain, rest) = match term.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DEFAULT_DOMAIN, term),
    };
    if domain != DEFAULT_DOMAIN && domain != HUB {
        return (domain, rest);
    }
    (DEFAULT_DOMAIN, rest.strip_prefix("library/").unwrap_or(rest))
}

fn places(domain: &str, options: &Options) -> Vec<Endpoint> {
    let mut places = own_endpoints(domain, options);
    if domain == DEFAULT_DOMAIN {
        for place in &mut places {
            HUB.clone_into(&mut place.host);
            place.base = format!("https://{HUB}");
        }
    }
    places
}

async fn search_at(
    place: Endpoint,
    term: &str,
    limit: i64,
    auth: Option<&RegistryAuth>,
) -> Result<Vec<SearchResult>, Failure> {
    let (host, verify, plain) = (place.host, place.verify, place.base.starts_with("http:"));
    let made =
        tokio::task::spawn_blocking(move || tls::client(&host, verify, plain, Some(PATIENCE)));
    let client = made.await.map_err(|error| Failure::Other(error.to_string()))??;
    let url = format!("{}/v1/search", place.base);
    let limit = limit.to_string();
    let mut request = client.get(&url).query(&[("q", term), ("n", &limit)]);
    if let Some(auth) = auth.filter(|auth| !auth.username.is_empty()) {
        request = request.header(reqwest::header::AUTHORIZATION, auth::basic(auth));
    }
    let response = request.send().await.map_err(|error| failure::of_transport(&url, &error))?;
    if response.status() != StatusCode::OK {
        let status = response.status().as_u16();
        return Err(Failure::Other(format!("Unexpected status code {status}")));
    }
    let bytes = body(response, LARGEST, &url).await?;
    let answer: Answer = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::Other(format!("invalid answer of {url}: {error}")))?;
    Ok(answer.results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_may_name_its_index() {
        for (term, wanted) in [
            ("foo", ("docker.io", "foo")),
            ("library/foo", ("docker.io", "foo")),
            ("team/foo", ("docker.io", "team/foo")),
            ("docker.io/library/foo", ("docker.io", "foo")),
            ("127.0.0.1:5000/foo/bar", ("127.0.0.1:5000", "foo/bar")),
        ] {
            assert_eq!(split(term), wanted, "{term}");
        }
        let options = Options::default();
        let bases = |domain| places(domain, &options).into_iter().map(|place| place.base);
        assert!(bases("docker.io").eq(["https://index.docker.io"]));
        assert!(bases("reg.example").eq(["https://reg.example"]));
    }
}
