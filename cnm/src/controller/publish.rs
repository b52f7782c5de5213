//! Publishing: from requested ports to bindings on the host.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::draft::Draft;
use super::{ControllerError, PortSpec};
use crate::driver::Reach;
use crate::ports::Request;
use crate::sandbox::{Attachment, gateway};
use crate::{Endpoint, Network, PortBinding};

/// Where a sandbox's ports are published.
#[derive(Debug)]
struct Bindings {
    /// On which addresses, where a request names none.
    hosts: Vec<IpAddr>,
    /// Families whose ports are open on the endpoint's own address and not bound on the host.
    routed: [bool; 2],
    /// Families that lead past the host.
    attached: [bool; 2],
}

impl Draft<'_> {
    /// Finds host ports for all requests, and takes them.
    pub(super) fn publish(
        &mut self,
        endpoints: &[Arc<Endpoint>],
        specs: &[PortSpec],
    ) -> Result<Vec<PortBinding>, ControllerError> {
        self.publish_instead(endpoints, specs, &[])
    }

    /// As [`Draft::publish`], for a sandbox that gives up some ports at the same time.
    pub(super) fn publish_instead(
        &mut self,
        endpoints: &[Arc<Endpoint>],
        specs: &[PortSpec],
        given_up: &[PortBinding],
    ) -> Result<Vec<PortBinding>, ControllerError> {
        if specs.is_empty() {
            return Ok(Vec::new());
        }
        let attachments = self.controller.attachments(endpoints)?;
        let nowhere = attachments.iter().find(|of| !of.network.driver.traits().publishes);
        if let Some(nowhere) = nowhere {
            let name = &nowhere.network.name;
            let warning =
                format!("published ports are discarded on network {name}: it leads nowhere");
            self.warnings.push(warning);
            return Ok(Vec::new());
        }
        if let Some(of) = attachments.first().filter(|_| attachments.iter().all(is_attached)) {
            self.warnings.push(format!(
                "published ports are discarded on network {}: its containers are reached at their \
                 own addresses, with all their ports",
                of.network.name
            ));
            return Ok(Vec::new());
        }
        if led_by_plugins(&attachments) {
            // They are told of the ports, and do with them what they like.
            return Ok(Vec::new());
        }
        let to = bindings(&attachments, &self.controller.config.default_bindings);
        let unreachable = gateway(&attachments, false).or_else(|| gateway(&attachments, true));
        if unreachable.is_none() {
            let warning = "published ports cannot be reached until the sandbox joins a network \
                           that is not internal";
            self.warnings.push(warning.to_owned());
        }
        self.warnings.extend(unreached(&attachments, specs));
        let mut given_up = given_up.to_vec();
        // Whoever takes any port comes last, and takes none that another request names.
        let mut order: Vec<usize> = (0..specs.len()).collect();
        order.sort_by_key(|at| is_any(&specs[*at]));
        let mut published = vec![Vec::new(); specs.len()];
        for at in order {
            published[at] = self.publish_one(&specs[at], &to, &mut given_up)?;
        }
        Ok(published.into_iter().flatten().collect())
    }

    fn publish_one(
        &mut self,
        spec: &PortSpec,
        to: &Bindings,
        given_up: &mut Vec<PortBinding>,
    ) -> Result<Vec<PortBinding>, ControllerError> {
        let PortSpec { host, host_ports, protocol, port } = spec;
        check(spec)?;
        let mut hosts = host.map_or_else(|| to.hosts.clone(), |host| vec![host]);
        hosts.retain(|host| !to.attached[usize::from(host.is_ipv6())]);
        let (routed, hosts): (Vec<_>, Vec<_>) =
            hosts.into_iter().partition(|host| to.routed[usize::from(host.is_ipv6())]);
        let on =
            |host, host_port| PortBinding { host, host_port, protocol: *protocol, port: *port };
        let mut bindings: Vec<_> = routed.into_iter().map(|host| on(host, 0)).collect();
        let mut missing = Vec::new();
        for host in hosts {
            // A port that the sandbox has in its hands already.
            let same = |old: &PortBinding| {
                let asked = *host_ports == (old.host_port..=old.host_port);
                asked && old.host == host && old.protocol == *protocol
            };
            match given_up.iter().position(same) {
                Some(at) => bindings.push(on(host, given_up.swap_remove(at).host_port)),
                None => missing.push(host),
            }
        }
        if !missing.is_empty() {
            let request = Request {
                hosts: &missing,
                ports: host_ports.clone(),
                protocol: *protocol,
                port: *port,
                lenient: host.is_none() && missing.len() > 1,
            };
            let ports = &mut self.controller.ports;
            let allocation = ports.allocate(&request, self.claims, &mut self.offers)?;
            bindings.extend(self.took_ports(allocation));
        }
        Ok(bindings)
    }
}

/// What is published and not reached, by the networks that lead outside.
fn unreached(attachments: &[Attachment<'_>], specs: &[PortSpec]) -> BTreeSet<String> {
    let gateways = [false, true].map(|ipv6| gateway(attachments, ipv6));
    let networks = || gateways.iter().flatten().map(|of| of.network);
    let why = |spec: &PortSpec, network: &Network| {
        let (name, protocol) = (&network.name, spec.protocol);
        let why = network.driver.unreached(network, protocol)?;
        Some(format!("{protocol} ports published on network {name} are not reached: {why}"))
    };
    specs.iter().flat_map(|spec| networks().filter_map(move |network| why(spec, network))).collect()
}

/// Whether a plugin makes the networks that lead outside.
fn led_by_plugins(attachments: &[Attachment<'_>]) -> bool {
    let by_plugin = |of: &Attachment<'_>| of.network.driver.plugin().is_some();
    let gateways = [false, true].map(|ipv6| gateway(attachments, ipv6));
    attachments.iter().any(by_plugin) && gateways.iter().flatten().all(by_plugin)
}

/// Whether an endpoint is on a link of the host, which does not stand between it and the others there.
fn is_attached(of: &Attachment<'_>) -> bool {
    let profile = of.network.profile();
    [false, true].map(|ipv6| profile.reach(ipv6)).iter().all(|reach| reach.is_attached())
}

fn is_any(spec: &PortSpec) -> bool {
    *spec.host_ports.end() == 0
}

fn check(spec: &PortSpec) -> Result<(), ControllerError> {
    let (first, last) = (spec.host_ports.start(), spec.host_ports.end());
    if spec.port == 0 {
        return Err(ControllerError::invalid("invalid container port 0: use 1 to 65535"));
    }
    if first > last || (*first == 0 && *last != 0) {
        let message = format!("invalid host ports {first}-{last}: use a range within 1 to 65535");
        return Err(ControllerError::invalid(message));
    }
    Ok(())
}

/// Each family follows the network that is the gateway for it; a family without one follows the
/// other, so that the port can be forwarded from one family to the other.
fn bindings(attachments: &[Attachment<'_>], defaults: &[IpAddr]) -> Bindings {
    let gateways = [false, true].map(|ipv6| gateway(attachments, ipv6).map(|a| a.network));
    let mut to = Bindings { hosts: Vec::new(), routed: [false; 2], attached: [false; 2] };
    for ipv6 in [false, true] {
        let family = usize::from(ipv6);
        let network = gateways[family].or(gateways[1 - family]);
        let own = network.map(|network| network.profile().bindings);
        let own = own.filter(|own| !own.is_empty());
        let hosts = own.as_deref().unwrap_or(defaults).iter().copied();
        to.routed[family] = is_routed(gateways[family], ipv6);
        // Nothing on the host could forward to an endpoint that is not reached through it.
        let forwarded = gateways[family].is_none() && is_routed(gateways[1 - family], !ipv6);
        to.attached[family] = network.is_some_and(|net| net.profile().reach(ipv6).is_attached());
        let led = !forwarded && !to.attached[family];
        to.hosts.extend(hosts.filter(|host| host.is_ipv6() == ipv6 && led));
    }
    to
}

fn is_routed(network: Option<&Network>, ipv6: bool) -> bool {
    network.is_some_and(|network| network.profile().reach(ipv6) == Reach::Routed)
}
