//! What the database is kept in: a file that is locked for as long as the store is open, whichever
//! errors it had meanwhile, with room that no other file can take.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Database, DatabaseError, StorageBackend};
use rustix::fs::{FallocateFlags, fallocate};

use super::{Cause, Unusable};

/// How much a file may grow on a full disk: enough for hundreds of changes, for what frees space
/// must be written down, too.
const ROOM: u64 = 1 << 20;

/// How much of the file is kept in memory: records are read when a daemon starts and written from
/// then on, so a small part of redb's default (a gigabyte) serves as well.
const CACHE: usize = 1 << 20;

/// Where a database is read from and written to. It outlives databases: one that had an error is
/// closed, and another is opened in the same place.
#[derive(Clone, Debug)]
pub(super) struct Medium(Arc<dyn StorageBackend>);

/// A file with room.
#[derive(Debug)]
struct Roomy {
    file: File,
    /// Whether there was no space for all of the room.
    short: AtomicBool,
}

impl Medium {
    pub(super) fn new(backend: impl StorageBackend) -> Self {
        Self(Arc::new(backend))
    }

    /// Opens the file, or creates it, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, Cause> {
        let options = || File::options().read(true).write(true).create(true).to_owned();
        let file = options().truncate(false).open(path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Unusable::InUse(path.to_owned()).into(),
            TryLockError::Error(error) => Cause::from(error),
        })?;
        Ok(Self::new(Roomy { file, short: AtomicBool::new(true) }))
    }

    /// Opens the database, or creates it.
    pub(super) fn database(&self) -> Result<Database, DatabaseError> {
        Database::builder().set_cache_size(CACHE).create_with_backend(self.clone())
    }
}

/// It is locked already, and stays so when a database is closed.
impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

impl Roomy {
    /// Has blocks given to the whole file and to the room behind its end, as far as there are any.
    fn make_room(&self, len: u64) {
        let mut from = 0;
        // By pieces, because some file systems give all that is asked for or nothing.
        while from < len + ROOM {
            if fallocate(&self.file, FallocateFlags::KEEP_SIZE, from, ROOM).is_err() {
                // Not every file system can do that. Writing shows whether there is space.
                return self.short.store(true, Ordering::Relaxed);
            }
            from += ROOM;
        }
        self.short.store(false, Ordering::Relaxed);
    }
}

impl StorageBackend for Roomy {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.make_room(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.short.load(Ordering::Relaxed) {
            self.make_room(self.len()?);
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}
