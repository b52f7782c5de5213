//! Links that a distribution's kernel has and that of a cloud may lack: ipvlan and VLANs.
//!
//! Everything here is ignored where the kernel lacks them; `make test-vm` has one that does not.

#![expect(clippy::unwrap_used, reason = "a test")]

use cnm::link::{IpvlanFlag, IpvlanMode};
use cnm::{Key, Link, LinkKind, Ns, SandboxId, State, Value, diff};
use drivers::kernel::{Kernel, reconcile};
use netns_tests::{Host, Lab, wait_until};

const VLAN: &str = "lan0.100";
const PORT: u16 = 80;

fn link(ns: &Ns, name: &str, kind: LinkKind) -> (Key, Value) {
    let key = Key::Link { ns: ns.clone(), name: name.parse().unwrap() };
    let tag = format!("test/{name}");
    (key, Value::Link(Link { kind, mac: None, mtu: None, up: true, tag }))
}

fn vlan(parent: &str, id: u16) -> LinkKind {
    LinkKind::Vlan { parent: parent.parse().unwrap(), id }
}

fn sandbox(number: u8) -> SandboxId {
    SandboxId::from_random([number; 32])
}

/// Two sandboxes with a link each on a VLAN of the host, and addresses of both families.
fn on_a_vlan(mode: IpvlanMode, flag: IpvlanFlag) -> State {
    let mut state = State::from_iter([link(&Ns::Host, VLAN, vlan("lan0", 100))]);
    for number in [1, 2] {
        let sandbox = sandbox(number);
        let ns = Ns::Sandbox(sandbox.clone());
        state.insert(Key::Namespace { sandbox }, Value::Present);
        let kind = LinkKind::Ipvlan { parent: VLAN.parse().unwrap(), mode, flag };
        state.extend([link(&ns, "eth0", kind)]);
        for address in [format!("10.9.0.{number}/24"), format!("fd09::{number}/64")] {
            let (ns, link) = (ns.clone(), "eth0".parse().unwrap());
            let key = Key::Address { ns, link, address: address.parse().unwrap() };
            state.insert(key, Value::Present);
        }
    }
    state
}

/// What is made is what is observed; the sysctls of new links are the kernel's choice.
fn settle(kernel: &dyn Kernel, desired: &State) -> State {
    reconcile(kernel, desired).unwrap();
    let observed = kernel.observe().unwrap().into_iter();
    let sysctls = observed.filter(|(key, _)| matches!(key, Key::Sysctl { .. }));
    desired.clone().into_iter().chain(sysctls).collect()
}

fn is_whole(kernel: &dyn Kernel, desired: &State, when: &str) {
    let plan = diff(&kernel.observe().unwrap(), desired);
    assert!(plan.is_empty(), "{when}: {plan}");
}

const MODES: [IpvlanMode; 3] = [IpvlanMode::L2, IpvlanMode::L3, IpvlanMode::L3s];
const FLAGS: [IpvlanFlag; 3] = [IpvlanFlag::Bridge, IpvlanFlag::Private, IpvlanFlag::Vepa];

#[test]
#[ignore = "needs a kernel with ipvlan and 802.1q: make test-vm"]
fn every_mode_and_flag_of_ipvlan_on_a_vlan_is_made_recognised_and_removed() {
    let lab = Lab::new();
    let kernel = lab.open();
    for mode in MODES {
        for flag in FLAGS {
            let desired = settle(&kernel, &on_a_vlan(mode, flag));
            is_whole(&kernel, &desired, &format!("{mode:?} {flag:?}"));
            reconcile(&kernel, &State::default()).unwrap();
            assert!(kernel.observe().unwrap().is_empty(), "{mode:?} {flag:?}");
            assert!(lab.host.link(VLAN).is_none());
        }
    }
}

#[test]
#[ignore = "needs a kernel with ipvlan and 802.1q: make test-vm"]
fn another_mode_or_vlan_is_reached_from_the_one_that_is_there() {
    let lab = Lab::new();
    let kernel = lab.open();
    settle(&kernel, &on_a_vlan(IpvlanMode::L2, IpvlanFlag::Bridge));
    let desired = settle(&kernel, &on_a_vlan(IpvlanMode::L3s, IpvlanFlag::Private));
    is_whole(&kernel, &desired, "another mode");
    let mut moved = on_a_vlan(IpvlanMode::L3s, IpvlanFlag::Private);
    moved.extend([link(&Ns::Host, VLAN, vlan("lan0", 101))]);
    let desired = settle(&kernel, &moved);
    is_whole(&kernel, &desired, "another VLAN, with what is on it");
}

#[test]
#[ignore = "needs a kernel with ipvlan and 802.1q: make test-vm"]
fn what_others_remove_comes_back_with_all_that_was_on_it() {
    let lab = Lab::new();
    let kernel = lab.open();
    let desired = settle(&kernel, &on_a_vlan(IpvlanMode::L2, IpvlanFlag::Bridge));
    let inside = lab.sandbox(&kernel, &sandbox(1));
    for (who, host, name) in
        [("a link", &inside, "eth0"), ("a VLAN", &lab.host, VLAN), ("an end", &lab.host, VLAN)]
    {
        remove(host, name);
        assert!(host.link(name).is_none(), "{who}");
        reconcile(&kernel, &desired).unwrap();
        is_whole(&kernel, &desired, who);
    }
}

#[test]
#[ignore = "needs a kernel with ipvlan and 802.1q: make test-vm"]
fn sandboxes_on_a_vlan_reach_each_other_and_who_is_on_the_same_vlan_elsewhere() {
    let lab = Lab::new();
    let kernel = lab.open();
    settle(&kernel, &on_a_vlan(IpvlanMode::L2, IpvlanFlag::Bridge));
    let [one, two] = [1, 2].map(|number| lab.sandbox(&kernel, &sandbox(number)));
    tagged(&lab.client, "eth0", 100, "9");
    let (_elsewhere, _near) = (lab.client.serve(PORT), two.serve(PORT));
    for address in Lab::both(["10.9.0.2", "fd09::2"]) {
        wait_until("a neighbour answers", || one.tcp(address, PORT).is_ok());
    }
    for address in Lab::both(["10.9.0.9", "fd09::9"]) {
        wait_until("another machine answers", || one.tcp(address, PORT).is_ok());
    }
    // The same machine on another VLAN has the address, too, and is not reached.
    remove(&lab.client, "eth0.100");
    tagged(&lab.client, "eth0", 101, "9");
    for address in Lab::both(["10.9.0.9", "fd09::9"]) {
        assert!(one.is_cut_off_from((address, PORT).into()), "{address}");
    }
}

/// A VLAN's link of a host, with addresses that end so.
fn tagged(host: &Host, parent: &str, id: u16, last: &str) {
    let name = format!("{parent}.{id}");
    ip(host, &format!("link add link {parent} name {name} up type vlan id {id}"));
    ip(host, &format!("addr add 10.9.0.{last}/24 dev {name}"));
    ip(host, &format!("addr add fd09::{last}/64 dev {name} nodad"));
}

fn remove(host: &Host, name: &str) {
    ip(host, &format!("link del {name}"));
}

fn ip(host: &Host, words: &str) {
    let status = host.run(|| std::process::Command::new("ip").args(words.split(' ')).status());
    assert!(status.unwrap().success(), "ip {words}");
}
