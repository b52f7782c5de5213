//! `docs/networks/isolation.md`: who reaches what, tried from everywhere. The page is what is expected.
//!
//! `UPDATE=1 cargo test -p netns-tests --test isolation` writes it anew.

use std::path::Path;

use netns_tests::matrix::{Engine, Page, knows_br_netfilter, measure};
use netns_tests::{Daemon, Lab};

const HEAD: &str = "\
# Who reaches what

<!-- The tables are made by tests/netns/tests/isolation.rs (UPDATE=1), and are what it expects. -->

Every cell was tried on a real kernel, over TCP and UDP, with `br_netfilter` off and on. Where the two
differ, or one port is reached by one of the protocols only, the cell says so.

A container that is tried has three ports: one that is **published** on all addresses of the host, one that is
published on the host's localhost (**local**), and one that is **unpublished**. A cell names those that are
reached: `yes` are all, `no` is none. `·` is where there is no such address.

| Word | What it is |
|---|---|
| the same network | another container on the network |
| a bridge, an internal, an isolated network | a container on another network of that kind |
| outside | a machine on the host's LAN that knows no route to the containers |
| outside with a route | one that sends through the host what is for containers |
| a network whose containers do not talk | `com.docker.network.bridge.enable_icc=false` |
| a routed, an unprotected, an isolated network | gateway modes `routed`, `nat-unprotected`, and `isolated` with `--internal` |
| a macvlan network | `--driver macvlan -o parent=…`, on another LAN of the host |
| a macvlan network that the host is on | the same with `-o rnet.macvlan.host_access=true` |
| link-local | the IPv6 address of an interface, on the link of who tries |
| multicast | a group that who is tried has joined; a datagram may pass eight routers |

- Who is on an isolated network has no gateway. A process of the host that binds itself to the network's bridge may
  still send to groups there, from another of the host's addresses.
- In gateway mode `routed` the address in `-p 127.0.0.1:…` means nothing, as nothing is translated: the port is open
  to who has a route, as it is with Docker.
- Where containers do not talk and `br_netfilter` is on, a neighbour does not reach published ports by the host's
  addresses ([ADR 13](../adr/0013-port-isolation-and-br-netfilter.md)).
- On a macvlan network nothing is published: its containers are hosts on the LAN, with all their ports, and the host's
  own addresses are kept from them by the kernel. Where the host is on it, it leads nobody else there.
- Where other engines differ is in [isolation-docker.md](isolation-docker.md).
";

#[test]
fn every_network_is_reached_from_where_the_page_says_and_from_nowhere_else() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/networks/isolation.md");
    let update = std::env::var_os("UPDATE").is_some();
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let expected = Page::parse(&text);
    let whole = knows_br_netfilter(&lab.host);
    let expected = if whole { expected } else { expected.without_br_netfilter() };
    let engine = Engine::of(&daemon);
    let found = measure(&engine, &lab, (!update).then_some(&expected)).unwrap();
    if update {
        assert!(whole, "the page is written with br_netfilter");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("{HEAD}{}", found.render())).unwrap();
    }
    let difference = |[section, row, column, is, expected]: [String; 5]| {
        format!("{section}, from {row}, {column}: {is}, and should be {expected}")
    };
    let wrong: Vec<_> = found.differences(&expected).into_iter().map(difference).collect();
    assert!(update || wrong.is_empty(), "{}", wrong.join("\n"));
}
