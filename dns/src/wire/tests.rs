//! Messages as bytes: what is looked at, and what is left alone.

use hickory_proto::op::{self, Message, MessageType, OpCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;

fn query(name: &str, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(op::Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    if let Some(payload) = payload {
        let mut edns = op::Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn answer(name: &str, ttls: &[u32]) -> Vec<u8> {
    let mut message = Message::new(9, MessageType::Response, OpCode::Query);
    let owner = Name::from_ascii(name).unwrap();
    message.add_query(op::Query::query(owner.clone(), RecordType::A));
    for ttl in ttls {
        let data = RData::A(A::new(192, 0, 2, 1));
        message.add_answer(Record::from_rdata(owner.clone(), *ttl, data));
    }
    message.set_edns(op::Edns::new());
    message.to_vec().unwrap()
}

fn negative(ttl: u32, minimum: u32) -> Vec<u8> {
    let mut message = Message::from_vec(&answer("a.", &[])).unwrap();
    let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
    message.add_authority(Record::from_rdata(Name::root(), ttl, RData::SOA(soa)));
    message.to_vec().unwrap()
}

fn ttls(answer: &[u8]) -> Vec<u32> {
    Message::from_vec(answer).unwrap().answers.iter().map(|record| record.ttl).collect()
}

#[test]
fn equal_questions_have_equal_keys() {
    let key = |bytes: &[u8]| Query::parse(bytes).unwrap().key();
    let plain = query("example.org.", None);
    assert_eq!(key(&plain), key(&query("EXAMPLE.org.", None)));
    let mut other_id = plain.clone();
    set_id(&mut other_id, 1000);
    assert_eq!(key(&plain), key(&other_id));
    assert_eq!(key(&query("a.", Some(512))), key(&query("a.", Some(4096))));
    assert_ne!(key(&plain), key(&query("example.org.", Some(512))));
    assert_ne!(key(&plain), key(&query("example.net.", None)));
    let mut checking_disabled = plain.clone();
    checking_disabled[3] |= 0x10;
    assert_ne!(key(&plain), key(&checking_disabled));
}

#[test]
fn a_question_with_dnssec_has_a_key_of_its_own() {
    let mut message = Message::from_vec(&query("a.", Some(1232))).unwrap();
    let without = message.to_vec().unwrap();
    message.edns.as_mut().unwrap().set_dnssec_ok(true);
    let with = message.to_vec().unwrap();
    assert_ne!(Query::parse(&without).unwrap().key(), Query::parse(&with).unwrap().key());
}

#[test]
fn only_an_answer_to_the_same_question_with_the_id_is_one() {
    let bytes = query("example.org.", None);
    let query = Query::parse(&bytes).unwrap();
    assert!(query.is_answered_by(9, &answer("Example.ORG.", &[1])));
    assert!(!query.is_answered_by(8, &answer("example.org.", &[1])));
    assert!(!query.is_answered_by(9, &answer("example.net.", &[1])));
    assert!(!query.is_answered_by(7, &bytes));
    assert!(!query.is_answered_by(9, &answer("example.org.", &[1])[..20]));
}

#[test]
fn ttls_count_down_and_nothing_else_changes() {
    let before = answer("example.org.", &[300, 10]);
    let mut after = before.clone();
    map_ttls(&mut after, |ttl| ttl.saturating_sub(20));
    assert_eq!(ttls(&after), [280, 0]);
    map_ttls(&mut after, |ttl| if ttl == 0 { 10 } else { ttl + 20 });
    assert_eq!(after, before);
}

#[test]
fn an_answer_lives_as_long_as_its_shortest_record() {
    assert_eq!(lifetime(&answer("a.", &[300, 10])), Some(10));
    assert_eq!(lifetime(&negative(300, 60)), Some(60));
    assert_eq!(lifetime(&negative(30, 60)), Some(30));
    assert_eq!(lifetime(&answer("a.", &[])), None, "negative without a SOA record");
    let mut failed = answer("a.", &[300]);
    failed[3] |= 2;
    assert_eq!(lifetime(&failed), None);
    let mut truncated = answer("a.", &[300]);
    truncated[2] |= 2;
    assert_eq!(lifetime(&truncated), None);
}

#[test]
fn a_cut_answer_keeps_whole_records_and_its_opt_record() {
    let bytes = query("example.org.", Some(512));
    let query = Query::parse(&bytes).unwrap();
    let mut long = answer("example.org.", &[300; 100]);
    query.cut(&mut long, 512);
    let message = Message::from_vec(&long).unwrap();
    assert!(long.len() <= 512 && message.metadata.truncation);
    assert!(message.answers.len() > 25 && message.edns.is_some());
    let mut short = answer("example.org.", &[300]);
    let before = short.clone();
    query.cut(&mut short, 512);
    assert_eq!(short, before);
}

#[test]
fn an_opt_record_that_is_longer_than_the_client_takes_is_left_out() {
    let bytes = query("example.org.", Some(512));
    let mut long = answer("example.org.", &[300]);
    let root = long.len() - 11;
    assert_eq!(long[root..root + 3], [0, 0, 41], "the last record is that");
    long[root + 9..].copy_from_slice(&600_u16.to_be_bytes());
    long.extend([0; 600]);
    long[..2].copy_from_slice(&bytes[..2]);
    let (reply, _) = passed_on(&bytes, &long).unwrap();
    let message = Message::from_vec(&reply).unwrap();
    assert!(reply.len() <= 512 && message.metadata.truncation && message.edns.is_none());
}

#[test]
fn two_opt_records_are_one_too_many() {
    let mut bytes = query("a.", Some(512));
    let opt = bytes[bytes.len() - 11..].to_vec();
    bytes.extend(opt);
    bytes[11] = 2;
    assert_eq!(Query::parse(&bytes), Err(Rejection::Code(ResponseCode::FormErr)));
}

#[test]
fn a_compressed_or_endless_name_is_no_question() {
    let mut bytes = query("a.", None);
    bytes[12] = 0xc0;
    assert_eq!(Query::parse(&bytes), Err(Rejection::Code(ResponseCode::FormErr)));
    let long = format!("{}.", "a.".repeat(200));
    let mut bytes = query("a.", None);
    let name: Vec<u8> = long.split('.').flat_map(|_| [1, b'a']).chain([0]).collect();
    bytes.splice(12..15, name);
    assert_eq!(Query::parse(&bytes), Err(Rejection::Code(ResponseCode::FormErr)));
}

proptest! {
    #[test]
    fn no_answer_is_too_strange(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        limit in 0usize..600,
    ) {
        let query_bytes = query("example.org.", Some(512));
        let query = Query::parse(&query_bytes).unwrap();
        let _ = (lifetime(&bytes), is_negative(&bytes), query.is_answered_by(1, &bytes));
        let mut changed = bytes;
        map_ttls(&mut changed, |ttl| ttl / 2);
        query.adopt(&mut changed);
        query.cut(&mut changed, limit);
    }

    #[test]
    fn a_damaged_answer_is_not_too_strange(at: usize, byte: u8, cut: usize, limit in 30usize..600) {
        let query_bytes = query("example.org.", Some(512));
        let query = Query::parse(&query_bytes).unwrap();
        let mut bytes = answer("example.org.", &[1, 2, 3]);
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - cut % length);
        let _ = lifetime(&bytes);
        map_ttls(&mut bytes, |ttl| ttl / 2);
        query.adopt(&mut bytes);
        query.cut(&mut bytes, limit);
    }
}
