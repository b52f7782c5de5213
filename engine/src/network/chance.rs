//! Chance.

use cnm::controller::Entropy;

/// The chance of the operating system.
#[derive(Debug)]
pub(crate) struct Chance;

impl Entropy for Chance {
    fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("Linux has getrandom(2)");
        bytes
    }
}
