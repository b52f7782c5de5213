//! Docker's swarm mode: machines make a cluster of themselves, with Docker's own client.

use std::time::{Duration, Instant};

use netns_tests::{Daemon, Lan, patient};

/// How long something may take that one node does and another one sees.
const SOON: Duration = Duration::from_secs(30);

/// Waits for something to become true.
fn eventually(what: &str, is_true: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < patient(SOON), "it never came to be: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Machines on a LAN, the first with the address 192.0.2.1 and the name one.
fn machines<const N: usize>() -> (Lan, [Daemon; N]) {
    let lan = Lan::new();
    let names = ["one", "two", "three"];
    let daemons = std::array::from_fn(|place| {
        let number = place + 1;
        let host = lan.host(&[&format!("192.0.2.{number}/24"), &format!("2001:db8::{number}/64")]);
        Daemon::start_named(&host, names[place], &[])
    });
    (lan, daemons)
}

/// What Docker's client prints on a machine, given a line. It must succeed.
fn docker(on: &Daemon, line: &str) -> String {
    let (done, printed) = on.shell(&format!("DOCKER_HOST=$RNET_HOST {line}"));
    assert!(done, "{line}: {printed}\n{}", on.log());
    printed.trim_end().to_owned()
}

/// What it complains of. It must fail.
fn refusal(on: &Daemon, line: &str) -> String {
    let (done, printed) = on.shell(&format!("DOCKER_HOST=$RNET_HOST {line}"));
    assert!(!done, "{line}: {printed}");
    printed.trim_end().to_owned()
}

/// The command that a machine prints for others to join.
fn printed_command(text: &str) -> String {
    let line = text.lines().find(|line| line.trim().starts_with("docker swarm join "));
    line.unwrap_or_else(|| panic!("no command in {text}")).trim().to_owned()
}

/// The nodes as a manager lists them: name, state, and what it is as a manager.
fn nodes(on: &Daemon) -> Vec<String> {
    let format = "{{.Hostname}} {{.Status}} {{.ManagerStatus}}";
    let listed = on.shell(&format!("docker -H $RNET_HOST node ls --format '{format}'")).1;
    let mut nodes: Vec<_> = listed.lines().map(|line| line.trim().to_owned()).collect();
    nodes.sort();
    nodes
}

fn has_network(on: &Daemon, name: &str) -> bool {
    on.rnet("network ls --format {{.Name}}").lines().any(|line| line == name)
}

fn finds(on: &Daemon, from: &str, name: &str) -> bool {
    on.fails(&format!("exec {from} nslookup {name} 127.0.0.11")).is_none()
}

#[test]
fn the_printed_command_joins_word_for_word_and_containers_meet_by_name() {
    let (_lan, [mut one, mut two]) = machines();
    let said = docker(&one, "docker swarm init --advertise-addr 192.0.2.1");
    assert!(said.starts_with("Swarm initialized: current node ("), "{said}");
    let joined = docker(&two, &printed_command(&said));
    assert_eq!(joined, "This node joined a swarm as a worker.");
    eventually("both are ready", || nodes(&one) == ["one Ready Leader", "two Ready"]);

    docker(&one, "docker network create -d overlay --attachable app");
    eventually("the network is on the other node", || has_network(&two, "app"));
    let a = one.run("aa", "--network app");
    let b = two.run("bb", "--network app");
    let _servers = [a.serve(7), b.serve(7)];
    let [of_a, of_b] = [one.addresses_of("aa"), two.addresses_of("bb")];
    eventually("a reaches b", || a.tcp(of_b[0], 7).is_ok());
    eventually("b reaches a", || b.tcp(of_a[0], 7).is_ok());
    eventually("a finds b", || finds(&one, "aa", "bb"));
    eventually("b finds a", || finds(&two, "bb", "aa"));

    // Without the daemons all goes on, and with the next ones, too.
    one.kill();
    two.kill();
    assert!(a.tcp(of_b[0], 7).is_ok());
    one.restart();
    two.restart();
    eventually("both are ready again", || nodes(&one) == ["one Ready Leader", "two Ready"]);
    docker(&one, "docker network create -d overlay --attachable more");
    eventually("the next network is on the other node", || has_network(&two, "more"));
}

#[test]
fn what_swarm_cannot_do_is_refused_by_name() {
    let (_lan, [one, two]) = machines();
    let outside = refusal(&two, "docker node ls");
    assert!(outside.contains("This node is not a swarm manager. Use \"docker swarm init\""));
    let said = docker(&one, "docker swarm init --advertise-addr eth0");
    docker(&two, &printed_command(&said));
    let worker = refusal(&two, "docker node ls");
    assert!(worker.contains("Worker nodes can't be used to view or modify cluster state."));
    let again = refusal(&two, "docker swarm init --advertise-addr 192.0.2.2");
    assert!(again.contains("This node is already part of a swarm."), "{again}");

    assert_eq!(docker(&one, "docker service ls -q"), "");
    let service = refusal(&one, "docker service create --detach --name x rnet/toolbox");
    assert!(service.contains("services are not supported: networks are what nodes share"));
    let drained = refusal(&one, "docker node update --availability drain two");
    assert!(drained.contains("draining and pausing nodes is not supported"), "{drained}");
    let locked = refusal(&one, "docker swarm update --autolock");
    assert!(locked.contains("locking the managers of a swarm is not supported"), "{locked}");
    let last = refusal(&one, "docker node demote one");
    assert!(last.contains("attempting to demote the last manager of the swarm"), "{last}");
    let there = refusal(&one, "docker node rm two");
    assert!(there.contains("is not down and can't be removed"), "{there}");

    let info = docker(&one, "docker info --format '{{.Swarm.LocalNodeState}} {{.Swarm.Nodes}}'");
    assert_eq!(info, "active 2");
    docker(&one, "docker node update --label-add disk=fast two");
    let label = docker(&one, "docker node inspect --format '{{.Spec.Labels.disk}}' two");
    assert_eq!(label, "fast");
    let authority = docker(&one, "docker swarm ca");
    assert!(authority.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(one.rnet("swarm ca"), authority);
}

#[test]
fn three_managers_go_on_without_one_which_is_demoted_leaves_and_joins_again() {
    let (_lan, [one, two, mut three]) = machines();
    docker(&one, "docker swarm init --advertise-addr 192.0.2.1");
    let command = printed_command(&docker(&one, "docker swarm join-token manager"));
    for other in [&two, &three] {
        assert_eq!(docker(other, &command), "This node joined a swarm as a manager.");
    }
    let all = ["one Ready Leader", "three Ready Reachable", "two Ready Reachable"];
    eventually("all are ready", || nodes(&one) == all);

    three.lose_power();
    eventually("it is seen to be down", || {
        nodes(&one) == ["one Ready Leader", "three Down Unreachable", "two Ready Reachable"]
    });
    docker(&two, "docker network create -d overlay --attachable app");
    eventually("the network is on the other node", || has_network(&one, "app"));
    one.run("aa", "--network app");
    docker(&one, "docker node demote three");
    eventually("it is a manager no more", || nodes(&one)[1] == "three Down");

    three.restart();
    eventually("it comes back as a worker", || nodes(&one)[1] == "three Ready");
    assert!(has_network(&three, "app"));
    docker(&three, "docker swarm leave");
    eventually("it has left", || nodes(&one)[1] == "three Down");
    docker(&one, "docker node rm three");
    assert_eq!(nodes(&one).len(), 2);
    let worker = printed_command(&docker(&two, "docker swarm join-token worker"));
    docker(&three, &worker);
    eventually("it is a worker again", || nodes(&one)[1] == "three Ready");

    let kept = refusal(&two, "docker swarm leave");
    assert!(kept.contains("participating as a manager"), "{kept}");
    docker(&two, "docker swarm leave --force");
    eventually("one is alone with its worker", || {
        nodes(&one) == ["one Ready Leader", "three Ready", "two Down"]
    });
}

#[test]
fn a_reset_takes_a_manager_s_member_and_its_keys_with_it() {
    let (_lan, [one]) = machines();
    docker(&one, "docker swarm init --advertise-addr 192.0.2.1");
    let directory = one.file("data/swarm");
    assert!(directory.join("authority.key").exists());
    docker(&one, "pgrep -x etcd");
    one.rnet("system reset --force");
    assert!(!directory.exists());
    refusal(&one, "pgrep -x etcd");
}
