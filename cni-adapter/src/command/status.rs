//! STATUS: whether an ADD could succeed. It is tried, on a host of its own that is gone afterwards.

use std::net::IpAddr;
use std::path::Path;

use cnm::{
    Element, Key, Link, LinkKind, LinkName, Mac, Ns, Protocol, SandboxId, State, Value, diff,
};
use drivers::kernel::{Kernel, KernelError, Linux, Netns};

use crate::result::{Code, Failure};
use crate::standalone::{kernel_config, lock};

/// Fails unless networks can be made here.
pub(crate) fn status(directory: &Path) -> Result<(), Failure> {
    let unavailable = |failure: Failure| {
        Failure::new(Code::NotAvailable, "rnet-cni cannot work here", failure.to_string())
    };
    let _lock = lock(directory).map_err(unavailable)?;
    let host = Netns::create().map_err(|source| KernelError::Step {
        verb: "create",
        object: "a network namespace".to_owned(),
        source,
    });
    let tried = host.and_then(|host| {
        let tried = host.run(|| attempt(directory));
        let entered = |source| KernelError::Step {
            verb: "enter",
            object: "a network namespace".to_owned(),
            source,
        };
        tried.map_err(entered)?
    });
    tried.map_err(|error| unavailable(error.into()))
}

/// Makes one of each thing that an ADD may need.
fn attempt(directory: &Path) -> Result<(), KernelError> {
    let kernel = Linux::open(kernel_config(directory))?;
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap_or_else(|error| unreachable!("{error}"));
    let state = sample(SandboxId::from_random(bytes));
    let applied = kernel.apply(&diff(&State::default(), &state));
    let mut removed = kernel.dismantle(&diff(&state, &State::default())).into_iter();
    applied.and_then(|()| removed.next().map_or(Ok(()), Err))
}

fn sample(sandbox: SandboxId) -> State {
    let name = |text: &str| -> LinkName {
        text.parse().unwrap_or_else(|_| unreachable!("{text} is a name"))
    };
    let [bridge, link, inner] = ["rnet-probe", "rnet-probe0", "eth0"].map(name);
    let inside = Ns::Sandbox(sandbox.clone());
    let host = IpAddr::from([0; 4]);
    let element = |host| Element::Published { host, protocol: Protocol::Tcp, port: 80 };
    let made = |kind, mac, tag: &str| {
        Value::Link(Link { kind, mac, mtu: None, up: true, tag: format!("status/{tag}") })
    };
    let mac = Some(Mac::from_random([7; 6]));
    State::from_iter([
        (Key::Namespace { sandbox }, Value::Present),
        (Key::Link { ns: Ns::Host, name: bridge.clone() }, made(LinkKind::Bridge, None, "bridge")),
        (
            Key::Link { ns: inside, name: inner },
            made(LinkKind::Veth { peer: link.clone() }, mac, "pair"),
        ),
        (Key::Port { link }, Value::Port { bridge, isolated: true, hairpin: true, tunnel: false }),
        (
            Key::Element(element(host)),
            Value::Target { address: IpAddr::from([192, 0, 2, 2]), port: 80 },
        ),
    ])
}
