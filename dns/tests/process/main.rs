//! The process `rnet-dns` from outside: real sockets on the loopback, resolvers of our own.

mod forwarding;
mod keeping;
mod lab;
mod local;
mod proxying;
