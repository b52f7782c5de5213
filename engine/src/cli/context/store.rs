//! The store of contexts, which Docker's clients read and write, too.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::super::docker_config;
use super::super::error::CliError;

/// The context of those who choose none: what flags and the environment say.
pub(crate) const DEFAULT: &str = "default";

/// The files of a client's certificates.
pub(crate) const PEMS: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// A context as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    /// Its `meta.json`.
    pub(crate) meta: Value,
}

impl Stored {
    /// A context of this endpoint.
    pub(crate) fn new(name: &str, description: Option<&str>, host: &str, unverified: bool) -> Self {
        let mut metadata = Map::new();
        if let Some(text) = description.filter(|text| !text.is_empty()) {
            metadata.insert("Description".to_owned(), json!(text));
        }
        let endpoint = json!({"Host": host, "SkipTLSVerify": unverified});
        let endpoints = json!({"docker": endpoint});
        Self { meta: json!({"Name": name, "Metadata": metadata, "Endpoints": endpoints}) }
    }

    /// Where its daemon is.
    pub(crate) fn host(&self) -> &str {
        self.meta["Endpoints"]["docker"]["Host"].as_str().unwrap_or_default()
    }

    /// What its user says of it.
    pub(crate) fn description(&self) -> &str {
        self.meta["Metadata"]["Description"].as_str().unwrap_or_default()
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.meta["Name"].as_str().unwrap_or_default()
    }
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
    let meta: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| unusable(&path, &error))?;
    Ok(Stored { meta: meta.into() })
}

/// All contexts, by name.
pub(crate) fn list() -> Vec<Stored> {
    let meta = docker_config::directory().join("contexts/meta");
    let entries = fs::read_dir(meta).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| fs::read(entry.path().join("meta.json")).ok());
    let metas = texts.filter_map(|text| serde_json::from_slice::<Map<String, Value>>(&text).ok());
    let mut all: Vec<_> = metas.map(|meta| Stored { meta: meta.into() }).collect();
    all.sort_by(|a, b| a.name().cmp(b.name()));
    all
}

/// Writes a context; whoever reads it meanwhile sees the old one or the new one.
pub(crate) fn write(stored: &Stored) -> Result<(), CliError> {
    let directory = meta_directory(stored.name());
    put(&directory, "meta.json", stored.meta.to_string().as_bytes())
}

/// Writes a file of a context.
pub(crate) fn put(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), CliError> {
    let (path, aside) = (directory.join(name), directory.join(format!("{name}.new")));
    let written = make(directory)
        .and_then(|()| fs::write(&aside, bytes))
        .and_then(|()| {
            let mode = if name.contains("key") { 0o600 } else { 0o644 };
            fs::set_permissions(&aside, std::os::unix::fs::PermissionsExt::from_mode(mode))
        })
        .and_then(|()| fs::rename(&aside, &path));
    written.map_err(|error| unusable(&path, &error))
}

fn make(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o755);
    builder.recursive(true).create(directory)
}

/// Removes a context with its certificates.
pub(crate) fn remove(name: &str) -> Result<(), CliError> {
    for directory in [meta_directory(name), tls_directory(name)] {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unusable(&directory, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Something that cannot be read or written.
pub(crate) fn unusable(path: &Path, error: &dyn std::fmt::Display) -> CliError {
    CliError::new(format!("cannot use {}: {error}", path.display()))
}
