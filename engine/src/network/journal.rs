//! Writing things down: what is to be true once it is written, and what is true already.
//!
//! A process that ended, a container that is gone, a sandbox that was taken down: such facts do not
//! wait for a disk that has space. If they cannot be written they are owed, go with whatever is
//! written next, and are tried again until they are there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use cnm::store::{Batch, Durability};
use cnm::{Controller, Store};
use tokio::sync::Notify;

use super::Networks;
use engine_error::{Error, Result};

/// The pause before what is owed is tried again for the first time; the next ones are longer.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The store, and what could not be written to it.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) store: Arc<dyn Store>,
    /// Held while the controller makes records and while they are written, for they are to be
    /// written in the order they were made.
    owed: Mutex<Records>,
    /// Told when something is owed.
    owing: Arc<Notify>,
}

/// Keys with their new records, as in a [`Batch`].
type Records = BTreeMap<String, Option<Vec<u8>>>;

impl Journal {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, owed: Mutex::default(), owing: Arc::default() }
    }

    fn owed(&self) -> MutexGuard<'_, Records> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a batch after what is owed.
    fn commit(&self, owed: &mut Records, batch: Batch, durability: Durability) -> Result<()> {
        let writes = owed.iter().map(|(key, value)| (key.clone(), value.clone()));
        let mut all = Batch { writes: writes.collect() };
        all.extend(batch);
        self.store.commit(&all, durability)?;
        owed.clear();
        Ok(())
    }

    fn owe(&self, owed: &mut Records, batch: Batch) {
        owed.extend(batch.writes);
        self.owing.notify_one();
    }
}

impl Networks {
    /// Writes records that the controller makes, together with the caller's. After an error the
    /// caller's are not written. The controller has made its own true, so they are owed.
    pub(crate) fn write(
        &self,
        make: impl FnOnce(&mut Controller) -> Result<Batch>,
        records: Batch,
        durability: Durability,
    ) -> Result<()> {
        let mut owed = self.journal.owed();
        let own = make(&mut self.controller())?;
        let mut batch = own.clone();
        batch.extend(records);
        self.journal
            .commit(&mut owed, batch, durability)
            .inspect_err(|_| self.journal.owe(&mut owed, own))
    }

    /// Writes down what has happened, now or later; tells whether it is written.
    pub(crate) fn note(
        &self,
        make: impl FnOnce(&mut Controller) -> Batch,
        records: Batch,
        durability: Durability,
    ) -> bool {
        let mut owed = self.journal.owed();
        let mut batch = make(&mut self.controller());
        batch.extend(records);
        let written = self.journal.commit(&mut owed, batch.clone(), durability);
        if let Err(error) = &written {
            tracing::error!(error = error.chain(), "cannot write down what happened yet");
            self.journal.owe(&mut owed, batch);
        }
        written.is_ok()
    }

    /// Writes a batch durably. Others may do so at the same time, and share the flush.
    pub(super) fn write_ahead(&self, batch: Batch) -> Result<()> {
        let mut owed = self.journal.owed();
        if owed.is_empty() {
            drop(owed);
            return Ok(self.journal.store.commit(&batch, Durability::Immediate)?);
        }
        self.journal.commit(&mut owed, batch, Durability::Immediate)
    }

    /// Writes what is owed, and has everything on the disk.
    pub(crate) fn pay(&self) -> Result<()> {
        self.journal.commit(&mut self.journal.owed(), Batch::default(), Durability::Immediate)
    }

    /// Writes what is owed as soon as that is possible, for as long as the networks are used.
    pub(crate) fn keep_paying(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let (networks, owing) = (Arc::downgrade(self), self.journal.owing.clone());
        async move {
            loop {
                owing.notified().await;
                let mut pause = FIRST_PAUSE;
                while !paid(&networks, pause).await {
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// Tries to pay after a pause.
async fn paid(networks: &Weak<Networks>, pause: Duration) -> bool {
    tokio::time::sleep(pause).await;
    let Some(networks) = networks.upgrade() else { return true };
    let payment = tokio::task::spawn_blocking(move || networks.pay()).await;
    match payment.map_err(|error| Error::internal("cannot write the store", error)).flatten() {
        Ok(()) => tracing::info!("what happened is written down"),
        Err(error) => {
            tracing::debug!(error = error.chain(), "cannot write down what happened yet");
            return false;
        }
    }
    true
}
