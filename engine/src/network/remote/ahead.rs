//! Namespaces that are made ahead of the decision about their sandboxes: a plugin is told where the
//! namespace is, and some look at it.
//!
//! A namespace that is ahead is no stray while plugins are asked; once the change is decided it is the
//! model's. After a crash it is a stray.

use cnm::controller::{ChangeKind, Subject};
use cnm::{Key, SandboxId, State, Transaction, Value, diff};

use super::super::Networks;
use super::super::claims::Claimed;
use engine_error::Result;

impl Networks {
    /// Makes the namespace of a sandbox that is to come.
    pub(super) fn make_ahead(&self, sandbox: &SandboxId) -> Result<()> {
        self.remote.ledger().ahead.insert(sandbox.clone());
        let _turn = self.turns.take(&Subject::Sandbox(sandbox.clone()));
        Ok(self.kernel.apply(&diff(&State::default(), &namespace(sandbox)))?)
    }

    /// The namespaces that are there ahead of the model.
    pub(in super::super) fn ahead(&self) -> State {
        self.remote.ledger().ahead.iter().flat_map(namespace).collect()
    }

    /// A change finds the namespace of its sandbox made.
    pub(in super::super) fn found_ahead(&self, claimed: &Claimed, transaction: &mut Transaction) {
        let Some(sandbox) = &claimed.ahead else { return };
        transaction.before.extend(namespace(sandbox));
        self.remote.ledger().ahead.remove(sandbox);
    }

    /// Removes what was made ahead for a change that is given up.
    pub(in super::super) fn take_back(&self, claimed: &Claimed) {
        let Some(sandbox) = &claimed.ahead else { return };
        self.take_down(
            &Subject::Sandbox(sandbox.clone()),
            &diff(&namespace(sandbox), &State::default()),
        );
        self.remote.ledger().ahead.remove(sandbox);
    }

    /// The same once the change was decided: undone, it left the namespace, which it had found.
    pub(in super::super) fn take_back_from(&self, transaction: &Transaction) {
        if transaction.kind == ChangeKind::Create && !transaction.before.is_empty() {
            self.take_down(&transaction.subject, &diff(&transaction.before, &State::default()));
        }
    }
}

fn namespace(sandbox: &SandboxId) -> State {
    State::from_iter([(Key::Namespace { sandbox: sandbox.clone() }, Value::Present)])
}
