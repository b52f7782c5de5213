//! The laboratory of clusters works itself: machines, etcd, and what happens to them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::net::SocketAddr;

use netns_tests::{Host, Rack};

/// Whether one machine reaches a server on another over both families.
fn reaches(from: &Host, to: &[String; 2]) -> bool {
    let to = to.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 7));
    to.into_iter().all(|server| from.tcp(server.ip(), server.port()).is_ok())
}

fn is_cut_off(from: &Host, to: &[String; 2]) -> bool {
    let to = to.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 7));
    to.into_iter().all(|server| from.is_cut_off_from(server))
}

#[test]
fn machines_reach_each_other_and_etcd_unless_the_switch_or_a_cable_is_in_the_way() {
    let rack = Rack::bare(3, 1);
    let [one, two, three] = [0, 1, 2].map(|machine| &rack.machines[machine]);
    let _servers: Vec<_> = rack.machines.iter().map(|machine| machine.host.serve(7)).collect();
    assert!(reaches(&one.host, &two.addresses) && reaches(&two.host, &one.addresses));

    rack.unplug(1);
    assert!(is_cut_off(&one.host, &two.addresses));
    rack.plug(1);
    assert!(reaches(&one.host, &two.addresses));

    rack.cut(0, 1);
    assert!(is_cut_off(&one.host, &two.addresses) && is_cut_off(&two.host, &one.addresses));
    assert!(reaches(&one.host, &three.addresses));
    rack.lan.mend();
    assert!(reaches(&one.host, &two.addresses));

    rack.etcd.ctl_from(&one.host, "put fruit apple");
    assert_eq!(rack.etcd.ctl_from(&two.host, "get fruit"), "fruit\napple");
    rack.cut_from_etcd(2);
    let etcd = &rack.etcd.addresses()[0];
    let client = |address: &str| SocketAddr::new(address.parse().unwrap(), 2379);
    assert!(etcd.iter().all(|address| three.host.is_cut_off_from(client(address))));
    assert_eq!(rack.etcd.ctl_from(&two.host, "get fruit"), "fruit\napple");
}

#[test]
fn three_members_keep_what_they_know_without_their_leader_and_through_a_restart() {
    let mut rack = Rack::bare(1, 3);
    rack.etcd.ctl("put fruit apple");
    let leader = rack.etcd.leader();
    rack.etcd.kill(leader);
    assert_ne!(rack.etcd.leader(), leader);
    rack.etcd.ctl("put fruit pear");
    rack.etcd.restart(leader);
    rack.etcd.kill_all();
    rack.etcd.restart_all();
    assert_eq!(rack.etcd.keys("fruit"), [("fruit".to_owned(), "pear".to_owned())]);

    let paused = rack.etcd.leader();
    rack.etcd.pause(paused);
    assert_ne!(rack.etcd.leader(), paused);
    rack.etcd.resume(paused);
}

#[test]
fn etcd_forgets_and_has_an_old_copy_put_back() {
    let mut rack = Rack::bare(1, 1);
    rack.etcd.ctl("put fruit apple");
    let copy = rack.etcd.snapshot();
    rack.etcd.ctl("put fruit pear");
    rack.etcd.restore(&copy);
    assert_eq!(rack.etcd.keys("fruit"), [("fruit".to_owned(), "apple".to_owned())]);
    rack.etcd.wipe();
    assert_eq!(rack.etcd.keys("fruit"), []);
}

#[test]
fn who_has_no_certificate_or_an_expired_one_does_not_speak_with_etcd() {
    let rack = Rack::bare_with_tls(1, 1);
    rack.etcd.ctl("put fruit apple");
    let host = &rack.machines[0].host;
    assert_eq!(rack.etcd.ctl_from(host, "get fruit"), "fruit\napple");

    let authority = rack.etcd.authority();
    let ca = authority.certificate();
    let place = &rack.etcd.endpoints()[0];
    let ask = |more: &str| {
        let options = format!("--endpoints {place} --cacert {} --command-timeout 2s", ca.display());
        host.complaint(&format!("env ETCDCTL_API=3 etcdctl {options} {more}get fruit"))
    };
    assert!(ask("").contains("deadline exceeded"), "{}", ask(""));
    let late = authority.certify_too_late("late", &[]);
    let own = format!("--cert {} --key {} ", late.certificate.display(), late.key.display());
    let complaint = ask(&own);
    assert!(complaint.contains("deadline exceeded"), "{complaint}");
    assert!(rack.etcd.log().contains("certificate has expired"), "{}", rack.etcd.log());
}
