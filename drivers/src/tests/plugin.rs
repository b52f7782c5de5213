//! Endpoints that plugins made.

use cnm::endpoint::{Handover, StaticRoute};

use super::*;

#[test]
fn a_link_that_a_plugin_made_is_moved_and_its_gateway_and_routes_are_the_plugins() {
    let n1 = Network { driver: remote::of("little"), ..network(1, &[V4, V6]) };
    let mut made = endpoint(0xa0, &n1, &["10.1.0.2/24", "fd00:1::2/64"]);
    let route = |destination: &str, via: Option<&str>| StaticRoute {
        destination: destination.parse().unwrap(),
        via: via.map(|via| via.parse().unwrap()),
    };
    made.handover = Some(Handover {
        link: Some("tap7".parse().unwrap()),
        gateways: vec!["192.0.2.1".parse().unwrap()],
        routes: vec![route("192.0.2.1/32", None), route("198.51.100.0/24", Some("192.0.2.1"))],
    });
    let attachments = [Attachment { network: &n1, endpoint: &made }];
    let state = Drivers.sandbox(&sandbox(&[]), &attachments).unwrap();
    let plan = cnm::diff(&State::default(), &state).to_string();
    let of_link = plan.lines().filter(|line| !line.contains("sysctl")).collect::<Vec<_>>();
    expect![[r#"
        + namespace 5b5b5b5b5b5b
        + link eth0 in 5b5b5b5b5b5b moved from tap7 mac 02:00:00:00:00:a0
        + addr 10.1.0.2/24 dev eth0 in 5b5b5b5b5b5b
        + addr fd00:1::2/64 dev eth0 in 5b5b5b5b5b5b
        + route 192.0.2.1/32 in 5b5b5b5b5b5b dev eth0
        + route 0.0.0.0/0 in 5b5b5b5b5b5b via 192.0.2.1 dev eth0
        + route 198.51.100.0/24 in 5b5b5b5b5b5b via 192.0.2.1 dev eth0"#]]
    .assert_eq(&of_link.join("\n"));
    // Without a link there is nothing to plan for.
    let lost = Endpoint { handover: None, ..made };
    let error = Drivers.sandbox(&sandbox(&[]), &[Attachment { network: &n1, endpoint: &lost }]);
    let error = error.unwrap_err().to_string();
    assert!(error.ends_with("on network n1 has no link: plugin little made none"), "{error}");
}
