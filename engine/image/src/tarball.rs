//! Reads tar streams one entry at a time, in bounded memory.
//!
//! The `tar` crate decodes header blocks; what surrounds them is decoded here, because images
//! come from strangers: long names and PAX records have limits, a size in a PAX record overrules
//! the header's before anything is skipped, checksums are checked, and nothing is ever written.

mod pax;
mod sparse;
mod writer;

use std::io::{self, Read};

use rustix::fs::FileType;
use tar::{EntryType, Header};

use self::pax::Pax;
use self::sparse::{Map, Sparse, Told};
pub use self::writer::TarWriter;

const BLOCK: u64 = 512;
/// Longest name, link target or set of PAX records. Linux takes no path beyond 4 KiB; extended
/// attributes may be 64 KiB each.
const LONGEST_EXTENSION: u64 = 1 << 20;

/// A tar stream. Between two calls of [`Self::next_entry`], reading gives the entry's content.
#[derive(Debug)]
pub struct TarReader<R> {
    inner: R,
    left: u64,
    padding: u64,
    /// Runs of data in a sparse file still to come, and where the next byte of it goes.
    sparse: Option<Sparse>,
}

/// What a tar says about one file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it is, as the archive says it.
    pub path: Vec<u8>,
    /// What a link leads to.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: EntryType,
    /// Bytes that reading yields.
    pub size: u64,
    /// Bytes of it that are in the archive; the rest are holes.
    pub stored: u64,
    /// Permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    /// Major and minor number.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// What kind of node a device or a pipe is, and its number.
    pub(crate) fn node(&self) -> (FileType, u64) {
        let device = rustix::fs::makedev(self.device.0, self.device.1);
        match self.kind {
            EntryType::Char => (FileType::CharacterDevice, device),
            EntryType::Block => (FileType::BlockDevice, device),
            _ => (FileType::Fifo, 0),
        }
    }
}

impl<R: Read> TarReader<R> {
    /// Reads an archive.
    pub fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0, sparse: None }
    }

    /// The next entry, or nothing at the end of the archive. Content not read is skipped.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut long_path = None;
        let mut long_link = None;
        let mut pax = Pax::default();
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            let size = header.entry_size()?;
            match kind {
                EntryType::GNULongName => long_path = Some(self.extension(size)?),
                EntryType::GNULongLink => long_link = Some(self.extension(size)?),
                EntryType::XHeader => pax = Pax::parse(&self.extension(size)?)?,
                // Defaults for all that follow; nothing that builds images relies on them.
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                _ => {
                    let (name, told) = match pax.sparse.take() {
                        Some(records) => records.told()?,
                        None => (None, Told::Nothing),
                    };
                    let mut entry = entry(&header, pax)?;
                    if let Some(path) = name.or(long_path) {
                        entry.path = path;
                    }
                    if let Some(link) = long_link {
                        entry.link = link;
                    }
                    return self.start(&header, entry, told).map(Some);
                }
            }
        }
    }

    /// Leaves out the hole that the content goes on with, and says how long it is.
    pub fn skip_hole(&mut self) -> u64 {
        let Some(sparse) = &mut self.sparse else { return 0 };
        let hole = sparse.hole();
        sparse.at += hole;
        hole
    }

    /// The rest of the stream, which readers of whole archives want to have seen.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn start(&mut self, header: &Header, mut entry: Entry, told: Told) -> io::Result<Entry> {
        let stored = match entry.kind {
            // Link, device and directory entries have no content, whatever their size says.
            EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Directory
            | EntryType::Fifo => 0,
            _ => entry.size,
        };
        (entry.size, entry.stored) = (stored, stored);
        self.left = stored;
        self.padding = stored.next_multiple_of(BLOCK) - stored;
        let sparse = match (entry.kind, &told) {
            (EntryType::GNUSparse, Told::Nothing) => true,
            (_, Told::Nothing) => false,
            (EntryType::Regular | EntryType::Continuous, _) => true,
            _ => return Err(malformed("sparse file that is no file")),
        };
        if sparse {
            let sparse = self.sparse(header, told)?;
            (entry.size, entry.stored) = (sparse.size, self.left);
            entry.kind = EntryType::Regular;
            self.sparse = Some(sparse);
        }
        Ok(entry)
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let sum: u32 = header.as_bytes().iter().enumerate().fold(0, |sum, (at, &byte)| {
            sum + u32::from(if (148..156).contains(&at) { b' ' } else { byte })
        });
        if header.cksum().ok() != Some(sum) {
            return Err(malformed("wrong checksum of a header"));
        }
        Ok(Some(header))
    }

    /// Fills a block; `false` at the end of the stream.
    fn block(&mut self, block: &mut [u8; 512]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > LONGEST_EXTENSION {
            return Err(malformed("a name or a set of attributes is longer than 1 MiB"));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // GNU's names end with a NUL; PAX records end with a newline.
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    fn skip_content(&mut self) -> io::Result<()> {
        self.sparse = None;
        let rest = self.left.checked_add(self.padding).ok_or_else(|| malformed("size"))?;
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        // Some writers leave the last padding out.
        if skipped < self.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = 0;
        self.padding = 0;
        Ok(())
    }

    /// What a sparse file has where.
    fn sparse(&mut self, header: &Header, told: Told) -> io::Result<Sparse> {
        let map = match told {
            Told::Nothing => self.map_of_gnu(header)?,
            Told::Records(map) => map,
            Told::BeforeData(size) => self.map_before_data(Map::new(size))?,
        };
        map.finish(self.left)
    }

    fn map_of_gnu(&mut self, header: &Header) -> io::Result<Map> {
        let gnu = header.as_gnu().ok_or_else(|| malformed("sparse file without GNU header"))?;
        let mut map = Map::new(gnu.real_size()?);
        let mut add = |run: &tar::GnuSparseHeader| {
            if run.is_empty() { Ok(()) } else { map.add(run.offset()?, run.length()?) }
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let mut more = gnu.is_extended();
        while more {
            let mut extension = tar::GnuExtSparseHeader::new();
            if !self.block(extension.as_mut_bytes())? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            extension.sparse.iter().try_for_each(&mut add)?;
            more = extension.is_extended();
        }
        Ok(map)
    }

    /// Decimal numbers with line feeds, in whole blocks: how many runs there are, and each of them.
    fn map_before_data(&mut self, mut map: Map) -> io::Result<Map> {
        let (mut block, mut at) = ([0; 512], 512);
        let mut number = || {
            let mut text = Vec::new();
            loop {
                if at == block.len() {
                    self.stored_block(&mut block)?;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                match byte {
                    b'\n' => return pax::decimal(&text),
                    _ if text.len() > 20 => return Err(malformed("number in a sparse file's map")),
                    _ => text.push(byte),
                }
            }
        };
        let count = number()?;
        (0..count).try_for_each(|_| map.add(number()?, number()?))?;
        Ok(map)
    }

    fn stored_block(&mut self, block: &mut [u8; 512]) -> io::Result<()> {
        let whole = self.left.checked_sub(BLOCK);
        let left = whole.ok_or_else(|| malformed("sparse file whose map does not end"))?;
        if !self.block(block)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = left;
        Ok(())
    }

    fn read_stored(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(sparse) = &mut self.sparse else { return self.read_stored(buffer) };
        let hole = sparse.hole();
        if hole > 0 {
            let hole = usize::try_from(hole).unwrap_or(usize::MAX).min(buffer.len());
            buffer[..hole].fill(0);
            sparse.at += hole as u64;
            return Ok(hole);
        }
        let Some(&(_, length)) = sparse.runs.last() else { return Ok(0) };
        let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.read_stored(&mut buffer[..wanted])?;
        if let Some(sparse) = &mut self.sparse {
            sparse.at += count as u64;
            if let Some(run) = sparse.runs.last_mut() {
                *run = (run.0 + count as u64, run.1 - count as u64);
            }
        }
        Ok(count)
    }
}

fn entry(header: &Header, pax: Pax) -> io::Result<Entry> {
    let number = |value: u64| u32::try_from(value).map_err(|_| malformed("owner out of range"));
    let old = header.as_old();
    let (uid, gid) = (blank_or(&old.uid, header.uid())?, blank_or(&old.gid, header.gid())?);
    let mode = blank_or(&old.mode, header.mode())?;
    let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
    let device = match header.entry_type() {
        EntryType::Char | EntryType::Block => {
            (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0))
        }
        // Often blank.
        _ => (0, 0),
    };
    Ok(Entry {
        path: pax.path.unwrap_or_else(|| header.path_bytes().into_owned()),
        link: pax.link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
        kind: header.entry_type(),
        size: pax.size.map_or_else(|| header.entry_size(), Ok)?,
        stored: 0,
        mode: mode & 0o7777,
        uid: number(pax.uid.unwrap_or(uid))?,
        gid: number(pax.gid.unwrap_or(gid))?,
        mtime: pax.mtime.unwrap_or((seconds, 0)),
        device,
        xattrs: pax.xattrs,
    })
}

/// A number that some writers leave blank where they mean zero.
fn blank_or<T: Default>(field: &[u8], number: io::Result<T>) -> io::Result<T> {
    if field.iter().all(|&byte| matches!(byte, 0 | b' ')) { Ok(T::default()) } else { number }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed archive: {what}"))
}

#[cfg(test)]
pub(super) mod tests;
