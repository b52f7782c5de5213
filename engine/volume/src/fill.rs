//! The first content of a volume: what the image has at the place where it is mounted.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::sync::PoisonError;

use tree::Tree;

use super::{Volumes, place};
use engine_error::{Error, Result};

impl Volumes {
    /// Gives an empty volume what `write` puts into a directory, that directory's owner and mode
    /// included. Nothing happens to a volume that has anything in it.
    ///
    /// The content is made where no container sees it, and moved in whole. So nobody who has the
    /// volume mounted can send a write elsewhere, and a failure leaves the volume as it was,
    /// with all that others have put there meanwhile.
    pub fn fill(&self, name: &str, write: impl FnOnce(&Tree) -> io::Result<()>) -> Result<()> {
        let _turn = self.turn_to_fill(name);
        let failed = |error| Error::internal(format!("cannot fill volume {name}"), error);
        let found = self.find(name)?;
        let volume = Tree::open(&found.mountpoint).map_err(failed)?;
        if !volume.is_empty().map_err(failed)? {
            return Ok(());
        }
        if !found.options.is_empty() {
            // It is another file system, into which nothing is moved.
            return write(&volume).map_err(failed);
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
