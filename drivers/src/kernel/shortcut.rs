//! Shortcuts: programs by which frames between endpoints of a network on different hosts go past the
//! bridge.
//!
//! A network has one program and one map of what it knows, which live as long as the program is at a
//! link. Nothing of them is in a file system: they are found again by the filter at the tunnel, whose
//! name says which program it is. A kernel that cannot have them is told of once, and goes without.

mod assembler;
mod bpf;
mod filter;
mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cnm::{Key, Lead, LinkName, State, Step, Value};

use self::bpf::{Map, Program};
use super::link;
use super::netlink::{Socket, errno};

pub(super) use self::filter::{DISCIPLINE_GONE, GONE, link as link_of};

/// The shortcuts of a host.
#[derive(Debug)]
pub(super) struct Shortcuts {
    /// The first word of the names of filters.
    tag: String,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By tunnel.
    open: BTreeMap<LinkName, Arc<Open>>,
    /// What would be there, where the kernel cannot have it: it is reported, so that nobody misses it.
    instead: Option<State>,
}

/// The program of a network.
#[derive(Debug)]
struct Open {
    /// The number of the tunnel that it is for.
    tunnel: u32,
    /// The number of the program.
    id: u32,
    program: Program,
    map: Map,
}

/// A tunnel, or a port of the bridge that it is a port of.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) index: u32,
    pub(super) name: LinkName,
}

impl Shortcuts {
    pub(super) fn new(tag: &str) -> Self {
        Self { tag: tag.to_owned(), inner: Mutex::default() }
    }

    /// Makes and changes what steps are about shortcuts, and returns those that failed.
    pub(super) fn apply<'p>(
        &self,
        socket: &mut Socket,
        steps: &[&'p Step],
    ) -> Vec<(&'p Step, io::Error)> {
        let mut inner = self.lock();
        let mut failures = Vec::new();
        let mut indexes = BTreeMap::new();
        let ours = |step: &&&Step| matches!(step.key(), Key::Shortcut { .. } | Key::Lead { .. });
        for step in steps.iter().filter(ours).copied() {
            let result = self.step(&mut inner, socket, &mut indexes, step);
            failures.extend(result.err().map(|error| (step, error)));
        }
        failures
    }

    fn step(
        &self,
        inner: &mut Inner,
        socket: &mut Socket,
        indexes: &mut BTreeMap<LinkName, u32>,
        step: &Step,
    ) -> io::Result<()> {
        if let Some(instead) = &mut inner.instead {
            match step {
                Step::Add(key, value) | Step::Change { key, to: value, .. } => {
                    instead.insert(key.clone(), value.clone());
                }
                Step::Remove(key, _) => drop(instead.remove(key)),
            }
            return Ok(());
        }
        match step {
            Step::Remove(key, _) => self.remove(inner, socket, key),
            Step::Add(Key::Shortcut { tunnel, port: None }, _)
            | Step::Change { key: Key::Shortcut { tunnel, port: None }, .. } => {
                match self.begin(inner, socket, tunnel) {
                    Err(error) if is_incapable(&error) => {
                        tracing::warn!(
                            %error,
                            "this kernel cannot lead frames past bridges (BPF and clsact, Linux 5.10): \
                             overlay networks work, and are slower"
                        );
                        let program = (step.key().clone(), Value::Present);
                        inner.instead = Some(State::from_iter([program]));
                        Ok(())
                    }
                    done => done,
                }
            }
            Step::Add(key, value) | Step::Change { key, to: value, .. } => {
                self.set(inner, socket, indexes, key, value)
            }
        }
    }

    /// Has the program of a network run for a port, or know something.
    fn set(
        &self,
        inner: &mut Inner,
        socket: &mut Socket,
        indexes: &mut BTreeMap<LinkName, u32>,
        key: &Key,
        value: &Value,
    ) -> io::Result<()> {
        let (Key::Shortcut { tunnel, .. } | Key::Lead { tunnel, .. }) = key else {
            return Ok(());
        };
        let port = match (key, value) {
            (Key::Shortcut { port: Some(port), .. }, _) | (_, Value::Behind { port }) => Some(port),
            _ => None,
        };
        let known = |port| indexes.get(port).copied().map_or_else(|| link::index(socket, port), Ok);
        let index = port.map(known).transpose()?;
        indexes.extend(port.cloned().zip(index));
        let open = self.open(inner, socket, tunnel)?;
        let index = index.unwrap_or(open.tunnel);
        match key {
            Key::Lead { lead, .. } => open.map.set(&program::key(lead), index),
            _ => self.attach(socket, index, tunnel, open),
        }
    }

    /// Loads the program of a network, and has it run for what comes by the tunnel.
    fn begin(&self, inner: &mut Inner, socket: &mut Socket, tunnel: &LinkName) -> io::Result<()> {
        let index = link::index(socket, tunnel)?;
        let map = Map::new()?;
        let program = Program::load(&instructions(index, map.number())?)?;
        let (id, _) = program.look()?;
        let open = Open { tunnel: index, id, program, map };
        self.attach(socket, index, tunnel, &open)?;
        inner.open.insert(tunnel.clone(), Arc::new(open));
        Ok(())
    }

    fn attach(
        &self,
        socket: &mut Socket,
        link: u32,
        tunnel: &LinkName,
        open: &Open,
    ) -> io::Result<()> {
        let name = self.name(tunnel, open.tunnel)?;
        let requests = filter::attach(link, open.program.number(), &name);
        let refused = socket.batch(&requests).into_iter().next();
        refused.map_or(Ok(()), |refused| Err(refused.source))
    }

    /// What is on a link that is gone is gone.
    fn remove(&self, inner: &mut Inner, socket: &mut Socket, key: &Key) -> io::Result<()> {
        match key {
            Key::Shortcut { tunnel, port } => {
                if port.is_none() {
                    inner.open.remove(tunnel);
                }
                let Ok(link) = link::index(socket, port.as_ref().unwrap_or(tunnel)) else {
                    return Ok(());
                };
                if filter::find(socket, link)?.is_none() {
                    return Ok(());
                }
                let refused = socket.batch(&[filter::detach(link)]).into_iter().next();
                refused.map_or(Ok(()), |refused| Err(refused.source))
            }
            Key::Lead { tunnel, lead } => match self.open(inner, socket, tunnel) {
                Ok(open) => open.map.remove(&program::key(lead)),
                Err(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// The program at a tunnel.
    fn open<'a>(
        &self,
        inner: &'a mut Inner,
        socket: &mut Socket,
        tunnel: &LinkName,
    ) -> io::Result<&'a Open> {
        if !inner.open.contains_key(tunnel) {
            let index = link::index(socket, tunnel)?;
            let open = self.look(socket, tunnel, index)?.ok_or(io::ErrorKind::NotFound)?;
            inner.open.insert(tunnel.clone(), Arc::new(open));
        }
        inner.open.get(tunnel).map(AsRef::as_ref).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The program at a tunnel, if it is one of this version.
    fn look(&self, socket: &mut Socket, tunnel: &LinkName, index: u32) -> io::Result<Option<Open>> {
        let name = self.name(tunnel, index)?;
        let found = filter::find(socket, index)?.filter(|found| found.name == name);
        let Some(found) = found else { return Ok(None) };
        let program = Program::by_id(found.program)?;
        let (id, map) = program.look()?;
        Ok(Some(Open { tunnel: index, id, program, map }))
    }

    /// What a filter is called: whose it is, of which tunnel, and which program.
    fn name(&self, tunnel: &LinkName, index: u32) -> io::Result<String> {
        let instructions = instructions(index, 0)?;
        // FNV-1a
        let hash = instructions.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        Ok(format!("{}:{tunnel}:{hash:016x}", self.tag))
    }

    /// What there is for a tunnel, and at the ports of its bridge.
    pub(super) fn observe(
        &self,
        socket: &mut Socket,
        tunnel: &Place,
        ports: &[Place],
    ) -> io::Result<Vec<(Key, Value)>> {
        let mut inner = self.lock();
        if let Some(instead) = &inner.instead {
            return Ok(Self::instead(instead, tunnel, ports));
        }
        let Place { index, name } = tunnel;
        let found = filter::find(socket, *index)?;
        let current = self.look(socket, name, *index)?;
        let mut observed = Vec::new();
        if found.is_some() {
            let value = if current.is_some() { Value::Present } else { Value::Astray };
            observed.push((Key::Shortcut { tunnel: name.clone(), port: None }, value));
        }
        let id = current.as_ref().map(|open| open.id);
        for port in ports {
            let Some(found) = filter::find(socket, port.index)? else { continue };
            let is_current = Some(found.program) == id;
            let key = Key::Shortcut { tunnel: name.clone(), port: Some(port.name.clone()) };
            observed.push((key, if is_current { Value::Present } else { Value::Astray }));
        }
        let Some(open) = current.map(Arc::new) else {
            inner.open.remove(name);
            return Ok(observed);
        };
        inner.open.insert(name.clone(), Arc::clone(&open));
        // There may be many entries, and starts are not to wait.
        drop(inner);
        let names: BTreeMap<u32, &LinkName> =
            ports.iter().map(|port| (port.index, &port.name)).collect();
        for (key, to) in open.map.entries()? {
            let Some(lead) = program::lead(&key) else { continue };
            let value = match (lead, names.get(&to)) {
                (Lead::Out { .. }, _) if to == *index => Value::Present,
                (Lead::In { .. } | Lead::From { .. }, Some(port)) => {
                    Value::Behind { port: (*port).clone() }
                }
                _ => Value::Astray,
            };
            observed.push((Key::Lead { tunnel: name.clone(), lead }, value));
        }
        Ok(observed)
    }

    /// Of what would be there that which could be.
    fn instead(all: &State, tunnel: &Place, ports: &[Place]) -> Vec<(Key, Value)> {
        let ports: BTreeSet<_> = ports.iter().map(|port| &port.name).collect();
        let is_there = |key: &Key, value: &Value| match (key, value) {
            (Key::Shortcut { tunnel: of, port }, _) => {
                *of == tunnel.name && port.as_ref().is_none_or(|port| ports.contains(port))
            }
            (Key::Lead { tunnel: of, .. }, Value::Behind { port }) => {
                *of == tunnel.name && ports.contains(port)
            }
            (Key::Lead { tunnel: of, .. }, _) => *of == tunnel.name,
            _ => false,
        };
        let there = all.iter().filter(|(key, value)| is_there(key, value));
        there.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there is a filter where ours are.
pub(super) fn is_at(socket: &mut Socket, link: u32) -> io::Result<bool> {
    Ok(filter::find(socket, link)?.is_some())
}

fn instructions(tunnel: u32, map: i32) -> io::Result<Vec<u8>> {
    let tunnel = i32::try_from(tunnel).map_err(io::Error::other)?;
    program::program(tunnel, map).ok_or_else(|| io::Error::other("the program has no end"))
}

/// Whether an error says that the kernel cannot do it, and not that it could not now.
fn is_incapable(error: &io::Error) -> bool {
    !matches!(
        errno(error),
        Some(libc::ENODEV | libc::ENOMEM | libc::ENOBUFS | libc::EMFILE | libc::ENFILE)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_cannot_have_is_not_missed_again_and_again() {
        let (tunnel, port): (LinkName, LinkName) =
            ("vx-1".parse().unwrap(), "veth1".parse().unwrap());
        let shortcuts = Shortcuts::new("rnet");
        shortcuts.lock().instead = Some(State::default());
        let mac = "02:42:ac:11:00:02".parse().unwrap();
        let lead = |lead| Key::Lead { tunnel: tunnel.clone(), lead };
        let wanted = State::from_iter([
            (Key::Shortcut { tunnel: tunnel.clone(), port: None }, Value::Present),
            (Key::Shortcut { tunnel: tunnel.clone(), port: Some(port.clone()) }, Value::Present),
            (lead(Lead::Out { mac }), Value::Present),
            (lead(Lead::In { mac }), Value::Behind { port: port.clone() }),
        ]);
        let plan = cnm::diff(&State::default(), &wanted);
        let mut socket = Socket::open().unwrap();
        let steps: Vec<_> = plan.steps().iter().collect();
        assert!(shortcuts.apply(&mut socket, &steps).is_empty());
        let places =
            [(1, &tunnel), (2, &port)].map(|(index, name)| Place { index, name: name.clone() });
        let [tunnel, port] = places;
        let observed = shortcuts.observe(&mut socket, &tunnel, std::slice::from_ref(&port));
        assert_eq!(observed.unwrap().into_iter().collect::<State>(), wanted);
        // What is on a port that is gone is gone.
        assert_eq!(shortcuts.observe(&mut socket, &tunnel, &[]).unwrap().len(), 2);
        let plan = cnm::diff(&wanted, &State::default());
        let steps: Vec<_> = plan.steps().iter().collect();
        assert!(shortcuts.apply(&mut socket, &steps).is_empty());
        assert_eq!(shortcuts.observe(&mut socket, &tunnel, &[port]).unwrap(), []);
    }

    #[test]
    fn a_link_that_is_gone_does_not_make_a_kernel_incapable() {
        let error = io::Error::from_raw_os_error;
        assert!(!is_incapable(&error(libc::ENODEV)));
        assert!([libc::EPERM, libc::EINVAL, libc::ENOSYS].map(error).iter().all(is_incapable));
    }
}
