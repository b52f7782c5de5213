//! Where volumes are on disk.
//!
//! `<root>/<name>/_data` is what containers mount, `<root>/<name>/volume.json` what is known of it.
//! What is being made or removed has a name with a leading dot, which no volume can have.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::DateTime;

use super::record::{Damaged, Record};
use super::{ANONYMOUS, Volume};
use engine_error::{Error, Result};

/// The directory with a volume's content, below that of the volume.
const DATA: &str = "_data";

#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    next: AtomicU64,
    /// Whom new volumes belong to, if that is not root.
    owner: Option<(u32, u32)>,
}

/// The directory with whom a driver has a volume mounted for, below that of the volume.
const NOTES: &str = "mounted";

impl Place {
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        let failed = |error| Error::internal(format!("cannot open {}", root.display()), error);
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(failed)?;
        for entry in fs::read_dir(&root).map_err(failed)?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                discard(&entry.path());
            }
        }
        Ok(Self { root, next: AtomicU64::new(0), owner: None })
    }

    pub(super) fn owned_by(self, owner: Option<(u32, u32)>) -> Self {
        Self { owner, ..self }
    }

    pub(super) fn list(&self) -> Result<Vec<Volume>> {
        let entries =
            fs::read_dir(&self.root).map_err(|error| Error::internal("cannot list volumes", error));
        let names = entries?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut volumes: Vec<Volume> = names.filter_map(|name| self.find(&name).ok()).collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    pub(super) fn find(&self, name: &str) -> Result<Volume> {
        // Clients look for these very words.
        let missing = || Error::not_found(format!("get {name}: no such volume"));
        let directory = self.directory(name).map_err(|_| missing())?;
        if !has_data(&directory) {
            return Err(missing());
        }
        let mountpoint = directory.join(DATA);
        let (record, damage) = Record::read(&directory.join("volume.json"));
        let made = fs::metadata(&directory).and_then(|metadata| metadata.created());
        let made = made.ok().map(DateTime::from);
        Ok(Volume {
            name: name.to_owned(),
            driver: record.driver,
            labels: record.labels,
            options: record.options,
            created: record.created.or(made),
            mountpoint,
            damage,
        })
    }

    pub(super) fn damage_of(&self, volume: Volume) -> Option<Damaged> {
        let path = self.root.join(&volume.name).join("volume.json");
        volume.damage.map(|error| Damaged { path, error })
    }

    /// Makes a volume, or gives the one that has the name.
    pub(super) fn make(
        &self,
        name: &str,
        mut labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
        driver: &str,
    ) -> Result<(Volume, bool)> {
        let name = if name.is_empty() {
            labels.insert(ANONYMOUS.to_owned(), String::new());
            random_name()?
        } else {
            name.to_owned()
        };
        let directory = self.directory(&name)?;
        if let Ok(volume) = self.find(&name) {
            return Ok((volume, false));
        }
        let failed = |error| Error::internal(format!("cannot create volume {name}"), error);
        // Aside first: a volume is there whole or not at all.
        let aside = self.aside();
        let record = Record::new(labels, options, driver);
        let made = write_volume(&aside, &record).and_then(|()| {
            if let Some((uid, gid)) = self.owner {
                std::os::unix::fs::lchown(aside.join(DATA), Some(uid), Some(gid))?;
            }
            fs::rename(&aside, &directory)
        });
        if made.is_err() {
            discard(&aside);
        }
        made.map_err(failed)?;
        Ok((self.find(&name)?, true))
    }

    /// Takes a volume out of the way. It is none any more, and what it had is at the path returned.
    pub(super) fn put_aside(&self, name: &str) -> Result<PathBuf> {
        self.find(name)?;
        let directory = self.directory(name)?;
        // Its files are not the volume's to remove.
        let mounted = tree::mount_in(&directory);
        let mounted = mounted.map_err(|error| Error::internal(format!("remove {name}"), error))?;
        if let Some(mount) = mounted {
            return Err(Error::conflict(format!(
                "remove {name}: something is mounted at {}: unmount it first",
                mount.display()
            )));
        }
        let aside = self.aside();
        fs::rename(directory, &aside)
            .map_err(|error| Error::internal(format!("cannot remove volume {name}"), error))?;
        Ok(aside)
    }

    /// The directory of all volumes.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A path on the volumes' file system that nothing has and no container sees.
    pub(super) fn aside(&self) -> PathBuf {
        self.root.join(format!(".{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// Where it is noted whom a driver has a volume mounted for.
    pub(super) fn notes(&self, name: &str) -> PathBuf {
        self.root.join(name).join(NOTES)
    }

    /// The directory of a name; a name is never a path.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric();
        let fits = name.len() > 1
            && name.len() < 256
            && name.starts_with(plain)
            && name.chars().all(|c| plain(c) || matches!(c, '_' | '.' | '-'));
        if fits {
            return Ok(self.root.join(name));
        }
        if name.len() == 1 {
            return Err(Error::invalid(format!(
                "create {name}: volume name is too short, names should be at least two alphanumeric \
                 characters"
            )));
        }
        Err(Error::invalid(format!(
            "create {name}: {name:?} includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, \
             use absolute path"
        )))
    }
}

fn write_volume(directory: &Path, record: &Record) -> io::Result<()> {
    DirBuilder::new().mode(0o701).create(directory)?;
    // Labels and options that somebody chose must outlive a power cut; nobody waits for the disk otherwise.
    let labelled = record.labels.keys().any(|key| key != ANONYMOUS);
    let chosen = labelled || !record.options.is_empty() || !record.driver.is_empty();
    let mut file = fs::File::create_new(directory.join("volume.json"))?;
    file.write_all(&serde_json::to_vec(record)?)?;
    if chosen {
        file.sync_all()?;
    }
    DirBuilder::new().mode(0o755).create(directory.join(DATA))
}

/// Whether a directory has what makes it a volume. The directory itself is asked: what is mounted at
/// the content may never answer.
fn has_data(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut data = entries.filter(|entry| entry.file_name() == DATA);
    data.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

/// Removes what was put aside. What cannot be removed now goes when the volumes are opened next.
pub(super) fn discard(aside: &Path) {
    if let Err(error) = fs::remove_dir_all(aside)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, dir = %aside.display(), "cannot remove what was a volume");
    }
}

pub(super) fn random_name() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::internal("cannot name a volume", error.to_string()))?;
    let mut name = String::with_capacity(64);
    for byte in bytes {
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}
