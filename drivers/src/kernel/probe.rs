//! Asking whether anybody has an address, before it is used (RFC 5227, RFC 4862).
//!
//! The kernel asks for us: it is told that a neighbour with the address is wanted, and from a link
//! without addresses its question is a probe, which changes nobody's mind about who has it. It tells
//! of the neighbour as soon as there is an answer.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use cnm::Mac;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

use super::neighbour;
use super::netlink::Socket;

/// `RTNLGRP_NEIGH`
const GROUP: u32 = 3;

/// When a question is asked again: it may have been lost, or the link-local address that it is asked
/// from was not there yet.
const AGAIN: Duration = Duration::from_millis(15);

/// Whoever has one of the addresses already, if he says so in time. The socket is in the namespace of
/// the calling thread, as the link is.
pub(super) fn owner(
    socket: &mut Socket,
    link: u32,
    addresses: &[IpAddr],
    wait: Duration,
) -> io::Result<Option<(IpAddr, Mac)>> {
    let news = subscribe()?;
    let asked: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    let end = Instant::now() + wait;
    let mut found = Ok(None);
    while Instant::now() < end && matches!(found, Ok(None)) {
        ask(socket, link, addresses)?;
        let until = end.min(Instant::now() + AGAIN);
        found = listen(&news, until, |of, address| of == link && asked.contains(&address));
    }
    let forget: Vec<_> = addresses.iter().map(|address| neighbour::unset(link, *address)).collect();
    socket.batch(&forget);
    found
}

/// Has the kernel ask, whatever it knows.
fn ask(socket: &mut Socket, link: u32, addresses: &[IpAddr]) -> io::Result<()> {
    let requests = addresses
        .iter()
        .flat_map(|address| [neighbour::unset(link, *address), neighbour::want(link, *address)]);
    let refused = socket.batch(&requests.collect::<Vec<_>>()).pop();
    refused.map_or(Ok(()), |refused| Err(refused.source))
}

/// Opens a socket for the news of neighbours in the namespace of the calling thread.
fn subscribe() -> io::Result<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.add_membership(GROUP)?;
    Ok(socket)
}

/// Waits for a neighbour that is meant.
fn listen(
    news: &netlink_sys::Socket,
    until: Instant,
    is_meant: impl Fn(u32, IpAddr) -> bool,
) -> io::Result<Option<(IpAddr, Mac)>> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, so that the wait does not end in turns of nothing.
        let left = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let mut sources = [PollFd::new(news.as_fd(), PollFlags::POLLIN)];
        match poll(&mut sources, PollTimeout::from(left)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let size = match recv(news.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(size) => size,
            Err(Errno::EINTR | Errno::EAGAIN) => 0,
            // Some were lost; the question is asked again.
            Err(Errno::ENOBUFS) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Some(found) = answer(&buffer[..size], &is_meant) {
            return Ok(Some(found));
        }
    }
}

fn answer(mut datagram: &[u8], is_meant: impl Fn(u32, IpAddr) -> bool) -> Option<(IpAddr, Mac)> {
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) {
        if let NetlinkPayload::InnerMessage(message) = &message.payload
            && let Some(known) = neighbour::known(message)
            && is_meant(known.link, known.address)
        {
            return Some((known.address, known.mac));
        }
        let size = (message.header.length as usize).next_multiple_of(4);
        datagram = datagram.get(size.max(4)..)?;
    }
    None
}
