//! A fake kernel, with the rules of the real one that plans rely on.
//!
//! The same tests run on it and on [`super::Linux`].

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cnm::{Key, LinkName, Ns, Plan, State, Step, Value};

use super::{Kernel, KernelError, sysctl};

/// Keeps kernel objects in memory.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Inner>);

#[derive(Clone, Debug, Default)]
struct Inner {
    state: State,
    /// How many steps succeed before one fails.
    failure: Option<usize>,
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for Memory {
    fn observe(&self) -> Result<State, KernelError> {
        let state = self.lock().state.clone();
        let forwarding: Vec<_> = sysctl::forwarding(&state).collect();
        let reported = |key: &Key| match key {
            Key::Sysctl { ns: Ns::Host, path } => {
                !sysctl::is_shared(path) || forwarding.contains(&path.as_str())
            }
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
        match (key, value) {
            (Key::Bridge { name }, _) => {
                let other =
                    |key: &Key| matches!(key, Key::Veth { name: taken, .. } if taken == name);
                self.refuse(libc::EEXIST, other)
            }
            (Key::Veth { name, sandbox, interface }, _) => {
                self.need(&Ns::Sandbox(sandbox.clone()))?;
                self.refuse(libc::EEXIST, |other| match other {
                    Key::Bridge { name: taken } => taken == name,
                    Key::Veth { name: taken, sandbox: there, interface: far } => {
                        other != key && (taken == name || (there == sandbox && far == interface))
                    }
                    _ => false,
                })
            }
            (Key::Port { link }, Value::Port { bridge, .. }) => {
                self.need_link(&Ns::Host, link)?;
                self.need_link(&Ns::Host, bridge)
            }
            (Key::Sysctl { ns, path }, _) => {
                self.need(ns)?;
                match link_of(path) {
                    Some(link) => self.need_link(ns, &link).map_err(|_| errno(libc::ENOENT)),
                    None => Ok(()),
                }
            }
            (Key::Address { ns, link, address }, _) => {
                self.need(ns)?;
                self.need_link(ns, link)?;
                let same = |other: &Key| match other {
                    Key::Address { ns: there, link: on, address: taken } => {
                        (there, on) == (ns, link) && taken.is_ipv6() && taken.ip() == address.ip()
                    }
                    _ => false,
                };
                self.refuse(libc::EEXIST, same)
            }
            (Key::Route { ns, .. }, Value::Route { link, via }) => {
                self.need(ns)?;
                self.need_link(ns, link)?;
                let reached = |key: &Key| match key {
                    Key::Address { ns: there, link: on, address } => {
                        (there, on) == (ns, link) && via.is_none_or(|via| address.contains(via))
                    }
                    _ => false,
                };
                let known = via.is_none() || self.any(reached);
                if known { Ok(()) } else { Err(errno(libc::ENETUNREACH)) }
            }
            (Key::Resolver { sandbox }, _) => self.need(&Ns::Sandbox(sandbox.clone())),
            _ => Ok(()),
        }
    }

    /// Removes an object with all that cannot be without it. What is gone is gone.
    fn remove(&mut self, key: &Key) {
        if matches!(key, Key::Sysctl { path, .. } if sysctl::is_shared(path)) {
            return;
        }
        let dependants: Vec<_> = self
            .state
            .iter()
            .map(|(other, _)| other)
            .filter(|o| self.needs(o, key))
            .cloned()
            .collect();
        self.state.remove(key);
        for dependant in dependants {
            self.remove(&dependant);
        }
    }

    /// Whether an object vanishes with another.
    fn needs(&self, key: &Key, other: &Key) -> bool {
        match other {
            Key::Namespace { sandbox } => match key {
                Key::Veth { sandbox: far, .. } | Key::Resolver { sandbox: far } => far == sandbox,
                Key::Sysctl { ns, .. } | Key::Address { ns, .. } | Key::Route { ns, .. } => {
                    *ns == Ns::Sandbox(sandbox.clone())
                }
                _ => false,
            },
            Key::Bridge { name } => {
                let port = matches!(
                    (key, self.state.get(key)),
                    (Key::Port { .. }, Some(Value::Port { bridge, .. })) if bridge == name
                );
                port || self.is_on(key, &Ns::Host, name)
            }
            Key::Veth { name, sandbox, interface } => {
                matches!(key, Key::Port { link } if link == name)
                    || self.is_on(key, &Ns::Host, name)
                    || self.is_on(key, &Ns::Sandbox(sandbox.clone()), interface)
            }
            Key::Address { ns, link, address } => {
                let through = |via: &std::net::IpAddr| address.contains(*via);
                matches!(
                    (key, self.state.get(key)),
                    (Key::Route { ns: there, .. }, Some(Value::Route { link: by, via: Some(via) }))
                        if (there, by) == (ns, link) && through(via)
                )
            }
            _ => false,
        }
    }

    fn is_on(&self, key: &Key, ns: &Ns, link: &LinkName) -> bool {
        match (key, self.state.get(key)) {
            (Key::Address { ns: there, link: on, .. }, _)
            | (Key::Route { ns: there, .. }, Some(Value::Route { link: on, .. })) => {
                (there, on) == (ns, link)
            }
            (Key::Sysctl { ns: there, path }, _) => {
                there == ns && link_of(path).as_ref() == Some(link)
            }
            _ => false,
        }
    }

    fn any(&self, matches: impl Fn(&Key) -> bool) -> bool {
        self.state.iter().any(|(key, _)| matches(key))
    }

    fn refuse(&self, code: i32, conflicts: impl Fn(&Key) -> bool) -> io::Result<()> {
        if self.any(conflicts) { Err(errno(code)) } else { Ok(()) }
    }

    fn need(&self, ns: &Ns) -> io::Result<()> {
        let Ns::Sandbox(sandbox) = ns else { return Ok(()) };
        let key = Key::Namespace { sandbox: sandbox.clone() };
        self.state.get(&key).map(|_| ()).ok_or_else(|| errno(libc::ENOENT))
    }

    fn need_link(&self, ns: &Ns, link: &LinkName) -> io::Result<()> {
        let is_it = |key: &Key| match (key, ns) {
            (Key::Bridge { name } | Key::Veth { name, .. }, Ns::Host) => name == link,
            (Key::Veth { sandbox, interface, .. }, Ns::Sandbox(there)) => {
                (sandbox, interface) == (there, link)
            }
            _ => false,
        };
        let loopback = link.as_str() == "lo";
        if loopback || self.any(is_it) { Ok(()) } else { Err(errno(libc::ENODEV)) }
    }
}

/// The link in `net/ipv4/conf/<link>/...`.
fn link_of(path: &str) -> Option<LinkName> {
    let parts: Vec<_> = path.split('/').collect();
    match parts[..] {
        ["net", "ipv4" | "ipv6", "conf" | "neigh", "all" | "default", _] => None,
        ["net", "ipv4" | "ipv6", "conf" | "neigh", link, _] => link.parse().ok(),
        _ => None,
    }
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
