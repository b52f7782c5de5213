//! The shim: one small process per container that outlives the daemon.
