//! What a plugin that gives addresses is asked: `IpamDriver.*`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cnm::Mac;
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::network::{Done, read};
use super::{CallError, Plugin};

/// How plugins are told what an address is for.
const PURPOSE: &str = "RequestAddressType";

/// A gateway, as the purpose of an address, and as what comes with a pool.
const GATEWAY: &str = "com.docker.network.gateway";

/// What a plugin wants to know before it gives addresses.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Wishes {
    /// The hardware address.
    #[serde(rename = "RequiresMACAddress")]
    pub(crate) mac: bool,
    /// All it was asked for by an earlier daemon.
    #[serde(rename = "RequiresRequestReplay")]
    pub(crate) replay: bool,
}

/// A pool that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WantedPool<'a> {
    pub(crate) space: &'a str,
    /// The subnet, and the part of it that addresses are given from; empty for any.
    pub(crate) subnet: &'a str,
    pub(crate) range: &'a str,
    pub(crate) options: &'a BTreeMap<String, String>,
    pub(crate) ipv6: bool,
}

/// A pool that was given.
#[derive(Debug)]
pub(crate) struct GivenPool {
    /// What the plugin calls it.
    pub(crate) id: String,
    pub(crate) subnet: IpNetwork,
    /// The gateway, if it came with the pool.
    pub(crate) gateway: Option<IpNetwork>,
}

/// What an address is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// The network's gateway.
    Gateway,
    /// To be set aside by the user.
    Auxiliary,
    /// An endpoint, with its hardware address where the plugin wants to know that.
    Endpoint(Option<Mac>),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spaces {
    #[serde(rename = "LocalDefaultAddressSpace")]
    local: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PoolReply {
    #[serde(rename = "PoolID")]
    id: String,
    #[serde(rename = "Pool")]
    subnet: String,
    #[serde(rename = "Data")]
    data: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AddressReply {
    #[serde(rename = "Address")]
    address: String,
}

impl Plugin {
    /// What it wants to know.
    pub(super) fn ask_wishes(&self) -> Result<Wishes, CallError> {
        match self.call("IpamDriver.GetCapabilities", None) {
            // Those that were written before there was this call have no wishes.
            Err(CallError::Refused(_)) => Ok(Wishes::default()),
            answer => answer,
        }
    }

    /// The address space of networks on one host.
    pub(crate) fn address_space(&self) -> Result<String, CallError> {
        let spaces: Spaces = self.call("IpamDriver.GetDefaultAddressSpaces", None)?;
        Ok(spaces.local)
    }

    /// Asks for a pool.
    pub(crate) fn request_pool(&self, wanted: &WantedPool<'_>) -> Result<GivenPool, CallError> {
        const METHOD: &str = "IpamDriver.RequestPool";
        let body = json!({
            "AddressSpace": wanted.space,
            "Pool": wanted.subnet,
            "SubPool": wanted.range,
            "Options": wanted.options,
            "V6": wanted.ipv6,
        });
        let reply: PoolReply = self.call(METHOD, Some(&body))?;
        let subnet = read::<IpNetwork>(&reply.subnet, "a subnet")?;
        let subnet = subnet.and_then(|net| IpNetwork::new(net.network(), net.prefix()).ok());
        let nothing = || CallError::Refused(format!("{METHOD}: the plugin gives no pool"));
        let data = reply.data.unwrap_or_default();
        let gateway = data.get(GATEWAY).map(String::as_str).unwrap_or_default();
        let gateway = read::<IpNetwork>(gateway, "an address with a prefix length")?;
        Ok(GivenPool { id: reply.id, subnet: subnet.ok_or_else(nothing)?, gateway })
    }

    /// Gives a pool back.
    pub(crate) fn release_pool(&self, pool: &str) -> Result<(), CallError> {
        self.call::<Done>("IpamDriver.ReleasePool", Some(&json!({"PoolID": pool}))).map(drop)
    }

    /// Asks for an address of a pool: this one, or any.
    pub(crate) fn request_address(
        &self,
        pool: &str,
        address: Option<IpAddr>,
        purpose: Purpose,
    ) -> Result<IpNetwork, CallError> {
        const METHOD: &str = "IpamDriver.RequestAddress";
        let mac = |mac: Mac| json!({"com.docker.network.endpoint.macaddress": mac.to_string()});
        let options = match purpose {
            Purpose::Gateway => json!({PURPOSE: GATEWAY}),
            Purpose::Endpoint(Some(address)) => mac(address),
            Purpose::Auxiliary | Purpose::Endpoint(None) => Value::Null,
        };
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        let body = json!({"PoolID": pool, "Address": address, "Options": options});
        let reply: AddressReply = self.call(METHOD, Some(&body))?;
        let given = read(&reply.address, "an address with a prefix length")?;
        given.ok_or_else(|| CallError::Refused("no address returned".to_owned()))
    }

    /// Gives an address back.
    pub(crate) fn release_address(&self, pool: &str, address: IpAddr) -> Result<(), CallError> {
        let mut body = Map::new();
        body.insert("PoolID".to_owned(), json!(pool));
        body.insert("Address".to_owned(), json!(address.to_string()));
        let body = Value::Object(body);
        self.call::<Done>("IpamDriver.ReleaseAddress", Some(&body)).map(drop)
    }
}
