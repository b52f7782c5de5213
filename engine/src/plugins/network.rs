//! What a plugin that makes networks is asked: `NetworkDriver.*`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine;
use cnm::controller::PortSpec;
use cnm::endpoint::StaticRoute;
use cnm::{Endpoint, EndpointId, LinkName, Mac, Network, NetworkId, Protocol};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{CallError, Plugin};

/// An answer that has nothing to say.
#[derive(Deserialize)]
pub(super) struct Done {}

/// An endpoint that is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewEndpoint<'a> {
    pub(crate) id: &'a EndpointId,
    pub(crate) network: &'a NetworkId,
    pub(crate) addresses: &'a [IpNetwork],
    /// The hardware address, if somebody wants one.
    pub(crate) mac: Option<Mac>,
    /// What is said of its ports, and what the user says.
    pub(crate) options: &'a Map<String, Value>,
}

/// What a plugin says of an endpoint that it made.
#[derive(Debug, Default)]
pub(crate) struct MadeEndpoint {
    pub(crate) addresses: Vec<IpNetwork>,
    pub(crate) mac: Option<Mac>,
}

/// What a plugin hands over to a sandbox.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The link, as it is called on the host.
    pub(crate) link: Option<LinkName>,
    /// What its name inside is to begin with.
    pub(crate) prefix: Option<String>,
    pub(crate) gateways: Vec<IpAddr>,
    pub(crate) routes: Vec<StaticRoute>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct CreateEndpointReply {
    interface: Option<Interface>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Interface {
    #[serde(rename = "Address")]
    ipv4: String,
    #[serde(rename = "AddressIPv6")]
    ipv6: String,
    #[serde(rename = "MacAddress")]
    mac: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JoinReply {
    #[serde(rename = "InterfaceName")]
    interface: Option<InterfaceName>,
    #[serde(rename = "Gateway")]
    gateway: String,
    #[serde(rename = "GatewayIPv6")]
    gateway_ipv6: String,
    #[serde(rename = "StaticRoutes")]
    routes: Option<Vec<Route>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct InterfaceName {
    src_name: String,
    dst_prefix: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Route {
    destination: String,
    #[serde(rename = "RouteType")]
    kind: i64,
    next_hop: String,
}

impl Plugin {
    /// Asks what its networks are like; nothing in it is of use on one host. Docker asks, so some wait
    /// for it.
    pub(crate) fn network_capabilities(&self) -> Result<(), CallError> {
        self.call::<Value>("NetworkDriver.GetCapabilities", None).map(drop)
    }

    /// Has a network made.
    pub(crate) fn create_network(&self, network: &Network, space: &str) -> Result<(), CallError> {
        let data = |ipv6| -> Value {
            let pools = network.pools.iter().filter(|pool| pool.subnet.is_ipv6() == ipv6);
            let pool = |pool: &cnm::Pool| {
                let prefix = pool.subnet.prefix();
                let mut data = Map::new();
                data.insert("AddressSpace".to_owned(), json!(space));
                data.insert("Pool".to_owned(), json!(pool.subnet.to_string()));
                let gateway = pool.gateway.map(|gateway| json!(format!("{gateway}/{prefix}")));
                data.extend(gateway.map(|gateway| ("Gateway".to_owned(), gateway)));
                if !pool.auxiliary.is_empty() {
                    let all = pool.auxiliary.iter();
                    let all = all.map(|(name, ip)| (name, format!("{ip}/{prefix}")));
                    let all: BTreeMap<_, _> = all.collect();
                    data.insert("AuxAddresses".to_owned(), json!(all));
                }
                Value::Object(data)
            };
            pools.map(pool).collect()
        };
        let mut options = json!({
            "com.docker.network.enable_ipv4": network.ipv4,
            "com.docker.network.enable_ipv6": network.ipv6,
            "com.docker.network.generic": network.given_options,
        });
        if network.internal {
            options["com.docker.network.internal"] = json!(true);
        }
        let body = json!({
            "NetworkID": network.id,
            "Options": options,
            "IPv4Data": data(false),
            "IPv6Data": data(true),
        });
        self.call::<Done>("NetworkDriver.CreateNetwork", Some(&body)).map(drop)
    }

    /// Has a network removed.
    pub(crate) fn delete_network(&self, network: &NetworkId) -> Result<(), CallError> {
        let body = json!({"NetworkID": network});
        self.call::<Done>("NetworkDriver.DeleteNetwork", Some(&body)).map(drop)
    }

    /// Has an endpoint made.
    pub(crate) fn create_endpoint(&self, new: &NewEndpoint<'_>) -> Result<MadeEndpoint, CallError> {
        const METHOD: &str = "NetworkDriver.CreateEndpoint";
        let address = |ipv6| new.addresses.iter().find(|address| address.is_ipv6() == ipv6);
        let text = |ipv6| address(ipv6).map(ToString::to_string).unwrap_or_default();
        let mac = new.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let mut options = new.options.clone();
        if let Some(mac) = new.mac {
            let bytes = base64::engine::general_purpose::STANDARD.encode(mac.octets());
            options.insert("com.docker.network.endpoint.macaddress".to_owned(), json!(bytes));
        }
        let body = json!({
            "NetworkID": new.network,
            "EndpointID": new.id,
            "Interface": {"Address": text(false), "AddressIPv6": text(true), "MacAddress": mac},
            "Options": options,
        });
        let reply: CreateEndpointReply = self.call(METHOD, Some(&body))?;
        let interface = reply.interface.unwrap_or_default();
        let mut made =
            MadeEndpoint { mac: read(&interface.mac, "a hardware address")?, ..Default::default() };
        for text in [interface.ipv4, interface.ipv6] {
            made.addresses.extend(read::<IpNetwork>(&text, "an address with a prefix length")?);
        }
        // What it was told is not for it to change.
        let told = |given: &IpNetwork| new.addresses.iter().any(|a| a.is_ipv6() == given.is_ipv6());
        if made.addresses.iter().any(told) || (made.mac.is_some() && new.mac.is_some()) {
            return Err(CallError::Refused(format!(
                "{METHOD}: the plugin changes an address of the endpoint that it was told"
            )));
        }
        Ok(made)
    }

    /// Has an endpoint removed.
    pub(crate) fn delete_endpoint(&self, at: &At<'_>) -> Result<(), CallError> {
        self.call::<Done>("NetworkDriver.DeleteEndpoint", Some(&at.body())).map(drop)
    }

    /// Has the link of an endpoint handed over to a sandbox.
    pub(crate) fn join(
        &self,
        at: &At<'_>,
        sandbox: &str,
        options: &Map<String, Value>,
    ) -> Result<Joined, CallError> {
        let mut body = at.body();
        body["SandboxKey"] = json!(sandbox);
        body["Options"] = Value::Object(options.clone());
        let reply: JoinReply = self.call("NetworkDriver.Join", Some(&body))?;
        let interface = reply.interface.unwrap_or_default();
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let mut joined = Joined {
            link: read(&interface.src_name, "the name of an interface")?,
            prefix: some(interface.dst_prefix),
            gateways: Vec::new(),
            routes: Vec::new(),
        };
        for text in [reply.gateway, reply.gateway_ipv6] {
            joined.gateways.extend(read::<IpAddr>(&text, "the address of a gateway")?);
        }
        for route in reply.routes.unwrap_or_default() {
            joined.routes.extend(static_route(&route)?);
        }
        Ok(joined)
    }

    /// Takes the link of an endpoint back from a sandbox.
    pub(crate) fn leave(&self, at: &At<'_>) -> Result<(), CallError> {
        self.call::<Done>("NetworkDriver.Leave", Some(&at.body())).map(drop)
    }

    /// What the plugin has to tell of an endpoint.
    pub(crate) fn endpoint_info(&self, at: &At<'_>) -> Result<(), CallError> {
        self.call::<Value>("NetworkDriver.EndpointOperInfo", Some(&at.body())).map(drop)
    }

    /// Has the endpoint lead outside for its sandbox, its published ports among that.
    pub(crate) fn program(
        &self,
        at: &At<'_>,
        options: &Map<String, Value>,
    ) -> Result<(), CallError> {
        let mut body = at.body();
        body["Options"] = Value::Object(options.clone());
        self.call::<Done>("NetworkDriver.ProgramExternalConnectivity", Some(&body)).map(drop)
    }

    /// The reverse.
    pub(crate) fn revoke(&self, at: &At<'_>) -> Result<(), CallError> {
        self.call::<Done>("NetworkDriver.RevokeExternalConnectivity", Some(&at.body())).map(drop)
    }
}

/// An endpoint, as plugins are told of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) network: &'a NetworkId,
    pub(crate) endpoint: &'a EndpointId,
}

impl<'a> At<'a> {
    pub(crate) fn of(endpoint: &'a Endpoint) -> Self {
        Self { network: &endpoint.network, endpoint: &endpoint.id }
    }

    fn body(&self) -> Value {
        json!({"NetworkID": self.network, "EndpointID": self.endpoint})
    }
}

/// What a plugin is told of the ports of a sandbox, and of what the user says of an endpoint.
pub(crate) fn options(
    given: &BTreeMap<String, String>,
    exposed: &[(Protocol, u16)],
    published: &[PortSpec],
) -> Map<String, Value> {
    let mut all: Vec<_> = exposed.to_vec();
    for spec in published {
        if !all.contains(&(spec.protocol, spec.port)) {
            all.push((spec.protocol, spec.port));
        }
    }
    let port =
        |(protocol, port): (Protocol, u16)| json!({"Proto": protocol.number(), "Port": port});
    let exposed: Vec<_> = all.into_iter().map(port).collect();
    let published = published.iter().map(|spec| {
        json!({
            "Proto": spec.protocol.number(),
            "IP": "",
            "Port": spec.port,
            "HostIP": spec.host.map(|host| host.to_string()).unwrap_or_default(),
            "HostPort": spec.host_ports.start(),
            "HostPortEnd": spec.host_ports.end(),
        })
    });
    let published: Vec<_> = published.collect();
    let mut options: Map<_, _> =
        given.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    options.insert("com.docker.network.endpoint.exposedports".to_owned(), json!(exposed));
    options.insert("com.docker.network.portmap".to_owned(), json!(published));
    options
}

fn static_route(route: &Route) -> Result<Option<StaticRoute>, CallError> {
    /// The destination is reached by a gateway.
    const NEXT_HOP: i64 = 0;
    let destination = read::<IpNetwork>(&route.destination, "the destination of a route")?;
    let via = match route.kind {
        NEXT_HOP => read(&route.next_hop, "the next hop of a route")?,
        _ => None,
    };
    Ok(destination.map(|destination| StaticRoute { destination, via }))
}

/// Reads what a plugin says; nothing where it says nothing.
pub(super) fn read<T: std::str::FromStr>(text: &str, what: &str) -> Result<Option<T>, CallError> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |_| CallError::Refused(format!("`{text}` is not {what}"));
    text.parse().map(Some).map_err(wrong)
}
