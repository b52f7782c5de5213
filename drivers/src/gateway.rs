//! Default routes: one endpoint of a sandbox provides them, for each family its own.

use std::net::{Ipv4Addr, Ipv6Addr};

use cnm::driver::Reach;
use cnm::sandbox::{Attachment, gateway};
use cnm::{Key, Ns, Sandbox, Value};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// The routes of a sandbox: the default ones, and those that its endpoints were given.
pub(crate) fn routes(sandbox: &Sandbox, attachments: &[Attachment<'_>]) -> Vec<(Key, Value)> {
    let willing = attachments.iter().copied().filter(|of| of.endpoint.default_route);
    let willing: Vec<_> = willing.collect();
    let route = |destination: IpNetwork| {
        let attachment = gateway(&willing, destination.is_ipv6())?;
        let ipv6 = destination.is_ipv6();
        let on_link = attachment.network.profile().reach(ipv6) == Reach::OnLink;
        let via = attachment.gateway(ipv6).filter(|_| !on_link);
        let link = attachment.endpoint.interface.clone();
        let ns = Ns::Sandbox(sandbox.id.clone());
        Some((Key::Route { ns, destination }, Value::Route { link, via }))
    };
    let given = attachments.iter().flat_map(|of| {
        let route = |route: &cnm::endpoint::StaticRoute| {
            let ns = Ns::Sandbox(sandbox.id.clone());
            let via = of.gateway_of(route);
            let link = of.endpoint.interface.clone();
            (Key::Route { ns, destination: route.destination }, Value::Route { link, via })
        };
        of.endpoint.routes.iter().map(route).collect::<Vec<_>>()
    });
    everywhere().into_iter().filter_map(route).chain(given).collect()
}

fn everywhere() -> [IpNetwork; 2] {
    let ipv4 = Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0).map(IpNetwork::V4);
    let ipv6 = Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0).map(IpNetwork::V6);
    [ipv4, ipv6].map(|net| net.unwrap_or_else(|| unreachable!("0 is a prefix length")))
}
