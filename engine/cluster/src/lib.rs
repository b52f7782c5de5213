//! What the hosts of a cluster share: networks, addresses, endpoints and who is there.
//!
//! All of it is in a [`ClusterStore`], which is etcd, or memory in tests. Uniqueness comes from its
//! transactions, distribution from its watches. Nothing but liveness is bound to a lease: what a
//! host has written stays while the host is away.

mod addresses;
mod claims;
mod cluster;
mod etcd;
mod follow;
mod health;
mod join;
mod knowledge;
mod local;
mod macs;
mod memory;
mod networks;
mod nodes;
mod place;
mod publish;
pub mod record;
mod restore;
mod spares;
mod store;
mod view;

pub use cluster::{Cluster, Options, Status};
pub use etcd::{Etcd, EtcdOptions, EtcdTls};
pub use health::Report;
pub use local::{become_node, forget, forgetting, node_id};
pub use memory::{Memory, Saved};
pub use networks::{Choose, Draft, ipv4_supernet};
pub use place::{DEFAULT_NAME, Place, PlaceError, Tls, User};
pub use publish::Publication;
pub use store::{
    ClusterStore, Compare, Entry, Event, Health, LeaseId, Outcome, Pending, Revision, Snapshot,
    StoreError, Txn, Watch, Write,
};
pub use view::{Changes, Delta, Endpoints, NodeView, View};
