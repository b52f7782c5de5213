//! Which host ports are given, against a model that knows only the rule.

use proptest::prelude::*;

use super::*;

const ALL: &[&str] = &["0.0.0.0", "::"];

fn request(hosts: &[IpAddr], ports: RangeInclusive<u16>) -> Request<'_> {
    Request { hosts, ports, protocol: Protocol::Tcp, port: 80, lenient: false }
}

fn addresses(hosts: &[&str]) -> Vec<IpAddr> {
    hosts.iter().map(|host| host.parse().unwrap()).collect()
}

/// Nobody else is on the host.
fn all_free(bindings: &[PortBinding]) -> Vec<io::Result<bool>> {
    each(bindings, |_| Ok(true))
}

fn each(
    bindings: &[PortBinding],
    one: impl Fn(&PortBinding) -> io::Result<bool>,
) -> Vec<io::Result<bool>> {
    bindings.iter().map(one).collect()
}

/// Allocates, and claims what is needed for it.
fn allocate_by(
    ports: &mut Ports,
    request: &Request<'_>,
    bind: &mut dyn FnMut(&[PortBinding]) -> Vec<io::Result<bool>>,
) -> Result<Vec<PortBinding>, PortError> {
    let mut claims = Claims::default();
    loop {
        let Allocation { ports: taken, unclaimed } =
            ports.allocate(request, &claims, &mut Offers::of(&claims))?;
        if unclaimed.is_empty() {
            return Ok(taken);
        }
        for binding in &taken {
            ports.release(binding);
        }
        claims.claim_ports(&[unclaimed], bind);
    }
}

fn outcome(result: Result<Vec<PortBinding>, PortError>) -> String {
    let spelled = |b: &PortBinding| SocketAddr::new(b.host, b.host_port).to_string();
    match result {
        Ok(bindings) => bindings.iter().map(spelled).collect::<Vec<_>>().join(" "),
        Err(error) => error.to_string(),
    }
}

/// Allocates, with nobody else on the host.
fn allocate(ports: &mut Ports, hosts: &[&str], range: RangeInclusive<u16>) -> String {
    outcome(allocate_by(ports, &request(&addresses(hosts), range), &mut all_free))
}

fn ports() -> Ports {
    Ports::new(32_768..=32_770)
}

#[test]
fn a_taken_port_is_refused_in_dockers_words() {
    let mut ports = ports();
    assert_eq!(allocate(&mut ports, ALL, 9000..=9000), "0.0.0.0:9000 [::]:9000");
    let refused = "Bind for 0.0.0.0:9000 failed: port is already allocated";
    assert_eq!(allocate(&mut ports, ALL, 9000..=9000), refused);
    let refused = "Bind for [::1]:9000 failed: port is already allocated";
    assert_eq!(allocate(&mut ports, &["::1"], 9000..=9000), refused);
}

#[test]
fn an_unspecified_address_stands_for_all_of_its_family() {
    let mut ports = ports();
    assert_eq!(allocate(&mut ports, &["127.0.0.1"], 80..=80), "127.0.0.1:80");
    assert_eq!(allocate(&mut ports, &["192.0.2.1"], 80..=80), "192.0.2.1:80");
    assert!(allocate(&mut ports, &["0.0.0.0"], 80..=80).contains("already allocated"));
    assert_eq!(allocate(&mut ports, &["::"], 80..=80), "[::]:80");
    assert!(allocate(&mut ports, &["127.0.0.1"], 80..=80).contains("already allocated"));
}

#[test]
fn protocols_do_not_get_in_each_others_way() {
    let mut ports = ports();
    assert_eq!(allocate(&mut ports, &["0.0.0.0"], 53..=53), "0.0.0.0:53");
    let hosts = addresses(&["0.0.0.0"]);
    let udp = Request { protocol: Protocol::Udp, ..request(&hosts, 53..=53) };
    assert_eq!(outcome(allocate_by(&mut ports, &udp, &mut all_free)), "0.0.0.0:53");
}

#[test]
fn a_range_gives_its_first_free_port() {
    let mut ports = ports();
    assert_eq!(allocate(&mut ports, &["::"], 8001..=8001), "[::]:8001");
    assert_eq!(allocate(&mut ports, ALL, 8000..=8002), "0.0.0.0:8000 [::]:8000");
    assert_eq!(allocate(&mut ports, ALL, 8000..=8002), "0.0.0.0:8002 [::]:8002");
    assert_eq!(
        allocate(&mut ports, ALL, 8000..=8002),
        "Bind for 0.0.0.0 failed: all ports are allocated: \
         8000-8002/tcp are in use; stop what uses them or ask for others"
    );
}

#[test]
fn ephemeral_ports_go_round() {
    let mut ports = ports();
    assert_eq!(allocate(&mut ports, ALL, 0..=0), "0.0.0.0:32768 [::]:32768");
    assert_eq!(allocate(&mut ports, &["127.0.0.1"], 0..=0), "127.0.0.1:32769");
    let first = PortBinding {
        host: IpAddr::from([0; 4]),
        host_port: 32_768,
        protocol: Protocol::Tcp,
        port: 80,
    };
    ports.release(&first);
    assert_eq!(allocate(&mut ports, &["0.0.0.0"], 0..=0), "0.0.0.0:32770");
    assert_eq!(allocate(&mut ports, &["0.0.0.0"], 0..=0), "0.0.0.0:32768");
    let refused = allocate(&mut ports, &["0.0.0.0"], 0..=0);
    assert!(refused.contains("32768-32770/tcp are in use"), "{refused}");
}

#[test]
fn ephemeral_ports_may_reach_the_last_port_there_is() {
    let mut ports = Ports::new(65_535..=65_535);
    assert_eq!(allocate(&mut ports, &["0.0.0.0"], 0..=0), "0.0.0.0:65535");
    assert!(allocate(&mut ports, &["0.0.0.0"], 0..=0).contains("all ports are allocated"));
    assert_eq!(allocate(&mut ports, &["::"], 0..=0), "[::]:65535");
}

#[test]
fn a_port_that_another_program_has_is_passed_over() {
    let mut ports = ports();
    let hosts = addresses(ALL);
    let mut foreign = |bindings: &[PortBinding]| {
        each(
            bindings,
            |port| Ok(!(port.host.is_ipv6() && [8000, 32_768].contains(&port.host_port))),
        )
    };
    let mut get = |range| outcome(allocate_by(&mut ports, &request(&hosts, range), &mut foreign));
    assert_eq!(get(8000..=8001), "0.0.0.0:8001 [::]:8001");
    assert_eq!(get(0..=0), "0.0.0.0:32769 [::]:32769");
    assert_eq!(
        get(8000..=8000),
        "failed to bind host port for [::]:8000/tcp: address already in use"
    );
    assert_eq!(get(8001..=8001), "Bind for 0.0.0.0:8001 failed: port is already allocated");
    // What was tried on one address and given up on the other is not taken.
    assert_eq!(allocate(&mut ports, &["0.0.0.0"], 8000..=8000), "0.0.0.0:8000");
}

#[test]
fn what_the_host_refuses_is_told_with_its_reason() {
    let mut ports = ports();
    let hosts = addresses(&["192.0.2.1"]);
    let mut absent =
        |bindings: &[PortBinding]| each(bindings, |_| Err(io::ErrorKind::AddrNotAvailable.into()));
    let result = allocate_by(&mut ports, &request(&hosts, 80..=90), &mut absent);
    assert_eq!(
        outcome(result),
        "failed to bind host port for 192.0.2.1:80/tcp: address not available"
    );
    assert!(ports.taken().is_empty());
}

#[test]
fn a_host_without_ipv6_publishes_on_ipv4_alone() {
    let mut ports = ports();
    let hosts = addresses(ALL);
    let lenient = Request { lenient: true, ..request(&hosts, 80..=80) };
    let mut only_v4 = |bindings: &[PortBinding]| {
        each(bindings, |port| match port.host {
            IpAddr::V4(_) => Ok(true),
            IpAddr::V6(_) => Err(io::Error::from_raw_os_error(97)),
        })
    };
    assert_eq!(outcome(allocate_by(&mut ports, &lenient, &mut only_v4)), "0.0.0.0:80");
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { hosts: Vec<usize>, first: u16, length: u16 },
    Release(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let hosts = prop::sample::subsequence(vec![0_usize, 1, 2, 3, 4], 1..=3);
    let allocate = (hosts, 1..6_u16, 0..3_u16).prop_map(|(hosts, first, length)| Step::Allocate {
        hosts,
        first,
        length,
    });
    let release = any::<prop::sample::Index>().prop_map(|at| Step::Release(at.index(50)));
    prop::collection::vec(prop_oneof![3 => allocate, 1 => release], 0..60)
}

fn conflict(a: &PortBinding, b: &PortBinding) -> bool {
    let same_host = a.host == b.host || a.host.is_unspecified() || b.host.is_unspecified();
    a.host_port == b.host_port && a.host.is_ipv6() == b.host.is_ipv6() && same_host
}

proptest! {
    #[test]
    fn ports_are_given_by_the_rule(steps in steps()) {
        let all = addresses(&["0.0.0.0", "127.0.0.1", "192.0.2.1", "::", "::1"]);
        let mut ports = ports();
        let mut held: Vec<PortBinding> = Vec::new();
        for step in steps {
            match step {
                Step::Allocate { hosts, first, length } => {
                    let mut hosts: Vec<IpAddr> = hosts.iter().map(|at| all[*at]).collect();
                    // One request never names addresses that are in each other's way.
                    hosts.dedup_by(|b, a| a.is_unspecified() && a.is_ipv6() == b.is_ipv6());
                    let at = |host_port| hosts.iter().map(|host| PortBinding {
                        host: *host, host_port, protocol: Protocol::Tcp, port: 80,
                    }).collect::<Vec<_>>();
                    let free = |new: &Vec<PortBinding>| {
                        !new.iter().any(|new| held.iter().any(|old| conflict(new, old)))
                    };
                    let expected = (first..=first + length).map(at).find(free);
                    let request = request(&hosts, first..=first + length);
                    let found = allocate_by(&mut ports, &request, &mut all_free).ok();
                    prop_assert_eq!(&found, &expected);
                    held.extend(found.unwrap_or_default());
                }
                Step::Release(at) if at < held.len() => ports.release(&held.swap_remove(at)),
                Step::Release(_) => {}
            }
            let slots: BTreeSet<_> = held.iter().map(|b| (b.protocol, b.host, b.host_port)).collect();
            prop_assert_eq!(ports.taken(), slots);
        }
    }
}
