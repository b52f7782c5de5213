//! The store as etcd has it.
//!
//! One member is talked to at a time; when it does not answer, the next one. Whatever only reads is
//! tried again there. A transaction is not, unless it is sure that nobody has seen it: whoever sent
//! it has to look what became of it.

mod error;
mod options;
mod watch;

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmType, Client, CompareOp, ConnectOptions, DeleteOptions, GetOptions, KeyValue,
    PutOptions, TxnOp,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::place::Place;
use crate::store::{
    ClusterStore, Compare, Entry, Health, LeaseId, Outcome, Pending, Revision, Snapshot,
    StoreError, Txn, Watch, Write,
};
use error::{Failure, Fate};
pub use options::{EtcdOptions, EtcdTls};
use watch::EtcdWatch;

/// The largest answer that is read.
const ANSWER: usize = 64 << 20;

/// How many entries are asked for at a time.
const PAGE: i64 = 2_000;

/// The least time between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// A cluster of etcd members.
pub struct Etcd {
    members: RwLock<Arc<Members>>,
}

/// The members, and how to talk to them.
struct Members {
    endpoints: Vec<Endpoint>,
    /// The one that answered last.
    current: AtomicUsize,
    connect: ConnectOptions,
    limit: Duration,
}

struct Endpoint {
    url: String,
    client: Mutex<Option<Client>>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members();
        let urls: Vec<_> = members.endpoints.iter().map(|endpoint| &endpoint.url).collect();
        f.debug_struct("Etcd").field("endpoints", &urls).finish_non_exhaustive()
    }
}

impl Etcd {
    /// The etcd of a place, whose calls take so long at most. Nothing is connected to before the
    /// first of them.
    pub fn open(place: &Place, limit: Duration) -> engine_error::Result<Self> {
        Ok(Self::with(EtcdOptions { limit: Some(limit), ..EtcdOptions::of(place)? })?)
    }

    /// The same by options.
    pub fn with(options: EtcdOptions) -> Result<Self, StoreError> {
        Ok(Self { members: RwLock::new(Arc::new(Members::new(options)?)) })
    }

    /// From here on there are other members, or other certificates. What goes on goes on.
    pub fn reopen(&self, place: &Place) -> engine_error::Result<()> {
        let limit = Some(self.members().limit);
        let members = Arc::new(Members::new(EtcdOptions { limit, ..EtcdOptions::of(place)? })?);
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = members;
        Ok(())
    }

    fn members(&self) -> Arc<Members> {
        Arc::clone(&self.members.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Members {
    fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        if options.endpoints.is_empty() {
            return Err(StoreError::Refused("no member of etcd is named".to_owned()));
        }
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let url = |name: &String| {
            if name.contains("://") { name.clone() } else { format!("{scheme}://{name}") }
        };
        let endpoint = |url| Endpoint { url, client: Mutex::new(None) };
        let limit = options.limit.unwrap_or(Duration::from_secs(5));
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(limit.min(Duration::from_secs(2)))
            // A member that stands still is found out although its sockets are open.
            .with_keep_alive(Duration::from_secs(3), Duration::from_secs(3))
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((user, password)) = options.user {
            connect = connect.with_user(user, password);
        }
        if let Some(tls) = options.tls {
            connect = connect.with_tls(tls.options());
        }
        let endpoints = options.endpoints.iter().map(url).map(endpoint).collect();
        Ok(Self { endpoints, current: AtomicUsize::new(0), connect, limit })
    }

    /// Which member is talked to.
    fn place(&self) -> usize {
        self.current.load(Ordering::Relaxed) % self.endpoints.len()
    }

    /// The member did not answer: the next one is asked from here on, and this one by a connection
    /// of its own when its turn comes again.
    async fn turn(&self, from: usize) {
        *self.endpoints[from].client.lock().await = None;
        let next = (from + 1) % self.endpoints.len();
        let _ = self.current.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn client(&self, place: usize) -> Result<Client, Failure> {
        let endpoint = &self.endpoints[place];
        let mut known = endpoint.client.lock().await;
        if let Some(client) = &*known {
            return Ok(client.clone());
        }
        let connected = Client::connect([&endpoint.url], Some(self.connect.clone())).await;
        let mut client = connected.map_err(|error| Failure::of(&error).unsent())?;
        // Whether a member takes our certificate shows with the first answer only. Nothing that
        // matters is asked before.
        let answer = client.status().await;
        answer.map_err(|error| Failure::of(&error).at_the_door(&endpoint.url))?;
        *known = Some(client.clone());
        Ok(client)
    }

    /// Asks one member after the other, until one answers or the time is over.
    async fn ask<T, F, A>(&self, repeatable: bool, ask: A) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
        A: Fn(Client) -> F,
    {
        let end = Instant::now() + self.limit;
        loop {
            let place = self.place();
            let failure = match self.attempt(place, end, &ask).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let again = match failure.fate {
                Fate::Answered => return Err(failure.error),
                Fate::Unsent => true,
                Fate::Unknown => repeatable,
            };
            self.turn(place).await;
            if !again || Instant::now() + PAUSE >= end {
                return Err(failure.told(repeatable));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attempt<T, F, A>(&self, place: usize, end: Instant, ask: &A) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
        A: Fn(Client) -> F,
    {
        // Where there are others to ask, one does not get all the time that there is.
        let share = self.limit / u32::try_from(self.endpoints.len().min(3)).unwrap_or(1);
        let until = end.min(Instant::now() + share);
        let url = &self.endpoints[place].url;
        let late = || StoreError::Unavailable(format!("{url} did not answer in time"));
        let client = tokio::time::timeout_at(until, self.client(place)).await;
        let client = client.map_err(|_| Failure { fate: Fate::Unsent, error: late() })??;
        match tokio::time::timeout_at(until, ask(client)).await {
            Err(_) => Err(Failure { fate: Fate::Unknown, error: late() }),
            Ok(answer) => answer.map_err(|error| Failure::of(&error)),
        }
    }

    /// One page of a range; all pages are of the same revision.
    async fn page(
        &self,
        from: &[u8],
        end: &[u8],
        at: Revision,
    ) -> Result<(Snapshot, bool), StoreError> {
        let options = GetOptions::new().with_range(end).with_limit(PAGE).with_revision(at);
        let ask = |client: Client| {
            let (options, from) = (options.clone(), from.to_vec());
            let mut kv = client.kv_client().max_decoding_message_size(ANSWER);
            async move { kv.get(from, Some(options)).await }
        };
        let answer = self.ask(true, ask).await?;
        let header = answer.header().map(|header| (header.revision(), header.cluster_id()));
        let (revision, cluster) = header.unwrap_or_default();
        let entries = answer.kvs().iter().map(entry).collect();
        Ok((Snapshot { revision, cluster, entries }, answer.more()))
    }

    async fn pages(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let end = end_of(prefix);
        let (mut all, mut more) = self.page(prefix.as_bytes(), &end, 0).await?;
        while let (true, Some(last)) = (more, all.entries.last()) {
            let mut from = last.key.clone().into_bytes();
            from.push(0);
            let (page, rest) = self.page(&from, &end, all.revision).await?;
            all.entries.extend(page.entries);
            more = rest;
        }
        Ok(all)
    }

    async fn look(&self) -> Result<Health, StoreError> {
        let ask = |mut client: Client| async move {
            let status = client.status().await?;
            let alarms = client.alarm(AlarmAction::Get, AlarmType::Nospace, None).await;
            Ok((status, alarms.ok()))
        };
        let (status, alarms) = self.ask(true, ask).await?;
        let header = status.header();
        Ok(Health {
            cluster: header.map_or(0, etcd_client::ResponseHeader::cluster_id),
            revision: header.map_or(0, etcd_client::ResponseHeader::revision),
            version: status.version().to_owned(),
            size: status.db_size(),
            out_of_space: alarms.is_some_and(|found| {
                found.alarms().iter().any(|alarm| alarm.alarm() == AlarmType::Nospace)
            }),
        })
    }
}

impl ClusterStore for Etcd {
    fn range<'a>(&'a self, prefix: &'a str) -> Pending<'a, Result<Snapshot, StoreError>> {
        Box::pin(async move {
            let members = self.members();
            // If the revision is forgotten between two pages, all begins anew, once.
            match members.pages(prefix).await {
                Err(StoreError::Compacted(_)) => members.pages(prefix).await,
                done => done,
            }
        })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
    ) -> Pending<'a, Result<Box<dyn Watch>, StoreError>> {
        Box::pin(async move {
            let ask = |client: Client| async move { watch::open(client, prefix, from).await };
            let members = self.members();
            let stream = members.ask(true, ask).await?;
            let place = members.place();
            match EtcdWatch::begin(stream, from, members.limit).await {
                Ok(watch) => Ok(Box::new(watch) as Box<dyn Watch>),
                Err(error) => {
                    members.turn(place).await;
                    Err(error)
                }
            }
        })
    }

    fn transact(&self, txn: Txn) -> Pending<'_, Result<Outcome, StoreError>> {
        Box::pin(async move {
            let txn = request(&txn);
            let ask = |mut client: Client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            };
            let answer = self.members().ask(false, ask).await?;
            let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            Ok(if answer.succeeded() { Outcome::Done(revision) } else { Outcome::Refused })
        })
    }

    fn grant(&self, ttl: Duration) -> Pending<'_, Result<LeaseId, StoreError>> {
        Box::pin(async move {
            let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
            // One that nobody knows of ends by itself.
            let ask = |mut client: Client| async move { client.lease_grant(seconds, None).await };
            Ok(LeaseId(self.members().ask(true, ask).await?.id()))
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Pending<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let ask = |mut client: Client| async move { client.lease_keep_alive(lease.0).await };
            self.members().ask(true, ask).await.map(|_| ())
        })
    }

    fn revoke(&self, lease: LeaseId) -> Pending<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let ask = |mut client: Client| async move { client.lease_revoke(lease.0).await };
            self.members().ask(true, ask).await.map(|_| ())
        })
    }

    fn health(&self) -> Pending<'_, Result<Health, StoreError>> {
        Box::pin(async move { self.members().look().await })
    }
}

fn request(txn: &Txn) -> etcd_client::Txn {
    let when: Vec<_> = txn.when.iter().map(compare).collect();
    let then: Vec<_> = txn.then.iter().map(operation).collect();
    etcd_client::Txn::new().when(when).and_then(then)
}

fn compare(compare: &Compare) -> etcd_client::Compare {
    use etcd_client::Compare as Wire;
    match compare {
        Compare::Absent(key) => Wire::version(key.as_str(), CompareOp::Equal, 0),
        Compare::Present(key) => Wire::version(key.as_str(), CompareOp::Greater, 0),
        Compare::ModifiedAt(key, revision) => {
            Wire::mod_revision(key.as_str(), CompareOp::Equal, *revision)
        }
        Compare::Is(key, value) => Wire::value(key.as_str(), CompareOp::Equal, value.clone()),
        // Of no key at all etcd says that its version is 0.
        Compare::NoneBelow(prefix) => {
            Wire::version(prefix.as_str(), CompareOp::Equal, 0).with_prefix()
        }
    }
}

fn operation(write: &Write) -> TxnOp {
    match write {
        Write::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value.clone(), options)
        }
        Write::Delete(key) => TxnOp::delete(key.as_str(), None),
        Write::DeleteBelow(prefix) => {
            TxnOp::delete(prefix.as_str(), Some(DeleteOptions::new().with_prefix()))
        }
    }
}

fn entry(found: &KeyValue) -> Entry {
    Entry {
        // All of our keys are text; what is not is somebody else's, and nobody asks for it.
        key: String::from_utf8_lossy(found.key()).into_owned(),
        value: found.value().to_vec(),
        created: found.create_revision(),
        modified: found.mod_revision(),
        lease: (found.lease() != 0).then(|| LeaseId(found.lease())),
    }
}

/// The first key after all that begin with a prefix.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}
