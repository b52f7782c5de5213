//! Manifests and indexes of a registry, of OCI and of Docker.

use serde::Deserialize;

use crate::Platform;
use crate::digest::Digest;
use crate::registry::{Document, Failure, Registry};

/// Indexes within indexes, at most.
const DEEPEST: u32 = 4;

/// A pointer to a blob.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    platform: Option<Offered>,
}

#[derive(Clone, Debug, Deserialize)]
struct Offered {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// What a name came to.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The digest of what the name meant: an index where there is one.
    pub(super) digest: Digest,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// An index or a manifest: registries and caches confuse media types, the fields tell.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    #[serde(default)]
    schema_version: u32,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// What a document is, for those who do not want the image.
#[derive(Debug)]
pub(super) enum Contents {
    /// An index, of manifests for these platforms.
    Index(Vec<Platform>),
    /// The manifest of something with this configuration.
    Image(Descriptor),
}

/// Looks into a document.
pub(super) fn contents(document: &Document) -> Result<Contents, Failure> {
    let either = read(document)?;
    if let Some(manifests) = either.manifests {
        let platforms = manifests.into_iter().filter_map(|offered| offered.platform);
        return Ok(Contents::Index(platforms.map(Platform::from).collect()));
    }
    either.config.map(Contents::Image).ok_or_else(|| unsupported(document, either.schema_version))
}

fn read(document: &Document) -> Result<Either, Failure> {
    serde_json::from_slice(&document.bytes)
        .map_err(|error| Failure::Other(format!("invalid manifest {}: {error}", document.digest)))
}

fn unsupported(document: &Document, version: u32) -> Failure {
    Failure::Other(format!(
        "unsupported manifest {}: media type {:?}, schema version {version}",
        document.digest, document.media_type
    ))
}

impl From<Offered> for Platform {
    fn from(offered: Offered) -> Self {
        let Offered { os, architecture, variant } = offered;
        Self { os, architecture, variant }
    }
}

/// Follows indexes to the manifest for a platform.
pub(super) async fn resolve(
    registry: &Registry,
    document: Document,
    platform: Option<&Platform>,
) -> Result<Resolved, Failure> {
    let digest = document.digest;
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    let mut document = document;
    for _ in 0..DEEPEST {
        let either = read(&document)?;
        if let Some(manifests) = either.manifests {
            let chosen = choose(&manifests, &wanted)?;
            document = registry.manifest(&chosen.to_string(), Some(chosen)).await?;
            continue;
        }
        let (Some(config), Some(layers)) = (either.config, either.layers) else {
            return Err(unsupported(&document, either.schema_version));
        };
        let image = config.media_type.is_empty()
            || config.media_type.starts_with("application/vnd.oci.image.config")
            || config.media_type.starts_with("application/vnd.docker.container.image")
            || config.media_type == "application/octet-stream";
        if !image {
            return Err(Failure::Other(format!(
                "{} is not an image: its configuration is of type {}",
                document.digest, config.media_type
            )));
        }
        return Ok(Resolved { digest, config, layers });
    }
    Err(Failure::Other(format!("{digest} has too many indexes within indexes")))
}

fn choose(manifests: &[Descriptor], wanted: &Platform) -> Result<Digest, Failure> {
    let mut fitting: Vec<_> = manifests
        .iter()
        .filter_map(|offered| {
            let rank = wanted.rank(&offered.platform.clone()?.into())?;
            Some((rank, offered.digest))
        })
        .collect();
    // The first of equals, as the publisher ordered them.
    fitting.sort_by_key(|(rank, _)| *rank);
    fitting.first().map(|(_, digest)| *digest).ok_or_else(|| {
        Failure::NoPlatform(format!(
            "no matching manifest for {wanted} in the manifest list entries"
        ))
    })
}
