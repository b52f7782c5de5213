//! `push`: from images in the store to a repository of a registry.
//!
//! Layers go first, some at a time, each only if the registry has it neither there nor in another
//! repository; then the configuration, then the manifest that names them all. Whoever reads the
//! repository meanwhile sees what was there before.

mod manifest;

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tokio::sync::mpsc::Sender;
use tokio_util::task::AbortOnDropHandle;

use self::manifest::Built;
use super::digest::Digest;
use super::find::find;
use super::progress::{Ticker, step, tell};
use super::reference::Reference;
use super::registry::{Access, Begun, Failure, Registry, Source, endpoints};
use super::store::Packed;
use super::{Image, Images, Progress, PushRequest, Pushed};
use engine_error::{Error, Result};

/// Other repositories that a layer is looked for in.
const MOUNTS: usize = 3;
/// Other repositories that a token is asked for.
const OTHERS: usize = 10;

/// One push under way.
struct Push {
    images: Images,
    registry: Arc<Registry>,
    /// The repository.
    reference: Reference,
    progress: Sender<Progress>,
}

/// A layer to be in the registry, and other repositories there that should have it.
#[derive(Clone, Debug)]
struct Wanted {
    chain: Digest,
    /// What it is called to the user.
    id: String,
    others: Vec<String>,
}

pub(super) async fn push(
    images: &Images,
    request: PushRequest,
    progress: Sender<Progress>,
) -> Result<Vec<Pushed>> {
    let reference = Reference::parse(&request.reference)?;
    if reference.digest().is_some() {
        return Err(Error::invalid("cannot push a digest reference"));
    }
    let reference = match &request.tag {
        Some(tag) => reference.with_tag(tag)?,
        None => reference,
    };
    check_platform(images, &reference, &request)?;
    let repository = reference.canonical_name();
    tell(&progress, "", &format!("The push refers to repository [{repository}]"), None).await;
    // Nothing of what is being read may be swept meanwhile.
    let _ingest = images.store.ingest();
    let selected = select(&images.list(), &reference)?;
    let others = others(images, &reference, selected.iter().flat_map(|(_, image)| &image.layers));
    let opened = open(images, &request, &reference, others).await;
    let registry = opened.map_err(Failure::into_plain_error)?;
    let push = Push { images: images.clone(), registry, reference, progress };
    let mut pushed = Vec::new();
    for (tag, image) in selected {
        pushed.push(push.image(&tag, &image).await?);
    }
    Ok(pushed)
}

/// The platform that was asked for is that of the image, or there is nothing to push.
fn check_platform(images: &Images, reference: &Reference, request: &PushRequest) -> Result<()> {
    let Some(wanted) = &request.platform else { return Ok(()) };
    let reference = reference.clone().or_latest();
    let Ok(image) = find(&images.list(), &reference.to_string()) else { return Ok(()) };
    if wanted.rank(&image.platform()).is_some() {
        return Ok(());
    }
    Err(Error::not_found(format!(
        "image with reference {reference} was found but its platform ({}) does not match the \
         specified platform ({wanted})",
        image.platform()
    )))
}

/// The images of a repository, or the one of a tag, by their tags.
fn select(images: &[Arc<Image>], reference: &Reference) -> Result<Vec<(String, Arc<Image>)>> {
    let repository = reference.canonical_name();
    let mut found = Vec::new();
    for image in images {
        for name in image.names.iter().filter_map(|name| Reference::parse(name).ok()) {
            if name.canonical_name() == repository
                && let Some(tag) = name.tag()
            {
                found.push((tag.to_owned(), Arc::clone(image)));
            }
        }
    }
    if found.is_empty() {
        let name = reference.familiar_name();
        return Err(Error::not_found(format!(
            "An image does not exist locally with the tag: {name}"
        )));
    }
    if let Some(wanted) = reference.tag() {
        found.retain(|(tag, _)| tag == wanted);
        if found.is_empty() {
            return Err(Error::not_found(format!("tag does not exist: {reference}")));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

/// Other repositories of the same registry that should have one of these layers: images that have
/// it were pulled from there or pushed there. The nearest names come first.
fn others<'a>(
    images: &Images,
    reference: &Reference,
    layers: impl Iterator<Item = &'a Digest>,
) -> Vec<String> {
    let layers: Vec<_> = layers.collect();
    let mut others: Vec<String> = Vec::new();
    for image in images.list() {
        if !image.layers.iter().any(|layer| layers.contains(&layer)) {
            continue;
        }
        for name in image.digests.iter().filter_map(|name| Reference::parse(name).ok()) {
            let elsewhere = name.path() != reference.path() && name.domain() == reference.domain();
            if elsewhere && !others.iter().any(|known| known == name.path()) {
                others.push(name.path().to_owned());
            }
        }
    }
    let own: Vec<_> = reference.path().split('/').collect();
    let near = |path: &String| path.split('/').zip(&own).take_while(|(a, b)| a == *b).count();
    others.sort_by_key(|path| std::cmp::Reverse(near(path)));
    others.truncate(OTHERS);
    others
}

/// Reaches the registry, by the first of its endpoints that answers. Mirrors are only read.
async fn open(
    images: &Images,
    request: &PushRequest,
    reference: &Reference,
    others: Vec<String>,
) -> Result<Arc<Registry>, Failure> {
    let mut failure = Failure::Other(format!("no registry for {reference}"));
    let places = endpoints(reference, &images.behaviour().options);
    for place in places.into_iter().filter(|place| !place.is_mirror()) {
        let access = Access::Push(others.clone());
        let registry = Registry::open(place, reference, request.auth.clone(), access).await?;
        match registry.greet().await {
            Ok(()) => return Ok(Arc::new(registry)),
            Err(error) if error.is_unreachable() => failure = error,
            Err(error) => return Err(error),
        }
    }
    Err(failure)
}

impl Push {
    async fn image(&self, tag: &str, image: &Arc<Image>) -> Result<Pushed> {
        let wanted = self.wanted(image);
        for layer in wanted.iter().rev() {
            tell(&self.progress, &layer.id, "Preparing", None).await;
        }
        let layers = self.layers(&wanted).await?;
        let config = self.images.store.blob_path(image.id.0);
        let bytes = tokio::fs::read(&config).await;
        let bytes = bytes.map_err(|error| {
            Error::internal(format!("cannot read the configuration of {}", image.id), error)
        })?;
        let size = bytes.len() as u64;
        let source = Source { path: config, digest: image.id.0, size };
        self.config(&source).await.map_err(Failure::into_plain_error)?;
        let built = Built::of(image.id.0, size, &layers)?;
        let (digest, size) = (built.digest, built.bytes.len());
        let put = self.registry.put_manifest(tag, built.media_type, built.bytes).await;
        put.map_err(Failure::into_plain_error)?;
        self.note(image, digest).await?;
        let status = format!("{tag}: digest: {digest} size: {size}");
        tell(&self.progress, "", &status, None).await;
        let aux = json!({"Tag": tag, "Digest": digest, "Size": size});
        let _ = self.progress.send(Progress { aux: Some(aux), ..Progress::default() }).await;
        Ok(Pushed { reference: self.reference.with_tag(tag)?, digest })
    }

    fn wanted(&self, image: &Image) -> Vec<Wanted> {
        let layers = image.layers.iter().zip(image.diff_ids());
        layers
            .map(|(chain, diff_id)| {
                let id = diff_id.parse().map_or_else(|_| chain.short(), |id: Digest| id.short());
                let mut others = others(&self.images, &self.reference, [chain].into_iter());
                others.truncate(MOUNTS);
                Wanted { chain: *chain, id, others }
            })
            .collect()
    }

    /// Has all layers in the registry; what they are called there, lowest first.
    async fn layers(&self, wanted: &[Wanted]) -> Result<Vec<Packed>> {
        let mut layers: Vec<(&str, AbortOnDropHandle<_>)> = Vec::new();
        for layer in wanted.iter().rev() {
            // The same content may stand in an image twice.
            if layers.iter().any(|(id, _)| *id == layer.id) {
                continue;
            }
            let one = Layer {
                images: self.images.clone(),
                registry: Arc::clone(&self.registry),
                progress: self.progress.clone(),
                wanted: layer.clone(),
            };
            layers.push((&layer.id, AbortOnDropHandle::new(tokio::spawn(one.push()))));
        }
        let mut done = Vec::new();
        for (id, layer) in layers {
            let packed = layer.await.map_err(|error| Error::internal("upload", error))??;
            done.push((id, packed));
        }
        let of = |layer: &Wanted| done.iter().find(|(id, _)| *id == layer.id).map(|(_, p)| *p);
        Ok(wanted.iter().filter_map(of).collect())
    }

    async fn config(&self, source: &Source) -> Result<(), Failure> {
        if self.registry.has_blob(source.digest).await? {
            return Ok(());
        }
        match self.registry.begin(source.digest, None).await? {
            Begun::Mounted => Ok(()),
            Begun::At(place) => self.registry.upload(source, place, |_| {}).await,
        }
    }

    /// Notes under which digest the image is known in the repository now.
    async fn note(&self, image: &Arc<Image>, digest: Digest) -> Result<()> {
        let (store, id) = (Arc::clone(&self.images.store), image.id);
        let name = self.reference.with_digest(digest).to_string();
        let noted = tokio::task::spawn_blocking(move || {
            store.change(|images, _| {
                let known = images.iter_mut().find(|known| known.id == id);
                if let Some(image) = known.filter(|image| !image.digests.contains(&name)) {
                    let image = Arc::make_mut(image);
                    image.digests.push(name);
                    image.digests.sort();
                }
                Ok(())
            })
        });
        noted.await.map_err(|error| Error::internal("cannot note the digest", error))?
    }
}

/// One layer on its way.
struct Layer {
    images: Images,
    registry: Arc<Registry>,
    progress: Sender<Progress>,
    wanted: Wanted,
}

impl Layer {
    async fn push(self) -> Result<Packed> {
        let slots = Arc::clone(&self.images.behaviour().uploads);
        if slots.available_permits() == 0 {
            self.tell("Waiting").await;
        }
        // Not held while the client is told: it may read nothing.
        let slot = slots.acquire_owned().await;
        let slot = slot.map_err(|error| Error::internal("upload", error))?;
        let (packed, status) = self.push_now().await?;
        drop(slot);
        if let Some(status) = status {
            self.tell(&status).await;
        }
        Ok(packed)
    }

    /// Has the layer in the repository; what there is to tell of it.
    async fn push_now(&self) -> Result<(Packed, Option<String>)> {
        let there = Some("Layer already exists".to_owned());
        let (store, chain) = (Arc::clone(&self.images.store), self.wanted.chain);
        let known = blocking(move || store.packed(chain)).await?;
        if let Some(known) = known
            && self.is_there(known.digest).await?
        {
            return Ok((known, there));
        }
        let store = Arc::clone(&self.images.store);
        // The file is there as long as `kept` is.
        let (path, kept, packed) = blocking(move || store.pack(chain)).await?;
        if known != Some(packed) && self.is_there(packed.digest).await? {
            return Ok((packed, there));
        }
        let source = Source { path, digest: packed.digest, size: packed.size };
        let sent = self.send(source).await.map_err(Failure::into_plain_error)?;
        drop(kept);
        Ok((packed, sent))
    }

    async fn is_there(&self, digest: Digest) -> Result<bool> {
        self.registry.has_blob(digest).await.map_err(Failure::into_plain_error)
    }

    /// Gets a blob into the repository, from another one if one has it; what there is to tell of it.
    async fn send(&self, source: Source) -> Result<Option<String>, Failure> {
        let mut place = None;
        for other in &self.wanted.others {
            match self.registry.begin(source.digest, Some(other)).await {
                Ok(Begun::Mounted) => {
                    return Ok(Some(format!("Mounted from {other}")));
                }
                // Not there: the registry has begun an upload, which will do.
                Ok(Begun::At(begun)) => {
                    if let Some(before) = place.replace(begun) {
                        self.registry.cancel(&before).await;
                    }
                }
                // Whoever may not read the other repository pushes the layer.
                Err(failure) => tracing::debug!(?failure, other, "a layer is not mounted"),
            }
        }
        let place = match place {
            Some(place) => place,
            None => match self.registry.begin(source.digest, None).await? {
                Begun::Mounted => return Ok(None),
                Begun::At(place) => place,
            },
        };
        let (progress, id) = (self.progress.clone(), self.wanted.id.clone());
        let (ticker, size) = (Arc::new(Mutex::new(Ticker::default())), source.size);
        let told = move |done| {
            if ticker.lock().unwrap_or_else(PoisonError::into_inner).is_due() {
                // A bar that misses a step is no loss.
                let _ = progress.try_send(step(&id, "Pushing", Some((done, size))));
            }
        };
        self.registry.upload(&source, place, told).await?;
        Ok(Some("Pushed".to_owned()))
    }

    async fn tell(&self, status: &str) {
        tell(&self.progress, &self.wanted.id, status, None).await;
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::internal("cannot read a layer", error))?
}

#[cfg(test)]
mod tests;
