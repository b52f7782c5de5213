//! The pages of the program that a process has mapped are let go of.
//!
//! The kernel maps sixteen pages or more where one is touched, so after a start nearly all of the program counts as this
//! process's memory: 17 of a daemon's 22 MiB, most of a shim's one. Pages that are mapped and executable are also the last that the kernel takes back
//! for somebody else. They stay in the page cache, and what is still needed is mapped again when it is used, by one
//! minor fault for each piece. The daemon does the same as its shims.
#![expect(unsafe_code, reason = "madvise has no safe wrapper")]

use std::ops::Range;
use std::{fs, io};

use rustix::mm::{Advice, madvise};

/// Memory that is mapped from a file, by `/proc/self/smaps` (`proc_pid_smaps(5)`).
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    addresses: Range<usize>,
    /// Device and inode, as the kernel writes them.
    file: String,
    /// It cannot be written to now.
    is_read_only: bool,
    /// Nothing in it differs from the file: no page was ever written to, by the dynamic linker before it made them
    /// read-only, or by a debugger.
    is_as_in_file: bool,
}

/// Unmaps what this process has mapped of its own program and never changed.
///
/// # Errors
/// If the kernel does not tell what is mapped, or does not unmap it.
pub fn let_go() -> io::Result<()> {
    let text = fs::read_to_string("/proc/self/smaps")?;
    for mapping in unchanged(&mappings(&text), let_go as *const () as usize) {
        let Range { start, end } = mapping.addresses.clone();
        // SAFETY: it is private memory in which nothing differs from the file below it, so that each page is read again
        // as it was; and it is the program's, which nobody unmaps, so that nothing else has come to be at its place.
        unsafe {
            madvise(start as *mut _, end - start, Advice::LinuxDontNeed)?;
        }
    }
    Ok(())
}

/// What was never changed of the file that has this address.
fn unchanged(mappings: &[Mapping], address: usize) -> Vec<&Mapping> {
    let Some(own) = mappings.iter().find(|mapping| mapping.addresses.contains(&address)) else {
        return Vec::new();
    };
    let is_own = |mapping: &&Mapping| {
        mapping.file == own.file && mapping.is_read_only && mapping.is_as_in_file
    };
    mappings.iter().filter(is_own).collect()
}

/// The private mappings of files. Where a line is not as it should be, the mapping counts as changed.
fn mappings(text: &str) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    let mut is_of_file = false;
    let mut seen = 0;
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            [addresses, rights, _, device, inode, ..]
                if addresses.contains('-') && !addresses.ends_with(':') =>
            {
                seen = 0;
                is_of_file = *inode != "0" && rights.ends_with('p');
                let Some(addresses) = range(addresses).filter(|_| is_of_file) else {
                    is_of_file = false;
                    continue;
                };
                let file = format!("{device} {inode}");
                let is_read_only = !rights.contains('w');
                found.push(Mapping { addresses, file, is_read_only, is_as_in_file: false });
            }
            // Both are there, and both are nothing.
            ["Anonymous:" | "Swap:", "0", "kB"] if is_of_file => {
                seen += 1;
                if let Some(mapping) = found.last_mut() {
                    mapping.is_as_in_file = seen == 2;
                }
            }
            _ => {}
        }
    }
    found
}

fn range(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55f70076f000-55f701012000 r--p 00000000 fe:00 1493791                    /usr/bin/rnet
Rss:                4164 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me
55f701012000-55f702188000 r-xp 008a2000 fe:00 1493791                    /usr/bin/rnet
Rss:               13336 kB
Anonymous:             0 kB
Swap:                  0 kB
55f702188000-55f70227d000 r--p 01a17000 fe:00 1493791                    /usr/bin/rnet
Anonymous:           980 kB
Swap:                  0 kB
55f70227d000-55f702280000 r--p 01b0c000 fe:00 1493791                    /usr/bin/rnet
Anonymous:             0 kB
Swap:                 12 kB
55f702280000-55f702290000 rw-p 01b0f000 fe:00 1493791                    /usr/bin/rnet
Anonymous:             0 kB
Swap:                  0 kB
55f730670000-55f730727000 rw-p 00000000 00:00 0                          [heap]
Anonymous:             0 kB
Swap:                  0 kB
7ffa4ff4c000-7ffa500a2000 r-xp 00026000 fe:00 326279                     /usr/lib/libc.so.6
Anonymous:             0 kB
Swap:                  0 kB
7ffa500a2000-7ffa500a3000 r--s 00000000 fe:00 1493791                    /usr/bin/rnet
Anonymous:             0 kB
Swap:                  0 kB
";

    fn starts(text: &str, address: usize) -> Vec<usize> {
        unchanged(&mappings(text), address).iter().map(|mapping| mapping.addresses.start).collect()
    }

    #[test]
    fn what_was_written_to_is_kept_where_it_is_and_so_is_what_others_have_mapped() {
        assert_eq!(starts(SMAPS, 0x55f7_0101_3000), [0x55f7_0076_f000, 0x55f7_0101_2000]);
        assert_eq!(starts(SMAPS, 0x1000), [0; 0], "an address that no mapping has");
    }

    #[test]
    fn what_a_kernel_does_not_tell_counts_as_written_to() {
        let silent = SMAPS.replace("Swap:", "Unknown:");
        assert_eq!(starts(&silent, 0x55f7_0101_3000), [0; 0]);
    }

    #[test]
    fn a_program_runs_on_after_its_pages_went() {
        /// Of the program's constants.
        static WORDS: [&str; 3] = ["here", "as", "before"];
        let before: Vec<String> = WORDS.iter().map(ToString::to_string).collect();
        let mapped = || -> u64 {
            let text = fs::read_to_string("/proc/self/status").unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        let much = mapped();
        let_go().unwrap();
        assert!(mapped() < much, "{much} KiB, then {}", mapped());
        assert_eq!(before, WORDS);
    }
}
