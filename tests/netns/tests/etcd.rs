//! The cluster's store on a real etcd: the rules, and what goes wrong with it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::fs;
use std::future::Future;
use std::time::Duration;

use cluster::{ClusterStore, Etcd, EtcdOptions, EtcdTls, Outcome, StoreError, Txn, Write};
use netns_tests::Rack;
use tokio::runtime::Runtime;

#[path = "../../../engine/cluster/tests/rules/store.rs"]
mod rules;

fn options(rack: &Rack) -> EtcdOptions {
    let limit = Some(Duration::from_secs(5));
    EtcdOptions { endpoints: rack.etcd.endpoints(), limit, ..EtcdOptions::default() }
}

fn put(key: &str) -> Txn {
    Txn { when: Vec::new(), then: vec![Write::put(key, b"a".to_vec())] }
}

/// What a client's connections live in. They are made by whoever waits, in its namespace.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Does something as a process on the first machine does.
fn on<T: Send>(rack: &Rack, runtime: &Runtime, work: impl Future<Output = T> + Send) -> T {
    rack.machines[0].host.run(|| runtime.block_on(work))
}

/// Tries until the store does it again.
async fn write_at_last(store: &Etcd, key: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(40);
    while let Err(error) = store.transact(put(key)).await {
        assert!(tokio::time::Instant::now() < deadline, "the store does not come back: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn one_member_obeys_the_rules_of_a_store() {
    let rack = Rack::bare(1, 1);
    let runtime = runtime();
    let store = Etcd::with(options(&rack)).unwrap();
    on(&rack, &runtime, rules::all(&store));
}

#[test]
fn three_members_obey_the_rules_of_a_store() {
    let rack = Rack::bare(1, 3);
    let runtime = runtime();
    let store = Etcd::with(options(&rack)).unwrap();
    on(&rack, &runtime, rules::all(&store));
}

#[test]
fn a_store_without_its_leader_is_back_in_seconds_killed_or_hung() {
    let mut rack = Rack::bare(1, 3);
    let runtime = runtime();
    let store = Etcd::with(options(&rack)).unwrap();
    on(&rack, &runtime, write_at_last(&store, "/before"));
    let leader = rack.etcd.leader();
    rack.etcd.kill(leader);
    on(&rack, &runtime, write_at_last(&store, "/killed"));
    rack.etcd.restart(leader);
    let leader = rack.etcd.leader();
    rack.etcd.pause(leader);
    on(&rack, &runtime, write_at_last(&store, "/hung"));
    rack.etcd.resume(leader);
    let keys = on(&rack, &runtime, async { store.range("/").await.unwrap().entries.len() });
    assert_eq!(keys, 3);
}

#[test]
fn a_watch_goes_on_where_it_was_when_its_member_is_gone() {
    let mut rack = Rack::bare(1, 3);
    let runtime = runtime();
    let store = Etcd::with(options(&rack)).unwrap();
    on(&rack, &runtime, async {
        write_at_last(&store, "/w/1").await;
    });
    rack.etcd.kill(0);
    let seen = on(&rack, &runtime, async {
        write_at_last(&store, "/w/2").await;
        let mut watch = store.watch("/w/", 2).await.unwrap();
        watch.next().await.unwrap().1.len()
    });
    assert_eq!(seen, 2);
}

#[test]
fn without_a_majority_nothing_is_said_to_be_done() {
    let mut rack = Rack::bare(1, 3);
    let runtime = runtime();
    let store = Etcd::with(options(&rack)).unwrap();
    on(&rack, &runtime, write_at_last(&store, "/before"));
    let member = rack.etcd.leader();
    let others = (0..3).filter(|other| *other != member);
    others.for_each(|other| rack.etcd.kill(other));
    let (write, read) =
        on(&rack, &runtime, async { (store.transact(put("/x")).await, store.range("/").await) });
    let lost =
        |error: &StoreError| matches!(error, StoreError::Unavailable(_) | StoreError::Unknown(_));
    assert!(write.as_ref().is_err_and(lost), "{write:?}");
    assert!(read.as_ref().is_err_and(|e| matches!(e, StoreError::Unavailable(_))), "{read:?}");
}

#[test]
fn who_was_away_for_a_compaction_is_told() {
    let rack = Rack::bare(1, 1);
    let runtime = runtime();
    let store = Etcd::with(options(&rack)).unwrap();
    on(&rack, &runtime, async {
        for key in ["/a", "/b", "/c"] {
            write_at_last(&store, key).await;
        }
    });
    rack.etcd.ctl("compact 4");
    let error = on(&rack, &runtime, async {
        match store.watch("/", 2).await {
            Ok(mut watch) => watch.next().await.unwrap_err(),
            Err(error) => error,
        }
    });
    assert_eq!(error, StoreError::Compacted(4));
}

#[test]
fn a_user_with_a_password_gets_in_and_nobody_else() {
    let rack = Rack::bare(1, 1);
    let runtime = runtime();
    for words in [
        "user add root:secret",
        "user grant-role root root",
        "user add rnet:sesame",
        "role add rnet",
        "role grant-permission rnet readwrite --prefix=true /rnet/",
        "user grant-role rnet rnet",
        "auth enable",
    ] {
        rack.etcd.ctl(words);
    }
    let as_user = |user: Option<(&str, &str)>| {
        let user = user.map(|(name, password)| (name.to_owned(), password.to_owned()));
        Etcd::with(EtcdOptions { user, ..options(&rack) }).unwrap()
    };
    let denied = |store: &Etcd, key: &str| {
        let error = on(&rack, &runtime, store.transact(put(key))).unwrap_err();
        assert!(matches!(error, StoreError::Denied(_)), "{error:?}");
    };
    let ours = as_user(Some(("rnet", "sesame")));
    assert!(matches!(on(&rack, &runtime, ours.transact(put("/rnet/a"))), Ok(Outcome::Done(_))));
    denied(&ours, "/other");
    denied(&as_user(Some(("rnet", "wrong"))), "/rnet/a");
    denied(&as_user(None), "/rnet/a");
}

#[test]
fn a_certificate_of_the_authority_gets_in_and_no_other_one() {
    let rack = Rack::bare_with_tls(1, 1);
    let runtime = runtime();
    let authority = rack.etcd.authority();
    let tls = |identity: Option<&netns_tests::Certificate>| EtcdTls {
        authority: Some(fs::read(authority.certificate()).unwrap()),
        identity: identity
            .map(|own| (fs::read(&own.certificate).unwrap(), fs::read(&own.key).unwrap())),
    };
    let write = |tls: EtcdTls| {
        let store = Etcd::with(EtcdOptions { tls: Some(tls), ..options(&rack) }).unwrap();
        on(&rack, &runtime, async move { store.transact(put("/a")).await })
    };
    let good = authority.certify("node", &[]);
    let done = write(tls(Some(&good)));
    assert!(matches!(done, Ok(Outcome::Done(_))), "{done:?}");
    let late = authority.certify_too_late("late", &[]);
    let elsewhere = std::env::temp_dir().join(format!("rnet-foreign-{}", std::process::id()));
    let other = netns_tests::Authority::new(&elsewhere);
    let stranger = other.certify("stranger", &[]);
    let foreign =
        EtcdTls { authority: Some(fs::read(other.certificate()).unwrap()), ..tls(Some(&good)) };
    let refused = [tls(None), tls(Some(&late)), tls(Some(&stranger)), foreign].map(write);
    fs::remove_dir_all(&elsewhere).unwrap();
    for answer in refused {
        let error = answer.unwrap_err();
        assert!(matches!(error, StoreError::Denied(_)), "{error:?}");
    }
}
