//! PAX records: `length key=value` lines that overrule a header.

use std::io;

use super::malformed;
use super::sparse::Records;

/// What the records of one entry say.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<Records>,
}

impl Pax {
    pub(super) fn parse(mut bytes: &[u8]) -> io::Result<Self> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (record, rest) = record(bytes).ok_or_else(|| malformed("PAX record"))?;
            let equals = record.iter().position(|&byte| byte == b'=');
            let equals = equals.ok_or_else(|| malformed("PAX record without ="))?;
            pax.set(&record[..equals], &record[equals + 1..])?;
            bytes = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match key {
            b"path" => self.path = Some(value.to_owned()),
            b"linkpath" => self.link = Some(value.to_owned()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.get_or_insert_default().set(key, value)?;
                } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        Ok(())
    }
}

/// The first record without its length and newline, and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space]).ok()?).ok()?;
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return None;
    }
    Some((&bytes[space + 1..length - 1], &bytes[length..]))
}

pub(super) fn decimal(bytes: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.starts_with('+'));
    text.and_then(|text| text.parse().ok()).ok_or_else(|| malformed("number in a PAX record"))
}

/// `seconds[.fraction]`, possibly negative.
fn time(bytes: &[u8]) -> io::Result<(i64, u32)> {
    let wrong = || malformed("time in a PAX record");
    let text = std::str::from_utf8(bytes).map_err(|_| wrong())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    let mut nanoseconds: u32 = 0;
    for digit in 0..9 {
        let value = match fraction.as_bytes().get(digit) {
            Some(byte @ b'0'..=b'9') => u32::from(byte - b'0'),
            Some(_) => return Err(wrong()),
            None => 0,
        };
        nanoseconds = nanoseconds * 10 + value;
    }
    if whole.starts_with('-') && nanoseconds > 0 {
        return Ok((seconds - 1, 1_000_000_000 - nanoseconds));
    }
    Ok((seconds, nanoseconds))
}
