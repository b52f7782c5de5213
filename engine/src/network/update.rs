//! A network changes with everybody on it: one intent, and a difference for it and for each sandbox.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cnm::controller::{ControllerError, HostFacts, NetworkUpdate, Part, Subject};
use cnm::store::{Batch, Durability};
use cnm::{Controller, NetworkId, Plan, SandboxId, Transaction, diff};

use super::shared::is_shared;
use super::{Chance, Networks, flows, now};
use engine_error::{Error, Result};

/// How long to wait for changes of sandboxes, or of a network, to come to their ends.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How long somebody waits at once to be told that a change is over.
const PAUSE: Duration = Duration::from_millis(5);

/// Tells those who wait that a change of a network is over.
#[derive(Debug, Default)]
pub(super) struct Ends {
    waiting: Mutex<()>,
    told: Condvar,
}

impl Ends {
    /// Waits for the end of a change, and not for long: it may be over already.
    pub(super) fn wait(&self) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.told.wait_timeout(waiting, PAUSE));
    }

    fn tell(&self) {
        self.told.notify_all();
    }
}

/// What a change of a network came to.
#[derive(Debug)]
pub(crate) struct Updated {
    /// What changes in the kernel, a step a line.
    pub(crate) plan: Vec<String>,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
    /// The sandboxes on it.
    pub(crate) members: Vec<SandboxId>,
}

impl Networks {
    /// Does something that is refused while a network is being changed, as soon as that is over.
    pub(super) fn once_settled<T>(
        &self,
        mut begin: impl FnMut(&mut Controller) -> Result<T, ControllerError>,
    ) -> Result<T, ControllerError> {
        let start = Instant::now();
        loop {
            let outcome = begin(&mut self.controller());
            match outcome {
                Err(error) if error.is_passing() && start.elapsed() < PATIENCE => {
                    self.update_ends.wait();
                }
                other => return other,
            }
        }
    }

    /// Says what a change of a network would do. Blocks.
    pub(crate) fn rehearse_update(
        &self,
        id: &NetworkId,
        update: &NetworkUpdate,
    ) -> Result<Updated> {
        let (parts, transaction) = self.begin_update(id, update)?;
        let told = told(&parts, &transaction);
        // Nothing of it was written.
        let _ = self.controller().abort(transaction);
        Ok(told)
    }

    /// Changes a network and what those on it have of it; a cluster's on all hosts. After an error all
    /// is as before. Blocks.
    pub(crate) fn update(&self, id: &NetworkId, update: &NetworkUpdate) -> Result<Updated> {
        let network = self.network(id.as_str())?;
        if is_shared(&network) {
            self.rehearse_update(id, update)?;
            self.shared_by()?.update(&network, update)?;
        }
        self.update_here(id, update)
    }

    /// Changes a network on this host.
    pub(crate) fn update_here(&self, id: &NetworkId, update: &NetworkUpdate) -> Result<Updated> {
        let (parts, transaction) = self.begin_update(id, update)?;
        let told = told(&parts, &transaction);
        let intent = self.controller().intent(&transaction);
        let applied = self.write_ahead(intent).and_then(|()| self.apply_parts(&parts));
        let none = Batch::default();
        if let Err(error) = applied {
            self.note(|model| model.abort(transaction), none, Durability::Immediate);
            self.update_ends.tell();
            return Err(error);
        }
        self.note(|model| model.commit(transaction), none, Durability::Immediate);
        self.update_ends.tell();
        self.follow_ports(&parts);
        self.tell_of(&*self.network(id.as_str())?, "update");
        Ok(told)
    }

    fn begin_update(
        &self,
        id: &NetworkId,
        update: &NetworkUpdate,
    ) -> Result<(Vec<Part>, Transaction)> {
        let facts =
            if update.is_of_addresses() { self.kernel.host_facts()? } else { HostFacts::default() };
        let begin = |model: &mut Controller| {
            model.begin_update_network(id, update, &facts, &mut Chance, now())
        };
        Ok(self.once_settled(begin)?)
    }

    /// The network comes first: what is in a sandbox rests on it. What was done is taken back after a
    /// failure.
    fn apply_parts(&self, parts: &[Part]) -> Result<()> {
        for (at, part) in parts.iter().enumerate() {
            let plan = plan_of(part);
            if plan.is_empty() {
                continue;
            }
            tracing::debug!(subject = ?part.subject, %plan, "apply");
            let turn = self.turns.take(&part.subject);
            let applied = self.kernel.apply(&plan);
            drop(turn);
            if let Err(error) = applied {
                for done in parts[..=at].iter().rev() {
                    self.take_down(&done.subject, &diff(&done.after, &done.before));
                }
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Packets to published ports that lead elsewhere now, or nowhere, go there.
    fn follow_ports(&self, parts: &[Part]) {
        let mut moved = Vec::new();
        for Part { subject, before, after } in parts {
            let Subject::Sandbox(id) = subject else { continue };
            let Ok((sandbox, _)) = self.sandbox(id) else { continue };
            moved.extend(flows::moved(&sandbox.ports, before, after));
        }
        if let Err(error) = self.kernel.flush_ports(&moved) {
            let error = Error::from(error).chain();
            tracing::error!(error, "connections go on where they went before");
        }
    }
}

fn plan_of(part: &Part) -> Plan {
    diff(&part.before, &part.after)
}

fn told(parts: &[Part], transaction: &Transaction) -> Updated {
    let members = parts.iter().filter_map(|part| match &part.subject {
        Subject::Sandbox(id) => Some(id.clone()),
        Subject::Network(_) | Subject::Cluster => None,
    });
    Updated {
        plan: parts.iter().flat_map(|part| lines(&plan_of(part))).collect(),
        warnings: transaction.warnings.clone(),
        members: members.collect(),
    }
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.steps().iter().map(ToString::to_string).collect()
}
