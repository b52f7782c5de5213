//! Networks, addresses and endpoints of several hosts: one owner each, seen everywhere.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use cluster::{ClusterStore, Draft, Memory, Txn, Write};
use cnm::{EndpointId, NetworkId};
use engine_error::Kind;
use ipnetwork::IpNetwork;

#[path = "rules/hosts.rs"]
mod hosts;

use hosts::{Host, draft, endpoint_id, record, small, until};

fn subnets(record: &cluster::record::NetworkRecord) -> Vec<String> {
    record.pools.iter().map(|pool| pool.subnet.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_network_that_one_host_makes_is_there_on_all_with_subnets_of_its_own() {
    let store = Memory::new();
    let one = Host::joined(&store, 1).await;
    let two = Host::joined(&store, 2).await;
    let app = one.network("app").await;
    let avoid = vec!["10.128.16.0/24".parse().unwrap()];
    let db = two.draft(&Draft { avoid, ..draft("db") }).await;
    until("both see both", || {
        [&one, &two].iter().all(|host| host.cluster.view().networks.len() == 2)
    })
    .await;
    let (app, db) = (two.record(&app), one.record(&db));
    assert_eq!((app.vni, db.vni), (4096, 4097));
    assert_eq!(subnets(&app)[0], "10.128.0.0/20");
    assert_eq!(subnets(&db)[0], "10.128.32.0/20");
    assert!(subnets(&app)[1].starts_with("fd") && subnets(&app)[1].ends_with("/64"));
    assert_eq!(subnets(&app)[1][..12], subnets(&db)[1][..12]);
    assert_eq!(app.pools[0].gateway.unwrap().to_string(), "10.128.0.1");
}

#[tokio::test(start_paused = true)]
async fn of_hosts_that_make_a_network_of_one_name_one_does_and_none_overlap() {
    let store = Memory::new();
    let mut all = Vec::new();
    for number in 1..=6 {
        all.push(Host::joined(&store, number).await);
    }
    let mut made = tokio::task::JoinSet::new();
    for host in &all {
        for name in ["same", &host.options.name] {
            let (cluster, draft) = (std::sync::Arc::clone(&host.cluster), draft(name));
            made.spawn(async move { (draft.name.clone(), cluster.create_network(&draft).await) });
        }
    }
    let all: Vec<_> = made.join_all().await;
    let (ok, failed): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, made)| made.is_ok());
    assert_eq!(ok.iter().filter(|(name, _)| name == "same").count(), 1);
    assert_eq!(ok.len(), 7);
    for (name, error) in failed {
        let error = error.unwrap_err();
        assert_eq!((name.as_str(), error.kind()), ("same", Kind::Conflict), "{error}");
    }
    let records: Vec<_> = ok.into_iter().map(|(_, record)| record.unwrap()).collect();
    let vnis: BTreeSet<_> = records.iter().map(|record| record.vni).collect();
    let all: BTreeSet<_> = records.iter().flat_map(subnets).collect();
    assert_eq!((vnis.len(), all.len()), (7, 14));
}

#[tokio::test(start_paused = true)]
async fn a_network_is_made_once_whatever_becomes_of_the_reply() {
    let store = Memory::new();
    let one = Host::joined(&store, 1).await;
    until("it is quiet", || one.sees_live(&one) == Some(true)).await;
    for happens in [true, false] {
        let draft = draft(if happens { "done" } else { "lost" });
        store.lose_reply(happens);
        let record = one.cluster.create_network(&draft).await.unwrap();
        assert_eq!(record.name, draft.name);
    }
    assert_eq!(store.keys("/rnet/v1/test/networks/").len(), 2);
    assert_eq!(store.keys("/rnet/v1/test/ix/vni/").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_overlaps_or_has_a_taken_number_is_refused() {
    let store = Memory::new();
    let one = Host::joined(&store, 1).await;
    one.draft(&small("a", "10.9.0.0/24")).await;
    let error = one.cluster.create_network(&small("b", "10.9.0.128/25")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Forbidden);
    assert!(
        error.to_string().contains("10.9.0.128/25 overlaps 10.9.0.0/24 of network a"),
        "{error}"
    );
    let same = Draft { vni: Some(4096), ..small("b", "10.8.0.0/24") };
    let error = one.cluster.create_network(&same).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.to_string().contains("tunnel number 4096"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_network_is_removed_only_when_no_host_has_an_endpoint_on_it() {
    let store = Memory::new();
    let one = Host::joined(&store, 1).await;
    let mut two = Host::joined(&store, 2).await;
    let network = one.network("app").await;
    until("two sees it", || two.cluster.view().networks.contains_key(&network)).await;
    let web = two.start(&network, "web").await;
    two.settled().await;
    let error = one.cluster.remove_network(&network).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Forbidden);
    assert!(error.to_string().contains("has active endpoints (name:\"web\""), "{error}");
    assert!(error.to_string().contains("on host h2"), "{error}");
    two.end(&web, false);
    two.settled().await;
    one.cluster.remove_network(&network).await.unwrap();
    until("two does not see it", || two.cluster.view().networks.is_empty()).await;
    for prefix in ["networks/", "ix/net/", "ix/vni/", "ipam/", "eps/"] {
        assert!(store.keys(&format!("/rnet/v1/test/{prefix}")).is_empty(), "{prefix}");
    }
    one.cluster.remove_network(&network).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_begins_on_one_host_is_told_to_those_who_follow_the_network() {
    let store = Memory::new();
    let mut one = Host::joined(&store, 1).await;
    let two = Host::joined(&store, 2).await;
    let network = one.network("app").await;
    until("two sees it", || two.cluster.view().networks.contains_key(&network)).await;
    let early = one.start(&network, "early").await;
    one.settled().await;
    assert!(!two.sees(&network, &early));
    two.cluster.follow(&network);
    until("two sees it", || two.sees(&network, &early)).await;
    let mut changes = two.cluster.changes();
    let first = changes.next().await;
    assert!(first.endpoints[&network].contains_key(&early) && first.nodes.len() == 2);
    let web = one.start(&network, "web").await;
    let change = changes.next().await;
    let told = change.endpoints[&network][&web].clone().unwrap();
    assert_eq!(change.endpoints[&network].len(), 1);
    assert_eq!((told.node.as_str(), told.name.as_str()), (one.cluster.id(), "web"));
    assert_eq!(told.addresses.len(), 2);
    one.end(&web, false);
    assert_eq!(changes.next().await.endpoints[&network][&web], None);
    two.cluster.unfollow(&network);
    assert!(!two.cluster.view().endpoints.contains_key(&network));
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_eight_start_and_are_told_of_when_it_is_back() {
    let store = Memory::new();
    let mut one = Host::joined(&store, 1).await;
    let network = one.network("app").await;
    let mut taken = Vec::new();
    // However many were started just before.
    for number in 0..20 {
        one.start(&network, &format!("before-{number}")).await;
        one.settled().await;
        let fresh =
            || store.keys(&format!("/rnet/v1/test/ipam/{network}/")).len() >= 2 * (number + 1 + 8);
        until("spares are claimed ahead", fresh).await;
    }
    store.set_away(true);
    for number in 0..8 {
        taken.extend(one.start_alone(&network, &format!("alone-{number}")));
    }
    assert_eq!(taken.len(), 8);
    assert_eq!(one.cluster.pending().unwrap().len(), 8);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(one.cluster.view().networks.len(), 1);
    store.set_away(false);
    one.settled().await;
    assert_eq!(store.keys(&format!("/rnet/v1/test/eps/{network}/")).len(), 28);
}

#[tokio::test(start_paused = true)]
async fn a_host_begins_with_what_it_remembers_while_the_store_is_away() {
    let store = Memory::new();
    let mut one = Host::joined(&store, 1).await;
    let mut two = Host::joined(&store, 2).await;
    let network = one.network("app").await;
    until("two sees it", || two.cluster.view().networks.contains_key(&network)).await;
    let web = one.start(&network, "web").await;
    let db = two.start(&network, "db").await;
    until("both see both", || one.sees(&network, &db) && two.sees(&network, &web)).await;
    two.settled().await;
    store.set_away(true);
    two.restart();
    let view = two.cluster.view();
    assert!(view.complete);
    assert_eq!((view.nodes.len(), view.networks.len()), (2, 1));
    assert!(two.sees(&network, &web) && two.sees(&network, &db));
    assert_eq!(two.cluster.number(), Some(2));
    assert!(two.start_alone(&network, "alone").is_some());
    store.set_away(false);
    two.settled().await;
    until("one sees what began meanwhile", || one.cluster.view().endpoints[&network].len() == 3)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_dies_between_commit_and_telling_tells_later() {
    let store = Memory::new();
    let mut one = Host::joined(&store, 1).await;
    let network = one.network("app").await;
    let (kept, gone) = (one.start(&network, "kept").await, one.start(&network, "gone").await);
    one.settled().await;
    one.kill();
    // What the next daemon finds: one more that was committed, and one that did not outlive it.
    let new = endpoint_id();
    let addresses = one.cluster.claim_spares(&network, "new", &[]).unwrap().unwrap();
    let batch = one.cluster.publish(&network, &new, record("new", addresses.clone())).unwrap();
    cnm::Store::commit(&*one.local, &batch, cnm::store::Durability::Immediate).unwrap();
    one.alive.insert(new.clone(), (network.clone(), record("new", addresses)));
    one.alive.remove(&gone);
    one.begin_again();
    one.settled().await;
    let there = one.cluster.endpoints(&network).await.unwrap();
    assert_eq!(there.keys().collect::<BTreeSet<_>>(), BTreeSet::from([&kept, &new]));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_was_away_for_a_compaction_takes_the_difference() {
    let store = Memory::new();
    let mut one = Host::joined(&store, 1).await;
    let two = Host::joined(&store, 2).await;
    let network = one.network("app").await;
    two.cluster.follow(&network);
    let old = one.start(&network, "old").await;
    let stays = one.start(&network, "stays").await;
    until("two sees both", || two.sees(&network, &old) && two.sees(&network, &stays)).await;
    let mut changes = two.cluster.changes();
    changes.next().await;
    // Whatever two does next has to be asked for again.
    store.lose_watches();
    one.end(&old, false);
    let new = one.start(&network, "new").await;
    one.settled().await;
    store.compact();
    until("two sees the new one", || two.sees(&network, &new) && !two.sees(&network, &old)).await;
    let mut told = changes.next().await;
    while told.endpoints.get(&network).is_none_or(|all| !all.contains_key(&new)) {
        told = changes.next().await;
    }
    assert!(!told.endpoints[&network].contains_key(&stays), "it did not change");
    let view = two.cluster.view();
    assert_eq!(view.endpoints[&network].len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_is_left_alone_and_told() {
    let store = Memory::new();
    let mut one = Host::joined(&store, 1).await;
    let network = one.network("app").await;
    let web = one.start(&network, "web").await;
    one.settled().await;
    let key = format!("/rnet/v1/test/networks/{network}");
    let later = Write::put(key.clone(), br#"{"version":9,"name":"app","colour":"red"}"#.to_vec());
    store.transact(Txn { when: Vec::new(), then: vec![later.clone()] }).await.unwrap();
    until("it is told", || one.cluster.view().unreadable.contains_key(&key)).await;
    let why = one.cluster.view().unreadable[&key].clone();
    assert!(why.contains("version 9"), "{why}");
    // What was known before is still used.
    assert!(one.cluster.view().networks.contains_key(&network));
    one.restart();
    one.cluster.joined().await.unwrap();
    until("it is told again", || one.cluster.view().unreadable.contains_key(&key)).await;
    assert!(one.sees(&network, &web));
    let error = one.cluster.remove_network(&network).await.unwrap_err();
    assert!(error.to_string().contains("is left alone"), "{error}");
    let Write::Put { value, .. } = later else { unreachable!() };
    assert_eq!(store.range(&key).await.unwrap().entries[0].value, value);
    let same = one.cluster.create_network(&draft("app")).await.unwrap_err();
    assert_eq!(same.kind(), Kind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_wanted_is_had_by_one_and_kept_for_a_stopped_owner() {
    let store = Memory::new();
    let mut one = Host::joined(&store, 1).await;
    let two = Host::joined(&store, 2).await;
    let network = one.draft(&small("app", "10.9.0.0/24")).await;
    until("two sees it", || two.cluster.view().networks.contains_key(&network)).await;
    let wanted: IpAddr = "10.9.0.77".parse().unwrap();
    let claimed = one.cluster.claim_addresses(&network, "web", &[wanted]).await.unwrap();
    assert_eq!(claimed, ["10.9.0.77/24".parse::<IpNetwork>().unwrap()]);
    let web = one.commit(&network, "web", claimed.clone());
    let refused = async |host: &Host, wanted: &str| {
        let wanted: IpAddr = wanted.parse().unwrap();
        host.cluster.claim_addresses(&network, "other", &[wanted]).await.unwrap_err().to_string()
    };
    let error = refused(&two, "10.9.0.77").await;
    assert!(
        error.contains("Address already in use: 10.9.0.77 on network app is claimed by host h1"),
        "{error}"
    );
    let error = refused(&one, "10.9.0.77").await;
    assert!(error.contains("is in use by container web on this host"), "{error}");
    assert!(refused(&two, "10.9.0.1").await.contains("is its gateway"));
    assert!(refused(&two, "10.9.0.255").await.contains("stands for the whole"));
    assert!(refused(&two, "10.7.0.2").await.contains("no configured subnet"));
    one.end(&web, true);
    one.settled().await;
    assert!(refused(&two, "10.9.0.77").await.contains("is claimed by host h1"));
    assert_eq!(one.cluster.claim_addresses(&network, "web", &[]).await.unwrap(), claimed);
    one.cluster.unclaim(&network, &[wanted]);
    assert!(refused(&one, "10.9.0.77").await.contains("is in use by container web"));
    one.cluster.forget(&network, "web");
    let again = two.cluster.claim_addresses(&network, "other", &[wanted]).await.unwrap();
    assert_eq!(again, claimed);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_wished_for_goes_from_host_to_host() {
    let store = Memory::new();
    let mut all = [Host::joined(&store, 1).await, Host::joined(&store, 2).await];
    let network = all[0].draft(&small("app", "10.9.0.0/24")).await;
    until("two sees it", || all[1].cluster.view().networks.contains_key(&network)).await;
    let wanted: IpAddr = "10.9.0.5".parse().unwrap();
    for number in 0..50 {
        let (host, owner) = (&mut all[number % 2], format!("c{number}"));
        let claimed = host.cluster.claim_addresses(&network, &owner, &[wanted]).await.unwrap();
        let endpoint = host.commit(&network, &owner, claimed);
        if number % 3 == 0 {
            host.settled().await;
        }
        if number % 7 == 0 {
            host.restart();
        }
        host.end(&endpoint, false);
    }
}

#[tokio::test(start_paused = true)]
async fn a_network_without_a_free_address_says_so_at_once() {
    let store = Memory::new();
    let mut one = Host::joined(&store, 1).await;
    let mut two = Host::joined(&store, 2).await;
    let network = one.draft(&small("tiny", "10.9.0.0/29")).await;
    until("two sees it", || two.cluster.view().networks.contains_key(&network)).await;
    let mut addresses = BTreeSet::new();
    for number in 0..5 {
        let host = if number % 2 == 0 { &mut one } else { &mut two };
        let id = host.start(&network, &format!("c{number}")).await;
        addresses.insert(host.alive[&id].1.addresses[0].ip());
    }
    assert_eq!(addresses.len(), 5);
    for host in [&one, &two] {
        let error = host.cluster.claim_addresses(&network, "more", &[]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(
            error.to_string().contains("no free address in 10.9.0.0/29 of network tiny"),
            "{error}"
        );
    }
    let first = one.alive.keys().next().unwrap().clone();
    one.end(&first, false);
    assert!(one.start_alone(&network, "more").is_some());
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_comes_back_has_its_address_again_and_others_have_it_last() {
    let store = Memory::new();
    let mut one = Host::joined(&store, 1).await;
    let network = one.draft(&small("app", "10.9.0.0/24")).await;
    let web = one.start(&network, "web").await;
    let had = one.alive[&web].1.addresses.clone();
    one.end(&web, false);
    let other = one.start(&network, "other").await;
    assert_ne!(one.alive[&other].1.addresses, had);
    let web = one.start(&network, "web").await;
    assert_eq!(one.alive[&web].1.addresses, had);
}

/// More endpoints than a host has addresses in hand.
async fn sixty(host: &mut Host, network: &NetworkId) -> Vec<EndpointId> {
    let mut all = Vec::new();
    for number in 0..60 {
        all.push(host.start(network, &format!("c{number}")).await);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn more_addresses_than_a_host_needs_are_given_back() {
    let store = Memory::new();
    let mut one = Host::joined(&store, 1).await;
    let network = one.draft(&small("app", "10.9.0.0/24")).await;
    let all = sixty(&mut one, &network).await;
    for endpoint in &all {
        one.end(endpoint, false);
    }
    one.settled().await;
    let claimed = || store.keys(&format!("/rnet/v1/test/ipam/{network}/")).len();
    assert!(claimed() >= 60);
    until("most are given back", || claimed() <= 24).await;
    assert!(claimed() >= 8);
}

#[tokio::test(start_paused = true)]
async fn what_was_given_back_is_nobody_s_here_though_the_reply_was_lost() {
    let store = Memory::new();
    let mut one = Host::joined(&store, 1).await;
    let network = one.draft(&small("app", "10.9.0.0/24")).await;
    let all = sixty(&mut one, &network).await;
    let had: Vec<_> = one.alive.values().map(|(_, record)| record.addresses[0].ip()).collect();
    for endpoint in &all {
        one.end(endpoint, false);
    }
    one.settled().await;
    store.lose_reply(true);
    let root = format!("/rnet/v1/test/ipam/{network}/");
    until("most are given back", || store.keys(&root).len() <= 24).await;
    store.set_away(true);
    let kept = store.keys(&root);
    let given: Vec<_> =
        had.iter().filter(|address| !kept.contains(&format!("{root}{address}"))).collect();
    assert!(given.len() > 20, "{kept:?}");
    for address in given {
        let claimed = one.cluster.claim_spares(&network, "new", &[*address]).unwrap();
        assert_eq!(claimed, None, "another host may have {address} by now");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hardware_address_that_was_chosen_is_one_endpoints() {
    let store = Memory::new();
    let one = Host::joined(&store, 1).await;
    let two = Host::joined(&store, 2).await;
    let network = one.network("app").await;
    let mac = "02:00:00:00:00:07".parse().unwrap();
    one.cluster.claim_mac(&network, mac, "web").await.unwrap();
    one.cluster.claim_mac(&network, mac, "web").await.unwrap();
    let error = two.cluster.claim_mac(&network, mac, "db").await.unwrap_err();
    assert!(error.to_string().contains("02:00:00:00:00:07 is in use on host h1"), "{error}");
    one.cluster.release_mac(&network, mac, "web").await.unwrap();
    two.cluster.claim_mac(&network, mac, "db").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_dies_before_it_has_written_down_a_network_gives_no_address_twice() {
    let store = Memory::new();
    let mut one = Host::joined(&store, 1).await;
    let network = one.draft(&small("app", "10.9.0.0/24")).await;
    until("spares are claimed ahead", || {
        one.cluster.claim_spares(&network, "probe", &[]).unwrap().is_some()
    })
    .await;
    store.set_away(true);
    for number in 0..4 {
        one.start_alone(&network, &format!("c{number}")).unwrap();
    }
    one.kill();
    for (key, _) in cnm::Store::list(&*one.local, "cluster/mirror/").unwrap() {
        let mut batch = cnm::store::Batch::default();
        batch.delete(key);
        cnm::Store::commit(&*one.local, &batch, cnm::store::Durability::Immediate).unwrap();
    }
    store.set_away(false);
    one.begin_again();
    until("the network is heard of", || one.cluster.view().networks.contains_key(&network)).await;
    for number in 4..24 {
        one.start(&network, &format!("c{number}")).await;
    }
    one.settled().await;
    let addresses: BTreeSet<_> = one.alive.values().map(|(_, one)| one.addresses[0]).collect();
    assert_eq!(addresses.len(), 24);
}
