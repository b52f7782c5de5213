//! Challenges of registries and the tokens that answer them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;

use super::{Access, Failure, body, failure};
use crate::RegistryAuth;

/// What token servers know us by.
const CLIENT: &str = "rnet";
const LARGEST_TOKEN: usize = 1 << 20;

/// A `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    scheme: Scheme,
    parameters: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Basic,
    Bearer,
}

#[derive(Deserialize)]
struct Grant {
    #[serde(default, rename = "token")]
    value: String,
    #[serde(default, rename = "access_token")]
    access: String,
    #[serde(default, rename = "refresh_token")]
    refresh: String,
}

/// Who answers a challenge, and what for.
#[derive(Debug)]
pub(super) struct Asker<'a> {
    pub(super) client: &'a Client,
    /// Scheme and host of the registry.
    pub(super) base: &'a str,
    pub(super) auth: Option<&'a RegistryAuth>,
    pub(super) scopes: Vec<String>,
    /// Whether a token is wanted that buys others later.
    pub(super) offline: bool,
}

/// What answers a challenge.
pub(super) struct Answer {
    /// The header `Authorization`.
    pub(super) authorization: String,
    /// A token that stands for the password from now on; often there is none.
    pub(super) refresh: String,
}

impl Challenge {
    /// Of several, one for a token.
    pub(super) fn best(headers: &HeaderMap) -> Option<Self> {
        let mut found: Vec<_> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Self::parse(value.to_str().ok()?))
            .collect();
        found.sort_by_key(|challenge| challenge.scheme == Scheme::Basic);
        found.into_iter().next()
    }

    /// `Bearer realm="…",service="…",scope="…"`.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "basic" => Scheme::Basic,
            "bearer" => Scheme::Bearer,
            _ => return None,
        };
        let mut parameters = Vec::new();
        let mut rest = rest.trim_start();
        while let Some((key, after)) = rest.split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            parameters.push((key.trim().to_ascii_lowercase(), value.to_owned()));
            rest = after.trim_start_matches([',', ' ']);
        }
        Some(Self { scheme, parameters })
    }

    /// Whether the credentials are known and do not suffice.
    pub(super) fn is_insufficient(&self) -> bool {
        self.parameter("error") == Some("insufficient_scope")
    }

    fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// What a token is asked for: the challenge's own words where they say enough.
    pub(super) fn scopes(&self, repository: &str, access: &Access) -> Vec<String> {
        match access {
            Access::Pull => {
                let own = || format!("repository:{repository}:pull");
                vec![self.parameter("scope").map_or_else(own, str::to_owned)]
            }
            Access::Push(others) => {
                let own = [format!("repository:{repository}:pull,push")].into_iter();
                own.chain(others.iter().map(|name| format!("repository:{name}:pull"))).collect()
            }
        }
    }

    /// What answers the challenge.
    pub(super) async fn answer(&self, asker: &Asker<'_>, url: &str) -> Result<Answer, Failure> {
        let named = asker.auth.filter(|auth| !auth.username.is_empty());
        let basic = named.map(basic);
        match self.scheme {
            Scheme::Basic => {
                let authorization = basic.ok_or_else(|| Failure::NoCredentials(url.to_owned()))?;
                Ok(Answer { authorization, refresh: String::new() })
            }
            Scheme::Bearer => self.token(asker, basic).await,
        }
    }

    async fn token(&self, asker: &Asker<'_>, basic: Option<String>) -> Result<Answer, Failure> {
        let refresh = asker.auth.map(|auth| auth.identity_token.as_str());
        let refresh = refresh.filter(|token| !token.is_empty());
        let realm = self.realm(asker.base, basic.is_some() || refresh.is_some())?;
        let request = match refresh {
            Some(refresh) => self.by_refresh_token(asker, &realm, refresh)?,
            None => self.by_password(asker, &realm, basic),
        };
        let response =
            request.send().await.map_err(|error| failure::of_transport(realm.as_str(), &error))?;
        if !response.status().is_success() {
            return Err(match failure::of_response(response).await {
                Failure::Unauthorized(_) | Failure::Denied(_) => {
                    Failure::Unauthorized("unauthorized: incorrect username or password".into())
                }
                other => other,
            });
        }
        let bytes = body(response, LARGEST_TOKEN, realm.as_str()).await?;
        let grant: Grant = serde_json::from_slice(&bytes).map_err(|error| other(&error))?;
        let value = if grant.value.is_empty() { grant.access } else { grant.value };
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::Other(format!("{realm} gave no token")));
        }
        Ok(Answer { authorization: format!("Bearer {value}"), refresh: grant.refresh })
    }

    fn by_refresh_token(
        &self,
        asker: &Asker<'_>,
        realm: &Url,
        refresh: &str,
    ) -> Result<RequestBuilder, Failure> {
        let mut form = Url::parse("http://form").map_err(|error| other(&error))?;
        form.query_pairs_mut().extend_pairs([
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh),
            ("service", self.parameter("service").unwrap_or_default()),
            ("client_id", CLIENT),
            ("scope", &asker.scopes.join(" ")),
        ]);
        Ok(asker
            .client
            .post(realm.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.query().unwrap_or_default().to_owned()))
    }

    fn by_password(&self, asker: &Asker<'_>, realm: &Url, basic: Option<String>) -> RequestBuilder {
        let mut query: Vec<_> =
            asker.scopes.iter().map(|scope| ("scope", scope.as_str())).collect();
        query.extend(self.parameter("service").map(|service| ("service", service)));
        if asker.offline {
            query.extend([("offline_token", "true"), ("client_id", CLIENT)]);
        }
        let request = asker.client.get(realm.clone()).query(&query);
        match basic {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }

    /// The token server. It gets secrets only over TLS, unless the registry itself has none.
    fn realm(&self, base: &str, secret: bool) -> Result<Url, Failure> {
        let text = self.parameter("realm").unwrap_or_default();
        let realm = Url::parse(text)
            .map_err(|_| Failure::Other(format!("invalid token server {text:?}")))?;
        let secure = realm.scheme() == "https" || (realm.scheme() == "http" && !secret);
        if secure || (realm.scheme() == "http" && base.starts_with("http:")) {
            return Ok(realm);
        }
        Err(Failure::Other(format!("refused to send credentials to {realm} without TLS")))
    }
}

/// A user name and password, as they are sent.
pub(super) fn basic(auth: &RegistryAuth) -> String {
    let pair = format!("{}:{}", auth.username, auth.password);
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

fn other(error: &dyn std::error::Error) -> Failure {
    Failure::Other(format!("invalid answer of the token server: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed_with_and_without_quotes() {
        let text = r#"Bearer realm="https://a/t",service="reg, 1",scope="repository:x:pull", error=insufficient_scope"#;
        let challenge = Challenge::parse(text).unwrap();
        assert_eq!(challenge.scheme, Scheme::Bearer);
        assert_eq!(challenge.parameter("service"), Some("reg, 1"));
        assert!(challenge.is_insufficient());
        assert_eq!(Challenge::parse("Basic").unwrap().scheme, Scheme::Basic);
        assert_eq!(Challenge::parse("Negotiate x"), None);
    }

    #[test]
    fn secrets_go_over_tls_only() {
        let challenge = Challenge::parse(r#"Bearer realm="http://evil/t""#).unwrap();
        assert!(challenge.realm("https://reg", true).is_err());
        assert!(challenge.realm("https://reg", false).is_ok());
        assert!(challenge.realm("http://127.0.0.1:5000", true).is_ok());
    }
}
