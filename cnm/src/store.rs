//! Where the model is kept: records under keys, written in atomic batches.

pub mod disk;
pub mod memory;
pub mod record;

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::{HasKind, Kind};

pub use disk::Disk;
pub use memory::Memory;

/// Keeps records. A key is a `/`-separated path such as `network/<id>`; a value is JSON.
///
/// A batch is written whole or not at all, whenever the power fails. Deleting what is not there
/// is not an error.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The record under a key.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// All records whose keys start with the prefix, in the order of their keys.
    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError>;

    /// Writes a batch.
    fn commit(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError>;

    /// Writes `new` under a key if the record there is `old`; tells whether it was.
    fn compare_and_set(
        &self,
        key: &str,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool, StoreError>;

    /// Tells of every later change below a prefix, in order.
    fn watch(&self, prefix: &str) -> Receiver<Change>;
}

/// Changes that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Batch {
    /// Keys with their new records; `None` deletes.
    pub writes: Vec<(String, Option<Vec<u8>>)>,
}

/// When a batch must be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before `commit` returns.
    Immediate,
    /// With the next immediate one. What is lost with the power can be recovered from an intent.
    Eventual,
}

/// One record changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The record's key.
    pub key: String,
    /// The new value; `None` if it was deleted.
    pub value: Option<Vec<u8>>,
}

/// The store did not do it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} the store")]
pub struct StoreError {
    /// [`Kind::Unavailable`] if another process has the store, else [`Kind::Internal`].
    pub kind: Kind,
    /// What was tried.
    pub verb: &'static str,
    /// Why it did not work.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl HasKind for StoreError {
    fn kind(&self) -> Kind {
        self.kind
    }
}

impl Batch {
    /// Adds the writing of a record.
    pub fn put(&mut self, key: impl Into<String>, value: Vec<u8>) {
        self.writes.push((key.into(), Some(value)));
    }

    /// Adds the deletion of a record.
    pub fn delete(&mut self, key: impl Into<String>) {
        self.writes.push((key.into(), None));
    }

    /// Adds all that another batch does, after what this one does.
    pub fn extend(&mut self, other: Self) {
        self.writes.extend(other.writes);
    }
}

/// Those who want to hear of changes.
#[derive(Debug, Default)]
struct Watchers(Vec<(String, Sender<Change>)>);

impl Watchers {
    fn add(&mut self, prefix: &str) -> Receiver<Change> {
        let (sender, receiver) = channel();
        self.0.push((prefix.to_owned(), sender));
        receiver
    }

    /// Tells of a change, and forgets those who do not listen any more.
    fn tell(&mut self, key: &str, value: Option<&[u8]>) {
        self.0.retain(|(prefix, sender)| {
            let change = || Change { key: key.to_owned(), value: value.map(<[u8]>::to_vec) };
            !key.starts_with(prefix.as_str()) || sender.send(change()).is_ok()
        });
    }
}

#[cfg(test)]
mod tests;
