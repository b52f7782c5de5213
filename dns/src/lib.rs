//! The embedded resolver, and what the process `rnet-dns` keeps for the daemon.
//!
//! The daemon uses [`client`]; [`process`] is the other side. A query comes in at a sandbox's
//! socket (`serve`), is answered from the [`names`] by a pure function ([`answer`]), or goes through
//! cache and queue (`forward`) to other resolvers (`upstream`). The daemon's requests change what
//! `keeper` keeps; none of it depends on the daemon being there.

#![forbid(unsafe_code)]

pub mod answer;
mod cache;
pub mod client;
mod connections;
mod forward;
mod keeper;
pub mod log;
pub mod names;
mod packet;
mod pktinfo;
pub mod process;
pub mod protocol;
mod proxy;
mod rate;
mod resolv_conf;
mod serve;
mod services;
mod stream;
mod turns;
mod upstream;
mod wire;

pub use packet::PacketError;
pub use resolv_conf::parse as resolvers;
pub use wire::passed_on;
