//! Layers as registries take them: compressed, and always under the same digest.
//!
//! A blob that came compressed is pushed as it came. Any other is compressed once to know what it is
//! called then, which is written down beside the layer; the bytes are made again where they are
//! wanted, and nothing is kept twice.

use std::fs;
use std::io;
use std::path::PathBuf;

use flate2::Compression as Level;
use flate2::read::GzEncoder;
use serde::{Deserialize, Serialize};

use super::{Layer, Store, write_synced};
use crate::compression::{Compression, Decoder};
use crate::digest::Digest;
use engine_error::{Error, Result};

/// Beside `layer.json`.
const RECORD: &str = "packed.json";

/// A compressed layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packed {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Whether it is zstd; it is gzip otherwise.
    #[serde(default)]
    pub(crate) zstd: bool,
}

/// A file that goes when nobody needs it any more.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What stays is swept when the store is opened next.
        let _ = fs::remove_file(&self.0);
    }
}

impl Store {
    /// What a layer is called in registries, if that is known.
    pub(crate) fn packed(&self, chain: Digest) -> Result<Option<Packed>> {
        let layer = self.layer(chain)?;
        if let Some(packed) = as_it_came(&layer) {
            return Ok(Some(packed));
        }
        let record = fs::read(self.layer_path(chain).join(RECORD)).ok();
        Ok(record.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// The bytes of a compressed layer: where they are, and what keeps them there.
    pub(crate) fn pack(&self, chain: Digest) -> Result<(PathBuf, Option<Temporary>, Packed)> {
        let layer = self.layer(chain)?;
        if let Some(packed) = as_it_came(&layer) {
            return Ok((self.blob_path(layer.blob), None, packed));
        }
        let failed = |error: io::Error| {
            Error::internal(format!("cannot compress layer {}", layer.diff_id), error)
        };
        let content = Decoder::new(self.open_blob(layer.blob)?).map_err(failed)?;
        let (path, digest, size) =
            self.spool(GzEncoder::new(content, Level::default())).map_err(failed)?;
        let made = Temporary(path.clone());
        let packed = Packed { digest, size, zstd: false };
        self.note_packed(chain, packed).map_err(failed)?;
        Ok((path, Some(made), packed))
    }

    fn note_packed(&self, chain: Digest, packed: Packed) -> io::Result<()> {
        let aside = self.temporary();
        write_synced(&aside, &serde_json::to_vec(&packed)?)?;
        fs::rename(&aside, self.layer_path(chain).join(RECORD))
    }
}

/// A blob that registries take as it is.
fn as_it_came(layer: &Layer) -> Option<Packed> {
    let zstd = layer.media_type == Compression::Zstd.media_type();
    let fits = zstd || layer.media_type == Compression::Gzip.media_type();
    fits.then_some(Packed { digest: layer.blob, size: layer.blob_size, zstd })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::tests::{Scratch, docker_archive, layer, open};

    #[test]
    fn a_layer_that_came_plain_is_compressed_under_the_same_digest_each_time() {
        let scratch = Scratch::new();
        let images = open(&scratch);
        let plain = layer("one");
        images
            .load(&docker_archive(std::slice::from_ref(&plain), &["a:1"])[..], &mut |_| {})
            .unwrap();
        let chain = images.find("a:1").unwrap().layers[0];
        let store = images.store();
        assert_eq!(store.packed(chain).unwrap(), None);
        let (path, made, first) = store.pack(chain).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (first.digest, first.size));
        let mut content = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut content).unwrap();
        assert_eq!(content, plain);
        drop(made);
        assert!(!path.exists());
        assert_eq!(store.packed(chain).unwrap(), Some(first));
        assert_eq!(store.pack(chain).unwrap().2, first);
        // What is noted of it is lost with the layer only.
        assert_eq!(open_again(&scratch, images).store().packed(chain).unwrap(), Some(first));
    }

    fn open_again(scratch: &Scratch, images: crate::Images) -> crate::Images {
        drop(images);
        open(scratch)
    }
}
