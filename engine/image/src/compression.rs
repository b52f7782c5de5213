//! What streams of layers pass through: digests, limits, decompression by magic number.

use std::io::{self, BufRead, BufReader, Read, Write};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::digest::Digest;

/// How a blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the first bytes.
    pub(super) fn detect(start: &[u8]) -> io::Result<Self> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Err(unsupported("xz")),
            [b'B', b'Z', b'h', ..] => Err(unsupported("bzip2")),
            _ => Ok(Self::Plain),
        }
    }

    /// OCI's media type of a layer compressed like this.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

fn unsupported(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("{name} compression is not supported: use gzip, zstd or none"),
    )
}

/// A stream decompressed as its first bytes demand.
pub(super) enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
}

impl<R: Read> Decoder<BufReader<R>> {
    pub(super) fn new(inner: R) -> io::Result<Self> {
        let mut inner = BufReader::with_capacity(1 << 16, inner);
        let compression = Compression::detect(inner.fill_buf()?)?;
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
                // 128 MiB: what the command line tool takes by default.
                decoder.window_log_max(27)?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(inner) => inner.read(buffer),
            Self::Gzip(inner) => inner.read(buffer),
            Self::Zstd(inner) => inner.read(buffer),
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

/// How large a layer may become when it is unpacked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes, whatever the ratio.
    pub(super) size: u64,
    /// Bytes up to which any ratio is fine.
    pub(super) free: u64,
    /// How many times larger than the blob, beyond that.
    pub(super) ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { size: 1 << 40, free: 1 << 30, ratio: 200 }
    }
}

impl Limits {
    /// Fails where `unpacked` bytes are too many for a blob of `packed` bytes.
    fn check(self, packed: u64, unpacked: u64) -> io::Result<()> {
        let fine =
            unpacked <= self.size && (unpacked <= self.free || unpacked / self.ratio <= packed);
        if fine {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{packed} bytes unpack to more than {unpacked}: refused as a decompression bomb"
            ),
        ))
    }
}

/// The unpacked bytes of a blob of known size, watched by [`Limits`].
pub(super) struct Limited<R> {
    inner: R,
    limits: Limits,
    packed: u64,
    unpacked: u64,
}

impl<R: Read> Limited<R> {
    pub(super) fn new(inner: R, limits: Limits, packed: u64) -> Self {
        Self { inner, limits, packed, unpacked: 0 }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.unpacked += count as u64;
        self.limits.check(self.packed, self.unpacked)?;
        Ok(count)
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
        for packed in [text.clone(), gzip.finish().unwrap(), zstd] {
            let mut unpacked = Vec::new();
            Decoder::new(&packed[..]).unwrap().read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, text);
        }
        let error = Decoder::new(&b"\xfd7zXZ\0"[..]).err().unwrap();
        assert!(error.to_string().contains("xz"), "{error}");
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let limits = Limits { size: 1 << 40, free: 1 << 20, ratio: 100 };
        let mut bomb = Limited::new(io::repeat(0), limits, 1000);
        let error = io::copy(&mut bomb, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("decompression bomb"), "{error}");
        assert!(bomb.unpacked < 2 << 20);
    }

    #[test]
    fn a_digest_is_taken_while_bytes_pass() {
        let mut passing = Digesting::new(&b"rnet"[..]);
        io::copy(&mut passing, &mut io::sink()).unwrap();
        let (_, digest, count) = passing.finish();
        assert_eq!((digest, count), (Digest::of(b"rnet"), 4));
    }
}
