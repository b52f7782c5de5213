//! Sandboxes: joining, leaving, addresses.

use super::*;
use crate::HasKind;

#[test]
fn a_sandbox_gets_the_next_address_and_the_first_interface() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24", "fd01::/64"]);
    let a = engine.sandbox("a", &[&n1]);
    let b = engine.sandbox("b", &[&n1]);
    assert_eq!(engine.addresses(&a), "10.1.0.2/24,fd01::2/64@eth0");
    assert_eq!(engine.addresses(&b), "10.1.0.3/24,fd01::3/64@eth0");
}

#[test]
fn everything_is_there_after_a_restart() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let spec = SandboxSpec { ports: vec![publish("8080:80")], ..sandbox("a", &[&n1]) };
    let a = engine.start(&spec).unwrap();
    let before = engine.controller.desired();
    engine.restart();
    assert_eq!(engine.controller.desired(), before);
    assert_eq!(engine.ports(&a), ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"]);
    assert!(engine.start(&SandboxSpec { owner: "b".to_owned(), ..spec }).is_err());
    let b = engine.sandbox("b", &[&n1]);
    assert_eq!(engine.addresses(&b), "10.1.0.3/24@eth0");
}

#[test]
fn interfaces_are_numbered_in_the_order_of_joining() {
    let mut engine = Engine::new();
    let networks = ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"];
    let [n1, n2, n3] =
        networks.map(|subnet| engine.network(&format!("n{}", &subnet[3..4]), &[subnet]));
    let a = engine.sandbox("a", &[&n2, &n1]);
    assert_eq!(engine.addresses(&a), "10.2.0.2/24@eth0 10.1.0.2/24@eth1");
    engine.leave(&a, &n2).unwrap();
    engine.join(&a, &join(&n3)).unwrap();
    engine.join(&a, &join(&n2)).unwrap();
    let expected = "10.1.0.2/24@eth1 10.3.0.2/24@eth0 10.2.0.2/24@eth2";
    assert_eq!(engine.addresses(&a), expected);
    engine.restart();
    assert_eq!(engine.addresses(&a), expected);
}

#[test]
fn interfaces_may_be_named_and_no_other_one_gets_their_name() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let prefix = options(&[("com.docker.network.container_iface_prefix", "net")]);
    let spec = NetworkSpec { options: prefix, ..network("n2", &["10.2.0.0/24"]) };
    let n2 = engine.create(&spec).unwrap();
    let n3 = engine.network("n3", &["10.3.0.0/24"]);
    let named = JoinSpec { interface: Some("eth0".to_owned()), ..join(&n3) };
    let spec = SandboxSpec { joins: vec![join(&n1), join(&n2), named], ..sandbox("a", &[]) };
    let a = engine.start(&spec).unwrap();
    assert_eq!(engine.addresses(&a), "10.1.0.2/24@eth1 10.2.0.2/24@net0 10.3.0.2/24@eth0");
    let by_option = options(&[("com.docker.network.endpoint.ifname", "eth1")]);
    let n4 = engine.network("n4", &["10.4.0.0/24"]);
    let wanted = JoinSpec { options: by_option, ..join(&n4) };
    refused(
        engine.join(&a, &wanted),
        Kind::Conflict,
        "interface name eth1 is already in use in this sandbox",
    );
    let wanted = |name: &str| JoinSpec { interface: Some(name.to_owned()), ..join(&n4) };
    refused(
        engine.join(&a, &wanted("a/b")),
        Kind::Invalid,
        "`a/b` is not an interface name: 1 to 15 bytes without `/`, `:` and white space",
    );
    refused(
        engine.join(&a, &wanted("lo")),
        Kind::Conflict,
        "interface name lo belongs to the loopback device",
    );
}

#[test]
fn addresses_and_hardware_addresses_come_back_with_their_owner() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24", "fd01::/64"]);
    let a = engine.sandbox("a", &[&n1]);
    let before = engine.endpoints(&a)[0].clone();
    engine.stop(&a);
    let b = engine.sandbox("b", &[&n1]);
    assert_ne!(engine.endpoints(&b)[0].mac, before.mac);
    engine.restart();
    let a = engine.sandbox("a", &[&n1]);
    let after = engine.endpoints(&a)[0].clone();
    assert_eq!((&after.addresses, after.mac), (&before.addresses, before.mac));
    assert_ne!(after.id, before.id);
}

#[test]
fn an_address_moves_when_another_hardware_address_gets_it() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let wanted = |owner| {
        let joins = vec![JoinSpec { addresses: vec!["10.1.0.7".parse().unwrap()], ..join(&n1) }];
        SandboxSpec { joins, ..sandbox(owner, &[]) }
    };
    for (owner, moves) in [("a", false), ("a", false), ("b", true), ("b", false), ("a", true)] {
        let (id, transaction) = engine.begin_sandbox(&wanted(owner)).unwrap();
        assert_eq!(transaction.moves_address, moves, "{owner}");
        engine.commit(transaction);
        engine.stop(&id);
        engine.restart();
    }
}

#[test]
fn a_wanted_hardware_address_is_given() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let mac: Mac = "02:42:ac:11:00:02".parse().unwrap();
    let spec =
        SandboxSpec { joins: vec![JoinSpec { mac: Some(mac), ..join(&n1) }], ..sandbox("a", &[]) };
    let a = engine.start(&spec).unwrap();
    assert_eq!(engine.endpoints(&a)[0].mac, mac);
}

#[test]
fn wanted_addresses_are_given_or_refused_as_a_whole() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24", "fd01::/64"]);
    let wanted = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        SandboxSpec { joins: vec![JoinSpec { addresses, ..join(&n1) }], ..sandbox("a", &[]) }
    };
    let a = engine.start(&wanted(&["fd01::7", "10.1.0.7"])).unwrap();
    assert_eq!(engine.addresses(&a), "10.1.0.7/24,fd01::7/64@eth0");
    let b = engine.start(&SandboxSpec { owner: "b".to_owned(), ..wanted(&["10.1.0.8"]) }).unwrap();
    assert_eq!(engine.addresses(&b), "10.1.0.8/24,fd01::2/64@eth0");
    let before = engine.keys("");
    refused(
        engine.start(&wanted(&["10.1.0.9", "10.1.0.10"])),
        Kind::Invalid,
        "10.1.0.10 is a second address of its family on network n1: one is possible",
    );
    refused(
        engine.start(&wanted(&["10.1.0.9", "fd01::7"])),
        Kind::Forbidden,
        "Address already in use: fd01::7 on network n1 is used by a; choose another",
    );
    assert_eq!(engine.keys(""), before);
    // What the refused ones had taken is free.
    engine.start(&SandboxSpec { owner: "c".to_owned(), ..wanted(&["10.1.0.9"]) }).unwrap();
}

#[test]
fn a_static_address_waits_for_its_owner() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/29"]);
    let address = "10.1.0.2".parse().unwrap();
    let batch = engine.controller.reserve_static("a", &n1.id, address).unwrap();
    engine.write(&batch);
    engine.restart();
    let others = ["b", "c", "d", "e"].map(|owner| engine.sandbox(owner, &[&n1]));
    assert_eq!(engine.addresses(&others[0]), "10.1.0.3/29@eth0");
    refused(
        engine.start(&sandbox("f", &[&n1])),
        Kind::Conflict,
        "no free address in 10.1.0.0/29 of network n1: \
         all are in use; remove containers or create a network with a larger --subnet",
    );
    let a = engine.sandbox("a", &[&n1]);
    assert_eq!(engine.addresses(&a), "10.1.0.2/29@eth0");
    engine.stop(&a);
    engine.restart();
    assert!(engine.start(&sandbox("f", &[&n1])).is_err());
    let batch = engine.controller.forget_owner("a");
    engine.write(&batch);
    let f = engine.sandbox("f", &[&n1]);
    assert_eq!(engine.addresses(&f), "10.1.0.2/29@eth0");
}

/// B17: compose makes a container's successor while the old one is stopped, with the same address.
#[test]
fn an_address_kept_for_a_stopped_container_is_given_to_another_that_names_it() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/29"]);
    let address: IpAddr = "10.1.0.2".parse().unwrap();
    let named = |owner: &str| {
        let join = JoinSpec { addresses: vec![address], ..join(&n1) };
        SandboxSpec { owner: owner.to_owned(), joins: vec![join], ..SandboxSpec::default() }
    };
    for owner in ["old", "new"] {
        let batch = engine.controller.reserve_static(owner, &n1.id, address).unwrap();
        engine.write(&batch);
    }
    engine.restart();
    let new = engine.start(&named("new")).unwrap();
    assert_eq!(engine.addresses(&new), "10.1.0.2/29@eth0");
    refused(
        engine.start(&named("old")),
        Kind::Forbidden,
        "Address already in use: 10.1.0.2 on network n1 is used by new; choose another",
    );
    // The new one goes: it is still kept for the old one, and not for those who take any.
    engine.stop(&new);
    let batch = engine.controller.forget_owner("new");
    engine.write(&batch);
    engine.restart();
    for owner in ["b", "c", "d", "e"] {
        let other = engine.sandbox(owner, &[&n1]);
        assert_ne!(engine.addresses(&other), "10.1.0.2/29@eth0");
    }
    assert!(engine.start(&sandbox("f", &[&n1])).is_err());
    let old = engine.start(&named("old")).unwrap();
    engine.stop(&old);
    let batch = engine.controller.release_static("old", &n1.id, address);
    engine.write(&batch);
    let f = engine.sandbox("f", &[&n1]);
    assert_eq!(engine.addresses(&f), "10.1.0.2/29@eth0");
}

#[test]
fn static_addresses_are_checked() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let Engine { controller, .. } = &mut engine;
    let mut reserve =
        |owner, address: &str| controller.reserve_static(owner, &n1.id, address.parse().unwrap());
    refused(reserve("", "10.1.0.5"), Kind::Invalid, "10.1.0.5 cannot be kept for nobody");
    refused(
        reserve("a", "10.1.0.1"),
        Kind::Forbidden,
        "Address already in use: 10.1.0.1 on network n1 is its gateway; choose another",
    );
    let unknown = NetworkId::from_random([9; 32]);
    let result = engine.controller.reserve_static("a", &unknown, IpAddr::from([10, 1, 0, 5]));
    refused(result, Kind::NotFound, &format!("network {unknown} not found"));
}

#[test]
fn a_network_is_joined_once() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let owner = "abcdef".repeat(11)[..64].to_owned();
    let message = "endpoint with name abcdefabcdef already exists in network n1";
    refused(engine.start(&sandbox(&owner, &[&n1, &n1])), Kind::Forbidden, message);
    let a = engine.sandbox(&owner, &[&n1]);
    refused(engine.join(&a, &join(&n1)), Kind::Forbidden, message);
    assert_eq!(engine.controller.endpoints_of(&n1.id).len(), 1);
}

#[test]
fn none_goes_with_no_other_network() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let spec = NetworkSpec { driver: "none".to_owned(), ..network("none", &[]) };
    let Engine { controller, host, entropy, now, .. } = &mut engine;
    let (none, transaction) =
        controller.begin_create_predefined(&spec, host, entropy, *now).unwrap();
    engine.commit(transaction);
    let a = engine.sandbox("a", &[&none]);
    assert_eq!(engine.addresses(&a), "@lo");
    let message = "container cannot be connected to multiple networks with one of the networks \
                   in private (none) mode";
    refused(engine.join(&a, &join(&n1)), Kind::Forbidden, message);
    let b = engine.sandbox("b", &[&n1]);
    refused(engine.join(&b, &join(&none)), Kind::Forbidden, message);
}

#[test]
fn a_refusal_of_the_planner_leaves_nothing_behind() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let spec = NetworkSpec { driver: "host".to_owned(), ..network("host", &[]) };
    let Engine { controller, host, entropy, now, .. } = &mut engine;
    let (host, transaction) =
        controller.begin_create_predefined(&spec, host, entropy, *now).unwrap();
    engine.commit(transaction);
    let spec = SandboxSpec { ports: vec![publish("80:80")], ..sandbox("a", &[&n1, &host]) };
    let error = engine.start(&spec).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("cannot join network host"), "{error}");
    assert!(engine.controller.ipam.leases().is_empty());
    assert!(engine.controller.ports.taken().is_empty() && engine.controller.links.is_empty());
}

#[test]
fn leaving_what_was_not_joined_is_refused() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let n2 = engine.network("n2", &["10.2.0.0/24"]);
    let a = engine.sandbox("a", &[&n1]);
    let message = "container a is not connected to network n2";
    refused(engine.leave(&a, &n2), Kind::Forbidden, message);
    let id = NetworkId::from_random([9; 32]);
    let unknown = engine.controller.begin_leave(&a, &id, 0);
    refused(unknown, Kind::NotFound, &format!("network {id} not found"));
}

#[test]
fn what_is_not_there_is_not_found() {
    let mut engine = Engine::new();
    let id = SandboxId::from_random([9; 32]);
    let message = format!("sandbox {id} not found");
    refused(engine.controller.begin_remove_sandbox(&id, 0), Kind::NotFound, &message);
    refused(engine.change_ports(&id, &[], &[]), Kind::NotFound, &message);
    refused(engine.join(&id, &JoinSpec::default()), Kind::NotFound, &message);
    let nowhere = SandboxSpec { joins: vec![JoinSpec::default()], ..sandbox("a", &[]) };
    refused(engine.start(&nowhere), Kind::Invalid, "no network to join is named");
    assert_eq!(engine.controller.sandbox(&id), None);
    assert_eq!(engine.controller.desired_of(&id), State::default());
}

#[test]
fn a_sandbox_has_one_transaction_at_a_time() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let n2 = engine.network("n2", &["10.2.0.0/24"]);
    let a = engine.sandbox("a", &[&n1]);
    let open = engine.controller.begin_remove_sandbox(&a, engine.now).unwrap();
    let busy = format!(
        "sandbox {} is being changed by another request: try again when it is done",
        a.short()
    );
    refused(engine.controller.begin_remove_sandbox(&a, 0), Kind::Conflict, &busy);
    refused(engine.join(&a, &join(&n2)), Kind::Conflict, &busy);
    refused(engine.leave(&a, &n1), Kind::Conflict, &busy);
    refused(engine.change_ports(&a, &[], &[]), Kind::Conflict, &busy);
    engine.abort(open);
    engine.join(&a, &join(&n2)).unwrap();
}

#[test]
fn transactions_of_different_sandboxes_overlap() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let ports = |port: &str| vec![publish(port)];
    let spec = |owner, port| SandboxSpec { ports: ports(port), ..sandbox(owner, &[&n1]) };
    let (a, first) = engine.begin_sandbox(&spec("a", "80:80")).unwrap();
    let (b, second) = engine.begin_sandbox(&spec("b", "81:80")).unwrap();
    assert!(engine.begin_sandbox(&spec("c", "80:80")).is_err());
    engine.commit(second);
    engine.abort(first);
    assert_eq!(engine.controller.sandbox(&a), None);
    assert_eq!(engine.addresses(&b), "10.1.0.3/24@eth0");
    let c = engine.start(&spec("c", "80:80")).unwrap();
    // The cursor has passed it, but the aborted address is free.
    assert_eq!(engine.controller.ipam.leases().len(), 2);
    assert_eq!(engine.ports(&c)[0], "0.0.0.0:80->80/tcp");
}

#[test]
fn ending_a_transaction_twice_changes_nothing() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let (a, transaction) = engine.begin_sandbox(&sandbox("a", &[&n1])).unwrap();
    engine.commit(transaction.clone());
    let before = engine.controller.desired();
    engine.commit(transaction.clone());
    engine.abort(transaction);
    assert_eq!(engine.controller.desired(), before);
    engine.stop(&a);
    assert_eq!(engine.controller.sandboxes(), []);
}

#[test]
fn a_transaction_shows_the_state_of_its_scope_only() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let n2 = engine.network("n2", &["10.2.0.0/24"]);
    engine.sandbox("other", &[&n1]);
    let (a, created) = engine.begin_sandbox(&sandbox("a", &[&n1])).unwrap();
    assert!(created.before.is_empty() && created.kind == ChangeKind::Create);
    assert_eq!(created.subject, Subject::Sandbox(a.clone()));
    let after = created.after.clone();
    engine.commit(created);
    assert_eq!(engine.controller.desired_of(&a), after);
    let Engine { controller, entropy, now, .. } = &mut engine;
    let joined = controller.begin_join(&a, &join(&n2), &Claims::none(), entropy, *now).unwrap();
    let joined = joined.made().unwrap();
    assert_eq!((joined.kind, joined.before.len(), joined.after.len()), (ChangeKind::Change, 2, 3));
    engine.commit(joined);
    let removed = engine.controller.begin_remove_sandbox(&a, 0).unwrap();
    assert_eq!(
        (removed.kind, removed.before.len(), removed.after.len()),
        (ChangeKind::Remove, 3, 0)
    );
}

#[test]
fn host_links_have_different_names_even_where_chance_repeats_itself() {
    struct Repeating(u8);
    impl Entropy for Repeating {
        fn bytes(&mut self) -> [u8; 32] {
            self.0 += 1;
            // The first bytes are the same three times in a row.
            let mut bytes = [self.0; 32];
            bytes[..4].fill(self.0 / 3);
            bytes
        }
    }
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let mut entropy = Repeating(0);
    for owner in ["a", "b", "c", "d"] {
        let spec = sandbox(owner, &[&n1]);
        let (_, transaction) = decided(&mut |_| Vec::new(), |claims| {
            engine.controller.begin_create_sandbox(&spec, claims, &mut entropy, 0)
        })
        .unwrap();
        engine.commit(transaction);
    }
    let endpoints = engine.controller.endpoints_of(&n1.id);
    let links: BTreeSet<_> = endpoints.iter().map(|endpoint| endpoint.host_link()).collect();
    assert_eq!(links.len(), 4);
}

#[test]
fn a_record_that_cannot_be_read_is_named_and_the_rest_is_there() {
    let damaged = |prefix: &str, value: Option<&str>, why: &str| {
        let mut engine = Engine::new();
        let (n1, n2) = (engine.network("n1", &["10.1.0.0/24"]), engine.network("n2", &[]));
        engine.sandbox("a", &[&n1]);
        let found = engine.store.list(prefix).unwrap().into_iter();
        let mut of_n1 = found.filter(|(key, _)| *key != format!("network/{}", n2.id));
        let key = of_n1.next().map_or_else(|| format!("{prefix}x"), |(key, _)| key);
        let value = value.map(|value| value.as_bytes().to_vec());
        engine.write(&Batch { writes: vec![(key, value)] });
        let planner = Arc::new(Spelling);
        let loaded = Controller::load(&engine.store, planner, ControllerConfig::default()).unwrap();
        let told: Vec<_> = loaded.unreadable().iter().map(|record| record.why.clone()).collect();
        assert!(told.iter().any(|told| told.contains(why)), "{told:?} have no {why}");
        assert!(loaded.network("n2").is_ok());
    };
    damaged("network/", Some("{"), "EOF");
    damaged("network/", None, "is not there");
    damaged("network/", Some(r#"{"version":99}"#), "it has version 99");
    damaged("endpoint/", Some("[1]"), "it is damaged");
    damaged("sandbox/", None, "is not there");
    damaged("sandbox/", Some(""), "EOF");
    damaged("lease/x/y/", Some(r#"{"owner":"a"}"#), "its key names no address");
    damaged("intent/", Some("{}"), "missing field");
}

#[test]
fn a_sandbox_that_switches_ipv6_off_gets_no_address_of_it() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24", "fd01::/64"]);
    let off = |link: &str| format!("net/ipv6/conf/{link}/disable_ipv6");
    let cases = [
        (vec![("all", "1")], 1),
        (vec![("default", "1")], 1),
        (vec![("eth0", "1")], 1),
        // The most particular wish is the one that is meant.
        (vec![("all", "1"), ("eth0", "0")], 2),
        (vec![("eth1", "1")], 2),
        (vec![("all", "0")], 2),
    ];
    for (owner, (sysctls, addresses)) in cases.into_iter().enumerate() {
        let sysctl = |(link, value): &(&str, &str)| (off(link), (*value).to_owned());
        let wanted = "fd01::77".parse().unwrap();
        let spec = SandboxSpec {
            owner: owner.to_string(),
            sysctls: sysctls.iter().map(sysctl).collect(),
            joins: vec![JoinSpec { addresses: vec![wanted], ..join(&n1) }],
            ..SandboxSpec::default()
        };
        let claims = Claims::none();
        let Engine { controller, entropy, now, .. } = &mut engine;
        let begun = controller.begin_create_sandbox(&spec, &claims, entropy, *now).unwrap();
        let Decision::Made((_, transaction)) = begun else { panic!("no ports are published") };
        let live = transaction.sandbox_after().unwrap();
        assert_eq!(live.endpoints[0].addresses.len(), addresses, "{sysctls:?}");
        assert_eq!(transaction.warnings.len(), 2 - addresses, "{:?}", transaction.warnings);
        engine.abort(transaction);
    }
}
