//! Docker's JSON: types that exist on the wire only, and conversions from and to the model.
//!
//! The types are our own rather than generated ones: clients are told every field, in Go's way
//! with `null` and zero values, and fields that newer API versions dropped are still sent to older
//! clients.

pub mod check;
pub mod cluster;
pub mod container_config;
pub mod container_create;
pub mod container_inspect;
pub mod container_limits;
pub mod container_list;
pub mod container_update;
pub mod container_validate;
pub mod go;
pub mod image;
pub mod network;
pub mod ports;
pub mod registry;
pub mod stats;
pub mod swarm;
pub mod syntax;
pub mod system;
pub mod time;
