//! Hosts that join a cluster share its networks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::time::{Duration, Instant};

use netns_tests::{Daemon, Rack, patient};
use serde_json::{Value, json};

/// How long something may take that one host does and another one sees.
const SOON: Duration = Duration::from_secs(10);

/// How long a host that is gone is taken for one that is there, and somewhat longer.
const AWAY: Duration = Duration::from_secs(30);

/// Waits for something to become true.
fn eventually(what: &str, is_true: impl Fn() -> bool) {
    within(SOON, what, is_true);
}

fn within(time: Duration, what: &str, is_true: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < patient(time), "it never came to be: {what}");
        std::thread::yield_now();
    }
}

/// Machines in one cluster, each by its IPv4 address.
fn clustered(machines: usize) -> Rack {
    let mut rack = Rack::bare(machines, 1);
    let url = rack.etcd.url();
    for (number, machine) in rack.machines.iter_mut().enumerate() {
        let (address, node) = (machine.addresses[0].clone(), format!("node=h{}", number + 1));
        machine.start(&["--cluster", &url, "--advertise-addr", &address, "--cluster-opt", &node]);
    }
    eventually("all hosts know each other", || {
        let nodes = |daemon: &Daemon| daemon.rnet("node ls -q").lines().count();
        rack.machines.iter().all(|machine| nodes(machine.daemon()) == machines)
    });
    rack
}

/// Two hosts with a network of both families that both have.
fn two_on_one_network() -> Rack {
    let rack = clustered(2);
    rack.machines[0].daemon().rnet("network create -d overlay --attachable --ipv6 app");
    eventually("the network is on the other host", || {
        has_network(rack.machines[1].daemon(), "app")
    });
    rack
}

fn has_network(daemon: &Daemon, name: &str) -> bool {
    daemon.rnet("network ls --format {{.Name}}").lines().any(|line| line == name)
}

/// What is told of a network at most.
fn inspect(daemon: &Daemon, name: &str) -> Value {
    let shown = daemon.rnet(&format!("network inspect -v {name}"));
    let mut all: Vec<Value> = serde_json::from_str(&shown).unwrap();
    all.pop().unwrap()
}

/// Whether a container finds another one by name.
fn finds(daemon: &Daemon, from: &str, name: &str) -> bool {
    daemon.fails(&format!("exec {from} nslookup {name} 127.0.0.11")).is_none()
}

/// Whether a container reaches all addresses of another one, on which somebody listens.
fn reaches(from: (&Daemon, &str), to: (&Daemon, &str)) -> bool {
    let host = from.0.inside(from.1);
    to.0.addresses_of(to.1).into_iter().all(|address| host.tcp(address, 7).is_ok())
}

#[test]
fn containers_on_two_hosts_reach_each_other_by_address_and_by_name() {
    let rack = two_on_one_network();
    let [h1, h2] = [0, 1].map(|machine| rack.machines[machine].daemon());
    let one = h1.run("one", "--network app --network-alias db");
    let two = h2.run("two", "--network app");
    assert_eq!((h1.addresses_of("one").len(), h2.addresses_of("two").len()), (2, 2));
    let _servers = [one.serve(7), two.serve(7)];
    eventually("one reaches two", || reaches((h1, "one"), (h2, "two")));
    eventually("two reaches one", || reaches((h2, "two"), (h1, "one")));
    eventually("one finds two", || finds(h1, "one", "two"));
    eventually("two finds one", || finds(h2, "two", "one") && finds(h2, "two", "db.app"));

    h1.rnet("rename one uno");
    eventually("two finds one by its new name", || finds(h2, "two", "uno"));
    eventually("and not by the old one", || !finds(h2, "two", "one"));

    let shown = inspect(h1, "app");
    assert_eq!((&shown["Scope"], &shown["Cluster"]["VNI"]), (&json!("swarm"), &json!(4096)));
    assert_eq!(shown["Peers"].as_array().unwrap().len(), 2);
    assert_eq!(shown["Cluster"]["Endpoints"].as_array().unwrap().len(), 2);

    h1.rnet("rm -f uno");
    eventually("two does not find one any more", || !finds(h2, "two", "uno"));
    let error = h1.refusal("network rm app");
    assert!(error.contains("has active endpoints") && error.contains("two"), "{error}");
    h2.rnet("rm -f two");
    eventually("nobody is on it", || h1.fails("network rm app").is_none());
    eventually("it is gone on the other host", || !has_network(h2, "app"));
}

#[test]
fn a_network_is_the_same_on_all_hosts_and_its_name_is_taken_on_all() {
    let rack = clustered(2);
    let [h1, h2] = [0, 1].map(|machine| rack.machines[machine].daemon());
    h1.rnet(
        "network create -d overlay --subnet 10.200.0.0/24 --gateway 10.200.0.9 --label a=b wide",
    );
    eventually("the network is on the other host", || has_network(h2, "wide"));
    let told = |daemon: &Daemon| {
        let shown = inspect(daemon, "wide");
        ["Id", "Driver", "Created", "IPAM", "Labels", "Options"].map(|key| shown[key].clone())
    };
    assert_eq!(told(h1), told(h2));
    assert_eq!(inspect(h2, "wide")["IPAM"]["Config"][0]["Gateway"], "10.200.0.9");

    assert!(h2.refusal("network create wide").contains("already exists"));
    assert!(h2.refusal("network create -d overlay wide").contains("already exists"));
    let error = h2.refusal("network create -d overlay --subnet 10.200.0.0/16 other");
    assert!(error.contains("overlaps"), "{error}");

    h2.rnet("network update --label c=d --label-rm a wide");
    eventually("the other host has the labels, too", || {
        inspect(h1, "wide")["Labels"] == json!({"c": "d"})
    });
    assert_eq!(told(h1), told(h2));
    let listed = h1.rnet("network ls --filter scope=swarm --format {{.Name}}");
    assert_eq!(listed, "wide");
}

#[test]
fn a_wanted_address_is_one_containers_whichever_host_it_is_on() {
    let rack = clustered(2);
    let [h1, h2] = [0, 1].map(|machine| rack.machines[machine].daemon());
    h1.rnet("network create -d overlay --subnet 10.200.0.0/24 --attachable wide");
    eventually("the network is on the other host", || has_network(h2, "wide"));
    h1.run("one", "--network wide --ip 10.200.0.77");
    let refused = h2.refusal("run -d --name two --network wide --ip 10.200.0.77 rnet/toolbox true");
    assert!(refused.contains("10.200.0.77"), "{refused}");
    h1.rnet("stop -t 0 one");
    let refused = h2.refusal("start two");
    assert!(refused.contains("10.200.0.77"), "{refused}");
    h1.rnet("start one");
    assert_eq!(h1.addresses_of("one")[0].to_string(), "10.200.0.77");
    h1.rnet("rm -f one");
    eventually("the address is free on the other host", || h2.fails("start two").is_none());
}

#[test]
fn a_daemon_that_is_killed_leaves_all_as_it_was_and_the_next_one_goes_on() {
    let mut rack = two_on_one_network();
    let two = rack.machines[1].daemon().run("two", "--network app");
    let _server = two.serve(7);
    rack.machines[0].daemon().run("one", "--network app");
    eventually("one reaches two", || {
        let [h1, h2] = [0, 1].map(|machine| rack.machines[machine].daemon());
        reaches((h1, "one"), (h2, "two")) && finds(h1, "one", "two")
    });
    // What was heard is written down by the time that a container takes to start.
    rack.machines[0].daemon().run("other", "--network app");
    rack.machines[0].daemon_mut().kill();
    rack.etcd.kill_all();
    rack.machines[0].daemon_mut().restart();
    let [h1, h2] = [0, 1].map(|machine| rack.machines[machine].daemon());
    assert!(reaches((h1, "one"), (h2, "two")), "a daemon that starts takes nothing away");
    assert!(finds(h1, "one", "two"), "names are known from the last time");
    let _server = h1.run("more", "--network app").serve(7);
    assert!(reaches((h1, "one"), (h1, "more")), "a start needs no store");
    let pending = |daemon: &Daemon| inspect(daemon, "app")["Cluster"]["PendingPublish"].clone();
    assert_ne!(pending(h1), json!([]), "what the others do not know is told");
    eventually("the store that does not answer is told", || {
        h1.output("system check").contains("cluster etcd://")
    });

    rack.etcd.restart_all();
    let [h1, h2] = [0, 1].map(|machine| rack.machines[machine].daemon());
    within(AWAY, "the other host hears of what came meanwhile", || {
        finds(h2, "two", "more") && reaches((h2, "two"), (h1, "more"))
    });
    eventually("nothing is to be told", || pending(h1) == json!([]));
}

#[test]
fn a_cluster_is_joined_and_left_while_the_daemon_runs() {
    let mut rack = Rack::bare(2, 1);
    let url = rack.etcd.url();
    rack.machines.iter_mut().for_each(|machine| machine.start(&[]));
    let [h1, h2] = [0, 1].map(|machine| rack.machines[machine].daemon());
    let error = h1.refusal("network create -d overlay app");
    assert!(error.contains("`rnet cluster join etcd://host:2379`"), "{error}");
    assert!(h1.refusal("node ls").contains("in no cluster"));
    assert_eq!(h1.rnet("cluster ls --format {{.Name}}"), "");

    let nobody = h1.refusal("cluster join etcd://192.0.2.99 --advertise-addr eth0");
    assert!(nobody.contains("cannot join cluster etcd://192.0.2.99:2379/default"), "{nobody}");
    let wrong = h1.refusal(&format!("cluster join {url} --advertise-addr 192.0.2.200"));
    assert!(wrong.contains("it is no address of this host"), "{wrong}");

    let id = h1.rnet(&format!("cluster join {url} --advertise-addr eth0"));
    h2.rnet(&format!("cluster join {url} -o node=second"));
    assert_eq!(h1.rnet("cluster inspect -f {{.NodeID}}"), id);
    assert!(h1.refusal(&format!("cluster join {url}")).contains("already"));
    eventually("the hosts know each other", || h1.rnet("node ls -q").lines().count() == 2);
    let nodes = h1.rnet("node ls --format {{.Name}}|{{.Address}}|{{.State}}");
    assert!(nodes.contains("second|192.0.2.2|ready"), "{nodes}");

    h1.rnet("network create -d overlay --attachable app");
    eventually("the network is on the other host", || has_network(h2, "app"));
    h2.run("two", "--network app");
    let error = h2.refusal("cluster leave");
    assert!(error.contains("two is on network app"), "{error}");
    h2.rnet("rm -f two");
    h2.rnet("cluster leave");
    assert!(!has_network(h2, "app"));
    eventually("the other host sees it leave", || h1.rnet("node ls -q").lines().count() == 1);

    rack.machines[0].daemon_mut().terminate();
    rack.machines[0].daemon_mut().restart();
    let h1 = rack.machines[0].daemon();
    assert_eq!(h1.rnet("cluster inspect -f {{.NodeID}}"), id, "it is the same after a restart");
    assert!(has_network(h1, "app"));
}

#[test]
fn a_host_that_is_away_keeps_what_it_has_until_it_is_removed() {
    let mut rack = two_on_one_network();
    rack.machines[1].daemon().run("two", "--network app --network-alias both");
    rack.machines[0].daemon().run("one", "--network app --network-alias both");
    let h1 = rack.machines[0].daemon();
    eventually("one finds two", || finds(h1, "one", "two"));
    let refused = h1.refusal("node rm h2");
    assert!(refused.contains("not away"), "{refused}");
    rack.machines[1].daemon_mut().kill();
    let h1 = rack.machines[0].daemon();
    within(AWAY, "the host is away", || {
        h1.rnet("node ls --format {{.Name}}|{{.State}}").contains("h2|away")
    });
    assert!(finds(h1, "one", "two"), "nobody else has the name");
    let refused = h1.refusal("network rm app");
    assert!(refused.contains("has active endpoints"), "{refused}");
    h1.rnet("node rm h2");
    eventually("its names are gone", || !finds(h1, "one", "two"));
    assert!(finds(h1, "one", "both"));
}
