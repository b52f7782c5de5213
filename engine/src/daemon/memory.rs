//! Memory that is free goes back to the kernel.
//!
//! glibc keeps what was freed for the threads that share an arena, and makes up to eight of those for each
//! processor. A container with ten thousand ports takes 100 MiB for a moment, in whichever arena, and without
//! a word they would stay the daemon's for good. What is mapped of the program itself is let go of as well
//! ([`resident`](shim::resident)), for a start uses most of it, and what follows a small part.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "mallopt, malloc_trim and mallinfo2 have no safe wrapper")
)]

use std::fs;
use std::time::Duration;

/// How many arenas there are at most. With more, what is long-lived lies beside what was large for a moment
/// in all of them, and keeps its pages: 500 containers, started after ones with 10,000 ports, took 74 to 124 MiB
/// and take 56 with two.
#[cfg(target_env = "gnu")]
const ARENAS: i32 = 2;

/// How often to look.
const PERIOD: Duration = Duration::from_secs(5);

/// How many bytes must have come to be worth the locks of the allocator, which are held for some milliseconds.
const WORTH: u64 = 8 << 20;

/// What there was at the last look, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Amounts {
    /// Memory of this process that no file stands for. It grows also when what was given back is used
    /// again, for however short a time.
    anonymous: u64,
    /// What the allocator has and nobody uses, given back or not.
    free: u64,
    /// Memory of this process for which a file stands: its program and libraries.
    file: u64,
}

/// Bounds the arenas, unless the user has. To be called before there are threads.
#[cfg(target_env = "gnu")]
pub(super) fn bound() {
    if ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"].iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    // SAFETY: it takes no pointer, and no other thread is there to allocate meanwhile.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Other libraries have other ways.
#[cfg(not(target_env = "gnu"))]
pub(super) fn bound() {}

/// Looks for ever, and gives back what is free whenever much was taken or freed.
pub(super) async fn watch() {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut least = Amounts::default();
    loop {
        ticks.tick().await;
        // A thread of its own: those that answer requests do not wait for it.
        let Ok(amounts) = tokio::task::spawn_blocking(move || least.look()).await else { return };
        least = amounts;
    }
}

impl Amounts {
    fn now() -> Self {
        let of = |name| resident(name).unwrap_or_default();
        Self { anonymous: of("RssAnon:"), free: free(), file: of("RssFile:") }
    }

    /// Gives back what is free and lets go of the program, where it is worth it; returns the least that there has
    /// been since.
    fn look(self) -> Self {
        let now = Self::now();
        let is_much = now.anonymous >= self.anonymous + WORTH || now.free >= self.free + WORTH;
        let is_mapped = now.file >= self.file + WORTH;
        if is_much {
            trim();
        }
        if is_mapped && let Err(error) = shim::resident::let_go() {
            tracing::debug!(%error, "the program stays mapped");
        }
        let after = if is_much || is_mapped { Self::now() } else { now };
        let least =
            |before: u64, after: u64, is_new: bool| if is_new { after } else { before.min(after) };
        Self {
            anonymous: least(self.anonymous, after.anonymous, is_much),
            free: least(self.free, after.free, is_much),
            file: least(self.file, after.file, is_mapped),
        }
    }
}

/// See [`Amounts`]: a line of `/proc/self/status` (`proc_pid_status(5)`), in bytes.
fn resident(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// See [`Amounts`].
#[cfg(target_env = "gnu")]
fn free() -> u64 {
    // SAFETY: it takes no pointer, and may be called by any thread at any time once malloc was used.
    let told = unsafe { libc::mallinfo2() };
    told.fordblks.try_into().unwrap_or(u64::MAX)
}

/// Unknown, and so never worth anything.
#[cfg(not(target_env = "gnu"))]
fn free() -> u64 {
    0
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: it takes no pointer, and may be called by any thread at any time (MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other libraries give it back by themselves, or cannot be told.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_this_process_is_known() {
        for name in ["RssAnon:", "RssFile:"] {
            assert!(
                resident(name).is_some_and(|bytes| bytes > 0),
                "no {name} in /proc/self/status"
            );
        }
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_is_freed_counts_as_free() {
        let many: Vec<_> = (0..10_000).map(|_| vec![1_u8; 1000]).collect();
        let last = vec![1_u8; 1000];
        let before = free();
        drop(many);
        assert!(free() > before + 5_000_000, "{before}, then {}", free());
        drop(last);
    }
}
