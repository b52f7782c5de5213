//! Daemons that are killed while they begin a swarm, join one or leave it: the next daemon is in it or out of it,
//! and whatever the user does next succeeds.

use std::time::{Duration, Instant};

use netns_tests::{Daemon, patient};

use super::{SOON, docker, eventually, machines, nodes, printed_command, refusal};

const INIT: &str = "docker swarm init --advertise-addr 192.0.2.1";
const LEAVE: &str = "docker swarm leave --force";

/// How many times each is killed, at moments that are spread over what it takes.
const TIMES: u32 = 5;

/// How long a command takes.
fn time(on: &Daemon, line: &str) -> Duration {
    let begun = Instant::now();
    docker(on, line);
    begun.elapsed()
}

/// Has a command begin, and kills the daemon after some time. The next one is there when this returns, and
/// the command has ended: it may have begun so late that the next one has it.
fn killed(on: &mut Daemon, line: &str, after: Duration) {
    let begun = Instant::now();
    let line = format!("DOCKER_HOST={} {line} >/dev/null 2>&1 </dev/null", on.url());
    let mut client = on.command("sh").args(["-c", &line]).spawn().unwrap();
    while begun.elapsed() < after {
        std::thread::park_timeout(after.saturating_sub(begun.elapsed()));
    }
    on.kill();
    on.restart();
    client.wait().unwrap();
}

/// Whether a node is in a swarm, as soon as it is certain.
fn is_in(node: &Daemon) -> bool {
    let begun = Instant::now();
    loop {
        match &*docker(node, "docker info --format '{{.Swarm.LocalNodeState}}'") {
            "active" => return true,
            "inactive" => return false,
            state => assert!(begun.elapsed() < patient(SOON), "{state}: {}", node.log()),
        }
    }
}

/// Nothing is left of a swarm.
fn is_out(node: &Daemon) {
    eventually("nothing is left", || {
        let has_files = node.file("data/swarm").exists();
        // Of the list of clusters only the heading.
        !has_files && !node.shell("pgrep -x etcd").0 && node.rnet("cluster ls").lines().count() == 1
    });
}

fn moments(whole: Duration) -> impl Iterator<Item = Duration> {
    (0..TIMES).map(move |turn| whole * turn / (TIMES - 1))
}

#[test]
fn who_is_killed_while_a_swarm_begins_has_it_or_has_it_not() {
    let (_lan, [mut one]) = machines();
    let whole = time(&one, INIT);
    docker(&one, LEAVE);
    for moment in moments(whole) {
        killed(&mut one, INIT, moment);
        if !is_in(&one) {
            docker(&one, INIT);
        }
        eventually("it is its own manager", || nodes(&one) == ["one Ready Leader"]);
        docker(&one, "docker network create -d overlay --attachable app");
        docker(&one, LEAVE);
        is_out(&one);
    }
}

#[test]
fn who_is_killed_while_it_leaves_is_out_when_it_says_so() {
    let (_lan, [mut one]) = machines();
    docker(&one, INIT);
    let whole = time(&one, LEAVE);
    for moment in moments(whole) {
        docker(&one, INIT);
        killed(&mut one, LEAVE, moment);
        if is_in(&one) {
            docker(&one, LEAVE);
        }
        is_out(&one);
        refusal(&one, "docker node ls");
    }
}

/// Who left is down, as with Docker, until it is removed.
fn forget_who_is_down(on: &Daemon) {
    eventually("nobody is left", || {
        on.shell(
            "docker -H $RNET_HOST node rm --force $(docker -H $RNET_HOST node ls -q -f name=two)",
        );
        nodes(on) == ["one Ready Leader"]
    });
}

fn joins(role: &str, shown: &str) {
    let (_lan, [one, mut two]) = machines();
    docker(&one, INIT);
    let join = printed_command(&docker(&one, &format!("docker swarm join-token {role}")));
    let whole = time(&two, &join);
    docker(&two, LEAVE);
    for moment in moments(whole) {
        forget_who_is_down(&one);
        killed(&mut two, &join, moment);
        if !is_in(&two) {
            // Whoever let it in already knows it again.
            docker(&two, &join);
        }
        eventually("both are there, each once", || nodes(&one) == ["one Ready Leader", shown]);
        docker(&two, LEAVE);
        is_out(&two);
        // The other one decides alone again.
        docker(&one, "docker network create -d overlay --attachable app");
        docker(&one, "docker network rm app");
    }
}

#[test]
fn who_is_killed_while_it_joins_as_a_worker_is_there_once_or_not_at_all() {
    joins("worker", "two Ready");
}

#[test]
fn who_is_killed_while_it_joins_as_a_manager_takes_nobody_s_quorum() {
    joins("manager", "two Ready Reachable");
}
