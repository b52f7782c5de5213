//! Networks that have room for so many endpoints.

use super::*;

#[test]
fn one_endpoint_more_than_a_bridge_has_room_for_is_refused_before_anything_is_made() {
    let site = Site::default();
    let networks = site.open();
    let pools = vec![cnm::network::PoolSpec {
        subnet: Some("10.1.0.0/20".to_owned()),
        ..cnm::network::PoolSpec::default()
    }];
    let crowd = NetworkSpec { name: "crowd".to_owned(), pools, ..NetworkSpec::default() };
    let network = networks.create(&crowd).unwrap().0;
    let room = network.driver.room(&network).unwrap().endpoints;
    let without_ports =
        |owner: &str| SandboxSpec { ports: Vec::new(), ..spec(owner, &network, 80) };
    let all: Vec<_> =
        (0..room).map(|n| start(&networks, &without_ports(&format!("c{n}")))).collect();
    let whole = site.observed();
    let refused = networks.begin_open(&without_ports("more"), None).unwrap_err();
    assert_eq!(refused.kind(), cnm::Kind::Forbidden);
    assert_eq!(
        refused.to_string(),
        "network crowd has room for 1000 endpoints only, and all of it is taken: a bridge does not \
         copy a broadcast to more; make it with -o rnet.bridge.topology=l3, which needs no bridge"
    );
    assert_eq!(site.observed(), whole, "nothing was made");
    networks.close(&all[7], Batch::default()).unwrap();
    start(&networks, &without_ports("more"));
}
