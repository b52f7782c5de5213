//! What fails, and what that does to containers: nothing that it need not do.

use std::net::IpAddr;
use std::time::Duration;

use netns_tests::authority::{Authority, Certificate};
use netns_tests::{Echo, Flow, Rack};

use crate::scene::{PORT, Talk, knows, outlast, reaches, takes};

/// How long a machine counts as live that says nothing.
const LEASE: Duration = Duration::from_secs(15);

#[test]
fn etcd_away_for_longer_than_a_lease_costs_no_packet_and_eight_containers_start_on_each_machine() {
    etcd_is_away(LEASE + Duration::from_secs(5));
}

#[test]
#[ignore = "ten minutes"]
fn etcd_away_for_ten_minutes_costs_no_packet_and_eight_containers_start_on_each_machine() {
    etcd_is_away(Duration::from_mins(10));
}

fn etcd_is_away(time: Duration) {
    let mut rack = Rack::cluster(2, 1);
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    let (flows, before) = (talk.flows(), rack.records());
    rack.etcd.kill_all();
    for number in 0..8 {
        for machine in 0..2 {
            let name = format!("new{machine}{number}");
            let new = rack.daemon(machine).run(&name, "--network app");
            // Who was there finds who is new, on the same machine: nobody else has heard of him.
            let own = rack.daemon(machine).addresses(&name)["app"].clone();
            let (neighbour, server) = ([&talk.asker, &talk.web][machine], Echo::start(&new, PORT));
            assert!(knows(neighbour, &name, &own), "{name}");
            assert!(own.iter().all(|address| reaches(neighbour, *address)), "{name}");
            assert!(knows(&new, "web", &talk.addresses), "{name}");
            drop(server);
        }
    }
    outlast(&flows, time);
    rack.etcd.restart_all();
    rack.agrees_within(Duration::from_secs(15));
    flows.into_iter().for_each(Flow::end);
    let after = rack.records();
    for (key, record) in before.endpoints {
        assert_eq!(after.endpoints.get(&key), Some(&record), "{key:?}");
    }
}

#[test]
fn a_leader_that_is_killed_is_missed_by_nobody() {
    let mut rack = Rack::cluster(2, 3);
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    let flows = talk.flows();
    let leader = rack.etcd.leader();
    rack.etcd.kill(leader);
    rack.daemon(1).run("after", "--network app");
    rack.agrees_within(Duration::from_secs(15));
    rack.network(1, "", "second");
    rack.etcd.restart(leader);
    flows.into_iter().for_each(Flow::end);
    rack.agrees();
}

#[test]
fn a_daemon_that_is_killed_takes_nothing_away_and_the_next_one_makes_nothing_anew() {
    let mut rack = Rack::cluster(3, 1);
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    rack.daemon(2).run("other", "--network app --network-alias web");
    rack.agrees();
    let other = rack.daemon(2).addresses("other")["app"].clone();
    let flows = talk.flows();
    let tunnel = format!("vx-{}", &rack.records().network("app")[..12]);
    let link = |rack: &Rack| rack.machines[1].host.link(&tunnel).unwrap().index;
    let before = link(&rack);

    rack.machines[1].daemon_mut().kill();
    let gone = LEASE + Duration::from_secs(10);
    takes("its name is answered by the other alone", gone, || knows(&talk.asker, "web", &other));
    assert!(talk.addresses.iter().all(|address| reaches(&talk.asker, *address)));
    rack.daemon(2).rnet("rm -f other");
    let alone = || knows(&talk.asker, "web", &talk.addresses);
    takes("nobody else is left, and it is answered", Duration::from_secs(3), alone);

    rack.machines[1].daemon_mut().restart();
    rack.agrees();
    flows.into_iter().for_each(Flow::end);
    assert_eq!(link(&rack), before, "the tunnel is the same");
}

#[test]
fn p26_a_node_that_is_removed_goes_with_its_records_and_its_addresses_are_free() {
    let mut rack = Rack::cluster(3, 1);
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    let web: Vec<IpAddr> = talk.addresses.clone();
    let node = rack.node(1);
    rack.unplug(1);
    rack.machines[1].loses_daemon();
    takes("it is not live", LEASE + Duration::from_secs(10), || {
        !rack.records().live.contains(&node)
    });
    assert!(rack.records().names(rack.records().network("app")).contains("web"));
    rack.daemon(0).rnet(&format!("node rm --force {node}"));
    let words = format!("--network app --ip {} --ip6 {}", web[0], web[1]);
    rack.daemon(2).run("heir", &words);
    rack.agrees();
    assert!(!rack.records().nodes.contains_key(&node));
    takes("the name is gone", Duration::from_secs(2), || knows(&talk.asker, "web", &[]));
}

#[test]
fn machines_that_do_not_reach_each_other_forget_nothing() {
    let rack = Rack::cluster(3, 1);
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    rack.cut(0, 1);
    takes("they are cut off", Duration::from_secs(3), || !reaches(&talk.asker, talk.addresses[0]));
    rack.daemon(2).run("meanwhile", "--network app");
    let address = rack.daemon(2).addresses("meanwhile")["app"].clone();
    let known =
        || knows(&talk.asker, "meanwhile", &address) && knows(&talk.web, "meanwhile", &address);
    takes("what is new is known on both sides", Duration::from_secs(3), known);
    assert!(knows(&talk.asker, "web", &talk.addresses));
    rack.lan.mend();
    takes("they talk again", Duration::from_secs(3), || talk.works());
    rack.agrees();
}

#[test]
fn an_emptied_etcd_harms_no_container_and_is_filled_again_when_somebody_says_so() {
    let mut rack = Rack::cluster(2, 1);
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    let flows = talk.flows();
    rack.etcd.wipe();
    let told = || rack.daemon(0).output("cluster inspect").contains("adopt");
    takes("it is told what to do", Duration::from_secs(15), told);
    outlast(&flows, Duration::from_secs(2));
    takes("they talk", Duration::from_secs(2), || talk.works());
    // The other one sees that, and tells what it knows.
    rack.daemon(0).rnet("cluster adopt");
    rack.agrees();
    flows.into_iter().for_each(Flow::end);
}

#[test]
fn an_old_copy_of_etcd_harms_no_container_and_is_brought_up_to_date() {
    let mut rack = Rack::cluster(2, 1);
    rack.network(0, "", "app");
    rack.daemon(0).run("old", "--network app");
    rack.agrees();
    let copy = rack.etcd.snapshot();
    rack.daemon(0).rnet("rm -f old");
    let talk = Talk::new(&rack, "app");
    let flows = talk.flows();
    rack.etcd.restore(&copy);
    let told = |machine: usize| rack.daemon(machine).output("cluster inspect").contains("adopt");
    takes("it is told what to do", Duration::from_secs(15), || told(0) && told(1));
    outlast(&flows, Duration::from_secs(2));
    takes("they talk", Duration::from_secs(2), || talk.works());
    // The other one sees that, and tells what it knows.
    rack.daemon(0).rnet("cluster adopt");
    rack.agrees();
    flows.into_iter().for_each(Flow::end);
}

#[test]
fn a_machine_with_the_identity_of_another_is_refused_while_that_is_there() {
    let mut rack = Rack::bare(2, 1);
    let url = rack.etcd.url();
    let [first, second] = [0, 1].map(|machine: usize| rack.machines[machine].addresses[0].clone());
    rack.machines[0].start(&["--cluster", &url, "--advertise-addr", &first]);
    rack.agrees();
    let (from, copy) = (rack.daemon(0).file("data"), rack.daemon(0).file("copy"));
    rack.machines[0].daemon_mut().kill();
    let copied = std::process::Command::new("cp").arg("-a").args([&from, &copy]).status();
    assert!(copied.unwrap().success());
    rack.machines[0].daemon_mut().restart();
    rack.agrees();
    let before = rack.records();
    let copy = copy.to_string_lossy().into_owned();
    let flags = ["--data-root", &copy, "--cluster", &url, "--advertise-addr", &second];
    rack.machines[1].start(&flags);
    let told = || rack.daemon(1).output("cluster inspect");
    takes("it is told", LEASE * 2, || told().contains("has the id"));
    assert_eq!(rack.records().nodes, before.nodes, "a twin changes nothing");
    // Not even where it is taken away with all that it has.
    rack.machines[1].loses_daemon();
    assert_eq!(rack.records().nodes, before.nodes, "a twin that goes changes nothing");
    rack.agrees();
}

#[test]
fn who_has_no_certificate_an_expired_one_or_a_strangers_is_in_no_cluster() {
    let mut rack = Rack::bare_with_tls(2, 1);
    let (url, authority) = (rack.etcd.url(), rack.etcd.authority().clone());
    let stranger = Authority::new(&rack.etcd.file("stranger"));
    let of = |own: &Certificate| {
        let [certificate, key] = [&own.certificate, &own.key].map(|file| file.display());
        format!("--cluster-opt kv.certfile={certificate} --cluster-opt kv.keyfile={key}")
    };
    let trust = format!("--cluster-opt kv.cacertfile={}", authority.certificate().display());
    let good = of(&authority.certify("good", &[]));
    let bad = [
        String::new(),
        of(&authority.certify_too_late("late", &[])),
        of(&stranger.certify("strange", &[])),
    ];
    let here = rack.machines[0].addresses[0].clone();
    let words = format!("--cluster {url} --advertise-addr {here} {trust} {good}");
    rack.machines[0].start(&words.split(' ').collect::<Vec<_>>());
    rack.network(0, "", "app");
    rack.machines[1].start(&[]);
    let before = rack.records();
    for own in bad {
        let there = &rack.machines[1].addresses[0];
        let words = format!("cluster join --advertise-addr {there} {trust} {own} {url}");
        let words = words.replace("--cluster-opt", "--opt").replace("  ", " ");
        let refusal = rack.daemon(1).refusal(&words);
        assert!(refusal.contains("refuses this host"), "{refusal}");
    }
    let after = rack.records();
    assert_eq!((&after.nodes, &after.networks), (&before.nodes, &before.networks));
    assert!(rack.daemon(1).rnet("network ls -q --filter driver=overlay").is_empty());
}

#[test]
fn p15_a_machine_that_reboots_without_etcd_serves_what_it_knows_and_withdraws_what_it_lost() {
    let mut rack = Rack::cluster(2, 1);
    rack.network(0, "", "app");
    // First, so that what is written of it is on the disk when the power goes.
    rack.daemon(1).run("again", "--network app --restart always");
    let talk = Talk::new(&rack, "app");
    let epoch = |rack: &Rack| rack.records().nodes[&rack.node(1)]["epoch"].as_u64().unwrap();
    let before = epoch(&rack);
    rack.etcd.kill_all();
    rack.machines[1].reboot();
    takes("it is started again", Duration::from_secs(10), || {
        let state = rack.daemon(1).rnet("inspect -f {{.State.Running}}/{{.State.Pid}} again");
        let pid = state.strip_prefix("true/").filter(|pid| *pid != "0");
        pid.is_some_and(|pid| rack.daemon(1).root(&format!("proc/{pid}/ns/net")).exists())
    });
    let again = rack.daemon(1).inside("again");
    let asker = rack.daemon(0).addresses("asker")["app"].clone();
    assert!(knows(&again, "asker", &asker));
    rack.etcd.restart_all();
    rack.agrees_within(Duration::from_secs(15));
    assert_eq!(epoch(&rack), before + 1);
    let names = rack.records().names(rack.records().network("app"));
    assert_eq!(names, ["again", "asker"].map(str::to_owned).into());
    takes("what is gone has no name", Duration::from_secs(2), || knows(&talk.asker, "web", &[]));
}
