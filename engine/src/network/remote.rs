//! Networks and endpoints that plugins make.
//!
//! A plugin is asked in the claim step of a change, outside of every lock, and what it hands over goes
//! into the decision as data: a link of the host's that is to move into a sandbox, with its gateways and
//! routes. Before it is asked for anything, that is written into the [ledger] durably. The
//! ledger is what plugins hold for us; the model says what they should. What the ledger has and the model
//! has not is given back, by one path: after a failure, when a sandbox leaves, and after a crash. A
//! plugin that cannot be reached is owed that, and tried again now and then; nobody waits for it.

mod addresses;
mod ahead;
mod debts;
mod endpoints;
mod ledger;
mod networks;
mod replay;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cnm::Store;

use crate::plugins::{Plugins, Trade};
use crate::settings::Settings;
pub(super) use endpoints::{Asking, Held};
use engine_error::Result;
use ledger::Ledger;

/// The plugins, and what they hold for us.
#[derive(Debug)]
pub(super) struct Remote {
    plugins: Arc<Plugins>,
    ledger: Mutex<Ledger>,
    /// Rung when something is owed.
    bell: Sender<()>,
    /// Who hears the bell, until somebody listens.
    ears: Mutex<Option<Receiver<()>>>,
}

impl Remote {
    pub(super) fn open(settings: &Settings, store: &dyn Store) -> Result<Self> {
        let (bell, ears) = channel();
        Ok(Self {
            plugins: Arc::new(Plugins::new(settings)),
            ledger: Mutex::new(Ledger::read(store)?),
            bell,
            ears: Mutex::new(Some(ears)),
        })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugins of this machine.
    pub(super) fn plugins(&self) -> Arc<Plugins> {
        self.plugins.clone()
    }

    /// Plugins that make networks, as far as they were asked already.
    pub(super) fn names(&self) -> Vec<String> {
        self.plugins.names(Trade::Network)
    }
}
