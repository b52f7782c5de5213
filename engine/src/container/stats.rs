//! `stats`: what a container uses of the host, at one moment.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::live::{Live, Progress};
use super::{Container, Containers};
use engine_error::Result;
use runtime::Usage;

/// What a container has used at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// When.
    pub time: DateTime<Utc>,
    /// What its cgroup has used.
    pub usage: Usage,
    /// What went over each of its interfaces, where it has a network namespace to tell of.
    pub networks: BTreeMap<String, Interface>,
    /// Time that all processors of the host were in use, or idle, in nanoseconds.
    pub system: u64,
    /// How many processors there are.
    pub processors: u32,
    /// The host's memory in bytes.
    pub memory: u64,
}

/// What went over an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// What came in.
    pub received: Traffic,
    /// What went out.
    pub sent: Traffic,
}

/// Traffic in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were wrong.
    pub errors: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

/// A container whose use is watched.
#[derive(Clone, Debug)]
pub struct Watched {
    live: Arc<Live>,
    progress: watch::Receiver<Progress>,
}

/// The host counts time on processors in such parts of a second.
const TICK: u64 = 1_000_000_000 / 100;

impl Containers {
    /// A container to take samples of.
    pub fn watch_usage(&self, key: &str) -> Result<Watched> {
        let live = self.registry.find(key)?;
        let progress = live.progress.subscribe();
        Ok(Watched { live, progress })
    }

    /// What a container uses now; nothing of one without a process. Blocks, and not for long.
    pub fn sample(&self, container: &Container) -> Option<Sample> {
        if !container.state.has_process() {
            return None;
        }
        let cgroup = self.runner.cgroup(&container.spec.cgroup_parent, &container.id);
        let (system, processors) = host_time(&read("/proc/stat"));
        Some(Sample {
            time: Utc::now(),
            usage: self.runner.host.cgroups.usage(&cgroup),
            networks: networks(container),
            system,
            processors,
            memory: runtime::host::memory(),
        })
    }
}

impl Watched {
    /// The container as it is now.
    pub fn container(&self) -> Arc<Container> {
        self.live.get()
    }

    /// Whether it is there no more.
    pub fn is_removed(&self) -> bool {
        self.progress.borrow().removed
    }

    /// Waits until it is there no more.
    pub async fn removed(&mut self) {
        // Without whoever could remove it, there is nothing more to wait for either.
        let _ = self.progress.wait_for(|progress| progress.removed).await;
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The interfaces of a container that is not in the host's namespace.
fn networks(container: &Container) -> BTreeMap<String, Interface> {
    if container.sandbox.is_none() && container.joined.is_none() {
        return BTreeMap::new();
    }
    // The process sees its own namespace there, whoever reads.
    interfaces(&read(&format!("/proc/{}/net/dev", container.state.pid)))
}

/// The lines of `/proc/PID/net/dev`, without loopback.
fn interfaces(text: &str) -> BTreeMap<String, Interface> {
    let one = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> =
            figures.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let traffic = |from: usize| {
            let [bytes, packets, errors, dropped] = *figures.get(from..from + 4)? else {
                return None;
            };
            Some(Traffic { bytes, packets, errors, dropped })
        };
        Some((name.trim().to_owned(), Interface { received: traffic(0)?, sent: traffic(8)? }))
    };
    text.lines().filter_map(one).filter(|(name, _)| name != "lo").collect()
}

/// The time that the host's processors have spent, and how many they are, of `/proc/stat`.
fn host_time(text: &str) -> (u64, u32) {
    let mut lines = text.lines();
    let all = lines.next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: u64 = all.split_whitespace().take(7).filter_map(|t| t.parse::<u64>().ok()).sum();
    let processors = lines.take_while(|line| line.starts_with("cpu")).count();
    (ticks.saturating_mul(TICK), u32::try_from(processors).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_told_without_loopback() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes\n    \
                    lo:       1    1    0    0    0     0          0         0        1       1\n  \
                    eth0: 572 6 1 2 0 0 0 0 84 2 3 4 0 0 0 0\n";
        let known = interfaces(text);
        assert_eq!(known.keys().collect::<Vec<_>>(), ["eth0"]);
        let Interface { received, sent } = &known["eth0"];
        assert_eq!((received.bytes, received.packets, received.dropped), (572, 6, 2));
        assert_eq!((sent.bytes, sent.errors, sent.dropped), (84, 3, 4));
    }

    #[test]
    fn the_time_of_the_host_is_that_of_all_processors() {
        let text = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\ncpu 3\n";
        assert_eq!(host_time(text), (28 * TICK, 2));
        assert_eq!(host_time(""), (0, 0));
    }
}
