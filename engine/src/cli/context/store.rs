//! The store of contexts, which Docker's clients read and write, too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::super::docker_config;
use super::super::error::CliError;

/// The context of those who choose none: what flags and the environment say.
pub(crate) const DEFAULT: &str = "default";

/// The files of a client's certificates.
pub(crate) const PEMS: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// A context as it is kept. What others have written there stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Stored {
    pub(crate) name: String,
    #[serde(deserialize_with = "or_none")]
    metadata: Map<String, Value>,
    #[serde(deserialize_with = "or_none")]
    endpoints: BTreeMap<String, Value>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// The endpoint of a context that is a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Endpoint {
    /// Where it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) host: String,
    /// Whether it is taken for whom it says to be.
    #[serde(rename = "SkipTLSVerify")]
    pub(crate) unverified: bool,
}

impl Stored {
    /// A context without anything.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The daemon.
    pub(crate) fn endpoint(&self) -> Endpoint {
        let kept = self.endpoints.get("docker").cloned();
        kept.and_then(|kept| serde_json::from_value(kept).ok()).unwrap_or_default()
    }

    /// Says where its daemon is.
    pub(crate) fn set_endpoint(&mut self, endpoint: &Endpoint) {
        self.endpoints.insert("docker".to_owned(), json!(endpoint));
    }

    /// What its user says of it.
    pub(crate) fn description(&self) -> &str {
        self.metadata.get("Description").and_then(Value::as_str).unwrap_or_default()
    }

    /// Describes it, if there are words for it.
    pub(crate) fn describe(&mut self, text: Option<&str>) {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            self.metadata.insert("Description".to_owned(), json!(text));
        }
    }
}

/// Null is nothing.
fn or_none<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Where a context's description is kept.
pub(crate) fn meta_directory(name: &str) -> PathBuf {
    place("meta", name)
}

/// Where its certificates are kept.
pub(crate) fn tls_directory(name: &str) -> PathBuf {
    place("tls", name)
}

fn place(kind: &str, name: &str) -> PathBuf {
    let mut digest = String::with_capacity(64);
    for byte in Sha256::digest(name) {
        // Writing to a string does not fail.
        let _ = write!(digest, "{byte:02x}");
    }
    docker_config::directory().join("contexts").join(kind).join(digest)
}

/// Refuses names that Docker refuses.
pub(crate) fn check(name: &str) -> Result<(), CliError> {
    if name == DEFAULT {
        return Err(CliError::new("\"default\" is a reserved context name"));
    }
    let letter = |c: char| c.is_ascii_alphanumeric();
    let fits = name.len() > 1
        && name.starts_with(letter)
        && name.chars().all(|c| letter(c) || "_.+-".contains(c));
    if fits {
        return Ok(());
    }
    Err(CliError::new(format!(
        "context name \"{name}\" is invalid, names are validated against regexp \
         \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
    )))
}

/// Reads a context.
pub(crate) fn read(name: &str) -> Result<Stored, CliError> {
    let path = meta_directory(name).join("meta.json");
    let text = fs::read_to_string(&path).map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        let path = path.display();
        CliError::new(format!("context \"{name}\": context not found: open {path}: {why}"))
    })?;
    let stored = serde_json::from_str(&text);
    stored.map_err(|error| {
        CliError::new(format!("context \"{name}\": parsing {}: {error}", path.display()))
    })
}

/// All contexts, by name.
pub(crate) fn list() -> Vec<Stored> {
    let meta = docker_config::directory().join("contexts/meta");
    let entries = fs::read_dir(meta).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| fs::read(entry.path().join("meta.json")).ok());
    let contexts = texts.filter_map(|text| serde_json::from_slice(&text).ok());
    let mut all: Vec<Stored> = contexts.collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Writes a context; whoever reads it meanwhile sees the old one or the new one.
pub(crate) fn write(stored: &Stored) -> Result<(), CliError> {
    let text = json!(stored).to_string();
    put(&meta_directory(&stored.name), "meta.json", text.as_bytes(), 0o644)
}

/// Writes a certificate or a key of a context, which nobody else may read at any moment.
pub(crate) fn keep(context: &str, name: &str, bytes: &[u8]) -> Result<(), CliError> {
    put(&certificates(context), name, bytes, 0o600)
}

/// The certificates of a context by their names.
pub(crate) fn kept(context: &str) -> Vec<(&'static str, Vec<u8>)> {
    let directory = certificates(context);
    let read = |name| Some((name, fs::read(directory.join(name)).ok()?));
    PEMS.into_iter().filter_map(read).collect()
}

/// Forgets the certificates of a context.
pub(crate) fn forget(context: &str) -> Result<(), CliError> {
    clear(&tls_directory(context))
}

/// Where the certificates of a context for its daemon are.
pub(crate) fn certificates(context: &str) -> PathBuf {
    tls_directory(context).join("docker")
}

fn put(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), CliError> {
    let (path, aside) = (directory.join(name), directory.join(format!("{name}.new")));
    let written = || {
        // Directories are as open as what is in them.
        make(directory, mode | (mode & 0o444) >> 2)?;
        // One that is there was left behind, and may be anybody's to read.
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        OpenOptionsExt::mode(&mut options, mode);
        options.write(true).create_new(true).open(&aside)?.write_all(bytes)?;
        fs::rename(&aside, &path)
    };
    written().map_err(|error| unusable(&path, &error))
}

fn make(directory: &Path, mode: u32) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    DirBuilderExt::mode(&mut builder, mode);
    builder.recursive(true).create(directory)
}

/// Removes a context with its certificates.
pub(crate) fn remove(name: &str) -> Result<(), CliError> {
    clear(&meta_directory(name))?;
    forget(name)
}

fn clear(directory: &Path) -> Result<(), CliError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unusable(directory, &error)),
        _ => Ok(()),
    }
}

/// Something that cannot be read or written.
pub(crate) fn unusable(path: &Path, error: &dyn std::fmt::Display) -> CliError {
    CliError::new(format!("cannot use {}: {error}", path.display()))
}
