//! The loop: everything a shim waits for, and what it does about it.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::time::TimeSpec;
use nix::unistd::geteuid;

use super::log::{Delivery, Log};
use super::peer::{Asked, Peer, Role};
use super::process::{Launch, Phase, Process};
use super::protocol::{Config, EXIT, Exit, Failure, SOCKET, Started};
use super::{resident, run};

mod endings;
mod requests;
mod shortage;

use shortage::Shortage;

/// How long an exit is held back for output that has not ended: longer than a terminal needs.
const SETTLE: Duration = Duration::from_millis(250);
/// How long the output of a process that has ended is passed on, when others hold it open.
const LINGER: Duration = Duration::from_secs(2);
/// How long clients may take to read what is left when the container is gone.
const FAREWELL: Duration = Duration::from_secs(10);
/// Exit statuses kept for whoever asks.
const EXITS: usize = 256;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How soon a process that was let go runs its own program in general.
const SOON: Duration = Duration::from_millis(5);
/// How often it is looked at until then.
const GLANCE: Duration = Duration::from_micros(20);
/// And after that.
const LOOK: Duration = Duration::from_millis(1);
/// How long nothing is to be done until what the start needed is let go of.
const REST: Duration = Duration::from_secs(2);
/// Processes that run at a time.
const PROCESSES: usize = 4096;

/// What a descriptor in the poll set is.
#[derive(Clone, Copy, Debug)]
enum Source {
    Signals,
    Listener,
    Starter,
    Shortage,
    Terminal(usize),
    Output(usize, usize),
    Input(usize),
    Peer(usize),
}

/// The shim at work.
#[derive(Debug)]
pub(super) struct Server {
    config: Config,
    oom_score: Option<i32>,
    listener: UnixListener,
    signals: SignalFd,
    processes: Vec<Process>,
    peers: Vec<Peer>,
    exits: VecDeque<Exit>,
    /// Children that ended before it was known what they are.
    strangers: VecDeque<(i32, i32, Option<i32>)>,
    next: u64,
    oom_kills: u64,
    shortage: Shortage,
    starter: Option<Starter>,
    /// Why there will be no container.
    failed: Option<Failure>,
    removal: Removal,
    /// What is to be waited for when all is over.
    delivery: Option<Delivery>,
    /// Whether nothing was to be done for a while since the start.
    has_rested: bool,
    buffer: Vec<u8>,
}

/// The daemon that asked for the start, until it knows the outcome.
#[derive(Debug)]
pub(super) struct Starter {
    socket: UnixStream,
    word: Word,
}

/// What the daemon has said of a container that is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    None,
    Go,
    /// It hung up.
    Stop,
}

impl Starter {
    /// The daemon at the other end of a socket, which may have said that the container can go.
    pub(super) fn new(socket: UnixStream, go: bool) -> Self {
        Self { socket, word: if go { Word::Go } else { Word::None } }
    }

    /// Hears what it has to say.
    fn listen(&mut self) {
        self.word = match self.socket.read(&mut [0; 16]) {
            Ok(length) if length > 0 => Word::Go,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Ok(_) | Err(_) => Word::Stop,
        };
    }
}

/// Whether the runtime has been told to forget the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    No,
    Running { pid: i32, since: Instant },
    Done(Instant),
}

/// Whether who has connected is root, or the user that this is run by: whoever is heard here can run
/// anything in the container. The socket's mode says so too.
fn is_trusted(stream: &UnixStream) -> bool {
    let peer = getsockopt(stream, PeerCredentials);
    peer.is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

impl Server {
    /// Binds the socket. `attached` are the clients that are there from the first byte on.
    pub(super) fn new(
        config: Config,
        attached: Vec<OwnedFd>,
        oom_score: Option<i32>,
    ) -> io::Result<Self> {
        for stale in [SOCKET, EXIT] {
            let _ = std::fs::remove_file(stale);
        }
        let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(SOCKET);
        nix::sys::stat::umask(mask);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let peers = attached
            .into_iter()
            .zip(&config.attached)
            .map(|(socket, streams)| {
                let role = Role::Streaming { process: 0, streams: *streams, framed: !config.tty };
                Peer::new(socket.into(), role)
            })
            .collect::<io::Result<_>>()?;
        let shortage = Shortage::new(config.oom_events.clone());
        Ok(Self {
            config,
            oom_score,
            listener,
            signals: SignalFd::with_flags(&signals, flags)?,
            processes: Vec::new(),
            peers,
            exits: VecDeque::new(),
            strangers: VecDeque::new(),
            next: 1,
            oom_kills: 0,
            shortage,
            starter: None,
            failed: None,
            removal: Removal::No,
            delivery: None,
            has_rested: false,
            buffer: vec![0; 16 * 1024],
        })
    }

    /// Makes the container, with these descriptors of its view, starts it, and serves until it is
    /// gone.
    pub(super) fn run(mut self, view: Vec<OwnedFd>, mut starter: Starter) -> ExitCode {
        let log = Log::open(&self.config.log);
        self.delivery = log.as_ref().ok().and_then(Option::as_ref).and_then(Log::delivery);
        let launched = log.and_then(|log| {
            Launch {
                config: &self.config,
                id: 0,
                tty: self.config.tty,
                size: self.config.console_size,
                stdin: self.config.stdin,
                log,
                view,
                exec: None,
                oom_score: self.oom_score,
            }
            .start()
        });
        match launched {
            Ok(process) => self.processes.push(process),
            Err(error) => {
                let error = format!("failed to create task for container: {error}");
                let failure = Failure { error, code: 128 };
                let _ = std::fs::remove_file(SOCKET);
                run::report(&mut starter.socket, &Started::Failed(failure));
                return ExitCode::FAILURE;
            }
        }
        self.starter = Some(starter);
        while !self.is_over() {
            self.turn();
        }
        if let Some(delivery) = &self.delivery {
            delivery.finish();
        }
        ExitCode::SUCCESS
    }

    /// Whether the container is gone and all has been told.
    fn is_over(&self) -> bool {
        let Removal::Done(at) = self.removal else { return false };
        let elapsed = at.elapsed();
        let told = self.peers.iter().all(|peer| !peer.has_output());
        (told && (self.processes.is_empty() || elapsed > LINGER)) || elapsed > FAREWELL
    }

    /// Waits for something and deals with it.
    fn turn(&mut self) {
        let (ready, timed) = self.wait();
        if ready.is_empty() && !timed && !self.has_rested && self.pause().is_none() {
            self.has_rested = true;
            // Where it cannot be, there is a little less memory for others.
            let _ = resident::let_go();
        }
        for (source, events) in ready {
            self.deal(source, events);
        }
        if timed {
            self.keep_time(Instant::now());
        }
        self.look();
        self.sweep();
    }

    /// The sources that have something for us, and whether deadlines have to be looked at.
    fn wait(&self) -> (Vec<(Source, PollFlags)>, bool) {
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> = vec![
            (Source::Signals, self.signals.as_fd(), PollFlags::POLLIN),
            (Source::Listener, self.listener.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(starter) = self.starter.as_ref().filter(|starter| starter.word == Word::None) {
            sources.push((Source::Starter, starter.socket.as_fd(), PollFlags::POLLIN));
        }
        if let Some(notices) = self.shortage.source() {
            sources.push((Source::Shortage, notices, PollFlags::POLLIN));
        }
        for (index, process) in self.processes.iter().enumerate() {
            self.sources_of(index, process, &mut sources);
        }
        for (index, peer) in self.peers.iter().enumerate() {
            sources.push((Source::Peer(index), peer.stream.as_fd(), self.interest(peer)));
        }
        let mut set: Vec<PollFd<'_>> =
            sources.iter().map(|(_, file, flags)| PollFd::new(*file, *flags)).collect();
        let timed = self.is_timed();
        let rest = (!self.has_rested).then_some(REST);
        let timeout = self.pause().or(timed.then_some(TICK)).or(rest);
        // An interruption is a turn without events.
        let _ = ppoll(&mut set, timeout.map(TimeSpec::from_duration), None);
        let ready = sources
            .iter()
            .zip(&set)
            .filter_map(|((source, ..), polled)| {
                let events = polled.revents().filter(|events| !events.is_empty())?;
                Some((*source, events))
            })
            .collect();
        (ready, timed)
    }

    fn sources_of<'a>(
        &'a self,
        index: usize,
        process: &'a Process,
        sources: &mut Vec<(Source, BorrowedFd<'a>, PollFlags)>,
    ) {
        if let Phase::Launching { console, .. } = &process.phase {
            if let Some(console) = console {
                sources.push((Source::Terminal(index), console.as_fd(), PollFlags::POLLIN));
            }
            // What a runtime that fails writes is not the container's output.
            return;
        }
        let congested = |peer: &Peer| peer.is_congested() && peer.streams_of(process.id).is_some();
        if !self.peers.iter().any(congested) {
            for (number, output) in process.outputs.iter().enumerate() {
                let source = Source::Output(index, number);
                sources.push((source, output.file.as_fd(), PollFlags::POLLIN));
            }
        }
        if let Some(file) = process.pending_input() {
            sources.push((Source::Input(index), file.as_fd(), PollFlags::POLLOUT));
        }
    }

    fn interest(&self, peer: &Peer) -> PollFlags {
        let mut flags = PollFlags::empty();
        if peer.has_output() {
            flags |= PollFlags::POLLOUT;
        }
        let reads = match &peer.role {
            Role::Asking(_) => true,
            Role::Streaming { process, streams, .. } => {
                streams.stdin
                    && !peer.has_input_ended()
                    && self.process(*process).is_some_and(Process::wants_input)
            }
            _ => false,
        };
        if reads {
            flags |= PollFlags::POLLIN;
        }
        flags
    }

    /// Whether something has a deadline: a runtime, an ended process, a slow reader, our own end.
    fn is_timed(&self) -> bool {
        let has_deadline = |process: &Process| {
            matches!(process.phase, Phase::Launching { .. } | Phase::Ended { .. })
        };
        self.removal != Removal::No
            || self.shortage.is_announced()
            || self.processes.iter().any(has_deadline)
            || self.peers.iter().any(Peer::is_congested)
    }

    /// How long to wait before another look at a process that was let go. No event tells that it runs
    /// its own program; it takes a tenth of a millisecond.
    fn pause(&self) -> Option<Duration> {
        let since = self.processes.iter().find_map(Process::released)?;
        Some(if since.elapsed() < SOON { GLANCE } else { LOOK })
    }

    fn deal(&mut self, source: Source, events: PollFlags) {
        match source {
            Source::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap();
            }
            Source::Listener => self.accept(),
            Source::Starter => {
                if let Some(starter) = &mut self.starter {
                    starter.listen();
                }
                self.proceed();
            }
            Source::Shortage => {
                self.shortage.hear(Instant::now());
                self.tell_of_kills();
            }
            Source::Terminal(index) => self.processes[index].take_terminal(),
            Source::Output(index, number) => {
                let process = &mut self.processes[index];
                // An earlier stream's end moves a later one; the next turn finds it again.
                if number < process.outputs.len() {
                    process.pump(number, &mut self.peers, &mut self.buffer);
                }
            }
            Source::Input(index) => self.processes[index].drain_input(),
            Source::Peer(index) => self.deal_with_peer(index, events),
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if !is_trusted(&stream) {
                continue;
            }
            if let Ok(peer) = Peer::new(stream, Role::Asking(Vec::new())) {
                self.peers.push(peer);
            }
        }
    }

    fn deal_with_peer(&mut self, index: usize, events: PollFlags) {
        let peer = &mut self.peers[index];
        if events.contains(PollFlags::POLLOUT) {
            peer.flush();
        }
        let gone = events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        match &peer.role {
            Role::Asking(_) => match peer.ask(&mut self.buffer) {
                Asked::Partly => {}
                Asked::Nothing => peer.close(),
                Asked::Request { line, rest } => self.answer(index, &line, rest),
            },
            Role::Streaming { process, streams, .. } => {
                let (process, streams) = (*process, *streams);
                if streams.stdin && (gone || events.contains(PollFlags::POLLIN)) {
                    self.take_input(index, process, gone);
                }
                if gone {
                    self.peers[index].close();
                }
            }
            _ if gone => peer.close(),
            _ => {}
        }
    }

    /// Reads a client's input; all that is left of it if the client is gone.
    fn take_input(&mut self, index: usize, process: u64, all: bool) {
        let Some(process) = self.processes.iter_mut().find(|known| known.id == process) else {
            return;
        };
        let peer = &mut self.peers[index];
        while !peer.has_input_ended() && (all || process.wants_input()) {
            match peer.read(&mut self.buffer) {
                Ok(Some(length)) => process.feed(&self.buffer[..length]),
                Ok(None) => {
                    // As Docker has it: a client whose input has ended without ending the
                    // process's is no longer attached.
                    if process.has_input() && !process.client_ended() {
                        peer.finish();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Looks at everything that has a deadline.
    fn keep_time(&mut self, now: Instant) {
        for peer in &mut self.peers {
            peer.lose_patience(now);
        }
        self.end_late_runtimes(now);
        if self.shortage.is_announced() {
            self.tell_of_kills();
        }
        for index in 0..self.processes.len() {
            let Phase::Ended { at, published, .. } = self.processes[index].phase else { continue };
            let elapsed = now.duration_since(at);
            for number in (0..self.processes[index].outputs.len()).rev() {
                self.processes[index].pump(number, &mut self.peers, &mut self.buffer);
            }
            let quiet = self.processes[index].outputs.is_empty();
            if !published && (quiet || elapsed > SETTLE) {
                self.publish(index);
            }
            if quiet || elapsed > LINGER {
                self.processes[index].release();
            }
        }
    }

    /// Forgets processes that have been told of and connections that are over.
    fn sweep(&mut self) {
        let over = |process: &Process| {
            matches!(process.phase, Phase::Ended { published: true, .. })
                && process.outputs.is_empty()
        };
        for process in self.processes.iter().filter(|process| over(process)) {
            for peer in &mut self.peers {
                if peer.streams_of(process.id).is_some() {
                    peer.finish();
                }
            }
        }
        self.processes.retain(|process| !over(process));
        if self.removal != Removal::No && !self.processes.iter().any(|process| process.id == 0) {
            // A failed start leaves clients of a process that never was.
            for peer in self.peers.iter_mut().filter(|peer| peer.streams_of(0).is_some()) {
                peer.finish();
            }
        }
        self.peers.retain(|peer| !peer.is_over());
    }
}
