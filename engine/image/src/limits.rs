//! How much of a stranger's bytes is taken: against archives that unpack to more than they are, and
//! against filling the disk.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an entry of an archive costs beside its content: an inode, a name.
pub(super) const ENTRY: u64 = 1024;
/// After so many bytes the disk is asked again what is left.
const STEP: u64 = 16 << 20;
/// The most that is kept free for everything else that is written on that disk.
const RESERVE: u64 = 256 << 20;

/// How large an archive may become when it is unpacked.
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
    /// Zeros are packed 1032 times smaller by deflate, and much more by zstd, in honest archives too:
    /// disks of virtual machines, files that were made to be filled later. How much the disk takes is
    /// not for these limits to say, but for [`Room`].
    fn default() -> Self {
        Self { size: 1 << 40, free: 16 << 30, ratio: 1100 }
    }
}

impl Limits {
    /// Fails where `unpacked` bytes are too many for a blob of `packed` bytes.
    pub(super) fn check(self, packed: u64, unpacked: u64) -> io::Result<()> {
        let fine =
            unpacked <= self.size && (unpacked <= self.free || unpacked / self.ratio <= packed);
        if fine {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{packed} bytes unpack to {unpacked} or more: refused as a decompression bomb"),
        ))
    }
}

/// How many packed bytes there are: of a blob all of them, of a stream those that came so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed {
    bytes: Arc<AtomicU64>,
    whole: bool,
}

impl Packed {
    /// Those of a whole blob.
    pub(super) fn whole(size: u64) -> Self {
        Self { bytes: Arc::new(AtomicU64::new(size)), whole: true }
    }

    /// Those that there are when the content of an entry has been read. A stream tells only by its
    /// headers how much is to come; whether it does, [`Limited`] sees.
    fn with(&self, stored: u64) -> u64 {
        if self.whole { self.bytes() } else { self.bytes().saturating_add(stored) }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A reader that counts here what it reads.
    pub(super) fn count<R: Read>(&self, inner: R) -> Counted<R> {
        Counted { inner, packed: self.clone() }
    }
}

/// See [`Packed::count`].
pub(super) struct Counted<R> {
    inner: R,
    packed: Packed,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.packed.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// The unpacked bytes of a stream, watched by [`Limits`].
pub(super) struct Limited<R> {
    inner: R,
    limits: Limits,
    packed: Packed,
    unpacked: u64,
}

impl<R: Read> Limited<R> {
    pub(super) fn new(inner: R, limits: Limits, packed: Packed) -> Self {
        Self { inner, limits, packed, unpacked: 0 }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.unpacked += count as u64;
        self.limits.check(self.packed.bytes(), self.unpacked)?;
        Ok(count)
    }
}

/// What may be written for an archive: by its limits, and by the room that the disk has.
#[derive(Debug)]
pub(super) struct Budget {
    limits: Limits,
    packed: Packed,
    written: u64,
    room: Room,
}

impl Budget {
    pub(super) fn new(limits: Limits, packed: Packed, room: Room) -> Self {
        Self { limits, packed, written: 0, room }
    }

    /// Takes an entry with so many bytes, of which so many are in the archive, before it is made.
    pub(super) fn enter(&mut self, size: u64, stored: u64) -> io::Result<()> {
        self.written = self.written.saturating_add(size).saturating_add(ENTRY);
        self.limits.check(self.packed.with(stored), self.written)?;
        self.store(stored.saturating_add(ENTRY))
    }

    /// Takes bytes that a file shows, before it does.
    pub(super) fn show(&mut self, bytes: u64) -> io::Result<()> {
        self.written = self.written.saturating_add(bytes);
        self.limits.check(self.packed.bytes(), self.written)
    }

    /// Fails where so many bytes in one file are too many whatever else comes.
    pub(super) fn allows(&self, bytes: u64) -> io::Result<()> {
        self.limits.check(u64::MAX, bytes)
    }

    /// Takes bytes that the disk gets, before it does.
    pub(super) fn store(&mut self, bytes: u64) -> io::Result<()> {
        self.room.take(bytes)
    }
}

/// The room that is left on a disk, a part of which stays free.
#[derive(Debug)]
pub(super) struct Room {
    directory: PathBuf,
    unasked: u64,
}

impl Room {
    pub(super) fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), unasked: STEP }
    }

    /// Takes bytes, before they are written.
    pub(super) fn take(&mut self, bytes: u64) -> io::Result<()> {
        self.unasked = self.unasked.saturating_add(bytes);
        if self.unasked < STEP {
            return Ok(());
        }
        self.unasked = 0;
        let stat = rustix::fs::statvfs(&self.directory)?;
        let left = stat.f_bavail.saturating_mul(stat.f_frsize);
        let reserve = (stat.f_blocks.saturating_mul(stat.f_frsize) / 50).min(RESERVE);
        if left.saturating_sub(reserve) >= bytes {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!(
                "no room in {}: {bytes} bytes are to be written, {left} are left, and {reserve} of \
                 them are kept free; remove what is not needed (rnet system prune)",
                self.directory.display()
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2017_14992_a_bomb_is_stopped_at_the_limit() {
        let limits = Limits { size: 1 << 40, free: 1 << 20, ratio: 100 };
        let mut bomb = Limited::new(io::repeat(0), limits, Packed::whole(1000));
        let error = io::copy(&mut bomb, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("decompression bomb"), "{error}");
        assert!(bomb.unpacked < 2 << 20);
    }

    #[test]
    fn a_huge_file_of_zeros_is_no_bomb_however_it_is_packed() {
        let limits = Limits::default();
        // Of zstd, which packs 128 KiB of zeros in four bytes, and of deflate.
        limits.check(320 << 10, 10 << 30).unwrap();
        limits.check((100 << 30) / 1032, 100 << 30).unwrap();
        limits.check(1 << 20, 100 << 30).unwrap_err();
        limits.check(2 << 40, 2 << 40).unwrap_err();
    }

    #[test]
    fn a_stream_is_measured_by_what_came_of_it() {
        let limits = Limits { size: 1 << 40, free: 10, ratio: 2 };
        let packed = Packed::default();
        io::copy(&mut packed.count(&[0; 100][..]), &mut io::sink()).unwrap();
        assert_eq!(packed.bytes(), 100);
        limits.check(packed.bytes(), 201).unwrap();
        limits.check(packed.bytes(), 202).unwrap_err();
    }

    #[test]
    fn an_entry_of_a_stream_is_measured_with_what_it_brings() {
        let limits = Limits { size: 1 << 40, free: 10, ratio: 2 };
        let here = std::env::temp_dir();
        let budget = |packed| Budget::new(limits, packed, Room::of(&here));
        budget(Packed::default()).enter(1 << 20, 1 << 20).unwrap();
        budget(Packed::default()).enter(1 << 20, 1 << 10).unwrap_err();
        budget(Packed::default()).enter(1 << 41, 1 << 41).unwrap_err();
        budget(Packed::whole(1 << 10)).enter(1 << 20, 1 << 20).unwrap_err();
    }

    #[test]
    fn what_the_disk_has_no_room_for_is_refused_before_it_is_written() {
        let here = std::env::temp_dir();
        Room::of(&here).take(1).unwrap();
        let error = Room::of(&here).take(1 << 60).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("rnet system prune"), "{error}");
    }
}
