//! Healing: what the kernel has is compared with what it should have, and the difference applied.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use cnm::diff;
use drivers::kernel::Kernel;

use super::Networks;
use engine_error::{Error, Result};

/// How often to look without being told of a change.
const INTERVAL: Duration = Duration::from_secs(60);

/// How often an apply is tried that fails because the kernel changed meanwhile.
const TRIES: usize = 3;

impl Networks {
    /// Makes the kernel what the model says. Waits until no change is under way, and lets none
    /// begin before it is done.
    pub(crate) fn reconcile(&self) -> Result<()> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut result = Ok(());
        for _ in 0..TRIES {
            let desired = self.controller().desired();
            let plan = diff(&self.kernel.observe()?, &desired);
            if plan.is_empty() {
                return Ok(());
            }
            tracing::info!(steps = plan.steps().len(), "heal the kernel's state");
            tracing::debug!(%plan, "apply");
            result = self.kernel.apply(&plan).map_err(Error::from);
        }
        result
    }

    /// Heals whenever the kernel tells of a change by somebody else, and now and then anyway, for
    /// as long as the networks are used.
    pub(crate) fn keep_reconciled(self: &Arc<Self>) -> Result<()> {
        let changes = self.kernel.changes()?;
        let networks: Weak<Self> = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("reconcile".to_owned())
            .spawn(move || {
                loop {
                    let told = changes.recv_timeout(INTERVAL);
                    let Some(networks) = networks.upgrade() else { return };
                    if let Err(error) = networks.reconcile() {
                        tracing::error!(error = error.chain(), "cannot heal the kernel's state");
                    }
                    if told == Err(RecvTimeoutError::Disconnected) {
                        tracing::error!("the kernel's changes are not told any more");
                        return;
                    }
                }
            })
            .map_err(|error| Error::internal("cannot start to reconcile", error))?;
        Ok(())
    }
}
