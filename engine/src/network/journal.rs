//! Writing things down: what is to be true once it is written, and what is true already.
//!
//! Who has something to write stands in line with it, in the order in which it was decided, and no
//! lock is held while the disk is waited for. Whoever needs to know that it is on the disk writes for
//! all who stand there, with one flush; what does not wait for the disk goes with the next one.
//!
//! A process that ended, a container that is gone, a sandbox that was taken down: such facts do not
//! wait for a disk that has space. If they cannot be written they are owed, go with whatever is
//! written next, and are tried again until they are there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::time::Duration;

use cnm::store::{Batch, Durability, StoreError};
use cnm::{Controller, Store};
use tokio::sync::Notify;

use super::Networks;
use engine_error::{Error, Result};

/// The pause before what is owed is tried again for the first time; the next ones are longer.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The store, and what is on its way there.
#[derive(Debug)]
pub(super) struct Journal {
    store: Arc<dyn Store>,
    line: Mutex<Line>,
    /// Whoever has it writes. It alone is held while the disk is waited for.
    pen: Mutex<()>,
    /// Told when something is owed.
    owing: Arc<Notify>,
}

/// What is to be written, in order.
#[derive(Debug, Default)]
struct Line {
    /// What could not be written before.
    owed: Records,
    entries: Vec<Entry>,
}

/// Keys with their new records, as in a [`Batch`].
type Records = BTreeMap<String, Option<Vec<u8>>>;

/// What somebody writes.
#[derive(Clone, Debug)]
struct Entry {
    batch: Batch,
    /// What of it is owed if it cannot be written.
    true_already: Batch,
    durability: Durability,
    outcome: Outcome,
}

/// What became of an entry; empty as long as it stands in line.
type Outcome = Arc<OnceLock<Result<(), Arc<StoreError>>>>;

impl Entry {
    fn is_urgent(&self) -> bool {
        self.durability == Durability::Immediate
    }
}

impl Journal {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        let (line, pen, owing) = Default::default();
        Self { store, line, pen, owing }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has records made and puts them in line, so that they are written in the order in which they
    /// were made. The second of the two batches is owed if they cannot be written.
    fn stand_in_line<E>(
        &self,
        durability: Durability,
        make: impl FnOnce() -> Result<(Batch, Batch), E>,
    ) -> Result<Outcome, E> {
        let mut line = self.line();
        let (batch, true_already) = make()?;
        let outcome = Outcome::default();
        line.entries.push(Entry { batch, true_already, durability, outcome: outcome.clone() });
        Ok(outcome)
    }

    /// Waits until an entry is written.
    fn await_written(&self, outcome: &Outcome) -> Result<()> {
        let pen = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.get().is_none() {
            let mut line = self.line();
            let entries = std::mem::take(&mut line.entries);
            drop(line);
            self.write(&entries);
        }
        drop(pen);
        self.write_idle();
        match outcome.get() {
            Some(Err(error)) => {
                let text = format!("cannot {} the store", error.verb);
                Err(Error::caused(error.kind, text, error.source.to_string()))
            }
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Has all written that stands in line, if somebody writes after he has done so.
    pub(super) fn settle(&self) {
        let _pen = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = std::mem::take(&mut self.line().entries);
        if !entries.is_empty() {
            self.write(&entries);
        }
    }

    /// Writes what nobody waits for, unless somebody is writing, who looks again afterwards.
    fn write_idle(&self) {
        loop {
            let _pen = match self.pen.try_lock() {
                Ok(pen) => pen,
                Err(TryLockError::Poisoned(pen)) => pen.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let mut line = self.line();
            // Who waits for the disk takes along what stands before him.
            if line.entries.is_empty() || line.entries.iter().any(Entry::is_urgent) {
                return;
            }
            let entries = std::mem::take(&mut line.entries);
            drop(line);
            self.write(&entries);
        }
    }

    /// Writes entries, together if that is possible. The caller has the pen.
    fn write(&self, entries: &[Entry]) {
        let urgent = entries.iter().any(Entry::is_urgent);
        let durability = if urgent { Durability::Immediate } else { Durability::Eventual };
        let owed = self.line().owed.clone();
        let mut all = Batch { writes: owed.into_iter().collect() };
        for entry in entries {
            all.extend(entry.batch.clone());
        }
        let error = match self.store.commit(&all, durability) {
            Ok(()) => {
                self.line().owed.clear();
                for entry in entries {
                    entry.settle(Ok(()));
                }
                return;
            }
            Err(error) => error,
        };
        if entries.len() > 1 {
            // One that is too large for the disk is not to take the others along.
            for entry in entries {
                self.write(std::slice::from_ref(entry));
            }
            return;
        }
        let error = Arc::new(error);
        for entry in entries {
            let true_already = &entry.true_already;
            if !true_already.writes.is_empty() {
                let text = Error::caused(error.kind, error.to_string(), error.source.to_string());
                tracing::error!(error = text.chain(), "cannot write down what happened yet");
                self.line().owed.extend(true_already.writes.clone());
                self.owing.notify_one();
            }
            entry.settle(Err(error.clone()));
        }
    }
}

impl Entry {
    fn settle(&self, outcome: Result<(), Arc<StoreError>>) {
        // It is written once.
        let _ = self.outcome.set(outcome);
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
        let make = || {
            let own = make(&mut self.controller())?;
            let mut batch = own.clone();
            batch.extend(records);
            Ok::<_, Error>((batch, own))
        };
        let outcome = self.journal.stand_in_line(durability, make)?;
        self.journal.await_written(&outcome)
    }

    /// Writes down what has happened, now or later. What is to be durable is so when this returns,
    /// unless it says that it is not.
    pub(crate) fn note(
        &self,
        make: impl FnOnce(&mut Controller) -> Batch,
        records: Batch,
        durability: Durability,
    ) -> bool {
        let make = || {
            let mut batch = make(&mut self.controller());
            batch.extend(records);
            Ok::<_, Error>((batch.clone(), batch))
        };
        let Ok(outcome) = self.journal.stand_in_line(durability, make) else { return false };
        match durability {
            Durability::Immediate => self.journal.await_written(&outcome).is_ok(),
            Durability::Eventual => {
                self.journal.write_idle();
                true
            }
        }
    }

    /// Writes a batch durably.
    pub(super) fn write_ahead(&self, batch: Batch) -> Result<()> {
        self.journal.write_ahead(batch)
    }

    /// Writes what is owed, and has everything on the disk.
    pub(crate) fn pay(&self) -> Result<()> {
        self.journal.write_ahead(Batch::default())
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

impl Journal {
    /// Writes a batch durably, or not at all.
    fn write_ahead(&self, batch: Batch) -> Result<()> {
        let make = || Ok::<_, Error>((batch, Batch::default()));
        let outcome = self.stand_in_line(Durability::Immediate, make)?;
        self.await_written(&outcome)
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

#[cfg(test)]
mod tests;
