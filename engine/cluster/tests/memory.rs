//! The store in memory obeys the rules of a store, and goes wrong as etcd does.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::time::Duration;

use cluster::{ClusterStore, Memory, Outcome, StoreError, Txn, Write};

#[path = "rules/store.rs"]
mod rules;

fn put(key: &str) -> Txn {
    Txn { when: Vec::new(), then: vec![Write::put(key, b"a".to_vec())] }
}

#[tokio::test]
async fn it_obeys_the_rules() {
    rules::all(&Memory::new()).await;
}

#[tokio::test]
async fn what_is_compacted_cannot_be_watched_any_more() {
    let store = Memory::new();
    store.transact(put("/a")).await.unwrap();
    store.transact(put("/b")).await.unwrap();
    store.compact();
    let mut watch = store.watch("/", 2).await.unwrap();
    assert_eq!(watch.next().await, Err(StoreError::Compacted(3)));
    let mut watch = store.watch("/", 3).await.unwrap();
    assert_eq!(watch.next().await.unwrap().0, 3);
}

#[tokio::test]
async fn a_lost_reply_says_nothing_of_what_happened() {
    let store = Memory::new();
    store.lose_reply(true);
    store.lose_reply(false);
    for (key, there) in [("/a", true), ("/b", false)] {
        let error = store.transact(put(key)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unknown(_)), "{error}");
        assert_eq!(store.keys(key).len(), usize::from(there));
    }
}

#[tokio::test]
async fn leases_end_by_the_clock_and_not_while_there_is_no_majority() {
    let store = Memory::new();
    let lease = store.grant(Duration::from_secs(15)).await.unwrap();
    let bound = Write::Put { key: "/live".to_owned(), value: Vec::new(), lease: Some(lease) };
    store.transact(Txn { when: Vec::new(), then: vec![bound] }).await.unwrap();
    store.advance(Duration::from_secs(14));
    store.keep_alive(lease).await.unwrap();
    store.set_away(true);
    store.advance(Duration::from_secs(600));
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::Unavailable(_))));
    store.set_away(false);
    store.advance(Duration::from_secs(14));
    assert_eq!(store.keys("/live"), ["/live"]);
    store.advance(Duration::from_secs(1));
    assert!(store.keys("/live").is_empty());
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseEnded));
}

#[tokio::test]
async fn what_is_restored_is_another_store_with_fewer_revisions() {
    let store = Memory::new();
    store.transact(put("/a")).await.unwrap();
    let (before, saved) = (store.range("/").await.unwrap(), store.save());
    let mut watch = store.watch("/", before.revision + 1).await.unwrap();
    store.transact(put("/b")).await.unwrap();
    watch.next().await.unwrap();
    store.restore(&saved);
    assert!(matches!(watch.next().await, Err(StoreError::Unavailable(_))));
    let after = store.range("/").await.unwrap();
    assert_eq!((after.revision, after.entries), (before.revision, before.entries));
    assert_ne!(after.cluster, before.cluster);
}

#[tokio::test]
async fn a_full_store_still_deletes() {
    let store = Memory::new();
    store.transact(put("/a")).await.unwrap();
    store.set_full(true);
    assert!(matches!(store.transact(put("/b")).await, Err(StoreError::Refused(_))));
    assert!(store.health().await.unwrap().out_of_space);
    let delete = Txn { when: Vec::new(), then: vec![Write::Delete("/a".to_owned())] };
    assert!(matches!(store.transact(delete).await, Ok(Outcome::Done(_))));
}
