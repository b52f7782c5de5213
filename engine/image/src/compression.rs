//! What streams of layers pass through: digests, decompression by magic number.

use std::io::{self, BufRead, BufReader, Read, Write};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use sha2::{Digest as _, Sha256};

use super::digest::Digest;

/// How a blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Plain,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    /// By the first bytes.
    pub(super) fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // `h`, the size of a block, and the first block's magic or that of the end.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => Self::Bzip2,
            _ => Self::Plain,
        }
    }

    /// OCI's media type of a layer compressed like this.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            // OCI has no names for these two; a registry that holds such layers is none of ours.
            Self::Xz => "application/vnd.oci.image.layer.v1.tar+xz",
            Self::Bzip2 => "application/vnd.oci.image.layer.v1.tar+bzip2",
        }
    }
}

/// Memory for the window of a stream, in KiB: what `xz -9` needs, and what zstd takes by default.
const WINDOW: u32 = 128 << 10;

/// A stream decompressed as its first bytes demand.
pub(super) enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
    Xz(Box<XzReader<R>>),
    Bzip2(Box<MultiBzDecoder<R>>),
}

impl<R: Read> Decoder<BufReader<R>> {
    pub(super) fn new(inner: R) -> io::Result<Self> {
        let mut inner = BufReader::with_capacity(1 << 16, inner);
        let compression = Compression::detect(inner.fill_buf()?);
        Self::with(inner, compression)
    }
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn with(inner: R, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Plain => Self::Plain(inner),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(inner))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(inner)?;
                decoder.window_log_max((WINDOW << 10).ilog2())?;
                Self::Zstd(Box::new(decoder))
            }
            Compression::Xz => Self::Xz(Box::new(XzReader::new_mem_limit(inner, true, WINDOW))),
            Compression::Bzip2 => Self::Bzip2(Box::new(MultiBzDecoder::new(inner))),
        })
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(inner) => inner.read(buffer),
            Self::Gzip(inner) => inner.read(buffer),
            Self::Zstd(inner) => inner.read(buffer),
            Self::Xz(inner) => inner.read(buffer),
            Self::Bzip2(inner) => inner.read(buffer),
        }
    }
}

/// Passes bytes on and takes their digest, whichever way they go.
pub(super) struct Digesting<T> {
    inner: T,
    hasher: Sha256,
    count: u64,
}

impl<T> Digesting<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new(), count: 0 }
    }

    /// What was inside, the digest, the number of bytes.
    pub(super) fn finish(self) -> (T, Digest, u64) {
        (self.inner, Digest::finish(self.hasher), self.count)
    }

    fn see(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.count += bytes.len() as u64;
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.see(&buffer[..count]);
        Ok(count)
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.see(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_decompressed_by_its_magic_number() {
        let text = b"one layer".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&text).unwrap();
        let packed = [
            (text.clone(), Compression::Plain),
            (gzip.finish().unwrap(), Compression::Gzip),
            (zstd, Compression::Zstd),
            (bzip2.finish().unwrap(), Compression::Bzip2),
            (xz(&text), Compression::Xz),
        ];
        for (packed, compression) in packed {
            assert_eq!(Compression::detect(&packed), compression);
            let mut unpacked = Vec::new();
            Decoder::new(&packed[..]).unwrap().read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, text);
            // A stream may be of several, one after the other.
            unpacked.clear();
            if compression != Compression::Plain {
                let twice = [&packed[..], &packed[..]].concat();
                Decoder::new(&twice[..]).unwrap().read_to_end(&mut unpacked).unwrap();
                assert_eq!(unpacked.len(), text.len() * 2, "{compression:?}");
            }
        }
    }

    fn xz(text: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(text).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn a_stream_that_wants_more_memory_than_any_archive_needs_is_refused() {
        let mut packed = xz(b"small");
        // The size of the dictionary in the header of the first block: the largest there is.
        let at = 12 + 4;
        assert_eq!(packed[at - 2..at], [0x21, 1], "LZMA2 with one byte of properties");
        packed[at] = 40;
        let header = 12..12 + (usize::from(packed[12]) + 1) * 4;
        let sum = crc32(&packed[header.start..header.end - 4]);
        packed[header.end - 4..header.end].copy_from_slice(&sum.to_le_bytes());
        let mut decoder = Decoder::new(&packed[..]).unwrap();
        let error = decoder.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |sum: u32| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
        !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
    }

    #[test]
    fn a_digest_is_taken_while_bytes_pass() {
        let mut passing = Digesting::new(&b"rnet"[..]);
        io::copy(&mut passing, &mut io::sink()).unwrap();
        let (_, digest, count) = passing.finish();
        assert_eq!((digest, count), (Digest::of(b"rnet"), 4));
    }
}
