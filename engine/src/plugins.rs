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
pub(crate) mod volume;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::settings::Settings;
use call::QUIET;
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
    /// It makes volumes.
    Volume,
}

impl Trade {
    fn as_str(self) -> &'static str {
        match self {
            Self::Network => "NetworkDriver",
            Self::Ipam => "IpamDriver",
            Self::Volume => "VolumeDriver",
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
    /// When those did not answer that were looked for without being named.
    silent: Mutex<BTreeMap<String, Instant>>,
}

impl Plugins {
    pub(crate) fn new(settings: &Settings) -> Self {
        let own = settings.plugin_places.iter().cloned();
        let places = own.chain(PLACES.into_iter().map(PathBuf::from)).collect();
        Self {
            places,
            patience: settings.plugin_patience,
            known: Mutex::default(),
            silent: Mutex::default(),
        }
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

    /// The names of all that are good for something. Those that were not asked for that yet are asked,
    /// all at once; one that does not answer is left alone for a moment.
    pub(crate) fn look_for(&self, trade: Trade) -> Vec<String> {
        let mut names = address::all(&self.places);
        names.retain(|name| !self.is_silent(name));
        let ask = |name: String| match self.find(&name, trade) {
            Ok(_) => Some(name),
            Err(error) => {
                if error.kind() != Kind::NotFound {
                    tracing::warn!(
                        plugin = name,
                        error = error.chain(),
                        "a plugin does not answer"
                    );
                    self.silent().insert(name, Instant::now());
                }
                None
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                names.into_iter().map(|name| scope.spawn(move || ask(name))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
        })
    }

    fn silent(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_silent(&self, name: &str) -> bool {
        let mut silent = self.silent();
        silent.retain(|_, since| since.elapsed() < QUIET);
        silent.contains_key(name)
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
        if plugin.is_good_for(Trade::Volume) {
            plugin.scope = plugin.ask_scope()?;
        }
        if plugin.is_good_for(Trade::Ipam) {
            plugin.wishes = plugin.ask_wishes()?;
        }
        let plugin = Arc::new(plugin);
        self.known().insert(name.to_owned(), plugin.clone());
        Ok(plugin)
    }
}
