//! How a node stands to its swarm, for whoever wants to know.

use std::net::SocketAddr;

use cluster::{Place, Tls};

use crate::files::{Files, State};
use crate::member::CLIENTS;
use crate::token::Role;

/// The name of the cluster in a swarm's store.
const CLUSTER: &str = "default";

/// How a node stands.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// What it is in which swarm, if it is in one.
    pub enrolment: Option<Enrolment>,
    /// Why not all is as it is to be.
    pub problem: Option<String>,
    /// Whether it cannot be told what it is, because what it keeps on disk cannot be read. Nothing is
    /// done because of that.
    pub unreadable: bool,
    /// Whether the swarm does not let it in any more.
    pub shut_out: bool,
}

impl Standing {
    /// Whether it is in no swarm for sure.
    pub fn is_out(&self) -> bool {
        self.enrolment.is_none() && !self.unreadable
    }
}

/// What it is in which swarm.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// Who it is, and whom it knows.
    pub state: State,
    /// What its certificate says that it does.
    pub role: Role,
    /// Where the store is, and how it is let in there.
    pub place: Place,
    /// How often its certificate was exchanged since this daemon began.
    pub renewals: u64,
    /// Whether all that it needs to be is done once.
    pub settled: bool,
}

/// Where the members of the store are: this node's own first.
pub(crate) fn members(state: &State, role: Role) -> Vec<String> {
    let own = SocketAddr::new(state.address, CLIENTS).to_string();
    let own = (role == Role::Manager).then_some(own);
    let others = state.managers.iter().map(|manager| manager.store.clone());
    let mut members: Vec<String> = own.into_iter().collect();
    for other in others {
        if !members.contains(&other) {
            members.push(other);
        }
    }
    members
}

/// Where the store is, as a cluster's place.
pub(crate) fn place(files: &Files, state: &State, role: Role) -> Place {
    let file = |name: &str| Some(files.path(name));
    Place {
        endpoints: members(state, role),
        cluster: CLUSTER.to_owned(),
        tls: Some(Tls {
            authority: file("authority.pem"),
            certificate: file("node.pem"),
            key: file("node.key"),
        }),
        user: None,
        node: None,
        evict_after: None,
        wireguard_port: None,
    }
}
