//! The same cases on the real kernel and on the fake of it.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write;

use cnm::link::MacvlanMode;
use cnm::{Key, Lead, Link, LinkKind, LinkName, Mac, Ns, Plan, SandboxId, State, Value, diff};
use drivers::kernel::{Kernel, Memory, link as kernel_link, reconcile};
use netns_tests::{Lab, Model};

/// Runs each case once on each kernel.
macro_rules! on_both {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $case() { super::$case(&super::memory()); })*
        }

        mod linux {
            $(#[test] fn $case() { super::$case(&super::Lab::new().open()); })*
        }
    };
}

/// A host with an uplink that is not ours.
fn memory() -> Memory {
    let kernel = Memory::new();
    kernel.plug("lan0".parse().unwrap());
    kernel
}

on_both![
    every_kind_of_link_is_made_recognised_and_removed,
    what_rests_on_a_replaced_link_comes_back_with_it,
    a_link_of_a_sandbox_may_have_the_name_of_one_of_the_host,
    a_link_of_a_sandbox_has_a_hardware_address_that_nobody_chose,
    a_sysctl_of_the_host_that_nobody_observes_is_never_right,
    desired_state_is_reached_and_stays,
    empty_state_leaves_nothing,
    endpoint_joins_and_leaves_a_live_sandbox,
    link_options_change_in_place,
    what_exists_cannot_be_added,
    what_is_gone_can_be_removed,
    address_needs_its_link,
    pair_needs_its_namespace,
    route_needs_a_reachable_gateway,
    failed_step_is_named,
    dismantling_goes_on_after_a_failure,
    many_links_go_at_once_and_one_that_is_gone_already_is_no_failure,
];

/// A link of the host or of a sandbox.
fn link(ns: &Ns, name: &str, kind: LinkKind, mac: Option<Mac>) -> (Key, Value) {
    let key = Key::Link { ns: ns.clone(), name: name.parse().unwrap() };
    let tag = format!("test/{name}");
    (key, Value::Link(Link { kind, mac, mtu: Some(1400), up: true, tag }))
}

/// A tunnel with peers, and links of a sandbox on an uplink that is not ours.
fn many_kinds() -> State {
    let (lan, sandbox) = ("lan0".parse::<LinkName>().unwrap(), SandboxId::from_random([1; 32]));
    let inside = Ns::Sandbox(sandbox.clone());
    let mac = |last| Mac::from([2, 0, 0, 0, 0, last]);
    let local = Lab::HOST.map(|text| text.parse().unwrap());
    let tunnel = |vni, local| LinkKind::Vxlan { vni, port: 4789, local };
    let macvlan = |mode| LinkKind::Macvlan { parent: lan.clone(), mode };
    let modes = [MacvlanMode::Bridge, MacvlanMode::Private, MacvlanMode::Vepa];
    let mut state = State::from_iter([
        (Key::Namespace { sandbox }, Value::Present),
        link(&Ns::Host, "vx4", tunnel(4097, local[0]), None),
        link(&Ns::Host, "vx6", tunnel(4098, local[1]), None),
    ]);
    state.extend(
        (1..)
            .zip(modes)
            .map(|(n, mode)| link(&inside, &format!("eth{n}"), macvlan(mode), Some(mac(n)))),
    );
    let vx4 = "vx4".parse::<LinkName>().unwrap();
    for address in ["10.9.0.2", "fd09::2"] {
        let address = address.parse().unwrap();
        let key = Key::Neighbour { ns: Ns::Host, link: vx4.clone(), address };
        state.insert(key, Value::Neighbour { mac: mac(9) });
    }
    for (id, via) in [(70, "192.0.2.9"), (72, "fd00::9")] {
        let via = via.parse().unwrap();
        state.insert(Key::Nexthop { id }, Value::Nexthop { via });
        state.insert(Key::Nexthop { id: id + 1 }, Value::NexthopGroup { of: id });
    }
    for last in [9, 10] {
        let (link, port, mac) = (vx4.clone(), vx4.clone(), mac(last));
        state.insert(Key::Fdb { link, mac }, Value::Via { group: 71 });
        state.insert(Key::Station { port, mac }, Value::Present);
    }
    state.extend([link(&Ns::Host, "br4", LinkKind::Bridge, None)]);
    let bridge = "br4".parse().unwrap();
    let port = Value::Port { bridge, isolated: false, hairpin: false, tunnel: true };
    state.insert(Key::Port { link: vx4.clone() }, port);
    state.insert(Key::Shortcut { tunnel: vx4.clone(), port: None }, Value::Present);
    for last in [9, 10] {
        let (tunnel, lead) = (vx4.clone(), Lead::Out { mac: mac(last) });
        state.insert(Key::Lead { tunnel, lead }, Value::Present);
    }
    state.extend(["10.9.0.3/24", "fd09::3/64"].map(|address| {
        let link = "eth1".parse().unwrap();
        (
            Key::Address { ns: inside.clone(), link, address: address.parse().unwrap() },
            Value::Present,
        )
    }));
    state
}

/// A planner gives each sysctl that is observed a value; here it is what the kernel gave it.
fn settled(kernel: &dyn Kernel, mut desired: State) -> State {
    reconcile(kernel, &desired).unwrap();
    let observed = kernel.observe().unwrap().into_iter();
    desired.extend(observed.filter(|(key, _)| matches!(key, Key::Sysctl { .. })));
    desired
}

fn every_kind_of_link_is_made_recognised_and_removed(kernel: &dyn Kernel) {
    let desired = settled(kernel, many_kinds());
    let plan = reconcile(kernel, &desired).unwrap();
    assert!(plan.is_empty(), "{plan}");
    let mut fewer = desired.clone();
    for (key, _) in desired.iter().filter(|(key, _)| match key {
        Key::Fdb { mac, .. }
        | Key::Station { mac, .. }
        | Key::Lead { lead: Lead::Out { mac }, .. } => mac.octets()[5] == 10,
        Key::Nexthop { id } => *id >= 72,
        Key::Neighbour { address, .. } => address.is_ipv6(),
        Key::Link { name, .. } => name.as_str() == "eth3",
        Key::Sysctl { path, .. } => path.contains("/eth3/"),
        _ => false,
    }) {
        fewer.remove(key);
    }
    reconcile(kernel, &fewer).unwrap();
    let plan = reconcile(kernel, &fewer).unwrap();
    assert!(plan.is_empty(), "{plan}");
    reconcile(kernel, &State::default()).unwrap();
    assert!(kernel.observe().unwrap().is_empty());
}

fn what_rests_on_a_replaced_link_comes_back_with_it(kernel: &dyn Kernel) {
    let mut desired = settled(kernel, many_kinds());
    for (name, kind) in [
        ("vx4", LinkKind::Vxlan { vni: 5000, port: 4789, local: Lab::HOST[0].parse().unwrap() }),
        ("eth1", LinkKind::Macvlan { parent: "lan0".parse().unwrap(), mode: MacvlanMode::Private }),
    ] {
        for (key, value) in desired.clone() {
            if let (Key::Link { name: is, .. }, Value::Link(link)) = (&key, value)
                && is.as_str() == name
            {
                desired.insert(key, Value::Link(Link { kind: kind.clone(), ..link }));
            }
        }
    }
    reconcile(kernel, &desired).unwrap();
    let plan = reconcile(kernel, &desired).unwrap();
    assert!(plan.is_empty(), "{plan}");
}

/// A macvlan link in a sandbox, called as its parent.
fn namesake() -> State {
    let sandbox = SandboxId::from_random([1; 32]);
    let inside = Ns::Sandbox(sandbox.clone());
    let kind = LinkKind::Macvlan { parent: "lan0".parse().unwrap(), mode: MacvlanMode::default() };
    let mac = Some(Mac::from([2, 0, 0, 0, 0, 1]));
    let namespace = (Key::Namespace { sandbox }, Value::Present);
    State::from_iter([namespace, link(&inside, "lan0", kind, mac)])
}

fn a_link_of_a_sandbox_may_have_the_name_of_one_of_the_host(kernel: &dyn Kernel) {
    let desired = settled(kernel, namesake());
    let plan = reconcile(kernel, &desired).unwrap();
    assert!(plan.is_empty(), "{plan}");
}

fn a_link_of_a_sandbox_has_a_hardware_address_that_nobody_chose(kernel: &dyn Kernel) {
    let chosen = namesake().into_iter().map(|(key, value)| match value {
        Value::Link(link) => (key, Value::Link(Link { mac: None, ..link })),
        value => (key, value),
    });
    let desired = settled(kernel, chosen.collect());
    let plan = reconcile(kernel, &desired).unwrap();
    assert!(plan.is_empty(), "{plan}");
}

/// So that a planner that says too much is found on either kernel.
fn a_sysctl_of_the_host_that_nobody_observes_is_never_right(kernel: &dyn Kernel) {
    let bridge = State::from_iter([link(&Ns::Host, "br4", LinkKind::Bridge, None)]);
    let mut desired = settled(kernel, bridge);
    let path = "net/ipv4/conf/br4/log_martians".to_owned();
    desired.insert(Key::Sysctl { ns: Ns::Host, path }, Value::Text("1".to_owned()));
    for _ in 0..2 {
        let plan = reconcile(kernel, &desired).unwrap().to_string();
        assert_eq!(plan, "+ sysctl net/ipv4/conf/br4/log_martians in host = 1\n");
    }
}

#[test]
fn a_link_that_a_crash_left_under_its_first_name_is_in_nobodys_way() {
    let lab = Lab::new();
    let kernel = lab.open();
    let (bare, desired): (State, _) = (namesake().into_iter().take(1).collect(), namesake());
    reconcile(&kernel, &bare).unwrap();
    let inside = lab.sandbox(&kernel, &SandboxId::from_random([1; 32]));
    let first = kernel_link::provisional(&"lan0".parse().unwrap()).unwrap();
    inside.add_bridge(first.as_str());
    kernel.apply(&diff(&bare, &desired)).unwrap();
    let names: Vec<_> = inside.links().into_iter().map(|link| link.name).collect();
    assert_eq!(names, ["lo", "lan0"]);
}

#[test]
fn a_link_that_a_crash_left_before_it_was_switched_on_is_known_to_be_ours() {
    let lab = Lab::new();
    let kernel = lab.open();
    let (bare, mut desired): (State, _) = (namesake().into_iter().take(1).collect(), namesake());
    reconcile(&kernel, &bare).unwrap();
    let wanted = diff(&bare, &desired);
    // What comes after the link's name fails, and no later step is done.
    let ns = Ns::Sandbox(SandboxId::from_random([1; 32]));
    let path = "net/ipv4/conf/lan0/there_is_no_such_thing".to_owned();
    desired.insert(Key::Sysctl { ns, path }, Value::Text("1".to_owned()));
    kernel.apply(&diff(&bare, &desired)).unwrap_err();
    let left = kernel.observe().unwrap();
    assert!(left.iter().any(|(key, _)| matches!(key, Key::Link { .. })), "{left:?}");
    // So the next one makes it anew, where it would have been in the way.
    reconcile(&kernel, &bare).unwrap();
    kernel.apply(&wanted).unwrap();
}

fn two_networks() -> Model {
    let mut model = Model::default();
    model.network(1);
    model.network(2).internal = true;
    model.set(2, "bridge.enable_icc", "false");
    model.set(2, "driver.mtu", "1400");
    model.sandbox(1, &[1]);
    model.sandbox(2, &[1, 2]);
    model.publish(1, "0.0.0.0", 8080, 80);
    model.publish(2, "::", 8081, 80);
    model.sandboxes.get_mut(&1).unwrap().0.sysctls =
        vec![("net/ipv4/ip_unprivileged_port_start".to_owned(), "0".to_owned())];
    model
}

fn desired_state_is_reached_and_stays(kernel: &dyn Kernel) {
    let desired = two_networks().desired();
    reconcile(kernel, &desired).unwrap();
    let plan = reconcile(kernel, &desired).unwrap();
    assert!(plan.is_empty(), "{plan}");
}

fn empty_state_leaves_nothing(kernel: &dyn Kernel) {
    reconcile(kernel, &two_networks().desired()).unwrap();
    reconcile(kernel, &State::default()).unwrap();
    let left = kernel.observe().unwrap();
    assert!(left.is_empty(), "{left:?}");
}

fn endpoint_joins_and_leaves_a_live_sandbox(kernel: &dyn Kernel) {
    let mut model = two_networks();
    reconcile(kernel, &model.desired()).unwrap();
    for change in [Model::join, Model::leave] {
        let before = model.desired_of(1);
        change(&mut model, 1, 2);
        kernel.apply(&diff(&before, &model.desired_of(1))).unwrap();
        let plan = diff(&kernel.observe().unwrap(), &model.desired());
        assert!(plan.is_empty(), "{plan}");
    }
}

fn link_options_change_in_place(kernel: &dyn Kernel) {
    let mut model = two_networks();
    reconcile(kernel, &model.desired()).unwrap();
    model.set(1, "driver.mtu", "1300");
    model.set(1, "bridge.enable_icc", "false");
    let plan = reconcile(kernel, &model.desired()).unwrap();
    let plan_text = plan.to_string();
    // What belongs to the options comes beside; no link, port or address is made anew.
    let beside = ["+ sysctl", "+ neighbour", "+ element"];
    let in_place =
        |line: &str| line.starts_with('~') || beside.iter().any(|word| line.starts_with(word));
    assert!(plan_text.lines().all(in_place), "{plan}");
    assert!(diff(&kernel.observe().unwrap(), &model.desired()).is_empty());
}

fn what_exists_cannot_be_added(kernel: &dyn Kernel) {
    let model = two_networks();
    let plan = diff(&State::default(), &model.desired());
    kernel.apply(&plan).unwrap();
    assert_eq!(refused(kernel, &plan), "namespace 010101010101");
}

fn what_is_gone_can_be_removed(kernel: &dyn Kernel) {
    let desired = two_networks().desired();
    kernel.apply(&diff(&desired, &State::default())).unwrap();
    assert!(kernel.observe().unwrap().is_empty());
}

fn address_needs_its_link(kernel: &dyn Kernel) {
    let only = |key: &Key| matches!(key, Key::Address { .. });
    let plan = part_of(&two_networks().desired(), only);
    assert!(refused(kernel, &plan).starts_with("addr 10.1.0.1/24 dev br-0101"));
}

fn pair_needs_its_namespace(kernel: &dyn Kernel) {
    let only = |key: &Key| matches!(key, Key::Link { .. } | Key::Port { .. });
    let plan = part_of(&two_networks().desired(), only);
    assert_eq!(refused(kernel, &plan), "link eth0 in 010101010101");
}

fn route_needs_a_reachable_gateway(kernel: &dyn Kernel) {
    let mut desired = two_networks().desired();
    let unreachable: Vec<_> =
        desired.iter().map(|(key, _)| key.clone()).filter(|key| matches!(key, Key::Address { address, .. } if address.ip().to_string() == "10.1.0.2")).collect();
    assert_eq!(unreachable.len(), 1);
    desired.remove(&unreachable[0]);
    let plan = diff(&State::default(), &desired);
    assert_eq!(refused(kernel, &plan), "route 0.0.0.0/0 in 010101010101");
}

fn failed_step_is_named(kernel: &dyn Kernel) {
    let mut desired = two_networks().desired();
    let ports: Vec<_> = desired
        .iter()
        .map(|(key, _)| key.clone())
        .filter(|key| matches!(key, Key::Link { ns: Ns::Host, .. }))
        .collect();
    for bridge in ports {
        desired.remove(&bridge);
    }
    let plan = part_of(&desired, |key| !matches!(key, Key::Sysctl { .. } | Key::Address { .. }));
    let refused = refused(kernel, &plan);
    assert!(refused.starts_with("port veth01") || refused.starts_with("link eth0"), "{refused}");
}

fn dismantling_goes_on_after_a_failure(kernel: &dyn Kernel) {
    let model = two_networks();
    let desired = model.desired();
    reconcile(kernel, &desired).unwrap();
    let failures = kernel.dismantle(&diff(&desired, &State::default()));
    assert!(failures.is_empty(), "{failures:?}");
    assert!(kernel.observe().unwrap().is_empty());
}

fn many_links_go_at_once_and_one_that_is_gone_already_is_no_failure(kernel: &dyn Kernel) {
    let sandbox = SandboxId::from_random([1; 32]);
    let inside = Ns::Sandbox(sandbox.clone());
    let pair = |number: u32| {
        let peer = format!("veth{number}").parse().unwrap();
        link(
            &inside,
            &format!("eth{number}"),
            LinkKind::Veth { peer },
            Some(Mac::from([2, 0, 0, 0, 1, 1])),
        )
    };
    let mut desired = State::from_iter([(Key::Namespace { sandbox }, Value::Present)]);
    desired.extend((0..20).map(pair));
    kernel.apply(&diff(&State::default(), &desired)).unwrap();
    let gone = |key: &Key| matches!(key, Key::Link { name, .. } if name.as_str() == "eth7");
    let fewer: State =
        desired.clone().into_iter().filter(|(key, _): &(Key, Value)| !gone(key)).collect();
    kernel.apply(&diff(&desired, &fewer)).unwrap();
    let failures = kernel.dismantle(&diff(&desired, &State::default()));
    assert!(failures.is_empty(), "{failures:?}");
    assert!(kernel.observe().unwrap().is_empty());
}

/// A plan that adds some objects of a state.
fn part_of(state: &State, wanted: impl Fn(&Key) -> bool) -> Plan {
    let part: State =
        state.clone().into_iter().filter(|(key, _): &(Key, Value)| wanted(key)).collect();
    diff(&State::default(), &part)
}

/// Applies a plan that must fail; returns the object of the step that did.
fn refused(kernel: &dyn Kernel, plan: &Plan) -> String {
    let error = kernel.apply(plan).unwrap_err();
    let mut text = String::new();
    write!(text, "{error}").unwrap();
    text.trim_start_matches("cannot add ").to_owned()
}
