//! The client against a server that is a queue of answers, written and read by another library.
#![expect(clippy::unnecessary_wraps, reason = "answers of a script, of which some are none")]

use std::collections::VecDeque;

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode};
use dhcproto::{Decodable, Decoder, Encodable};
use proptest::prelude::*;

use super::*;

const TRANSACTION: u32 = 0x1234_5678;
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
const LIMIT: Duration = Duration::from_millis(50);

fn mac() -> Mac {
    Mac::from([2, 0, 0, 0, 0, 7])
}

/// Answers each message by what the next of its answers makes of it.
#[derive(Default)]
struct Script {
    answers: VecDeque<fn(&Message) -> Option<Message>>,
    arrived: VecDeque<Vec<u8>>,
    said: Vec<(Option<MessageType>, Destination)>,
}

impl Script {
    fn new(answers: &[fn(&Message) -> Option<Message>]) -> Self {
        Self { answers: answers.iter().copied().collect(), ..Self::default() }
    }

    fn client(&mut self) -> Client<'_> {
        Client::new(self, mac(), TRANSACTION)
    }
}

impl Port for Script {
    fn send(&mut self, message: &[u8], to: Destination) -> io::Result<()> {
        let message = Message::decode(&mut Decoder::new(message)).unwrap();
        self.said.push((message.opts().msg_type(), to));
        let answer = self.answers.pop_front().and_then(|answer| answer(&message));
        self.arrived.extend(answer.map(|answer| answer.to_vec().unwrap()));
        Ok(())
    }

    fn receive(&mut self, _until: Instant) -> io::Result<Option<(Mac, Vec<u8>)>> {
        Ok(self.arrived.pop_front().map(|bytes| (Mac::from([2, 0, 0, 0, 0, 1]), bytes)))
    }
}

fn reply(to: &Message, kind: MessageType, options: &[DhcpOption]) -> Message {
    let (none, own) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(192, 168, 7, 50));
    let mut message = Message::new_with_id(to.xid(), none, own, none, none, to.chaddr());
    message.set_opcode(Opcode::BootReply);
    let common = [DhcpOption::MessageType(kind), DhcpOption::ServerIdentifier(SERVER)];
    for option in common.into_iter().chain(options.iter().cloned()) {
        message.opts_mut().insert(option);
    }
    message
}

fn offer(to: &Message) -> Option<Message> {
    Some(reply(to, MessageType::Offer, &[]))
}

fn ack(to: &Message) -> Option<Message> {
    let options = [
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::Router(vec![SERVER]),
        DhcpOption::AddressLeaseTime(800),
    ];
    Some(reply(to, MessageType::Ack, &options))
}

fn nak(to: &Message) -> Option<Message> {
    Some(reply(to, MessageType::Nak, &[]))
}

fn of_another(to: &Message) -> Option<Message> {
    let mut answer = offer(to)?;
    answer.set_xid(to.xid() + 1);
    Some(answer)
}

#[test]
fn an_offer_is_taken_and_what_was_lent_is_read() {
    let mut server = Script::new(&[offer, ack]);
    let lease = server.client().acquire(None, LIMIT).unwrap();
    assert_eq!(lease.address.to_string(), "192.168.7.50/24");
    assert_eq!((lease.gateway, lease.server), (Some(SERVER), SERVER));
    assert_eq!(lease.terms, Terms { renew: 400, rebind: 700, total: 800 });
    let kinds: Vec<_> = server.said.iter().filter_map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [MessageType::Discover, MessageType::Request]);
}

#[test]
fn an_answer_to_somebody_else_is_no_answer() {
    let mut server = Script::new(&[of_another]);
    let error = server.client().acquire(None, LIMIT).unwrap_err();
    assert!(matches!(error, DhcpError::Silence { .. }), "{error}");
}

#[test]
fn a_server_that_thinks_better_of_it_is_asked_again() {
    let mut server = Script::new(&[offer, nak, offer, ack]);
    server.client().acquire(Some(Ipv4Addr::new(192, 168, 7, 9)), LIMIT).unwrap();
    assert_eq!(server.said.len(), 4);
}

#[test]
fn more_time_is_asked_of_the_lender_and_later_of_anybody() {
    let mut server = Script::new(&[offer, ack, ack, ack, nak]);
    let lease = server.client().acquire(None, LIMIT).unwrap();
    let own = lease.address.ip();
    server.client().extend(&lease, Whom::Lender, LIMIT).unwrap();
    server.client().extend(&lease, Whom::Anybody, LIMIT).unwrap();
    let refused = server.client().extend(&lease, Whom::Lender, LIMIT).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the DHCP server 192.168.7.1 does not lend 192.168.7.50 any more"
    );
    server.client().release(&lease).unwrap();
    let to: Vec<_> = server.said[2..].iter().map(|(_, to)| (to.source, to.address)).collect();
    let (direct, all) = ((own, SERVER), (own, Ipv4Addr::BROADCAST));
    assert_eq!(to, [direct, all, direct, direct]);
    assert_eq!(server.said.last().unwrap().0, Some(MessageType::Release));
}

#[test]
fn routes_of_their_own_go_over_the_router() {
    fn routed(to: &Message) -> Option<Message> {
        let mut answer = ack(to)?;
        let via = Ipv4Addr::new(192, 168, 7, 2);
        let everywhere = "0.0.0.0/0".parse().unwrap();
        answer.opts_mut().insert(DhcpOption::ClasslessStaticRoute(vec![(everywhere, via)]));
        Some(answer)
    }
    let lease = Script::new(&[offer, routed]).client().acquire(None, LIMIT).unwrap();
    assert_eq!(lease.gateway, Some(Ipv4Addr::new(192, 168, 7, 2)));
}

#[test]
fn terms_that_contradict_each_other_are_set_right() {
    let check = |total, renew, rebind, expected: [u32; 3]| {
        let Terms { renew, rebind, total } = Terms::of(total, renew, rebind);
        assert_eq!([renew, rebind, total], expected);
    };
    check(120, None, None, [60, 105, 120]);
    check(120, Some(2), Some(4), [2, 4, 120]);
    check(120, Some(500), Some(600), [60, 105, 120]);
    check(u32::MAX, None, None, [u32::MAX / 2, u32::MAX - u32::MAX / 8, u32::MAX]);
    check(0, None, None, [0, 1, 1]);
}

proptest! {
    #[test]
    fn whatever_arrives_is_read_without_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        at in 0..600_usize,
    ) {
        let whole = ack(&Message::new_with_id(
            TRANSACTION, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED, &mac().octets(),
        ));
        let mut damaged = whole.unwrap().to_vec().unwrap();
        damaged.truncate(at.max(1));
        damaged.extend(&bytes);
        for bytes in [bytes, damaged] {
            if let Some(Answer::Lent(lease)) = message::read(&bytes, mac(), TRANSACTION, mac()) {
                prop_assert!(lease.terms.renew <= lease.terms.rebind);
                prop_assert!(lease.terms.rebind <= lease.terms.total);
            }
        }
    }
}
