//! Links on a parent of which the kernel lacks the kind: VLANs (802.1Q) and ipvlan. What they do where it has them is in
//! `vlan` and `ipvlan`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use cnm::LinkKind;
use cnm::link::{IpvlanFlag, IpvlanMode};
use drivers::kernel::link;
use drivers::kernel::netlink::Socket;
use netns_tests::{Host, Lan};

fn vlan() -> LinkKind {
    LinkKind::Vlan { parent: "eth0".parse().unwrap(), id: 100 }
}

fn ipvlan() -> LinkKind {
    let (mode, flag) = (IpvlanMode::L2, IpvlanFlag::Bridge);
    LinkKind::Ipvlan { parent: "eth0".parse().unwrap(), mode, flag }
}

fn has(host: &Host, kind: &LinkKind) -> bool {
    host.run(|| link::knows_kind(&mut Socket::open().unwrap(), kind)).unwrap()
}

#[test]
fn a_kernel_without_the_kind_of_link_is_told_of_when_the_network_is_made() {
    let wanted = [
        (ipvlan(), "-d ipvlan -o parent=eth0 x1", "this kernel cannot do ipvlan interfaces"),
        (
            vlan(),
            "-d macvlan -o parent=eth0.100 x2",
            "this kernel cannot do VLAN interfaces (802.1Q)",
        ),
    ];
    let (_lan, _neighbour, host, daemon) = Lan::with_daemon();
    let before = host.links().len();
    for (kind, words, sentence) in wanted {
        let create = "network create --subnet 10.7.0.0/24 --gateway 10.7.0.1";
        let made = daemon.fails(&format!("{create} {words}"));
        assert_eq!(made.is_none(), has(&host, &kind), "{words}: {made:?}");
        if let Some(refusal) = made {
            assert!(refusal.contains(sentence) && refusal.contains("modprobe"), "{refusal}");
        } else {
            daemon.rnet(&format!("network rm {}", words.rsplit(' ').next().unwrap()));
        }
    }
    assert_eq!(host.links().len(), before, "nothing is left: {:?}", host.links());
}
