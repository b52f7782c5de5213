//! The `host` driver: the host's own network namespace, in which there is nothing to do.

use std::collections::BTreeMap;

use cnm::driver::{Driver, Namespace, Profile, Reach, Reading, Scope, Traits};
use cnm::options::{OptionError, read};
use cnm::sandbox::Attachment;
use cnm::{Network, PlanError, Sandbox, State};

/// The `host` driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host;

impl Driver for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn about(&self) -> &'static str {
        "The host's own network: a container on it has no namespace of its own, and every port is the host's."
    }

    fn traits(&self) -> Traits {
        Traits {
            addresses: false,
            namespace: Namespace::Host,
            single: true,
            company: false,
            publishes: false,
            scope: Scope::Local,
        }
    }

    fn read(&self, options: &BTreeMap<String, String>) -> Result<Reading, OptionError> {
        let warnings = read(&[], &mut (), options, "driver host")?;
        Ok(Reading { warnings, ..Reading::default() })
    }

    fn profile(&self, _network: &Network) -> Profile {
        let (device, interface_prefix, bindings) = Default::default();
        Profile { device, interface_prefix, bindings, reach: [Reach::Closed; 2] }
    }

    fn network(&self, _network: &Network) -> Result<State, PlanError> {
        Ok(State::default())
    }

    fn endpoint(&self, _sandbox: &Sandbox, _of: Attachment<'_>) -> Result<State, PlanError> {
        Ok(State::default())
    }
}
