//! A node's ways to its store: to the swarm's records, and to the store's own business.
//!
//! They are held by nobody while they are used: who only asks does not wait for what the node does.

use std::sync::{Arc, MutexGuard, PoisonError};

use cluster::Etcd;
use engine_error::Result;

use super::{LIMIT, Node};
use crate::admin::Admin;
use crate::client::Identity;
use crate::files::State;
use crate::record::Register;
use crate::standing::{members, place};
use crate::token::Role;

/// The ways that are open.
#[derive(Debug, Default)]
pub(super) struct Ways {
    store: Option<Way<Etcd>>,
    admin: Option<Way<Admin>>,
    /// How often the certificate was exchanged since this daemon began.
    pub(super) renewals: u64,
}

/// One of them.
#[derive(Debug)]
struct Way<T> {
    to: Arc<T>,
    with: Opened,
}

/// To which members, and with which certificate, one was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Opened {
    members: Vec<String>,
    renewals: u64,
}

impl Ways {
    /// Whether the store can be asked.
    pub(super) fn are_open(&self) -> bool {
        self.store.is_some()
    }

    /// None of them is used again.
    pub(super) fn close(&mut self) {
        (self.store, self.admin) = (None, None);
    }
}

impl Node {
    pub(super) fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The swarm's records, through a store that knows all members that this node knows.
    pub(super) fn register(&self, state: &State, role: Role) -> Result<Register> {
        let place = place(&self.files, state, role);
        let mut ways = self.ways();
        let with = Opened { members: place.endpoints.clone(), renewals: ways.renewals };
        if let Some(way) = &mut ways.store {
            if way.with != with {
                way.to.reopen(&place)?;
                way.with = with;
            }
            return Ok(Register::new(way.to.clone()));
        }
        let to = Arc::new(Etcd::open(&place, LIMIT)?);
        ways.store = Some(Way { to: to.clone(), with });
        Ok(Register::new(to))
    }

    /// The store's own business, with the same members.
    pub(super) async fn admin(&self, state: &State, identity: &Identity) -> Result<Arc<Admin>> {
        let members = members(state, Role::Manager);
        let with = Opened { members, renewals: self.ways().renewals };
        let known = self.ways().admin.as_ref().map(|way| (way.to.clone(), way.with == with));
        let to = match known {
            Some((admin, true)) => return Ok(admin),
            Some((admin, false)) => {
                admin.reopen(&with.members, identity).await?;
                admin
            }
            None => Arc::new(Admin::connect(&with.members, identity).await?),
        };
        self.ways().admin = Some(Way { to: to.clone(), with });
        Ok(to)
    }
}
