//! Messages of whoever is on the LAN and says to be a DHCP server: an address that is taken can be used,
//! and its times are in order.
//!
//! A message is behind its length. They are all to us: what is not is not looked at further.
#![no_main]

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use cnm::Mac;
use drivers::dhcp::{Client, Destination, Port};
use libfuzzer_sys::fuzz_target;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const TRANSACTION: u32 = 0x1234_5678;

struct Lan(VecDeque<Vec<u8>>);

impl Port for Lan {
    fn send(&mut self, message: &[u8], _to: Destination) -> io::Result<()> {
        assert!((300..=1472).contains(&message.len()));
        Ok(())
    }

    fn receive(&mut self, _until: Instant) -> io::Result<Option<(Mac, Vec<u8>)>> {
        match self.0.pop_front() {
            Some(message) => Ok(Some((Mac::from([2, 0, 0, 0, 0, 1]), message))),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The fixed fields, addressed to us; what the server gives is the input's.
fn message(yours: &[u8], options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[..3].copy_from_slice(&[2, 1, 6]);
    bytes[4..8].copy_from_slice(&TRANSACTION.to_be_bytes());
    bytes[16..16 + yours.len()].copy_from_slice(yours);
    bytes[28..34].copy_from_slice(&MAC);
    // Fields that options may go on in.
    let field = options.len().min(192);
    bytes[44..44 + field].copy_from_slice(&options[..field]);
    bytes.extend([99, 130, 83, 99]);
    bytes.extend(options);
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let mut lan = Lan(VecDeque::new());
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first() {
        let (one, after) = after.split_at(usize::from(*length).min(after.len()));
        let (yours, options) = one.split_at(one.len().min(4));
        lan.0.push_back(message(yours, options));
        rest = after;
    }
    let mut client = Client::new(&mut lan, Mac::from(MAC), TRANSACTION);
    let Ok(lease) = client.acquire(None, Duration::from_secs(1)) else { return };
    let address = lease.address.ip();
    assert!(!address.is_unspecified() && !address.is_multicast() && !address.is_loopback());
    assert!(
        lease.gateway.is_none_or(|gateway| !gateway.is_unspecified() && !gateway.is_multicast())
    );
    let terms = lease.terms;
    assert!(terms.renew <= terms.rebind && terms.rebind <= terms.total && terms.total > 0);
});
