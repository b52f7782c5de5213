//! A fake kernel, with the rules of the real one that plans rely on.
//!
//! The same tests run on it and on [`super::Linux`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cnm::controller::HostLink;
use cnm::ground::{Ground, Lost, provides, rests_on};
use cnm::{Key, LinkKind, LinkName, Ns, Plan, State, Step, Value};

use super::link::DEFAULT_MTU;
use super::{Kernel, KernelError, sysctl};

/// Keeps kernel objects in memory.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Inner>);

#[derive(Clone, Debug, Default)]
struct Inner {
    state: State,
    /// Links of the host that are not ours.
    foreign: BTreeSet<LinkName>,
    /// How many steps succeed before one fails.
    failure: Option<usize>,
    /// Those who want to hear of changes by others, of which there are none.
    watchers: Vec<Sender<()>>,
}

impl Memory {
    /// An empty kernel.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next `steps` steps succeed and the one after them fail, once.
    pub fn fail_after(&self, steps: usize) {
        self.lock().failure = Some(steps);
    }

    /// Gives the host a link that is not ours.
    pub fn plug(&self, link: LinkName) {
        self.lock().foreign.insert(link);
    }

    /// The links of the host: those that are not ours, and those that are.
    pub(super) fn host_links(&self) -> BTreeMap<LinkName, HostLink> {
        let inner = self.lock();
        let usual = HostLink { mtu: DEFAULT_MTU, up: true, ..HostLink::default() };
        let foreign = inner.foreign.iter().map(|name| (name.clone(), usual.clone()));
        let own = inner.state.iter().filter_map(|(key, value)| {
            let (Key::Link { ns: Ns::Host, name }, Some(link)) = (key, value.link()) else {
                return None;
            };
            Some((name.clone(), HostLink { tag: Some(link.tag.clone()), ..usual.clone() }))
        });
        foreign.chain(own).collect()
    }

    pub(super) fn keep_watcher(&self, watcher: Sender<()>) {
        self.lock().watchers.push(watcher);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for Memory {
    fn observe(&self) -> Result<State, KernelError> {
        let state = self.lock().state.clone();
        let observed = sysctl::observed(&state);
        let reported = |key: &Key| match key {
            Key::Sysctl { ns: Ns::Host, path } => observed.contains(path),
            _ => true,
        };
        Ok(state.into_iter().filter(|(key, _)| reported(key)).collect())
    }

    fn apply(&self, plan: &Plan) -> Result<(), KernelError> {
        self.lock().run(plan, true).into_iter().next().map_or(Ok(()), Err)
    }

    fn dismantle(&self, plan: &Plan) -> Vec<KernelError> {
        self.lock().run(plan, false)
    }
}

impl Inner {
    /// Elements change in one transaction, after everything else.
    fn run(&mut self, plan: &Plan, stop: bool) -> Vec<KernelError> {
        let mut failures = Vec::new();
        let is_element = |step: &&Step| matches!(step, Step::Add(Key::Element(_), _));
        for step in plan.steps().iter().filter(|step| !is_element(step)) {
            failures.extend(self.step(step).err().map(|source| failure(step, source)));
            if stop && !failures.is_empty() {
                return failures;
            }
        }
        let before = self.state.clone();
        for step in plan.steps().iter().filter(is_element) {
            if let Err(source) = self.step(step) {
                self.state = before;
                failures.push(failure(step, source));
                break;
            }
        }
        failures
    }

    fn step(&mut self, step: &Step) -> io::Result<()> {
        match self.failure {
            Some(0) => {
                self.failure = None;
                return Err(errno(libc::EIO));
            }
            Some(left) => self.failure = Some(left - 1),
            None => {}
        }
        match step {
            Step::Add(key, value) => self.add(key, value),
            Step::Change { key, to, .. } => self.change(key, to),
            Step::Remove(key, _) => {
                self.remove(key);
                Ok(())
            }
        }
    }

    fn add(&mut self, key: &Key, value: &Value) -> io::Result<()> {
        let shared = matches!(key, Key::Sysctl { .. });
        if self.state.get(key).is_some() && !shared {
            return Err(errno(libc::EEXIST));
        }
        self.check(key, value)?;
        if let Some(from) = moved(value) {
            refuse(libc::ENODEV, !self.foreign.remove(from))?;
        }
        self.state.insert(key.clone(), value.clone());
        Ok(())
    }

    fn change(&mut self, key: &Key, value: &Value) -> io::Result<()> {
        if self.state.get(key).is_none() {
            return Err(errno(libc::ENODEV));
        }
        self.check(key, value)?;
        self.state.insert(key.clone(), value.clone());
        Ok(())
    }

    /// What must be there before an object can be, and what must not.
    fn check(&self, key: &Key, value: &Value) -> io::Result<()> {
        for ground in rests_on(key, value) {
            self.need(key, &ground)?;
        }
        match (key, value) {
            (Key::Link { .. }, _) => {
                let wanted = provides(key, value);
                let taken = |(other, value): (&Key, &Value)| {
                    other != key && provides(other, value).iter().any(|g| wanted.contains(g))
                };
                refuse(libc::EEXIST, self.state.iter().any(taken))
            }
            (Key::Address { ns, link, address }, _) => {
                let same = |other: &Key| match other {
                    Key::Address { ns: there, link: on, address: taken } => {
                        (there, on) == (ns, link) && taken.is_ipv6() && taken.ip() == address.ip()
                    }
                    _ => false,
                };
                refuse(libc::EEXIST, self.any(same))
            }
            (Key::Route { ns, .. }, Value::Route { link, via: Some(via) }) => {
                let reached = |key: &Key| match key {
                    Key::Address { ns: there, link: on, address } => {
                        (there, on) == (ns, link) && address.contains(*via)
                    }
                    _ => false,
                };
                let by_route = |(key, value): (&Key, &Value)| match (key, value) {
                    (
                        Key::Route { ns: there, destination },
                        Value::Route { link: on, via: None },
                    ) => (there, on) == (ns, link) && destination.contains(*via),
                    _ => false,
                };
                let reached = self.any(reached) || self.state.iter().any(by_route);
                refuse(libc::ENETUNREACH, !reached)
            }
            _ => Ok(()),
        }
    }

    /// Removes an object with all that cannot be without it. What is gone is gone.
    fn remove(&mut self, key: &Key) {
        if matches!(key, Key::Sysctl { path, .. } if sysctl::is_shared(path)) {
            return;
        }
        let Some(value) = self.state.remove(key) else { return };
        self.foreign.extend(moved(&value).cloned());
        let mut lost = Lost::default();
        lost.add(key, &value);
        let mut gone = Vec::new();
        for (other, value) in self.state.in_order() {
            if lost.takes_along(other, value) {
                lost.add(other, value);
                gone.push(other.clone());
            }
        }
        for key in gone {
            self.state.remove(&key);
        }
    }

    fn any(&self, matches: impl Fn(&Key) -> bool) -> bool {
        self.state.iter().any(|(key, _)| matches(key))
    }

    fn need(&self, key: &Key, ground: &Ground) -> io::Result<()> {
        let here = |(key, value): (&Key, &Value)| provides(key, value).contains(ground);
        let (always, missing) = match ground {
            Ground::Namespace(ns) => (*ns == Ns::Host, libc::ENOENT),
            Ground::Link(ns, link) => {
                let foreign = *ns == Ns::Host && self.foreign.contains(link);
                let code =
                    if matches!(key, Key::Sysctl { .. }) { libc::ENOENT } else { libc::ENODEV };
                (foreign || link.as_str() == "lo", code)
            }
            // A route that needs one says so by its gateway.
            Ground::Address { .. } => (true, 0),
            Ground::Nexthop(_) | Ground::Port(_) | Ground::Shortcut(_) => (false, libc::EINVAL),
        };
        if always || self.state.iter().any(here) { Ok(()) } else { Err(errno(missing)) }
    }
}

/// What a link that somebody else made is called on the host.
fn moved(value: &Value) -> Option<&LinkName> {
    match &value.link()?.kind {
        LinkKind::Moved { from } => Some(from),
        _ => None,
    }
}

fn refuse(code: i32, conflict: bool) -> io::Result<()> {
    if conflict { Err(errno(code)) } else { Ok(()) }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn failure(step: &Step, source: io::Error) -> KernelError {
    let verb = match step {
        Step::Add(..) => "add",
        Step::Change { .. } => "change",
        Step::Remove(..) => "remove",
    };
    KernelError::Step { verb, object: step.key().to_string(), source }
}
