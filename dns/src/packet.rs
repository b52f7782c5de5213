//! Packets of the control socket: one JSON message and the descriptors beside it.
//!
//! A message that does not fit into a packet travels in a memfd, so neither side has to think of
//! sizes. Descriptors are received as owned, close-on-exec ones or not at all.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most descriptors a packet carries for its message.
pub(crate) const DESCRIPTORS_MAX: usize = 250;

/// The longest message that travels in the packet itself.
const INLINE_MAX: usize = 64 << 10;

/// The longest message at all.
const MESSAGE_MAX: u64 = 64 << 20;

/// Stands for a message that is in the last descriptor. No JSON text is this.
const IN_MEMFD: &[u8] = b"@";

/// Why a packet could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The other side is gone.
    #[error("the other side closed the connection")]
    Closed,
    /// The kernel refused.
    #[error("cannot {verb} a packet")]
    Socket {
        /// `send` or `receive`.
        verb: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More descriptors than a packet may carry.
    #[error("{0} descriptors do not fit into one packet: {DESCRIPTORS_MAX} do")]
    TooMany(usize),
    /// A packet that was cut off by the kernel: longer than agreed, or with descriptors that this
    /// process had no room for.
    #[error("a packet did not arrive whole")]
    Truncated,
    /// Not a message of the protocol.
    #[error("a packet is no message of the protocol")]
    Malformed(#[source] serde_json::Error),
}

impl PacketError {
    /// What the runtime wants to see to wait until the socket is ready, and try again.
    pub(crate) fn as_would_block(&self) -> io::Result<()> {
        match self {
            Self::Socket { source, .. } if source.kind() == io::ErrorKind::WouldBlock => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            _ => Ok(()),
        }
    }
}

/// Sends one message. It goes as a whole or not at all.
pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), PacketError> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(PacketError::TooMany(descriptors.len()));
    }
    let text = serde_json::to_vec(message).map_err(PacketError::Malformed)?;
    if text.len() <= INLINE_MAX {
        return send_bytes(socket, &text, descriptors).map_err(|source| failed("send", source));
    }
    let memfd = in_memfd(&text).map_err(|source| failed("send", source))?;
    let mut all = descriptors.to_vec();
    all.push(memfd.as_fd());
    send_bytes(socket, IN_MEMFD, &all).map_err(|source| failed("send", source))
}

/// Receives one message and its descriptors.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> Result<(T, Vec<OwnedFd>), PacketError> {
    let mut bytes = vec![0; INLINE_MAX];
    let mut space =
        vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })
    .map_err(|errno| failed("receive", errno.into()))?;
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(PacketError::Truncated);
    }
    if received.bytes == 0 {
        return Err(PacketError::Closed);
    }
    bytes.truncate(received.bytes);
    if bytes == IN_MEMFD {
        let memfd = descriptors.pop().ok_or(PacketError::Truncated)?;
        bytes = from_memfd(memfd).map_err(|source| failed("receive", source))?;
    }
    let message = serde_json::from_slice(&bytes).map_err(PacketError::Malformed)?;
    Ok((message, descriptors))
}

fn failed(verb: &'static str, source: io::Error) -> PacketError {
    match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => PacketError::Closed,
        _ => PacketError::Socket { verb, source },
    }
}

fn send_bytes(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space =
        vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
    rustix::io::retry_on_intr(|| {
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let slices = [IoSlice::new(bytes)];
        rustix::net::sendmsg(socket, &slices, &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

fn in_memfd(text: &[u8]) -> io::Result<File> {
    let mut memfd = File::from(rustix::fs::memfd_create("rnet-dns-message", MemfdFlags::CLOEXEC)?);
    memfd.write_all(text)?;
    Ok(memfd)
}

fn from_memfd(memfd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(memfd);
    file.rewind()?;
    let mut text = Vec::new();
    file.take(MESSAGE_MAX).read_to_end(&mut text)?;
    Ok(text)
}
