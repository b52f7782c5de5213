//! Keeping what is lent: more time is asked of the lender, later of anybody; an endpoint that is lent
//! another address gets that, and one that is lent none any more loses the one it had.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use cnm::controller::Lent;
use cnm::store::{Batch, Durability};
use cnm::{Endpoint, EndpointId, Mac, NetworkId, SandboxId};
use drivers::dhcp::{Client, DhcpError, Lease, Terms, Whom};

use super::{Holding, LIMIT, record, seconds, transaction};
use crate::network::{Networks, now};
use engine_error::{Error, Result};

/// How long the answer of one who is asked for more time is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many are asked for at once.
const AT_ONCE: usize = 16;

/// When to look without being woken.
const INTERVAL: Duration = Duration::from_secs(60);

/// The least and the most that is waited before one who did not answer is asked again.
const SOON: u64 = 1_000_000_000;
const LATE: u64 = 3_600_000_000_000;

/// What a running endpoint does that is lent another address, or none.
pub(crate) type Renumber = dyn Fn(&SandboxId, &NetworkId, Option<Lent>) -> Result<()> + Send + Sync;

/// How far a lease is through its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Renewing,
    Rebinding,
    Over,
}

impl Holding {
    fn at(&self, seconds_of: impl Fn(&Terms) -> u32) -> u64 {
        self.since.saturating_add(seconds(seconds_of(&self.lease.terms)))
    }

    fn stage(&self, now: u64) -> Stage {
        if now >= self.at(|terms| terms.total) {
            Stage::Over
        } else if now >= self.at(|terms| terms.rebind) {
            Stage::Rebinding
        } else {
            Stage::Renewing
        }
    }

    /// Nobody answered: half of what is left of the stage is waited (RFC 2131, 4.4.5).
    fn put_off(&mut self, now: u64) {
        let end = match self.stage(now) {
            Stage::Renewing => self.at(|terms| terms.rebind),
            Stage::Rebinding => self.at(|terms| terms.total),
            Stage::Over => now + seconds(10),
        };
        let half = (end.saturating_sub(now) / 2).clamp(SOON, LATE);
        self.due = end.min(now + half).max(now + SOON);
    }
}

impl Networks {
    /// Keeps what is lent for as long as the networks are used.
    pub(crate) fn keep_leases(self: &Arc<Self>, renumber: Box<Renumber>) -> Result<()> {
        self.adopt_leases();
        let woken = self.leases.woken.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(woken) = woken else { return Ok(()) };
        let networks: Weak<Self> = Arc::downgrade(self);
        let keep = move || {
            loop {
                let Some(networks) = networks.upgrade() else { return };
                let pause = networks.attend_all(&*renumber);
                drop(networks);
                if woken.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        };
        let started = thread::Builder::new().name("leases".to_owned()).spawn(keep);
        started.map(drop).map_err(|error| Error::internal("cannot start to keep leases", error))
    }

    /// Goes on with what an earlier daemon held. What it held for nobody is given back; an endpoint
    /// that has an address and no lease asks for one at once.
    fn adopt_leases(&self) {
        let lent = self.lent_endpoints();
        let known: Vec<_> = self.leases.lock().keys().cloned().collect();
        let gone = known.into_iter().filter(|id| !lent.iter().any(|(_, of)| of.id == *id));
        let gone: Vec<_> = gone.collect();
        let records = self.return_left(&gone);
        self.note(|_| Batch::default(), records, Durability::Eventual);
        let mut holdings = self.leases.lock();
        for (_, endpoint) in lent {
            let held = holdings
                .get(&endpoint.id)
                .is_some_and(|holding| holding.is_of(&endpoint) || endpoint.addresses.is_empty());
            if !held {
                holdings.insert(endpoint.id.clone(), unknown(&endpoint));
            }
        }
    }

    /// All endpoints with lent addresses, with their sandboxes.
    fn lent_endpoints(&self) -> Vec<(SandboxId, Arc<Endpoint>)> {
        let model = self.controller();
        let networks = model.networks().into_iter().filter(|network| network.addressing.is_lent());
        let endpoints = networks.flat_map(|network| model.endpoints_of(&network.id));
        endpoints.map(|endpoint| (endpoint.sandbox.clone(), endpoint)).collect()
    }

    /// Asks for all that is due, and returns how long there is nothing to do.
    fn attend_all(&self, renumber: &Renumber) -> Duration {
        let started = now();
        let due: Vec<EndpointId> = {
            let holdings = self.leases.lock();
            let due = holdings.iter().filter(|(_, holding)| holding.due <= started);
            due.map(|(endpoint, _)| endpoint.clone()).collect()
        };
        if !due.is_empty() {
            let lent = self.lent_endpoints();
            for some in due.chunks(AT_ONCE) {
                thread::scope(|scope| {
                    for id in some {
                        let found = lent.iter().find(|(_, endpoint)| endpoint.id == *id);
                        scope.spawn(move || self.attend(id, found, renumber));
                    }
                });
            }
        }
        let next = self.leases.lock().values().map(|holding| holding.due).min();
        let pause = next.map(|next| Duration::from_nanos(next.saturating_sub(now())));
        pause.map_or(INTERVAL, |pause| pause.min(INTERVAL))
    }

    /// Asks for one. It may have been given back meanwhile.
    fn attend(
        &self,
        id: &EndpointId,
        found: Option<&(SandboxId, Arc<Endpoint>)>,
        renumber: &Renumber,
    ) {
        let (Some((sandbox, endpoint)), Some(holding)) = (found, self.holding(id)) else {
            self.leases.lock().remove(id);
            return;
        };
        let asked = now();
        match self.ask_servers(sandbox, endpoint, &holding) {
            Ok(lease) => {
                self.take(sandbox, endpoint, Holding { lease, since: asked, ..holding }, renumber);
            }
            Err(error) => self.go_without(sandbox, endpoint, &error, renumber),
        }
    }

    fn holding(&self, id: &EndpointId) -> Option<Holding> {
        self.leases.lock().get(id).cloned()
    }

    /// Asks whom it is time to ask. Who is refused more time asks for another address.
    fn ask_servers(
        &self,
        sandbox: &SandboxId,
        endpoint: &Endpoint,
        holding: &Holding,
    ) -> Result<Lease> {
        let mut port = self.kernel.messenger(sandbox, &endpoint.interface, holding.mac)?;
        let mut client = Client::new(port.as_mut(), holding.mac, transaction());
        let lease = &holding.lease;
        let last = Some(lease.address.ip()).filter(|address| !address.is_unspecified());
        let asked = match holding.stage(now()) {
            Stage::Renewing => client.extend(lease, Whom::Lender, PATIENCE),
            Stage::Rebinding => client.extend(lease, Whom::Anybody, PATIENCE),
            Stage::Over => client.acquire(last, LIMIT),
        };
        let asked = match asked {
            Err(DhcpError::Refused { address, server }) => {
                tracing::info!(%address, %server, "a lease is over before its time");
                if let Some(held) = self.leases.lock().get_mut(&endpoint.id) {
                    held.since = 0;
                }
                client.acquire(None, LIMIT)
            }
            other => other,
        };
        asked.map_err(|error| Error::new(cnm::Kind::Unavailable, error.to_string()))
    }

    /// Takes what was lent, and has the endpoint follow if that is another address than it has.
    fn take(
        &self,
        sandbox: &SandboxId,
        endpoint: &Endpoint,
        holding: Holding,
        renumber: &Renumber,
    ) {
        let holding = Holding::new(holding.network, holding.mac, holding.lease, holding.since);
        let lent = holding.lent();
        let same = holding.is_of(endpoint) && endpoint.gateways.first().copied() == lent.gateway;
        if !same && let Err(error) = renumber(sandbox, &holding.network, Some(lent)) {
            let (error, address) = (error.chain(), lent.address);
            tracing::error!(error, %address, "an endpoint cannot follow its lease");
            self.put_off(&endpoint.id);
            return;
        }
        let mut records = Batch::default();
        records.put(record::key(&endpoint.id), record::encode(&holding));
        // It may have been given back while it was asked for.
        let mut holdings = self.leases.lock();
        let Some(held) = holdings.get_mut(&endpoint.id) else { return };
        *held = holding;
        drop(holdings);
        self.note(|_| Batch::default(), records, Durability::Eventual);
    }

    /// Nobody lent anything. Who has an address whose time is over uses it no more.
    fn go_without(
        &self,
        sandbox: &SandboxId,
        endpoint: &Endpoint,
        error: &Error,
        renumber: &Renumber,
    ) {
        let Some(holding) = self.holding(&endpoint.id) else { return };
        let address = holding.lease.address;
        tracing::warn!(error = error.chain(), %address, "no more time for a lease");
        let over = holding.stage(now()) == Stage::Over;
        if over && !endpoint.addresses.is_empty() {
            match renumber(sandbox, &holding.network, None) {
                Ok(()) => tracing::warn!(%address, "a lease has run out, and is not used any more"),
                Err(error) => {
                    tracing::error!(error = error.chain(), "an expired lease stays in use");
                }
            }
        }
        self.put_off(&endpoint.id);
    }

    fn put_off(&self, id: &EndpointId) {
        if let Some(holding) = self.leases.lock().get_mut(id) {
            holding.put_off(now());
        }
    }
}

/// What is known of the lease of an endpoint that no record tells of: it is due.
fn unknown(endpoint: &Endpoint) -> Holding {
    let address = endpoint.addresses.iter().find_map(|address| match address {
        ipnetwork::IpNetwork::V4(address) => Some(*address),
        ipnetwork::IpNetwork::V6(_) => None,
    });
    let gateway = endpoint.gateways.iter().find_map(|gateway| match gateway {
        IpAddr::V4(gateway) => Some(*gateway),
        IpAddr::V6(_) => None,
    });
    let (unspecified, everybody) = (Ipv4Addr::UNSPECIFIED, Mac::from([0xff; 6]));
    let since = now();
    Holding {
        network: endpoint.network.clone(),
        mac: endpoint.mac,
        lease: Lease {
            address: address.unwrap_or_else(|| unspecified.into()),
            gateway,
            server: unspecified,
            via: everybody,
            // Anybody is asked, and there is an hour to answer.
            terms: Terms { renew: 0, rebind: 0, total: 3600 },
        },
        since,
        due: since,
    }
}
