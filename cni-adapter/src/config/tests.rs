//! Configurations and what is read from them.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn environment(command: &str) -> Environment {
    [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "a1b2"),
        ("CNI_NETNS", "/run/netns/a1b2"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"),
    ]
    .into_iter()
    .map(|(name, value)| (name, value.to_owned()))
    .collect()
}

/// A configuration with a change.
fn config(change: Value) -> Value {
    let mut config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "rnet-cni"});
    if let (Some(config), Value::Object(change)) = (config.as_object_mut(), change) {
        config.extend(change);
    }
    config
}

fn request(command: &str, change: Value) -> Result<Request, Failure> {
    parse(&environment(command), config(change).to_string().as_bytes())
}

fn added(change: Value) -> Add {
    match request("ADD", change).unwrap() {
        Request::Add(add) => *add,
        other => panic!("{other:?}"),
    }
}

fn refused(change: Value) -> String {
    let failure = request("ADD", change).unwrap_err();
    format!("{} {failure}", failure.code as u32)
}

fn check(changes: impl IntoIterator<Item = Value>, expected: &Expect) {
    let refusals: Vec<_> = changes.into_iter().map(refused).collect();
    expected.assert_eq(&refusals.join("\n"));
}

#[test]
fn everything_that_can_be_said_is_read() {
    let add = added(json!({
        "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true, "mtu": 1400,
        "hairpinMode": true, "portIsolation": true, "dualstack": true, "dataDir": "/tmp/x",
        "ipam": {
            "type": "host-local", "subnet": "10.1.0.0/16",
            "rangeStart": "10.1.2.0", "rangeEnd": "10.1.2.255", "gateway": "10.1.0.1",
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.9"}]
        },
        "runtimeConfig": {
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "UDP",
                              "hostIP": "192.0.2.1"}],
            "mac": "02:00:00:00:00:01", "ips": ["10.1.2.3/16"]
        },
        "dns": {"nameservers": ["192.0.2.53"], "search": ["lan"]},
        "somethingElse": [1, 2, 3]
    }));
    let Add { place, attachment, netns, ports, mac, addresses, dns, .. } = add;
    let read = [
        format!("{}: {} for {}", place.directory.display(), place.network, netns.display()),
        attachment.owner(),
        crate::plan::json(&add.network),
        crate::plan::json(&add.endpoint),
        format!("{ports:?}"),
        format!("{mac:?} {addresses:?}"),
        crate::plan::json(&dns),
    ];
    expect![[r#"
        /tmp/x: pods for /run/netns/a1b2
        a1b2/eth0
        {"bridge":"cni0","gateway":true,"masquerade":true,"isolated":true,"mtu":1400,"dual_stack":true,"pools":[{"subnet":"10.1.0.0/16","gateway":"10.1.0.1","start":"10.1.2.0","end":"10.1.2.255"}]}
        {"hairpin":true,"default_gateway":true,"routes":[{"dst":"0.0.0.0/0","gw":null},{"dst":"10.9.0.0/16","gw":"10.1.0.9"}]}
        [PortSpec { host: Some(192.0.2.1), host_ports: 8080..=8080, protocol: Udp, port: 80 }]
        Some(Mac([2, 0, 0, 0, 0, 1])) [10.1.2.3]
        {"nameservers":["192.0.2.53"],"search":["lan"]}"#]].assert_eq(&read.join("\n"));
}

#[test]
fn little_is_needed() {
    let add = added(json!({}));
    assert_eq!(add.place.directory, PathBuf::from("/var/lib/cni/rnet"));
    assert_eq!(add.network, NetworkSettings::default());
    assert_eq!(add.endpoint, EndpointSettings::default());
    assert_eq!(add.attachment.owner(), "a1b2/eth0");
    // As Go writes what is not set.
    let same = json!({"bridge": "", "mtu": 0, "vlan": 0, "promiscMode": false, "ipam": null,
                      "vlanTrunk": [], "runtimeConfig": {"portMappings": null}});
    assert_eq!(added(same), add);
}

#[test]
fn later_sources_of_addresses_are_stronger() {
    let mut environment = environment("ADD");
    environment.insert("CNI_ARGS", "IP=10.1.0.5;MAC=02:00:00:00:00:05".to_owned());
    let read = |change: Value| {
        let text = config(change).to_string();
        let Ok(Request::Add(add)) = parse(&environment, text.as_bytes()) else { panic!("{text}") };
        (add.addresses[0].to_string(), add.mac.unwrap().to_string())
    };
    let args = json!({"cni": {"ips": ["10.1.0.6"], "mac": "02:00:00:00:00:06"}});
    let runtime = json!({"ips": ["10.1.0.7/24"], "mac": "02:00:00:00:00:07"});
    let expected = |n: u8| (format!("10.1.0.{n}"), format!("02:00:00:00:00:0{n}"));
    assert_eq!(read(json!({})), expected(5));
    assert_eq!(read(json!({"args": args})), expected(6));
    assert_eq!(read(json!({"args": args, "runtimeConfig": runtime})), expected(7));
}

#[test]
fn wrong_values_are_named() {
    check(
        [
            json!({"mtu": "1500"}),
            json!({"mtu": -1}),
            json!({"bridge": "a/b"}),
            json!({"isGateway": "yes"}),
            json!({"ipam": []}),
            json!({"dataDir": "var/lib"}),
            json!({"name": "../../etc"}),
            json!({"name": "a\u{0}b"}),
            json!({"ipam": {"type": "../../bin/sh"}}),
            json!({"dns": {"nameservers": ["me"]}}),
            json!({"prevResult": {"ips": [{"address": "x"}]}}),
            json!({"runtimeConfig": {"mac": "ff:ff:ff:ff:ff:ff"}}),
            json!({"runtimeConfig": {"ips": ["10.1.0.300"]}}),
        ],
        &expect![[r#"
            7 mtu: invalid type: string "1500", expected u32
            7 mtu: invalid value: integer `-1`, expected u32
            7 bridge is wrong: `a/b` is not an interface name: 1 to 15 bytes without `/`, `:` and white space
            7 isGateway: invalid type: string "yes", expected a boolean
            7 ipam is not a JSON object
            7 dataDir var/lib is not an absolute path
            7 name "../../etc" is not a valid name: a letter or digit, then letters, digits and _.- are expected, 253 at most
            7 name "a\0b" is not a valid name: a letter or digit, then letters, digits and _.- are expected, 253 at most
            7 ipam.type "../../bin/sh" is not a valid name: a letter or digit, then letters, digits and _.- are expected, 253 at most
            7 dns: invalid IP address syntax
            7 prevResult: invalid address: x
            7 mac is wrong: `ff:ff:ff:ff:ff:ff` is not a usable MAC address: six hexadecimal bytes of a unicast address
            7 ips has "10.1.0.300", no address: invalid address: 10.1.0.300"#]],
    );
}

#[test]
fn what_cannot_be_done_is_not_ignored() {
    check(
        [
            json!({"driver": "macvlan"}),
            json!({"vlan": 7}),
            json!({"promiscMode": true}),
            json!({"macspoofchk": true}),
            json!({"ipam": {"type": "dhcp"}}),
            json!({"ipam": {"routes": [{"dst": "0.0.0.0/0", "table": 7}]}}),
        ],
        &expect![[r#"
            2 driver "macvlan" is not supported: bridge is the only one
            2 vlan "7" is not supported: remove it
            2 promiscMode "true" is not supported: remove it
            2 macspoofchk "true" is not supported: remove it
            2 ipam.type "dhcp" is not supported: addresses are managed by rnet itself
            2 table of route 0.0.0.0/0 "7" is not supported: remove it"#]],
    );
}

#[test]
fn wrong_port_mappings_are_named() {
    let mapping =
        |mapping: Value| json!({"isGateway": true, "runtimeConfig": {"portMappings": [mapping]}});
    let without_gateway = json!({"runtimeConfig": {"portMappings": [
        {"hostPort": 80, "containerPort": 80}
    ]}});
    check(
        [
            mapping(json!({"hostPort": 0, "containerPort": 80})),
            mapping(json!({"hostPort": 65536, "containerPort": 80})),
            mapping(json!({"containerPort": 80})),
            mapping(json!({"hostPort": 80, "containerPort": 80, "protocol": "icmp"})),
            mapping(json!({"hostPort": 80, "containerPort": 80, "hostIP": "me"})),
            without_gateway,
        ],
        &expect![[r#"
            7 runtimeConfig.portMappings: hostPort and containerPort are numbers from 1 to 65535
            7 runtimeConfig.portMappings: invalid value: integer `65536`, expected u16
            7 runtimeConfig.portMappings: missing field `hostPort`
            7 runtimeConfig.portMappings: `icmp` is not a protocol: use tcp, udp or sctp
            7 runtimeConfig.portMappings: hostIP "me" is no IP address
            7 portMappings cannot work without a gateway: set isGateway or isDefaultGateway: the host has no address on the bridge"#]],
    );
}

#[test]
fn wrong_ranges_and_routes_are_named() {
    let ipam = |ipam: Value| json!({"ipam": ipam});
    check(
        [
            ipam(json!({"subnet": "10.1.0.0"})),
            ipam(json!({"subnet": "10.1.0.0/33"})),
            ipam(json!({"subnet": "10.1.0.0/32"})),
            ipam(json!({"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"})),
            ipam(
                json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"}),
            ),
            ipam(json!({"subnet": "10.1.0.0/24", "gateway": "fd00::1"})),
            ipam(json!({"subnet": "10.0.0.0/8", "rangeStart": "10.127.255.250",
                        "rangeEnd": "10.128.0.5"})),
            ipam(json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]})),
            ipam(json!({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]})),
            ipam(json!({"ranges": {"subnet": "10.1.0.0/24"}})),
            ipam(json!({"routes": [{"dst": "10.9.0.1/16"}]})),
            ipam(json!({"routes": [{"dst": "10.9.0.0/16", "gw": "fd00::1"}]})),
            ipam(json!({"routes": [{"dst": "10.9.0.0/16"}, {"dst": "10.9.0.0/16"}]})),
        ],
        &expect![[r#"
            7 ipam: subnet 10.1.0.0/32: it has no room for a gateway and an endpoint
            7 ipam.subnet: invalid address: 10.1.0.0/33
            7 ipam: subnet 10.1.0.0/32: it has no room for a gateway and an endpoint
            7 ipam: subnet 10.1.0.0/24: rangeStart 10.2.0.1 is not in it
            7 ipam: subnet 10.1.0.0/24: rangeStart is behind rangeEnd
            7 ipam: subnet 10.1.0.0/24: gateway fd00::1 is not in it
            7 ipam: subnet 10.0.0.0/8: the range 10.127.255.250 to 10.128.0.5 is too far from a block of addresses: 16777204 would have to be put aside, 4096 can be; let it start or end at a power of two
            7 ipam.ranges: there are two sets of one family, and an interface gets one address of each
            7 ipam.ranges: a set has ranges of both families; give each its own set
            7 ipam.ranges: invalid type: map, expected a sequence
            7 ipam.routes: 10.9.0.1/16 should be 10.9.0.0/16
            7 ipam.routes: 10.9.0.0/16 has a gateway of the other family
            7 ipam.routes: 10.9.0.0/16 is there twice"#]],
    );
}

#[test]
fn ranges_become_blocks_with_holes() {
    let pool = |range: Value| {
        let add = added(json!({"ipam": {"ranges": [[range]]}}));
        let spec = add.network.pools[0].spec();
        let aside: Vec<_> = spec.auxiliary.into_values().collect();
        let gateway = spec.gateway.unwrap_or_default();
        format!("{} via {gateway} without {}", spec.range.unwrap_or_default(), aside.join(" "))
    };
    let pools = [
        json!({"subnet": "10.1.0.0/24"}),
        json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.4"}),
        json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.66", "rangeEnd": "10.1.0.70"}),
        json!({"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.7", "gateway": "10.1.0.254"}),
        json!({"subnet": "fd00::/64", "rangeStart": "fd00::ff:3", "rangeEnd": "fd00::ff:4"}),
        json!({"subnet": "fd00::/64"}),
    ];
    let pools: Vec<_> = pools.into_iter().map(pool).collect();
    expect![[r#"
         via 10.1.0.1 without 
         via 10.1.0.1 without 10.1.0.2 10.1.0.3
        10.1.0.64/29 via 10.1.0.1 without 10.1.0.64 10.1.0.65 10.1.0.71
        10.1.0.0/29 via 10.1.0.254 without 
        fd00::ff:0/125 via fd00::1 without fd00::ff:0 fd00::ff:1 fd00::ff:2 fd00::ff:5 fd00::ff:6 fd00::ff:7
         via fd00::1 without "#]].assert_eq(&pools.join("\n"));
}

#[test]
fn variables_are_checked() {
    let mut refusals = Vec::new();
    for (name, value) in [
        ("CNI_COMMAND", ""),
        ("CNI_COMMAND", "add"),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../a"),
        ("CNI_NETNS", ""),
        ("CNI_NETNS", "run/netns"),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "sixteen-bytes-xx"),
        ("CNI_ARGS", "IP"),
    ] {
        let mut environment = environment("ADD");
        environment.insert(name, value.to_owned());
        let text = config(json!({})).to_string();
        let failure = parse(&environment, text.as_bytes()).unwrap_err();
        refusals.push(format!("{} {failure}", failure.code as u32));
    }
    expect![[r#"
        4 the variable CNI_COMMAND is missing
        4 CNI_COMMAND "add" is no command: ADD, DEL, CHECK, GC, STATUS and VERSION are
        4 the variable CNI_CONTAINERID is missing
        4 CNI_CONTAINERID "../a" is not a valid name: a letter or digit, then letters, digits and _.- are expected, 253 at most
        4 the variable CNI_NETNS is missing
        4 CNI_NETNS run/netns is not an absolute path
        4 the variable CNI_IFNAME is missing
        4 CNI_IFNAME is wrong: `a/b` is not an interface name: 1 to 15 bytes without `/`, `:` and white space
        4 CNI_IFNAME is wrong: `sixteen-bytes-xx` is not an interface name: 1 to 15 bytes without `/`, `:` and white space
        4 CNI_ARGS has "IP" without a value: K=V;K=V is expected"#]].assert_eq(&refusals.join("\n"));
}

#[test]
fn commands_need_their_versions() {
    let refusal = |command: &str, version: &str| {
        let failure = request(command, json!({"cniVersion": version})).unwrap_err();
        format!("{} {failure}", failure.code as u32)
    };
    let refusals = [
        refusal("CHECK", "0.3.1"),
        refusal("GC", "1.0.0"),
        refusal("STATUS", "1.0.0"),
        refusal("ADD", "0.2.0"),
        refusal("ADD", ""),
    ];
    expect![[r#"
        1 CHECK is not in version 0.3.1 of CNI: it needs a cniVersion of 0.4.0 or later
        1 GC is not in version 1.0.0 of CNI: it needs a cniVersion of 1.1.0 or later
        1 STATUS is not in version 1.0.0 of CNI: it needs a cniVersion of 1.1.0 or later
        1 cniVersion "0.2.0" is not supported: supported are 0.3.1, 0.4.0, 1.0.0, 1.1.0
        1 cniVersion "0.1.0" is not supported: supported are 0.3.1, 0.4.0, 1.0.0, 1.1.0"#]]
    .assert_eq(&refusals.join("\n"));
}

#[test]
fn removal_reads_no_more_than_it_needs() {
    let broken = json!({"mtu": "x", "ipam": 7, "vlan": 3, "prevResult": 1});
    assert!(matches!(request("DEL", broken.clone()), Ok(Request::Del(_))));
    let mut broken = broken;
    broken["cni.dev/valid-attachments"] = json!([
        {"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "no/name"}
    ]);
    let Ok(Request::Gc(gc)) = request("GC", broken) else { panic!("it is refused") };
    assert_eq!(gc.valid.iter().map(Attachment::owner).collect::<Vec<_>>(), ["a/eth0"]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(input: Vec<u8>, command in "ADD|DEL|CHECK|GC|STATUS|VERSION") {
        let _ = (version_text(&input), parse(&environment(&command), &input));
    }

    #[test]
    fn any_values_are_read_or_refused(
        key in "bridge|mtu|ipam|runtimeConfig|isGateway|dns|prevResult|args|vlan",
        inner in "subnet|ranges|routes|portMappings|ips|mac|type|cni",
        value in prop_oneof![
            Just(json!(null)), Just(json!([[{"subnet": "0.0.0.0/0"}]])), Just(json!("::/0")),
            any::<i64>().prop_map(|n| json!(n)), any::<String>().prop_map(|text| json!(text)),
            any::<u8>().prop_map(|n| json!(format!("10.0.0.0/{n}"))),
            any::<u8>().prop_map(|n| json!([[{"subnet": format!("fd00::/{n}")}]])),
        ],
    ) {
        let change = json!({key.clone(): {inner: value.clone()}});
        let _ = request("ADD", change);
        let _ = request("ADD", json!({key: value}));
    }
}

#[test]
fn cve_2021_20206_no_name_is_a_path() {
    for name in ["../../bin/x", "/bin/x", "a/b", "..", ".", "a\0b", "-x", "a b", "a\nb"] {
        for change in [json!({"name": name}), json!({"ipam": {"type": name}})] {
            assert!(refused(change).contains("is not a valid name"), "{name:?}");
        }
        let text = config(json!({})).to_string();
        let mut environment = environment("ADD");
        environment.insert("CNI_CONTAINERID", name.to_owned());
        let failure = parse(&environment, text.as_bytes()).unwrap_err().to_string();
        assert!(failure.contains("is not a valid name"), "{failure}");
    }
}
