//! The shim: one small process per container that outlives the daemon.
//!
//! The shim is the parent of the container's first process and of every exec'd one. It owns their
//! stdio and their exit statuses, writes the log, and serves attach, exec, resize, kill and watch
//! on a socket in its directory. It is single threaded and knows nothing of images, networks or
//! HTTP. The daemon may come and go; what the shim has seen is told to the next one.
//!
//! Called with a word, the same program makes [`namespaces`].
//!
//! [`protocol`] is what both sides say, [`client`] is the daemon's side, [`run`] the process itself.

mod clock;
mod console;
mod failure;
mod gate;
mod jsonfile;
mod peer;
mod process;
mod program;
mod server;
mod system;

pub mod client;
pub mod launch;
mod log;
pub mod namespaces;
pub mod protocol;
pub mod resident;
pub mod run;
pub mod said;

pub use jsonfile::records as log_records;
