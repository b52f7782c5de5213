//! A plan that breaks off at any of its steps leaves nothing that cannot be finished or undone.

#![expect(clippy::unwrap_used, reason = "a test")]

use cnm::driver::HOST_ADDRESS;
use cnm::network::Parent;
use cnm::{Plan, Planner, State, Step, diff};
use drivers::Drivers;
use drivers::kernel::{Kernel, Memory, reconcile};
use netns_tests::{Lab, Model};

fn model() -> Model {
    let mut model = Model::default();
    model.network(1);
    model.sandbox(1, &[1]);
    model.publish(1, "0.0.0.0", 8080, 80);
    model
}

/// The state that the first `k` steps of a plan lead to.
fn after(mut state: State, plan: &Plan, k: usize) -> State {
    for step in &plan.steps()[..k] {
        match step.clone() {
            Step::Add(key, value) | Step::Change { key, to: value, .. } => state.insert(key, value),
            Step::Remove(key, _) => {
                state.remove(&key);
            }
        }
    }
    state
}

/// Stops a plan after each group of its steps, and leads the kernel to a goal from there.
fn every_part_leads_to(kernel: &dyn Kernel, from: &State, to: &State, goal: &State) {
    let plan = diff(from, to);
    let steps = plan.steps();
    let groups = (0..=steps.len()).filter(|k| {
        let kind = |k: usize| steps.get(k).map(|step| std::mem::discriminant(step.key()));
        *k == 0 || kind(*k) != kind(*k - 1)
    });
    for k in groups {
        reconcile(kernel, from).unwrap();
        let part = diff(from, &after(from.clone(), &plan, k));
        kernel.apply(&part).unwrap();
        reconcile(kernel, goal).unwrap();
        let rest = diff(&kernel.observe().unwrap(), goal);
        assert!(rest.is_empty(), "after {k} steps of\n{plan}\nremained\n{rest}");
    }
    reconcile(kernel, &State::default()).unwrap();
}

/// A creation and a removal that break off anywhere, finished and undone; on both kernels.
macro_rules! broken_off {
    ($($name:ident: $from:ident to $to:ident, then $goal:ident;)*) => {$(
        mod $name {
            use super::*;

            fn run(kernel: &dyn Kernel) {
                every_part_leads_to(kernel, &$from(), &$to(), &$goal());
            }

            #[test]
            fn on_linux() {
                let lab = Lab::new();
                let links = lab.host.links().len();
                run(&lab.open());
                assert_eq!(lab.host.links().len(), links, "{:?}", lab.host.links());
                assert_eq!(lab.pinned(), 0);
            }

            #[test]
            fn in_memory() {
                let kernel = Memory::new();
                kernel.plug("lan0".parse().unwrap());
                run(&kernel);
            }
        }
    )*};
}

broken_off! {
    broken_creation_is_finished: empty to desired, then desired;
    broken_creation_is_undone: empty to desired, then empty;
    broken_removal_is_finished: desired to empty, then empty;
    broken_removal_is_undone: desired to empty, then desired;
    broken_creation_on_a_lan_is_finished: empty to on_a_lan, then on_a_lan;
    broken_creation_on_a_lan_is_undone: empty to on_a_lan, then empty;
    broken_removal_from_a_lan_is_finished: on_a_lan to empty, then empty;
    broken_removal_from_a_lan_is_undone: on_a_lan to empty, then on_a_lan;
}

fn empty() -> State {
    State::default()
}

fn desired() -> State {
    model().desired()
}

/// The same on a macvlan network that the host has access to.
fn on_a_lan() -> State {
    let mut model = Model::default();
    let network = model.network(1);
    let drivers: &dyn Planner = &Drivers;
    network.driver = drivers.driver("macvlan").unwrap();
    for (option, value) in [("parent", "lan0"), ("rnet.macvlan.host_access", "true")] {
        network.given_options.insert(option.to_owned(), value.to_owned());
    }
    network.parent = Some(Parent { link: "lan0".parse().unwrap(), made: false, mtu: Some(1400) });
    for pool in &mut network.pools {
        let last = pool.subnet.iter().nth(200).unwrap();
        pool.auxiliary.insert(HOST_ADDRESS.to_owned(), last);
    }
    model.sandbox(1, &[1]);
    model.desired()
}

#[test]
fn failed_step_leaves_a_state_from_which_both_ways_lead() {
    for desired in [desired(), on_a_lan()] {
        any_failed_step_leads_to(&desired);
    }
}

fn any_failed_step_leads_to(desired: &State) {
    let steps = diff(&State::default(), desired).steps().len();
    for k in 0..steps {
        for goal in [desired, &State::default()] {
            let kernel = Memory::new();
            kernel.plug("lan0".parse().unwrap());
            kernel.fail_after(k);
            reconcile(&kernel, desired).unwrap_err();
            reconcile(&kernel, goal).unwrap();
            assert_eq!(&kernel.observe().unwrap(), goal, "after {k} steps");
        }
    }
}

#[test]
fn refused_step_in_the_middle_leaves_a_state_from_which_both_ways_lead() {
    let lab = Lab::new();
    let kernel = lab.open();
    let desired = model().desired();
    // Somebody has the name of the pair that is to be made.
    let name = model().sandboxes[&1].1[0].host_link();
    lab.host.add_bridge(name.as_str());
    let error = reconcile(&kernel, &desired).unwrap_err();
    assert!(error.to_string().starts_with("cannot add link eth0"), "{error}");
    reconcile(&kernel, &State::default()).unwrap();
    assert!(kernel.observe().unwrap().is_empty());
    lab.host.request(&[drivers::kernel::link::remove(&name)]);
    reconcile(&kernel, &desired).unwrap();
    assert!(reconcile(&kernel, &desired).unwrap().is_empty());
}

#[test]
fn vanished_namespace_comes_back_with_all_that_was_in_it() {
    let lab = Lab::new();
    let kernel = lab.open();
    let (model, desired) = (model(), model().desired());
    reconcile(&kernel, &desired).unwrap();
    let path = kernel.namespace_path(&model.sandboxes[&1].0.id);
    // Somebody is still inside when the pin goes.
    let inside = lab.sandbox(&kernel, &model.sandboxes[&1].0.id);
    nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH).unwrap();
    reconcile(&kernel, &desired).unwrap();
    assert!(reconcile(&kernel, &desired).unwrap().is_empty());
    assert!(inside.link("eth0").is_none(), "the old pair is gone");
    assert!(lab.sandbox(&kernel, &model.sandboxes[&1].0.id).link("eth0").is_some());
}

#[test]
fn half_made_pin_is_swept_when_the_kernel_is_opened() {
    let lab = Lab::new();
    let path = lab.open().namespace_path(&model().sandboxes[&1].0.id);
    std::fs::write(&path, "").unwrap();
    assert!(lab.open().observe().unwrap().is_empty());
    assert_eq!(lab.pinned(), 0);
}

#[test]
fn daemons_side_by_side_see_only_what_is_theirs() {
    let lab = Lab::new();
    let daemons = [lab.open_as("rnet-a"), lab.open_as("rnet-b")];
    let states = [1, 2].map(|n| {
        let mut model = Model::default();
        model.network(n);
        model.sandbox(n, &[n]);
        model.desired()
    });
    for (daemon, desired) in daemons.iter().zip(&states) {
        reconcile(daemon, desired).unwrap();
    }
    for (daemon, desired) in daemons.iter().zip(&states) {
        let plan = reconcile(daemon, desired).unwrap();
        assert!(plan.is_empty(), "{plan}");
    }
    reconcile(&daemons[0], &State::default()).unwrap();
    let plan = reconcile(&daemons[1], &states[1]).unwrap();
    assert!(plan.is_empty(), "{plan}");
}

#[test]
fn another_daemon_adopts_everything() {
    for desired in [desired(), on_a_lan()] {
        let lab = Lab::new();
        reconcile(&lab.open(), &desired).unwrap();
        let plan = reconcile(&lab.open(), &desired).unwrap();
        assert!(plan.is_empty(), "{plan}");
    }
}
