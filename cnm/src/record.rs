//! Records of the store: what is written down of the model, as types of their own.
//!
//! A record carries the version of its form. [`VERSION`] is what is written; whatever an earlier
//! release wrote is read. Fields that a form did not have yet have defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::controller::{Change, ChangeKind, Intent, Live, Subject, Transition};
use crate::endpoint::{Handover, StaticRoute};
use crate::ipam::Lease;
use crate::network::{Addressing, IpamPlugin};
use crate::options::EndpointOptions;
use crate::sandbox::Passage;
use crate::{
    Endpoint, EndpointId, LinkName, Mac, Network, NetworkId, Planner, Pool, PortBinding, Protocol,
    Sandbox, SandboxId,
};

mod first;
mod handover;

use handover::{HandoverRecord, RouteRecord};

/// The form that is written.
const VERSION: u32 = 2;

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// It is not of the form.
    #[error("{0}")]
    Form(#[from] serde_json::Error),
    /// A later release wrote it.
    #[error("it is of version {0}, and this release knows {VERSION} and earlier ones")]
    Later(u32),
    /// Its network is of a driver that is not there.
    #[error("there is no driver {0}")]
    Driver(String),
    /// Its options mean nothing to its driver.
    #[error("{0}")]
    Options(#[from] crate::options::OptionError),
}

impl From<RecordError> for crate::store::record::RecordError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Later(found) => Self::Newer { found, known: VERSION },
            other => Self::Damaged(other.to_string()),
        }
    }
}

#[expect(clippy::struct_excessive_bools, reason = "independent properties, as the model has them")]
#[derive(Serialize, Deserialize)]
struct NetworkRecord {
    #[serde(default = "first::version")]
    version: u32,
    id: NetworkId,
    name: String,
    created: u64,
    driver: DriverField,
    /// Whether the driver is a plugin, which need not be there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    plugin: bool,
    #[serde(default)]
    given_options: BTreeMap<String, String>,
    #[serde(default)]
    addressing: Addressing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipam: Option<IpamPlugin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipam_options: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    borrowed: bool,
    #[serde(default)]
    pools: Vec<Pool>,
    ipv4: bool,
    ipv6: bool,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    attachable: bool,
    #[serde(default)]
    predefined: bool,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<crate::network::Parent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tunnel: Option<crate::network::Tunnel>,
}

/// The driver's name; with its options in the first form.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum DriverField {
    Name(String),
    First(first::Driver),
}

#[derive(Serialize, Deserialize)]
struct EndpointRecord {
    #[serde(default = "first::version")]
    version: u32,
    id: EndpointId,
    network: NetworkId,
    sandbox: SandboxId,
    interface: LinkName,
    mac: Mac,
    #[serde(default)]
    addresses: Vec<IpNetwork>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gateways: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    link_local: Vec<IpAddr>,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    gateway_priority: i32,
    #[serde(default)]
    order: u32,
    #[serde(default = "yes")]
    default_route: bool,
    /// Nothing was checked before there was this field.
    #[serde(default = "yes")]
    any_source: bool,
    #[serde(default)]
    routes: Vec<RouteRecord>,
    #[serde(default)]
    sysctls: Vec<(String, String)>,
    #[serde(default)]
    given_options: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handover: Option<HandoverRecord>,
}

#[derive(Serialize, Deserialize)]
struct SandboxRecord {
    #[serde(default = "first::version")]
    version: u32,
    id: SandboxId,
    owner: String,
    #[serde(default)]
    ports: Vec<PortBinding>,
    #[serde(default)]
    resolver: bool,
    #[serde(default)]
    sysctls: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    closed: BTreeSet<(Protocol, u16)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    passages: Vec<PassageRecord>,
}

#[derive(Serialize, Deserialize)]
struct PassageRecord {
    to: IpAddr,
    protocol: Protocol,
    port: u16,
}

#[derive(Serialize, Deserialize)]
struct LeaseRecord {
    #[serde(default = "first::version")]
    version: u32,
    owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<Mac>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    released: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    reserved: bool,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    others: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
struct IntentRecord {
    #[serde(default = "first::version")]
    version: u32,
    kind: ChangeKind,
    subject: Subject,
    change: ChangeRecord,
    now: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ChangeRecord {
    Network(Box<TransitionRecord<NetworkRecord>>),
    Sandbox(Box<TransitionRecord<LiveRecord>>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TransitionRecord<T> {
    Create(T),
    Change { before: T, after: T },
    Remove(T),
}

#[derive(Serialize, Deserialize)]
struct LiveRecord {
    sandbox: SandboxRecord,
    endpoints: Vec<EndpointRecord>,
}

// === Reading ===

pub(crate) fn network(value: &[u8], planner: &dyn Planner) -> Result<Network, RecordError> {
    parse::<NetworkRecord>(value)?.into_model(planner)
}

pub(crate) fn endpoint(value: &[u8]) -> Result<Endpoint, RecordError> {
    parse::<EndpointRecord>(value)?.into_model()
}

pub(crate) fn sandbox(value: &[u8]) -> Result<Sandbox, RecordError> {
    parse::<SandboxRecord>(value)?.into_model()
}

pub(crate) fn lease(value: &[u8]) -> Result<Lease, RecordError> {
    let LeaseRecord { version, owner, mac, released, reserved, others } = parse(value)?;
    check(version)?;
    Ok(Lease { owner, mac, released, reserved, others })
}

pub(crate) fn intent(value: &[u8], planner: &dyn Planner) -> Result<Intent, RecordError> {
    let IntentRecord { version, kind, subject, change, now } = parse(value)?;
    check(version)?;
    let change = match change {
        ChangeRecord::Network(networks) => {
            let network = |record: NetworkRecord| record.into_model(planner).map(Arc::new);
            Change::Network(networks.try_map(network)?)
        }
        ChangeRecord::Sandbox(sandboxes) => {
            Change::Sandbox(sandboxes.try_map(LiveRecord::into_model)?)
        }
    };
    Ok(Intent { kind, subject, change, now })
}

/// The version is looked at first: a later release may have given a record any form.
fn parse<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, RecordError> {
    #[derive(Deserialize)]
    struct Probe {
        #[serde(default = "first::version")]
        version: u32,
    }
    if let Ok(probe) = serde_json::from_slice::<Probe>(value) {
        check(probe.version)?;
    }
    Ok(serde_json::from_slice(value)?)
}

/// It has been bare text in all releases; a later one may make it an object with a version.
pub(crate) fn ula(value: &[u8]) -> Result<IpNetwork, RecordError> {
    parse(value)
}

fn check(version: u32) -> Result<(), RecordError> {
    if version > VERSION { Err(RecordError::Later(version)) } else { Ok(()) }
}

fn yes() -> bool {
    true
}

impl NetworkRecord {
    fn into_model(mut self, planner: &dyn Planner) -> Result<Network, RecordError> {
        check(self.version)?;
        let name = first::renew(&mut self);
        let driver = if self.plugin { planner.remote(&name) } else { planner.driver(&name) };
        let driver = driver.ok_or(RecordError::Driver(name))?;
        driver.read(&crate::network::own_options(&self.given_options))?;
        let Self { id, name, created, given_options, pools, ipv4, ipv6, labels, .. } = self;
        let Self { addressing, ipam, ipam_options, borrowed, parent, tunnel, .. } = self;
        let Self { internal, attachable, predefined, .. } = self;
        Ok(Network {
            id,
            name,
            created,
            driver,
            given_options,
            addressing,
            ipam,
            ipam_options,
            borrowed,
            pools,
            ipv4,
            ipv6,
            internal,
            attachable,
            predefined,
            labels,
            parent,
            egress_mtu: None,
            tunnel,
        })
    }
}

impl EndpointRecord {
    fn into_model(mut self) -> Result<Endpoint, RecordError> {
        check(self.version)?;
        if self.version < 2 {
            first::renew_endpoint(&mut self);
        }
        Ok(Endpoint {
            id: self.id,
            network: self.network,
            sandbox: self.sandbox,
            interface: self.interface,
            mac: self.mac,
            addresses: self.addresses,
            link_local: self.link_local,
            gateways: self.gateways,
            aliases: self.aliases,
            gateway_priority: self.gateway_priority,
            order: self.order,
            default_route: self.default_route,
            any_source: self.any_source,
            routes: self.routes.into_iter().map(StaticRoute::from).collect(),
            sysctls: self.sysctls,
            given_options: self.given_options,
            handover: self.handover.map(Handover::from),
        })
    }
}

impl SandboxRecord {
    fn into_model(self) -> Result<Sandbox, RecordError> {
        let Self { version, id, owner, ports, resolver, sysctls, closed, passages } = self;
        check(version)?;
        let passage = |record: PassageRecord| {
            let PassageRecord { to, protocol, port } = record;
            Passage { to, protocol, port }
        };
        let passages = passages.into_iter().map(passage).collect();
        Ok(Sandbox { id, owner, ports, closed, resolver, sysctls, passages })
    }
}

impl LiveRecord {
    fn into_model(self) -> Result<Live, RecordError> {
        let endpoint = |record: EndpointRecord| record.into_model().map(Arc::new);
        let endpoints = self.endpoints.into_iter().map(endpoint).collect::<Result<_, _>>()?;
        Ok(Live { sandbox: Arc::new(self.sandbox.into_model()?), endpoints })
    }
}

impl<T> TransitionRecord<T> {
    fn try_map<U>(
        self,
        f: impl Fn(T) -> Result<U, RecordError>,
    ) -> Result<Transition<U>, RecordError> {
        Ok(match self {
            Self::Create(value) => Transition::Create(f(value)?),
            Self::Change { before, after } => {
                Transition::Change { before: f(before)?, after: f(after)? }
            }
            Self::Remove(value) => Transition::Remove(f(value)?),
        })
    }
}

// === Writing ===

pub(crate) fn encode_network(network: &Network) -> Vec<u8> {
    json(&NetworkRecord::from(network))
}

pub(crate) fn encode_endpoint(endpoint: &Endpoint) -> Vec<u8> {
    json(&EndpointRecord::from(endpoint))
}

pub(crate) fn encode_sandbox(sandbox: &Sandbox) -> Vec<u8> {
    json(&SandboxRecord::from(sandbox))
}

pub(crate) fn encode_lease(lease: &Lease) -> Vec<u8> {
    let Lease { owner, mac, released, reserved, others } = lease.clone();
    json(&LeaseRecord { version: VERSION, owner, mac, released, reserved, others })
}

pub(crate) fn encode_intent(intent: &Intent) -> Vec<u8> {
    let change = match &intent.change {
        Change::Network(networks) => {
            let of = TransitionRecord::of(networks, |network| (&**network).into());
            ChangeRecord::Network(Box::new(of))
        }
        Change::Sandbox(sandboxes) => {
            ChangeRecord::Sandbox(Box::new(TransitionRecord::of(sandboxes, |live| live.into())))
        }
    };
    let (kind, subject, now) = (intent.kind, intent.subject.clone(), intent.now);
    json(&IntentRecord { version: VERSION, kind, subject, change, now })
}

pub(crate) fn encode_ula(ula: IpNetwork) -> Vec<u8> {
    json(&ula)
}

/// Records are plain data, of which JSON can express all.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| unreachable!("{error}"))
}

impl From<&Network> for NetworkRecord {
    fn from(network: &Network) -> Self {
        let network = network.clone();
        Self {
            version: VERSION,
            id: network.id,
            name: network.name,
            created: network.created,
            driver: DriverField::Name(network.driver.name().to_owned()),
            plugin: network.driver.plugin().is_some(),
            given_options: network.given_options,
            addressing: network.addressing,
            ipam: network.ipam,
            ipam_options: network.ipam_options,
            borrowed: network.borrowed,
            pools: network.pools,
            ipv4: network.ipv4,
            ipv6: network.ipv6,
            internal: network.internal,
            attachable: network.attachable,
            predefined: network.predefined,
            labels: network.labels,
            parent: network.parent,
            tunnel: network.tunnel,
        }
    }
}

impl From<&Endpoint> for EndpointRecord {
    fn from(endpoint: &Endpoint) -> Self {
        let endpoint = endpoint.clone();
        Self {
            version: VERSION,
            id: endpoint.id,
            network: endpoint.network,
            sandbox: endpoint.sandbox,
            interface: endpoint.interface,
            mac: endpoint.mac,
            addresses: endpoint.addresses,
            link_local: endpoint.link_local,
            gateways: endpoint.gateways,
            aliases: endpoint.aliases,
            gateway_priority: endpoint.gateway_priority,
            order: endpoint.order,
            default_route: endpoint.default_route,
            any_source: endpoint.any_source,
            routes: endpoint.routes.into_iter().map(RouteRecord::from).collect(),
            sysctls: endpoint.sysctls,
            given_options: endpoint.given_options,
            handover: endpoint.handover.map(HandoverRecord::from),
        }
    }
}

impl From<&Sandbox> for SandboxRecord {
    fn from(sandbox: &Sandbox) -> Self {
        let Sandbox { id, owner, ports, closed, resolver, sysctls, passages } = sandbox.clone();
        let passage = |passage: Passage| {
            let Passage { to, protocol, port } = passage;
            PassageRecord { to, protocol, port }
        };
        let passages = passages.into_iter().map(passage).collect();
        Self { version: VERSION, id, owner, ports, resolver, sysctls, closed, passages }
    }
}

impl From<&Live> for LiveRecord {
    fn from(live: &Live) -> Self {
        let endpoints = live.endpoints.iter().map(|endpoint| (&**endpoint).into()).collect();
        Self { sandbox: (&*live.sandbox).into(), endpoints }
    }
}

impl<T> TransitionRecord<T> {
    fn of<U>(transition: &Transition<U>, f: impl Fn(&U) -> T) -> Self {
        match transition {
            Transition::Create(value) => Self::Create(f(value)),
            Transition::Change { before, after } => {
                Self::Change { before: f(before), after: f(after) }
            }
            Transition::Remove(value) => Self::Remove(f(value)),
        }
    }
}

#[cfg(test)]
mod tests;
