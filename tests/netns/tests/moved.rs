//! A link that somebody else made, in a sandbox of ours and back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use cnm::{Key, Link, LinkKind, Ns, SandboxId, State, Value, diff};
use drivers::kernel::{Kernel, reconcile};
use netns_tests::{Host, Lab};

fn desired(sandbox: &SandboxId) -> State {
    let ns = Ns::Sandbox(sandbox.clone());
    let link = Link {
        kind: LinkKind::Moved { from: "tap7".parse().unwrap() },
        mac: Some("02:00:00:00:00:07".parse().unwrap()),
        mtu: None,
        up: true,
        tag: "endpoint/7".to_owned(),
    };
    let name = "eth0".parse().unwrap();
    let mut state: State = [
        (Key::Namespace { sandbox: sandbox.clone() }, Value::Present),
        (Key::Link { ns: ns.clone(), name }, Value::Link(link)),
    ]
    .into_iter()
    .collect();
    let link: cnm::LinkName = "eth0".parse().unwrap();
    for address in ["10.7.0.2/24", "fd07::2/64"] {
        let (ns, link, address) = (ns.clone(), link.clone(), address.parse().unwrap());
        state.insert(Key::Address { ns, link, address }, Value::Present);
    }
    for (path, value) in
        drivers::kernel::sysctl::of_interface(&link).into_iter().zip("11000".chars())
    {
        let key = Key::Sysctl { ns: ns.clone(), path };
        state.insert(key, Value::Text(value.to_string()));
    }
    // The gateway is behind a route, which has to be there first whatever its name is.
    for (destination, via) in [("0.0.0.0/0", Some("192.0.2.1")), ("192.0.2.1/32", None)] {
        let (ns, link) = (ns.clone(), link.clone());
        let destination = destination.parse().unwrap();
        let via = via.map(|via| via.parse().unwrap());
        state.insert(Key::Route { ns, destination }, Value::Route { link, via });
    }
    state
}

#[test]
fn a_link_of_somebody_else_is_moved_seen_and_given_back_as_it_was() {
    let lab = Lab::new();
    let kernel = lab.open();
    let maker = Host::new();
    lab.host.connect("tap7", &maker, "peer");
    let sandbox = SandboxId::from_random([7; 32]);
    let desired = desired(&sandbox);
    reconcile(&kernel, &desired).unwrap();
    assert!(lab.host.link("tap7").is_none());
    let inside = lab.sandbox(&kernel, &sandbox);
    assert_eq!(inside.link("eth0").unwrap().mac.unwrap().to_string(), "02:00:00:00:00:07");
    drop(kernel);
    // The next daemon sees it for what it is, whatever its maker makes of its MTU.
    let another = lab.open();
    assert!(reconcile(&another, &desired).unwrap().is_empty());
    let observed = another.observe().unwrap();
    assert!(another.dismantle(&diff(&observed, &State::default())).is_empty());
    let back = lab.host.link("tap7").unwrap();
    assert!(back.alias.unwrap_or_default().is_empty());
    assert!(!back.up);
    assert_eq!(lab.pinned(), 0);
    // A link that is not there is an error that names it.
    drop(maker);
    netns_tests::wait_until("the pair is gone", || lab.host.link("tap7").is_none());
    let error = reconcile(&another, &desired).unwrap_err().to_string();
    assert!(error.contains("link eth0"), "{error}");
}
