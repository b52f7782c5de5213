//! The embedded resolver, and what the process `rnet-dns` keeps for the daemon.

#![forbid(unsafe_code)]

pub mod answer;
pub mod client;
pub mod names;
mod packet;
pub mod protocol;
mod services;
mod wire;
