//! The model by its parts: what each network and each sandbox wants of the kernel by itself.

use super::intent::{Change, Transition};
use super::{Controller, Subject};
use crate::State;

impl Controller {
    /// The kernel state of what networks share, of each network and of each sandbox, in this order:
    /// the later ones rest on the earlier ones.
    pub fn desired_by_subject(&self) -> Vec<(Subject, State)> {
        let networks = self.networks.keys().cloned().map(Subject::Network);
        let sandboxes = self.sandboxes.keys().cloned().map(Subject::Sandbox);
        let subjects = [Subject::Cluster].into_iter().chain(networks).chain(sandboxes);
        subjects
            .filter_map(|subject| self.desired_by(&subject).map(|state| (subject, state)))
            .collect()
    }

    /// What is being changed, with all that is there before the change or after it.
    pub fn changing(&self) -> Vec<(Subject, State)> {
        let mut changing = Vec::new();
        for change in self.open_changes() {
            let (mut all, after) = self.plan(change).unwrap_or_default();
            all.extend(after);
            changing.push((change.subject(), all));
            if let Change::Network(Transition::Change { before, .. }) = change {
                // Those who are on it change with it.
                let on_it = self.members_of(&before.id).map(|live| live.sandbox.id.clone());
                changing.extend(on_it.map(|id| (Subject::Sandbox(id), State::default())));
            }
        }
        changing
    }

    /// The kernel state of a network or sandbox that is there and that nobody is changing.
    pub fn settled(&self, subject: &Subject) -> Option<State> {
        let changing = self.open_changes().any(|change| change.subject() == *subject)
            || matches!(subject, Subject::Sandbox(id) if self.check_networks_settled(id).is_err());
        if changing { None } else { self.desired_by(subject) }
    }

    /// That it can be planned was checked when it became part of the model.
    fn desired_by(&self, subject: &Subject) -> Option<State> {
        match subject {
            Subject::Network(id) => self.plan_network(self.networks.get(id)?).ok(),
            Subject::Sandbox(id) => self.plan_sandbox(self.sandboxes.get(id)?).ok(),
            Subject::Cluster => Some(self.plan_cluster()),
        }
    }
}
