//! The cache, with a clock of our own.

use std::net::Ipv4Addr;

use hickory_proto::op::{self, Message, MessageType, OpCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;

fn key(question: u32) -> Arc<Key> {
    let upstreams: Arc<[SocketAddr]> = Arc::new([]);
    Arc::new(Key { upstreams, question: question.to_be_bytes().to_vec() })
}

fn answer(ttl: u32) -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Response, OpCode::Query);
    message.add_query(op::Query::query(Name::root(), RecordType::A));
    message.add_answer(Record::from_rdata(Name::root(), ttl, RData::A(A(Ipv4Addr::LOCALHOST))));
    message.to_vec().unwrap()
}

fn ttl(answer: &[u8]) -> u32 {
    Message::from_vec(answer).unwrap().answers[0].ttl
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn an_answer_counts_down_and_ends() {
    let (mut cache, start) = (Cache::new(100_000), Instant::now());
    cache.put(&key(1), &answer(100), start);
    assert_eq!(ttl(&cache.fresh(&key(1), start + seconds(30)).unwrap()), 70);
    assert_eq!(cache.fresh(&key(1), start + seconds(100)), None);
    assert_eq!(cache.fresh(&key(2), start), None);
}

#[test]
fn an_old_answer_is_there_for_a_day() {
    let (mut cache, start) = (Cache::new(100_000), Instant::now());
    cache.put(&key(1), &answer(100), start);
    assert_eq!(ttl(&cache.stale(&key(1), start + seconds(1000)).unwrap()), 30);
    assert_eq!(cache.stale(&key(1), start + seconds(100) + STALE_MAX), None);
}

#[test]
fn nothing_is_kept_for_more_than_an_hour() {
    let (mut cache, start) = (Cache::new(100_000), Instant::now());
    cache.put(&key(1), &answer(1_000_000), start);
    assert_eq!(ttl(&cache.fresh(&key(1), start).unwrap()), 3600);
    assert_eq!(cache.fresh(&key(1), start + seconds(3600)), None);
}

#[test]
fn an_answer_for_this_once_is_not_kept() {
    let (mut cache, start) = (Cache::new(100_000), Instant::now());
    cache.put(&key(1), &answer(0), start);
    assert!(!cache.has_stale(&key(1)));
}

#[test]
fn the_least_used_answer_makes_room() {
    let (mut cache, start) = (Cache::new(4000), Instant::now());
    let mut kept = 0;
    for number in 0..100 {
        cache.put(&key(number), &answer(100), start);
        assert!(cache.bytes <= 4000 && cache.entries.len() == cache.order.len());
        if cache.fresh(&key(0), start).is_some() {
            kept += 1;
        }
    }
    assert_eq!(kept, 100, "used again and again");
    assert!(cache.fresh(&key(1), start).is_none() && cache.fresh(&key(99), start).is_some());
}

#[test]
fn another_answer_to_the_same_question_replaces_the_first() {
    let (mut cache, start) = (Cache::new(4000), Instant::now());
    for _ in 0..100 {
        cache.put(&key(1), &answer(100), start);
    }
    assert_eq!((cache.entries.len(), cache.order.len()), (1, 1));
    assert!(cache.bytes < 1000);
}
