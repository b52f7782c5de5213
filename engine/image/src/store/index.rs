//! The text of `index.json` and of manifests: OCI's forms, with names in annotations.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Layer;
use crate::Image;
use crate::digest::{Digest, ImageId};
use crate::reference::Reference;
use engine_error::{Error, Result};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const FORM: &str = "dev.rnet.image.version";
const IMAGE_ID: &str = "dev.rnet.image.id";
const NAMES: &str = "dev.rnet.image.names";
const DIGESTS: &str = "dev.rnet.image.digests";
const PARENT: &str = "dev.rnet.image.parent";
const TAGGED: &str = "dev.rnet.image.tagged";

/// What the index says about an image. Names are in canonical form there.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) id: ImageId,
    pub(super) manifest: Digest,
    pub(super) names: Vec<Reference>,
    pub(super) digests: Vec<Reference>,
    pub(super) parent: Option<ImageId>,
    /// Records of earlier releases do not tell.
    pub(super) tagged: Option<DateTime<Utc>>,
}

/// The form of the entries. The first release wrote none: that is 1.
const VERSION: &str = "1";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    #[serde(default = "schema_version")]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    /// Each is a [`Descriptor`]; one that is none is kept as it is.
    #[serde(default)]
    manifests: Vec<Value>,
}

fn schema_version() -> u32 {
    2
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
        let (names, digests) = (parse(&image.names), parse(&image.digests));
        let Image { id, parent, tagged, .. } = *image;
        Self { id, manifest, names, digests, parent, tagged }
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

/// Gives a name to one image and takes it from all others. It is noted when that was, also of a name
/// that the image has.
pub(crate) fn name<'i>(
    images: impl Iterator<Item = &'i mut Arc<Image>>,
    id: ImageId,
    name: &Reference,
) {
    let name = name.without_digest().to_string();
    for image in images {
        let has = image.names.contains(&name);
        if image.id == id {
            let image = Arc::make_mut(image);
            image.tagged = Some(Utc::now());
            if !has {
                image.names.push(name.clone());
                image.names.sort();
            }
        } else if has {
            Arc::make_mut(image).names.retain(|known| *known != name);
        }
    }
}

/// The text of the index: the records, and entries that could not be read, as they are.
pub(super) fn encode(
    records: &[Record],
    unread: Vec<Value>,
    size: impl Fn(Digest) -> u64,
) -> io::Result<Vec<u8>> {
    let canonical =
        |names: &[Reference]| names.iter().map(Reference::canonical).collect::<Vec<_>>().join(" ");
    let manifests = records
        .iter()
        .map(|record| {
            let mut annotations = BTreeMap::from([
                (FORM.to_owned(), VERSION.to_owned()),
                (IMAGE_ID.to_owned(), record.id.to_string()),
            ]);
            for (key, names) in [(NAMES, &record.names), (DIGESTS, &record.digests)] {
                if !names.is_empty() {
                    annotations.insert(key.to_owned(), canonical(names));
                }
            }
            annotations.extend(record.parent.map(|id| (PARENT.to_owned(), id.to_string())));
            let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Nanos, true);
            annotations.extend(record.tagged.map(|time| (TAGGED.to_owned(), text(time))));
            serde_json::to_value(Descriptor {
                media_type: MANIFEST.to_owned(),
                digest: record.manifest,
                size: size(record.manifest),
                annotations,
            })
        })
        .chain(unread.into_iter().map(Ok))
        .collect::<serde_json::Result<_>>()?;
    let index = Index { schema_version: 2, media_type: INDEX.to_owned(), manifests };
    Ok(serde_json::to_vec_pretty(&index)?)
}

/// The entries of an index; none of one that was never written.
pub(super) fn entries(bytes: &[u8]) -> io::Result<Vec<Value>> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(serde_json::from_slice::<Index>(bytes)?.manifests)
}

/// What an entry says, or what is wrong with it.
pub(super) fn record(entry: &Value) -> Result<Record, String> {
    let descriptor = Descriptor::deserialize(entry).map_err(|error| error.to_string())?;
    let annotation = |key| descriptor.annotations.get(key).map(String::as_str);
    match annotation(FORM) {
        None | Some(VERSION) => {}
        Some(other) => return Err(format!("its form {other} is newer than this release reads")),
    }
    let names = |key| {
        let names = annotation(key).unwrap_or_default().split_whitespace().map(Reference::parse);
        names.collect::<Result<Vec<_>>>().map_err(|error| error.to_string())
    };
    let id = annotation(IMAGE_ID).and_then(|id| id.parse().ok());
    Ok(Record {
        id: id.ok_or("it has no id of an image")?,
        manifest: descriptor.digest,
        names: names(NAMES)?,
        digests: names(DIGESTS)?,
        // Nothing rests on it.
        parent: annotation(PARENT).and_then(|id| id.parse().ok()),
        tagged: annotation(TAGGED).and_then(|time| time.parse().ok()),
    })
}

/// The configuration that a manifest names; nothing for what is no manifest.
pub(super) fn config_of(bytes: &[u8]) -> Option<Digest> {
    serde_json::from_slice::<Manifest>(bytes).ok().map(|manifest| manifest.config.digest)
}

/// The blobs that a manifest names.
pub(super) fn blobs_of(bytes: &[u8]) -> Option<Vec<Digest>> {
    let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
    let layers = manifest.layers.iter().map(|layer| layer.digest);
    Some([manifest.config.digest].into_iter().chain(layers).collect())
}
