//! The store on disk: one redb file, one table of records.
//!
//! A batch is one redb transaction. An immediate commit is on the disk, with an fsync, when it
//! returns; an eventual one is visible at once and goes to the disk with the next immediate one,
//! at the latest when the store is closed. Immediate commits that come at the same time share an
//! fsync: whoever syncs first does it for all who have written by then.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Batch, Change, Durability, Store, StoreError, Watchers};
use crate::Kind;

/// The format that this version reads and writes, under [`SCHEMA_KEY`].
const SCHEMA: &[u8] = b"1";

/// The record that says which format the others have.
const SCHEMA_KEY: &str = "meta/schema";

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

/// Whatever went wrong below.
type Cause = Box<dyn Error + Send + Sync>;

/// Records in a file.
#[derive(Debug)]
pub struct Disk {
    database: Database,
    writing: Mutex<Writing>,
    /// The number of the last batch that is on the disk.
    synced: Mutex<u64>,
}

/// Held while writing, so that watchers hear of the changes in the order they were made.
#[derive(Debug, Default)]
struct Writing {
    watchers: Watchers,
    /// How many batches have been written.
    written: u64,
}

/// Why a file cannot be used as a store.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0} is in use by another process: stop the other daemon or choose another data root")]
    InUse(PathBuf),
    #[error(
        "{path} has format {found}, this version knows format {known}: use the version that wrote it"
    )]
    Schema { path: PathBuf, found: String, known: String },
}

impl Disk {
    /// Opens the file, or creates it. One process at a time can have it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_file(path).map_err(failed("open"))
    }

    fn open_file(path: &Path) -> Result<Self, Cause> {
        let fresh = !path.exists();
        let database = Database::create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => Unusable::InUse(path.to_owned()).into(),
            other => Cause::from(other),
        })?;
        let (writing, synced) = Default::default();
        let disk = Self { database, writing, synced };
        disk.check_schema(path)?;
        if let (true, Some(directory)) = (fresh, path.parent()) {
            // The new file's name must survive a power failure, too.
            let here = directory.as_os_str().is_empty();
            File::open(if here { Path::new(".") } else { directory })?.sync_all()?;
        }
        Ok(disk)
    }

    fn check_schema(&self, path: &Path) -> Result<(), Cause> {
        let transaction = self.database.begin_write()?;
        let mut records = transaction.open_table(RECORDS)?;
        let found = records.get(SCHEMA_KEY)?.map(|found| found.value().to_vec());
        match found {
            Some(found) if found == SCHEMA => return Ok(()),
            Some(found) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let (found, known) = (text(&found), text(SCHEMA));
                return Err(Unusable::Schema { path: path.to_owned(), found, known }.into());
            }
            None => records.insert(SCHEMA_KEY, SCHEMA)?,
        };
        drop(records);
        Ok(transaction.commit()?)
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, Cause> {
        let records = self.database.begin_read()?.open_table(RECORDS)?;
        Ok(records.get(key)?.map(|value| value.value().to_vec()))
    }

    fn read_below(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Cause> {
        let records = self.database.begin_read()?.open_table(RECORDS)?;
        let mut found = Vec::new();
        for record in records.range(prefix..)? {
            let (key, value) = record?;
            if !key.value().starts_with(prefix) {
                break;
            }
            found.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok(found)
    }

    /// Writes if `condition` holds of the records as they are.
    fn write(
        &self,
        writes: &[(&str, Option<&[u8]>)],
        durability: Durability,
        condition: impl FnOnce(&redb::Table<'_, &str, &[u8]>) -> Result<bool, Cause>,
    ) -> Result<bool, Cause> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(redb::Durability::None)?;
        let mut records = transaction.open_table(RECORDS)?;
        if !condition(&records)? {
            return Ok(false);
        }
        for (key, value) in writes {
            match value {
                Some(value) => records.insert(key, value)?,
                None => records.remove(key)?,
            };
        }
        drop(records);
        transaction.commit()?;
        for (key, value) in writes {
            writing.watchers.tell(key, *value);
        }
        writing.written += 1;
        let number = writing.written;
        drop(writing);
        if durability == Durability::Immediate {
            self.sync(number)?;
        }
        Ok(true)
    }

    /// Waits until the batch with this number is on the disk.
    fn sync(&self, number: u64) -> Result<(), Cause> {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if *synced >= number {
            return Ok(());
        }
        let written = self.writing.lock().unwrap_or_else(PoisonError::into_inner).written;
        // A durable commit takes all earlier ones along.
        self.database.begin_write()?.commit()?;
        *synced = written;
        Ok(())
    }
}

impl Store for Disk {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(key).map_err(failed("read"))
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.read_below(prefix).map_err(failed("read"))
    }

    fn commit(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        let writes = batch.writes.iter().map(|(key, value)| (key.as_str(), value.as_deref()));
        let writes: Vec<_> = writes.collect();
        self.write(&writes, durability, |_| Ok(true)).map(drop).map_err(failed("write"))
    }

    fn compare_and_set(
        &self,
        key: &str,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool, StoreError> {
        let as_expected = |records: &redb::Table<'_, &str, &[u8]>| {
            let found = records.get(key)?;
            Ok(found.as_ref().map(redb::AccessGuard::value) == old)
        };
        self.write(&[(key, new)], Durability::Immediate, as_expected).map_err(failed("write"))
    }

    fn watch(&self, prefix: &str) -> Receiver<Change> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.watchers.add(prefix)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What cannot be written now is recovered from its intent, as after a power failure.
        let _ = self.write(&[], Durability::Immediate, |_| Ok(true));
    }
}

fn failed(verb: &'static str) -> impl Fn(Cause) -> StoreError {
    move |source| {
        let in_use = matches!(source.downcast_ref(), Some(Unusable::InUse(_)));
        let kind = if in_use { Kind::Unavailable } else { Kind::Internal };
        StoreError { kind, verb, source }
    }
}
