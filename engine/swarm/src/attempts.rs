//! How often somebody may show a wrong token.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long an attempt counts.
const WINDOW: Duration = Duration::from_secs(60);

/// How many attempts one address has.
const EACH: usize = 10;

/// How many all have together.
const ALL: usize = 200;

/// Attempts that failed, not long ago.
#[derive(Debug, Default)]
pub(crate) struct Attempts(BTreeMap<IpAddr, Vec<Instant>>);

/// Who counts as one: whoever has an IPv6 address has a network of them (RFC 6177).
fn one(from: IpAddr) -> IpAddr {
    const NETWORK: u128 = u128::MAX << 64;
    match from.to_canonical() {
        IpAddr::V6(address) => IpAddr::from((u128::from(address) & NETWORK).to_be_bytes()),
        ipv4 @ IpAddr::V4(_) => ipv4,
    }
}

impl Attempts {
    /// Whether an address has an attempt left.
    pub(crate) fn allows(&mut self, from: IpAddr, now: Instant) -> bool {
        for failures in self.0.values_mut() {
            failures.retain(|failure| now.duration_since(*failure) < WINDOW);
        }
        self.0.retain(|_, failures| !failures.is_empty());
        let own = self.0.get(&one(from)).map_or(0, Vec::len);
        own < EACH && self.0.values().map(Vec::len).sum::<usize>() < ALL
    }

    /// Notes one that failed.
    pub(crate) fn failed(&mut self, from: IpAddr, now: Instant) {
        self.0.entry(one(from)).or_default().push(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_too_often_waits_and_others_do_not() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let [bad, good] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        for _ in 0..EACH {
            assert!(attempts.allows(bad, start));
            attempts.failed(bad, start);
        }
        assert!(!attempts.allows(bad, start));
        assert!(attempts.allows(good, start));
        assert!(attempts.allows(bad, start + WINDOW));
    }

    #[test]
    fn who_has_a_network_of_addresses_has_no_more_attempts() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for number in 0..EACH {
            attempts.failed(address(&format!("2001:db8::{number}")), start);
        }
        assert!(!attempts.allows(address("2001:db8::abcd:1"), start));
        assert!(attempts.allows(address("2001:db8:0:1::1"), start));
        // As IPv4 arrives at a socket for both.
        attempts.failed(address("::ffff:192.0.2.1"), start);
        assert_eq!(attempts.0.get(&address("192.0.2.1")).map(Vec::len), Some(1));
    }

    #[test]
    fn many_who_fail_together_use_up_what_there_is_for_all() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        for number in 0..ALL {
            let from = IpAddr::from((u128::try_from(number).unwrap() << 64).to_be_bytes());
            assert!(attempts.allows(from, start));
            attempts.failed(from, start);
        }
        assert!(!attempts.allows("192.0.2.1".parse().unwrap(), start));
        assert!(attempts.allows("192.0.2.1".parse().unwrap(), start + WINDOW));
    }
}
