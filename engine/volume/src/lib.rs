//! Volumes: directories that outlive containers, and who uses them; and those that others make.
//!
//! A volume is used by every container that mounts it, however it came to that: by name, as its
//! own anonymous one, by `--volumes-from`; whether it runs or not. Users and directories are changed
//! under one lock, so a volume that is used cannot go, and one that is going cannot be used. Every
//! way to remove a volume asks here, and nowhere else.

mod device;
mod driver;
mod fill;
mod place;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

pub use self::driver::{Description, Driver, Drivers, LOCAL, OnlyLocal, Told};
use self::driver::{is_local, refuse_other};
use self::place::Place;
pub use self::record::Damaged;
use engine_error::{Error, Kind, Result};

/// The label of volumes that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// The volumes below a directory.
#[derive(Debug)]
pub struct Volumes {
    place: Place,
    drivers: Arc<dyn Drivers>,
    state: Mutex<State>,
    filled: Condvar,
    pruning: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The containers that mount a volume, by its name.
    users: BTreeMap<String, BTreeSet<String>>,
    /// Who has what belongs to a volume mounted, by its name.
    attached: BTreeMap<String, BTreeSet<String>>,
    /// Where drivers have volumes mounted for users, by their names.
    places: BTreeMap<String, PathBuf>,
    /// Volumes that are given their first content, mounted or unmounted now.
    filling: BTreeSet<String>,
    /// Why the users are not known for certain.
    doubt: Option<String>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Who makes it; empty if it is local.
    pub driver: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What is mounted there: `type`, `o` and `device`; none for a directory and no more. What its driver
    /// was told, if it has one.
    pub options: BTreeMap<String, String>,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// The directory that containers mount; empty while a driver has it nowhere.
    pub mountpoint: PathBuf,
    /// Why what is known of it, but for its content, could not be read.
    pub damage: Option<String>,
}

/// Which volume a container wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want<'a> {
    /// One of its own, which nobody named.
    Anonymous,
    /// The one of this name, made if it is not there.
    Named(&'a str),
    /// The one of this name, which another container has.
    Existing(&'a str),
}

/// How a volume is made that is not there.
#[derive(Clone, Debug, Default)]
pub struct New {
    /// Who makes it; the local driver if nobody is named.
    pub driver: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What the driver is told.
    pub options: BTreeMap<String, String>,
}

/// What a removal of unused volumes did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The names of those that went.
    pub removed: Vec<String>,
    /// Bytes that came free.
    pub reclaimed: u64,
}

/// A volume with what `system df` tells of it.
#[derive(Clone, Debug)]
pub struct Usage {
    /// The volume.
    pub volume: Volume,
    /// Bytes of its files; `None` if that could not be found out.
    pub size: Option<u64>,
    /// How many containers mount it.
    pub users: usize,
}

impl Volume {
    /// Whether nobody else makes it.
    pub fn is_local(&self) -> bool {
        is_local(&self.driver)
    }

    /// What its driver is called.
    pub fn driver_name(&self) -> &str {
        if self.is_local() { LOCAL } else { &self.driver }
    }

    /// Whether it was made for a container that named none.
    pub fn is_anonymous(&self) -> bool {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        self.labels.contains_key(ANONYMOUS) || (self.name.len() == 64 && self.name.bytes().all(hex))
    }
}

impl New {
    /// The same for a volume that nobody named.
    fn unnamed(&self, unnamed: bool) -> Self {
        let mut new = self.clone();
        if unnamed {
            new.labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        new
    }
}

impl Volumes {
    /// Opens the volumes below `root`, making it if it is not there, and ends the removals that an
    /// earlier daemon began.
    pub fn open(root: PathBuf) -> Result<Self> {
        Self::open_with(root, Arc::new(OnlyLocal))
    }

    /// The same with volumes that others make.
    pub fn open_with(root: PathBuf, drivers: Arc<dyn Drivers>) -> Result<Self> {
        Ok(Self {
            place: Place::open(root)?,
            drivers,
            state: Mutex::default(),
            filled: Condvar::new(),
            pruning: Mutex::default(),
        })
    }

    /// The same with new volumes that belong to somebody else than root: to who is root in containers.
    #[must_use]
    pub fn owned_by(self, owner: Option<(u32, u32)>) -> Self {
        Self { place: self.place.owned_by(owner), ..self }
    }

    // === what there is ===

    /// All volumes, by name.
    pub fn list(&self) -> Result<Vec<Volume>> {
        let mut all = self.place.list()?;
        for volume in &mut all {
            self.add_place(volume);
        }
        Ok(all)
    }

    /// A volume by name.
    pub fn find(&self, name: &str) -> Result<Volume> {
        let mut volume = self.place.find(name)?;
        self.add_place(&mut volume);
        Ok(volume)
    }

    /// Says where a driver has a volume.
    fn add_place(&self, volume: &mut Volume) {
        if !volume.is_local() {
            volume.mountpoint = self.state().places.get(&volume.name).cloned().unwrap_or_default();
        }
    }

    /// The ids of the containers that mount a volume, running or not.
    pub fn users(&self, name: &str) -> Vec<String> {
        self.state().users.get(name).into_iter().flatten().cloned().collect()
    }

    /// All local volumes with their sizes, as `size` finds them out, and numbers of users.
    pub fn usage(&self, size: impl Fn(&Path) -> Option<u64>) -> Result<Vec<Usage>> {
        let usage = |volume: Volume| Usage {
            size: size(&volume.mountpoint),
            users: self.users(&volume.name).len(),
            volume,
        };
        Ok(self.list()?.into_iter().filter(Volume::is_local).map(usage).collect())
    }

    /// The volumes whose records could not be read.
    pub fn damaged(&self) -> Vec<Damaged> {
        let volumes = self.list().unwrap_or_default();
        volumes.into_iter().filter_map(|volume| self.place.damage_of(volume)).collect()
    }

    // === who uses it ===

    /// Makes a container a user of a volume, and the volume if there is none yet. Returns it, and
    /// whether it is new.
    pub fn hold(&self, user: &str, want: Want<'_>, new: &New) -> Result<(Volume, bool)> {
        let name = match want {
            Want::Anonymous => "",
            Want::Named(name) | Want::Existing(name) => name,
        };
        let driver = self.driver_of(name, &new.driver);
        let (volume, is_new) = if is_local(&driver) {
            let state = self.state();
            let made = match want {
                Want::Existing(name) => self.place.find(name).map(|volume| (volume, false)),
                _ => self.make_here(name, new),
            };
            match made {
                Ok(made) => {
                    Self::note(state, user, &made.0);
                    made
                }
                Err(error) => {
                    drop(state);
                    return Err(self.unmade(name, &new.driver, error));
                }
            }
        } else {
            let (name, unnamed) = Self::name_for(name)?;
            let _turn = self.turn_to_fill(&name);
            if matches!(want, Want::Existing(_)) {
                self.place.find(&name)?;
            }
            let made = self.make_by_driver(&name, &driver, &new.unnamed(unnamed))?;
            Self::note(self.state(), user, &made.0);
            made
        };
        Ok((volume, is_new))
    }

    fn note(mut state: MutexGuard<'_, State>, user: &str, volume: &Volume) {
        state.users.entry(volume.name.clone()).or_default().insert(user.to_owned());
    }

    /// Makes a local volume, or gives the one of the name. The caller has the state.
    fn make_here(&self, name: &str, new: &New) -> Result<(Volume, bool)> {
        if let Ok(volume) = self.place.find(name) {
            refuse_other(&volume, &new.driver)?;
            return Ok((volume, false));
        }
        device::check(&new.options).map_err(|error| {
            if name.is_empty() {
                return error;
            }
            Error::new(error.kind(), format!("create {name}: {error}"))
        })?;
        self.place.make(name, new.labels.clone(), new.options.clone(), "")
    }

    /// Notes a user that an earlier daemon made one.
    pub fn keep(&self, user: &str, name: &str) {
        self.state().users.entry(name.to_owned()).or_default().insert(user.to_owned());
    }

    /// Notes that not all users are known, because something of them cannot be read. From now on a
    /// volume goes only if somebody names it.
    pub fn doubt(&self, reason: impl Into<String>) {
        self.state().doubt = Some(reason.into());
    }

    /// Ends a container's use of its volumes, and removes those of `own` that nobody else uses.
    /// Returns the names of those that went.
    pub fn release(&self, user: &str, own: &[&str]) -> Vec<String> {
        let mut state = self.state();
        state.users.retain(|_, users| {
            users.remove(user);
            !users.is_empty()
        });
        let unused = own.iter().filter(|name| !state.users.contains_key(**name));
        if let Some(reason) = &state.doubt {
            let kept: Vec<_> = unused.collect();
            if !kept.is_empty() {
                tracing::warn!(?kept, reason, "volumes stay: not all of their users are known");
            }
            return Vec::new();
        }
        let (mut removed, mut trash, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for name in unused {
            match self.place.find(name) {
                Ok(volume) if !volume.is_local() => {
                    others.push(volume);
                    continue;
                }
                _ => {}
            }
            match self.place.put_aside(name) {
                Ok(aside) => {
                    trash.push(aside);
                    removed.push((*name).to_owned());
                }
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => {
                    tracing::warn!(volume = name, error = error.chain(), "cannot remove");
                }
            }
        }
        drop(state);
        for aside in trash {
            place::discard(&aside);
        }
        for volume in others {
            match self.remove_by_driver(&volume.name, &volume.driver) {
                Ok(()) => removed.push(volume.name),
                Err(error) => tracing::warn!(error = error.chain(), "a volume stays"),
            }
        }
        removed
    }

    // === making and removing ===

    /// Makes a local volume; one that exists is given back as it is. An empty name asks for a random
    /// one. Returns the volume, and whether it is new.
    pub fn create(&self, name: &str, labels: BTreeMap<String, String>) -> Result<(Volume, bool)> {
        self.create_with(name, &New { labels, ..New::default() })
    }

    /// The same by any driver and with its options: `type`, `o` and `device` of the local one.
    pub fn create_with(&self, name: &str, new: &New) -> Result<(Volume, bool)> {
        if new.driver.is_empty()
            && let Ok(volume) = self.find(name)
        {
            return Ok((volume, false));
        }
        if is_local(&new.driver) {
            let _turn = self.state();
            return self.make_here(name, new);
        }
        let (name, unnamed) = Self::name_for(name)?;
        let _turn = self.turn_to_fill(&name);
        self.make_by_driver(&name, &new.driver, &new.unnamed(unnamed))
    }

    /// Removes a volume, with all that is in it, that nobody uses.
    pub fn remove(&self, name: &str) -> Result<()> {
        let driver = self.driver_of(name, "");
        if !is_local(&driver) {
            return self.remove_by_driver(name, &driver);
        }
        let state = self.state();
        Self::refuse_used_in(&state, name)?;
        let aside = self.place.put_aside(name)?;
        drop(state);
        place::discard(&aside);
        Ok(())
    }

    fn refuse_used(&self, name: &str) -> Result<()> {
        Self::refuse_used_in(&self.state(), name)
    }

    fn refuse_used_in(state: &State, name: &str) -> Result<()> {
        let Some(users) = state.users.get(name) else { return Ok(()) };
        let users: Vec<_> = users.iter().map(String::as_str).collect();
        let users = users.join(", ");
        Err(Error::conflict(format!("remove {name}: volume is in use - [{users}]")))
    }

    /// Removes the unused local volumes that `wanted` picks.
    pub fn prune(&self, wanted: impl Fn(&Volume) -> bool) -> Result<Pruned> {
        let Ok(_alone) = self.pruning.try_lock() else {
            return Err(Error::conflict("a prune operation is already running"));
        };
        if let Some(reason) = &self.state().doubt {
            return Err(Error::conflict(format!(
                "cannot prune volumes: not all of their users are known: {reason}; \
                 remove by name what is not needed"
            )));
        }
        let mut pruned = Pruned::default();
        for volume in self.list()? {
            if volume.damage.is_some() || !volume.is_local() || !wanted(&volume) {
                continue;
            }
            let state = self.state();
            if state.users.contains_key(&volume.name) {
                continue;
            }
            let aside = match self.place.put_aside(&volume.name) {
                // Somebody else removed it meanwhile, or has mounted something there.
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Conflict) => continue,
                aside => aside?,
            };
            drop(state);
            pruned.reclaimed += tree::size_of(&aside.join("_data"));
            place::discard(&aside);
            pruned.removed.push(volume.name);
        }
        Ok(pruned)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
