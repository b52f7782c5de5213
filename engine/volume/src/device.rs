//! What is mounted at the content of a volume: the options `type`, `o` and `device` of Docker's local
//! driver. It is mounted when the first container that uses the volume starts, and unmounted after
//! the last has ended.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{Volume, Volumes};
use engine_error::{Error, Result};
use tree::mounts::{Mounts, is_mounted, real};

/// The options of a volume.
pub(super) type Options = BTreeMap<String, String>;

/// The options with those that each of them needs.
const KNOWN: [(&str, &[&str]); 3] =
    [("device", &["type"]), ("o", &["device", "type"]), ("type", &["device"])];

/// Words of `o` that are flags of the mount; all others are for the file system.
const FLAGS: [(&str, MountFlags, bool); 20] = [
    ("async", MountFlags::SYNCHRONOUS, false),
    ("atime", MountFlags::NOATIME, false),
    ("bind", MountFlags::BIND, true),
    ("defaults", MountFlags::empty(), true),
    ("dev", MountFlags::NODEV, false),
    ("diratime", MountFlags::NODIRATIME, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("noatime", MountFlags::NOATIME, true),
    ("nodev", MountFlags::NODEV, true),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("noexec", MountFlags::NOEXEC, true),
    ("nosuid", MountFlags::NOSUID, true),
    ("rbind", MountFlags::BIND.union(MountFlags::REC), true),
    ("relatime", MountFlags::RELATIME, true),
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("suid", MountFlags::NOSUID, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
];

/// Refuses options that local volumes do not have, in Docker's words.
pub(super) fn check(options: &Options) -> Result<()> {
    let known = |option: &String| KNOWN.iter().any(|(name, _)| name == option);
    if options.keys().any(|option| option == "size") {
        return Err(Error::invalid("quota size requested but no quota support"));
    }
    if let Some(option) = options.keys().find(|option| !known(option)) {
        return Err(Error::invalid(format!("invalid option: {option:?}")));
    }
    for (option, needed) in KNOWN {
        let missing = needed.iter().find(|needed| !options.contains_key(**needed));
        if let Some(missing) = missing.filter(|_| options.contains_key(option)) {
            return Err(Error::invalid(format!("missing required option: {missing:?}")));
        }
    }
    Ok(())
}

impl Volumes {
    /// Has what belongs to a volume mounted for a user, until that [lets go](Self::detach). Nothing
    /// happens to a volume that is a directory and no more. Whom it asks may never answer.
    pub fn attach(&self, user: &str, name: &str) -> Result<()> {
        let volume = self.find(name)?;
        if !volume.is_local() {
            return self.attach_by_driver(user, &volume, None);
        }
        if volume.options.is_empty() {
            return Ok(());
        }
        let _turn = self.turn_to_fill(name);
        let failed = |error| Error::internal("cannot read what is mounted", error);
        if !is_mounted(&volume.mountpoint).map_err(failed)? {
            mount_at(&volume.mountpoint, &volume.options).map_err(|error| {
                Error::internal(format!("failed to mount local volume: mount {name}"), error)
            })?;
        }
        let mut state = self.state();
        state.attached.entry(name.to_owned()).or_default().insert(user.to_owned());
        Ok(())
    }

    /// The same for a user who had it mounted by an earlier daemon, and has it still.
    pub fn take_up(&self, user: &str, name: &str) -> Result<()> {
        let volume = self.find(name)?;
        match self.mounted_before(user, name).filter(|_| !volume.is_local()) {
            Some(place) => self.attach_by_driver(user, &volume, Some(place)),
            None => self.attach(user, name),
        }
    }

    fn attach_by_driver(&self, user: &str, volume: &Volume, place: Option<PathBuf>) -> Result<()> {
        let name = &volume.name;
        let _turn = self.turn_to_fill(name);
        if self.state().attached.get(name).is_some_and(|users| users.contains(user)) {
            return Ok(());
        }
        let place = match place {
            Some(place) => place,
            None => self.mount_by_driver(user, volume)?,
        };
        let mut state = self.state();
        state.places.insert(name.clone(), place);
        state.attached.entry(name.clone()).or_default().insert(user.to_owned());
        Ok(())
    }

    pub(super) fn names_attached(&self, user: &str) -> Vec<String> {
        let state = self.state();
        let attached = state.attached.iter().filter(|(_, users)| users.contains(user));
        attached.map(|(name, _)| name.clone()).collect()
    }

    /// Tells drivers that a user is done with what they have mounted for it.
    pub fn detach_from_drivers(&self, user: &str) {
        for name in self.names_attached(user) {
            let Some(volume) = self.find(&name).ok().filter(|volume| !volume.is_local()) else {
                continue;
            };
            let _turn = self.turn_to_fill(&name);
            self.let_go_by_driver(user, &name, &volume.driver);
            let mut state = self.state();
            let Some(users) = state.attached.get_mut(&name) else { continue };
            users.remove(user);
            if users.is_empty() {
                state.attached.remove(&name);
                state.places.remove(&name);
            }
        }
    }

    /// Notes that a user is gone, of whom [drivers](Self::detach_from_drivers) know. What was mounted
    /// for nobody else is to be [unmounted](Self::unmount_unused): the names of those volumes, and where
    /// they are.
    pub fn detach(&self, user: &str) -> Vec<(String, PathBuf)> {
        let mut state = self.state();
        let mut free = Vec::new();
        state.attached.retain(|name, users| {
            if users.remove(user) && users.is_empty() {
                free.push(name.clone());
            }
            !users.is_empty()
        });
        drop(state);
        let found = free.into_iter().filter_map(|name| self.find(&name).ok());
        found.map(|volume| (volume.name, volume.mountpoint)).collect()
    }

    /// Ends what was mounted for a user whom nobody waits for, unless others have it too. Whom it asks
    /// may never answer.
    pub fn detach_one(&self, user: &str, name: &str) {
        if let Some(users) = self.state().attached.get_mut(name) {
            users.remove(user);
        }
        self.unmount_unused(name);
    }

    /// Unmounts what belongs to a volume, unless somebody has it. Whom it asks may never answer.
    pub fn unmount_unused(&self, name: &str) {
        let _turn = self.turn_to_fill(name);
        let mut state = self.state();
        if state.attached.get(name).is_some_and(|users| !users.is_empty()) {
            return;
        }
        state.attached.remove(name);
        drop(state);
        self.unmount(name);
    }

    /// Something that is mounted in a volume and that no [attach](Self::attach) has mounted there:
    /// it is not for us to unmount.
    pub fn foreign_mount(&self) -> Result<Option<PathBuf>> {
        let failed = |error| Error::internal("cannot read what is mounted", error);
        let mounts = Mounts::read().map_err(failed)?;
        let mut foreign = mounts.below(self.place.root());
        let devices = |volume: &&Volume| volume.is_local() && !volume.options.is_empty();
        for volume in self.list()?.iter().filter(devices) {
            let place = real(&volume.mountpoint);
            foreign.retain(|mounted| *mounted != place);
        }
        Ok(foreign.into_iter().next())
    }

    /// Unmounts all that nobody uses: what a daemon that was killed had mounted. Only when all users have
    /// been told of.
    pub fn unmount_all_unused(&self) {
        for volume in self.list().unwrap_or_default() {
            if !volume.options.is_empty() && volume.is_local() {
                self.unmount_unused(&volume.name);
            }
        }
    }

    fn unmount(&self, name: &str) {
        let Ok(volume) = self.find(name) else { return };
        match is_mounted(&volume.mountpoint) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                return tracing::warn!(volume = name, %error, "cannot see if it is mounted");
            }
        }
        let unmounted = match unmount(&volume.mountpoint, UnmountFlags::empty()) {
            // Somebody on the host looks into it, or it does not answer: it goes when they let go.
            Err(_) => unmount(&volume.mountpoint, UnmountFlags::DETACH),
            done => done,
        };
        if let Err(error) = unmounted {
            tracing::warn!(volume = name, %error, "cannot unmount");
        }
    }
}

fn mount_at(place: &Path, options: &Options) -> io::Result<()> {
    let option = |name: &str| options.get(name).map_or("", String::as_str);
    let (flags, data) = flags(&resolved(option("o"))?);
    let data = CString::new(data).map_err(io::Error::other)?;
    let (device, kind) = (option("device"), option("type"));
    mount(device, place, kind, flags, &*data)?;
    // A bind takes its flags only when it is there.
    if flags.contains(MountFlags::BIND) && !(flags - MountFlags::BIND - MountFlags::REC).is_empty()
    {
        let again = (flags - MountFlags::REC) | MountFlags::BIND;
        if let Err(error) = rustix::mount::mount_remount(place, again, c"") {
            let _ = unmount(place, UnmountFlags::DETACH);
            return Err(error.into());
        }
    }
    Ok(())
}

/// The flags that are said, and the rest.
fn flags(text: &str) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match FLAGS.iter().find(|(name, ..)| *name == word) {
            Some((_, flag, true)) => flags |= *flag,
            Some((_, flag, false)) => flags -= *flag,
            None => data.push(word),
        }
    }
    (flags, data.join(","))
}

/// The kernel knows no names of hosts: `addr=` gets the address.
fn resolved(text: &str) -> io::Result<String> {
    let words = text.split(',').map(|word| match word.strip_prefix("addr=") {
        Some(host) => {
            let found = (host, 0).to_socket_addrs()?.next();
            let found = found.ok_or(Errno::HOSTUNREACH)?;
            Ok(format!("addr={}", found.ip()))
        }
        None => Ok(word.to_owned()),
    });
    Ok(words.collect::<io::Result<Vec<_>>>()?.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(options: &[(&str, &str)]) -> String {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        check(&options.iter().map(own).collect()).unwrap_err().to_string()
    }

    #[test]
    fn options_are_refused_in_docker_s_words() {
        assert_eq!(refused(&[("bogus", "x")]), "invalid option: \"bogus\"");
        assert_eq!(refused(&[("type", "tmpfs")]), "missing required option: \"device\"");
        assert_eq!(refused(&[("device", "x")]), "missing required option: \"type\"");
        assert_eq!(
            refused(&[("o", "bind"), ("type", "none")]),
            "missing required option: \"device\""
        );
        check(&Options::new()).unwrap();
    }

    #[test]
    fn words_are_flags_or_for_the_file_system() {
        let (found, data) = flags("ro,size=1m,noexec,exec,uid=7");
        assert_eq!((found, &*data), (MountFlags::RDONLY, "size=1m,uid=7"));
        assert_eq!(flags("rbind").0, MountFlags::BIND | MountFlags::REC);
        assert_eq!(resolved("addr=127.0.0.1,rw").unwrap(), "addr=127.0.0.1,rw");
    }
}
