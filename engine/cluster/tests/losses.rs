//! A store that lost data harms nobody, and hosts that die at any time leave nothing behind.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use cluster::record::{AddressRecord, EndpointRecord, Read, read};
use cluster::{ClusterStore, Memory};
use cnm::{EndpointId, NetworkId};
use proptest::prelude::*;

#[path = "rules/hosts.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod hosts;

use hosts::{Host, until};

/// Two hosts with an endpoint each, which both see.
async fn pair(store: &Memory) -> (Host, Host, NetworkId, EndpointId, EndpointId) {
    let mut one = Host::joined(store, 1).await;
    let mut two = Host::joined(store, 2).await;
    let network = one.network("app").await;
    until("two sees it", || two.cluster.view().networks.contains_key(&network)).await;
    let (web, db) = (one.start(&network, "web").await, two.start(&network, "db").await);
    until("both see both", || one.sees(&network, &db) && two.sees(&network, &web)).await;
    one.settled().await;
    two.settled().await;
    (one, two, network, web, db)
}

/// What is in the store agrees with what lives on the hosts.
async fn check(store: &Memory, hosts: &[&Host], network: &NetworkId) {
    let endpoints = store.range(&format!("/rnet/v1/test/eps/{network}/")).await.unwrap().entries;
    let there: BTreeMap<EndpointId, EndpointRecord> = endpoints
        .iter()
        .map(|entry| {
            let Read::Record(record) = read(&entry.value) else { panic!("{entry:?}") };
            (entry.key.rsplit('/').next().unwrap().parse().unwrap(), record)
        })
        .collect();
    let alive: BTreeSet<_> = hosts.iter().flat_map(|host| host.alive.keys()).collect();
    assert_eq!(there.keys().collect::<BTreeSet<_>>(), alive);
    let prefix = format!("/rnet/v1/test/ipam/{network}/");
    let owners: BTreeMap<IpAddr, AddressRecord> = store
        .range(&prefix)
        .await
        .unwrap()
        .entries
        .iter()
        .map(|entry| {
            let Read::Record(record) = read(&entry.value) else { panic!("{entry:?}") };
            (entry.key[prefix.len()..].parse().unwrap(), record)
        })
        .collect();
    let mut used = BTreeMap::new();
    for (id, endpoint) in &there {
        for address in &endpoint.addresses {
            assert_eq!(used.insert(address.ip(), id), None, "{address} has two owners");
            let owner = &owners[&address.ip()];
            assert_eq!(owner.node, endpoint.node);
            assert_eq!(owner.holder.as_deref(), Some(endpoint.container.as_str()), "{address}");
        }
    }
    for (address, record) in owners {
        assert!(record.holder.is_none() || used.contains_key(&address), "{address}: {record:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_emptied_store_harms_nobody_and_is_told_what_the_hosts_know() {
    let store = Memory::new();
    let (mut one, mut two, network, web, db) = pair(&store).await;
    let (before, number) = (two.cluster.view().networks, two.cluster.number());
    store.wipe();
    until("both see that", || one.cluster.status().restored && two.cluster.status().restored).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    for host in [&one, &two] {
        assert!(host.sees(&network, &web) && host.sees(&network, &db));
        assert!(host.cluster.status().problem.unwrap().contains("rnet cluster adopt"));
    }
    assert!(store.keys("/rnet/").is_empty());
    let error = one.cluster.create_network(&hosts::draft("more")).await.unwrap_err();
    assert!(error.chain().contains("rnet cluster adopt"), "{}", error.chain());
    let late = one.start_alone(&network, "late").unwrap();

    one.cluster.adopt().await.unwrap();
    until("all is well", || {
        [&one, &two].iter().all(|host| {
            let status = host.cluster.status();
            !status.restored && status.joined && status.connected && status.pending == 0
        })
    })
    .await;
    until("what began meanwhile is seen", || two.sees(&network, &late)).await;
    until("both are there", || {
        one.sees_live(&two) == Some(true) && two.sees_live(&one) == Some(true)
    })
    .await;
    for host in [&one, &two] {
        assert!(host.sees(&network, &web) && host.sees(&network, &db));
    }
    assert_eq!((two.cluster.view().networks, two.cluster.number()), (before, number));
    until("spares are told of", || store.keys("/rnet/v1/test/ipam/").len() > 3 * 2 + 2 * 16).await;
    check(&store, &[&one, &two], &network).await;
    two.end(&db, false);
    one.end(&late, false);
    one.settled().await;
    two.settled().await;
    check(&store, &[&one, &two], &network).await;
    let error = one.cluster.adopt().await.unwrap_err();
    assert!(error.to_string().contains("nothing to adopt"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_old_snapshot_harms_nobody_and_what_it_has_of_the_past_goes() {
    let store = Memory::new();
    let (mut one, mut two, network, web, db) = pair(&store).await;
    let saved = store.save();
    two.end(&db, false);
    two.settled().await;
    let new = two.start(&network, "new").await;
    until("one sees it", || one.sees(&network, &new) && !one.sees(&network, &db)).await;
    two.settled().await;
    let other = one.network("other").await;
    until("two sees that network", || two.cluster.view().networks.contains_key(&other)).await;
    let lodger = one.start(&other, "lodger").await;
    one.settled().await;
    store.restore(&saved);
    until("both see that", || one.cluster.status().restored && two.cluster.status().restored).await;
    assert!(one.sees(&network, &new) && two.sees(&network, &web) && !one.sees(&network, &db));
    // A daemon that begins now believes it no more than the others do.
    one.restart();
    until("it sees that, too", || one.cluster.status().restored).await;
    assert!(one.sees(&network, &new));

    two.cluster.adopt().await.unwrap();
    until("all is well", || {
        [&one, &two].iter().all(|host| {
            let status = host.cluster.status();
            !status.restored && status.joined && status.connected && status.pending == 0
        })
    })
    .await;
    until("what is of the past is gone", || {
        store.keys(&format!("/rnet/v1/test/eps/{network}/")).len() == 2
    })
    .await;
    until("both see the same", || {
        [&one, &two].iter().all(|host| {
            host.sees(&network, &new) && host.sees(&network, &web) && !host.sees(&network, &db)
        })
    })
    .await;
    // Whose addresses are is told within a round.
    tokio::time::sleep(Duration::from_secs(130)).await;
    check(&store, &[&two, &one_of(&one, &network)], &network).await;
    assert!(store.keys(&format!("/rnet/v1/test/eps/{other}/"))[0].ends_with(lodger.as_str()));
}

#[tokio::test(start_paused = true)]
async fn an_old_copy_that_has_caught_up_is_not_taken_for_what_it_is_a_copy_of() {
    let store = Memory::new();
    let (mut one, mut two, network, web, db) = pair(&store).await;
    let (saved, copied) = (store.save(), store.health().await.unwrap().revision);
    let new = two.start(&network, "new").await;
    until("one sees it", || one.sees(&network, &new)).await;
    two.settled().await;
    let seen = one.cluster.status().revision;
    store.go_back(&saved);
    until("both see that", || one.cluster.status().restored && two.cluster.status().restored).await;
    assert_eq!(store.health().await.unwrap().revision, copied, "nobody writes there");
    // Other things are in the same etcd.
    while store.health().await.unwrap().revision <= seen {
        let then = vec![cluster::Write::put("/another", b"program".to_vec())];
        let txn = cluster::Txn { when: Vec::new(), then };
        store.transact(txn).await.unwrap();
    }
    one.restart();
    tokio::time::sleep(Duration::from_secs(60)).await;
    for host in [&one, &two] {
        assert!(host.cluster.status().restored);
        assert!([&web, &db, &new].iter().all(|endpoint| host.sees(&network, endpoint)));
    }
    one.cluster.adopt().await.unwrap();
    until("what it lost is told it", || {
        let all = store.keys(&format!("/rnet/v1/test/eps/{network}/"));
        all.len() == 3 && !two.cluster.status().restored
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_told_held_up_what_is_told_of_all_other_addresses() {
    let store = Memory::new();
    let (mut one, two, network, _, db) = pair(&store).await;
    let mut all = store.keys(&format!("/rnet/v1/test/eps/{network}/")).len();
    let (_, theirs) = two.alive[&db].clone();
    // What another host has by now: after a store that was lost, for example.
    one.commit(&network, "late", theirs.addresses.clone());
    until("it is said that it cannot be told", || !one.cluster.status().unpublished.is_empty())
        .await;
    let rests = one.start(&network, "rests").await;
    all += 1;
    until("the other one is told", || {
        store.keys(&format!("/rnet/v1/test/eps/{network}/")).len() == all
    })
    .await;
    one.end(&rests, true);
    tokio::time::sleep(Duration::from_secs(5)).await;
    one.cluster.forget(&network, "rests");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let prefix = format!("/rnet/v1/test/ipam/{network}/");
    for entry in store.range(&prefix).await.unwrap().entries {
        let Read::Record(AddressRecord { holder, .. }) = read(&entry.value) else { panic!() };
        assert_ne!(holder.as_deref(), Some("rests"), "{}", entry.key);
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_the_store_had_for_nobody_although_it_is_used_was_never_told_again() {
    let store = Memory::new();
    let (mut one, _, network, web, _) = pair(&store).await;
    let (_, record) = one.alive[&web].clone();
    let key = format!("/rnet/v1/test/ipam/{network}/{}", record.addresses[0].ip());
    let holder = async || {
        let entry = store.range(&key).await.unwrap().entries.remove(0);
        let Read::Record(record) = read::<AddressRecord>(&entry.value) else { panic!() };
        record
    };
    let nobodys = AddressRecord { holder: None, ..holder().await };
    let then = vec![cluster::Write::put(key.clone(), cluster::record::write(&nobodys))];
    store.transact(cluster::Txn { when: Vec::new(), then }).await.unwrap();
    one.restart();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(holder().await.holder.as_deref(), Some("web"));
}

/// The host with only what it has on one network.
fn one_of(host: &Host, network: &NetworkId) -> Host {
    let alive = host.alive.iter().filter(|(_, (of, _))| of == network);
    Host {
        store: host.store.clone(),
        local: std::sync::Arc::clone(&host.local),
        options: host.options.clone(),
        cluster: std::sync::Arc::clone(&host.cluster),
        alive: alive.map(|(id, of)| (id.clone(), of.clone())).collect(),
    }
}

/// What happens next, to which host.
#[derive(Clone, Debug)]
enum Step {
    Start(usize),
    End(usize, usize),
    Restart(usize),
    /// The daemon dies after a claim, or after a commit, of a start.
    DieStarting(usize, bool),
    LoseReply(bool),
    LoseWatches,
    Compact,
    Away(bool),
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let host = 0..3_usize;
    let step = prop_oneof![
        6 => host.clone().prop_map(Step::Start),
        4 => (host.clone(), any::<usize>()).prop_map(|(host, which)| Step::End(host, which)),
        1 => host.clone().prop_map(Step::Restart),
        1 => (host, any::<bool>()).prop_map(|(host, committed)| Step::DieStarting(host, committed)),
        2 => any::<bool>().prop_map(Step::LoseReply),
        1 => Just(Step::LoseWatches),
        1 => Just(Step::Compact),
        1 => any::<bool>().prop_map(Step::Away),
        2 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

async fn walk(steps: Vec<Step>) {
    let store = Memory::new();
    let mut all = Vec::new();
    for number in 1..=3 {
        all.push(Host::joined(&store, number).await);
    }
    let network = all[0].draft(&hosts::small("app", "10.9.0.0/25")).await;
    for host in &all {
        until("it is seen", || host.cluster.view().networks.contains_key(&network)).await;
    }
    for (number, step) in steps.into_iter().enumerate() {
        take(&store, &mut all, &network, number, step).await;
    }
    store.set_away(false);
    for host in &all {
        host.settled().await;
    }
    // What nobody has is told to be nobody's within a round.
    tokio::time::sleep(Duration::from_secs(130)).await;
    let hosts: Vec<_> = all.iter().collect();
    check(&store, &hosts, &network).await;
    let alive: usize = all.iter().map(|host| host.alive.len()).sum();
    for host in &all {
        host.cluster.follow(&network);
        until("all see all", || {
            host.cluster.view().endpoints.get(&network).map_or(0, |all| all.len()) == alive
        })
        .await;
    }
}

async fn take(store: &Memory, all: &mut [Host], network: &NetworkId, number: usize, step: Step) {
    let owner = format!("c{number}");
    match step {
        Step::Start(host) => {
            let host = &mut all[host];
            let claimed = host.cluster.claim_addresses(network, &owner, &[]).await;
            if let Ok(claimed) = claimed {
                host.commit(network, &owner, claimed);
            }
        }
        Step::End(host, which) => {
            let host = &mut all[host];
            let ids: Vec<_> = host.alive.keys().cloned().collect();
            if !ids.is_empty() {
                host.end(&ids[which % ids.len()], false);
            }
        }
        Step::Restart(host) => all[host].restart(),
        Step::DieStarting(host, committed) => {
            let host = &mut all[host];
            if let Ok(Some(claimed)) = host.cluster.claim_spares(network, &owner, &[])
                && committed
            {
                host.commit(network, &owner, claimed);
            }
            host.restart();
        }
        Step::LoseReply(happens) => store.lose_reply(happens),
        Step::LoseWatches => store.lose_watches(),
        Step::Compact => store.compact(),
        Step::Away(away) => store.set_away(away),
        Step::Wait => tokio::time::sleep(Duration::from_millis(300)).await,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_address_has_one_owner_and_no_key_outlives_its_endpoint(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(walk(steps));
    }
}
