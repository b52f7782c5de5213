//! What is written down of a volume beside its content.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The newest form of records that this release reads.
const VERSION: u32 = 2;
/// The form of volumes that are local, which earlier releases read too.
const LOCAL_VERSION: u32 = 1;

/// `volume.json`. Whatever is missing has a default; the first release wrote no version.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    version: u32,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) created: Option<DateTime<Utc>>,
    /// Who makes the volume; nobody else if it is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) driver: String,
}

/// A record that could not be read. It stays where it is, and so does what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: String,
}

impl Default for Record {
    fn default() -> Self {
        let (labels, options) = (BTreeMap::new(), BTreeMap::new());
        let (created, driver) = (None, String::new());
        Self { version: LOCAL_VERSION, labels, options, created, driver }
    }
}

impl Record {
    pub(crate) fn new(
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
        driver: &str,
    ) -> Self {
        let version = if driver.is_empty() { LOCAL_VERSION } else { VERSION };
        let (created, driver) = (Some(Utc::now()), driver.to_owned());
        Self { version, labels, options, created, driver }
    }

    /// Reads a record, and says what is wrong with one that cannot be read. Volumes that the first
    /// release made for containers have none.
    pub(crate) fn read(path: &Path) -> (Self, Option<String>) {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return (Self::default(), None),
            Err(error) => return (Self::default(), Some(error.to_string())),
        };
        // A list would do for a structure of defaults.
        let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes);
        match object.and_then(|object| serde_json::from_value::<Self>(object.into())) {
            Ok(record) if record.version <= VERSION => (record, None),
            Ok(record) => {
                let text = format!("version {} is newer than this release reads", record.version);
                (Self::default(), Some(text))
            }
            Err(error) => (Self::default(), Some(error.to_string())),
        }
    }
}
