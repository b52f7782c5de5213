//! Claims: what is got outside of the model comes in as input, and is asked for where it lacks.

use super::*;

/// Gives addresses as a DHCP server does: from a range that the model knows nothing of.
struct Claimant {
    next: u8,
    given: Vec<IpNetwork>,
}

impl Claimant {
    fn claim(&mut self) -> IpNetwork {
        self.next += 1;
        let address = format!("192.168.7.{}/24", self.next).parse().unwrap();
        self.given.push(address);
        address
    }

    fn give_back(&mut self, address: IpNetwork) {
        self.given.retain(|given| *given != address);
    }
}

fn lent(address: IpNetwork) -> Lent {
    Lent { address, gateway: None, mac: None }
}

pub(super) fn begin_with(
    engine: &mut Engine,
    spec: &SandboxSpec,
    claims: &Claims,
) -> Result<Decision<(SandboxId, Transaction)>, ControllerError> {
    let Engine { controller, entropy, now, .. } = engine;
    controller.begin_create_sandbox(spec, claims, entropy, *now)
}

pub(super) fn made<T: std::fmt::Debug>(decision: Decision<T>) -> T {
    match decision {
        Decision::Made(made) => made,
        Decision::Unclaimed(wanted) => panic!("unclaimed: {wanted:?}"),
    }
}

#[test]
fn an_address_that_a_claimant_gave_is_the_endpoints() {
    let mut engine = Engine::new();
    let spec = NetworkSpec { ipam_driver: "null".to_owned(), ..network("lan", &[]) };
    let lan = engine.create(&spec).unwrap();
    let mut claimant = Claimant { next: 0, given: Vec::new() };
    let start = |engine: &mut Engine, owner, address| {
        let mut claims = Claims::default();
        claims.add_address(&lan.id, lent(address));
        let begun = begin_with(engine, &sandbox(owner, &[&lan]), &claims);
        begun.map(|decision| {
            let (id, transaction) = made(decision);
            engine.commit(transaction);
            id
        })
    };
    let address = claimant.claim();
    let a = start(&mut engine, "a", address).unwrap();
    assert_eq!(engine.addresses(&a), "192.168.7.1/24@eth0");
    // A claimant that gives an address twice is not believed, and has it back.
    let error = start(&mut engine, "b", address).unwrap_err().to_string();
    assert!(error.starts_with("Address already in use: 192.168.7.1 on network lan"), "{error}");
    let other = claimant.claim();
    let b = start(&mut engine, "b", other).unwrap();
    assert_eq!(engine.addresses(&b), "192.168.7.2/24@eth0");
    engine.restart();
    assert_eq!(engine.addresses(&b), "192.168.7.2/24@eth0");
    engine.stop(&b);
    claimant.give_back(other);
    assert_eq!(claimant.given, [address]);
}

#[test]
fn a_claimed_address_of_the_networks_own_subnet_is_kept_track_of() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24", "fd01::/64"]);
    let mut claims = Claims::default();
    claims.add_address(&n1.id, lent("10.1.0.9/24".parse().unwrap()));
    let (a, transaction) = made(begin_with(&mut engine, &sandbox("a", &[&n1]), &claims).unwrap());
    engine.commit(transaction);
    // The other family is allocated, as ever.
    assert_eq!(engine.addresses(&a), "10.1.0.9/24,fd01::2/64@eth0");
    assert!(begin_with(&mut engine, &sandbox("b", &[&n1]), &claims).is_err());
    engine.stop(&a);
    claims.add_address(&n1.id, lent("10.1.0.10/24".parse().unwrap()));
    let error = begin_with(&mut engine, &sandbox("b", &[&n1]), &claims).unwrap_err().to_string();
    assert!(error.contains("second address of its family"), "{error}");
}

#[test]
fn what_is_unclaimed_is_told_at_once_and_nothing_is_kept() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let ports = ["80", "8080:80", "127.0.0.1:32768-32769:81"].map(publish).to_vec();
    let spec = SandboxSpec { ports, ..sandbox("web", &[&n1]) };
    let before = (engine.controller.ports.taken(), engine.controller.ipam.leases());
    let Decision::Unclaimed(wanted) = begin_with(&mut engine, &spec, &Claims::none()).unwrap()
    else {
        panic!("nothing is bound")
    };
    let groups = wanted.ports;
    let groups: Vec<Vec<_>> =
        groups.iter().map(|group| group.iter().map(spelled).collect()).collect();
    // Those who name their port come first: who takes any takes none of theirs.
    assert_eq!(
        groups,
        [
            vec!["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"],
            vec!["127.0.0.1:32768->81/tcp"],
            vec!["0.0.0.0:32769->80/tcp", "[::]:32769->80/tcp"],
        ]
    );
    assert_eq!((engine.controller.ports.taken(), engine.controller.ipam.leases()), before);
}

#[test]
fn two_who_claim_at_the_same_time_do_not_ask_for_the_same_port() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let mut wanted = |owner| {
        let spec = SandboxSpec { ports: vec![publish("80")], ..sandbox(owner, &[&n1]) };
        match begin_with(&mut engine, &spec, &Claims::none()).unwrap() {
            Decision::Unclaimed(wanted) => wanted.ports[0][0].host_port,
            Decision::Made(_) => panic!("nothing is bound"),
        }
    };
    assert_eq!([wanted("a"), wanted("b")], [32_768, 32_769]);
}

#[test]
fn a_port_that_somebody_got_meanwhile_is_refused_although_it_is_bound() {
    let mut engine = Engine::new();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let of = |owner: &str| SandboxSpec {
        ports: vec![publish("127.0.0.1:80:80")],
        ..sandbox(owner, &[&n1])
    };
    let mut claims = Claims::default();
    let Decision::Unclaimed(wanted) = begin_with(&mut engine, &of("a"), &claims).unwrap() else {
        panic!("nothing is bound")
    };
    engine.start(&of("b")).unwrap();
    claims.claim_ports(&wanted.ports, &mut |group| group.iter().map(|_| Ok(true)).collect());
    refused(
        begin_with(&mut engine, &of("a"), &claims),
        Kind::Internal,
        "Bind for 127.0.0.1:80 failed: port is already allocated",
    );
}

#[test]
fn an_address_that_others_lend_is_asked_for_with_the_hardware_address_it_is_for() {
    let mut engine = Engine::new();
    let spec = NetworkSpec { ipam_driver: "dhcp".to_owned(), ..network("lan", &[]) };
    let lan = engine.create(&spec).unwrap();
    let wants = |engine: &mut Engine| {
        let begun = begin_with(engine, &sandbox("a", &[&lan]), &Claims::none()).unwrap();
        let Decision::Unclaimed(wanted) = begun else { panic!("nobody lent an address") };
        wanted.addresses[0].clone()
    };
    let wanted = wants(&mut engine);
    assert_eq!((&wanted.network, wanted.owner.as_str()), (&lan.id, "a"));
    // The server may know the sandbox by it.
    assert_eq!(wants(&mut engine).mac, wanted.mac);
    let mut claims = Claims::default();
    let (address, mac) = ("192.168.7.9/24".parse().unwrap(), Some(wanted.mac));
    let gateway = "192.168.7.1".parse().ok();
    claims.add_address(&lan.id, Lent { address, gateway, mac });
    let begun = begin_with(&mut engine, &sandbox("a", &[&lan]), &claims).unwrap();
    let (id, transaction) = made(begun);
    engine.commit(transaction);
    engine.restart();
    let endpoint = &engine.endpoints(&id)[0];
    assert_eq!((endpoint.mac, &endpoint.addresses[..]), (wanted.mac, &[address][..]));
    assert_eq!(endpoint.gateways, Vec::from_iter(gateway));
}

#[test]
fn an_endpoint_that_is_lent_another_address_stays_the_same_one() {
    let mut engine = Engine::new();
    let spec = NetworkSpec { ipam_driver: "dhcp".to_owned(), ..network("lan", &[]) };
    let lan = engine.create(&spec).unwrap();
    let n1 = engine.network("n1", &["10.1.0.0/24"]);
    let mut claims = Claims::default();
    claims.add_address(&lan.id, lent("192.168.7.9/24".parse().unwrap()));
    let spec = sandbox("a", &[&n1, &lan]);
    let (a, transaction) = made(begin_with(&mut engine, &spec, &claims).unwrap());
    engine.commit(transaction);
    let renumber = |engine: &mut Engine, address: Option<&str>| {
        let lent = address.map(|address| lent(address.parse().unwrap()));
        engine.controller.begin_renumber(&a, &lan.id, lent, engine.now)
    };
    let before = engine.endpoints(&a);
    for (address, spelled) in [(Some("192.168.7.30/24"), "192.168.7.30/24"), (None, "")] {
        let transaction = renumber(&mut engine, address).unwrap();
        assert_ne!(transaction.before, transaction.after);
        engine.commit(transaction);
        for _ in 0..2 {
            assert_eq!(engine.addresses(&a), format!("10.1.0.2/24@eth0 {spelled}@eth1"));
            engine.restart();
        }
    }
    assert_eq!(engine.endpoints(&a)[1].id, before[1].id);
    // One that was not finished before a crash is given up, and the old address is in force.
    let transaction = renumber(&mut engine, Some("192.168.7.40/24")).unwrap();
    engine.journal(&transaction);
    engine.restart();
    let [unfinished] = &engine.controller.intents()[..] else { panic!("one is not finished") };
    engine.abort(unfinished.clone());
    assert_eq!(engine.addresses(&a), "10.1.0.2/24@eth0 @eth1");
    refused(
        engine.controller.begin_renumber(&a, &n1.id, None, engine.now),
        Kind::Forbidden,
        "nobody lends a an address on network n1",
    );
}
