//! How often one sandbox may ask outside: what is more waits a little, and what would wait too long is refused.
//!
//! Without a limit a container that asks for made-up names has the host send as many packets as it does, from
//! the host's address, to the host's resolvers.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many questions a second go outside for one sandbox, when it has asked more than [`BURST`].
pub(crate) const PER_SECOND: u32 = 2000;

/// How many go outside at once.
pub(crate) const BURST: u32 = 2000;

/// How long a question may wait for its time; the client gives up after five seconds.
const WAIT: Duration = Duration::from_secs(2);

/// The time from one question to the next.
const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / PER_SECOND as u64);

/// The questions that one sandbox asked outside, as the time at which all of them would be through, asked one
/// [`INTERVAL`] after the other (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug)]
pub(crate) struct Rate(Mutex<Instant>);

impl Rate {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(now))
    }

    /// How long the next question has to wait; nothing if that is too long, and then it does not count.
    pub(crate) fn next(&self, now: Instant) -> Option<Duration> {
        let mut through = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = (*through).max(now);
        let wait = due.saturating_duration_since(now + INTERVAL * (BURST - 1));
        if wait > WAIT {
            return None;
        }
        *through = due + INTERVAL;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_then_one_after_the_other() {
        let now = Instant::now();
        let rate = Rate::new(now);
        for _ in 0..BURST {
            assert_eq!(rate.next(now), Some(Duration::ZERO));
        }
        assert_eq!(rate.next(now), Some(INTERVAL));
        assert_eq!(rate.next(now), Some(INTERVAL * 2));
        assert_eq!(rate.next(now + INTERVAL * 3), Some(Duration::ZERO));
    }

    #[test]
    fn who_would_wait_too_long_is_refused_and_has_used_nothing_up() {
        let now = Instant::now();
        let rate = Rate::new(now);
        let admitted = std::iter::from_fn(|| rate.next(now)).count();
        let most = BURST + PER_SECOND * u32::try_from(WAIT.as_secs()).unwrap();
        assert_eq!(admitted, usize::try_from(most).unwrap());
        assert_eq!(rate.next(now), None);
        assert_eq!(rate.next(now + INTERVAL), Some(WAIT));
    }

    #[test]
    fn who_was_silent_has_no_more_than_a_burst() {
        let begun = Instant::now();
        let rate = Rate::new(begun);
        let now = begun + Duration::from_secs(3600);
        let at_once = std::iter::from_fn(|| rate.next(now).filter(Duration::is_zero)).count();
        assert_eq!(at_once, usize::try_from(BURST).unwrap());
    }
}
