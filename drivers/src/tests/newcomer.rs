//! What a driver need not know of to be planned for as all others are.

use cnm::driver::{Driver, Profile, Reach, Reading};
use cnm::options::OptionError;
use cnm::{Link, LinkKind};

use super::*;

/// A driver that says of an endpoint that there is a link.
#[derive(Debug)]
struct Newcomer;

impl Driver for Newcomer {
    fn name(&self) -> &'static str {
        "newcomer"
    }

    fn about(&self) -> &'static str {
        "A link."
    }

    fn read(&self, _options: &BTreeMap<String, String>) -> Result<Reading, OptionError> {
        Ok(Reading::default())
    }

    fn profile(&self, _network: &Network) -> Profile {
        let (device, interface_prefix, bindings) = Default::default();
        Profile { device, interface_prefix, bindings, reach: [Reach::Closed; 2] }
    }

    fn network(&self, _network: &Network) -> Result<State, PlanError> {
        Ok(State::default())
    }

    fn endpoint(&self, sandbox: &Sandbox, of: Attachment<'_>) -> Result<State, PlanError> {
        let (ns, name) = (Ns::Sandbox(sandbox.id.clone()), of.endpoint.interface.clone());
        let (kind, tag) = (LinkKind::Bridge, format!("endpoint/{}", of.endpoint.id));
        let link = Link { kind, mac: None, mtu: None, up: true, tag };
        Ok([(Key::Link { ns, name }, Value::Link(link))].into_iter().collect())
    }
}

#[test]
fn a_driver_that_plans_a_link_has_the_sysctls_planned_that_are_observed_of_it() {
    let n1 = Network { driver: &Newcomer, ..network(1, &[V4]) };
    let endpoint = Endpoint { default_route: false, ..endpoint(0xa0, &n1, &["10.1.0.2/24"]) };
    check(
        plan(&sandbox(&[]), &[(&n1, &endpoint)]),
        &expect![[r#"
            + namespace 5b5b5b5b5b5b
            + link eth0 in 5b5b5b5b5b5b bridge
            + sysctl net/ipv4/conf/eth0/arp_notify in 5b5b5b5b5b5b = 1
            + sysctl net/ipv6/conf/eth0/accept_dad in 5b5b5b5b5b5b = 0
            + sysctl net/ipv6/conf/eth0/accept_ra in 5b5b5b5b5b5b = 0
            + sysctl net/ipv6/conf/eth0/disable_ipv6 in 5b5b5b5b5b5b = 1
            + sysctl net/ipv6/conf/eth0/ndisc_notify in 5b5b5b5b5b5b = 1
        "#]],
    );
}
