//! A store that forgets: for tests, and for daemons that shall leave nothing behind.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Batch, Change, Durability, Store, StoreError, Watchers};

/// Records in a map.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<String, Vec<u8>>,
    watchers: Watchers,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    // A panic of another thread leaves the map whole: every change of it is one call.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, key: &str, value: Option<&[u8]>) {
        match value {
            Some(value) => self.records.insert(key.to_owned(), value.to_vec()),
            None => self.records.remove(key),
        };
        self.watchers.tell(key, value);
    }
}

impl Store for Memory {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.lock().records.get(key).cloned())
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let inner = self.lock();
        let records = inner.records.range(prefix.to_owned()..);
        let below = records.take_while(|(key, _)| key.starts_with(prefix));
        Ok(below.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&self, batch: &Batch, _: Durability) -> Result<(), StoreError> {
        let mut inner = self.lock();
        for (key, value) in &batch.writes {
            inner.write(key, value.as_deref());
        }
        Ok(())
    }

    fn compare_and_set(
        &self,
        key: &str,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool, StoreError> {
        let mut inner = self.lock();
        if inner.records.get(key).map(Vec::as_slice) != old {
            return Ok(false);
        }
        inner.write(key, new);
        Ok(true)
    }

    fn watch(&self, prefix: &str) -> Receiver<Change> {
        self.lock().watchers.add(prefix)
    }
}
