//! Addresses that are lent, by a server in memory: what takes minutes with a real one.

use std::net::Ipv4Addr;
use std::time::Instant;

use cnm::Mac;
use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode};
use dhcproto::{Decodable, Decoder, Encodable};
use drivers::dhcp::{Destination, Port};

use super::*;

/// Lends one address to whoever asks, or says nothing.
#[derive(Debug, Default)]
pub(super) struct Server {
    lends: Mutex<Option<(Ipv4Addr, u32)>>,
    heard: Mutex<Vec<MessageType>>,
}

impl Server {
    fn lend(&self, address: &str, seconds: u32) {
        *self.lends.lock().unwrap() = Some((address.parse().unwrap(), seconds));
    }

    fn hush(&self) {
        *self.lends.lock().unwrap() = None;
    }

    fn heard(&self, kind: MessageType) -> usize {
        self.heard.lock().unwrap().iter().filter(|heard| **heard == kind).count()
    }

    fn answer(&self, message: &Message) -> Option<Message> {
        let kind = message.opts().msg_type().unwrap();
        self.heard.lock().unwrap().push(kind);
        let (address, seconds) = (*self.lends.lock().unwrap())?;
        let has = message.ciaddr();
        let kind = match kind {
            MessageType::Discover => MessageType::Offer,
            MessageType::Request if has.is_unspecified() || has == address => MessageType::Ack,
            MessageType::Request => MessageType::Nak,
            _ => return None,
        };
        let none = Ipv4Addr::UNSPECIFIED;
        let chaddr = message.chaddr();
        let mut answer = Message::new_with_id(message.xid(), none, address, none, none, chaddr);
        answer.set_opcode(Opcode::BootReply);
        let router = Ipv4Addr::new(10, 77, 0, 1);
        for option in [
            DhcpOption::MessageType(kind),
            DhcpOption::ServerIdentifier(router),
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 0, 0)),
            DhcpOption::Router(vec![router]),
            DhcpOption::AddressLeaseTime(seconds),
        ] {
            answer.opts_mut().insert(option);
        }
        Some(answer)
    }
}

/// The way to a server.
#[derive(Debug)]
pub(super) struct Way(pub(super) Arc<Server>, pub(super) Vec<Vec<u8>>);

impl Port for Way {
    fn send(&mut self, message: &[u8], _to: Destination) -> std::io::Result<()> {
        let message = Message::decode(&mut Decoder::new(message)).unwrap();
        self.1.extend(self.0.answer(&message).map(|answer| answer.to_vec().unwrap()));
        Ok(())
    }

    fn receive(&mut self, _until: Instant) -> std::io::Result<Option<(Mac, Vec<u8>)>> {
        Ok(self.1.pop().map(|answer| (Mac::from([2, 0, 0, 0, 0, 1]), answer)))
    }
}

fn lan(networks: &Networks) -> Arc<Network> {
    let (name, ipam_driver) = ("lan".to_owned(), "dhcp".to_owned());
    networks.create(&NetworkSpec { name, ipam_driver, ..NetworkSpec::default() }).unwrap().0
}

fn on(network: &Network) -> SandboxSpec {
    SandboxSpec { ports: Vec::new(), ..spec("a", network, 0) }
}

/// The addresses and gateways of a sandbox's only endpoint.
fn has(networks: &Networks, sandbox: &SandboxId) -> String {
    let endpoints = networks.sandbox(sandbox).unwrap().1;
    let [endpoint] = &endpoints[..] else { panic!("{endpoints:?}") };
    let addresses = endpoint.addresses.iter().map(ToString::to_string);
    let gateways = endpoint.gateways.iter().map(|gateway| format!("via {gateway}"));
    addresses.chain(gateways).collect::<Vec<_>>().join(" ")
}

/// Keeps what is lent, as containers follow it.
fn keep(networks: &Arc<Networks>) {
    let follower = Arc::downgrade(networks);
    let renumber = move |sandbox: &SandboxId, network: &NetworkId, lent| {
        let networks = follower.upgrade().unwrap();
        let change = networks.begin_renumber(sandbox, network, lent)?;
        let names = names_of(&change);
        drop(networks.apply(&change, &names, &|| ())?);
        networks.finish(change, Batch::default());
        Ok(())
    };
    networks.keep_leases(Box::new(renumber)).unwrap();
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn an_address_that_is_not_lent_any_more_is_not_used_any_more() {
    let site = Site::default();
    let server = &site.kernel.server;
    server.lend("10.77.1.50", 1);
    let networks = Arc::new(site.open());
    let lan = lan(&networks);
    let a = start(&networks, &on(&lan));
    assert_eq!(has(&networks, &a), "10.77.1.50/16 via 10.77.0.1");
    server.hush();
    keep(&networks);
    wait_until("its time is over", || has(&networks, &a).is_empty());
    assert_eq!(site.observed(), networks.controller().desired());
    server.lend("10.77.1.60", 3600);
    wait_until("another is lent", || has(&networks, &a) == "10.77.1.60/16 via 10.77.0.1");
    wait_until("the kernel has it", || site.observed() == networks.controller().desired());
    networks.close(&a, Batch::default()).unwrap();
    assert_eq!(server.heard(MessageType::Release), 1);
}

#[test]
fn what_ran_out_while_no_daemon_was_there_is_asked_for_by_the_next() {
    let site = Site::default();
    let server = &site.kernel.server;
    server.lend("10.77.1.50", 1);
    let networks = site.open();
    let a = start(&networks, &on(&lan(&networks)));
    drop(networks);
    server.lend("10.77.1.70", 3600);
    let asked = server.heard(MessageType::Request);
    let networks = Arc::new(site.open());
    keep(&networks);
    wait_until("the endpoint follows", || has(&networks, &a) == "10.77.1.70/16 via 10.77.0.1");
    assert!(server.heard(MessageType::Request) > asked);
}

#[test]
fn what_a_change_that_failed_was_lent_is_given_back() {
    let site = Site::default();
    let server = &site.kernel.server;
    server.lend("10.77.1.50", 3600);
    let networks = site.open();
    let lan = lan(&networks);
    let a = start(&networks, &on(&lan));
    // A server that lends an address twice is not believed, and has it back.
    let error =
        networks.begin_open(&SandboxSpec { owner: "b".to_owned(), ..on(&lan) }, None).unwrap_err();
    assert!(error.to_string().contains("10.77.1.50"), "{error}");
    assert_eq!(server.heard(MessageType::Release), 1);
    networks.close(&a, Batch::default()).unwrap();
    let change = networks.begin_open(&on(&lan), None).unwrap();
    networks.abandon(change);
    assert_eq!(server.heard(MessageType::Release), 3);
    // The key of what is held goes with it.
    assert_eq!(Store::list(&*site.store, "dhcp/").unwrap(), []);
}
