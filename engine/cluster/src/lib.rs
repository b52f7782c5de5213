//! What the hosts of a cluster share: networks, addresses, endpoints and who is there.
//!
//! All of it is in a [`ClusterStore`], which is etcd, or memory in tests. Uniqueness comes from its
//! transactions, distribution from its watches. Nothing but liveness is bound to a lease: what a
//! host has written stays while the host is away.

mod etcd;
mod memory;
mod place;
pub mod record;
mod store;

pub use etcd::{Etcd, EtcdOptions, EtcdTls};
pub use memory::{Memory, Saved};
pub use place::{DEFAULT_NAME, Place, PlaceError, Tls, User};
pub use store::{
    ClusterStore, Compare, Entry, Event, Health, LeaseId, Outcome, Pending, Revision, Snapshot,
    StoreError, Txn, Watch, Write,
};
