//! A store in memory, for tests: etcd's rules, and whatever goes wrong with etcd when a test says so.
//!
//! Revisions, watches from a revision on, compaction, leases by a clock that is passed in, replies
//! that are lost, a majority that is lost, data that is lost or set back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::store::{
    ClusterStore, Compare, Entry, Event, Health, LeaseId, Outcome, Pending, Revision, Snapshot,
    StoreError, Txn, Watch, Write, below,
};

/// How many comparisons, and how many writes, a transaction may have.
const OPERATIONS: usize = 128;

/// How large a request may be, in bytes.
const REQUEST: usize = 1 << 20;

/// A store in memory. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Memory {
    inner: Arc<Mutex<Inner>>,
    /// Changes with everything that a watch might wait for.
    tick: watch::Sender<u64>,
}

/// What a store had at a time.
#[derive(Clone, Debug)]
pub struct Saved {
    revision: Revision,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Inner {
    cluster: u64,
    revision: Revision,
    /// What is older is forgotten.
    compacted: Revision,
    entries: BTreeMap<String, Entry>,
    log: Vec<(Revision, Event)>,
    leases: BTreeMap<i64, Lease>,
    now: Duration,
    /// How often all watches were lost.
    losses: u64,
    away: bool,
    denied: bool,
    full: bool,
    /// What becomes of the next transactions whose replies are lost: whether they happen.
    lost_replies: VecDeque<bool>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Duration,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        let inner = Inner {
            cluster: 1,
            revision: 1,
            compacted: 0,
            entries: BTreeMap::new(),
            log: Vec::new(),
            leases: BTreeMap::new(),
            now: Duration::ZERO,
            losses: 0,
            away: false,
            denied: false,
            full: false,
            lost_replies: VecDeque::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), tick: watch::channel(0).0 }
    }

    /// Whether it cannot be reached, or has no majority. Leases do not end meanwhile, and begin
    /// anew afterwards.
    pub fn set_away(&self, away: bool) {
        let mut inner = self.lock();
        inner.away = away;
        if !away {
            let now = inner.now;
            for lease in inner.leases.values_mut() {
                lease.ends = now + lease.ttl;
            }
        }
        self.tell();
    }

    /// Whether it lets nobody in.
    pub fn set_denied(&self, denied: bool) {
        self.lock().denied = denied;
        self.tell();
    }

    /// Whether it has no space for more.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// The reply to the next transaction is lost; whether the transaction happens.
    pub fn lose_reply(&self, happens: bool) {
        self.lock().lost_replies.push_back(happens);
    }

    /// All watches end.
    pub fn lose_watches(&self) {
        self.lock().losses += 1;
        self.tell();
    }

    /// Forgets what is older than the present.
    pub fn compact(&self) {
        let mut inner = self.lock();
        inner.compacted = inner.revision;
        let compacted = inner.compacted;
        inner.log.retain(|(revision, _)| *revision >= compacted);
        self.tell();
    }

    /// Time goes by: leases end.
    pub fn advance(&self, time: Duration) {
        let mut inner = self.lock();
        inner.now += time;
        if inner.away {
            return;
        }
        let now = inner.now;
        let ended = inner.leases.iter().filter(|(_, lease)| lease.ends <= now);
        let ended: Vec<i64> = ended.map(|(id, _)| *id).collect();
        for id in ended {
            inner.end_lease(id);
        }
        self.tell();
    }

    /// What it has.
    pub fn save(&self) -> Saved {
        let inner = self.lock();
        Saved { revision: inner.revision, entries: inner.entries.clone() }
    }

    /// Goes back to what it had, as etcd does after a restore: the store has another identity.
    pub fn restore(&self, saved: &Saved) {
        self.lock().cluster += 1;
        self.go_back(saved);
    }

    /// Goes back to what it had and has the same identity, as etcd after a restore by the words that
    /// it was first begun with.
    pub fn go_back(&self, saved: &Saved) {
        let mut inner = self.lock();
        inner.revision = saved.revision;
        inner.compacted = saved.revision;
        inner.entries.clone_from(&saved.entries);
        inner.log.clear();
        inner.leases.clear();
        inner.losses += 1;
        self.tell();
    }

    /// Loses everything; the store's identity is the same, as that of an etcd which was started
    /// with an empty directory.
    pub fn wipe(&self) {
        self.go_back(&Saved { revision: 1, entries: BTreeMap::new() });
        self.lock().compacted = 0;
    }

    /// The keys that begin with a prefix.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        below(&self.lock().entries, prefix).map(|(key, _)| key.clone()).collect()
    }

    fn tell(&self) {
        self.tick.send_modify(|tick| *tick += 1);
    }

    // A panic of another thread is a failed test.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the store, if it can be reached.
    fn on<T>(
        &self,
        action: impl FnOnce(&mut Inner) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut inner = self.lock();
        inner.reachable()?;
        let result = action(&mut inner);
        self.tell();
        result
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        self.on(|inner| {
            check(txn)?;
            match inner.lost_replies.pop_front() {
                None => inner.commit(txn),
                Some(happens) => {
                    if happens {
                        inner.commit(txn)?;
                    }
                    Err(StoreError::Unknown("the reply was lost".to_owned()))
                }
            }
        })
    }
}

impl Inner {
    fn reachable(&self) -> Result<(), StoreError> {
        if self.away {
            return Err(StoreError::Unavailable("no member can be reached".to_owned()));
        }
        if self.denied {
            return Err(StoreError::Denied("permission denied".to_owned()));
        }
        Ok(())
    }

    fn commit(&mut self, txn: &Txn) -> Result<Outcome, StoreError> {
        if !txn.when.iter().all(|compare| self.holds(compare)) {
            return Ok(Outcome::Refused);
        }
        let puts = txn.then.iter().any(|write| matches!(write, Write::Put { .. }));
        if puts && self.full {
            return Err(StoreError::Refused("mvcc: database space exceeded".to_owned()));
        }
        let leases = txn.then.iter().filter_map(|write| match write {
            Write::Put { lease, .. } => *lease,
            _ => None,
        });
        if leases.into_iter().any(|lease| !self.leases.contains_key(&lease.0)) {
            return Err(StoreError::LeaseEnded);
        }
        let revision = self.revision + 1;
        for write in &txn.then {
            self.write(write, revision);
        }
        Ok(Outcome::Done(self.revision))
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.entries.contains_key(key),
            Compare::Present(key) => self.entries.contains_key(key),
            Compare::ModifiedAt(key, revision) => {
                self.entries.get(key).is_some_and(|entry| entry.modified == *revision)
            }
            Compare::Is(key, value) => {
                self.entries.get(key).is_some_and(|entry| entry.value == *value)
            }
            Compare::NoneBelow(prefix) => below(&self.entries, prefix).next().is_none(),
        }
    }

    fn write(&mut self, write: &Write, revision: Revision) {
        match write {
            Write::Put { key, value, lease } => {
                let created = self.entries.get(key).map_or(revision, |entry| entry.created);
                let (key, value) = (key.clone(), value.clone());
                let entry =
                    Entry { key: key.clone(), value, created, modified: revision, lease: *lease };
                self.entries.insert(key, entry.clone());
                self.note(revision, Event::Put(entry));
            }
            Write::Delete(key) => self.delete(key, revision),
            Write::DeleteBelow(prefix) => {
                let keys: Vec<_> =
                    below(&self.entries, prefix).map(|(key, _)| key.clone()).collect();
                for key in keys {
                    self.delete(&key, revision);
                }
            }
        }
    }

    fn delete(&mut self, key: &str, revision: Revision) {
        if self.entries.remove(key).is_some() {
            self.note(revision, Event::Deleted { key: key.to_owned(), revision });
        }
    }

    fn note(&mut self, revision: Revision, event: Event) {
        self.revision = revision;
        self.log.push((revision, event));
    }

    fn end_lease(&mut self, id: i64) {
        self.leases.remove(&id);
        let bound = self.entries.values().filter(|entry| entry.lease == Some(LeaseId(id)));
        let keys: Vec<_> = bound.map(|entry| entry.key.clone()).collect();
        let revision = self.revision + 1;
        for key in keys {
            self.delete(&key, revision);
        }
    }

    /// What comes next for a watch that has got so far; nothing where it has to wait.
    fn events(&self, watch: &MemoryWatch) -> Option<Result<(Revision, Vec<Event>), StoreError>> {
        if let Err(error) = self.reachable() {
            return Some(Err(error));
        }
        if self.losses != watch.losses {
            return Some(Err(StoreError::Unavailable("the watch was lost".to_owned())));
        }
        if watch.next < self.compacted {
            return Some(Err(StoreError::Compacted(self.compacted)));
        }
        let new = self.log.iter().filter(|(revision, _)| *revision >= watch.next);
        let new = new.filter(|(_, event)| event.key().starts_with(&watch.prefix));
        let events: Vec<_> = new.map(|(_, event)| event.clone()).collect();
        (!events.is_empty()).then_some(Ok((self.revision, events)))
    }
}

/// What etcd refuses before it looks at anything.
fn check(txn: &Txn) -> Result<(), StoreError> {
    let refuse = |why: &str| Err(StoreError::Refused(why.to_owned()));
    if txn.when.len().max(txn.then.len()) > OPERATIONS {
        return refuse("etcdserver: too many operations in txn request");
    }
    let mut size = 0;
    let mut put: Vec<&str> = Vec::new();
    for write in &txn.then {
        if let Write::Put { key, value, .. } = write {
            size += key.len() + value.len();
            put.push(key);
        }
    }
    if size > REQUEST {
        return refuse("etcdserver: request is too large");
    }
    put.sort_unstable();
    let twice = put.windows(2).any(|pair| pair[0] == pair[1]);
    let deleted = txn.then.iter().any(|write| match write {
        Write::Put { .. } => false,
        Write::Delete(key) => put.contains(&key.as_str()),
        Write::DeleteBelow(prefix) => put.iter().any(|key| key.starts_with(prefix.as_str())),
    });
    if twice || deleted {
        return refuse("etcdserver: duplicate key given in txn request");
    }
    Ok(())
}

/// Others get their turn while a question or an answer is on its way, as over a network.
async fn under_way() {
    tokio::task::yield_now().await;
}

impl ClusterStore for Memory {
    fn range<'a>(&'a self, prefix: &'a str) -> Pending<'a, Result<Snapshot, StoreError>> {
        Box::pin(async move {
            under_way().await;
            let answer = self.on(|inner| {
                let entries = below(&inner.entries, prefix).map(|(_, entry)| entry.clone());
                let entries = entries.collect();
                Ok(Snapshot { revision: inner.revision, cluster: inner.cluster, entries })
            });
            under_way().await;
            answer
        })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
    ) -> Pending<'a, Result<Box<dyn Watch>, StoreError>> {
        Box::pin(async move {
            self.on(|inner| {
                Ok(Box::new(MemoryWatch {
                    inner: Arc::clone(&self.inner),
                    tick: self.tick.subscribe(),
                    prefix: prefix.to_owned(),
                    next: from,
                    losses: inner.losses,
                }) as Box<dyn Watch>)
            })
        })
    }

    fn transact(&self, txn: Txn) -> Pending<'_, Result<Outcome, StoreError>> {
        Box::pin(async move {
            under_way().await;
            let outcome = self.commit(&txn);
            under_way().await;
            outcome
        })
    }

    fn grant(&self, ttl: Duration) -> Pending<'_, Result<LeaseId, StoreError>> {
        Box::pin(async move {
            self.on(|inner| {
                let id = inner.leases.keys().next_back().map_or(1, |last| last + 1);
                inner.leases.insert(id, Lease { ttl, ends: inner.now + ttl });
                Ok(LeaseId(id))
            })
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Pending<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.on(|inner| {
                let now = inner.now;
                let lease = inner.leases.get_mut(&lease.0).ok_or(StoreError::LeaseEnded)?;
                lease.ends = now + lease.ttl;
                Ok(())
            })
        })
    }

    fn revoke(&self, lease: LeaseId) -> Pending<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.on(|inner| {
                if !inner.leases.contains_key(&lease.0) {
                    return Err(StoreError::LeaseEnded);
                }
                inner.end_lease(lease.0);
                Ok(())
            })
        })
    }

    fn health(&self) -> Pending<'_, Result<Health, StoreError>> {
        Box::pin(async move {
            self.on(|inner| {
                let sizes = inner.entries.values().map(|entry| entry.key.len() + entry.value.len());
                Ok(Health {
                    cluster: inner.cluster,
                    revision: inner.revision,
                    version: "memory".to_owned(),
                    size: i64::try_from(sizes.sum::<usize>()).unwrap_or(i64::MAX),
                    out_of_space: inner.full,
                })
            })
        })
    }
}

#[derive(Debug)]
struct MemoryWatch {
    inner: Arc<Mutex<Inner>>,
    tick: watch::Receiver<u64>,
    prefix: String,
    next: Revision,
    losses: u64,
}

impl MemoryWatch {
    fn look(&mut self) -> Option<Result<(Revision, Vec<Event>), StoreError>> {
        self.tick.borrow_and_update();
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let found = inner.events(self)?;
        drop(inner);
        if let Ok((revision, _)) = &found {
            self.next = revision + 1;
        }
        Some(found)
    }
}

impl Watch for MemoryWatch {
    fn next(&mut self) -> Pending<'_, Result<(Revision, Vec<Event>), StoreError>> {
        Box::pin(async move {
            loop {
                if let Some(found) = self.look() {
                    return found;
                }
                if self.tick.changed().await.is_err() {
                    return Err(StoreError::Unavailable("the store is gone".to_owned()));
                }
            }
        })
    }
}
