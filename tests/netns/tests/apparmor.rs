//! A kernel that enforces AppArmor's profiles: what containers are confined to.
//!
//! Everything here is ignored where the kernel lacks it; `make test-vm` has one that does not.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::Write;
use std::process::{Command, Stdio};

use netns_tests::{Daemon, Lab};

const OURS: &str = "rnet-default (enforce)";

/// Nothing is hidden or read-only: what is denied then, the profile denies.
const BARE: &str = "--security-opt systempaths=unconfined";

fn start() -> (Lab, Daemon) {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    (lab, daemon)
}

/// Has AppArmor's own program load or remove profiles.
fn parser(what: &str, text: &str) {
    let mut command = Command::new("apparmor_parser");
    command.args([what, "--skip-cache"]).stdin(Stdio::piped());
    let mut parser = command.spawn().unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(parser.wait().unwrap().success(), "apparmor_parser {what}: {text}");
}

/// A profile of a user, gone with the value.
struct Profile(String);

impl Profile {
    fn load(rules: &str) -> Self {
        let name = format!("rnet-test-{}", std::process::id());
        let flags = "flags=(attach_disconnected,mediate_deleted)";
        parser("--replace", &format!("profile {name} {flags} {{ {rules} }}\n"));
        Self(name)
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        parser("--remove", &format!("profile {} {{ }}\n", self.0));
    }
}

/// What a program in a new container says, with its exit code.
fn run(daemon: &Daemon, words: &str) -> Result<String, String> {
    let command = format!("run --rm {words}");
    daemon.fails(&command).map_or_else(|| Ok(daemon.rnet(&command)), Err)
}

#[test]
#[ignore = "needs a kernel with AppArmor: make test-vm"]
fn a_container_that_chooses_no_profile_is_confined_by_ours_and_so_are_its_execs() {
    let (_lab, daemon) = start();
    daemon.run("c1", BARE);
    assert_eq!(daemon.rnet("exec c1 cat /proc/1/attr/current"), OURS);
    assert_eq!(daemon.rnet("exec c1 cat /proc/self/attr/current"), OURS);
    assert_eq!(daemon.rnet("inspect -f {{.AppArmorProfile}} c1"), "rnet-default");
    let denied = daemon.refusal("exec c1 write /proc/sysrq-trigger h");
    assert!(denied.contains("Permission denied"), "{denied}");
    let denied = daemon.refusal("exec c1 write /proc/sys/kernel/core_pattern |/evil");
    assert!(denied.contains("Permission denied"), "{denied}");
    daemon.rnet("exec c1 write /tmp/mine allowed");
    let info = daemon.rnet("info -f {{.SecurityOptions}}");
    assert!(info.contains("name=apparmor"), "{info}");
}

#[test]
#[ignore = "needs a kernel with AppArmor: make test-vm"]
fn who_asks_for_no_profile_and_who_is_privileged_has_none() {
    let (_lab, daemon) = start();
    for asked in ["--security-opt apparmor=unconfined", "--privileged"] {
        let current = format!("{asked} rnet/toolbox cat /proc/self/attr/current");
        assert_eq!(run(&daemon, &current).unwrap(), "unconfined", "{asked}");
        let trigger = format!("{asked} {BARE} rnet/toolbox write /proc/sysrq-trigger h");
        assert_eq!(run(&daemon, &trigger), Ok(String::new()), "{asked}");
    }
    let kept = "--privileged --security-opt apparmor=rnet-default";
    let current = format!("{kept} rnet/toolbox cat /proc/self/attr/current");
    assert_eq!(run(&daemon, &current).unwrap(), OURS, "a privileged one that asks for it");
}

#[test]
#[ignore = "needs a kernel with AppArmor: make test-vm"]
fn a_profile_of_a_user_is_chosen_by_its_name_and_one_that_is_unknown_is_refused() {
    let (_lab, daemon) = start();
    let profile = Profile::load("file, network, capability, signal, deny /etc/passwd rwklx,");
    let asked = format!("--security-opt apparmor={}", profile.0);
    let current = run(&daemon, &format!("{asked} rnet/toolbox cat /proc/self/attr/current"));
    assert_eq!(current.unwrap(), format!("{} (enforce)", profile.0));
    let denied = run(&daemon, &format!("{asked} rnet/toolbox cat /etc/passwd")).unwrap_err();
    assert!(denied.contains("Permission denied"), "{denied}");
    let unknown = run(&daemon, "--security-opt apparmor=nobody-knows-it rnet/toolbox true");
    assert!(unknown.unwrap_err().contains("no AppArmor profile \"nobody-knows-it\""));
    assert_eq!(daemon.rnet("ps -aq"), "");
}

#[test]
#[ignore = "needs a kernel with AppArmor: make test-vm"]
fn signals_reach_who_is_confined_from_its_shim_and_from_its_own_processes() {
    let (_lab, daemon) = start();
    daemon.rnet("run -d --name c1 rnet/toolbox trap 7");
    daemon.rnet("stop -t 60 c1");
    assert_eq!(daemon.rnet("inspect -f {{.State.ExitCode}} c1"), "7");
}

/// A package's upgrade unloads what it finds no file of. Alone in `.config/nextest.toml`, for
/// profiles are of the whole kernel.
#[test]
#[ignore = "needs a kernel with AppArmor: make test-vm"]
fn a_profile_that_was_unloaded_is_loaded_again_by_the_next_exec_and_the_next_start() {
    let (_lab, daemon) = start();
    daemon.run("before", "");
    parser("--remove", "profile rnet-default { }\n");
    assert_eq!(daemon.rnet("exec before cat /proc/self/attr/current"), OURS);
    parser("--remove", "profile rnet-default { }\n");
    daemon.run("after", BARE);
    assert_eq!(daemon.rnet("exec after cat /proc/1/attr/current"), OURS);
    let denied = daemon.refusal("exec after write /proc/sysrq-trigger h");
    assert!(denied.contains("Permission denied"), "{denied}");
}
