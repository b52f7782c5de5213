//! Machines on a LAN, each with a node of a swarm and without a daemon around it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use cluster::Etcd;
use engine_error::Result;
use netns_tests::{Host, Lan, patient};
use swarm::node::Own;
use swarm::protocol::Description;
use swarm::record::{Availability, SwarmRecord};
use swarm::{Node, PORT, Role, member};
use tokio::runtime::{Builder, Runtime};

/// How long something may take that goes through the store and a new process of etcd.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// A machine.
pub(crate) struct Machine {
    pub(crate) host: Host,
    pub(crate) address: String,
    pub(crate) directory: PathBuf,
    running: Option<(Runtime, Arc<Node>)>,
}

impl Machine {
    /// A machine with this number on a LAN, and its node, which is in no swarm.
    pub(crate) fn new(lan: &Lan, number: usize) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let unique = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("rnet-swarm-{}-{unique}", std::process::id());
        let address = format!("192.0.2.{number}");
        let host = lan.host(&[&format!("{address}/24")]);
        let directory = std::env::temp_dir().join(name);
        let mut machine = Self { host, address, directory, running: None };
        machine.start();
        machine
    }

    /// So many of them on a LAN of their own.
    pub(crate) fn several<const N: usize>() -> (Lan, [Self; N]) {
        let lan = Lan::new();
        let machines = std::array::from_fn(|number| Self::new(&lan, number + 1));
        (lan, machines)
    }

    /// What a daemon does when it begins.
    pub(crate) fn start(&mut self) {
        let runtime = self
            .host
            .run(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());
        let log = self.directory.with_extension("log");
        let node = Node::open(self.directory.clone(), log);
        runtime.spawn(node.clone().keep());
        self.running = Some((runtime, node));
    }

    /// What is left when a daemon is killed.
    pub(crate) fn stop(&mut self) {
        if let Some((runtime, node)) = self.running.take() {
            drop(node);
            runtime.shutdown_background();
        }
    }

    pub(crate) fn node(&self) -> Arc<Node> {
        self.running.as_ref().unwrap().1.clone()
    }

    /// Does something on this machine.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (send, receive) = mpsc::channel();
        self.running.as_ref().unwrap().0.spawn(async move { send.send(work.await) });
        receive.recv().unwrap()
    }

    pub(crate) fn own(&self) -> Own {
        Own {
            node: swarm::random_id().unwrap(),
            name: format!("host{}", self.address.rsplit('.').next().unwrap()),
            address: self.address.parse().unwrap(),
            listen: SocketAddr::from(([0, 0, 0, 0], PORT)),
            port: PORT,
            availability: Availability::default(),
            description: Description::default(),
        }
    }

    pub(crate) fn init(&self) {
        let (node, own) = (self.node(), self.own());
        let swarm = SwarmRecord::new().unwrap();
        self.run(async move { node.init(&own, swarm).await }).unwrap();
    }

    /// The same with certificates that are good for so long.
    pub(crate) fn init_for(&self, life: std::time::Duration) {
        let (node, own) = (self.node(), self.own());
        let swarm = SwarmRecord { node_life: life.as_secs(), ..SwarmRecord::new().unwrap() };
        self.run(async move { node.init(&own, swarm).await }).unwrap();
    }

    pub(crate) fn join(&self, token: &str, at: &Self) -> Result<()> {
        let (node, mut own, token) = (self.node(), self.own(), token.to_owned());
        if let Some(begun) = node.joining(&token) {
            own.node = begun;
        }
        let at = vec![at.address.clone()];
        self.run(async move { node.join(&own, &token, &at).await })
    }

    /// The tokens for managers and for workers.
    pub(crate) fn tokens(&self) -> [String; 2] {
        let node = self.node();
        self.run(async move {
            let records = node.records().await?;
            node.tokens(&records.swarm()?.record)
        })
        .unwrap()
    }

    pub(crate) fn leave(&self, force: bool) -> Result<()> {
        let node = self.node();
        self.run(async move { node.leave(force, async { Ok(()) }).await })
    }

    pub(crate) fn nodes(&self) -> Vec<swarm::node::Listed> {
        let node = self.node();
        self.run(async move { node.nodes().await }).unwrap()
    }

    /// The same while the managers may have no leader: nobody then.
    pub(crate) fn seen(&self) -> Vec<swarm::node::Listed> {
        let node = self.node();
        self.run(async move { node.nodes().await }).unwrap_or_default()
    }

    /// The identity of its node.
    pub(crate) fn id(&self) -> String {
        self.node().standing().enrolment.unwrap().state.node
    }

    pub(crate) fn role(&self) -> Option<Role> {
        self.node().standing().enrolment.map(|enrolment| enrolment.role)
    }

    /// Has a manager give a node another role.
    pub(crate) fn give(&self, to: &str, role: Role) -> Result<()> {
        let listed = self.nodes().into_iter().find(|listed| listed.id == to).unwrap();
        let change = swarm::node::NodeChange {
            role,
            labels: listed.node.record.labels.clone(),
            availability: listed.node.record.availability,
        };
        let (node, to, version) = (self.node(), to.to_owned(), listed.node.revision);
        self.run(async move { node.update_node(&to, version, &change).await })
    }

    /// The store, with what this node may do there.
    pub(crate) fn store(&self) -> Etcd {
        let place = self.node().standing().enrolment.unwrap().place;
        Etcd::open(&place, std::time::Duration::from_secs(5)).unwrap()
    }

    /// One of its files.
    pub(crate) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.join(name)).unwrap()
    }

    /// The process of its member of etcd.
    pub(crate) fn member(&self) -> Option<i32> {
        let argument = format!("--data-dir={}", self.directory.join("data").display());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.find(|pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
        })
    }

    /// Waits until something is so.
    pub(crate) fn wait(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let start = std::time::Instant::now();
        while !condition(self) {
            let waited = start.elapsed() < patient(PATIENCE);
            assert!(waited, "waited in vain until {what}: {:?}", self.node().standing());
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(member::end(&self.directory.join("data"))).unwrap();
        let _ = std::fs::remove_dir_all(&self.directory);
        let _ = std::fs::remove_file(self.directory.with_extension("log"));
    }
}
