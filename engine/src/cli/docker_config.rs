//! `config.json`: what Docker's clients remember for a user. Fields that are not ours are kept.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value};

use super::error::CliError;

/// The file, as it was read.
#[derive(Debug)]
pub(crate) struct DockerConfig {
    path: PathBuf,
    pub(crate) fields: Map<String, Value>,
}

impl DockerConfig {
    /// Reads it; one that is not there is empty.
    pub(crate) fn read() -> Result<Self, CliError> {
        Self::read_from(&directory().join("config.json"))
    }

    fn read_from(path: &Path) -> Result<Self, CliError> {
        let bad = |error: &dyn std::fmt::Display| {
            CliError::new(format!("loading config file: {}: {error}", path.display()))
        };
        let fields = match fs::read(path) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Map::new(),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| bad(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(bad(&error)),
        };
        Ok(Self { path: path.to_owned(), fields })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file: whoever reads it sees the old text or the new one, and it is nobody
    /// else's to read, for there may be passwords in it.
    pub(crate) fn write(&self) -> Result<(), CliError> {
        self.replace().map_err(|error| {
            CliError::new(format!("cannot write {}: {error}", self.path.display()))
        })
    }

    fn replace(&self) -> io::Result<()> {
        // A link leads to where the user keeps it.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(directory)?;
        let (aside, mut file) = temporary(directory)?;
        let written = self.write_to(&mut file).and_then(|()| fs::rename(&aside, &path));
        if written.is_err() {
            let _ = fs::remove_file(&aside);
        }
        written
    }

    fn write_to(&self, file: &mut fs::File) -> io::Result<()> {
        let mut text = Vec::new();
        let formatter = PrettyFormatter::with_indent(b"\t");
        self.fields.serialize(&mut Serializer::with_formatter(&mut text, formatter))?;
        file.write_all(&text)?;
        file.sync_all()
    }
}

/// A new file of nobody else's. Its name is by chance: processes of several containers that write one
/// directory may have the same number, and one that was killed leaves its file.
fn temporary(directory: &Path) -> io::Result<(PathBuf, fs::File)> {
    loop {
        let mut chance = [0; 8];
        getrandom::fill(&mut chance).map_err(|error| io::Error::other(error.to_string()))?;
        let path = directory.join(format!("config.json.{:016x}", u64::from_ne_bytes(chance)));
        let mut options = fs::OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map(|file| (path, file)),
        }
    }
}

/// `DOCKER_CONFIG`, or `~/.docker`.
pub(crate) fn directory() -> PathBuf {
    let named = std::env::var_os("DOCKER_CONFIG").filter(|path| !path.is_empty());
    named.map_or_else(
        || std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default().join(".docker"),
        PathBuf::from,
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_another_process_of_this_number_left_stops_no_write() {
        let name = format!("rnet-docker-config-left-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let left = directory.join(format!("config.json.{}", std::process::id()));
        fs::write(&left, "theirs").unwrap();
        let config = DockerConfig::read_from(&directory.join("config.json")).unwrap();
        let written = config.write();
        let (theirs, files) = (fs::read(&left), fs::read_dir(&directory).unwrap().count());
        fs::remove_dir_all(&directory).unwrap();
        written.unwrap();
        assert_eq!((theirs.unwrap(), files), (b"theirs".to_vec(), 2));
    }

    #[test]
    fn what_is_not_ours_is_kept_and_nobody_else_may_read_it() {
        let name = format!("rnet-docker-config-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let path = directory.join("config.json");
        let mut config = DockerConfig::read_from(&path).unwrap();
        assert!(config.fields.is_empty());
        config.fields.insert("psFormat".to_owned(), json!("table"));
        config.write().unwrap();
        let mut config = DockerConfig::read_from(&path).unwrap();
        config.fields.insert("auths".to_owned(), json!({"a": {}}));
        config.write().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let fields: Value = serde_json::from_str(&text).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        let files = fs::read_dir(&directory).unwrap().count();
        fs::write(&path, "{").unwrap();
        let broken = DockerConfig::read_from(&path).unwrap_err().message;
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(fields, json!({"auths": {"a": {}}, "psFormat": "table"}));
        assert!(text.contains("\n\t\"auths\": {\n\t\t\"a\": {}\n\t}"), "{text}");
        assert_eq!((mode & 0o777, files), (0o600, 1));
        assert!(broken.contains("loading config file"), "{broken}");
    }
}
