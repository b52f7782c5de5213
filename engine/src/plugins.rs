//! Plugins in Docker's protocol: found by their names, asked by HTTP over a socket.
//!
//! A plugin is looked for when somebody names it, and says then what it is good for. It is a program of
//! somebody else, which may be slow, may be gone and may never answer: each call has a limit, and who
//! calls holds no lock that others need. A plugin that did not answer is left alone for a moment, so
//! that those who come next do not wait as long for nothing.

mod address;
mod call;
pub(crate) mod ipam;
pub(crate) mod network;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use crate::settings::Settings;
pub(crate) use call::{CallError, Plugin};
use engine_error::{Error, Kind, Result};

/// Where Docker looks for sockets, and for files that say where one is.
const PLACES: [&str; 3] = ["/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins"];

/// What a plugin can be good for, as it says so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trade {
    /// It makes networks.
    Network,
    /// It gives addresses.
    Ipam,
}

impl Trade {
    fn as_str(self) -> &'static str {
        match self {
            Self::Network => "NetworkDriver",
            Self::Ipam => "IpamDriver",
        }
    }
}

/// The plugins of this machine.
#[derive(Debug)]
pub(crate) struct Plugins {
    places: Vec<PathBuf>,
    patience: Duration,
    /// Those that were asked already.
    known: Mutex<BTreeMap<String, Arc<Plugin>>>,
}

impl Plugins {
    pub(crate) fn new(settings: &Settings) -> Self {
        let own = settings.plugin_places.iter().cloned();
        let places = own.chain(PLACES.into_iter().map(PathBuf::from)).collect();
        Self { places, patience: settings.plugin_patience, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Plugin>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugin with a name, if it is good for something. Blocks while it is asked for that.
    pub(crate) fn find(&self, name: &str, trade: Trade) -> Result<Arc<Plugin>> {
        let known = self.known().get(name).cloned();
        let plugin = match known.filter(|plugin| plugin.is_in_place()) {
            Some(plugin) => plugin,
            None => self.activate(name)?,
        };
        if plugin.is_good_for(trade) {
            return Ok(plugin);
        }
        let text = format!("plugin \"{name}\" is no {}: it says so itself", trade.as_str());
        Err(Error::new(Kind::NotFound, text))
    }

    /// The names of those that were asked already and are good for something.
    pub(crate) fn names(&self, trade: Trade) -> Vec<String> {
        let known = self.known();
        let good = known.iter().filter(|(_, plugin)| plugin.is_good_for(trade));
        good.map(|(name, _)| name.clone()).collect()
    }

    fn activate(&self, name: &str) -> Result<Arc<Plugin>> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Activation {
            #[serde(rename = "Implements")]
            implements: Option<Vec<String>>,
        }
        let address = address::find(&self.places, name)?;
        let Some(address) = address else {
            return Err(Error::not_found(format!("plugin \"{name}\" not found")));
        };
        let mut plugin = Plugin::new(name, address, self.patience);
        let activation: Activation = plugin.call("Plugin.Activate", None)?;
        plugin.implements = activation.implements.unwrap_or_default();
        if plugin.is_good_for(Trade::Network) {
            match plugin.network_capabilities() {
                Ok(()) | Err(CallError::Refused(_)) => {}
                Err(CallError::Lost(error)) => return Err(error),
            }
        }
        if plugin.is_good_for(Trade::Ipam) {
            plugin.wishes = plugin.ask_wishes()?;
        }
        let plugin = Arc::new(plugin);
        self.known().insert(name.to_owned(), plugin.clone());
        Ok(plugin)
    }
}
