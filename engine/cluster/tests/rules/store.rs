//! The rules of a store, as etcd has them: whoever claims to be one obeys them.

use std::time::Duration;

use cluster::{
    ClusterStore, Compare, Event, LeaseId, Outcome, Revision, StoreError, Txn, Watch, Write,
};

/// All rules, one after the other, on one store.
pub(crate) async fn all(store: &dyn ClusterStore) {
    a_range_is_of_one_revision_and_of_its_prefix_only(store).await;
    a_transaction_happens_whole_or_not_at_all(store).await;
    comparisons_hold_or_not(store).await;
    what_no_transaction_may_have_is_refused(store).await;
    a_watch_tells_all_from_its_revision_on(store).await;
    a_watch_tells_of_a_transaction_at_once(store).await;
    keys_go_with_their_lease(store).await;
    thousands_of_entries_are_one_range(store).await;
}

fn put(key: &str, value: &str) -> Write {
    Write::put(key, value.as_bytes().to_vec())
}

async fn write(store: &dyn ClusterStore, then: Vec<Write>) -> Revision {
    match store.transact(Txn { when: Vec::new(), then }).await.unwrap() {
        Outcome::Done(revision) => revision,
        Outcome::Refused => panic!("nothing was compared"),
    }
}

async fn when(store: &dyn ClusterStore, when: Vec<Compare>) -> bool {
    let txn = Txn { when, then: Vec::new() };
    matches!(store.transact(txn).await.unwrap(), Outcome::Done(_))
}

async fn texts(store: &dyn ClusterStore, prefix: &str) -> Vec<String> {
    let entries = store.range(prefix).await.unwrap().entries;
    let text = |entry: cluster::Entry| {
        format!("{}={}", entry.key, String::from_utf8(entry.value).unwrap())
    };
    entries.into_iter().map(text).collect()
}

async fn a_range_is_of_one_revision_and_of_its_prefix_only(store: &dyn ClusterStore) {
    let revision =
        write(store, vec![put("/a/2", "two"), put("/a/1", "one"), put("/ab", "no")]).await;
    assert_eq!(texts(store, "/a/").await, ["/a/1=one", "/a/2=two"]);
    let snapshot = store.range("/a/").await.unwrap();
    assert_eq!(snapshot.revision, revision);
    assert!(snapshot.entries.iter().all(|entry| entry.modified == revision));
    let later = write(store, vec![put("/a/1", "uno")]).await;
    let first = &store.range("/a/1").await.unwrap().entries[0];
    assert_eq!((first.created, first.modified), (revision, later));
    assert_eq!(store.health().await.unwrap().cluster, snapshot.cluster);
}

async fn a_transaction_happens_whole_or_not_at_all(store: &dyn ClusterStore) {
    let all = Txn {
        when: vec![Compare::Absent("/t/1".to_owned())],
        then: vec![put("/t/1", "a"), put("/t/2", "b"), Write::Delete("/t/3".to_owned())],
    };
    assert!(matches!(store.transact(all.clone()).await.unwrap(), Outcome::Done(_)));
    assert_eq!(store.transact(all).await.unwrap(), Outcome::Refused);
    assert_eq!(texts(store, "/t/").await, ["/t/1=a", "/t/2=b"]);
    write(store, vec![Write::DeleteBelow("/t/".to_owned())]).await;
    assert!(texts(store, "/t/").await.is_empty());
}

async fn comparisons_hold_or_not(store: &dyn ClusterStore) {
    let revision = write(store, vec![put("/c/1", "a")]).await;
    let key = || "/c/1".to_owned();
    assert!(when(store, vec![Compare::Present(key())]).await);
    assert!(!when(store, vec![Compare::Absent(key())]).await);
    assert!(when(store, vec![Compare::ModifiedAt(key(), revision)]).await);
    assert!(!when(store, vec![Compare::ModifiedAt(key(), revision - 1)]).await);
    assert!(!when(store, vec![Compare::ModifiedAt("/c/2".to_owned(), revision)]).await);
    assert!(when(store, vec![Compare::Is(key(), b"a".to_vec())]).await);
    assert!(!when(store, vec![Compare::Is(key(), b"b".to_vec())]).await);
    assert!(!when(store, vec![Compare::Is("/c/2".to_owned(), Vec::new())]).await);
    assert!(!when(store, vec![Compare::NoneBelow("/c/".to_owned())]).await);
    assert!(when(store, vec![Compare::NoneBelow("/c/1/".to_owned())]).await);
    assert!(!when(store, vec![Compare::Present(key()), Compare::Absent(key())]).await);
}

async fn what_no_transaction_may_have_is_refused(store: &dyn ClusterStore) {
    let refused = async |then: Vec<Write>| {
        let error = store.transact(Txn { when: Vec::new(), then }).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error}");
    };
    refused(vec![put("/r/1", "a"), put("/r/1", "b")]).await;
    refused((0..129).map(|i| put(&format!("/r/{i}"), "a")).collect()).await;
    refused(vec![put("/r/1", &"a".repeat(2 << 20))]).await;
    assert!(texts(store, "/r/").await.is_empty());
}

/// The next changes that are any.
async fn events(watch: &mut Box<dyn Watch>) -> (Revision, Vec<String>) {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), watch.next());
        let (revision, events) = next.await.expect("a watch tells of what happens").unwrap();
        if !events.is_empty() {
            return (revision, events.iter().map(text).collect());
        }
    }
}

fn text(event: &Event) -> String {
    match event {
        Event::Put(entry) => format!("+{}", entry.key),
        Event::Deleted { key, .. } => format!("-{key}"),
    }
}

async fn a_watch_tells_all_from_its_revision_on(store: &dyn ClusterStore) {
    let first = write(store, vec![put("/w/1", "a")]).await;
    write(store, vec![put("/other", "a")]).await;
    write(store, vec![Write::Delete("/w/1".to_owned())]).await;
    let mut watch = store.watch("/w/", first).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(events(&mut watch).await.1);
    }
    assert_eq!(seen, ["+/w/1", "-/w/1"]);
    let now = store.range("/w/").await.unwrap().revision;
    let mut later = store.watch("/w/", now + 1).await.unwrap();
    let revision = write(store, vec![put("/w/2", "a")]).await;
    assert_eq!(events(&mut later).await, (revision, vec!["+/w/2".to_owned()]));
}

async fn a_watch_tells_of_a_transaction_at_once(store: &dyn ClusterStore) {
    let now = store.range("/m/").await.unwrap().revision;
    let mut watch = store.watch("/m/", now + 1).await.unwrap();
    let keys: Vec<_> = (100..200).map(|i| format!("/m/{i}")).collect();
    write(store, keys.iter().map(|key| put(key, "a")).collect()).await;
    assert_eq!(events(&mut watch).await.1.len(), 100);
    write(store, vec![Write::DeleteBelow("/m/".to_owned())]).await;
    assert_eq!(events(&mut watch).await.1.len(), 100);
}

async fn keys_go_with_their_lease(store: &dyn ClusterStore) {
    let lease = store.grant(Duration::from_secs(30)).await.unwrap();
    let bound =
        |key: &str| Write::Put { key: key.to_owned(), value: b"a".to_vec(), lease: Some(lease) };
    write(store, vec![bound("/l/1"), bound("/l/2"), put("/l/3", "a")]).await;
    assert_eq!(store.range("/l/1").await.unwrap().entries[0].lease, Some(lease));
    write(store, vec![put("/l/2", "free")]).await;
    store.keep_alive(lease).await.unwrap();
    store.revoke(lease).await.unwrap();
    assert_eq!(texts(store, "/l/").await, ["/l/2=free", "/l/3=a"]);
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseEnded));
    assert_eq!(store.revoke(lease).await, Err(StoreError::LeaseEnded));
    let nobodys =
        Write::Put { key: "/l/4".to_owned(), value: Vec::new(), lease: Some(LeaseId(77)) };
    let txn = Txn { when: Vec::new(), then: vec![nobodys] };
    assert_eq!(store.transact(txn).await, Err(StoreError::LeaseEnded));
}

async fn thousands_of_entries_are_one_range(store: &dyn ClusterStore) {
    for hundred in 0..50 {
        let keys = (0..100).map(|i| format!("/n/{:05}", hundred * 100 + i));
        write(store, keys.map(|key| put(&key, &"x".repeat(300))).collect()).await;
    }
    let snapshot = store.range("/n/").await.unwrap();
    let keys: Vec<_> = snapshot.entries.into_iter().map(|entry| entry.key).collect();
    let expected: Vec<_> = (0..5_000).map(|i| format!("/n/{i:05}")).collect();
    assert_eq!(keys, expected);
    write(store, vec![Write::DeleteBelow("/n/".to_owned())]).await;
}
