//! A plan that breaks off at any of its steps leaves nothing that cannot be finished or undone.

#![expect(clippy::unwrap_used, reason = "a test")]

use cnm::{Plan, State, Step, diff};
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

/// For every step of creation and of removal: stop there, and go both ways.
fn every_step_can_be_finished_and_undone(kernel: &dyn Kernel) {
    let desired = model().desired();
    let empty = State::default();
    for (from, to) in [(&empty, &desired), (&desired, &empty)] {
        let plan = diff(from, to);
        for k in 0..=plan.steps().len() {
            for goal in [&desired, &empty] {
                reconcile(kernel, from).unwrap();
                let part = diff(from, &after(from.clone(), &plan, k));
                kernel.apply(&part).unwrap();
                reconcile(kernel, goal).unwrap();
                let rest = diff(&kernel.observe().unwrap(), goal);
                assert!(rest.is_empty(), "after {k} steps of\n{plan}\nremained\n{rest}");
            }
        }
    }
    reconcile(kernel, &empty).unwrap();
}

#[test]
fn linux_finishes_and_undoes_a_plan_that_broke_off_anywhere() {
    let lab = Lab::new();
    let links = lab.host.links().len();
    every_step_can_be_finished_and_undone(&lab.open());
    assert_eq!(lab.host.links().len(), links, "{:?}", lab.host.links());
    assert_eq!(lab.pinned(), 0);
}

#[test]
fn memory_finishes_and_undoes_a_plan_that_broke_off_anywhere() {
    every_step_can_be_finished_and_undone(&Memory::new());
}

#[test]
fn failed_step_leaves_a_state_from_which_both_ways_lead() {
    let desired = model().desired();
    let steps = diff(&State::default(), &desired).steps().len();
    for k in 0..steps {
        for goal in [&desired, &State::default()] {
            let kernel = Memory::new();
            kernel.fail_after(k);
            reconcile(&kernel, &desired).unwrap_err();
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
    let mac = drivers::kernel::link::stable_mac("somebody");
    lab.host.request(&[drivers::kernel::link::create_bridge(&name, mac)]);
    let error = reconcile(&kernel, &desired).unwrap_err();
    assert!(error.to_string().starts_with("cannot add veth"), "{error}");
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
fn another_daemon_adopts_everything() {
    let lab = Lab::new();
    let desired = model().desired();
    reconcile(&lab.open(), &desired).unwrap();
    let plan = reconcile(&lab.open(), &desired).unwrap();
    assert!(plan.is_empty(), "{plan}");
}
