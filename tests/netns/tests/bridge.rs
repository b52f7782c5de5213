//! The bridge driver on a real kernel: who reaches whom, and how they are seen.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::{IpAddr, SocketAddr};

use drivers::kernel::{Linux, reconcile};
use netns_tests::{Host, Lab, Model};

/// A port that every server here listens on.
const PORT: u16 = 7000;

fn start(lab: &Lab, model: &Model) -> Linux {
    let kernel = lab.open();
    reconcile(&kernel, &model.desired()).unwrap();
    kernel
}

fn sandboxes<const N: usize>(lab: &Lab, kernel: &Linux, model: &Model, n: [u8; N]) -> [Host; N] {
    n.map(|n| lab.sandbox(kernel, &model.sandboxes[&n].0.id))
}

#[test]
fn sandbox_reaches_its_gateway_and_the_host_reaches_the_sandbox() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.sandbox(1, &[1]);
    let kernel = start(&lab, &model);
    let [one] = sandboxes(&lab, &kernel, &model, [1]);
    let (_on_host, _in_sandbox) = (lab.host.serve(PORT), one.serve(PORT));
    for (address, gateway) in model.addresses(1, 1).into_iter().zip(model.gateways(1)) {
        assert_eq!(one.tcp(gateway, PORT).unwrap(), address);
        assert_eq!(one.udp(gateway, PORT).unwrap(), address);
        assert_eq!(lab.host.tcp(address, PORT).unwrap(), gateway);
        assert_eq!(lab.host.udp(address, PORT).unwrap(), gateway);
    }
}

#[test]
fn sandboxes_of_one_network_talk() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.sandbox(1, &[1]);
    model.sandbox(2, &[1]);
    let kernel = start(&lab, &model);
    let [one, two] = sandboxes(&lab, &kernel, &model, [1, 2]);
    let _server = two.serve(PORT);
    for (from, to) in model.addresses(1, 1).into_iter().zip(model.addresses(2, 1)) {
        assert_eq!(one.tcp(to, PORT).unwrap(), from);
        assert_eq!(one.udp(to, PORT).unwrap(), from);
    }
}

#[test]
fn sandboxes_do_not_talk_where_that_is_off() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.set(1, "bridge.enable_icc", "false");
    model.sandbox(1, &[1]);
    model.sandbox(2, &[1]);
    let kernel = start(&lab, &model);
    let [one, two] = sandboxes(&lab, &kernel, &model, [1, 2]);
    let (_server, _on_host) = (two.serve(PORT), lab.host.serve(PORT));
    for (to, gateway) in model.addresses(2, 1).into_iter().zip(model.gateways(1)) {
        assert!(one.is_cut_off_from(SocketAddr::new(to, PORT)), "{to}");
        assert!(one.tcp(gateway, PORT).is_ok(), "{gateway}");
    }
    assert!(one.is_cut_off_from(link_local(&one, &two)));
}

#[test]
fn interface_has_the_mac_and_the_mtu_it_was_given() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.set(1, "driver.mtu", "1400");
    model.sandbox(1, &[1]);
    let kernel = start(&lab, &model);
    let [one] = sandboxes(&lab, &kernel, &model, [1]);
    let endpoint = &model.sandboxes[&1].1[0];
    let inside = one.link("eth0").unwrap();
    let outside = lab.host.link(endpoint.host_link().as_str()).unwrap();
    let bridge = lab.host.link("br-010101010101").unwrap();
    assert_eq!(inside.mac, Some(endpoint.mac));
    assert_eq!([inside.mtu, outside.mtu, bridge.mtu], [1400; 3]);
    assert_eq!(outside.bridge, Some(bridge.index));
}

#[test]
fn a_port_of_a_bridge_has_no_address_of_its_own() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.sandbox(1, &[1]);
    let kernel = start(&lab, &model);
    let [one] = sandboxes(&lab, &kernel, &model, [1]);
    let port = model.sandboxes[&1].1[0].host_link();
    assert_eq!(one.addresses("eth0").len(), 3, "both families and the link-local one");
    assert_eq!(lab.host.addresses(port.as_str()), []);
}

#[test]
fn bridge_keeps_its_hardware_address() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    let kernel = start(&lab, &model);
    let mac = |lab: &Lab| lab.host.link("br-010101010101").unwrap().mac;
    let before = mac(&lab);
    model.sandbox(1, &[1]);
    reconcile(&kernel, &model.desired()).unwrap();
    assert_eq!(mac(&lab), before);
    reconcile(&kernel, &Model::default().desired()).unwrap();
    reconcile(&kernel, &model.desired()).unwrap();
    assert_eq!(mac(&lab), before);
}

#[test]
fn outside_sees_the_address_of_the_host() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.sandbox(1, &[1]);
    let kernel = start(&lab, &model);
    let [one] = sandboxes(&lab, &kernel, &model, [1]);
    let _server = lab.client.serve(PORT);
    for (client, host) in Lab::both(Lab::CLIENT).into_iter().zip(Lab::both(Lab::HOST)) {
        assert_eq!(one.tcp(client, PORT).unwrap(), host);
        assert_eq!(one.udp(client, PORT).unwrap(), host);
    }
}

#[test]
fn outside_sees_the_sandbox_where_masquerading_is_off() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.set(1, "bridge.enable_ip_masquerade", "false");
    model.sandbox(1, &[1]);
    let kernel = start(&lab, &model);
    let [one] = sandboxes(&lab, &kernel, &model, [1]);
    let _server = lab.other.serve(PORT);
    for (other, sandbox) in Lab::both(Lab::OTHER).into_iter().zip(model.addresses(1, 1)) {
        assert_eq!(one.tcp(other, PORT).unwrap(), sandbox);
    }
}

#[test]
fn unpublished_port_is_out_of_reach_even_with_a_route() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.sandbox(1, &[1]);
    let kernel = start(&lab, &model);
    let [one] = sandboxes(&lab, &kernel, &model, [1]);
    let _server = one.serve(PORT);
    for address in model.addresses(1, 1) {
        assert!(lab.other.is_cut_off_from(SocketAddr::new(address, PORT)), "{address}");
    }
}

#[test]
fn internal_network_is_cut_off_both_ways() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1).internal = true;
    model.sandbox(1, &[1]);
    model.sandbox(2, &[1]);
    let kernel = start(&lab, &model);
    let [one, two] = sandboxes(&lab, &kernel, &model, [1, 2]);
    let _servers = [one.serve(PORT), lab.client.serve(PORT), lab.other.serve(PORT)];
    for (address, gateway) in model.addresses(1, 1).into_iter().zip(model.gateways(1)) {
        assert!(two.tcp(address, PORT).is_ok(), "{address}");
        assert!(lab.other.is_cut_off_from(SocketAddr::new(address, PORT)), "{address}");
        // A container with the right to may set the route that we do not.
        let everywhere = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        one.add_route(everywhere, "eth0", &gateway.to_string());
    }
    for outside in [Lab::CLIENT, Lab::OTHER].into_iter().flat_map(Lab::both) {
        assert!(one.is_cut_off_from(SocketAddr::new(outside, PORT)), "{outside}");
    }
}

#[test]
fn networks_are_isolated_from_each_other() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.network(2);
    model.sandbox(1, &[1]);
    model.sandbox(2, &[2]);
    let kernel = start(&lab, &model);
    let [one, two] = sandboxes(&lab, &kernel, &model, [1, 2]);
    let _servers = [one.serve(PORT), two.serve(PORT)];
    for address in model.addresses(2, 2) {
        assert!(one.is_cut_off_from(SocketAddr::new(address, PORT)), "{address}");
    }
    for address in model.addresses(1, 1) {
        assert!(two.is_cut_off_from(SocketAddr::new(address, PORT)), "{address}");
    }
    assert!(one.is_cut_off_from(link_local(&one, &two)));
}

#[test]
fn sandbox_on_two_networks_reaches_both() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.network(2).internal = true;
    model.sandbox(1, &[2, 1]);
    model.sandbox(2, &[1]);
    model.sandbox(3, &[2]);
    let kernel = start(&lab, &model);
    let [one, two, three] = sandboxes(&lab, &kernel, &model, [1, 2, 3]);
    let _servers = [two.serve(PORT), three.serve(PORT), lab.client.serve(PORT)];
    let peers = model.addresses(2, 1).into_iter().chain(model.addresses(3, 2));
    for peer in peers.chain(Lab::both(Lab::CLIENT)) {
        assert!(one.tcp(peer, PORT).is_ok(), "{peer}");
    }
}

#[test]
fn network_joined_later_is_reached_at_once() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.network(2);
    model.sandbox(1, &[1]);
    model.sandbox(2, &[2]);
    let kernel = start(&lab, &model);
    let [one, two] = sandboxes(&lab, &kernel, &model, [1, 2]);
    let _server = two.serve(PORT);
    model.join(1, 2);
    reconcile(&kernel, &model.desired()).unwrap();
    for address in model.addresses(2, 2) {
        assert!(one.tcp(address, PORT).is_ok(), "{address}");
    }
    model.leave(1, 2);
    reconcile(&kernel, &model.desired()).unwrap();
    for address in model.addresses(2, 2) {
        assert!(one.is_cut_off_from(SocketAddr::new(address, PORT)), "{address}");
    }
}

#[test]
fn address_with_a_new_owner_is_reached_at_once() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.sandbox(1, &[1]);
    model.sandbox(2, &[1]);
    let kernel = start(&lab, &model);
    let addresses = model.addresses(1, 1);
    let [one, two] = sandboxes(&lab, &kernel, &model, [1, 2]);
    let server = one.serve(PORT);
    for address in &addresses {
        assert!(two.tcp(*address, PORT).is_ok());
    }
    drop((server, one));
    // The same addresses with another hardware address, in another sandbox.
    let (_, endpoints) = model.sandboxes.remove(&1).unwrap();
    reconcile(&kernel, &model.desired()).unwrap();
    model.sandbox(3, &[1]);
    let (_, owner) = model.sandboxes.get_mut(&3).unwrap();
    owner[0].addresses.clone_from(&endpoints[0].addresses);
    assert_ne!(owner[0].mac, endpoints[0].mac);
    reconcile(&kernel, &model.desired()).unwrap();
    let [three] = sandboxes(&lab, &kernel, &model, [3]);
    let _server = three.serve(PORT);
    for address in addresses {
        // Who was told nothing sends to the old one for five seconds before it doubts
        // (`delay_first_probe_time`), and asks that one three times first.
        let limit = std::time::Duration::from_secs(4);
        assert!(two.tcp_to(SocketAddr::new(address, PORT), limit).is_ok(), "{address}");
    }
}

/// The link-local address of a sandbox's interface, as another sandbox would have to write it.
fn link_local(from: &Host, to: &Host) -> SocketAddr {
    let scope = from.link("eth0").unwrap().index;
    let address = to.addresses("eth0").into_iter().find_map(|address| match address.ip() {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(ip),
        _ => None,
    });
    std::net::SocketAddrV6::new(address.unwrap(), PORT, 0, scope).into()
}
