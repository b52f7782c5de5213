//! What others tell of a cluster: its hosts, and where endpoints of its networks are.
//!
//! Nothing of it is kept in the store, for who tells it knows it after a restart, too. Until it was
//! told, nobody knows what is too much: what the kernel has of it stays ([`Controller::awaited`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Controller;
use crate::driver::{Encryption, Node, Peer, PeersChange};
use crate::{
    Element, EndpointId, Key, LinkName, Mac, Network, NetworkId, Ns, State, WireGuard, ground,
    wireguard,
};

/// What is known of the cluster's other hosts.
#[derive(Debug, Default)]
pub(super) enum Nodes {
    /// This host is in no cluster.
    #[default]
    None,
    /// It is in one, and nobody has told of them.
    Awaited,
    /// These, by number.
    Known(BTreeMap<u32, Node>),
}

/// What tunnels go by.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// The largest packet that the ways to all other hosts take.
    pub(super) mtu: Option<u32>,
    /// Where tunnels are sent from.
    pub(super) local: Option<IpAddr>,
    /// How this host takes part in what is encrypted, once that is known.
    pub(super) wireguard: Option<WireGuard>,
    /// Whether there are encrypted networks, or about to be.
    pub(super) encrypts: bool,
}

impl Nodes {
    fn known(&self) -> Option<&BTreeMap<u32, Node>> {
        match self {
            Self::Known(nodes) => Some(nodes),
            Self::None | Self::Awaited => None,
        }
    }
}

/// What the kernel may have that nothing wants, and that may turn out to be wanted, because others have
/// not told yet what there is on other hosts.
#[derive(Debug)]
pub struct Awaited {
    /// Whether that are the ways to other hosts.
    nodes: bool,
    /// The links of networks whose endpoints on other hosts nobody can tell of yet.
    links: BTreeSet<LinkName>,
}

impl Awaited {
    /// Whether an object is among it.
    pub fn has(&self, key: &Key) -> bool {
        match key {
            Key::Nexthop { .. }
            | Key::Peer { .. }
            | Key::Element(Element::TunnelSource { .. } | Element::Encrypting { .. }) => self.nodes,
            Key::Link { ns: Ns::Host, name: link } | Key::Address { ns: Ns::Host, link, .. }
                if link.as_str() == wireguard::LINK =>
            {
                self.nodes
            }
            Key::Sysctl { ns: Ns::Host, path } => {
                self.nodes && ground::link_of(path).is_some_and(|on| on.as_str() == wireguard::LINK)
            }
            Key::Fdb { link, .. }
            | Key::Station { port: link, .. }
            | Key::Lead { tunnel: link, .. }
            | Key::Neighbour { ns: Ns::Host, link, .. } => self.links.contains(link),
            _ => false,
        }
    }
}

/// The endpoints of a network on other hosts. The same hardware address or address may be told of
/// two of them for a while; then it is the one's that was told last.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// In the order in which they were told.
    all: BTreeMap<u64, Peer>,
    numbers: BTreeMap<EndpointId, u64>,
    by_mac: BTreeSet<(Mac, u64)>,
    by_address: BTreeSet<(IpAddr, u64)>,
    last: u64,
}

impl Peers {
    fn put(&mut self, peer: Peer) {
        self.remove(&peer.endpoint);
        self.last += 1;
        self.numbers.insert(peer.endpoint.clone(), self.last);
        self.by_mac.insert((peer.mac, self.last));
        self.by_address.extend(peer.addresses.iter().map(|address| (*address, self.last)));
        self.all.insert(self.last, peer);
    }

    fn remove(&mut self, id: &EndpointId) {
        let Some(number) = self.numbers.remove(id) else { return };
        let Some(peer) = self.all.remove(&number) else { return };
        self.by_mac.remove(&(peer.mac, number));
        for address in peer.addresses {
            self.by_address.remove(&(address, number));
        }
    }

    fn apply(&mut self, change: PeersChange) {
        change.gone.iter().for_each(|id| self.remove(id));
        change.put.into_iter().for_each(|peer| self.put(peer));
    }

    /// What has to be told for these to be all there are.
    fn change_to(&self, all: &[Peer]) -> PeersChange {
        let wanted: BTreeSet<_> = all.iter().map(|peer| &peer.endpoint).collect();
        let gone = self.numbers.keys().filter(|id| !wanted.contains(id)).cloned().collect();
        let known = |peer: &Peer| {
            let number = self.numbers.get(&peer.endpoint);
            number.and_then(|number| self.all.get(number)) == Some(peer)
        };
        let put = all.iter().filter(|peer| !known(peer)).cloned().collect();
        PeersChange { put, gone }
    }

    /// Who is known of those that change, and of those that have an address in common with them.
    fn concerned(&self, change: &PeersChange) -> BTreeSet<u64> {
        let ids = change.put.iter().map(|peer| &peer.endpoint).chain(&change.gone);
        let old = ids.filter_map(|id| self.all.get(self.numbers.get(id)?));
        self.like(old.chain(&change.put))
    }

    /// Who is known that has an address in common with one of these, they themselves included.
    fn like<'a>(&self, peers: impl Iterator<Item = &'a Peer>) -> BTreeSet<u64> {
        let mut numbers = BTreeSet::new();
        for peer in peers {
            let of_mac = self.by_mac.range((peer.mac, 0)..=(peer.mac, u64::MAX));
            numbers.extend(of_mac.map(|(_, number)| *number));
            for address in &peer.addresses {
                let of_address = self.by_address.range((*address, 0)..=(*address, u64::MAX));
                numbers.extend(of_address.map(|(_, number)| *number));
            }
        }
        numbers
    }

    fn of(&self, numbers: &BTreeSet<u64>) -> impl Iterator<Item = &Peer> {
        numbers.iter().filter_map(|number| self.all.get(number))
    }
}

impl Controller {
    /// Notes which endpoints of a network have come, changed or gone on other hosts. Gives back the
    /// kernel state of those before and after; nothing if there is no such network here.
    ///
    /// The first time everything is to be told: from then on, what is not among it is too much.
    pub fn tell_peers(
        &mut self,
        network: &NetworkId,
        change: PeersChange,
    ) -> Option<(State, State)> {
        let known = Arc::clone(self.networks.get(network)?);
        let mut peers = self.peers.remove(network).unwrap_or_default();
        let concerned = peers.concerned(&change);
        let before = self.plan_peers(&known, peers.of(&concerned));
        let put: Vec<_> = change.put.iter().map(|peer| peer.endpoint.clone()).collect();
        peers.apply(change);
        let new = put.iter().filter_map(|id| peers.numbers.get(id)).copied();
        let concerned = concerned.into_iter().chain(new).collect();
        let after = self.plan_peers(&known, peers.of(&concerned));
        self.peers.insert(network.clone(), peers);
        Some((before, after))
    }

    /// The same, where these are all there are.
    pub fn tell_all_peers(
        &mut self,
        network: &NetworkId,
        all: Vec<Peer>,
    ) -> Option<(State, State)> {
        let change = match self.peers.get(network) {
            Some(peers) => peers.change_to(&all),
            None => PeersChange { put: all, gone: Vec::new() },
        };
        self.tell_peers(network, change)
    }

    /// Notes that this host is in a cluster: somebody will tell of its other hosts.
    pub fn await_nodes(&mut self) {
        if self.nodes.known().is_none() {
            self.nodes = Nodes::Awaited;
        }
    }

    /// Notes which other hosts the cluster has. Gives back the kernel state of what all networks
    /// share, and of the endpoints on hosts that come or go, before and after.
    pub fn tell_nodes(&mut self, nodes: &[Node]) -> (State, State) {
        let after: BTreeMap<_, _> = nodes.iter().map(|node| (node.number, *node)).collect();
        let known = self.nodes.known().cloned().unwrap_or_default();
        let ways = |nodes: &BTreeMap<u32, Node>, peer: &Peer| {
            nodes.get(&peer.node).map(|node| node.wireguard.is_some())
        };
        let moves = |peer: &&Peer| ways(&known, peer) != ways(&after, peer);
        let concerned: BTreeMap<_, _> = self
            .peers
            .iter()
            .map(|(id, peers)| (id.clone(), peers.like(peers.all.values().filter(moves))))
            .filter(|(_, numbers)| !numbers.is_empty())
            .collect();
        let before = self.plan_shared(&concerned);
        self.nodes = Nodes::Known(after);
        (before, self.plan_shared(&concerned))
    }

    /// Notes the largest packet that the ways to all other hosts take, which networks have that were
    /// given no MTU. What the kernel has is then to be healed. Returns whether it is another one.
    pub fn tell_tunnel_mtu(&mut self, mtu: Option<u32>) -> bool {
        let changed = self.ways.mtu != mtu;
        self.ways.mtu = mtu;
        changed && self.follow_ways()
    }

    /// Notes the address that tunnels are sent from. What the kernel has is then to be healed. Returns
    /// whether a network had another one.
    pub fn tell_local_address(&mut self, local: IpAddr) -> bool {
        self.ways.local = Some(local);
        self.follow_ways()
    }

    /// Notes how this host takes part in what is encrypted, if it can. Gives back the kernel state of what
    /// all networks share, before and after; what else the kernel has is then to be healed.
    pub fn tell_wireguard(&mut self, own: Option<WireGuard>) -> (State, State) {
        let before = self.plan_cluster();
        self.ways.wireguard = own;
        self.follow_ways();
        (before, self.plan_cluster())
    }

    /// Notes whether there is an encrypted network, or about to be one. Gives back the kernel state of what
    /// all networks share, before and after.
    pub fn tell_encryption(&mut self, wanted: bool) -> (State, State) {
        let before = self.plan_cluster();
        self.ways.encrypts = wanted;
        (before, self.plan_cluster())
    }

    /// Whether there is an encrypted network.
    pub fn has_encrypted(&self) -> bool {
        let mut tunnels = self.networks.values().filter_map(|network| network.tunnel);
        tunnels.any(|tunnel| tunnel.encrypted)
    }

    /// What is awaited of others, by whom the kernel has it already.
    pub fn awaited(&self) -> Awaited {
        let nodes = matches!(self.nodes, Nodes::Awaited);
        let tunnelled = self.networks.values().filter(|network| network.tunnel.is_some());
        let untold = tunnelled.filter(|net| nodes || !self.peers.contains_key(&net.id));
        let mut links = BTreeSet::new();
        for network in untold {
            links.extend(network.profile().device);
            let planned = network.driver.network(network).unwrap_or_default();
            links.extend(planned.iter().filter_map(|(key, _)| match key {
                Key::Link { ns: Ns::Host, name: link } | Key::Port { link } => Some(link.clone()),
                _ => None,
            }));
        }
        Awaited { nodes, links }
    }

    /// The kernel state that all networks share.
    pub(super) fn plan_cluster(&self) -> State {
        let nodes = self.nodes.known().into_iter().flatten();
        let nodes: Vec<_> = nodes.map(|(_, node)| *node).collect();
        let mtu = wireguard::mtu(self.way_mtu(), self.outer());
        let own = self.ways.wireguard.filter(|_| self.ways.encrypts);
        self.planner.cluster(&nodes, own.map(|own| Encryption { own, mtu }).as_ref())
    }

    /// That, and some endpoints on other hosts.
    fn plan_shared(&self, concerned: &BTreeMap<NetworkId, BTreeSet<u64>>) -> State {
        let mut state = self.plan_cluster();
        for (id, numbers) in concerned {
            if let (Some(network), Some(peers)) = (self.networks.get(id), self.peers.get(id)) {
                state.extend(self.plan_peers(network, peers.of(numbers)));
            }
        }
        state
    }

    /// What leads to all endpoints of a network on other hosts.
    pub(super) fn plan_all_peers(&self, network: &Network) -> State {
        let peers = self.peers.get(&network.id);
        self.plan_peers(network, peers.into_iter().flat_map(|peers| peers.all.values()))
    }

    /// What leads to some endpoints, as far as their hosts are there.
    fn plan_peers<'a>(&self, network: &Network, peers: impl Iterator<Item = &'a Peer>) -> State {
        let Some(nodes) = self.nodes.known() else { return State::default() };
        let encrypted = network.tunnel.is_some_and(|tunnel| tunnel.encrypted);
        let leads_to = |node: &Node| !encrypted || node.wireguard.is_some();
        let reachable = |peer: &&Peer| nodes.get(&peer.node).is_some_and(leads_to);
        let reachable: Vec<_> = peers.filter(reachable).collect();
        network.driver.peers(network, &reachable)
    }

    /// All networks as they are with the ways out now. Returns whether one was otherwise.
    pub(super) fn follow_ways(&mut self) -> bool {
        let mut changed = false;
        for id in self.networks.keys().cloned().collect::<Vec<_>>() {
            let Some(network) = self.networks.get(&id) else { continue };
            let followed = self.on_its_way_out(network);
            changed |= !Arc::ptr_eq(&followed, network);
            self.networks.insert(id, followed);
        }
        changed
    }
}
