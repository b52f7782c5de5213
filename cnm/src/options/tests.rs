//! What options of endpoints mean, and what is said about those that mean nothing.

use expect_test::expect;

use super::*;
use crate::driver::fake::Fake;

fn endpoint(name: &str, value: &str) -> Result<EndpointOptions, OptionError> {
    EndpointOptions::parse(&BTreeMap::from([(name.to_owned(), value.to_owned())]), &Fake::Bridge)
}

#[test]
fn an_endpoint_may_name_its_interface() {
    let parsed = endpoint("com.docker.network.endpoint.ifname", "wan0").unwrap();
    assert_eq!(parsed.interface, Some("wan0".parse().unwrap()));
}

#[test]
fn an_endpoint_may_set_sysctls_of_its_interface() {
    let list = "net.ipv4.conf.IFNAME.log_martians=1, net.ipv6.conf.IFNAME.accept_ra = 2";
    let expected =
        [("net/ipv4/conf/eth7/log_martians", "1"), ("net/ipv6/conf/eth7/accept_ra", "2")];
    let expected = expected.map(|(path, value)| (path.to_owned(), value.to_owned()));
    assert_eq!(sysctls_of_eth7(list), expected);
}

fn sysctls_of_eth7(list: &str) -> Vec<(String, String)> {
    let sysctls = endpoint("com.docker.network.endpoint.sysctls", list).unwrap().sysctls;
    sysctls.iter().map(|sysctl| sysctl.of(&"eth7".parse().unwrap())).collect()
}

#[test]
fn an_interface_in_lower_case_is_the_interface_too() {
    let path = "net/ipv4/conf/eth7/log_martians".to_owned();
    for name in ["ifname", "IfName", "IFNAME"] {
        let list = format!("net.ipv4.conf.{name}.log_martians=1");
        assert_eq!(sysctls_of_eth7(&list), [(path.clone(), "1".to_owned())], "{name}");
    }
}

#[test]
fn sysctls_of_anything_else_are_refused() {
    for list in [
        "",
        "net.ipv4.conf.IFNAME.log_martians",
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.forwarding=1",
        "kernel.panic=1",
        "net.ipv4.conf.IFNAME...=1",
        "net.ipv4.conf.IFNAME./../x=1",
    ] {
        let result = endpoint("com.docker.network.endpoint.sysctls", list);
        assert!(result.is_err(), "{list:?} gave {result:?}");
    }
}

#[test]
fn an_unknown_option_of_an_endpoint_is_an_error_or_a_warning() {
    let error = endpoint("com.docker.network.endpoint.ifnam", "x").unwrap_err();
    expect![[r#"
        unknown option com.docker.network.endpoint.ifnam of endpoints: did you mean com.docker.network.endpoint.ifname?"#]]
    .assert_eq(&error.to_string());
    let parsed = endpoint("color", "blue").unwrap();
    assert_eq!(parsed.warnings, ["unknown option color of endpoints is ignored"]);
}
