//! What is written into the store: keys, and values as JSON.
//!
//! Ids are in the keys and names in the values. Every value has a version; one that is newer than
//! this program knows is left alone. New fields have defaults.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cnm::wireguard::PublicKey;
use cnm::{EndpointId, Mac, NetworkId};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The version of the records that this program writes.
pub const VERSION: u32 = 1;

/// A host of the cluster (`nodes/<id>`). It stays until somebody removes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// See [`VERSION`].
    pub version: u32,
    /// Its name.
    pub name: String,
    /// A small number that no other host has (`ix/number/<number>`).
    pub number: u32,
    /// Where tunnels to it end.
    pub address: IpAddr,
    /// The largest packet that its way to the others takes, in bytes.
    pub mtu: u32,
    /// How often it has booted, as far as it knows.
    pub epoch: u64,
    /// The version of its rnet.
    #[serde(default)]
    pub release: String,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What the others need to encrypt what they send it; nothing of a host that cannot, or whose release
    /// does not know how to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard: Option<KeyRecord>,
}

/// What a host is known by where what is sent is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The public half of its key.
    pub key: PublicKey,
    /// The UDP port that it listens at.
    pub port: u16,
}

/// That a host is there (`live/<id>`), bound to a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRecord {
    /// See [`VERSION`].
    pub version: u32,
    /// That of the host.
    pub epoch: u64,
    /// What tells two hosts apart that have the same id.
    pub instance: String,
}

/// A network (`networks/<id>`).
#[expect(clippy::struct_excessive_bools, reason = "independent properties, as users set them")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// See [`VERSION`].
    pub version: u32,
    /// Its name (`ix/net/<name>`).
    pub name: String,
    /// The driver's name.
    pub driver: String,
    /// The number of its tunnels (`ix/vni/<vni>`).
    pub vni: u32,
    /// The tunnels' UDP port.
    pub port: u16,
    /// When it was made, in nanoseconds since the Unix epoch.
    pub created: u64,
    /// Its pools.
    pub pools: Vec<cnm::Pool>,
    /// The options as they were given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether endpoints get IPv4 addresses.
    pub ipv4: bool,
    /// Whether endpoints get IPv6 addresses.
    pub ipv6: bool,
    /// Whether it is cut off from everything outside it.
    #[serde(default)]
    pub internal: bool,
    /// Whether single containers may join it.
    #[serde(default)]
    pub attachable: bool,
}

/// Whose an address is (`ipam/<network>/<address>`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRecord {
    /// See [`VERSION`].
    pub version: u32,
    /// The host.
    pub node: String,
    /// The epoch in which the host got it.
    pub epoch: u64,
    /// Who has it there: an endpoint, a stopped container that keeps it, or nobody yet.
    #[serde(default)]
    pub holder: Option<String>,
    /// Whether somebody wished for just this one: it is no spare afterwards.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wished: bool,
}

/// An endpoint (`eps/<network>/<id>`): what tunnels, neighbours and names are made of everywhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// See [`VERSION`].
    pub version: u32,
    /// The host that it is on.
    pub node: String,
    /// The epoch of the host.
    pub epoch: u64,
    /// Its hardware address.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: Vec<IpNetwork>,
    /// The container's name.
    pub name: String,
    /// The container's id.
    #[serde(default)]
    pub container: String,
    /// Other names that it has on this network.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// What the whole store is in (`meta/schema`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRecord {
    /// The version that the first host of the cluster wrote.
    pub version: u32,
    /// The least version that a host must know.
    #[serde(default)]
    pub least: u32,
}

/// Which cluster this is (`meta/identity`): a store that lost its data has none, or an old one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRecord {
    /// See [`VERSION`].
    pub version: u32,
    /// Made at random by the first host.
    pub id: String,
    /// How often the store was set back, and somebody said that the hosts know better.
    #[serde(default)]
    pub generation: u64,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read<T> {
    /// It is this.
    Record(T),
    /// It cannot be read, and why.
    Not(String),
}

/// What every record has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Reads a record, unless a later release wrote it.
pub fn read<T: serde::de::DeserializeOwned>(value: &[u8]) -> Read<T> {
    match serde_json::from_slice::<Versioned>(value) {
        Ok(Versioned { version }) if version > VERSION => Read::Not(format!(
            "it is of version {version}, and this release knows {VERSION} and earlier ones"
        )),
        Ok(_) => match serde_json::from_slice(value) {
            Ok(record) => Read::Record(record),
            Err(error) => Read::Not(error.to_string()),
        },
        Err(error) => Read::Not(error.to_string()),
    }
}

impl<T> Read<T> {
    /// The record, if it is one.
    pub fn ok(self) -> Option<T> {
        match self {
            Self::Record(record) => Some(record),
            Self::Not(_) => None,
        }
    }
}

/// A record as it is written.
pub fn write<T: Serialize>(record: &T) -> Vec<u8> {
    // Our records have nothing in them that JSON has not.
    serde_json::to_vec(record).unwrap_or_default()
}

/// Where all records of a cluster are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(String);

impl Keys {
    /// Those of the cluster with a name.
    pub fn of(cluster: &str) -> Self {
        Self(format!("/rnet/v1/{cluster}/"))
    }

    /// What all of them begin with.
    pub fn root(&self) -> &str {
        &self.0
    }

    /// What the store is in.
    pub fn schema(&self) -> String {
        format!("{}meta/schema", self.0)
    }

    /// Which cluster it is.
    pub fn identity(&self) -> String {
        format!("{}meta/identity", self.0)
    }

    /// What all keys about the cluster itself begin with.
    pub fn meta(&self) -> String {
        format!("{}meta/", self.0)
    }

    /// What all hosts' records begin with.
    pub fn nodes(&self) -> String {
        format!("{}nodes/", self.0)
    }

    /// What all keys begin with that say who is there.
    pub fn lives(&self) -> String {
        format!("{}live/", self.0)
    }

    /// What all networks' records begin with.
    pub fn networks(&self) -> String {
        format!("{}networks/", self.0)
    }

    /// All addresses of all networks.
    pub fn all_addresses(&self) -> String {
        format!("{}ipam/", self.0)
    }

    /// All endpoints of all networks.
    pub fn all_endpoints(&self) -> String {
        format!("{}eps/", self.0)
    }

    /// Who has which hardware address on any network.
    pub fn all_macs(&self) -> String {
        format!("{}ix/mac/", self.0)
    }

    /// Which endpoints of a network have a hardware address that somebody chose.
    pub fn macs(&self, network: &NetworkId) -> String {
        format!("{}ix/mac/{network}/", self.0)
    }

    /// Who has a hardware address.
    pub fn mac(&self, network: &NetworkId, mac: Mac) -> String {
        format!("{}{mac}", self.macs(network))
    }

    /// A host's record.
    pub fn node(&self, id: &str) -> String {
        format!("{}nodes/{id}", self.0)
    }

    /// That a host is there.
    pub fn live(&self, id: &str) -> String {
        format!("{}live/{id}", self.0)
    }

    /// Who has a number.
    pub fn number(&self, number: u32) -> String {
        format!("{}ix/number/{number}", self.0)
    }

    /// A network's record.
    pub fn network(&self, id: &NetworkId) -> String {
        format!("{}networks/{id}", self.0)
    }

    /// Which network has a name.
    pub fn network_name(&self, name: &str) -> String {
        format!("{}ix/net/{name}", self.0)
    }

    /// Which network has a tunnel number.
    pub fn vni(&self, vni: u32) -> String {
        format!("{}ix/vni/{vni}", self.0)
    }

    /// What all keys begin with that say which network has a tunnel number.
    pub fn vnis(&self) -> String {
        format!("{}ix/vni/", self.0)
    }

    /// What changes with the set of all subnets.
    pub fn subnets(&self) -> String {
        format!("{}ix/subnets", self.0)
    }

    /// All addresses of a network that are somebody's.
    pub fn addresses(&self, network: &NetworkId) -> String {
        format!("{}ipam/{network}/", self.0)
    }

    /// Whose an address is.
    pub fn address(&self, network: &NetworkId, address: IpAddr) -> String {
        format!("{}{address}", self.addresses(network))
    }

    /// All endpoints of a network.
    pub fn endpoints(&self, network: &NetworkId) -> String {
        format!("{}eps/{network}/", self.0)
    }

    /// An endpoint's record.
    pub fn endpoint(&self, network: &NetworkId, id: &EndpointId) -> String {
        format!("{}{id}", self.endpoints(network))
    }
}
