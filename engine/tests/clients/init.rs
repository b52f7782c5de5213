//! `--init`: process 1 of a container is ours, or the one that the daemon was told of.

use std::time::Instant;

use serde_json::json;

use crate::daemon::{Client, Daemon, PATIENCE, Scratch};

const IMAGE: &str = "rnet/toolbox";

/// Runs a tool in a container that goes away: exit code, stdout, stderr.
fn run(daemon: &Daemon, client: Client, words: &[&str]) -> (Option<i32>, String, String) {
    daemon.ask(client, &[&["run", "--rm", "--network", "none"], words].concat())
}

/// Waits until a container has written a text.
fn until(daemon: &Daemon, id: &str, text: &str) {
    let end = Instant::now() + PATIENCE;
    while !daemon.docker_ok(&["logs", id]).contains(text) {
        assert!(Instant::now() < end, "no {text}: {}", daemon.docker_ok(&["logs", id]));
    }
}

/// The command line of process 1 of a container.
fn first_process(daemon: &Daemon, client: Client, flags: &[&str]) -> String {
    let words = [flags, &[IMAGE, "cat", "/proc/1/cmdline"]].concat();
    let (code, out, error) = run(daemon, client, &words);
    assert_eq!(code, Some(0), "{client:?} {flags:?}: {error}");
    out.replace('\0', " ").trim_end().to_owned()
}

const WITH: &str = "/sbin/docker-init -- cat /proc/1/cmdline";
const WITHOUT: &str = "cat /proc/1/cmdline";

#[test]
fn init_needs_nothing_of_the_host_and_a_container_may_do_without() {
    for (flag, default) in [(&[][..], WITHOUT), (&["--init"], WITH)] {
        let daemon = Daemon::start(flag);
        let program = daemon.scratch.path("data/init");
        assert!(std::fs::metadata(program).unwrap().is_file());
        for client in Client::ALL {
            assert_eq!(first_process(&daemon, client, &[]), default, "{client:?}");
            assert_eq!(first_process(&daemon, client, &["--init"]), WITH, "{client:?}");
            assert_eq!(first_process(&daemon, client, &["--init=false"]), WITHOUT, "{client:?}");
        }
        for (asked, shown) in [(json!(null), json!(null)), (json!(false), json!(false))] {
            let body = json!({"Image": IMAGE, "HostConfig": {"Init": asked}});
            let id = daemon.post("/containers/create", &body).json()["Id"].clone();
            let path = format!("/containers/{}/json", id.as_str().unwrap());
            assert_eq!(daemon.get(&path).json()["HostConfig"]["Init"], shown);
        }
        // In the host's PID namespace another process is the first.
        let words = ["--pid", "host", "--init", IMAGE, "cat", "/proc/self/cmdline"];
        assert_eq!(run(&daemon, Client::Docker, &words).1, "cat\0/proc/self/cmdline\0");
    }
}

#[test]
fn init_ends_as_its_program_does() {
    let daemon = Daemon::start(&["--init"]);
    for (words, code) in [
        (&["exit", "42"][..], 42),
        (&["true"], 0),
        (&["/etc"], 126),
        (&["nosuch"], 127),
        // Inside, it is a program like any other.
        (&["init", "--", "init", "exit", "7"], 7),
    ] {
        let words = [&[IMAGE][..], words].concat();
        assert_eq!(run(&daemon, Client::Docker, &words).0, Some(code), "{words:?}");
    }
}

#[test]
fn init_hands_signals_on_and_tells_of_the_one_that_ended_the_program() {
    let daemon = Daemon::start(&["--init"]);
    let start = |words: &[&str]| {
        daemon.docker_ok(&[&["run", "-d", "--network", "none", IMAGE], words].concat())
    };
    let id = start(&["signals"]);
    until(&daemon, &id, "ready");
    for (signal, told) in [
        ("HUP", "1 SIGHUP"),
        ("USR1", "10 SIGUSR1"),
        ("WINCH", "28 SIGWINCH"),
        ("TTOU", "22 SIGTTOU"),
        ("RTMIN", "34 SIGRTMIN+0"),
        ("64", "64 SIGRTMIN+30"),
        ("TERM", "15 SIGTERM"),
    ] {
        daemon.docker_ok(&["kill", "-s", signal, &id]);
        until(&daemon, &id, told);
    }
    assert_eq!(daemon.docker_ok(&["wait", &id]), "0");
    // Without an init process the kernel drops what process 1 does not handle.
    let id = start(&["fill", "/dev/null"]);
    daemon.docker_ok(&["kill", "-s", "USR1", &id]);
    assert_eq!(daemon.docker_ok(&["wait", &id]), "138");
}

#[test]
fn init_takes_leave_of_orphans() {
    let daemon = Daemon::start(&[]);
    let run = ["run", "-d", "--name", "box", "--network", "none", "--init", IMAGE, "trap"];
    daemon.docker_ok(&run);
    for _ in 0..3 {
        daemon.docker_ok(&["exec", "box", "spawn", "true"]);
    }
    let processes = || {
        let files = daemon.docker_ok(&["exec", "box", "ls", "/proc"]);
        files.lines().filter(|name| name.parse::<u32>().is_ok()).count()
    };
    let end = Instant::now() + PATIENCE;
    // Itself, the program, and who looks.
    while processes() != 3 {
        assert!(Instant::now() < end, "{}", daemon.docker_ok(&["exec", "box", "ls", "/proc"]));
    }
}

#[test]
fn the_daemon_may_be_told_of_another_init() {
    let scratch = Scratch::new();
    let other = scratch.text("other-init");
    // Any static program that runs what it is given will do.
    let found = Daemon::start(&[]);
    std::fs::copy(found.scratch.path("data/init"), &other).unwrap();
    drop(found);
    let daemon = Daemon::start(&["--init-path", &other]);
    let words = ["--init", IMAGE, "cat", "/proc/self/mountinfo"];
    let (_, mounts, _) = run(&daemon, Client::Docker, &words);
    let line = mounts.lines().find(|line| line.contains(" /sbin/docker-init ")).unwrap();
    assert!(line.contains("/other-init /sbin/docker-init ro"), "{line}");
    std::fs::remove_file(&other).unwrap();
    let (code, _, error) = run(&daemon, Client::Docker, &["--init", IMAGE, "true"]);
    assert_eq!(code, Some(125));
    assert!(error.contains(&format!("--init-path of the daemon names no program: {other}")));
}

#[test]
fn a_damaged_init_is_mended_at_the_daemon_s_start() {
    let mut daemon = Daemon::start(&[]);
    let program = daemon.scratch.path("data/init");
    let content = std::fs::read(&program).unwrap();
    std::fs::write(&program, "#!/bin/false\n").unwrap();
    daemon.restart(&[]);
    assert_eq!(std::fs::read(&program).unwrap(), content);
}
