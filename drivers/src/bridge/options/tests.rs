//! What options mean, and what is said about those that mean nothing.

use cnm::{Driver, HasKind, Kind};
use expect_test::{Expect, expect};

use super::*;

fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read(pairs: &[(&str, &str)]) -> Result<Reading, OptionError> {
    parse(&given(pairs)).map(|(_, reading)| reading)
}

fn bridge(pairs: &[(&str, &str)]) -> BridgeOptions {
    let (options, reading) = parse(&given(pairs)).unwrap();
    assert_eq!(reading.warnings, Vec::<String>::new());
    options
}

fn warnings(driver: &dyn Driver, pairs: &[(&str, &str)], expected: &Expect) {
    expected.assert_eq(&driver.read(&given(pairs)).unwrap().warnings.join("\n"));
}

#[test]
fn without_options_a_bridge_network_is_as_dockers() {
    let options = bridge(&[]);
    assert_eq!(options, BridgeOptions::default());
    assert!(options.icc && options.masquerade && options.host_bindings.is_empty());
}

#[test]
fn every_option_of_the_bridge_driver_sets_its_field() {
    let options = bridge(&[
        ("com.docker.network.bridge.name", "br7"),
        ("com.docker.network.bridge.enable_icc", "false"),
        ("com.docker.network.bridge.enable_ip_masquerade", "0"),
        ("com.docker.network.driver.mtu", "1400"),
        ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
        ("com.docker.network.bridge.host_binding_ipv6", "[::1]"),
        ("com.docker.network.container_iface_prefix", "net"),
        ("com.docker.network.bridge.gateway_mode_ipv4", "routed"),
        ("com.docker.network.bridge.gateway_mode_ipv6", "nat-unprotected"),
        ("com.docker.network.bridge.inhibit_ipv4", "T"),
        ("com.docker.network.bridge.default_bridge", "true"),
        ("rnet.bridge.host_address", "false"),
        ("rnet.bridge.any_source", "true"),
        ("rnet.bridge.publish_policy", "host-firewall"),
        ("rnet.bridge.topology", "l3"),
        ("com.docker.network.bridge.trusted_host_interfaces", "eth1:wg0"),
        ("com.docker.network.host_ipv4", "192.0.2.1"),
        ("com.docker.network.host_ipv6", "2001:db8::1"),
    ]);
    let expected = BridgeOptions {
        bridge: "br7".parse().ok(),
        icc: false,
        masquerade: false,
        mtu: Some(1400),
        host_bindings: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
        interface_prefix: "net".to_owned(),
        gateway_mode_ipv4: GatewayMode::Routed,
        gateway_mode_ipv6: GatewayMode::NatUnprotected,
        inhibit_ipv4: true,
        host_address: false,
        trusted: vec!["eth1".parse().unwrap(), "wg0".parse().unwrap()],
        outbound: [Some("192.0.2.1".parse().unwrap()), Some("2001:db8::1".parse().unwrap())],
        publish_policy: PublishPolicy::HostFirewall,
        topology: Topology::L3,
        any_source: true,
    };
    assert_eq!(options, expected);
}

#[test]
fn other_names_of_an_option_work_too() {
    assert_eq!(bridge(&[("com.docker.network.mtu", "9000")]).mtu, Some(9000));
    assert_eq!(bridge(&[("mtu", "0")]).mtu, None);
    assert_eq!(bridge(&[("interface_name", "br8")]).bridge, "br8".parse().ok());
}

#[test]
fn families_and_isolation_may_be_given_as_options() {
    let parsed = read(&[
        ("com.docker.network.enable_ipv4", "false"),
        ("com.docker.network.enable_ipv6", "true"),
        ("com.docker.network.internal", "1"),
    ]);
    let parsed = parsed.unwrap();
    assert_eq!((parsed.ipv4, parsed.ipv6, parsed.internal), (Some(false), Some(true), Some(true)));
}

#[test]
fn a_wrong_value_names_the_option_the_value_and_what_is_accepted() {
    let errors = [
        ("com.docker.network.bridge.name", "much-too-long-a-name"),
        ("com.docker.network.bridge.enable_icc", "yes"),
        ("com.docker.network.driver.mtu", "67"),
        ("com.docker.network.driver.mtu", "-1"),
        ("mtu", "big"),
        ("com.docker.network.bridge.host_binding_ipv4", "::1"),
        ("com.docker.network.bridge.host_binding_ipv6", "127.0.0.1"),
        ("com.docker.network.container_iface_prefix", "a/b"),
        ("com.docker.network.bridge.gateway_mode_ipv4", "bridged"),
        ("com.docker.network.bridge.trusted_host_interfaces", "eth0:"),
        ("com.docker.network.host_ipv4", "eth0"),
        ("com.docker.network.host_ipv6", "10.0.0.1"),
        ("com.docker.network.advertise_addr_nmsgs", "4"),
        ("com.docker.network.advertise_addr_ms", "50"),
    ];
    let errors = errors.map(|pair| {
        let error = read(&[pair]).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        error.to_string()
    });
    expect![[r#"
        invalid value "much-too-long-a-name" of option com.docker.network.bridge.name: an interface name of 1 to 15 bytes without `/`, `:` and white space is expected
        invalid value "yes" of option com.docker.network.bridge.enable_icc: true or false is expected
        invalid value "67" of option com.docker.network.driver.mtu: a number of bytes from 68 to 65535, or 0 for the default, is expected
        invalid value "-1" of option com.docker.network.driver.mtu: a number of bytes from 68 to 65535, or 0 for the default, is expected
        invalid value "big" of option mtu: a number of bytes from 68 to 65535, or 0 for the default, is expected
        invalid value "::1" of option com.docker.network.bridge.host_binding_ipv4: an IPv4 address of this host is expected
        invalid value "127.0.0.1" of option com.docker.network.bridge.host_binding_ipv6: an IPv6 address of this host is expected
        invalid value "a/b" of option com.docker.network.container_iface_prefix: the beginning of an interface name, at most 12 bytes, is expected
        invalid value "bridged" of option com.docker.network.bridge.gateway_mode_ipv4: nat, nat-unprotected, routed or isolated is expected
        invalid value "eth0:" of option com.docker.network.bridge.trusted_host_interfaces: a colon-separated list of interface names is expected
        invalid value "eth0" of option com.docker.network.host_ipv4: an IPv4 address of this host is expected
        invalid value "10.0.0.1" of option com.docker.network.host_ipv6: an IPv6 address of this host is expected
        invalid value "4" of option com.docker.network.advertise_addr_nmsgs: a number from 0 to 3 is expected
        invalid value "50" of option com.docker.network.advertise_addr_ms: a number of milliseconds from 100 to 2000 is expected"#]]
    .assert_eq(&errors.join("\n"));
}

#[test]
fn an_unknown_option_is_a_warning_with_the_nearest_name() {
    let pairs = [("enable_icc", "false"), ("parent", "eth0"), ("", "")];
    warnings(
        &crate::bridge::Bridge,
        &pairs,
        &expect![[r#"
        unknown option  of driver bridge is ignored
        unknown option enable_icc of driver bridge is ignored: did you mean com.docker.network.bridge.enable_icc?
        unknown option parent of driver bridge is ignored"#]],
    );
}

#[test]
fn an_unknown_option_of_docker_s_vocabulary_is_an_error() {
    let tried = ["bridge.enable_ice", "bridge.mtu", "colour"].map(|name| {
        let name = format!("com.docker.network.{name}");
        read(&[(&name, "true")]).unwrap_err().to_string()
    });
    expect![[r#"
        unknown option com.docker.network.bridge.enable_ice of driver bridge: did you mean com.docker.network.bridge.enable_icc?
        unknown option com.docker.network.bridge.mtu of driver bridge: did you mean com.docker.network.driver.mtu?
        unknown option com.docker.network.colour of driver bridge"#]]
    .assert_eq(&tried.join("\n"));
}

#[test]
fn options_that_cannot_be_realised_are_warned_about() {
    let pairs = [
        ("com.docker.network.advertise_addr_nmsgs", "1"),
        ("com.docker.network.advertise_addr_ms", "200"),
    ];
    warnings(
        &crate::bridge::Bridge,
        &pairs,
        &expect![[r#"
        option com.docker.network.advertise_addr_ms is ignored: this version cannot do it
        option com.docker.network.advertise_addr_nmsgs is ignored: this version cannot do it"#]],
    );
}

#[test]
fn host_and_null_have_no_options() {
    let pairs = [("com.docker.network.driver.mtu", "1400")];
    warnings(
        &crate::host::Host,
        &pairs,
        &expect!["option com.docker.network.driver.mtu is ignored: driver host has no options"],
    );
    warnings(
        &crate::null::Null,
        &pairs,
        &expect!["option com.docker.network.driver.mtu is ignored: driver null has no options"],
    );
}

#[test]
fn what_the_manual_gives_as_an_example_is_accepted_of_every_driver() {
    for driver in crate::DRIVERS {
        for option in driver.options() {
            let example = [(option.names[0], option.manual.example)];
            let read = driver.read(&given(&example));
            assert!(read.is_ok(), "{} {example:?}: {read:?}", driver.name());
        }
        for option in driver.endpoint_options() {
            let (name, example) = (option.names[0], option.manual.example);
            assert_eq!(driver.read_endpoint(name, example), Ok(true), "{name} {example}");
        }
    }
}
