//! `load`: archives of `docker save` of all ages and OCI layouts in a tar.
//!
//! The archive is read once and may be a pipe: its files are spooled aside with their digests,
//! and those that are wanted become blobs without being copied again. What looks like a layer is
//! unpacked while the rest is still read.

mod early;
mod oci;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tar::EntryType;

use self::early::{Early, Unpacked};
use super::compression::{Decoder, Digesting};
use super::digest::Digest;
use super::limits::{Budget, ENTRY, Limited, Limits, Packed, Room};
use super::reference::Reference;
use super::store::{NewImage, Store};
use super::tarball::TarReader;
use super::{Image, Loaded, Progress, config};
use engine_error::{Error, Result};

/// Largest JSON document in an archive.
const LARGEST_DOCUMENT: u64 = 8 << 20;
/// Most files in an archive.
const MOST_FILES: usize = 100_000;

/// One image of an archive, wherever it said so.
struct Found {
    config: Vec<u8>,
    /// Where the layers are in the archive, lowest first.
    layers: Vec<String>,
    names: Vec<Reference>,
}

#[derive(Deserialize)]
struct DockerManifest {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    names: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
}

pub(super) fn load(
    store: &Arc<Store>,
    archive: impl Read,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Loaded>> {
    let _ingest = store.ingest();
    let mut spool = Spool::new(store)?;
    let read = early::while_read(store, |early| spool.read(archive, Limits::default(), early));
    let mut early = read.map_err(|error| refused("cannot read the archive of images", error))?;
    let found = if spool.has("manifest.json") {
        docker_images(&spool)?
    } else if spool.has("index.json") {
        oci::images(&spool)?
    } else {
        return Err(Error::invalid(
            "not an archive of images: it has neither manifest.json nor index.json; \
             a tar of a root file system is for import",
        ));
    };
    let mut loaded = Vec::new();
    for image in found {
        let names = &image.names;
        let taken = take(store, &spool, &mut early, &image, progress)?;
        if names.is_empty() {
            loaded.push(Loaded::Id(taken.id));
        }
        loaded.extend(names.iter().map(|name| Loaded::Name(name.to_string(), taken.id)));
    }
    Ok(loaded)
}

/// The error of an archive that cannot be taken in: the archive's fault, but for a full disk.
pub(super) fn refused(what: &str, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded
        | io::ErrorKind::ReadOnlyFilesystem => cnm::Kind::Internal,
        _ => cnm::Kind::Invalid,
    };
    Error::caused(kind, what, error)
}

/// Unpacks the layers of an image and adds it.
fn take(
    store: &Store,
    spool: &Spool<'_>,
    early: &mut Unpacked,
    found: &Found,
    progress: &mut dyn FnMut(Progress),
) -> Result<Arc<Image>> {
    let parsed = config::parse(&found.config)?;
    let chains = parsed.chains()?;
    if chains.len() != found.layers.len() {
        return Err(Error::invalid(format!(
            "invalid archive: the configuration has {} layers, the manifest {}",
            chains.len(),
            found.layers.len()
        )));
    }
    for ((chain, diff_id), path) in chains.iter().zip(&parsed.diff_ids).zip(&found.layers) {
        if store.has_layer(*chain) {
            continue;
        }
        let (blob, size) = spool.blob(path)?;
        let id = diff_id.short();
        let mut told = 0;
        let mut bar = |done| {
            // Often enough for a bar, not for each buffer.
            if done == size || done - told >= 1 << 19 {
                told = done;
                progress(Progress {
                    id: Some(id.clone()),
                    status: "Loading layer".to_owned(),
                    detail: Some((done, size)),
                    aux: None,
                });
            }
        };
        match early.remove(&blob) {
            Some(layer) => {
                store.place(layer, *chain, *diff_id, blob)?;
                bar(size);
            }
            None => store.unpack(*chain, *diff_id, blob, &mut bar)?,
        }
    }
    store.add_image(&NewImage {
        config: &found.config,
        names: &found.names,
        digests: &[],
        parent: None,
    })
}

fn docker_images(spool: &Spool<'_>) -> Result<Vec<Found>> {
    let manifests: Vec<DockerManifest> = spool.json("manifest.json")?;
    let mut found = Vec::new();
    for manifest in manifests {
        let names = manifest.names.unwrap_or_default();
        found.push(Found {
            config: spool.config(&manifest.config)?,
            layers: manifest.layers.unwrap_or_default(),
            names: names.iter().map(|name| Reference::parse(name)).collect::<Result<_>>()?,
        });
    }
    Ok(found)
}

/// The files of an archive, aside.
struct Spool<'a> {
    store: &'a Store,
    dir: PathBuf,
    files: HashMap<String, Spooled>,
    /// Links of old archives, where images share a layer.
    links: HashMap<String, String>,
}

#[derive(Clone)]
struct Spooled {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

impl<'a> Spool<'a> {
    fn new(store: &'a Store) -> Result<Self> {
        let dir = store.temporary();
        let failed = |error| Error::internal(format!("cannot make {}", dir.display()), error);
        fs::create_dir(&dir).map_err(failed)?;
        Ok(Self { store, dir, files: HashMap::new(), links: HashMap::new() })
    }

    fn read(&mut self, archive: impl Read, limits: Limits, early: &Early) -> io::Result<()> {
        let packed = Packed::default();
        let decoder = Decoder::new(packed.count(archive))?;
        let mut reader = TarReader::new(Limited::new(decoder, limits, packed.clone()));
        let mut budget = Budget::new(limits, packed, Room::of(&self.dir));
        while let Some(entry) = reader.next_entry()? {
            let Some(path) = normal("", &String::from_utf8_lossy(&entry.path)) else { continue };
            if self.files.len() + self.links.len() >= MOST_FILES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too many files"));
            }
            match entry.kind {
                EntryType::Regular | EntryType::Continuous => {
                    let file = self.dir.join(self.files.len().to_string());
                    budget.allows(entry.size)?;
                    budget.store(entry.stored.saturating_add(ENTRY))?;
                    let (digest, size) = write(&mut reader, &file, &mut budget)?;
                    early.offer(&file, digest, size);
                    self.files.insert(path, Spooled { path: file, digest, size });
                }
                EntryType::Symlink | EntryType::Link => {
                    let above = match entry.kind {
                        EntryType::Symlink => path.rsplit_once('/').map_or("", |(above, _)| above),
                        _ => "",
                    };
                    let target = String::from_utf8_lossy(&entry.link).into_owned();
                    self.links.extend(normal(above, &target).map(|target| (path, target)));
                }
                _ => {}
            }
        }
        io::copy(&mut reader.into_inner(), &mut io::sink()).map(drop)
    }

    fn has(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    fn file(&self, path: &str) -> Result<&Spooled> {
        let missing = || Error::invalid(format!("invalid archive: it has no {path}"));
        let mut name = normal("", path).ok_or_else(missing)?;
        for _ in 0..8 {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        self.files.get(&name).ok_or_else(missing)
    }

    fn document(&self, path: &str) -> Result<Vec<u8>> {
        let file = self.file(path)?;
        if file.size > LARGEST_DOCUMENT {
            return Err(Error::invalid(format!("invalid archive: {path} is larger than 8 MiB")));
        }
        let current =
            if file.path.exists() { file.path.clone() } else { self.store.blob_path(file.digest) };
        fs::read(current).map_err(|error| Error::internal(format!("cannot read {path}"), error))
    }

    fn json<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T> {
        serde_json::from_slice(&self.document(path)?).map_err(|error| {
            Error::caused(cnm::Kind::Invalid, format!("invalid archive: {path}"), error)
        })
    }

    /// A configuration; where its name is its digest, that must be right.
    fn config(&self, path: &str) -> Result<Vec<u8>> {
        let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".json");
        if let Ok(promised) = format!("sha256:{name}").parse::<Digest>() {
            self.expect(path, promised)?;
        }
        self.document(path)
    }

    fn expect(&self, path: &str, promised: Digest) -> Result<()> {
        let digest = self.file(path)?.digest;
        if digest == promised {
            return Ok(());
        }
        Err(Error::invalid(format!("invalid archive: the digest of {path} is {digest}")))
    }

    /// Makes a blob of a layer of the archive.
    fn blob(&self, path: &str) -> Result<(Digest, u64)> {
        let file = self.file(path)?;
        if self.store.has_blob(file.digest) {
            return Ok((file.digest, file.size));
        }
        let adopted = self.store.adopt_layer(&file.path, file.digest);
        adopted
            .map(|digest| (digest, file.size))
            .map_err(|error| refused(&format!("cannot take {path} of the archive"), error))
    }
}

impl Drop for Spool<'_> {
    fn drop(&mut self) {
        // What stays is swept when the store is opened next.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Writes the content of an entry, holes as zeros that count as what they are.
fn write(from: &mut impl Read, to: &Path, budget: &mut Budget) -> io::Result<(Digest, u64)> {
    let mut to = Digesting::new(fs::File::create_new(to)?);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            let (_, digest, size) = to.finish();
            return Ok((digest, size));
        }
        budget.show(count as u64)?;
        to.write_all(&buffer[..count])?;
    }
}

/// A path of an archive without dots; nothing if it leaves the archive.
fn normal(above: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = above.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            other => parts.push(other),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tarball::tests::Tar;
    use crate::tests::Scratch;

    const LIMITS: Limits = Limits { size: 1 << 40, free: 1 << 20, ratio: 100 };

    /// Spools an archive, and says how many bytes the disk got.
    fn spool(archive: &[u8]) -> (io::Result<()>, u64) {
        let scratch = Scratch::new();
        let store = Store::open(&scratch.path("images")).unwrap();
        let mut spool = Spool::new(&store).unwrap();
        let read = early::while_read(&store, |early| spool.read(archive, LIMITS, early)).map(drop);
        (read, tree::size_of(&spool.dir))
    }

    #[test]
    fn an_archive_that_is_a_bomb_is_refused_before_it_fills_the_disk() {
        let zeros = vec![0; 8 << 20];
        let packed = zstd::encode_all(&Tar::new().file("a", &zeros).finish()[..], 3).unwrap();
        let sparse = Tar::new().sparse("a", 8 << 20, &[]).finish();
        for bomb in [packed, sparse] {
            let (read, written) = spool(&bomb);
            let error = read.unwrap_err().to_string();
            assert!(error.contains("decompression bomb"), "{error}");
            assert!(written <= 2 << 20, "{written} bytes were written");
        }
        spool(&Tar::new().file("a", &zeros).finish()).0.unwrap();
    }

    #[test]
    fn a_header_that_promises_more_than_the_disk_has_is_refused_at_once() {
        let huge = Tar::new().pax(&[("size", b"1000000000000")]).file("a", b"");
        let (read, written) = spool(&huge.finish());
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::StorageFull);
        let huge = Tar::new().pax(&[("size", b"9000000000000000000")]).file("a", b"");
        assert!(spool(&huge.finish()).0.is_err());
        assert_eq!(written, 0);
    }
}
