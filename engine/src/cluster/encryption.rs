//! This host's part in encrypted networks: its key, and what the others are told of it.
//!
//! The key is made once, and kept where nobody else can read it. It is given to the kernel and to nobody else; the others are
//! told the public half, which the kernel says.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::PoisonError;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::record::{KeyRecord, NodeRecord};
use cluster::{Cluster, Place};
use cnm::controller::Entropy;
use cnm::{Kind, WireGuard, wireguard};
use drivers::kernel::PrivateKey;

use super::member::{Below, Member};
use crate::network::Chance;
use crate::settings::Settings;
use engine_error::{Error, Result};

/// What the others are told, or why this host cannot encrypt.
pub(super) type Standing = std::result::Result<KeyRecord, String>;

/// Takes up the key of this host, or makes one.
pub(super) fn begin(below: &Below, place: &Place) -> Standing {
    let key = read(&below.settings).and_then(|known| match known {
        Some(known) => Ok(known),
        None => make(&below.settings),
    });
    let held = key.and_then(|key| Ok(below.networks.kernel().hold_key(key)?));
    let port = place.wireguard_port.unwrap_or(wireguard::PORT);
    held.map(|key| KeyRecord { key, port }).map_err(|error| error.chain())
}

/// How a host takes part in what is encrypted, if it can.
pub(super) fn part(cluster: &Cluster, record: &NodeRecord) -> Option<WireGuard> {
    let KeyRecord { key, port } = record.wireguard?;
    Some(WireGuard { key, port, address: cluster.inside(record.number)? })
}

impl Member {
    /// How this host takes part in what is encrypted, or why it cannot.
    pub fn wireguard(&self) -> Result<WireGuard> {
        let refused = |why: String| {
            Error::new(Kind::NotImplemented, format!("this host cannot encrypt: {why}"))
        };
        let KeyRecord { key, port } = self.standing().clone().map_err(refused)?;
        let inside = self.cluster.number().and_then(|number| self.cluster.inside(number));
        let not_yet = || Error::new(Kind::Unavailable, "this host is not in its cluster yet");
        Ok(WireGuard { key, port, address: inside.ok_or_else(not_yet)? })
    }

    /// This host takes another key, and the others are told of it. Blocks.
    pub fn rekey(&self) -> Result<WireGuard> {
        let _alone = self.rekeying.lock().unwrap_or_else(PoisonError::into_inner);
        // A host that cannot encrypt has none to change.
        self.wireguard()?;
        let key = make(&self.below.settings)?;
        let key = self.below.networks.kernel().hold_key(key)?;
        let told = KeyRecord {
            key,
            port: self.standing().clone().map_or(wireguard::PORT, |own| own.port),
        };
        *self.standing() = Ok(told);
        self.cluster.describe_key(told);
        let own = self.wireguard()?;
        self.below.networks.tell_wireguard(Some(own))?;
        Ok(own)
    }
}

fn place(settings: &Settings) -> PathBuf {
    settings.data_root.join("wireguard.key")
}

/// The key that is kept, if one is. One that cannot be read is not made anew: somebody should know.
fn read(settings: &Settings) -> Result<Option<PrivateKey>> {
    let file = place(settings);
    let failed =
        |why: String| Error::new(Kind::Internal, format!("cannot read {}: {why}", file.display()));
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    let bytes = STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
    let bytes =
        bytes.ok_or_else(|| failed("it is no key; remove it to have one made".to_owned()))?;
    Ok(Some(PrivateKey::from_random(bytes)))
}

/// Makes a key and keeps it in place of the one before.
fn make(settings: &Settings) -> Result<PrivateKey> {
    let file = place(settings);
    let key = PrivateKey::from_random(Chance.bytes());
    let written = write(&file, &STANDARD.encode(key.bytes()));
    let failed = |error| Error::internal(format!("cannot write {}", file.display()), error);
    written.map_err(failed).map(|()| key)
}

fn write(file: &std::path::Path, text: &str) -> io::Result<()> {
    let beside = file.with_extension("part");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    new.write_all(text.as_bytes())?;
    new.write_all(b"\n")?;
    new.sync_all()?;
    fs::rename(&beside, file)?;
    file.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// A directory of a test.
    fn settings(name: &str) -> Settings {
        let name = format!("rnet-key-{name}-{}", std::process::id());
        let data_root = std::env::temp_dir().join(name);
        fs::create_dir(&data_root).unwrap();
        Settings { data_root, ..Settings::default() }
    }

    #[test]
    fn a_key_is_kept_where_only_root_reads_it_and_found_again() {
        let settings = settings("kept");
        let before = read(&settings).unwrap().is_none();
        let first = *make(&settings).unwrap().bytes();
        let mode = fs::metadata(place(&settings)).unwrap().mode() & 0o777;
        let again = *read(&settings).unwrap().unwrap().bytes();
        let next = *make(&settings).unwrap().bytes();
        let last = *read(&settings).unwrap().unwrap().bytes();
        let files = fs::read_dir(&settings.data_root).unwrap().count();
        fs::remove_dir_all(&settings.data_root).unwrap();
        assert_eq!((before, mode, files), (true, 0o600, 1));
        assert_eq!((first, next), (again, last));
        assert_ne!(first, next);
    }

    #[test]
    fn what_is_no_key_is_told_and_left() {
        let settings = settings("nonsense");
        fs::write(place(&settings), "nonsense").unwrap();
        let error = read(&settings).unwrap_err().to_string();
        let left = fs::read_to_string(place(&settings)).unwrap();
        fs::remove_dir_all(&settings.data_root).unwrap();
        assert!(error.contains("wireguard.key"), "{error}");
        assert_eq!(left, "nonsense");
    }
}
