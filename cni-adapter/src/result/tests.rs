//! Results and errors as they are printed.

use expect_test::{Expect, expect};

use super::*;

fn check(value: &Value, expected: &Expect) {
    expected.assert_eq(&format!("{value:#}"));
}

fn attached() -> Attached {
    let interface = |name: &str, sandbox: &str| Interface {
        name: name.to_owned(),
        mac: "02:00:00:00:00:01".to_owned(),
        mtu: Some(1500),
        sandbox: sandbox.to_owned(),
        ..Interface::default()
    };
    let ip =
        |address: &str| Ip { address: address.parse().unwrap(), gateway: None, interface: Some(1) };
    Attached {
        interfaces: vec![interface("br0", ""), interface("eth0", "/run/netns/a")],
        ips: vec![ip("10.1.0.2/24"), ip("fd00::2/64")],
        ..Attached::default()
    }
}

#[test]
fn newest_version_has_the_mtu() {
    let value = attached().to_json(Version::V1_1_0);
    check(
        &value["interfaces"][1],
        &expect![[r#"
        {
          "name": "eth0",
          "mac": "02:00:00:00:00:01",
          "mtu": 1500,
          "sandbox": "/run/netns/a"
        }"#]],
    );
    check(
        &value["ips"][1],
        &expect![[r#"
        {
          "address": "fd00::2/64",
          "interface": 1
        }"#]],
    );
}

#[test]
fn old_versions_say_which_family_an_address_is_of() {
    for version in [Version::V0_3_1, Version::V0_4_0] {
        let value = attached().to_json(version);
        assert_eq!(value["cniVersion"], version.as_str());
        check(
            &value["interfaces"][0],
            &expect![[r#"
            {
              "name": "br0",
              "mac": "02:00:00:00:00:01"
            }"#]],
        );
        check(
            &value["ips"][1],
            &expect![[r#"
            {
              "address": "fd00::2/64",
              "interface": 1,
              "version": "6"
            }"#]],
        );
    }
}

#[test]
fn what_came_before_in_the_chain_stays_in_front() {
    let all = attached().after(Some(attached()));
    let interfaces: Vec<_> = all.ips.iter().map(|ip| ip.interface).collect();
    assert_eq!(interfaces, [Some(1), Some(1), Some(3), Some(3)]);
    assert_eq!(all.interfaces.len(), 4);
}

#[test]
fn result_of_any_version_is_read_back() {
    for version in Version::ALL {
        let mut expected = attached();
        if version < Version::V1_1_0 {
            expected.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
        }
        let value = attached().to_json(version);
        assert_eq!(serde_json::from_value::<Attached>(value).unwrap(), expected);
    }
}

#[test]
fn errors_have_a_code_and_their_causes() {
    let cause = std::io::Error::other("no space");
    let store =
        cnm::store::StoreError { kind: Kind::Internal, verb: "write", source: Box::new(cause) };
    check(
        &Failure::from(store).to_json("1.0.0"),
        &expect![[r#"
        {
          "cniVersion": "1.0.0",
          "code": 100,
          "msg": "cannot write the store",
          "details": "no space"
        }"#]],
    );
}
