//! The half of a plan that is inside of sandboxes: their namespaces, links, addresses and sysctls.

use std::io;
use std::net::IpAddr;

use cnm::driver::Probe;
use cnm::ground::link_of;
use cnm::{Key, Mac, Ns, SandboxId, Step, Value};

use super::super::parts::SandboxPart;
use super::super::pin;
use super::super::requests::{Requests, announcement, equipment, inner_end, undoing};
use super::{Run, Space, kernel_error, wanted};
use crate::kernel::netlink::Socket;
use crate::kernel::netns::Netns;
use crate::kernel::nft::SandboxTable;
use crate::kernel::tag::Tag;
use crate::kernel::{KernelError, link, probe as kernel_probe, sockets, sysctl};

impl Run<'_> {
    pub(super) fn space(&mut self, sandbox: &SandboxId) -> io::Result<&mut Space> {
        if !self.spaces.contains_key(sandbox) {
            let netns = Netns::open(self.linux.namespace_path(sandbox))?;
            self.spaces.insert(sandbox.clone(), Space { netns, socket: None });
        }
        self.spaces.get_mut(sandbox).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Goes into a sandbox and takes its socket out of the cache.
    pub(super) fn enter(&mut self, sandbox: &SandboxId) -> io::Result<Socket> {
        let netns = self.space(sandbox)?.netns.try_clone()?;
        self.visitor.enter(&netns)?;
        match self.space(sandbox)?.socket.take() {
            Some(socket) => Ok(socket),
            None => Socket::open(),
        }
    }

    pub(super) fn create_namespace(&mut self, step: &Step) -> io::Result<()> {
        let Key::Namespace { sandbox } = step.key() else { return Ok(()) };
        let path = self.linux.namespace_path(sandbox);
        let offered = self.linux.take_offered(sandbox);
        let netns = match &offered {
            Some(offered) => {
                self.visitor.enter(&offered.network)?;
                offered.network.try_clone()?
            }
            None => self.visitor.create()?,
        };
        let mut socket = Socket::open()?;
        if let Some(refused) = socket.batch(&[link::switch_on_loopback()]).pop() {
            return Err(refused.source);
        }
        if let Some(offered) = offered {
            // Before the other: who finds that one finds this one too.
            pin::pin(&offered.user, &pin::user(&path))?;
        }
        pin::pin(&netns, &path)?;
        self.spaces.insert(sandbox.clone(), Space { netns, socket: Some(socket) });
        Ok(())
    }

    pub(super) fn equip(&mut self, sandbox: &SandboxId, part: &SandboxPart<'_>) {
        let (links, steps) = (self.possible(&part.links), self.possible(&part.steps));
        // A link that could not be made is lost itself, not only what rests on it.
        let made = |step: &&Step| !self.lost.holds(step.key(), wanted(step));
        let part = &SandboxPart { links: links.into_iter().filter(made).collect(), steps };
        let Some(first) = part.links.iter().chain(&part.steps).next() else { return };
        let mut socket = match self.enter(sandbox) {
            Ok(socket) => socket,
            Err(source) => return self.fail(first, source),
        };
        let path = self.linux.namespace_path(sandbox);
        self.stage(|run| run.name_links(&mut socket, &part.links));
        self.stage(|run| {
            // What is said of all interfaces reaches those that are there: it goes before what is
            // said of one.
            let (of_one, of_all): (Vec<&Step>, Vec<&Step>) =
                part.steps.iter().copied().partition(|step| is_of_one_interface(step));
            for step in of_all.into_iter().chain(of_one) {
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

    /// Links that were made under another name get their own.
    fn name_links(&mut self, socket: &mut Socket, links: &[&Step]) {
        for step in links {
            let Step::Add(Key::Link { name, .. }, Value::Link(new)) = step else { continue };
            if new.kind.parent().is_none() {
                continue;
            }
            let found = link::provisional(name).and_then(|first| link::find(socket, &first));
            let named = found.and_then(|found| {
                let alias = Tag::of(new).alias(&self.linux.config.tag);
                let refused = socket.batch(&[link::name_and_mark(found.index, name, alias)]).pop();
                refused.map_or(Ok(()), |refused| Err(refused.source))
            });
            self.check(step, named);
        }
    }

    /// The links go up and get their addresses and routes, and transmit when this returns. What others
    /// may have is asked for in between.
    fn equip_links(&mut self, socket: &mut Socket, part: &SandboxPart<'_>) {
        let (requests, failures) = equipment(socket, &part.steps);
        self.outcome.failures.extend(failures);
        let mut all = self.switching_on(part);
        let sandbox = part.links.first().and_then(|step| step.key().sandbox());
        let asked = |probe: &&Probe| sandbox == Some(&probe.sandbox);
        let probes: Vec<_> = self.probes.iter().filter(asked).collect();
        if !probes.is_empty() {
            self.sandbox_batch(socket, std::mem::take(&mut all));
            self.stage(|run| run.settle_all(socket, part));
            self.stage(|run| run.ask(socket, &probes));
        }
        self.stage(|run| {
            all.extend(requests);
            run.sandbox_batch(socket, all);
        });
        self.stage(|run| run.settle_all(socket, part));
        self.stage(|run| {
            let links = part.links.iter().filter(|step| !part.knows_neighbours_of(step));
            let requests: Vec<_> = links.filter_map(|step| announcement(step)).collect();
            // The socket is of this namespace, whoever uses it later.
            match (requests.is_empty(), Socket::open()) {
                (true, _) => {}
                (false, Ok(socket)) => run.outcome.announcements.0.push((socket, requests)),
                (false, Err(error)) => tracing::warn!(%error, "cannot announce addresses"),
            }
        });
    }

    /// The requests that switch links on.
    fn switching_on<'p>(&mut self, part: &SandboxPart<'p>) -> Requests<'p> {
        let linux = self.linux;
        let prefix = &linux.config.tag;
        let mut all = Requests::new();
        for step in &part.links {
            let Value::Link(link) = wanted(step) else { continue };
            match self.mtu(link) {
                Ok(mtu) => all.extend(inner_end(step, prefix, mtu).map(|up| (*step, up))),
                Err(source) => self.fail(step, source),
            }
        }
        all
    }

    fn settle_all(&mut self, socket: &mut Socket, part: &SandboxPart<'_>) {
        for step in &part.links {
            let settled = self.settle(socket, step);
            self.check(step, settled);
        }
    }

    /// Asks whether somebody has the addresses of new endpoints already.
    fn ask(&mut self, inside: &mut Socket, probes: &[&Probe]) {
        for probe in probes {
            let Probe { by: (ns, link), addresses, wait, .. } = probe;
            let asked = match ns {
                Ns::Sandbox(_) => link::index(inside, link)
                    .and_then(|index| kernel_probe::owner(inside, index, addresses, *wait)),
                Ns::Host => self.ask_from_host(probe),
            };
            let own = self.linux.own_address(addresses);
            match (asked, own) {
                (_, Ok(Some(address))) => {
                    let by = "it is one of this host's own".to_owned();
                    self.outcome.failures.push(KernelError::Taken { address, by });
                }
                (Ok(Some((address, mac))), _) => {
                    let by = format!("{mac} has it on the network that {link} is on");
                    self.outcome.failures.push(KernelError::Taken { address, by });
                }
                (Ok(None), Ok(None)) => {}
                (Err(error), _) | (_, Err(error)) => {
                    let object = format!("the neighbours of {link} who has the addresses");
                    self.outcome.failures.push(kernel_error("ask", object, error));
                }
            }
        }
    }

    fn ask_from_host(&mut self, probe: &Probe) -> io::Result<Option<(IpAddr, Mac)>> {
        let Probe { by: (_, link), addresses, wait, .. } = probe;
        let back = self.space(&probe.sandbox)?.netns.try_clone()?;
        self.visitor.enter(&self.linux.host)?;
        let asked = self.linux.with_socket(|socket| {
            let index = link::index(socket, link)?;
            kernel_probe::owner(socket, index, addresses, *wait)
        });
        self.visitor.enter(&back)?;
        asked
    }

    fn sandbox_batch(&mut self, socket: &mut Socket, requests: Requests<'_>) {
        let (steps, requests): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
        let refused = socket.batch(&requests);
        self.report(&steps, refused);
    }

    /// Lets a new link transmit, at both ends.
    fn settle(&self, inside: &mut Socket, step: &Step) -> io::Result<()> {
        let Step::Add(Key::Link { name, .. }, Value::Link(link)) = step else { return Ok(()) };
        link::settle(inside, name)?;
        match link.kind.peer() {
            Some(peer) => self.linux.with_socket(|socket| link::settle(socket, peer)),
            None => Ok(()),
        }
    }

    /// Ends the connections of addresses that a sandbox loses, while there is still a way to the other
    /// ends. Where that cannot be, they hang as they would have.
    pub(super) fn end_connections(&mut self, sandbox: &SandboxId, addresses: &[IpAddr]) {
        let ended = self
            .space(sandbox)
            .and_then(|space| space.netns.try_clone())
            .and_then(|netns| self.visitor.enter(&netns))
            .and_then(|()| sockets::reset(addresses));
        let sandbox = sandbox.short();
        match ended {
            Ok(connections) => tracing::debug!(sandbox, connections, "ended"),
            Err(error) => tracing::debug!(sandbox, %error, "connections cannot be ended"),
        }
    }

    pub(super) fn strip(&mut self, sandbox: &SandboxId, steps: &[&Step]) {
        let Some(first) = steps.first() else { return };
        let mut socket = match self.enter(sandbox) {
            Ok(socket) => socket,
            // All that was in the sandbox is gone with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(source) => return self.fail(first, source),
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
        let requests = undoing(&mut socket, &Ns::Sandbox(sandbox.clone()), steps, &self.linux.host);
        self.sandbox_batch(&mut socket, requests);
        if let Some(space) = self.spaces.get_mut(sandbox) {
            space.socket = Some(socket);
        }
    }
}

fn is_of_one_interface(step: &Step) -> bool {
    matches!(step.key(), Key::Sysctl { path, .. } if link_of(path).is_some())
}
