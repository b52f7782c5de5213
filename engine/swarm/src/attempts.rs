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

impl Attempts {
    /// Whether an address has an attempt left.
    pub(crate) fn allows(&mut self, from: IpAddr, now: Instant) -> bool {
        for failures in self.0.values_mut() {
            failures.retain(|failure| now.duration_since(*failure) < WINDOW);
        }
        self.0.retain(|_, failures| !failures.is_empty());
        let own = self.0.get(&from).map_or(0, Vec::len);
        own < EACH && self.0.values().map(Vec::len).sum::<usize>() < ALL
    }

    /// Notes one that failed.
    pub(crate) fn failed(&mut self, from: IpAddr, now: Instant) {
        self.0.entry(from).or_default().push(now);
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
    fn many_who_fail_together_use_up_what_there_is_for_all() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        for number in 0..ALL {
            let from = IpAddr::from(u128::try_from(number).unwrap().to_be_bytes());
            assert!(attempts.allows(from, start));
            attempts.failed(from, start);
        }
        assert!(!attempts.allows("192.0.2.1".parse().unwrap(), start));
        assert!(attempts.allows("192.0.2.1".parse().unwrap(), start + WINDOW));
    }
}
