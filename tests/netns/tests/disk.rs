//! What a daemon does whose disk is full, and what it does when there is space again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Child;

use netns_tests::{Daemon, Lab, wait_until};
use nix::sys::statvfs::statvfs;

/// The disk: the toolbox fits, and not much more.
const SIZE: usize = 24 << 20;

/// A disk that is not to be filled.
const DISK: usize = 64 << 20;

/// Fills a disk to the last byte, and would take whatever is freed.
const HOG: &str = "run -d --name hog rnet/toolbox fill /all";

/// A path of the data, which only the daemon's host sees.
fn data(daemon: &Daemon, name: &str) -> PathBuf {
    let path = daemon.file("data").join(name);
    daemon.root(path.strip_prefix("/").unwrap().to_str().unwrap())
}

fn is_full(daemon: &Daemon) -> bool {
    statvfs(&data(daemon, "")).unwrap().blocks_free() == 0
}

fn fill(daemon: &Daemon) {
    daemon.rnet(HOG);
    wait_until("the disk is full", || is_full(daemon));
}

/// Flags that make a record long: nearly a megabyte.
fn long_labels() -> String {
    [format!("--label big={}", "x".repeat(100_000)).as_str(); 8].join(" ")
}

/// Creates networks with long labels until the store has no room of its own either.
fn exhaust_the_store(daemon: &Daemon) {
    let labels = long_labels();
    let create = |number: u32| daemon.fails(&format!("network create {labels} big{number}"));
    let error = (0..20).find_map(create).unwrap();
    assert!(error.contains("No space left on device"), "{error}");
}

/// Runs a container that is removed when it ends, and somebody who waits for that.
fn run_once(daemon: &Daemon) -> Child {
    let client = daemon.begin("run --rm --name once rnet/toolbox sleep 1000");
    wait_until("it runs", || daemon.fails("kill -s CONT once").is_none());
    client
}

fn status(daemon: &Daemon, container: &str) -> String {
    daemon.rnet(&format!("inspect -f {{{{.State.Status}}}} {container}"))
}

fn names(daemon: &Daemon, words: &str) -> BTreeSet<String> {
    daemon.rnet(words).lines().map(str::to_owned).collect()
}

/// What there is, as users see it.
fn inventory(daemon: &Daemon) -> [BTreeSet<String>; 2] {
    let containers = names(daemon, "ps -a --no-trunc --format {{.Names}}:{{.ID}}:{{.State}}");
    [containers, names(daemon, "network ls --format {{.Name}}")]
}

/// Everything works again, and another daemon finds what this one knew.
fn works_and_is_remembered(daemon: &mut Daemon) {
    daemon.rnet("network create after");
    daemon.run("after", "--network after");
    assert!(!daemon.rnet("run --rm --network after rnet/toolbox lookup after").is_empty());
    let known = inventory(daemon);
    daemon.kill();
    daemon.restart();
    assert_eq!(inventory(daemon), known);
    let ids: BTreeSet<_> = names(daemon, "ps -a -q --no-trunc");
    let entries = std::fs::read_dir(data(daemon, "containers")).unwrap();
    let directories: BTreeSet<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(directories, ids);
}

#[test]
fn containers_are_stopped_and_removed_while_the_disk_is_full() {
    let lab = Lab::new();
    let mut daemon = Daemon::start_on_disk(&lab.host, SIZE);
    for name in ["stopped", "killed", "removed", "frozen", "kept"] {
        daemon.run(name, "");
    }
    daemon.rnet("pause frozen");
    let mut once = run_once(&daemon);
    fill(&daemon);
    daemon.rnet("stop -t 0 stopped");
    assert_eq!(status(&daemon, "stopped"), "exited");
    daemon.rnet("kill killed");
    daemon.rnet("rm -f removed");
    daemon.rnet("stop -t 0 frozen");
    daemon.rnet("kill once");
    assert_eq!(once.wait().unwrap().code(), Some(137));
    wait_until("what was freed is taken", || is_full(&daemon));
    let there = names(&daemon, "ps -a --format {{.Names}}:{{.State}}");
    let expected =
        ["stopped:exited", "killed:exited", "frozen:exited", "kept:running", "hog:running"];
    assert_eq!(there, expected.map(str::to_owned).into());
    daemon.kill();
    daemon.restart();
    assert_eq!(names(&daemon, "ps -a --format {{.Names}}:{{.State}}"), there);
    daemon.rnet("rm -f hog kept");
    works_and_is_remembered(&mut daemon);
}

#[test]
fn a_store_without_room_is_no_obstacle_to_the_end_of_containers() {
    let lab = Lab::new();
    let mut daemon = Daemon::start_on_disk(&lab.host, SIZE);
    for name in ["stopped", "removed"] {
        daemon.run(name, "");
    }
    let mut once = run_once(&daemon);
    fill(&daemon);
    exhaust_the_store(&daemon);
    daemon.rnet("stop -t 0 stopped");
    assert_eq!(status(&daemon, "stopped"), "exited");
    daemon.rnet("rm -f removed");
    daemon.rnet("kill once");
    assert_eq!(once.wait().unwrap().code(), Some(137));
    let there = names(&daemon, "ps -a --format {{.Names}}:{{.State}}");
    assert_eq!(there, ["stopped:exited", "hog:running"].map(str::to_owned).into());
    daemon.kill();
    daemon.restart();
    assert_eq!(names(&daemon, "ps -a --format {{.Names}}:{{.State}}"), there);
    daemon.rnet("rm -f hog");
    assert_eq!(status(&daemon, "stopped"), "exited");
    works_and_is_remembered(&mut daemon);
}

/// Nothing can be written to the store, or everything again.
fn set_writable(daemon: &Daemon, flag: &str) {
    let mut chattr = daemon.command("chattr");
    assert!(chattr.arg(flag).arg(daemon.file("data/store.redb")).status().unwrap().success());
}

/// Ends three containers, each in its way, while nothing can be written to the store.
fn end_unrecorded(daemon: &Daemon) {
    for name in ["stopped", "removed"] {
        daemon.run(name, "");
    }
    let mut once = run_once(daemon);
    set_writable(daemon, "+i");
    let error = daemon.refusal("network create never");
    assert!(error.contains("cannot write the store"), "{error}");
    daemon.rnet("stop stopped");
    daemon.rnet("rm -f removed");
    daemon.rnet("kill once");
    assert_eq!(once.wait().unwrap().code(), Some(137));
    assert_eq!(daemon.rnet("ps -a --format {{.Names}}:{{.State}}"), "stopped:exited");
}

#[test]
fn what_could_not_be_written_down_is_written_as_soon_as_possible() {
    let lab = Lab::new();
    let mut daemon = Daemon::start_on_ext4(&lab.host, DISK);
    end_unrecorded(&daemon);
    set_writable(&daemon, "-i");
    wait_until("it is written down", || daemon.log().contains("what happened is written down"));
    daemon.kill();
    daemon.restart();
    assert_eq!(daemon.rnet("ps -a --format {{.Names}}:{{.State}}"), "stopped:exited");
    assert_eq!(daemon.rnet("inspect -f {{.State.ExitCode}} stopped"), "143");
    works_and_is_remembered(&mut daemon);
}

#[test]
fn what_was_never_written_down_is_found_by_the_next_daemon() {
    let lab = Lab::new();
    let mut daemon = Daemon::start_on_ext4(&lab.host, DISK);
    end_unrecorded(&daemon);
    daemon.kill();
    set_writable(&daemon, "-i");
    daemon.restart();
    assert_eq!(daemon.rnet("ps -a --format {{.Names}}:{{.State}}"), "stopped:exited");
    works_and_is_remembered(&mut daemon);
}

/// What needs bytes on the disk, with an image in a file. They are more than what a commit of the store may
/// leave for a moment.
fn hungry(archive: &str) -> [String; 3] {
    [
        format!("run --rm {} rnet/toolbox true", long_labels()),
        format!("load -i {archive}"),
        format!("import {archive} fresh:1"),
    ]
}

/// What needs new files, if only empty ones.
fn wishes(archive: &str) -> Vec<String> {
    let others = [
        "create rnet/toolbox",
        "run --rm --network none -v fresh:/data rnet/toolbox true",
        "volume create fresh",
    ];
    others.map(str::to_owned).into_iter().chain(hungry(archive)).collect()
}

/// A container that tells of every signal, and goes on.
fn run_talker(daemon: &Daemon) {
    daemon.rnet("run -d --name talker --network none rnet/toolbox signals");
    wait_until("it talks", || daemon.output("logs talker").contains("ready"));
}

/// It runs, answers, and what it says is kept.
fn talks(daemon: &Daemon, signal: &str) {
    daemon.rnet(&format!("kill -s {signal} talker"));
    let told = format!("SIG{signal}");
    wait_until("what it says is kept", || daemon.output("logs talker").contains(&told));
}

#[test]
fn what_needs_room_says_so_on_a_full_disk_and_leaves_nothing() {
    let lab = Lab::new();
    let mut daemon = Daemon::start_on_disk(&lab.host, SIZE);
    let archive = daemon.file("image.tar").to_str().unwrap().to_owned();
    daemon.rnet(&format!("save -o {archive} rnet/toolbox"));
    run_talker(&daemon);
    fill(&daemon);
    let before = inventory(&daemon);
    for words in hungry(&archive) {
        let error = daemon.refusal(&words);
        let known = ["No space left on device", "no room in "];
        let words = &words[..20];
        assert!(known.iter().any(|known| error.contains(known)), "{words}: {error}");
    }
    assert_eq!(inventory(&daemon), before);
    assert_eq!(daemon.rnet("volume ls -q"), "");
    assert_eq!(daemon.rnet("exec talker echo hi"), "hi");
    daemon.rnet("kill -s USR1 talker");
    assert_eq!(status(&daemon, "talker"), "running");
    daemon.rnet("rm -f hog");
    talks(&daemon, "USR2");
    for words in wishes(&archive) {
        daemon.rnet(&words);
    }
    works_and_is_remembered(&mut daemon);
}

/// Nothing in the data root can be opened for writing, or everything again. What is open stays so.
fn set_readonly(daemon: &Daemon, readonly: bool) {
    let script =
        if readonly { "mount --bind $0 $0 && mount -o remount,bind,ro $0" } else { "umount $0" };
    let mut shell = daemon.command("sh");
    assert!(shell.args(["-c", script]).arg(daemon.file("data")).status().unwrap().success());
}

#[test]
fn what_needs_a_disk_that_has_become_read_only_says_so_and_what_runs_goes_on() {
    let lab = Lab::new();
    let mut daemon = Daemon::start_on_disk(&lab.host, DISK);
    let archive = daemon.file("image.tar").to_str().unwrap().to_owned();
    daemon.rnet(&format!("save -o {archive} rnet/toolbox"));
    run_talker(&daemon);
    daemon.run("stopped", "");
    set_readonly(&daemon, true);
    let before = inventory(&daemon);
    for words in wishes(&archive) {
        let error = daemon.refusal(&words);
        assert!(error.contains("Read-only file system"), "{words}: {error}");
        let data = daemon.file("data").to_str().unwrap().to_owned();
        assert!([&*data, "fresh"].iter().any(|what| error.contains(what)), "{words}: {error}");
    }
    assert_eq!(inventory(&daemon), before);
    assert_eq!(daemon.rnet("exec talker echo hi"), "hi");
    talks(&daemon, "USR1");
    daemon.rnet("stop -t 0 stopped");
    assert_eq!(status(&daemon, "stopped"), "exited");
    set_readonly(&daemon, false);
    talks(&daemon, "USR2");
    daemon.rnet("start stopped");
    for words in wishes(&archive) {
        daemon.rnet(&words);
    }
    works_and_is_remembered(&mut daemon);
}
