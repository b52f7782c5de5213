//! Who listens to all that is on a wire.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};

use crate::Host;

/// Where a frame has the rest of what it carries.
const PAYLOAD: usize = 14;
const UDP: u8 = 17;

/// Takes down every frame on the links of a host, until it is asked for them.
#[derive(Debug)]
pub struct Sniffer {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Sniffer {
    /// Begins. What is sent afterwards is heard.
    pub fn start(host: &Host) -> Self {
        let (frames, over) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::<AtomicBool>::default());
        let heard: OwnedFd = host
            .run(|| {
                let (family, kind) = (AddressFamily::Packet, SockType::Raw);
                socket(family, kind, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)
            })
            .unwrap();
        setsockopt(&heard, sockopt::RcvBufForce, &(8 << 20)).unwrap();
        let (all, end) = (Arc::clone(&frames), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 17];
            loop {
                // What came before the end is taken down, too.
                let last = end.load(Ordering::Acquire);
                while let Ok(size) = recv(heard.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    all.lock().unwrap().push(buffer[..size].to_vec());
                }
                if last {
                    return;
                }
                let mut sources =
                    [PollFd::new(std::os::fd::AsFd::as_fd(&heard), PollFlags::POLLIN)];
                poll(&mut sources, PollTimeout::from(20_u8)).unwrap();
            }
        });
        Self { frames, over, thread }
    }

    /// How many frames were heard until now that have this in them, anywhere.
    pub fn with(&self, text: &[u8]) -> usize {
        let has = |frame: &&Vec<u8>| frame.windows(text.len()).any(|part| part == text);
        self.frames.lock().unwrap().iter().filter(has).count()
    }

    /// How many datagrams to a port were heard until now.
    pub fn datagrams_to(&self, port: u16) -> usize {
        let is_one = |frame: &&Vec<u8>| destination(frame) == Some(port);
        self.frames.lock().unwrap().iter().filter(is_one).count()
    }

    /// Ends, when all that was sent is taken down.
    #[must_use]
    pub fn end(self) -> Self {
        self.over.store(true, Ordering::Release);
        self.thread.join().unwrap();
        Self { thread: std::thread::spawn(|| ()), ..self }
    }
}

/// The port that a frame goes to, if there is a datagram in it.
fn destination(frame: &[u8]) -> Option<u16> {
    let packet = frame.get(PAYLOAD..)?;
    let (protocol, header) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, usize::from(packet[0] & 15) * 4),
        6 => (*packet.get(6)?, 40),
        _ => return None,
    };
    let port = packet.get(header + 2..header + 4)?.try_into().ok()?;
    (protocol == UDP).then(|| u16::from_be_bytes(port))
}
