//! Netfilter's netlink: messages, sockets, dumps and transactions.
//!
//! Synchronous, as the kernel's side is: when `send` has returned, all answers are in the
//! socket's queue. Nothing here knows what the messages mean.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, NetlinkAddr, sockopt};

/// How often a dump is begun anew because the ruleset changed meanwhile.
const DUMP_ATTEMPTS: usize = 200;

/// The biggest datagram the kernel sends in a dump is 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;

const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
const NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = 0x3fff;

const NLM_F_REQUEST: u16 = 0x1;
/// Ask for an answer even if nothing went wrong.
pub(super) const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Refuse if the object exists.
pub(super) const NLM_F_EXCL: u16 = 0x200;
/// Make the object if it does not exist.
pub(super) const NLM_F_CREATE: u16 = 0x400;
/// Put it behind the others.
pub(super) const NLM_F_APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `SOCK_DIAG_BY_FAMILY`
const SOCKETS: u16 = 20;
/// `NFNL_SUBSYS_NFTABLES`
pub(super) const SUBSYSTEM_NFTABLES: u16 = 10;

// === impl Train ===

/// A train of netlink messages under construction.
///
/// Netlink numbers are in host order, but netfilter's attributes are in network order.
#[derive(Debug, Default)]
pub(super) struct Train {
    bytes: Vec<u8>,
}

impl Train {
    /// Appends a message with the netfilter header and the attributes that `fill` writes.
    pub(super) fn message(&mut self, head: &Head, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&head.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(head.flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&head.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.push(head.family);
        self.bytes.push(head.second);
        self.bytes.extend_from_slice(&head.resource.to_be_bytes());
        fill(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Appends an attribute.
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |train| train.bytes.extend_from_slice(value));
    }

    /// Appends a number.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Appends a text with the NUL that ends it.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |train| {
            train.bytes.extend_from_slice(value.as_bytes());
            train.bytes.push(0);
        });
    }

    /// Appends an attribute that consists of attributes.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.attribute(kind | NESTED, fill);
    }

    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Appends attributes that are encoded already.
    pub(super) fn raw(&mut self, attributes: &[u8]) {
        self.bytes.extend_from_slice(attributes);
    }

    /// The bytes so far.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What stands before a message's attributes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// Subsystem and message type.
    pub(super) kind: u16,
    /// `NLM_F_…`; that it is a request need not be said.
    pub(super) flags: u16,
    /// The address family.
    pub(super) family: u8,
    /// The number that the answer will bear.
    pub(super) sequence: u32,
    /// The version of netfilter's header, which is 0; of sockets the protocol.
    second: u8,
    resource: u16,
}

impl Head {
    /// A message of a subsystem.
    pub(super) fn new(subsystem: u16, message: u16, flags: u16, family: u8) -> Self {
        Self { kind: subsystem << 8 | message, flags, family, sequence: 0, second: 0, resource: 0 }
    }

    /// A question about sockets.
    pub(super) fn of_sockets(family: u8, protocol: u8) -> Self {
        Self { kind: SOCKETS, flags: 0, family, sequence: 0, second: protocol, resource: 0 }
    }

    /// A request that something be done about a socket.
    pub(super) fn to_sockets(message: u16, family: u8, protocol: u8) -> Self {
        Self { second: protocol, ..Self::new(0, message, NLM_F_ACK, family) }
    }

    /// A message of nf_tables for the family inet.
    pub(super) fn nftables(message: u16, flags: u16, family: u8) -> Self {
        Self::new(SUBSYSTEM_NFTABLES, message, flags, family)
    }
}

// === impl Batch ===

/// Messages of nf_tables that take effect together or not at all.
#[derive(Debug)]
pub(super) struct Batch {
    train: Train,
    // The sequence number of the first message is `first`.
    first: u32,
    next: u32,
}

impl Batch {
    /// An empty batch.
    pub(super) fn new() -> Self {
        let mut train = Train::default();
        train.message(&Self::mark(BATCH_BEGIN), |_| {});
        Self { train, first: 1, next: 1 }
    }

    /// Appends a message and returns its position, to be found in [`Refusal`].
    pub(super) fn push(&mut self, head: Head, fill: impl FnOnce(&mut Train)) -> u32 {
        let sequence = self.next;
        self.next += 1;
        self.train.message(&Head { sequence, ..head }, fill);
        sequence - self.first
    }

    /// The messages, without the marks around them.
    pub(super) fn content(&self) -> &[u8] {
        &self.train.as_bytes()[HEADER + FAMILY_HEADER..]
    }

    fn mark(kind: u16) -> Head {
        Head { kind, flags: 0, family: 0, sequence: 0, second: 0, resource: SUBSYSTEM_NFTABLES }
    }
}

/// Why a batch had no effect: the errors by the position of their message.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) BTreeMap<u32, io::Error>);

// === impl Received ===

/// One message from the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received<'a> {
    /// Subsystem and message type.
    pub(super) kind: u16,
    /// The port of the socket whose request caused it.
    pub(super) port: u32,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// The messages of a datagram, up to the first one that is malformed.
    pub(super) fn all(datagram: &'a [u8]) -> impl Iterator<Item = Self> {
        let mut rest = datagram;
        std::iter::from_fn(move || {
            let (message, length) = Self::first(rest)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some(message)
        })
    }

    fn first(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let length = usize::try_from(host_u32(bytes)?).ok()?;
        let message = Self {
            kind: host_u16(bytes.get(4..)?)?,
            flags: host_u16(bytes.get(6..)?)?,
            sequence: host_u32(bytes.get(8..)?)?,
            port: host_u32(bytes.get(12..)?)?,
            payload: bytes.get(HEADER..length)?,
        };
        Some((message, length))
    }

    /// The attributes behind the netfilter header.
    pub(super) fn attributes(&self) -> Attributes<'a> {
        Attributes(self.payload.get(FAMILY_HEADER..).unwrap_or_default())
    }

    /// What follows the netlink header.
    pub(super) fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The result it reports, if it is an answer; `Ok` where nothing went wrong.
    fn outcome(&self) -> Option<io::Result<()>> {
        if self.kind != NLMSG_ERROR && self.kind != NLMSG_DONE {
            return None;
        }
        match host_u32(self.payload).unwrap_or_default().cast_signed() {
            0 => Some(Ok(())),
            code => Some(Err(io::Error::from_raw_os_error(code.wrapping_neg()))),
        }
    }
}

fn host_u16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.first_chunk()?))
}

fn host_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.first_chunk()?))
}

// === impl Attributes ===

/// The attributes of a message, or those within an attribute.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Reads attributes from bytes that follow some other header.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first attribute of a type.
    pub(super) fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The attributes within the first attribute of a type; none if it is absent.
    pub(super) fn within(self, kind: u16) -> Self {
        Self(self.find(kind).unwrap_or_default())
    }

    /// A number in network order.
    pub(super) fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(*self.find(kind)?.first_chunk()?))
    }

    /// A text, without the NUL that ends it.
    pub(super) fn text(self, kind: u16) -> Option<&'a str> {
        let bytes = self.find(kind)?;
        str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
    }
}

impl<'a> IntoIterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);
    type IntoIter = AttributesIter<'a>;

    fn into_iter(self) -> AttributesIter<'a> {
        AttributesIter(self.0)
    }
}

/// Iterates over attributes, up to the first one that is malformed.
#[derive(Clone, Debug)]
pub(super) struct AttributesIter<'a>(&'a [u8]);

impl<'a> Iterator for AttributesIter<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(host_u16(self.0)?);
        let kind = host_u16(self.0.get(2..)?)? & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

// === impl Socket ===

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
}

impl Socket {
    /// Opens a socket of a netlink protocol.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        socket.bind_auto()?;
        // The kernel's explanations are not needed, nor are our messages with its answers.
        socket.set_cap_ack(true)?;
        Self::adopt(socket.as_fd().try_clone_to_owned()?)
    }

    /// Goes on with a socket that was opened before, maybe by another process.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let address: NetlinkAddr = socket::getsockname(fd.as_raw_fd())?;
        let mut socket = Self { fd, port: address.pid(), sequence: 0 };
        // Answers that an earlier user did not read, or lost, are of no interest.
        let _ = socket.receive_all(|_| {});
        Ok(socket)
    }

    /// The port that the kernel knows the socket by.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// A duplicate of the descriptor.
    pub(super) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Sends one request and gives its answers to `each`.
    pub(super) fn request(
        &mut self,
        head: Head,
        fill: impl FnOnce(&mut Train),
        mut each: impl FnMut(&Received<'_>),
    ) -> io::Result<()> {
        let sequence = self.advance();
        let mut train = Train::default();
        train.message(&Head { sequence, flags: head.flags | NLM_F_ACK, ..head }, fill);
        self.send(&train)?;
        let mut outcome = Ok(());
        self.receive_all(|message| match message.outcome() {
            _ if message.sequence != sequence => {}
            Some(result) => outcome = result,
            None => each(message),
        })?;
        outcome
    }

    /// Lists objects, all of one moment: if they change meanwhile, the list is begun anew.
    pub(super) fn dump<T>(
        &mut self,
        head: Head,
        fill: impl Fn(&mut Train),
        mut decode: impl FnMut(&Received<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            match self.dump_once(head, &fill, |message| found.extend(decode(message))) {
                Ok(true) => return Ok(found),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "it changes faster than it can be read"))
    }

    /// Returns whether the list is of one moment.
    fn dump_once(
        &mut self,
        head: Head,
        fill: impl Fn(&mut Train),
        mut each: impl FnMut(&Received<'_>),
    ) -> io::Result<bool> {
        let sequence = self.advance();
        let mut train = Train::default();
        train.message(&Head { sequence, flags: head.flags | NLM_F_DUMP, ..head }, fill);
        self.send(&train)?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        let mut consistent = true;
        loop {
            let length = self.receive(&mut buffer, MsgFlags::empty())?;
            for message in Received::all(&buffer[..length]) {
                if message.sequence != sequence {
                    continue;
                }
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.outcome() {
                    Some(result) => return result.map(|()| consistent),
                    None => each(&message),
                }
            }
        }
    }

    /// Commits a batch. `Err` holds what the system said of the whole, or of its messages.
    pub(super) fn transact(&mut self, mut batch: Batch) -> io::Result<Result<(), Refusal>> {
        let first = batch.first;
        let count = batch.next - first;
        batch.train.message(&Batch::mark(BATCH_END), |_| {});
        self.send(&batch.train)?;
        let mut errors = BTreeMap::new();
        let received = self.receive_all(|message| {
            if let Some(Err(error)) = message.outcome() {
                // What is reported of the marks concerns the whole, and is put to the first one.
                let position = message.sequence.wrapping_sub(first);
                errors.entry(if position < count { position } else { 0 }).or_insert(error);
            }
        });
        match received {
            // More errors than the queue holds: those that are there tell enough.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && !errors.is_empty() => {}
            other => other?,
        }
        Ok(if errors.is_empty() { Ok(()) } else { Err(Refusal(errors)) })
    }

    fn advance(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// A batch must reach the kernel in one piece, so the socket's buffer grows to hold it.
    fn send(&self, train: &Train) -> io::Result<()> {
        let bytes = train.as_bytes();
        let room = socket::getsockopt(&self.fd, sockopt::SndBuf)?;
        if room < bytes.len() + 64 {
            socket::setsockopt(&self.fd, sockopt::SndBufForce, &(bytes.len() + 64))?;
        }
        let kernel = NetlinkAddr::new(0, 0);
        loop {
            match socket::sendto(self.fd.as_raw_fd(), bytes, &kernel, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Reads what is in the queue; the kernel has answered by the time a request is sent.
    fn receive_all(&mut self, mut each: impl FnMut(&Received<'_>)) -> io::Result<()> {
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            match self.receive(&mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => Received::all(&buffer[..length]).for_each(|message| each(&message)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&self, buffer: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
        loop {
            match socket::recv(self.fd.as_raw_fd(), buffer, flags) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(length) => return Ok(length),
            }
        }
    }
}

#[cfg(test)]
mod tests;
