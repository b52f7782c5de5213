//! The user's terminal: raw mode, its size, and the keys that detach.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use nix::sys::termios::{self, SetArg, Termios};

use super::client::escape;
use super::error::CliError;

/// The keys that detach unless told otherwise: Ctrl-P Ctrl-Q.
pub(crate) const DETACH_KEYS: &[u8] = &[16, 17];

/// Raw mode of the terminal on standard input; the old mode comes back when this is dropped.
#[derive(Debug)]
pub(crate) struct RawMode(Option<Termios>);

impl RawMode {
    /// Enters raw mode if standard input is a terminal.
    pub(crate) fn enter() -> Result<Self, CliError> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(None));
        }
        let before = termios::tcgetattr(stdin.as_fd()).map_err(std::io::Error::from)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).map_err(std::io::Error::from)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, before);
        }
    }
}

/// The terminal on standard input shows nothing of what is typed until this is dropped.
#[derive(Debug)]
pub(crate) struct Quiet {
    _before: RawMode,
}

impl Quiet {
    /// Stops showing it.
    pub(crate) fn enter() -> Result<Self, CliError> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).map_err(std::io::Error::from)?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(termios::LocalFlags::ECHO);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &quiet).map_err(std::io::Error::from)?;
        Ok(Self { _before: RawMode(Some(before)) })
    }
}

/// Whether standard input is a terminal.
pub(crate) fn is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Rows and columns of the terminal on standard output or input, if there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    window::size(std::io::stdout().as_fd())
        .or_else(|| window::size(std::io::stdin().as_fd()))
        .filter(|(rows, columns)| *rows > 0 && *columns > 0)
}

mod window {
    //! The one question that has no safe wrapper.
    #![expect(unsafe_code, reason = "TIOCGWINSZ has no safe wrapper in nix")]

    use std::os::fd::{AsRawFd, BorrowedFd};

    nix::ioctl_read_bad!(window_size, libc::TIOCGWINSZ, libc::winsize);

    /// Rows and columns of a terminal.
    pub(super) fn size(fd: BorrowedFd<'_>) -> Option<(u16, u16)> {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open for the length of the call, and the kernel writes one
        // `winsize` to the reference.
        unsafe { window_size(fd.as_raw_fd(), &raw mut size) }.ok()?;
        Some((size.ws_row, size.ws_col))
    }
}

/// Parses `--detach-keys`: comma-separated single characters and `ctrl-x` (moby `term.ToBytes`).
pub(crate) fn detach_keys(text: Option<&str>) -> Result<Vec<u8>, CliError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(DETACH_KEYS.to_vec()) };
    let key = |part: &str| match part.as_bytes() {
        [byte] => Some(*byte),
        _ => match part.strip_prefix("ctrl-").map(str::as_bytes) {
            Some([letter @ b'a'..=b'z']) => Some(letter - b'a' + 1),
            Some(b"@") => Some(0),
            Some(b"[") => Some(27),
            Some(b"\\") => Some(28),
            Some(b"]") => Some(29),
            Some(b"^") => Some(30),
            Some(b"_") => Some(31),
            _ => None,
        },
    };
    let keys: Option<Vec<_>> = text.split(',').map(key).collect();
    keys.ok_or_else(|| {
        CliError::new(format!("invalid detach keys `{text}`: write them as ctrl-p,ctrl-q or a,b"))
            .with_code(125)
    })
}

/// What tells the daemon of keys other than its own default, as a part of a query.
pub(crate) fn detach_query(text: Option<&str>) -> String {
    let keys = text.filter(|text| !text.is_empty());
    keys.map(|keys| format!("&detachKeys={}", escape(keys))).unwrap_or_default()
}

/// Watches input for the keys that detach.
#[derive(Debug)]
pub(crate) struct Escape {
    keys: Vec<u8>,
    matched: usize,
}

/// What a piece of input turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Bytes to pass on; keys that may still become the sequence are held back.
    Pass(Vec<u8>),
    /// Bytes to pass on, the sequence at their end: the daemon tells others of it.
    Detach(Vec<u8>),
}

impl Escape {
    /// Watches for these keys.
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Takes a piece of input.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Input {
        let mut pass = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    pass.extend_from_slice(&self.keys);
                    return Input::Detach(pass);
                }
                continue;
            }
            pass.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(*byte == self.keys[0]);
            if self.matched == 0 {
                pass.push(*byte);
            }
        }
        Input::Pass(pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_read() {
        assert_eq!(detach_keys(None).ok(), Some(vec![16, 17]));
        assert_eq!(detach_keys(Some("ctrl-x,a")).ok(), Some(vec![24, b'a']));
        assert!(detach_keys(Some("ctrl-")).is_err());
    }

    #[test]
    fn the_sequence_is_found_across_pieces_and_nothing_else_is_lost() {
        let mut escape = Escape::new(vec![16, 17]);
        assert_eq!(escape.feed(b"ab\x10"), Input::Pass(b"ab".to_vec()));
        assert_eq!(escape.feed(b"c"), Input::Pass(b"\x10c".to_vec()));
        assert_eq!(escape.feed(b"x\x10"), Input::Pass(b"x".to_vec()));
        assert_eq!(escape.feed(b"\x11rest"), Input::Detach(b"\x10\x11".to_vec()));
    }
}
