//! A cluster that keeps its own store, as Docker's swarm mode does.
//!
//! A *manager* is a node with a member of etcd, which this crate starts and looks after, and with the
//! key of the cluster's [`Authority`]. A *worker* only talks to the members. Whoever joins shows a
//! [`Token`] at a manager's port (`server`), and gets a certificate; the token tells it the authority.
//! What nodes may do in the store follows from their certificates, too (`admin`).

mod admin;
mod admission;
mod attempts;
mod authority;
mod base36;
mod certificate;
pub mod client;
mod defaults;
pub mod files;
mod joining;
pub mod member;
pub mod node;
pub mod protocol;
pub mod record;
mod server;
mod standing;
mod tls;
mod token;

pub use authority::{Authority, DIGEST, NODE_LIFE, Subject, digest_of_pem};
pub use certificate::{Holder, KeyAndRequest, Signer};
pub use defaults::{NetworkDefaults, Upkeep};
pub use node::Node;
pub use standing::{Enrolment, Standing};
pub use token::{Generations, NoToken, Role, Token};

/// The port at which managers are asked to be let in: Docker's.
pub const PORT: u16 = 2377;

/// A new identity in Docker's form: 25 digits.
pub fn random_id() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(base36::encode(&bytes, 25))
}
