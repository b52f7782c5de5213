//! Addresses of which a record cannot be read.

use super::*;

/// A network with five addresses for sandboxes, the store of which is damaged.
fn five(damage: impl FnOnce(&mut Engine, &Network)) -> (Engine, Arc<Network>) {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/29"]);
    damage(&mut engine, &n1);
    engine.restart();
    (engine, n1)
}

/// One owner after the other starts, until no address is left; gives back those that were had.
fn all_addresses(engine: &mut Engine, network: &Network) -> Vec<String> {
    let mut had = Vec::new();
    for owner in 0..8 {
        let Ok(id) = engine.start(&sandbox(&format!("new{owner}"), &[network])) else { break };
        had.push(engine.endpoints(&id)[0].addresses[0].ip().to_string());
    }
    had.sort();
    had
}

fn wanting(owner: &str, network: &Network, address: &str) -> SandboxSpec {
    let join = JoinSpec { addresses: vec![address.parse().unwrap()], ..join(network) };
    SandboxSpec { owner: owner.to_owned(), joins: vec![join], ..SandboxSpec::default() }
}

fn put(engine: &Engine, key: &str, value: &[u8]) {
    engine.write(&Batch { writes: vec![(key.to_owned(), Some(value.to_vec()))] });
}

#[test]
fn an_address_whose_lease_cannot_be_read_is_given_to_nobody_and_its_record_stays() {
    for text in [r#"{"version":99,"of":"later"}"#, "{", ""] {
        let (mut engine, n1) = five(|engine, n1| {
            let id = engine.sandbox("a", &[n1]);
            engine.stop(&id);
            put(engine, &format!("lease/{}/10.1.0.2", n1.id), text.as_bytes());
        });
        let key = format!("lease/{}/10.1.0.2", n1.id);
        let place = engine.controller.unreadable()[0].place.clone();
        assert!(place.ends_with(&key), "{place}");
        for _ in 0..2 {
            let had = all_addresses(&mut engine, &n1);
            assert_eq!(had, ["10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"], "{text}");
            let message = "Address already in use: 10.1.0.2 on network n1 has a record that cannot \
                           be read (see `rnet system check`); choose another";
            let wanted = engine.start(&wanting("b", &n1, "10.1.0.2"));
            refused(wanted, Kind::Forbidden, message);
            let kept = engine.controller.reserve_static("b", &n1.id, "10.1.0.2".parse().unwrap());
            refused(kept, Kind::Forbidden, message);
            // The next daemon does not know it any better.
            for sandbox in engine.controller.sandboxes() {
                engine.stop(&sandbox.id);
            }
            engine.restart();
            let bytes = engine.store.get(&place).unwrap();
            assert_eq!(bytes.as_deref(), Some(text.as_bytes()));
        }
    }
}

#[test]
fn an_address_whose_damaged_lease_is_discarded_is_given_out_again() {
    let (mut engine, n1) = five(|engine, n1| {
        put(engine, &format!("lease/{}/10.1.0.2", n1.id), b"damaged");
    });
    let key = format!("lease/{}/10.1.0.2", n1.id);
    refused(
        engine.start(&wanting("b", &n1, "10.1.0.2")),
        Kind::Forbidden,
        "Address already in use: 10.1.0.2 on network n1 has a record that cannot be read (see \
         `rnet system check`); choose another",
    );
    engine.controller.discarded("network/x");
    engine.controller.discarded(&key);
    engine.start(&wanting("b", &n1, "10.1.0.2")).unwrap();
    assert_eq!(engine.keys("lease/"), [key]);
}

#[test]
fn a_sandbox_goes_on_with_an_address_whose_lease_cannot_be_read() {
    let (mut engine, n1) = five(|engine, n1| {
        engine.sandbox("a", &[n1]);
        put(engine, &format!("lease/{}/10.1.0.2", n1.id), br#"{"version":99}"#);
    });
    let sandboxes = engine.controller.sandboxes();
    let id = &sandboxes[0].id;
    assert_eq!(engine.addresses(id), "10.1.0.2/29@eth0");
    engine.stop(id);
    assert_eq!(all_addresses(&mut engine, &n1).len(), 4);
    let bytes = engine.store.get(&format!("lease/{}/10.1.0.2", n1.id)).unwrap();
    assert_eq!(bytes.as_deref(), Some(&br#"{"version":99}"#[..]));
}

#[test]
fn an_address_of_a_sandbox_that_cannot_be_read_is_for_its_owner_only() {
    for prefix in ["sandbox/", "endpoint/"] {
        let (mut engine, n1) = five(|engine, n1| {
            engine.sandbox("a", &[n1]);
            let key = engine.keys(prefix).remove(0);
            put(engine, &key, b"damaged");
        });
        let had = all_addresses(&mut engine, &n1);
        assert_eq!(had, ["10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"], "{prefix}");
        refused(
            engine.start(&wanting("b", &n1, "10.1.0.2")),
            Kind::Forbidden,
            "Address already in use: 10.1.0.2 on network n1 is used by a; choose another",
        );
        let id = engine.start(&wanting("a", &n1, "10.1.0.2")).unwrap();
        engine.stop(&id);
        engine.start(&wanting("b", &n1, "10.1.0.2")).unwrap();
    }
}

#[test]
fn the_prefix_of_a_later_release_is_not_written_over() {
    let mut engine = Engine::new();
    let later = br#"{"version":99,"prefixes":[]}"#;
    put(&engine, "meta/ula", later);
    engine.restart();
    let spec = NetworkSpec { ipv6: Some(true), ..network("n1", &[]) };
    engine.create(&spec).unwrap();
    assert_eq!(engine.store.get("meta/ula").unwrap().as_deref(), Some(&later[..]));
    assert_eq!(engine.controller.unreadable()[0].place, "meta/ula");
}
