//! Fetches blobs: once each, a few at a time, from where the last attempt ended.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::Sender;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc};

use super::manifest::Descriptor;
use crate::digest::Digest;
use crate::limits::Room;
use crate::progress::{Ticker, step, tell};
use crate::registry::{Failure, Registry, pause};
use crate::{Images, Progress};

/// The downloads under way, of all pulls.
#[derive(Debug, Default)]
pub(crate) struct Fetching {
    blobs: Mutex<HashMap<Digest, Weak<AsyncMutex<()>>>>,
}

impl Fetching {
    /// Waits for the others that fetch this blob.
    async fn alone(&self, digest: Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
            blobs.retain(|_, lock| lock.strong_count() > 0);
            let known = blobs.get(&digest).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(AsyncMutex::new(()));
                blobs.insert(digest, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

/// A partial blob and the right to write it. Both stay together: a writer that outlives its
/// cancelled pull for a moment must not meet the next one.
struct Partial {
    file: File,
    hasher: Sha256,
    length: u64,
    _alone: OwnedMutexGuard<()>,
}

/// Brings a blob into the store, unless it is there.
pub(super) async fn fetch(
    images: Images,
    registry: Arc<Registry>,
    blob: Descriptor,
    progress: Sender<Progress>,
) -> Result<(), Failure> {
    let _ingest = images.store.ingest();
    let id = blob.digest.short();
    room_for(&images, &blob)?;
    let mut failed = 0;
    let mut best = 0;
    loop {
        let alone = images.fetching.alone(blob.digest).await;
        if images.store.has_blob(blob.digest) {
            break;
        }
        // Neither this nor the blob is held while the client is told: it may read nothing.
        let fetched = {
            let slots = Arc::clone(&images.behaviour().downloads);
            let _slot =
                slots.acquire_owned().await.map_err(|error| Failure::Other(error.to_string()))?;
            let path = images.store.partial_path(blob.digest);
            let partial = blocking(move || Partial::open(&path, alone)).await?;
            attempt(&registry, &blob, partial, &progress).await
        };
        match fetched {
            Ok(whole) => {
                let _ = progress.try_send(step(&id, "Verifying Checksum", None));
                keep(&images, &blob, whole).await?;
                break;
            }
            Err((Failure::Broken(text), length)) => {
                failed = if length > best { 1 } else { failed + 1 };
                best = best.max(length);
                if failed >= images.behaviour().options.attempts {
                    return Err(Failure::Broken(text));
                }
                tell(&progress, &id, "Retrying", None).await;
                pause(failed, None).await;
            }
            Err((failure, _)) => return Err(failure),
        }
    }
    tell(&progress, &id, "Download complete", None).await;
    Ok(())
}

/// Refuses a blob for which the disk has no room, before its first byte.
fn room_for(images: &Images, blob: &Descriptor) -> Result<(), Failure> {
    if images.store.has_blob(blob.digest) {
        return Ok(());
    }
    let partial = std::fs::metadata(images.store.partial_path(blob.digest));
    let missing = blob.size.saturating_sub(partial.map_or(0, |partial| partial.len()));
    Room::of(images.root()).take(missing).map_err(|error| disk(&error))
}

/// Checks a whole blob and gives it its place.
async fn keep(images: &Images, blob: &Descriptor, whole: Partial) -> Result<(), Failure> {
    let store = Arc::clone(&images.store);
    let promised = blob.digest;
    blocking(move || {
        let path = store.partial_path(promised);
        // To the end of this, nobody else fetches the blob.
        let Partial { hasher, length, _alone, .. } = whole;
        let digest = Digest::finish(hasher);
        if digest == promised {
            return Ok(store.adopt_blob(&path, digest).map_err(|error| error.chain()));
        }
        std::fs::remove_file(&path)?;
        Ok(Err(format!(
            "filesystem layer verification failed for digest {promised}: \
             {length} bytes came, of digest {digest}"
        )))
    })
    .await?
    .map_err(Failure::Other)
}

/// One request; on failure, how long the partial blob is now.
async fn attempt(
    registry: &Registry,
    blob: &Descriptor,
    mut partial: Partial,
    progress: &Sender<Progress>,
) -> Result<Partial, (Failure, u64)> {
    if partial.length > blob.size {
        partial.restart().map_err(|error| (disk(&error), 0))?;
    }
    if partial.length == blob.size && blob.size > 0 {
        return Ok(partial);
    }
    let start = partial.length;
    let mut response =
        registry.blob(blob.digest, start).await.map_err(|failure| (failure, start))?;
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        partial.restart().map_err(|error| (disk(&error), 0))?;
        return Err((Failure::Broken("the registry has fewer bytes".into()), 0));
    }
    if start > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
        partial.restart().map_err(|error| (disk(&error), 0))?;
    }
    let length = partial.length;
    // Bounded: a slow disk slows the download, not the memory down.
    let (chunks, inbox) = mpsc::channel::<bytes::Bytes>(16);
    let writer = tokio::task::spawn_blocking(move || partial.write(inbox));
    let broken = receive(&mut response, blob, length, &chunks, progress).await;
    drop(chunks);
    let written = writer.await.map_err(|error| (Failure::Other(error.to_string()), start))?;
    let partial = written.map_err(|error| (disk(&error), start))?;
    match broken {
        Some(failure) => Err((failure, partial.length)),
        None if partial.length < blob.size => {
            let text = format!("download of {}: unexpected EOF", blob.digest);
            Err((Failure::Broken(text), partial.length))
        }
        None => Ok(partial),
    }
}

/// Hands on what comes of a blob, of which `length` bytes are there; tells what went wrong.
async fn receive(
    response: &mut Response,
    blob: &Descriptor,
    mut length: u64,
    chunks: &Sender<bytes::Bytes>,
    progress: &Sender<Progress>,
) -> Option<Failure> {
    let mut ticker = Ticker::default();
    let id = blob.digest.short();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                length += chunk.len() as u64;
                if length > blob.size {
                    return Some(Failure::Other(format!(
                        "{} is larger than promised",
                        blob.digest
                    )));
                }
                if chunks.send(chunk).await.is_err() {
                    return None;
                }
                if ticker.is_due() {
                    let _ = progress.try_send(step(&id, "Downloading", Some((length, blob.size))));
                }
            }
            Ok(None) => return None,
            Err(error) => {
                return Some(Failure::Broken(format!("download of {}: {error}", blob.digest)));
            }
        }
    }
}

impl Partial {
    /// Opens what there is of a blob and takes its digest so far.
    fn open(path: &Path, alone: OwnedMutexGuard<()>) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut hasher = Sha256::new();
        let mut length = 0;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(Self { file, hasher, length, _alone: alone });
            }
            hasher.update(&buffer[..count]);
            length += count as u64;
        }
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        io::Seek::rewind(&mut self.file)?;
        self.hasher = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Writes chunks until there are no more.
    fn write(mut self, mut chunks: mpsc::Receiver<bytes::Bytes>) -> io::Result<Self> {
        while let Some(chunk) = chunks.blocking_recv() {
            self.file.write_all(&chunk)?;
            self.hasher.update(&chunk);
            self.length += chunk.len() as u64;
        }
        Ok(self)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::Other(error.to_string()))?.map_err(|error| disk(&error))
}

fn disk(error: &io::Error) -> Failure {
    Failure::Other(format!("cannot store a blob: {error}"))
}
