//! The driver of networks that a plugin makes: it plans what becomes of the links that the plugin
//! hands over. What the plugin is asked, and when, is for the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use cnm::driver::{Driver, Profile, Reach, Reading};
use cnm::options::OptionError;
use cnm::sandbox::Attachment;
use cnm::{Key, Link, LinkKind, Network, Ns, PlanError, Sandbox, State, Value};

use crate::link_addresses;

/// The drivers of all plugins that were ever named.
static KNOWN: Mutex<BTreeSet<&'static Remote>> = Mutex::new(BTreeSet::new());

/// The driver of one plugin.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Remote {
    name: &'static str,
}

/// The driver of a plugin. Networks refer to their drivers for ever, so there is one of each name, and
/// it is never given up.
pub(crate) fn of(name: &str) -> &'static dyn Driver {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(driver) = known.iter().find(|driver| driver.name == name) {
        return *driver;
    }
    let name = String::leak(name.to_owned());
    let driver: &'static Remote = Box::leak(Box::new(Remote { name }));
    known.insert(driver);
    driver
}

impl Driver for Remote {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        "A plugin's networks: the plugin makes links on the host, which are moved into sandboxes."
    }

    fn plugin(&self) -> Option<&'static str> {
        Some(self.name)
    }

    /// They are the plugin's to judge.
    fn read(&self, _options: &BTreeMap<String, String>) -> Result<Reading, OptionError> {
        Ok(Reading::default())
    }

    fn read_endpoint(&self, _name: &str, _value: &str) -> Result<bool, OptionError> {
        Ok(true)
    }

    fn profile(&self, _network: &Network) -> Profile {
        let interface_prefix = Some("eth".to_owned());
        let (device, bindings) = Default::default();
        Profile { device, interface_prefix, bindings, reach: [Reach::Routed; 2] }
    }

    /// What the network is made of is the plugin's.
    fn network(&self, _network: &Network) -> Result<State, PlanError> {
        Ok(State::default())
    }

    fn endpoint(&self, sandbox: &Sandbox, of: Attachment<'_>) -> Result<State, PlanError> {
        let Attachment { network, endpoint } = of;
        let Some(handover) = &endpoint.handover else {
            return Err(PlanError::NoLink {
                endpoint: endpoint.id.to_string(),
                network: network.name.clone(),
                plugin: self.name.to_owned(),
            });
        };
        let Some(from) = handover.link.clone() else { return Ok(State::default()) };
        let ns = Ns::Sandbox(sandbox.id.clone());
        let name = endpoint.interface.clone();
        let link = Link {
            kind: LinkKind::Moved { from },
            mac: Some(endpoint.mac),
            mtu: None,
            up: true,
            tag: format!("endpoint/{}", endpoint.id),
        };
        let key = Key::Link { ns: ns.clone(), name: name.clone() };
        let mut state = State::from_iter([(key, Value::Link(link))]);
        state.extend(link_addresses(&ns, of)?);
        state.extend(handover.routes.iter().map(|route| {
            let key = Key::Route { ns: ns.clone(), destination: route.destination };
            (key, Value::Route { link: name.clone(), via: route.via })
        }));
        Ok(state)
    }
}
