//! Many endpoints on other hosts.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use cluster::record::{AddressRecord, VERSION, write};
use cluster::{ClusterStore, Memory, Txn, Write};
use cnm::NetworkId;

#[path = "rules/faults.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod faults;
#[path = "rules/hosts.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod hosts;

use faults::{Disk, Wire};
use hosts::{Host, until};

/// Puts many endpoints of another host on a network, with their addresses.
async fn crowd(store: &Memory, network: &NetworkId, node: &str, many: u32) {
    for first in (0..many).step_by(50) {
        let numbers = first..(first + 50).min(many);
        let each = numbers.flat_map(|number| {
            let ip: IpAddr = Ipv4Addr::from(0x0a09_0400 + number).into();
            let owner = format!("c{number}");
            let mut record = hosts::record(&owner, vec![ip.into()]);
            (record.version, record.node) = (VERSION, node.to_owned());
            let address = AddressRecord {
                version: VERSION,
                node: node.to_owned(),
                epoch: 1,
                holder: Some(owner),
                wished: false,
            };
            let below = |kind: &str, id: String| format!("/rnet/v1/test/{kind}/{network}/{id}");
            let id = hosts::endpoint_id().to_string();
            [
                Write::put(below("eps", id), write(&record)),
                Write::put(below("ipam", ip.to_string()), write(&address)),
            ]
        });
        store.transact(Txn { when: Vec::new(), then: each.collect() }).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn p3_thousands_of_endpoints_elsewhere_are_not_read_by_who_is_not_there_and_hold_up_no_start()
{
    let store = Memory::new();
    let two = Host::joined(&store, 2).await;
    let small = two.draft(&hosts::small("small", "10.8.0.0/24")).await;
    let large = two.draft(&hosts::small("large", "10.9.0.0/17")).await;
    crowd(&store, &large, two.cluster.id(), 5_000).await;
    let wire = Wire::new(&store);
    let mut one = Host::over(Arc::new(wire.clone()), Arc::new(Disk::default()), hosts::options(1));
    one.cluster.joined().await.unwrap();
    until("it has addresses of both", || {
        let of = |network| one.cluster.claim_spares(network, "probe", &[]).ok().flatten();
        let (a, b) = (of(&small), of(&large));
        for (network, got) in [(&small, &a), (&large, &b)] {
            let all: Vec<_> = got.iter().flatten().map(ipnetwork::IpNetwork::ip).collect();
            one.cluster.unclaim(network, &all);
        }
        a.is_some() && b.is_some()
    })
    .await;
    tokio::time::sleep(Duration::from_secs(180)).await;
    // Addresses are looked at when it begins and a minute after that; endpoints not at all.
    let (sent, read) = wire.traffic();
    assert!(read < 11_000, "{read} entries were read");
    let begun = one.start_alone(&small, "web").unwrap();
    assert_eq!(wire.traffic(), (sent, read), "nobody is asked");
    one.settled().await;
    let (after, more) = wire.traffic();
    assert!(after - sent <= 2 && more - read < 50, "{} and {}", after - sent, more - read);
    one.end(&begun, false);
    one.settled().await;
    assert!(wire.traffic().1 - read < 100, "{}", wire.traffic().1 - read);
}
