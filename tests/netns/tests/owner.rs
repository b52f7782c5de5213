//! Who may change the table: it survives foreign flushes, the daemon, and its own versions.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cnm::{Element, Value};
use drivers::kernel::nft::{Nft, NftError, Ownership};
use netns_tests::site::{PATIENCE, Site, Space, networks};
use nix::sys::socket::{self, MsgFlags};

fn adopt(host: &Space, owner: Option<OwnedFd>) -> Result<Nft, NftError> {
    host.run(|| Nft::open("rnet", owner, Ownership::Preferred))
}

fn sorted(mut elements: Vec<(Element, Value)>) -> Vec<(Element, Value)> {
    elements.sort_by(|a, b| a.0.cmp(&b.0));
    elements
}

fn nft(host: &Space, arguments: &str) -> bool {
    let arguments: Vec<_> = arguments.split(' ').collect();
    host.command("nft", &arguments, "").status.success()
}

/// The notifications that have come since, if one of them concerns the table.
fn told(table: &Nft, events: &OwnedFd) -> bool {
    let mut buffer = vec![0; 65536];
    let mut concerned = false;
    while let Ok(length) = socket::recv(events.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        concerned |= table.concerns(&buffer[..length]);
    }
    concerned
}

#[test]
fn cve_2025_54410_no_connection_is_lost_while_others_flush_the_ruleset() {
    let site = Site::new();
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    site.publish("::", 8080, "fd00:a::2");
    let done = AtomicBool::new(false);
    let made = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for target in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
            let (done, made, client) = (&done, &made, &site.client);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let answer = client.tcp(target, PATIENCE);
                    assert!(answer.is_some_and(|text| text.starts_with("a1 ")), "{target}");
                    made.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..10 {
            nft(&site.host, "flush ruleset");
            assert!(!nft(&site.host, "delete table inet rnet"));
            assert!(!nft(&site.host, "flush chain inet rnet into"));
            assert!(!nft(&site.host, "flush map inet rnet published4-any"));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(made.into_inner() > 10);
    assert!(site.client.is_cut_off_from("10.1.0.2:80"), "the protection is there too");
    assert_eq!(site.nft.observe().unwrap().len(), networks().len() + 4);
}

#[test]
fn a_duplicate_of_the_socket_keeps_the_ownership_when_the_daemon_goes() {
    let mut site = Site::new();
    let kept = site.nft.owner_socket().expect("this kernel has ownership");
    site.nft = site.host.run(|| Nft::open("elsewhere", None, Ownership::Preferred).unwrap());
    assert!(!nft(&site.host, "delete table inet rnet"));
    site.nft = adopt(&site.host, Some(kept)).unwrap();
    assert!(!nft(&site.host, "delete table inet rnet"));
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    assert_eq!(site.client.reach("192.0.2.1:8080"), "a1 sees 192.0.2.2");
    assert!(site.nft.owner_socket().is_some());
}

#[test]
fn a_socket_that_no_longer_owns_the_table_adopts_it() {
    let mut site = Site::new();
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    site.nft = site.host.run(|| Nft::open("elsewhere", None, Ownership::Preferred).unwrap());
    let stranger = site.nft.owner_socket();
    site.nft = adopt(&site.host, stranger).unwrap();
    assert_eq!(site.client.reach("192.0.2.1:8080"), "a1 sees 192.0.2.2");
    assert!(!nft(&site.host, "delete table inet rnet"));
}

#[test]
fn a_table_whose_owner_died_stays_in_force_and_is_adopted() {
    let mut site = Site::new();
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    let before = sorted(site.nft.observe().unwrap());
    site.nft = site.host.run(|| Nft::open("elsewhere", None, Ownership::Preferred).unwrap());
    assert_eq!(site.client.reach("192.0.2.1:8080"), "a1 sees 192.0.2.2");
    site.nft = adopt(&site.host, None).unwrap();
    assert_eq!(sorted(site.nft.observe().unwrap()), before);
    assert!(!nft(&site.host, "delete table inet rnet"));
    site.publish("0.0.0.0", 8081, "10.2.0.2");
    assert_eq!(site.client.reach("192.0.2.1:8081"), "b1 sees 192.0.2.2");
}

#[test]
fn a_second_daemon_is_refused_with_the_reason() {
    let site = Site::new();
    let error = adopt(&site.host, None).unwrap_err();
    let text = error.to_string();
    let pid = format!("belongs to another daemon, process {} (", std::process::id());
    assert!(text.contains(&pid), "{text}");
    assert!(text.ends_with("or start this one in a network namespace of its own"), "{text}");
    let stranger = site.host.run(|| Nft::open("other", None, Ownership::Preferred).unwrap());
    let error = adopt(&site.host, stranger.owner_socket()).unwrap_err();
    assert!(matches!(error, NftError::Owned { .. }), "a socket that owns another table");
    let other = site.host.run(|| Nft::open("rnet", None, Ownership::Declined)).unwrap_err();
    assert!(matches!(other, NftError::Owned { .. }));
}

#[test]
fn several_daemons_with_tables_of_their_own_live_side_by_side() {
    let site = Site::new();
    let other = site.host.run(|| Nft::open("other", None, Ownership::Preferred).unwrap());
    assert_eq!(other.observe().unwrap(), Vec::new());
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    assert_eq!(site.client.reach("192.0.2.1:8080"), "a1 sees 192.0.2.2");
    other.remove_table().unwrap();
    other.remove_table().unwrap();
    assert_eq!(site.client.reach("192.0.2.1:8080"), "a1 sees 192.0.2.2");
}

#[test]
fn another_version_of_the_rules_is_replaced_and_the_elements_stay() {
    let mut site = Site::with(Ownership::Declined);
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    site.publish("192.0.2.9", 8081, "10.2.0.2");
    let before = sorted(site.nft.observe().unwrap());
    assert!(nft(&site.host, "flush chain inet rnet into"));
    assert!(nft(&site.host, "add rule inet rnet into drop"));
    assert!(nft(&site.host, "add chain inet rnet of-an-older-version"));
    assert!(site.client.is_cut_off_from("192.0.2.1:8080"));
    site.nft = adopt(&site.host, None).unwrap();
    assert_eq!(sorted(site.nft.observe().unwrap()), before);
    assert_eq!(site.client.reach("192.0.2.1:8080"), "a1 sees 192.0.2.2");
    assert_eq!(site.client.reach("192.0.2.9:8081"), "b1 sees 192.0.2.2");
    let table = site.host.output("nft", &["list", "table", "inet", "rnet"]);
    assert!(!table.contains("of-an-older-version"), "{table}");
    assert!(!nft(&site.host, "delete table inet rnet"), "it is owned now");
}

#[test]
fn without_ownership_a_flush_is_told_of_and_the_table_comes_back() {
    let site = Site::with(Ownership::Declined);
    assert!(site.nft.owner_socket().is_none());
    let events = site.host.run(|| site.nft.events().unwrap());
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    assert!(!told(&site.nft, &events), "our own changes are no news");
    assert!(nft(&site.host, "add table inet stranger"));
    assert!(!told(&site.nft, &events), "nor are those of others' tables");
    assert!(nft(&site.host, "flush ruleset"));
    assert!(told(&site.nft, &events));
    assert_eq!(site.nft.observe().unwrap(), Vec::new(), "all is to be added again");
    site.add(networks());
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    assert_eq!(site.client.reach("192.0.2.1:8080"), "a1 sees 192.0.2.2");
    assert!(site.client.is_cut_off_from("10.1.0.2:80"));
    assert_eq!(site.nft.observe().unwrap().len(), networks().len() + 2);
}

#[test]
fn without_ownership_damage_to_the_rules_is_found_and_mended() {
    let site = Site::with(Ownership::Declined);
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    let events = site.host.run(|| site.nft.events().unwrap());
    for damage in [
        "flush chain inet rnet published",
        "flush table inet rnet",
        "insert rule inet rnet forward drop",
        "add table inet rnet { flags dormant; }",
        "delete table inet rnet",
    ] {
        assert!(!site.nft.ensure_skeleton().unwrap(), "there is nothing to mend");
        let before = site.nft.observe().unwrap().len();
        assert!(nft(&site.host, damage), "{damage}");
        assert!(told(&site.nft, &events), "{damage}");
        assert!(site.nft.ensure_skeleton().unwrap(), "{damage}");
        assert!(!told(&site.nft, &events), "our own mending is no news");
        if damage.starts_with("delete") {
            assert_eq!(site.nft.observe().unwrap(), Vec::new());
        } else {
            assert_eq!(site.nft.observe().unwrap().len(), before);
            assert_eq!(site.client.reach("192.0.2.1:8080"), "a1 sees 192.0.2.2");
        }
    }
}

#[test]
fn an_element_that_others_remove_is_told_of() {
    let site = Site::with(Ownership::Declined);
    let events = site.host.run(|| site.nft.events().unwrap());
    assert!(nft(&site.host, "delete element inet rnet bridges { br-a }"));
    assert!(told(&site.nft, &events));
    let bridges = |elements: Vec<(Element, Value)>| {
        elements.iter().filter(|(element, _)| matches!(element, Element::Bridge { .. })).count()
    };
    assert_eq!(bridges(site.nft.observe().unwrap()), 2);
}
