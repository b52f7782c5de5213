//! Trials: who tries to reach whom by what, and what came of it.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};

use super::listener::Journal;
use super::page::{Page, Place};
use crate::{Host, SILENCE, TIMEOUT};

/// How long is waited before a datagram that was not answered is sent again.
const ROUND: Duration = Duration::from_millis(50);

/// How far a datagram to a group may go.
const HOPS: u8 = 8;

/// What is tried.
#[derive(Debug)]
pub(super) struct Trial {
    /// The number of who tries.
    pub(super) source: usize,
    /// Where it stands in the tables.
    pub(super) place: Place,
    /// What its port is called there.
    pub(super) word: &'static str,
    /// By what.
    pub(super) way: Way,
    /// Where to.
    pub(super) to: SocketAddr,
    /// The name of the listener that should hear it.
    pub(super) target: String,
    /// And the port that the listener has it at.
    pub(super) port: u16,
    /// The interface that datagrams to groups leave by.
    pub(super) device: String,
}

/// By what something is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Tcp,
    Udp,
    Multicast,
}

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing arrived.
    Nothing,
    /// It was heard, and no answer came back.
    Heard,
    /// The right one answered, or heard what is not answered.
    Reached,
    /// Somebody else answered.
    By(String),
}

impl Trial {
    /// What it is called in a cell in which not all of its kind came to the same.
    pub(super) fn word_and_way(&self) -> String {
        let way = if self.way == Way::Tcp { "tcp" } else { "udp" };
        format!("{}/{way}", self.word)
    }

    fn is_expected_by(&self, page: &Page) -> bool {
        page.expects(&self.place, self.word) || page.expects(&self.place, &self.word_and_way())
    }
}

enum Socket {
    Stream(TcpStream),
    Datagrams(UdpSocket),
}

impl Socket {
    fn open(trial: &Trial) -> io::Result<Self> {
        let family = if trial.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let kind = if trial.way == Way::Tcp { SockType::Stream } else { SockType::Datagram };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, kind, flags, None)?;
        if trial.way == Way::Multicast {
            setsockopt(&fd, sockopt::BindToDevice, &trial.device.as_str().into())?;
            match trial.to {
                SocketAddr::V4(_) => setsockopt(&fd, sockopt::IpMulticastTtl, &HOPS)?,
                SocketAddr::V6(_) => {
                    setsockopt(&fd, sockopt::Ipv6MulticastHops, &i32::from(HOPS))?;
                }
            }
        }
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(trial.to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(match trial.way {
            Way::Tcp => Self::Stream(fd.into()),
            Way::Udp | Way::Multicast => Self::Datagrams(fd.into()),
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(stream) => stream.as_fd(),
            Self::Datagrams(socket) => socket.as_fd(),
        }
    }

    /// What the other side said. An error of a datagram is of that one alone.
    fn read(&mut self) -> io::Result<Option<String>> {
        let mut buffer = [0; 64];
        let read = match self {
            Self::Stream(stream) => stream.read(&mut buffer),
            Self::Datagrams(socket) => match socket.recv(&mut buffer) {
                Err(_) => return Ok(None),
                read => read,
            },
        };
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(size) => Ok(Some(String::from_utf8_lossy(&buffer[..size]).into_owned())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A trial under way.
struct Attempt<'a> {
    number: usize,
    trial: &'a Trial,
    socket: Option<Socket>,
    answer: Option<String>,
    awaited: bool,
}

impl Attempt<'_> {
    fn send(&self, journal: &Journal) {
        if let Some(Socket::Datagrams(socket)) = &self.socket
            && self.outcome(journal) == Outcome::Nothing
        {
            // The error of an earlier one may be told here; this one is sent the next time.
            let _ = socket.send(self.number.to_string().as_bytes());
        }
    }

    fn read(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        match socket.read() {
            Ok(None) => {}
            Ok(answer) => self.answer = answer,
            Err(_) => self.socket = None,
        }
        if self.answer.is_some() {
            self.socket = None;
        }
    }

    fn outcome(&self, journal: &Journal) -> Outcome {
        let heard = self.trial.way != Way::Tcp && journal.has(&self.trial.target, self.number);
        let right = format!("{}:{}", self.trial.target, self.trial.port);
        match &self.answer {
            Some(answer) if *answer == right => Outcome::Reached,
            Some(answer) => Outcome::By(answer.clone()),
            None if heard && self.trial.way == Way::Multicast => Outcome::Reached,
            None if heard => Outcome::Heard,
            None => Outcome::Nothing,
        }
    }

    fn is_missing(&self, journal: &Journal) -> bool {
        let reached = matches!(self.outcome(journal), Outcome::Reached | Outcome::By(_));
        self.awaited && self.socket.is_some() && !reached
    }
}

/// Tries from one host, numbers with the trials. What is expected has time to be reached; all else has
/// as long as the slowest of all hosts needs, and a silence after that.
pub(super) fn run(
    host: &Host,
    trials: &[(usize, &Trial)],
    journal: &Journal,
    expected: Option<&Page>,
    together: &Barrier,
) -> Vec<(usize, Outcome)> {
    let attempt = |(number, trial): &(usize, &'_ _)| {
        let trial: &Trial = trial;
        let awaited = expected.is_none_or(|page| trial.is_expected_by(page));
        let socket = Socket::open(trial).ok();
        (*number, awaited, socket)
    };
    let opened: Vec<_> = host.run(|| trials.iter().map(attempt).collect());
    let mut attempts: Vec<_> = opened
        .into_iter()
        .zip(trials)
        .map(|((number, awaited, socket), (_, trial))| Attempt {
            number,
            trial,
            socket,
            answer: None,
            awaited,
        })
        .collect();
    rounds(&mut attempts, journal, TIMEOUT);
    together.wait();
    rounds(&mut attempts, journal, Duration::ZERO);
    together.wait();
    attempts.iter().map(|attempt| (attempt.number, attempt.outcome(journal))).collect()
}

/// Sends and hears for a silence at least, and until nothing is missing or it took too long.
fn rounds(attempts: &mut [Attempt<'_>], journal: &Journal, limit: Duration) {
    let begun = Instant::now();
    loop {
        for attempt in attempts.iter() {
            attempt.send(journal);
        }
        let round = Instant::now();
        while let left = ROUND.saturating_sub(round.elapsed())
            && !left.is_zero()
        {
            hear(attempts, left);
        }
        let missing = attempts.iter().any(|attempt| attempt.is_missing(journal));
        if begun.elapsed() > SILENCE && !(missing && begun.elapsed() < limit) {
            return;
        }
    }
}

/// Waits until somebody is answered, or too long.
fn hear(attempts: &mut [Attempt<'_>], limit: Duration) {
    let ready: Vec<bool> = {
        let fds = attempts.iter().filter_map(|attempt| attempt.socket.as_ref());
        let mut fds: Vec<_> =
            fds.map(|socket| PollFd::new(socket.fd(), PollFlags::POLLIN)).collect();
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut fds, limit);
        fds.iter().map(|fd| fd.any().unwrap_or_default()).collect()
    };
    let open = attempts.iter_mut().filter(|attempt| attempt.socket.is_some());
    for (attempt, ready) in open.zip(ready) {
        if ready {
            attempt.read();
        }
    }
}
