//! The store on disk: blobs by digest, layers unpacked by chain id, one index of images.
//!
//! ```text
//! oci-layout  index.json      what images there are: an OCI index, replaced atomically
//! blobs/sha256/<digest>       configurations, manifests, layers as they came
//! layers/<chain id>/          layer.json (which blob it came from) and diff/ (unpacked)
//! l/<16 digits>               short names of diff/, for mount options
//! partial/<digest>            blobs of which a pull was cut short
//! empty/  tmp/  lock
//! ```
//!
//! Everything is written aside, synced and renamed, so a crash leaves what was before plus
//! something in `tmp`, which opening sweeps. Nothing counts references: what no image and no
//! container reaches is found by looking, once all containers have been told of.

mod damage;
mod index;
mod layers;
mod pack;
mod sweep;
mod users;

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use self::damage::Damaged;
use self::index::Record;
pub(super) use self::index::{CONFIG, MANIFEST, name};
pub use self::layers::unpack_layer;
pub(super) use self::layers::{Layer, Unplaced};
pub(super) use self::pack::Packed;
use self::users::User;
use super::compression::Digesting;
use super::digest::{Digest, ImageId};
use super::limits::Room;
use super::reference::Reference;
use super::{Image, ImageUse, config};
use cnm::Kind;

use engine_error::{Error, Result};

/// Partial blobs that nobody came back for are removed after this time.
const PARTIAL_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The directory of one daemon's images.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    state: Mutex<State>,
    next: AtomicU64,
    /// Held for the life of the store: two daemons must not share one.
    _lock: File,
}

#[derive(Debug, Default)]
struct State {
    /// Newest first.
    images: Vec<(Arc<Image>, Digest)>,
    /// Images that cannot be read.
    damaged: Vec<Damaged>,
    /// The containers that are made of images, by their ids.
    users: BTreeMap<String, User>,
    /// The images that containers mount, by the containers' ids.
    mounting: BTreeMap<String, Vec<User>>,
    /// Why it is not known what is needed.
    doubt: Vec<String>,
    /// Operations that bring in blobs and layers no image points at yet.
    ingests: usize,
    /// A sweep was wanted meanwhile.
    sweep: bool,
}

/// While this lives, nothing is swept.
#[derive(Debug)]
pub(super) struct Ingest(Arc<Store>);

/// What a sweep removed.
#[derive(Debug, Default)]
pub(super) struct Swept {
    pub(super) layers: HashSet<Digest>,
    /// Bytes of layers and blobs.
    pub(super) size: u64,
}

/// An image about to be added.
#[derive(Debug)]
pub(super) struct NewImage<'a> {
    /// The configuration, byte for byte.
    pub(super) config: &'a [u8],
    /// Names it gets; they leave other images.
    pub(super) names: &'a [Reference],
    /// Names with digests under which it was pulled.
    pub(super) digests: &'a [Reference],
    /// The image that it was made of here.
    pub(super) parent: Option<ImageId>,
}

impl Store {
    pub(super) fn open(root: &Path) -> Result<Arc<Self>> {
        let failed = |error: io::Error| {
            let in_use = error.kind() == io::ErrorKind::WouldBlock;
            let kind = if in_use { Kind::Unavailable } else { Kind::Internal };
            Error::caused(kind, format!("cannot open images in {}", root.display()), error)
        };
        Self::open_io(root).map_err(failed)
    }

    fn open_io(root: &Path) -> io::Result<Arc<Self>> {
        for directory in ["blobs/sha256", "layers", "l", "partial", "empty", "tmp"] {
            fs::create_dir_all(root.join(directory))?;
        }
        rustix::fs::chmod(root, rustix::fs::Mode::from_raw_mode(0o700))?;
        let lock = File::create(root.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::WouldBlock, "another daemon uses this directory")
            }
            TryLockError::Error(error) => error,
        })?;
        let store = Self {
            root: root.to_owned(),
            state: Mutex::default(),
            next: AtomicU64::new(0),
            _lock: lock,
        };
        fs::remove_dir_all(root.join("tmp"))?;
        fs::create_dir(root.join("tmp"))?;
        store.forget_partials()?;
        if !root.join("oci-layout").exists() {
            store.replace("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        let read = store.read_index()?;
        let images = read.images.into_iter().map(|(image, manifest)| (Arc::new(image), manifest));
        let (mut state, damaged) = (store.state(), read.damaged);
        (state.images, state.damaged, state.doubt) = (images.collect(), damaged, read.doubt);
        state.images.sort_by(order);
        drop(state);
        Ok(Arc::new(store))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// All images, newest first.
    pub(super) fn images(&self) -> Vec<Arc<Image>> {
        self.state().images.iter().map(|(image, _)| Arc::clone(image)).collect()
    }

    pub(super) fn image(&self, id: ImageId) -> Option<Arc<Image>> {
        self.state().images.iter().find(|(image, _)| image.id == id).map(|(image, _)| image.clone())
    }

    /// The manifest written for an image.
    pub(super) fn manifest(&self, id: ImageId) -> Option<Digest> {
        let state = self.state();
        state.images.iter().find(|(image, _)| image.id == id).map(|(_, manifest)| *manifest)
    }

    /// Keeps new blobs and layers from being swept until the guard is dropped.
    pub(super) fn ingest(self: &Arc<Self>) -> Ingest {
        self.state().ingests += 1;
        Ingest(Arc::clone(self))
    }

    // === blobs ===

    pub(super) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(super) fn has_blob(&self, digest: Digest) -> bool {
        self.blob_path(digest).exists()
    }

    pub(super) fn open_blob(&self, digest: Digest) -> Result<File> {
        File::open(self.blob_path(digest))
            .map_err(|error| Error::internal(format!("cannot read blob {digest}"), error))
    }

    /// A small blob, whole and checked.
    pub(super) fn read_blob(&self, digest: Digest) -> io::Result<Vec<u8>> {
        let bytes = fs::read(self.blob_path(digest))?;
        if Digest::of(&bytes) == digest {
            return Ok(bytes);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("blob {digest} is damaged")))
    }

    pub(super) fn add_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.has_blob(digest) {
            let path = self.temporary();
            let written =
                write_synced(&path, bytes).and_then(|()| fs::rename(&path, self.blob_path(digest)));
            written.map_err(|error| Error::internal(format!("cannot store {digest}"), error))?;
        }
        Ok(digest)
    }

    /// Writes a stream aside and takes its digest: the path, the digest, the size.
    pub(super) fn spool(&self, from: impl Read) -> io::Result<(PathBuf, Digest, u64)> {
        let path = self.temporary();
        let spooled = spool(from, &path, &mut Room::of(&self.root));
        if spooled.is_err() {
            // It may not even have been made: what counts is why.
            let _ = fs::remove_file(&path);
        }
        let (digest, size) = spooled?;
        Ok((path, digest, size))
    }

    /// Makes a blob of a file whose digest is known. The file goes.
    pub(super) fn adopt_blob(&self, path: &Path, digest: Digest) -> Result<()> {
        self.adopt(path, digest)
            .map_err(|error| Error::internal(format!("cannot store {digest}"), error))
    }

    pub(super) fn adopt(&self, path: &Path, digest: Digest) -> io::Result<()> {
        File::open(path)?.sync_all()?;
        fs::rename(path, self.blob_path(digest))
    }

    /// Where a pull keeps what it has of a blob.
    pub(super) fn partial_path(&self, digest: Digest) -> PathBuf {
        self.root.join("partial").join(digest.hex())
    }

    /// A name in `tmp` that nothing has.
    pub(super) fn temporary(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.root.join("tmp").join(number.to_string())
    }

    // === images ===

    /// Adds an image all of whose layers are there, or gives one that is there more names.
    pub(super) fn add_image(&self, new: &NewImage<'_>) -> Result<Arc<Image>> {
        let id = ImageId(self.add_blob(new.config)?);
        let parsed = config::parse(new.config)?;
        let chains = parsed.chains()?;
        let layers = chains.iter().map(|chain| self.layer(*chain)).collect::<Result<Vec<_>>>()?;
        let manifest = index::manifest(new.config, &layers)?;
        let manifest = self.add_blob(&manifest)?;
        let size = layers.iter().map(|layer| layer.size).sum();
        let mut image = parsed.into_image(id, chains, size);
        let mut state = self.state();
        let mut images = state.images.clone();
        if let Some(at) = images.iter().position(|(known, _)| known.id == id) {
            let (known, _) = images.remove(at);
            image.names.clone_from(&known.names);
            image.digests.clone_from(&known.digests);
            image.parent = known.parent;
            image.tagged = known.tagged;
        }
        image.parent = new.parent.or(image.parent);
        // One that was damaged is whole again.
        let is_same = |damaged: &&Damaged| damaged.record.as_ref().is_some_and(|r| r.id == id);
        for damaged in state.damaged.iter().filter(is_same).filter_map(|d| d.record.as_ref()) {
            image.names.extend(damaged.names.iter().map(ToString::to_string));
            image.digests.extend(damaged.digests.iter().map(ToString::to_string));
            image.tagged = image.tagged.or(damaged.tagged);
        }
        let damaged = state.damaged.clone();
        state.damaged.retain(|damaged| !is_same(&damaged));
        image.digests.extend(new.digests.iter().map(ToString::to_string));
        image.digests.sort();
        image.digests.dedup();
        images.push((Arc::new(image), manifest));
        for name in new.names {
            index::name(images.iter_mut().map(|(image, _)| image), id, name);
        }
        if let Err(error) = self.commit(&mut state, images) {
            state.damaged = damaged;
            return Err(error);
        }
        drop(state);
        self.image(id).ok_or_else(|| Error::not_found(format!("No such image: {id}")))
    }

    /// Changes names and digests of images, or leaves images out. What `change` returns is what
    /// this returns, and only then is anything changed. It is told the containers and what they are
    /// made of, and no container comes in between.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<Arc<Image>>, &[ImageUse]) -> Result<T>,
    ) -> Result<T> {
        let mut state = self.state();
        let mut images: Vec<_> = state.images.iter().map(|(image, _)| image.clone()).collect();
        let users: Vec<_> = state
            .all_users()
            .map(|(container, user)| ImageUse { container: container.clone(), image: user.image })
            .collect();
        let result = change(&mut images, &users)?;
        let manifest = |id| state.images.iter().find(|(image, _)| image.id == id).map(|(_, m)| *m);
        let images = images
            .into_iter()
            .filter_map(|image| manifest(image.id).map(|manifest| (image, manifest)))
            .collect();
        self.commit(&mut state, images)?;
        Ok(result)
    }

    fn commit(&self, state: &mut State, mut images: Vec<(Arc<Image>, Digest)>) -> Result<()> {
        images.sort_by(order);
        let records: Vec<_> =
            images.iter().map(|(image, manifest)| Record::of(image, *manifest)).collect();
        let damaged: Vec<_> = state.damaged.iter().map(|damaged| damaged.entry.clone()).collect();
        let bytes = index::encode(&records, damaged, |digest| {
            fs::metadata(self.blob_path(digest)).map_or(0, |meta| meta.len())
        });
        let written = bytes.and_then(|bytes| self.replace("index.json", &bytes));
        written.map_err(|error| Error::internal("cannot write the index of images", error))?;
        state.images = images;
        Ok(())
    }

    fn read_image(&self, record: &Record) -> Result<Image> {
        let bytes = self
            .read_blob(record.id.0)
            .map_err(|error| Error::internal("cannot read the configuration", error))?;
        let parsed = config::parse(&bytes)?;
        let chains = parsed.chains()?;
        let mut size = 0;
        for chain in &chains {
            size += self.layer(*chain)?.size;
        }
        let mut image = parsed.into_image(record.id, chains, size);
        image.names = record.names.iter().map(ToString::to_string).collect();
        image.digests = record.digests.iter().map(ToString::to_string).collect();
        image.parent = record.parent;
        image.tagged = record.tagged;
        Ok(image)
    }

    fn forget_partials(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("partial"))? {
            let entry = entry?;
            let age = SystemTime::now().duration_since(entry.metadata()?.modified()?);
            if age.is_ok_and(|age| age > PARTIAL_LIFE) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Replaces a file of the root directory; after this returns, a power cut does not undo it.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.temporary();
        write_synced(&path, bytes)?;
        fs::rename(&path, self.root.join(name))?;
        File::open(self.root.join("blobs/sha256"))?.sync_all()?;
        File::open(&self.root)?.sync_all()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.ingests -= 1;
        let sweep = state.ingests == 0 && std::mem::take(&mut state.sweep);
        drop(state);
        if sweep {
            self.0.sweep();
        }
    }
}

fn spool(mut from: impl Read, path: &Path, room: &mut Room) -> io::Result<(Digest, u64)> {
    let unmade = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot make {}: {error}", path.display()))
    };
    let mut to = Digesting::new(File::create_new(path).map_err(unmade)?);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                room.take(count as u64)?;
                to.write_all(&buffer[..count])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let (_, digest, size) = to.finish();
    Ok((digest, size))
}

/// Newest first.
fn order((a, _): &(Arc<Image>, Digest), (b, _): &(Arc<Image>, Digest)) -> std::cmp::Ordering {
    b.created.cmp(&a.created).then(a.id.cmp(&b.id))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn digests_in(directory: &Path) -> Vec<Digest> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .filter_map(|entry| format!("sha256:{}", entry.ok()?.file_name().to_str()?).parse().ok())
        .collect()
}

/// A reader with a buffer that suits blobs.
pub(super) fn buffered<R: Read>(inner: R) -> BufReader<R> {
    BufReader::with_capacity(1 << 16, inner)
}

#[cfg(test)]
mod tests;
