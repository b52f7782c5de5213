//! From a sandbox's question to an answer from outside: cache, company, turn, upstream.
//!
//! Equal questions that are under way together are asked once. A question in the queue is not
//! under way: whoever has the turn first asks it, so nobody waits in another sandbox's queue.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::answer::{self, Transport};
use crate::cache::{Cache, Key};
use crate::rate::Rate;
use crate::turns::{Client, Turn, Turns};
use crate::upstream::Upstreams;
use crate::wire::Query;

/// How long a question may take; below the five seconds after which resolvers in sandboxes give up.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long a question may take when there is an old answer to fall back to (RFC 8767).
const PATIENCE_WITH_STALE: Duration = Duration::from_millis(1800);

/// The size of the cache in bytes.
const CACHE_SIZE: usize = 2 << 20;

/// How many questions are under way at most, of all sandboxes.
const PLACES: usize = 1024;

/// What came of a question: an answer to an equal query, or nothing.
type Outcome = Option<Arc<[u8]>>;

/// What those wait for who ask the same.
type UnderWay = watch::Receiver<Option<Outcome>>;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// Tells it apart.
    pub(crate) client: Client,
    /// How often it may.
    pub(crate) rate: &'a Rate,
}

/// Asks upstreams for sandboxes.
#[derive(Debug)]
pub(crate) struct Forwarder {
    cache: Mutex<Cache>,
    under_way: Mutex<HashMap<Arc<Key>, UnderWay>>,
    turns: Arc<Turns>,
    upstreams: Upstreams,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self {
            cache: Mutex::new(Cache::new(CACHE_SIZE)),
            under_way: Mutex::new(HashMap::new()),
            turns: Turns::new(PLACES),
            upstreams: Upstreams::default(),
        }
    }
}

impl Forwarder {
    /// The answer, if it is known already.
    pub(crate) fn cached(
        &self,
        packet: &[u8],
        upstreams: &Arc<[SocketAddr]>,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let query = Query::parse(packet).ok()?;
        let key = Key { upstreams: Arc::clone(upstreams), question: query.key() };
        let answer = lock(&self.cache).fresh(&key, Instant::now().into_std())?;
        Some(finish(&query, answer, transport))
    }

    /// The answer, however long it takes.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        asker: Asker<'_>,
        packet: &[u8],
        upstreams: &Arc<[SocketAddr]>,
        transport: Transport,
    ) -> Vec<u8> {
        let Ok(query) = Query::parse(packet) else {
            return answer::failure(packet, ResponseCode::FormErr);
        };
        let key = Arc::new(Key { upstreams: Arc::clone(upstreams), question: query.key() });
        let company = lock(&self.under_way).get(&key).cloned();
        let found = match company {
            Some(company) => follow(company).await,
            None => match asker.rate.next(Instant::now().into_std()) {
                Some(wait) => {
                    sleep(wait).await;
                    self.resolve(asker.client, &key, packet).await
                }
                None => return answer::failure(packet, ResponseCode::Refused),
            },
        };
        match found {
            Some(found) => finish(&query, found.to_vec(), transport),
            None => answer::failure(packet, ResponseCode::ServFail),
        }
    }

    async fn resolve(self: &Arc<Self>, client: Client, key: &Arc<Key>, packet: &[u8]) -> Outcome {
        let turn = self.turns.wait(client).await;
        let answer = lock(&self.cache).fresh(key, Instant::now().into_std());
        if let Some(answer) = answer {
            return Some(answer.into());
        }
        let company = match join(&mut lock(&self.under_way), key) {
            Role::Follow(company) => company,
            Role::Lead(company, sender) => {
                let (this, key, packet) = (Arc::clone(self), Arc::clone(key), packet.to_vec());
                // A task of its own: others wait for it too, should this client go away.
                tokio::spawn(async move { this.lead(&key, &packet, turn, &sender).await });
                company
            }
        };
        follow(company).await
    }

    async fn lead(
        &self,
        key: &Arc<Key>,
        packet: &[u8],
        turn: Turn,
        sender: &watch::Sender<Option<Outcome>>,
    ) {
        let stale = lock(&self.cache).has_stale(key);
        let patience = if stale { PATIENCE_WITH_STALE } else { PATIENCE };
        let asked = self.upstreams.ask(&key.upstreams, packet, Instant::now() + patience).await;
        drop(turn);
        let now = Instant::now().into_std();
        let outcome = match asked {
            Ok(answer) => {
                lock(&self.cache).put(key, &answer, now);
                Some(answer)
            }
            Err(refusal) => lock(&self.cache).stale(key, now).or(refusal),
        };
        lock(&self.under_way).remove(key);
        sender.send_replace(Some(outcome.map(Arc::from)));
    }
}

/// Whether a question is asked anew.
enum Role {
    Follow(UnderWay),
    Lead(UnderWay, watch::Sender<Option<Outcome>>),
}

fn join(under_way: &mut HashMap<Arc<Key>, UnderWay>, key: &Arc<Key>) -> Role {
    if let Some(company) = under_way.get(key) {
        return Role::Follow(company.clone());
    }
    let (sender, company) = watch::channel(None);
    under_way.insert(Arc::clone(key), company.clone());
    Role::Lead(company, sender)
}

async fn follow(mut company: UnderWay) -> Outcome {
    let outcome = company.wait_for(Option::is_some).await;
    outcome.ok().and_then(|outcome| (*outcome).clone().flatten())
}

fn finish(query: &Query<'_>, mut answer: Vec<u8>, transport: Transport) -> Vec<u8> {
    query.adopt(&mut answer);
    if transport == Transport::Udp {
        query.cut(&mut answer, query.payload());
    }
    answer
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
