//! Names of containers: which are allowed, and one for who chose none.

use engine_error::{Error, Result};

const ADJECTIVES: [&str; 64] = [
    "able", "agile", "amber", "ample", "apt", "bold", "brave", "breezy", "bright", "brisk", "calm",
    "candid", "clear", "clever", "cosy", "crisp", "deft", "eager", "early", "earnest", "fair",
    "firm", "fleet", "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "hardy",
    "hearty", "honest", "humble", "jolly", "keen", "kind", "lively", "loyal", "lucid", "mellow",
    "merry", "mild", "neat", "nimble", "noble", "patient", "placid", "plucky", "polite", "prompt",
    "proud", "quick", "quiet", "ready", "serene", "sharp", "silver", "snug", "steady", "sunny",
    "swift", "tidy", "warm",
];

const SURNAMES: [&str; 64] = [
    "abramson",
    "baran",
    "bartik",
    "berners",
    "borg",
    "bush",
    "cerf",
    "clark",
    "cohen",
    "crocker",
    "davies",
    "deering",
    "diffie",
    "dijkstra",
    "easley",
    "elion",
    "engelbart",
    "estrin",
    "feinler",
    "floyd",
    "goldwasser",
    "hamming",
    "hellman",
    "hertz",
    "holberton",
    "huffman",
    "jacobson",
    "kahn",
    "karels",
    "kay",
    "kilburn",
    "kleinrock",
    "knuth",
    "lamarr",
    "lamport",
    "licklider",
    "lovelace",
    "marconi",
    "mauchly",
    "merkle",
    "metcalfe",
    "mockapetris",
    "morse",
    "nyquist",
    "perlman",
    "postel",
    "pouzin",
    "reynolds",
    "ritchie",
    "roberts",
    "saltzer",
    "shannon",
    "stibitz",
    "sutherland",
    "taylor",
    "thompson",
    "tomlinson",
    "turing",
    "varian",
    "volta",
    "wheeler",
    "wilkes",
    "wozniak",
    "zuse",
];

/// A name made of chance.
pub(crate) fn generate(random: [u8; 2]) -> String {
    let adjective = ADJECTIVES[usize::from(random[0]) % ADJECTIVES.len()];
    let surname = SURNAMES[usize::from(random[1]) % SURNAMES.len()];
    format!("{adjective}_{surname}")
}

/// The name without the slash that older clients put before it, if it is allowed: a letter or
/// digit, then at least one letter, digit, `_`, `.` or `-`.
pub(crate) fn check(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut bytes = bare.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && rest && bare.len() >= 2 {
        return Ok(bare);
    }
    Err(Error::invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_two_characters_of_the_allowed_ones() {
        for good in ["ab", "/web", "a.b-c_d", "0x"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "w", "/", "-ab", "a b", "a/b", "ü1"] {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("Invalid container name ({bad})")), "{error}");
        }
    }

    #[test]
    fn generated_names_are_allowed() {
        for n in 0..=255 {
            let name = generate([n, n.wrapping_mul(7)]);
            assert_eq!(check(&name).unwrap(), name);
        }
    }
}
