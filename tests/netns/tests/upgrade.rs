//! What a daemon does with the records of another release, and with damaged ones.
//!
//! The store is the one that the first release wrote: `engine/tests/fixtures`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cnm::Store;
use cnm::store::{Batch, Disk, Durability};
use netns_tests::{Daemon, Lab, wait_until};

/// What becomes of a record's bytes.
type Damage = fn(&[u8]) -> Vec<u8>;

/// What damages a record. The one before the last is of a release to come.
const DAMAGES: &[Damage] = &[
    |_| b"\x00\xffno record".to_vec(),
    |_| Vec::new(),
    |record| record[..record.len() / 2].to_vec(),
    |_| br#"{"version":4000000,"shape":["of","later"]}"#.to_vec(),
    |_| b"[1]".to_vec(),
];

/// Kinds of records: what their keys begin with, and what one is like that the store need not have.
const KINDS: &[(&str, Option<(&str, &str)>)] = &[
    ("container/", None),
    ("network/", None),
    ("endpoint/", None),
    ("sandbox/", None),
    ("lease/", None),
    ("intent/", Some(("intent/00000000000000000999", r#"{"kind":"create","now":1}"#))),
    ("meta/ula", Some(("meta/ula", r#""fd00:1234:5678::/48""#))),
];

fn archive() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../engine/tests/fixtures/v1/store.tar.xz")
}

fn lines(daemon: &Daemon, words: &str) -> BTreeSet<String> {
    daemon.rnet(words).lines().map(str::to_owned).collect()
}

fn set<const N: usize>(words: [&str; N]) -> BTreeSet<String> {
    words.map(str::to_owned).into()
}

fn format(daemon: &Daemon, object: &str, template: &str) -> String {
    daemon.rnet(&format!("inspect -f {template} {object}"))
}

#[test]
fn a_store_of_the_first_release_opens_whole() {
    let lab = Lab::new();
    let daemon = Daemon::start_from(&lab.host, &archive(), |_| {});
    assert_eq!(daemon.rnet("system check"), "");
    let containers = lines(&daemon, "ps -a --format {{.Names}}");
    let names = ["created", "exited", "web", "other", "linked", "shares", "paused", "stopped"];
    assert_eq!(containers, set(names));
    assert_eq!(format(&daemon, "exited", "{{.State.Status}}:{{.State.ExitCode}}"), "exited:3");
    assert_eq!(format(&daemon, "created", "{{.State.Status}}"), "created");
    assert_eq!(format(&daemon, "stopped", "{{.State.Status}}"), "exited");
    let networks = lines(&daemon, "network ls --format {{.Name}}:{{.Driver}}");
    let expected =
        ["bridge:bridge", "host:host", "none:null", "blue:bridge", "inside:bridge", "plain:bridge"];
    assert_eq!(networks, set(expected));
    let volumes = daemon.rnet("volume ls -q");
    assert_eq!((volumes.lines().count(), volumes.contains("data")), (2, true));
    let images = lines(&daemon, "images --format {{.Repository}}:{{.Tag}}");
    assert!(images.is_superset(&set(["tiny:one", "tiny:two"])), "{images:?}");

    // What always runs does so again, where it was, and so does what is started now.
    wait_until("it runs", || format(&daemon, "web", "{{.State.Running}}") == "true");
    let web = daemon.addresses("web");
    assert_eq!(
        web["blue"],
        ["10.9.0.20".parse::<std::net::IpAddr>().unwrap(), "fd00:9::20".parse().unwrap()]
    );
    assert!(web.contains_key("inside"));
    for name in ["stopped", "paused", "shares", "created"] {
        daemon.rnet(&format!("start {name}"));
    }
    assert_eq!(daemon.addresses("stopped")["blue"][0].to_string(), "10.9.0.30");
    assert!(!daemon.rnet("run --rm --network blue rnet/toolbox lookup www").is_empty());
}

#[test]
fn what_the_first_release_knew_of_an_object_is_still_known() {
    let lab = Lab::new();
    let daemon = Daemon::start_from(&lab.host, &archive(), |_| {});
    let network: serde_json::Value =
        serde_json::from_str(&daemon.rnet("network inspect blue")).unwrap();
    let network = &network[0];
    assert_eq!(network["Labels"]["colour"], "blue");
    assert_eq!(network["Options"]["com.docker.network.bridge.name"], "br-blue");
    assert_eq!(network["Options"]["com.docker.network.driver.mtu"], "1400");
    let pool = &network["IPAM"]["Config"][0];
    assert_eq!(
        (&pool["Subnet"], &pool["IPRange"]),
        (&"10.9.0.0/24".into(), &"10.9.0.128/25".into())
    );
    assert_eq!(pool["AuxiliaryAddresses"]["printer"], "10.9.0.200");
    let volume: serde_json::Value =
        serde_json::from_str(&daemon.rnet("volume inspect data")).unwrap();
    assert_eq!(volume[0]["Labels"]["kind"], "data");
    let web: serde_json::Value = serde_json::from_str(&daemon.rnet("inspect web")).unwrap();
    let (config, host) = (&web[0]["Config"], &web[0]["HostConfig"]);
    assert_eq!(config["Hostname"], "web1");
    assert_eq!(config["Healthcheck"]["Test"][1], "toolbox true");
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(host["RestartPolicy"]["Name"], "always");
    assert_eq!(host["PortBindings"]["80/tcp"][0]["HostPort"], "8080");
    assert_eq!(host["Binds"][0], "data:/data");
    let mounts = web[0]["Mounts"].as_array().unwrap();
    assert!(mounts.iter().any(|mount| mount["Name"] == "data" && mount["Destination"] == "/data"));
    let created: serde_json::Value = serde_json::from_str(&daemon.rnet("inspect created")).unwrap();
    assert_eq!(created[0]["Config"]["Labels"]["one"], "two");
    assert_eq!(created[0]["Config"]["Env"][0], "KEY=value");
    assert_eq!(created[0]["HostConfig"]["NetworkMode"], "plain");
}

/// Damages one record of each kind and gives back their keys. The container is `exited`.
fn damage(data: &Path, how: fn(&[u8]) -> Vec<u8>) -> Vec<String> {
    let store = Disk::open(&data.join("store.redb")).unwrap();
    let (mut batch, mut keys) = (Batch::default(), Vec::new());
    for (kind, made_up) in KINDS {
        let wanted = |(key, record): &(String, Vec<u8>)| match *kind {
            "container/" => contains(record, r#""name":"exited""#),
            "network/" => contains(record, r#""name":"plain""#),
            // Not one of those that containers want by name.
            "lease/" => key.ends_with("/fd00:9::2"),
            _ => true,
        };
        let made_up = made_up.map(|(key, text)| (key.to_owned(), text.as_bytes().to_vec()));
        let found = store.list(kind).unwrap().into_iter().find(wanted);
        let (key, record) = found.or(made_up).unwrap();
        batch.put(&*key, how(&record));
        keys.push(key);
    }
    store.commit(&batch, Durability::Immediate).unwrap();
    keys.push(damage_volume(data, how));
    keys
}

/// Damages what is known of the volume `data`, and gives back what is told of it.
fn damage_volume(data: &Path, how: fn(&[u8]) -> Vec<u8>) -> String {
    let path = data.join("volumes/data/volume.json");
    std::fs::write(&path, how(&std::fs::read(&path).unwrap())).unwrap();
    "volumes/data/volume.json".to_owned()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(bytes).contains(text)
}

#[test]
fn a_damaged_record_is_told_and_everything_else_works() {
    for how in DAMAGES {
        let lab = Lab::new();
        let mut keys = Vec::new();
        let mut daemon =
            Daemon::start_from(&lab.host, &archive(), |data| keys = damage(data, *how));
        let told = |daemon: &Daemon| {
            let check = daemon.output("system check");
            for key in &keys {
                assert!(check.contains(key), "{key} is not in {check}");
            }
            let info = daemon.rnet("info -f {{.Warnings}}");
            for key in &keys {
                assert!(info.contains(key), "{key} is not in {info}");
            }
        };
        told(&daemon);
        for key in keys.iter().filter(|key| !key.starts_with("volumes/")) {
            assert!(daemon.log().contains(key), "{key} is not in the log");
        }
        let rest = lines(&daemon, "ps -a --format {{.Names}}");
        assert!(rest.contains("web") && !rest.contains("exited"), "{rest:?}");
        wait_until("it runs", || format(&daemon, "web", "{{.State.Running}}") == "true");
        daemon.rnet("start stopped");
        daemon.rnet("run -d --name new --network blue rnet/toolbox sleep 1000");
        daemon.rnet("rm -f new");

        // Whose the address is, of which the lease is damaged, nobody knows.
        let lease = keys.iter().find(|key| key.starts_with("lease/")).unwrap();
        let address = lease.rsplit('/').next().unwrap();
        let taken =
            daemon.refusal(&format!("run --rm --network blue --ip6 {address} rnet/toolbox true"));
        assert!(taken.contains("a record that cannot be read"), "{taken}");

        // Nothing of the lost container is swept, and the next daemon tells the same.
        let id = keys[0].strip_prefix("container/").unwrap();
        let directory = daemon.file("data").join("containers").join(id);
        daemon.terminate();
        daemon.restart();
        assert!(directory.is_dir());
        told(&daemon);
    }
}

#[test]
fn a_damaged_record_that_is_discarded_is_not_told_of_again() {
    let lab = Lab::new();
    let mut keys = Vec::new();
    let mut daemon =
        Daemon::start_from(&lab.host, &archive(), |data| keys = damage(data, DAMAGES[0]));
    for key in &keys {
        if let Some(file) = key.strip_prefix("volumes/") {
            std::fs::remove_file(daemon.file("data/volumes").join(file)).unwrap();
        } else {
            daemon.rnet(&format!("system check --discard {key}"));
        }
    }
    // What cannot be true without them was set aside, too.
    let told = daemon.output("system check");
    for advice in told.split('`').filter_map(|words| words.strip_prefix("rnet ")) {
        daemon.rnet(advice);
    }
    let error = daemon.refusal(&format!("system check --discard {}", keys[0]));
    assert!(error.contains(&format!("no damaged record {} is set aside", keys[0])), "{error}");
    let id = keys[0].strip_prefix("container/").unwrap();
    daemon.terminate();
    daemon.restart();
    assert_eq!(daemon.rnet("system check"), "");
    assert!(!daemon.file("data").join("containers").join(id).exists());
}
