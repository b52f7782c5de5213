//! Questions of containers, as they come from the wire: an answer is one to the question, others can read
//! it, and it is no longer than the client takes.
//!
//! The first byte says how the question came.
#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;

use dns::answer::{Answer, Transport, answer};
use dns::names::Names;
use dns::protocol::{EndpointNames, SandboxView};
use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;

/// The longest datagram that is sent without the client having said that it takes more.
const SHORT: usize = 512;

static WORLD: LazyLock<(Names, SandboxView)> = LazyLock::new(|| {
    let network = "a".repeat(64).parse::<cnm::NetworkId>().expect("an id");
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let endpoints = (1..=40).map(|number| EndpointNames {
        endpoint: format!("{number:064x}").parse().expect("an id"),
        names: vec![format!("web{number}"), "web".to_owned(), "*.app".to_owned()],
        addresses: vec![
            address(&format!("10.1.0.{number}")),
            address(&format!("fd00:1::{number}")),
        ],
        services: vec![(cnm::Protocol::Tcp, 80)],
    });
    let mut names = Names::default();
    names.publish(network.clone(), "front".to_owned(), endpoints.collect());
    let view = SandboxView {
        sandbox: "f".repeat(64).parse().expect("an id"),
        networks: vec![network],
        private: [("linked".to_owned(), vec![address("10.9.0.1")])].into(),
        upstreams: Vec::new(),
        forward: true,
        ttl: 2,
    };
    (names, view)
});

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, packet)) = bytes.split_first() else { return };
    let (names, view) = &*WORLD;
    let transport = if kind & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    let view = SandboxView { forward: kind & 2 == 0, ..view.clone() };
    let Answer::Reply(reply) = answer(packet, transport, &view, names, u64::from(*kind)) else {
        return;
    };
    let question = Message::from_vec(packet).ok();
    let message = Message::from_vec(&reply).expect("others can read it");
    assert_eq!(reply[..2], packet[..2], "it has the question's number");
    assert!(reply[2] & 0x80 != 0, "it is an answer");
    assert!(packet[2] & 0x80 == 0, "nobody answers an answer");
    let most = match (transport, question.as_ref().and_then(|question| question.edns.as_ref())) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, Some(edns)) => usize::from(edns.max_payload()).max(SHORT),
        // What others cannot read may say how much it takes.
        (Transport::Udp, None) if question.is_none() => usize::from(u16::MAX),
        (Transport::Udp, None) => SHORT,
    };
    assert!(reply.len() <= most, "{} bytes where {most} are taken", reply.len());
    if let Some(question) = question
        && !message.queries.is_empty()
    {
        assert_eq!(message.queries[0], question.queries[0], "it is about what was asked");
    }
});
