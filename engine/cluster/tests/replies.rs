//! Each transaction of a host's life meets a fault once: its reply is lost, or the host dies with it.
//! Soon after that the store and the hosts agree, without anybody's doing.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster::record::{AddressRecord, EndpointRecord, NetworkRecord, NodeRecord, Read, read};
use cluster::{ClusterStore, Memory, Txn};
use cnm::{Mac, NetworkId};

#[path = "rules/faults.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod faults;
#[path = "rules/hosts.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod hosts;

use faults::{Disk, Fault, Wire};
use hosts::{Host, until};

/// How soon the store and the hosts agree.
const SOON: Duration = Duration::from_secs(30);

/// What a user does when something fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    TriesAgain,
    GivesUp,
}

/// What the user has made, as far as he was told.
#[derive(Default)]
struct Made {
    networks: BTreeSet<NetworkId>,
    /// Who keeps an address while he is stopped.
    kept: BTreeSet<String>,
    /// Whether the host that is gone was removed.
    removed: bool,
    /// Who has a hardware address that was chosen.
    macs: BTreeSet<String>,
}

struct World {
    store: Memory,
    wire: Wire,
    disk: Arc<Disk>,
    one: Host,
    two: Host,
    /// One that is gone, and is to be removed.
    three: Host,
    made: Made,
    user: User,
    /// What nobody knows whether it came to something.
    unsure: bool,
}

fn mac() -> Mac {
    "02:00:00:00:00:07".parse().unwrap()
}

/// Repeats what fails, or does not.
macro_rules! with {
    ($user:expr, $what:expr) => {{
        let mut tries = 0;
        loop {
            tries += 1;
            let done = $what.await;
            if done.is_ok() || $user == User::GivesUp || tries > 3 {
                break done;
            }
        }
    }};
}

impl World {
    async fn new(user: User) -> Self {
        let store = Memory::new();
        let (wire, disk) = (Wire::new(&store), Arc::new(Disk::default()));
        let (two, three) = (Host::joined(&store, 2).await, Host::joined(&store, 3).await);
        three.kill();
        let one = Host::over(Arc::new(wire.clone()), disk.clone(), hosts::options(1));
        let made = Made::default();
        Self { store, wire, disk, one, two, three, made, user, unsure: false }
    }

    /// All that a host does in its life with others.
    async fn live(&mut self) {
        self.one.cluster.joined().await.unwrap();
        until("it sees itself", || self.one.cluster.view().complete).await;
        let drafts = [hosts::small("app", "10.9.0.0/24"), hosts::draft("gone")];
        for draft in &drafts {
            let created = with!(self.user, self.one.cluster.create_network(draft));
            if created.is_ok() {
                self.made.networks.insert(draft.id.clone());
            } else {
                self.unsure = true;
            }
        }
        let [app, gone] = drafts.map(|draft| draft.id);
        if self.made.networks.contains(&app) {
            self.use_network(&app).await;
        }
        if self.made.networks.contains(&gone) {
            self.remove(&gone).await;
        }
        let label = |labels: &mut BTreeMap<String, String>| {
            labels.insert("rack".to_owned(), "7".to_owned());
        };
        let two = self.two.cluster.id().to_owned();
        let _ = with!(self.user, self.one.cluster.label_node(&two, &label));
        let removed = with!(self.user, self.one.cluster.remove_node(self.three.cluster.id(), true));
        self.made.removed = removed.is_ok();
    }

    async fn seen(&self, network: &NetworkId) {
        for host in [&self.one, &self.two] {
            until("it is seen", || host.cluster.view().networks.contains_key(network)).await;
        }
    }

    async fn use_network(&mut self, app: &NetworkId) {
        self.seen(app).await;
        let change = |record: &mut NetworkRecord| {
            record.labels.insert("color".to_owned(), "red".to_owned());
        };
        let _ = with!(self.user, self.one.cluster.update_network(app, &change));
        // One with a hardware address of its own, which stays.
        if self.claim_mac(app, "web").await {
            self.start(app, "web", &[]).await;
        }
        // One that goes.
        if self.start(app, "db", &[]).await {
            self.end("db", false).await;
        }
        self.forget(app, "db").await;
        // One with an address of its own, which it keeps while it is stopped, until it goes, too.
        let wanted = ["10.9.0.77".parse().unwrap()];
        let had_mac = self.claim_mac(app, "wish").await;
        for keep in [true, false] {
            if had_mac && self.start(app, "wish", &wanted).await {
                self.end("wish", keep).await;
            }
        }
        self.forget(app, "wish").await;
        // One that has an address of its own and stays stopped.
        let wanted = ["10.9.0.78".parse().unwrap()];
        if self.start(app, "rests", &wanted).await {
            self.made.kept.insert("rests".to_owned());
            self.end("rests", true).await;
        }
        // Many at once.
        for number in 0..14 {
            self.start(app, &format!("many{number}"), &[]).await;
        }
    }

    async fn claim_mac(&mut self, network: &NetworkId, owner: &str) -> bool {
        if self.made.macs.len() == 1 && owner == "wish" {
            return true;
        }
        let claimed = with!(self.user, self.one.cluster.claim_mac(network, mac(), owner));
        if claimed.is_ok() {
            self.made.macs.insert(owner.to_owned());
        } else {
            self.forget(network, owner).await;
        }
        claimed.is_ok()
    }

    /// A container starts; one that cannot is removed by who gives up.
    async fn start(&mut self, network: &NetworkId, owner: &str, wanted: &[IpAddr]) -> bool {
        let cluster = Arc::clone(&self.one.cluster);
        let claimed = with!(self.user, cluster.claim_addresses(network, owner, wanted));
        let Ok(claimed) = claimed else {
            self.forget(network, owner).await;
            return false;
        };
        self.one.commit(network, owner, claimed);
        true
    }

    async fn end(&mut self, owner: &str, keep: bool) {
        let mut alive = self.one.alive.iter();
        let (id, _) = alive.find(|(_, (_, record))| record.container == owner).unwrap();
        let id = id.clone();
        // The cluster hears of one before the next.
        self.one.settled().await;
        self.one.end(&id, keep);
    }

    /// A container is removed.
    async fn forget(&mut self, network: &NetworkId, owner: &str) {
        self.one.cluster.forget(network, owner);
        self.made.macs.remove(owner);
        // What fails is told in the log only.
        let _ = self.one.cluster.release_mac(network, mac(), owner).await;
    }

    async fn remove(&mut self, network: &NetworkId) {
        self.seen(network).await;
        if self.start(network, "last", &[]).await {
            self.end("last", false).await;
        }
        self.forget(network, "last").await;
        self.one.settled().await;
        if with!(self.user, self.one.cluster.remove_network(network)).is_ok() {
            self.made.networks.remove(network);
        } else {
            self.unsure = true;
        }
    }

    /// Who is there, for it to be known who is not.
    fn owners(&self) -> BTreeSet<String> {
        let alive = self.one.alive.values().map(|(_, record)| record.container.clone());
        alive.chain(self.made.kept.iter().cloned()).chain(self.made.macs.iter().cloned()).collect()
    }

    /// The next daemon of the first host begins with what is on the disk.
    fn die(&mut self) {
        self.one.kill();
        // Nobody was told what became of what was under way.
        self.unsure = true;
        self.disk = Arc::new(self.disk.after_a_kill());
        self.one.local = self.disk.clone();
        self.one.begin_again_with(&self.owners());
    }

    /// What the store and the hosts do not agree about after a while.
    async fn disagreement(&self) -> Vec<String> {
        let start = tokio::time::Instant::now();
        loop {
            // As the engine does every five seconds.
            self.one.cluster.keep_for(&self.owners());
            let wrong = self.contradictions().await;
            if wrong.is_empty() || start.elapsed() > SOON {
                return wrong;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, below: &str) -> BTreeMap<String, T> {
        let prefix = format!("/rnet/v1/test/{below}");
        let entries = self.store.range(&prefix).await.unwrap().entries;
        let parsed = entries.iter().map(|entry| {
            let Read::Record(record) = read(&entry.value) else { panic!("{entry:?}") };
            (entry.key[prefix.len()..].to_owned(), record)
        });
        parsed.collect()
    }

    async fn contradictions(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut complain = |right: bool, what: String| (!right).then(|| wrong.push(what));
        let networks: BTreeMap<String, NetworkRecord> = self.read("networks/").await;
        let there: BTreeSet<String> = networks.keys().cloned().collect();
        let made: BTreeSet<String> = self.made.networks.iter().map(ToString::to_string).collect();
        let named = self.store.keys("/rnet/v1/test/ix/net/").len();
        let numbered = self.store.keys("/rnet/v1/test/ix/vni/").len();
        complain(self.unsure || there == made, format!("{there:?}, not {made:?}"));
        complain((named, numbered) == (there.len(), there.len()), format!("{named} {numbered}"));
        let nodes: BTreeMap<String, NodeRecord> = self.read("nodes/").await;
        let gone = !nodes.contains_key(self.three.cluster.id());
        complain(gone || !self.made.removed, "a host that was removed is there".to_owned());
        complain(
            self.store.keys("/rnet/v1/test/ix/number/").len() == nodes.len(),
            "a number is nobody's".to_owned(),
        );
        for host in [&self.one, &self.two] {
            let name = &host.options.name;
            let seen = host.cluster.view().networks.keys().map(ToString::to_string).collect();
            complain(there == seen, format!("{name} sees {seen:?}"));
            let pending = host.cluster.pending().unwrap();
            complain(pending.is_empty(), format!("{name} owes {pending:?}"));
            let id = host.cluster.id();
            complain(nodes.contains_key(id), format!("{name} is no node"));
            let ours = self.ours(host).await;
            let local: BTreeMap<String, String> = host
                .local
                .list("cluster/address/")
                .unwrap()
                .into_iter()
                .map(|(key, value)| (key["cluster/address/".len()..].to_owned(), text(&value)))
                .filter(|(key, _)| there.contains(key.split_once('/').unwrap().0))
                .collect();
            let odd: Vec<_> = ours.iter().filter(|(key, of)| local.get(*key) != Some(of)).collect();
            let lost: Vec<_> = local.keys().filter(|key| !ours.contains_key(*key)).collect();
            complain(odd.is_empty(), format!("{name} does not know of {odd:?}"));
            complain(lost.is_empty(), format!("{name} takes for its own {lost:?}"));
        }
        wrong.extend(self.owned().await);
        wrong
    }

    /// The addresses that the store says are a host's.
    async fn ours(&self, host: &Host) -> BTreeMap<String, String> {
        let all = self.store.range("/rnet/v1/test/ipam/").await.unwrap().entries;
        let ours = all.into_iter().filter(|entry| {
            let record = read::<AddressRecord>(&entry.value).ok();
            record.is_some_and(|record| record.node == host.cluster.id())
        });
        ours.map(|e| (e.key["/rnet/v1/test/ipam/".len()..].to_owned(), text(&e.value))).collect()
    }

    /// What is said of who has what.
    async fn owned(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut complain = |right: bool, what: String| (!right).then(|| wrong.push(what));
        let endpoints: BTreeMap<String, EndpointRecord> = self.read("eps/").await;
        let there: BTreeSet<_> = endpoints.keys().cloned().collect();
        let alive = self.one.alive.iter().map(|(id, (network, _))| format!("{network}/{id}"));
        let alive: BTreeSet<_> = alive.collect();
        complain(there == alive, format!("endpoints {there:?}, not {alive:?}"));
        let mut holders = BTreeMap::new();
        for (key, endpoint) in &endpoints {
            let network = key.split_once('/').unwrap().0;
            for address in &endpoint.addresses {
                let key = format!("{network}/{}", address.ip());
                let before = holders.insert(key.clone(), endpoint.container.clone());
                complain(before.is_none(), format!("{key} has two owners"));
            }
        }
        let addresses: BTreeMap<String, AddressRecord> = self.read("ipam/").await;
        for (key, record) in &addresses {
            let kept = record.holder.as_ref().is_some_and(|holder| self.made.kept.contains(holder));
            let right = record.holder.as_ref() == holders.remove(key).as_ref() || kept;
            complain(right, format!("{key} is of {record:?}"));
        }
        complain(holders.is_empty(), format!("nobody's: {holders:?}"));
        let macs: BTreeMap<String, AddressRecord> = self.read("ix/mac/").await;
        let of: BTreeSet<_> = macs.into_values().filter_map(|record| record.holder).collect();
        complain(of == self.made.macs, format!("hardware addresses of {of:?}"));
        wrong
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Lives once for each transaction there is, and has that one meet a fault.
fn each(user: User, fault: Fault) {
    let mut wrong = Vec::new();
    for number in 0.. {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let (struck, disagreement) = runtime.block_on(life(number, user, fault));
        if !disagreement.is_empty() {
            wrong.push(format!("{number}: {struck:?}\n{}", disagreement.join("\n")));
        }
        if struck.is_none() {
            assert!(number > 25, "{number}");
            break;
        }
    }
    assert!(wrong.is_empty(), "{user:?}, {fault:?}\n{}", wrong.join("\n"));
}

/// The transaction that was struck, and what was wrong afterwards.
async fn life(number: usize, user: User, fault: Fault) -> (Option<Txn>, Vec<String>) {
    let mut world = World::new(user).await;
    let wire = world.wire.clone();
    wire.strike(number, fault);
    let died = tokio::select! {
        () = world.live() => false,
        () = wire.dying() => true,
    };
    if died {
        world.die();
    }
    (wire.struck(), world.disagreement().await)
}

#[test]
fn a_reply_that_is_lost_leaves_nothing_behind() {
    for happens in [true, false] {
        each(User::TriesAgain, Fault::Lost(happens));
    }
}

#[test]
fn a_reply_that_is_lost_to_one_who_gives_up_leaves_nothing_behind() {
    for happens in [true, false] {
        each(User::GivesUp, Fault::Lost(happens));
    }
}

#[test]
fn a_host_that_dies_with_a_transaction_leaves_nothing_behind() {
    for happens in [true, false] {
        each(User::TriesAgain, Fault::Dies(happens));
    }
}
