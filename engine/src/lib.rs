//! The container engine: what plugs into the network model to run containers.
//!
//! `engine` is the composition root. [`daemon`] puts the parts together; [`api`] speaks the Docker
//! Engine API for them; [`cli`] is the command line, a client like any other.

pub mod api;
pub mod build;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod container;
pub mod core;
pub mod daemon;
pub mod events;
pub mod file_systems;
pub mod network;
mod plugins;
pub mod runner;
pub mod settings;
pub mod swarm;
pub mod tasks;
mod templates;
