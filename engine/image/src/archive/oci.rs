//! OCI layouts: an index that leads to manifests, perhaps by further indexes.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Found, Spool};
use crate::Platform;
use crate::digest::Digest;
use crate::reference::Reference;
use engine_error::{Error, Result};

/// Indexes within indexes, at most.
const DEEPEST: u32 = 4;

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    platform: Option<OfferedPlatform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Deserialize)]
struct OfferedPlatform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: String,
}

pub(super) fn images(spool: &Spool<'_>) -> Result<Vec<Found>> {
    let index: Index = spool.json("index.json")?;
    let mut found = Vec::new();
    // One manifest may be listed once for each of its names.
    let mut seen: Vec<(Digest, usize)> = Vec::new();
    for descriptor in index.manifests {
        let name = name(&descriptor.annotations)?;
        let Some(manifest) = resolve(spool, &descriptor, DEEPEST)? else { continue };
        if let Some((_, at)) = seen.iter().find(|(digest, _)| *digest == manifest) {
            let image: &mut Found = &mut found[*at];
            image.names.extend(name);
            continue;
        }
        seen.push((manifest, found.len()));
        found.push(image(spool, manifest, name.into_iter().collect())?);
    }
    if found.is_empty() {
        return Err(Error::invalid(format!("the archive has no image for {}", Platform::host())));
    }
    Ok(found)
}

/// The manifest for this host that a descriptor means.
fn resolve(spool: &Spool<'_>, descriptor: &Descriptor, depth: u32) -> Result<Option<Digest>> {
    let nested = descriptor.media_type.contains("image.index")
        || descriptor.media_type.contains("manifest.list");
    if !nested {
        return Ok(Some(descriptor.digest));
    }
    if depth == 0 {
        return Err(Error::invalid("invalid archive: too many indexes within indexes"));
    }
    let path = blob_path(descriptor.digest);
    spool.expect(&path, descriptor.digest)?;
    let index: Index = spool.json(&path)?;
    let host = Platform::host();
    let rank = |offered: &Descriptor| match &offered.platform {
        Some(platform) => host.rank(&Platform {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
        }),
        None => Some(1000),
    };
    let mut fitting: Vec<_> = index
        .manifests
        .iter()
        // Archives of one platform keep the index of all.
        .filter(|offered| spool.file(&blob_path(offered.digest)).is_ok())
        .filter_map(|offered| Some((rank(offered)?, offered)))
        .collect();
    fitting.sort_by_key(|(rank, _)| *rank);
    match fitting.first() {
        Some((_, best)) => resolve(spool, best, depth - 1),
        None => Ok(None),
    }
}

fn image(spool: &Spool<'_>, manifest: Digest, names: Vec<Reference>) -> Result<Found> {
    let path = blob_path(manifest);
    spool.expect(&path, manifest)?;
    let manifest: Manifest = spool.json(&path)?;
    let mut layers = Vec::new();
    for layer in manifest.layers {
        let path = blob_path(layer.digest);
        spool.expect(&path, layer.digest)?;
        layers.push(path);
    }
    Ok(Found { config: spool.config(&blob_path(manifest.config.digest))?, layers, names })
}

/// The full name that builders leave, or a reference that is one. A mere tag names nothing.
fn name(annotations: &BTreeMap<String, String>) -> Result<Option<Reference>> {
    if let Some(name) = annotations.get("io.containerd.image.name") {
        return Reference::parse(name).map(|name| Some(name.or_latest().without_digest()));
    }
    let name = annotations.get("org.opencontainers.image.ref.name");
    Ok(name
        .filter(|name| name.contains(['/', ':']))
        .and_then(|name| Reference::parse(name).ok().map(|name| name.or_latest().without_digest())))
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
