//! Finding networks by what people write.

use super::*;

struct Fixed([u8; 32]);

impl Entropy for Fixed {
    fn bytes(&mut self) -> [u8; 32] {
        self.0
    }
}

/// An engine with networks whose ids begin like this.
fn engine(networks: &[(&str, [u8; 3])]) -> Engine {
    let mut engine = Engine::new();
    for (name, start) in networks {
        let mut bytes = [0; 32];
        bytes[..3].copy_from_slice(start);
        let Engine { controller, host, now, .. } = &mut engine;
        let spec = network(name, &[]);
        let begun = controller.begin_create_network(&spec, host, &mut Fixed(bytes), *now);
        let (_, transaction) = begun.unwrap();
        engine.commit(transaction);
    }
    engine
}

#[test]
fn a_network_is_found_by_id_name_or_unique_prefix() {
    let engine = engine(&[("n1", [0xab, 0xcd, 0x01]), ("n2", [0xab, 0xce, 0x01]), ("abc", [1; 3])]);
    let name = |key: &str| engine.controller.network(key).map(|network| network.name.clone());
    let id = engine.controller.network("n1").unwrap().id.clone();
    assert_eq!(name(id.as_str()).unwrap(), "n1");
    assert_eq!(name(id.short()).unwrap(), "n1");
    assert_eq!(name("abce").unwrap(), "n2");
    // A name goes before a prefix.
    assert_eq!(name("abc").unwrap(), "abc");
    refused(
        name("ab"),
        Kind::Invalid,
        "network ab is ambiguous (2 matches found based on ID prefix)",
    );
    for unknown in ["", "n", "abcf", "ABCD", &"f".repeat(65)] {
        refused(name(unknown), Kind::NotFound, &format!("network {unknown} not found"));
    }
}

#[test]
fn a_name_that_is_another_ones_id_does_not_hide_it() {
    let mut engine = engine(&[("n1", [0xab, 0xcd, 0x01])]);
    let id = engine.controller.network("n1").unwrap().id.clone();
    engine.network(id.as_str(), &[]);
    assert_eq!(engine.controller.network(id.as_str()).unwrap().name, "n1");
}

#[test]
fn networks_are_listed_by_name() {
    let engine = engine(&[("b", [1; 3]), ("c", [0; 3]), ("a", [2; 3])]);
    let names: Vec<_> = engine.controller.networks().iter().map(|n| n.name.clone()).collect();
    assert_eq!(names, ["a", "b", "c"]);
}
