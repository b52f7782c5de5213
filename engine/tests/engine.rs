//! The engine on the real kernel: each test in namespaces of its own, with directories of its own.
//! They need root.

#[path = "engine/networks.rs"]
mod networks;
#[path = "engine/scene.rs"]
mod scene;
