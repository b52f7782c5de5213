//! Crashes: whatever the moment, the next process finds everything and loses nothing.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::Endpoint;

#[test]
fn an_intent_that_was_not_finished_is_found_after_a_crash() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let spec = SandboxSpec { ports: vec![publish("80:80")], ..sandbox("a", &[&n1]) };
    let (id, transaction) = engine.begin_sandbox(&spec).unwrap();
    engine.journal(&transaction);
    engine.restart();
    // What it took is taken, although it is not part of the model yet.
    assert_eq!(engine.controller.sandboxes(), []);
    assert!(engine.start(&SandboxSpec { owner: "b".to_owned(), ..spec.clone() }).is_err());
    let b = engine.sandbox("b", &[&n1]);
    assert_eq!(engine.addresses(&b), "10.1.0.3/24@eth0");
    let found = engine.controller.intents();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].subject, Subject::Sandbox(id.clone()));
    assert_eq!(found[0].kind, ChangeKind::Create);
    assert_eq!((&found[0].before, &found[0].after), (&transaction.before, &transaction.after));
    assert_eq!(found[0].batch, transaction.batch);
    engine.commit(found.into_iter().next().unwrap());
    assert_eq!(engine.addresses(&id), "10.1.0.2/24@eth0");
    assert!(engine.controller.intents().is_empty());
    assert_eq!(engine.keys("intent/"), Vec::<String>::new());
}

#[test]
fn an_abort_after_a_crash_gives_everything_back() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let before = engine.keys("");
    let spec = SandboxSpec { ports: vec![publish("80:80")], ..sandbox("a", &[&n1]) };
    let (_, transaction) = engine.begin_sandbox(&spec).unwrap();
    engine.journal(&transaction);
    engine.restart();
    for transaction in engine.controller.intents() {
        engine.abort(transaction);
    }
    assert_eq!(engine.keys(""), before);
    assert!(engine.controller.ipam.leases().is_empty());
    assert!(engine.controller.ports.taken().is_empty() && engine.controller.links.is_empty());
    engine.start(&spec).unwrap();
}

#[test]
fn a_network_that_was_being_made_keeps_its_name_and_subnet() {
    let mut engine = Engine::new();
    let (_, transaction) = engine.begin_network(&network("n1", &["10.1.0.0/24"])).unwrap();
    engine.journal(&transaction);
    engine.restart();
    assert!(engine.create(&network("n1", &[])).is_err());
    assert!(engine.create(&network("n2", &["10.1.0.0/24"])).is_err());
    for transaction in engine.controller.intents() {
        engine.abort(transaction);
    }
    engine.network("n1", &["10.1.0.0/24"]);
}

#[test]
fn numbers_of_intents_are_not_used_twice() {
    let mut engine = Engine::new();
    let (_, first) = engine.begin_network(&network("n1", &[])).unwrap();
    engine.journal(&first);
    engine.restart();
    let (_, second) = engine.begin_network(&network("n2", &[])).unwrap();
    assert!(second.number > first.number);
}

#[test]
fn forgetting_an_owner_holds_even_for_what_an_abort_gives_back() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/30"]);
    let a = engine.sandbox("a", &[&n1]);
    engine.stop(&a);
    let (_, open) = engine.begin_sandbox(&sandbox("b", &[&n1])).unwrap();
    engine.journal(&open);
    let batch = engine.controller.forget_owner("a");
    engine.write(&batch);
    engine.abort(open);
    let nobody =
        |engine: &Engine| engine.controller.ipam.leases().values().all(|l| l.owner.is_empty());
    assert!(nobody(&engine));
    engine.restart();
    assert!(nobody(&engine));
}

#[test]
fn an_owner_forgotten_while_it_runs_leaves_nothing_when_it_ends() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let a = engine.sandbox("a", &[&n1]);
    let batch = engine.controller.forget_owner("a");
    engine.write(&batch);
    engine.restart();
    assert_eq!(engine.addresses(&a), "10.1.0.2/24@eth0");
    engine.stop(&a);
    engine.now += 3_600 * SECOND;
    let b = engine.sandbox("b", &[&n1]);
    engine.stop(&b);
    assert_eq!(engine.keys("lease/").len(), 1);
}

/// What users, the kernel and the power supply do.
#[derive(Clone, Debug)]
enum Step {
    CreateNetwork { name: u8, ipv6: bool },
    RemoveNetwork { name: u8 },
    Start { owner: u8, networks: Vec<u8>, port: u16 },
    Stop { at: usize },
    Join { at: usize, network: u8 },
    Leave { at: usize, network: u8 },
    Ports { at: usize, add: u16, remove: bool },
    Reserve { owner: u8, network: u8, host: u8 },
    Forget { owner: u8 },
}

/// How the story of a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Commit,
    Abort,
    /// The process ends before the intent is written.
    CrashBefore,
    /// It ends after that; what happens then is decided by who recovers.
    CrashThenCommit,
    CrashThenAbort,
    /// It is committed, and the records are lost with the power.
    LoseThenCommit,
    /// It stays open for a while.
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let (name, owner, at) = (0..3_u8, 0..4_u8, 0..6_usize);
    prop_oneof![
        2 => (name.clone(), any::<bool>()).prop_map(|(name, ipv6)| Step::CreateNetwork { name, ipv6 }),
        1 => name.clone().prop_map(|name| Step::RemoveNetwork { name }),
        6 => (owner.clone(), prop::collection::vec(name.clone(), 0..3), 80..84_u16)
            .prop_map(|(owner, networks, port)| Step::Start { owner, networks, port }),
        3 => at.clone().prop_map(|at| Step::Stop { at }),
        2 => (at.clone(), name.clone()).prop_map(|(at, network)| Step::Join { at, network }),
        2 => (at.clone(), name.clone()).prop_map(|(at, network)| Step::Leave { at, network }),
        2 => (at, 80..84_u16, any::<bool>()).prop_map(|(at, add, remove)| Step::Ports { at, add, remove }),
        1 => (owner.clone(), name, 0..9_u8)
            .prop_map(|(owner, network, host)| Step::Reserve { owner, network, host }),
        1 => owner.prop_map(|owner| Step::Forget { owner }),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        4 => Just(End::Commit),
        1 => Just(End::Abort),
        1 => Just(End::CrashBefore),
        1 => Just(End::CrashThenCommit),
        1 => Just(End::CrashThenAbort),
        1 => Just(End::LoseThenCommit),
        1 => Just(End::Wait),
    ]
}

impl Engine {
    /// The sandbox at a place in the list, if there are that many.
    fn at(&self, at: usize) -> Option<Arc<Sandbox>> {
        self.controller.sandboxes().get(at).cloned()
    }

    fn named(&self, name: u8) -> Option<Arc<Network>> {
        self.controller.network(&format!("n{name}")).ok()
    }

    fn begin_ports(&mut self, at: usize, add: u16, remove: bool) -> Option<Transaction> {
        let sandbox = self.at(at)?;
        let add = [publish(&format!("127.0.0.1:{add}:80"))];
        let remove = if remove { &sandbox.ports[..1.min(sandbox.ports.len())] } else { &[] };
        let bind = &mut |ports: &[PortBinding]| ports.iter().map(|_| Ok(true)).collect();
        let change = PortsChange { add: &add, remove, closed: None };
        let begin =
            |claims: &Claims| self.controller.begin_change_ports(&sandbox.id, &change, claims);
        decided(bind, begin).ok()
    }

    /// Begins what a step asks for; refusals are part of life.
    fn begin(&mut self, step: &Step) -> Option<Transaction> {
        match step {
            Step::CreateNetwork { name, ipv6 } => {
                let subnet = format!("10.{name}.0.0/29");
                let spec =
                    NetworkSpec { ipv6: Some(*ipv6), ..network(&format!("n{name}"), &[&subnet]) };
                self.begin_network(&spec).ok().map(|(_, transaction)| transaction)
            }
            Step::RemoveNetwork { name } => {
                let network = self.named(*name)?;
                self.controller.begin_remove_network(&network.id).ok()
            }
            Step::Start { owner, networks, port } => {
                let networks: Option<Vec<_>> =
                    networks.iter().map(|name| self.named(*name)).collect();
                let networks = networks?;
                let networks: Vec<&Network> = networks.iter().map(|network| &**network).collect();
                let ports = vec![publish(&format!("{port}:80")), publish("81")];
                let spec = SandboxSpec { ports, ..sandbox(&format!("owner-{owner}"), &networks) };
                self.begin_sandbox(&spec).ok().map(|(_, transaction)| transaction)
            }
            Step::Stop { at } => {
                let sandbox = self.at(*at)?;
                self.controller.begin_remove_sandbox(&sandbox.id, self.now).ok()
            }
            Step::Join { at, network } => {
                let (sandbox, network) = (self.at(*at)?, self.named(*network)?);
                let Self { controller, entropy, now, .. } = self;
                let claims = Claims::none();
                let join = join(&network);
                controller.begin_join(&sandbox.id, &join, &claims, entropy, *now).ok()?.made()
            }
            Step::Leave { at, network } => {
                let (sandbox, network) = (self.at(*at)?, self.named(*network)?);
                self.controller.begin_leave(&sandbox.id, &network.id, self.now).ok()
            }
            Step::Ports { at, add, remove } => self.begin_ports(*at, *add, *remove),
            Step::Reserve { owner, network, host } => {
                let network = self.named(*network)?;
                let IpAddr::V4(subnet) = network.pools[0].subnet.ip() else { return None };
                let address = (u32::from(subnet) + u32::from(*host)).to_be_bytes().into();
                let owner = format!("owner-{owner}");
                if let Ok(batch) = self.controller.reserve_static(&owner, &network.id, address) {
                    self.write(&batch);
                }
                None
            }
            Step::Forget { owner } => {
                let batch = self.controller.forget_owner(&format!("owner-{owner}"));
                self.write(&batch);
                None
            }
        }
    }

    fn finish(&mut self, transaction: Transaction, end: End, waiting: &mut Vec<Transaction>) {
        match end {
            End::Commit => self.commit(transaction),
            End::Abort => {
                self.journal(&transaction);
                self.abort(transaction);
            }
            End::CrashBefore => self.crash(waiting, true),
            End::CrashThenCommit | End::CrashThenAbort => {
                self.journal(&transaction);
                self.crash(waiting, end == End::CrashThenCommit);
            }
            End::LoseThenCommit => {
                self.journal(&transaction);
                drop(self.controller.commit(transaction));
                self.crash(waiting, true);
            }
            End::Wait => {
                self.journal(&transaction);
                waiting.push(transaction);
            }
        }
    }

    /// The process ends; the next one finishes what it finds.
    fn crash(&mut self, waiting: &mut Vec<Transaction>, commit: bool) {
        waiting.clear();
        self.restart();
        for transaction in self.controller.intents() {
            if commit {
                self.commit(transaction);
            } else {
                self.abort(transaction);
            }
        }
    }

    /// Everything that is taken belongs to somebody, and everything in the store is in the model.
    fn check(&self) -> Result<(), TestCaseError> {
        let live: Vec<&Live> = self.controller.sandboxes.values().collect();
        let endpoints: Vec<&Arc<Endpoint>> = live.iter().flat_map(|live| &live.endpoints).collect();
        let held = self.controller.ipam.leases().into_iter();
        let held: BTreeSet<_> =
            held.filter(|(_, l)| l.released.is_none()).map(|(key, _)| key).collect();
        let of = |e: &&Arc<Endpoint>| {
            let network = e.network.clone();
            let addresses: Vec<_> = e.addresses.iter().map(|a| (network.clone(), a.ip())).collect();
            addresses
        };
        let addresses: Vec<_> = endpoints.iter().flat_map(of).collect();
        prop_assert_eq!(addresses.len(), held.len(), "an address is used twice, or leaked");
        prop_assert_eq!(addresses.into_iter().collect::<BTreeSet<_>>(), held);
        let ports = live.iter().flat_map(|live| &live.sandbox.ports);
        let ports: Vec<_> = ports.map(|b| (b.protocol, b.host, b.host_port)).collect();
        let taken = self.controller.ports.taken();
        prop_assert_eq!(ports.len(), taken.len(), "a port is used twice, or leaked");
        prop_assert_eq!(ports.into_iter().collect::<BTreeSet<_>>(), taken);
        let links: BTreeSet<_> = endpoints.iter().map(|e| e.host_link()).collect();
        prop_assert_eq!(&links, &self.controller.links);
        let members: usize = self.controller.members.values().map(BTreeMap::len).sum();
        prop_assert_eq!(members, endpoints.len());
        let names: HashSet<_> = self.controller.taken.names.values().collect();
        prop_assert_eq!(names, self.controller.networks.keys().collect());
        self.check_store()
    }

    /// A process that starts now has the same model.
    fn check_store(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.keys("intent/"), Vec::<String>::new());
        let config = self.controller.config.clone();
        let loaded = Controller::load(&self.store, Arc::new(Spelling), config).unwrap();
        prop_assert_eq!(&loaded.networks, &self.controller.networks);
        prop_assert_eq!(&loaded.sandboxes, &self.controller.sandboxes);
        prop_assert_eq!(&loaded.members, &self.controller.members);
        let mut leases = loaded.ipam.leases();
        // What was forgotten is deleted with the next commit.
        let (known, garbage) = (self.controller.ipam.leases(), self.controller.ipam.garbage());
        leases.retain(|key, _| known.contains_key(key) || !garbage.contains(key));
        prop_assert_eq!(leases, known);
        prop_assert_eq!(loaded.ports.taken(), self.controller.ports.taken());
        prop_assert_eq!(&loaded.links, &self.controller.links);
        prop_assert_eq!(loaded.desired(), self.controller.desired());
        Ok(())
    }
}

proptest! {
    #[test]
    fn nothing_leaks_whenever_the_process_ends(
        story in prop::collection::vec((step(), end(), 0..40_u64), 0..40),
    ) {
        let mut engine = Engine::new();
        let mut waiting = Vec::new();
        for (step, end, seconds) in story {
            engine.now += seconds * SECOND;
            if let Some(transaction) = engine.begin(&step) {
                let (before, after) = (transaction.before.clone(), transaction.after.clone());
                let desired = engine.controller.desired();
                engine.finish(transaction, end, &mut waiting);
                if end == End::Commit {
                    // The change of the whole is the change of the scope.
                    let whole = crate::diff(&desired, &engine.controller.desired());
                    prop_assert_eq!(whole, crate::diff(&before, &after));
                }
            }
            if waiting.len() > 2 || end == End::Commit {
                for transaction in waiting.drain(..).rev() {
                    engine.commit(transaction);
                }
                engine.check()?;
            }
        }
        engine.crash(&mut waiting, true);
        engine.check()?;
        // After all has been removed, nothing is left but what is kept for owners.
        for sandbox in engine.controller.sandboxes() {
            engine.stop(&sandbox.id);
        }
        for network in engine.controller.networks() {
            let transaction = engine.controller.begin_remove_network(&network.id).unwrap();
            engine.commit(transaction);
        }
        prop_assert!(engine.controller.desired().is_empty());
        let left = engine.keys("");
        prop_assert!(left.iter().all(|key| key == ULA_KEY), "{left:?}");
    }
}
