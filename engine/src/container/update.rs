//! `update`: other limits and another restart policy for a container that is there already.
//!
//! The record comes first: a daemon that ends in between finds there what is due, and the next one
//! has it done.

use std::sync::Arc;

use cnm::Kind;
use cnm::store::Durability;
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value};

use super::live::Live;
use super::spec::{Resources, RestartPolicy, Spec};
use super::{Container, Containers, Status};
use engine_error::{Error, Result};
use runtime::spec::limits;
use shim::client;

/// What is to change of a container; what is zero, empty or absent stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// The limits. A limit of processes of 0 takes the limit away.
    pub resources: Resources,
    /// The restart policy.
    pub restart: Option<RestartPolicy>,
    /// The fields of the host configuration that change with it, for `inspect`.
    pub shown: Map<String, Value>,
}

impl Containers {
    /// Changes limits and restart policy; tells what had to be left out. Blocks.
    pub fn update(&self, key: &str, update: &Update) -> Result<Vec<String>> {
        let live = self.registry.find(key)?;
        let _turn = live.lifecycle.blocking_lock();
        let before = live.get();
        let cannot = |error: Error| {
            let text = format!("Cannot update container {}: {}", before.id, error.chain());
            Error::new(error.kind(), text)
        };
        let mut warnings = Vec::new();
        self.discarded_limits(&before, &update.resources, &mut warnings);
        let mut after = Container::clone(&before);
        apply(&mut after, update).map_err(cannot)?;
        self.limits_of(&after).map_err(cannot)?;
        let due = due(&before, update);
        after.limits_due = due != Due::Nothing;
        self.save(&after, Durability::Immediate)?;
        let (spec, limits_due) = (after.spec, after.limits_due);
        live.change(|container| {
            container.spec = spec;
            container.limits_due = limits_due;
        });
        match due {
            Due::Nothing => {}
            Due::Owed => self.finish_update(&live),
            Due::Asked => {
                if let Err(error) = self.apply_limits(&live) {
                    self.take_back(&live, &before);
                    return Err(cannot(error));
                }
            }
        }
        self.tell(&live.get(), "update", &[]);
        Ok(warnings)
    }

    /// Has a running container have the limits of its record, and notes that it has. Blocks.
    pub(crate) fn apply_limits(&self, live: &Live) -> Result<()> {
        let container = live.get();
        let resources = self.limits_of(&container)?;
        let runtime = self.runner.runtime(container.spec.runtime.as_deref())?;
        let root = self.settings.runtime_root();
        // One that has ended meanwhile is refused, too; its next start has the limits.
        let ends = || client::exit(&self.settings.shim_dir(&container.id)).is_some();
        if let Err(error) = runtime.update(&root, &container.id, &resources)
            && !ends()
        {
            return Err(error.into());
        }
        let (cgroups, own) = (&self.runner.host.cgroups, self.cgroup_of(&container));
        if container.spec.resources.pids_limit == Some(0) {
            cgroups.lift_process_limit(&own);
        }
        if container.spec.resources.cpu_quota < 0 {
            cgroups.lift_processor_limit(&own);
        }
        let (container, ()) = live.change(|container| container.limits_due = false);
        self.note(&container, Durability::Eventual);
        Ok(())
    }

    /// Has done what an earlier daemon was about to do when it ended. Blocks.
    pub(crate) fn finish_update(&self, live: &Live) {
        if live.get().limits_due
            && let Err(error) = self.apply_limits(live)
        {
            let container = live.get();
            let (container, error) = (container.short_id(), error.chain());
            tracing::error!(container, error, "it has not the limits that were asked for");
        }
    }

    /// What a container's record says of limits, for its runtime.
    fn limits_of(&self, container: &Container) -> Result<LinuxResources> {
        let (resources, host) = (&container.spec.resources, &self.runner.host);
        Ok(limits(resources, &self.cgroup_of(container), host, &mut Vec::new())?)
    }

    fn cgroup_of(&self, container: &Container) -> String {
        self.runner.cgroup(&container.spec.cgroup_parent, &container.id)
    }

    /// What of the new limits this host cannot give.
    fn discarded_limits(&self, of: &Container, wanted: &Resources, warnings: &mut Vec<String>) {
        // What is wrong is only known of old and new limits together.
        let _ = limits(wanted, &self.cgroup_of(of), &self.runner.host, warnings);
    }

    /// The record and the container are as they were: what a runtime refused is not there, and what
    /// was owed before still is.
    fn take_back(&self, live: &Live, before: &Container) {
        let (container, ()) = live.change(|container| {
            container.spec = before.spec.clone();
            container.limits_due = before.limits_due;
        });
        self.note(&container, Durability::Immediate);
        if container.state.has_process()
            && let Err(error) = self.apply_limits(live)
        {
            let (container, error) = (container.short_id(), error.chain());
            tracing::warn!(container, error, "its limits may be a mixture of old and new ones");
        }
    }
}

/// Which limits a container with a process is to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// None: it has those of its record, or will with its next start.
    Nothing,
    /// Those of an earlier update. That they cannot be given is no fault of this one.
    Owed,
    /// Those that are asked for now, and with them all that were owed.
    Asked,
}

fn due(before: &Container, update: &Update) -> Due {
    if !before.state.has_process() {
        Due::Nothing
    } else if update.resources != Resources::default() {
        Due::Asked
    } else if before.limits_due {
        Due::Owed
    } else {
        Due::Nothing
    }
}

/// Changes what a record says.
fn apply(container: &mut Container, update: &Update) -> Result<()> {
    let conflict = |text: &str| Err(Error::new(Kind::Conflict, text));
    if matches!(container.state.status, Status::Removing | Status::Dead) {
        return conflict("container is marked for removal and cannot be \"update\"");
    }
    let Spec { resources, restart, auto_remove, wire_host_config, .. } = &mut container.spec;
    if let Some(text) = clash(resources, &update.resources) {
        return conflict(text);
    }
    merge(resources, &update.resources);
    if let Some(policy) = update.restart {
        if *auto_remove && policy != RestartPolicy::No {
            return conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            );
        }
        *restart = policy;
    }
    if let Value::Object(shown) = Arc::make_mut(wire_host_config) {
        shown.extend(update.shown.clone());
    }
    Ok(())
}

/// Why new limits do not go with those that are there, in Docker's words.
fn clash(own: &Resources, new: &Resources) -> Option<&'static str> {
    let clashes = [
        (
            new.nano_cpus > 0 && own.cpu_period > 0,
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            new.nano_cpus > 0 && own.cpu_quota > 0,
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (
            new.cpu_period > 0 && own.nano_cpus > 0,
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            new.cpu_quota > 0 && own.nano_cpus > 0,
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
        (
            // One that is unlimited is no larger than any limit here, as with Docker.
            new.memory > own.memory_swap && new.memory_swap == 0 && new.memory != 0,
            "Memory limit should be smaller than already set memoryswap limit, update the \
             memoryswap at the same time",
        ),
    ];
    clashes.into_iter().find(|(found, _)| *found).map(|(_, text)| text)
}

fn merge(own: &mut Resources, new: &Resources) {
    let numbers = [
        (&mut own.memory, new.memory),
        (&mut own.memory_swap, new.memory_swap),
        (&mut own.memory_reservation, new.memory_reservation),
        (&mut own.nano_cpus, new.nano_cpus),
        (&mut own.cpu_shares, new.cpu_shares),
        (&mut own.cpu_period, new.cpu_period),
        (&mut own.cpu_quota, new.cpu_quota),
        (&mut own.cpu_realtime_period, new.cpu_realtime_period),
        (&mut own.cpu_realtime_runtime, new.cpu_realtime_runtime),
    ];
    for (own, new) in numbers.into_iter().filter(|(_, new)| *new != 0) {
        *own = new;
    }
    for (own, new) in
        [(&mut own.cpuset_cpus, &new.cpuset_cpus), (&mut own.cpuset_mems, &new.cpuset_mems)]
    {
        if !new.is_empty() {
            own.clone_from(new);
        }
    }
    own.pids_limit = new.pids_limit.or(own.pids_limit);
    if new.block_weight != 0 {
        own.block_weight = new.block_weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(own: &Resources, new: &Resources, expected: Option<&str>) {
        let mut container = Container::default();
        container.spec.resources = own.clone();
        let update = Update { resources: new.clone(), ..Update::default() };
        let told = apply(&mut container, &update).map_err(|error| error.to_string()).err();
        assert_eq!(told.as_deref().map(|told| &told[..30]), expected.map(|text| &text[..30]));
    }

    #[test]
    fn limits_that_do_not_go_together_are_refused_in_docker_s_words() {
        let none = Resources::default();
        let cpus = Resources { nano_cpus: 1, ..none.clone() };
        let quota = Resources { cpu_quota: 5_000, ..none.clone() };
        let memory = Resources { memory: 64 << 20, ..none.clone() };
        let both = Resources { memory_swap: -1, ..memory.clone() };
        check(&cpus, &quota, Some("Conflicting options: CPU Quota cannot be updated"));
        check(&quota, &cpus, Some("Conflicting options: Nano CPUs cannot be updated"));
        check(&none, &memory, Some("Memory limit should be smaller than already set"));
        check(&none, &both, None);
        check(&quota, &quota, None);
        let wider = Resources { memory_swap: 128 << 20, ..memory.clone() };
        check(&wider, &memory, None);
    }

    #[test]
    fn what_is_not_named_stays() {
        let mut own = Resources {
            memory: 5,
            cpu_shares: 2,
            cpuset_cpus: "0".to_owned(),
            pids_limit: Some(7),
            ..Resources::default()
        };
        merge(&mut own, &Resources { cpu_shares: 9, ..Resources::default() });
        assert_eq!((own.memory, own.cpu_shares, own.pids_limit), (5, 9, Some(7)));
        merge(&mut own, &Resources { pids_limit: Some(0), ..Resources::default() });
        assert_eq!((own.cpuset_cpus.as_str(), own.pids_limit), ("0", Some(0)));
    }

    #[test]
    fn limits_that_are_owed_are_not_forgotten_by_an_update_of_something_else() {
        let mut container = Container::default();
        let policy = Update { restart: Some(RestartPolicy::Always), ..Update::default() };
        let resources = Resources { memory: 64 << 20, ..Resources::default() };
        let limits = Update { resources, ..Update::default() };
        container.limits_due = true;
        assert_eq!(due(&container, &limits), Due::Nothing);
        container.state.status = Status::Running;
        assert_eq!((due(&container, &policy), due(&container, &limits)), (Due::Owed, Due::Asked));
        container.limits_due = false;
        assert_eq!(
            (due(&container, &policy), due(&container, &limits)),
            (Due::Nothing, Due::Asked)
        );
    }

    #[test]
    fn a_policy_of_a_container_that_goes_with_its_end_stays() {
        let mut container = Container::default();
        container.spec.auto_remove = true;
        let policy = |restart| Update { restart: Some(restart), ..Update::default() };
        let refused = apply(&mut container, &policy(RestartPolicy::Always)).unwrap_err();
        assert_eq!(refused.kind(), Kind::Conflict);
        assert!(apply(&mut container, &policy(RestartPolicy::No)).is_ok());
    }
}
