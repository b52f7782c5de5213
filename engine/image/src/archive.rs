//! `load`: archives of `docker save` of all ages and OCI layouts in a tar.
//!
//! The archive is read once and may be a pipe: its files are spooled aside with their digests,
//! and those that are wanted become blobs without being copied again.

mod oci;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use tar::EntryType;

use super::compression::{Decoder, Digesting};
use super::digest::Digest;
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
    spool.read(archive).map_err(|error| {
        Error::caused(cnm::Kind::Invalid, "cannot read the archive of images", error)
    })?;
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
        let taken = take(store, &spool, &image, progress)?;
        if names.is_empty() {
            loaded.push(Loaded::Id(taken.id));
        }
        loaded.extend(names.iter().map(|name| Loaded::Name(name.to_string(), taken.id)));
    }
    Ok(loaded)
}

/// Unpacks the layers of an image and adds it.
fn take(
    store: &Store,
    spool: &Spool<'_>,
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
        store.unpack(*chain, *diff_id, blob, &mut |done| {
            // Often enough for a bar, not for each buffer.
            if done == size || done - told >= 1 << 19 {
                told = done;
                progress(Progress {
                    id: Some(id.clone()),
                    status: "Loading layer".to_owned(),
                    detail: Some((done, size)),
                });
            }
        })?;
    }
    store.add_image(&NewImage { config: &found.config, names: &found.names, digests: &[] })
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
        fs::create_dir(&dir).map_err(|error| Error::internal("cannot load", error))?;
        Ok(Self { store, dir, files: HashMap::new(), links: HashMap::new() })
    }

    fn read(&mut self, archive: impl Read) -> io::Result<()> {
        let mut reader = TarReader::new(Decoder::new(archive)?);
        while let Some(entry) = reader.next_entry()? {
            let Some(path) = normal("", &String::from_utf8_lossy(&entry.path)) else { continue };
            if self.files.len() + self.links.len() >= MOST_FILES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too many files"));
            }
            match entry.kind {
                EntryType::Regular | EntryType::Continuous => {
                    let file = self.dir.join(self.files.len().to_string());
                    let mut to = Digesting::new(fs::File::create(&file)?);
                    io::copy(&mut reader, &mut to)?;
                    let (_, digest, size) = to.finish();
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
        if !self.store.has_blob(file.digest) {
            self.store.adopt_blob(&file.path, file.digest)?;
        }
        Ok((file.digest, file.size))
    }
}

impl Drop for Spool<'_> {
    fn drop(&mut self) {
        // What stays is swept when the store is opened next.
        let _ = fs::remove_dir_all(&self.dir);
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
