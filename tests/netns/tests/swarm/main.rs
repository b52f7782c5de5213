//! Docker's swarm mode: machines make a cluster of themselves, with Docker's own client.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod killed;

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
    docker(&one, "docker node update --availability drain two");
    let words = "docker node ls --format '{{.Hostname}} {{.Availability}}'";
    let mut listed: Vec<_> = docker(&one, words).lines().map(str::to_owned).collect();
    listed.sort();
    assert_eq!(listed, ["one Active", "two Drain"]);
    one.rnet("node update --availability active two");
    assert!(!docker(&one, words).contains("Drain"));
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
fn a_node_is_removed_as_a_whole_and_a_swarm_is_left_and_joined_by_its_own_verbs_only() {
    let (_lan, [one, mut two, three]) = machines();
    let said = docker(&one, "docker swarm init --advertise-addr 192.0.2.1");
    docker(&two, &printed_command(&said));
    docker(&three, &printed_command(&said));
    let all = ["one Ready Leader", "three Ready", "two Ready"];
    eventually("all are ready", || nodes(&one) == all);

    for line in ["cluster leave", "cluster leave --force"] {
        let refused = two.refusal(line);
        assert!(refused.contains("this host's cluster is that of its swarm"), "{refused}");
    }
    let refused = two.refusal("cluster join etcd://192.0.2.9:2379");
    assert!(refused.contains("this host is a node of a swarm"), "{refused}");
    eventually("nothing came of it", || nodes(&one) == all);

    let refused = two.refusal("node rm --force three");
    assert!(refused.contains("Worker nodes can't be used to view or modify"), "{refused}");
    let refused = one.refusal("node rm two");
    assert!(refused.contains("is not down and can't be removed"), "{refused}");
    two.kill();
    one.rnet("node rm --force two");
    docker(&one, "docker node rm --force three");
    eventually("nobody knows them", || {
        nodes(&one) == ["one Ready Leader"] && one.rnet("node ls -q").lines().count() == 1
    });
    // Neither is let in again by what it has.
    two.restart();
    for node in [&two, &three] {
        eventually("it is told", || {
            node.shell("rnet system check").1.contains("removed from its swarm")
        });
    }
    assert_eq!(one.rnet("node ls -q").lines().count(), 1);
    docker(&two, "docker swarm leave");
    docker(&two, &printed_command(&said));
    eventually("it is back", || nodes(&one) == ["one Ready Leader", "two Ready"]);
}

#[test]
fn a_manager_that_is_left_goes_on_alone_with_what_it_knows_if_it_is_told_to() {
    let (_lan, [one, mut two, three]) = machines();
    let said = docker(&one, "docker swarm init --advertise-addr 192.0.2.1");
    docker(&three, &printed_command(&said));
    let command = printed_command(&docker(&one, "docker swarm join-token manager"));
    docker(&two, &command);
    docker(&one, "docker network create -d overlay --attachable app");
    eventually("the network is on the worker", || has_network(&three, "app"));
    let (a, b) = (one.run("aa", "--network app"), three.run("bb", "--network app"));
    let _server = b.serve(7);
    let of_b = three.addresses_of("bb");
    eventually("a reaches b", || a.tcp(of_b[0], 7).is_ok());

    two.lose_power();
    let anew = "docker swarm init --force-new-cluster --advertise-addr";
    let elsewhere = refusal(&one, &format!("{anew} 2001:db8::1"));
    assert!(elsewhere.contains("a manager keeps the address"), "{elsewhere}");
    let worker = refusal(&three, &format!("{anew} 192.0.2.3"));
    assert!(worker.contains("Worker nodes can't be used to view or modify"), "{worker}");
    let said = docker(&one, &format!("{anew} 192.0.2.1"));
    assert!(said.contains("is now a manager."), "{said}");
    let left = ["one Ready Leader", "three Ready", "two Down"];
    eventually("it is alone with its worker", || nodes(&one) == left);
    assert!(a.tcp(of_b[0], 7).is_ok());
    docker(&one, "docker network create -d overlay --attachable more");
    eventually("the worker follows", || has_network(&three, "more"));

    two.restart();
    let back = ["one Ready Leader", "three Ready", "two Ready"];
    eventually("the other one is back as a worker", || nodes(&one) == back);
}

#[test]
fn what_keeps_etcd_from_running_is_told_by_who_wants_to_be_a_manager() {
    let lan = Lan::new();
    let host = lan.host(&["192.0.2.1/24"]);
    let one = Daemon::start_named(&host, "one", &[]);
    let taken = host.run(|| std::net::TcpListener::bind("192.0.2.1:2388").unwrap());
    let start = Instant::now();
    let said = refusal(&one, "docker swarm init --advertise-addr 192.0.2.1");
    assert!(said.contains("address already in use"), "{said}");
    assert!(start.elapsed() < patient(Duration::from_secs(40)), "{:?}", start.elapsed());
    assert!(!one.file("data/swarm").exists());
    refusal(&one, "pgrep -x etcd");
    drop(taken);
    docker(&one, "docker swarm init --advertise-addr 192.0.2.1");
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

#[test]
fn a_swarm_s_files_that_cannot_be_read_keep_no_daemon_from_starting_and_go_by_force_only() {
    let (_lan, [mut one]) = machines();
    for file in ["state.json", "node.pem"] {
        docker(&one, "docker swarm init --advertise-addr 192.0.2.1");
        one.kill();
        let file = one.file("data/swarm").join(file);
        std::fs::write(&file, "nothing").unwrap();
        one.restart();
        assert_eq!(docker(&one, "docker info --format '{{.Swarm.LocalNodeState}}'"), "error");
        let (found, checked) = one.shell("rnet system check");
        assert!(!found && checked.contains("swarm leave --force"), "{checked}");
        refusal(&one, "docker swarm leave");
        refusal(&one, "docker swarm init --advertise-addr 192.0.2.1");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "nothing");
        docker(&one, "docker swarm leave --force");
        assert!(!one.file("data/swarm").exists());
        assert_eq!(one.rnet("cluster ls").lines().count(), 1);
        refusal(&one, "pgrep -x etcd");
    }
    one.run("aa", "");
}
