//! Layers: unpacking them, and the place that each of them has.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzEncoder;
use serde::{Deserialize, Serialize};

use super::{Store, buffered, write_synced};
use crate::compression::{Compression, Decoder, Digesting};
use crate::digest::Digest;
use crate::extract::extract;
use crate::handoff::handed;
use crate::limits::{Budget, Limited, Limits, Packed, Room};
use engine_error::{Error, Result};

/// What is known of an unpacked layer.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: Digest,
    /// The blob it was unpacked from.
    pub(crate) blob: Digest,
    /// Bytes of the blob.
    pub(crate) blob_size: u64,
    /// OCI's media type of the blob.
    pub(crate) media_type: String,
    /// Bytes of the files in it.
    pub(crate) size: u64,
}

/// The newest form of the record of a layer.
const VERSION: u32 = 1;

/// `layer.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    /// The form; the first release wrote none.
    #[serde(default = "first")]
    version: u32,
    diff_id: Digest,
    blob: Digest,
    blob_size: u64,
    media_type: String,
    size: u64,
}

fn first() -> u32 {
    1
}

impl Record {
    fn of(layer: &Layer) -> Self {
        let Layer { diff_id, blob, blob_size, media_type, size } = layer.clone();
        Self { version: VERSION, diff_id, blob, blob_size, media_type, size }
    }

    fn into_layer(self) -> io::Result<Layer> {
        let Self { version, diff_id, blob, blob_size, media_type, size } = self;
        if version > VERSION {
            let text = format!("its form {version} is newer than this release reads");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Layer { diff_id, blob, blob_size, media_type, size })
    }
}

impl Store {
    pub(crate) fn layer_path(&self, chain: Digest) -> PathBuf {
        self.root().join("layers").join(chain.hex())
    }

    /// The short name of the unpacked files, relative to the root: `l/<16 digits>`.
    pub(crate) fn short_name(chain: Digest) -> String {
        format!("l/{}", &chain.hex()[..16])
    }

    pub(super) fn short_link(&self, chain: Digest) -> PathBuf {
        self.root().join(Self::short_name(chain))
    }

    pub(crate) fn layer(&self, chain: Digest) -> Result<Layer> {
        let read = || -> io::Result<Layer> {
            let bytes = fs::read(self.layer_path(chain).join("layer.json"))?;
            serde_json::from_slice::<Record>(&bytes)?.into_layer()
        };
        read().map_err(|error| Error::internal(format!("cannot read layer {chain}"), error))
    }

    /// Whether a layer is there, and can be read: one that cannot is brought in again.
    pub(crate) fn has_layer(&self, chain: Digest) -> bool {
        self.layer(chain).is_ok()
    }

    /// Unpacks a blob as the layer `chain`, checking that it is what the configuration promised.
    /// Nothing is done for a layer that is there. `progress` is told the bytes read of the blob.
    pub(crate) fn unpack(
        &self,
        chain: Digest,
        diff_id: Digest,
        blob: Digest,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        if self.has_layer(chain) {
            return Ok(());
        }
        let unplaced = self.unpack_aside(self.open_blob(blob)?, None, progress);
        self.place(unplaced.map_err(|error| cannot_unpack(diff_id, error))?, chain, diff_id, blob)
    }

    /// Unpacks a file that is a layer, of which it is not yet known where it belongs. `fresh` is the
    /// digest of the file, where it was taken while the file was written.
    pub(crate) fn unpack_aside(
        &self,
        file: File,
        fresh: Option<Digest>,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<Unplaced> {
        let aside = Aside(self.temporary());
        let diff = aside.0.join("diff");
        fs::create_dir(&aside.0).and_then(|()| fs::create_dir(&diff))?;
        let blob_size = file.metadata()?.len();
        let told = Telling { inner: file, count: 0, tell: progress };
        let stream = unpack_stream(told, blob_size, &diff, fresh)?;
        Ok(Unplaced { aside, stream, blob_size })
    }

    /// Gives an unpacked layer its place, if it is what the configuration promised.
    pub(crate) fn place(
        &self,
        unplaced: Unplaced,
        chain: Digest,
        diff_id: Digest,
        blob: Digest,
    ) -> Result<()> {
        let Unplaced { aside, stream, blob_size } = unplaced;
        if stream.diff_id != diff_id {
            return Err(Error::invalid(format!(
                "layer verification failed: the configuration says {diff_id}, the content is {}",
                stream.diff_id
            )));
        }
        let media_type = stream.media_type.to_owned();
        let layer = Layer { diff_id, blob, blob_size, media_type, size: stream.size };
        self.settle(&aside.0, chain, &layer)
            .map_err(|error| Error::internal(format!("cannot store layer {diff_id}"), error))
    }

    /// Makes a blob of a file that is a layer. What OCI has no media type for, xz and bzip2, becomes
    /// gzip, so that everybody can read what is saved.
    pub(crate) fn adopt_layer(&self, path: &Path, digest: Digest) -> io::Result<Digest> {
        let (compression, unpacked) = unpacking(File::open(path)?)?;
        if !matches!(compression, Compression::Xz | Compression::Bzip2) {
            self.adopt(path, digest)?;
            return Ok(digest);
        }
        let (aside, digest, _) =
            self.spool(GzEncoder::new(unpacked, flate2::Compression::fast()))?;
        self.adopt(&aside, digest)?;
        fs::remove_file(path)?;
        Ok(digest)
    }

    /// Syncs a layer and gives it its place.
    pub(crate) fn settle(&self, aside: &Path, chain: Digest, layer: &Layer) -> io::Result<()> {
        write_synced(&aside.join("layer.json"), &serde_json::to_vec(&Record::of(layer))?)?;
        rustix::fs::syncfs(File::open(aside)?)?;
        let place = self.layer_path(chain);
        match fs::rename(aside, &place) {
            // Somebody else unpacked the same meanwhile.
            Err(_) if self.has_layer(chain) => fs::remove_dir_all(aside)?,
            // A directory comes whole, and a container may be running on it: only what is known of
            // it is written anew.
            Err(_) if place.join("diff").is_dir() => {
                fs::rename(aside.join("layer.json"), place.join("layer.json"))?;
                File::open(&place)?.sync_all()?;
                fs::remove_dir_all(aside)?;
            }
            result => result?,
        }
        self.link_short(chain)
    }

    /// Makes the short name, if it is not there.
    pub(crate) fn link_short(&self, chain: Digest) -> io::Result<()> {
        let target = Path::new("..").join("layers").join(chain.hex()).join("diff");
        let link = self.short_link(chain);
        match std::os::unix::fs::symlink(&target, &link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read_link(&link)? == target { Ok(()) } else { Err(error) }
            }
            result => result,
        }
    }
}

/// Unpacks a layer into an empty directory, as it comes into a store, and returns the digest of what
/// was in it: neither the disk nor the store is told of it.
///
/// # Errors
///
/// As of reading the archive and writing its files; `InvalidData` where it is damaged or over the limits.
pub fn unpack_layer(blob: File, into: &Path) -> io::Result<Digest> {
    let size = blob.metadata()?.len();
    unpack_stream(blob, size, into, None).map(|stream| stream.diff_id)
}

/// How a file is compressed, and what is in it, within limits.
fn unpacking(file: File) -> io::Result<(Compression, impl Read)> {
    let packed = Packed::whole(file.metadata()?.len());
    let mut file = buffered(file);
    let compression = Compression::detect(io::BufRead::fill_buf(&mut file)?);
    let decoder = Decoder::with(file, compression)?;
    Ok((compression, Limited::new(decoder, Limits::default(), packed)))
}

/// Says which layer it was: the stranger's fault, but for a full disk.
fn cannot_unpack(diff_id: Digest, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull => cnm::Kind::Internal,
        _ => cnm::Kind::Invalid,
    };
    Error::caused(kind, format!("cannot unpack layer {diff_id}"), error)
}

/// Unpacks a stream. What decompresses it and what writes the files are two threads; the digest is
/// taken where less is to be done otherwise, or not at all where it is known.
fn unpack_stream(
    blob: impl Read,
    blob_size: u64,
    into: &Path,
    fresh: Option<Digest>,
) -> io::Result<Stream> {
    let mut blob = buffered(blob);
    let compression = Compression::detect(io::BufRead::fill_buf(&mut blob)?);
    let decoder = Decoder::with(blob, compression)?;
    let (limits, packed) = (Limits::default(), Packed::whole(blob_size));
    let archive = Limited::new(decoder, limits, packed.clone());
    let mut budget = Budget::new(limits, packed, Room::of(into));
    let (unpacked, diff_id) = match (compression, fresh) {
        (Compression::Plain, Some(digest)) => {
            (handed(archive, |pieces| extract(pieces, into, &mut budget))?, digest)
        }
        (Compression::Plain, None) => {
            let mut archive = Digesting::new(archive);
            let unpacked = handed(&mut archive, |pieces| extract(pieces, into, &mut budget))?;
            (unpacked, archive.finish().1)
        }
        _ => handed(archive, |pieces| {
            let mut archive = Digesting::new(pieces);
            let unpacked = extract(&mut archive, into, &mut budget)?;
            Ok((unpacked, archive.finish().1))
        })?,
    };
    Ok(Stream { diff_id, size: unpacked.size, media_type: compression.media_type() })
}

/// A layer that is unpacked and has no place yet. If it never gets one, it is removed.
#[derive(Debug)]
pub(crate) struct Unplaced {
    aside: Aside,
    stream: Stream,
    blob_size: u64,
}

impl Unplaced {
    /// The digest of its archive.
    pub(crate) fn diff_id(&self) -> Digest {
        self.stream.diff_id
    }
}

/// What came of the stream of a layer.
#[derive(Debug)]
struct Stream {
    /// Digest of the archive.
    diff_id: Digest,
    /// Bytes of files.
    size: u64,
    media_type: &'static str,
}

/// A directory that is gone with this, unless it was moved to its place.
#[derive(Debug)]
struct Aside(PathBuf);

impl Drop for Aside {
    fn drop(&mut self) {
        // What stays is swept when the store is opened next.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Tells how far a stream was read.
struct Telling<'a, R> {
    inner: R,
    count: u64,
    tell: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Telling<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        (self.tell)(self.count);
        Ok(count)
    }
}
