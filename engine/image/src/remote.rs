//! A repository as a client without a store sees it: manifests that are read, written and put
//! together.

use super::digest::Digest;
use super::reference::Reference;
use super::registry::{Access, Begun, Failure, Registry, endpoints};
use super::{Options, RegistryAuth};
use engine_error::{Error, Result};

/// Largest configuration of an image.
const LARGEST_CONFIG: usize = super::config::LARGEST;

/// A repository in its registry.
#[derive(Debug)]
pub struct Remote(Registry);

/// A manifest or an index, byte for byte.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// What it is.
    pub media_type: String,
}

impl Remote {
    /// Reaches the registry of a name to read there. `insecure` lets it have plain HTTP or a
    /// certificate that nobody vouches for.
    pub async fn read(
        reference: &Reference,
        auth: Option<RegistryAuth>,
        insecure: bool,
    ) -> Result<Self> {
        Self::open(reference, auth, insecure, Access::Pull).await
    }

    /// Reaches it to write there, and to read these other repositories.
    pub async fn write(
        reference: &Reference,
        auth: Option<RegistryAuth>,
        insecure: bool,
        others: Vec<String>,
    ) -> Result<Self> {
        Self::open(reference, auth, insecure, Access::Push(others)).await
    }

    async fn open(
        reference: &Reference,
        auth: Option<RegistryAuth>,
        insecure: bool,
        access: Access,
    ) -> Result<Self> {
        let listed = if insecure { vec![reference.domain().to_owned()] } else { Vec::new() };
        let options = Options { insecure: listed, ..Options::default() };
        let mut failure = Failure::Other(format!("no registry for {reference}"));
        for place in endpoints(reference, &options) {
            let opened = Registry::open(place, reference, auth.clone(), access.clone()).await;
            let registry = opened.map_err(Failure::into_plain_error)?;
            match registry.greet().await {
                Ok(()) => return Ok(Self(registry)),
                Err(error) if error.is_unreachable() => failure = error,
                Err(error) => return Err(error.into_plain_error()),
            }
        }
        Err(failure.into_plain_error())
    }

    /// What a tag or a digest means.
    pub async fn manifest(&self, reference: &Reference) -> Result<Manifest> {
        let promised = reference.digest();
        let digest = promised.map(|digest| digest.to_string());
        let name = digest.as_deref().or(reference.tag()).unwrap_or("latest");
        let found = self.0.manifest(name, promised).await;
        let document = found.map_err(Failure::into_plain_error)?;
        let (bytes, digest, media_type) = (document.bytes, document.digest, document.media_type);
        Ok(Manifest { bytes, digest, media_type })
    }

    /// A configuration.
    pub async fn config(&self, digest: Digest) -> Result<Vec<u8>> {
        self.0.small_blob(digest, LARGEST_CONFIG).await.map_err(Failure::into_plain_error)
    }

    /// Has a blob of another repository in this one, too.
    pub async fn mount(&self, digest: Digest, other: &str) -> Result<()> {
        let mounted = async {
            if self.0.has_blob(digest).await? {
                return Ok(true);
            }
            match self.0.begin(digest, Some(other)).await? {
                Begun::Mounted => Ok(true),
                Begun::At(place) => {
                    self.0.cancel(&place).await;
                    Ok(false)
                }
            }
        };
        if mounted.await.map_err(Failure::into_plain_error)? {
            return Ok(());
        }
        Err(Error::not_found(format!("{digest} is not in {other}, or may not be read there")))
    }

    /// Writes a manifest under a tag or its digest.
    pub async fn put(&self, name: &str, media_type: &str, bytes: Vec<u8>) -> Result<()> {
        let put = self.0.put_manifest(name, media_type, bytes).await;
        put.map_err(Failure::into_plain_error)
    }
}
