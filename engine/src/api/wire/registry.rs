//! Registries: credentials as clients send them, in the header `X-Registry-Auth`, and what a
//! registry says of an image.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::request::Request;
use super::go;
use image::{Described, Platform, RegistryAuth, SearchResult};

/// Credentials, as JSON has them.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    username: String,
    password: String,
    /// User name and password in base64, with a colon between them.
    auth: String,
    /// The registry that they are for.
    pub serveraddress: String,
    identitytoken: String,
    registrytoken: String,
}

impl fmt::Debug for AuthConfig {
    /// Secrets stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("serveraddress", &self.serveraddress)
            .finish_non_exhaustive()
    }
}

impl AuthConfig {
    /// The credentials; none if nothing is in them.
    pub fn credentials(self) -> Option<RegistryAuth> {
        let (mut username, mut password) = (self.username, self.password);
        if username.is_empty()
            && let Some((name, word)) = pair(&self.auth)
        {
            (username, password) = (name, word);
        }
        let (identity_token, registry_token) = (self.identitytoken, self.registrytoken);
        let auth = RegistryAuth { username, password, identity_token, registry_token };
        Some(auth).filter(|auth| *auth != RegistryAuth::default())
    }
}

fn pair(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(auth).ok()?).ok()?;
    let (name, word) = text.split_once(':')?;
    Some((name.to_owned(), word.trim_end_matches('\0').to_owned()))
}

/// Who a request comes from to a registry: nobody where the header is empty or broken, as Docker
/// has it.
pub fn auth(request: &Request) -> Option<RegistryAuth> {
    request.header("x-registry-auth").and_then(parse)
}

/// JSON in base64 of either alphabet, padded or not.
fn parse(header: &str) -> Option<RegistryAuth> {
    let plain = header.trim().trim_end_matches('=').replace('+', "-").replace('/', "_");
    let bytes = URL_SAFE_NO_PAD.decode(plain).ok()?;
    let value: Value = serde_json::from_slice(&bytes).ok()?;
    go::from_value::<AuthConfig>(value).ok()?.credentials()
}

/// `GET /distribution/{name}/json`.
pub fn described(described: &Described) -> Value {
    let platform = |platform: &Platform| {
        let mut value = json!({"architecture": platform.architecture, "os": platform.os});
        if !platform.variant.is_empty() {
            value["variant"] = json!(platform.variant);
        }
        value
    };
    json!({
        "Descriptor": {
            "mediaType": described.media_type,
            "digest": described.digest.to_string(),
            "size": described.size,
        },
        "Platforms": described.platforms.iter().map(platform).collect::<Vec<_>>(),
    })
}

/// An entry of `GET /images/search`.
pub fn found(one: &SearchResult) -> Value {
    json!({
        "star_count": one.star_count,
        "is_official": one.is_official,
        "name": one.name,
        "is_automated": false,
        "description": one.description,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_in_base64_of_either_alphabet() {
        let json = r#"{"username":"me","password":"s>cret?~","serveraddress":"reg:5000"}"#;
        let url = URL_SAFE_NO_PAD.encode(json);
        let standard = STANDARD.encode(json);
        assert!(url.contains(['-', '_']) && standard.contains(['+', '/', '=']), "{standard}");
        for header in [&url, &standard, &format!("{url}==")] {
            let credentials = parse(header).unwrap();
            assert_eq!(credentials.username, "me", "{header}");
            assert_eq!(credentials.password, "s>cret?~", "{header}");
        }
        let header = URL_SAFE_NO_PAD.encode(r#"{"auth":"bWU6c2VjcmV0"}"#);
        assert_eq!(parse(&header).unwrap().password, "secret");
        let header = URL_SAFE_NO_PAD.encode(r#"{"IdentityToken":"t","registrytoken":null}"#);
        assert_eq!(parse(&header).unwrap().identity_token, "t");
    }

    #[test]
    fn what_cannot_be_read_is_nobody() {
        for header in
            ["", "e30=", "e30", "%%%", "bm9uZQ==", "W10=", "bnVsbA==", "eyJ1c2VybmFtZSI6MX0="]
        {
            assert_eq!(parse(header), None, "{header}");
        }
    }
}
