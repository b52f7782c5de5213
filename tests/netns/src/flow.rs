//! Connections that are under way while something else is changed.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};

use crate::host::{Host, TIMEOUT, patient, wait_until};

/// How much a round of TCP carries there and back.
const BLOCK: usize = 16 << 10;

/// How long an answer may take; of what is lost over UDP nothing comes again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends back whatever comes, on a TCP and a UDP port of both families; ends with the value.
#[derive(Debug)]
pub struct Echo {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Echo {
    /// Serves a port of a host.
    pub fn start(host: &Host, port: u16) -> Self {
        let any = SocketAddr::from(([0_u16; 8], port));
        let bind = || Ok::<_, io::Error>((TcpListener::bind(any)?, UdpSocket::bind(any)?));
        let (tcp, udp) = host.run(bind).unwrap();
        let (listener, socket) = (tcp.try_clone().unwrap(), udp.try_clone().unwrap());
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                thread::spawn(move || give_back(stream));
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((size @ 1.., peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..size], peer);
            }
        });
        Self { tcp, udp }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = shutdown(self.tcp.as_raw_fd(), Shutdown::Both);
        let _ = shutdown(self.udp.as_raw_fd(), Shutdown::Both);
    }
}

fn give_back(mut stream: TcpStream) {
    let mut buffer = [0; BLOCK];
    while let Ok(size @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..size]).is_err() {
            return;
        }
    }
}

/// One connection, or a stream of datagrams, to an [`Echo`] that pauses only when it is told to.
#[derive(Debug)]
pub struct Flow {
    what: String,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    /// Held during a round.
    turn: Arc<Mutex<()>>,
    thread: JoinHandle<io::Result<()>>,
}

impl Flow {
    /// Begins to send over TCP.
    pub fn tcp(client: &Host, server: SocketAddr) -> Self {
        let mut stream =
            client.run(|| TcpStream::connect_timeout(&server, patient(TIMEOUT))).unwrap();
        stream.set_read_timeout(Some(patient(PATIENCE))).unwrap();
        stream.set_write_timeout(Some(patient(PATIENCE))).unwrap();
        let (mut sent, mut back) = (vec![0; BLOCK], vec![0; BLOCK]);
        Self::start(format!("TCP to {server}"), move |round| {
            for (word, at) in sent.chunks_exact_mut(8).zip(0_u64..) {
                word.copy_from_slice(&(round << 16 | at).to_be_bytes());
            }
            stream.write_all(&sent)?;
            stream.read_exact(&mut back)?;
            if sent == back { Ok(()) } else { Err(io::Error::other("bytes were lost")) }
        })
    }

    /// Begins to send over UDP. Not one datagram may be lost.
    pub fn udp(client: &Host, server: SocketAddr) -> Self {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = client.run(|| UdpSocket::bind(any)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(patient(PATIENCE))).unwrap();
        Self::start(format!("UDP to {server}"), move |round| {
            let (sent, mut back) = (round.to_be_bytes(), [0; 64]);
            socket.send(&sent)?;
            let size = socket.recv(&mut back)?;
            if back[..size] == sent { Ok(()) } else { Err(io::Error::other("a datagram was lost")) }
        })
    }

    /// Both over both families.
    pub fn all(client: &Host, servers: [SocketAddr; 2]) -> Vec<Self> {
        servers.into_iter().flat_map(|to| [Self::tcp(client, to), Self::udp(client, to)]).collect()
    }

    fn start(what: String, mut round: impl FnMut(u64) -> io::Result<()> + Send + 'static) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let turn = Arc::<Mutex<()>>::default();
        let (told, counted, held) = (stop.clone(), rounds.clone(), turn.clone());
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let turn = held.lock().unwrap();
                round(counted.load(Ordering::Relaxed))?;
                counted.fetch_add(1, Ordering::Relaxed);
                drop(turn);
                // Whatever else is at work here wants the processor, too.
                thread::park_timeout(Duration::from_micros(500));
            }
            Ok(())
        });
        Self { what, stop, rounds, turn, thread }
    }

    /// Pauses between two rounds until what this returns is dropped: nothing is under way, and the next
    /// packet is the client's.
    pub fn pauses(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap()
    }

    /// Waits until some more has been sent and has come back.
    pub fn goes_on(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        let on = || self.rounds.load(Ordering::Relaxed) > before + 20;
        wait_until(&self.what, || on() || self.thread.is_finished());
        assert!(on(), "{} ended after {before} rounds", self.what);
    }

    /// Waits until it has ended, though nobody wanted it to; tells why.
    pub fn breaks(self) -> io::Error {
        wait_until(&format!("{} breaks", self.what), || self.thread.is_finished());
        self.thread.join().unwrap().expect_err("nobody ended it")
    }

    /// Whether it goes on still.
    pub fn lives(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends it; fails if anything was lost.
    pub fn end(self) {
        self.goes_on();
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join().unwrap();
        assert!(ended.is_ok(), "{}: {ended:?}", self.what);
    }
}
