//! Servers that say who they are and note whom they heard.

use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use nix::cmsg_space;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, bind, recvmsg, sendmsg, setsockopt,
    shutdown, socket, sockopt,
};

use crate::Host;

/// The groups that every listener joins: of an organisation, so that routers may pass them on.
pub(super) const GROUPS: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(239, 77, 0, 1), Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0x77));

/// Which listener heard which trial's datagrams.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal(Arc<Mutex<BTreeSet<(String, usize)>>>);

impl Journal {
    fn note(&self, listener: &str, trial: &[u8]) {
        if let Ok(trial) = String::from_utf8_lossy(trial).parse() {
            let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            heard.insert((listener.to_owned(), trial));
        }
    }

    /// Begins anew.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether a listener heard a trial.
    pub(super) fn has(&self, listener: &str, trial: usize) -> bool {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.contains(&(listener.to_owned(), trial))
    }
}

/// Servers on one host, on some ports, of TCP and UDP and both families. They end with the value.
#[derive(Debug)]
pub(super) struct Listener {
    streams: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    threads: Vec<JoinHandle<()>>,
}

impl Listener {
    /// Serves ports, and hears the groups by all interfaces that have addresses.
    pub(super) fn start(
        host: &Host,
        name: &str,
        ports: &[u16],
        journal: &Journal,
    ) -> io::Result<Self> {
        let interfaces: Vec<(u32, Option<Ipv4Addr>)> = host
            .links()
            .iter()
            .filter(|link| link.name != "lo")
            .map(|link| (link.index, ipv4(host, &link.name)))
            .collect();
        let mut this = Self { streams: Vec::new(), datagrams: Vec::new(), threads: Vec::new() };
        for port in ports {
            let sockets = host.run(|| open(*port, &interfaces))?;
            this.serve(&format!("{name}:{port}"), name, sockets, journal)?;
        }
        Ok(this)
    }

    fn serve(
        &mut self,
        greeting: &str,
        name: &str,
        (streams, datagrams): (TcpListener, Vec<UdpSocket>),
        journal: &Journal,
    ) -> io::Result<()> {
        let (listener, text) = (streams.try_clone()?, greeting.to_owned());
        self.streams.push(streams);
        self.threads.push(thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(text.as_bytes());
            }
        }));
        for socket in datagrams {
            let (text, name, journal) = (greeting.to_owned(), name.to_owned(), journal.clone());
            self.datagrams.push(socket.try_clone()?);
            self.threads.push(thread::spawn(move || {
                while let Ok(trial @ [_, ..]) = answer(&socket, &text).as_deref() {
                    journal.note(&name, trial);
                }
            }));
        }
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // To shut down a socket that is not connected is an error, and wakes its reader.
        let streams = self.streams.iter().map(AsRawFd::as_raw_fd);
        for socket in streams.chain(self.datagrams.iter().map(AsRawFd::as_raw_fd)) {
            let _ = shutdown(socket, Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn ipv4(host: &Host, interface: &str) -> Option<Ipv4Addr> {
    host.addresses(interface).into_iter().find_map(|address| match address.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    })
}

fn open(
    port: u16,
    interfaces: &[(u32, Option<Ipv4Addr>)],
) -> io::Result<(TcpListener, Vec<UdpSocket>)> {
    let streams = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    let ipv4 = udp(AddressFamily::Inet, &SockaddrIn::new(0, 0, 0, 0, port))?;
    let any = std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
    let ipv6 = udp(AddressFamily::Inet6, &SockaddrIn6::from(any))?;
    for (index, address) in interfaces {
        // Not every interface can: those that are down, for one.
        if let Some(address) = address {
            let _ = ipv4.join_multicast_v4(&GROUPS.0, address);
        }
        let _ = ipv6.join_multicast_v6(&GROUPS.1, *index);
    }
    Ok((streams, vec![ipv4, ipv6]))
}

/// Takes a datagram and answers it from the address that it was sent to.
fn answer(socket: &UdpSocket, text: &str) -> io::Result<Vec<u8>> {
    let (mut buffer, mut space) = ([0; 64], cmsg_space!(in6_pktinfo, in_pktinfo));
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::empty());
    let message = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut space), flags)?;
    let (size, from) = (message.bytes, message.address);
    let told: Vec<_> = message.cmsgs()?.collect();
    let control = told.iter().find_map(|told| match told {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(ControlMessage::Ipv4PacketInfo(info)),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(ControlMessage::Ipv6PacketInfo(info)),
        _ => None,
    });
    let answer = [IoSlice::new(text.as_bytes())];
    // A group is no address to answer from, and is not answered.
    let _ = sendmsg(fd, &answer, control.as_slice(), flags, from.as_ref());
    Ok(buffer[..size].to_vec())
}

/// A socket of one family alone, for a group is joined by its own.
fn udp(family: AddressFamily, address: &dyn SockaddrLike) -> io::Result<UdpSocket> {
    let fd: OwnedFd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    if family == AddressFamily::Inet6 {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
    }
    bind(fd.as_raw_fd(), address)?;
    Ok(UdpSocket::from(fd))
}
