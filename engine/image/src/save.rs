//! `save`: one archive that is an OCI layout and what `docker load` of any age reads.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read, Write};
use std::sync::Arc;

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::Image;
use super::digest::Digest;
use super::find::find;
use super::reference::Reference;
use super::store::Store;
use engine_error::{Error, Result};

/// An image and the names it is saved under.
struct Saved {
    image: Arc<Image>,
    names: BTreeSet<Reference>,
}

/// Writes the images asked for. A name saves that tag; a repository without tag saves all of its
/// tags; an id saves an image without name.
pub(super) fn save(store: &Arc<Store>, references: &[String], archive: impl Write) -> Result<()> {
    // Nothing of what is being read may be swept meanwhile.
    let _ingest = store.ingest();
    let saved = select(store, references)?;
    let mut writer = Writer { tar: Builder::new(archive), written: HashSet::new(), store };
    writer
        .write(&saved)
        .map_err(|error| Error::internal("cannot write the archive of images", error))
}

fn select(store: &Store, references: &[String]) -> Result<Vec<Saved>> {
    let images = store.images();
    let mut saved: Vec<Saved> = Vec::new();
    let mut add = |image: Arc<Image>, name: Option<Reference>| match saved
        .iter_mut()
        .find(|saved| saved.image.id == image.id)
    {
        Some(known) => known.names.extend(name),
        None => saved.push(Saved { image, names: name.into_iter().collect() }),
    };
    for text in references {
        let parsed = Reference::parse(text).ok();
        let repository =
            parsed.as_ref().filter(|name| name.tag().is_none() && name.digest().is_none());
        let mut tags = 0;
        if let Some(repository) = repository {
            for image in &images {
                for name in image.names.iter().filter_map(|name| Reference::parse(name).ok()) {
                    if name.canonical_name() == repository.canonical_name() {
                        add(image.clone(), Some(name));
                        tags += 1;
                    }
                }
            }
        }
        if tags > 0 {
            continue;
        }
        let image = find(&images, text)?;
        let name = parsed.filter(|name| image.names.contains(&name.to_string()));
        add(image, name);
    }
    Ok(saved)
}

struct Writer<'a, W: Write> {
    tar: Builder<W>,
    written: HashSet<Digest>,
    store: &'a Store,
}

impl<W: Write> Writer<'_, W> {
    fn write(&mut self, saved: &[Saved]) -> io::Result<()> {
        for directory in ["blobs/", "blobs/sha256/"] {
            let mut header = header(EntryType::Directory, 0o755, 0);
            self.tar.append_data(&mut header, directory, io::empty())?;
        }
        let mut manifests = Vec::new();
        let mut descriptors = Vec::new();
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for Saved { image, names } in saved {
            let mut layers = Vec::new();
            for chain in &image.layers {
                let layer = self.store.layer(*chain).map_err(io::Error::other)?;
                self.blob(layer.blob)?;
                layers.push(blob_path(layer.blob));
            }
            self.blob(image.id.0)?;
            let manifest = self.store.manifest(image.id);
            let manifest = manifest.ok_or_else(|| io::Error::other("the image was removed"))?;
            let size = self.blob(manifest)?;
            descriptors.extend(descriptors_of(manifest, size, names));
            for name in names {
                let top = image.layers.last().map(Digest::hex).unwrap_or_default();
                let tags = repositories.entry(name.familiar_name()).or_default();
                tags.insert(name.tag().unwrap_or("latest").to_owned(), top);
            }
            manifests.push(json!({
                "Config": blob_path(image.id.0),
                "RepoTags": names.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "Layers": layers,
            }));
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": descriptors,
        });
        self.document("index.json", &index)?;
        self.document("manifest.json", &Value::Array(manifests))?;
        self.document("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
        if !repositories.is_empty() {
            self.document("repositories", &json!(repositories))?;
        }
        self.tar.finish()?;
        self.tar.get_mut().flush()
    }

    /// Writes a blob, unless it is written; returns its size.
    fn blob(&mut self, digest: Digest) -> io::Result<u64> {
        let file = self.store.open_blob(digest).map_err(io::Error::other)?;
        let size = file.metadata()?.len();
        if self.written.insert(digest) {
            let mut header = header(EntryType::Regular, 0o644, size);
            self.tar.append_data(&mut header, blob_path(digest), file.take(size))?;
        }
        Ok(size)
    }

    fn document(&mut self, path: &str, document: &Value) -> io::Result<()> {
        let bytes = serde_json::to_vec(document)?;
        let mut header = header(EntryType::Regular, 0o644, bytes.len() as u64);
        self.tar.append_data(&mut header, path, &bytes[..])
    }
}

/// One descriptor for each name, or one for an image without.
fn descriptors_of(manifest: Digest, size: u64, names: &BTreeSet<Reference>) -> Vec<Value> {
    let plain = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": manifest,
        "size": size,
    });
    if names.is_empty() {
        return vec![plain];
    }
    let annotated = |name: &Reference| {
        let mut descriptor = plain.clone();
        descriptor["annotations"] = json!({
            "io.containerd.image.name": name.canonical(),
            "org.opencontainers.image.ref.name": name.tag().unwrap_or("latest"),
        });
        descriptor
    };
    names.iter().map(annotated).collect()
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}
