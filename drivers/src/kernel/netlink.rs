//! A netlink socket for routes and links, or for what is told by generic netlink: synchronous, pipelined, and with the kernel's own words in its errors.
//!
//! Any number of requests go out in one `sendmsg` and their acknowledgements are collected
//! afterwards, so that a batch costs two switches to the kernel and one for each answer.

use std::fmt;
use std::io;

use libc::MSG_TRUNC;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;

/// How many requests go out at once; their acknowledgements must fit the receive buffer.
const BATCH: usize = 64;

/// How often an interrupted dump is tried again before it is an error.
const DUMP_ATTEMPTS: usize = 16;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// Set in an acknowledgement that carries attributes, and in one that omits the request's body.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_CAPPED: u16 = 0x100;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    received: Vec<u8>,
}

/// What a request says.
#[derive(Clone, Debug)]
pub enum Message {
    /// What can be put in words.
    Route(RouteNetlinkMessage),
    /// What is put together elsewhere.
    Raw {
        /// Its number.
        kind: u16,
        /// All of it but its header.
        bytes: Vec<u8>,
    },
}

impl From<RouteNetlinkMessage> for Message {
    fn from(message: RouteNetlinkMessage) -> Self {
        Self::Route(message)
    }
}

/// One request of a batch.
#[derive(Clone, Debug)]
pub struct Request {
    flags: u16,
    message: Message,
    forgiven: &'static [i32],
}

/// A request that the kernel refused.
#[derive(Debug)]
pub struct Refused {
    /// Its position in the batch.
    pub index: usize,
    /// Why.
    pub source: io::Error,
}

impl Request {
    /// Makes an object; that it exists already is an error.
    pub fn create(message: RouteNetlinkMessage) -> Self {
        Self { flags: NLM_F_CREATE | NLM_F_EXCL, message: message.into(), forgiven: &[] }
    }

    /// Changes an object that exists.
    pub fn change(message: impl Into<Message>) -> Self {
        Self { flags: 0, message: message.into(), forgiven: &[] }
    }

    /// Makes an object, in place of the one that may be there.
    pub fn replace(message: impl Into<Message>) -> Self {
        let flags = NLM_F_CREATE | netlink_packet_core::NLM_F_REPLACE;
        Self { flags, message: message.into(), forgiven: &[] }
    }

    /// Removes an object. That it is gone is a success.
    pub fn remove(message: impl Into<Message>) -> Self {
        const GONE: &[i32] = &[libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL];
        Self { flags: 0, message: message.into(), forgiven: GONE }
    }
}

impl Socket {
    /// Opens a socket in the namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        Self::of(netlink_sys::protocols::NETLINK_ROUTE)
    }

    /// Opens one to what has no protocol of its own (generic netlink).
    pub fn generic() -> io::Result<Self> {
        Self::of(netlink_sys::protocols::NETLINK_GENERIC)
    }

    fn of(protocol: isize) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // Kernels before 4.20 do not know it, and lose only the early complaint.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { inner: socket, sequence: 0, received: Vec::with_capacity(64 << 10) })
    }

    /// Sends the requests, all of them even if one fails, and returns those that did.
    pub fn batch(&mut self, requests: &[Request]) -> Vec<Refused> {
        let mut refused = Vec::new();
        for (chunk, requests) in requests.chunks(BATCH).enumerate() {
            refused.extend(self.exchange(chunk * BATCH, requests));
        }
        refused
    }

    /// All objects of a kind, of one moment.
    pub fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.dump_with(&message.clone().into(), |frame: Frame<'_>| frame.decode())
    }

    /// The same of what is read elsewhere: all of each object's message but its header.
    pub fn dump_raw(&mut self, message: &Message) -> io::Result<Vec<Vec<u8>>> {
        self.dump_with(message, |frame: Frame<'_>| frame.bytes.get(HEADER..).map(<[u8]>::to_vec))
    }

    fn dump_with<T>(
        &mut self,
        message: &Message,
        decode: impl Fn(Frame<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(found) = self.dump_once(message, &decode)? {
                return Ok(found);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the kernel's state changed during every attempt to list it",
        ))
    }

    /// One object.
    pub fn get(&mut self, message: &RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        append(&mut bytes, &message.clone().into(), NLM_F_REQUEST, self.sequence);
        self.inner.send(&bytes, 0)?;
        loop {
            self.receive()?;
            let answer = frames(&self.received).find(|frame| frame.sequence == self.sequence);
            let Some(frame) = answer else { continue };
            if frame.kind == NLMSG_ERROR {
                return Err(frame.error().unwrap_or_else(|| io::ErrorKind::NotFound.into()));
            }
            return frame.decode().ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
    }

    fn exchange(&mut self, offset: usize, requests: &[Request]) -> Vec<Refused> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(256 * requests.len());
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = NLM_F_REQUEST | NLM_F_ACK | request.flags;
            append(&mut bytes, &request.message, flags, self.sequence);
        }
        let mut refused = Vec::new();
        let mut answered = 0;
        let result = self.inner.send(&bytes, 0).and_then(|_| {
            while answered < requests.len() {
                self.receive()?;
                for frame in frames(&self.received) {
                    let index = frame.sequence.wrapping_sub(first) as usize;
                    if frame.kind != NLMSG_ERROR || index >= requests.len() {
                        continue;
                    }
                    answered += 1;
                    let error = frame.error().filter(|e| !forgives(&requests[index], e));
                    refused.extend(error.map(|e| Refused { index: offset + index, source: e }));
                }
            }
            Ok(())
        });
        if let Err(source) = result {
            refused.push(Refused { index: offset + answered, source });
        }
        refused
    }

    /// `None` if the objects changed meanwhile.
    fn dump_once<T>(
        &mut self,
        message: &Message,
        decode: impl Fn(Frame<'_>) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        append(&mut bytes, message, NLM_F_REQUEST | NLM_F_DUMP, self.sequence);
        self.inner.send(&bytes, 0)?;
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            self.receive()?;
            for frame in frames(&self.received).filter(|f| f.sequence == self.sequence) {
                interrupted |= frame.flags & NLM_F_DUMP_INTR != 0;
                match frame.kind {
                    NLMSG_DONE => return Ok((!interrupted).then_some(found)),
                    NLMSG_ERROR => return frame.error().map_or(Ok(Some(Vec::new())), Err),
                    _ => found.extend(decode(frame)),
                }
            }
        }
    }

    /// Receives one datagram. The kernel makes none larger than half the buffer.
    fn receive(&mut self) -> io::Result<()> {
        self.received.clear();
        let Self { inner, received, .. } = self;
        let size = retry(|| inner.recv(received, MSG_TRUNC))?;
        if size > received.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
        Ok(())
    }
}

/// The system's number of an error, also where the kernel's words came with it.
pub fn errno(error: &io::Error) -> Option<i32> {
    let words = || error.get_ref().and_then(|inner| inner.downcast_ref::<Explained>());
    error.raw_os_error().or_else(|| words().and_then(|e| e.source.raw_os_error()))
}

/// An error with the text of an extended acknowledgement.
#[derive(Debug)]
struct Explained {
    words: String,
    source: io::Error,
}

impl std::error::Error for Explained {}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.words)
    }
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
struct Frame<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    /// With its header.
    bytes: &'a [u8],
}

impl Frame<'_> {
    /// What an acknowledgement says; `None` if it is a success.
    fn error(&self) -> Option<io::Error> {
        let code = i32::from_ne_bytes(self.bytes.get(HEADER..HEADER + 4)?.try_into().ok()?);
        if code == 0 {
            return None;
        }
        let source = io::Error::from_raw_os_error(code.saturating_neg());
        Some(match self.words() {
            Some(words) => io::Error::new(source.kind(), Explained { words, source }),
            None => source,
        })
    }

    /// The text of the extended acknowledgement: after the code come the request's header, its
    /// body unless capped, and then attributes.
    fn words(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let request = HEADER + 4;
        let echoed = match self.flags & NLM_F_CAPPED {
            0 => aligned(u32_at(self.bytes, request)? as usize),
            _ => HEADER,
        };
        let mut attributes = self.bytes.get(request + echoed..)?;
        while let [a, b, c, d, ..] = *attributes {
            let (size, kind) = (u16::from_ne_bytes([a, b]) as usize, u16::from_ne_bytes([c, d]));
            let value = attributes.get(4..size)?;
            if kind == NLMSGERR_ATTR_MSG {
                let text = value.split(|b| *b == 0).next()?;
                return Some(String::from_utf8_lossy(text).into_owned());
            }
            attributes = attributes.get(aligned(size)..)?;
        }
        None
    }

    /// The object. What this version cannot read is left out: it is none of ours.
    fn decode(&self) -> Option<RouteNetlinkMessage> {
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(self.bytes) {
            Ok(message) => match message.payload {
                NetlinkPayload::InnerMessage(message) => Some(message),
                _ => None,
            },
            Err(error) => {
                tracing::debug!(%error, kind = self.kind, "cannot read a netlink message");
                None
            }
        }
    }
}

fn frames(mut datagram: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let size = u32_at(datagram, 0)? as usize;
        let bytes = datagram.get(..size).filter(|b| b.len() >= HEADER)?;
        datagram = datagram.get(aligned(size)..).unwrap_or_default();
        Some(Frame {
            kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
            flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
            sequence: u32_at(bytes, 8)?,
            bytes,
        })
    })
}

fn append(bytes: &mut Vec<u8>, message: &Message, flags: u16, sequence: u32) {
    let message = match message {
        Message::Route(message) => message,
        Message::Raw { kind, bytes: body } => {
            let size = u32::try_from(HEADER + body.len()).unwrap_or_default();
            bytes.extend(size.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(flags.to_ne_bytes());
            bytes.extend(sequence.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            return;
        }
    };
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message.clone()));
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + aligned(message.buffer_len()), 0);
    message.serialize(&mut bytes[start..start + message.buffer_len()]);
}

fn forgives(request: &Request, error: &io::Error) -> bool {
    errno(error).is_some_and(|code| request.forgiven.contains(&code))
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn aligned(size: usize) -> usize {
    size.next_multiple_of(4)
}
