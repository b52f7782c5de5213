//! What is in a message beside the name: EDNS, operations, classes, and how much fits.

use super::*;

#[test]
fn edns_is_answered_with_edns() {
    let mut message = query("web", RecordType::A);
    let mut edns = op::Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    message.set_edns(edns);
    expect![[r#"
        NoError aa rd ra
          web. 2 IN A 10.1.0.2
          edns: version 0 size 1232 do
    "#]]
    .assert_eq(&render(ask(&message, &view(true), 1)));
}

#[test]
fn a_later_version_of_edns_is_refused() {
    let mut message = query("web", RecordType::A);
    let mut edns = op::Edns::new();
    edns.set_version(1);
    message.set_edns(edns);
    expect![[r#"
        BADSIG rd ra
          edns: version 0 size 1232
    "#]]
    .assert_eq(&render(ask(&message, &view(true), 1)));
}

#[test]
fn other_operations_and_classes_and_transfers_are_not_served() {
    let mut message = query("web", RecordType::A);
    message.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(render(ask(&message, &view(true), 1)), "Refused rd ra\n");
    assert_eq!(render(ask(&query("web", RecordType::AXFR), &view(true), 1)), "Refused rd ra\n");
    let mut bytes = query("web", RecordType::A).to_vec().unwrap();
    bytes[2] |= 0x28;
    let reply = answer(&bytes, Transport::Udp, &view(true), &names(), 1);
    let Answer::Reply(reply) = reply else { panic!("{reply:?}") };
    assert_eq!((reply.len(), reply[3] & 15), (12, ResponseCode::NotImp.low()));
}

#[test]
fn what_is_no_query_is_not_answered() {
    let mut bytes = query("web", RecordType::A).to_vec().unwrap();
    let ask = |bytes: &[u8]| answer(bytes, Transport::Udp, &view(true), &names(), 1);
    assert_eq!(ask(&bytes[..11]), Answer::Ignore);
    bytes[2] |= 0x80;
    assert_eq!(ask(&bytes), Answer::Ignore);
    bytes[2] &= 0x7f;
    let Answer::Reply(reply) = ask(&bytes[..20]) else { panic!("no reply") };
    assert_eq!((reply.len(), reply[3] & 15), (12, ResponseCode::FormErr.low()));
}

#[test]
fn an_answer_that_does_not_fit_is_cut_and_says_so() {
    let mut names = Names::default();
    let many = (1..=60).map(|n| endpoint(n, &["web"], &[&format!("10.1.0.{n}")], &[])).collect();
    names.publish(network('a'), "front".into(), many);
    let bytes = query("web", RecordType::A).to_vec().unwrap();
    let Answer::Reply(reply) = answer(&bytes, Transport::Udp, &view(true), &names, 1) else {
        panic!("no reply")
    };
    let message = Message::from_vec(&reply).unwrap();
    assert!(message.metadata.truncation && reply.len() <= 512 && message.answers.len() >= 25);
    let whole = decoded(answer(&bytes, Transport::Tcp, &view(true), &names, 1));
    assert!(!whole.metadata.truncation && whole.answers.len() == 60);
}

#[test]
fn what_was_not_asked_for_is_left_out_before_answers_are_cut() {
    let mut names = Names::default();
    let service = [(Protocol::Tcp, 80)];
    let address = |n| format!("10.1.0.{n}");
    let many =
        (1..=8).map(|n| endpoint(n, &["w", "web"], &[&address(n), "fd00::1"], &service)).collect();
    names.publish(network('a'), "front".into(), many);
    let bytes = query("_80._tcp.web", RecordType::SRV).to_vec().unwrap();
    let reply = decoded(answer(&bytes, Transport::Udp, &view(true), &names, 1));
    assert!(!reply.metadata.truncation);
    assert_eq!((reply.answers.len(), reply.additionals.len()), (8, 0));
}
