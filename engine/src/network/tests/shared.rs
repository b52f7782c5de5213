//! Networks that are shared by somebody who keeps a list.

use std::net::Ipv4Addr;

use cnm::controller::{NetworkUpdate, WantedAddress};
use cnm::driver::{Node, Peer, PeersChange};
use cnm::network::{PoolSpec, Tunnel};
use cnm::{EndpointId, Kind, WireGuard};
use ipnetwork::IpNetwork;

use super::*;
use crate::network::shared::{Draft, Published, Sharing};

/// Who shares, and all that he was told, one line each.
#[derive(Debug, Default)]
struct List {
    lines: Mutex<Vec<String>>,
    given: Mutex<u32>,
}

impl List {
    fn add(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }

    /// What was told since somebody asked last.
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }
}

impl Sharing for List {
    fn create(&self, draft: &Draft) -> Result<NetworkSpec> {
        let network = &draft.network;
        self.add(format!("create {}", network.name));
        if network.name == "taken" {
            return Err(Error::conflict("network with name taken already exists"));
        }
        let pool = |subnet: &str| PoolSpec { subnet: Some(subnet.into()), ..PoolSpec::default() };
        Ok(NetworkSpec {
            name: network.name.clone(),
            driver: network.driver.name().to_owned(),
            id: Some(network.id.clone()),
            tunnel: Some(tunnel()),
            pools: vec![pool("10.128.0.0/20")],
            ..NetworkSpec::default()
        })
    }

    fn remove(&self, network: &Network) -> Result<()> {
        self.add(format!("remove {}", network.name));
        Ok(())
    }

    fn update(&self, network: &Network, update: &NetworkUpdate) -> Result<()> {
        self.add(format!("update {} {:?}", network.name, update.labels));
        Ok(())
    }

    fn claim(&self, wanted: &WantedAddress) -> Result<Vec<IpNetwork>> {
        let mut given = self.given.lock().unwrap();
        *given += 1;
        let any = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 10)) + *given).into();
        let address = wanted.wanted.first().copied().unwrap_or(any);
        self.add(format!("claim {address} for {}", wanted.owner));
        Ok(vec![IpNetwork::new(address, 20).unwrap()])
    }

    fn unclaim(&self, _network: &NetworkId, addresses: &[IpAddr]) {
        self.add(format!("unclaim {addresses:?}"));
    }

    fn publish(&self, endpoint: &Published) -> Result<Batch> {
        let mut records = Batch::default();
        let address = endpoint.addresses[0];
        records.put(format!("queue/{}", endpoint.endpoint), b"here".to_vec());
        self.add(format!("publish {} at {address}", endpoint.owner));
        Ok(records)
    }

    fn withdraw(
        &self,
        _network: &NetworkId,
        endpoint: &EndpointId,
        addresses: &[IpAddr],
        kept: bool,
    ) -> Result<Batch> {
        let mut records = Batch::default();
        records.put(format!("queue/{endpoint}"), b"gone".to_vec());
        self.add(format!("withdraw {addresses:?} kept {kept}"));
        Ok(records)
    }

    fn claim_mac(&self, _network: &NetworkId, mac: Mac, owner: &str) -> Result<()> {
        self.add(format!("claim {mac} for {owner}"));
        if owner == "late" { Err(Error::conflict("in use")) } else { Ok(()) }
    }

    fn forget(&self, _network: &NetworkId, owner: &str, mac: Option<Mac>) {
        self.add(format!("forget {owner} {mac:?}"));
    }

    fn wake(&self) {
        self.add("wake".to_owned());
    }

    fn missing(&self, key: &str) -> Option<String> {
        (key == "elsewhere").then(|| "its subnet is taken".to_owned())
    }

    fn host_changed(&self) {}
}

fn tunnel() -> Tunnel {
    let local = [192, 0, 2, 1].into();
    Tunnel { vni: 4096, port: 4789, local, encrypted: false, mtu: None }
}

/// The cluster's only other host.
fn nodes_of_cluster() -> [Node; 1] {
    [Node { number: 2, address: [192, 0, 2, 2].into(), wireguard: None }]
}

/// An endpoint on it.
fn peer(digit: u8) -> Peer {
    Peer {
        endpoint: EndpointId::from_random([digit; 32]),
        mac: Mac::from_random([digit; 6]),
        addresses: vec![[10, 128, 0, 99].into()],
        node: 2,
    }
}

/// A daemon that shares, a network of it that is there, and the list.
fn sharing(site: &Site) -> (Networks, Arc<Network>, Arc<List>) {
    let (networks, list) = (site.open(), Arc::new(List::default()));
    networks.share_by(Some(list.clone()));
    let network = networks.create(&overlay("app")).unwrap().0;
    assert_eq!(list.told(), ["create app"]);
    (networks, network, list)
}

fn overlay(name: &str) -> NetworkSpec {
    let driver = "overlay".to_owned();
    NetworkSpec { name: name.to_owned(), driver, attachable: true, ..NetworkSpec::default() }
}

fn join(owner: &str, network: &Network, address: Option<&str>) -> SandboxSpec {
    let addresses = address.map(|text| text.parse().unwrap()).into_iter().collect();
    let join = JoinSpec { network: Some(network.id.clone()), addresses, ..JoinSpec::default() };
    SandboxSpec { owner: owner.to_owned(), joins: vec![join], ..SandboxSpec::default() }
}

fn queued(site: &Site) -> Vec<Vec<u8>> {
    site.store.list("queue/").unwrap().into_iter().map(|(_, value)| value).collect()
}

#[test]
fn without_a_cluster_its_networks_are_refused_with_what_to_do() {
    let site = Site::default();
    let error = site.open().create(&overlay("app")).unwrap_err();
    assert_eq!(error.kind(), Kind::Forbidden);
    assert!(error.to_string().contains("`rnet cluster join etcd://host:2379`"), "{error}");
}

#[test]
fn a_network_is_made_known_before_it_is_made_and_unknown_before_it_goes() {
    let site = Site::default();
    let (networks, network, list) = sharing(&site);
    assert_eq!(network.tunnel.map(|tunnel| tunnel.vni), Some(4096));
    assert_eq!(network.pools[0].subnet.to_string(), "10.128.0.0/20");
    assert_eq!(networks.create(&overlay("taken")).unwrap_err().kind(), Kind::Conflict);
    assert!(networks.network("taken").is_err());
    list.told();
    networks.remove("app").unwrap();
    assert_eq!(list.told(), ["remove app"]);
    assert_eq!(site.observed(), State::default());
}

#[test]
fn one_that_another_host_made_appears_once_and_goes() {
    let site = Site::default();
    let networks = site.open();
    let id = NetworkId::from_random([7; 32]);
    let spec = NetworkSpec { id: Some(id.clone()), tunnel: Some(tunnel()), ..overlay("app") };
    let network = networks.appear(&spec, 5).unwrap();
    assert_eq!((&network.id, network.created), (&id, 5));
    assert_eq!(networks.appear(&spec, 5).unwrap().id, id);
    assert_eq!(networks.shared_networks().len(), 1);
    networks.vanish(&id).unwrap();
    networks.vanish(&id).unwrap();
    assert_eq!(networks.shared_networks().len(), 0);
}

/// How a host with a number takes part in what is encrypted.
fn wireguard(number: u8) -> WireGuard {
    let address = [0xfd77, 0, 0, 0, 0, 0, 0, number.into()].into();
    WireGuard { key: [number; 32].into(), port: 51_890, address }
}

#[test]
fn what_encrypts_is_there_with_the_first_encrypted_network_and_gone_with_the_last() {
    let site = Site::default();
    let networks = site.open();
    networks.tell_wireguard(Some(wireguard(1))).unwrap();
    networks.tell_nodes(&nodes_of_cluster()).unwrap();
    let link = Key::Link { ns: cnm::Ns::Host, name: cnm::wireguard::link() };
    let is_there = || site.observed().get(&link).is_some();
    assert!(!is_there(), "nobody needs it");
    let appear = |digit: u8, name: &str| {
        let (id, local) = (NetworkId::from_random([digit; 32]), wireguard(1).address.into());
        let (vni, encrypted, mtu) = (digit.into(), true, None);
        let tunnel = Some(Tunnel { vni, port: 4790, local, encrypted, mtu });
        let options = BTreeMap::from([("encrypted".to_owned(), String::new())]);
        let spec = NetworkSpec { id: Some(id.clone()), tunnel, options, ..overlay(name) };
        networks.appear(&spec, 5).unwrap();
        id
    };
    let (one, two) = (appear(7, "one"), appear(8, "two"));
    assert!(is_there());
    let whole = site.observed();
    let lost = State::from_iter([(link.clone(), whole.get(&link).unwrap().clone())]);
    site.kernel.memory.dismantle(&diff(&lost, &State::default()));
    assert!(!is_there());
    networks.heal();
    assert_eq!(site.observed(), whole);
    networks.vanish(&one).unwrap();
    assert!(is_there(), "another one needs it");
    networks.vanish(&two).unwrap();
    assert!(!is_there());
}

#[test]
fn the_next_daemon_leaves_what_encrypts_as_it_was() {
    let site = Site::default();
    let networks = site.open();
    let outer = tunnel().local;
    networks.tell_way(outer, None);
    networks.tell_wireguard(Some(wireguard(1))).unwrap();
    let other = Node { wireguard: Some(wireguard(2)), ..nodes_of_cluster()[0] };
    networks.tell_nodes(&[other]).unwrap();
    let local = wireguard(1).address.into();
    let tunnel = Some(Tunnel { vni: 7, port: 4790, local, encrypted: true, mtu: None });
    let options = BTreeMap::from([("encrypted".to_owned(), "true".to_owned())]);
    networks.appear(&NetworkSpec { tunnel, options, ..overlay("app") }, 5).unwrap();
    let whole = site.observed();
    drop(networks);
    let next = site.open();
    next.await_others();
    next.heal();
    let observed = site.observed();
    let is_lost = |key: &Key| observed.get(key).is_none();
    assert!(!whole.iter().any(|(key, _)| is_lost(key)), "nobody has told it what is too much");
    let way = (outer, None, Some(wireguard(1)));
    next.know_others(&[other], BTreeMap::new(), way);
    next.heal();
    assert_eq!(site.observed(), whole);
}

#[test]
fn a_network_that_cannot_be_had_here_is_not_one_that_is_not_there() {
    let site = Site::default();
    let (networks, _, _) = sharing(&site);
    assert_eq!(networks.network("nowhere").unwrap_err().kind(), Kind::NotFound);
    let error = networks.network("elsewhere").unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().ends_with("is not on this host: its subnet is taken"), "{error}");
}

#[test]
fn an_endpoint_is_told_with_what_makes_it_true_and_again_with_what_ends_it() {
    let site = Site::default();
    let (networks, network, list) = sharing(&site);
    let change = begin(&networks, &join("c1", &network, None));
    assert_eq!(list.told(), ["claim 10.128.0.11 for c1"]);
    assert_eq!(queued(&site), [b""; 0]);
    let id = change.sandbox.id.clone();
    networks.finish(change, Batch::default());
    assert_eq!(list.told(), ["publish c1 at 10.128.0.11/20", "wake"]);
    assert_eq!(queued(&site), [b"here"]);
    let error = networks.remove("app").unwrap_err();
    assert!(error.to_string().contains("has active endpoints"), "{error}");
    networks.close(&id, Batch::default()).unwrap();
    assert_eq!(list.told(), ["withdraw [10.128.0.11] kept false", "wake"]);
    assert_eq!(queued(&site), [b"gone"]);
}

#[test]
fn p18_one_endpoint_more_than_a_host_has_room_for_is_refused_before_anything_is_made_or_told() {
    let site = Site::default();
    let (networks, network, list) = sharing(&site);
    let room = network.driver.room(&network).unwrap().endpoints;
    for number in 0..room {
        let change = begin(&networks, &join(&format!("c{number}"), &network, None));
        networks.finish(change, Batch::default());
    }
    let (whole, told) = (site.observed(), queued(&site));
    list.told();
    let refused = networks.begin_open(&join("more", &network, None), None).unwrap_err();
    assert_eq!(refused.kind(), Kind::Forbidden);
    assert!(refused.to_string().contains("has room for 1000 endpoints only"), "{refused}");
    assert!(refused.to_string().contains("each host of the cluster"), "{refused}");
    assert_eq!((site.observed(), queued(&site)), (whole, told), "nothing was made");
    let claimed = list.told();
    assert_eq!(claimed.len() % 2, 0, "what was claimed was given back: {claimed:?}");
}

#[test]
fn a_start_that_fails_gives_back_what_was_claimed_for_it() {
    let site = Site::default();
    let (networks, network, list) = sharing(&site);
    let change = begin(&networks, &join("c1", &network, None));
    list.told();
    networks.undo(&change);
    networks.abandon(change);
    assert_eq!(list.told(), ["unclaim [10.128.0.11]"]);
    let mut never = join("c2", &network, None);
    never.joins.push(JoinSpec { interface: Some("lo".to_owned()), ..never.joins[0].clone() });
    networks.begin_open(&never, None).unwrap_err();
    assert_eq!(list.told(), [""; 0]);
}

#[test]
fn an_address_that_is_kept_for_its_owner_is_withdrawn_as_kept() {
    let site = Site::default();
    let (networks, network, list) = sharing(&site);
    let address: IpAddr = [10, 128, 1, 1].into();
    let keep = |model: &mut Controller| model.reserve_static("c1", &network.id, address).unwrap();
    networks.note(keep, Batch::default(), Durability::Immediate);
    let id = start(&networks, &join("c1", &network, Some("10.128.1.1")));
    list.told();
    networks.close(&id, Batch::default()).unwrap();
    assert_eq!(list.told(), ["withdraw [10.128.1.1] kept true", "wake"]);
}

#[test]
fn a_hardware_address_that_a_user_chose_is_claimed_before_anything_else() {
    let site = Site::default();
    let (networks, network, list) = sharing(&site);
    let mut spec = join("late", &network, None);
    spec.joins[0].mac = Some("02:00:00:00:00:07".parse().unwrap());
    assert_eq!(networks.begin_open(&spec, None).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(list.told(), ["claim 02:00:00:00:00:07 for late"]);
    spec.owner = "early".to_owned();
    start(&networks, &spec);
    let told = list.told();
    assert_eq!(told[..2], ["claim 02:00:00:00:00:07 for early", "claim 10.128.0.11 for early"]);
    networks.forget_on(&network, "early", spec.joins[0].mac);
    assert_eq!(list.told(), [format!("forget early {:?}", spec.joins[0].mac)]);
}

#[test]
fn what_other_hosts_have_is_made_true_and_healed_and_goes() {
    let site = Site::default();
    let (networks, network, _) = sharing(&site);
    networks.tell_nodes(&nodes_of_cluster()).unwrap();
    networks.tell_all_peers(&network.id, Vec::new()).unwrap();
    let without = site.observed();
    let peer = peer(9);
    let gone = vec![peer.endpoint.clone()];
    networks.tell_peers(&network.id, PeersChange { put: vec![peer], gone: Vec::new() }).unwrap();
    let with = site.observed();
    assert_ne!(with, without);
    site.damage(|key| with.get(key).is_some() && without.get(key).is_none());
    networks.heal();
    assert_eq!(site.observed(), with);
    networks.tell_peers(&network.id, PeersChange { put: Vec::new(), gone }).unwrap();
    assert_eq!(site.observed(), without);
}

/// What the kernel has of an endpoint elsewhere with one address: entries of the tunnel, of the bridge and
/// of the shortcut, and a neighbour.
const OF_A_PEER: usize = 4;

/// What it has of another host: a way, a group of it, and whom tunnels are let in from.
const OF_A_HOST: usize = 3;

#[test]
fn what_an_earlier_daemon_was_told_is_no_hindrance_to_the_next_one() {
    let site = Site::default();
    let (networks, network, _) = sharing(&site);
    let nodes = nodes_of_cluster();
    networks.tell_nodes(&nodes).unwrap();
    networks.tell_all_peers(&network.id, Vec::new()).unwrap();
    let without = site.observed();
    networks.tell_all_peers(&network.id, vec![peer(9)]).unwrap();
    let told = site.observed();
    assert_eq!(told.len(), without.len() + OF_A_PEER);
    drop(networks);
    let next = site.open();
    next.await_others();
    next.heal();
    assert_eq!(site.observed(), told, "nobody has said that it is too much");
    next.tell_nodes(&nodes).unwrap();
    next.heal();
    assert_eq!(site.observed(), told, "nobody has said which endpoints there are");
    next.tell_all_peers(&network.id, Vec::new()).unwrap();
    next.heal();
    assert_eq!(site.observed(), without);
    next.tell_nodes(&[]).unwrap();
    assert_ne!(site.observed(), without);
}

#[test]
fn other_hosts_that_are_known_in_passing_are_reached_when_that_is_healed() {
    let site = Site::default();
    let (networks, network, _) = sharing(&site);
    let before = site.observed();
    let peers = BTreeMap::from([(network.id.clone(), vec![peer(9)])]);
    networks.know_others(&nodes_of_cluster(), peers, (tunnel().local, None, None));
    networks.heal();
    let known = site.observed();
    assert_eq!(known.len(), before.len() + OF_A_HOST + OF_A_PEER);
    networks.tell_nodes(&nodes_of_cluster()).unwrap();
    assert_eq!(site.observed(), known, "that is no news");
}

#[test]
fn a_host_in_no_cluster_has_no_ways_to_other_hosts_left() {
    let site = Site::default();
    let (networks, network, _) = sharing(&site);
    networks.vanish(&network.id).unwrap();
    let before = site.observed();
    networks.tell_nodes(&nodes_of_cluster()).unwrap();
    let told = site.observed();
    assert_eq!(told.len(), before.len() + OF_A_HOST);
    drop(networks);
    let next = site.open();
    next.await_others();
    next.heal();
    assert_eq!(site.observed(), told, "it is in one");
    drop(next);
    site.open().heal();
    assert_eq!(site.observed(), before);
}

#[test]
fn what_an_aborted_start_left_beside_a_network_of_the_clusters_goes_before_the_cluster_tells() {
    for in_cluster in [false, true] {
        let site = Site::default();
        let networks = site.open();
        let bridge = create(&networks, "n1").profile().device.unwrap();
        if in_cluster {
            networks.await_others();
            networks.appear(&NetworkSpec { tunnel: Some(tunnel()), ..overlay("app") }, 5).unwrap();
        }
        let before = site.observed();
        let key = Key::Neighbour { ns: cnm::Ns::Host, link: bridge, address: [10, 0, 0, 9].into() };
        let stray = State::from_iter([(key, cnm::Value::Proxied)]);
        site.kernel.memory.apply(&diff(&State::default(), &stray)).unwrap();
        assert_ne!(site.observed(), before);
        networks.heal();
        assert_eq!(site.observed(), before, "in a cluster: {in_cluster}");
    }
}
