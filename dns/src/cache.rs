//! Answers from upstream, kept for as long as they say.
//!
//! Bounded by bytes; the least recently used go first. An answer whose time is over stays until
//! the room is needed: it is better than none while no upstream answers (RFC 8767).

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::wire;

/// The longest time a positive answer is believed.
const POSITIVE_MAX: u32 = 3600;

/// The longest time a negative answer is believed.
const NEGATIVE_MAX: u32 = 300;

/// How long after its time an answer may still be given.
const STALE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The time to live of an answer whose time is over.
const STALE_TTL: u32 = 30;

/// What an entry costs beside its bytes: keys, maps, allocations.
const OVERHEAD: usize = 256;

/// What an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Whom to ask.
    pub(crate) upstreams: Arc<[SocketAddr]>,
    /// The question, see `wire::Query::key`.
    pub(crate) question: Vec<u8>,
}

/// The cache. Time is passed in.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: HashMap<Arc<Key>, Entry>,
    /// By last use.
    order: BTreeMap<u64, Arc<Key>>,
    turn: u64,
    bytes: usize,
    limit: usize,
}

#[derive(Debug)]
struct Entry {
    answer: Box<[u8]>,
    stored: Instant,
    lifetime: Duration,
    turn: u64,
}

impl Cache {
    /// An empty cache that stays below `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), turn: 0, bytes: 0, limit }
    }

    /// An answer that still holds, its TTLs counted down. The id is another query's.
    pub(crate) fn fresh(&mut self, key: &Key, now: Instant) -> Option<Vec<u8>> {
        let entry = self.touch(key)?;
        let age = now.saturating_duration_since(entry.stored);
        if age >= entry.lifetime {
            return None;
        }
        let mut answer = entry.answer.to_vec();
        let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        wire::map_ttls(&mut answer, |ttl| ttl.saturating_sub(seconds));
        Some(answer)
    }

    /// An answer that was right not too long ago.
    pub(crate) fn stale(&mut self, key: &Key, now: Instant) -> Option<Vec<u8>> {
        let entry = self.touch(key)?;
        if now.saturating_duration_since(entry.stored) >= entry.lifetime + STALE_MAX {
            return None;
        }
        let mut answer = entry.answer.to_vec();
        wire::map_ttls(&mut answer, |ttl| ttl.min(STALE_TTL));
        Some(answer)
    }

    /// Whether there is an answer that `stale` would give.
    pub(crate) fn has_stale(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// Keeps an answer, if it says that it may be kept.
    pub(crate) fn put(&mut self, key: &Arc<Key>, answer: &[u8], now: Instant) {
        let Some(seconds) = wire::lifetime(answer).filter(|seconds| *seconds > 0) else { return };
        let most = if wire::is_negative(answer) { NEGATIVE_MAX } else { POSITIVE_MAX };
        let lifetime = Duration::from_secs(seconds.min(most).into());
        let mut answer: Box<[u8]> = answer.into();
        // What clients keep must not outlive what is kept here.
        wire::map_ttls(&mut answer, |ttl| ttl.min(most));
        self.remove(key);
        let cost = cost(key, &answer);
        if cost > self.limit / 8 {
            return;
        }
        self.turn += 1;
        self.bytes += cost;
        self.order.insert(self.turn, Arc::clone(key));
        let entry = Entry { answer, stored: now, lifetime, turn: self.turn };
        self.entries.insert(Arc::clone(key), entry);
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.order.first_key_value() else { break };
            let oldest = Arc::clone(oldest);
            self.remove(&oldest);
        }
    }

    fn touch(&mut self, key: &Key) -> Option<&Entry> {
        let entry = self.entries.get_mut(key)?;
        let key = self.order.remove(&entry.turn)?;
        self.turn += 1;
        entry.turn = self.turn;
        self.order.insert(self.turn, key);
        Some(entry)
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.turn);
            self.bytes -= cost(key, &entry.answer);
        }
    }
}

fn cost(key: &Key, answer: &[u8]) -> usize {
    OVERHEAD + key.question.len() + answer.len()
}

#[cfg(test)]
mod tests;
