//! Pools and addresses that plugins give, by the small plugin in `plugin/plugin.py`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use netns_tests::plugin::{Places, Plugin};
use netns_tests::{Daemon, Host, Lab};
use serde_json::{Value, json};

const PORT: u16 = 7;

fn start(name: &str, behaviours: &[&str]) -> (Lab, Places, Daemon, Plugin) {
    let (lab, places) = (Lab::new(), Places::new(name));
    let daemon = Daemon::start(&lab.host, &places.flags());
    let plugin = Plugin::start(&daemon, &places, "little", behaviours);
    (lab, places, daemon, plugin)
}

fn inspect(daemon: &Daemon, what: &str, path: &str) -> Value {
    let all: Value = serde_json::from_str(&daemon.rnet(&format!("inspect {what}"))).unwrap();
    all[0].pointer(path).cloned().unwrap_or_default()
}

/// What the plugin has given and not had back, by the pool.
fn given(plugin: &Plugin) -> Value {
    let mut pools = plugin.state()["pools"].clone();
    for (_, pool) in pools.as_object_mut().unwrap() {
        *pool = pool["given"].clone();
    }
    pools
}

fn reach_each_other(daemon: &Daemon, one: &Host, two: &Host) {
    let _server = one.serve(PORT);
    for address in daemon.addresses("one")["n1"].clone() {
        assert!(two.tcp(address, PORT).is_ok(), "{address}");
    }
}

#[test]
fn a_plugin_gives_a_bridge_its_pools_and_containers_their_addresses() {
    let (lab, _places, daemon, plugin) = start("bridge", &["only=IpamDriver"]);
    daemon.rnet("network create --ipam-driver little --ipam-opt x=y --ipv6 n1");
    let ipam = inspect(&daemon, "n1", "/IPAM");
    let config = json!([
        {"Subnet": "10.88.0.0/24", "Gateway": "10.88.0.254"},
        {"Subnet": "fd00:88::/64", "Gateway": "fd00:88::ffff:ffff:ffff:fffe"},
    ]);
    assert_eq!(ipam, json!({"Driver": "little", "Options": {"x": "y"}, "Config": config}));
    let one = daemon.run("one", "--network n1 -p 8080:7");
    let two = daemon.run("two", "--network n1");
    let addresses = ["10.88.0.253", "fd00:88::ffff:ffff:ffff:fffd"];
    assert_eq!(daemon.addresses("one")["n1"], Lab::both(addresses));
    reach_each_other(&daemon, &one, &two);
    let _server = one.serve(PORT);
    for host in Lab::both(Lab::HOST) {
        assert!(lab.client.tcp(host, 8080).is_ok(), "{host}");
    }
    daemon.rnet("rm -f one two");
    let gateways =
        json!({"here/10.88.0.0/24": ["10.88.0.254"], "here/fd00:88::/64": [addresses_of(&ipam)]});
    assert_eq!(given(&plugin), gateways);
    daemon.rnet("network rm n1");
    assert_eq!(given(&plugin), json!({}));
    // What Docker asks, in its order.
    let calls = plugin.calls();
    let after = |call: &str| calls.iter().filter(|other| *other == call).count();
    assert_eq!(
        calls[..7],
        [
            "Plugin.Activate",
            "IpamDriver.GetCapabilities",
            "IpamDriver.GetDefaultAddressSpaces",
            "IpamDriver.RequestPool",
            "IpamDriver.RequestAddress",
            "IpamDriver.RequestPool",
            "IpamDriver.RequestAddress",
        ]
    );
    assert_eq!(after("IpamDriver.RequestAddress"), after("IpamDriver.ReleaseAddress"));
    let last: Vec<_> = calls.iter().rev().take(4).rev().collect();
    let [release, pool] = ["IpamDriver.ReleaseAddress", "IpamDriver.ReleasePool"];
    assert_eq!(last, [release, pool, release, pool]);
}

fn addresses_of(ipam: &Value) -> Value {
    ipam["Config"][1]["Gateway"].clone()
}

#[test]
fn one_plugin_gives_addresses_and_makes_the_links_and_knows_the_hardware_addresses() {
    let (_lab, _places, daemon, plugin) = start("both", &["mac"]);
    daemon.rnet(
        "network create -d little --ipam-driver little --subnet 10.89.0.0/24 \
         --ip-range 10.89.0.128/25 --gateway 10.89.0.254 --aux-address q=10.89.0.130 n1",
    );
    let pool = plugin.log().into_iter().find(|(call, _)| call == "IpamDriver.RequestPool");
    assert_eq!(pool.unwrap().1["SubPool"], "10.89.0.128/25");
    assert_eq!(given(&plugin), json!({"here/10.89.0.0/24": ["10.89.0.254", "10.89.0.130"]}));
    let one = daemon.run("one", "--network n1 --ip 10.89.0.200");
    let two = daemon.run("two", "--network n1");
    assert_eq!(daemon.addresses("one")["n1"], ["10.89.0.200".parse::<std::net::IpAddr>().unwrap()]);
    reach_each_other(&daemon, &one, &two);
    let told = plugin.log().into_iter().filter(|(call, _)| call == "IpamDriver.RequestAddress");
    let told = told.collect::<Vec<_>>().pop().unwrap().1;
    let mac = &told["Options"]["com.docker.network.endpoint.macaddress"];
    assert_eq!(*mac, two.link("net0").unwrap().mac.unwrap().to_string());
    daemon.rnet("rm -f one two");
    daemon.rnet("network rm n1");
    assert_eq!(given(&plugin), json!({}));
}

#[test]
fn what_an_ipam_plugin_gave_is_given_back_after_a_refusal_and_after_a_crash() {
    let (_lab, _places, mut daemon, plugin) = start("back", &[]);
    let refusal = daemon.refusal("network create --ipam-driver nosuch n1");
    assert!(refusal.contains("plugin \"nosuch\" not found"), "{refusal}");
    plugin.behave("fail=IpamDriver.RequestAddress");
    let refusal = daemon.refusal("network create --ipam-driver little n1");
    let said = "failed to allocate gateway (): remote: IpamDriver.RequestAddress is not for you";
    assert!(refusal.contains(said), "{refusal}");
    assert_eq!(given(&plugin), json!({}));
    // Somebody else has the subnet, which only the model knows.
    plugin.behave("");
    daemon.rnet("network create --subnet 10.88.0.0/16 taken");
    let refusal = daemon.refusal("network create --ipam-driver little n1");
    assert!(refusal.contains("Pool overlaps with other one on this address space"), "{refusal}");
    assert_eq!(given(&plugin), json!({}));
    daemon.rnet("network create -d little --ipam-driver little --subnet 10.89.0.0/24 n1");
    let gateway = given(&plugin);
    plugin.behave("fail=NetworkDriver.CreateEndpoint");
    daemon.refusal("run --network n1 rnet/toolbox true");
    assert_eq!(given(&plugin), gateway);
    for call in ["NetworkDriver.CreateEndpoint", "NetworkDriver.ProgramExternalConnectivity"] {
        let asked = plugin.calls().len();
        plugin.behave(&format!("hang={call}"));
        let mut begun = daemon.begin("run -d --network n1 rnet/toolbox sleep 1000");
        plugin.wait(|| plugin.calls()[asked..].iter().any(|other| call.ends_with(other)));
        assert_ne!(given(&plugin), gateway);
        daemon.kill();
        let _ = begun.wait();
        plugin.behave("");
        daemon.restart();
        plugin.wait(|| given(&plugin) == gateway);
    }
    plugin.behave("hang=IpamDriver.RequestPool");
    let mut begun = daemon.begin("network create --ipam-driver little --subnet 10.95.0.0/24 n2");
    let asked = plugin.calls().len();
    plugin.wait(|| plugin.calls()[asked..].iter().any(|call| call == "IpamDriver.RequestPool"));
    assert!(daemon.rnet("network ls").contains("n1"), "nobody waits for it");
    begun.wait().unwrap();
    plugin.behave("");
    daemon.rnet("network rm n1");
    // It did not answer a moment ago: it has it back as soon as it is asked again.
    plugin.wait(|| given(&plugin)["here/10.89.0.0/24"] == Value::Null);
}

#[test]
fn a_plugin_that_wants_to_is_told_again_by_the_next_daemon_what_it_gave() {
    let (_lab, places, mut daemon, plugin) = start("again", &["replay"]);
    daemon.rnet("network create --ipam-driver little --subnet 10.89.0.0/24 n1");
    daemon.run("one", "--network n1");
    let known = given(&plugin);
    daemon.terminate();
    plugin.kill(&daemon);
    std::fs::remove_file(places.file("little.log.state")).unwrap();
    daemon.restart();
    let plugin = Plugin::start(&daemon, &places, "little", &["replay"]);
    let two = daemon.run("two", "--network n1");
    assert_eq!(daemon.addresses("two")["n1"], ["10.89.0.252".parse::<std::net::IpAddr>().unwrap()]);
    reach_each_other(&daemon, &daemon.inside("one"), &two);
    daemon.rnet("rm -f two");
    assert_eq!(given(&plugin), known);
    daemon.rnet("rm -f one");
    daemon.rnet("network rm n1");
    assert_eq!(given(&plugin), json!({}));
}
