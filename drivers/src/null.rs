//! The `null` driver, of the network `none`: a namespace with its loopback and nothing else.

use std::collections::BTreeMap;

use cnm::driver::{Driver, Namespace, Profile, Reach, Reading, Scope, Traits};
use cnm::options::{OptionError, read};
use cnm::sandbox::Attachment;
use cnm::{Network, PlanError, Sandbox, State};

/// The `null` driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Null;

impl Driver for Null {
    fn name(&self) -> &'static str {
        "null"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["none"]
    }

    fn about(&self) -> &'static str {
        "No network: a namespace with its loopback and nothing else."
    }

    fn traits(&self) -> Traits {
        Traits {
            addresses: false,
            namespace: Namespace::Own,
            single: true,
            company: false,
            publishes: false,
            scope: Scope::Local,
        }
    }

    fn read(&self, options: &BTreeMap<String, String>) -> Result<Reading, OptionError> {
        let warnings = read(&[], &mut (), options, "driver null")?;
        Ok(Reading { warnings, ..Reading::default() })
    }

    fn profile(&self, _network: &Network) -> Profile {
        let (device, interface_prefix, bindings) = Default::default();
        Profile { device, interface_prefix, bindings, reach: [Reach::Closed; 2] }
    }

    fn network(&self, _network: &Network) -> Result<State, PlanError> {
        Ok(State::default())
    }

    /// To join it adds nothing to the sandbox's namespace.
    fn endpoint(&self, _sandbox: &Sandbox, _of: Attachment<'_>) -> Result<State, PlanError> {
        Ok(State::default())
    }
}
