//! Directories of `RUN --mount=type=cache`, which stay from build to build: which there are, and which
//! steps have them at the moment. Nobody empties one that somebody has.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::output::Output;
use super::sweep::clear;
use engine_error::{Error, Result};
use image::Digest;

/// `sharing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Any number of steps have it at the same time.
    #[default]
    Shared,
    /// Whoever comes while it is in use has another one.
    Private,
    /// Whoever comes while it is in use waits.
    Locked,
}

/// How a directory is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Shared(usize),
    Alone,
}

type Table = BTreeMap<String, Held>;

/// All of them.
#[derive(Debug)]
pub(super) struct Caches {
    directory: PathBuf,
    /// By the name of the directory.
    held: watch::Sender<Table>,
}

impl Caches {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, held: watch::Sender::default() }
    }

    /// Gives a step the directories of ids, as soon as it can have all of them: while it waits it has
    /// none, so no two wait for each other.
    pub(super) fn claim(&self, wanted: &[(&str, Sharing)], output: &Output) -> Result<Claim<'_>> {
        let hashed = |(id, sharing): &(&str, Sharing)| (Digest::of(id.as_bytes()).hex(), *sharing);
        let wanted: Vec<_> = wanted.iter().map(hashed).collect();
        let mut changes = self.held.subscribe();
        loop {
            changes.mark_unchanged();
            let mut names = None;
            self.held.send_if_modified(|table| {
                names = take(table, &wanted);
                names.is_some()
            });
            if let Some(names) = names {
                return Ok(Claim { caches: self, names });
            }
            // Its sender is here.
            let _ = output.wait(changes.changed())?;
        }
    }

    /// Empties those that nobody has: how many bytes were in them.
    pub(super) fn prune(&self) -> io::Result<u64> {
        let mut size = 0;
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let alone = |table: &mut Table| {
                let free = !table.contains_key(&name);
                if free {
                    table.insert(name.clone(), Held::Alone);
                }
                free
            };
            if self.held.send_if_modified(alone) {
                let _claim = Claim { caches: self, names: vec![name.clone()] };
                let path = self.directory.join(&name);
                let bytes = tree::size_of(&path);
                clear(&path)?;
                size += bytes;
            }
        }
        Ok(size)
    }
}

/// Takes all that is wanted, or nothing: the names of the directories. What is wanted twice is the same.
fn take(table: &mut Table, wanted: &[(String, Sharing)]) -> Option<Vec<String>> {
    let mut taken = table.clone();
    let mut names: Vec<String> = Vec::new();
    for (at, (id, sharing)) in wanted.iter().enumerate() {
        if let Some(before) = wanted[..at].iter().position(|(known, _)| known == id) {
            names.push(names[before].clone());
            continue;
        }
        let name = match (sharing, taken.get(id)) {
            (Sharing::Private, Some(_)) => {
                let mut others = (1_u64..).map(|number| format!("{id}-{number}"));
                others.find(|name| !taken.contains_key(name))?
            }
            (_, None) | (Sharing::Shared, Some(Held::Shared(_))) => id.clone(),
            (Sharing::Shared | Sharing::Locked, Some(_)) => return None,
        };
        let held = match (sharing, taken.get(&name)) {
            (Sharing::Shared, Some(Held::Shared(count))) => Held::Shared(count + 1),
            (Sharing::Shared, _) => Held::Shared(1),
            _ => Held::Alone,
        };
        taken.insert(name.clone(), held);
        names.push(name);
    }
    *table = taken;
    Some(names)
}

/// What a step has, until this is dropped.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    caches: &'a Caches,
    /// Of each that was wanted.
    names: Vec<String>,
}

impl Claim<'_> {
    /// The directory that was wanted at a place of the list. `new` becomes it if there is none.
    pub(super) fn path(&self, at: usize, new: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
        let failed =
            |path: &Path, error| Error::internal(format!("cannot make {}", path.display()), error);
        let gone = || Error::invalid("a cache of a step was not claimed");
        let path = self.caches.directory.join(self.names.get(at).ok_or_else(gone)?);
        if path.exists() {
            return Ok(path);
        }
        // Whole, or that of another step that was first.
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        let cwd = rustix::fs::CWD;
        match rustix::fs::renameat_with(cwd, &new()?, cwd, &path, flags) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(path),
            Err(error) => Err(failed(&path, io::Error::from(error))),
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut names = self.names.clone();
        names.sort_unstable();
        names.dedup();
        self.caches.held.send_modify(|table| {
            for name in names {
                match table.get_mut(&name) {
                    Some(Held::Shared(count)) if *count > 1 => *count -= 1,
                    _ => drop(table.remove(&name)),
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(table: &mut Table, wanted: &[(&str, Sharing)]) -> Option<Vec<String>> {
        let wanted: Vec<_> = wanted.iter().map(|(id, how)| ((*id).to_owned(), *how)).collect();
        take(table, &wanted)
    }

    #[test]
    fn a_locked_cache_is_one_step_s_and_a_private_one_has_others_beside_it() {
        use Sharing::{Locked, Private, Shared};
        let mut table = Table::new();
        assert_eq!(taken(&mut table, &[("a", Shared), ("b", Locked)]).unwrap(), ["a", "b"]);
        assert_eq!(taken(&mut table, &[("a", Shared)]).unwrap(), ["a"]);
        assert_eq!(table["a"], Held::Shared(2));
        for refused in [("a", Locked), ("b", Locked), ("b", Shared)] {
            assert_eq!(taken(&mut table, &[("c", Shared), refused]), None, "{refused:?}");
            assert!(!table.contains_key("c"), "half of what is wanted was taken");
        }
        assert_eq!(taken(&mut table, &[("b", Private)]).unwrap(), ["b-1"]);
        assert_eq!(taken(&mut table, &[("b", Private)]).unwrap(), ["b-2"]);
        assert_eq!(taken(&mut table, &[("d", Locked), ("d", Locked)]).unwrap(), ["d", "d"]);
    }

    #[test]
    fn a_prune_leaves_what_a_step_has() {
        let directory = std::env::temp_dir().join(format!("rnet-caches-{}", std::process::id()));
        for name in ["held", "free"] {
            fs::create_dir_all(directory.join(name)).unwrap();
            fs::write(directory.join(name).join("file"), "1234").unwrap();
        }
        let caches = Caches::new(directory.clone());
        caches.held.send_replace([("held".to_owned(), Held::Shared(2))].into());
        let first = caches.prune();
        let left = [directory.join("held/file").exists(), directory.join("free").exists()];
        for _ in 0..2 {
            drop(Claim { caches: &caches, names: vec!["held".to_owned()] });
        }
        let second = caches.prune();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!((first.unwrap(), left, second.unwrap()), (4, [true, false], 4));
    }
}
