//! The text of `index.json` and of manifests: OCI's forms, with names in annotations.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Layer;
use crate::Image;
use crate::digest::{Digest, ImageId};
use crate::reference::Reference;
use engine_error::{Error, Result};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const IMAGE_ID: &str = "dev.rnet.image.id";
const NAMES: &str = "dev.rnet.image.names";
const DIGESTS: &str = "dev.rnet.image.digests";

/// What the index says about an image. Names are in canonical form there.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: ImageId,
    pub(super) manifest: Digest,
    pub(super) names: Vec<Reference>,
    pub(super) digests: Vec<Reference>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: String,
    manifests: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// OCI's pointer to a blob.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl Record {
    pub(super) fn of(image: &Image, manifest: Digest) -> Self {
        let parse = |names: &[String]| {
            names.iter().filter_map(|name| Reference::parse(name).ok()).collect()
        };
        Self { id: image.id, manifest, names: parse(&image.names), digests: parse(&image.digests) }
    }
}

/// The manifest of an image whose layers are in the store as they are.
pub(super) fn manifest(config: &[u8], layers: &[Layer]) -> Result<Vec<u8>> {
    let descriptor = |media_type: &str, digest, size| Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        annotations: BTreeMap::new(),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST.to_owned(),
        config: descriptor(CONFIG, Digest::of(config), config.len() as u64),
        layers: layers
            .iter()
            .map(|layer| descriptor(&layer.media_type, layer.blob, layer.blob_size))
            .collect(),
    };
    serde_json::to_vec(&manifest).map_err(|error| Error::internal("cannot write a manifest", error))
}

/// Gives a name to one image and takes it from all others.
pub(super) fn name(images: &mut [(Arc<Image>, Digest)], id: ImageId, name: &Reference) {
    let name = name.without_digest().to_string();
    for (image, _) in images {
        let has = image.names.contains(&name);
        if image.id == id && !has {
            let image = Arc::make_mut(image);
            image.names.push(name.clone());
            image.names.sort();
        } else if image.id != id && has {
            Arc::make_mut(image).names.retain(|known| *known != name);
        }
    }
}

pub(super) fn encode(records: &[Record], size: impl Fn(Digest) -> u64) -> io::Result<Vec<u8>> {
    let canonical =
        |names: &[Reference]| names.iter().map(Reference::canonical).collect::<Vec<_>>().join(" ");
    let manifests = records
        .iter()
        .map(|record| {
            let mut annotations = BTreeMap::from([(IMAGE_ID.to_owned(), record.id.to_string())]);
            for (key, names) in [(NAMES, &record.names), (DIGESTS, &record.digests)] {
                if !names.is_empty() {
                    annotations.insert(key.to_owned(), canonical(names));
                }
            }
            Descriptor {
                media_type: MANIFEST.to_owned(),
                digest: record.manifest,
                size: size(record.manifest),
                annotations,
            }
        })
        .collect();
    let index = Index { schema_version: 2, media_type: INDEX.to_owned(), manifests };
    Ok(serde_json::to_vec_pretty(&index)?)
}

pub(super) fn decode(bytes: &[u8]) -> io::Result<Vec<Record>> {
    let index: Index = serde_json::from_slice(bytes)?;
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut records = Vec::new();
    for descriptor in index.manifests {
        let names = |key| {
            let text = descriptor.annotations.get(key).map_or("", String::as_str);
            let names = text.split_whitespace().map(Reference::parse).collect::<Result<Vec<_>>>();
            names.map_err(|error| wrong(&format!("index.json: {error}")))
        };
        let id = descriptor.annotations.get(IMAGE_ID).and_then(|id| id.parse().ok());
        records.push(Record {
            id: id.ok_or_else(|| wrong("index.json: a manifest without image id"))?,
            manifest: descriptor.digest,
            names: names(NAMES)?,
            digests: names(DIGESTS)?,
        });
    }
    Ok(records)
}
