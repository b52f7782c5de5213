//! Networks that plugins make, by the small plugin in `plugin/plugin.py`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use netns_tests::plugin::{Places, Plugin};
use netns_tests::{Daemon, Host, Lab};
use serde_json::Value;

const PORT: u16 = 7;

fn inspect(daemon: &Daemon, what: &str, path: &str) -> Value {
    let all: Value = serde_json::from_str(&daemon.rnet(&format!("inspect {what}"))).unwrap();
    all[0].pointer(path).cloned().unwrap_or_default()
}

/// The links on the host that the plugin made.
fn of_plugin(host: &Host) -> Vec<String> {
    let names = host.links().into_iter().map(|link| link.name);
    names.filter(|name| name.starts_with('p') && name.len() == 10).collect()
}

/// What Docker asks for one endpoint, in its order.
const LIFE: [&str; 7] = [
    "CreateEndpoint",
    "Join",
    "ProgramExternalConnectivity",
    "EndpointOperInfo",
    "RevokeExternalConnectivity",
    "Leave",
    "DeleteEndpoint",
];

#[test]
fn a_plugin_is_asked_what_docker_asks_and_its_containers_reach_each_other() {
    let (lab, places) = (Lab::new(), Places::new("life"));
    let daemon = Daemon::start(&lab.host, &places.flags());
    let plugin = Plugin::start(&daemon, &places, "little", &[]);
    let id = daemon
        .rnet("network create -d little -o a=b --ipv6 --subnet 10.91.0.0/24 --subnet fd91::/64 n1");
    assert_eq!(
        plugin.calls(),
        ["Plugin.Activate", "GetCapabilities", "IpamDriver.GetCapabilities", "CreateNetwork"]
    );
    let body = &plugin.log()[3].1;
    assert_eq!(body["NetworkID"], id);
    assert_eq!(body["Options"]["com.docker.network.generic"]["a"], "b");
    assert_eq!(body["IPv4Data"][0]["Gateway"], "10.91.0.1/24");
    assert_eq!(body["IPv6Data"][0]["Pool"], "fd91::/64");
    let one = daemon.run("one", "--network n1 -p 8080:80");
    let two = daemon.run("two", "--network n1 --mac-address 02:42:00:00:00:09 --ip 10.91.0.77");
    let _servers = [one.serve(PORT), lab.host.serve(PORT)];
    for address in daemon.addresses("one")["n1"].clone() {
        assert!(two.tcp(address, PORT).is_ok(), "{address}");
    }
    for gateway in Lab::both(["10.91.0.1", "fd91::1"]) {
        assert!(two.tcp(gateway, PORT).is_ok(), "{gateway}");
    }
    assert_eq!(daemon.rnet("exec two nslookup one 127.0.0.11").matches("10.91.0.2").count(), 1);
    // What the plugin says goes: the interface's name, its hardware address, its routes.
    assert_eq!(two.link("net0").unwrap().mac.unwrap().to_string(), "02:42:00:00:00:09");
    let endpoint = inspect(&daemon, "one", "/NetworkSettings/Networks/n1");
    let eid = endpoint["EndpointID"].as_str().unwrap().to_owned();
    assert_eq!(endpoint["MacAddress"], one.link("net0").unwrap().mac.unwrap().to_string());
    assert_eq!(endpoint["Gateway"], "10.91.0.1");
    // Where it was told that the sandbox is, it is.
    assert_eq!(plugin.state()["endpoints"][&eid]["sandbox"], true);
    let create = plugin.log().into_iter().find(|(call, _)| call == "CreateEndpoint").unwrap().1;
    assert_eq!(create["Interface"]["Address"], "10.91.0.2/24");
    assert_eq!(create["Options"]["com.docker.network.portmap"][0]["HostPort"], 8080);
    daemon.rnet("rm -f one two");
    assert_eq!(plugin.calls_of("EndpointID", &eid), LIFE);
    assert_eq!(inspect(&daemon, "n1", "/Driver"), "little");
    daemon.rnet("network rm n1");
    assert_eq!(plugin.calls().last().unwrap(), "DeleteNetwork");
    assert_eq!(of_plugin(&lab.host), [""; 0]);
    assert!(daemon.rnet("info").contains("little"));
}

#[test]
fn what_a_plugin_was_asked_for_is_given_back_after_a_crash_and_what_it_made_is_kept() {
    let (lab, places) = (Lab::new(), Places::new("crash"));
    let mut daemon = Daemon::start(&lab.host, &places.flags());
    let plugin = Plugin::start(&daemon, &places, "little", &[]);
    daemon.rnet("network create -d little --subnet 10.91.0.0/24 n1");
    let one = daemon.run("one", "--network n1");
    let kept = inspect(&daemon, "one", "/NetworkSettings/Networks/n1/EndpointID");
    for call in ["CreateEndpoint", "Join", "ProgramExternalConnectivity"] {
        let asked = plugin.calls().len();
        plugin.behave(&format!("hang=NetworkDriver.{call}"));
        let mut begun = daemon.begin("run -d --network n1 rnet/toolbox sleep 1000");
        let is_asked = || plugin.log().into_iter().skip(asked).find(|(other, _)| other == call);
        plugin.wait(|| is_asked().is_some());
        let id = is_asked().unwrap().1["EndpointID"].as_str().unwrap().to_owned();
        daemon.kill();
        let _ = begun.wait();
        plugin.behave("");
        daemon.restart();
        plugin.wait(|| plugin.calls_of("EndpointID", &id).contains(&"DeleteEndpoint".to_owned()));
    }
    let lost = plugin.calls_of("EndpointID", kept.as_str().unwrap());
    assert!(!lost.contains(&"Leave".to_owned()), "{lost:?}");
    let two = daemon.run("two", "--network n1");
    let _server = one.serve(PORT);
    assert!(two.tcp(daemon.addresses("one")["n1"][0], PORT).is_ok());
    daemon.rnet("rm -f one two");
    daemon.rnet("network rm n1");
    plugin.wait(|| of_plugin(&lab.host).is_empty());
}

#[test]
fn a_plugin_that_hangs_holds_up_nobody_else_and_is_told_of() {
    let (lab, places) = (Lab::new(), Places::new("hang"));
    let daemon = Daemon::start(&lab.host, &places.flags());
    let plugin = Plugin::start(&daemon, &places, "little", &[]);
    daemon.rnet("network create -d little n1");
    daemon.rnet("create --name one --network n1 rnet/toolbox sleep 1000");
    plugin.behave("hang=NetworkDriver.CreateEndpoint");
    let mut hangs = daemon.begin("start one");
    plugin.wait(|| plugin.calls().contains(&"CreateEndpoint".to_owned()));
    daemon.run("other", "");
    daemon.rnet("network create n2");
    daemon.rnet("network connect n2 other");
    daemon.rnet("network ls");
    assert!(hangs.try_wait().unwrap().is_none(), "others did not wait for it");
    assert!(!hangs.wait().unwrap().success());
    let error = inspect(&daemon, "one", "/State/Error");
    let said = "plugin little does not answer: NetworkDriver.CreateEndpoint took longer than 3 s";
    assert!(error.as_str().unwrap().contains(said), "{error}");
    // Who comes right after does not wait as long.
    let refusal = daemon.refusal("start one");
    assert!(refusal.contains("plugin little did not answer a moment ago"), "{refusal}");
    plugin.behave("");
    plugin.wait(|| daemon.fails("start one").is_none());
}

#[test]
fn a_plugin_that_is_gone_is_owed_what_it_made_and_its_networks_are_kept() {
    let (lab, places) = (Lab::new(), Places::new("gone"));
    let mut daemon = Daemon::start(&lab.host, &places.flags());
    let plugin = Plugin::start(&daemon, &places, "little", &[]);
    let network = daemon.rnet("network create -d little --subnet 10.91.0.0/24 n1");
    daemon.rnet("network create -d little --subnet 10.92.0.0/24 n2");
    let other = daemon.run("other", "");
    let one = daemon.run("one", "--network n1");
    let stays = daemon.run("stays", "--network n1");
    let id = inspect(&daemon, "one", "/NetworkSettings/Networks/n1/EndpointID");
    let id = id.as_str().unwrap();
    plugin.kill(&daemon);
    drop(one);
    daemon.rnet("rm -f one");
    let told = format!("endpoint {}: plugin little could not be told yet", &id[..12]);
    let check = daemon.output("system check");
    assert!(check.contains(&told), "{check}");
    let refusal = daemon.refusal("run --network n1 rnet/toolbox true");
    assert!(
        refusal.contains("cannot call NetworkDriver.CreateEndpoint of plugin little"),
        "{refusal}"
    );
    daemon.rnet("network rm n2");
    // Neither the next daemon nor what runs needs it.
    daemon.terminate();
    daemon.restart();
    assert!(daemon.rnet("network ls").contains("n1"));
    assert_eq!(inspect(&daemon, "n1", "/Id"), network);
    assert!(stays.link("net0").is_some());
    assert!(other.link("eth0").is_some());
    let plugin = Plugin::start(&daemon, &places, "little", &[]);
    plugin.wait(|| plugin.calls_of("EndpointID", id).ends_with(&["DeleteEndpoint".to_owned()]));
    plugin.wait(|| plugin.calls().contains(&"DeleteNetwork".to_owned()));
    plugin.wait(|| !daemon.output("system check").contains("plugin"));
    daemon.rnet("system reset --force");
    assert_eq!(of_plugin(&lab.host), [""; 0]);
}

#[test]
fn what_a_plugin_refuses_is_said_in_its_words_and_nothing_is_left() {
    let (lab, places) = (Lab::new(), Places::new("refuse"));
    let daemon = Daemon::start(&lab.host, &places.flags());
    let plugin = Plugin::start(&daemon, &places, "little", &[]);
    let _ipam = Plugin::start(&daemon, &places, "ipamonly", &["only=IpamDriver"]);
    let refusal = daemon.refusal("network create -d nosuch n1");
    assert!(refusal.contains("plugin \"nosuch\" not found"), "{refusal}");
    let refusal = daemon.refusal("network create -d ipamonly n1");
    assert!(refusal.contains("plugin \"ipamonly\""), "{refusal}");
    plugin.behave("fail=NetworkDriver.CreateNetwork");
    let refusal = daemon.refusal("network create -d little n1");
    assert!(refusal.contains("remote: NetworkDriver.CreateNetwork is not for you"), "{refusal}");
    plugin.behave("");
    daemon.rnet("network create -d little n1");
    for call in ["CreateEndpoint", "Join", "ProgramExternalConnectivity"] {
        plugin.behave(&format!("fail=NetworkDriver.{call}"));
        let refusal = daemon.refusal("run --rm --network n1 rnet/toolbox true");
        for said in ["failed to set up container networking", "remote: NetworkDriver."] {
            assert!(refusal.contains(said), "{refusal}");
        }
        assert!(refusal.contains(&format!("{call} is not for you")), "{refusal}");
    }
    // What it refused it is not asked to undo.
    let calls = plugin.calls();
    let count = |call: &str| calls.iter().filter(|other| *other == call).count();
    assert_eq!([count("DeleteNetwork"), count("Leave"), count("DeleteEndpoint")], [0, 1, 2]);
    plugin.behave("die=NetworkDriver.Join");
    let refusal = daemon.refusal("run --rm --network n1 rnet/toolbox true");
    assert!(refusal.contains("cannot call NetworkDriver.Join of plugin little"), "{refusal}");
    plugin.behave("");
    plugin.ends();
    let plugin = Plugin::start(&daemon, &places, "little", &[]);
    plugin.wait(|| !daemon.output("system check").contains("plugin"));
    assert_eq!(daemon.rnet("run --rm --network n1 rnet/toolbox echo fine"), "fine");
    daemon.rnet("network rm n1");
    assert_eq!(of_plugin(&lab.host), [""; 0]);
}

#[test]
fn a_running_container_joins_and_leaves_a_plugins_network() {
    let (lab, places) = (Lab::new(), Places::new("join"));
    let daemon = Daemon::start(&lab.host, &places.flags());
    let plugin = Plugin::start(&daemon, &places, "little", &[]);
    daemon.rnet("network create -d little --subnet 10.91.0.0/24 n1");
    daemon.rnet("network create --subnet 10.9.0.0/24 n2");
    let one = daemon.run("one", "--network n2");
    let two = daemon.run("two", "--network n1");
    let _server = two.serve(PORT);
    daemon.rnet("network connect n1 one");
    let address = daemon.addresses("two")["n1"][0];
    assert!(one.tcp(address, PORT).is_ok());
    assert_eq!(one.link("net0").unwrap().name, "net0");
    let id = inspect(&daemon, "one", "/NetworkSettings/Networks/n1/EndpointID");
    plugin.behave("fail=NetworkDriver.DeleteEndpoint");
    daemon.rnet("network disconnect n1 one");
    assert!(one.link("net0").is_none());
    assert!(one.link("eth0").is_some());
    let calls = plugin.calls_of("EndpointID", id.as_str().unwrap());
    // The plugin finds its link where it was, and how it was called.
    let id = id.as_str().unwrap();
    assert_eq!(calls.last().unwrap(), "DeleteEndpoint");
    let link = lab.host.link(&format!("pp{}", &id[..8])).unwrap();
    assert!(link.alias.unwrap_or_default().is_empty());
    plugin.behave("");
}
