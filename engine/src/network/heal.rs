//! Healing: what the kernel has is compared with what it should have, and the difference applied.
//!
//! One look at everything tells which networks and sandboxes are not what they should be. Each of
//! those is then looked at again and healed by itself, so that one that cannot be healed stays alone
//! with it. A sandbox or network that is being changed at the moment is left to whoever changes it.
//!
//! A sandbox that cannot be looked into, or whose namespace is not pinned any more, is left as it is:
//! its processes live on in their namespace, and another one would be of no use to them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use cnm::controller::Subject;
use cnm::{Key, Sandbox, SandboxId, State, Value, diff};

use super::Networks;
use engine_error::{Error, Result};

/// How often to look without being told of a change.
const INTERVAL: Duration = Duration::from_secs(60);

/// When to look again at what was being changed.
const SOON: Duration = Duration::from_secs(1);

/// How often everything is looked at in a row: what is made anew takes along what rests on it, and
/// the kernel may change meanwhile.
const ROUNDS: usize = 3;

/// A network or sandbox that cannot be healed.
#[derive(Clone, Debug)]
pub(super) struct Ill {
    subject: Subject,
    why: String,
    /// How long it is left alone, twice as long each time.
    pause: Duration,
    again: Instant,
}

/// What is done about what could not be healed a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ills {
    Retried,
    LeftAlone,
}

/// What a look at everything came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Round {
    /// Whether something was changed.
    healed: bool,
    /// Whether something was left out that is being changed.
    left_out: bool,
}

impl Networks {
    /// Makes the kernel what the model says, as far as that goes; what does not is told in the log.
    /// Returns whether there is something to be looked at again soon.
    pub(crate) fn heal(&self) -> bool {
        self.heal_with(Ills::Retried)
    }

    pub(super) fn heal_with(&self, ills: Ills) -> bool {
        let mut left_out = false;
        // Nothing is to be made again.
        if self.is_at_rest() {
            return false;
        }
        self.follow_egress();
        for _ in 0..ROUNDS {
            match self.heal_once(ills) {
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

    /// Notes how large a packet the host's way out takes.
    pub(super) fn follow_egress(&self) {
        match self.kernel.host_facts() {
            Ok(facts) if self.controller().tell_egress_mtu(facts.egress_mtu) => {
                let mtu = facts.egress_mtu;
                tracing::info!(mtu, "networks without an MTU of their own follow the way out");
            }
            Ok(_) => {}
            Err(error) => {
                let error = Error::from(error).chain();
                tracing::warn!(error, "cannot look at the host's way out");
            }
        }
    }

    fn heal_once(&self, ills: Ills) -> Result<Round> {
        let observed = self.kernel.observe()?;
        let (wanted, changing, awaited) = {
            let model = self.controller();
            (model.desired_by_subject(), model.changing(), model.awaited())
        };
        let mut round = Round { left_out: !changing.is_empty(), ..Round::default() };
        let mut ill = Vec::new();
        let mut known: BTreeSet<&Key> = wanted.iter().flat_map(|(_, state)| keys(state)).collect();
        known.extend(changing.iter().flat_map(|(_, state)| keys(state)));
        let ahead = self.ahead();
        known.extend(keys(&ahead));
        // Networks come first: what is in a sandbox rests on them.
        for (subject, desired) in &wanted {
            let is_changing = changing.iter().any(|(other, _)| other == subject);
            if is_changing || diff(&self.part(&observed, desired, subject), desired).is_empty() {
                continue;
            }
            if let Some(still) = self.ill_still(subject).filter(|_| ills == Ills::LeftAlone) {
                ill.push(still);
                continue;
            }
            if let Some(why) = lost(&observed, desired) {
                ill.push(self.fall_ill(subject, why));
                continue;
            }
            match self.heal_subject(subject) {
                Ok(()) => round.healed = true,
                Err(error) => ill.push(self.fall_ill(subject, error.chain())),
            }
        }
        *self.ills() = ill;
        let stray = keys(&observed).any(|key| !known.contains(key) && !awaited.has(key));
        if !self.doubted && stray {
            round.healed |= self.remove_strays()?;
        }
        Ok(round)
    }

    /// The networks and sandboxes that could not be healed when everything was looked at last, and why.
    pub(crate) fn ill(&self) -> Vec<(Subject, String)> {
        let known = self.ills().clone();
        let model = self.controller();
        let is_there = |ill: &Ill| model.settled(&ill.subject).is_some();
        known.into_iter().filter(is_there).map(|ill| (ill.subject, ill.why)).collect()
    }

    fn ills(&self) -> MutexGuard<'_, Vec<Ill>> {
        self.ill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What could not be healed a moment ago, if this is among it: whoever broke it may break it again
    /// and again, and what comes of trying looks like a change by somebody else.
    fn ill_still(&self, subject: &Subject) -> Option<Ill> {
        let now = Instant::now();
        self.ills().iter().find(|ill| ill.subject == *subject && ill.again > now).cloned()
    }

    /// Something cannot be healed, maybe still.
    fn fall_ill(&self, subject: &Subject, why: String) -> Ill {
        let before = self.ills().iter().find(|ill| ill.subject == *subject).cloned();
        if before.as_ref().is_none_or(|ill| ill.why != why) {
            tracing::error!(?subject, error = why, "cannot heal what belongs to it");
        }
        let pause = before.map_or(SOON, |ill| (ill.pause * 2).min(INTERVAL));
        Ill { subject: subject.clone(), why, pause, again: Instant::now() + pause }
    }

    /// When to look again: at once is for those who are told of a change.
    fn pause(&self, left_out: bool) -> Duration {
        let now = Instant::now();
        let again = self.ills().iter().map(|ill| ill.again.saturating_duration_since(now)).min();
        let longest = if left_out { SOON } else { INTERVAL };
        again.map_or(longest, |again| again.clamp(SOON, longest))
    }

    /// Pins again the namespaces whose pins somebody removed, by the processes of their owners, which
    /// live on in them.
    pub(crate) fn pin_again(&self, process: impl Fn(&Sandbox) -> Option<i32>) {
        let sandboxes = self.controller().sandboxes();
        for sandbox in sandboxes {
            let Some(process) = process(&sandbox) else { continue };
            let id = sandbox.id.short();
            match self.kernel.pin_again(&sandbox.id, process) {
                Ok(false) => {}
                Ok(true) => tracing::warn!(sandbox = id, process, "pinned a lost namespace again"),
                Err(error) => {
                    let error = Error::from(error).chain();
                    tracing::error!(sandbox = id, error, "cannot pin its namespace again");
                }
            }
        }
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

    pub(super) fn is_at_rest(&self) -> bool {
        self.at_rest.load(Ordering::Acquire)
    }

    /// Heals one network or sandbox, unless it is being changed, or gone.
    pub(super) fn heal_subject(&self, subject: &Subject) -> Result<()> {
        let _turn = self.turns.take(subject);
        let settled = self.controller().settled(subject);
        let Some(desired) = settled.filter(|_| !self.is_at_rest()) else { return Ok(()) };
        let only: BTreeSet<SandboxId> = match subject {
            Subject::Sandbox(id) => BTreeSet::from([id.clone()]),
            Subject::Network(_) | Subject::Cluster => BTreeSet::new(),
        };
        let observed = self.kernel.observe_only(&only)?;
        if lost(&observed, &desired).is_some() {
            return Ok(());
        }
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
        let strays: State = {
            let model = self.controller();
            let mut kept = model.desired();
            kept.extend(model.changing().into_iter().flat_map(|(_, state)| state));
            kept.extend(self.ahead());
            let awaited = model.awaited();
            let is_stray = |key: &Key| kept.get(key).is_none() && !awaited.has(key);
            observed.into_iter().filter(|(key, _)| is_stray(key)).collect()
        };
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
                    let left_out = networks.heal_with(Ills::LeftAlone);
                    pause = networks.pause(left_out);
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

/// Why a sandbox, of which this is desired, cannot be healed: its namespace is not there, or cannot be
/// looked into.
fn lost(observed: &State, desired: &State) -> Option<String> {
    let is_namespace = |key: &&Key| matches!(key, Key::Namespace { .. });
    match observed.get(keys(desired).find(is_namespace)?) {
        Some(Value::Damaged(damage)) => Some(damage.what.clone()),
        Some(_) => None,
        None => Some("its namespace is not pinned any more".to_owned()),
    }
}

fn keys(state: &State) -> impl Iterator<Item = &Key> {
    state.iter().map(|(key, _)| key)
}
