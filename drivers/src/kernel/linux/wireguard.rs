//! Links that encrypt, on the real kernel: their keys, and what is observed of them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use cnm::wireguard::{PORT, PublicKey};
use cnm::{Key, LinkKind, LinkName, State, Step, Value};

use super::apply::wanted;
use super::{Linux, failed};
use crate::kernel::link::{self, DEFAULT_MTU, Link, New};
use crate::kernel::netlink::errno;
use crate::kernel::wireguard::{Device, Encryption, PrivateKey};
use crate::kernel::{KernelError, netlink::Socket};

/// A link that is there for as long as it takes to have the kernel say what belongs to a private key.
const FOR_A_MOMENT: &str = "rnet-wg-key";

/// The key of this host's links.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Option<(PrivateKey, PublicKey)>>);

impl Linux {
    /// Has links that encrypt use this key from now on; the public half of it. Fails where the kernel has
    /// no such links.
    pub fn hold_key(&self, key: PrivateKey) -> Result<PublicKey, KernelError> {
        let kind = LinkKind::WireGuard { key: PublicKey::from([0; 32]), port: PORT };
        self.supports(std::slice::from_ref(&kind))?;
        let public = self.with_socket(|socket| self.public_half(socket, &kind, &key));
        let public = public.map_err(failed("use", "a key"))?;
        *self.held.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((key, public));
        Ok(public)
    }

    fn public_half(
        &self,
        socket: &mut Socket,
        kind: &LinkKind,
        key: &PrivateKey,
    ) -> io::Result<PublicKey> {
        let name: LinkName = FOR_A_MOMENT.parse().map_err(io::Error::other)?;
        let (mac, netns, parent, bridge) = Default::default();
        let new = New { name: &name, kind, mac, mtu: DEFAULT_MTU, netns, parent, bridge };
        // One may have been left by who was killed here.
        let mut refused = socket.batch(&[link::remove(&name), link::create(&new)]);
        let told = match refused.pop() {
            Some(refused) => Err(refused.source),
            None => self.host.run(|| {
                let mut encryption = Encryption::open()?;
                // It is down, and listens nowhere.
                encryption.set_key(&name, key, 0)?;
                encryption.device(&name)
            })?,
        };
        socket.batch(&[link::remove(&name)]);
        told?.key.ok_or_else(|| io::Error::other("the kernel takes it for none"))
    }

    /// Tells links and peers among the steps what they are to be told; returns the steps that failed.
    pub(super) fn encrypt<'p>(&self, steps: &[&'p Step]) -> Vec<(&'p Step, io::Error)> {
        let ours = |step: &&&Step| {
            let is_link = wanted(step).link().is_some_and(|link| is_encrypting(&link.kind));
            matches!(step.key(), Key::Peer { .. }) || (is_link && !matches!(step, Step::Remove(..)))
        };
        let steps: Vec<_> = steps.iter().filter(ours).copied().collect();
        let Some(first) = steps.first() else { return Vec::new() };
        let done = self.host.run(|| {
            let mut encryption = Encryption::open()?;
            let tell = |step: &'p Step| Some((step, self.tell(&mut encryption, step).err()?));
            Ok(steps.iter().copied().filter_map(tell).collect())
        });
        done.flatten().unwrap_or_else(|error| vec![(*first, error)])
    }

    fn tell(&self, encryption: &mut Encryption, step: &Step) -> io::Result<()> {
        match (step.key(), wanted(step)) {
            (Key::Peer { link, key }, _) if matches!(step, Step::Remove(..)) => {
                encryption.remove_peer(link, key)
            }
            (Key::Peer { link, key }, Value::Remote(remote)) => {
                encryption.set_peer(link, key, remote)
            }
            (Key::Link { name, .. }, Value::Link(link)) => {
                let LinkKind::WireGuard { key, port } = link.kind else { return Ok(()) };
                self.give_key(encryption, name, key, port)
            }
            _ => Ok(()),
        }
    }

    fn give_key(
        &self,
        encryption: &mut Encryption,
        link: &LinkName,
        wanted: PublicKey,
        port: u16,
    ) -> io::Result<()> {
        let held = self.held.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((key, _)) = held.as_ref().filter(|(_, public)| *public == wanted) else {
            return Err(io::Error::other(format!("nobody has the private half of {wanted}")));
        };
        encryption.set_key(link, key, port).map_err(|error| match errno(&error) {
            Some(libc::EADDRINUSE) => io::Error::new(
                error.kind(),
                format!("another program has UDP port {port}, which WireGuard needs: end it"),
            ),
            _ => error,
        })
    }
}

/// What links that encrypt were told, among links of ours on the host that the calling thread is on.
pub(super) fn devices<'a>(
    links: impl Iterator<Item = &'a Link>,
) -> io::Result<BTreeMap<u32, Device>> {
    let links: Vec<_> = links.filter(|link| link::is_wireguard(link)).collect();
    if links.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut encryption = Encryption::open()?;
    let mut devices = BTreeMap::new();
    for link in links {
        let Ok(name) = link.name.parse() else { continue };
        match encryption.device(&name) {
            Ok(device) => drop(devices.insert(link.index, device)),
            // It went meanwhile.
            Err(error) if errno(&error) == Some(libc::ENODEV) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(devices)
}

/// What kind of link it is. One without a key has one of noughts.
pub(super) fn kind(device: &Device) -> LinkKind {
    let key = device.key.unwrap_or_else(|| PublicKey::from([0; 32]));
    LinkKind::WireGuard { key, port: device.port }
}

/// Reports the peers of a link.
pub(super) fn report(link: &Link, device: &Device, state: &mut State) {
    let Ok(name) = link.name.parse::<LinkName>() else { return };
    state.extend(
        device
            .peers
            .iter()
            .map(|(key, value)| (Key::Peer { link: name.clone(), key: *key }, value.clone())),
    );
}

fn is_encrypting(kind: &LinkKind) -> bool {
    matches!(kind, LinkKind::WireGuard { .. })
}
