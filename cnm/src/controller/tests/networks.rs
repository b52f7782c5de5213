//! Networks: what is asked for, what comes of it, and what is refused.

use expect_test::{Expect, expect};

use super::*;
use crate::HasKind;
use crate::driver::fake::PROFILES;

/// What there is of a network's addresses.
fn summary(network: &Network) -> String {
    let pool = |pool: &crate::Pool| {
        let range = pool.range.map(|range| format!(" range {range}")).unwrap_or_default();
        let gateway = pool.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        format!("{}{range}{gateway}", pool.subnet)
    };
    network.pools.iter().map(pool).collect::<Vec<_>>().join(", ")
}

#[track_caller]
fn creates(spec: &NetworkSpec, expected: &str) {
    assert_eq!(summary(&Engine::new().create(spec).unwrap()), expected);
}

/// A request for one subnet, with a range and a gateway.
fn subnet(subnet: &str, range: Option<&str>, gateway: Option<&str>) -> NetworkSpec {
    let text = |text: &str| text.to_owned();
    let pool = PoolSpec {
        subnet: Some(text(subnet)),
        range: range.map(text),
        gateway: gateway.map(text),
        auxiliary: BTreeMap::new(),
    };
    NetworkSpec { pools: vec![pool], ..network("n1", &[]) }
}

fn with_auxiliary(pairs: &[(&str, &str)]) -> NetworkSpec {
    let mut spec = subnet("10.1.0.0/24", None, None);
    spec.pools[0].auxiliary = options(pairs);
    spec
}

fn with_option(name: &str, value: &str) -> NetworkSpec {
    NetworkSpec { options: options(&[(name, value)]), ..network("n1", &[]) }
}

/// Docker's client keeps what it is told in a map, whose order is another one every time.
#[test]
fn a_refusal_named_subnets_in_whatever_order_a_client_had_sent_them() {
    for subnets in [["10.62.0.0/24", "fd00:62::/64"], ["fd00:62::/64", "10.62.0.0/24"]] {
        let network = Engine::new().create(&network("n1", &subnets)).unwrap();
        assert_eq!(network.subnets(), "10.62.0.0/24, fd00:62::/64");
    }
}

#[test]
fn a_network_gets_the_subnets_it_asks_for() {
    creates(&network("n1", &["10.1.0.0/24"]), "10.1.0.0/24 via 10.1.0.1");
    creates(
        &network("n1", &["10.1.0.0/24", "fd01::/64"]),
        "10.1.0.0/24 via 10.1.0.1, fd01::/64 via fd01::1",
    );
    creates(&subnet("10.1.0.0/24", None, Some("10.1.0.254")), "10.1.0.0/24 via 10.1.0.254");
    creates(
        &subnet("10.1.0.0/24", Some("10.1.0.128/25"), None),
        "10.1.0.0/24 range 10.1.0.128/25 via 10.1.0.128",
    );
    creates(&with_auxiliary(&[("a", "10.1.0.1"), ("b", "10.1.0.2")]), "10.1.0.0/24 via 10.1.0.3");
}

#[test]
fn a_family_without_a_subnet_gets_one_of_the_default_pools() {
    creates(&network("n1", &[]), "172.17.0.0/24 via 172.17.0.1");
    creates(&network("n1", &["fd01::/64"]), "fd01::/64 via fd01::1, 172.17.0.0/24 via 172.17.0.1");
    let spec = NetworkSpec { ipv4: Some(false), ..network("n1", &["fd01::/64"]) };
    creates(&spec, "fd01::/64 via fd01::1");
}

#[test]
fn a_network_gets_another_family_while_a_subnet_of_the_first_is_exchanged() {
    let mut engine = Engine::new();
    let before = engine.network("n1", &["10.1.0.0/24"]);
    let pool = PoolSpec { subnet: Some("10.2.0.0/24".to_owned()), ..PoolSpec::default() };
    let exchange = NetworkUpdate {
        subnets: vec![pool],
        without: vec!["10.1.0.0/24".to_owned()],
        ipv6: Some(true),
        ..NetworkUpdate::default()
    };
    let facts = HostFacts::default();
    let model = &mut engine.controller;
    let begun = model.begin_update_network(&before.id, &exchange, &facts, &mut Counter(0), 0);
    let (_, transaction) = begun.unwrap();
    engine.commit(transaction);
    let after = engine.controller.network("n1").unwrap();
    let subnets: Vec<_> = after.pools.iter().map(|pool| pool.subnet.to_string()).collect();
    assert!(subnets.len() == 2 && subnets[0] == "10.2.0.0/24", "{subnets:?}");
    assert!(after.pools[1].subnet.is_ipv6());
}

#[test]
fn any_subnet_of_a_size_can_be_asked_for() {
    creates(&network("n1", &["0.0.0.0/28"]), "172.17.0.0/28 via 172.17.0.1");
    let mut config = ControllerConfig::default();
    config.default_pools.push(("fd77::/48".parse().unwrap(), 64));
    let mut engine = Engine::with(config);
    assert!(summary(&engine.network("n1", &["::/80"])).starts_with("fd77::/80 via fd77::1"));
}

#[test]
fn ipv6_subnets_come_from_one_random_prefix_for_good() {
    let mut engine = Engine::new();
    let dual = |name| NetworkSpec { ipv6: Some(true), ..network(name, &[]) };
    let first = engine.create(&dual("n1")).unwrap().pools[1].subnet;
    let unique_local: IpNetwork = "fd00::/8".parse().unwrap();
    assert!(unique_local.contains(first.ip()) && first.prefix() == 64);
    engine.restart();
    let second = engine.create(&dual("n2")).unwrap().pools[1].subnet;
    let prefix = IpNetwork::new(first.ip(), 48).unwrap();
    assert!(second != first && prefix.contains(second.ip()));
}

#[test]
fn default_pools_avoid_what_the_host_and_others_use() {
    let mut engine = Engine::new();
    engine.host = HostFacts {
        routes: vec![
            "172.17.0.0/25".parse().unwrap(),
            // What VPNs set instead of a default route hinders nothing.
            "0.0.0.0/1".parse().unwrap(),
            "128.0.0.0/1".parse().unwrap(),
        ],
        resolvers: vec!["172.17.1.53".parse().unwrap()],
        ..HostFacts::default()
    };
    engine.network("n1", &["172.17.2.0/24"]);
    let (_, open) = engine.begin_network(&network("n2", &[])).unwrap();
    assert_eq!(summary(&engine.network("n3", &[])), "172.17.4.0/24 via 172.17.4.1");
    engine.abort(open);
    assert_eq!(summary(&engine.network("n4", &[])), "172.17.3.0/24 via 172.17.3.1");
}

#[test]
fn hundreds_of_networks_are_possible() {
    let mut engine = Engine::new();
    let networks = (0..500).map(|n| engine.network(&format!("n{n}"), &[]).pools[0].subnet);
    let different: BTreeSet<_> = networks.collect();
    assert_eq!(different.len(), 500);
}

#[test]
fn a_subnet_that_the_host_uses_is_a_warning() {
    let mut engine = Engine::new();
    engine.host.routes = vec!["10.0.0.0/8".parse().unwrap()];
    engine.host.resolvers = vec!["192.168.1.1".parse().unwrap()];
    let (_, transaction) = engine.begin_network(&network("n1", &["10.1.0.0/24"])).unwrap();
    assert_eq!(
        transaction.warnings,
        [
            "subnet 10.1.0.0/24 overlaps this host's route to 10.0.0.0/8: one of them will be out of reach"
        ]
    );
    let (_, transaction) = engine.begin_network(&network("n2", &["192.168.0.0/16"])).unwrap();
    assert_eq!(
        transaction.warnings,
        [
            "subnet 192.168.0.0/16 overlaps this host's resolver 192.168.1.1: one of them will be out of reach"
        ]
    );
}

#[test]
fn an_isolated_network_has_no_gateway() {
    let mode = ("com.docker.network.bridge.gateway_mode_ipv4", "isolated");
    let spec = NetworkSpec {
        internal: true,
        options: options(&[mode]),
        ..network("n1", &["10.1.0.0/24"])
    };
    creates(&spec, "10.1.0.0/24");
    let internal = NetworkSpec { internal: true, ..network("n1", &["10.1.0.0/24"]) };
    creates(&internal, "10.1.0.0/24 via 10.1.0.1");
}

#[test]
fn without_ipam_a_network_has_no_addresses() {
    let mut engine = Engine::new();
    let spec = NetworkSpec { ipam_driver: "null".to_owned(), ..network("n1", &[]) };
    let n1 = engine.create(&spec).unwrap();
    let a = engine.sandbox("a", &[&n1]);
    assert_eq!(engine.addresses(&a), "@eth0");
}

#[test]
fn fields_may_be_given_as_options_and_defaults_come_from_the_daemon() {
    let mut config = ControllerConfig::default();
    let mtu = "com.docker.network.driver.mtu";
    let icc = "com.docker.network.bridge.enable_icc";
    let defaults = options(&[(mtu, "1400"), (icc, "false")]);
    config.default_options.insert("bridge".to_owned(), defaults);
    let mut engine = Engine::with(config);
    let internal = "com.docker.network.internal";
    let given = options(&[(mtu, "1300"), (internal, "true")]);
    let n1 = engine.create(&NetworkSpec { options: given, ..network("n1", &[]) }).unwrap();
    assert!(n1.internal);
    assert_eq!(n1.given_options, options(&[(mtu, "1300"), (icc, "false"), (internal, "true")]));
}

#[test]
fn unknown_options_are_warnings_of_the_transaction() {
    let mut engine = Engine::new();
    let (_, transaction) = engine.begin_network(&with_option("enable_icc", "false")).unwrap();
    assert_eq!(transaction.warnings.len(), 1);
}

#[test]
fn the_predefined_networks_are_made_once_and_stay() {
    let mut engine = Engine::new();
    for (name, driver) in [("bridge", "bridge"), ("host", "host"), ("none", "null")] {
        let spec = NetworkSpec { driver: driver.to_owned(), ..network(name, &[]) };
        let Engine { controller, host, entropy, now, .. } = &mut engine;
        let begun = controller.begin_create_predefined(&spec, host, entropy, *now);
        let (made, transaction) = begun.unwrap();
        engine.commit(transaction);
        assert!(made.predefined);
        refused(
            engine.controller.begin_remove_network(&made.id),
            Kind::Forbidden,
            &format!("{name} is a pre-defined network and cannot be removed"),
        );
        let Engine { controller, host, entropy, now, .. } = &mut engine;
        let again = controller.begin_create_predefined(&spec, host, entropy, *now);
        refused(again, Kind::Conflict, &format!("network with name {name} already exists"));
    }
    let bridge = engine.controller.network("bridge").unwrap();
    assert_eq!(bridge.profile().device, "rnet0".parse().ok());
    for driver in ["host", "null", "none"] {
        let spec = NetworkSpec { driver: driver.to_owned(), ..network("n1", &[]) };
        let kind = driver.replace("none", "null");
        let message = format!("only one instance of \"{kind}\" network is allowed");
        refused(engine.create(&spec), Kind::Forbidden, &message);
    }
    let transaction = engine.controller.begin_remove_predefined(&bridge.id).unwrap();
    engine.commit(transaction);
    refused(engine.controller.network("bridge"), Kind::NotFound, "network bridge not found");
}

/// Requests that contradict themselves.
fn contradictions() -> [NetworkSpec; 7] {
    let n1 = network("n1", &[]);
    let v4 = network("n1", &["10.1.0.0/24"]);
    let lone = PoolSpec { gateway: Some("10.1.0.1".to_owned()), ..PoolSpec::default() };
    [
        NetworkSpec { driver: "x".to_owned(), ..n1.clone() },
        NetworkSpec { ipam_driver: "infoblox".to_owned(), ..n1.clone() },
        NetworkSpec { ipam_driver: "null".to_owned(), ..v4.clone() },
        NetworkSpec { ipv4: Some(false), ..n1.clone() },
        NetworkSpec { ipv4: Some(false), ipv6: Some(true), ..v4 },
        NetworkSpec { ipv6: Some(false), ..network("n1", &["fd01::/64"]) },
        NetworkSpec { pools: vec![lone], ..n1 },
    ]
}

#[test]
fn every_refusal_is_a_clear_sentence() {
    let mut engine = Engine::new();
    engine.network("taken", &["10.9.0.0/16"]);
    let specs = [
        network("", &[]),
        network(" ", &[]),
        network("bridge", &[]),
        network("default", &[]),
        network("taken", &[]),
        with_option("com.docker.network.bridge.enable_icc", "maybe"),
        with_option("com.docker.network.bridge.gateway_mode_ipv4", "isolated"),
        network("n1", &["10.1.0.0"]),
        network("n1", &["banana"]),
        network("n1", &["10.1.0.0/33"]),
        network("n1", &["10.1.0.7/24"]),
        network("n1", &["0.0.0.0/0"]),
        network("n1", &["127.0.0.0/24"]),
        network("n1", &["224.1.0.0/24"]),
        network("n1", &["10.1.0.1/32"]),
        network("n1", &["10.9.1.0/24"]),
        network("n1", &["10.0.0.0/8"]),
        network("n1", &["10.1.0.0/24", "10.1.0.0/25"]),
        network("n1", &["0.0.0.0/8"]),
        subnet("10.1.0.0/24", Some("10.2.0.0/25"), None),
        subnet("10.1.0.0/24", Some("10.0.0.0/8"), None),
        subnet("10.1.0.0/24", Some("10.1.0.5/25"), None),
        subnet("10.1.0.0/24", Some("fd01::/64"), None),
        subnet("10.1.0.0/24", None, Some("10.2.0.1")),
        subnet("10.1.0.0/24", None, Some("10.1.0.255")),
        subnet("10.1.0.0/24", None, Some("x")),
        with_auxiliary(&[("a", "10.2.0.1")]),
        with_auxiliary(&[("a", "10.1.0.5"), ("b", "10.1.0.5")]),
    ];
    let mut said = Vec::new();
    for spec in specs.iter().chain(&contradictions()) {
        let error = engine.create(spec).unwrap_err();
        said.push(format!("{:?}: {error}", error.kind()));
    }
    // Nothing is left of all that.
    assert_eq!(engine.controller.networks().len(), 1);
    assert_eq!(engine.keys("").join(" ").matches("network/").count(), 1);
    check(&said.join("\n"));
}

fn check(said: &str) {
    let expected: Expect = expect![[r#"
        Invalid: invalid name: name is empty
        Invalid: invalid name: name is empty
        Forbidden: operation is not permitted on predefined bridge network
        Forbidden: operation is not permitted on predefined default network
        Conflict: network with name taken already exists
        Invalid: invalid value "maybe" of option com.docker.network.bridge.enable_icc: true or false is expected
        Invalid: isolated needs internal
        Invalid: invalid subnet 10.1.0.0: an address and a prefix length are expected, such as 10.1.0.0/24
        Invalid: invalid subnet banana: an address and a prefix length are expected, such as 10.1.0.0/24
        Invalid: invalid subnet 10.1.0.0/33: an address and a prefix length are expected, such as 10.1.0.0/24
        Invalid: invalid subnet 10.1.0.7/24: it should be 10.1.0.0/24
        Invalid: invalid subnet 0.0.0.0/0: it is the whole address space
        Invalid: invalid subnet 127.0.0.0/24: these are loopback addresses
        Invalid: invalid subnet 224.1.0.0/24: these are multicast addresses
        Invalid: invalid subnet 10.1.0.1/32: it has no room for a gateway and an endpoint
        Forbidden: Pool overlaps with other one on this address space: 10.9.1.0/24 overlaps 10.9.0.0/16 of network taken; choose another --subnet
        Forbidden: Pool overlaps with other one on this address space: 10.0.0.0/8 overlaps 10.9.0.0/16 of network taken; choose another --subnet
        Forbidden: Pool overlaps with other one on this address space: 10.1.0.0/25 overlaps 10.1.0.0/24 of the same network; choose another --subnet
        Invalid: all predefined address pools have been fully subnetted: no subnet of size /8 is free in 172.17.0.0/16, 172.18.0.0/15, 172.20.0.0/14, 172.24.0.0/13, 10.128.0.0/9; choose one with --subnet, remove unused networks, or start the daemon with more --default-address-pool
        Invalid: invalid ip-range 10.2.0.0/25: parent subnet 10.1.0.0/24 doesn't contain it
        Invalid: invalid ip-range 10.0.0.0/8: parent subnet 10.1.0.0/24 doesn't contain it
        Invalid: invalid ip-range 10.1.0.5/25: it should be 10.1.0.0/25
        Invalid: invalid ip-range fd01::/64: parent subnet 10.1.0.0/24 doesn't contain it
        Invalid: invalid gateway 10.2.0.1: parent subnet 10.1.0.0/24 doesn't contain it
        Invalid: invalid gateway 10.1.0.255: it stands for the whole of subnet 10.1.0.0/24
        Invalid: invalid gateway x: it is no IP address
        Invalid: invalid auxiliary address 10.2.0.1: parent subnet 10.1.0.0/24 doesn't contain it
        Invalid: auxiliary addresses a and b are both 10.1.0.5
        NotFound: could not find driver x: plugin "x" not found; known drivers are bridge, host, null
        NotFound: could not find IPAM driver infoblox: plugin "infoblox" not found; known IPAM drivers are default, null, dhcp
        Invalid: null ipam driver does not handle specific address pool requests: leave out --subnet
        Invalid: IPv4 or IPv6 must be enabled
        Invalid: invalid subnet 10.1.0.0/24: IPv4 is disabled for this network; enable it or leave the subnet out
        Invalid: invalid subnet fd01::/64: IPv6 is disabled for this network; enable it or leave the subnet out
        Invalid: an --ip-range, --gateway or --aux-address needs a --subnet that contains it"#]];
    expected.assert_eq(said);
}

#[test]
fn an_auxiliary_address_cannot_be_the_gateway() {
    let mut spec = with_auxiliary(&[("a", "10.1.0.5")]);
    spec.pools[0].gateway = Some("10.1.0.5".to_owned());
    let message = "auxiliary address a is 10.1.0.5, which is the gateway";
    refused(Engine::new().create(&spec), Kind::Invalid, message);
}

#[test]
fn a_bridge_device_belongs_to_one_network() {
    let mut engine = Engine::new();
    let named = |name| NetworkSpec {
        name: String::from(name),
        ..with_option("com.docker.network.bridge.name", "br7")
    };
    let (first, open) = engine.begin_network(&named("n1")).unwrap();
    let message =
        format!("conflicts with network {} (n1): networks have same bridge name br7", first.id);
    refused(engine.create(&named("n2")), Kind::Forbidden, &message);
    engine.commit(open);
    refused(engine.create(&named("n2")), Kind::Forbidden, &message);
}

#[test]
fn exhausted_default_pools_are_told_with_what_to_do() {
    let default_pools = vec![("10.8.0.0/24".parse().unwrap(), 25)];
    let mut engine =
        Engine::with(ControllerConfig { default_pools, ..ControllerConfig::default() });
    engine.network("n1", &[]);
    engine.network("n2", &[]);
    refused(
        engine.create(&network("n3", &[])),
        Kind::Invalid,
        "all predefined address pools have been fully subnetted: no subnet is free in 10.8.0.0/24; \
         choose one with --subnet, remove unused networks, or start the daemon \
         with more --default-address-pool",
    );
    let n1 = engine.controller.network("n1").unwrap();
    let transaction = engine.controller.begin_remove_network(&n1.id).unwrap();
    engine.commit(transaction);
    assert_eq!(engine.network("n3", &[]).pools, n1.pools);
}

#[test]
fn a_name_is_taken_from_the_beginning_and_free_again_after_an_abort() {
    let mut engine = Engine::new();
    let (_, open) = engine.begin_network(&network("n1", &[])).unwrap();
    let again = engine.create(&network("n1", &[]));
    refused(again, Kind::Conflict, "network with name n1 already exists");
    refused(engine.controller.network("n1"), Kind::NotFound, "network n1 not found");
    engine.abort(open);
    engine.network("n1", &[]);
}

#[test]
fn a_subnet_is_taken_from_the_beginning_and_free_again_after_an_abort() {
    let mut engine = Engine::new();
    let (_, open) = engine.begin_network(&network("n1", &["10.1.0.0/24"])).unwrap();
    refused(
        engine.create(&network("n2", &["10.1.0.0/16"])),
        Kind::Forbidden,
        "Pool overlaps with other one on this address space: \
         10.1.0.0/16 overlaps 10.1.0.0/24 of network n1; choose another --subnet",
    );
    engine.abort(open);
    engine.network("n2", &["10.1.0.0/16"]);
}

#[test]
fn a_network_in_use_cannot_be_removed() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let (id, open) = engine.begin_sandbox(&sandbox("web", &[&n1])).unwrap();
    let error = engine.controller.begin_remove_network(&n1.id).unwrap_err();
    assert_eq!(error.kind(), Kind::Forbidden);
    engine.commit(open);
    let endpoint = engine.endpoints(&id)[0].id.clone();
    refused(
        engine.controller.begin_remove_network(&n1.id),
        Kind::Forbidden,
        &format!(
            "error while removing network: network n1 has active endpoints (name:\"web\" id:\"{}\")",
            endpoint.short()
        ),
    );
    engine.stop(&id);
    let transaction = engine.controller.begin_remove_network(&n1.id).unwrap();
    engine.commit(transaction);
    assert_eq!(engine.keys(""), Vec::<String>::new());
}

#[test]
fn removing_twice_is_refused() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &[]);
    let transaction = engine.controller.begin_remove_network(&n1.id).unwrap();
    let busy = "network n1 is being changed by another request: try again when it is done";
    refused(engine.controller.begin_remove_network(&n1.id), Kind::Conflict, busy);
    refused(engine.start(&sandbox("a", &[&n1])), Kind::Conflict, busy);
    engine.commit(transaction);
    let gone = format!("network {} not found", n1.id);
    refused(engine.controller.begin_remove_network(&n1.id), Kind::NotFound, &gone);
    refused(engine.start(&sandbox("a", &[&n1])), Kind::NotFound, &gone);
}

#[test]
fn the_last_of_two_thousand_networks_takes_the_work_of_the_first() {
    let mut engine = Engine::new();
    let mut work = Vec::new();
    let mut subnets = BTreeSet::new();
    for number in 0..2_000 {
        let before = PROFILES.get();
        let made = engine.network(&format!("n{number}"), &[]);
        work.push(PROFILES.get() - before);
        subnets.insert(made.pools[0].subnet.to_string());
        // What is taken is a few ranges, however many networks have a part in them.
        assert!(engine.controller.taken.spans(false).iter().count() <= 2, "{number}");
    }
    assert_eq!(subnets.len(), 2_000);
    assert_eq!(work.first(), work.last());
    // One that goes leaves its subnet to the next.
    let gone = engine.controller.network("n700").unwrap();
    let transaction = engine.controller.begin_remove_network(&gone.id).unwrap();
    engine.commit(transaction);
    engine.restart();
    assert_eq!(engine.network("again", &[]).pools[0].subnet, gone.pools[0].subnet);
}
