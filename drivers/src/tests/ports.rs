//! Where published ports lead, and where nothing does.

use super::*;

#[test]
fn ports_are_published_in_the_families_that_have_a_gateway() {
    let ports = [("0.0.0.0", 8080, 80), ("::", 8080, 80), ("127.0.0.1", 8081, 81)];
    let both = network(1, &[V4, V6]);
    let endpoint = endpoint(0xa0, &both, &["10.1.0.2/24", "fd00:1::2/64"]);
    check_lines(
        "element",
        &sandbox(&ports),
        &[(&both, &endpoint)],
        &expect![[r#"
            + element published 0.0.0.0 8080/tcp to 10.1.0.2:80
            + element published 127.0.0.1 8081/tcp to 10.1.0.2:81
            + element published :: 8080/tcp to [fd00:1::2]:80
            + element guarded vetha0a0a0a 02:00:00:00:00:a0
            + element source vetha0a0a0a 10.1.0.2
            + element source vetha0a0a0a fd00:1::2
            + element source vetha0a0a0a fe80::ff:fe00:a0
        "#]],
    );
}

#[test]
fn many_neighbouring_ports_that_lead_to_the_same_ones_are_one_element() {
    let (network, many) = (network(1, &[V4, V6]), 30_000..=32_767);
    let endpoint = endpoint(0xa0, &network, &["10.1.0.2/24", "fd00:1::2/64"]);
    let mut ports: Vec<_> = many.clone().map(|port| ("0.0.0.0", port, port)).collect();
    ports.extend(many.map(|port| ("::", port, port)));
    // Few of them, others than the same, and a gap.
    ports.extend((1..=3).map(|port| ("127.0.0.1", port, port)));
    ports.extend((8..=9).map(|port| ("0.0.0.0", port, port + 100)));
    ports.extend((100..=115).filter(|port| *port != 107).map(|port| ("192.0.2.1", port, port)));
    check_lines(
        "published",
        &sandbox(&ports),
        &[(&network, &endpoint)],
        &expect![[r#"
            + element published 0.0.0.0 8/tcp to 10.1.0.2:108
            + element published 0.0.0.0 9/tcp to 10.1.0.2:109
            + element published 127.0.0.1 1/tcp to 10.1.0.2:1
            + element published 127.0.0.1 2/tcp to 10.1.0.2:2
            + element published 127.0.0.1 3/tcp to 10.1.0.2:3
            + element published 192.0.2.1 100/tcp to 10.1.0.2:100
            + element published 192.0.2.1 101/tcp to 10.1.0.2:101
            + element published 192.0.2.1 102/tcp to 10.1.0.2:102
            + element published 192.0.2.1 103/tcp to 10.1.0.2:103
            + element published 192.0.2.1 104/tcp to 10.1.0.2:104
            + element published 192.0.2.1 105/tcp to 10.1.0.2:105
            + element published 192.0.2.1 106/tcp to 10.1.0.2:106
            + element published 0.0.0.0 30000-32767/tcp to 10.1.0.2:30000
            + element published 192.0.2.1 108-115/tcp to 10.1.0.2:108
            + element published :: 30000-32767/tcp to [fd00:1::2]:30000
        "#]],
    );
}

#[test]
fn port_of_ipv6_is_not_published_by_a_sandbox_without_ipv6() {
    let ports = [("0.0.0.0", 8080, 80), ("::", 8080, 80)];
    let network = network(1, &[V4]);
    let endpoint = endpoint(0xa0, &network, &["10.1.0.2/24"]);
    check_lines(
        "element",
        &sandbox(&ports),
        &[(&network, &endpoint)],
        &expect![[r#"
            + element published 0.0.0.0 8080/tcp to 10.1.0.2:80
            + element guarded vetha0a0a0a 02:00:00:00:00:a0
            + element source vetha0a0a0a 10.1.0.2
        "#]],
    );
}

#[test]
fn loopback_of_ipv6_is_not_translated() {
    let network = network(1, &[V6]);
    let endpoint = endpoint(0xa0, &network, &["fd00:1::2/64"]);
    let sandbox = sandbox(&[("::1", 8080, 80)]);
    check_lines(
        "element",
        &sandbox,
        &[(&network, &endpoint)],
        &expect![[r#"
        + element guarded vetha0a0a0a 02:00:00:00:00:a0
        + element source vetha0a0a0a fd00:1::2
        + element source vetha0a0a0a fe80::ff:fe00:a0
    "#]],
    );
}

#[test]
fn internal_network_publishes_nothing() {
    let mut network = network(1, &[V4]);
    network.internal = true;
    let endpoint = endpoint(0xa0, &network, &["10.1.0.2/24"]);
    let sandbox = sandbox(&[("0.0.0.0", 8080, 80)]);
    check_lines(
        "element",
        &sandbox,
        &[(&network, &endpoint)],
        &expect![[r#"
        + element guarded vetha0a0a0a 02:00:00:00:00:a0
        + element source vetha0a0a0a 10.1.0.2
    "#]],
    );
    check_lines("route", &sandbox, &[(&network, &endpoint)], &expect![[""]]);
}

/// Checks where the ports of a sandbox are carried, on all addresses and the localhost of both
/// families.
fn check_carried(attachments: &[(&Network, &Endpoint)], expected: &Expect) {
    let sandbox =
        sandbox(&[("0.0.0.0", 80, 8), ("::", 80, 8), ("127.0.0.1", 81, 8), ("::1", 81, 8)]);
    let attachments: Vec<_> =
        attachments.iter().map(|(network, endpoint)| Attachment { network, endpoint }).collect();
    let carried = Drivers.carried(&sandbox, &attachments);
    let line = |binding: &PortBinding| {
        let target = carried.get(binding).map_or("nowhere".to_owned(), ToString::to_string);
        format!("{} to {target}\n", SocketAddr::new(binding.host, binding.host_port))
    };
    expected.assert_eq(&sandbox.ports.iter().map(line).collect::<String>());
}

#[test]
fn each_family_is_carried_to_its_own_gateway_or_to_the_only_one() {
    let (both, ipv4) = (network(1, &[V4, V6]), network(2, &["10.2.0.0/24"]));
    let on_both = endpoint(0xa0, &both, &["10.1.0.2/24", "fd00:1::2/64"]);
    let on_ipv4 = endpoint(0xa1, &ipv4, &["10.2.0.2/24"]);
    check_carried(
        &[(&both, &on_both)],
        &expect![[r#"
            0.0.0.0:80 to 10.1.0.2:8
            [::]:80 to [fd00:1::2]:8
            127.0.0.1:81 to 10.1.0.2:8
            [::1]:81 to [fd00:1::2]:8
        "#]],
    );
    check_carried(
        &[(&ipv4, &on_ipv4)],
        &expect![[r#"
            0.0.0.0:80 to 10.2.0.2:8
            [::]:80 to 10.2.0.2:8
            127.0.0.1:81 to 10.2.0.2:8
            [::1]:81 to 10.2.0.2:8
        "#]],
    );
}

#[test]
fn nothing_is_carried_into_an_internal_network_nor_to_no_network() {
    let mut internal = network(1, &[V4, V6]);
    internal.internal = true;
    let inside = endpoint(0xa0, &internal, &["10.1.0.2/24", "fd00:1::2/64"]);
    let nowhere = expect![[r#"
        0.0.0.0:80 to nowhere
        [::]:80 to nowhere
        127.0.0.1:81 to nowhere
        [::1]:81 to nowhere
    "#]];
    check_carried(&[(&internal, &inside)], &nowhere);
    check_carried(&[], &nowhere);
    // Not even by the family that the network outside does not have.
    let outside = network(2, &["10.2.0.0/24"]);
    let on_outside = endpoint(0xa1, &outside, &["10.2.0.2/24"]);
    check_carried(
        &[(&internal, &inside), (&outside, &on_outside)],
        &expect![[r#"
            0.0.0.0:80 to 10.2.0.2:8
            [::]:80 to 10.2.0.2:8
            127.0.0.1:81 to 10.2.0.2:8
            [::1]:81 to 10.2.0.2:8
        "#]],
    );
}

#[test]
fn nothing_is_carried_to_a_family_that_is_routed_or_isolated() {
    for mode in ["routed", "isolated"] {
        let mut network = network(1, &[V4, V6]);
        set(&mut network, "bridge.gateway_mode_ipv6", mode);
        let endpoint = endpoint(0xa0, &network, &["10.1.0.2/24", "fd00:1::2/64"]);
        check_carried(
            &[(&network, &endpoint)],
            &expect![[r#"
                0.0.0.0:80 to 10.1.0.2:8
                [::]:80 to nowhere
                127.0.0.1:81 to 10.1.0.2:8
                [::1]:81 to nowhere
            "#]],
        );
    }
}

#[test]
fn routed_port_is_open_on_the_endpoint() {
    let mut network = network(1, &[V4]);
    set(&mut network, "bridge.gateway_mode_ipv4", "routed");
    let endpoint = endpoint(0xa0, &network, &["10.1.0.2/24"]);
    let sandbox = sandbox(&[("0.0.0.0", 8080, 80)]);
    check_lines(
        "element",
        &sandbox,
        &[(&network, &endpoint)],
        &expect![[r#"
            + element guarded vetha0a0a0a 02:00:00:00:00:a0
            + element source vetha0a0a0a 10.1.0.2
            + element open 10.1.0.2 80/tcp
        "#]],
    );
}
