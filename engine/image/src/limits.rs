//! How much of a stranger's bytes is taken: against archives that unpack to more than they are, and
//! against filling the disk.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

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
    fn default() -> Self {
        Self { size: 1 << 40, free: 1 << 30, ratio: 200 }
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
pub(super) struct Packed(Rc<Cell<u64>>);

impl Packed {
    /// Those of a whole blob.
    pub(super) fn whole(size: u64) -> Self {
        Self(Rc::new(Cell::new(size)))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.get()
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
        self.packed.0.set(self.packed.bytes() + count as u64);
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

    /// Takes bytes that files show, before they do.
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
    fn a_bomb_is_stopped_at_the_limit() {
        let limits = Limits { size: 1 << 40, free: 1 << 20, ratio: 100 };
        let mut bomb = Limited::new(io::repeat(0), limits, Packed::whole(1000));
        let error = io::copy(&mut bomb, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("decompression bomb"), "{error}");
        assert!(bomb.unpacked < 2 << 20);
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
    fn what_the_disk_has_no_room_for_is_refused_before_it_is_written() {
        let here = std::env::temp_dir();
        Room::of(&here).take(1).unwrap();
        let error = Room::of(&here).take(1 << 60).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("rnet system prune"), "{error}");
    }
}
