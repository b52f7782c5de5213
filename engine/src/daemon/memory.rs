//! Memory that is free goes back to the kernel.
//!
//! glibc keeps what was freed for the thread that had it. A container with ten thousand ports takes 100 MiB
//! for a moment, on whichever thread, and without a word they would stay the daemon's for good.
#![cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "malloc_trim has no safe wrapper"))]

use std::fs;
use std::time::Duration;

/// How often to look.
const PERIOD: Duration = Duration::from_secs(5);

/// After how many looks it is done in any case: what was freed does not show.
const SELDOM: u32 = 12;

/// By how many bytes it must have grown to be worth the locks of the allocator, which are held for some
/// milliseconds.
const WORTH: u64 = 8 << 20;

/// Looks for ever, and gives back what is free: soon after much was taken, else once a minute.
pub(super) async fn watch() {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut least, mut looks) = (0, 0);
    loop {
        ticks.tick().await;
        let Some(now) = anonymous() else { return };
        looks += 1;
        if now > least + WORTH || (looks >= SELDOM && now > WORTH) {
            // A thread of its own: those that answer requests do not wait for it.
            let _ = tokio::task::spawn_blocking(trim).await;
            least = anonymous().unwrap_or(now);
            looks = 0;
        }
    }
}

/// The memory of this process that no file stands for, in bytes.
fn anonymous() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
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
        assert!(anonymous().is_some_and(|bytes| bytes > 0), "no RssAnon in /proc/self/status");
    }
}
