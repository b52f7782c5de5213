//! Applying a plan.
//!
//! Steps are grouped by where they go: links of the host in one batch; then for each sandbox, on
//! a thread inside it, its sysctls, its addresses and routes in one batch, and its resolver; all
//! elements in one nf_tables transaction at the end. Removals run first and the other way round;
//! what vanishes with something else that is removed is not removed by itself.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use cnm::{Key, LinkName, Ns, Plan, SandboxId, Step, Value};

use super::parts::{Parts, Removals, SandboxPart};
use super::requests::{
    Requests, announcement, equipment, far_end, keep_autoconfiguration, undoing, unlink,
};
use super::{Linux, pin, step as kernel_error};
use crate::kernel::link::{PortFlags, Veth};
use crate::kernel::netlink::{Refused, Request, Socket};
use crate::kernel::netns::{Netns, Visitor};
use crate::kernel::nft::SandboxTable;
use crate::kernel::tag::Tag;
use crate::kernel::{KernelError, link, sysctl};

/// What to do when a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnFailure {
    /// Leave the rest.
    Stop,
    /// Do what can be done.
    GoOn,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) failures: Vec<KernelError>,
    pub(super) announcements: Announcements,
}

/// Neighbours that are still to be told who has an address now. It takes a millisecond for each
/// 500 ports of the bridge, which copies what it is told to all of them.
#[derive(Debug, Default)]
#[must_use = "an address that somebody else had is reached when neighbours are told"]
pub struct Announcements(Vec<(Socket, Vec<Request>)>);

impl Announcements {
    /// Tells them.
    pub fn tell(self) {
        for (mut socket, requests) in self.0 {
            for refused in socket.batch(&requests) {
                // The link may have gone again.
                tracing::debug!(error = %refused.source, "not announced");
            }
        }
    }
}

/// Runs a plan. `made` is called when its namespaces are there.
pub(super) fn run(
    linux: &Linux,
    plan: &Plan,
    policy: OnFailure,
    made: &(dyn Fn() + Sync),
) -> Outcome {
    let parts = Parts::of(plan);
    if parts.only_elements() {
        made();
        let (old, new) = (&parts.removals.elements, &parts.elements);
        let changed = [old, new].into_iter().filter(|steps| !steps.is_empty());
        let failures = changed.filter_map(|steps| program(linux, steps).err()).collect();
        return Outcome { failures, ..Outcome::default() };
    }
    Visitor::send(|visitor| {
        let spaces = BTreeMap::new();
        let outcome = Outcome::default();
        let mut run = Run { linux, visitor, policy, spaces, outcome };
        run.removals(&parts.removals);
        run.create_namespaces(&parts.namespaces);
        run.stage(|_| made());
        run.additions(&parts);
        run.outcome
    })
}

/// Changes elements, all in one transaction.
fn program(linux: &Linux, steps: &[&Step]) -> Result<(), KernelError> {
    let begun = Instant::now();
    linux.nft.apply(steps)?;
    tracing::debug!(elements = steps.len(), us = begun.elapsed().as_micros(), "programmed");
    Ok(())
}

/// A plan under way.
#[derive(Debug)]
struct Run<'a> {
    linux: &'a Linux,
    visitor: &'a mut Visitor,
    policy: OnFailure,
    spaces: BTreeMap<SandboxId, Space>,
    outcome: Outcome,
}

/// The namespace of a sandbox, with a socket in it once that was needed.
#[derive(Debug)]
struct Space {
    netns: Netns,
    socket: Option<Socket>,
}

impl Run<'_> {
    fn removals(&mut self, parts: &Removals<'_>) {
        self.stage(|run| run.elements(&parts.elements));
        for (sandbox, steps) in &parts.sandboxes {
            self.stage(|run| run.strip(sandbox, steps));
        }
        self.stage(|run| run.strip_host(&parts.host));
        self.stage(|run| {
            let requests = parts.links.iter().filter_map(|step| Some((*step, unlink(step)?)));
            run.host_batch(requests.collect());
        });
        for step in &parts.namespaces {
            let Key::Namespace { sandbox } = step.key() else { continue };
            let path = self.linux.namespace_path(sandbox);
            self.spaces.remove(sandbox);
            self.stage(|run| run.check(step, pin::unpin(&path)));
        }
    }

    fn create_namespaces(&mut self, steps: &[&Step]) {
        for step in steps {
            self.stage(|run| {
                let created = run.create_namespace(step);
                run.check(step, created);
            });
        }
    }

    fn additions(&mut self, parts: &Parts<'_>) {
        self.stage(|run| run.bridges(&parts.bridges));
        self.stage(|run| run.links(&parts.veths, &parts.ports));
        self.stage(|run| run.equip_host(&parts.host));
        for (sandbox, part) in &parts.sandboxes {
            self.stage(|run| run.equip(sandbox, part));
        }
        self.stage(|run| run.elements(&parts.elements));
    }

    /// Runs a part of the plan, unless an earlier one failed and that was to be the end.
    fn stage(&mut self, part: impl FnOnce(&mut Self)) {
        if self.outcome.failures.is_empty() || self.policy == OnFailure::GoOn {
            part(self);
        }
    }

    fn check(&mut self, step: &Step, result: io::Result<()>) {
        self.outcome.failures.extend(result.err().map(|source| failure(step, source)));
    }

    fn elements(&mut self, steps: &[&Step]) {
        if !steps.is_empty() {
            self.outcome.failures.extend(program(self.linux, steps).err());
        }
    }

    // === The host ===

    fn host_batch(&mut self, requests: Requests<'_>) {
        let (steps, requests): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
        let Some(first) = steps.first() else { return };
        match self.linux.with_socket(|socket| Ok(socket.batch(&requests))) {
            Ok(refused) => self.report(&steps, refused),
            Err(source) => self.outcome.failures.push(failure(first, source)),
        }
    }

    fn report(&mut self, steps: &[&Step], refused: Vec<Refused>) {
        let failed = refused.into_iter();
        self.outcome
            .failures
            .extend(failed.map(|refused| failure(steps[refused.index], refused.source)));
    }

    fn bridges(&mut self, steps: &[&Step]) {
        let mut requests = Requests::new();
        for step in steps {
            let (Key::Bridge { name }, Value::Bridge { mtu, tag }) = (step.key(), wanted(step))
            else {
                continue;
            };
            if let Step::Add(..) = step {
                requests.push((step, link::create_bridge(name, link::stable_mac(tag))));
            }
            let alias = Tag { owner: tag.clone(), far: None }.alias(&self.linux.config.tag);
            let mtu = mtu.unwrap_or(link::DEFAULT_MTU);
            requests.push((step, link::dress(name, alias, mtu, None)));
        }
        self.host_batch(requests);
    }

    /// Pairs and ports. A port that comes with its pair needs no request of its own.
    fn links<'p>(&mut self, veths: &[&'p Step], ports: &BTreeMap<&'p LinkName, &'p Step>) {
        let mut requests = Requests::new();
        let mut indexes = BTreeMap::new();
        let mut ports = ports.clone();
        for step in veths {
            let Key::Veth { name, .. } = step.key() else { continue };
            let added = matches!(step, Step::Add(..));
            let port = if added { ports.remove(name) } else { None };
            let made = self.veth_requests(step, port, &mut indexes, &mut requests);
            self.check(step, made);
        }
        let lone: Vec<_> = ports.keys().copied().collect();
        for (name, step) in ports {
            let made = self.port_requests(name, step, &mut indexes, &mut requests);
            self.check(step, made);
        }
        self.stage(|run| run.host_batch(requests));
        // The near end of a new pair is a port and nothing else. With an IPv6 address of its own it
        // would talk to the container, and have routes that the kernel goes through whenever a link
        // comes or goes.
        self.stage(|run| {
            for step in veths {
                if let Step::Add(Key::Veth { name, .. }, _) = step {
                    run.check(step, run.linux.links.disable_ipv6(name));
                }
            }
        });
        for name in lone {
            // The bridge may be new too, and get its carrier from this port.
            let _ = self.linux.with_socket(|socket| link::settle(socket, name));
        }
    }

    fn veth_requests<'p>(
        &mut self,
        step: &'p Step,
        port: Option<&'p Step>,
        indexes: &mut BTreeMap<LinkName, u32>,
        requests: &mut Requests<'p>,
    ) -> io::Result<()> {
        let (Key::Veth { name, sandbox, interface }, Value::Veth { mac, mtu, tag }) =
            (step.key(), wanted(step))
        else {
            return Ok(());
        };
        let mtu = mtu.unwrap_or(link::DEFAULT_MTU);
        let tag = Tag { owner: tag.clone(), far: Some((sandbox.clone(), interface.clone())) };
        let alias = tag.alias(&self.linux.config.tag);
        let mut flags = None;
        if let Step::Add(..) = step {
            let mut master = None;
            if let Some(Value::Port { bridge, isolated, hairpin }) = port.map(wanted) {
                master = Some(self.index(bridge, indexes)?);
                flags = Some(PortFlags { isolated: *isolated, hairpin: *hairpin });
            }
            // The request has the number of the descriptor only; the cache keeps it open.
            let netns = self.space(sandbox)?.netns.as_fd();
            let veth = Veth { name, bridge: master, mtu, interface, mac: *mac, netns };
            requests.push((step, link::create_veth(&veth)));
        }
        requests.push((port.unwrap_or(step), link::dress(name, alias, mtu, flags)));
        Ok(())
    }

    fn port_requests<'p>(
        &mut self,
        name: &LinkName,
        step: &'p Step,
        indexes: &mut BTreeMap<LinkName, u32>,
        requests: &mut Requests<'p>,
    ) -> io::Result<()> {
        let Value::Port { bridge, isolated, hairpin } = wanted(step) else { return Ok(()) };
        let index = self.index(bridge, indexes)?;
        requests.push((step, link::set_bridge(name, index)));
        let flags = PortFlags { isolated: *isolated, hairpin: *hairpin };
        requests.push((step, link::set_port(name, flags)));
        Ok(())
    }

    /// The number of a link of the host.
    fn index(&self, name: &LinkName, known: &mut BTreeMap<LinkName, u32>) -> io::Result<u32> {
        if let Some(index) = known.get(name) {
            return Ok(*index);
        }
        let index = self.linux.with_socket(|socket| link::index(socket, name))?;
        known.insert(name.clone(), index);
        Ok(index)
    }

    fn equip_host(&mut self, steps: &[&Step]) {
        for step in steps {
            if let (Key::Sysctl { path, .. }, Value::Text(value)) = (step.key(), wanted(step)) {
                let written = self.write_host_sysctl(path, value);
                self.check(step, written);
            }
        }
        let requests = self.linux.with_socket(|socket| Ok(equipment(socket, steps)));
        let (requests, failures) = requests.unwrap_or_default();
        self.outcome.failures.extend(failures);
        self.host_batch(requests);
    }

    fn strip_host(&mut self, steps: &[&Step]) {
        for step in steps {
            if let Key::Sysctl { path, .. } = step.key()
                && !sysctl::is_shared(path)
            {
                let reset = self.visitor.enter(&self.linux.host);
                self.check(step, reset.and_then(|()| sysctl::reset(path)));
            }
        }
        let requests = self.linux.with_socket(|socket| Ok(undoing(socket, steps)));
        self.host_batch(requests.unwrap_or_default());
    }

    fn write_host_sysctl(&mut self, path: &str, value: &str) -> io::Result<()> {
        self.visitor.enter(&self.linux.host)?;
        if path == sysctl::FORWARDING[1] {
            self.linux.with_socket(keep_autoconfiguration)?;
        }
        sysctl::write(path, value)
    }

    // === Sandboxes ===

    fn space(&mut self, sandbox: &SandboxId) -> io::Result<&mut Space> {
        if !self.spaces.contains_key(sandbox) {
            let netns = Netns::open(self.linux.namespace_path(sandbox))?;
            self.spaces.insert(sandbox.clone(), Space { netns, socket: None });
        }
        self.spaces.get_mut(sandbox).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Goes into a sandbox and takes its socket out of the cache.
    fn enter(&mut self, sandbox: &SandboxId) -> io::Result<Socket> {
        let netns = self.space(sandbox)?.netns.try_clone()?;
        self.visitor.enter(&netns)?;
        match self.space(sandbox)?.socket.take() {
            Some(socket) => Ok(socket),
            None => Socket::open(),
        }
    }

    fn create_namespace(&mut self, step: &Step) -> io::Result<()> {
        let Key::Namespace { sandbox } = step.key() else { return Ok(()) };
        let netns = self.visitor.create()?;
        let mut socket = Socket::open()?;
        if let Some(refused) = socket.batch(&[link::switch_on_loopback()]).pop() {
            return Err(refused.source);
        }
        pin::pin(&netns, &self.linux.namespace_path(sandbox))?;
        self.spaces.insert(sandbox.clone(), Space { netns, socket: Some(socket) });
        Ok(())
    }

    fn equip(&mut self, sandbox: &SandboxId, part: &SandboxPart<'_>) {
        let Some(first) = part.veths.iter().chain(&part.steps).next() else { return };
        let mut socket = match self.enter(sandbox) {
            Ok(socket) => socket,
            Err(source) => return self.outcome.failures.push(failure(first, source)),
        };
        let path = self.linux.namespace_path(sandbox);
        self.stage(|run| {
            for step in &part.steps {
                if let (Key::Sysctl { path: name, .. }, Value::Text(value)) =
                    (step.key(), wanted(step))
                {
                    let noted = if part.lists(name) { Ok(()) } else { pin::note(&path, name) };
                    run.check(step, noted.and_then(|()| sysctl::write(name, value)));
                }
            }
        });
        self.stage(|run| run.equip_links(&mut socket, part));
        self.stage(|run| {
            for step in part.steps.iter().filter(|s| matches!(s.key(), Key::Resolver { .. })) {
                let installed = SandboxTable::open().and_then(|table| table.install());
                run.check(step, installed.map_err(io::Error::other));
            }
        });
        if let Some(space) = self.spaces.get_mut(sandbox) {
            space.socket = Some(socket);
        }
    }

    /// The links go up and get their addresses and routes, and transmit when this returns.
    fn equip_links(&mut self, socket: &mut Socket, part: &SandboxPart<'_>) {
        let (requests, failures) = equipment(socket, &part.steps);
        self.outcome.failures.extend(failures);
        let mut all: Requests<'_> =
            part.veths.iter().filter_map(|step| Some((*step, far_end(step)?))).collect();
        all.extend(requests);
        self.sandbox_batch(socket, all);
        self.stage(|run| {
            for step in &part.veths {
                let settled = run.settle(socket, step);
                run.check(step, settled);
            }
        });
        self.stage(|run| {
            let requests: Vec<_> = part.veths.iter().filter_map(|s| announcement(s)).collect();
            // The socket is of this namespace, whoever uses it later.
            match (requests.is_empty(), Socket::open()) {
                (true, _) => {}
                (false, Ok(socket)) => run.outcome.announcements.0.push((socket, requests)),
                (false, Err(error)) => tracing::warn!(%error, "cannot announce addresses"),
            }
        });
    }

    fn sandbox_batch(&mut self, socket: &mut Socket, requests: Requests<'_>) {
        let (steps, requests): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
        let refused = socket.batch(&requests);
        self.report(&steps, refused);
    }

    /// Lets both ends of a new pair transmit.
    fn settle(&self, inside: &mut Socket, step: &Step) -> io::Result<()> {
        let Step::Add(Key::Veth { name, interface, .. }, _) = step else { return Ok(()) };
        link::settle(inside, interface)?;
        self.linux.with_socket(|socket| link::settle(socket, name))
    }

    fn strip(&mut self, sandbox: &SandboxId, steps: &[&Step]) {
        let Some(first) = steps.first() else { return };
        let mut socket = match self.enter(sandbox) {
            Ok(socket) => socket,
            // All that was in the sandbox is gone with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(source) => return self.outcome.failures.push(failure(first, source)),
        };
        let path = self.linux.namespace_path(sandbox);
        for step in steps {
            match step.key() {
                Key::Resolver { .. } => {
                    let removed = SandboxTable::open().and_then(|table| table.remove());
                    self.check(step, removed.map_err(io::Error::other));
                }
                Key::Sysctl { path: name, .. } => {
                    self.check(step, pin::forget(&path, name).and_then(|()| sysctl::reset(name)));
                }
                _ => {}
            }
        }
        let requests = undoing(&mut socket, steps);
        self.sandbox_batch(&mut socket, requests);
        if let Some(space) = self.spaces.get_mut(sandbox) {
            space.socket = Some(socket);
        }
    }
}

/// The value that a step leads to; for a removal, the one that goes.
pub(super) fn wanted(step: &Step) -> &Value {
    match step {
        Step::Add(_, value) | Step::Remove(_, value) | Step::Change { to: value, .. } => value,
    }
}

pub(super) fn failure(step: &Step, source: io::Error) -> KernelError {
    let verb = match step {
        Step::Add(..) => "add",
        Step::Change { .. } => "change",
        Step::Remove(..) => "remove",
    };
    kernel_error(verb, step.key().to_string(), source)
}

/// The namespace of a step's object, where that is a sandbox.
pub(super) fn sandbox_of(step: &Step) -> Option<&SandboxId> {
    match step.key() {
        Key::Sysctl { ns, .. } | Key::Address { ns, .. } | Key::Route { ns, .. } => match ns {
            Ns::Sandbox(sandbox) => Some(sandbox),
            Ns::Host => None,
        },
        Key::Resolver { sandbox } => Some(sandbox),
        _ => None,
    }
}
