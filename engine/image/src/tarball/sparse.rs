//! Files with holes: where their data goes, in GNU's own format and in those it has in PAX records.

use std::io;

use super::malformed;

/// A file of more pieces is none.
const MOST_RUNS: usize = 1 << 16;

/// Runs of data that a reader still has to give.
#[derive(Debug)]
pub(super) struct Sparse {
    /// Offset and length of each run of data, ascending, last first.
    pub(super) runs: Vec<(u64, u64)>,
    pub(super) at: u64,
    pub(super) size: u64,
}

impl Sparse {
    /// How long the hole is that comes next; zero before data and at the end.
    pub(super) fn hole(&mut self) -> u64 {
        while self.runs.last().is_some_and(|&(_, length)| length == 0) {
            self.runs.pop();
        }
        self.runs.last().map_or(self.size, |&(offset, _)| offset).saturating_sub(self.at)
    }
}

/// A map that is being read.
#[derive(Debug, Default)]
pub(super) struct Map {
    runs: Vec<(u64, u64)>,
    sum: u64,
    end: u64,
    size: u64,
}

impl Map {
    /// The map of a file of this size, with its holes.
    pub(super) fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    /// Adds a run of data.
    pub(super) fn add(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let next = offset.checked_add(length);
        let next = next.filter(|&next| offset >= self.end && next <= self.size);
        self.end = next.ok_or_else(|| malformed("sparse file with overlapping data"))?;
        self.sum += length;
        self.runs.push((offset, length));
        if self.runs.len() > MOST_RUNS {
            return Err(malformed("sparse file of too many pieces"));
        }
        Ok(())
    }

    /// What is to be read, if that are all the bytes in the archive.
    pub(super) fn finish(mut self, stored: u64) -> io::Result<Sparse> {
        if self.sum != stored {
            return Err(malformed("sparse file whose pieces do not add up"));
        }
        self.runs.reverse();
        Ok(Sparse { runs: self.runs, at: 0, size: self.size })
    }
}

/// What PAX records say of a sparse file (`GNU.sparse.`): formats 0.0 and 0.1 have the map there, format
/// 1.0 before the data.
#[derive(Debug, Default)]
pub(super) struct Records {
    version: Option<(u64, u64)>,
    /// What the file is called: the header has another name, for readers that do not know of this.
    name: Option<Vec<u8>>,
    size: Option<u64>,
    pieces: Option<u64>,
    numbers: Vec<u64>,
}

/// Where the map of a file is.
#[derive(Debug)]
pub(super) enum Told {
    /// In the header, if it is sparse at all.
    Nothing,
    /// In PAX records.
    Records(Map),
    /// Before the data of a file of this size.
    BeforeData(u64),
}

impl Records {
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let number = || super::pax::decimal(value);
        let version = self.version.unwrap_or_default();
        match key {
            b"major" => self.version = Some((number()?, version.1)),
            b"minor" => self.version = Some((version.0, number()?)),
            b"name" => self.name = Some(value.to_owned()),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"numblocks" => self.pieces = Some(number()?),
            // Of each piece an offset, and then a length.
            b"offset" if self.numbers.len().is_multiple_of(2) => self.numbers.push(number()?),
            b"numbytes" if !self.numbers.len().is_multiple_of(2) => self.numbers.push(number()?),
            b"map" => {
                let numbers = value.split(|&byte| byte == b',').filter(|text| !text.is_empty());
                self.numbers = numbers.map(super::pax::decimal).collect::<io::Result<_>>()?;
            }
            _ => {
                let key = String::from_utf8_lossy(key);
                return Err(malformed(&format!("record GNU.sparse.{key} of a sparse file")));
            }
        }
        Ok(())
    }

    /// The name of the file, if that is not the header's, and where its map is.
    pub(super) fn told(self) -> io::Result<(Option<Vec<u8>>, Told)> {
        let size = self.size.ok_or_else(|| malformed("sparse file without a size"))?;
        let told = match self.version.unwrap_or_default() {
            (0, 0 | 1) => {
                let (runs, rest) = self.numbers.as_chunks::<2>();
                if !rest.is_empty() || self.pieces.is_some_and(|pieces| pieces != runs.len() as u64)
                {
                    return Err(malformed("sparse file whose map is not whole"));
                }
                let mut map = Map::new(size);
                runs.iter().try_for_each(|&[offset, length]| map.add(offset, length))?;
                Told::Records(map)
            }
            (1, 0) => Told::BeforeData(size),
            (major, minor) => {
                let text =
                    format!("sparse file in PAX format {major}.{minor}, which is not supported");
                return Err(malformed(&text));
            }
        };
        Ok((self.name, told))
    }
}
