//! Hosts join, are there, are away, and are removed.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::time::Duration;

use cluster::{ClusterStore, Txn};
use cluster::{Memory, Options, Write};
use cnm::Store;
use cnm::store::{Batch, Durability};
use engine_error::Kind;

#[path = "rules/hosts.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod hosts;

use hosts::{Host, options, until};

#[tokio::test(start_paused = true)]
async fn hosts_that_join_see_each_other_with_numbers_of_their_own() {
    let store = Memory::new();
    let one = Host::joined(&store, 1).await;
    let two = Host::joined(&store, 2).await;
    until("both see both", || {
        one.sees_live(&two) == Some(true) && two.sees_live(&one) == Some(true)
    })
    .await;
    assert_eq!((one.cluster.number(), two.cluster.number()), (Some(1), Some(2)));
    let status = one.cluster.status();
    assert!(status.joined && status.connected && !status.restored, "{status:?}");
    assert_eq!(status.identity, two.cluster.status().identity);
}

#[tokio::test(start_paused = true)]
async fn ten_hosts_that_join_at_once_all_have_another_number() {
    let store = Memory::new();
    let all: Vec<_> = (1..=10).map(|number| Host::new(&store, number)).collect();
    let mut numbers = Vec::new();
    for host in &all {
        host.cluster.joined().await.unwrap();
        numbers.extend(host.cluster.number());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_silent_is_not_there_and_keeps_its_record() {
    let store = Memory::new();
    let one = Host::joined(&store, 1).await;
    let mut two = Host::joined(&store, 2).await;
    until("two is there", || one.sees_live(&two) == Some(true)).await;
    two.kill();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        store.advance(Duration::from_secs(5));
    }
    until("two is not there", || one.sees_live(&two) == Some(false)).await;
    two.begin_again();
    until("two is there again", || one.sees_live(&two) == Some(true)).await;
    assert_eq!(two.cluster.number(), Some(2));
    assert!(one.cluster.status().connected);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_replaced_is_there_all_the_time_and_a_reboot_is_counted() {
    let store = Memory::new();
    let mut host = Host::joined(&store, 1).await;
    let first = host.cluster.epoch();
    host.restart();
    host.cluster.joined().await.unwrap();
    assert_eq!(host.cluster.epoch(), first);
    host.kill();
    host.options.boot = "second".to_owned();
    host.begin_again();
    host.cluster.joined().await.unwrap();
    assert_eq!(host.cluster.epoch(), first + 1);
    let seen = || {
        let node = &host.cluster.view().nodes[host.cluster.id()].record;
        (node.epoch, node.number)
    };
    until("it is told", || seen() == (first + 1, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_reboots_is_no_twin_of_its_last_boot() {
    let store = Memory::new();
    let mut host = Host::joined(&store, 1).await;
    host.kill();
    // What a reboot loses.
    host.options.boot = "second".to_owned();
    host.options.instance = "another".to_owned();
    host.begin_again();
    let joined = tokio::time::timeout(Duration::from_secs(1), host.cluster.joined()).await;
    joined.expect("it waits for nobody").unwrap();
    let seen = || host.cluster.view().nodes[host.cluster.id()].record.epoch;
    until("it is told", || seen() == host.cluster.epoch()).await;
}

/// Another daemon with what is on a host's disk.
fn copy_of(host: &Host, options: Options) -> Host {
    let (local, mut batch) = (cnm::store::Memory::new(), Batch::default());
    for (key, value) in host.local.list("").unwrap() {
        batch.put(key, value);
    }
    local.commit(&batch, Durability::Immediate).unwrap();
    let mut copy = Host {
        store: host.store.clone(),
        local: std::sync::Arc::new(local),
        options,
        cluster: std::sync::Arc::clone(&host.cluster),
        alive: std::collections::BTreeMap::default(),
    };
    copy.begin_again();
    copy
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_only_remembers_the_address_of_a_host_is_refused() {
    let store = Memory::new();
    let host = Host::joined(&store, 1).await;
    let twin = Options { instance: "twin".to_owned(), found: false, ..options(1) };
    let copy = copy_of(&host, twin);
    let error = copy.cluster.joined().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(host.cluster.status().joined);
}

#[tokio::test(start_paused = true)]
async fn a_copy_at_the_address_of_a_host_that_is_there_is_found_out_and_that_goes_on() {
    let store = Memory::new();
    let host = Host::joined(&store, 1).await;
    let copy = copy_of(&host, Options { instance: "twin".to_owned(), ..options(1) });
    let refused = || {
        let status = copy.cluster.status();
        !status.joined && status.problem.is_some_and(|why| why.contains("was copied"))
    };
    until("the copy is refused", refused).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(refused(), "it does not come back");
    assert!(host.cluster.status().joined);
    assert_eq!(host.sees_live(&host), Some(true));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_passes_is_forgotten() {
    let store = Memory::new();
    let host = Host::joined(&store, 1).await;
    store.set_denied(true);
    until("it is refused", || !host.cluster.status().joined).await;
    store.set_denied(false);
    until("it is let in again", || host.cluster.status().joined).await;
    host.network("app").await;
}

#[tokio::test(start_paused = true)]
async fn of_two_daemons_with_one_id_the_second_is_refused_by_name() {
    let store = Memory::new();
    let host = Host::joined(&store, 1).await;
    let copy = Host {
        store: std::sync::Arc::new(store.clone()),
        local: std::sync::Arc::clone(&host.local),
        options: Options { instance: "twin".to_owned(), name: "copy".to_owned(), ..options(9) },
        cluster: std::sync::Arc::clone(&host.cluster),
        alive: std::collections::BTreeMap::default(),
    };
    let mut copy = copy;
    copy.begin_again();
    let error = copy.cluster.joined().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.to_string().contains("is there (h1 at 192.0.2.1)"), "{error}");
    assert!(host.cluster.status().joined);
    let known = &host.cluster.view().nodes[host.cluster.id()].record;
    assert_eq!((known.name.as_str(), known.address), ("h1", options(1).address));
}

#[tokio::test(start_paused = true)]
async fn a_host_whose_tunnels_cannot_meet_the_others_is_refused_by_name() {
    let store = Memory::new();
    let _one = Host::joined(&store, 1).await;
    let other = Options { address: "2001:db8::2".parse().unwrap(), ..options(2) };
    let error = Host::with(&store, other).cluster.joined().await.unwrap_err();
    assert!(error.to_string().contains("are IPv4, as those of h1 (192.0.2.1)"), "{error}");
    let same = Options { address: "192.0.2.1".parse().unwrap(), ..options(3) };
    let error = Host::with(&store, same).cluster.joined().await.unwrap_err();
    assert!(error.to_string().contains("host h1 has this address and is there"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_of_a_later_release_is_not_joined() {
    let store = Memory::new();
    let schema = Write::put("/rnet/v1/test/meta/schema", br#"{"version":9,"least":9}"#.to_vec());
    store.transact(Txn { when: Vec::new(), then: vec![schema] }).await.unwrap();
    let error = Host::new(&store, 1).cluster.joined().await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotImplemented);
    assert!(error.to_string().contains("upgrade rnet on this host"), "{error}");
    assert_eq!(store.keys("/rnet/").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lets_nobody_in_is_told_of_as_that() {
    let store = Memory::new();
    store.set_denied(true);
    let host = Host::new(&store, 1);
    let error = host.cluster.joined().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Forbidden);
    store.set_denied(false);
    until("it is in at last", || host.cluster.status().joined).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_has_another_address_with_one_record() {
    let store = Memory::new();
    let one = Host::joined(&store, 1).await;
    let two = Host::joined(&store, 2).await;
    two.cluster.describe("192.0.2.22".parse().unwrap(), 1400);
    until("one sees it", || {
        let view = one.cluster.view();
        view.nodes.get(two.cluster.id()).is_some_and(|node| {
            (node.record.address.to_string(), node.record.mtu) == ("192.0.2.22".to_owned(), 1400)
        })
    })
    .await;
    one.cluster
        .label_node(two.cluster.id(), &|labels| {
            labels.insert("rack".to_owned(), "3".to_owned());
        })
        .await
        .unwrap();
    two.cluster.describe("192.0.2.23".parse().unwrap(), 1400);
    until("labels outlive it", || {
        let node = &one.cluster.view().nodes[two.cluster.id()];
        node.record.address.to_string() == "192.0.2.23" && node.record.labels["rack"] == "3"
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_removed_leaves_nothing_and_does_not_come_back_by_itself() {
    let store = Memory::new();
    let one = Host::joined(&store, 1).await;
    let mut two = Host::joined(&store, 2).await;
    let network = one.network("app").await;
    until("two sees the network", || two.cluster.view().networks.contains_key(&network)).await;
    two.start(&network, "web").await;
    two.settled().await;
    let id = two.cluster.id().to_owned();
    let error = one.cluster.remove_node(&id, false).await.unwrap_err();
    assert!(error.to_string().contains("host h2 is there and can't be removed"), "{error}");
    two.kill();
    store.advance(Duration::from_secs(20));
    one.cluster.remove_node(&id, false).await.unwrap();
    for key in store.keys("/rnet/v1/test/") {
        let entries = store.range(&key).await.unwrap().entries;
        let value = String::from_utf8_lossy(&entries[0].value).into_owned();
        assert!(!key.contains(&id) && !value.contains(&id), "{key}: {value}");
    }
    two.begin_again();
    let error = two.cluster.joined().await.unwrap_err();
    assert!(error.to_string().contains("was removed from its cluster"), "{error}");
    assert!(store.keys("/rnet/v1/test/eps/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_removed_while_it_is_there_notices_and_tells_nothing_any_more() {
    let store = Memory::new();
    let one = Host::joined(&store, 1).await;
    let mut two = Host::joined(&store, 2).await;
    let network = one.network("app").await;
    until("two sees the network", || two.cluster.view().networks.contains_key(&network)).await;
    two.start(&network, "web").await;
    two.settled().await;
    one.cluster.remove_node(two.cluster.id(), true).await.unwrap();
    two.start_alone(&network, "late");
    until("it notices", || !two.cluster.status().joined).await;
    let problem = two.cluster.status().problem.unwrap();
    assert!(problem.contains("was removed from its cluster"), "{problem}");
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(store.keys("/rnet/v1/test/eps/").is_empty());
    let left = store.range("/rnet/v1/test/ipam/").await.unwrap().entries;
    let ours =
        |entry: &cluster::Entry| String::from_utf8_lossy(&entry.value).contains(two.cluster.id());
    assert!(!left.iter().any(ours));
    assert!(one.sees_live(&two).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_leaves_takes_all_with_it() {
    let store = Memory::new();
    let one = Host::joined(&store, 1).await;
    let two = Host::joined(&store, 2).await;
    one.network("app").await;
    two.cluster.leave().await.unwrap();
    until("one does not see it", || one.sees_live(&two).is_none()).await;
    assert!(store.keys("/rnet/v1/test/ix/number/").len() == 1);
    cluster::forget(&*two.local).unwrap();
    assert_ne!(cluster::node_id(&*two.local).unwrap(), two.cluster.id());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_away_for_too_long_is_removed_and_not_while_the_store_is_away() {
    let store = Memory::new();
    let patient = Some(Duration::from_secs(24 * 3600));
    let one = Host::with(&store, Options { evict_after: patient, ..options(1) });
    one.cluster.joined().await.unwrap();
    let two = Host::joined(&store, 2).await;
    until("two is there", || one.sees_live(&two) == Some(true)).await;
    two.kill();
    let day = async |away: bool| {
        store.set_away(away);
        for _ in 0..24 * 60 {
            tokio::time::sleep(Duration::from_secs(60)).await;
            if !away {
                store.advance(Duration::from_secs(20));
                // The one that is there says so in time.
                tokio::time::sleep(Duration::from_secs(6)).await;
            }
        }
        store.set_away(false);
    };
    day(true).await;
    until("it is not there", || {
        store.advance(Duration::from_secs(4));
        one.sees_live(&two) == Some(false)
    })
    .await;
    assert!(one.cluster.view().nodes.contains_key(two.cluster.id()));
    day(false).await;
    until("it is removed", || one.sees_live(&two).is_none()).await;
}
