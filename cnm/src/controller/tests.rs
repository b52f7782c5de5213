//! The controller with a fake planner: one kernel object per network, endpoint and port.

use std::collections::BTreeMap;

use super::*;
use crate::network::PoolSpec;
use crate::sandbox::Attachment;
use crate::store::{Durability, Memory};
use crate::{Key, NetworkSpec, PlanError, PortBinding, Value};

mod claims;
mod cluster;
mod crash;
mod names;
mod networks;
mod publishing;
mod sandboxes;
mod withheld;

/// Realises the model as sysctls that spell it out.
#[derive(Debug)]
struct Spelling;

impl Planner for Spelling {
    fn drivers(&self) -> &[&'static dyn crate::Driver] {
        crate::driver::fake::DRIVERS
    }

    fn sandbox(
        &self,
        sandbox: &Sandbox,
        attachments: &[Attachment<'_>],
    ) -> Result<State, PlanError> {
        let mut state = State::default();
        state.insert(Key::Namespace { sandbox: sandbox.id.clone() }, Value::Present);
        for of in attachments {
            state.extend(of.network.driver.endpoint(sandbox, *of)?);
        }
        if let Some(of) = attachments.first() {
            let ports: Vec<_> = sandbox.ports.iter().collect();
            state.extend(of.network.driver.publish(&ports, *of));
        }
        Ok(state)
    }
}

/// Counts, so that everything it is asked for is different.
struct Counter(u64);

impl Entropy for Counter {
    fn bytes(&mut self) -> [u8; 32] {
        self.0 += 1;
        // Spread over the first bytes, from which names are made.
        let spread = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&spread);
        bytes[24..].copy_from_slice(&self.0.to_be_bytes());
        bytes
    }
}

/// A controller with its store, as the engine uses it.
struct Engine {
    controller: Controller,
    store: Memory,
    entropy: Counter,
    host: HostFacts,
    now: u64,
    /// Host ports that other programs have.
    foreign: Vec<u16>,
}

const SECOND: u64 = 1_000_000_000;

impl Engine {
    fn new() -> Self {
        Self::with(ControllerConfig::default())
    }

    fn with(config: ControllerConfig) -> Self {
        let store = Memory::new();
        let controller = Controller::load(&store, Arc::new(Spelling), config).unwrap();
        let (host, foreign) = Default::default();
        Self { controller, store, entropy: Counter(0), host, now: 1_000 * SECOND, foreign }
    }

    /// Writes the intent.
    fn journal(&self, transaction: &Transaction) {
        let intent = self.controller.intent(transaction);
        self.store.commit(&intent, Durability::Immediate).unwrap();
    }

    fn commit(&mut self, transaction: Transaction) {
        self.journal(&transaction);
        let batch = self.controller.commit(transaction);
        self.write(&batch);
    }

    fn abort(&mut self, transaction: Transaction) {
        let batch = self.controller.abort(transaction);
        self.write(&batch);
    }

    fn write(&self, batch: &Batch) {
        self.store.commit(batch, Durability::Eventual).unwrap();
    }

    /// Ends the process and starts the next one.
    fn restart(&mut self) {
        let config = self.controller.config.clone();
        self.controller = Controller::load(&self.store, Arc::new(Spelling), config).unwrap();
    }

    fn begin_network(
        &mut self,
        spec: &NetworkSpec,
    ) -> Result<(Arc<Network>, Transaction), ControllerError> {
        self.controller.begin_create_network(spec, &self.host, &mut self.entropy, self.now)
    }

    fn create(&mut self, spec: &NetworkSpec) -> Result<Arc<Network>, ControllerError> {
        let (network, transaction) = self.begin_network(spec)?;
        self.commit(transaction);
        Ok(network)
    }

    /// Creates a network with these subnets; with one of the default pools if there are none.
    fn network(&mut self, name: &str, subnets: &[&str]) -> Arc<Network> {
        self.create(&network(name, subnets)).unwrap()
    }

    fn begin_sandbox(
        &mut self,
        spec: &SandboxSpec,
    ) -> Result<(SandboxId, Transaction), ControllerError> {
        let Self { controller, entropy, foreign, now, .. } = self;
        let mut bind = |bindings: &[PortBinding]| {
            bindings.iter().map(|binding| Ok(!foreign.contains(&binding.host_port))).collect()
        };
        decided(&mut bind, |claims| controller.begin_create_sandbox(spec, claims, entropy, *now))
    }

    fn start(&mut self, spec: &SandboxSpec) -> Result<SandboxId, ControllerError> {
        let (id, transaction) = self.begin_sandbox(spec)?;
        self.commit(transaction);
        Ok(id)
    }

    /// Starts a sandbox on these networks.
    fn sandbox(&mut self, owner: &str, networks: &[&Network]) -> SandboxId {
        self.start(&sandbox(owner, networks)).unwrap()
    }

    fn stop(&mut self, id: &SandboxId) {
        let transaction = self.controller.begin_remove_sandbox(id, self.now).unwrap();
        self.commit(transaction);
    }

    fn join(&mut self, id: &SandboxId, join: &JoinSpec) -> Result<(), ControllerError> {
        let Self { controller, entropy, now, .. } = self;
        match controller.begin_join(id, join, &Claims::none(), entropy, *now)? {
            Decision::Made(transaction) => self.commit(transaction),
            Decision::Unclaimed(wanted) => panic!("unclaimed: {wanted:?}"),
        }
        Ok(())
    }

    fn leave(&mut self, id: &SandboxId, network: &Network) -> Result<(), ControllerError> {
        let transaction = self.controller.begin_leave(id, &network.id, self.now)?;
        self.commit(transaction);
        Ok(())
    }

    fn change_ports(
        &mut self,
        id: &SandboxId,
        add: &[PortSpec],
        remove: &[PortBinding],
    ) -> Result<Vec<PortBinding>, ControllerError> {
        let mut reserved = Vec::new();
        let mut bind = |bindings: &[PortBinding]| {
            reserved.extend_from_slice(bindings);
            bindings.iter().map(|_| Ok(true)).collect()
        };
        let transaction = decided(&mut bind, |claims| {
            let change = PortsChange { add, remove, closed: None };
            self.controller.begin_change_ports(id, &change, claims)
        })?;
        self.commit(transaction);
        Ok(reserved)
    }

    fn endpoints(&self, id: &SandboxId) -> Vec<Arc<Endpoint>> {
        self.controller.sandbox(id).unwrap().1
    }

    /// The addresses of a sandbox, as `address@interface`.
    fn addresses(&self, id: &SandboxId) -> String {
        let endpoints = self.endpoints(id);
        let of = |e: &Arc<Endpoint>| {
            let addresses: Vec<_> = e.addresses.iter().map(ToString::to_string).collect();
            format!("{}@{}", addresses.join(","), e.interface)
        };
        endpoints.iter().map(of).collect::<Vec<_>>().join(" ")
    }

    fn ports(&self, id: &SandboxId) -> Vec<String> {
        let (sandbox, _) = self.controller.sandbox(id).unwrap();
        sandbox.ports.iter().map(spelled).collect()
    }

    /// All keys in the store below a prefix.
    fn keys(&self, prefix: &str) -> Vec<String> {
        self.store.list(prefix).unwrap().into_iter().map(|(key, _)| key).collect()
    }
}

/// Claims what a decision needs until it is made.
fn decided<T>(
    bind: &mut dyn FnMut(&[PortBinding]) -> Vec<std::io::Result<bool>>,
    mut begin: impl FnMut(&Claims) -> Result<Decision<T>, ControllerError>,
) -> Result<T, ControllerError> {
    let mut claims = Claims::default();
    loop {
        match begin(&claims)? {
            Decision::Made(made) => return Ok(made),
            Decision::Unclaimed(wanted) => claims.claim_ports(&wanted.ports, bind),
        }
    }
}

fn spelled(binding: &PortBinding) -> String {
    let PortBinding { host, host_port, protocol, port } = binding;
    format!("{}->{port}/{protocol}", SocketAddr::new(*host, *host_port))
}

fn network(name: &str, subnets: &[&str]) -> NetworkSpec {
    let pool =
        |subnet: &&str| PoolSpec { subnet: Some((*subnet).to_owned()), ..PoolSpec::default() };
    let pools = subnets.iter().map(pool).collect();
    NetworkSpec { name: name.to_owned(), pools, ..NetworkSpec::default() }
}

fn sandbox(owner: &str, networks: &[&Network]) -> SandboxSpec {
    let joins = networks.iter().map(|network| join(network)).collect();
    SandboxSpec { owner: owner.to_owned(), joins, ..SandboxSpec::default() }
}

fn join(network: &Network) -> JoinSpec {
    JoinSpec { network: Some(network.id.clone()), ..JoinSpec::default() }
}

/// `8080:80`, `127.0.0.1:8080:80/udp`, `8000-8010:80`, `80` (any host port).
fn publish(text: &str) -> PortSpec {
    let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (rest, port) = text.rsplit_once(':').unwrap_or(("0", text));
    let (host, ports) = match rest.rsplit_once(':') {
        Some((host, ports)) => (Some(host.trim_matches(['[', ']']).parse().unwrap()), ports),
        None => (None, rest),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    PortSpec {
        host,
        host_ports: first.parse().unwrap()..=last.parse().unwrap(),
        protocol: protocol.parse().unwrap(),
        port: port.parse().unwrap(),
    }
}

fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The kind and the sentence of a refusal.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ControllerError>, kind: Kind, message: &str) {
    use crate::HasKind;
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
}
