//! Published ports: who reaches them, by which address, and who must not.

use netns_tests::site::Site;

#[test]
fn other_machines_reach_a_published_port_and_are_seen_with_their_address() {
    let site = Site::new();
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    site.publish("::", 8080, "fd00:a::2");
    let client: [std::net::IpAddr; 2] =
        ["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
    println!("{}", site.host.output("nft", &["list", "ruleset"]));
    assert_eq!(site.client.reach("192.0.2.1:8080").map(|ip| ip.to_canonical()), Some(client[0]));
    assert_eq!(site.client.reach("192.0.2.9:8080").map(|ip| ip.to_canonical()), Some(client[0]));
    assert_eq!(site.client.reach("[2001:db8::1]:8080"), Some(client[1]));
}
