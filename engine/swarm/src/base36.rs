//! Numbers in base 36, as tokens and identities have them.

/// The digits.
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A number of any size, its greatest byte first, with at least so many digits.
pub(crate) fn encode(bytes: &[u8], width: usize) -> String {
    let mut rest = bytes.to_vec();
    let mut digits = Vec::new();
    while rest.iter().any(|byte| *byte != 0) {
        let mut carry = 0_u32;
        for byte in &mut rest {
            let value = carry << 8 | u32::from(*byte);
            *byte = u8::try_from(value / 36).unwrap_or(u8::MAX);
            carry = value % 36;
        }
        digits.push(DIGITS[carry as usize]);
    }
    digits.resize(digits.len().max(width), b'0');
    digits.iter().rev().map(|digit| char::from(*digit)).collect()
}

/// The number in so many bytes, if it is one and fits.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for digit in text.bytes() {
        let mut carry = u32::try_from(DIGITS.iter().position(|known| *known == digit)?).ok()?;
        for byte in bytes.iter_mut().rev() {
            let value = u32::from(*byte) * 36 + carry;
            *byte = (value & 0xff) as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    (!text.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_back_as_it_went() {
        for bytes in [[0_u8; 16], [0xff; 16], *b"0123456789abcdef"] {
            let text = encode(&bytes, 25);
            assert_eq!(text.len(), 25);
            assert_eq!(decode::<16>(&text), Some(bytes));
        }
        assert_eq!(encode(&[1, 0], 3), "074");
    }

    #[test]
    fn what_is_no_number_or_too_large_is_none() {
        assert_eq!(decode::<16>(""), None);
        assert_eq!(decode::<16>("A"), None);
        assert_eq!(decode::<1>("74"), None);
        assert_eq!(decode::<1>("73"), Some([255]));
    }
}
