//! The Container Network Model: what a network *should* look like.
//!
//! Networks, endpoints and sandboxes are the nouns. A [`Controller`] decides what changes, a
//! [`Planner`] says what kernel state ([`State`]) realises the model, [`diff()`] turns two such
//! states into a [`Plan`]. Nothing in this crate touches the host: no netlink, no clock, no
//! randomness; what it needs of those is passed in. The one thing it writes is its own store.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod controller;
pub mod diff;
pub mod driver;
pub mod element;
pub mod endpoint;
pub mod error;
pub mod ground;
pub mod id;
pub mod ipam;
pub mod lead;
pub mod link;
pub mod name;
pub mod network;
pub mod options;
pub mod ports;
mod record;
pub mod sandbox;
pub mod state;
pub mod store;
pub mod wireguard;

pub use controller::{Controller, Transaction};
pub use diff::{Plan, Step, diff};
pub use driver::{Driver, PlanError, Planner};
pub use element::Element;
pub use endpoint::{Endpoint, Mac, PortBinding, Protocol};
pub use error::{HasKind, Kind};
pub use id::{EndpointId, NetworkId, SandboxId};
pub use lead::Lead;
pub use link::{Damage, Link, LinkKind};
pub use name::LinkName;
pub use network::{Network, NetworkSpec, Pool};
pub use sandbox::Sandbox;
pub use state::{Key, Ns, State, Value};
pub use store::Store;
pub use wireguard::WireGuard;
