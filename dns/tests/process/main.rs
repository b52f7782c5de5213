//! The process `rnet-dns` from outside: real sockets on the loopback, resolvers of our own.

#![expect(clippy::unwrap_used, reason = "a test's lab fails by panicking, as tests do")]

mod crowding;
mod forwarding;
mod keeping;
mod lab;
mod local;
mod proxying;
