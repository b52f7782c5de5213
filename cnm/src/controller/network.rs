//! Creating and removing networks.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::draft::Draft;
use super::intent::{Change, Transition};
use super::parent::gateway_warnings;
use super::subnet::{Subnet, disabled, pool};
use super::{Controller, ControllerError, Entropy, HostFacts, HostLink, Subject, Transaction};
use crate::driver::{Driver, Reading};
use crate::ipam::pools::{Supply, overlapped, taken_by_host};
use crate::ipam::range::{overlap, span};
use crate::ipam::short;
use crate::name::check_network;
use crate::network::{Addressing, PoolSpec, own_options, resolvers};
use crate::{Endpoint, Kind, Network, NetworkId, NetworkSpec, Pool};

/// Names that mean something of their own where a network is named.
const PREDEFINED_NAMES: [&str; 4] = ["bridge", "host", "none", "default"];

/// Who makes a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    User,
    Predefined,
}

impl Controller {
    /// Begins to create a network. `now` is in nanoseconds since the Unix epoch.
    pub fn begin_create_network(
        &mut self,
        spec: &NetworkSpec,
        host: &HostFacts,
        entropy: &mut dyn Entropy,
        now: u64,
    ) -> Result<(Arc<Network>, Transaction), ControllerError> {
        if PREDEFINED_NAMES.contains(&spec.name.as_str()) {
            let message = format!("operation is not permitted on predefined {} network", spec.name);
            return Err(ControllerError::forbidden(message));
        }
        self.create(Origin::User, spec, host, entropy, now)
    }

    /// Begins to create one of the networks bridge, host and none that every daemon has. They
    /// cannot be removed, and their names are free for nothing else.
    pub fn begin_create_predefined(
        &mut self,
        spec: &NetworkSpec,
        host: &HostFacts,
        entropy: &mut dyn Entropy,
        now: u64,
    ) -> Result<(Arc<Network>, Transaction), ControllerError> {
        self.create(Origin::Predefined, spec, host, entropy, now)
    }

    /// Begins to remove a network. Fails with [`Kind::Forbidden`] while it has endpoints or is predefined.
    pub fn begin_remove_network(&mut self, id: &NetworkId) -> Result<Transaction, ControllerError> {
        let network = self.networks.get(id).cloned();
        let network = network.ok_or_else(|| ControllerError::not_found("network", id))?;
        if network.predefined {
            let message =
                format!("{} is a pre-defined network and cannot be removed", network.name);
            return Err(ControllerError::forbidden(message));
        }
        self.check_idle(&Subject::Network(id.clone()))?;
        self.check_unused(&network)?;
        let change = Change::Network(Transition::Remove(network));
        Draft::new(self).open(change, 0)
    }

    /// Begins to remove a predefined network, for a daemon that is configured anew: the one way
    /// to give the network `bridge` another subnet. Fails while it has endpoints.
    pub fn begin_remove_predefined(
        &mut self,
        id: &NetworkId,
    ) -> Result<Transaction, ControllerError> {
        let network = self.networks.get(id).cloned();
        let network = network.ok_or_else(|| ControllerError::not_found("network", id))?;
        self.check_idle(&Subject::Network(id.clone()))?;
        self.check_unused(&network)?;
        Draft::new(self).open(Change::Network(Transition::Remove(network)), 0)
    }

    fn check_unused(&self, network: &Network) -> Result<(), ControllerError> {
        let is_here = |endpoint: &Arc<Endpoint>| endpoint.network == network.id;
        let coming = self.open_changes().filter_map(|change| change.sandboxes().1);
        let members = self.members.get(&network.id);
        if members.is_none_or(BTreeMap::is_empty)
            && !coming.flat_map(|live| &live.endpoints).any(is_here)
        {
            return Ok(());
        }
        let live = self.sandboxes.values();
        let live = live.chain(self.open_changes().filter_map(|change| change.sandboxes().1));
        let mut users = BTreeMap::new();
        for live in live {
            let endpoints = live.endpoints.iter().filter(|endpoint| is_here(endpoint));
            users.extend(endpoints.map(|e| (&e.id, &live.sandbox.owner)));
        }
        if users.is_empty() {
            return Ok(());
        }
        let endpoint = |(id, owner): (&crate::EndpointId, &String)| {
            format!("name:\"{}\" id:\"{}\"", short(owner), id.short())
        };
        Err(ControllerError::forbidden(format!(
            "error while removing network: network {} has active endpoints ({})",
            network.name,
            users.into_iter().map(endpoint).collect::<Vec<_>>().join(", ")
        )))
    }

    fn create(
        &mut self,
        origin: Origin,
        spec: &NetworkSpec,
        host: &HostFacts,
        entropy: &mut dyn Entropy,
        now: u64,
    ) -> Result<(Arc<Network>, Transaction), ControllerError> {
        let driver = self.driver(spec)?;
        check_network(&spec.name)?;
        self.check_name(&spec.name)?;
        self.check_single(driver, origin)?;
        let id = NetworkId::from_random(entropy.bytes());
        let id = spec.id.clone().unwrap_or(id);
        let mut given = self.config.default_options.get(driver.name()).cloned().unwrap_or_default();
        given.extend(spec.options.clone());
        resolvers(&given)?;
        let mut reading = driver.read(&own_options(&given))?;
        let families = Families::of(spec, driver, &reading)?;
        let mut network = Network {
            id,
            name: spec.name.clone(),
            created: now,
            driver,
            given_options: given,
            addressing: families.addressing,
            ipam: spec.ipam.clone(),
            ipam_options: idle_options(spec),
            borrowed: false,
            pools: Vec::new(),
            ipv4: families.ipv4,
            ipv6: families.ipv6,
            internal: reading.internal.unwrap_or(spec.internal),
            attachable: spec.attachable,
            predefined: origin == Origin::Predefined,
            labels: spec.labels.clone(),
            parent: None,
            egress_mtu: self.egress_mtu,
            tunnel: self.tunnel_of(spec, &reading),
        };
        network.borrowed = borrows(&network, host)?;
        driver.check(&network)?;
        reading.warnings.extend(without_effect(&network));
        reading.warnings.extend(self.place(&mut network, host)?);
        self.check_device(&network)?;
        if families.pools {
            network.pools = self.pools(&network, &spec.pools, host, entropy)?;
        }
        if origin == Origin::User {
            reading.warnings.extend(gateway_warnings(&network));
            reading.warnings.extend(overlap_warnings(&network, spec, host));
        }
        let network = Arc::new(network);
        let mut draft = Draft::new(self);
        draft.warnings = reading.warnings;
        let change = Change::Network(Transition::Create(Arc::clone(&network)));
        let transaction = draft.open(change, now)?;
        self.taken.add(&network);
        Ok((network, transaction))
    }

    fn check_name(&self, name: &str) -> Result<(), ControllerError> {
        if !self.taken.names.contains_key(name) {
            return Ok(());
        }
        Err(ControllerError::conflict(format!("network with name {name} already exists")))
    }

    /// There is one host, and one way to have no network.
    fn check_single(
        &self,
        driver: &'static dyn Driver,
        origin: Origin,
    ) -> Result<(), ControllerError> {
        let exists = || self.all_networks().any(|network| network.driver == driver);
        if !driver.traits().single || (origin == Origin::Predefined && !exists()) {
            return Ok(());
        }
        let message = format!("only one instance of \"{}\" network is allowed", driver.name());
        Err(ControllerError::forbidden(message))
    }

    /// No two networks have the same device.
    fn check_device(&self, network: &Network) -> Result<(), ControllerError> {
        let Some(device) = network.profile().device else { return Ok(()) };
        self.taken.device(&device).map_or(Ok(()), |(id, name)| {
            Err(ControllerError::forbidden(format!(
                "conflicts with network {id} ({name}): networks have same bridge name {device}"
            )))
        })
    }

    /// The driver that a network is to have.
    fn driver(&self, spec: &NetworkSpec) -> Result<&'static dyn Driver, ControllerError> {
        let name = &spec.driver;
        // A driver of a plugin stays for ever: not for a name that no plugin has.
        let remote = || if spec.plugin { self.planner.remote(name) } else { None };
        self.planner.driver(name).or_else(remote).ok_or_else(|| {
            let known: Vec<_> = self.planner.drivers().iter().map(|known| known.name()).collect();
            let known = known.join(", ");
            let message = format!(
                "could not find driver {name}: plugin \"{name}\" not found; known drivers are {known}"
            );
            ControllerError::new(Kind::NotFound, message)
        })
    }

    /// All networks, those being created and removed included.
    pub(super) fn all_networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        let created = self.open_changes().filter_map(|change| match change {
            Change::Network(
                Transition::Create(network) | Transition::Change { after: network, .. },
            ) => Some(network),
            _ => None,
        });
        self.networks.values().chain(created)
    }

    /// The pools of a network: those asked for, and one of the default ones for a family without.
    fn pools(
        &mut self,
        network: &Network,
        specs: &[PoolSpec],
        host: &HostFacts,
        entropy: &mut dyn Entropy,
    ) -> Result<Vec<Pool>, ControllerError> {
        let mut pools: Vec<Pool> = Vec::new();
        let families = [(false, network.ipv4), (true, network.ipv6)];
        let mut wanted: Vec<(Subnet, &PoolSpec)> = Vec::new();
        let nothing = PoolSpec::default();
        for spec in specs {
            wanted.push((Subnet::parse(spec)?, spec));
        }
        for (ipv6, _) in families.into_iter().filter(|(_, enabled)| *enabled) {
            if !wanted.iter().any(|(subnet, _)| subnet.is_ipv6() == ipv6) {
                wanted.push((Subnet::Any { ipv6, prefix: None }, &nothing));
            }
        }
        for (subnet, spec) in wanted {
            if !network.ipv4 && !subnet.is_ipv6() || !network.ipv6 && subnet.is_ipv6() {
                return Err(disabled(spec));
            }
            let subnet = match subnet {
                Subnet::This(subnet) => self.check_free(subnet, &pools)?,
                Subnet::Any { ipv6, prefix } => {
                    self.free_subnet(ipv6, prefix, &pools, host, entropy)?
                }
            };
            pools.push(pool(network, subnet, spec)?);
        }
        Ok(pools)
    }

    /// Fails if the subnet overlaps one of another network, or another one of the same.
    pub(super) fn check_free(
        &self,
        subnet: IpNetwork,
        own: &[Pool],
    ) -> Result<IpNetwork, ControllerError> {
        let refuse = |other: IpNetwork, whose: String| {
            ControllerError::forbidden(format!(
                "Pool overlaps with other one on this address space: \
                 {subnet} overlaps {other} of {whose}; choose another --subnet"
            ))
        };
        if let Some(pool) = own.iter().find(|pool| overlap(pool.subnet, subnet)) {
            return Err(refuse(pool.subnet, "the same network".to_owned()));
        }
        self.taken
            .overlapping(subnet)
            .map_or(Ok(subnet), |(other, name)| Err(refuse(*other, format!("network {name}"))))
    }

    /// A subnet from the default pools that nobody uses.
    pub(super) fn free_subnet(
        &mut self,
        ipv6: bool,
        prefix: Option<u8>,
        own: &[Pool],
        host: &HostFacts,
        entropy: &mut dyn Entropy,
    ) -> Result<IpNetwork, ControllerError> {
        let mut supernets = self.config.default_pools.clone();
        if ipv6 && !supernets.iter().any(|(net, _)| net.is_ipv6()) {
            supernets.push((*self.ula.get_or_insert_with(|| ula(entropy.bytes())), 64));
        }
        let own = own.iter().map(|pool| pool.subnet).filter(|net| net.is_ipv6() == ipv6);
        let own = own.map(|subnet| span(subnet).into_inner());
        let taken = self.taken.spans(ipv6).iter().chain(own).chain(taken_by_host(host, ipv6));
        let taken: Vec<_> = taken.collect();
        let supply = Supply { supernets: &supernets, taken: &taken };
        supply.first_free(ipv6, prefix).ok_or_else(|| {
            let family = supernets.iter().filter(|(net, _)| net.is_ipv6() == ipv6);
            let list: Vec<String> = family.map(|(net, _)| net.to_string()).collect();
            let size = prefix.map(|prefix| format!(" of size /{prefix}")).unwrap_or_default();
            ControllerError::invalid(format!(
                "all predefined address pools have been fully subnetted: no subnet{size} is free \
                 in {}; choose one with --subnet, remove unused networks, or start the daemon \
                 with more --default-address-pool",
                if list.is_empty() { "any pool".to_owned() } else { list.join(", ") }
            ))
        })
    }
}

/// Whether the network's device is there already and somebody else's. That is of use to a network whose
/// addresses are not ours to give; any other one would change what its owner has made.
fn borrows(network: &Network, host: &HostFacts) -> Result<bool, ControllerError> {
    let foreign = |link: &HostLink| link.bridge && link.tag.is_none();
    let there = network.profile().device;
    let there = there.filter(|device| host.links.get(device).is_some_and(foreign));
    match there {
        Some(device) if network.addressing == Addressing::Pools => {
            Err(ControllerError::conflict(format!(
                "bridge {device} is there already and is not rnet's: choose another \
                 com.docker.network.bridge.name, or join what is there with --ipam-driver dhcp or \
                 --ipam-driver null"
            )))
        }
        there => Ok(there.is_some()),
    }
}

/// A unique local /48: `fd`, and 40 random bits (RFC 4193).
fn ula(random: [u8; 32]) -> IpNetwork {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&random[..5]);
    IpNetwork::new(Ipv6Addr::from(octets).into(), 48)
        .unwrap_or_else(|_| unreachable!("48 is a prefix length"))
}

/// Which families a network has.
#[derive(Clone, Copy, Debug)]
struct Families {
    ipv4: bool,
    ipv6: bool,
    addressing: Addressing,
    /// Whether there are pools that endpoints get addresses of.
    pools: bool,
}

impl Families {
    fn of(
        spec: &NetworkSpec,
        driver: &dyn Driver,
        options: &Reading,
    ) -> Result<Self, ControllerError> {
        let addressing = addressing(spec, driver)?;
        let traits = driver.traits();
        let ours = matches!(addressing, Addressing::Pools | Addressing::Cluster);
        let pools = ours && traits.addresses;
        let any_v6 = spec.pools.iter().filter_map(|pool| pool.subnet.as_deref());
        let any_v6 = any_v6.into_iter().any(|subnet| subnet.contains(':'));
        let ipv4 = spec.ipv4.or(options.ipv4).unwrap_or(true);
        let ipv6 = spec.ipv6.or(options.ipv6).unwrap_or(any_v6);
        if traits.addresses && !ipv4 && !ipv6 {
            return Err(ControllerError::invalid("IPv4 or IPv6 must be enabled"));
        }
        if addressing.is_lent() && (ipv6 || !ipv4) {
            return Err(ControllerError::invalid(format!(
                "IPAM driver {} gives IPv4 addresses only: leave out --ipv6 and --ipv4=false",
                addressing.name()
            )));
        }
        Ok(Self { ipv4, ipv6, addressing, pools })
    }
}

/// Who gives a network's endpoints their addresses. Only one who has pools takes subnets.
fn addressing(spec: &NetworkSpec, driver: &dyn Driver) -> Result<Addressing, ControllerError> {
    let other = &spec.ipam_driver;
    let addressing = Addressing::parse(other).ok_or_else(|| {
        let known = Addressing::ALL.map(Addressing::name).join(", ");
        let message = format!(
            "could not find IPAM driver {other}: plugin \"{other}\" not found; \
             known IPAM drivers are {known}"
        );
        ControllerError::new(Kind::NotFound, message)
    })?;
    let addressing = match (addressing, spec.tunnel) {
        (Addressing::Pools, Some(_)) => Addressing::Cluster,
        (addressing, _) => addressing,
    };
    let name = driver.name();
    if addressing.is_lent() && !driver.traits().addresses {
        let message = format!("driver {name} has no addresses: leave out --ipam-driver");
        return Err(ControllerError::invalid(message));
    }
    let own = matches!(addressing, Addressing::Pools | Addressing::Cluster);
    if spec.pools.is_empty() || (own && driver.traits().addresses) {
        return Ok(addressing);
    }
    Err(ControllerError::invalid(match addressing {
        Addressing::Pools | Addressing::Cluster => {
            format!("driver {name} takes no subnets: leave out --subnet")
        }
        // Docker's words come first.
        Addressing::Nobody => "null ipam driver does not handle specific address pool requests: \
                               leave out --subnet"
            .to_owned(),
        Addressing::Dhcp => {
            "IPAM driver dhcp takes no subnets: leave out --subnet; the DHCP server \
                             has them"
                .to_owned()
        }
    }))
}

/// Options of an IPAM driver that is ours and has none: Docker takes any of them, and tells them.
fn idle_options(spec: &NetworkSpec) -> Option<BTreeMap<String, String>> {
    spec.ipam_options.clone().filter(|_| spec.ipam.is_none())
}

fn without_effect(network: &Network) -> Option<String> {
    let options: Vec<_> =
        network.ipam_options.iter().flatten().map(|(name, _)| name.as_str()).collect();
    (!options.is_empty()).then(|| {
        let name = network.addressing.name();
        format!("IPAM driver {name} has no options: {} has no effect", options.join(", "))
    })
}

/// What a network that was asked for makes unreachable.
fn overlap_warnings(network: &Network, spec: &NetworkSpec, host: &HostFacts) -> Vec<String> {
    let asked = |pool: &&Pool| {
        let texts = spec.pools.iter().filter_map(|wanted| wanted.subnet.as_deref());
        texts.into_iter().any(|text| text.parse() == Ok(pool.subnet))
    };
    let warning = |pool: &Pool| {
        let other = overlapped(pool.subnet, host)?;
        Some(format!("subnet {} overlaps {other}: one of them will be out of reach", pool.subnet))
    };
    network.pools.iter().filter(asked).filter_map(warning).collect()
}
