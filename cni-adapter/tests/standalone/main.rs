//! The plugin as a runtime calls it: a process with variables and stdin, on a host of its own.

#![expect(clippy::unwrap_used, reason = "a test")]

mod crash;
mod runtime;

use netns_tests::site::{PATIENCE, SILENCE};
use runtime::{Pod, Runtime};
use serde_json::{Value, json};

/// A configuration as a node has it, dual stack.
fn pods() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "pods", "type": "rnet-cni", "bridge": "cni0",
        "isDefaultGateway": true, "ipMasq": true,
        "ipam": {"ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]]}
    })
}

#[test]
fn added_container_has_addresses_routes_and_a_gateway_it_reaches() {
    let runtime = Runtime::new(pods());
    let pod = Pod::new("a");
    let result = runtime.add(&pod);
    assert_eq!(
        result["ips"],
        json!([
            {"address": "10.88.0.2/24", "gateway": "10.88.0.1", "interface": 2},
            {"address": "fd00:88::2/64", "gateway": "fd00:88::1", "interface": 2},
        ])
    );
    assert_eq!(
        result["routes"],
        json!([
            {"dst": "0.0.0.0/0", "gw": "10.88.0.1"},
            {"dst": "::/0", "gw": "fd00:88::1"},
        ])
    );
    let interfaces = result["interfaces"].as_array().unwrap();
    let names: Vec<_> = interfaces.iter().map(|i| i["name"].as_str().unwrap()).collect();
    assert_eq!((names[0], &names[1][..4], names[2]), ("cni0", "veth", "eth0"));
    assert_eq!(interfaces[2]["sandbox"], pod.path());
    let link = pod.space.output("ip", &["-o", "link", "show", "dev", "eth0"]);
    assert!(link.contains(interfaces[2]["mac"].as_str().unwrap()), "{link}");
    for interface in &interfaces[..2] {
        let name = interface["name"].as_str().unwrap();
        let link = runtime.host.output("ip", &["-o", "link", "show", "dev", name]);
        assert!(link.contains(interface["mac"].as_str().unwrap()), "{link}");
    }
    runtime.host.serve("host", 80);
    assert_eq!(pod.space.reach("10.88.0.1:80"), "host sees 10.88.0.2");
    assert_eq!(pod.space.reach("[fd00:88::1]:80"), "host sees fd00:88::2");
    pod.space.serve("pod", 80);
    assert_eq!(runtime.host.reach("10.88.0.2:80"), "pod sees 10.88.0.1");
}

#[test]
fn containers_of_a_network_talk_to_each_other_in_both_families() {
    let runtime = Runtime::new(pods());
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    runtime.add(&a);
    runtime.add(&b);
    b.space.serve("b", 80);
    assert_eq!(a.space.reach("10.88.0.3:80"), "b sees 10.88.0.2");
    assert_eq!(a.space.reach("[fd00:88::3]:80"), "b sees fd00:88::2");
}

#[test]
fn traffic_to_the_outside_is_masqueraded_only_if_that_is_asked_for() {
    let runtime = Runtime::new(pods());
    runtime.client.serve("client", 80);
    let pod = Pod::new("a");
    runtime.add(&pod);
    assert_eq!(pod.space.reach("192.0.2.2:80"), "client sees 192.0.2.1");
    assert_eq!(pod.space.reach("[2001:db8::2]:80"), "client sees 2001:db8::1");
    let routed = runtime.with(|config| config["ipMasq"] = json!(false));
    runtime.del(&pod);
    routed.add(&pod);
    assert_eq!(pod.space.reach("192.0.2.2:80"), "client sees 10.88.0.2");
    // Other nodes reach pods directly.
    pod.space.serve("pod", 80);
    assert_eq!(routed.client.reach("10.88.0.2:80"), "pod sees 192.0.2.2");
}

#[test]
fn mapped_ports_lead_to_the_container_until_it_is_removed() {
    let runtime = Runtime::new(pods()).with(|config| {
        // Where br_netfilter watches bridges, a container reaches itself by way of the host so only.
        config["hairpinMode"] = json!(true);
        config["runtimeConfig"] = json!({"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 8080, "containerPort": 80, "protocol": "udp"},
            {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"},
        ]});
    });
    let pod = Pod::new("a");
    pod.space.serve("pod", 80);
    runtime.add(&pod);
    assert_eq!(runtime.client.reach("192.0.2.1:8080"), "pod sees 192.0.2.2");
    assert_eq!(runtime.client.reach("[2001:db8::1]:8080"), "pod sees 2001:db8::2");
    assert_eq!(runtime.client.tcp("192.0.2.1:8081", PATIENCE).unwrap(), "pod sees 192.0.2.2");
    assert!(runtime.host.tcp("127.0.0.1:8080", PATIENCE).unwrap().starts_with("pod sees"));
    assert!(pod.space.tcp("192.0.2.1:8080", PATIENCE).unwrap().starts_with("pod sees"));
    let other = Pod::new("b");
    let error = runtime.refused("ADD", &other, 100);
    assert!(error["msg"].as_str().unwrap().contains("8080"), "{error}");
    runtime.del(&pod);
    assert!(runtime.client.is_cut_off_from("192.0.2.1:8080"));
    runtime.add(&other);
}

#[test]
fn cve_2025_67499_packets_through_the_host_to_a_mapped_port_elsewhere_are_left_alone() {
    // CVE-2025-67499.
    let runtime = Runtime::new(pods()).with(|config| {
        config["runtimeConfig"] =
            json!({"portMappings": [{"hostPort": 80, "containerPort": 81, "protocol": "tcp"}]});
    });
    runtime.client.serve("client", 80);
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    runtime.add(&a);
    runtime.with(|config| config["runtimeConfig"] = json!({})).add(&b);
    assert_eq!(b.space.tcp("192.0.2.2:80", PATIENCE).unwrap(), "client sees 192.0.2.1");
}

#[test]
fn check_is_content_until_something_is_gone() {
    let runtime = Runtime::new(pods());
    let pod = Pod::new("a");
    let result = runtime.add(&pod);
    let checking = runtime.with(|config| config["prevResult"] = result);
    checking.ok("CHECK", &pod);
    // As the tuning plugin may do, later in the chain.
    pod.space.ip(&["link set eth0 mtu 1400", "link set eth0 address 02:00:00:00:00:01"]);
    checking.ok("CHECK", &pod);
    pod.space.ip(&["addr del 10.88.0.2/24 dev eth0"]);
    let error = checking.refused("CHECK", &pod, 102);
    let details = error["details"].as_str().unwrap();
    assert!(details.contains("addr 10.88.0.2/24 dev eth0"), "{details}");
    let stranger = Pod::new("stranger");
    checking.refused("CHECK", &stranger, 3);
    runtime.refused("CHECK", &pod, 7);
}

#[test]
fn check_notices_a_bridge_that_lost_its_port() {
    let runtime = Runtime::new(pods());
    let pod = Pod::new("a");
    let result = runtime.add(&pod);
    let veth = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
    runtime.host.ip(&[&format!("link set {veth} nomaster")]);
    let checking = runtime.with(|config| config["prevResult"] = result);
    let error = checking.refused("CHECK", &pod, 102);
    assert!(error["details"].as_str().unwrap().contains(&format!("port {veth}")), "{error}");
}

#[test]
fn next_add_repairs_what_others_destroyed() {
    let runtime = Runtime::new(pods());
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    runtime.add(&a);
    runtime.host.output("nft", &["flush", "ruleset"]);
    runtime.host.ip(&["link del cni0"]);
    runtime.add(&b);
    b.space.serve("b", 80);
    assert_eq!(a.space.reach("10.88.0.3:80"), "b sees 10.88.0.2");
    runtime.client.serve("client", 80);
    assert_eq!(a.space.reach("192.0.2.2:80"), "client sees 192.0.2.1");
}

#[test]
fn deletion_leaves_nothing_and_can_be_repeated() {
    let runtime = Runtime::new(pods());
    let before = runtime.traces();
    let pod = Pod::new("a");
    runtime.del(&pod);
    runtime.add(&pod);
    assert_ne!(runtime.traces(), before);
    for _ in 0..2 {
        runtime.del(&pod);
        assert_eq!(runtime.traces(), before);
    }
    // The container's namespace is the runtime's.
    assert_eq!(pod.space.output("ip", &["-br", "link"]).lines().count(), 1);
    let next = runtime.add(&pod);
    assert_eq!(next["ips"][0]["address"], "10.88.0.2/24");
}

#[test]
fn deletion_does_not_need_the_namespace_nor_a_sound_configuration() {
    let runtime = Runtime::new(pods());
    let before = runtime.traces();
    let pod = Pod::new("a");
    runtime.add(&pod);
    let broken = runtime.with(|config| {
        config["mtu"] = json!("many");
        config["ipam"] = json!([]);
    });
    let gone = pod.into_gone();
    broken.del(&gone);
    assert_eq!(runtime.traces(), before);
}

#[test]
fn collection_removes_all_but_the_valid() {
    let runtime = Runtime::new(pods());
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    runtime.add(&a);
    let before = runtime.traces();
    runtime.add(&b);
    let valid = json!([{"containerID": "a", "ifname": "eth0"}]);
    let collecting = runtime.with(|config| config["cni.dev/valid-attachments"] = valid);
    // Something of ours that no record knows.
    runtime.host.ip(&["link add stray type bridge", "link set stray alias rnet-cni:network/0"]);
    collecting.ok("GC", &b);
    assert_eq!(runtime.traces(), before);
    runtime.host.serve("host", 80);
    assert_eq!(a.space.reach("10.88.0.1:80"), "host sees 10.88.0.2");
    runtime.refused("GC", &a, 7);
}

#[test]
fn collection_of_a_network_leaves_others_alone() {
    let runtime = Runtime::new(pods());
    let other = runtime.with(|config| {
        config["name"] = json!("bridge");
        config["bridge"] = json!("cni1");
        config["ipam"] = json!({"subnet": "10.89.0.0/24"});
    });
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    runtime.add(&a);
    other.add(&b);
    let collecting = runtime.with(|config| config["cni.dev/valid-attachments"] = json!([]));
    collecting.ok("GC", &a);
    assert!(a.space.is_cut_off_from("10.88.0.1:80"));
    runtime.host.serve("host", 80);
    assert_eq!(b.space.reach("10.89.0.1:80"), "host sees 10.89.0.2");
}

#[test]
fn interface_that_is_there_already_is_not_taken() {
    let runtime = Runtime::new(pods());
    let pod = Pod::new("a");
    pod.space.ip(&["link add eth0 type bridge"]);
    let before = runtime.traces();
    let error = runtime.refused("ADD", &pod, 101);
    assert_eq!(error["msg"], "container a has an interface eth0");
    assert_eq!(runtime.traces(), before);
    pod.space.ip(&["link del eth0"]);
    runtime.add(&pod);
    runtime.refused("ADD", &pod, 101);
    runtime.host.serve("host", 80);
    assert_eq!(pod.space.reach("10.88.0.1:80"), "host sees 10.88.0.2");
}

#[test]
fn wanted_addresses_and_hardware_address_are_given() {
    let runtime = Runtime::new(pods()).with(|config| {
        config["runtimeConfig"] =
            json!({"ips": ["10.88.0.77/24", "fd00:88::77"], "mac": "02:00:00:00:00:77"});
    });
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let result = runtime.add(&a);
    assert_eq!(result["ips"][0]["address"], "10.88.0.77/24");
    assert_eq!(result["ips"][1]["address"], "fd00:88::77/64");
    assert_eq!(result["interfaces"][2]["mac"], "02:00:00:00:00:77");
    runtime.refused("ADD", &b, 101);
}

#[test]
fn addresses_come_from_the_range_and_run_out() {
    let runtime = Runtime::new(pods()).with(|config| {
        config["ipam"] = json!({
            "subnet": "10.88.0.0/24", "rangeStart": "10.88.0.10", "rangeEnd": "10.88.0.11",
            "gateway": "10.88.0.254", "routes": [{"dst": "198.51.100.0/24"}]
        });
        config["isDefaultGateway"] = json!(false);
        config["isGateway"] = json!(true);
    });
    let pods = ["a", "b", "c"].map(Pod::new);
    let result = runtime.add(&pods[0]);
    assert_eq!(result["ips"][0]["address"], "10.88.0.10/24");
    assert_eq!(result["routes"], json!([{"dst": "198.51.100.0/24", "gw": "10.88.0.254"}]));
    let routes = pods[0].space.output("ip", &["route"]);
    assert!(routes.contains("198.51.100.0/24 via 10.88.0.254 dev eth0"), "{routes}");
    assert!(!routes.contains("default"), "{routes}");
    runtime.add(&pods[1]);
    let error = runtime.refused("ADD", &pods[2], 101);
    assert!(error["msg"].as_str().unwrap().starts_with("no free address"), "{error}");
    runtime.del(&pods[1]);
    assert_eq!(runtime.add(&pods[2])["ips"][0]["address"], "10.88.0.11/24");
}

#[test]
fn subnets_that_nobody_chose_are_ours() {
    let runtime = Runtime::new(pods()).with(|config| {
        config["ipam"] = json!({});
        config["dualstack"] = json!(true);
    });
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    runtime.add(&a);
    let result = runtime.add(&b);
    b.space.serve("b", 80);
    for ip in result["ips"].as_array().unwrap() {
        let address = ip["address"].as_str().unwrap().split('/').next().unwrap();
        let to = std::net::SocketAddr::new(address.parse().unwrap(), 80).to_string();
        assert!(a.space.reach(&to).starts_with("b sees"));
    }
    assert_eq!(result["ips"].as_array().unwrap().len(), 2);
}

#[test]
fn isolated_ports_reach_the_host_and_not_each_other() {
    let runtime = Runtime::new(pods()).with(|config| config["portIsolation"] = json!(true));
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    runtime.add(&a);
    runtime.add(&b);
    b.space.serve("b", 80);
    assert!(a.space.tcp("10.88.0.3:80", SILENCE).is_none());
    runtime.host.serve("host", 80);
    assert_eq!(a.space.reach("10.88.0.1:80"), "host sees 10.88.0.2");
}

#[test]
fn another_configuration_of_a_network_in_use_is_refused() {
    let runtime = Runtime::new(pods());
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    runtime.add(&a);
    let changed = runtime.with(|config| config["mtu"] = json!(1400));
    let error = changed.refused("ADD", &b, 7);
    assert!(error["details"].as_str().unwrap().contains("\"mtu\":1400"), "{error}");
    runtime.del(&a);
    changed.add(&b);
    let link = b.space.output("ip", &["link", "show", "dev", "eth0"]);
    assert!(link.contains("mtu 1400"), "{link}");
}

#[test]
fn calls_at_the_same_time_do_not_meet() {
    let runtime = Runtime::new(pods());
    let pods: Vec<_> = (0..6).map(|n| Pod::new(&format!("p{n}"))).collect();
    let mut addresses: Vec<String> = std::thread::scope(|scope| {
        let calls: Vec<_> = pods.iter().map(|pod| scope.spawn(|| runtime.add(pod))).collect();
        let result = |call: std::thread::ScopedJoinHandle<'_, Value>| call.join().unwrap();
        calls.into_iter().map(|c| result(c)["ips"][0]["address"].to_string()).collect()
    });
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 6, "{addresses:?}");
}

#[test]
fn status_tries_it_and_leaves_nothing() {
    let runtime = Runtime::new(pods());
    let before = runtime.traces();
    let nobody = Pod::new("nobody");
    runtime.ok("STATUS", &nobody);
    assert_eq!(runtime.traces(), before);
    let nowhere = runtime.with(|config| config["dataDir"] = json!("/proc/nowhere"));
    nowhere.refused("STATUS", &nobody, 50);
}

#[test]
fn version_is_answered_without_anything() {
    let runtime = Runtime::new(json!({"cniVersion": "1.0.0"}));
    let answer = runtime.ok("VERSION", &Pod::new("nobody")).unwrap();
    assert_eq!(answer["cniVersion"], "1.0.0");
    assert_eq!(answer["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
}

#[test]
fn namespaces_that_are_none_are_refused() {
    let runtime = Runtime::new(pods());
    let before = runtime.traces();
    let pod = Pod::new("a");
    for path in ["/nowhere", "/proc/self/ns/net", "/proc/self/ns/mnt", "/dev/null", "relative"] {
        let error = runtime.refused("ADD", &pod.at(path), 4);
        assert!(error["msg"].as_str().unwrap().contains(path), "{error}");
    }
    assert_eq!(runtime.traces(), before);
}

#[test]
fn rubbish_is_refused_with_an_error_in_json() {
    let runtime = Runtime::new(pods());
    let pod = Pod::new("a");
    for (input, code) in [
        ("", 6),
        ("{", 6),
        ("\u{0}\u{1}", 6),
        ("[]", 7),
        ("null", 7),
        ("{}", 1),
        (r#"{"cniVersion": "9.9.9", "name": "x"}"#, 1),
        (r#"{"cniVersion": "1.1.0"}"#, 7),
        (r#"{"cniVersion": "1.1.0", "name": "../x"}"#, 7),
    ] {
        let (status, output) = runtime.call("ADD", &pod, input);
        let error: Value = serde_json::from_str(&output).unwrap();
        assert_eq!((status, &error["code"]), (Some(1), &json!(code)), "{input}: {output}");
    }
}

#[test]
fn after_a_reboot_the_store_starts_anew() {
    let runtime = Runtime::new(pods());
    let before = runtime.traces();
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    runtime.add(&a);
    let rebooted = runtime.rebooted();
    let result = rebooted.add(&b);
    assert_eq!(result["ips"][0]["address"], "10.88.0.2/24");
    rebooted.del(&a);
    rebooted.del(&b);
    assert_eq!(runtime.traces(), before);
}

#[test]
fn result_continues_the_chain_in_the_version_of_the_configuration() {
    let previous = json!({
        "cniVersion": "0.4.0",
        "interfaces": [{"name": "lo", "sandbox": "/x"}],
        "ips": [{"version": "4", "address": "127.0.0.1/8", "interface": 0}]
    });
    let runtime = Runtime::new(pods()).with(|config| {
        config["cniVersion"] = json!("0.4.0");
        config["prevResult"] = previous;
    });
    let result = runtime.add(&Pod::new("a"));
    assert_eq!(result["cniVersion"], "0.4.0");
    assert_eq!(result["interfaces"][0]["name"], "lo");
    assert_eq!(
        result["ips"][1],
        json!({
            "address": "10.88.0.2/24", "gateway": "10.88.0.1", "interface": 3, "version": "4"
        })
    );
}

#[test]
fn failed_attachment_leaves_no_network() {
    let runtime = Runtime::new(pods());
    let pod = Pod::new("a");
    runtime.add(&pod);
    // The address is in no subnet, which is found out when the network is there.
    let failing = runtime.with(|config| {
        config["name"] = json!("other");
        config["bridge"] = json!("cni1");
        config["ipam"] = json!({"subnet": "10.89.0.0/24"});
        config["runtimeConfig"] = json!({"ips": ["10.90.0.2"]});
    });
    let before = runtime.traces();
    failing.refused("ADD", &Pod::new("b"), 7);
    assert_eq!(runtime.traces(), before);
}
