//! Addresses: the rules one by one, and a random walk that must keep all of them.

use proptest::prelude::*;

use super::range::address;
use super::*;
use crate::Pool;

const SECOND: u64 = 1_000_000_000;

fn network_id() -> NetworkId {
    NetworkId::from_random([7; 32])
}

fn pool(subnet: &str) -> Pool {
    let subnet: IpNetwork = subnet.parse().unwrap();
    let gateway = Some(address(subnet.ip(), *usable(subnet).start()));
    Pool { subnet, range: None, gateway, auxiliary: BTreeMap::new(), automatic: false }
}

fn network(pools: Vec<Pool>) -> Network {
    Network {
        id: network_id(),
        name: "n1".to_owned(),
        created: 0,
        driver: &crate::driver::fake::Fake::Bridge,
        given_options: BTreeMap::new(),
        ipv4: true,
        ipv6: pools.iter().any(|pool| pool.subnet.is_ipv6()),
        addressing: crate::network::Addressing::default(),
        ipam: None,
        ipam_options: None,
        borrowed: false,
        pools,
        internal: false,
        attachable: false,
        predefined: false,
        labels: BTreeMap::new(),
        parent: None,
        egress_mtu: None,
        tunnel: None,
    }
}

/// An allocator with one network, a clock, and text for addresses.
struct Bench {
    ipam: Ipam,
    now: u64,
}

impl Bench {
    fn new(subnets: &[&str]) -> Self {
        Self::with(subnets.iter().map(|subnet| pool(subnet)).collect())
    }

    fn with(pools: Vec<Pool>) -> Self {
        let mut ipam = Ipam::new(60 * SECOND);
        ipam.add_network(&network(pools));
        Self { ipam, now: 1_000 * SECOND }
    }

    fn try_allocate(&mut self, owner: &str, ipv6: bool) -> Result<Option<Taken>, IpamError> {
        let holder = Holder { owner, mac: None, now: self.now };
        self.ipam.allocate(&network_id(), ipv6, &holder)
    }

    fn allocate(&mut self, owner: &str) -> String {
        self.try_allocate(owner, false).unwrap().unwrap().address.to_string()
    }

    fn allocate_v6(&mut self, owner: &str) -> String {
        self.try_allocate(owner, true).unwrap().unwrap().address.to_string()
    }

    fn take(&mut self, owner: &str, wanted: &str) -> Result<Taken, IpamError> {
        let holder = Holder { owner, mac: None, now: self.now };
        self.ipam.take(&network_id(), wanted.parse().unwrap(), &holder)
    }

    fn reserve(&mut self, owner: &str, wanted: &str) -> Result<(), IpamError> {
        self.ipam.reserve(&network_id(), wanted.parse().unwrap(), owner)
    }

    fn release(&mut self, address: &str) {
        let network: IpNetwork = address.parse().unwrap();
        self.ipam.release(&network_id(), network.ip(), self.now);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds * SECOND;
    }
}

#[test]
fn addresses_are_handed_out_in_order_after_the_gateway() {
    let mut bench = Bench::new(&["10.1.0.0/24", "fd01::/64"]);
    assert_eq!(["a", "b"].map(|owner| bench.allocate(owner)), ["10.1.0.2/24", "10.1.0.3/24"]);
    assert_eq!(bench.allocate_v6("a"), "fd01::2/64");
}

#[test]
fn a_family_without_a_pool_gives_no_address() {
    let mut bench = Bench::new(&["10.1.0.0/24"]);
    assert!(bench.try_allocate("a", true).unwrap().is_none());
}

#[test]
fn only_the_range_is_handed_out_but_all_of_the_subnet_can_be_asked_for() {
    let range = Some("10.1.0.128/30".parse().unwrap());
    let auxiliary = BTreeMap::from([("router".to_owned(), "10.1.0.129".parse().unwrap())]);
    let mut bench = Bench::with(vec![Pool { range, auxiliary, ..pool("10.1.0.0/24") }]);
    let given = ["a", "b", "c"].map(|owner| bench.allocate(owner));
    assert_eq!(given, ["10.1.0.128/24", "10.1.0.130/24", "10.1.0.131/24"]);
    assert_eq!(
        bench.try_allocate("d", false).unwrap_err().to_string(),
        "no free address in 10.1.0.128/30 of network n1: \
         all are in use; remove containers or create a network with a larger --subnet"
    );
    assert_eq!(bench.take("d", "10.1.0.7").unwrap().address.to_string(), "10.1.0.7/24");
    bench.release("10.1.0.7/24");
    bench.pass(3_600);
    // Released, it is still not one that others are given.
    assert!(bench.try_allocate("e", false).is_err());
    assert_eq!(bench.allocate("d"), "10.1.0.7/24");
}

#[test]
fn the_next_pool_serves_when_one_is_full() {
    let mut bench = Bench::new(&["10.1.0.0/30", "10.2.0.0/30"]);
    assert_eq!(["a", "b"].map(|owner| bench.allocate(owner)), ["10.1.0.2/30", "10.2.0.2/30"]);
    let error = bench.try_allocate("c", false).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.to_string().contains("10.1.0.0/30 and 10.2.0.0/30 of network n1"), "{error}");
}

#[test]
fn wanted_addresses_that_cannot_be_had_are_refused_with_the_reason() {
    let auxiliary = BTreeMap::from([("router".to_owned(), "10.1.0.9".parse().unwrap())]);
    let mut bench = Bench::with(vec![Pool { auxiliary, ..pool("10.1.0.0/24") }]);
    bench.take("a", "10.1.0.5").unwrap();
    let mut check = |wanted: &str, kind, message: &str| {
        let error = bench.take("c", wanted).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
    };
    check(
        "10.1.0.5",
        Kind::Forbidden,
        "Address already in use: 10.1.0.5 on network n1 is used by a; choose another",
    );
    check(
        "10.1.0.1",
        Kind::Forbidden,
        "Address already in use: 10.1.0.1 on network n1 is its gateway; choose another",
    );
    check(
        "10.1.0.9",
        Kind::Forbidden,
        "Address already in use: 10.1.0.9 on network n1 is its auxiliary address router; choose another",
    );
    let whole =
        "10.1.0.255 is not an address for an endpoint: it stands for the whole of 10.1.0.0/24";
    check("10.1.0.255", Kind::Invalid, whole);
    check(
        "10.2.0.5",
        Kind::Invalid,
        "no configured subnet contains IP address 10.2.0.5: network n1 has 10.1.0.0/24",
    );
    check(
        "fd00::5",
        Kind::Invalid,
        "no configured subnet contains IP address fd00::5: network n1 has 10.1.0.0/24",
    );
}

#[test]
fn an_owner_gets_its_address_back() {
    let mut bench = Bench::new(&["10.1.0.0/24"]);
    let (a, b) = (bench.allocate("a"), bench.allocate("b"));
    bench.release(&a);
    bench.release(&b);
    assert_eq!(bench.allocate("c"), "10.1.0.4/24");
    assert_eq!((bench.allocate("b"), bench.allocate("a")), (b, a));
}

#[test]
fn an_owner_that_still_has_its_address_gets_a_second_one() {
    let mut bench = Bench::new(&["10.1.0.0/24"]);
    assert_eq!(["a", "a"].map(|owner| bench.allocate(owner)), ["10.1.0.2/24", "10.1.0.3/24"]);
}

#[test]
fn unused_addresses_come_first_and_then_the_longest_released() {
    let mut bench = Bench::new(&["10.1.0.0/29"]);
    let given = ["a", "b", "c", "d"].map(|owner| bench.allocate(owner));
    for at in [2, 0, 3] {
        bench.release(&given[at]);
        bench.pass(1);
    }
    assert_eq!(bench.allocate("x"), "10.1.0.6/29");
    bench.pass(3_600);
    assert_eq!(["y", "z"].map(|owner| bench.allocate(owner)), [given[2].clone(), given[0].clone()]);
    // c's address is gone, so it gets the one that is left.
    assert_eq!(bench.allocate("c"), given[3]);
}

#[test]
fn quarantine_ends_early_only_where_nothing_else_is_left() {
    let mut bench = Bench::new(&["10.1.0.0/29"]);
    let given = ["a", "b", "c", "d", "e"].map(|owner| bench.allocate(owner));
    bench.release(&given[1]);
    bench.pass(59);
    bench.release(&given[0]);
    assert_eq!(bench.allocate("x"), given[1]);
    assert_eq!(bench.allocate("y"), given[0]);
    assert!(bench.try_allocate("z", false).is_err());
}

#[test]
fn a_reserved_address_is_given_to_nobody_else() {
    let mut bench = Bench::new(&["10.1.0.0/29"]);
    bench.reserve("a", "10.1.0.2").unwrap();
    let given = ["b", "c", "d", "e"].map(|owner| bench.allocate(owner));
    assert_eq!(given[0], "10.1.0.3/29");
    assert!(bench.try_allocate("x", false).is_err());
    // Its owner gets it without asking, and keeps it over a release.
    assert_eq!(bench.allocate("a"), "10.1.0.2/29");
    bench.release("10.1.0.2/29");
    bench.pass(3_600);
    assert!(bench.try_allocate("x", false).is_err());
    bench.ipam.forget("a");
    bench.pass(3_600);
    assert_eq!(bench.allocate("x"), "10.1.0.2/29");
}

#[test]
fn one_reservation_is_let_go_while_the_address_is_in_use() {
    let mut bench = Bench::new(&["10.1.0.0/24"]);
    bench.reserve("a", "10.1.0.9").unwrap();
    bench.reserve("a", "10.1.0.10").unwrap();
    bench.take("a", "10.1.0.9").unwrap();
    for (owner, address) in [("b", "10.1.0.10"), ("a", "10.1.0.9"), ("a", "10.1.0.77")] {
        bench.ipam.release_reservation(&network_id(), address.parse().unwrap(), owner);
    }
    assert!(bench.take("b", "10.1.0.9").is_err(), "it is used");
    let kept = &bench.ipam.leases()[&(network_id(), "10.1.0.10".parse().unwrap())];
    assert!(kept.reserved, "it is still reserved");
    bench.release("10.1.0.9/24");
    bench.take("b", "10.1.0.9").unwrap();
}

#[test]
fn an_address_that_is_kept_for_several_is_used_by_one_at_a_time() {
    let mut bench = Bench::new(&["10.1.0.0/24"]);
    let address = bench.allocate("a");
    for owner in ["b", "c", "c"] {
        bench.reserve(owner, "10.1.0.2").unwrap();
    }
    assert!(bench.take("b", "10.1.0.2").is_err(), "a uses it");
    bench.release(&address);
    bench.pass(3_600);
    // It was a's, and is not kept for it: whoever takes any gets another one.
    assert_eq!(bench.allocate("a"), "10.1.0.3/24");
    assert_eq!(bench.allocate("b"), "10.1.0.2/24");
    assert!(bench.take("c", "10.1.0.2").is_err(), "b uses it");
    bench.release(&address);
    bench.take("c", "10.1.0.2").unwrap();
    bench.release(&address);
    for owner in ["c", "b"] {
        bench.pass(3_600);
        assert_eq!(bench.allocate(owner), "10.1.0.2/24");
        bench.release(&address);
        bench.ipam.forget(owner);
    }
    bench.take("d", "10.1.0.2").unwrap();
}

#[test]
fn a_released_address_can_be_asked_for_by_another_at_once() {
    let mut bench = Bench::new(&["10.1.0.0/24"]);
    let address = bench.allocate("a");
    bench.release(&address);
    let taken = bench.take("b", "10.1.0.2").unwrap();
    assert_eq!(taken.previous.map(|lease| lease.owner).as_deref(), Some("a"));
    assert_eq!(bench.allocate("a"), "10.1.0.3/24");
}

#[test]
fn restoring_undoes_an_allocation() {
    let mut bench = Bench::new(&["10.1.0.0/24"]);
    let first = bench.try_allocate("a", false).unwrap().unwrap();
    bench.ipam.restore(&network_id(), first.address.ip(), first.previous);
    assert!(bench.ipam.leases().is_empty());
    assert_eq!(bench.allocate("b"), "10.1.0.2/24");
}

#[test]
fn leases_of_forgotten_owners_do_not_pile_up() {
    let mut bench = Bench::new(&["fd01::/64"]);
    for number in 0..1_000 {
        let owner = format!("job-{number}");
        let address = bench.allocate_v6(&owner);
        bench.release(&address);
        bench.ipam.forget(&owner);
        bench.pass(10);
    }
    assert!(bench.ipam.leases().len() < 10, "{} leases", bench.ipam.leases().len());
    assert!(bench.ipam.take_garbage().len() > 900);
    assert!(bench.ipam.take_garbage().is_empty());
}

#[test]
fn ten_thousand_leases_in_a_huge_pool_are_all_different() {
    let mut bench = Bench::new(&["10.0.0.0/8", "fd01::/64"]);
    let mut seen = BTreeSet::new();
    for number in 0..10_000 {
        let owner = number.to_string();
        assert!(seen.insert(bench.allocate(&owner)) && seen.insert(bench.allocate_v6(&owner)));
    }
    assert!(seen.contains("10.0.39.17/8"));
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(u8),
    AllocateAndUndo(u8),
    Take(u8, u8),
    Reserve(u8, u8),
    Release(u8),
    Forget(u8),
    Pass(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (owner, host) = (0..6_u8, 0..16_u8);
    let step = prop_oneof![
        4 => owner.clone().prop_map(Step::Allocate),
        1 => owner.clone().prop_map(Step::AllocateAndUndo),
        1 => (owner.clone(), host.clone()).prop_map(|(owner, host)| Step::Take(owner, host)),
        1 => (owner.clone(), host.clone()).prop_map(|(owner, host)| Step::Reserve(owner, host)),
        3 => host.prop_map(Step::Release),
        1 => owner.prop_map(Step::Forget),
        1 => (0..90_u8).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..120)
}

type Leases = BTreeMap<IpAddr, Lease>;

fn leases(bench: &Bench) -> Leases {
    bench.ipam.leases().into_iter().map(|((_, address), lease)| (address, lease)).collect()
}

fn ip(host: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, host])
}

/// The addresses of 10.1.0.0/28 that endpoints may have.
fn endpoints() -> impl Iterator<Item = IpAddr> {
    (2..15).map(ip)
}

/// Judges what `allocate` gave, by the leases there were.
fn judge(
    before: &Leases,
    now: u64,
    owner: &str,
    given: Option<IpAddr>,
) -> Result<(), TestCaseError> {
    let unused = |ip: &IpAddr| !before.contains_key(ip);
    let idle = |lease: &&Lease| lease.released.is_some();
    let is_mine = |lease: &Lease| {
        lease.kept_for_whom().any(|whom| whom == owner)
            || (lease.owner == owner && !lease.is_kept())
    };
    let mine = |lease: &&Lease| is_mine(lease) && lease.released.is_some();
    let stealable = || before.iter().filter(|(_, lease)| idle(lease) && !lease.is_kept());
    let Some(given) = given else {
        prop_assert!(!endpoints().any(|ip| unused(&ip)) && stealable().next().is_none());
        return Ok(());
    };
    prop_assert!(endpoints().any(|ip| ip == given), "{given} is not for endpoints");
    let Some(lease) = before.get(&given) else {
        prop_assert!(before.values().find(mine).is_none(), "{owner} did not get its address back");
        return Ok(());
    };
    prop_assert!(lease.released.is_some(), "{given} handed out twice");
    if is_mine(lease) {
        return Ok(());
    }
    prop_assert!(!lease.is_kept(), "{given} was kept for {}", lease.owner);
    prop_assert!(before.values().find(mine).is_none(), "{owner} did not get its address back");
    let rested = |lease: &Lease| lease.released.is_some_and(|r| r + 60 * SECOND <= now);
    if lease.owner.is_empty() && rested(lease) {
        // Forgotten in good time: as good as unused.
        return Ok(());
    }
    prop_assert!(!endpoints().any(|ip| unused(&ip)), "an unused address was passed over");
    let oldest = stealable().map(|(_, lease)| lease.released).min().flatten();
    prop_assert_eq!(lease.released, oldest, "not the one released first");
    Ok(())
}

/// Every address is in exactly one place, and the indexes say the same as the leases.
fn consistent(bench: &Bench) -> Result<(), TestCaseError> {
    let pool = &bench.ipam.networks[&network_id()].pools[0];
    for address in (0..16).map(ip) {
        let number = number(address);
        let lease = pool.leases.get(&number);
        let free = endpoints().any(|ip| ip == address) && lease.is_none();
        prop_assert_eq!(pool.free.contains(number), free, "{}", address);
        let idle = lease.filter(|lease| !lease.is_kept()).and_then(|lease| lease.released);
        let orphan = lease.is_some_and(|lease| lease.owner.is_empty());
        let entry =
            |set: &BTreeSet<(u64, u128)>| set.iter().find(|(_, n)| *n == number).map(|e| e.0);
        prop_assert_eq!(entry(&pool.orphaned), idle.filter(|_| orphan));
        prop_assert_eq!(entry(&pool.resting), idle.filter(|_| !orphan));
        let owners: Vec<&String> =
            pool.by_owner.iter().filter(|(_, of)| of.contains(&number)).map(|(o, _)| o).collect();
        let parties: BTreeSet<_> = lease.into_iter().flat_map(Lease::parties).collect();
        prop_assert_eq!(owners, parties.into_iter().collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn an_owner_is_forgotten_where_it_had_something_and_looked_for_nowhere_else() {
    let mut bench = Bench::new(&["10.1.0.0/24", "fd00::/64"]);
    for number in 0..200_u8 {
        let other = Network { id: NetworkId::from_random([number; 32]), ..network(Vec::new()) };
        bench.ipam.add_network(&other);
    }
    bench.ipam.add_network(&network(vec![pool("10.1.0.0/24"), pool("fd00::/64")]));
    bench.allocate("a");
    bench.allocate_v6("a");
    bench.reserve("b", "10.1.0.9").unwrap();
    let of = |bench: &Bench, owner: &str| bench.ipam.of_owner.get(owner).map_or(0, BTreeSet::len);
    assert_eq!((of(&bench, "a"), of(&bench, "b")), (1, 1));
    assert_eq!(bench.ipam.forget("a").len(), 2);
    assert_eq!(bench.ipam.forget("b").len(), 1);
    assert_eq!((of(&bench, "a"), of(&bench, "b")), (0, 0));
}

proptest! {
    #[test]
    fn a_random_walk_keeps_all_rules(steps in steps()) {
        let mut bench = Bench::new(&["10.1.0.0/28"]);
        for step in steps {
            let before = leases(&bench);
            match step {
                Step::Allocate(owner) => {
                    let owner = owner.to_string();
                    let taken = bench.try_allocate(&owner, false).ok().flatten();
                    judge(&before, bench.now, &owner, taken.map(|taken| taken.address.ip()))?;
                }
                Step::AllocateAndUndo(owner) => {
                    if let Ok(Some(taken)) = bench.try_allocate(&owner.to_string(), false) {
                        bench.ipam.restore(&network_id(), taken.address.ip(), taken.previous);
                        // Nothing but leases of forgotten owners may be gone.
                        let after = leases(&bench);
                        let kept = |(ip, lease): &(&IpAddr, &Lease)| {
                            after.get(*ip) == Some(*lease) || lease.owner.is_empty()
                        };
                        prop_assert!(after.len() <= before.len() && before.iter().all(|l| kept(&l)));
                    }
                }
                Step::Take(owner, host) => {
                    let owner = owner.to_string();
                    let used = |lease: &Lease| lease.released.is_none();
                    let hindered = before.get(&ip(host)).is_some_and(used);
                    let possible = endpoints().any(|e| e == ip(host)) && !hindered;
                    prop_assert_eq!(bench.take(&owner, &ip(host).to_string()).is_ok(), possible);
                }
                Step::Reserve(owner, host) => {
                    let owner = owner.to_string();
                    let possible = endpoints().any(|e| e == ip(host));
                    prop_assert_eq!(bench.reserve(&owner, &ip(host).to_string()).is_ok(), possible);
                }
                Step::Release(host) => bench.release(&format!("{}/28", ip(host))),
                Step::Forget(owner) => {
                    bench.ipam.forget(&owner.to_string());
                    prop_assert!(!leases(&bench).values().any(|l| l.parties().any(|p| *p == owner.to_string())));
                }
                Step::Pass(seconds) => bench.pass(seconds.into()),
            }
            consistent(&bench)?;
        }
    }
}
