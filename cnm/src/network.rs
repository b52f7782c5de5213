//! Networks: what can be joined.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::driver::{Driver, Profile};
use crate::options::OptionError;
use crate::{LinkName, NetworkId};

/// A network: a set of endpoints that reach each other.
#[expect(clippy::struct_excessive_bools, reason = "independent properties, as users set them")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its identity.
    pub id: NetworkId,
    /// Its unique name.
    pub name: String,
    /// Creation time, nanoseconds since the Unix epoch.
    pub created: u64,
    /// The driver that realises it.
    pub driver: &'static dyn Driver,
    /// The options as they were given (`-o key=value`), the daemon's defaults included. What they
    /// mean is for the driver to say.
    pub given_options: BTreeMap<String, String>,
    /// Who gives its endpoints their addresses.
    pub addressing: Addressing,
    /// The plugin that its pools, and addresses of those, are from.
    pub ipam: Option<IpamPlugin>,
    /// What was asked of who gives its addresses (`--ipam-opt`) where that is no plugin, if anybody said
    /// anything: nothing comes of it.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Whether its device was there before it, is somebody else's, and stays after it.
    pub borrowed: bool,
    /// Address pools, in the order they were given; empty where addresses do not come from pools.
    pub pools: Vec<Pool>,
    /// Whether endpoints get IPv4 addresses.
    pub ipv4: bool,
    /// Whether endpoints get IPv6 addresses.
    pub ipv6: bool,
    /// Whether the network is cut off from everything outside it.
    pub internal: bool,
    /// Whether single containers may join a cluster-wide network (kept for `inspect`).
    pub attachable: bool,
    /// Whether it is one of the predefined networks bridge, host and none.
    pub predefined: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The link of the host that it is on, if its driver puts it on one.
    pub parent: Option<Parent>,
    /// The MTU of the host's way out, as far as it is known: the daemon's to tell, and no part of a
    /// record.
    pub egress_mtu: Option<u32>,
    /// How its parts on other hosts are reached, if it is one of a cluster's.
    pub tunnel: Option<Tunnel>,
}

/// How the parts of a network on several hosts are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The number by which its frames are known from those of others, of 24 bits.
    pub vni: u32,
    /// The UDP port that they are sent to.
    pub port: u16,
    /// The address of this host that they are sent from. The daemon tells it if it is another one.
    pub local: IpAddr,
    /// Whether they go by the link that encrypts, and by no other: then the address is the one in there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
    /// The largest packet that the ways to all other hosts take, as far as it is known: the daemon's to
    /// tell, and no part of a record.
    #[serde(skip)]
    pub mtu: Option<u32>,
}

/// A link of the host that networks are on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its name.
    pub link: LinkName,
    /// Whether it is ours: it was not there, and goes with the last network that is on it.
    #[serde(default)]
    pub made: bool,
    /// The MTU of the network's links, where it is less than that of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// Who gives the endpoints of a network their addresses (`--ipam-driver`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Addressing {
    /// We do, from the network's pools.
    #[default]
    #[serde(rename = "default")]
    Pools,
    /// Nobody: what is in a sandbox sees to it itself.
    #[serde(rename = "null")]
    Nobody,
    /// Servers that the network leads to lend them.
    #[serde(rename = "dhcp")]
    Dhcp,
    /// The cluster that the network is of does, from the network's pools: an address is this host's
    /// before an endpoint gets it.
    #[serde(rename = "cluster")]
    Cluster,
}

impl Addressing {
    /// All that users can name.
    pub const ALL: [Self; 3] = [Self::Pools, Self::Nobody, Self::Dhcp];

    /// The name that users write and read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pools | Self::Cluster => "default",
            Self::Nobody => "null",
            Self::Dhcp => "dhcp",
        }
    }

    /// Whether addresses are somebody else's, who lends them for a time and may lend others later.
    pub fn is_lent(self) -> bool {
        self == Self::Dhcp
    }

    /// Whether an address has to be had of others before an endpoint is there.
    pub fn is_claimed(self) -> bool {
        matches!(self, Self::Dhcp | Self::Cluster)
    }

    /// Whether there is one of the name, without any plugin.
    pub fn is_known(name: &str) -> bool {
        Self::parse(name).is_some()
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::Pools),
            "none" => Some(Self::Nobody),
            _ => Self::ALL.into_iter().find(|known| known.name() == text),
        }
    }
}

/// A plugin that gives a network its pools, and its endpoints addresses of those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamPlugin {
    /// Its name.
    pub name: String,
    /// The options that it was told (`--ipam-opt`).
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Its address space.
    #[serde(default)]
    pub space: String,
    /// What it calls the pools, in their order.
    pub pools: Vec<String>,
}

/// One subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The subnet; the network address, without host bits.
    pub subnet: IpNetwork,
    /// The part of the subnet that addresses are handed out from; all of it if absent.
    pub range: Option<IpNetwork>,
    /// The address of the bridge, and the endpoints' gateway.
    pub gateway: Option<IpAddr>,
    /// Addresses that are never handed out, by their names.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Whether it was taken from the default pools: made anew, the network may get another one.
    #[serde(default)]
    pub automatic: bool,
}

/// What a user asks for when creating a network. Nothing in it has been checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSpec {
    /// The name.
    pub name: String,
    /// The driver's name; `bridge` if empty.
    pub driver: String,
    /// Whether the driver is a plugin that was found.
    pub plugin: bool,
    /// Its id, where somebody was told it already.
    pub id: Option<NetworkId>,
    /// The plugin that gave the pools below.
    pub ipam: Option<IpamPlugin>,
    /// What makes it a network of a cluster, which gave the pools below.
    pub tunnel: Option<Tunnel>,
    /// Options of the IPAM driver, if anybody said that there are some or none.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// The IPAM driver's name; `default` if empty.
    pub ipam_driver: String,
    /// Requested pools; a pool of the default ones is taken for a family without any.
    pub pools: Vec<PoolSpec>,
    /// Whether to have IPv4; the default is yes.
    pub ipv4: Option<bool>,
    /// Whether to have IPv6; the default is no, unless an IPv6 pool is given.
    pub ipv6: Option<bool>,
    /// See [`Network::internal`].
    pub internal: bool,
    /// See [`Network::attachable`].
    pub attachable: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A requested address pool, as text: the controller parses it so that its errors name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSpec {
    /// The subnet, such as `10.1.0.0/24`; `0.0.0.0/24` asks for any free subnet of that size.
    pub subnet: Option<String>,
    /// `--ip-range`.
    pub range: Option<String>,
    /// `--gateway`.
    pub gateway: Option<String>,
    /// `--aux-address name=address`.
    pub auxiliary: BTreeMap<String, String>,
}

impl Pool {
    /// The gateway of the endpoints' default route: the auxiliary address that has Docker's name for
    /// it, or the gateway.
    pub fn leads_via(&self) -> Option<IpAddr> {
        let name = if self.subnet.is_ipv6() { "DefaultGatewayIPv6" } else { "DefaultGatewayIPv4" };
        self.auxiliary.get(name).copied().or(self.gateway)
    }
}

/// The option, of networks of every driver, that names the resolvers to ask outside.
pub const DNS: &str = "rnet.dns";

/// The resolvers that a network's options name.
pub fn resolvers(options: &BTreeMap<String, String>) -> Result<Vec<IpAddr>, OptionError> {
    let Some(text) = options.get(DNS) else { return Ok(Vec::new()) };
    let parsed: Result<_, _> = text.split(',').map(|part| part.trim().parse()).collect();
    parsed.map_err(|_: std::net::AddrParseError| OptionError::Value {
        option: DNS.to_owned(),
        value: text.clone(),
        expected: "a list of IP addresses, with commas between them,",
    })
}

/// The options that are for the driver.
pub fn own_options(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let own = options.iter().filter(|(name, _)| *name != DNS);
    own.map(|(name, value)| (name.clone(), value.clone())).collect()
}

impl Network {
    /// The resolvers to ask outside, for who has none of its own (`rnet.dns`); those of the daemon if
    /// there are none.
    pub fn resolvers(&self) -> Vec<IpAddr> {
        // That they can be read was checked when the network was made.
        resolvers(&self.given_options).unwrap_or_default()
    }

    /// What its driver says of it.
    pub fn profile(&self) -> Profile {
        self.driver.profile(self)
    }

    /// Whether its parent is ours.
    pub fn made_parent(&self) -> Option<&LinkName> {
        self.parent.as_ref().filter(|parent| parent.made).map(|parent| &parent.link)
    }

    /// The pool that contains the address.
    pub fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.subnet.contains(address))
    }

    /// Its subnets, for people, or `none`. In the order of their addresses, IPv4 first: clients ask
    /// for several in any order.
    pub fn subnets(&self) -> String {
        let mut all: Vec<_> = self.pools.iter().map(|pool| pool.subnet).collect();
        all.sort();
        let all: Vec<_> = all.iter().map(ToString::to_string).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    }
}
