//! The store on disk: one redb file, one table of records.
//!
//! A batch is one redb transaction. An immediate commit is on the disk, with an fsync, when it
//! returns; an eventual one is visible at once and goes to the disk with the next immediate one,
//! at the latest when the store is closed. Immediate commits that come at the same time share an
//! fsync: whoever syncs first does it for all who have written by then.
//!
//! After an error of the disk redb refuses everything and has lost what was not on the disk. So
//! batches are remembered until they are there: the database is opened again and told them again.
//! If they cannot be made durable then either, the immediate ones among them are refused, as if
//! they had never been written, and the eventual ones wait for better times.

mod medium;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Batch, Change, Durability, Store, StoreError, Watchers};
use crate::Kind;
use medium::Medium;

/// The format that this version reads and writes, under [`SCHEMA_KEY`].
const SCHEMA: &[u8] = b"1";

/// The record that says which format the others have.
const SCHEMA_KEY: &str = "meta/schema";

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

type Table<'t> = redb::Table<'t, &'static str, &'static [u8]>;

/// Whatever went wrong below.
type Cause = Box<dyn Error + Send + Sync>;

/// Records in a file.
#[derive(Debug)]
pub struct Disk {
    medium: Medium,
    /// The database, unless it could not be opened again after an error.
    database: RwLock<Option<Database>>,
    writing: Mutex<Writing>,
    /// The number of the last batch that is on the disk. Locked before `writing`.
    synced: Mutex<u64>,
}

/// Held while writing, so that watchers hear of the changes in the order they were made.
#[derive(Debug, Default)]
struct Writing {
    watchers: Watchers,
    /// How many batches have been written.
    written: u64,
    /// The batches that are not on the disk yet, in order.
    pending: Vec<Pending>,
    /// Batches that were taken back, with the reason, until their writers ask.
    refused: BTreeMap<u64, String>,
}

/// A batch that is written and not on the disk yet.
#[derive(Debug)]
struct Pending {
    number: u64,
    batch: Batch,
    /// What takes it back, if it is to be on the disk at once or not at all.
    undo: Option<Batch>,
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
    #[error("it is closed after an error")]
    Closed,
}

impl Disk {
    /// Opens the file, or creates it. One process at a time can have it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_file(path).map_err(failed("open"))
    }

    fn open_file(path: &Path) -> Result<Self, Cause> {
        let fresh = !path.exists();
        let disk = Self::open_on(Medium::open(path)?, path)?;
        if let (true, Some(directory)) = (fresh, path.parent()) {
            // The new file's name must survive a power failure, too.
            let here = directory.as_os_str().is_empty();
            File::open(if here { Path::new(".") } else { directory })?.sync_all()?;
        }
        Ok(disk)
    }

    fn open_on(medium: Medium, path: &Path) -> Result<Self, Cause> {
        let database = medium.database()?;
        check_schema(&database, path)?;
        let (database, (writing, synced)) = (RwLock::new(Some(database)), Default::default());
        Ok(Self { medium, database, writing, synced })
    }

    fn read<T>(&self, read: impl Fn(&Database) -> Result<T, Cause>) -> Result<T, Cause> {
        self.on(&read).or_else(|error| {
            let writing = lock(&self.writing);
            self.reopen(&writing.pending).map_err(|_| error)?;
            self.on(&read)
        })
    }

    /// Writes if `condition` holds of the records as they are.
    fn write(
        &self,
        batch: &Batch,
        durability: Durability,
        condition: impl Fn(&Table<'_>) -> Result<bool, Cause>,
    ) -> Result<bool, Cause> {
        let mut writing = lock(&self.writing);
        let write = |database: &Database| write(database, batch, &condition);
        let written = self.on(write).or_else(|error| {
            self.reopen(&writing.pending).map_err(|_| error)?;
            // Nobody shall see what may be half written.
            self.on(write).inspect_err(|_| self.close())
        });
        let Some(undo) = written? else { return Ok(false) };
        for (key, value) in &batch.writes {
            writing.watchers.tell(key, value.as_deref());
        }
        writing.written += 1;
        let (number, batch) = (writing.written, batch.clone());
        let immediate = durability == Durability::Immediate;
        writing.pending.push(Pending { number, batch, undo: immediate.then_some(undo) });
        drop(writing);
        if immediate {
            self.sync(number)?;
        }
        Ok(true)
    }

    /// Waits until the batch with this number is on the disk.
    fn sync(&self, number: u64) -> Result<(), Cause> {
        let mut synced = lock(&self.synced);
        let mut writing = lock(&self.writing);
        if let Some(reason) = writing.refused.remove(&number) {
            return Err(reason.into());
        }
        if *synced >= number {
            return Ok(());
        }
        let mut written = writing.written;
        drop(writing);
        let flushed = self.on(flush);
        let mut writing = lock(&self.writing);
        if flushed.is_err() {
            self.rescue(&mut writing, number)?;
            written = writing.written;
        }
        writing.pending.retain(|pending| pending.number > written);
        *synced = written;
        Ok(())
    }

    /// After an error: makes all that is pending durable by a database without one. If that is in
    /// vain, refuses what cannot wait, so that memory, file and writers agree.
    fn rescue(&self, writing: &mut Writing, asking: u64) -> Result<(), Cause> {
        let rescued = self.reopen(&writing.pending).and_then(|()| self.on(flush));
        rescued.inspect_err(|cause| {
            writing.refuse(cause);
            writing.refused.remove(&asking);
            // If it cannot be opened now, whoever needs it next tries again.
            let _ = self.reopen(&writing.pending);
        })
    }

    /// Does something with the database.
    fn on<T>(&self, action: impl FnOnce(&Database) -> Result<T, Cause>) -> Result<T, Cause> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        action(database.as_ref().ok_or(Unusable::Closed)?)
    }

    /// Opens the database again, with all in it that is not on the disk yet.
    fn reopen(&self, pending: &[Pending]) -> Result<(), Cause> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // What was closed must be gone before the file is read.
        *database = None;
        let opened = self.medium.database()?;
        let all = pending.iter().flat_map(|pending| pending.batch.writes.iter().cloned());
        write(&opened, &Batch { writes: all.collect() }, &|_| Ok(true))?;
        *database = Some(opened);
        Ok(())
    }

    fn close(&self) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Writing {
    /// Takes back the batches that were to be on the disk at once. The eventual ones stay, so what
    /// they wrote since stays, too.
    fn refuse(&mut self, cause: &Cause) {
        let refused = self.pending.extract_if(.., |pending| pending.undo.is_some());
        let refused: Vec<_> = refused.collect();
        let mut undo = Batch::default();
        for refused in refused.into_iter().rev() {
            undo.extend(refused.undo.unwrap_or_default());
            self.refused.insert(refused.number, cause.to_string());
        }
        for (key, value) in &undo.writes {
            self.watchers.tell(key, value.as_deref());
        }
        for (key, value) in self.pending.iter().flat_map(|pending| &pending.batch.writes) {
            if undo.writes.iter().any(|(undone, _)| undone == key) {
                self.watchers.tell(key, value.as_deref());
            }
        }
        // The file may have what is refused: nobody knows how far an fsync came that failed.
        self.pending.insert(0, Pending { number: 0, batch: undo, undo: None });
    }
}

fn check_schema(database: &Database, path: &Path) -> Result<(), Cause> {
    let transaction = database.begin_write()?;
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

fn read(database: &Database, key: &str) -> Result<Option<Vec<u8>>, Cause> {
    let records = database.begin_read()?.open_table(RECORDS)?;
    Ok(records.get(key)?.map(|value| value.value().to_vec()))
}

fn read_below(database: &Database, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Cause> {
    let records = database.begin_read()?.open_table(RECORDS)?;
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

/// Writes a batch, visible and not durable, if `condition` holds; returns what takes it back.
fn write(
    database: &Database,
    batch: &Batch,
    condition: &dyn Fn(&Table<'_>) -> Result<bool, Cause>,
) -> Result<Option<Batch>, Cause> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(redb::Durability::None)?;
    let mut records = transaction.open_table(RECORDS)?;
    if !condition(&records)? {
        return Ok(None);
    }
    let mut undo = Batch::default();
    for (key, value) in &batch.writes {
        let old = match value {
            Some(value) => records.insert(key.as_str(), value.as_slice())?,
            None => records.remove(key.as_str())?,
        };
        undo.writes.push((key.clone(), old.map(|old| old.value().to_vec())));
    }
    undo.writes.reverse();
    drop(records);
    transaction.commit()?;
    Ok(Some(undo))
}

/// A durable commit, which takes all earlier ones along.
fn flush(database: &Database) -> Result<(), Cause> {
    Ok(database.begin_write()?.commit()?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for Disk {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|database| read(database, key)).map_err(failed("read"))
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.read(|database| read_below(database, prefix)).map_err(failed("read"))
    }

    fn commit(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        self.write(batch, durability, |_| Ok(true)).map(drop).map_err(failed("write"))
    }

    fn compare_and_set(
        &self,
        key: &str,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool, StoreError> {
        let as_expected = |records: &Table<'_>| {
            let found = records.get(key)?;
            Ok(found.as_ref().map(redb::AccessGuard::value) == old)
        };
        let batch = Batch { writes: vec![(key.to_owned(), new.map(<[u8]>::to_vec))] };
        self.write(&batch, Durability::Immediate, as_expected).map_err(failed("write"))
    }

    fn watch(&self, prefix: &str) -> Receiver<Change> {
        lock(&self.writing).watchers.add(prefix)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What cannot be written now is recovered from its intent, as after a power failure.
        let _ = self.write(&Batch::default(), Durability::Immediate, |_| Ok(true));
    }
}

fn failed(verb: &'static str) -> impl Fn(Cause) -> StoreError {
    move |source| {
        let in_use = matches!(source.downcast_ref(), Some(Unusable::InUse(_)));
        let kind = if in_use { Kind::Unavailable } else { Kind::Internal };
        StoreError { kind, verb, source }
    }
}

#[cfg(test)]
mod tests;
