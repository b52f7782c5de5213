//! Many neighbouring ports as one element: whoever reaches one port reaches each of them.
#![expect(clippy::unwrap_used, reason = "in helpers of tests")]

use cnm::{Element, Key, Protocol, Step, Value};
use netns_tests::site::{SILENCE, Site};
use netns_tests::{Daemon, Lab};

const FIRST: u16 = 30_000;
const LAST: u16 = 32_767;

/// The elements that lead the ports of an address of the host to the same ones of an endpoint.
fn range(host: &str, first: u16, last: u16, address: &str) -> Vec<(Element, Value)> {
    let (host, address) = (host.parse().unwrap(), address.parse().unwrap());
    let element = |protocol| {
        let element = Element::PublishedRange { host, protocol, first, last };
        (element, Value::Target { address, port: first })
    };
    [Protocol::Tcp, Protocol::Udp].map(element).into()
}

/// A site where a1 serves three of its ports.
fn site() -> Site {
    let site = Site::new();
    for port in [FIRST, 31_000, LAST] {
        site.a1.serve("a1", port);
    }
    site
}

#[test]
fn every_port_of_a_range_is_reached_by_all_addresses_of_the_host() {
    let site = site();
    site.add(range("0.0.0.0", FIRST, LAST, "10.1.0.2"));
    site.add(range("::", FIRST, LAST, "fd00:a::2"));
    for port in [FIRST, 31_000, LAST] {
        assert_eq!(site.client.reach(&format!("192.0.2.9:{port}")), "a1 sees 192.0.2.2");
        assert_eq!(site.client.reach(&format!("[2001:db8::1]:{port}")), "a1 sees 2001:db8::2");
        assert_eq!(site.host.reach(&format!("127.0.0.1:{port}")), "a1 sees 10.1.0.1");
        assert_eq!(site.b1.reach(&format!("192.0.2.1:{port}")), "a1 sees 10.2.0.2");
        assert_eq!(site.a1.reach(&format!("192.0.2.1:{port}")), "a1 sees 10.1.0.1");
    }
    for port in [FIRST - 1, LAST + 1] {
        assert!(site.client.is_cut_off_from(&format!("192.0.2.1:{port}")), "{port}");
    }
}

#[test]
fn a_range_of_one_address_is_of_that_address_alone() {
    let site = site();
    site.add(range("192.0.2.9", FIRST, LAST, "10.1.0.2"));
    site.add(range("2001:db8::9", FIRST, LAST, "fd00:a::2"));
    assert_eq!(site.client.reach(&format!("192.0.2.9:{LAST}")), "a1 sees 192.0.2.2");
    assert_eq!(site.client.reach(&format!("[2001:db8::9]:{LAST}")), "a1 sees 2001:db8::2");
    assert!(site.client.is_cut_off_from(&format!("192.0.2.1:{LAST}")));
    assert!(site.client.is_cut_off_from(&format!("[2001:db8::1]:{LAST}")));
}

/// A port that is added to a neighbour's range makes another element of it.
#[test]
fn a_range_that_grows_and_is_cut_is_replaced_in_one_transaction() {
    let site = site();
    let step = |add: bool| {
        move |(element, value)| {
            let key = Key::Element(element);
            if add { Step::Add(key, value) } else { Step::Remove(key, value) }
        }
    };
    let short = || range("0.0.0.0", FIRST, 31_000, "10.1.0.2");
    let long = || range("0.0.0.0", FIRST, LAST, "10.1.0.2");
    site.add(short());
    for (old, new) in [(short(), long()), (long(), short()), (short(), long())] {
        let steps = old.into_iter().map(step(false)).chain(new.clone().into_iter().map(step(true)));
        let steps: Vec<_> = steps.collect();
        site.nft.apply(&steps.iter().collect::<Vec<_>>()).unwrap();
        let mut listed = site.nft.observe().unwrap();
        listed.retain(|(element, _)| matches!(element, Element::PublishedRange { .. }));
        listed.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(listed, new);
    }
    assert_eq!(site.client.reach(&format!("192.0.2.1:{LAST}")), "a1 sees 192.0.2.2");
    site.remove(long());
    assert_eq!(site.client.tcp(&format!("192.0.2.1:{LAST}"), SILENCE), None);
}

#[test]
fn thousands_of_published_ports_are_one_element_of_each_family() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    let many = format!("-p {FIRST}-{LAST}:{FIRST}-{LAST}");
    let web = daemon.run("web", &many);
    let listed = |daemon: &Daemon| {
        let listed = daemon.command("nft").args(["list", "table", "inet", "rnet"]).output();
        let text = String::from_utf8(listed.unwrap().stdout).unwrap();
        let line = |line: &&str| line.contains(" : ") && line.contains(&FIRST.to_string());
        text.lines().filter(line).count()
    };
    assert_eq!(listed(&daemon), 2);
    let _servers: Vec<_> = [FIRST, LAST].into_iter().map(|port| web.serve(port)).collect();
    let answers = || {
        for (host, client) in Lab::both(Lab::HOST).into_iter().zip(Lab::both(Lab::CLIENT)) {
            for port in [FIRST, LAST] {
                assert_eq!(lab.client.tcp(host, port).unwrap(), client);
                assert_eq!(lab.host.tcp(host, port).unwrap(), host);
            }
        }
    };
    answers();
    let taken = daemon.refusal(&format!("run -d -p {LAST}:80 rnet/toolbox sleep 1000"));
    assert!(taken.contains("port is already allocated"), "{taken}");
    daemon.kill();
    daemon.restart();
    answers();
    assert_eq!(listed(&daemon), 2);
    daemon.rnet("rm -f web");
    assert_eq!(listed(&daemon), 0);
}
