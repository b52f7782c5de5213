//! `docs/nftables/ruleset.md`: the tables as `nft` prints them, for people who read firewalls.
//!
//! `UPDATE=1 cargo test -p netns-tests --test ruleset` writes it anew.
#![expect(clippy::unwrap_used, reason = "in helpers of tests")]

use std::path::Path;

use cnm::{Element, Protocol, Value};
use drivers::kernel::nft::{Nft, Ownership, SandboxTable};
use netns_tests::site::{Space, link};

/// The version of `nft` that the page shows. Others indent differently and know other flags of a table.
const VERSION: &str = "nftables v1.0.6";

const HEAD: &str = "\
# The ruleset

<!-- Made by tests/netns/tests/ruleset.rs (UPDATE=1), from what nft 1.0.6 prints. -->

rnet has a table for packets, `inet rnet`, and one for the frames that containers send, `bridge rnet`.
Their chains and rules never change; what changes at run time are elements of sets and maps. So the
cost for a packet, and for a change, is the same with one published port or ten thousand, one network
or a thousand.

- The tables belong to a socket that the daemon and `rnet-dns` share (`flags owner, persist`; `nft`
  1.0.6 does not know the second): `nft flush ruleset` does not touch them, and they stay in force
  when both are gone. Where the kernel has no ownership (before Linux 6.9), they are restored when they
  are changed.
- They set no policy, and drop nothing that does not concern rnet's own bridges, except packets to
  127.0.0.0/8 from outside, and between links that did not forward before rnet switched forwarding on
  (`closed4`, `closed6`; the daemon's `--ip-forward-no-drop` keeps these sets empty).
- Connections are translated where the destination is the host's own (`fib daddr type local`).
  Packets on their way through the host to the same port of somebody else are not touched.
- Your own rules belong into `inet rnet-user`, which rnet makes once and never touches again.

## The constant part
";

const FRAMES: &str = "
## Frames

A container with a raw socket can send whatever it likes. Its port of the bridge lets in what comes from
its own hardware address and its own addresses, and no word of a router. What is dropped here the bridge
does not even learn from. A container that may administer networks is not checked, nor is one on a
network with the option `rnet.bridge.any_source=true`.
";

const SANDBOX: &str = "
## In a sandbox

Port 53 of 127.0.0.11 leads to the resolver, which listens on a high port: a container may serve
names itself, on all of its addresses.
";

#[test]
fn the_page_about_the_ruleset_shows_the_ruleset() {
    let same_version = Space::new().output("nft", &["--version"]).starts_with(VERSION);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/nftables/ruleset.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        assert!(same_version, "the page is written with {VERSION}");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let same = if same_version { found == page } else { words(&found) == words(&page) };
    assert!(same, "docs/nftables/ruleset.md is out of date: run this test with UPDATE=1");
}

/// What every version prints, however it is laid out.
fn words(page: &str) -> Vec<&str> {
    let lines = page.lines().filter(|line| !line.trim_start().starts_with("flags owner"));
    lines.flat_map(str::split_whitespace).collect()
}

fn page() -> String {
    let (host, sandbox) = (Space::new(), Space::new());
    let _nft = host.run(|| Nft::open("rnet", None, Ownership::Preferred).unwrap());
    sandbox.run(|| SandboxTable::open().unwrap().install().unwrap());
    let mut page = HEAD.to_owned();
    page += &listing(&host, "inet rnet");
    page += FRAMES;
    page += &listing(&host, "bridge rnet");
    page += "\n## The users' table\n";
    page += &listing(&host, "inet rnet-user");
    page += SANDBOX;
    page += &listing(&sandbox, "ip rnet-dns");
    page += "\n## What changes\n";
    for (title, elements) in scenarios() {
        page += &scenario(title, elements);
    }
    page
}

/// A table in a code block. The name of the program that owns it is that of this test.
fn listing(space: &Space, table: &str) -> String {
    let (family, name) = table.split_once(' ').unwrap();
    let text = space.output("nft", &["list", "table", family, name]);
    let line = |line: &str| line.split(" # progname").next().unwrap_or_default().to_owned() + "\n";
    format!("\n```\n{}```\n", text.lines().map(line).collect::<String>())
}

fn scenarios() -> Vec<(&'static str, Vec<(Element, Value)>)> {
    let bridge = || Element::Bridge { link: link("br-1a2b3c4d5e6f") };
    let present = |elements: Vec<Element>| {
        elements.into_iter().map(|element| (element, Value::Present)).collect()
    };
    let gateway = |address: &str| Element::Gateway { address: address.parse().unwrap() };
    let masquerade = |subnet: &str| Element::Masquerade { subnet: subnet.parse().unwrap() };
    let open = |address: &str, protocol| {
        let address = address.parse().unwrap();
        Element::Open { address, protocol, port: 443 }
    };
    vec![
        (
            "A network",
            present(vec![
                bridge(),
                gateway("172.18.0.1"),
                masquerade("172.18.0.0/24"),
                gateway("fd00:18::1"),
                masquerade("fd00:18::/64"),
            ]),
        ),
        ("An internal network", {
            let link = link("br-1a2b3c4d5e6f");
            present(vec![bridge(), Element::Internal { link }])
        }),
        ("A network in gateway mode nat-unprotected, for IPv6 only", {
            let link = link("br-1a2b3c4d5e6f");
            present(vec![bridge(), Element::Unprotected { link, ipv6: true }])
        }),
        (
            "Port 443 of endpoints of a network in gateway mode routed",
            present(vec![
                bridge(),
                open("172.18.0.2", Protocol::Tcp),
                open("fd00:18::2", Protocol::Udp),
            ]),
        ),
        ("An endpoint", present(endpoint())),
        (
            "`--publish 8080:80`",
            vec![
                published("0.0.0.0", Protocol::Tcp, 8080, "172.18.0.2"),
                published("::", Protocol::Tcp, 8080, "fd00:18::2"),
            ],
        ),
        (
            "`--publish 127.0.0.1:8080:80` and `--publish [2001:db8::1]:5000:80/udp`",
            vec![
                published("127.0.0.1", Protocol::Tcp, 8080, "172.18.0.2"),
                published("2001:db8::1", Protocol::Udp, 5000, "fd00:18::2"),
            ],
        ),
        ("`--publish 30000-32767:30000-32767` and the same for `192.0.2.1` and UDP", ranges()),
    ]
}

/// What is checked of a port of a bridge.
fn endpoint() -> Vec<Element> {
    let link = || link("veth1a2b3c4");
    let mac = "02:42:ac:12:00:02".parse().unwrap();
    let source =
        |address: &str| Element::Source { link: link(), address: address.parse().unwrap() };
    let addresses = ["172.18.0.2", "fd00:18::2", "fe80::42:acff:fe12:2"].map(source);
    [Element::Guarded { link: link(), mac }].into_iter().chain(addresses).collect()
}

fn published(host: &str, protocol: Protocol, port: u16, address: &str) -> (Element, Value) {
    let (host, address) = (host.parse().unwrap(), address.parse().unwrap());
    (Element::Published { host, protocol, port }, Value::Target { address, port: 80 })
}

fn ranges() -> Vec<(Element, Value)> {
    vec![
        range("0.0.0.0", Protocol::Tcp, "172.18.0.2"),
        range("::", Protocol::Tcp, "fd00:18::2"),
        range("192.0.2.1", Protocol::Udp, "172.18.0.2"),
    ]
}

fn range(host: &str, protocol: Protocol, address: &str) -> (Element, Value) {
    let (host, address) = (host.parse().unwrap(), address.parse().unwrap());
    let (first, last) = (30_000, 32_767);
    let element = Element::PublishedRange { host, protocol, first, last };
    (element, Value::Target { address, port: first })
}

/// The sets and maps that have elements then.
fn scenario(title: &str, elements: Vec<(Element, Value)>) -> String {
    let host = Space::new();
    let nft = host.run(|| Nft::open("rnet", None, Ownership::Preferred).unwrap());
    let steps: Vec<_> = elements
        .into_iter()
        .map(|(element, value)| cnm::Step::Add(cnm::Key::Element(element), value))
        .collect();
    nft.apply(&steps.iter().collect::<Vec<_>>()).unwrap();
    let tables = ["inet", "bridge"];
    let text = tables.map(|family| host.output("nft", &["list", "table", family, "rnet"])).concat();
    let sets: Vec<_> = text
        .split("\n\n")
        .filter(|block| block.contains("elements = "))
        // The first one stands in one block with the table's flags.
        .map(|block| block.find("\tset ").map_or(block, |begin| &block[begin..]))
        .map(|block| block.trim().replace("\n\t", "\n"))
        .collect();
    format!("\n### {title}\n\n```\n{}\n```\n", sets.join("\n"))
}
