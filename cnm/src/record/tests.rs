//! What earlier releases wrote is read, and what is written is read again.

use expect_test::expect;

use super::*;
use crate::driver::fake::DRIVERS;
use crate::sandbox::Attachment;
use crate::{Driver, PlanError, State};

#[derive(Debug)]
struct Fakes;

impl Planner for Fakes {
    fn drivers(&self) -> &[&'static dyn Driver] {
        DRIVERS
    }

    fn sandbox(&self, _: &Sandbox, _: &[Attachment<'_>]) -> Result<State, PlanError> {
        Ok(State::default())
    }
}

/// A network as the first form has it, `extra` fields beside.
fn first_network(bridge: &str, predefined: bool, options: &str, labels: &str) -> String {
    let id = "1a".repeat(32);
    format!(
        r#"{{"id":"{id}","name":"n1","created":7,"driver":{{"driver":"bridge","bridge":"{bridge}",
        "icc":true,"masquerade":true,"mtu":null,"host_bindings":[],"interface_prefix":"eth",
        "gateway_mode_ipv4":"nat","gateway_mode_ipv6":"nat","inhibit_ipv4":false}},
        "given_options":{options},"pools":[{{"subnet":"10.1.0.0/24","range":null,
        "gateway":"10.1.0.1","auxiliary":{{}}}}],"ipv4":true,"ipv6":false,"internal":false,
        "attachable":false,"predefined":{predefined},"labels":{labels}}}"#
    )
}

fn first_endpoint(options: &str) -> String {
    let id = "2b".repeat(32);
    format!(
        r#"{{"id":"{id}","network":"{id}","sandbox":"{id}","interface":"eth1",
        "mac":"02:00:00:00:00:01","addresses":["10.1.0.2/24"],"aliases":["a"],
        "gateway_priority":3,"order":1,"given_options":{options}}}"#
    )
}

fn read(text: &str) -> Network {
    network(text.as_bytes(), &Fakes).unwrap()
}

#[test]
fn a_network_of_the_first_form_keeps_its_device() {
    let derived = format!("br-{}", "1a".repeat(6));
    for (bridge, predefined) in [(derived.as_str(), false), ("rnet0", true)] {
        let network = read(&first_network(bridge, predefined, "{}", "{}"));
        assert_eq!((network.driver.name(), network.given_options.len()), ("bridge", 0));
        assert_eq!(network.pools[0].gateway, "10.1.0.1".parse().ok());
    }
    let network = read(&first_network("docker7", true, "{}", "{}"));
    assert_eq!(network.given_options["com.docker.network.bridge.name"], "docker7");
    for kind in ["host", "null"] {
        let id = "1a".repeat(32);
        let text = format!(
            r#"{{"id":"{id}","name":"x","created":7,"driver":{{"driver":"{kind}"}},
            "given_options":{{}},"pools":[],"ipv4":true,"ipv6":false,"internal":false,
            "attachable":false,"predefined":true,"labels":{{}}}}"#
        );
        assert_eq!(read(&text).driver.name(), kind);
    }
}

#[test]
fn what_cni_hid_in_the_first_form_is_found() {
    let labels = r#"{"a":"b","rnet.cni.settings":"{\"gateway\":true,\"bridge\":\"cni0\"}"}"#;
    let options = r#"{"com.docker.network.bridge.name":"cni0"}"#;
    let text = first_network("cni0", false, options, labels);
    // The fake driver does not know the option.
    let mut record: NetworkRecord = serde_json::from_str(&text).unwrap();
    assert_eq!(first::renew(&mut record), "bridge");
    assert_eq!(record.given_options["rnet.bridge.host_address"], "true");
    assert_eq!(record.labels.keys().collect::<Vec<_>>(), ["a"]);
    let settings = r#"{\"hairpin\":true,\"default_gateway\":false,\"routes\":[{\"dst\":\"10.2.0.0/16\",\"gw\":null}]}"#;
    let text = first_endpoint(&format!(r#"{{"rnet.cni.settings":"{settings}"}}"#));
    let endpoint = endpoint(text.as_bytes()).unwrap();
    assert_eq!(endpoint.given_options["rnet.endpoint.hairpin"], "true");
    assert!(!endpoint.default_route);
    let destination = "10.2.0.0/16".parse().unwrap();
    assert_eq!(endpoint.routes, [StaticRoute { destination, via: None }]);
}

#[test]
fn sysctls_of_an_endpoint_of_the_first_form_are_read_from_its_options() {
    let options =
        r#"{"com.docker.network.endpoint.sysctls":"net.ipv4.conf.IFNAME.log_martians=1"}"#;
    let endpoint = endpoint(first_endpoint(options).as_bytes()).unwrap();
    let sysctl = ("net/ipv4/conf/eth1/log_martians".to_owned(), "1".to_owned());
    assert_eq!((endpoint.sysctls, endpoint.default_route), (vec![sysctl], true));
}

#[test]
fn an_intent_of_the_first_form_is_read() {
    let network = first_network("br-x", false, "{}", "{}");
    let id = "1a".repeat(32);
    let text = format!(
        r#"{{"kind":"create","subject":{{"network":"{id}"}},
        "change":{{"network":{{"create":{network}}}}},"now":9}}"#
    );
    let read = intent(text.as_bytes(), &Fakes).unwrap();
    assert_eq!(read.kind, ChangeKind::Create);
    assert_eq!(intent(&encode_intent(&read), &Fakes).unwrap(), read);
}

#[test]
fn what_is_written_is_read_again() {
    let network = read(&first_network("docker7", true, "{}", r#"{"a":"b"}"#));
    assert_eq!(self::network(&encode_network(&network), &Fakes).unwrap(), network);
    let settings =
        r#"{"com.docker.network.endpoint.sysctls":"net.ipv4.conf.IFNAME.log_martians=1"}"#;
    let endpoint = endpoint(first_endpoint(settings).as_bytes()).unwrap();
    assert_eq!(self::endpoint(&encode_endpoint(&endpoint)).unwrap(), endpoint);
    let others = ["d".to_owned()].into();
    let (owner, released) = ("c".to_owned(), Some(3));
    let lease = Lease { owner, mac: None, released, reserved: true, others };
    assert_eq!(self::lease(&encode_lease(&lease)).unwrap(), lease);
}

#[test]
fn what_cannot_be_read_says_why() {
    let mut said = Vec::new();
    let network = |text: &str| network(text.as_bytes(), &Fakes).unwrap_err().to_string();
    let good = first_network("br-x", false, "{}", "{}");
    said.push(network("{"));
    said.push(network(&good.replacen('{', r#"{"version":3,"#, 1)));
    said.push(network(&good.replace(r#""driver":"bridge""#, r#""driver":"overlay""#)));
    let options = r#"{"com.docker.network.driver.mtu":"big"}"#;
    said.push(network(&first_network("br-x", false, options, "{}")));
    expect![[r#"
        EOF while parsing an object at line 1 column 1
        it is of version 3, and this release knows 2 and earlier ones
        there is no driver overlay
        invalid value "big" of option com.docker.network.driver.mtu: a number of bytes is expected"#]].assert_eq(&said.join("\n"));
}
