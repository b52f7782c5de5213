//! A way to the store on which one reply gets lost, and a disk that loses what was not made durable.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::{
    ClusterStore, Health, LeaseId, Memory, Outcome, Pending, Revision, Snapshot, StoreError, Txn,
    Watch,
};
use cnm::Store;
use cnm::store::{Batch, Change, Durability};
use tokio::sync::Notify;

/// What becomes of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its reply is lost; whether it happens.
    Lost(bool),
    /// It is never answered, and whoever sent it dies; whether it happens.
    Dies(bool),
}

impl Fault {
    fn happens(self) -> bool {
        match self {
            Self::Lost(happens) | Self::Dies(happens) => happens,
        }
    }
}

/// A host's way to the store.
#[derive(Clone)]
pub(crate) struct Wire(Arc<Inner>);

struct Inner {
    store: Memory,
    /// How many transactions went by.
    sent: AtomicUsize,
    /// How many entries were read.
    read: AtomicUsize,
    fault: Mutex<Option<(usize, Fault)>>,
    /// Told when somebody is to die.
    dying: Notify,
    /// What the struck transaction was.
    struck: Mutex<Option<Txn>>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl Wire {
    pub(crate) fn new(store: &Memory) -> Self {
        let (sent, read, fault, dying, struck) = Default::default();
        Self(Arc::new(Inner { store: store.clone(), sent, read, fault, dying, struck }))
    }

    /// One of the next transactions meets a fault, after so many others.
    pub(crate) fn strike(&self, after: usize, fault: Fault) {
        let number = self.0.sent.load(Ordering::Relaxed) + after;
        *self.0.fault.lock().unwrap() = Some((number, fault));
    }

    /// How many transactions went by, and how many entries were read.
    pub(crate) fn traffic(&self) -> (usize, usize) {
        (self.0.sent.load(Ordering::Relaxed), self.0.read.load(Ordering::Relaxed))
    }

    /// The transaction that met the fault, if one did.
    pub(crate) fn struck(&self) -> Option<Txn> {
        self.0.struck.lock().unwrap().clone()
    }

    /// Waits until whoever uses this way is to die.
    pub(crate) async fn dying(&self) {
        self.0.dying.notified().await;
    }
}

impl ClusterStore for Wire {
    fn range<'a>(&'a self, prefix: &'a str) -> Pending<'a, Result<Snapshot, StoreError>> {
        Box::pin(async move {
            let found = self.0.store.range(prefix).await?;
            self.0.read.fetch_add(found.entries.len(), Ordering::Relaxed);
            Ok(found)
        })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
    ) -> Pending<'a, Result<Box<dyn Watch>, StoreError>> {
        self.0.store.watch(prefix, from)
    }

    fn transact(&self, txn: Txn) -> Pending<'_, Result<Outcome, StoreError>> {
        Box::pin(async move {
            let number = self.0.sent.fetch_add(1, Ordering::Relaxed);
            let fault = *self.0.fault.lock().unwrap();
            let Some((_, fault)) = fault.filter(|(struck, _)| *struck == number) else {
                return self.0.store.transact(txn).await;
            };
            *self.0.struck.lock().unwrap() = Some(txn.clone());
            if fault.happens() {
                self.0.store.transact(txn).await?;
            }
            if let Fault::Dies(_) = fault {
                self.0.dying.notify_one();
                std::future::pending::<()>().await;
            }
            Err(StoreError::Unknown("the reply was lost".to_owned()))
        })
    }

    fn grant(&self, ttl: Duration) -> Pending<'_, Result<LeaseId, StoreError>> {
        self.0.store.grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Pending<'_, Result<(), StoreError>> {
        self.0.store.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Pending<'_, Result<(), StoreError>> {
        self.0.store.revoke(lease)
    }

    fn health(&self) -> Pending<'_, Result<Health, StoreError>> {
        self.0.store.health()
    }
}

/// A host's disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    now: cnm::store::Memory,
    /// What survives the end of the process.
    durable: Mutex<Vec<(String, Vec<u8>)>>,
}

impl Disk {
    /// What the next process finds.
    pub(crate) fn after_a_kill(&self) -> Self {
        let durable = self.durable.lock().unwrap().clone();
        let now = cnm::store::Memory::new();
        let writes = durable.iter().cloned().map(|(key, value)| (key, Some(value))).collect();
        now.commit(&Batch { writes }, Durability::Immediate).unwrap();
        Self { now, durable: Mutex::new(durable) }
    }

    fn sync(&self) {
        *self.durable.lock().unwrap() = self.now.list("").unwrap();
    }
}

impl Store for Disk {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, cnm::store::StoreError> {
        self.now.get(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, cnm::store::StoreError> {
        self.now.list(prefix)
    }

    fn commit(&self, batch: &Batch, durability: Durability) -> Result<(), cnm::store::StoreError> {
        self.now.commit(batch, durability)?;
        if durability == Durability::Immediate {
            self.sync();
        }
        Ok(())
    }

    fn compare_and_set(
        &self,
        key: &str,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool, cnm::store::StoreError> {
        let done = self.now.compare_and_set(key, old, new)?;
        self.sync();
        Ok(done)
    }

    fn watch(&self, prefix: &str) -> Receiver<Change> {
        self.now.watch(prefix)
    }
}
