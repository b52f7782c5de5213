//! Joining: a number and a record of this host's own, and the sign that it is there.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use engine_error::{Error, Kind, Result};
use tokio::time::Instant;

use crate::cluster::{Cluster, Joined, Taken};
use crate::follow::Pauses;
use crate::local::{Local, random};
use crate::record::{
    IdentityRecord, LiveRecord, NodeRecord, Read, SchemaRecord, VERSION, read, write,
};
use crate::store::{Compare, Entry, LeaseId, Outcome, Revision, Snapshot, StoreError, Txn, Write};
use crate::view::{Delta, lock};

/// After how long a host that says nothing is not there any more.
pub(crate) const TTL: Duration = Duration::from_secs(15);

/// How often a host says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long another daemon with this host's id may go on being there until it is a twin.
const TWIN: Duration = Duration::from_secs(20);

/// How often a transaction that lost a race is tried again.
const TRIES: usize = 8;

/// Why this host is not in its cluster.
#[derive(Debug)]
enum Obstacle {
    /// It is not to be, for a reason that others have to remove.
    Refused(Error),
    /// The store did not do it.
    Store(StoreError),
}

impl From<StoreError> for Obstacle {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Denied(_) => Self::Refused(error.into()),
            error => Self::Store(error),
        }
    }
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// What the cluster's store has when a host joins.
struct Found {
    snapshot: Snapshot,
    identity: Option<IdentityRecord>,
}

impl Cluster {
    /// Joins, and says again and again that this host is there.
    pub(crate) async fn keep_joined(self: Arc<Self>) {
        let mut pauses = Pauses::new();
        let mut lease = None;
        let mut twin = None;
        loop {
            let turn = self.keep_live(&mut lease, &mut twin).await;
            match turn {
                Ok(()) => {
                    pauses.reset();
                    let described = self.described.notified();
                    let again = tokio::time::timeout(KEEP_ALIVE, described).await.is_ok();
                    if again && !self.describe_again().await {
                        lease = None;
                    }
                    continue;
                }
                // With another lease it joins anew, and is let in when that is possible again.
                Err(Obstacle::Refused(error)) => {
                    lease = None;
                    self.refused(&error);
                }
                Err(Obstacle::Store(StoreError::LeaseEnded)) => lease = None,
                Err(Obstacle::Store(error)) => self.disconnected(&error),
            }
            pauses.wait().await;
        }
    }

    async fn keep_live(
        &self,
        lease: &mut Option<LeaseId>,
        twin: &mut Option<Instant>,
    ) -> Result<(), Obstacle> {
        if let Some(lease) = *lease {
            self.store.keep_alive(lease).await?;
            return self.look_for_twin(lease, twin).await;
        }
        // Before it says anything of itself, and a twin says nothing at all.
        self.check_twin(twin).await?;
        if lock(&self.me).identity.is_some() {
            self.recognise().await?;
        }
        self.join().await?;
        let granted = self.store.grant(TTL).await?;
        if let Err(obstacle) = self.say_live(granted, twin).await {
            // It ends by itself if it cannot be ended now.
            let _ = self.store.revoke(granted).await;
            return Err(obstacle);
        }
        *lease = Some(granted);
        self.joined.send_if_modified(|joined| {
            let changed = *joined != Joined::Yes;
            *joined = Joined::Yes;
            changed
        });
        Ok(())
    }

    async fn check_twin(&self, twin: &mut Option<Instant>) -> Result<(), Obstacle> {
        let Some(entry) = self.entry(&self.keys.live(&self.node)).await? else { return Ok(()) };
        if self.is_own(&entry).await? { Ok(()) } else { Err(self.meet_twin(twin).await) }
    }

    /// Whether a sign of life is this daemon's, or looks like that of the one before it on this host: a
    /// reboot loses the word by which daemons know each other. That a link here has the address of the
    /// host's record speaks for it; that nobody takes the sign back proves it
    /// ([`Self::look_for_twin`]).
    async fn is_own(&self, live: &Entry) -> Result<bool, StoreError> {
        if self.is_ours(live) {
            return Ok(true);
        }
        let (address, found) = {
            let options = lock(&self.options);
            (options.address, options.found)
        };
        if !found || *lock(&self.taken) == Taken::Back {
            return Ok(false);
        }
        let node = self.entry(&self.keys.node(&self.node)).await?;
        let node = node.and_then(|entry| read::<NodeRecord>(&entry.value).ok());
        let was_here = node.is_some_and(|node| node.address == address);
        if was_here {
            *lock(&self.taken) = Taken::Since(Instant::now());
        }
        Ok(was_here)
    }

    fn is_ours(&self, live: &Entry) -> bool {
        let other = read::<LiveRecord>(&live.value).ok();
        other.is_some_and(|other| other.instance == lock(&self.options).instance)
    }

    /// While a lease is held, nobody else gives this host's sign of life. Who finds another one has been
    /// there before it, and takes the sign back; who had taken it over is the twin then.
    async fn look_for_twin(
        &self,
        lease: LeaseId,
        twin: &mut Option<Instant>,
    ) -> Result<(), Obstacle> {
        let key = self.keys.live(&self.node);
        let Some(entry) = self.entry(&key).await? else {
            // The lease ended between the two.
            return Err(StoreError::LeaseEnded.into());
        };
        let taken = *lock(&self.taken);
        if self.is_ours(&entry) {
            if matches!(taken, Taken::Since(time) if time.elapsed() > TTL) {
                // Who lives would have taken it back.
                *lock(&self.taken) = Taken::No;
            }
            return Ok(());
        }
        if taken != Taken::No {
            *lock(&self.taken) = Taken::Back;
            *twin = Some(Instant::now().checked_sub(TWIN).unwrap_or_else(Instant::now));
            return Err(self.meet_twin(twin).await);
        }
        tracing::warn!(
            node = self.node,
            "another host gave this one's sign of life: it is taken back"
        );
        let when = vec![Compare::ModifiedAt(key.clone(), entry.modified)];
        let put = Write::Put { key, value: write(&self.sign()), lease: Some(lease) };
        self.done(when, vec![put]).await?;
        Ok(())
    }

    fn sign(&self) -> LiveRecord {
        let instance = lock(&self.options).instance.clone();
        LiveRecord { version: VERSION, epoch: self.epoch, instance }
    }

    /// Puts the sign of life, unless another daemon with this host's id gives one.
    async fn say_live(&self, lease: LeaseId, twin: &mut Option<Instant>) -> Result<(), Obstacle> {
        let key = self.keys.live(&self.node);
        let ours = self.sign();
        for _ in 0..TRIES {
            let found = self.entry(&key).await?;
            let when = match &found {
                None => Compare::Absent(key.clone()),
                Some(entry) if self.is_own(entry).await? => {
                    Compare::ModifiedAt(key.clone(), entry.modified)
                }
                Some(_) => return Err(self.meet_twin(twin).await),
            };
            let put = Write::Put { key: key.clone(), value: write(&ours), lease: Some(lease) };
            if self.done(vec![when], vec![put]).await? {
                *twin = None;
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("others change the same all the time".to_owned()).into())
    }

    /// Another one is there under this host's id: the daemon of the last boot, if the host had another
    /// address then, whose sign goes soon; or a twin.
    async fn meet_twin(&self, since: &mut Option<Instant>) -> Obstacle {
        let since = *since.get_or_insert_with(Instant::now);
        if since.elapsed() < TWIN {
            return Obstacle::Store(StoreError::Unavailable(
                "the last daemon of this host, or another one with its id, is still there"
                    .to_owned(),
            ));
        }
        let entry = self.entry(&self.keys.node(&self.node)).await.ok().flatten();
        let node = entry.and_then(|entry| read::<NodeRecord>(&entry.value).ok());
        let place = node.map(|node| format!(" ({} at {})", node.name, node.address));
        Obstacle::Refused(Error::conflict(format!(
            "another host has the id {} and is there{}: its data directory was copied; leave the \
             cluster on one of them (rnet cluster leave --force) and join it again",
            self.node,
            place.unwrap_or_default()
        )))
    }

    /// Sees to it that the store has this host's record.
    async fn join(&self) -> Result<(), Obstacle> {
        for _ in 0..TRIES {
            let snapshot = self.store.range(&self.keys.meta()).await?;
            let identity = self.identity_in(&snapshot)?;
            let nodes = self.store.range(&self.keys.nodes()).await?;
            let found = Found { snapshot, identity };
            if self.is_known(&found, &nodes)? {
                return Ok(());
            }
            if self.try_join(&found, &nodes).await? {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("others join all the time".to_owned()).into())
    }

    /// Whether this host is in the cluster already, with just what it says of itself now.
    fn is_known(&self, found: &Found, nodes: &Snapshot) -> Result<bool, Obstacle> {
        let me = lock(&self.me).clone();
        if me.identity.is_some() && me.identity != found.identity.as_ref().map(|i| i.id.clone()) {
            let error = self.lost_data("it is another cluster's, or lost what it had");
            return Err(error.into());
        }
        let key = self.keys.node(&self.node);
        let mine = nodes.entries.iter().find(|entry| entry.key == key);
        match (mine, me.number) {
            (Some(entry), Some(number)) => {
                let same = read::<NodeRecord>(&entry.value).ok();
                Ok(same.is_some_and(|same| same == self.node_record(number, Some(&same))))
            }
            (None, Some(_)) => Err(Error::new(
                Kind::Forbidden,
                "this host was removed from its cluster: leave it (rnet cluster leave --force) \
                 and join it again",
            )
            .into()),
            (_, None) => Ok(false),
        }
    }

    async fn try_join(&self, found: &Found, nodes: &Snapshot) -> Result<bool, Obstacle> {
        let others = self.others(nodes);
        self.check_company(&others).await?;
        let key = self.keys.node(&self.node);
        let mine = nodes.entries.iter().find(|entry| entry.key == key);
        let known = mine.and_then(|entry| read::<NodeRecord>(&entry.value).ok());
        let taken = |number: &u32| others.iter().any(|(_, node)| node.number == *number);
        let free = (1..=u32::MAX).find(|number| !taken(number)).unwrap_or(1);
        let number = known.as_ref().map_or(free, |known| known.number);
        let record = self.node_record(number, known.as_ref());
        let mut when = Vec::new();
        let mut then = vec![Write::put(key.clone(), write(&record))];
        if let Some(entry) = mine {
            when.push(Compare::ModifiedAt(key, entry.modified));
        } else {
            when.extend([Compare::Absent(key), Compare::Absent(self.keys.number(number))]);
            then.push(Write::put(self.keys.number(number), self.node.clone().into_bytes()));
        }
        let identity = self.found_cluster(found, &mut when, &mut then);
        if !self.done(when, then).await? {
            return Ok(false);
        }
        {
            let mut me = lock(&self.me);
            me.number = Some(number);
            if me.identity.is_none() {
                me.identity = Some(identity.id);
                me.generation = identity.generation;
                me.store = found.snapshot.cluster;
            }
            self.local.note_self(&me);
        }
        self.on_disk(Local::flush).await?;
        Ok(true)
    }

    /// The first host says what cluster it is, and in what form its records are.
    fn found_cluster(
        &self,
        found: &Found,
        when: &mut Vec<Compare>,
        then: &mut Vec<Write>,
    ) -> IdentityRecord {
        if let Some(identity) = &found.identity {
            return identity.clone();
        }
        let identity = IdentityRecord { version: VERSION, id: random(), generation: 0 };
        let schema = SchemaRecord { version: VERSION, least: VERSION };
        when.push(Compare::Absent(self.keys.identity()));
        then.push(Write::put(self.keys.identity(), write(&identity)));
        then.push(Write::put(self.keys.schema(), write(&schema)));
        identity
    }

    /// The cluster's identity, unless its records are of no use to this release.
    fn identity_in(&self, meta: &Snapshot) -> Result<Option<IdentityRecord>, Obstacle> {
        let find = |key: String| meta.entries.iter().find(move |entry| entry.key == key);
        if let Some(entry) = find(self.keys.schema()) {
            let known = serde_json::from_slice::<SchemaRecord>(&entry.value).ok();
            let least = known.map_or(VERSION, |schema| schema.least);
            if least > VERSION {
                return Err(Error::new(
                    Kind::NotImplemented,
                    format!(
                        "the cluster's records are of version {least}, and this release knows \
                         {VERSION} and earlier ones: upgrade rnet on this host"
                    ),
                )
                .into());
            }
        }
        let Some(entry) = find(self.keys.identity()) else { return Ok(None) };
        match read(&entry.value) {
            Read::Record(identity) => Ok(Some(identity)),
            Read::Not(why) => {
                let message = format!("cannot read which cluster this is: {why}");
                Err(Error::new(Kind::Internal, message).into())
            }
        }
    }

    fn others(&self, nodes: &Snapshot) -> Vec<(String, NodeRecord)> {
        let prefix = self.keys.nodes();
        let all = nodes.entries.iter().filter_map(|entry| {
            let id = entry.key.strip_prefix(&prefix)?.to_owned();
            Some((id, read::<NodeRecord>(&entry.value).ok()?))
        });
        all.filter(|(id, _)| *id != self.node).collect()
    }

    /// Hosts whose tunnels this host's cannot meet.
    async fn check_company(&self, others: &[(String, NodeRecord)]) -> Result<(), Obstacle> {
        let (name, address) = {
            let options = lock(&self.options);
            (options.name.clone(), options.address)
        };
        let family = |address: IpAddr| if address.is_ipv6() { "IPv6" } else { "IPv4" };
        let stranger = others.iter().find(|(_, node)| node.address.is_ipv6() != address.is_ipv6());
        if let Some((_, node)) = stranger {
            return Err(Error::invalid(format!(
                "{name} cannot join with {address}: the cluster's tunnels are {}, as those of {} \
                 ({}); advertise an address of that family",
                family(node.address),
                node.name,
                node.address
            ))
            .into());
        }
        let Some((id, node)) = others.iter().find(|(_, node)| node.address == address) else {
            return Ok(());
        };
        // One that is not there any more may have been installed anew.
        if self.entry(&self.keys.live(id)).await?.is_none() {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "{name} cannot join with {address}: host {} has this address and is there",
            node.name
        ))
        .into())
    }

    /// What this host says of itself; its labels are the cluster's once it has joined.
    fn node_record(&self, number: u32, known: Option<&NodeRecord>) -> NodeRecord {
        let options = lock(&self.options);
        NodeRecord {
            version: VERSION,
            name: options.name.clone(),
            number,
            address: options.address,
            mtu: options.mtu,
            epoch: self.epoch,
            release: options.release.clone(),
            labels: known.map_or_else(|| options.labels.clone(), |known| known.labels.clone()),
            wireguard: options.wireguard,
        }
    }

    /// This host has another address or MTU from here on.
    pub fn describe(&self, address: IpAddr, mtu: u32) {
        let mut options = lock(&self.options);
        if (options.address, options.mtu) != (address, mtu) {
            (options.address, options.mtu) = (address, mtu);
            self.described.notify_one();
        }
    }

    /// Says of itself what is new; whether it may stay.
    async fn describe_again(&self) -> bool {
        let obstacle = match self.join().await {
            Ok(()) => return true,
            Err(obstacle) => obstacle,
        };
        let stays = match obstacle {
            Obstacle::Refused(error) => {
                self.refused(&error);
                false
            }
            Obstacle::Store(error) => {
                self.disconnected(&error);
                true
            }
        };
        // With the next sign of life it is tried again.
        self.described.notify_one();
        tokio::time::sleep(Duration::from_millis(500)).await;
        stays
    }

    fn refused(&self, error: &Error) {
        let refusal = Joined::Refused(error.kind(), error.chain());
        let changed = self.joined.send_if_modified(|joined| {
            let changed = *joined != refusal;
            joined.clone_from(&refusal);
            changed
        });
        if changed {
            tracing::warn!(error = error.chain(), "this host is not in its cluster");
            self.told(&Delta { status: true, ..Delta::default() });
        }
    }

    /// The entry of one key.
    pub(crate) async fn entry(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.entry_at(key).await?.0)
    }

    /// The entry of one key, and at which revision that was.
    pub(crate) async fn entry_at(
        &self,
        key: &str,
    ) -> Result<(Option<Entry>, Revision), StoreError> {
        let Snapshot { revision, entries, .. } = self.store.range(key).await?;
        Ok((entries.into_iter().find(|entry| entry.key == key), revision))
    }

    /// Does a transaction; whether its comparisons held. One that nobody knows about is looked at by
    /// trying it again: all of ours change what they compare.
    pub(crate) async fn done(
        &self,
        when: Vec<Compare>,
        then: Vec<Write>,
    ) -> Result<bool, StoreError> {
        Ok(self.done_at(when, then).await?.is_some())
    }

    /// The same; at which revision it was done.
    pub(crate) async fn done_at(
        &self,
        when: Vec<Compare>,
        then: Vec<Write>,
    ) -> Result<Option<Revision>, StoreError> {
        Ok(match self.store.transact(Txn { when, then }).await? {
            Outcome::Done(revision) => Some(revision),
            Outcome::Refused => None,
        })
    }
}
