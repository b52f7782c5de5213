//! Published ports: on which addresses, which ports, and what is refused.

use super::*;
use crate::HasKind;

fn web(networks: &[&Network], ports: &[&str]) -> SandboxSpec {
    let ports = ports.iter().map(|port| publish(port)).collect();
    SandboxSpec { ports, ..sandbox("web", networks) }
}

fn network_with(
    engine: &mut Engine,
    name: &str,
    subnets: &[&str],
    pairs: &[(&str, &str)],
) -> Arc<Network> {
    engine.create(&NetworkSpec { options: options(pairs), ..network(name, subnets) }).unwrap()
}

const V4: &[&str] = &["10.1.0.0/24"];
const DUAL: &[&str] = &["10.1.0.0/24", "fd01::/64"];

#[test]
fn a_port_is_published_on_all_addresses_of_both_families() {
    for subnets in [V4, DUAL] {
        let mut engine = Engine::new();
        let n1 = engine.network("n1", subnets);
        let id = engine.start(&web(&[&n1], &["8080:80", "53:53/udp"])).unwrap();
        let expected =
            ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "0.0.0.0:53->53/udp", "[::]:53->53/udp"];
        assert_eq!(engine.ports(&id), expected);
    }
}

#[test]
fn a_port_may_be_published_on_one_address() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", DUAL);
    let id = engine.start(&web(&[&n1], &["127.0.0.1:80:80", "[::1]:80:80"])).unwrap();
    assert_eq!(engine.ports(&id), ["127.0.0.1:80->80/tcp", "[::1]:80->80/tcp"]);
}

#[test]
fn an_ephemeral_port_is_the_same_for_both_families() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", DUAL);
    engine.foreign = vec![32_768];
    let id = engine.start(&web(&[&n1], &["80", "443"])).unwrap();
    let expected = [
        "0.0.0.0:32769->80/tcp",
        "[::]:32769->80/tcp",
        "0.0.0.0:32770->443/tcp",
        "[::]:32770->443/tcp",
    ];
    assert_eq!(engine.ports(&id), expected);
}

#[test]
fn a_network_says_where_its_ports_are_published() {
    let mut engine = Engine::new();
    let binding = ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1");
    let n1 = network_with(&mut engine, "n1", DUAL, &[binding]);
    let id = engine.start(&web(&[&n1], &["80:80"])).unwrap();
    assert_eq!(engine.ports(&id), ["127.0.0.1:80->80/tcp"]);
}

#[test]
fn the_daemon_says_where_ports_are_published() {
    let default_bindings = vec![IpAddr::from([192, 0, 2, 1])];
    let mut engine =
        Engine::with(ControllerConfig { default_bindings, ..ControllerConfig::default() });
    let n1 = engine.network("n1", DUAL);
    let id = engine.start(&web(&[&n1], &["80:80"])).unwrap();
    assert_eq!(engine.ports(&id), ["192.0.2.1:80->80/tcp"]);
}

#[test]
fn ports_of_a_routed_network_are_not_bound_on_the_host() {
    let mut engine = Engine::new();
    let routed = ("com.docker.network.bridge.gateway_mode_ipv6", "routed");
    let n1 = network_with(&mut engine, "n1", DUAL, &[routed]);
    let id = engine.start(&web(&[&n1], &["80:80"])).unwrap();
    assert_eq!(engine.ports(&id), ["[::]:0->80/tcp", "0.0.0.0:80->80/tcp"]);
    let routed = ("com.docker.network.bridge.gateway_mode_ipv4", "routed");
    let n2 = network_with(&mut engine, "n2", &["10.2.0.0/24"], &[routed]);
    let other = engine.start(&SandboxSpec { owner: "b".to_owned(), ..web(&[&n2], &["80:80"]) });
    assert_eq!(engine.ports(&other.unwrap()), ["0.0.0.0:0->80/tcp"]);
    assert_eq!(engine.controller.ports.taken().len(), 1);
}

#[test]
fn without_a_way_out_publishing_warns() {
    let mut engine = Engine::new();
    let n1 = engine.create(&NetworkSpec { internal: true, ..network("n1", V4) }).unwrap();
    let (id, transaction) = engine.begin_sandbox(&web(&[&n1], &["80:80"])).unwrap();
    assert_eq!(
        transaction.warnings,
        [
            "published ports cannot be reached until the sandbox joins a network that is not internal"
        ]
    );
    engine.commit(transaction);
    assert_eq!(engine.ports(&id).len(), 2);
}

#[test]
fn ports_on_none_are_discarded_with_a_warning() {
    let mut engine = Engine::new();
    let spec = NetworkSpec { driver: "null".to_owned(), ..network("none", &[]) };
    let Engine { controller, host, entropy, now, .. } = &mut engine;
    let (none, transaction) =
        controller.begin_create_predefined(&spec, host, entropy, *now).unwrap();
    engine.commit(transaction);
    let (id, transaction) = engine.begin_sandbox(&web(&[&none], &["80:80"])).unwrap();
    assert_eq!(
        transaction.warnings,
        ["published ports are discarded on network none: it leads nowhere"]
    );
    engine.commit(transaction);
    assert_eq!(engine.ports(&id), Vec::<String>::new());
}

#[test]
fn a_taken_port_is_refused_before_anything_is_there() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", V4);
    engine.start(&web(&[&n1], &["9000:80"])).unwrap();
    let (ports, leases) = (engine.controller.ports.taken(), engine.controller.ipam.leases());
    let second = SandboxSpec { owner: "b".to_owned(), ..web(&[&n1], &["8000:80", "9000:80"]) };
    refused(
        engine.start(&second),
        Kind::Internal,
        "Bind for 0.0.0.0:9000 failed: port is already allocated",
    );
    engine.foreign = vec![7000];
    let third = SandboxSpec { owner: "b".to_owned(), ..web(&[&n1], &["8000:80", "7000:80"]) };
    refused(
        engine.start(&third),
        Kind::Internal,
        "failed to bind host port for 0.0.0.0:7000/tcp: address already in use",
    );
    assert_eq!(engine.controller.ports.taken(), ports);
    assert_eq!(engine.controller.ipam.leases(), leases);
    assert_eq!(engine.controller.sandboxes().len(), 1);
}

#[test]
fn impossible_ports_are_refused() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", V4);
    let message = "invalid container port 0: use 1 to 65535";
    refused(engine.start(&web(&[&n1], &["80:0"])), Kind::Invalid, message);
    let message = "invalid host ports 90-80: use a range within 1 to 65535";
    refused(engine.start(&web(&[&n1], &["90-80:80"])), Kind::Invalid, message);
    let message = "invalid host ports 0-80: use a range within 1 to 65535";
    refused(engine.start(&web(&[&n1], &["0-80:80"])), Kind::Invalid, message);
}

fn binding(text: &str) -> PortBinding {
    let PortSpec { host, host_ports, protocol, port } = publish(text);
    PortBinding { host: host.unwrap(), host_port: *host_ports.start(), protocol, port }
}

#[test]
fn ports_change_while_the_sandbox_lives() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", V4);
    let id = engine.start(&web(&[&n1], &["127.0.0.1:80:80", "127.0.0.1:81:81"])).unwrap();
    let reserved =
        engine.change_ports(&id, &[publish("127.0.0.1:82:82")], &[binding("127.0.0.1:80:80")]);
    assert_eq!(reserved.unwrap(), [binding("127.0.0.1:82:82")]);
    assert_eq!(engine.ports(&id), ["127.0.0.1:81->81/tcp", "127.0.0.1:82->82/tcp"]);
    let other = SandboxSpec { owner: "b".to_owned(), ..web(&[&n1], &["80:80"]) };
    engine.start(&other).unwrap();
}

#[test]
fn a_port_that_only_leads_elsewhere_is_not_reserved_again() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", V4);
    let id = engine.start(&web(&[&n1], &["127.0.0.1:80:80"])).unwrap();
    let reserved =
        engine.change_ports(&id, &[publish("127.0.0.1:80:8080")], &[binding("127.0.0.1:80:80")]);
    assert_eq!(reserved.unwrap(), []);
    assert_eq!(engine.ports(&id), ["127.0.0.1:80->8080/tcp"]);
    let other = SandboxSpec { owner: "b".to_owned(), ..web(&[&n1], &["127.0.0.1:80:80"]) };
    assert!(engine.start(&other).is_err());
    engine.stop(&id);
    engine.start(&other).unwrap();
}

#[test]
fn a_port_being_withdrawn_is_taken_until_the_end() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", V4);
    let id = engine.start(&web(&[&n1], &["127.0.0.1:80:80"])).unwrap();
    let remove = [binding("127.0.0.1:80:80")];
    let claims = Claims::none();
    let change = PortsChange { add: &[], remove: &remove, closed: None };
    let open = engine.controller.begin_change_ports(&id, &change, &claims).unwrap();
    let Decision::Made(open) = open else { panic!("there is nothing to claim: {open:?}") };
    let other = SandboxSpec { owner: "b".to_owned(), ..web(&[&n1], &["127.0.0.1:80:80"]) };
    assert!(engine.start(&other).is_err());
    engine.abort(open);
    assert!(engine.start(&other).is_err());
    engine.change_ports(&id, &[], &remove).unwrap();
    engine.start(&other).unwrap();
}

#[test]
fn a_refused_change_of_ports_leaves_them_as_they_were() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", V4);
    let id = engine.start(&web(&[&n1], &["127.0.0.1:80:80"])).unwrap();
    refused(
        engine.change_ports(&id, &[], &[binding("127.0.0.1:81:80")]),
        Kind::NotFound,
        "published port 127.0.0.1:81->80/tcp not found",
    );
    let add = [publish("127.0.0.1:82:80"), publish("127.0.0.1:80:80")];
    let error = engine.change_ports(&id, &add, &[]).unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    assert_eq!(engine.controller.ports.taken().len(), 1);
    assert_eq!(engine.ports(&id), ["127.0.0.1:80->80/tcp"]);
}

/// B20: the port was still listed, bound and taken.
#[test]
fn a_sandbox_that_leaves_its_last_network_publishes_nothing() {
    let mut engine = Engine::new();
    let [n1, n2] = [("n1", "10.1.0.0/24"), ("n2", "10.2.0.0/24")]
        .map(|(name, subnet)| engine.network(name, &[subnet]));
    let id = engine.start(&web(&[&n1, &n2], &["127.0.0.1:80:80"])).unwrap();
    engine.leave(&id, &n1).unwrap();
    assert_eq!(engine.ports(&id), ["127.0.0.1:80->80/tcp"]);
    engine.leave(&id, &n2).unwrap();
    assert_eq!(engine.ports(&id), [""; 0]);
    assert!(engine.controller.ports.taken().is_empty());
    engine.restart();
    let other = SandboxSpec { owner: "b".to_owned(), ..web(&[&n1], &["127.0.0.1:80:80"]) };
    let other = engine.start(&other).unwrap();
    engine.stop(&other);
    // With the next first network the ports come back.
    let Engine { controller, entropy, now, .. } = &mut engine;
    let (join, ports) = (join(&n1), [publish("127.0.0.1:80:80")]);
    let first = FirstJoin { join: &join, ports: &ports };
    let mut free = |group: &[PortBinding]| group.iter().map(|_| Ok(true)).collect();
    let transaction = decided(&mut free, |claims| {
        controller.begin_first_join(&id, &first, claims, entropy, *now)
    });
    engine.commit(transaction.unwrap());
    assert_eq!(engine.ports(&id), ["127.0.0.1:80->80/tcp"]);
}
