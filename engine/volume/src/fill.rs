//! The first content of a volume: what the image has at the place where it is mounted.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::PoisonError;

use rustix::fs::Mode;
use tree::Tree;

use super::{Volumes, place};
use engine_error::{Error, Result};

/// Where the first content of a file system of its own is made, in it.
const FILLING: &str = ".rnet-first-content";

impl Volumes {
    /// Gives an empty volume what `write` puts into a directory, that directory's owner and mode
    /// included. Nothing happens to a volume that has anything in it.
    ///
    /// The content is made where no container sees it, and moved in whole. So nobody who has the
    /// volume mounted can send a write elsewhere, and a failure leaves the volume as it was,
    /// with all that others have put there meanwhile.
    ///
    /// With a path, it is the directory there that is filled: nothing happens if there is none.
    pub fn fill(
        &self,
        name: &str,
        below: &Path,
        write: impl FnOnce(&Tree) -> io::Result<()>,
    ) -> Result<()> {
        let _turn = self.turn_to_fill(name);
        let failed = |error| Error::internal(format!("cannot fill volume {name}"), error);
        let found = self.find(name)?;
        let whole = Tree::open(&found.mountpoint).map_err(failed)?;
        let Some(volume) = whole.directory_beneath(below).map_err(failed)? else { return Ok(()) };
        if !found.options.is_empty() || !found.is_local() {
            return fill_device(&volume, write).map_err(failed);
        }
        if !volume.is_empty().map_err(failed)? {
            return Ok(());
        }
        let aside = self.place.aside();
        let filled = fs::DirBuilder::new()
            .mode(0o700)
            .create(&aside)
            .and_then(|()| Tree::open(&aside))
            .and_then(|content| write(&content).and_then(|()| content.move_into(&volume)));
        place::discard(&aside);
        filled.map_err(failed)
    }

    /// Waits until nobody else fills the volume.
    pub(super) fn turn_to_fill(&self, name: &str) -> Turn<'_> {
        let state = self.state();
        let mut state = self
            .filled
            .wait_while(state, |state| state.filling.contains(name))
            .unwrap_or_else(PoisonError::into_inner);
        state.filling.insert(name.to_owned());
        Turn { volumes: self, name: name.to_owned() }
    }
}

/// Fills what is a file system of its own: nothing can be moved into it from outside, so the content is
/// made in a directory of it. One that a fill left which was broken off counts for nothing.
fn fill_device(volume: &Tree, write: impl FnOnce(&Tree) -> io::Result<()>) -> io::Result<()> {
    let name = OsStr::new(FILLING);
    let found = tree::names(volume.as_fd())?;
    if found.iter().any(|found| found != name) {
        return Ok(());
    }
    if !found.is_empty() {
        tree::remove(volume.as_fd(), name)?;
    }
    rustix::fs::mkdirat(volume, name, Mode::RWXU)?;
    let aside = volume.below_plainly(FILLING)?.ok_or(io::ErrorKind::NotFound)?;
    let filled = write(&aside).and_then(|()| aside.move_into(volume));
    let removed = tree::remove(volume.as_fd(), name);
    filled.and(removed)
}

/// While this lives, nobody else fills the volume.
pub(super) struct Turn<'a> {
    volumes: &'a Volumes,
    name: String,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.volumes.state().filling.remove(&self.name);
        self.volumes.filled.notify_all();
    }
}
