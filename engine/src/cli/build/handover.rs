//! `--secret` and `--ssh`: what is handed over to a build beside its context.
//!
//! It goes over a connection of its own, and is gone with that. An agent is reached from here, as whoever
//! called this: the daemon is lent lines to it, and never learns where it is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dockerfile::LARGEST_SECRET;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::super::client::{Client, Stream, escape};
use super::super::commands::BuildArgs;
use super::super::error::CliError;

/// What is handed over.
#[derive(Default)]
pub(super) struct Handover {
    secrets: BTreeMap<String, Vec<u8>>,
    /// The sockets of agents, by their ids.
    agents: BTreeMap<String, PathBuf>,
}

/// Handed over, for as long as this is there.
pub(super) struct Handed {
    /// What the build is called.
    pub(super) build: String,
    agents: BTreeMap<String, PathBuf>,
    _held: Stream,
}

impl Handover {
    /// What the flags say.
    pub(super) fn read(args: &BuildArgs) -> Result<Self, CliError> {
        let mut handover = Self::default();
        for flag in &args.secret {
            let (id, bytes) = secret(flag)?;
            handover.secrets.insert(id, bytes);
        }
        for flag in &args.ssh {
            let (id, path) = agent(flag)?;
            handover.agents.insert(id, path);
        }
        Ok(handover)
    }

    /// Hands it over; nothing if there is nothing.
    pub(super) async fn hand(self, client: &Client) -> Result<Option<Handed>, CliError> {
        let Self { secrets, agents } = self;
        if secrets.is_empty() && agents.is_empty() {
            return Ok(None);
        }
        let mut id = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut id)?;
        let build = dockerfile::key::hex(&id);
        let secrets: BTreeMap<_, _> =
            secrets.iter().map(|(id, bytes)| (id, STANDARD.encode(bytes))).collect();
        let names: Vec<_> = agents.keys().collect();
        let path = format!("/rnet/build/session?build={build}");
        let body = json!({"secrets": secrets, "agents": names});
        let held = client.hijack(&path, Some(&body)).await?;
        Ok(Some(Handed { build, agents, _held: held }))
    }
}

impl Handed {
    /// Lends lines to the agents, until it is dropped or the daemon takes no more.
    pub(super) async fn serve(&self, client: &Client) -> CliError {
        let serving = self.agents.iter().map(|(id, path)| Box::pin(self.lend(client, id, path)));
        if self.agents.is_empty() {
            return std::future::pending().await;
        }
        futures_util::future::select_all(serving).await.0
    }

    /// One line after the other: each is ready before somebody needs it.
    async fn lend(&self, client: &Client, id: &str, path: &Path) -> CliError {
        let offer = format!("/rnet/build/agent?build={}&id={}", self.build, escape(id));
        loop {
            let mut line = match client.hijack(&offer, None).await {
                Ok(line) => line,
                Err(error) => return error,
            };
            let mut first = vec![0; 4096];
            let Ok(count @ 1..) = line.read(&mut first).await else { continue };
            first.truncate(count);
            let path = path.to_owned();
            tokio::spawn(async move {
                // Whoever asked sees that nobody answers.
                let Ok(mut agent) = UnixStream::connect(path).await else { return };
                if agent.write_all(&first).await.is_ok() {
                    let _ = tokio::io::copy_bidirectional(&mut line, &mut agent).await;
                }
            });
        }
    }
}

/// `id=…` with `src=…` or `env=…`; with neither, the variable that is called so, or else the file.
fn secret(flag: &str) -> Result<(String, Vec<u8>), CliError> {
    let wrong = |why: String| {
        CliError::new(format!("invalid argument \"{flag}\" for \"--secret\" flag: {why}"))
    };
    let (mut id, mut kind, mut source, mut env) = (None, None, None, None);
    for field in flag.split(',') {
        let Some((name, value)) = field.split_once('=') else {
            return Err(wrong(format!("invalid field '{field}' must be a key=value pair")));
        };
        match name.to_lowercase().as_str() {
            "id" => id = Some(value),
            "type" if matches!(value, "file" | "env") => kind = Some(value),
            "type" => return Err(wrong(format!("unsupported secret type \"{value}\""))),
            "source" | "src" => source = Some(value),
            "env" => env = Some(value),
            _ => return Err(wrong(format!("unexpected key '{name}' in '{field}'"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("secret missing ID".to_owned()))?;
    if kind == Some("env") && env.is_none() {
        env = source.take();
    }
    let named = || kind != Some("file") && std::env::var_os(id).is_some();
    let env = env.or_else(|| (source.is_none() && named()).then_some(id));
    let bytes = if let Some(name) = env {
        // One that is not set is an empty secret, as for buildx.
        std::env::var_os(name).unwrap_or_default().into_encoded_bytes()
    } else {
        let path = source.unwrap_or(id);
        let unread = |error: std::io::Error| {
            CliError::new(format!("failed to read secret {id} from {path}: {error}"))
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unread)?;
        file.take(LARGEST_SECRET as u64 + 1).read_to_end(&mut bytes).map_err(unread)?;
        bytes
    };
    if bytes.len() > LARGEST_SECRET {
        return Err(wrong(format!("secret {id} too big. max size {LARGEST_SECRET}")));
    }
    Ok((id.to_owned(), bytes))
}

/// `default`, `id`, or `id=socket`.
fn agent(flag: &str) -> Result<(String, PathBuf), CliError> {
    let (id, path) = flag.split_once('=').map_or((flag, None), |(id, path)| (id, Some(path)));
    let wrong = |why: String| {
        CliError::new(format!("invalid argument \"{flag}\" for \"--ssh\" flag: {why}"))
    };
    if id.is_empty() {
        return Err(wrong("it has no id".to_owned()));
    }
    let own = || std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
    let unset = "invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set";
    let path = match path.filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => own().map(PathBuf::from).ok_or_else(|| CliError::new(unset))?,
    };
    let found =
        fs::metadata(&path).map_err(|error| wrong(format!("{}: {error}", path.display())))?;
    if !found.file_type().is_socket() {
        return Err(wrong(format!(
            "{} is not the socket of an agent: add keys to one (ssh-agent, ssh-add) and name that",
            path.display()
        )));
    }
    Ok((id.to_owned(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_file_or_a_variable() {
        let path = std::env::temp_dir().join(format!("rnet-secret-{}", std::process::id()));
        fs::write(&path, "of a file").unwrap();
        let named = path.display();
        let file = secret(&format!("id=a,src={named}"));
        let typed = secret(&format!("type=file,id=PATH,source={named}"));
        let large = fs::write(&path, vec![0; LARGEST_SECRET + 1])
            .map(|()| secret(&format!("id=a,src={named}")));
        fs::remove_file(&path).unwrap();
        assert_eq!(file.unwrap(), ("a".to_owned(), b"of a file".to_vec()));
        assert_eq!(typed.unwrap().1, b"of a file");
        assert!(large.unwrap().unwrap_err().message.contains("too big. max size 512000"));
        let variable = std::env::var("PATH").unwrap().into_bytes();
        for flag in ["id=PATH", "id=x,env=PATH", "id=x,type=env,src=PATH"] {
            assert_eq!(secret(flag).unwrap().1, variable, "{flag}");
        }
        for (flag, said) in [
            ("src=x", "secret missing ID"),
            ("id=x,what=y", "unexpected key 'what' in 'what=y'"),
            ("id", "invalid field 'id' must be a key=value pair"),
            ("id=x,type=y", "unsupported secret type \"y\""),
            ("id=x,src=/nope", "failed to read secret x from /nope"),
        ] {
            let error = secret(flag).unwrap_err().message;
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn an_agent_is_a_socket() {
        let error = agent("default=/etc/passwd").unwrap_err().message;
        assert!(error.contains("is not the socket of an agent"), "{error}");
        assert!(agent("=x").is_err() && agent("a=/nope").is_err());
    }
}
