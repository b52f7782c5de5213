//! Memory that is free goes back to the kernel.
//!
//! glibc keeps what was freed for the thread that had it. A container with ten thousand ports takes 100 MiB
//! for a moment, on whichever thread, and without a word they would stay the daemon's for good.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "malloc_trim and mallinfo2 have no safe wrapper")
)]

use std::time::Duration;

/// How often to look.
const PERIOD: Duration = Duration::from_secs(5);

/// How many bytes must have been freed to be worth the locks of the allocator, which are held for some
/// milliseconds.
const WORTH: usize = 8 << 20;

/// Looks for ever, and gives back what is free whenever much was freed.
pub(super) async fn watch() {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut least = 0;
    loop {
        ticks.tick().await;
        // A thread of its own: those that answer requests do not wait for it.
        let look = tokio::task::spawn_blocking(move || {
            let now = free();
            // What has been given back still counts as free, until it is used again.
            if now < least + WORTH {
                return least.min(now);
            }
            trim();
            free()
        });
        let Ok(free) = look.await else { return };
        least = free;
    }
}

/// The bytes that nobody uses, of all threads.
#[cfg(target_env = "gnu")]
fn free() -> usize {
    // SAFETY: it takes no pointer, and may be called by any thread at any time once malloc was used.
    unsafe { libc::mallinfo2() }.fordblks
}

/// Unknown, and so never worth anything.
#[cfg(not(target_env = "gnu"))]
fn free() -> usize {
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
