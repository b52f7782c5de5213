//! Every sentence about local names, as a table.

mod services;
mod strange;
mod wire;

use std::fmt::Write;

use cnm::Protocol;
use expect_test::{Expect, expect};

use super::*;
use crate::protocol::EndpointNames;

fn network(digit: char) -> cnm::NetworkId {
    digit.to_string().repeat(64).parse().unwrap()
}

fn endpoint(
    number: u8,
    names: &[&str],
    addresses: &[&str],
    services: &[(Protocol, u16)],
) -> EndpointNames {
    EndpointNames {
        endpoint: format!("{number:064x}").parse().unwrap(),
        names: names.iter().map(ToString::to_string).collect(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        services: services.to_vec(),
    }
}

/// Two networks, of which the sandbox is on both, and a third one that it does not see.
fn names() -> Names {
    let mut names = Names::default();
    let front = vec![
        endpoint(
            1,
            &["shop_web_1", "Web", "0123456789ab"],
            &["10.1.0.2", "fd00:1::2"],
            &[(Protocol::Tcp, 80), (Protocol::Tcp, 9999)],
        ),
        endpoint(2, &["api1", "api"], &["10.1.0.3"], &[(Protocol::Udp, 53)]),
        endpoint(3, &["api2", "api"], &["10.1.0.4"], &[(Protocol::Udp, 53)]),
        endpoint(4, &["six"], &["fd00:1::6"], &[]),
        endpoint(5, &["wild", "*.app"], &["10.1.0.5"], &[]),
        endpoint(6, &["wilder", "*.v2.app", "exact.v2.app"], &["10.1.0.6"], &[]),
    ];
    names.publish(network('a'), "front".into(), front);
    let back = vec![
        endpoint(7, &["db"], &["10.2.0.2"], &[(Protocol::Tcp, 5432)]),
        endpoint(8, &["shop_web_1", "web"], &["10.2.0.3"], &[]),
        endpoint(9, &["six"], &["10.2.0.6"], &[]),
    ];
    names.publish(network('b'), "Back.Net".into(), back);
    names.publish(
        network('c'),
        "other".into(),
        vec![endpoint(10, &["secret"], &["10.3.0.2"], &[])],
    );
    names
}

fn view(forward: bool) -> SandboxView {
    SandboxView {
        sandbox: "f".repeat(64).parse().unwrap(),
        networks: vec![network('a'), network('b')],
        private: [("Linked".to_owned(), vec!["10.9.0.1".parse().unwrap()])].into(),
        upstreams: vec![],
        forward,
        ttl: 2,
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let labels = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes);
    message.add_query(op::Query::query(Name::from_labels(labels).unwrap(), kind));
    message
}

fn ask(message: &Message, view: &SandboxView, entropy: u64) -> Answer {
    answer(&message.to_vec().unwrap(), Transport::Udp, view, &names(), entropy)
}

fn decoded(answer: Answer) -> Message {
    let Answer::Reply(bytes) = answer else { panic!("no reply: {answer:?}") };
    Message::from_vec(&bytes).unwrap()
}

fn render(answer: Answer) -> String {
    if !matches!(answer, Answer::Reply(_)) {
        return format!("{answer:?}\n");
    }
    let message = decoded(answer);
    assert_eq!(message.metadata.id, 7);
    let mut text = format!("{:?}", message.metadata.response_code);
    for (flag, name) in [
        (message.metadata.authoritative, " aa"),
        (message.metadata.truncation, " tc"),
        (message.metadata.recursion_desired, " rd"),
        (message.metadata.recursion_available, " ra"),
    ] {
        text.push_str(if flag { name } else { "" });
    }
    text.push('\n');
    let sections = [
        ("", &message.answers),
        ("authority: ", &message.authorities),
        ("additional: ", &message.additionals),
    ];
    for (title, records) in sections {
        let mut lines: Vec<String> =
            records.iter().map(|record| format!("  {title}{record}")).collect();
        lines.sort();
        for line in lines {
            writeln!(text, "{line}").unwrap();
        }
    }
    if let Some(edns) = &message.edns {
        let dnssec = if edns.flags().dnssec_ok { " do" } else { "" };
        writeln!(text, "  edns: version {} size {}{dnssec}", edns.version(), edns.max_payload())
            .unwrap();
    }
    text
}

#[expect(clippy::needless_pass_by_value, reason = "expect![] reads better without &")]
fn check(name: &str, kind: RecordType, expected: Expect) {
    expected.assert_eq(&render(ask(&query(name, kind), &view(true), 1)));
}

#[expect(clippy::needless_pass_by_value, reason = "expect![] reads better without &")]
fn check_internal(name: &str, kind: RecordType, expected: Expect) {
    expected.assert_eq(&render(ask(&query(name, kind), &view(false), 1)));
}

#[test]
fn a_container_is_found_by_each_of_its_names() {
    for name in ["shop_web_1", "web", "0123456789ab", "shop_web_1.front", "web.front"] {
        let reply = decoded(ask(&query(name, RecordType::A), &view(true), 1));
        assert_eq!(reply.answers[0].data.to_string(), "10.1.0.2", "{name}");
    }
    check(
        "web",
        RecordType::A,
        expect![[r#"
        NoError aa rd ra
          web. 2 IN A 10.1.0.2
    "#]],
    );
    check(
        "web",
        RecordType::AAAA,
        expect![[r#"
        NoError aa rd ra
          web. 2 IN AAAA fd00:1::2
    "#]],
    );
}

#[test]
fn the_case_of_a_name_does_not_matter_and_comes_back_as_asked() {
    check(
        "wEB.FroNT",
        RecordType::A,
        expect![[r#"
        NoError aa rd ra
          wEB.FroNT. 2 IN A 10.1.0.2
    "#]],
    );
    check(
        "DB.back.NET",
        RecordType::A,
        expect![[r#"
        NoError aa rd ra
          DB.back.NET. 2 IN A 10.2.0.2
    "#]],
    );
}

#[test]
fn a_network_says_which_of_two_is_meant() {
    check(
        "web.back.net",
        RecordType::A,
        expect![[r#"
        NoError aa rd ra
          web.back.net. 2 IN A 10.2.0.3
    "#]],
    );
}

#[test]
fn all_addresses_of_a_shared_alias_are_answered() {
    check(
        "api",
        RecordType::A,
        expect![[r#"
        NoError aa rd ra
          api. 2 IN A 10.1.0.3
          api. 2 IN A 10.1.0.4
    "#]],
    );
}

#[test]
fn the_order_of_addresses_varies() {
    let first = |entropy: u64| {
        let reply = decoded(ask(&query("api", RecordType::A), &view(true), entropy));
        reply.answers[0].data.to_string()
    };
    let firsts: std::collections::BTreeSet<_> =
        (0..32).map(|n: u64| first(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    assert_eq!(firsts.len(), 2);
}

#[test]
fn the_other_family_of_a_known_name_is_no_data() {
    check(
        "api",
        RecordType::AAAA,
        expect![[r#"
        NoError aa rd ra
          authority: api. 2 IN SOA rnet.internal. hostmaster.rnet.internal. 1 3600 600 86400 2
    "#]],
    );
}

#[test]
fn the_first_network_with_an_address_of_the_family_answers() {
    check(
        "six",
        RecordType::AAAA,
        expect![[r#"
        NoError aa rd ra
          six. 2 IN AAAA fd00:1::6
    "#]],
    );
    check(
        "six",
        RecordType::A,
        expect![[r#"
        NoError aa rd ra
          six. 2 IN A 10.2.0.6
    "#]],
    );
}

#[test]
fn other_types_of_a_known_name_are_no_data() {
    for kind in
        [RecordType::MX, RecordType::TXT, RecordType::HTTPS, RecordType::SRV, RecordType::NS]
    {
        let reply = decoded(ask(&query("web", kind), &view(true), 1));
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{kind}");
        assert_eq!((reply.answers.len(), reply.authorities.len()), (0, 1), "{kind}");
    }
}

#[test]
fn any_is_answered_with_one_family() {
    check(
        "web",
        RecordType::ANY,
        expect![[r#"
        NoError aa rd ra
          web. 2 IN A 10.1.0.2
    "#]],
    );
}

#[test]
fn unknown_names_are_forwarded() {
    for name in
        ["nobody", "example.org", "nobody.front", "app", "front", "secret", "secret.other", ""]
    {
        assert_eq!(ask(&query(name, RecordType::A), &view(true), 1), Answer::Forward, "{name}");
    }
}

#[test]
fn unknown_names_do_not_exist_where_nothing_is_forwarded() {
    for name in ["nobody", "example.org", "secret.other", "2.0.3.10.in-addr.arpa", "_x._tcp.y"] {
        let reply = decoded(ask(&query(name, RecordType::A), &view(false), 1));
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name}");
    }
    check_internal(
        "example.org",
        RecordType::A,
        expect![[r#"
        NXDomain aa rd ra
          authority: . 2 IN SOA rnet.internal. hostmaster.rnet.internal. 1 3600 600 86400 2
    "#]],
    );
    check_internal(
        "",
        RecordType::NS,
        expect![[r#"
        NoError aa rd ra
          authority: . 2 IN SOA rnet.internal. hostmaster.rnet.internal. 1 3600 600 86400 2
    "#]],
    );
    check_internal(
        "db",
        RecordType::A,
        expect![[r#"
        NoError aa rd ra
          db. 2 IN A 10.2.0.2
    "#]],
    );
}

#[test]
fn a_link_is_seen_by_its_sandbox() {
    check(
        "linked",
        RecordType::A,
        expect![[r#"
        NoError aa rd ra
          linked. 2 IN A 10.9.0.1
    "#]],
    );
    check(
        "linked",
        RecordType::AAAA,
        expect![[r#"
        NoError aa rd ra
          authority: linked. 2 IN SOA rnet.internal. hostmaster.rnet.internal. 1 3600 600 86400 2
    "#]],
    );
}

#[test]
fn the_most_specific_wildcard_wins() {
    let answered = |name: &str| {
        decoded(ask(&query(name, RecordType::A), &view(true), 1)).answers[0].data.to_string()
    };
    assert_eq!(answered("x.app"), "10.1.0.5");
    assert_eq!(answered("x.y.app"), "10.1.0.5");
    assert_eq!(answered("x.v2.app"), "10.1.0.6");
    assert_eq!(answered("exact.v2.app"), "10.1.0.6");
    assert_eq!(answered("v2.app"), "10.1.0.5");
    assert_eq!(answered("x.app.front"), "10.1.0.5");
}

#[test]
fn a_reverse_name_is_answered_with_the_first_name_and_the_network() {
    check(
        "2.0.1.10.in-addr.arpa",
        RecordType::PTR,
        expect![[r#"
        NoError aa rd ra
          2.0.1.10.in-addr.arpa. 2 IN PTR shop_web_1.front.
    "#]],
    );
    let nibbles = format!("2{}.1.0.0.0.0.0.d.f.ip6.arpa", ".0".repeat(23));
    check(
        &nibbles,
        RecordType::PTR,
        expect![[r#"
        NoError aa rd ra
          2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa. 2 IN PTR shop_web_1.front.
    "#]],
    );
    check(
        "2.0.1.10.in-addr.arpa",
        RecordType::A,
        expect![[r#"
        NoError aa rd ra
          authority: 2.0.1.10.in-addr.arpa. 2 IN SOA rnet.internal. hostmaster.rnet.internal. 1 3600 600 86400 2
    "#]],
    );
}

#[test]
fn reverse_names_of_others_are_forwarded() {
    for name in ["2.0.3.10.in-addr.arpa", "10.in-addr.arpa", "x.0.1.10.in-addr.arpa", "0.ip6.arpa"]
    {
        assert_eq!(ask(&query(name, RecordType::PTR), &view(true), 1), Answer::Forward, "{name}");
    }
}

#[test]
fn localhost_is_the_sandbox_itself() {
    check(
        "localhost",
        RecordType::A,
        expect![[r#"
        NoError aa rd ra
          localhost. 2 IN A 127.0.0.1
    "#]],
    );
    check(
        "x.localhost",
        RecordType::AAAA,
        expect![[r#"
        NoError aa rd ra
          x.localhost. 2 IN AAAA ::1
    "#]],
    );
    check(
        "localhost",
        RecordType::MX,
        expect![[r#"
        NoError aa rd ra
          authority: localhost. 2 IN SOA rnet.internal. hostmaster.rnet.internal. 1 3600 600 86400 2
    "#]],
    );
    check(
        "11.0.0.127.in-addr.arpa",
        RecordType::PTR,
        expect![[r#"
        NoError aa rd ra
          11.0.0.127.in-addr.arpa. 2 IN PTR localhost.
    "#]],
    );
}

#[test]
fn publishing_again_replaces_and_withdrawing_leaves_nothing() {
    let mut names = Names::default();
    names.publish(network('a'), "n".into(), vec![endpoint(1, &["old"], &["10.0.0.1"], &[])]);
    names.publish(network('a'), "n".into(), vec![endpoint(1, &["new"], &["10.0.0.2"], &[])]);
    assert!(names.find(&view(true), "old").is_empty());
    assert_eq!(names.find(&view(true), "new").len(), 1);
    assert!(names.owner(&view(true), "10.0.0.1".parse().unwrap()).is_none());
    names.withdraw(&network('a'), &[format!("{:064x}", 1).parse().unwrap()]);
    assert_eq!(format!("{names:?}"), format!("{:?}", Names::default()));
}
