//! The daemon as its clients see it: plain HTTP, the `docker` command, a service manager.
//!
//! Every test has a daemon of its own, in network and mount namespaces of its own and in a
//! directory of its own; nothing is left behind.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]
#![expect(unreachable_pub, reason = "what the files of one test share")]

mod alone;
mod answers;
mod api;
mod both;
mod breaking;
mod build;
mod buildkit;
mod busybox;
mod claims;
mod compose;
mod connections;
mod contexts;
mod copies;
mod credentials;
mod daemon;
mod delivery;
mod devices;
mod docker;
mod flags;
mod habits;
mod health;
mod host;
mod hostile;
mod hub;
mod hung;
mod init;
mod ipc;
mod leaving;
mod links;
mod lists;
mod logs;
mod mistakes;
mod options;
mod pages;
mod parts;
mod process;
mod recorder;
mod registry;
mod reload;
mod rests;
mod rotation;
mod sdk;
mod stalled;
mod stats;
mod terminal;
mod told;
mod trace;
mod update;
mod users;
mod volume_plugins;
mod words;
