//! Drivers of volumes that are not local: somebody else makes them, and says where on this host they are.
//!
//! Whom a driver asks may never answer. So it is asked in the turn of the volume that it is about, and
//! under no lock that others need. What a driver has mounted for a user is written down before it is
//! asked for that, so that a later daemon can let go of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::place::random_name;
use super::{New, Volume, Volumes};
use engine_error::{Error, Kind, Result};

/// The name of the driver that is none.
pub const LOCAL: &str = "local";

/// Who makes volumes.
pub trait Driver: fmt::Debug + Send + Sync {
    /// Makes a volume.
    fn create(&self, name: &str, options: &BTreeMap<String, String>) -> Result<()>;
    /// Removes one.
    fn remove(&self, name: &str) -> Result<()>;
    /// Tells of one, if there is one of the name.
    fn find(&self, name: &str) -> Result<Option<Told>>;
    /// Tells of all.
    fn list(&self) -> Result<Vec<Told>>;
    /// Has one mounted for a user, and says where.
    fn mount(&self, name: &str, user: &str) -> Result<PathBuf>;
    /// Ends that.
    fn unmount(&self, name: &str, user: &str) -> Result<()>;
    /// `local` or `global`.
    fn scope(&self) -> &str;
}

/// Where drivers are found.
pub trait Drivers: fmt::Debug + Send + Sync {
    /// The driver of a name.
    fn find(&self, name: &str) -> Result<Arc<dyn Driver>>;
    /// The names of those that there are.
    fn names(&self) -> Vec<String>;
}

/// No driver but the local one.
#[derive(Clone, Copy, Debug)]
pub struct OnlyLocal;

impl Drivers for OnlyLocal {
    fn find(&self, name: &str) -> Result<Arc<dyn Driver>> {
        Err(Error::not_found(format!("plugin \"{name}\" not found")))
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a driver tells of a volume.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Its name.
    pub name: String,
    /// Where it is now, if it is anywhere.
    pub mountpoint: PathBuf,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// Whatever else there is to tell.
    pub status: Option<Value>,
}

/// What is to be known of a volume, with what its driver tells.
#[derive(Clone, Debug)]
pub struct Description {
    /// The volume.
    pub volume: Volume,
    /// `local` or `global`.
    pub scope: String,
    /// Whatever else its driver tells.
    pub status: Option<Value>,
}

impl From<Volume> for Description {
    fn from(volume: Volume) -> Self {
        Self { volume, scope: LOCAL.to_owned(), status: None }
    }
}

impl Description {
    fn add(&mut self, driver: &dyn Driver, told: Told) {
        driver.scope().clone_into(&mut self.scope);
        if self.volume.mountpoint.as_os_str().is_empty() {
            self.volume.mountpoint = told.mountpoint;
        }
        self.volume.created = told.created.or(self.volume.created);
        self.status = told.status;
    }
}

/// Whether a driver is the one that is none.
pub(super) fn is_local(driver: &str) -> bool {
    matches!(driver, "" | LOCAL)
}

impl Volumes {
    /// A volume with what its driver tells of it. One that only a driver knows is looked for there.
    pub fn describe(&self, name: &str) -> Result<Description> {
        match self.find(name) {
            Ok(volume) if volume.is_local() => Ok(volume.into()),
            Ok(volume) => {
                let driver = self.driver(&volume.driver)?;
                let told = driver.find(name)?;
                let told = told.ok_or_else(|| missing(name))?;
                let mut description = Description::from(volume);
                description.add(&*driver, told);
                Ok(description)
            }
            Err(error) => match self.elsewhere(name) {
                Some((driver, driver_name, told)) => {
                    let mut description = foreign(&driver_name, &told).into();
                    Description::add(&mut description, &*driver, told);
                    Ok(description)
                }
                None => Err(error),
            },
        }
    }

    /// All volumes: those that are known here, and those that drivers have beside them. What is wrong
    /// with a driver that cannot be asked is told, and hides no other's.
    pub fn describe_all(&self) -> Result<(Vec<Description>, Vec<String>)> {
        let mut all: Vec<Description> = self.list()?.into_iter().map(Description::from).collect();
        let used = all.iter().map(|known| known.volume.driver.clone());
        let mut names: Vec<_> = used.chain(self.drivers.names()).filter(|d| !is_local(d)).collect();
        names.sort();
        names.dedup();
        let asked = std::thread::scope(|scope| {
            let ask = |name: String| {
                let told = self.driver(&name).and_then(|driver| Ok((driver.list()?, driver)));
                (name, told)
            };
            let threads: Vec<_> =
                names.into_iter().map(|name| scope.spawn(move || ask(name))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect::<Vec<_>>()
        });
        let mut warnings = Vec::new();
        for (name, told) in asked {
            match told {
                Ok((told, driver)) => add_told(&mut all, &name, &*driver, told),
                Err(error) => {
                    warnings.push(format!("error while listing volumes of {name}: {error}"));
                }
            }
        }
        all.sort_by(|a, b| a.volume.name.cmp(&b.volume.name));
        Ok((all, warnings))
    }

    fn driver(&self, name: &str) -> Result<Arc<dyn Driver>> {
        self.drivers.find(name).map_err(|error| {
            Error::new(error.kind(), format!("error looking up volume plugin {name}: {error}"))
        })
    }

    /// Who has a volume that is not known here.
    fn elsewhere(&self, name: &str) -> Option<(Arc<dyn Driver>, String, Told)> {
        self.drivers.names().into_iter().find_map(|driver_name| {
            let driver = self.driver(&driver_name).ok()?;
            let told = driver.find(name).ok()??;
            Some((driver, driver_name, told))
        })
    }

    /// What is wrong where a volume was not made: that a name is taken counts only for a driver that is
    /// there. Nobody may hold the state, for a plugin may be asked.
    pub(super) fn unmade(&self, name: &str, wanted: &str, error: Error) -> Error {
        if is_local(wanted) || error.kind() != Kind::Conflict {
            return error;
        }
        match self.driver(wanted) {
            Ok(_) => error,
            Err(missing) => Error::new(missing.kind(), format!("create {name}: {missing}")),
        }
    }

    /// Which driver a volume of a name is of, or would be made by.
    pub(super) fn driver_of(&self, name: &str, wanted: &str) -> String {
        match self.find(name) {
            Ok(volume) => volume.driver,
            Err(_) if !wanted.is_empty() || name.is_empty() => wanted.to_owned(),
            Err(_) => self.elsewhere(name).map_or_else(String::new, |(_, driver, _)| driver),
        }
    }

    /// Makes a volume of a driver, if it is not there. It is known here when the driver has it. The
    /// caller has the turn of the volume.
    pub(super) fn make_by_driver(
        &self,
        name: &str,
        driver_name: &str,
        new: &New,
    ) -> Result<(Volume, bool)> {
        let failed = |error: Error| Error::new(error.kind(), format!("create {name}: {error}"));
        if let Ok(volume) = self.find(name) {
            let refused = refuse_other(&volume, &new.driver);
            refused.map_err(|error| self.unmade(name, &new.driver, error))?;
            return Ok((volume, false));
        }
        // Before anybody makes what could not be noted.
        self.place.directory(name)?;
        let driver = self.driver(driver_name).map_err(failed)?;
        let known = driver.find(name).map_err(failed)?;
        if known.is_none() {
            driver.create(name, &new.options).map_err(failed)?;
        }
        let (labels, options) = (new.labels.clone(), new.options.clone());
        let (made, _) = self.place.make(name, labels, options, driver_name)?;
        let is_new = known.is_none();
        let mountpoint = known.map(|told| told.mountpoint).unwrap_or_default();
        Ok((Volume { mountpoint, ..made }, is_new))
    }

    /// A name for a volume that has none.
    pub(super) fn name_for(name: &str) -> Result<(String, bool)> {
        let unnamed = name.is_empty();
        Ok((if unnamed { random_name()? } else { name.to_owned() }, unnamed))
    }

    /// Has a driver remove a volume that nobody uses.
    pub(super) fn remove_by_driver(&self, name: &str, driver_name: &str) -> Result<()> {
        let _turn = self.turn_to_fill(name);
        self.refuse_used(name)?;
        let failed = |error: Error| Error::new(error.kind(), format!("remove {name}: {error}"));
        let driver = self.driver(driver_name).map_err(failed)?;
        for user in self.place.noted_users(name) {
            self.unmount_by_driver(&user, name, &*driver);
        }
        if let Err(error) = driver.remove(name) {
            // One that is gone there is to be gone here.
            let gone = driver.list().is_ok_and(|all| all.iter().all(|told| told.name != name));
            if !gone {
                return Err(failed(error));
            }
        }
        match self.place.put_aside(name) {
            Ok(aside) => super::place::discard(&aside),
            // It was never known here.
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Has a driver mount a volume for a user. The caller has the turn of the volume.
    pub(super) fn mount_by_driver(&self, user: &str, volume: &Volume) -> Result<PathBuf> {
        let (name, id) = (&*volume.name, id_of(user));
        let driver = self.driver(&volume.driver)?;
        if self.place.noted_users(name).contains(&id) {
            // It was let go of while the driver could not be told.
            self.unmount_by_driver(&id, name, &*driver);
        }
        let unnoted = |error| Error::internal(format!("cannot note who uses volume {name}"), error);
        self.place.note_user(name, &id, Path::new("")).map_err(unnoted)?;
        let mounted = driver.mount(name, &id).and_then(|place| {
            if place.is_absolute() {
                return Ok(place);
            }
            let (driver, place) = (&volume.driver, place.display());
            let text =
                format!("plugin {driver} says it is at `{place}`, which is no absolute path");
            Err(Error::new(Kind::Internal, text))
        });
        let place = mounted.map_err(|error| {
            let text = format!("error while mounting volume '{name}': {error}");
            let error = Error::new(error.kind(), text);
            self.unmount_by_driver(&id, name, &*driver);
            error
        })?;
        self.place.note_user(name, &id, &place).map_err(unnoted)?;
        Ok(place)
    }

    /// Where a driver has mounted a volume for a user whom an earlier daemon had it mounted for.
    pub(super) fn mounted_before(&self, user: &str, name: &str) -> Option<PathBuf> {
        self.place.noted_place(name, &id_of(user)).filter(|place| place.is_absolute())
    }

    /// Tells a driver that a user is done with a volume. If it cannot be told, that is owed: it is told
    /// before the volume is mounted for the user again, or removed, and by the next daemon.
    pub(super) fn let_go_by_driver(&self, user: &str, name: &str, driver: &str) {
        match self.driver(driver) {
            Ok(driver) => self.unmount_by_driver(&id_of(user), name, &*driver),
            Err(error) => tracing::warn!(volume = name, error = error.chain(), "stays mounted"),
        }
    }

    fn unmount_by_driver(&self, id: &str, name: &str, driver: &dyn Driver) {
        match driver.unmount(name, id) {
            Ok(()) => self.place.forget_user(name, id),
            Err(error) => tracing::warn!(volume = name, error = error.chain(), "stays mounted"),
        }
    }

    /// Tells drivers of users that are gone, whom an earlier daemon had something mounted for.
    pub fn settle_with_drivers(&self) {
        let remote = self.list().unwrap_or_default().into_iter().filter(|v| !v.is_local());
        for volume in remote {
            let noted = self.place.noted_users(&volume.name);
            let _turn = self.turn_to_fill(&volume.name);
            let attached = self.state().attached.get(&volume.name).cloned().unwrap_or_default();
            let used = |id: &String| attached.iter().any(|user| id_of(user) == *id);
            for id in noted.iter().filter(|id| !used(id)) {
                self.let_go_by_driver(id, &volume.name, &volume.driver);
            }
        }
    }
}

fn missing(name: &str) -> Error {
    Error::not_found(format!("get {name}: no such volume"))
}

/// Refuses a name that a volume of another driver has.
pub(super) fn refuse_other(volume: &Volume, wanted: &str) -> Result<()> {
    let (own, name) = (volume.driver_name(), &volume.name);
    if wanted.is_empty() || wanted == own {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "create {name}: driver '{own}' already has volume '{name}': volume name must be unique"
    )))
}

/// What drivers know a user by: nothing that could be a path.
fn id_of(user: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    user.chars().map(plain).collect()
}

fn foreign(driver: &str, told: &Told) -> Volume {
    Volume {
        name: told.name.clone(),
        driver: driver.to_owned(),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        created: None,
        mountpoint: PathBuf::new(),
        damage: None,
    }
}

/// Adds what a driver tells to what is known.
fn add_told(all: &mut Vec<Description>, name: &str, driver: &dyn Driver, told: Vec<Told>) {
    for told in told {
        let known = all.iter_mut().find(|known| known.volume.name == told.name);
        match known {
            Some(known) if known.volume.driver == name => known.add(driver, told),
            // The name is another's.
            Some(_) => {}
            None => {
                let mut description = Description::from(foreign(name, &told));
                description.add(driver, told);
                all.push(description);
            }
        }
    }
}

impl super::place::Place {
    /// Notes a user before a driver mounts a volume for it, and then where that is.
    fn note_user(&self, name: &str, id: &str, place: &Path) -> std::io::Result<()> {
        let directory = self.notes(name);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::write(directory.join(id), place.as_os_str().as_encoded_bytes())
    }

    fn forget_user(&self, name: &str, id: &str) {
        let file = self.notes(name).join(id);
        if let Err(error) = fs::remove_file(&file)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, file = %file.display(), "cannot remove");
        }
    }

    fn noted_users(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.notes(name)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn noted_place(&self, name: &str, id: &str) -> Option<PathBuf> {
        fs::read_to_string(self.notes(name).join(id)).ok().map(PathBuf::from)
    }
}

#[cfg(test)]
mod tests;
