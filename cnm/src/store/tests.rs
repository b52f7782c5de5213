//! What every store does, on each of the stores; and what only the one on disk does.

use std::path::Path;

use super::*;

fn batch(writes: &[(&str, Option<&str>)]) -> Batch {
    let owned = |(key, value): &(&str, Option<&str>)| {
        ((*key).to_owned(), value.map(|value| value.as_bytes().to_vec()))
    };
    Batch { writes: writes.iter().map(owned).collect() }
}

fn on_each_store(check: impl Fn(&dyn Store)) {
    check(&Memory::new());
    let directory = tempfile::tempdir().unwrap();
    check(&Disk::open(&directory.path().join("store.redb")).unwrap());
}

fn text(store: &dyn Store, key: &str) -> Option<String> {
    store.get(key).unwrap().map(|value| String::from_utf8(value).unwrap())
}

fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).unwrap().into_iter().map(|(key, _)| key).collect()
}

#[test]
fn a_batch_writes_and_deletes() {
    on_each_store(|store| {
        store.commit(&batch(&[("a/1", Some("x")), ("a/2", Some("y"))]), IMMEDIATE).unwrap();
        store.commit(&batch(&[("a/1", None), ("a/2", Some("z"))]), EVENTUAL).unwrap();
        assert_eq!((text(store, "a/1"), text(store, "a/2")), (None, Some("z".to_owned())));
    });
}

#[test]
fn the_last_write_of_a_key_in_a_batch_wins() {
    on_each_store(|store| {
        store.commit(&batch(&[("a", Some("1")), ("a", None), ("a", Some("2"))]), EVENTUAL).unwrap();
        assert_eq!(text(store, "a").as_deref(), Some("2"));
    });
}

#[test]
fn deleting_what_is_not_there_is_no_error() {
    on_each_store(|store| {
        store.commit(&batch(&[("a", None)]), IMMEDIATE).unwrap();
        assert_eq!(store.get("a").unwrap(), None);
    });
}

#[test]
fn list_gives_only_what_is_below_the_prefix_in_order() {
    on_each_store(|store| {
        let writes = ["b/2", "b/1", "a/1", "b", "b0"].map(|key| (key, Some("x")));
        store.commit(&batch(&writes), EVENTUAL).unwrap();
        assert_eq!(keys(store, "b/"), ["b/1", "b/2"]);
        assert_eq!(keys(store, "c"), Vec::<String>::new());
    });
}

#[test]
fn compare_and_set_writes_only_over_the_expected_record() {
    on_each_store(|store| {
        assert!(store.compare_and_set("k", None, Some(b"1")).unwrap());
        assert!(!store.compare_and_set("k", None, Some(b"2")).unwrap());
        assert!(!store.compare_and_set("k", Some(b"2"), None).unwrap());
        assert_eq!(text(store, "k").as_deref(), Some("1"));
        assert!(store.compare_and_set("k", Some(b"1"), None).unwrap());
        assert_eq!(text(store, "k"), None);
    });
}

#[test]
fn watchers_hear_of_later_changes_below_their_prefix_in_order() {
    on_each_store(|store| {
        store.commit(&batch(&[("a/0", Some("before"))]), EVENTUAL).unwrap();
        let changes = store.watch("a/");
        store.commit(&batch(&[("a/1", Some("x")), ("b/1", Some("x"))]), EVENTUAL).unwrap();
        store.compare_and_set("a/2", None, Some(b"y")).unwrap();
        store.compare_and_set("a/2", None, Some(b"z")).unwrap();
        store.commit(&batch(&[("a/1", None)]), IMMEDIATE).unwrap();
        let heard: Vec<_> =
            changes.try_iter().map(|change| (change.key, change.value.is_some())).collect();
        let expected = [("a/1", true), ("a/2", true), ("a/1", false)];
        assert_eq!(heard, expected.map(|(key, there)| (key.to_owned(), there)));
    });
}

#[test]
fn a_watcher_that_is_gone_does_not_hinder_writing() {
    on_each_store(|store| {
        drop(store.watch(""));
        store.commit(&batch(&[("a", Some("1"))]), EVENTUAL).unwrap();
        assert_eq!(text(store, "a").as_deref(), Some("1"));
    });
}

fn open_in(directory: &Path) -> Disk {
    Disk::open(&directory.join("store.redb")).unwrap()
}

#[test]
fn records_are_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    open_in(directory.path()).commit(&batch(&[("a", Some("1"))]), IMMEDIATE).unwrap();
    assert_eq!(text(&open_in(directory.path()), "a").as_deref(), Some("1"));
}

#[test]
fn closing_makes_eventual_commits_durable() {
    let directory = tempfile::tempdir().unwrap();
    open_in(directory.path()).commit(&batch(&[("a", Some("1"))]), EVENTUAL).unwrap();
    assert_eq!(text(&open_in(directory.path()), "a").as_deref(), Some("1"));
}

/// The file as a process that is killed now would leave it.
fn crashed(directory: &Path) -> Disk {
    let copy = directory.join("copy.redb");
    std::fs::copy(directory.join("store.redb"), &copy).unwrap();
    Disk::open(&copy).unwrap()
}

#[test]
fn an_immediate_commit_survives_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_in(directory.path());
    store.commit(&batch(&[("a", Some("1"))]), IMMEDIATE).unwrap();
    assert_eq!(text(&crashed(directory.path()), "a").as_deref(), Some("1"));
}

#[test]
fn an_immediate_commit_makes_earlier_eventual_ones_durable() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_in(directory.path());
    store.commit(&batch(&[("a", Some("1")), ("b", Some("1"))]), EVENTUAL).unwrap();
    store.commit(&batch(&[("b", None)]), EVENTUAL).unwrap();
    store.commit(&batch(&[("c", Some("1"))]), IMMEDIATE).unwrap();
    let after = crashed(directory.path());
    assert_eq!(keys(&after, "").join(" "), "a c meta/schema");
}

#[test]
fn immediate_commits_of_many_threads_all_survive_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_in(directory.path());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for number in 0..20 {
                    let key = format!("k/{thread}/{number}");
                    store.commit(&batch(&[(&key, Some("1"))]), IMMEDIATE).unwrap();
                }
            });
        }
    });
    assert_eq!(keys(&crashed(directory.path()), "k/").len(), 160);
}

#[test]
fn a_batch_lost_in_a_crash_is_lost_as_a_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_in(directory.path());
    store.commit(&batch(&[("a", Some("1"))]), IMMEDIATE).unwrap();
    store.commit(&batch(&[("a", None), ("b", Some("1"))]), EVENTUAL).unwrap();
    let after = crashed(directory.path());
    assert_ne!(text(&after, "a").is_some(), text(&after, "b").is_some());
}

fn refusal(path: &Path) -> String {
    let error = Disk::open(path).unwrap_err();
    format!("{error}: {}", error.source)
}

#[test]
fn a_second_process_is_told_that_the_store_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open_in(directory.path());
    let message = refusal(&directory.path().join("store.redb"));
    assert!(message.starts_with("cannot open the store: "), "{message}");
    assert!(message.contains("store.redb is in use by another process"), "{message}");
}

#[test]
fn a_store_of_another_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    open_in(directory.path()).commit(&batch(&[("meta/schema", Some("7"))]), IMMEDIATE).unwrap();
    let message = refusal(&directory.path().join("store.redb"));
    assert!(message.contains("has format 7, this version knows format 1"), "{message}");
}

#[test]
fn a_file_that_is_no_store_is_refused_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    std::fs::write(&path, "precious").unwrap();
    assert!(refusal(&path).starts_with("cannot open the store: "));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

const IMMEDIATE: Durability = Durability::Immediate;
const EVENTUAL: Durability = Durability::Eventual;
