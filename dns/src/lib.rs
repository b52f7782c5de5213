//! The embedded resolver, and what the process `rnet-dns` keeps for the daemon.

pub mod protocol;
