//! Names: what containers call each other, and what they learn of the outside.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use netns_tests::lookup::{Answer, Upstream, addresses, ask, over_udp, reverse, within};
use netns_tests::{Daemon, Lab, patient, wait_until};

const DUAL: &str = "network create --ipv6 --subnet 10.7.0.0/24 --subnet fd00:7::/64";

fn unknown(answer: &Answer) -> bool {
    answer.code == "Non-Existent Domain"
}

#[test]
fn containers_find_each_other_by_all_of_their_names_on_every_network() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(&format!("{DUAL} n1"));
    for network in ["bridge", "n1"] {
        let asker = daemon.run(&format!("asker-{network}"), &format!("--network {network}"));
        let name = format!("web-{network}");
        let alias = if network == "bridge" { "" } else { " --network-alias www" };
        let words = format!("--network {network} --hostname box-{network}{alias}");
        daemon.run(&name, &words);
        let wanted = daemon.addresses(&name)[network].clone();
        assert_eq!(wanted.len(), 2, "{wanted:?}");
        let id = daemon.rnet(&format!("inspect -f {{{{.Id}}}} {name}"));
        let box_name = format!("box-{network}");
        let full = format!("{name}.{network}");
        let mut names = vec![name.as_str(), &id[..12], &box_name, &full];
        if network != "bridge" {
            names.extend(["www", "www.n1"]);
        }
        for known in names {
            assert_eq!(addresses(&asker, known), wanted, "{known}");
            assert_eq!(addresses(&asker, &known.to_uppercase()), wanted, "{known}");
        }
        for address in wanted {
            assert_eq!(ask(&asker, &reverse(address), "PTR").records, [format!("{full}.")]);
        }
    }
}

#[test]
fn a_container_that_was_started_without_a_network_finds_names_once_it_has_one() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(&format!("{DUAL} n1"));
    daemon.run("web", "--network n1");
    let late = daemon.run("late", "--network none");
    daemon.rnet("network connect n1 late");
    assert_eq!(addresses(&late, "web"), daemon.addresses("web")["n1"]);
    assert_eq!(addresses(&late, "late"), daemon.addresses("late")["n1"]);
    let file = daemon.rnet("exec late cat /etc/resolv.conf");
    assert!(file.contains("nameserver 127.0.0.11"), "{file}");
    let resolver = daemon.resolver().unwrap();
    daemon.signal(&resolver, "-KILL");
    let wanted = &daemon.addresses("web")["n1"][..1];
    wait_until("the next resolver answers", || {
        let answer = over_udp(&late, "127.0.0.11:53", "web", "A");
        answer.is_some_and(|answer| answer.addresses() == wanted)
    });
    daemon.kill();
    daemon.restart();
    assert_eq!(addresses(&late, "web"), daemon.addresses("web")["n1"]);
}

#[test]
fn ports_are_found_by_srv_and_their_target_has_both_families() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(&format!("{DUAL} n1"));
    let asker = daemon.run("asker", "--network n1");
    daemon.run("web", "--network n1 --expose 80 --expose 5353/udp -p 8080:8000");
    for (name, port) in [
        ("_80._tcp.web", "80"),
        ("_http._tcp.web", "80"),
        ("_8000._tcp.web", "8000"),
        ("_5353._udp.web.n1", "5353"),
    ] {
        let [record] = &ask(&asker, name, "SRV").records[..] else { panic!("{name}: not one") };
        let words: Vec<_> = record.split(' ').collect();
        assert_eq!(words[2], port, "{record}");
        let target = addresses(&asker, words[3].trim_end_matches('.'));
        assert_eq!(target, daemon.addresses("web")["n1"]);
    }
    assert!(unknown(&ask(&asker, "_81._tcp.web", "SRV")));
}

#[test]
fn a_family_that_a_container_has_not_is_no_data_and_never_asked_for_outside() {
    let lab = Lab::new();
    let upstream = Upstream::start(&lab.client, Some(["203.0.113.7", "2001:db8:f::7"]));
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.set_resolvers(&[Lab::CLIENT[0]]);
    daemon.rnet("network create --subnet 10.4.0.0/24 v4");
    daemon.rnet("network create --ipv6 --ipv4=false --subnet fd00:6::/64 v6");
    for (network, has, lacks) in [("v4", "A", "AAAA"), ("v6", "AAAA", "A")] {
        let asker = daemon.run(&format!("asker{network}"), &format!("--network {network}"));
        let name = format!("web{network}");
        daemon.run(&name, &format!("--network {network}"));
        assert_eq!(ask(&asker, &name, has).addresses(), daemon.addresses(&name)[network]);
        let answer = ask(&asker, &name, lacks);
        assert_eq!(answer.code, "No Error");
        assert_eq!((answer.records.len(), answer.authority), (0, vec!["SOA".to_owned()]));
    }
    assert_eq!(upstream.asked(), []);
}

#[test]
fn names_of_a_network_are_not_seen_from_another() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 --internal n1");
    daemon.rnet("network create --ipv6 --internal n2");
    let (one, two) = (daemon.run("one", "--network n1"), daemon.run("two", "--network n2"));
    let [of_one, of_two] = [("one", "n1"), ("two", "n2")]
        .map(|(name, network)| daemon.addresses(name)[network].clone());
    for (asker, own, other) in [(&one, &of_one, "two"), (&two, &of_two, "one")] {
        assert_eq!(addresses(asker, if other == "two" { "one" } else { "two" }), *own);
        for kind in ["A", "AAAA"] {
            assert!(unknown(&ask(asker, other, kind)), "{other}");
            let qualified = format!("{other}.{}", if other == "two" { "n2" } else { "n1" });
            assert!(unknown(&ask(asker, &qualified, kind)), "{qualified}");
        }
    }
    for address in of_two {
        assert_eq!(ask(&one, &reverse(address), "PTR").records, [""; 0]);
    }
    daemon.rnet("network connect --alias uno n2 one");
    let joined = daemon.addresses("one")["n2"].clone();
    assert_eq!(addresses(&two, "one"), joined);
    assert_eq!(addresses(&two, "uno"), joined);
    daemon.rnet("network disconnect n2 one");
    assert!(unknown(&ask(&two, "one", "A")) && unknown(&ask(&two, "uno", "AAAA")));
}

#[test]
fn a_link_is_answered_while_the_other_is_on_its_network() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    for network in ["n1", "n2"] {
        daemon.rnet(&format!("network create --ipv6 --internal {network}"));
    }
    daemon.run("db", "--network n1");
    let asker = daemon.run("asker", "--network n1 --link db:/sql");
    daemon.rnet("network connect n2 db");
    daemon.rnet("network connect --link db:other n2 asker");
    let at = daemon.addresses("db");
    assert_eq!(addresses(&asker, "sql"), at["n1"]);
    assert_eq!(addresses(&asker, "other"), at["n2"]);
    daemon.rnet("network disconnect n1 db");
    assert!(unknown(&ask(&asker, "sql", "A")), "it leads to where nobody is");
    assert_eq!(addresses(&asker, "other"), at["n2"]);
    assert_eq!(addresses(&asker, "db"), at["n2"]);
    daemon.rnet("network connect n1 db");
    assert_eq!(addresses(&asker, "sql"), daemon.addresses("db")["n1"]);
}

#[test]
fn unknown_names_are_asked_for_outside_by_either_family() {
    let lab = Lab::new();
    let upstream = Upstream::start(&lab.client, Some(["203.0.113.7", "2001:db8:f::7"]));
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(&format!("{DUAL} n1"));
    let asker = daemon.run("asker", "--network n1");
    let wanted: Vec<IpAddr> = Lab::both(["203.0.113.7", "2001:db8:f::7"]).into();
    for (number, resolver) in Lab::CLIENT.into_iter().enumerate() {
        daemon.set_resolvers(&[resolver]);
        let before = upstream.asked().len();
        wait_until("the new resolvers are asked", || {
            let name = format!("probe{number}-{}.example", upstream.asked().len());
            let _ = over_udp(&asker, "127.0.0.11:53", &name, "A");
            upstream.asked().iter().skip(before).any(|(from, _)| from.is_ipv4() == (number == 0))
        });
        let name = format!("host{number}.example");
        assert_eq!(addresses(&asker, &name), wanted, "{resolver}");
        let from = Lab::HOST[number].parse::<IpAddr>().unwrap();
        assert!(upstream.asked().contains(&(from, name)), "{:?}", upstream.asked());
    }
}

#[test]
fn a_silent_resolver_does_not_keep_an_answer_back() {
    let lab = Lab::new();
    let silent = Upstream::start(&lab.client, None);
    let upstream = Upstream::start(&lab.other, Some(["203.0.113.7", "2001:db8:f::7"]));
    let daemon = Daemon::start(&lab.host, &[]);
    let asker = daemon.run("asker", "");
    for (first, second) in Lab::CLIENT.into_iter().zip(Lab::OTHER) {
        daemon.set_resolvers(&[first, second]);
        let family = first.parse::<IpAddr>().unwrap().is_ipv4();
        wait_until("both resolvers are asked", || {
            let name = format!("name{}.example", upstream.asked().len());
            let answer = over_udp(&asker, "127.0.0.11:53", &name, "A");
            let heard = |by: &Upstream| {
                by.asked().iter().any(|(from, asked)| from.is_ipv4() == family && *asked == name)
            };
            answer.is_some_and(|answer| answer.records == ["203.0.113.7"])
                && heard(&silent)
                && heard(&upstream)
        });
    }
}

#[test]
fn a_daemon_in_a_container_asks_the_resolver_of_its_own_engine() {
    let lab = Lab::new();
    // As another engine has it in the container that is this host.
    let engine = Upstream::start_at(&lab.host, "127.0.0.11", Some(["203.0.113.7", "::7"]));
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.set_resolvers(&["127.0.0.11"]);
    let asker = daemon.run("asker", "");
    wait_until("the new resolver is asked", || {
        let answer = over_udp(&asker, "127.0.0.11:53", "public.example", "A");
        answer.is_some_and(|answer| answer.records == ["203.0.113.7"])
    });
    assert_eq!(addresses(&asker, "asker"), daemon.addresses("asker")["bridge"]);
    assert!(engine.asked().iter().all(|(_, name)| name == "public.example"));
}

#[test]
fn the_servers_of_dns_are_those_that_are_asked_on_every_network_and_the_file_says_so() {
    let lab = Lab::new();
    let given = Upstream::start(&lab.client, Some(["203.0.113.7", "2001:db8:f::7"]));
    let hosts = Upstream::start(&lab.other, Some(["203.0.113.8", "2001:db8:f::8"]));
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.set_resolvers(&[Lab::OTHER[0]]);
    daemon.rnet(&format!("{DUAL} n1"));
    for network in ["bridge", "n1"] {
        let run = |name: &str, words: &str| {
            let name = format!("{name}-{network}");
            let words = format!("--network {network} {words}");
            let host = daemon.run(&name, &words);
            (host, daemon.rnet(&format!("exec {name} cat /etc/resolv.conf")))
        };
        let (own, file) = run("own", &format!("--dns {}", Lab::CLIENT[0]));
        assert!(file.starts_with("nameserver 127.0.0.11\n"), "{file}");
        assert!(file.contains("\n# ExtServers: [192.0.2.2]\n# Overrides: [nameservers]"), "{file}");
        assert_eq!(ask(&own, &format!("own.{network}.example"), "A").records, ["203.0.113.7"]);
        let (without, file) = run("without", "");
        assert!(file.contains("\n# ExtServers: [host(198.51.100.2)]\n# Overrides: []"), "{file}");
        wait_until("the host's new resolver is asked", || {
            let name = format!("without.{network}.example");
            let answer = over_udp(&without, "127.0.0.11:53", &name, "A");
            answer.is_some_and(|answer| answer.records == ["203.0.113.8"])
        });
    }
    assert!(given.asked().iter().all(|(_, name)| name.starts_with("own.")));
    assert!(hosts.asked().iter().all(|(_, name)| name.starts_with("without.")));
}

#[test]
fn cve_2024_29018_nothing_is_asked_outside_for_who_has_internal_networks_only() {
    let lab = Lab::new();
    let upstream = Upstream::start(&lab.client, Some(["203.0.113.7", "2001:db8:f::7"]));
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.set_resolvers(&Lab::CLIENT);
    daemon.rnet("network create --ipv6 --internal inner");
    daemon.rnet("network create --ipv6 outer");
    let inner = daemon.run("inner", "--network inner");
    let own = format!("--network inner --dns {} --dns {}", Lab::CLIENT[0], Lab::CLIENT[1]);
    let stubborn = daemon.run("stubborn", &own);
    for asker in [&inner, &stubborn] {
        assert_eq!(addresses(asker, "inner"), daemon.addresses("inner")["inner"]);
        for kind in ["A", "AAAA", "TXT"] {
            let answer = ask(asker, "secret.example", kind);
            assert_eq!(answer.records, [""; 0], "{answer:?}");
        }
        for resolver in ["192.0.2.2:53", "[2001:db8:1::2]:53"] {
            let udp = asker.run(|| UdpSocket::bind("[::]:0")).unwrap();
            // No route is as good as no answer.
            let to: SocketAddr = resolver.parse().unwrap();
            assert!(asker.is_cut_off_from(to) && udp.send_to(b"?", to).is_err(), "{resolver}");
        }
    }
    assert_eq!(upstream.asked(), []);
    daemon.rnet("network connect outer inner");
    assert_eq!(ask(&inner, "public.example", "A").records, ["203.0.113.7"]);
    assert!(upstream.asked().iter().all(|(_, name)| name == "public.example"));
}

#[test]
fn a_container_may_serve_names_itself() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(&format!("{DUAL} n1"));
    let server = daemon.run("server", "--network n1");
    let asker = daemon.run("asker", "--network n1");
    let _names = Upstream::start(&server, Some(["203.0.113.53", "2001:db8:53::53"]));
    let own = daemon.addresses("server")["n1"].clone();
    for address in &own {
        let to = SocketAddr::new(*address, 53).to_string();
        for host in [&asker, &server, &lab.host] {
            let answer = over_udp(host, &to, "served.example", "A").unwrap();
            assert_eq!(answer.records, ["203.0.113.53"], "{to}");
        }
    }
    for host in [&server, &asker] {
        assert_eq!(addresses(host, "server"), own);
    }
    let localhost = over_udp(&server, "127.0.0.1:53", "served.example", "AAAA").unwrap();
    assert_eq!(localhost.records, ["2001:db8:53::53"]);
}

#[test]
fn a_peer_that_just_started_is_known_to_the_first_instruction() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(&format!("{DUAL} n1"));
    let asker = daemon.run("asker", "--network n1");
    for number in 0..10 {
        let name = format!("peer{number}");
        daemon.rnet(&format!("run -d --name {name} --network n1 rnet/toolbox sleep 1000"));
        let first = ask(&asker, &name, "AAAA").addresses();
        let looked_up = format!("run --rm --network n1 rnet/toolbox lookup -t A {name}");
        let inside = daemon.rnet(&looked_up);
        let own = daemon.addresses(&name)["n1"].clone();
        assert_eq!(first, own[1..]);
        assert!(inside.contains(&own[0].to_string()), "{inside}");
        daemon.rnet(&format!("rm -f {name}"));
        assert_ne!(ask(&asker, &name, "A").code, "No Error", "{name} is gone");
    }
}

#[test]
fn names_answer_again_when_the_resolver_was_killed() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(&format!("{DUAL} n1"));
    let asker = daemon.run("asker", "--network n1");
    let wanted = addresses(&asker, "asker");
    assert_eq!(wanted, daemon.addresses("asker")["n1"]);
    let mut gaps = Vec::new();
    for _ in 0..5 {
        let first = daemon.resolver().unwrap();
        daemon.signal(&first, "-KILL");
        let killed = Instant::now();
        wait_until("names answer again", || {
            // What the dying process has in its queue is lost, and asked for again.
            let again = Duration::from_millis(10);
            let answer = within(again, &asker, "127.0.0.11:53", "asker", "A");
            answer.is_some_and(|answer| answer.addresses() == wanted[..1])
        });
        gaps.push(killed.elapsed());
        assert_ne!(daemon.resolver().unwrap(), first);
        assert_eq!(addresses(&asker, "asker"), wanted);
    }
    // On a busy machine one of them may take longer, but hardly all.
    assert!(gaps.iter().min().unwrap() < &patient(Duration::from_millis(200)), "{gaps:?}");
}

#[test]
fn a_container_of_the_host_is_found_where_the_host_is() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(&format!("{DUAL} n1"));
    let asker = daemon.run("asker", "--network n1");
    let web = daemon.run("web", "--network host");
    let _server = web.serve(7);
    let at = |gateways: [&str; 2]| Lab::both(gateways).to_vec();
    assert_eq!(addresses(&asker, "web"), at(["10.7.0.1", "fd00:7::1"]));
    for address in addresses(&asker, "web.n1") {
        assert!(asker.tcp(address, 7).is_ok(), "{address}");
    }
    daemon.rnet("network create --ipv6 --subnet 10.8.0.0/24 --subnet fd00:8::/64 later");
    let later = daemon.run("later", "--network later");
    assert_eq!(addresses(&later, "web"), at(["10.8.0.1", "fd00:8::1"]));
    daemon.kill();
    daemon.signal(&daemon.resolver().unwrap(), "-KILL");
    daemon.restart();
    assert_eq!(addresses(&asker, "web"), at(["10.7.0.1", "fd00:7::1"]));
    daemon.rnet("rename web site");
    assert_eq!(addresses(&later, "site"), at(["10.8.0.1", "fd00:8::1"]));
    // It is asked for outside, where nobody answers.
    assert_eq!(ask(&later, "web", "A").records.len(), 0);
    daemon.rnet("stop -t 0 site");
    assert_eq!(ask(&asker, "site", "A").records.len(), 0);
    daemon.rnet("start site");
    assert_eq!(addresses(&asker, "site"), at(["10.7.0.1", "fd00:7::1"]));
}
