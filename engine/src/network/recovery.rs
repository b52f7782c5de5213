//! Recovery and the end: what a daemon does with what an earlier one left, and what it leaves itself.

use std::sync::atomic::Ordering;

use cnm::controller::{ChangeKind, Subject};
use cnm::store::{Batch, Durability};
use cnm::{Controller, SandboxId, State, diff};
use dns::protocol::HeldPort;

use super::ports::ports_of;
use super::{Networks, SandboxNames};
use engine_error::Result;

impl Networks {
    /// Decides every unfinished change: what was to go goes, a new sandbox whose owner lives stays,
    /// and everything else that was to come is given up.
    pub(crate) fn settle_intents(&self, lives: impl Fn(&str) -> bool) {
        let intents = self.controller().intents();
        for transaction in intents {
            let keep = match (transaction.kind, &transaction.subject) {
                (ChangeKind::Remove, _) => true,
                (ChangeKind::Create, Subject::Sandbox(_)) => {
                    transaction.sandbox_after().is_some_and(|live| lives(&live.sandbox.owner))
                }
                // Nobody was told that it was done.
                (ChangeKind::Create, Subject::Network(_) | Subject::Cluster)
                | (ChangeKind::Change, _) => false,
            };
            tracing::info!(subject = ?transaction.subject, keep, "settle an unfinished change");
            let settle = |model: &mut Controller| {
                if keep { model.commit(transaction) } else { model.abort(transaction) }
            };
            self.note(settle, Batch::default(), Durability::Immediate);
        }
    }

    /// Starts the resolver, or takes it up, with what it is to serve.
    pub(crate) fn start_resolver(&self, served: Vec<(SandboxNames, Vec<HeldPort>)>) -> Result<()> {
        self.resolver.start(served)
    }

    /// What rnet-dns is to hold for a sandbox.
    pub(crate) fn held_ports(&self, sandbox: &SandboxId) -> Vec<HeldPort> {
        let controller = self.controller();
        let Some((sandbox, endpoints)) = controller.sandbox(sandbox) else { return Vec::new() };
        ports_of(&sandbox, &controller.carried(&sandbox, &endpoints))
    }

    /// Leaves nothing in the kernel, and no resolver, if nobody is served by them. The next daemon
    /// makes it all again; one with other directories finds the place free. Tells whether it is so.
    pub(crate) fn rest(&self) -> Result<bool> {
        let serves = {
            let model = self.controller();
            !model.sandboxes().is_empty() || !model.changing().is_empty()
        };
        let was_reset = self.at_rest.load(Ordering::Acquire);
        if serves || was_reset { Ok(false) } else { self.demolish().map(|()| true) }
    }

    /// Removes all that is ours in the kernel, and the resolver.
    pub(crate) fn demolish(&self) -> Result<()> {
        self.resolver.end();
        let _turn = self.turns.take_all();
        self.at_rest.store(true, Ordering::Release);
        self.dismantle(&diff(&self.kernel.observe()?, &State::default()));
        Ok(self.kernel.remove_table()?)
    }
}
