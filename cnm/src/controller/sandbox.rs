//! Creating and removing sandboxes; joining and leaving networks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::draft::Draft;
use super::intent::{Change, Live, Transition};
use super::{
    ClaimedEndpoint, Claims, Controller, ControllerError, Decision, Entropy, FirstJoin, JoinSpec,
    PortsChange, SandboxSpec, Subject, Transaction,
};
use crate::ipam::{Holder, short};
use crate::options::EndpointOptions;
use crate::sandbox::{Passage, lacks_ipv6};
use crate::{
    Endpoint, EndpointId, Kind, LinkName, Mac, Network, NetworkId, PortBinding, Sandbox, SandboxId,
};

/// How often a new endpoint's id is drawn again because its host link's name is taken.
const DRAWS: usize = 16;

impl Controller {
    /// Begins to create a sandbox with its endpoints and published ports.
    pub fn begin_create_sandbox(
        &mut self,
        spec: &SandboxSpec,
        claims: &Claims,
        entropy: &mut dyn Entropy,
        now: u64,
    ) -> Result<Decision<(SandboxId, Transaction)>, ControllerError> {
        let id = SandboxId::from_random(entropy.bytes());
        let id = claims.sandbox().cloned().unwrap_or(id);
        let mut draft = Draft::with(self, claims);
        let (owner, sysctls) = (spec.owner.as_str(), &spec.sysctls[..]);
        let mut joining = Joining { sandbox: &id, owner, sysctls, entropy, now };
        // Named interfaces come first, so that no other one is given their names.
        let mut interfaces = Interfaces::default();
        for join in &spec.joins {
            interfaces.claim(draft.controller.named_interface(join)?)?;
        }
        let mut endpoints = Vec::with_capacity(spec.joins.len());
        for join in &spec.joins {
            let endpoint = draft.join(&mut joining, join, &endpoints, &mut interfaces)?;
            endpoints.push(Arc::new(endpoint));
        }
        let ports = draft.publish(&endpoints, &spec.ports)?;
        let sandbox = Arc::new(Sandbox {
            id: id.clone(),
            owner: spec.owner.clone(),
            ports,
            closed: spec.closed.clone(),
            resolver: spec.resolver,
            sysctls: spec.sysctls.clone(),
            passages: spec.passages.clone(),
        });
        let after = Live { sandbox, endpoints };
        let decision = draft.decide(Change::Sandbox(Transition::Create(after)), now)?;
        Ok(decision.map(|transaction| (id, transaction)))
    }

    /// Begins to remove a sandbox with all its endpoints.
    pub fn begin_remove_sandbox(
        &mut self,
        id: &SandboxId,
        now: u64,
    ) -> Result<Transaction, ControllerError> {
        let before = self.idle_sandbox(id)?;
        Draft::new(self).open(Change::Sandbox(Transition::Remove(before)), now)
    }

    /// Begins to join one more network (`network connect`).
    pub fn begin_join(
        &mut self,
        sandbox: &SandboxId,
        join: &JoinSpec,
        claims: &Claims,
        entropy: &mut dyn Entropy,
        now: u64,
    ) -> Result<Decision<Transaction>, ControllerError> {
        let before = self.idle_sandbox(sandbox)?;
        let mut draft = Draft::with(self, claims);
        let after = draft.join_live(&before, join, entropy, now)?;
        draft.decide(Change::Sandbox(Transition::Change { before, after }), now)
    }

    /// Begins to join the first network of a sandbox that was made without one: it gets the
    /// resolver, and the ports that it could not have before.
    pub fn begin_first_join(
        &mut self,
        sandbox: &SandboxId,
        first: &FirstJoin<'_>,
        claims: &Claims,
        entropy: &mut dyn Entropy,
        now: u64,
    ) -> Result<Decision<Transaction>, ControllerError> {
        let before = self.idle_sandbox(sandbox)?;
        let mut draft = Draft::with(self, claims);
        let mut after = draft.join_live(&before, first.join, entropy, now)?;
        let given_up = &before.sandbox.ports;
        let ports = draft.publish_instead(&after.endpoints, first.ports, given_up)?;
        after.sandbox =
            Arc::new(Sandbox { resolver: true, ports, ..Sandbox::clone(&after.sandbox) });
        draft.decide(Change::Sandbox(Transition::Change { before, after }), now)
    }

    /// Begins to leave a network (`network disconnect`). With the last one go the published ports:
    /// they lead nowhere, and others may want them.
    pub fn begin_leave(
        &mut self,
        sandbox: &SandboxId,
        network: &NetworkId,
        now: u64,
    ) -> Result<Transaction, ControllerError> {
        let before = self.idle_sandbox(sandbox)?;
        let mut after = before.clone();
        after.endpoints.retain(|endpoint| endpoint.network != *network);
        if after.endpoints.len() == before.endpoints.len() {
            let known = self.networks.get(network);
            let network = known.ok_or_else(|| ControllerError::not_found("network", network))?;
            return Err(ControllerError::forbidden(format!(
                "container {} is not connected to network {}",
                short(&before.sandbox.owner),
                network.name
            )));
        }
        if after.endpoints.is_empty() {
            let ports = Vec::new();
            after.sandbox = Arc::new(Sandbox { ports, ..Sandbox::clone(&after.sandbox) });
        }
        Draft::new(self).open(Change::Sandbox(Transition::Change { before, after }), now)
    }

    /// Begins to publish and withdraw ports of a live sandbox. A host port that is withdrawn and
    /// published in one go stays bound all the time, and is not reserved again.
    pub fn begin_change_ports(
        &mut self,
        sandbox: &SandboxId,
        change: &PortsChange<'_>,
        claims: &Claims,
    ) -> Result<Decision<Transaction>, ControllerError> {
        let PortsChange { add, remove, closed } = *change;
        let before = self.idle_sandbox(sandbox)?;
        let mut ports = before.sandbox.ports.clone();
        for binding in remove {
            let at = ports.iter().position(|port| port == binding).ok_or_else(|| {
                let PortBinding { host, host_port, protocol, port } = binding;
                let host = std::net::SocketAddr::new(*host, *host_port);
                ControllerError::not_found("published port", format!("{host}->{port}/{protocol}"))
            })?;
            ports.remove(at);
        }
        let mut draft = Draft::with(self, claims);
        ports.extend(draft.publish_instead(&before.endpoints, add, remove)?);
        let closed = closed.unwrap_or(&before.sandbox.closed).clone();
        let sandbox = Arc::new(Sandbox { ports, closed, ..Sandbox::clone(&before.sandbox) });
        let after = Live { sandbox, endpoints: before.endpoints.clone() };
        draft.decide(Change::Sandbox(Transition::Change { before, after }), 0)
    }

    /// Begins to change what a live sandbox may talk to where neighbours do not talk.
    pub fn begin_change_passages(
        &mut self,
        sandbox: &SandboxId,
        passages: Vec<Passage>,
        now: u64,
    ) -> Result<Transaction, ControllerError> {
        let before = self.idle_sandbox(sandbox)?;
        let sandbox = Arc::new(Sandbox { passages, ..Sandbox::clone(&before.sandbox) });
        let after = Live { sandbox, endpoints: before.endpoints.clone() };
        Draft::new(self).open(Change::Sandbox(Transition::Change { before, after }), now)
    }

    pub(super) fn idle_sandbox(&self, id: &SandboxId) -> Result<Live, ControllerError> {
        let live = self.sandboxes.get(id);
        let live = live.ok_or_else(|| ControllerError::not_found("sandbox", id))?;
        self.check_idle(&Subject::Sandbox(id.clone()))?;
        Ok(live.clone())
    }
}

/// Who joins.
struct Joining<'a> {
    sandbox: &'a SandboxId,
    owner: &'a str,
    /// The sandbox's own.
    sysctls: &'a [(String, String)],
    entropy: &'a mut dyn Entropy,
    now: u64,
}

/// Which addresses an endpoint is to have.
pub(super) struct Wanted<'a> {
    /// Those asked for.
    pub(super) addresses: &'a [IpAddr],
    /// Whether it may have one of IPv6.
    pub(super) ipv6: bool,
}

/// The names of interfaces that a sandbox has.
#[derive(Debug, Default)]
struct Interfaces(BTreeSet<LinkName>);

impl Interfaces {
    fn claim(&mut self, name: Option<LinkName>) -> Result<(), ControllerError> {
        let Some(name) = name else { return Ok(()) };
        if self.0.insert(name.clone()) {
            return Ok(());
        }
        let message = format!("interface name {name} is already in use in this sandbox");
        Err(ControllerError::conflict(message))
    }

    /// The prefix with the smallest number that is free.
    fn next(&mut self, prefix: &str) -> Result<LinkName, ControllerError> {
        for number in 0_usize.. {
            let name: LinkName = format!("{prefix}{number}").parse()?;
            if self.0.insert(name.clone()) {
                return Ok(name);
            }
        }
        unreachable!("names end before numbers do")
    }
}

impl Controller {
    /// The name that a request gives the interface, by its own field or by an option.
    fn named_interface(&self, join: &JoinSpec) -> Result<Option<LinkName>, ControllerError> {
        let by_option = self.endpoint_options(join)?.interface;
        let name = join.interface.as_deref().map(str::parse).transpose()?.or(by_option);
        if name.as_ref().is_some_and(|name| name.as_str() == "lo") {
            let message = "interface name lo belongs to the loopback device";
            return Err(ControllerError::conflict(message));
        }
        Ok(name)
    }

    fn endpoint_options(&self, join: &JoinSpec) -> Result<EndpointOptions, ControllerError> {
        let id = join.network.as_ref();
        let id = id.ok_or_else(|| ControllerError::invalid("no network to join is named"))?;
        Ok(EndpointOptions::parse(&join.options, self.joinable(id)?.driver)?)
    }
}

impl Draft<'_> {
    /// A live sandbox with one more endpoint.
    fn join_live(
        &mut self,
        before: &Live,
        join: &JoinSpec,
        entropy: &mut dyn Entropy,
        now: u64,
    ) -> Result<Live, ControllerError> {
        let mut interfaces = Interfaces::default();
        for endpoint in &before.endpoints {
            interfaces.claim(Some(endpoint.interface.clone()))?;
        }
        interfaces.claim(self.controller.named_interface(join)?)?;
        let sandbox = &before.sandbox;
        let (owner, sysctls) = (sandbox.owner.as_str(), &sandbox.sysctls[..]);
        let mut joining = Joining { sandbox: &sandbox.id, owner, sysctls, entropy, now };
        let endpoint = self.join(&mut joining, join, &before.endpoints, &mut interfaces)?;
        let mut after = before.clone();
        after.endpoints.push(Arc::new(endpoint));
        Ok(after)
    }

    /// Makes an endpoint, with everything it needs taken.
    fn join(
        &mut self,
        joining: &mut Joining<'_>,
        join: &JoinSpec,
        present: &[Arc<Endpoint>],
        interfaces: &mut Interfaces,
    ) -> Result<Endpoint, ControllerError> {
        let id = join.network.as_ref();
        let id = id.ok_or_else(|| ControllerError::invalid("no network to join is named"))?;
        let network = Arc::clone(self.controller.joinable(id)?);
        self.check_company(&network, joining.owner, present)?;
        self.controller.check_room(&network)?;
        check_hardware_address(&network, join)?;
        let options = self.controller.endpoint_options(join)?;
        self.warnings.extend(options.warnings);
        let made = self.claims.endpoint(id).cloned();
        let prefix = made.as_ref().and_then(|made| made.prefix.clone());
        let prefix = prefix.or(network.profile().interface_prefix);
        let interface = match (self.controller.named_interface(join)?, prefix) {
            (Some(name), _) => name,
            (None, Some(prefix)) => interfaces.next(&prefix)?,
            // There is no other interface on these.
            (None, None) => "lo".parse()?,
        };
        let sysctls: Vec<_> = options.sysctls.iter().map(|sysctl| sysctl.of(&interface)).collect();
        // What is said of the endpoint comes after what is said of the sandbox.
        let all = [joining.sysctls, &sysctls].concat();
        let wanted = Wanted { addresses: &join.addresses, ipv6: !lacks_ipv6(&all, &interface) };
        let endpoint = self.endpoint_id(made.as_ref(), joining.entropy)?;
        let sticky = || self.sticky_mac(&network, joining.owner, &endpoint);
        let mac = made.as_ref().and_then(|made| made.mac).or(join.mac).or_else(sticky);
        let mac = mac.unwrap_or_else(|| random_mac(joining.entropy));
        let holder = Holder { owner: joining.owner, mac: Some(mac), now: joining.now };
        Ok(Endpoint {
            id: endpoint,
            addresses: self.addresses(&network, &wanted, &holder)?,
            gateways: self.claims.lent(id).iter().filter_map(|lent| lent.gateway).collect(),
            network: id.clone(),
            sandbox: joining.sandbox.clone(),
            sysctls,
            interface,
            mac,
            aliases: join.aliases.clone(),
            gateway_priority: join.gateway_priority,
            order: present.last().map_or(0, |last| last.order + 1),
            default_route: !join.without_default_route,
            any_source: join.any_source,
            link_local: join.link_local.clone(),
            routes: join.routes.clone(),
            given_options: join.options.clone(),
            handover: made.and_then(|made| made.handover),
        })
    }

    /// Fails where the sandbox's other networks stand in the way of this one.
    fn check_company(
        &self,
        network: &Network,
        owner: &str,
        present: &[Arc<Endpoint>],
    ) -> Result<(), ControllerError> {
        if present.iter().any(|endpoint| endpoint.network == network.id) {
            return Err(ControllerError::forbidden(format!(
                "endpoint with name {} already exists in network {}",
                short(owner),
                network.name
            )));
        }
        let networks = present.iter().filter_map(|e| self.controller.networks.get(&e.network));
        let drivers: Vec<_> =
            networks.map(|network| network.driver).chain([network.driver]).collect();
        if drivers.len() > 1 && drivers.iter().any(|driver| driver.traits().is_none()) {
            return Err(ControllerError::forbidden(
                "container cannot be connected to multiple networks with one of the networks in \
                 private (none) mode",
            ));
        }
        Ok(())
    }

    /// An id whose host link's name nobody has, if it has none yet.
    fn endpoint_id(
        &mut self,
        made: Option<&ClaimedEndpoint>,
        entropy: &mut dyn Entropy,
    ) -> Result<EndpointId, ControllerError> {
        if let Some(made) = made {
            // Where it has no such link it does not matter who else has the name.
            let free = self.take_link(Endpoint::host_link_of(&made.id));
            if free || made.handover.is_some() {
                return Ok(made.id.clone());
            }
            let message = "the name of an endpoint's link is in use: try again";
            return Err(ControllerError::conflict(message));
        }
        for _ in 0..DRAWS {
            let id = EndpointId::from_random(entropy.bytes());
            if self.take_link(Endpoint::host_link_of(&id)) {
                return Ok(id);
            }
        }
        let message = format!("{DRAWS} random names for a host link are all in use");
        Err(ControllerError::new(Kind::Internal, message))
    }

    /// The addresses that were claimed for an endpoint on a network.
    fn claimed_addresses(
        &mut self,
        network: &Network,
        holder: &Holder<'_>,
    ) -> Result<Vec<IpNetwork>, ControllerError> {
        let mut addresses: Vec<IpNetwork> = Vec::new();
        for claimed in self.claims.lent(&network.id).iter().map(|lent| lent.address) {
            let family = claimed.is_ipv6();
            if addresses.iter().any(|address| address.is_ipv6() == family) {
                return Err(second_of_family(claimed.ip(), network));
            }
            // Where the network has no addresses of its own to give, nobody keeps track of them.
            let is_kept = network.pools.iter().any(|pool| pool.subnet.is_ipv6() == family);
            if is_kept {
                let taken = self.controller.ipam.take(&network.id, claimed.ip(), holder)?;
                addresses.push(self.took_address(&network.id, taken));
                continue;
            }
            self.controller.check_unclaimed(network, claimed.ip(), None)?;
            addresses.push(claimed);
        }
        Ok(addresses)
    }

    /// The wanted addresses, and any others for the families that none is wanted of. Where the user
    /// switched IPv6 off there is none of it, for nothing must leave by a way that nobody looks at.
    pub(super) fn addresses(
        &mut self,
        network: &Network,
        wanted: &Wanted<'_>,
        holder: &Holder<'_>,
    ) -> Result<Vec<IpNetwork>, ControllerError> {
        let mut addresses = self.claimed_addresses(network, holder)?;
        if network.addressing.is_lent() {
            return self.lent_addresses(network, wanted, holder, addresses);
        }
        addresses.retain(|address| wanted.ipv6 || address.is_ipv4());
        if network.addressing.is_claimed() {
            return self.cluster_addresses(network, wanted, holder, addresses);
        }
        for address in self.asked(network, wanted, &addresses)? {
            let taken = self.controller.ipam.take(&network.id, address, holder)?;
            addresses.push(self.took_address(&network.id, taken));
        }
        for ipv6 in [false, true] {
            let taken = addresses.iter().any(|address| address.is_ipv6() == ipv6);
            if taken || network.ipam.is_some() || (ipv6 && !wanted.ipv6) {
                continue;
            }
            if let Some(taken) = self.controller.ipam.allocate(&network.id, ipv6, holder)? {
                addresses.push(self.took_address(&network.id, taken));
            }
        }
        addresses.sort_by_key(IpNetwork::is_ipv6);
        Ok(addresses)
    }

    /// The wanted addresses that are not had yet, one of each family at most.
    pub(super) fn asked(
        &mut self,
        network: &Network,
        wanted: &Wanted<'_>,
        had: &[IpNetwork],
    ) -> Result<Vec<IpAddr>, ControllerError> {
        let mut all: Vec<_> = had.iter().map(IpNetwork::ip).collect();
        for address in wanted.addresses {
            if all.contains(address) {
                continue;
            }
            if address.is_ipv6() && !wanted.ipv6 {
                self.warnings.push(format!(
                    "{address} is not used on network {}: a sysctl switches IPv6 off",
                    network.name
                ));
                continue;
            }
            if all.iter().any(|other| other.is_ipv6() == address.is_ipv6()) {
                return Err(second_of_family(*address, network));
            }
            all.push(*address);
        }
        Ok(all.split_off(had.len()))
    }
}

/// Where endpoints share the parent's hardware address nobody has one of his own.
fn check_hardware_address(network: &Network, join: &JoinSpec) -> Result<(), ControllerError> {
    match join.mac {
        Some(mac) if !network.driver.has_hardware_addresses() => {
            Err(ControllerError::invalid(format!(
                "{} interfaces do not support custom mac address assignment: leave out {mac}",
                network.driver.name()
            )))
        }
        _ => Ok(()),
    }
}

fn second_of_family(address: IpAddr, network: &Network) -> ControllerError {
    ControllerError::invalid(format!(
        "{address} is a second address of its family on network {}: one is possible",
        network.name
    ))
}

fn random_mac(entropy: &mut dyn Entropy) -> Mac {
    let bytes = entropy.bytes();
    Mac::from_random(std::array::from_fn(|at| bytes[at]))
}
