//! Datagrams with the address they were sent to.
//!
//! A host has many addresses, and an answer must come from the one that was asked. The kernel tells
//! it beside the datagram (`IP_PKTINFO`, `IPV6_PKTINFO`) and takes it back the same way.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::cmsg_space;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockaddrLike, SockaddrStorage,
    getsockname, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Where a datagram came from, and where it was sent to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// The sender.
    pub(crate) from: SocketAddr,
    to: Option<Local>,
}

#[derive(Clone, Copy, Debug)]
enum Local {
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

/// Has the kernel tell the addresses.
pub(crate) fn enable(socket: &OwnedFd) -> io::Result<()> {
    let bound: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    match bound.family() {
        Some(AddressFamily::Inet6) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        _ => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
    }
    Ok(())
}

/// Takes a datagram, if there is one.
pub(crate) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Arrival)> {
    socket.try_io(Interest::READABLE, || {
        let mut space = cmsg_space!(in6_pktinfo, in_pktinfo);
        let mut slices = [IoSliceMut::new(buffer)];
        let descriptor = socket.as_fd().as_raw_fd();
        let flags = MsgFlags::empty();
        let message = recvmsg::<SockaddrStorage>(descriptor, &mut slices, Some(&mut space), flags)?;
        let from = message.address.as_ref().and_then(socket_address);
        let from = from.ok_or(io::ErrorKind::InvalidData)?;
        let to = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(Local::V4(info)),
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(Local::V6(info)),
            _ => None,
        });
        Ok((message.bytes, Arrival { from, to }))
    })
}

/// Answers a datagram from the address it was sent to.
pub(crate) async fn reply(socket: &UdpSocket, arrival: &Arrival, bytes: &[u8]) -> io::Result<()> {
    let Some(mut local) = arrival.to else {
        return socket.send_to(bytes, arrival.from).await.map(drop);
    };
    local.leave_interface_to_routing();
    let control = match &local {
        Local::V4(info) => ControlMessage::Ipv4PacketInfo(info),
        Local::V6(info) => ControlMessage::Ipv6PacketInfo(info),
    };
    let to = SockaddrStorage::from(arrival.from);
    let send = || {
        let descriptor = socket.as_fd().as_raw_fd();
        let slices = [IoSlice::new(bytes)];
        sendmsg(descriptor, &slices, &[control], MsgFlags::empty(), Some(&to))?;
        Ok(())
    };
    socket.async_io(Interest::WRITABLE, send).await
}

impl Local {
    /// Only a link-local address needs its interface named.
    fn leave_interface_to_routing(&mut self) {
        match self {
            Self::V4(info) => info.ipi_ifindex = 0,
            Self::V6(info) => {
                let link_local = info.ipi6_addr.s6_addr[0] == 0xfe;
                info.ipi6_ifindex = if link_local { info.ipi6_ifindex } else { 0 };
            }
        }
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let ipv4 = address.as_sockaddr_in().map(|v4| SocketAddrV4::from(*v4).into());
    ipv4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into()))
}
