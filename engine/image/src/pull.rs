//! `pull`: from a name in a registry to an image in the store.
//!
//! Layers are fetched in parallel and unpacked in order, each checked twice: the blob against the
//! manifest, its content against the configuration. The caller may drop the future at any time;
//! what was fetched stays and is taken up by the next pull.

mod describe;
mod fetch;
mod manifest;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::Sender;
use tokio_util::task::AbortOnDropHandle;

pub use self::describe::Described;
pub(super) use self::describe::describe;
pub(super) use self::fetch::Fetching;
use self::manifest::{Descriptor, Resolved};
use super::digest::{Digest, ImageId};
use super::progress::{Ticker, step, tell};
use super::reference::Reference;
use super::registry::{Access, Failure, Registry, endpoints};
use super::store::NewImage;
use super::{Images, Progress, PullRequest, Pulled, RegistryAuth, config};
use engine_error::{Error, Result};

/// Largest configuration of an image.
const LARGEST_CONFIG: usize = config::LARGEST;

/// One pull under way.
struct Pull {
    images: Images,
    registry: Arc<Registry>,
    /// The image as the user named it, with its tag.
    reference: Reference,
    progress: Sender<Progress>,
}

/// A layer to have: where it is in the chain, and its blob.
#[derive(Clone)]
struct Wanted {
    chain: Digest,
    diff_id: Digest,
    blob: Descriptor,
}

pub(super) async fn pull(
    images: &Images,
    request: PullRequest,
    progress: Sender<Progress>,
) -> Result<Pulled> {
    let reference = Reference::parse(&request.reference)?;
    if !request.all_tags {
        let reference = reference.or_latest();
        let pulled = pull_tag(images, &request, reference.clone(), progress.clone()).await?;
        tell_status(&progress, &reference, pulled.updated).await;
        return Ok(pulled);
    }
    if reference.tag().is_some() || reference.digest().is_some() {
        return Err(Error::invalid("tag can't be used with --all-tags/-a"));
    }
    let registry =
        open(
            images,
            request.auth.as_ref(),
            &reference,
            |registry| async move { registry.tags().await },
        );
    let (_, tags) = registry.await.map_err(|failure| failure.into_error(&reference))?;
    let mut last: Option<Pulled> = None;
    for tag in tags {
        let one = reference.with_tag(&tag)?;
        let pulled = pull_tag(images, &request, one, progress.clone()).await?;
        let updated = pulled.updated || last.is_some_and(|last| last.updated);
        last = Some(Pulled { updated, ..pulled });
    }
    let none = || Error::not_found(format!("repository {reference} has no tags"));
    let pulled = last.ok_or_else(none)?;
    tell_status(&progress, &reference, pulled.updated).await;
    Ok(pulled)
}

/// Pulls one image; its last word is the digest.
async fn pull_tag(
    images: &Images,
    request: &PullRequest,
    reference: Reference,
    progress: Sender<Progress>,
) -> Result<Pulled> {
    let name = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    };
    let platform = request.platform.as_ref();
    let (asked, promised) = (&name, reference.digest());
    let opened = open(images, request.auth.as_ref(), &reference, |registry| async move {
        let document = registry.manifest(asked, promised).await?;
        manifest::resolve(&registry, document, platform).await
    });
    let (registry, resolved) = opened.await.map_err(|failure| failure.into_error(&reference))?;
    let images = images.clone();
    let pull = Pull { images, registry, reference, progress };
    pull.tell(&name, &format!("Pulling from {}", pull.reference.path()), None).await;
    let pulled = pull.take(resolved, request).await?;
    pull.tell("", &format!("Digest: {}", pulled.digest), None).await;
    Ok(pulled)
}

/// Says what a pull came to: once, whether it was of one tag or of all.
async fn tell_status(progress: &Sender<Progress>, reference: &Reference, updated: bool) {
    let status = if updated { "Downloaded newer image" } else { "Image is up to date" };
    tell(progress, "", &format!("Status: {status} for {reference}"), None).await;
}

/// Asks each place in turn; the first that answers is the one to go on with.
async fn open<T, F: Future<Output = Result<T, Failure>>>(
    images: &Images,
    auth: Option<&RegistryAuth>,
    reference: &Reference,
    ask: impl Fn(Arc<Registry>) -> F,
) -> Result<(Arc<Registry>, T), Failure> {
    let places = endpoints(reference, &images.behaviour().options);
    let count = places.len();
    let mut failure = Failure::Other(format!("no registry for {reference}"));
    for (at, place) in places.into_iter().enumerate() {
        let mirror = place.is_mirror();
        let registry = Registry::open(place, reference, auth.cloned(), Access::Pull).await?;
        let registry = Arc::new(registry);
        match ask(Arc::clone(&registry)).await {
            Ok(answer) => return Ok((registry, answer)),
            Err(error) if at + 1 < count && (mirror || error.is_unreachable()) => {
                tracing::debug!(?error, "another place is asked");
                failure = error;
            }
            Err(error) => return Err(error),
        }
    }
    Err(failure)
}

impl Pull {
    async fn take(&self, resolved: Resolved, request: &PullRequest) -> Result<Pulled> {
        // Nothing of this image is swept before it is an image.
        let _ingest = self.images.store.ingest();
        let bytes = self.config(&resolved.config).await?;
        let parsed = config::parse(&bytes)?;
        let chains = parsed.chains()?;
        if chains.len() != resolved.layers.len() {
            return Err(Error::invalid(format!(
                "invalid manifest of {}: {} layers, but the configuration has {}",
                self.reference,
                resolved.layers.len(),
                chains.len()
            )));
        }
        let wanted: Vec<_> = chains
            .iter()
            .zip(&parsed.diff_ids)
            .zip(resolved.layers)
            .map(|((chain, diff_id), blob)| Wanted { chain: *chain, diff_id: *diff_id, blob })
            .collect();
        let id = ImageId(Digest::of(&bytes));
        let image = parsed.into_image(id, chains, 0);
        if let Some(wanted) = &request.platform
            && wanted.rank(&image.platform()).is_none()
        {
            return Err(Error::not_found(format!(
                "image with reference {} was found but its platform ({}) does not match the \
                 specified platform ({wanted})",
                self.reference,
                image.platform()
            )));
        }
        let fetched = self.layers(id, &wanted).await?;
        self.add(bytes, resolved.digest, fetched).await
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if let Ok(bytes) = self.images.store.read_blob(descriptor.digest) {
            return Ok(bytes);
        }
        let blob = self.registry.small_blob(descriptor.digest, LARGEST_CONFIG).await;
        blob.map_err(|failure| failure.into_error(&self.reference))
    }

    /// Fetches and unpacks what is missing; whether anything was.
    async fn layers(&self, id: ImageId, wanted: &[Wanted]) -> Result<bool> {
        let mut missing = Vec::new();
        // Of an image that is there Docker has nothing to say.
        let known = self.images.store.image(id).is_some();
        if known && wanted.iter().all(|layer| self.images.store.has_layer(layer.chain)) {
            return Ok(false);
        }
        for layer in wanted {
            let there = self.images.store.has_layer(layer.chain);
            let status = if there { "Already exists" } else { "Pulling fs layer" };
            self.tell(&layer.blob.digest.short(), status, None).await;
            if !there {
                missing.push(layer.clone());
            }
        }
        let downloads: Vec<_> = missing
            .iter()
            .map(|layer| {
                let download = fetch::fetch(
                    self.images.clone(),
                    Arc::clone(&self.registry),
                    layer.blob.clone(),
                    self.progress.clone(),
                );
                AbortOnDropHandle::new(tokio::spawn(download))
            })
            .collect();
        for (layer, download) in missing.iter().zip(downloads) {
            let fetched = download.await.map_err(|error| Error::internal("download", error))?;
            fetched.map_err(|failure| failure.into_error(&self.reference))?;
            self.unpack(layer.clone()).await?;
        }
        Ok(!missing.is_empty())
    }

    async fn unpack(&self, layer: Wanted) -> Result<()> {
        let store = Arc::clone(&self.images.store);
        let progress = self.progress.clone();
        let ingest = store.ingest();
        let id = layer.blob.digest.short();
        let total = layer.blob.size;
        let ticker = Mutex::new(Ticker::default());
        let bar = id.clone();
        let unpacked = tokio::task::spawn_blocking(move || {
            let _ingest = ingest;
            store.unpack(layer.chain, layer.diff_id, layer.blob.digest, &mut |done| {
                let mut ticker = ticker.lock().unwrap_or_else(PoisonError::into_inner);
                if ticker.is_due() || done == total {
                    // A bar that misses a step is no loss.
                    let _ = progress.try_send(step(&bar, "Extracting", Some((done, total))));
                }
            })
        });
        unpacked.await.map_err(|error| Error::internal("cannot unpack", error))??;
        self.tell(&id, "Pull complete", None).await;
        Ok(())
    }

    async fn add(&self, config: Vec<u8>, digest: Digest, fetched: bool) -> Result<Pulled> {
        let images = self.images.clone();
        let names = match self.reference.digest() {
            Some(_) => None,
            None => Some(self.reference.clone()),
        };
        let pinned = self.reference.with_digest(digest);
        let added = tokio::task::spawn_blocking(move || {
            let id = ImageId(Digest::of(&config));
            let known = images.store.image(id).is_some_and(|image| {
                let has = |name: &Reference| image.names.contains(&name.to_string());
                names.as_ref().is_none_or(has) && image.digests.contains(&pinned.to_string())
            });
            let image = images.store.add_image(&NewImage {
                config: &config,
                names: names.as_slice(),
                digests: &[pinned],
                parent: None,
            })?;
            Ok::<_, Error>(Pulled { image, digest, updated: fetched || !known })
        });
        added.await.map_err(|error| Error::internal("cannot add the image", error))?
    }

    async fn tell(&self, id: &str, status: &str, detail: Option<(u64, u64)>) {
        tell(&self.progress, id, status, detail).await;
    }
}

#[cfg(test)]
mod tests;
