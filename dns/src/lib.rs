//! The embedded resolver, and what the process `rnet-dns` keeps for the daemon.

#![forbid(unsafe_code)]

pub mod client;
mod packet;
pub mod protocol;
