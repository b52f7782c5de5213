//! Credentials for registries: in `config.json`, or with a program that keeps them
//! (`docker-credential-…`), as Docker's clients have it.

use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use image::{Reference, RegistryAuth};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

use super::complain;
use super::docker_config::DockerConfig;
use super::error::CliError;

/// What Docker Hub is called in `config.json`.
pub(crate) const HUB: &str = "https://index.docker.io/v1/";
/// How long a program may take that keeps credentials: it may have to ask the user.
const PATIENCE: Duration = Duration::from_secs(60);
/// The user name of a secret that is a token.
const TOKEN: &str = "<token>";

/// What lets a user in at a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) identity_token: String,
    registry_token: String,
}

impl std::fmt::Debug for Credentials {
    /// Secrets stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// A user and a password.
    pub(crate) fn of(username: &str, password: &str) -> Self {
        let (username, password) = (username.to_owned(), password.to_owned());
        Self { username, password, ..Self::default() }
    }

    /// As the API takes them.
    pub(crate) fn json(&self, server: &str) -> Value {
        let mut value = Map::new();
        for (name, text) in [
            ("username", self.username.as_str()),
            ("password", &self.password),
            ("identitytoken", &self.identity_token),
            ("registrytoken", &self.registry_token),
        ] {
            if !text.is_empty() {
                value.insert(name.to_owned(), json!(text));
            }
        }
        if !value.is_empty() {
            value.insert("serveraddress".to_owned(), json!(server));
        }
        Value::Object(value)
    }

    /// As the registry's client takes them.
    pub(crate) fn into_auth(self) -> RegistryAuth {
        let Self { username, password, identity_token, registry_token } = self;
        RegistryAuth { username, password, identity_token, registry_token }
    }

    fn from_entry(entry: &Value) -> Option<Self> {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let (mut username, mut password) = (text("username"), text("password"));
        let pair = STANDARD.decode(text("auth")).ok().and_then(|pair| String::from_utf8(pair).ok());
        if let Some((name, word)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
            (username, password) = (name.to_owned(), word.trim_end_matches('\0').to_owned());
        }
        let (identity_token, registry_token) = (text("identitytoken"), text("registrytoken"));
        let found = Self { username, password, identity_token, registry_token };
        Some(found).filter(|found| *found != Self::default())
    }

    fn entry(&self) -> Value {
        let mut entry = Map::new();
        if !self.username.is_empty() {
            let pair = format!("{}:{}", self.username, self.password);
            entry.insert("auth".to_owned(), json!(STANDARD.encode(pair)));
        }
        if !self.identity_token.is_empty() {
            entry.insert("identitytoken".to_owned(), json!(self.identity_token));
        }
        Value::Object(entry)
    }
}

/// The name in `config.json` of the registry that an image comes from.
pub(crate) fn server_of(reference: &Reference) -> String {
    server(reference.domain())
}

/// The name in `config.json` of a registry as a user writes it.
pub(crate) fn server(written: &str) -> String {
    match host(written) {
        "" | "docker.io" | "index.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    }
}

/// A URL's host, or what is none as it is.
fn host(server: &str) -> &str {
    let bare = server.split_once("://").map_or(server, |(_, rest)| rest);
    bare.split('/').next().unwrap_or_default()
}

/// The header `X-Registry-Auth` for what is done with an image: nobody's if there are none.
pub(crate) async fn header(reference: &Reference) -> Result<String, CliError> {
    header_for(&server_of(reference)).await
}

/// The same for a registry.
pub(crate) async fn header_for(server: &str) -> Result<String, CliError> {
    let config = DockerConfig::read()?;
    let found = get_or_warn(&config, server).await.unwrap_or_default();
    Ok(URL_SAFE.encode(found.json(server).to_string()))
}

/// The header `X-Registry-Config`, for what may pull from anywhere: credentials by registry.
pub(crate) async fn config_header() -> Result<String, CliError> {
    let config = DockerConfig::read()?;
    let names = |field: &str| {
        let entries = config.fields.get(field).and_then(Value::as_object);
        entries.into_iter().flatten().map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let mut servers = [names("auths"), names("credHelpers")].concat();
    servers.sort();
    servers.dedup();
    let mut all = Map::new();
    for server in servers {
        if let Some(found) = get_or_warn(&config, &server).await {
            let json = found.json(&server);
            all.insert(server, json);
        }
    }
    Ok(URL_SAFE.encode(Value::Object(all).to_string()))
}

/// The program that keeps the credentials of a registry.
fn helper(config: &DockerConfig, server: &str) -> Option<String> {
    let own = config.fields.get("credHelpers").and_then(|helpers| helpers[server].as_str());
    let store = config.fields.get("credsStore").and_then(Value::as_str);
    own.or(store).filter(|name| !name.is_empty()).map(str::to_owned)
}

/// The credentials for a registry, wherever they are kept.
pub(crate) async fn get(
    config: &DockerConfig,
    server: &str,
) -> Result<Option<Credentials>, CliError> {
    let entries = config.fields.get("auths").and_then(Value::as_object);
    let kept = entries.into_iter().flatten().find(|(name, _)| *name == server);
    // Old clients wrote URLs.
    let like = || entries.into_iter().flatten().find(|(name, _)| host(name) == host(server));
    let kept = kept.or_else(like).and_then(|(_, entry)| Credentials::from_entry(entry));
    let Some(program) = helper(config, server) else { return Ok(kept) };
    let answer = match call(&program, "get", server).await {
        Ok(answer) => answer,
        Err(error) if error.message.contains("credentials not found") => return Ok(kept),
        Err(error) => return Err(error),
    };
    let answer: Value = serde_json::from_str(&answer).map_err(|_| {
        // What it said may be a secret.
        CliError::new(format!("docker-credential-{program} did not answer with JSON"))
    })?;
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let (username, secret) = (text("Username"), text("Secret"));
    Ok(Some(if username == TOKEN {
        Credentials { identity_token: secret, ..Credentials::default() }
    } else {
        Credentials { username, password: secret, ..Credentials::default() }
    }))
}

/// The same; where the program that keeps them is broken, that is told, and nobody's are used: perhaps
/// none are needed.
pub(crate) async fn get_or_warn(config: &DockerConfig, server: &str) -> Option<Credentials> {
    get(config, server).await.unwrap_or_else(|error| {
        let why = error.message;
        complain(&format!("WARNING: Failed to get credentials for registry {server}: {why}"));
        None
    })
}

/// Keeps credentials. Whether they are in the clear now.
pub(crate) async fn store(
    config: &mut DockerConfig,
    server: &str,
    credentials: &Credentials,
) -> Result<bool, CliError> {
    let program = helper(config, server);
    let entry = match &program {
        Some(program) => {
            let is_token = !credentials.identity_token.is_empty();
            let (name, secret) = if is_token {
                (TOKEN, &credentials.identity_token)
            } else {
                (credentials.username.as_str(), &credentials.password)
            };
            let text = json!({"ServerURL": server, "Username": name, "Secret": secret});
            call(program, "store", &text.to_string()).await?;
            json!({})
        }
        None => credentials.entry(),
    };
    let auths = config.fields.entry("auths").or_insert_with(|| json!({}));
    if !auths.is_object() {
        *auths = json!({});
    }
    auths[server] = entry;
    config.write()?;
    Ok(program.is_none())
}

/// Forgets credentials.
pub(crate) async fn erase(config: &mut DockerConfig, server: &str) -> Result<(), CliError> {
    if let Some(program) = helper(config, server) {
        call(&program, "erase", server).await?;
    }
    let auths = config.fields.get_mut("auths").and_then(Value::as_object_mut);
    let Some(auths) = auths else { return Ok(()) };
    let before = auths.len();
    auths.retain(|name, _| name != server && (server == HUB || host(name) != host(server)));
    if auths.len() == before { Ok(()) } else { config.write() }
}

/// Calls a program that keeps credentials, with a limit in time.
async fn call(program: &str, verb: &str, input: &str) -> Result<String, CliError> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !program.chars().all(known) {
        return Err(CliError::new(format!("invalid name of a credential helper: {program:?}")));
    }
    let name = format!("docker-credential-{program}");
    let failed = |why: &dyn std::fmt::Display| {
        CliError::new(format!("error getting credentials - err: {name} {verb}: {why}"))
    };
    let mut command = tokio::process::Command::new(&name);
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.kill_on_drop(true).spawn().map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read what it is told tells why by its exit code.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.map_err(|_| failed(&format!("no answer in {} s", PATIENCE.as_secs())))?;
    let output = output.map_err(|error| failed(&error))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(failed(&format!("{}: {said}", output.status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_one_name() {
        for (written, name) in [
            ("", HUB),
            ("docker.io", HUB),
            ("https://index.docker.io/v1/", HUB),
            ("reg:5000", "reg:5000"),
            ("https://reg.example/v2/", "reg.example"),
        ] {
            assert_eq!(server(written), name, "{written}");
        }
    }

    #[test]
    fn an_entry_is_read_as_it_is_written() {
        let known = Credentials::of("me", "a:b");
        let entry = known.entry();
        assert_eq!(entry, json!({"auth": "bWU6YTpi"}));
        assert_eq!(Credentials::from_entry(&entry), Some(known.clone()));
        assert_eq!(Credentials::from_entry(&json!({})), None);
        let token = Credentials { identity_token: "t".to_owned(), ..Credentials::default() };
        assert_eq!(Credentials::from_entry(&token.entry()), Some(token));
        assert_eq!(Credentials::default().json("r"), json!({}), "nobody");
        assert!(!format!("{known:?}").contains("a:b"));
    }
}
