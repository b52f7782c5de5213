//! `--ipc`, `--pid` and `--uts`: what containers share is looked at from both sides.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::daemon::Daemon;

const IMAGE: &str = "rnet/toolbox";

fn run(daemon: &Daemon, name: &str, flags: &[&str]) {
    let words = [&["run", "-d", "--name", name], flags, &[IMAGE, "trap", "0"]].concat();
    daemon.docker_ok(&words);
}

fn pid(daemon: &Daemon, name: &str) -> String {
    daemon.docker_ok(&["inspect", "-f", "{{.State.Pid}}", name])
}

/// What is in the place of a container's `/dev/shm`.
fn memory(daemon: &Daemon, name: &str, file: &str) -> PathBuf {
    format!("/proc/{}/root/dev/shm/{file}", pid(daemon, name)).into()
}

/// The output of a program in the IPC namespace of a process.
fn within(pid: &str, words: &[&str]) -> String {
    let output = Command::new("nsenter").args(["-t", pid, "--ipc"]).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes a segment of shared memory in a container, and tells its number as `ipcs` prints it.
fn segment(daemon: &Daemon, name: &str) -> String {
    let made = within(&pid(daemon, name), &["ipcmk", "-M", "4096"]);
    made.rsplit(' ').next().unwrap().trim().to_owned()
}

fn sees_segment(daemon: &Daemon, name: &str, number: &str) -> bool {
    let listed = within(&pid(daemon, name), &["ipcs", "-m"]);
    listed.lines().any(|line| line.split_whitespace().nth(1) == Some(number))
}

/// Whether two containers have the same memory, seen from both sides.
fn share(daemon: &Daemon, one: &str, other: &str) -> bool {
    let mut found = Vec::new();
    for (from, to) in [(one, other), (other, one)] {
        let number = segment(daemon, from);
        found.push(sees_segment(daemon, to, &number));
        std::fs::write(memory(daemon, from, from), from).unwrap();
        found.push(std::fs::read_to_string(memory(daemon, to, from)).is_ok_and(|t| t == from));
        within(&pid(daemon, from), &["ipcrm", "-m", &number]);
        std::fs::remove_file(memory(daemon, from, from)).unwrap();
    }
    assert!(found.iter().all(|is| *is == found[0]), "both kinds, both ways: {found:?}");
    found[0]
}

fn same(daemon: &Daemon, kind: &str, one: &str, other: &str) -> bool {
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    of(one) == of(&pid(daemon, other))
}

#[test]
fn a_shareable_container_shares_its_memory_with_those_who_join_it() {
    let mut daemon = Daemon::start(&[]);
    run(&daemon, "donor", &["--ipc", "shareable", "--shm-size", "1m"]);
    run(&daemon, "joiner", &["--ipc", "container:donor"]);
    run(&daemon, "third", &["--ipc", "container:joiner"]);
    assert!(share(&daemon, "donor", "joiner"));
    assert!(share(&daemon, "donor", "third"));
    let size = vec![0; (1 << 20) + 1];
    assert!(std::fs::write(memory(&daemon, "joiner", "large"), size).is_err(), "it has its size");
    std::fs::remove_file(memory(&daemon, "joiner", "large")).unwrap();
    // Whatever the donor is called by then.
    daemon.docker_ok(&["rename", "donor", "other"]);
    daemon.restart_after(Signal::SIGKILL, &[]);
    assert!(share(&daemon, "other", "joiner"), "after the daemon was killed");
    daemon.docker_ok(&["restart", "-t", "0", "joiner"]);
    assert!(share(&daemon, "other", "joiner"), "after a restart of who joined");
    daemon.docker_ok(&["restart", "-t", "0", "other"]);
    assert!(!share(&daemon, "other", "joiner"), "the donor has begun anew");
    daemon.docker_ok(&["restart", "-t", "0", "joiner"]);
    assert!(share(&daemon, "other", "joiner"));
    daemon.docker_ok(&["rm", "-f", "third", "joiner", "other"]);
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", daemon.id())).unwrap();
    assert!(!mounts.contains("/run/ipc/"), "{mounts}");
}

#[test]
fn a_container_s_own_memory_is_joined_by_nobody() {
    let daemon = Daemon::start(&[]);
    run(&daemon, "usual", &[]);
    run(&daemon, "private", &["--ipc", "private"]);
    run(&daemon, "without", &["--ipc", "none"]);
    daemon.docker_ok(&["create", "--name", "stopped", "--ipc", "shareable", IMAGE]);
    assert!(!share(&daemon, "usual", "private"));
    assert!(!memory(&daemon, "without", "").exists());
    let id = |name: &str| daemon.docker_ok(&["inspect", "-f", "{{.Id}}", name]);
    for name in ["usual", "private", "without"] {
        let wanted = format!("container:{name}");
        let (code, error) = daemon.docker_err(&["run", "--ipc", &wanted, IMAGE, "exit", "0"]);
        let expected = format!(
            "failed to join IPC namespace: container {}: non-shareable IPC (hint: use \
             IpcMode:shareable for the donor container)",
            id(name)
        );
        assert!(code == Some(125) && error.contains(&expected), "{error}");
    }
    for (flag, kind) in [("--ipc", "IPC"), ("--pid", "PID")] {
        let run = ["run", flag, "container:stopped", IMAGE, "exit", "0"];
        let (_, error) = daemon.docker_err(&run);
        let stopped = id("stopped");
        let expected =
            format!("failed to join {kind} namespace: container {stopped} is not running");
        assert!(error.contains(&expected), "{error}");
        let (_, error) = daemon.docker_err(&["create", flag, "container:none", IMAGE]);
        assert!(error.contains("No such container: none"), "{error}");
    }
}

#[test]
fn the_host_s_namespaces_are_the_host_s() {
    let daemon = Daemon::start(&[]);
    run(&daemon, "host", &["--ipc", "host", "--pid", "host", "--uts", "host"]);
    run(&daemon, "other", &["--ipc", "host"]);
    run(&daemon, "third", &["--ipc", "container:host", "--pid", "container:other"]);
    for kind in ["ipc", "pid", "uts"] {
        assert!(same(&daemon, kind, "self", "host"), "{kind}");
    }
    assert!(share(&daemon, "host", "other"));
    assert!(share(&daemon, "third", "other"));
    assert!(same(&daemon, "pid", &pid(&daemon, "other"), "third"));
    assert!(!same(&daemon, "pid", "self", "third") && !same(&daemon, "uts", "self", "third"));
    let host = daemon.docker_ok(&["exec", "host", "hostname"]);
    assert_eq!(host, nix::unistd::gethostname().unwrap().to_str().unwrap());
    let conflict = ["create", "--uts", "host", "--hostname", "x", IMAGE];
    let (_, error) = daemon.docker_err(&conflict);
    assert!(error.contains("conflicting options: hostname and the UTS mode"), "{error}");
}

#[test]
fn a_donor_s_link_in_the_place_of_its_memory_leads_nobody_astray() {
    let daemon = Daemon::start(&[]);
    // Whoever may mount can also unmount.
    run(&daemon, "donor", &["--ipc", "shareable", "--privileged"]);
    let donor = pid(&daemon, "donor");
    unmount_in(&donor, "/dev/shm");
    let place = PathBuf::from(format!("/proc/{donor}/root/dev/shm"));
    std::fs::remove_dir(&place).unwrap();
    std::os::unix::fs::symlink("/etc", &place).unwrap();
    run(&daemon, "joiner", &["--ipc", "container:donor"]);
    assert_eq!(daemon.docker_ok(&["exec", "joiner", "ls", "/dev/shm"]), "");
}

/// Unmounts something as a process of a container would.
fn unmount_in(pid: &str, path: &str) {
    use nix::sched::{CloneFlags, setns, unshare};
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/mnt")).unwrap();
    #[expect(clippy::disallowed_methods, reason = "on a thread that ends here")]
    let unmount = || {
        unshare(CloneFlags::CLONE_FS).unwrap();
        setns(&namespace, CloneFlags::CLONE_NEWNS).unwrap();
        nix::mount::umount(path).unwrap();
    };
    std::thread::scope(|scope| scope.spawn(unmount).join().unwrap());
}
