//! From what a runtime hands over, variables and JSON, to a typed [`Request`]. Pure.
//!
//! What removes (DEL, GC) is read as little as possible: a configuration that was broken meanwhile
//! must not keep anything from being removed. Keys that nobody knows are ignored. Keys of the
//! reference plugin that ask for something this one cannot do are an error, for a pod that is
//! silently not isolated, or on the wrong VLAN, is worse than none.

mod fields;
mod ranges;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use cnm::controller::PortSpec;
use cnm::{LinkName, Mac};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;

use crate::plan::{EndpointSettings, NetworkSettings, RouteSettings};
use crate::result::{Attached, Code, Dns, Failure, Version};
use fields::Fields;

/// The most that is read from stdin, in bytes.
pub(crate) const INPUT_MAX: u64 = 8 << 20;

/// The variables that are read.
pub(crate) const VARIABLES: [&str; 5] =
    ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"];

/// Where the store is, unless `dataDir` says otherwise.
const DIRECTORY: &str = "/var/lib/cni/rnet";

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Add(Box<Add>),
    Check(Box<Check>),
    Del(Del),
    Gc(Gc),
    Status { directory: PathBuf },
    Version { asked: String },
}

/// One container's interface on one network: the specification's attachment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attachment {
    pub(crate) container: String,
    pub(crate) interface: LinkName,
}

/// A network of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    pub(crate) network: String,
}

/// Attach a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Add {
    pub(crate) version: Version,
    pub(crate) place: Place,
    pub(crate) attachment: Attachment,
    pub(crate) netns: PathBuf,
    pub(crate) network: NetworkSettings,
    pub(crate) endpoint: EndpointSettings,
    pub(crate) ports: Vec<PortSpec>,
    pub(crate) mac: Option<Mac>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) dns: Dns,
    pub(crate) previous: Option<Attached>,
}

/// See whether an attachment is as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) place: Place,
    pub(crate) attachment: Attachment,
    pub(crate) netns: PathBuf,
    pub(crate) previous: Attached,
}

/// Detach a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Del {
    pub(crate) place: Place,
    pub(crate) attachment: Attachment,
}

/// Detach all but some containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gc {
    pub(crate) place: Place,
    pub(crate) valid: BTreeSet<Attachment>,
}

impl Attachment {
    /// Its name in the model. Container ids have no `/`.
    pub(crate) fn owner(&self) -> String {
        format!("{}/{}", self.container, self.interface)
    }
}

/// The variables of one call.
type Environment = BTreeMap<&'static str, String>;

/// The version that the input says it is written for, whether it is known or not.
pub(crate) fn version_text(input: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(input).ok()?;
    Some(value.get("cniVersion")?.as_str()?.to_owned())
}

/// Reads a call.
pub(crate) fn parse(environment: &Environment, input: &[u8]) -> Result<Request, Failure> {
    let command = variable(environment, "CNI_COMMAND")?;
    let value: Value = serde_json::from_slice(input).map_err(|error| {
        Failure::caused(Code::Decoding, "the network configuration on stdin is not JSON", &error)
    })?;
    let config = Fields::of("the network configuration", &value)?;
    if command == "VERSION" {
        let asked = config.text("cniVersion")?;
        let asked = asked.unwrap_or_else(|| Version::V1_1_0.as_str().to_owned());
        return Ok(Request::Version { asked });
    }
    let (version, since) = (version(&config)?, since(command)?);
    if version < since {
        let msg = format!("{command} is not in version {} of CNI", version.as_str());
        let details = format!("it needs a cniVersion of {} or later", since.as_str());
        return Err(Failure::new(Code::IncompatibleVersion, msg, details));
    }
    match command {
        "ADD" => Ok(Request::Add(Box::new(add(environment, &config, version)?))),
        "CHECK" => Ok(Request::Check(Box::new(check(environment, &config)?))),
        "DEL" => {
            let attachment = attachment(environment)?;
            Ok(Request::Del(Del { place: place(&config)?, attachment }))
        }
        "GC" => Ok(Request::Gc(Gc { place: place(&config)?, valid: valid(&config)? })),
        _ => {
            network(&config)?;
            Ok(Request::Status { directory: place(&config)?.directory })
        }
    }
}

/// The version that has a command first.
fn since(command: &str) -> Result<Version, Failure> {
    match command {
        "ADD" | "DEL" => Ok(Version::V0_3_1),
        "CHECK" => Ok(Version::V0_4_0),
        "GC" | "STATUS" => Ok(Version::V1_1_0),
        _ => {
            let details = "ADD, DEL, CHECK, GC, STATUS and VERSION are";
            let msg = format!("CNI_COMMAND {command:?} is no command");
            Err(Failure::new(Code::Environment, msg, details))
        }
    }
}

fn version(config: &Fields<'_>) -> Result<Version, Failure> {
    // What names no version is from before they were named.
    let text = config.text("cniVersion")?.unwrap_or_else(|| "0.1.0".to_owned());
    Version::parse(&text).ok_or_else(|| {
        let known = Version::ALL.map(Version::as_str).join(", ");
        let msg = format!("cniVersion {text:?} is not supported");
        Failure::new(Code::IncompatibleVersion, msg, format!("supported are {known}"))
    })
}

// === The environment ===

fn variable<'a>(environment: &'a Environment, name: &str) -> Result<&'a str, Failure> {
    let value = environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
    value.ok_or_else(|| {
        Failure::new(Code::Environment, format!("the variable {name} is missing"), "")
    })
}

fn attachment(environment: &Environment) -> Result<Attachment, Failure> {
    let container = variable(environment, "CNI_CONTAINERID")?;
    check_name(Code::Environment, "CNI_CONTAINERID", container)?;
    let interface = variable(environment, "CNI_IFNAME")?;
    let interface = interface
        .parse()
        .map_err(|error| Failure::caused(Code::Environment, "CNI_IFNAME is wrong", &error))?;
    Ok(Attachment { container: container.to_owned(), interface })
}

fn netns(environment: &Environment) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(variable(environment, "CNI_NETNS")?);
    if path.is_absolute() {
        return Ok(path);
    }
    let msg = format!("CNI_NETNS {} is not an absolute path", path.display());
    Err(Failure::new(Code::Environment, msg, ""))
}

/// `K=V;K=V`, of which few are for us.
fn arguments(environment: &Environment) -> Result<BTreeMap<&str, &str>, Failure> {
    let text = environment.get("CNI_ARGS").map_or("", String::as_str);
    let pairs = text.split(';').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            pair.split_once('=').ok_or_else(|| {
                let msg = format!("CNI_ARGS has {pair:?} without a value");
                Failure::new(Code::Environment, msg, "K=V;K=V is expected")
            })
        })
        .collect()
}

/// Names become file names and more elsewhere (CVE-2021-20206): a letter or digit, then letters,
/// digits and `_.-`.
fn check_name(code: Code, what: &str, name: &str) -> Result<(), Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= 253 && name.bytes().all(plain) {
        return Ok(());
    }
    let details = "a letter or digit, then letters, digits and _.- are expected, 253 at most";
    Err(Failure::new(code, format!("{what} {name:?} is not a valid name"), details))
}

// === The configuration ===

fn place(config: &Fields<'_>) -> Result<Place, Failure> {
    let network = config.text("name")?.ok_or_else(|| Failure::invalid("name is missing"))?;
    check_name(Code::InvalidConfig, "name", &network)?;
    let directory = PathBuf::from(config.text("dataDir")?.unwrap_or_else(|| DIRECTORY.to_owned()));
    if !directory.is_absolute() {
        let msg = format!("dataDir {} is not an absolute path", directory.display());
        return Err(Failure::invalid(msg));
    }
    Ok(Place { directory, network })
}

fn add(environment: &Environment, config: &Fields<'_>, version: Version) -> Result<Add, Failure> {
    let runtime = config.inner("runtimeConfig")?;
    let network = network(config)?;
    let endpoint = endpoint(config)?;
    let ports = ports(&runtime)?;
    if !ports.is_empty() && !network.gateway {
        let details = "set isGateway or isDefaultGateway: the host has no address on the bridge";
        return Err(Failure::new(
            Code::InvalidConfig,
            "portMappings cannot work without a gateway",
            details,
        ));
    }
    let arguments = arguments(environment)?;
    let given = config.inner("args")?.inner("cni")?;
    let argument = |name: &str| arguments.get(name).map(|text| (*text).to_owned());
    let mac = runtime.text("mac")?.or(given.text("mac")?).or_else(|| argument("MAC"));
    let mac = mac.as_deref().map(|text| {
        text.parse().map_err(|error| Failure::caused(Code::InvalidConfig, "mac is wrong", &error))
    });
    let ips = runtime.get("ips")?.or(given.get("ips")?);
    let ips: Vec<String> = ips.unwrap_or_else(|| argument("IP").into_iter().collect());
    Ok(Add {
        version,
        place: place(config)?,
        attachment: attachment(environment)?,
        netns: netns(environment)?,
        network,
        endpoint,
        ports,
        mac: mac.transpose()?,
        addresses: ips.iter().map(|text| wanted(text)).collect::<Result<_, _>>()?,
        dns: config.get("dns")?.unwrap_or_default(),
        previous: config.get("prevResult")?,
    })
}

fn check(environment: &Environment, config: &Fields<'_>) -> Result<Check, Failure> {
    let previous = config.get("prevResult")?;
    Ok(Check {
        place: place(config)?,
        attachment: attachment(environment)?,
        netns: netns(environment)?,
        previous: previous.ok_or_else(|| Failure::invalid("CHECK needs a prevResult"))?,
    })
}

/// A wanted address, with or without a prefix length; that of the subnet is used.
fn wanted(text: &str) -> Result<IpAddr, Failure> {
    text.parse::<IpNetwork>().map(|network| network.ip()).map_err(|error| {
        Failure::caused(Code::InvalidConfig, format!("ips has {text:?}, no address"), &error)
    })
}

/// What concerns all attachments of the network.
fn network(config: &Fields<'_>) -> Result<NetworkSettings, Failure> {
    refuse_unsupported(config)?;
    let default_gateway = config.flag("isDefaultGateway")?;
    let ipam = config.inner("ipam")?;
    match ipam.text("type")?.as_deref() {
        None | Some("rnet" | "host-local") => {}
        Some(other) => {
            check_name(Code::InvalidConfig, "ipam.type", other)?;
            return Err(unsupported("ipam.type", other, "addresses are managed by rnet itself"));
        }
    }
    let bridge = config.text("bridge")?.map(|text| text.parse()).transpose();
    let bridge =
        bridge.map_err(|error| Failure::caused(Code::InvalidConfig, "bridge is wrong", &error))?;
    let mtu: Option<u32> = config.get("mtu")?;
    Ok(NetworkSettings {
        bridge,
        gateway: default_gateway || config.flag("isGateway")?,
        masquerade: config.flag("ipMasq")?,
        isolated: config.flag("portIsolation")?,
        mtu: mtu.filter(|bytes| *bytes != 0),
        dual_stack: config.flag("dualstack")?,
        pools: ranges::pools(&ipam, &config.inner("runtimeConfig")?)?,
    })
}

/// Keys with which users of the reference plugin ask for what this one does not do.
fn refuse_unsupported(config: &Fields<'_>) -> Result<(), Failure> {
    if let Some(driver) = config.text("driver")?.filter(|driver| driver != "bridge") {
        return Err(unsupported("driver", &driver, "bridge is the only one"));
    }
    for key in ["promiscMode", "vlan", "vlanTrunk", "macspoofchk", "disableContainerInterface"] {
        let value = config.get::<Value>(key)?.unwrap_or_default();
        let asks = match &value {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::Array(values) => !values.is_empty(),
            Value::String(_) | Value::Object(_) => true,
        };
        if asks {
            return Err(unsupported(key, &value.to_string(), "remove it"));
        }
    }
    Ok(())
}

fn unsupported(key: &str, value: &str, details: &str) -> Failure {
    Failure::new(Code::UnsupportedField, format!("{key} {value:?} is not supported"), details)
}

/// What concerns one attachment.
fn endpoint(config: &Fields<'_>) -> Result<EndpointSettings, Failure> {
    #[derive(Deserialize)]
    struct Route {
        dst: IpNetwork,
        gw: Option<IpAddr>,
        #[serde(flatten)]
        others: BTreeMap<String, Value>,
    }
    let routes: Vec<Route> = config.inner("ipam")?.get("routes")?.unwrap_or_default();
    let mut known = BTreeSet::new();
    for Route { dst, gw, others } in &routes {
        for key in ["mtu", "advmss", "priority", "table", "scope"] {
            if let Some(value) = others.get(key).filter(|value| !value.is_null()) {
                let key = format!("{key} of route {dst}");
                return Err(unsupported(&key, &value.to_string(), "remove it"));
            }
        }
        if gw.is_some_and(|gw| gw.is_ipv6() != dst.is_ipv6()) {
            let msg = format!("ipam.routes: {dst} has a gateway of the other family");
            return Err(Failure::invalid(msg));
        }
        if dst.ip() != dst.network() {
            let proper = format!("{}/{}", dst.network(), dst.prefix());
            return Err(Failure::invalid(format!("ipam.routes: {dst} should be {proper}")));
        }
        if !known.insert(*dst) {
            return Err(Failure::invalid(format!("ipam.routes: {dst} is there twice")));
        }
    }
    let routes = routes.into_iter().map(|Route { dst, gw, .. }| RouteSettings { dst, gw });
    Ok(EndpointSettings {
        hairpin: config.flag("hairpinMode")?,
        default_gateway: config.flag("isDefaultGateway")?,
        routes: routes.collect(),
    })
}

/// The capability `portMappings`.
fn ports(runtime: &Fields<'_>) -> Result<Vec<PortSpec>, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mapping {
        host_port: u16,
        container_port: u16,
        protocol: Option<String>,
        #[serde(rename = "hostIP")]
        host_ip: Option<String>,
    }
    let mappings: Vec<Mapping> = runtime.get("portMappings")?.unwrap_or_default();
    let port = |mapping: Mapping| {
        let Mapping { host_port, container_port, protocol, host_ip } = mapping;
        let invalid = |why: &str| Failure::invalid(format!("runtimeConfig.portMappings: {why}"));
        if host_port == 0 || container_port == 0 {
            return Err(invalid("hostPort and containerPort are numbers from 1 to 65535"));
        }
        let protocol = protocol.filter(|text| !text.is_empty());
        let protocol = protocol.as_deref().unwrap_or("tcp").parse();
        let host_ip = host_ip.filter(|text| !text.is_empty());
        let host = host_ip.map(|text| {
            text.parse().map_err(|_| invalid(&format!("hostIP {text:?} is no IP address")))
        });
        Ok(PortSpec {
            host: host.transpose()?,
            host_ports: host_port..=host_port,
            protocol: protocol
                .map_err(|error: cnm::endpoint::ProtocolError| invalid(&error.to_string()))?,
            port: container_port,
        })
    };
    mappings.into_iter().map(port).collect()
}

/// The attachments that GC leaves.
fn valid(config: &Fields<'_>) -> Result<BTreeSet<Attachment>, Failure> {
    #[derive(Deserialize)]
    struct Valid {
        #[serde(rename = "containerID")]
        container: String,
        #[serde(rename = "ifname")]
        interface: String,
    }
    // Runtimes of a certain time wrote the second name.
    let given = config.get("cni.dev/valid-attachments")?.or(config.get("cni.dev/attachments")?);
    let given: Vec<Valid> = given.ok_or_else(|| {
        Failure::invalid("GC needs cni.dev/valid-attachments, or it would remove everything")
    })?;
    // What we cannot have made is nothing to keep.
    let known = |Valid { container, interface }: Valid| {
        Some(Attachment { container, interface: interface.parse().ok()? })
    };
    Ok(given.into_iter().filter_map(known).collect())
}

#[cfg(test)]
mod tests;
