//! Networks of a cluster: what others give and tell.

use super::claims::{begin_with, made};
use super::*;
use crate::driver::{Node, Peer, PeersChange};
use crate::network::Tunnel;
use crate::{Element, Lead, Mac, Ns, WireGuard};

const LOCAL: &str = "192.0.2.1";

fn app(engine: &mut Engine) -> Arc<Network> {
    let local = LOCAL.parse().unwrap();
    let tunnel = Tunnel { vni: 4096, port: 4789, local, encrypted: false, mtu: None };
    let tunnel = Some(tunnel);
    let spec =
        NetworkSpec { tunnel, ipv6: Some(true), ..network("app", &["10.1.0.0/24", "fd01::/64"]) };
    engine.create(&spec).unwrap()
}

fn peer(digit: u8, address: &str, node: u32) -> Peer {
    Peer {
        endpoint: EndpointId::from_random([digit; 32]),
        mac: Mac::from([2, 0, 0, 0, 0, digit]),
        addresses: vec![address.parse().unwrap()],
        node,
    }
}

fn nodes(numbers: &[u32]) -> Vec<Node> {
    let address = |number: u32| IpAddr::from([192, 0, 2, u8::try_from(number).unwrap()]);
    let node = |number| Node { number, address: address(number), wireguard: None };
    numbers.iter().map(|number| node(*number)).collect()
}

fn put(peers: &[Peer]) -> PeersChange {
    PeersChange { put: peers.to_vec(), gone: Vec::new() }
}

fn gone(peers: &[&Peer]) -> PeersChange {
    let gone = peers.iter().map(|peer| peer.endpoint.clone()).collect();
    PeersChange { put: Vec::new(), gone }
}

/// What is planned, as `what value`.
fn spelled_out(state: &State) -> Vec<String> {
    let spell = |(key, value): (&Key, &Value)| match (key, value) {
        (Key::Sysctl { path, .. }, Value::Text(text)) => format!("{path} {text}"),
        _ => format!("{key}{value}"),
    };
    state.iter().map(spell).collect()
}

#[test]
fn addresses_of_a_cluster_are_asked_for_together_and_the_hardware_address_follows_from_none() {
    let mut engine = Engine::new();
    let app = app(&mut engine);
    let wants = |engine: &mut Engine, spec: &SandboxSpec, claims: &Claims| {
        let Decision::Unclaimed(wanted) = begin_with(engine, spec, claims).unwrap() else {
            panic!("nobody gave an address");
        };
        let [wanted] = &wanted.addresses[..] else { panic!("{wanted:?}") };
        (wanted.ipv4, wanted.ipv6, wanted.wanted.clone())
    };
    let mut spec = sandbox("a", &[&app]);
    assert_eq!(wants(&mut engine, &spec, &Claims::none()), (true, true, vec![]));
    spec.joins[0].addresses = vec!["fd01::7".parse().unwrap()];
    let asked = spec.joins[0].addresses.clone();
    assert_eq!(wants(&mut engine, &spec, &Claims::none()), (true, true, asked.clone()));
    let mut claims = Claims::default();
    let lent = |address: &str| Lent { address: address.parse().unwrap(), gateway: None, mac: None };
    claims.add_address(&app.id, lent("10.1.0.9/24"));
    assert_eq!(wants(&mut engine, &spec, &claims), (false, true, asked));
    claims.add_address(&app.id, lent("fd01::7/64"));
    let (a, transaction) = made(begin_with(&mut engine, &spec, &claims).unwrap());
    engine.commit(transaction);
    for _ in 0..2 {
        let endpoint = &engine.endpoints(&a)[0];
        assert_eq!(endpoint.mac, Mac::derived(&[endpoint.id.as_str()]));
        assert_eq!(engine.addresses(&a), "10.1.0.9/24,fd01::7/64@eth0");
        engine.restart();
    }
    // Its owner gets another one, with the same addresses.
    let transaction = engine.controller.begin_remove_sandbox(&a, engine.now).unwrap();
    let before = engine.endpoints(&a)[0].mac;
    engine.commit(transaction);
    let (a, transaction) = made(begin_with(&mut engine, &spec, &claims).unwrap());
    engine.commit(transaction);
    assert_ne!(engine.endpoints(&a)[0].mac, before);
}

#[test]
fn what_is_told_changes_what_it_is_about_and_nothing_else() {
    let mut engine = Engine::new();
    let app = app(&mut engine);
    engine.controller.tell_nodes(&nodes(&[2, 3]));
    let (one, two) = (peer(1, "10.1.0.5", 2), peer(2, "10.1.0.6", 3));
    let tell = |engine: &mut Engine, change| {
        let (before, after) = engine.controller.tell_peers(&app.id, change).unwrap();
        (spelled_out(&before), spelled_out(&after))
    };
    let of_one = ["network/app/02:00:00:00:00:01 at 2", "network/app/10.1.0.5 at 2"];
    let (before, after) = tell(&mut engine, put(&[one.clone(), two.clone()]));
    assert_eq!((before.len(), after.len()), (0, 4));
    let moved = Peer { node: 3, ..one.clone() };
    let (before, after) = tell(&mut engine, put(std::slice::from_ref(&moved)));
    assert_eq!(before, of_one);
    assert_eq!(after, of_one.map(|line| line.replace("at 2", "at 3")));
    // That of the network itself is one more.
    assert_eq!(engine.controller.desired_of_network(&app.id).len(), 5);
    // All there are, told once more, is no change.
    let all = vec![two.clone(), moved];
    let (before, after) = engine.controller.tell_all_peers(&app.id, all).unwrap();
    assert_eq!((before.len(), after.len()), (0, 0));
    let (_, after) = engine.controller.tell_all_peers(&app.id, vec![two]).unwrap();
    assert_eq!((after.len(), engine.controller.desired_of_network(&app.id).len()), (0, 3));
}

#[test]
fn an_address_that_two_are_told_to_have_is_the_ones_that_was_told_last() {
    let mut engine = Engine::new();
    let app = app(&mut engine);
    engine.controller.tell_nodes(&nodes(&[2, 3]));
    let (old, new) = (peer(1, "10.1.0.5", 2), peer(2, "10.1.0.5", 3));
    engine.controller.tell_peers(&app.id, put(std::slice::from_ref(&old))).unwrap();
    let (_, after) =
        engine.controller.tell_peers(&app.id, put(std::slice::from_ref(&new))).unwrap();
    assert!(spelled_out(&after).contains(&"network/app/10.1.0.5 at 3".to_owned()));
    // That the old one has gone is told late.
    let (before, after) = engine.controller.tell_peers(&app.id, gone(&[&old])).unwrap();
    let lost: Vec<_> = spelled_out(&before)
        .into_iter()
        .filter(|line| !spelled_out(&after).contains(line))
        .collect();
    assert_eq!(lost, ["network/app/02:00:00:00:00:01 at 2"]);
    let (_, after) = engine.controller.tell_peers(&app.id, gone(&[&new])).unwrap();
    assert!(after.is_empty());
}

#[test]
fn a_host_that_goes_takes_no_address_along_that_one_elsewhere_has_by_now() {
    let mut engine = Engine::new();
    let app = app(&mut engine);
    engine.controller.tell_nodes(&nodes(&[2, 3]));
    let (old, new) = (peer(1, "10.1.0.5", 2), peer(2, "10.1.0.5", 3));
    engine.controller.tell_all_peers(&app.id, vec![old, new]).unwrap();
    let mut lost = |numbers: &[u32]| -> Vec<_> {
        let (before, after) = engine.controller.tell_nodes(&nodes(numbers));
        let after = spelled_out(&after);
        spelled_out(&before).into_iter().filter(|line| !after.contains(line)).collect()
    };
    assert_eq!(lost(&[3]), ["network/app/02:00:00:00:00:01 at 2"]);
    assert_eq!(lost(&[2, 3]), [""; 0]);
    let of_new = ["network/app/02:00:00:00:00:02 at 3", "network/app/10.1.0.5 at 3"];
    assert_eq!(lost(&[2]), of_new);
}

#[test]
fn endpoints_on_hosts_that_are_not_there_wait_for_them() {
    let mut engine = Engine::new();
    let app = app(&mut engine);
    let one = peer(1, "10.1.0.5", 2);
    let (_, after) = engine.controller.tell_all_peers(&app.id, vec![one]).unwrap();
    assert!(after.is_empty());
    let (before, after) = engine.controller.tell_nodes(&nodes(&[2]));
    assert_eq!((before.len(), after.len()), (0, 2));
    assert_eq!(engine.controller.desired_of_network(&app.id).len(), 3);
    let (before, after) = engine.controller.tell_nodes(&[]);
    assert_eq!((before.len(), after.len()), (2, 0));
}

/// Which of these objects are awaited on a link: the ways to other hosts, and what leads to endpoints
/// there.
fn awaited(engine: &Engine, link: &LinkName) -> (bool, bool) {
    let mac = Mac::from([2, 0, 0, 0, 0, 1]);
    let of_nodes =
        [Key::Nexthop { id: 7 }, Key::Element(Element::TunnelSource { address: [0; 4].into() })];
    let (ns, address) = (Ns::Host, [10, 1, 0, 5].into());
    let of_peers = [
        Key::Fdb { link: link.clone(), mac },
        Key::Station { port: link.clone(), mac },
        Key::Lead { tunnel: link.clone(), lead: Lead::Out { mac } },
        Key::Neighbour { ns, link: link.clone(), address },
    ];
    let awaited = engine.controller.awaited();
    let all = |keys: &[Key]| {
        let all: Vec<_> = keys.iter().map(|key| awaited.has(key)).collect();
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
        all[0]
    };
    (all(&of_nodes), all(&of_peers))
}

#[test]
fn nothing_is_too_much_before_everything_was_told() {
    let mut engine = Engine::new();
    let app = app(&mut engine);
    let link = app.profile().device.unwrap();
    for _ in 0..2 {
        engine.controller.await_nodes();
        assert_eq!(awaited(&engine, &link), (true, true));
        engine.controller.tell_nodes(&[]);
        // To be in a cluster that has told is no reason to wait again.
        engine.controller.await_nodes();
        assert_eq!(awaited(&engine, &link), (false, true));
        engine.controller.tell_all_peers(&app.id, Vec::new()).unwrap();
        assert_eq!(awaited(&engine, &link), (false, false));
        // The next one has to be told again.
        engine.restart();
    }
    engine.controller.await_nodes();
    engine.controller.tell_all_peers(&app.id, Vec::new()).unwrap();
    assert_eq!(awaited(&engine, &link), (true, true), "of which hosts they are is not known");
}

#[test]
fn a_host_in_no_cluster_awaits_nothing_and_no_network_of_its_own_does() {
    let mut engine = Engine::new();
    let own = engine.network("n1", &["10.2.0.0/24"]).profile().device.unwrap();
    assert_eq!(awaited(&engine, &own), (false, false));
    app(&mut engine);
    engine.controller.await_nodes();
    assert_eq!(awaited(&engine, &own), (true, false));
    let longer: LinkName = format!("x{own}").parse().unwrap();
    assert_eq!(awaited(&engine, &longer), (true, false));
}

#[test]
fn what_is_told_of_the_ways_out_while_a_network_is_changed_holds_when_it_is() {
    let mut engine = Engine::new();
    let app = app(&mut engine);
    let labels = BTreeMap::from([("a".to_owned(), Some("b".to_owned()))]);
    let update = NetworkUpdate { labels, ..NetworkUpdate::default() };
    let facts = HostFacts::default();
    let begun =
        engine.controller.begin_update_network(&app.id, &update, &facts, &mut Counter(0), 0);
    let (_, transaction) = begun.unwrap();
    assert!(engine.controller.tell_egress_mtu(Some(1480)));
    assert!(engine.controller.tell_tunnel_mtu(Some(1400)));
    assert!(engine.controller.tell_local_address("192.0.2.9".parse().unwrap()));
    engine.commit(transaction);
    let after = engine.controller.network("app").unwrap();
    assert_eq!(after.labels.len(), 1);
    assert_eq!(after.egress_mtu, Some(1480));
    let tunnel = after.tunnel.unwrap();
    assert_eq!((tunnel.mtu, tunnel.local), (Some(1400), "192.0.2.9".parse().unwrap()));
}

#[test]
fn tunnels_follow_what_the_ways_take_and_where_they_are_sent_from() {
    let mut engine = Engine::new();
    let app = app(&mut engine);
    let other = engine.network("n1", &["10.2.0.0/24"]);
    let text =
        |engine: &Engine, id| spelled_out(&engine.controller.desired_of_network(id)).join("");
    let usual = "network/app 10.1.0.0/24 fd01::/64 tunnel 4096 from 192.0.2.1";
    assert_eq!(text(&engine, &app.id), usual);
    assert!(engine.controller.tell_tunnel_mtu(Some(1400)));
    assert!(!engine.controller.tell_tunnel_mtu(Some(1400)));
    assert_eq!(text(&engine, &app.id), format!("{usual} mtu 1400"));
    assert!(!engine.controller.tell_local_address(LOCAL.parse().unwrap()));
    assert!(engine.controller.tell_local_address("192.0.2.9".parse().unwrap()));
    assert!(text(&engine, &app.id).contains("from 192.0.2.9 mtu 1400"));
    assert_eq!(text(&engine, &other.id), "network/n1 10.2.0.0/24");
    // Neither is written down.
    engine.restart();
    assert_eq!(text(&engine, &app.id), usual);
}

fn own(last: u16) -> WireGuard {
    let (key, address) = ([9; 32].into(), [0xfd77, 0, 0, 0, 0, 0, 0, last].into());
    WireGuard { key, port: 51_890, address }
}

#[test]
fn an_encrypted_network_goes_from_inside_of_what_encrypts_and_takes_less() {
    let mut engine = Engine::new();
    engine.controller.tell_local_address(LOCAL.parse().unwrap());
    engine.controller.tell_wireguard(Some(own(1)));
    let local = LOCAL.parse().unwrap();
    let tunnel = Some(Tunnel { vni: 4096, port: 4790, local, encrypted: true, mtu: None });
    let spec = NetworkSpec { tunnel, ..network("app", &["10.1.0.0/24"]) };
    let app = engine.create(&spec).unwrap();
    let shown = |engine: &Engine| spelled_out(&engine.controller.desired_of_network(&app.id));
    assert_eq!(shown(&engine), ["network/app 10.1.0.0/24 tunnel 4096 from fd77::1 mtu 1440"]);
    assert!(engine.controller.tell_tunnel_mtu(Some(1400)));
    engine.controller.tell_local_address("2001:db8::1".parse().unwrap());
    assert_eq!(shown(&engine), ["network/app 10.1.0.0/24 tunnel 4096 from fd77::1 mtu 1320"]);
    engine.restart();
    assert!(engine.controller.has_encrypted());
    let kept = engine.controller.network("app").unwrap().tunnel.unwrap();
    assert_eq!((kept.encrypted, kept.local.to_string().as_str()), (true, "fd77::1"));
}

#[test]
fn endpoints_of_an_encrypted_network_wait_for_their_hosts_keys() {
    let mut engine = Engine::new();
    engine.controller.tell_wireguard(Some(own(1)));
    let local = LOCAL.parse().unwrap();
    let tunnel = Some(Tunnel { vni: 4096, port: 4790, local, encrypted: true, mtu: None });
    let spec = NetworkSpec { tunnel, ..network("app", &["10.1.0.0/24"]) };
    let app = engine.create(&spec).unwrap();
    let mut nodes = nodes(&[2]);
    engine.controller.tell_nodes(&nodes);
    let told = engine.controller.tell_all_peers(&app.id, vec![peer(1, "10.1.0.5", 2)]);
    assert!(told.unwrap().1.is_empty(), "nothing leads to a host that cannot encrypt");
    nodes[0].wireguard = Some(own(2));
    let (before, after) = engine.controller.tell_nodes(&nodes);
    assert_eq!((before.len(), after.len()), (0, 2));
}
