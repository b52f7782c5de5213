//! Healing: what the kernel has is compared with what it should have, and the difference applied.
//!
//! One look at everything tells which networks and sandboxes are not what they should be. Each of
//! those is then looked at again and healed by itself, so that one that cannot be healed stays alone
//! with it. A sandbox or network that is being changed at the moment is left to whoever changes it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cnm::controller::Subject;
use cnm::{Key, SandboxId, State, diff};

use super::Networks;
use engine_error::{Error, Result};

/// How often to look without being told of a change.
const INTERVAL: Duration = Duration::from_secs(60);

/// When to look again at what was being changed.
const SOON: Duration = Duration::from_secs(1);

/// How often everything is looked at in a row: what is made anew takes along what rests on it, and
/// the kernel may change meanwhile.
const ROUNDS: usize = 3;

/// What a look at everything came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Round {
    /// Whether something was changed, or should have been.
    healed: bool,
    /// Whether something was left out that is being changed.
    left_out: bool,
}

impl Networks {
    /// Makes the kernel what the model says, as far as that goes; what does not is told in the log.
    /// Returns whether there is something to be looked at again soon.
    pub(crate) fn heal(&self) -> bool {
        let mut left_out = false;
        // Nothing is to be made again.
        if self.is_at_rest() {
            return false;
        }
        for _ in 0..ROUNDS {
            match self.heal_once() {
                Ok(round) => {
                    left_out = round.left_out;
                    if !round.healed {
                        break;
                    }
                }
                Err(error) => {
                    tracing::error!(error = error.chain(), "cannot heal the kernel's state");
                    return false;
                }
            }
        }
        left_out
    }

    fn heal_once(&self) -> Result<Round> {
        let observed = self.kernel.observe()?;
        let (wanted, changing) = {
            let model = self.controller();
            (model.desired_by_subject(), model.changing())
        };
        let mut round = Round { left_out: !changing.is_empty(), ..Round::default() };
        let mut known: BTreeSet<&Key> = wanted.iter().flat_map(|(_, state)| keys(state)).collect();
        known.extend(changing.iter().flat_map(|(_, state)| keys(state)));
        // Networks come first: what is in a sandbox rests on them.
        for (subject, desired) in &wanted {
            let is_changing = changing.iter().any(|(other, _)| other == subject);
            if is_changing || diff(&self.part(&observed, desired, subject), desired).is_empty() {
                continue;
            }
            round.healed = true;
            if let Err(error) = self.heal_subject(subject) {
                let error = error.chain();
                tracing::error!(?subject, error, "cannot heal what belongs to it");
            }
        }
        if !self.doubted && observed.iter().any(|(key, _)| !known.contains(key)) {
            round.healed |= self.remove_strays()?;
        }
        Ok(round)
    }

    /// What was observed of a network or sandbox. Where records could not be read, what they may have
    /// told of is nobody's to remove.
    fn part(&self, observed: &State, desired: &State, subject: &Subject) -> State {
        let inside = |key: &Key| {
            !self.doubted && matches!(subject, Subject::Sandbox(id) if key.sandbox() == Some(id))
        };
        let own = observed.iter().filter(|(key, _)| desired.get(key).is_some() || inside(key));
        own.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn is_at_rest(&self) -> bool {
        self.at_rest.load(Ordering::Acquire)
    }

    /// Heals one network or sandbox, unless it is being changed, or gone.
    fn heal_subject(&self, subject: &Subject) -> Result<()> {
        let _turn = self.turns.take(subject);
        let settled = self.controller().settled(subject);
        let Some(desired) = settled.filter(|_| !self.is_at_rest()) else { return Ok(()) };
        let only: BTreeSet<SandboxId> = match subject {
            Subject::Sandbox(id) => BTreeSet::from([id.clone()]),
            Subject::Network(_) => BTreeSet::new(),
        };
        let observed = self.kernel.observe_only(&only)?;
        let plan = diff(&self.part(&observed, &desired, subject), &desired);
        if !plan.is_empty() {
            tracing::info!(?subject, steps = plan.steps().len(), "heal the kernel's state");
            tracing::debug!(%plan, "apply");
            self.kernel.apply(&plan)?;
        }
        Ok(())
    }

    /// Removes what is ours and belongs to nothing. Nobody changes the kernel meanwhile. Returns
    /// whether there was anything.
    fn remove_strays(&self) -> Result<bool> {
        let _turn = self.turns.take_all();
        let observed = self.kernel.observe()?;
        let kept = {
            let model = self.controller();
            let mut kept = model.desired();
            kept.extend(model.changing().into_iter().flat_map(|(_, state)| state));
            kept
        };
        let strays: State =
            observed.into_iter().filter(|(key, _)| kept.get(key).is_none()).collect();
        if strays.is_empty() {
            return Ok(false);
        }
        tracing::info!(objects = strays.len(), "remove what belongs to nothing");
        self.dismantle(&diff(&strays, &State::default()));
        Ok(true)
    }

    /// Heals whenever the kernel tells of a change by somebody else, and now and then anyway, for
    /// as long as the networks are used.
    pub(crate) fn keep_healed(self: &Arc<Self>) -> Result<()> {
        let changes = self.kernel.changes()?;
        let networks: Weak<Self> = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("heal".to_owned())
            .spawn(move || {
                let mut pause = INTERVAL;
                loop {
                    let told = changes.recv_timeout(pause);
                    let Some(networks) = networks.upgrade() else { return };
                    pause = if networks.heal() { SOON } else { INTERVAL };
                    if told == Err(RecvTimeoutError::Disconnected) {
                        tracing::error!("the kernel's changes are not told any more");
                        return;
                    }
                }
            })
            .map_err(|error| Error::internal("cannot start to heal", error))?;
        Ok(())
    }
}

fn keys(state: &State) -> impl Iterator<Item = &Key> {
    state.iter().map(|(key, _)| key)
}
