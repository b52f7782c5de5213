//! The engine on the real kernel: each test in namespaces of its own, with directories of its own.
//! They need root.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

#[path = "engine/images.rs"]
mod images;
#[path = "engine/lifecycle.rs"]
mod lifecycle;
#[path = "engine/networks.rs"]
mod networks;
#[path = "engine/recovery.rs"]
mod recovery;
#[path = "engine/run.rs"]
mod run;
#[path = "engine/scene.rs"]
mod scene;
#[path = "engine/volumes.rs"]
mod volumes;
