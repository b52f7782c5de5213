//! A short stay on a network, before an endpoint is there or after it has gone: a link like the
//! endpoint's own, in a namespace that nothing pins. It is not marked as ours, and goes with the
//! process that made it, however that ends.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use cnm::{Key, Link, LinkKind, LinkName, Mac, Ns, State, Value};

use super::Linux;
use crate::dhcp::{Destination, Port};
use crate::kernel::link::{self, New, PortFlags};
use crate::kernel::netlink::{Request, Socket};
use crate::kernel::netns::Netns;
use crate::kernel::packet::Packets;

/// A link that is there while this is.
#[derive(Debug)]
pub(super) struct Visit {
    netns: Netns,
    interface: LinkName,
    packets: Packets,
}

/// What a plan says of the link of an endpoint.
struct Planned<'a> {
    interface: &'a LinkName,
    link: &'a Link,
    mac: Mac,
    bridge: Option<&'a LinkName>,
    flags: PortFlags,
}

impl Planned<'_> {
    /// The link of the one endpoint that is planned.
    fn of(endpoint: &State) -> Option<Planned<'_>> {
        let (interface, link) = endpoint.iter().find_map(|(key, value)| match key {
            Key::Link { ns: Ns::Sandbox(_), name } => Some((name, value.link()?)),
            _ => None,
        })?;
        let mut port = (None, PortFlags::default());
        for (_, value) in endpoint.iter() {
            if let Value::Port { bridge, .. } = value {
                port = (Some(bridge), PortFlags::of(value).unwrap_or_default());
            }
        }
        Some(Planned { interface, link, mac: link.mac?, bridge: port.0, flags: port.1 })
    }
}

impl Visit {
    /// Makes the link that is planned for an endpoint.
    pub(super) fn begin(linux: &Linux, endpoint: &State) -> io::Result<Self> {
        let none = || io::Error::other("its network gives it no link");
        let planned = Planned::of(endpoint).ok_or_else(none)?;
        let netns = Netns::create()?;
        let near = planned.link.kind.peer();
        linux.with_socket(|socket| {
            let requests = planned.creation(&netns, socket)?;
            send(socket, &requests)
        })?;
        if let Some(near) = near {
            linux.links.disable_ipv6(near)?;
        }
        let interface = planned.interface.clone();
        let packets = netns.run(|| {
            send(&mut Socket::open()?, &[link::switch_on(&interface, None, None)])?;
            Packets::open(&interface, planned.mac)
        })??;
        if let Some(near) = near {
            linux.with_socket(|socket| link::settle(socket, near))?;
        }
        Ok(Self { netns, interface, packets })
    }
}

impl Planned<'_> {
    fn creation(&self, netns: &Netns, socket: &mut Socket) -> io::Result<Vec<Request>> {
        let mut index = |name: &LinkName| {
            let missing = |error| io::Error::other(format!("there is no link {name}: {error}"));
            link::index(socket, name).map_err(missing)
        };
        let parent = self.link.kind.parent().map(&mut index).transpose()?;
        let bridge = self.bridge.map(&mut index).transpose()?;
        let new = New {
            name: self.interface,
            kind: &self.link.kind,
            mac: Some(self.mac),
            mtu: self.link.mtu.unwrap_or(link::DEFAULT_MTU),
            netns: Some(netns.as_fd()),
            parent,
            bridge,
        };
        let mut requests = vec![link::create(&new)];
        if let (LinkKind::Veth { peer }, Some(_)) = (&self.link.kind, bridge) {
            requests.push(link::set_port(peer, self.flags));
        }
        Ok(requests)
    }
}

fn send(socket: &mut Socket, requests: &[Request]) -> io::Result<()> {
    let refused = socket.batch(requests).into_iter().next();
    refused.map_or(Ok(()), |refused| Err(refused.source))
}

impl Port for Visit {
    fn send(&mut self, message: &[u8], to: Destination) -> io::Result<()> {
        self.packets.send(message, to)
    }

    fn receive(&mut self, until: Instant) -> io::Result<Option<(Mac, Vec<u8>)>> {
        self.packets.receive(until)
    }
}

impl Drop for Visit {
    /// The kernel takes namespaces apart when it has time; the hardware address is needed now.
    fn drop(&mut self) {
        let interface = &self.interface;
        let gone = self.netns.run(|| send(&mut Socket::open()?, &[link::remove(interface)]));
        if let Err(error) = gone.flatten() {
            tracing::debug!(%error, %interface, "its namespace takes it along later");
        }
    }
}
