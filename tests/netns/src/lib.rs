//! Throw-away hosts in network namespaces, and what tests run on them.
//!
//! A [`Lab`] has a `host`, on which rnet's kernel is opened, and two neighbours of it, each on a
//! LAN of its own. Nothing has a name in the root namespace: hosts are descriptors, so that they
//! are gone with the value and any number of tests run side by side.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

pub mod authority;
mod daemon;
mod etcd;
mod flow;
mod host;
mod lab;
pub mod lan;
pub mod lookup;
pub mod machines;
pub mod matrix;
mod model;
pub mod namespaces;
pub mod plugin;
pub mod rack;
pub mod recipe;
pub mod site;
mod sniffer;

pub use authority::{Authority, Certificate};
pub use daemon::Daemon;
pub use etcd::Etcd;
pub use flow::{Echo, Flow};
pub use host::{Host, SILENCE, Server, TIMEOUT, patient, wait_until};
pub use lab::Lab;
pub use lan::Lan;
pub use model::Model;
pub use rack::Rack;
pub use sniffer::Sniffer;
