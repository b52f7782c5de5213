//! Links of the host that go.
//!
//! The kernel acknowledges the removal of a link when no processor remembers it any more (`rcu_barrier`
//! in `netdev_run_todo`): some 15 ms in which the link is gone for everybody. It tells of the removal
//! before it begins to wait. So other threads ask, and the caller goes on as soon as the kernel has
//! told of every link, or has answered.

use std::collections::BTreeSet;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use cnm::LinkName;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

use super::Sockets;
use crate::kernel::link;
use crate::kernel::netlink::Refused;

/// `RTNLGRP_LINK`
const GROUP: u32 = 1;

/// How many threads ask at once. The kernel waits for each link by itself.
const THREADS: usize = 8;

/// Removes links of the host, whose namespace is the one of the calling thread and of the sockets.
/// That one is gone already is a success. `index` of what was refused is the one among `names`.
pub(super) fn unlink(sockets: &Arc<Sockets>, names: &[LinkName]) -> io::Result<Vec<Refused>> {
    let news = News::subscribe()?;
    let (over, working) = io::pipe()?;
    let mut asking = Vec::new();
    let share = names.len().div_ceil(THREADS).max(1);
    for (part, names) in names.chunks(share).enumerate() {
        let (sockets, names, working) = (sockets.clone(), names.to_vec(), working.try_clone()?);
        let ask = move || {
            let refused = ask(&sockets, part * share, &names);
            drop(working);
            refused
        };
        asking.push(thread::Builder::new().name("unlink".to_owned()).spawn(ask)?);
    }
    drop(working);
    if news.tell_of(names.iter().cloned().collect(), &over)? {
        return Ok(Vec::new());
    }
    Ok(asking.into_iter().flat_map(answer).collect())
}

/// Removes links, and waits for the kernel's answer.
fn ask(sockets: &Sockets, first: usize, names: &[LinkName]) -> Vec<Refused> {
    let requests: Vec<_> = names.iter().map(link::remove).collect();
    let refused = sockets.with(|socket| Ok(socket.batch(&requests)));
    let refused = refused.unwrap_or_else(|source| vec![Refused { index: 0, source }]);
    let of_all = |refused: Refused| Refused { index: first + refused.index, ..refused };
    refused.into_iter().map(of_all).collect()
}

fn answer(asking: JoinHandle<Vec<Refused>>) -> Vec<Refused> {
    asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What the kernel tells of links in the namespace of the thread that subscribed.
#[derive(Debug)]
struct News(netlink_sys::Socket);

impl News {
    fn subscribe() -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.add_membership(GROUP)?;
        Ok(Self(socket))
    }

    /// Waits until all these links were told to be gone; false if `over` was closed before, or news
    /// were lost.
    fn tell_of(&self, mut awaited: BTreeSet<LinkName>, over: &PipeReader) -> io::Result<bool> {
        let mut buffer = vec![0; 64 << 10];
        while !awaited.is_empty() {
            let mut sources =
                [self.0.as_fd(), over.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut sources, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [told, ended] = sources.map(|source| source.any().unwrap_or(true));
            if ended {
                return Ok(false);
            }
            if told && !self.read(&mut buffer, &mut awaited) {
                // Some of it was lost. The answers tell, late.
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads what there is, and strikes out who is gone; false if something was lost.
    fn read(&self, buffer: &mut [u8], awaited: &mut BTreeSet<LinkName>) -> bool {
        loop {
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(size) => strike_out(&buffer[..size], awaited),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return true,
                Err(_) => return false,
            }
        }
    }
}

fn strike_out(mut datagram: &[u8], awaited: &mut BTreeSet<LinkName>) {
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) {
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) = &message.payload
            && let Some(name) = gone(link)
        {
            awaited.retain(|awaited| awaited.as_str() != name);
        }
        let size = (message.header.length as usize).next_multiple_of(4);
        let Some(rest) = datagram.get(size.max(4)..) else { return };
        datagram = rest;
    }
}

/// The name of a link that is gone, and not only out of its bridge.
fn gone(link: &LinkMessage) -> Option<&str> {
    if link.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}
