//! Networks on a kernel in memory: without root, and without another process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use cnm::controller::HostFacts;
use cnm::wireguard::PublicKey;
use cnm::{Key, LinkName, Mac, NetworkSpec, PortBinding, Protocol, State};
use dns::protocol::SandboxView;
use drivers::dhcp::Port;
use drivers::kernel::conntrack::Way;
use drivers::kernel::{
    BindPorts, Kernel, KernelError, Listeners, Memory, PrivateKey, ResolverSockets,
};

use super::*;

mod leases;
mod room;
mod shared;

/// How long something may take that does not hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kernel that does nothing for some sandboxes, and what is told to all others.
#[derive(Debug, Default)]
struct Stubborn {
    memory: Memory,
    server: Arc<leases::Server>,
    broken: Mutex<BTreeSet<SandboxId>>,
}

impl Stubborn {
    fn check(&self, plan: &Plan) -> Result<(), KernelError> {
        let broken = self.broken.lock().unwrap();
        let of_broken = |key: &Key| key.sandbox().is_some_and(|id| broken.contains(id));
        match plan.steps().iter().find(|step| of_broken(step.key())) {
            None => Ok(()),
            Some(step) => Err(KernelError::Step {
                verb: "add",
                object: step.key().to_string(),
                source: std::io::Error::from_raw_os_error(16),
            }),
        }
    }
}

impl Kernel for Stubborn {
    fn observe(&self) -> Result<State, KernelError> {
        self.memory.observe()
    }

    fn apply(&self, plan: &Plan) -> Result<(), KernelError> {
        self.check(plan).and_then(|()| self.memory.apply(plan))
    }

    fn dismantle(&self, plan: &Plan) -> Vec<KernelError> {
        self.memory.dismantle(plan)
    }
}

impl Host for Stubborn {
    fn observe_only(&self, sandboxes: &BTreeSet<SandboxId>) -> Result<State, KernelError> {
        self.memory.observe_only(sandboxes)
    }

    fn apply_ahead(
        &self,
        plan: &Plan,
        probes: &[cnm::driver::Probe],
        made: &(dyn Fn() + Sync),
    ) -> Result<Announcements, KernelError> {
        self.check(plan).and_then(|()| self.memory.apply_ahead(plan, probes, made))
    }

    fn hold_key(&self, key: PrivateKey) -> Result<PublicKey, KernelError> {
        self.memory.hold_key(key)
    }

    fn host_facts(&self) -> Result<HostFacts, KernelError> {
        self.memory.host_facts()
    }

    fn fact_changes(&self) -> Result<Receiver<()>, KernelError> {
        self.memory.fact_changes()
    }

    fn host_ports(&self) -> Box<dyn BindPorts + '_> {
        self.memory.host_ports()
    }

    fn flush_ports(&self, bindings: &[PortBinding]) -> Result<(), KernelError> {
        self.memory.flush_ports(bindings)
    }

    fn cut(&self, ways: &[Way]) -> Result<(), KernelError> {
        self.memory.cut(ways)
    }

    fn flush_addresses(&self, addresses: &[IpAddr]) -> Result<(), KernelError> {
        self.memory.flush_addresses(addresses)
    }

    fn namespace_path(&self, sandbox: &SandboxId) -> PathBuf {
        self.memory.namespace_path(sandbox)
    }

    fn resolver_sockets(&self, sandbox: &SandboxId) -> Result<ResolverSockets, KernelError> {
        self.memory.resolver_sockets(sandbox)
    }

    fn listeners(&self, sandbox: &SandboxId) -> Result<Box<dyn Listeners>, KernelError> {
        self.memory.listeners(sandbox)
    }

    fn visit(&self, _endpoint: &State) -> Result<Box<dyn Port>, KernelError> {
        Ok(Box::new(leases::Way(self.server.clone(), Vec::new())))
    }

    fn messenger(
        &self,
        _sandbox: &SandboxId,
        _interface: &LinkName,
        _mac: Mac,
    ) -> Result<Box<dyn Port>, KernelError> {
        Ok(Box::new(leases::Way(self.server.clone(), Vec::new())))
    }

    fn table_owner(&self) -> Option<OwnedFd> {
        self.memory.table_owner()
    }

    fn changes(&self) -> Result<Receiver<()>, KernelError> {
        self.memory.changes()
    }

    fn remove_table(&self) -> Result<(), KernelError> {
        self.memory.remove_table()
    }
}

/// What outlives a daemon.
#[derive(Debug, Default)]
struct Site {
    kernel: Arc<Stubborn>,
    store: Arc<cnm::store::Memory>,
}

impl Site {
    /// A daemon that takes up what is there.
    fn open(&self) -> Networks {
        let (kernel, store) = (self.kernel.clone(), self.store.clone());
        // Nothing is there, and nothing is to be.
        let exec_root = std::env::temp_dir().join("rnet-networks-in-memory");
        let settings = Settings { exec_root, ..Settings::default() };
        Networks::on(kernel, &settings, store, Arc::default()).unwrap()
    }

    fn observed(&self) -> State {
        self.kernel.observe().unwrap()
    }

    /// Removes what somebody else would: all objects of a kind.
    fn damage(&self, is_gone: impl Fn(&Key) -> bool) {
        let whole = self.observed();
        let left = whole.iter().filter(|(key, _)| !is_gone(key));
        let left = left.map(|(key, value)| (key.clone(), value.clone())).collect();
        self.kernel.memory.apply(&diff(&whole, &left)).unwrap();
        assert_ne!(self.observed(), whole);
    }
}

fn create(networks: &Networks, name: &str) -> Arc<Network> {
    networks.create(&NetworkSpec { name: name.to_owned(), ..NetworkSpec::default() }).unwrap().0
}

fn spec(owner: &str, network: &Network, port: u16) -> SandboxSpec {
    let join = JoinSpec { network: Some(network.id.clone()), ..JoinSpec::default() };
    let protocol = Protocol::Tcp;
    let port = PortSpec { host: None, host_ports: port..=port, protocol, port: 80 };
    SandboxSpec {
        owner: owner.to_owned(),
        joins: vec![join],
        ports: vec![port],
        ..SandboxSpec::default()
    }
}

/// Decides and applies, as far as a start goes before the runtime is waited for.
fn begin(networks: &Networks, spec: &SandboxSpec) -> Change {
    let change = networks.begin_open(spec, None).unwrap();
    drop(networks.apply(&change, &names_of(&change), &|| ()).unwrap());
    change
}

/// What is answered for the sandbox of a change: nothing.
fn names_of(change: &Change) -> SandboxNames {
    let view = SandboxView {
        sandbox: change.sandbox.id.clone(),
        networks: Vec::new(),
        private: BTreeMap::new(),
        upstreams: Vec::new(),
        forward: false,
        ttl: 5,
    };
    SandboxNames { view, resolver: false, endpoints: Vec::new() }
}

fn start(networks: &Networks, spec: &SandboxSpec) -> SandboxId {
    let change = begin(networks, spec);
    let id = change.sandbox.id.clone();
    networks.finish(change, Batch::default());
    id
}

fn is_route(key: &Key) -> bool {
    matches!(key, Key::Route { ns: cnm::Ns::Sandbox(_), .. })
}

fn is_port(key: &Key) -> bool {
    matches!(key, Key::Port { .. })
}

#[test]
fn what_a_killed_daemon_left_is_decided_and_healed() {
    let site = Site::default();
    let networks = site.open();
    let n1 = create(&networks, "n1");
    let a = start(&networks, &spec("a", &n1, 8080));
    let healthy = site.observed();
    assert_eq!(healthy, networks.controller().desired());
    // It dies in the middle of a start, and of nothing.
    let unfinished = begin(&networks, &spec("b", &n1, 8081));
    assert_ne!(site.observed(), healthy);
    drop((unfinished, networks));
    site.damage(is_port);
    let networks = site.open();
    networks.settle_intents(|owner| owner == "a");
    networks.heal();
    assert_eq!(site.observed(), healthy);
    assert_eq!(networks.sandbox(&a).unwrap().0.owner, "a");
    // What the unfinished start took is free again.
    let b = start(&networks, &spec("b", &n1, 8081));
    networks.close(&b, Batch::default()).unwrap();
    networks.close(&a, Batch::default()).unwrap();
    networks.remove("n1").unwrap();
    assert_eq!(site.observed(), State::default());
}

#[test]
fn an_unfinished_start_whose_container_lives_is_kept() {
    let site = Site::default();
    let networks = site.open();
    let n1 = create(&networks, "n1");
    let change = begin(&networks, &spec("a", &n1, 8080));
    let id = change.sandbox.id.clone();
    drop((change, networks));
    let networks = site.open();
    networks.settle_intents(|owner| owner == "a");
    networks.heal();
    assert_eq!(networks.sandbox(&id).unwrap().0.owner, "a");
    assert_eq!(site.observed(), networks.controller().desired());
}

#[test]
fn a_start_that_waits_for_its_runtime_for_ever_holds_up_nobody() {
    let site = Site::default();
    let networks = Arc::new(site.open());
    let n1 = create(&networks, "n1");
    let a = start(&networks, &spec("a", &n1, 8080));
    let hung = begin(&networks, &spec("hung", &n1, 8081));
    let whole = site.observed();
    site.damage(is_port);
    let (done, all) = channel();
    let (others, n1) = (networks.clone(), n1.clone());
    thread::spawn(move || {
        let left_out = others.heal();
        let b = start(&others, &spec("b", &n1, 8082));
        others.close(&b, Batch::default()).unwrap();
        create(&others, "n2");
        others.remove("n2").unwrap();
        done.send(left_out).unwrap();
    });
    let left_out = all.recv_timeout(PATIENCE).expect("the others wait for the one that hangs");
    assert!(left_out, "what is being changed is looked at again");
    // The one that is there is whole; the one that hangs is left to itself.
    let (old, new) = (networks.controller().settled(&Subject::Sandbox(a)), site.observed());
    assert!(old.unwrap().iter().all(|(key, value)| new.get(key) == Some(value)));
    assert_eq!(whole.iter().filter(|(key, _)| is_port(key)).count(), 2);
    assert_eq!(new.iter().filter(|(key, _)| is_port(key)).count(), 1);
    networks.finish(hung, Batch::default());
    networks.heal();
    assert_eq!(site.observed(), whole);
}

#[test]
fn a_sandbox_that_cannot_be_healed_leaves_the_others_healed() {
    let site = Site::default();
    let networks = site.open();
    let n1 = create(&networks, "n1");
    let all = ["a", "b", "c", "d"].map(|owner| {
        let number = u16::from(owner.as_bytes()[0]);
        start(&networks, &spec(owner, &n1, 8000 + number))
    });
    let whole = site.observed();
    for broken in &all {
        site.kernel.broken.lock().unwrap().insert(broken.clone());
        site.damage(|key| matches!(key, Key::Route { ns: cnm::Ns::Sandbox(_), .. }));
        networks.heal();
        let missing: BTreeSet<_> = {
            let observed = site.observed();
            let gone = whole.iter().filter(|(key, _)| observed.get(key).is_none());
            gone.filter_map(|(key, _)| key.sandbox().cloned()).collect()
        };
        assert_eq!(missing, BTreeSet::from([broken.clone()]));
        site.kernel.broken.lock().unwrap().clear();
        networks.heal();
        assert_eq!(site.observed(), whole);
    }
}

#[test]
fn what_cannot_be_healed_is_told_and_not_tried_again_at_once() {
    let site = Site::default();
    let networks = site.open();
    let n1 = create(&networks, "n1");
    let a = start(&networks, &spec("a", &n1, 8080));
    let whole = site.observed();
    site.kernel.broken.lock().unwrap().insert(a.clone());
    site.damage(is_route);
    let look = || networks.heal_with(heal::Ills::LeftAlone);
    look();
    let ill = networks.ill();
    assert_eq!(ill.len(), 1);
    assert_eq!(ill[0].0, Subject::Sandbox(a.clone()));
    assert!(ill[0].1.starts_with("cannot add"), "{}", ill[0].1);
    site.kernel.broken.lock().unwrap().clear();
    look();
    assert_ne!(site.observed(), whole, "it was tried a moment ago");
    networks.heal();
    assert_eq!((site.observed(), networks.ill().len()), (whole, 0));
    // A sandbox that is gone is not ill.
    site.kernel.broken.lock().unwrap().insert(a.clone());
    site.damage(is_route);
    look();
    networks.close(&a, Batch::default()).unwrap();
    assert_eq!(networks.ill(), []);
}

#[test]
fn a_namespace_that_is_lost_is_not_made_again() {
    let site = Site::default();
    let networks = site.open();
    let n1 = create(&networks, "n1");
    let [a, b] = ["a", "b"].map(|owner| {
        let number = u16::from(owner.as_bytes()[0]);
        start(&networks, &spec(owner, &n1, 8000 + number))
    });
    let whole = site.observed();
    site.damage(|key| key.sandbox() == Some(&a) || is_port(key));
    networks.heal();
    let healed = site.observed();
    assert!(healed.iter().all(|(key, _)| key.sandbox() != Some(&a)));
    let of_b = |state: &State| state.iter().filter(|(key, _)| key.sandbox() == Some(&b)).count();
    assert_eq!(of_b(&healed), of_b(&whole));
    let why = "its namespace is not pinned any more".to_owned();
    assert_eq!(networks.ill(), [(Subject::Sandbox(a), why)]);
}

#[test]
fn what_belongs_to_nothing_is_removed_and_nothing_else() {
    let site = Site::default();
    let networks = site.open();
    let n1 = create(&networks, "n1");
    start(&networks, &spec("a", &n1, 8080));
    let whole = site.observed();
    let stranger = SandboxId::from_random([7; 32]);
    let mut with = whole.clone();
    with.insert(Key::Namespace { sandbox: stranger }, cnm::Value::Present);
    site.kernel.memory.apply(&diff(&whole, &with)).unwrap();
    networks.heal();
    assert_eq!(site.observed(), whole);
}

#[test]
fn a_daemon_that_serves_nobody_leaves_nothing_and_the_next_one_makes_it_again() {
    let site = Site::default();
    let networks = site.open();
    let n1 = create(&networks, "n1");
    let idle = site.observed();
    let a = start(&networks, &spec("a", &n1, 8080));
    let serving = site.observed();
    networks.rest().unwrap();
    assert_eq!(site.observed(), serving, "somebody is served");
    networks.close(&a, Batch::default()).unwrap();
    networks.rest().unwrap();
    assert_eq!(site.observed(), State::default());
    networks.heal();
    assert_eq!(site.observed(), State::default(), "it is at rest");
    let networks = site.open();
    networks.heal();
    assert_eq!(site.observed(), idle);
}

#[test]
fn nothing_is_taken_from_those_whose_record_cannot_be_read() {
    for kind in ["network/", "endpoint/", "sandbox/"] {
        let site = Site::default();
        let networks = site.open();
        start(&networks, &spec("web", &create(&networks, "blue"), 8080));
        drop(networks);
        let whole = site.observed();
        let mut batch = Batch::default();
        for (key, _) in site.store.list(kind).unwrap() {
            batch.put(key, b"no record".to_vec());
        }
        site.store.commit(&batch, Durability::Immediate).unwrap();
        // The second daemon finds them set aside.
        for _ in 0..2 {
            site.open().heal();
            assert_eq!(site.observed(), whole, "{kind}");
        }
    }
}

fn lan(name: &str, parent: &str) -> NetworkSpec {
    let options = [("parent".to_owned(), parent.to_owned())].into();
    let driver = "macvlan".to_owned();
    NetworkSpec { name: name.to_owned(), driver, options, ..NetworkSpec::default() }
}

fn has_link(site: &Site, name: &str) -> bool {
    let link = name.parse().unwrap();
    site.observed().get(&Key::Link { ns: cnm::Ns::Host, name: link }).is_some()
}

#[test]
fn a_parent_that_was_made_is_shared_and_goes_with_the_last_network() {
    let site = Site::default();
    site.kernel.memory.plug("eth0".parse().unwrap());
    let networks = site.open();
    for name in ["n1", "n2"] {
        networks.create(&lan(name, "eth0.100")).unwrap();
    }
    assert!(has_link(&site, "eth0.100"));
    networks.remove("n1").unwrap();
    assert!(has_link(&site, "eth0.100"), "n2 is on it");
    networks.create(&lan("n3", "eth0.100")).unwrap();
    drop(networks);
    // Somebody removes it while there is no daemon.
    site.damage(|key| matches!(key, Key::Link { .. }));
    let networks = site.open();
    networks.heal();
    assert_eq!(site.observed(), networks.controller().desired());
    // A network that cannot be made does not take along what others are on.
    site.kernel.memory.fail_after(0);
    networks.create(&lan("n4", "eth0.200")).unwrap_err();
    assert!(!has_link(&site, "eth0.200") && has_link(&site, "eth0.100"));
    networks.remove("n2").unwrap();
    assert!(has_link(&site, "eth0.100"), "n3 is on it");
    networks.remove("n3").unwrap();
    assert_eq!(site.observed(), State::default());
    // One that is there and not ours is left.
    site.kernel.memory.plug("eth0.7".parse().unwrap());
    networks.create(&lan("n7", "eth0.7")).unwrap();
    assert_eq!(site.observed(), State::default());
    networks.remove("n7").unwrap();
    assert_eq!(site.observed(), State::default());
}

#[test]
fn networks_that_cannot_share_a_parent_are_refused() {
    let site = Site::default();
    site.kernel.memory.plug("eth0".parse().unwrap());
    let networks = site.open();
    networks.create(&lan("n1", "eth0")).unwrap();
    let ipvlan = NetworkSpec { driver: "ipvlan".to_owned(), ..lan("n2", "eth0") };
    let mut passthru = lan("n2", "eth0");
    passthru.options.insert("macvlan_mode".to_owned(), "passthru".to_owned());
    for (spec, why) in [(ipvlan, "of driver macvlan"), (passthru, "cannot use mode passthru")] {
        let refusal = networks.create(&spec).unwrap_err().to_string();
        assert!(refusal.contains(why), "{refusal}");
    }
    networks.create(&lan("n2", "eth0")).unwrap();
}
