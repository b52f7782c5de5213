//! Questions to other resolvers: hedged, validated, over UDP and where needed TCP.
//!
//! The upstreams are asked in their order, but those that failed lately come last. When one takes
//! longer than [`HEDGE`], or says that it cannot answer, the next one is asked as well; the first
//! good answer wins. Every question has a socket of its own, connected, with a random port, and a
//! random id: nobody who does not see the question can answer it.
//!
//! The sockets are of the namespace that `rnet-dns` runs in, the host's, also for upstreams given
//! with `--dns`: a resolver on the host's loopback can be used, one that only a sandbox reaches
//! cannot.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::wire::{self, OUR_PAYLOAD, Query};

/// How long to wait for an upstream before the next one is asked too.
const HEDGE: Duration = Duration::from_millis(250);

/// When a datagram is taken for lost, and sent again to the same upstream.
const RESEND: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// How many failures in a row put an upstream behind the others.
const FAILURES: u32 = 2;

/// The longest time an upstream stays behind the others before it is tried again.
const DEMOTED_MAX: Duration = Duration::from_secs(60);

/// How many upstreams are remembered as failing.
const REMEMBERED: usize = 1024;

/// What is known of how upstreams do.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    failing: Mutex<HashMap<SocketAddr, Failing>>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    times: u32,
    until: Instant,
}

/// An answer that only stands if nobody has a better one: "I cannot".
type Refusal = Vec<u8>;

impl Upstreams {
    /// Asks until there is a good answer, all have failed, or `deadline` passes. The error has the
    /// first upstream's own words, if any upstream had some.
    pub(crate) async fn ask(
        &self,
        servers: &[SocketAddr],
        query: &[u8],
        deadline: Instant,
    ) -> Result<Vec<u8>, Option<Refusal>> {
        let mut left = self.in_order(servers).into_iter();
        let mut asked: HashMap<SocketAddr, Instant> = HashMap::new();
        let mut running = JoinSet::new();
        let mut refusal = None;
        let mut hedge_at = Instant::now();
        loop {
            let now = Instant::now();
            if now >= hedge_at
                && let Some(server) = left.next()
            {
                let query = query.to_vec();
                running.spawn(async move { (server, exchange(server, &query, deadline).await) });
                asked.insert(server, now);
                hedge_at = now + HEDGE;
            }
            if running.is_empty() {
                return Err(refusal);
            }
            tokio::select! {
                Some(Ok((server, outcome))) = running.join_next() => match outcome {
                    Ok(answer) if is_good(&answer) => {
                        asked.remove(&server);
                        self.succeeded(server, &asked);
                        return Ok(answer);
                    }
                    Ok(answer) => {
                        asked.remove(&server);
                        refusal.get_or_insert(answer);
                        hedge_at = Instant::now();
                    }
                    Err(error) => {
                        tracing::debug!(%server, %error, "upstream does not answer");
                        asked.remove(&server);
                        self.failed(server);
                        hedge_at = Instant::now();
                    }
                },
                () = sleep_until(hedge_at), if left.len() > 0 => {}
                () = sleep_until(deadline) => {
                    for server in asked.keys() {
                        self.failed(*server);
                    }
                    return Err(refusal);
                }
            }
        }
    }

    /// The servers, those that fail behind the others.
    fn in_order(&self, servers: &[SocketAddr]) -> Vec<SocketAddr> {
        let now = Instant::now();
        let failing = self.lock();
        let demoted = |server: &SocketAddr| {
            failing.get(server).is_some_and(|f| f.times >= FAILURES && f.until > now)
        };
        let mut order = servers.to_vec();
        order.sort_by_key(demoted);
        order
    }

    /// Notes an answer, and that the others had the time to give one and did not.
    fn succeeded(&self, server: SocketAddr, silent: &HashMap<SocketAddr, Instant>) {
        self.lock().remove(&server);
        for (server, _) in silent.iter().filter(|(_, asked)| asked.elapsed() >= HEDGE) {
            self.failed(*server);
        }
    }

    fn failed(&self, server: SocketAddr) {
        let now = Instant::now();
        let mut failing = self.lock();
        if failing.len() >= REMEMBERED {
            failing.retain(|_, known| known.until > now);
        }
        let known = failing.entry(server).or_insert(Failing { times: 0, until: now });
        known.times = known.times.saturating_add(1);
        let demoted = Duration::from_secs(1 << known.times.min(6)).min(DEMOTED_MAX);
        known.until = now + demoted;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an upstream answered the question, be it with "no such name".
fn is_good(answer: &[u8]) -> bool {
    let cannot = [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp];
    !cannot.contains(&wire::response_code(answer))
}

/// One question to one upstream.
async fn exchange(server: SocketAddr, query: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
    let answer = timeout_at(deadline, over_udp(server, query)).await??;
    if !wire::is_truncated(&answer) {
        return Ok(answer);
    }
    // What fits into a datagram is better than nothing.
    match timeout_at(deadline, over_tcp(server, query)).await {
        Ok(Ok(whole)) => Ok(whole),
        Ok(Err(_)) | Err(_) => Ok(answer),
    }
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let mut message = query.to_vec();
    let id = random_id()?;
    wire::set_id(&mut message, id);
    for wait in RESEND {
        socket.send(&message).await?;
        if let Ok(answer) = timeout(wait, receive(&socket, query, id)).await {
            return answer;
        }
    }
    socket.send(&message).await?;
    receive(&socket, query, id).await
}

/// Waits for the answer; whatever else arrives is not looked at.
async fn receive(socket: &UdpSocket, query: &[u8], id: u16) -> io::Result<Vec<u8>> {
    let query = Query::parse(query).map_err(|_| io::ErrorKind::InvalidInput)?;
    let capacity = query.payload().max(usize::from(OUR_PAYLOAD));
    // "Port unreachable" makes a socket not readable, only failed.
    let interest = Interest::READABLE | Interest::ERROR;
    loop {
        let mut answer = Vec::with_capacity(capacity);
        let receive = || {
            let flags = RecvFlags::empty();
            let room = rustix::buffer::spare_capacity(&mut answer);
            Ok(rustix::net::recv(socket.as_fd(), room, flags)?)
        };
        socket.async_io(interest, receive).await?;
        if query.is_answered_by(id, &answer) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let mut message = query.to_vec();
    let id = random_id()?;
    wire::set_id(&mut message, id);
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), message.as_slice()].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    let query = Query::parse(query).map_err(|_| io::ErrorKind::InvalidInput)?;
    if !query.is_answered_by(id, &answer) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to another question"));
    }
    Ok(answer)
}

fn random_id() -> io::Result<u16> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u16::from_ne_bytes(id))
}
