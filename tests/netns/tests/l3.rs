//! Networks without a bridge: the host has a route to each endpoint.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::net::{IpAddr, SocketAddr, UdpSocket};

use cnm::sandbox::Passage;
use cnm::{Protocol, diff};
use drivers::kernel::{Kernel, Linux, reconcile};
use netns_tests::lookup::addresses;
use netns_tests::{Daemon, Host, Lab, Model, SILENCE, wait_until};

const PORT: u16 = 7000;

/// Two networks of this kind, 1 and 2, and one with a bridge, 3; sandboxes 1 and 2 on the first.
fn model() -> Model {
    let mut model = Model::default();
    for n in 1..=3 {
        let options = &mut model.network(n).given_options;
        if n != 3 {
            options.insert("rnet.bridge.topology".to_owned(), "l3".to_owned());
        }
    }
    for (sandbox, network) in [(1, 1), (2, 1), (3, 2), (4, 3)] {
        model.sandbox(sandbox, &[network]);
    }
    model
}

fn start(lab: &Lab, model: &Model) -> (Linux, [Host; 4]) {
    let kernel = lab.open();
    reconcile(&kernel, &model.desired()).unwrap();
    let differs = diff(&kernel.observe().unwrap(), &model.desired());
    assert_eq!(differs.to_string(), "", "made at once");
    let hosts = [1, 2, 3, 4].map(|n| lab.sandbox(&kernel, &model.sandboxes[&n].0.id));
    (kernel, hosts)
}

#[test]
fn endpoints_the_host_and_the_outside_reach_each_other_as_on_a_bridge() {
    let (lab, model) = (Lab::new(), model());
    let (_kernel, [one, two, _, _]) = start(&lab, &model);
    let _servers = [lab.host.serve(PORT), lab.client.serve(PORT), two.serve(PORT), one.serve(PORT)];
    for family in 0..2 {
        let [from, to] = [1, 2].map(|n| model.addresses(n, 1)[family]);
        let gateway = model.gateways(1)[family];
        let [client, host] = [Lab::CLIENT, Lab::HOST].map(|pair| Lab::both(pair)[family]);
        assert_eq!(one.tcp(to, PORT).unwrap(), from);
        assert_eq!(one.udp(to, PORT).unwrap(), from);
        assert_eq!(one.tcp(gateway, PORT).unwrap(), from);
        assert_eq!(lab.host.tcp(to, PORT).unwrap(), gateway, "the host as on a bridge");
        assert_eq!(one.tcp(client, PORT).unwrap(), host, "with the host's address");
        assert_eq!(one.tcp(from, PORT).unwrap(), from, "itself");
    }
}

#[test]
fn other_networks_and_the_outside_do_not_get_in() {
    let (lab, model) = (Lab::new(), model());
    let (_kernel, [one, two, three, bridged]) = start(&lab, &model);
    let _servers = [&one, &two, &three, &bridged].map(|host| host.serve(PORT));
    for family in 0..2 {
        let at = |n, network| SocketAddr::new(model.addresses(n, network)[family], PORT);
        for (from, to) in [
            (&one, at(3, 2)),
            (&three, at(1, 1)),
            (&one, at(4, 3)),
            (&bridged, at(1, 1)),
            (&lab.other, at(1, 1)),
        ] {
            assert!(from.is_cut_off_from(to), "{to}");
        }
    }
}

#[test]
fn published_ports_show_the_client_to_the_endpoint_even_a_neighbour() {
    let (lab, mut model) = (Lab::new(), model());
    for host in ["0.0.0.0", "::"] {
        model.publish(2, host, 8080, PORT);
    }
    let (_kernel, [one, two, three, bridged]) = start(&lab, &model);
    let _server = two.serve(PORT);
    for family in 0..2 {
        let [host, client] = [Lab::HOST, Lab::CLIENT].map(|pair| Lab::both(pair)[family]);
        assert_eq!(lab.client.tcp(host, 8080).unwrap(), client);
        assert_eq!(one.tcp(host, 8080).unwrap(), model.addresses(1, 1)[family], "no masquerade");
        for near in [&lab.host, &two, &three, &bridged] {
            assert!(near.tcp(host, 8080).is_ok(), "{host}");
        }
    }
    assert!(lab.host.tcp(IpAddr::from([127, 0, 0, 1]), 8080).is_ok());
}

#[test]
fn internal_networks_keep_their_neighbours_and_nothing_else() {
    let (lab, mut model) = (Lab::new(), model());
    model.networks.get_mut(&1).unwrap().internal = true;
    let (_kernel, [one, two, _, _]) = start(&lab, &model);
    let _servers = [two.serve(PORT), lab.client.serve(PORT)];
    for family in 0..2 {
        assert!(one.tcp(model.addresses(2, 1)[family], PORT).is_ok());
        assert!(one.is_cut_off_from(SocketAddr::new(Lab::both(Lab::CLIENT)[family], PORT)));
    }
}

#[test]
fn neighbours_that_do_not_talk_have_their_passages_and_published_ports() {
    let (lab, mut model) = (Lab::new(), model());
    model.set(1, "bridge.enable_icc", "false");
    for host in ["0.0.0.0", "::"] {
        model.publish(2, host, 8080, PORT);
    }
    let to = model.addresses(2, 1);
    let passages = to.iter().map(|to| Passage { to: *to, protocol: Protocol::Tcp, port: 7001 });
    model.sandboxes.get_mut(&1).unwrap().0.passages = passages.collect();
    let (_kernel, [one, two, _, _]) = start(&lab, &model);
    let _servers = [two.serve(PORT), two.serve(7001)];
    for (to, host) in to.into_iter().zip(Lab::both(Lab::HOST)) {
        assert!(one.is_cut_off_from(SocketAddr::new(to, PORT)));
        assert!(one.tcp(to, 7001).is_ok(), "the passage");
        assert!(one.tcp(host, 8080).is_ok(), "the published port");
    }
}

#[test]
fn an_endpoint_cannot_send_from_an_address_of_a_neighbour() {
    let (lab, model) = (Lab::new(), model());
    let (_kernel, [one, two, _, _]) = start(&lab, &model);
    let receiver = two.run(|| UdpSocket::bind("[::]:7002").unwrap());
    receiver.set_read_timeout(Some(SILENCE)).unwrap();
    for (prefix, forged, family) in [("32", "10.1.0.77", 0), ("128", "fd00:1::77", 1)] {
        one.add_address("eth0", &format!("{forged}/{prefix}"));
        let to = SocketAddr::new(model.addresses(2, 1)[family], 7002);
        let send = |from: IpAddr| {
            let socket = one.run(|| UdpSocket::bind(SocketAddr::new(from, 0)).unwrap());
            socket.send_to(b"?", to).unwrap();
        };
        // The gateway is known then: who asks for it from a forged address gets no answer.
        send(model.addresses(1, 1)[family]);
        receiver.recv(&mut [0; 8]).unwrap();
        send(forged.parse().unwrap());
        assert!(receiver.recv(&mut [0; 8]).is_err(), "{forged} got through");
        send(model.addresses(1, 1)[family]);
        receiver.recv(&mut [0; 8]).unwrap();
    }
}

#[test]
fn an_l3_network_of_a_daemon_lives_through_its_death_and_is_healed() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 -o rnet.bridge.topology=l3 flat");
    let web = daemon.run("web", "--network flat -p 8080:80");
    let peer = daemon.run("peer", "--network flat");
    let _server = web.serve(80);
    let answers = || {
        let known = addresses(&peer, "web");
        assert_eq!(known.len(), 2, "{known:?}");
        let reached = |from: &Host, to, port| from.tcp(to, port).is_ok();
        known.iter().all(|to| reached(&peer, *to, 80))
            && Lab::both(Lab::HOST).iter().all(|host| reached(&lab.client, *host, 8080))
    };
    assert!(answers());
    daemon.kill();
    assert!(answers(), "without a daemon");
    daemon.restart();
    assert!(answers(), "with another one");
    let own = daemon.addresses("web")["flat"][0];
    let removed = daemon.command("ip").args(["route", "del", &own.to_string()]).status().unwrap();
    assert!(removed.success());
    daemon.kill();
    daemon.restart();
    assert!(answers(), "the route is there again");
    daemon.rnet("network disconnect flat web");
    assert!(addresses(&peer, "web").is_empty());
    daemon.rnet("network connect flat web");
    wait_until("it is reached again", answers);
    daemon.rnet("rm -f web peer");
    daemon.rnet("network rm flat");
    let links = lab.host.links();
    assert!(!links.iter().any(|link| link.name.starts_with("veth")), "{links:?}");
}

#[test]
fn what_cannot_be_had_without_a_bridge_is_said_when_the_network_is_made() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    let l3 = "network create -o rnet.bridge.topology=l3";
    let refusal = daemon.refusal(&format!("{l3} -o rnet.bridge.any_source=true flat"));
    assert!(refusal.contains("rnet.bridge.any_source=true cannot be had"), "{refusal}");
    let refusal = daemon.refusal("network create -o rnet.bridge.topology=ring flat");
    assert!(refusal.contains("bridge or l3 is expected"), "{refusal}");
}
