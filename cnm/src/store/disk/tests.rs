//! What the store does when the disk does not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::*;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Fault {
    Nothing,
    /// There is no space for more than the file has.
    Space,
    /// Data reaches the file, and nobody can say whether it reaches the disk.
    Sync,
    /// Nothing can be written.
    Write,
    /// The file is gone.
    Everything,
}

/// A disk that has faults when it is told to.
#[derive(Clone, Debug)]
struct Faulty(Arc<(InMemoryBackend, AtomicU8)>);

impl Faulty {
    fn new() -> Self {
        Self(Arc::new((InMemoryBackend::new(), AtomicU8::new(0))))
    }

    fn set(&self, fault: Fault) {
        self.0.1.store(fault as u8, Ordering::Relaxed);
    }

    /// The file, unless one of these faults is there.
    fn unless(&self, faults: &[Fault]) -> io::Result<&InMemoryBackend> {
        let fault = self.0.1.load(Ordering::Relaxed);
        if faults.iter().any(|bad| *bad as u8 == fault) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(&self.0.0)
    }

    fn store(&self) -> Disk {
        Disk::open_on(Medium::new(self.clone()), Path::new("faulty")).unwrap()
    }

    /// The store as a process would find it after this one was killed.
    fn crashed(&self) -> Disk {
        let copy = Self::new();
        let file = self.unless(&[Fault::Everything]).unwrap();
        let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read(0, &mut content).unwrap();
        copy.0.0.set_len(file.len().unwrap()).unwrap();
        copy.0.0.write(0, &content).unwrap();
        copy.store()
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.unless(&[Fault::Everything])?.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.unless(&[Fault::Everything])?.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.unless(&[Fault::Write, Fault::Everything])?.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.unless(&[Fault::Sync, Fault::Write, Fault::Everything])?.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let none = [Fault::Write, Fault::Everything];
        // The header is there from the beginning.
        let some = [Fault::Space, Fault::Write, Fault::Everything];
        self.unless(if offset == 0 { &none } else { &some })?.write(offset, data)
    }
}

fn put(store: &Disk, key: &str, value: &str, durability: Durability) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    batch.put(key, value.as_bytes().to_vec());
    store.commit(&batch, durability)
}

/// All records but the schema's, as `key=value`.
fn all(store: &Disk) -> String {
    let text =
        |(key, value): (String, Vec<u8>)| format!("{key}={}", String::from_utf8(value).unwrap());
    let records = store.list("").unwrap().into_iter().filter(|(key, _)| key != SCHEMA_KEY);
    records.map(text).collect::<Vec<_>>().join(" ")
}

const FAULTS: [Fault; 4] = [Fault::Space, Fault::Sync, Fault::Write, Fault::Everything];

#[test]
fn a_full_disk_does_not_poison_the_store() {
    for fault in FAULTS {
        let disk = Faulty::new();
        let store = disk.store();
        put(&store, "a", "1", IMMEDIATE).unwrap();
        disk.set(fault);
        for _ in 0..3 {
            let error = put(&store, "b", "1", IMMEDIATE).unwrap_err();
            assert!(!error.source.to_string().contains("Previous I/O"), "{}", error.source);
        }
        disk.set(Fault::Nothing);
        assert_eq!(all(&store), "a=1", "{fault:?}");
        put(&store, "b", "2", IMMEDIATE).unwrap();
        assert_eq!(all(&disk.crashed()), "a=1 b=2", "{fault:?}");
    }
}

#[test]
fn a_refused_batch_did_not_happen_and_does_not_come_back() {
    for fault in FAULTS {
        let disk = Faulty::new();
        let store = disk.store();
        put(&store, "a", "1", IMMEDIATE).unwrap();
        disk.set(fault);
        assert!(put(&store, "a", "2", IMMEDIATE).is_err());
        assert!(store.compare_and_set("b", None, Some(b"1")).is_err());
        disk.set(Fault::Nothing);
        assert!(store.compare_and_set("b", None, Some(b"2")).unwrap(), "{fault:?}");
        assert_eq!(all(&store), "a=1 b=2", "{fault:?}");
        assert_eq!(all(&disk.crashed()), "a=1 b=2", "{fault:?}");
    }
}

#[test]
fn eventual_batches_outlive_a_refused_one() {
    for fault in FAULTS {
        let disk = Faulty::new();
        let store = disk.store();
        put(&store, "a", "1", IMMEDIATE).unwrap();
        put(&store, "a", "2", EVENTUAL).unwrap();
        disk.set(fault);
        assert!(put(&store, "a", "3", IMMEDIATE).is_err());
        disk.set(Fault::Nothing);
        assert_eq!(all(&store), "a=2", "{fault:?}");
        put(&store, "b", "1", IMMEDIATE).unwrap();
        assert_eq!(all(&disk.crashed()), "a=2 b=1", "{fault:?}");
    }
}

#[test]
fn eventual_batches_are_taken_while_the_disk_is_full() {
    let disk = Faulty::new();
    let store = disk.store();
    disk.set(Fault::Space);
    assert!(put(&store, "a", "1", IMMEDIATE).is_err());
    put(&store, "b", "1", EVENTUAL).unwrap();
    assert_eq!(all(&store), "b=1");
    assert!(put(&store, "b", "2", IMMEDIATE).is_err());
    assert_eq!(all(&store), "b=1");
    disk.set(Fault::Nothing);
    drop(store);
    assert_eq!(all(&disk.store()), "b=1");
}

#[test]
fn watchers_hear_that_a_batch_was_taken_back() {
    let disk = Faulty::new();
    let store = disk.store();
    put(&store, "a", "1", EVENTUAL).unwrap();
    let changes = store.watch("");
    disk.set(Fault::Space);
    assert!(put(&store, "a", "2", IMMEDIATE).is_err());
    assert!(put(&store, "b", "2", IMMEDIATE).is_err());
    let mut known = BTreeMap::new();
    for Change { key, value } in changes.try_iter() {
        known.insert(key, value);
    }
    let expected = [("a".to_owned(), Some(b"1".to_vec())), ("b".to_owned(), None)];
    assert_eq!(known, BTreeMap::from(expected));
}

#[test]
fn each_of_many_writers_is_told_what_became_of_its_batch() {
    let disk = Faulty::new();
    let store = disk.store();
    let mut done: Vec<String> = std::thread::scope(|scope| {
        let write = |thread: usize| {
            let (store, disk) = (&store, &disk);
            move || {
                let keys = (0..40).map(|number| {
                    let fault = if number % 4 == 3 { Fault::Space } else { Fault::Nothing };
                    disk.set(fault);
                    format!("k/{thread}/{number}")
                });
                let done = |key: &String| put(store, key, "1", IMMEDIATE).is_ok();
                keys.filter(done).collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(write(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    disk.set(Fault::Nothing);
    done.sort();
    let mut expected: Vec<_> = done.iter().map(|key| format!("{key}=1")).collect();
    assert_eq!(all(&store), expected.join(" "));
    put(&store, "z", "1", IMMEDIATE).unwrap();
    expected.push("z=1".to_owned());
    assert_eq!(all(&disk.crashed()), expected.join(" "));
}

#[test]
fn the_file_stays_locked_when_the_database_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = Disk::open(&path).unwrap();
    put(&store, "a", "1", EVENTUAL).unwrap();
    store.reopen(&lock(&store.writing).pending).unwrap();
    assert_eq!(Disk::open(&path).unwrap_err().kind, Kind::Unavailable);
    assert_eq!(all(&store), "a=1");
}

const IMMEDIATE: Durability = Durability::Immediate;
const EVENTUAL: Durability = Durability::Eventual;
