//! Somebody else breaks what is ours; it is noticed and comes back.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::mpsc::Receiver;

use cnm::{Key, State};
use drivers::kernel::netlink::Request;
use drivers::kernel::nft::Ownership;
use drivers::kernel::{Kernel, Linux, link, reconcile};
use netns_tests::{Lab, Model, SILENCE, TIMEOUT, patient};

/// A lab with one sandbox, where changes are watched and all is quiet.
struct Site {
    lab: Lab,
    model: Model,
    kernel: Linux,
    changes: Receiver<()>,
}

impl Site {
    fn new() -> Self {
        Self::with(Ownership::Preferred)
    }

    fn with(ownership: Ownership) -> Self {
        let (lab, mut model) = (Lab::new(), Model::default());
        model.network(1);
        model.sandbox(1, &[1]);
        model.publish(1, "0.0.0.0", 8080, 80);
        let kernel = lab.open_with(ownership);
        reconcile(&kernel, &model.desired()).unwrap();
        let changes = kernel.changes().unwrap();
        Self { lab, model, kernel, changes }
    }

    fn host_link(&self) -> cnm::LinkName {
        self.model.sandboxes[&1].1[0].host_link()
    }

    /// Does damage on the host, which must be noticed, and repairs it.
    fn breaks_and_heals(self, damage: &[Request]) -> String {
        self.lab.host.request(damage);
        self.changes.recv_timeout(patient(TIMEOUT)).expect("the change is noticed");
        let desired = self.model.desired();
        let plan = reconcile(&self.kernel, &desired).unwrap();
        let rest = reconcile(&self.kernel, &desired).unwrap();
        assert!(rest.is_empty(), "{rest}");
        self.works();
        plan.to_string()
    }

    fn works(&self) {
        let sandbox = self.lab.sandbox(&self.kernel, &self.model.sandboxes[&1].0.id);
        let _server = sandbox.serve(80);
        for address in self.model.addresses(1, 1) {
            assert!(self.lab.host.tcp(address, 80).is_ok(), "{address}");
        }
        assert!(self.lab.client.tcp(Lab::both(Lab::HOST)[0], 8080).is_ok());
    }
}

fn bridge() -> cnm::LinkName {
    "br-010101010101".parse().unwrap()
}

#[test]
fn deleted_pair_comes_back() {
    let site = Site::new();
    let damage = [link::remove(&site.host_link())];
    assert!(site.breaks_and_heals(&damage).starts_with("+ link eth0"));
}

#[test]
fn deleted_bridge_comes_back_with_its_ports() {
    let damage = [link::remove(&bridge())];
    let plan = Site::new().breaks_and_heals(&damage);
    assert!(plan.contains("+ link br-") && plan.contains("+ port"), "{plan}");
}

#[test]
fn deleted_address_of_a_bridge_comes_back() {
    let site = Site::new();
    let index = site.lab.host.link("br-010101010101").unwrap().index;
    let damage = ["10.1.0.1/24", "fd00:1::1/64"]
        .map(|address| drivers::kernel::address::remove(index, address.parse().unwrap()));
    let plan = site.breaks_and_heals(&damage);
    assert_eq!(plan.lines().filter(|line| line.starts_with("+ addr")).count(), 2, "{plan}");
}

#[test]
fn port_taken_out_of_its_bridge_goes_back() {
    let site = Site::new();
    let damage = [link::set_bridge(&site.host_link(), 0)];
    assert!(site.breaks_and_heals(&damage).starts_with("+ port"));
}

#[test]
fn bridge_switched_off_is_switched_on() {
    let damage = [link::switch_off(&bridge())];
    assert!(Site::new().breaks_and_heals(&damage).starts_with("~ link br-"));
}

#[test]
fn end_of_a_pair_switched_off_is_switched_on() {
    let site = Site::new();
    let damage = [link::switch_off(&site.host_link())];
    assert!(site.breaks_and_heals(&damage).starts_with("~ link eth0"));
}

#[test]
fn interface_of_a_sandbox_comes_back_with_its_addresses_and_routes() {
    let site = Site::new();
    let sandbox = site.lab.sandbox(&site.kernel, &site.model.sandboxes[&1].0.id);
    sandbox.request(&[link::remove(&"eth0".parse().unwrap())]);
    let plan = site.breaks_and_heals(&[]);
    let added = |word| plan.lines().filter(|line| line.starts_with(word)).count();
    assert_eq!([added("+ link"), added("+ addr"), added("+ route")], [1, 2, 2], "{plan}");
}

#[test]
fn own_changes_are_not_reported() {
    let Site { lab: _lab, mut model, kernel, changes } = Site::new();
    let before = model.desired();
    model.network(2);
    model.sandbox(2, &[1, 2]);
    kernel.apply(&cnm::diff(&before, &model.desired())).unwrap();
    kernel.apply(&cnm::diff(&model.desired(), &before)).unwrap();
    assert!(changes.recv_timeout(SILENCE).is_err(), "nobody else was there");
}

#[test]
fn watching_ends_with_the_kernel() {
    let Site { lab: _lab, model: _, kernel, changes } = Site::new();
    drop(kernel);
    let ended = changes.recv_timeout(patient(TIMEOUT));
    assert_eq!(ended, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn what_a_container_does_in_its_namespace_is_left_alone() {
    let site = Site::new();
    let sandbox = site.lab.sandbox(&site.kernel, &site.model.sandboxes[&1].0.id);
    sandbox.add_bridge("tun0");
    let index = sandbox.link("eth0").unwrap().index;
    sandbox.run(|| {
        let add = |address: &str| {
            let arguments = ["addr", "add", address, "dev", "eth0"];
            assert!(std::process::Command::new("ip").args(arguments).status().unwrap().success());
        };
        add("10.1.0.200/24");
        add("fd00:1::200/64");
    });
    assert!(index > 0);
    let plan = reconcile(&site.kernel, &site.model.desired()).unwrap();
    assert!(plan.is_empty(), "{plan}");
}

#[test]
fn links_of_others_are_left_alone() {
    let site = Site::new();
    site.lab.host.add_bridge("virbr0");
    site.lab.host.add_address("virbr0", "10.9.0.1/24");
    reconcile(&site.kernel, &State::default()).unwrap();
    assert!(site.lab.host.link("virbr0").is_some());
    assert_eq!(site.lab.host.addresses("virbr0").len(), 1);
    assert!(site.kernel.observe().unwrap().is_empty());
}

#[test]
fn host_facts_are_the_routes_of_others() {
    let site = Site::new();
    site.lab.host.add_route("10.77.0.0/16", "lan0", Lab::CLIENT[0]);
    let routes = site.kernel.host_facts().unwrap().routes;
    let has = |text: &str| routes.contains(&text.parse().unwrap());
    assert!(has("10.77.0.0/16") && has("192.0.2.0/24") && has("2001:db8:1::/64"), "{routes:?}");
    assert!(!has("10.1.0.0/24") && !has("fd00:1::/64") && !has("0.0.0.0/0"), "{routes:?}");
}

#[test]
fn forwarding_stays_on_when_the_last_network_goes() {
    let site = Site::new();
    let keys =
        |state: &State| state.iter().filter(|(k, _)| matches!(k, Key::Sysctl { .. })).count();
    reconcile(&site.kernel, &State::default()).unwrap();
    assert_eq!(keys(&site.kernel.observe().unwrap()), 0);
    assert_eq!(site.lab.host.sysctl("net/ipv4/ip_forward"), "1");
    assert_eq!(site.lab.host.sysctl("net/ipv6/conf/all/forwarding"), "1");
}

#[test]
fn cve_2025_54410_cve_2025_54388_without_ownership_a_flushed_ruleset_comes_back() {
    let site = Site::with(Ownership::Declined);
    assert!(site.kernel.table_owner().is_none());
    for damage in ["flush ruleset", "delete table inet rnet", "flush chain inet rnet published"] {
        let flushed = std::time::Instant::now();
        let status = site
            .lab
            .host
            .run(|| std::process::Command::new("nft").args(damage.split(' ')).status().unwrap());
        assert!(status.success(), "{damage}");
        site.changes.recv_timeout(patient(TIMEOUT)).expect("the change is noticed");
        let desired = site.model.desired();
        reconcile(&site.kernel, &desired).unwrap();
        println!("{damage}: repaired after {:?}", flushed.elapsed());
        assert!(reconcile(&site.kernel, &desired).unwrap().is_empty());
        site.works();
    }
}
