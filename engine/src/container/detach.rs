//! The keys that end the attachment of a terminal.

use engine_error::{Error, Result};

/// Ctrl-P, Ctrl-Q.
const DEFAULT: [u8; 2] = [16, 17];

/// The bytes of keys given as `ctrl-p,ctrl-q` or `a`; the default ones if none are given.
pub(crate) fn keys(text: Option<&str>) -> Result<Vec<u8>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(DEFAULT.to_vec()) };
    text.split(',')
        .map(key)
        .collect::<Option<_>>()
        .ok_or_else(|| Error::invalid(format!("Invalid detach keys ({text}) provided")))
}

/// The bytes of keys that were given; none if none were.
pub fn detach_bytes(text: Option<&str>) -> Vec<u8> {
    text.and_then(|text| keys(Some(text)).ok()).unwrap_or_default()
}

fn key(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] => Some(*byte),
        [b'c', b't', b'r', b'l', b'-', letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
        [b'c', b't', b'r', b'l', b'-', b'@'] => Some(0),
        [b'c', b't', b'r', b'l', b'-', sign @ b'['..=b'_'] => Some(sign - b'[' + 27),
        _ => None,
    }
}

/// Looks for the keys in what a client types.
#[derive(Debug)]
pub(crate) struct Scanner {
    keys: Vec<u8>,
    matched: usize,
}

impl Scanner {
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Adds to `output` what is to be passed on of `input`: all but a beginning of the keys at its
    /// end. Tells whether the keys were typed.
    pub(crate) fn scan(&mut self, input: &[u8], output: &mut Vec<u8>) -> bool {
        for &byte in input {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return true;
                }
                continue;
            }
            output.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0]);
            if self.matched == 0 {
                output.push(byte);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&[u8]], passed: &[u8], detached: bool) {
        let mut scanner = Scanner::new(keys(None).unwrap());
        let mut output = Vec::new();
        let found = pieces.iter().any(|piece| scanner.scan(piece, &mut output));
        assert_eq!((output.as_slice(), found), (passed, detached), "{pieces:?}");
    }

    #[test]
    fn the_keys_are_found_over_pieces_and_never_passed_on() {
        check(&[b"ab"], b"ab", false);
        check(&[b"a\x10\x11b"], b"a", true);
        check(&[b"a\x10", b"\x11"], b"a", true);
        check(&[b"\x10", b"x"], b"\x10x", false);
        check(&[b"\x10\x10\x11"], b"\x10", true);
    }

    #[test]
    fn keys_are_letters_and_control_characters() {
        assert_eq!(keys(Some("ctrl-a,d")).unwrap(), [1, b'd']);
        assert_eq!(keys(Some("ctrl-@,ctrl-[,ctrl-_")).unwrap(), [0, 27, 31]);
        assert!(keys(Some("ctrl-1")).is_err());
        assert!(keys(Some("ab")).is_err());
    }
}
