//! That the kernel killed a process of the container for want of memory, told as it happens.
//!
//! The cgroup's counter of such kills says whether it happened; the kernel tells when to look at it.
//! Of cgroup v2 that is a change of `memory.events` (Documentation/admin-guide/cgroup-v2.rst), of v1 an
//! eventfd registered for `memory.oom_control` (Documentation/admin-guide/cgroup-v1/memory.rst). The
//! latter is told just before the kill.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// How long after the kernel's word the counter is looked at.
const FOLLOWS: Duration = Duration::from_secs(1);

/// The kills of one container.
#[derive(Debug)]
pub(super) struct Shortage {
    /// The file with the counter; none on a host without such cgroups.
    counter: Option<PathBuf>,
    notices: Option<Notices>,
    /// The kernel's last word of something that the counter does not show yet.
    announced: Option<Instant>,
    /// The kills that watchers know of.
    told: u64,
}

/// Where the kernel's word comes from.
#[derive(Debug)]
enum Notices {
    Registered(EventFd),
    Changes(Inotify),
}

impl Shortage {
    pub(super) fn new(counter: Option<PathBuf>) -> Self {
        Self { counter, notices: None, announced: None, told: 0 }
    }

    /// Has the kernel tell of kills from now on. The cgroup is there.
    pub(super) fn begin(&mut self) {
        // Without notices it is known at the latest when the container ends.
        self.notices = self.counter.as_deref().and_then(|counter| Notices::of(counter).ok());
    }

    /// What becomes readable when there may be something to look at.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.notices.as_ref().map(|notices| match notices {
            Notices::Registered(events) => events.as_fd(),
            Notices::Changes(changes) => changes.as_fd(),
        })
    }

    /// Takes the kernel's word.
    pub(super) fn hear(&mut self, now: Instant) {
        self.announced = Some(now);
        let heard = match &self.notices {
            Some(Notices::Registered(events)) => events.read().is_ok(),
            Some(Notices::Changes(changes)) => changes.read_events().is_ok(),
            None => return,
        };
        // A removed cgroup has nothing more to say, and would say it for ever.
        if !heard || !self.counter.as_deref().is_some_and(Path::exists) {
            self.notices = None;
        }
    }

    /// Whether the counter is to be looked at before long.
    pub(super) fn is_announced(&self) -> bool {
        self.announced.is_some()
    }

    /// How often the kernel has killed a process of the container.
    pub(super) fn count(&self) -> u64 {
        let Some(path) = &self.counter else { return 0 };
        let text = fs::read_to_string(path).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Whether there is something to tell: kills that nobody was told of.
    pub(super) fn is_news(&mut self, kills: u64, now: Instant) -> bool {
        let is_late = |heard: Instant| now.duration_since(heard) > FOLLOWS;
        if kills > self.told || self.announced.is_some_and(is_late) {
            self.announced = None;
        }
        let is_news = kills > self.told;
        self.told = self.told.max(kills);
        is_news
    }
}

impl Notices {
    fn of(counter: &Path) -> io::Result<Self> {
        if counter.file_name().is_some_and(|name| name == "memory.oom_control") {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            let events = EventFd::from_flags(flags)?;
            let file = File::open(counter)?;
            let line = format!("{} {}", events.as_fd().as_raw_fd(), file.as_raw_fd());
            fs::write(counter.with_file_name("cgroup.event_control"), line)?;
            return Ok(Self::Registered(events));
        }
        let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        changes.add_watch(counter, AddWatchFlags::IN_MODIFY)?;
        Ok(Self::Changes(changes))
    }
}
