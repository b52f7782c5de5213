//! Applying a plan.
//!
//! Steps are grouped by where they go: links of the host in one batch; then for each sandbox, on
//! a thread inside it, its sysctls, its addresses and routes in one batch, and its resolver; all
//! elements in one nf_tables transaction at the end. Removals run first and the other way round;
//! what vanishes with something else that is removed is not removed by itself.
//!
//! What rests on something that could not be made is not tried: an address meant for a link of ours
//! would end on the one that stands in its place.

mod batch;
mod inside;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use cnm::driver::Probe;
use cnm::ground::{Lost, provides, rests_on};
use cnm::{Key, Link, LinkKind, LinkName, Ns, Plan, SandboxId, Step, Value};

use self::batch::{LinkBatch, missing, outer_end, stable_mac};
use super::parts::{Parts, Removals};
use super::requests::{
    Requests, announce, equipment, explained, keep_autoconfiguration, undoing, unlinking,
};
use super::unlink::unlink;
use super::{Linux, forwarding, pin, step as kernel_error};
use crate::kernel::link::{New, PortFlags};
use crate::kernel::netlink::{Refused, Request, Socket};
use crate::kernel::netns::{Netns, Visitor};
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
    probes: &[Probe],
    policy: OnFailure,
    made: &(dyn Fn() + Sync),
) -> Outcome {
    let parts = Parts::of(plan);
    if parts.only_elements() {
        made();
        // In one transaction: what leads elsewhere by another element leads somewhere all the time.
        let steps = [parts.removals.elements, parts.elements].concat();
        let failures = program(linux, &steps).err().into_iter().collect();
        return Outcome { failures, ..Outcome::default() };
    }
    Visitor::send(|visitor| {
        let spaces = BTreeMap::new();
        let (lost, outcome) = Default::default();
        let mut run = Run { linux, visitor, probes, policy, spaces, lost, outcome };
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
    /// What is asked before new endpoints use their addresses.
    probes: &'a [Probe],
    policy: OnFailure,
    spaces: BTreeMap<SandboxId, Space>,
    /// What could not be made.
    lost: Lost,
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
        for (sandbox, addresses) in &parts.addresses {
            self.end_connections(sandbox, addresses);
        }
        for (sandbox, steps) in &parts.sandboxes {
            self.stage(|run| run.strip(sandbox, steps));
        }
        self.stage(|run| run.strip_host(&parts.host));
        self.stage(|run| run.unlink(&parts.links));
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
        self.stage(|run| run.links(&parts.links, &parts.ports));
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
        if let Err(source) = result {
            self.fail(step, source);
        }
    }

    fn fail(&mut self, step: &Step, source: io::Error) {
        if let Step::Add(key, value) = step {
            self.lost.add(key, value);
        }
        let source = explained(self.linux, step, source);
        self.outcome.failures.push(failure(step, source));
    }

    /// The steps that do not rest on something that could not be made.
    fn possible<'p>(&self, steps: &[&'p Step]) -> Vec<&'p Step> {
        let possible = |step: &&&Step| !self.lost.takes_along(step.key(), wanted(step));
        steps.iter().filter(possible).copied().collect()
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
            Err(source) => self.fail(first, source),
        }
    }

    fn report(&mut self, steps: &[&Step], refused: Vec<Refused>) {
        for refused in refused {
            self.fail(steps[refused.index], refused.source);
        }
    }

    /// Links and ports. A port that comes with its link needs no request of its own.
    fn links<'p>(&mut self, steps: &[&'p Step], ports: &BTreeMap<&'p LinkName, &'p Step>) {
        let mut batch = LinkBatch { ports: ports.clone(), ..LinkBatch::default() };
        for step in steps {
            self.stage(|run| {
                run.settle_ground(&mut batch, step);
                if run.lost.takes_along(step.key(), wanted(step)) {
                    return;
                }
                let made = run.link_requests(step, &mut batch);
                run.check(step, made);
            });
        }
        let lone = std::mem::take(&mut batch.ports);
        for (name, step) in &lone {
            self.stage(|run| {
                run.settle_ground(&mut batch, step);
                if run.lost.takes_along(step.key(), wanted(step)) {
                    return;
                }
                let made = run.port_requests(name, step, &mut batch);
                run.check(step, made);
            });
        }
        self.stage(|run| run.host_batch(std::mem::take(&mut batch.requests)));
        self.stage(|run| run.encrypt(&run.possible(steps)));
        self.stage(|run| run.quieten_near_ends(steps));
        for name in lone.keys() {
            // The bridge may be new too, and get its carrier from this port.
            let _ = self.linux.with_socket(|socket| link::settle(socket, name));
        }
    }

    /// Sends what was gathered, if this step or its port rests on something of it: the kernel is
    /// told of links by their numbers, which new ones get when they are made.
    fn settle_ground(&mut self, batch: &mut LinkBatch<'_>, step: &Step) {
        let end = match (step.key(), wanted(step)) {
            (Key::Link { ns, name }, Value::Link(link)) => outer_end(ns, name, link),
            _ => None,
        };
        let port = end.and_then(|end| batch.ports.get(end).copied());
        let awaited = [Some(step), port].into_iter().flatten();
        let awaited = awaited.flat_map(|step| rests_on(step.key(), wanted(step)));
        if awaited.into_iter().any(|ground| batch.awaited.contains(&ground)) {
            self.host_batch(std::mem::take(&mut batch.requests));
            batch.awaited.clear();
        }
        if let Step::Add(key, value) = step {
            batch.awaited.extend(provides(key, value));
        }
    }

    /// The near end of a new pair is a port and nothing else. With an IPv6 address of its own it
    /// would talk to the container, and have routes that the kernel goes through whenever a link
    /// comes or goes.
    fn quieten_near_ends(&mut self, steps: &[&Step]) {
        for step in self.possible(steps) {
            if let Step::Add(_, Value::Link(link)) = step
                && let Some(peer) = link.kind.peer()
            {
                self.check(step, self.linux.links.disable_ipv6(peer));
            }
        }
    }

    fn link_requests<'p>(&mut self, step: &'p Step, batch: &mut LinkBatch<'p>) -> io::Result<()> {
        let (Key::Link { ns, name }, Value::Link(link)) = (step.key(), wanted(step)) else {
            return Ok(());
        };
        let added = matches!(step, Step::Add(..));
        let end = outer_end(ns, name, link);
        let port = end.filter(|_| added).and_then(|end| batch.ports.remove(end));
        let (mut bridge, mut flags) = (None, None);
        if let Some(port @ Value::Port { bridge: of, .. }) = port.map(wanted) {
            bridge = Some(self.index(of, batch)?);
            flags = PortFlags::of(port);
        }
        let mtu = self.mtu(link)?;
        if added && let LinkKind::Moved { from } = &link.kind {
            let found = self.linux.with_socket(|socket| link::find(socket, from))?;
            let mac = link.mac.filter(|mac| found.mac != Some(*mac));
            let Ns::Sandbox(sandbox) = ns else { return Ok(()) };
            let netns = self.space(sandbox)?.netns.as_fd();
            batch.requests.push((step, link::move_to(found.index, name, netns, mac)));
        } else if added {
            let parent = link.kind.parent().map(|parent| self.parent(parent, batch)).transpose()?;
            let mac = link.mac.or_else(|| stable_mac(ns, link));
            let name = &self.first_name(ns, name, link)?;
            let netns = match ns {
                // The request has the number of the descriptor only; the cache keeps it open.
                Ns::Sandbox(sandbox) => Some(self.space(sandbox)?.netns.as_fd()),
                Ns::Host => None,
            };
            let new = New { name, kind: &link.kind, mac, mtu, netns, parent, bridge };
            batch.requests.push((step, link::create(&new)));
        }
        if let (Step::Change { .. }, LinkKind::Vxlan { vni, local, .. }) = (step, &link.kind) {
            batch.requests.push((step, link::relocate(name, *vni, *local)));
        }
        let Some(end) = end else { return Ok(()) };
        let far = match ns {
            Ns::Sandbox(sandbox) => Some((sandbox.clone(), name.clone())),
            Ns::Host => None,
        };
        let tag = Tag { owner: link.tag.clone(), far, from: None };
        let alias = tag.alias(&self.linux.config.tag);
        let dress = link::dress(end, alias, mtu, flags);
        batch.requests.push((port.unwrap_or(step), dress));
        Ok(())
    }

    /// What a new link is called until it is where it belongs. One that a crash left there goes.
    fn first_name(&mut self, ns: &Ns, name: &LinkName, link: &Link) -> io::Result<LinkName> {
        let (Ns::Sandbox(sandbox), Some(_)) = (ns, link.kind.parent()) else {
            return Ok(name.clone());
        };
        let first = link::provisional(name)?;
        let mut inside = self.enter(sandbox)?;
        let refused = inside.batch(&[link::remove(&first)]).pop();
        self.space(sandbox)?.socket = Some(inside);
        refused.map_or(Ok(first), |refused| Err(refused.source))
    }

    fn port_requests<'p>(
        &mut self,
        name: &LinkName,
        step: &'p Step,
        batch: &mut LinkBatch<'p>,
    ) -> io::Result<()> {
        let Value::Port { bridge, .. } = wanted(step) else { return Ok(()) };
        let index = self.index(bridge, batch)?;
        batch.requests.push((step, link::set_bridge(name, index)));
        let flags = PortFlags::of(wanted(step));
        batch.requests.extend(flags.map(|flags| (step, link::set_port(name, flags))));
        Ok(())
    }

    /// The number of a link of the host.
    fn index(&self, name: &LinkName, batch: &mut LinkBatch<'_>) -> io::Result<u32> {
        if let Some(index) = batch.indexes.get(name) {
            return Ok(*index);
        }
        let index = self.linux.with_socket(|socket| link::index(socket, name))?;
        batch.indexes.insert(name.clone(), index);
        Ok(index)
    }

    /// The number of the link of the host that another one is to be on.
    fn parent(&self, name: &LinkName, batch: &mut LinkBatch<'_>) -> io::Result<u32> {
        self.index(name, batch).map_err(|error| missing(name, error))
    }

    /// The MTU of a link in bytes. A link that is on another one has that one's, if it has none of its
    /// own.
    fn mtu(&self, link: &Link) -> io::Result<u32> {
        match link.kind.parent() {
            Some(parent) if link.mtu.is_none() => {
                let found = self.linux.with_socket(|socket| link::find(socket, parent));
                found.map(|found| found.mtu).map_err(|error| missing(parent, error))
            }
            _ => Ok(link.mtu.unwrap_or(link::DEFAULT_MTU)),
        }
    }

    fn equip_host(&mut self, steps: &[&Step]) {
        let steps = &self.possible(steps)[..];
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
        self.encrypt(steps);
        self.shortcuts(steps);
        if let Err(error) = announce(self.linux, self.visitor, steps) {
            tracing::warn!(%error, "endpoints may send to the last owners of addresses for a while");
        }
    }

    fn shortcuts(&mut self, steps: &[&Step]) {
        let linux = self.linux;
        let failed = linux.with_socket(|socket| Ok(linux.shortcuts.apply(socket, steps)));
        for (step, source) in failed.unwrap_or_default() {
            self.fail(step, source);
        }
    }

    /// Keys and peers of links that encrypt.
    fn encrypt(&mut self, steps: &[&Step]) {
        for (step, source) in self.linux.encrypt(steps) {
            self.fail(step, source);
        }
    }

    fn strip_host(&mut self, steps: &[&Step]) {
        self.shortcuts(steps);
        self.encrypt(steps);
        for step in steps {
            if let Key::Sysctl { path, .. } = step.key()
                && !sysctl::is_shared(path)
            {
                let reset = self.visitor.enter(&self.linux.host);
                self.check(step, reset.and_then(|()| sysctl::reset(path)));
            }
        }
        let requests = self
            .linux
            .with_socket(|socket| Ok(undoing(socket, &Ns::Host, steps, &self.linux.host)));
        self.host_batch(requests.unwrap_or_default());
    }

    /// Takes ports out of their bridges, and removes links.
    fn unlink(&mut self, steps: &[&Step]) {
        let (ports, links): (Vec<&Step>, Vec<&Step>) =
            steps.iter().partition(|step| matches!(step.key(), Key::Port { .. }));
        let requests = ports.iter().flat_map(|step| {
            unlinking(step, &Ns::Host).into_iter().map(move |request| (*step, request))
        });
        self.host_batch(requests.collect());
        let ends = links.iter().flat_map(|step| {
            let remains = wanted(step).remains(step.key()).into_iter();
            remains.filter(|(ns, _)| *ns == Ns::Host).map(move |(_, name)| (*step, name))
        });
        let (steps, names): (Vec<_>, Vec<_>) = ends.unzip();
        let Some(first) = steps.first() else { return };
        let entered = self.visitor.enter(&self.linux.host);
        match entered.and_then(|()| unlink(&self.linux.sockets, &names)) {
            Ok(refused) => self.report(&steps, refused),
            Err(source) => self.fail(first, source),
        }
    }

    fn write_host_sysctl(&mut self, path: &str, value: &str) -> io::Result<()> {
        self.visitor.enter(&self.linux.host)?;
        if sysctl::is_shared(path) && value != "0" {
            forwarding::close_others(self.linux, path)?;
        }
        if path == sysctl::FORWARDING[1] {
            self.linux.with_socket(keep_autoconfiguration)?;
        }
        sysctl::write(path, value)
    }

    // === Sandboxes ===
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
