//! Questions that nobody in his senses asks.

use proptest::prelude::*;

use super::*;

fn labels() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let known =
        prop::sample::select(vec!["web", "front", "_80", "_tcp", "app", "10", "in-addr", "arpa"]);
    let label = prop_oneof![
        known.prop_map(|label| label.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..20),
    ];
    prop::collection::vec(label, 0..8)
}

proptest! {
    #[test]
    fn no_packet_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..600), forward: bool) {
        let reply = answer(&bytes, Transport::Udp, &view(forward), &names(), 1);
        if let Answer::Reply(reply) = reply {
            Message::from_vec(&reply).unwrap();
        }
    }

    #[test]
    fn a_damaged_query_is_not_too_strange(at in 2usize..60, byte: u8, cut in 0usize..60) {
        let mut message = query("_80._tcp.web.front", RecordType::SRV);
        message.set_edns(op::Edns::new());
        let mut bytes = message.to_vec().unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut % bytes.len());
        if let Answer::Reply(reply) = answer(&bytes, Transport::Udp, &view(false), &names(), 1) {
            Message::from_vec(&reply).unwrap();
        }
    }

    #[test]
    fn every_question_has_an_answer_that_parses_and_fits(
        labels in labels(),
        kind: u16,
        payload: u16,
        entropy: u64,
    ) {
        let Ok(name) = Name::from_labels(labels.iter().map(Vec::as_slice)) else { return Ok(()) };
        let mut message = query("x", RecordType::from(kind));
        message.queries[0].set_name(name.clone());
        let mut edns = op::Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
        let Answer::Reply(reply) = ask(&message, &view(false), entropy) else {
            panic!("nothing is forwarded")
        };
        prop_assert!(reply.len() <= usize::from(payload.max(512)));
        let reply = Message::from_vec(&reply).unwrap();
        prop_assert!(reply.queries[0].name.eq_case(&name));
        prop_assert!(reply.edns.is_some());
    }
}
