//! What containers send outside, and what comes directly to them: addresses, sizes, trusted links.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::thread;

use netns_tests::{Daemon, Host, Lab, wait_until};

const PORT: u16 = 7000;

fn lab() -> (Lab, Daemon) {
    let lab = Lab::new();
    lab.host.add_address("lan0", "192.0.2.9/24");
    lab.host.add_address("lan0", "2001:db8:1::9/64");
    let daemon = Daemon::start(&lab.host, &[]);
    (lab, daemon)
}

#[test]
fn a_network_leaves_by_the_address_of_the_host_that_it_was_given() {
    let (lab, daemon) = lab();
    let options = "-o com.docker.network.host_ipv4=192.0.2.9 \
                   -o com.docker.network.host_ipv6=2001:db8:1::9";
    daemon.rnet(&format!("network create --ipv6 {options} certain"));
    daemon.rnet("network create --ipv6 any");
    let certain = daemon.run("certain", "--network certain -p 8080:80");
    let any = daemon.run("any", "--network any");
    let _servers = [lab.client.serve(PORT), certain.serve(80)];
    let given = ["192.0.2.9", "2001:db8:1::9"];
    for family in 0..2 {
        let [client, host, given] =
            [Lab::CLIENT, Lab::HOST, given].map(|pair| Lab::both(pair)[family]);
        let seen = certain.tcp(client, PORT).unwrap_or_else(|error| panic!("{client}: {error}"));
        assert_eq!(seen, given);
        assert_eq!(certain.udp(client, PORT).unwrap(), given);
        let seen = any.tcp(client, PORT).unwrap();
        assert!(seen == host || family == 1, "{seen} is the link's own");
        assert_eq!(lab.client.tcp(host, 8080).unwrap(), client, "ports are as ever");
    }
}

#[test]
fn a_trusted_link_reaches_published_ports_at_the_containers_own_addresses() {
    let (lab, daemon) = lab();
    let trust = "-o com.docker.network.bridge.trusted_host_interfaces=lan1:wg0";
    daemon.rnet(&format!("network create --ipv6 {trust} trusting"));
    let web = daemon.run("web", "--network trusting -p 8080:80");
    let _servers = [web.serve(80), web.serve(81)];
    for route in ["172.16.0.0/12", "fd00::/8"] {
        let via = if route.contains(':') { Lab::HOST[1] } else { Lab::HOST[0] };
        lab.client.add_route(route, "eth0", via);
    }
    let own = daemon.addresses("web")["trusting"].clone();
    for (own, other) in own.into_iter().zip(Lab::both(Lab::OTHER)) {
        assert_eq!(lab.other.tcp(own, 80).unwrap(), other, "by lan1");
        assert!(lab.other.is_cut_off_from(SocketAddr::new(own, 81)), "it is not published");
        assert!(lab.client.is_cut_off_from(SocketAddr::new(own, 80)), "by lan0");
    }
}

#[test]
fn networks_follow_the_mtu_of_the_hosts_way_out_while_containers_run() {
    let (lab, daemon) = lab();
    let set = |mtu: &str| {
        let set = daemon.command("ip").args(["link", "set", "lan0", "mtu", mtu]).status().unwrap();
        assert!(set.success());
    };
    daemon.rnet("network create --ipv6 following");
    daemon.rnet("network create -o com.docker.network.driver.mtu=1480 told");
    daemon.rnet("network create --internal inside");
    let [following, told, inside] =
        ["following", "told", "inside"].map(|name| daemon.run(name, &format!("--network {name}")));
    let mtu = |host: &Host| host.link("eth0").unwrap().mtu;
    assert_eq!([&following, &told, &inside].map(mtu), [1500, 1480, 1500]);
    set("1400");
    assert_eq!(mtu(&following), 1500, "no default route leads there");
    lab.host.add_route("0.0.0.0/0", "lan0", Lab::CLIENT[0]);
    wait_until("a default route counts", || mtu(&following) == 1400);
    assert_eq!([&told, &inside].map(mtu), [1480, 1500]);
    set("1300");
    wait_until("the link's MTU counts", || mtu(&following) == 1300);
    let late = daemon.run("late", "--network following");
    assert_eq!(mtu(&late), 1300);
    set("1000");
    wait_until("but IPv6 needs more", || mtu(&following) == 1280);
    set("1500");
    wait_until("it grows again", || [&following, &late].map(mtu) == [1500; 2]);
}

/// Its gateway is another machine, or a container.
#[test]
fn a_bridge_may_go_without_an_ipv4_address() {
    let (lab, daemon) = lab();
    let options = "-o com.docker.network.bridge.inhibit_ipv4=true \
                   -o com.docker.network.bridge.name=br-own \
                   -o com.docker.network.bridge.default_bridge=false";
    daemon.rnet(&format!("network create --ipv6 {options} own"));
    let [one, two] = ["one", "two"].map(|name| daemon.run(name, "--network own"));
    let _server = two.serve(PORT);
    for to in &daemon.addresses("two")["own"] {
        assert!(one.tcp(*to, PORT).is_ok(), "{to}");
    }
    let own = lab.host.addresses("br-own");
    assert!(!own.iter().any(ipnetwork::IpNetwork::is_ipv4), "{own:?}");
    assert!(own.iter().any(|address| address.is_ipv6() && address.prefix() == 64), "{own:?}");
}

/// A network whose way out takes less than its neighbour's, and that nobody is told of: the router
/// does not say when a packet was too large.
#[test]
fn a_megabyte_comes_and_goes_where_the_way_out_is_narrow_and_silent() {
    const MEGABYTE: usize = 1 << 20;
    let (lab, daemon) = lab();
    let (router, far) = (&lab.client, Host::new());
    router.connect("far0", &far, "eth0");
    for (host, link, address) in
        [(router, "far0", "203.0.113.1/24"), (&far, "eth0", "203.0.113.2/24")]
    {
        host.add_address(link, address);
    }
    router.set_sysctl("net/ipv4/ip_forward", "1");
    far.add_route("0.0.0.0/0", "eth0", "203.0.113.1");
    let script = "ip link set lan0 mtu 1400";
    assert!(daemon.command("sh").args(["-c", script]).status().unwrap().success());
    run(router, "ip link set eth0 mtu 1400");
    run(
        router,
        "nft add table inet silent; nft add chain inet silent out '{ type filter hook output priority 0; }'; nft add rule inet silent out meta l4proto icmp drop",
    );
    lab.host.add_route("0.0.0.0/0", "lan0", Lab::CLIENT[0]);
    daemon.rnet("network create following");
    daemon.rnet("network create -o com.docker.network.driver.mtu=1500 told");
    let listener = far.run(|| TcpListener::bind("0.0.0.0:7000").unwrap());
    for network in ["following", "told"] {
        let container = daemon.run(network, &format!("--network {network}"));
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut received = vec![0; MEGABYTE];
                stream.read_exact(&mut received).unwrap();
                stream.write_all(&received).unwrap();
            });
            let to = SocketAddr::new(IpAddr::from([203, 0, 113, 2]), PORT);
            let limit = netns_tests::TIMEOUT;
            let connect = || std::net::TcpStream::connect_timeout(&to, limit);
            let mut stream = container.run(connect).unwrap();
            stream.set_read_timeout(Some(limit)).unwrap();
            let mut writer = stream.try_clone().unwrap();
            writer.write_all(&vec![7; MEGABYTE]).unwrap();
            let mut received = vec![0; MEGABYTE];
            stream.read_exact(&mut received).unwrap();
        });
    }
}

/// Runs a script on a host.
fn run(host: &Host, script: &str) {
    let status = host.run(|| std::process::Command::new("sh").args(["-c", script]).status());
    assert!(status.unwrap().success(), "{script}");
}
