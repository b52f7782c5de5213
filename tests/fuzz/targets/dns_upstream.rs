//! Answers of upstreams: what is passed on is what the client asked, is no longer than the client takes,
//! and can be read where the answer could. Beside it, what a host's `resolv.conf` names.
//!
//! The first byte says how long the question is; the answer follows.
#![no_main]

use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first() else { return };
    let servers = dns::resolvers(&String::from_utf8_lossy(rest), 53);
    assert!(servers.len() <= 8 && servers.iter().all(|server| server.port() == 53));
    let (query, answer) = rest.split_at(usize::from(*length).min(rest.len()));
    let Some((reply, lifetime)) = dns::passed_on(query, answer) else { return };
    assert_eq!(reply[..2], query[..2], "it has the question's number");
    let asked = Message::from_vec(query).ok();
    let takes = asked
        .as_ref()
        .and_then(|asked| asked.edns.as_ref())
        .map_or(512, |edns| edns.max_payload().max(512));
    if asked.is_some() {
        assert!(reply.len() <= usize::from(takes), "{} bytes where {takes} are taken", reply.len());
    }
    if let (Some(asked), Ok(_)) = (asked, Message::from_vec(answer)) {
        let reply = Message::from_vec(&reply).expect("others can read it");
        assert_eq!(reply.queries.first(), asked.queries.first(), "it is about what was asked");
    }
    assert!(lifetime.is_none() || answer.len() >= 12);
});
