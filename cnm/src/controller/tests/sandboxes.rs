//! Sandboxes: joining, leaving, addresses.

use super::*;

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
    let a = engine.start(&SandboxSpec { ports: vec![publish("8080:80")], ..sandbox("a", &[&n1]) });
    let a = a.unwrap();
    let before = engine.controller.desired();
    engine.restart();
    assert_eq!(engine.controller.desired(), before);
    assert_eq!(engine.ports(&a), ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"]);
}
