//! Networks of every kind with containers on them, and everybody who might reach them.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use super::Engine;
use super::listener::{Journal, Listener};
use super::page::{Page, Place};
use super::plan::{self, Known, Source, Target};
use super::trial::{self, Outcome, Trial};
use crate::{Host, Lab, wait_until};

/// The kinds of networks: what they are called, and how they are made.
const KINDS: [(&str, &str); 8] = [
    ("a bridge network", ""),
    ("a network whose containers do not talk", "-o com.docker.network.bridge.enable_icc=false"),
    (
        "a routed network",
        "-o com.docker.network.bridge.gateway_mode_ipv4=routed \
         -o com.docker.network.bridge.gateway_mode_ipv6=routed",
    ),
    (
        "an unprotected network",
        "-o com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected \
         -o com.docker.network.bridge.gateway_mode_ipv6=nat-unprotected",
    ),
    ("an internal network", "--internal"),
    (
        "an isolated network",
        "--internal -o com.docker.network.bridge.gateway_mode_ipv4=isolated \
         -o com.docker.network.bridge.gateway_mode_ipv6=isolated",
    ),
    ("a macvlan network", "-d macvlan -o parent=lan2"),
    (
        "a macvlan network that the host is on",
        "-d macvlan -o parent=lan3 -o rnet.macvlan.host_access=true",
    ),
];

/// The kinds that are on a LAN, and the host's link to that.
const ON_A_LAN: [(usize, &str); 2] = [(6, "lan2"), (7, "lan3")];

/// The last part of the addresses of the machine on such a LAN.
const OUTSIDER: &str = "99";

/// What the host's own ends on networks that are on a LAN begin with.
const HOST_END: &str = "mv-";

/// The kinds that there is another network of, so that there is an other one for each of them.
const TWICE: [usize; 3] = [0, 4, 5];

/// The first host port of the first container that is tried; each has ten.
const FIRST_PORT: u16 = 8080;

/// An engine's containers and the machines beside its host.
pub(super) struct Scene<'a> {
    engine: &'a Engine,
    lab: &'a Lab,
    trials: Vec<Trial>,
    sources: Vec<Source>,
    journal: Journal,
    /// Whom they try to reach; they end before what was made is removed.
    listeners: Vec<Listener>,
    networks: Vec<String>,
    /// The host's links to them, by their numbers.
    devices: Vec<String>,
    containers: Vec<String>,
}

impl<'a> Scene<'a> {
    /// Makes all of it, and waits until every address can be used.
    pub(super) fn new(engine: &'a Engine, lab: &'a Lab) -> Result<Self, String> {
        let mut scene = Self {
            engine,
            lab,
            trials: Vec::new(),
            sources: Vec::new(),
            journal: Journal::default(),
            listeners: Vec::new(),
            networks: Vec::new(),
            devices: Vec::new(),
            containers: Vec::new(),
        };
        scene.make_networks()?;
        let targets = scene.run_targets()?;
        scene.run_sources()?;
        scene.add_machines();
        let hosts = scene.sources.iter().map(|source| &source.host);
        for host in hosts.chain(targets.iter().map(|target| &target.host)) {
            wait_until("no address is tentative", || !is_tentative(host));
        }
        scene.serve(&targets).map_err(|error| format!("cannot serve: {error}"))?;
        scene.trials = plan::trials(&scene.sources, &targets);
        Ok(scene)
    }

    /// The networks of every kind, and after them the other ones of those that there are two of.
    fn make_networks(&mut self) -> Result<(), String> {
        for (number, kind) in (0..KINDS.len()).chain(TWICE).enumerate() {
            let (_, options) = KINDS[kind];
            let name = format!("matrix-{number}");
            let (ipv4, ipv6) = (format!("10.231.{number}"), format!("fd00:231:{number}:"));
            let on = ON_A_LAN.iter().find(|(lan, _)| *lan == number).map(|(_, parent)| *parent);
            if let Some(parent) = on {
                self.add_lan(number, parent, [&ipv4, &ipv6]);
            }
            let more = match on {
                None => format!("-o com.docker.network.bridge.name=matrix{number}"),
                Some(_) => format!("--gateway {ipv4}.{OUTSIDER} --gateway {ipv6}:{OUTSIDER}"),
            };
            self.engine.docker(&format!(
                "network create --ipv6 --subnet {ipv4}.0/24 --subnet {ipv6}:/64 {more} {options} {name}"
            ))?;
            self.networks.push(name);
            let device = match on {
                None => format!("matrix{number}"),
                Some(parent) => self.host_end().unwrap_or_else(|| parent.to_owned()),
            };
            self.devices.push(device);
        }
        Ok(())
    }

    /// A LAN of the host, and a machine on it with addresses of the network there.
    fn add_lan(&mut self, number: usize, parent: &str, [ipv4, ipv6]: [&str; 2]) {
        let machine = Host::new();
        self.lab.host.connect(parent, &machine, "eth0");
        machine.add_address("eth0", &format!("{ipv4}.{OUTSIDER}/24"));
        machine.add_address("eth0", &format!("{ipv6}:{OUTSIDER}/64"));
        self.sources.push(Source {
            row: plan::ON_ITS_LAN.to_owned(),
            network: Some(number),
            neighbour: Some(plan::ON_ITS_LAN),
            devices: vec![device(&machine, "eth0")],
            // Nobody leads from there to where the host has its addresses.
            knows: Known::default(),
            gateway: Known::default(),
            host: machine,
        });
    }

    /// The host's own end on the network that was made last, if it has one.
    fn host_end(&self) -> Option<String> {
        let mut links = self.lab.host.links().into_iter().map(|link| link.name);
        links.find(|name| name.starts_with(HOST_END) && !self.devices.contains(name))
    }

    /// The host as it is known on a network: nobody there if it only leads there.
    fn host_on(&self, number: usize) -> Known {
        let device = &self.devices[number];
        let is_parent = ON_A_LAN.iter().any(|(_, parent)| parent == device);
        let known = Known::of(&self.lab.host, device);
        if is_parent { Known { link_local: known.link_local, ..Known::default() } } else { known }
    }

    /// The containers that are tried, one on each kind of network.
    fn run_targets(&mut self) -> Result<Vec<Target>, String> {
        let words = |number: usize| {
            let (open, local) = (host_port(number), host_port(number) + 1);
            let ports = ["tcp", "udp"].map(|way| {
                let localhost =
                    ["127.0.0.1", "[::1]"].map(|ip| format!("-p {ip}:{local}:81/{way}"));
                format!("-p {open}:80/{way} {}", localhost.join(" "))
            });
            format!("--network matrix-{number} {}", ports.join(" "))
        };
        let wanted: Vec<_> =
            (0..KINDS.len()).map(|n| (format!("matrix-target-{n}"), words(n))).collect();
        let hosts = self.run(&wanted)?;
        let mut targets = Vec::new();
        for (network, (host, (name, _))) in hosts.into_iter().zip(wanted).enumerate() {
            let (title, known) = (KINDS[network].0.to_owned(), Known::of(&host, "eth0"));
            let host_port = host_port(network);
            targets.push(Target { name, title, network, known, host_port, host });
        }
        Ok(targets)
    }

    /// A neighbour of each of them, and containers elsewhere.
    fn run_sources(&mut self) -> Result<(), String> {
        let kinds: Vec<usize> = (0..KINDS.len()).chain(TWICE).collect();
        let words = |n| (format!("matrix-source-{n}"), format!("--network matrix-{n}"));
        let hosts = self.run(&(0..kinds.len()).map(words).collect::<Vec<_>>())?;
        for ((number, kind), host) in kinds.into_iter().enumerate().zip(hosts) {
            let gateway = self.host_on(number);
            let link_local = gateway.link_local;
            self.sources.push(Source {
                row: KINDS[kind].0.to_owned(),
                network: Some(number),
                neighbour: (number < KINDS.len()).then_some(plan::SAME),
                devices: vec![device(&host, "eth0")],
                knows: Known { link_local, ..Known::from_pair(Lab::HOST) },
                gateway,
                host,
            });
        }
        Ok(())
    }

    /// The host itself, by two of its addresses, and those outside.
    fn add_machines(&mut self) {
        let host = &self.lab.host;
        let links: Vec<_> = (0..KINDS.len()).map(|n| device(host, &self.devices[n])).collect();
        let (near, far) = (Known::of(host, "lan0"), Known::of(host, "lan1"));
        let by_lan = |machine: &Host| vec![device(machine, "eth0")];
        let machines = [
            (plan::HOST, host, links.clone(), Known { link_local: None, ..near }),
            (plan::LOCALHOST, host, links, Known::from_pair(["127.0.0.1", "::1"])),
            (plan::OUTSIDE, &self.lab.client, by_lan(&self.lab.client), near),
            (plan::ROUTED, &self.lab.other, by_lan(&self.lab.other), far),
        ];
        for (row, host, devices, knows) in machines {
            self.sources.push(Source {
                row: row.to_owned(),
                network: None,
                neighbour: None,
                devices,
                knows,
                gateway: self.host_on(0),
                host: host.another(),
            });
        }
    }

    /// Has everybody who is tried listen.
    fn serve(&mut self, targets: &[Target]) -> std::io::Result<()> {
        let ports = plan::PORTS.map(|(_, port)| port);
        for target in targets {
            let listener = Listener::start(&target.host, &target.name, &ports, &self.journal)?;
            self.listeners.push(listener);
        }
        let Lab { host, client, other, .. } = self.lab;
        for (name, machine) in plan::MACHINES.into_iter().zip([host, client, other]) {
            let listener = Listener::start(machine, name, &[plan::SERVICE], &self.journal)?;
            self.listeners.push(listener);
        }
        Ok(())
    }

    /// Runs containers, beside each other.
    fn run(&mut self, wanted: &[(String, String)]) -> Result<Vec<Host>, String> {
        self.containers.extend(wanted.iter().map(|(name, _)| name.clone()));
        let engine = self.engine;
        thread::scope(|scope| {
            let run = |(name, words)| scope.spawn(move || engine.run(name, words));
            let threads: Vec<_> = wanted.iter().map(|(name, words)| run((name, words))).collect();
            let end = |thread: thread::ScopedJoinHandle<'_, Result<Host, String>>| {
                thread.join().unwrap_or_else(|_| Err("no container".to_owned()))
            };
            threads.into_iter().map(end).collect()
        })
    }

    /// Tries everything, everybody at the same time.
    pub(super) fn page(&self, expected: Option<&Page>) -> Page {
        let together = Barrier::new(self.sources.len());
        let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
        self.journal.forget();
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for (number, source) in self.sources.iter().enumerate() {
                let of = |(_, trial): &(usize, &Trial)| trial.source == number;
                let trials: Vec<_> = self.trials.iter().enumerate().filter(of).collect();
                let (journal, together) = (&self.journal, &together);
                threads.push(
                    scope.spawn(move || {
                        trial::run(&source.host, &trials, journal, expected, together)
                    }),
                );
            }
            for thread in threads {
                outcomes.extend(thread.join().unwrap_or_default());
            }
        });
        let mut cells: Vec<(&Place, Vec<(&Trial, &Outcome)>)> = Vec::new();
        for (number, trial) in self.trials.iter().enumerate() {
            let outcome = outcomes.get(&number).unwrap_or(&Outcome::Nothing);
            match cells.iter_mut().find(|(place, _)| **place == trial.place) {
                Some((_, all)) => all.push((trial, outcome)),
                None => cells.push((&trial.place, vec![(trial, outcome)])),
            }
        }
        let mut page = Page::default();
        for (place, tried) in cells {
            page.set(place, &cell(&tried));
        }
        page
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        self.listeners.clear();
        let _ = self.engine.docker(&format!("rm -f {}", self.containers.join(" ")));
        let _ = self.engine.docker(&format!("network rm {}", self.networks.join(" ")));
    }
}

/// What was reached of the ports of a cell, in words.
fn cell(tried: &[(&Trial, &Outcome)]) -> String {
    if tried.iter().all(|(_, outcome)| **outcome == Outcome::Reached) {
        return "yes".to_owned();
    }
    let mut words = Vec::new();
    for (trial, _) in tried {
        let all = || tried.iter().filter(|(other, _)| other.word == trial.word);
        let word = if all().all(|(_, outcome)| **outcome == Outcome::Reached) {
            trial.word.to_owned()
        } else {
            let said = all().filter_map(|(trial, outcome)| said(trial, outcome));
            said.collect::<Vec<_>>().join(", ")
        };
        if !word.is_empty() && !words.contains(&word) {
            words.push(word);
        }
    }
    if words.is_empty() { "no".to_owned() } else { words.join(", ") }
}

fn said(trial: &Trial, outcome: &Outcome) -> Option<String> {
    let word = trial.word_and_way();
    match outcome {
        Outcome::Nothing => None,
        Outcome::Heard => Some(format!("{word} without an answer")),
        Outcome::Reached => Some(word),
        Outcome::By(other) => Some(format!("{word} answered by {other}")),
    }
}

fn host_port(number: usize) -> u16 {
    FIRST_PORT + 10 * u16::try_from(number).unwrap_or_default()
}

fn device(host: &Host, name: &str) -> (String, u32) {
    (name.to_owned(), host.link(name).map_or(0, |link| link.index))
}

/// Whether an address is still looked for at others.
fn is_tentative(host: &Host) -> bool {
    let list = host.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"));
    let flags = |line: &str| u32::from_str_radix(line.split_whitespace().nth(4)?, 16).ok();
    // IFA_F_TENTATIVE
    list.unwrap_or_default().lines().filter_map(flags).any(|flags| flags & 0x40 != 0)
}
