//! Links, and the ports of bridges. Each kind of link has a file of its own below; `info`,
//! `lacking`, `kind` and `sysctls` are the list of them.

mod bridge;
mod ipvlan;
mod macvlan;
mod moved;
mod provisional;
mod veth;
mod vlan;
mod vxlan;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use cnm::{LinkKind, LinkName, Mac, Value};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage,
};

use super::netlink::{Request, Socket, errno};
use super::sysctl;
pub use moved::{move_back, move_to};
pub use provisional::{name_and_mark, provisional};
pub use vxlan::relocate;

/// The MTU that the kernel gives to new links.
pub const DEFAULT_MTU: u32 = 1500;

/// A link as the kernel tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias.
    pub alias: Option<String>,
    /// Its hardware address, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it is a loopback device.
    pub loopback: bool,
    /// The number of the other end of a pair, or of the link that this one is on, in that one's
    /// namespace.
    pub peer: Option<u32>,
    /// The bridge it is a port of.
    pub bridge: Option<u32>,
    /// See [`PortFlags`].
    pub flags: PortFlags,
    /// What only its kind has.
    pub(super) info: Vec<LinkInfo>,
}

impl Link {
    /// Whether it is a bridge.
    pub fn is_bridge(&self) -> bool {
        self.info.contains(&LinkInfo::Kind(InfoKind::Bridge))
    }
}

/// How a port of a bridge behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortFlags {
    /// It may only talk to ports that are not isolated.
    pub isolated: bool,
    /// Frames may leave by the port they came in by.
    pub hairpin: bool,
    /// Nothing is learned from it, and neighbours that are known to be there are answered for.
    pub tunnel: bool,
}

impl PortFlags {
    /// Those of a port that is wanted.
    pub(super) fn of(port: &Value) -> Option<Self> {
        match port {
            Value::Port { isolated, hairpin, tunnel, .. } => {
                Some(Self { isolated: *isolated, hairpin: *hairpin, tunnel: *tunnel })
            }
            _ => None,
        }
    }
}

/// A link to be made.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// Its name.
    pub name: &'a LinkName,
    /// Its kind.
    pub kind: &'a LinkKind,
    /// Its hardware address; the kernel's choice if absent.
    pub mac: Option<Mac>,
    /// Its MTU, and that of its other end.
    pub mtu: u32,
    /// The namespace it is in, if it is not the request's.
    pub netns: Option<BorrowedFd<'a>>,
    /// The number of the link that it is on.
    pub parent: Option<u32>,
    /// The number of the bridge that its end on the host is a port of.
    pub bridge: Option<u32>,
}

/// Makes a link, in the namespace it belongs to and still down, so that its sysctls precede its
/// first packet.
pub fn create(new: &New<'_>) -> Request {
    let mut message = named(new.name);
    message.attributes.extend(new.mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    message.attributes.push(LinkAttribute::Mtu(new.mtu));
    message.attributes.extend(new.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
    message.attributes.extend(new.parent.map(LinkAttribute::Link));
    let bridge = new.bridge.map(LinkAttribute::Controller);
    if let LinkKind::Veth { peer } = new.kind {
        let mut near = up(named(peer));
        near.attributes.push(LinkAttribute::Mtu(new.mtu));
        if bridge.is_none() {
            let mac = near_mac(peer).octets().to_vec();
            near.attributes.push(LinkAttribute::Address(mac));
        }
        near.attributes.extend(bridge);
        return Request::create(RouteNetlinkMessage::NewLink(veth::pair(near, message)));
    }
    message.attributes.extend(bridge);
    message.attributes.push(LinkAttribute::LinkInfo(info(new.kind)));
    Request::create(RouteNetlinkMessage::NewLink(message))
}

/// What the kernel is told of a new link of a kind.
fn info(kind: &LinkKind) -> Vec<LinkInfo> {
    match kind {
        LinkKind::Bridge => bridge::info(),
        // A pair is a message of two links; what somebody else made is there.
        LinkKind::Veth { .. } | LinkKind::Moved { .. } => Vec::new(),
        LinkKind::Macvlan { mode, .. } => macvlan::info(*mode),
        LinkKind::Ipvlan { mode, flag, .. } => ipvlan::info(*mode, *flag),
        LinkKind::Vlan { id, .. } => vlan::info(*id),
        LinkKind::Vxlan { vni, port, local } => vxlan::info(*vni, *port, *local),
        // Its key and its peers it is told by another way (`kernel::wireguard`).
        LinkKind::WireGuard { .. } => vec![LinkInfo::Kind(InfoKind::Wireguard)],
    }
}

/// Whether the kernel has links of a kind. It is asked for one that says nothing more, which it makes
/// none of: it misses what is not said only if it knows the kind.
pub fn knows_kind(socket: &mut Socket, kind: &LinkKind) -> io::Result<bool> {
    let name = "rnet-kind0".parse().map_err(io::Error::other)?;
    let mut message = named(&name);
    let kind = info(kind).into_iter().find(|info| matches!(info, LinkInfo::Kind(_)));
    message.attributes.push(LinkAttribute::LinkInfo(kind.into_iter().collect()));
    let refused = socket.batch(&[Request::create(RouteNetlinkMessage::NewLink(message))]).pop();
    match refused {
        Some(refused) => Ok(errno(&refused.source) != Some(libc::EOPNOTSUPP)),
        None => {
            socket.batch(&[remove(&name)]).pop().map_or(Ok(true), |refused| Err(refused.source))
        }
    }
}

/// What a kernel cannot do that has no links of a kind, and what to do about it.
pub fn lacking(kind: &LinkKind) -> (&'static str, &'static str) {
    match kind {
        LinkKind::Macvlan { .. } => (
            "macvlan interfaces",
            "load its module with `modprobe macvlan`, or use a kernel with CONFIG_MACVLAN",
        ),
        LinkKind::Ipvlan { .. } => (
            "ipvlan interfaces",
            "load its module with `modprobe ipvlan`, or use a kernel with CONFIG_IPVLAN",
        ),
        LinkKind::Vlan { .. } => (
            "VLAN interfaces (802.1Q)",
            "load its module with `modprobe 8021q`, or use a kernel with CONFIG_VLAN_8021Q",
        ),
        LinkKind::Vxlan { .. } => (
            "VXLAN interfaces",
            "load its module with `modprobe vxlan`, or use a kernel with CONFIG_VXLAN",
        ),
        LinkKind::WireGuard { .. } => (
            "WireGuard, by which encrypted networks go from host to host",
            "load its module with `modprobe wireguard`, use a kernel with CONFIG_WIREGUARD, or make the network \
             without --opt encrypted",
        ),
        LinkKind::Bridge | LinkKind::Veth { .. } | LinkKind::Moved { .. } => {
            ("bridges and veth pairs", "use a kernel with CONFIG_BRIDGE and CONFIG_VETH")
        }
    }
}

/// The kind of a link. `other` is the name of the other end of a pair, or of the link that this
/// one is on; nothing if it is of no kind that we make.
pub fn kind(link: &Link, other: Option<LinkName>) -> Option<LinkKind> {
    let is = |kind: &LinkInfo| link.info.contains(kind);
    if link.is_bridge() {
        return Some(LinkKind::Bridge);
    }
    if is(&LinkInfo::Kind(InfoKind::Veth)) {
        return Some(LinkKind::Veth { peer: other? });
    }
    link.info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::MacVlan(data)) => macvlan::read(other.clone()?, data),
        LinkInfo::Data(InfoData::IpVlan(data)) => ipvlan::read(other.clone()?, data),
        LinkInfo::Data(InfoData::Vlan(data)) => vlan::read(other.clone()?, data),
        LinkInfo::Data(InfoData::Vxlan(data)) => vxlan::read(data),
        _ => None,
    })
}

/// The sysctls that are observed of a link of the host, by its kind. A planner gives each of them a
/// value, and plans no others: what it plans and nobody observes is never right.
pub fn sysctls(kind: &LinkKind, name: &LinkName) -> Vec<String> {
    match kind {
        LinkKind::Bridge => sysctl::of_bridge(name).to_vec(),
        LinkKind::Macvlan { .. } => sysctl::of_host_end(name).to_vec(),
        LinkKind::Vxlan { .. } => sysctl::of_tunnel(name).to_vec(),
        LinkKind::WireGuard { .. } => sysctl::of_wireguard(name).to_vec(),
        // An end of a pair has [`sysctl::of_end`], if the host has a route by it.
        LinkKind::Veth { .. }
        | LinkKind::Ipvlan { .. }
        | LinkKind::Vlan { .. }
        | LinkKind::Moved { .. } => Vec::new(),
    }
}

/// Whether a link is one that encrypts.
pub(super) fn is_wireguard(link: &Link) -> bool {
    link.info.contains(&LinkInfo::Kind(InfoKind::Wireguard))
}

/// Whether a link is a tunnel.
pub(super) fn is_tunnel(link: &Link) -> bool {
    link.info.contains(&LinkInfo::Kind(InfoKind::Vxlan))
}

/// The tunnel with a number and a port, if there is one.
pub fn tunnel(socket: &mut Socket, vni: u32, port: u16) -> io::Result<Option<String>> {
    let is_it = |info: &LinkInfo| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => vxlan::number(data) == Some((vni, port)),
        _ => false,
    };
    let found = list(socket)?.into_iter().find(|link| link.info.iter().any(is_it));
    Ok(found.map(|link| link.name))
}

/// Marks a link, sets its MTU and switches it on; if it is a port of a bridge, sets its flags.
pub fn dress(name: &LinkName, alias: String, mtu: u32, port: Option<PortFlags>) -> Request {
    let mut message = up(named(name));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    message.attributes.push(LinkAttribute::IfAlias(alias));
    message.attributes.extend(port.map(port_attribute));
    Request::change(RouteNetlinkMessage::NewLink(message))
}

/// Switches a link on; with an MTU or an alias, sets that too.
pub fn switch_on(name: &LinkName, mtu: Option<u32>, alias: Option<String>) -> Request {
    switch_on_with(name, mtu, alias, None)
}

/// The same; with a hardware address, sets that first.
pub fn switch_on_with(
    name: &LinkName,
    mtu: Option<u32>,
    alias: Option<String>,
    mac: Option<Mac>,
) -> Request {
    let mut message = up(named(name));
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message.attributes.extend(alias.map(LinkAttribute::IfAlias));
    Request::change(RouteNetlinkMessage::NewLink(message))
}

/// Lets a link announce its addresses to its neighbours, if its sysctls say that it may: the
/// kernel does so when the hardware address is set, to whatever it is.
pub fn announce(name: &LinkName, mac: Mac) -> Request {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::Address(mac.octets().to_vec()));
    Request::change(RouteNetlinkMessage::NewLink(message))
}

/// Switches a link off.
pub fn switch_off(name: &LinkName) -> Request {
    let mut message = named(name);
    message.header.change_mask = LinkFlags::Up;
    Request::change(RouteNetlinkMessage::NewLink(message))
}

/// Makes a link a port of the bridge with this number; 0 takes it out of its bridge.
pub fn set_bridge(name: &LinkName, bridge: u32) -> Request {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::Controller(bridge));
    let message = RouteNetlinkMessage::NewLink(message);
    if bridge == 0 { Request::remove(message) } else { Request::change(message) }
}

/// Sets how a port behaves.
pub fn set_port(name: &LinkName, flags: PortFlags) -> Request {
    let mut message = named(name);
    message.attributes.push(port_attribute(flags));
    Request::change(RouteNetlinkMessage::NewLink(message))
}

/// Switches on the loopback interface, and with it 127.0.0.1 and `::1`.
pub fn switch_on_loopback() -> Request {
    let mut message = up(LinkMessage::default());
    message.header.index = 1;
    Request::change(RouteNetlinkMessage::NewLink(message))
}

/// Removes a link.
pub fn remove(name: &LinkName) -> Request {
    Request::remove(RouteNetlinkMessage::DelLink(named(name)))
}

/// The link with a name.
pub fn find(socket: &mut Socket, name: &LinkName) -> io::Result<Link> {
    get(socket, named(name))
}

/// Lets a link that has just got its carrier transmit, and then its bridge, which may have got its
/// own by that.
///
/// The kernel activates such a link a little later, and what is sent before is lost: the first
/// request for a neighbour, so that the first connection takes a second. To ask for the link makes
/// the kernel (since 6.8) do it now.
pub fn settle(socket: &mut Socket, link: &LinkName) -> io::Result<()> {
    match find(socket, link)?.bridge {
        Some(bridge) => name(socket, bridge).map(|_| ()),
        None => Ok(()),
    }
}

/// The number of the link with a name.
pub fn index(socket: &mut Socket, name: &LinkName) -> io::Result<u32> {
    find(socket, name).map(|link| link.index)
}

/// The name of the link with a number.
pub fn name(socket: &mut Socket, index: u32) -> io::Result<String> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    get(socket, message).map(|link| link.name)
}

/// All links of the socket's namespace.
pub fn list(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let found = socket.dump(&RouteNetlinkMessage::GetLink(message))?;
    Ok(found.into_iter().filter_map(read).collect())
}

/// A hardware address that depends on nothing but the text: made again, a bridge has the old one.
pub fn stable_mac(text: &str) -> Mac {
    // FNV-1a.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut bytes = [0; 6];
    bytes.copy_from_slice(&hash.to_le_bytes()[..6]);
    Mac::from_random(bytes)
}

/// The hardware address of a pair's end on the host that is no port of a bridge: who is at the other
/// end needs not ask for it.
pub fn near_mac(name: &LinkName) -> Mac {
    stable_mac(name.as_str())
}

fn get(socket: &mut Socket, mut message: LinkMessage) -> io::Result<Link> {
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let found = socket.get(&RouteNetlinkMessage::GetLink(message))?;
    read(found).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn named(name: &LinkName) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.as_str().to_owned()));
    message
}

fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn port_attribute(flags: PortFlags) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![
            InfoBridgePort::Isolated(flags.isolated),
            InfoBridgePort::HairpinMode(flags.hairpin),
            InfoBridgePort::Learning(!flags.tunnel),
            InfoBridgePort::NeighSupress(flags.tunnel),
        ])),
    ])
}

/// The link that a message tells of.
pub(super) fn read(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: None,
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        peer: None,
        bridge: None,
        flags: PortFlags::default(),
        info: Vec::new(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(bytes).ok().map(Mac::from);
            }
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::Controller(index) => link.bridge = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                link.flags = port_flags(&infos);
                link.info = infos;
            }
            _ => {}
        }
    }
    Some(link)
}

fn port_flags(infos: &[LinkInfo]) -> PortFlags {
    let mut flags = PortFlags::default();
    let (mut learns, mut suppresses) = (true, false);
    for info in infos {
        let LinkInfo::PortData(InfoPortData::BridgePort(attributes)) = info else { continue };
        for attribute in attributes {
            match attribute {
                InfoBridgePort::Isolated(isolated) => flags.isolated = *isolated,
                InfoBridgePort::HairpinMode(hairpin) => flags.hairpin = *hairpin,
                InfoBridgePort::Learning(learning) => learns = *learning,
                InfoBridgePort::NeighSupress(suppress) => suppresses = *suppress,
                _ => {}
            }
        }
    }
    flags.tunnel = !learns && suppresses;
    flags
}
