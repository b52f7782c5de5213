//! Endpoints with all that can be asked of one.

use std::net::{IpAddr, SocketAddr};

use netns_tests::{Daemon, Lab, SILENCE};

fn lab() -> (Lab, Daemon) {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 --subnet 10.1.0.0/24 --subnet fd00:1::/64 n1");
    daemon.rnet("network create --ipv6 --subnet 10.2.0.0/24 --subnet fd00:2::/64 a2");
    (lab, daemon)
}

#[test]
fn link_local_addresses_are_had_beside_those_of_the_network_and_survive_restarts() {
    let (_lab, mut daemon) = lab();
    let flags = "--network n1 --link-local-ip 169.254.7.7 --link-local-ip fe80::77";
    daemon.run("one", flags);
    let two = daemon.run("two", "--network n1 --link-local-ip 169.254.7.8");
    let has = |daemon: &Daemon| {
        let one = daemon.inside("one");
        let all: Vec<_> = one.addresses("eth0").iter().map(ToString::to_string).collect();
        for address in ["169.254.7.7/16", "fe80::77/64"] {
            assert!(all.iter().any(|own| own == address), "{address}: {all:?}");
        }
        assert_eq!(daemon.addresses("one")["n1"].len(), 2);
        let _server = one.serve(80);
        assert!(two.tcp("169.254.7.7".parse::<IpAddr>().unwrap(), 80).is_ok());
    };
    has(&daemon);
    daemon.kill();
    daemon.restart();
    has(&daemon);
    daemon.rnet("restart -t 0 one");
    has(&daemon);
    let told: serde_json::Value = serde_json::from_str(&daemon.rnet("inspect one")).unwrap();
    let asked = &told[0]["NetworkSettings"]["Networks"]["n1"]["IPAMConfig"]["LinkLocalIPs"];
    assert_eq!(*asked, serde_json::json!(["169.254.7.7", "fe80::77"]));
    for wrong in ["10.1.0.7", "fd00:1::7", "nowhere"] {
        let told = daemon.refusal(&format!("create --link-local-ip {wrong} rnet/toolbox true"));
        assert!(told.contains(&format!("invalid link-local IP address: {wrong}")), "{told}");
    }
}

#[test]
fn interfaces_have_the_order_in_which_networks_were_named_after_every_restart() {
    let (_lab, mut daemon) = lab();
    // By name the second one would be the first, and the gateway.
    daemon.rnet(
        "create --name web --network n1 --network name=a2,gw-priority=-1 rnet/toolbox sleep 1000",
    );
    // A start takes half a second in a debug build on a busy machine: a hundred would take a minute.
    for round in 0..12 {
        daemon.rnet(if round == 0 { "start web" } else { "restart -t 0 web" });
        if round == 6 {
            daemon.kill();
            daemon.restart();
        }
        let web = daemon.inside("web");
        for (interface, subnet) in [("eth0", "10.1.0."), ("eth1", "10.2.0.")] {
            let addresses = web.addresses(interface);
            let fits = addresses.iter().any(|own| own.to_string().starts_with(subnet));
            assert!(fits, "{interface} in round {round}: {addresses:?}");
        }
        let gateway = web.run(|| std::fs::read_to_string("/proc/thread-self/net/route")).unwrap();
        let default =
            gateway.lines().find(|line| line.split_whitespace().nth(1) == Some("00000000"));
        assert!(default.is_some_and(|line| line.starts_with("eth0")), "round {round}: {gateway}");
    }
}

#[test]
fn an_endpoint_has_its_own_name_sysctls_and_hardware_address() {
    let (_lab, daemon) = lab();
    let options = "driver-opt=com.docker.network.endpoint.ifname=lan,\
                   driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1";
    let flags = format!("--network name=n1,mac-address=02:42:00:00:00:09,alias=one,{options}");
    let web = daemon.run("web", &flags);
    let lan = web.link("lan").unwrap();
    assert_eq!(lan.mac.unwrap().to_string(), "02:42:00:00:00:09");
    assert_eq!(web.sysctl("net/ipv4/conf/lan/log_martians"), "1");
    let peer = daemon.run("peer", "--network n1");
    let found = netns_tests::lookup::addresses(&peer, "one");
    assert_eq!(found, daemon.addresses("web")["n1"]);
}

#[test]
fn a_network_is_removed_by_force_with_containers_on_it_that_go_on() {
    let (_lab, daemon) = lab();
    let web = daemon.run("web", "--network n1");
    daemon.rnet("network connect a2 web");
    let peer = daemon.run("peer", "--network a2");
    let _server = web.serve(80);
    assert!(daemon.refusal("network rm n1").contains("has active endpoints"));
    daemon.rnet("network rm --force n1 nothing");
    assert!(!daemon.rnet("network ls").contains("n1"));
    assert!(web.link("eth0").is_none() && web.link("eth1").is_some());
    let inside = daemon.addresses("web")["a2"].clone();
    for address in inside {
        assert!(peer.tcp_to(SocketAddr::new(address, 80), SILENCE).is_ok(), "{address}");
    }
    assert!(daemon.refusal("network rm --force bridge").contains("pre-defined"));
    daemon.rnet("restart -t 0 web");
}
