//! What a registry says of a name, without fetching more than that takes.

use serde::Deserialize;

use super::{LARGEST_CONFIG, manifest, open};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::registry::Failure;
use crate::{Images, Platform, RegistryAuth};
use engine_error::{Error, Kind, Result};

/// A manifest or an index in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What it is for.
    pub platforms: Vec<Platform>,
}

/// The part of a configuration that tells for what it is.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

pub(crate) async fn describe(
    images: &Images,
    name: &str,
    auth: Option<RegistryAuth>,
) -> Result<Described> {
    if name.parse::<Digest>().is_ok() {
        return Err(Error::new(Kind::Internal, "no manifest found for full image ID"));
    }
    let reference = Reference::parse(name)?.or_latest();
    let promised = reference.digest();
    let asked = promised.map(|digest| digest.to_string());
    let asked = asked.as_deref().or(reference.tag()).unwrap_or("latest");
    let described = open(images, auth.as_ref(), &reference, |registry| async move {
        let document = registry.manifest(asked, promised).await?;
        let platforms = match manifest::contents(&document)? {
            manifest::Contents::Index(platforms) => platforms,
            manifest::Contents::Image(config) => {
                let bytes = registry.small_blob(config.digest, LARGEST_CONFIG).await?;
                // What is no image is for nothing.
                let config: Option<Config> = serde_json::from_slice(&bytes).ok();
                config.into_iter().filter(|config| !config.os.is_empty()).map(platform).collect()
            }
        };
        let (digest, size) = (document.digest, document.bytes.len() as u64);
        Ok(Described { media_type: document.media_type, digest, size, platforms })
    });
    let (_, described) = described.await.map_err(|failure| match failure {
        Failure::NoCredentials(_) => failure.into_error(&reference),
        other => other.into_plain_error(),
    })?;
    Ok(described)
}

fn platform(config: Config) -> Platform {
    let Config { os, architecture, variant } = config;
    Platform { os, architecture, variant }
}
