//! Images that are made here: layers out of what containers changed, and configurations on them.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, PipeReader, PipeWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use flate2::write::GzEncoder;

use super::compression::{Compression, Digesting};
use super::digest::{Digest, ImageId};
use super::extract::extract;
use super::limits::{Budget, Limits, Packed, Room};
use super::pack::{Packer, join};
use super::reference::Reference;
use super::rootfs::{ChangeKind, RootFs};
use super::store::{Ingest, Layer, NewImage, Store};
use super::{Image, Images, config};
use engine_error::{Error, Kind, Result};

/// Images being made. While this lives, nothing that was made by it is swept.
#[derive(Debug)]
pub struct Making {
    store: Arc<Store>,
    _ingest: Ingest,
}

/// What becomes of a container's changes once they are a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// They stay.
    Copy,
    /// They go into the layer: nothing runs on them now, and nothing will.
    Move,
}

/// A layer that was made. It may be one that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewLayer {
    /// Its digest with all that is below it.
    pub chain: Digest,
    /// The digest of its archive.
    pub diff_id: Digest,
    /// Bytes of the files in it.
    pub size: u64,
}

/// Where the archive of a layer goes: its digest is taken, it is compressed, and it is unpacked again
/// at once if somebody reads there.
type Sink = Digesting<Both<GzEncoder<Digesting<BufWriter<File>>>>>;

/// An archive that was written.
struct Packaged {
    diff_id: Digest,
    blob: Digest,
    blob_size: u64,
    size: u64,
}

impl Images {
    /// Begins to make images.
    pub fn making(&self) -> Making {
        Making { store: Arc::clone(self.store()), _ingest: self.store().ingest() }
    }

    /// The configuration of an image, as it was written.
    pub fn configuration(&self, id: ImageId) -> Result<serde_json::Value> {
        let failed = |error| Error::internal(format!("cannot read the configuration {id}"), error);
        let bytes = self.store().read_blob(id.0).map_err(failed)?;
        let document: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        let damaged =
            |error| Error::caused(Kind::Invalid, format!("the image {id} is damaged"), error);
        let Some(fields) = document.as_object() else {
            return Err(damaged(Error::invalid("its configuration is not an object")));
        };
        config::check_shape(fields).map_err(damaged)?;
        Ok(document)
    }

    /// The directory of an unpacked layer.
    pub fn layer_files(&self, chain: Digest) -> std::path::PathBuf {
        self.store().layer_path(chain).join("diff")
    }
}

impl Making {
    /// Makes a layer of what a container changed, on top of the layers that it is made of. What every
    /// container is given, such as an empty `/etc/hosts`, is not in it.
    pub fn layer(&self, root: &RootFs, keep: Keep) -> Result<NewLayer> {
        let aside = self.store.temporary();
        let made = self.layer_aside(root, keep, &aside);
        if made.is_err() {
            // What stays is swept when the store is opened next.
            let _ = fs::remove_dir_all(&aside);
        }
        made.map_err(|error| {
            let dir = root.upper();
            Error::internal(format!("cannot make a layer of {}", dir.display()), error)
        })
    }

    /// Adds an image whose layers are there, or gives one that is there more names. `parent` is the
    /// image that it was made of.
    pub fn image(
        &self,
        bytes: &[u8],
        names: &[Reference],
        parent: Option<ImageId>,
    ) -> Result<Arc<Image>> {
        // Nobody could pull it.
        if bytes.len() > config::LARGEST {
            let text = format!("the configuration has more than {} bytes", config::LARGEST);
            return Err(Error::invalid(text));
        }
        self.store.add_image(&NewImage { config: bytes, names, digests: &[], parent })
    }

    fn layer_aside(&self, root: &RootFs, keep: Keep, aside: &Path) -> io::Result<NewLayer> {
        let (blob, diff) = (aside.join("blob"), aside.join("diff"));
        fs::create_dir(aside)?;
        let moved = keep == Keep::Move && root.is_overlay();
        let packaged = if moved {
            root.remove_given()?;
            package(root, &blob, None)?
        } else {
            fs::create_dir(&diff)?;
            package_and_unpack(root, &blob, &diff)?
        };
        let Packaged { diff_id, blob: digest, blob_size, size } = packaged;
        let chain = diff_id.chain(root.parent());
        let made = NewLayer { chain, diff_id, size };
        if self.store.has_layer(chain) {
            fs::remove_dir_all(aside)?;
            return Ok(made);
        }
        self.store.adopt(&blob, digest)?;
        if moved {
            fs::rename(root.upper(), &diff)?;
        }
        let media_type = Compression::Gzip.media_type().to_owned();
        let layer = Layer { diff_id, blob: digest, blob_size, media_type, size };
        self.store.settle(aside, chain, &layer)?;
        Ok(made)
    }
}

/// Writes the archive, and unpacks it while it is written.
fn package_and_unpack(root: &RootFs, blob: &Path, diff: &Path) -> io::Result<Packaged> {
    let (reader, writer) = io::pipe()?;
    thread::scope(|scope| {
        let packing = thread::Builder::new()
            .name("layer".to_owned())
            .spawn_scoped(scope, move || package(root, blob, Some(writer)))?;
        let unpacked = unpack(reader, diff);
        let ended = |_| io::Error::other("the thread that writes the layer has ended");
        let packaged = packing.join().map_err(ended)?;
        match (packaged, unpacked) {
            // Whoever reads has ended first, and says why.
            (Err(error), Err(why)) if error.kind() == io::ErrorKind::BrokenPipe => Err(why),
            (packaged, unpacked) => {
                let packaged = packaged?;
                unpacked.map(|()| packaged)
            }
        }
    })
}

fn unpack(archive: PipeReader, diff: &Path) -> io::Result<()> {
    // It is no stranger's: however much is in it, is on this disk already.
    let limits = Limits { size: u64::MAX, free: u64::MAX, ratio: u64::MAX };
    let mut budget = Budget::new(limits, Packed::whole(u64::MAX), Room::of(diff));
    extract(BufReader::with_capacity(1 << 16, archive), diff, &mut budget).map(drop)
}

fn package(root: &RootFs, blob: &Path, copy: Option<PipeWriter>) -> io::Result<Packaged> {
    let file = BufWriter::with_capacity(1 << 16, File::create_new(blob)?);
    let gzip = GzEncoder::new(Digesting::new(file), flate2::Compression::fast());
    let mut packer = Packer::new(BufWriter::with_capacity(1 << 16, sink(gzip, copy)));
    write_changes(root, &mut packer)?;
    let (buffered, size) = packer.finish()?;
    let sink = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
    let (both, diff_id, _) = sink.finish();
    let (mut file, blob, blob_size) = both.first.finish()?.finish();
    file.flush()?;
    Ok(Packaged { diff_id, blob, blob_size, size })
}

fn sink(first: GzEncoder<Digesting<BufWriter<File>>>, second: Option<PipeWriter>) -> Sink {
    Digesting::new(Both { first, second })
}

fn write_changes(root: &RootFs, packer: &mut Packer<impl Write>) -> io::Result<()> {
    root.walk(true, &mut |found| {
        if found.kind != ChangeKind::Deleted {
            packer.node(found.parent, found.name, found.path)?;
            if found.is_opaque {
                packer.mark(&join(found.path, b".wh..wh..opq"))?;
            }
        } else if !found.is_hidden {
            let at = found.path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
            let (above, name) = found.path.split_at(at);
            packer.mark(&[above, b".wh.", name].concat())?;
        }
        Ok(())
    })
}

/// Writes to two places.
struct Both<A> {
    first: A,
    second: Option<PipeWriter>,
}

impl<A: Write> Write for Both<A> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.first.write_all(bytes)?;
        if let Some(second) = &mut self.second {
            second.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.first.flush()
    }
}

#[cfg(test)]
mod tests;
