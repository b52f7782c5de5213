//! What hurts users of services elsewhere, as far as it can happen to names with several answers and to
//! published ports. The numbers are those of `docs/testing.md`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use netns_tests::lookup::within;
use netns_tests::{Echo, Flow, Host, Rack, patient};

use crate::scene::{PORT, reaches, takes};

/// How soon all machines know who has a name.
const SOON: Duration = Duration::from_secs(2);

/// Those who share a name, with what listens in each.
type Shared = Vec<(usize, String, Echo)>;

/// One more of those who share the name `web`.
fn join(rack: &Rack, all: &mut Shared, machine: usize, name: &str) {
    let words = "--network app --network-alias web";
    let echo = Echo::start(&rack.daemon(machine).run(name, words), PORT);
    all.push((machine, name.to_owned(), echo));
}

/// Where the name leads, by one question for each family.
fn answers(asker: &Host) -> BTreeSet<IpAddr> {
    let ask = |kind| {
        let answer = within(Duration::from_secs(2), asker, "127.0.0.11:53", "web", kind);
        answer.expect("the resolver answers").addresses()
    };
    ["A", "AAAA"].into_iter().flat_map(ask).collect()
}

/// Where it should.
fn addresses(rack: &Rack, all: &Shared) -> BTreeSet<IpAddr> {
    let of = |(machine, name, _): &(usize, String, Echo)| {
        rack.daemon(*machine).addresses(name)["app"].clone()
    };
    all.iter().flat_map(of).collect()
}

#[test]
fn p5_a_container_sees_the_address_of_who_comes_by_a_published_port_of_its_machine() {
    let rack = Rack::cluster(2, 1);
    rack.network(0, "", "app");
    let words = format!("--network app -p 8080:{PORT} -p 8080:{PORT}/udp");
    let _server = rack.daemon(1).run("web", &words).serve(PORT);
    let [client, machine] = [0, 1].map(|number| &rack.machines[number]);
    for (own, there) in client.addresses.iter().zip(&machine.addresses) {
        let (own, there): (IpAddr, IpAddr) = (own.parse().unwrap(), there.parse().unwrap());
        assert_eq!(client.host.tcp(there, 8080).unwrap(), own);
        assert_eq!(client.host.udp(there, 8080).unwrap(), own);
    }
}

#[test]
fn p6_a_name_leads_to_all_who_have_it_and_to_nobody_who_ended_within_two_seconds() {
    let rack = Rack::cluster(3, 1);
    rack.network(0, "", "app");
    let asker = rack.daemon(0).run("asker", "--network app");
    let mut all = Shared::new();
    for round in 0..15 {
        // Two come, one goes: removed, or dead by itself.
        if round % 3 == 2 {
            let (machine, name, _echo) = all.remove(round % all.len());
            let end = if round % 2 == 0 { "rm -f" } else { "kill" };
            rack.daemon(machine).rnet(&format!("{end} {name}"));
        } else {
            join(&rack, &mut all, round % 3, &format!("web{round}"));
        }
        let wanted = addresses(&rack, &all);
        takes("the name leads there", SOON, || answers(&asker) == wanted);
        assert!(wanted.iter().all(|address| reaches(&asker, *address)), "{wanted:?}");
    }
    rack.agrees();
}

#[test]
fn p7_who_is_replaced_behind_a_name_costs_no_connection_to_those_who_stay_nor_the_name_its_answer()
{
    let rack = Rack::cluster(3, 1);
    rack.network(0, "", "app");
    let asker = rack.daemon(0).run("asker", "--network app");
    let mut all = Shared::new();
    join(&rack, &mut all, 1, "web0");
    for round in 1..8 {
        join(&rack, &mut all, 1 + round % 2, &format!("web{round}"));
        let wanted = addresses(&rack, &all);
        takes("the new one is found", SOON, || answers(&asker) == wanted);
        let (old, name, _echo) = all.remove(0);
        let new = addresses(&rack, &all);
        let servers = new.iter().map(|address| SocketAddr::new(*address, PORT));
        let flows: Vec<_> =
            servers.flat_map(|to| [Flow::tcp(&asker, to), Flow::udp(&asker, to)]).collect();
        let mut removal = rack.daemon(old).begin(&format!("rm -f {name}"));
        takes("the old one is found no more", SOON, || {
            let found = answers(&asker);
            assert!(found.is_superset(&new), "{found:?}");
            found == new
        });
        assert!(removal.wait().unwrap().success());
        flows.iter().for_each(Flow::goes_on);
        flows.into_iter().for_each(Flow::end);
    }
    rack.agrees();
}

#[test]
fn p8_ports_of_a_client_that_are_used_again_at_once_cost_a_published_port_no_second() {
    let rack = Rack::cluster(2, 1);
    rack.network(0, "", "app");
    let _server = rack.daemon(1).run("web", &format!("--network app -p 8080:{PORT}")).serve(PORT);
    let [client, machine] = [0, 1].map(|number| &rack.machines[number]);
    // Each of them comes again dozens of times, sooner than anybody forgets it.
    client.host.set_sysctl("net/ipv4/ip_local_port_range", "40000 40007");
    for there in &machine.addresses {
        let server = SocketAddr::new(there.parse().unwrap(), 8080);
        for _ in 0..200 {
            let begun = Instant::now();
            client.host.tcp_to(server, Duration::from_secs(5)).unwrap();
            // Who is not let in at once tries again after a second.
            assert!(begun.elapsed() < patient(Duration::from_millis(900)), "{:?}", begun.elapsed());
        }
    }
}
