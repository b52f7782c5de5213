//! Local volumes: directories that outlive containers.
//!
//! `<root>/<name>/_data` is what containers mount, `<root>/<name>/volume.json` what is known of
//! it. A volume that a container's creation made has no such file and no labels.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use engine_error::{Error, Result};

/// The label of volumes that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// The volumes below a directory.
#[derive(Clone, Debug)]
pub struct Volumes {
    root: PathBuf,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// The directory that containers mount.
    pub mountpoint: PathBuf,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    labels: BTreeMap<String, String>,
    created: Option<DateTime<Utc>>,
}

impl Volume {
    /// Whether it was made for a container that named none.
    pub fn is_anonymous(&self) -> bool {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        self.labels.contains_key(ANONYMOUS) || (self.name.len() == 64 && self.name.bytes().all(hex))
    }
}

impl Volumes {
    /// The volumes below `root`, which need not exist yet.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// All volumes, by name.
    pub fn list(&self) -> Result<Vec<Volume>> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::internal("cannot list volumes", error)),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut volumes: Vec<Volume> = names.filter_map(|name| self.find(&name).ok()).collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    /// A volume by name.
    pub fn find(&self, name: &str) -> Result<Volume> {
        // Clients look for these very words.
        let missing = || Error::not_found(format!("get {name}: no such volume"));
        let directory = self.directory(name).map_err(|_| missing())?;
        let mountpoint = directory.join("_data");
        let metadata = std::fs::metadata(&mountpoint).map_err(|_| missing())?;
        let record = std::fs::read(directory.join("volume.json")).ok();
        let record: Record =
            record.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let made = metadata.created().ok().map(DateTime::from);
        Ok(Volume {
            name: name.to_owned(),
            labels: record.labels,
            created: record.created.or(made),
            mountpoint,
        })
    }

    /// Makes a volume; one that exists is given back as it is. An empty name asks for a random one.
    pub fn create(&self, name: &str, mut labels: BTreeMap<String, String>) -> Result<Volume> {
        let name = if name.is_empty() {
            labels.insert(ANONYMOUS.to_owned(), String::new());
            random_name()?
        } else {
            name.to_owned()
        };
        let directory = self.directory(&name)?;
        if let Ok(volume) = self.find(&name) {
            return Ok(volume);
        }
        let error = |error| Error::internal(format!("cannot create volume {name}"), error);
        let private = |path: &Path| {
            std::fs::DirBuilder::new().recursive(true).mode(0o701).create(path).map_err(error)
        };
        private(&directory)?;
        let record = Record { labels, created: Some(Utc::now()) };
        let record = serde_json::to_vec(&record).map_err(|cause| error(cause.into()))?;
        std::fs::write(directory.join("volume.json"), record).map_err(error)?;
        // The data directory last: it is what makes a volume.
        std::fs::DirBuilder::new().mode(0o755).create(directory.join("_data")).map_err(error)?;
        self.find(&name)
    }

    /// Removes a volume with all that is in it.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.find(name)?;
        let error = |error| Error::internal(format!("cannot remove volume {name}"), error);
        std::fs::remove_dir_all(self.directory(name)?).map_err(error)
    }

    /// The directory of a name; a name is never a path.
    fn directory(&self, name: &str) -> Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric();
        let fits = name.len() > 1
            && name.starts_with(plain)
            && name.chars().all(|c| plain(c) || matches!(c, '_' | '.' | '-'));
        if fits {
            return Ok(self.root.join(name));
        }
        Err(Error::invalid(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, \
             use absolute path"
        )))
    }
}

fn random_name() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::internal("cannot name a volume", error.to_string()))?;
    let mut name = String::with_capacity(64);
    for byte in bytes {
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("rnet-volumes-{name}-{}", std::process::id()));
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_volume_is_made_once_and_goes_once() {
        let scratch = Scratch::new("life");
        let volumes = Volumes::new(scratch.0.clone());
        assert_eq!(volumes.list().unwrap(), []);
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let volume = volumes.create("data", labels).unwrap();
        assert!(volume.mountpoint.is_dir());
        assert_eq!(volumes.create("data", BTreeMap::new()).unwrap(), volume);
        assert_eq!(volumes.list().unwrap(), [volume]);
        volumes.remove("data").unwrap();
        let error = volumes.remove("data").unwrap_err();
        assert_eq!(error.to_string(), "get data: no such volume");
    }

    #[test]
    fn a_volume_without_a_name_gets_one() {
        let scratch = Scratch::new("random");
        let volume = Volumes::new(scratch.0.clone()).create("", BTreeMap::new()).unwrap();
        assert_eq!(volume.name.len(), 64);
        assert!(volume.is_anonymous());
    }

    #[test]
    fn names_are_no_paths() {
        let scratch = Scratch::new("paths");
        let volumes = Volumes::new(scratch.0.clone());
        for name in ["..", ".", "a/b", "../x", "a", "-ab", "a\0b"] {
            assert!(volumes.create(name, BTreeMap::new()).is_err(), "{name}");
            assert!(volumes.find(name).is_err(), "{name}");
        }
    }
}
