//! The store that all hosts see, as far as this crate needs one. Its rules are etcd's.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use cnm::{HasKind, Kind};

/// What is being waited for.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A store of keys and values that all hosts see in the same order.
///
/// No call of it waits for ever: one that is not answered in the time that the backend was made with fails.
pub trait ClusterStore: fmt::Debug + Send + Sync {
    /// All entries whose keys begin with a prefix, as they are at one revision: the present one.
    fn range<'a>(&'a self, prefix: &'a str) -> Pending<'a, Result<Snapshot, StoreError>>;

    /// Follows all changes to keys with a prefix, from a revision on, that one included. What is older
    /// may be forgotten already ([`StoreError::Compacted`]): begin anew with a range.
    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
    ) -> Pending<'a, Result<Box<dyn Watch>, StoreError>>;

    /// Does all of the writes if all of the comparisons hold, or nothing.
    fn transact(&self, txn: Txn) -> Pending<'_, Result<Outcome, StoreError>>;

    /// A lease, which ends if it is not kept alive for as long as this.
    fn grant(&self, ttl: Duration) -> Pending<'_, Result<LeaseId, StoreError>>;

    /// Keeps a lease alive for its time, from now. One that has ended is [`StoreError::LeaseEnded`].
    fn keep_alive(&self, lease: LeaseId) -> Pending<'_, Result<(), StoreError>>;

    /// Ends a lease; the keys that are bound to it go with it.
    fn revoke(&self, lease: LeaseId) -> Pending<'_, Result<(), StoreError>>;

    /// How the store itself is.
    fn health(&self) -> Pending<'_, Result<Health, StoreError>>;
}

/// A sequence of changes.
pub trait Watch: fmt::Debug + Send {
    /// The changes that come next, all of one or more whole revisions, in their order; or none, with
    /// how far the store has got. After an error there is nothing more.
    fn next(&mut self) -> Pending<'_, Result<(Revision, Vec<Event>), StoreError>>;
}

/// How often the store was changed.
pub type Revision = i64;

/// A lease's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// When it was made.
    pub created: Revision,
    /// When it was last changed.
    pub modified: Revision,
    /// The lease that it goes with.
    pub lease: Option<LeaseId>,
}

/// Entries as they are at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// The identity of the store, as in [`Health::cluster`].
    pub cluster: u64,
    /// The entries, in the order of their keys.
    pub entries: Vec<Entry>,
}

/// A change to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It has this value now.
    Put(Entry),
    /// It is gone, since a revision.
    Deleted {
        /// The key.
        key: String,
        /// When.
        revision: Revision,
    },
}

impl Event {
    /// The key.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }
}

impl Write {
    /// Puts a value that no lease takes away.
    pub fn put(key: impl Into<String>, value: Vec<u8>) -> Self {
        Self::Put { key: key.into(), value, lease: None }
    }
}

/// What of a map has keys that begin with a prefix.
pub(crate) fn below<'a, T>(
    map: &'a BTreeMap<String, T>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a String, &'a T)> {
    map.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
}

/// Writes that happen together, if the comparisons hold. At most 128 of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What has to be true.
    pub when: Vec<Compare>,
    /// What is written then. No key that is put may be there twice.
    pub then: Vec<Write>,
}

/// What has to be true of a key for a transaction to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// There is no such key.
    Absent(String),
    /// There is one.
    Present(String),
    /// It was last changed then.
    ModifiedAt(String, Revision),
    /// It has this value.
    Is(String, Vec<u8>),
    /// No key begins with this.
    NoneBelow(String),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Puts a value.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease that it goes with.
        lease: Option<LeaseId>,
    },
    /// Deletes a key, if it is there.
    Delete(String),
    /// Deletes all keys that begin with this.
    DeleteBelow(String),
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened, at this revision.
    Done(Revision),
    /// A comparison did not hold.
    Refused,
}

/// How the store is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The store's own identity: a store that was made anew has another one.
    pub cluster: u64,
    /// Its revision.
    pub revision: Revision,
    /// Its version, such as `3.4.23`.
    pub version: String,
    /// How large it is, in bytes.
    pub size: i64,
    /// Whether it takes no more writes because it is full.
    pub out_of_space: bool,
}

/// What the store would not do, or did not say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or has no majority.
    #[error("the cluster's store does not answer: {0}")]
    Unavailable(String),
    /// A write was sent, and the answer was lost: it may have happened.
    #[error("nobody knows whether the cluster's store did it: {0}")]
    Unknown(String),
    /// What was asked for is forgotten; the oldest revision that is not.
    #[error("the cluster's store remembers nothing before revision {0}")]
    Compacted(Revision),
    /// The lease has ended.
    #[error("the lease has ended")]
    LeaseEnded,
    /// It does not let this host in.
    #[error("the cluster's store refuses this host: {0}")]
    Denied(String),
    /// It cannot do this.
    #[error("the cluster's store refuses: {0}")]
    Refused(String),
}

impl HasKind for StoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unavailable(_) | Self::Unknown(_) => Kind::Unavailable,
            Self::Denied(_) => Kind::Forbidden,
            Self::Compacted(_) | Self::LeaseEnded | Self::Refused(_) => Kind::Internal,
        }
    }
}
