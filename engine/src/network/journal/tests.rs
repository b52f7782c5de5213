//! The journal over a disk that hangs, and over one that is full.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use cnm::Kind;
use cnm::store::{Change, Memory};

use super::*;

/// A store whose durable commits wait to be let through, each with its size allowed.
#[derive(Debug)]
struct Slow {
    memory: Memory,
    /// Told of a durable commit that waits.
    waits: Mutex<Sender<()>>,
    /// Lets one go on.
    pass: Mutex<Receiver<()>>,
    /// The keys of all commits.
    commits: Mutex<Vec<String>>,
    /// How many bytes a record may have.
    room: usize,
}

impl Store for Slow {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.get(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.memory.list(prefix)
    }

    fn commit(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        if durability == Durability::Immediate {
            self.waits.lock().unwrap().send(()).unwrap();
            self.pass.lock().unwrap().recv().unwrap();
        }
        let large = |(_, value): &(String, Option<Vec<u8>>)| {
            value.as_ref().is_some_and(|value| value.len() > self.room)
        };
        if batch.writes.iter().any(large) {
            let source = "No space left on device".into();
            return Err(StoreError { kind: Kind::Internal, verb: "write", source });
        }
        let keys: Vec<_> = batch.writes.iter().map(|(key, _)| key.as_str()).collect();
        self.commits.lock().unwrap().push(keys.join(" "));
        self.memory.commit(batch, durability)
    }

    fn compare_and_set(
        &self,
        key: &str,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool, StoreError> {
        self.memory.compare_and_set(key, old, new)
    }

    fn watch(&self, prefix: &str) -> Receiver<Change> {
        self.memory.watch(prefix)
    }
}

/// A journal over a slow store, with what the store is driven by.
struct Scene {
    journal: Journal,
    store: Arc<Slow>,
    waits: Mutex<Receiver<()>>,
    pass: Sender<()>,
}

impl Scene {
    fn new() -> Self {
        let ((say, waits), (pass, passed)) = (channel(), channel());
        let store = Arc::new(Slow {
            memory: Memory::new(),
            waits: Mutex::new(say),
            pass: Mutex::new(passed),
            commits: Mutex::default(),
            room: 8,
        });
        Self { journal: Journal::new(store.clone()), store, waits: Mutex::new(waits), pass }
    }

    /// Returns when a durable commit waits for the disk.
    fn await_flush(&self) {
        self.waits.lock().unwrap().recv().unwrap();
    }

    fn let_through(&self) {
        self.pass.send(()).unwrap();
    }

    /// Writes something that nobody waits for.
    fn note(&self, key: &str) -> Outcome {
        let make = || Ok::<_, Error>((record(key), record(key)));
        let outcome = self.journal.stand_in_line(Durability::Eventual, make).unwrap();
        self.journal.write_idle();
        outcome
    }

    /// Returns when so many stand in line.
    fn await_line(&self, length: usize) {
        while self.journal.line().entries.len() < length {
            thread::yield_now();
        }
    }

    fn commits(&self) -> Vec<String> {
        self.store.commits.lock().unwrap().clone()
    }
}

fn record(key: &str) -> Batch {
    Batch { writes: vec![(key.to_owned(), Some(b"x".to_vec()))] }
}

#[test]
fn what_happens_is_noted_while_the_disk_flushes_for_somebody_else() {
    let scene = Scene::new();
    thread::scope(|threads| {
        let first = threads.spawn(|| scene.journal.write_ahead(record("a")));
        scene.await_flush();
        // Neither waits for the disk, nor for the one who does.
        let noted = [scene.note("b"), scene.note("c")];
        assert!(noted.iter().all(|outcome| outcome.get().is_none()));
        scene.let_through();
        first.join().unwrap().unwrap();
        assert!(noted.iter().all(|outcome| matches!(outcome.get(), Some(Ok(())))));
    });
    assert_eq!(scene.commits(), ["a", "b c"]);
}

#[test]
fn those_who_wait_for_the_disk_share_a_flush_in_the_order_they_came() {
    let scene = Scene::new();
    thread::scope(|threads| {
        let scene = &scene;
        let mut writers = vec![threads.spawn(|| scene.journal.write_ahead(record("a")))];
        scene.await_flush();
        for (at, key) in ["b", "c", "d"].into_iter().enumerate() {
            writers.push(threads.spawn(move || scene.journal.write_ahead(record(key))));
            scene.await_line(at + 1);
        }
        scene.let_through();
        scene.await_flush();
        scene.let_through();
        for writer in writers {
            writer.join().unwrap().unwrap();
        }
    });
    assert_eq!(scene.commits(), ["a", "b c d"]);
}

#[test]
fn a_record_that_does_not_fit_on_the_disk_fails_alone() {
    let scene = Scene::new();
    thread::scope(|threads| {
        let scene = &scene;
        let first = threads.spawn(|| scene.journal.write_ahead(record("a")));
        scene.await_flush();
        let large = Batch { writes: vec![("large".to_owned(), Some(vec![0; 9]))] };
        let large = threads.spawn(|| scene.journal.write_ahead(large));
        scene.await_line(1);
        let noted = scene.note("b");
        let small = threads.spawn(|| scene.journal.write_ahead(record("c")));
        scene.await_line(3);
        // The first, all others together, then each durable one by itself.
        for _ in 0..4 {
            scene.let_through();
        }
        first.join().unwrap().unwrap();
        small.join().unwrap().unwrap();
        let error = large.join().unwrap().unwrap_err().chain();
        assert_eq!(error, "cannot write the store: No space left on device");
        assert!(matches!(noted.get(), Some(Ok(()))));
    });
    assert_eq!(scene.commits(), ["a", "b", "c"]);
}

#[test]
fn what_is_true_already_and_cannot_be_written_goes_with_the_next_one() {
    let scene = Scene::new();
    let large = || Batch { writes: vec![("owed".to_owned(), Some(vec![0; 9]))] };
    let make = || Ok::<_, Error>((large(), record("owed")));
    let outcome = scene.journal.stand_in_line(Durability::Eventual, make).unwrap();
    scene.journal.write_idle();
    assert!(matches!(outcome.get(), Some(Err(_))));
    scene.note("next");
    assert_eq!(scene.commits(), ["owed next"]);
    assert!(scene.journal.line().owed.is_empty());
}
