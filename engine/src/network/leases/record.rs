//! What is written down of an address that is lent.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use cnm::store::StoreError;
use cnm::store::record::{self, Record};
use cnm::{EndpointId, Mac, NetworkId, Store};
use drivers::dhcp::{Lease, Terms};
use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use super::{Holding, PREFIX};

#[derive(Debug, Serialize, Deserialize)]
struct HoldingRecord {
    network: NetworkId,
    mac: Mac,
    address: Ipv4Network,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<Ipv4Addr>,
    server: Ipv4Addr,
    via: Mac,
    since: u64,
    renew: u32,
    rebind: u32,
    total: u32,
}

impl Record for HoldingRecord {
    const VERSION: u32 = 1;
}

/// What was held, by endpoint. One that cannot be read is asked for again: its endpoint says which
/// address it has.
pub(super) fn read(store: &dyn Store) -> Result<BTreeMap<EndpointId, Holding>, StoreError> {
    let mut all = BTreeMap::new();
    for (key, bytes) in store.list(PREFIX)? {
        let endpoint = key.strip_prefix(PREFIX).and_then(|id| id.parse().ok());
        match (endpoint, record::decode::<HoldingRecord>(&bytes)) {
            (Some(endpoint), Ok(record)) => {
                all.insert(endpoint, record.into_holding());
            }
            (_, Err(error)) => tracing::warn!(key, %error, "a lease is asked for again"),
            (None, Ok(_)) => tracing::warn!(key, "a lease of no endpoint"),
        }
    }
    Ok(all)
}

pub(super) fn key(endpoint: &EndpointId) -> String {
    format!("{PREFIX}{endpoint}")
}

pub(super) fn encode(holding: &Holding) -> Vec<u8> {
    let Holding { network, mac, lease, since, .. } = holding.clone();
    let Lease { address, gateway, server, via, terms } = lease;
    let Terms { renew, rebind, total } = terms;
    record::encode(&HoldingRecord {
        network,
        mac,
        address,
        gateway,
        server,
        via,
        since,
        renew,
        rebind,
        total,
    })
}

impl HoldingRecord {
    fn into_holding(self) -> Holding {
        let Self { network, mac, address, gateway, server, via, since, .. } = self;
        let Self { renew, rebind, total, .. } = self;
        let terms = Terms { renew, rebind, total };
        Holding::new(network, mac, Lease { address, gateway, server, via, terms }, since)
    }
}
