//! Hosts that join a cluster share its networks.

use std::time::{Duration, Instant};

use netns_tests::{Daemon, Rack, patient};

/// How long something may take that one host does and another one sees.
const SOON: Duration = Duration::from_secs(10);

/// Waits for something to become true.
fn eventually(what: &str, is_true: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < patient(SOON), "it never came to be: {what}");
        std::thread::yield_now();
    }
}

/// Machines in one cluster, each by the address of a family.
fn clustered(machines: usize, family: usize) -> Rack {
    let mut rack = Rack::bare(machines, 1);
    let url = rack.etcd.url();
    for machine in &mut rack.machines {
        let address = machine.addresses[family].clone();
        machine.start(&["--cluster", &url, "--advertise-addr", &address]);
    }
    eventually("all hosts know each other", || {
        let nodes = |daemon: &Daemon| daemon.rnet("node ls -q").lines().count();
        rack.machines.iter().all(|machine| nodes(machine.daemon()) == machines)
    });
    rack
}

fn has_network(daemon: &Daemon, name: &str) -> bool {
    daemon.rnet("network ls --format {{.Name}}").lines().any(|line| line == name)
}

/// What a container gets for a name, IPv4 first.
fn finds(daemon: &Daemon, from: &str, name: &str) -> bool {
    daemon.fails(&format!("exec {from} nslookup {name} 127.0.0.11")).is_none()
}

#[test]
fn containers_on_two_hosts_reach_each_other_by_address_and_by_name() {
    let rack = clustered(2, 0);
    let [one, two] = [0, 1].map(|machine| rack.machines[machine].daemon());
    one.rnet("network create -d overlay --attachable --ipv6 app");
    eventually("the network is on the other host", || has_network(two, "app"));
    let a = one.run("one", "--network app");
    let b = two.run("two", "--network app");
    let [of_a, of_b] = [one.addresses_of("one"), two.addresses_of("two")];
    assert_eq!((of_a.len(), of_b.len()), (2, 2));
    let _servers = [a.serve(7), b.serve(7)];
    for (host, to) in [(&a, &of_b), (&b, &of_a)] {
        for address in to {
            eventually("one reaches the other", || host.tcp(*address, 7).is_ok());
        }
    }
    eventually("one finds two", || finds(one, "one", "two"));
    eventually("two finds one", || finds(two, "two", "one"));
}
