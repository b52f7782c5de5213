//! Addresses that DHCP servers lend: asked for before an endpoint is there, kept while it is there,
//! given back when it goes.
//!
//! What is held is written down with the endpoint that has it. A daemon that is away renews nothing,
//! and the next one goes on where it was: times are those of the clock on the wall.

mod keep;
mod record;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cnm::controller::{Entropy, Lent, WantedAddress};
use cnm::store::{Batch, StoreError};
use cnm::{Endpoint, EndpointId, Kind, Mac, NetworkId, SandboxId, Store};
use drivers::dhcp::{Client, Lease, Port};

use super::claims::Claimed;
use super::{Chance, Change, Networks, now};
use engine_error::{Error, Result};

/// How long a start waits for a server. Servers that look first whether an address is in use take
/// some seconds.
const LIMIT: Duration = Duration::from_secs(10);

/// What the keys of records begin with.
const PREFIX: &str = "dhcp/";

/// An address that is lent for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    network: NetworkId,
    mac: Mac,
    lease: Lease,
    /// When it was asked for, in nanoseconds since the Unix epoch.
    since: u64,
    /// When to ask next.
    due: u64,
}

/// All that is held.
#[derive(Debug)]
pub(super) struct Leases {
    holdings: Mutex<BTreeMap<EndpointId, Holding>>,
    /// Wakes whoever keeps them.
    wake: SyncSender<()>,
    woken: Mutex<Option<Receiver<()>>>,
}

impl Leases {
    /// What an earlier daemon wrote down.
    pub(super) fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let (wake, woken) = sync_channel(1);
        let holdings = Mutex::new(record::read(store)?);
        Ok(Self { holdings, wake, woken: Mutex::new(Some(woken)) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Holding>> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, endpoint: EndpointId, holding: Holding) {
        self.lock().insert(endpoint, holding);
        // Who is to be woken twice is woken.
        let _ = self.wake.try_send(());
    }
}

impl Holding {
    fn new(network: NetworkId, mac: Mac, lease: Lease, since: u64) -> Self {
        let due = since.saturating_add(seconds(lease.terms.renew));
        Self { network, mac, lease, since, due }
    }

    /// What the model is told of it.
    pub(super) fn lent(&self) -> Lent {
        let Lease { address, gateway, .. } = self.lease;
        Lent { address: address.into(), gateway: gateway.map(IpAddr::V4), mac: Some(self.mac) }
    }

    fn is_of(&self, endpoint: &Endpoint) -> bool {
        endpoint.network == self.network && endpoint.addresses.contains(&self.lease.address.into())
    }
}

impl Networks {
    /// Asks the DHCP servers of a network for an address. Blocks, for some seconds at most.
    pub(super) fn borrow(&self, wanted: &WantedAddress) -> Result<Holding> {
        let name = self.network(wanted.network.as_str())?.name.clone();
        let cannot = |why: String| {
            let text = format!("cannot get an address on network {name}: {why}");
            Error::new(Kind::Unavailable, text)
        };
        let mut port = self.visit(&wanted.network, wanted.mac)?;
        let mut client = Client::new(port.as_mut(), wanted.mac, transaction());
        let asked = wanted.wanted.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let since = now();
        let lease = client.acquire(asked, LIMIT).map_err(|error| cannot(error.to_string()))?;
        if let Some(asked) = asked.filter(|asked| lease.address.ip() != *asked) {
            let given = lease.address.ip();
            give_back(&mut client, &lease);
            let why = format!("the DHCP server {} gives {given}, not {asked}", lease.server);
            return Err(cannot(why));
        }
        Ok(Holding::new(wanted.network.clone(), wanted.mac, lease, since))
    }

    /// Gives back what was lent for an endpoint that is not there.
    pub(super) fn return_lease(&self, holding: &Holding) {
        match self.visit(&holding.network, holding.mac) {
            Ok(mut port) => {
                let mut client = Client::new(port.as_mut(), holding.mac, transaction());
                give_back(&mut client, &holding.lease);
            }
            Err(error) => {
                let (error, address) = (error.chain(), holding.lease.address);
                tracing::warn!(error, %address, "a lease runs out by itself");
            }
        }
    }

    /// Gives back all that was lent to a sandbox, while that is there; with the records that are to go.
    pub(super) fn return_leases(
        &self,
        sandbox: &SandboxId,
        endpoints: &[impl AsRef<Endpoint>],
    ) -> Batch {
        let mut batch = Batch::default();
        for endpoint in endpoints {
            let endpoint = endpoint.as_ref();
            let Some(holding) = self.leases.lock().remove(&endpoint.id) else { continue };
            batch.delete(record::key(&endpoint.id));
            match self.kernel.messenger(sandbox, &endpoint.interface, holding.mac) {
                Ok(mut port) => {
                    let mut client = Client::new(port.as_mut(), holding.mac, transaction());
                    give_back(&mut client, &holding.lease);
                }
                // Its namespace may be gone.
                Err(_) => self.return_lease(&holding),
            }
        }
        batch
    }

    /// Keeps what was lent to new endpoints. Its records are there: they came with the intent.
    pub(super) fn keep_lent(&self, endpoints: &[impl AsRef<Endpoint>], lent: Vec<Holding>) {
        for holding in lent {
            let mut all = endpoints.iter().map(AsRef::as_ref);
            if let Some(endpoint) = all.find(|endpoint| holding.is_of(endpoint)) {
                self.leases.keep(endpoint.id.clone(), holding);
            }
        }
    }

    /// Gives back what was lent to endpoints that have left, and returns the records that are to go.
    pub(super) fn return_left(&self, left: &[EndpointId]) -> Batch {
        let mut batch = Batch::default();
        for endpoint in left {
            let Some(holding) = self.leases.lock().remove(endpoint) else { continue };
            batch.delete(record::key(endpoint));
            self.return_lease(&holding);
        }
        batch
    }

    /// Decides that an endpoint has the address that it is lent now, or none.
    pub(crate) fn begin_renumber(
        &self,
        sandbox: &SandboxId,
        network: &NetworkId,
        lent: Option<Lent>,
    ) -> Result<Change> {
        let transaction = self.controller().begin_renumber(sandbox, network, lent, now())?;
        Change::of(transaction, Claimed::default())
    }

    /// A way to the servers of a network while no endpoint with this hardware address is on it.
    fn visit(&self, network: &NetworkId, mac: Mac) -> Result<Box<dyn Port>> {
        let plan = self.controller().plan_visit(network, mac, &mut Chance)?;
        Ok(self.kernel.visit(&plan)?)
    }
}

/// The records of what was lent to the endpoints of a change.
pub(super) fn records(endpoints: &[impl AsRef<Endpoint>], lent: &[Holding]) -> Batch {
    let mut batch = Batch::default();
    for holding in lent {
        let mut all = endpoints.iter().map(AsRef::as_ref);
        if let Some(endpoint) = all.find(|endpoint| holding.is_of(endpoint)) {
            batch.put(record::key(&endpoint.id), record::encode(holding));
        }
    }
    batch
}

fn give_back(client: &mut Client<'_>, lease: &Lease) {
    if let Err(error) = client.release(lease) {
        tracing::warn!(%error, address = %lease.address, "a lease runs out by itself");
    }
}

/// The number of a conversation with servers.
fn transaction() -> u32 {
    let [a, b, c, d, ..] = Chance.bytes();
    u32::from_be_bytes([a, b, c, d])
}

fn seconds(seconds: u32) -> u64 {
    u64::from(seconds).saturating_mul(1_000_000_000)
}
