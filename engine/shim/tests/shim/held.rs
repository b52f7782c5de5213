//! Containers that are made and held back until the daemon says the word.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Instant;

use runtime::{Program, spec};
use shim::client::Starting;
use shim::launch;
use shim::protocol::Gate;

use super::{Container, PATIENCE, anybody_in, run, with_each_runtime};

fn held(container: &mut Container) -> Starting {
    container.config.held = true;
    let bundle = spec::build(&container.input, &container.host, &*container.runtime).unwrap();
    bundle.write(&container.config.bundle).unwrap();
    container.shims.begin(&container.config, &[]).unwrap()
}

/// What the runtime says of the container; empty if it knows none.
fn state(container: &Container) -> String {
    let mut command = launch::command(&container.config.runtime);
    let output = command.args(["state", &container.config.id]).output().unwrap();
    let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    state["status"].as_str().unwrap_or_default().to_owned()
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

fn ends(container: &Container) {
    run(async {
        if let Ok(mut watch) = container.client().watch().await {
            while watch.next().await.is_some() {}
        }
    });
}

#[test]
fn a_container_that_is_held_runs_when_the_word_comes() {
    with_each_runtime("held", &["say", "hello"], |mut container| {
        let starting = held(&mut container);
        wait_for("it is not made", || state(&container) == "created");
        let status = run(async { container.client().status().await.unwrap() });
        assert_eq!(status.pid, None, "it does not run yet");
        assert_eq!(container.log("stdout"), "");
        starting.run().unwrap();
        ends(&container);
        assert_eq!(container.log("stdout"), "hello\n");
    });
}

#[test]
fn the_word_may_come_before_the_container_is_made() {
    with_each_runtime("early", &["say", "hello"], |mut container| {
        held(&mut container).run().unwrap();
        ends(&container);
        assert_eq!(container.log("stdout"), "hello\n");
    });
}

#[test]
fn a_container_that_runs_is_not_one_that_was_only_created() {
    with_each_runtime("state", &["sleep"], |mut container| {
        held(&mut container).run().unwrap();
        wait_for("the runtime does not know that it runs", || state(&container) == "running");
        run(async { container.client().kill(libc::SIGKILL, None).await.unwrap() });
    });
}

#[test]
fn nothing_is_left_of_a_container_that_was_cancelled() {
    with_each_runtime("cancel", &["say", "hello"], |mut container| {
        let starting = held(&mut container);
        wait_for("it is not made", || state(&container) == "created");
        starting.cancel();
        assert_eq!(state(&container), "");
        assert!(!container.config.directory.join("sock").exists());
        assert_eq!(container.log("stdout"), "");
        // And when the word is taken back before anything is made.
        held(&mut container).cancel();
        assert_eq!(state(&container), "");
        assert_eq!(container.log("stdout"), "");
    });
}

#[test]
fn what_is_held_goes_when_the_daemon_does() {
    with_each_runtime("orphan", &["say", "hello"], |mut container| {
        let starting = held(&mut container);
        wait_for("it is not made", || state(&container) == "created");
        drop(starting);
        wait_for("the shim stays", || !anybody_in(&container.directory));
        assert_eq!(state(&container), "");
        assert_eq!(container.log("stdout"), "");
    });
}

#[test]
fn what_cannot_be_made_says_so_whether_it_is_held_or_not() {
    with_each_runtime("broken", &[], |mut container| {
        container.input.args = vec!["nope".to_owned()];
        let error = held(&mut container).run().unwrap_err().to_string();
        assert!(error.contains("executable file not found in $PATH"), "{error}");
        held(&mut container).cancel();
    });
}

/// A program with runc's command line that is neither crun nor runc.
#[test]
fn a_runtime_whose_gate_is_unknown_is_told_to_start() {
    with_each_runtime("unknown", &["say", "hello"], |mut container| {
        container.config.runtime.gate = Gate::Command;
        held(&mut container).run().unwrap();
        ends(&container);
        assert_eq!(container.log("stdout"), "hello\n");
    });
}

#[test]
fn a_gate_that_has_become_another_is_opened_by_the_runtime() {
    with_each_runtime("other", &["say", "hello"], |mut container| {
        // The runtime of another version: it waits where this one is waited for, or the reverse.
        let gate = &mut container.config.runtime.gate;
        *gate = match *gate {
            Gate::Written => Gate::Read,
            Gate::Read => Gate::Written,
            Gate::Command => panic!("the gate of this runtime is known"),
        };
        held(&mut container).run().unwrap();
        ends(&container);
        assert_eq!(container.log("stdout"), "hello\n");
    });
}

#[test]
fn a_link_is_the_runtime_that_it_leads_to() {
    let container = Container::new("link", &[]);
    // Only the name of what the link leads to counts.
    let program = container.directory.join("crun");
    fs::write(&program, "").unwrap();
    let link = container.directory.join("runc");
    symlink(program, &link).unwrap();
    let added = BTreeMap::from([("mine".to_owned(), Program { path: link, arguments: vec![] })]);
    let runtime = runtime::find("mine", &added).unwrap();
    assert_eq!(runtime.command(&container.directory).gate, Gate::Written);
}
