//! `RUN --mount`: what a step finds beside its root file system, and leaves there.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;

use super::commit::Ground;
use super::documents;
use super::sources::{Look, Source};
use super::stage::Stage;
use crate::container::MountKind;
use crate::container::spec::Mount;
use dockerfile::Run;
use dockerfile::config;
use engine_error::{Error, Result};
use image::Digest;
use image::rootfs::{RootFs, StorageDriver};
use tree::Tree;

/// The mounts of one step.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    wanted: Vec<Wanted>,
    /// A script with an interpreter of its own.
    script: Option<PathBuf>,
    contents: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Wanted {
    kind: String,
    target: String,
    source: String,
    from: Option<String>,
    id: String,
    readonly: bool,
    mode: Option<u32>,
    owner: (u32, u32),
    size: Option<String>,
}

/// Reads the mounts of a step.
pub(super) fn read(stage: &Stage<'_>, run: &Run) -> Result<Mounts> {
    let mut mounts = Mounts::default();
    for text in &run.mounts {
        let wanted = wanted(stage, text)?;
        mounts.contents.push(format!("mount {text}"));
        if wanted.kind == "bind" {
            mounts.contents.push(stage.bound(&wanted, |tree, source, look| {
                let failed =
                    |error| Error::internal(format!("cannot read {}", wanted.source), error);
                look.digest(tree, source).map_err(failed)
            })?);
        }
        mounts.wanted.push(wanted);
    }
    if let Some(script) = documents::interpreter(run) {
        let path = stage.job.workshop.directory()?.join("script");
        let written = fs::write(&path, &script.text);
        let written = written.and_then(|()| {
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        });
        written.map_err(|error| Error::internal("cannot write a script", error))?;
        mounts.script = Some(path);
        mounts.contents.push(format!("script {}", script.text));
    }
    Ok(mounts)
}

fn wanted(stage: &Stage<'_>, text: &str) -> Result<Wanted> {
    let mut wanted = Wanted { kind: "bind".to_owned(), readonly: true, ..Wanted::default() };
    let mut writable = None;
    for field in text.split(',') {
        let (name, value) = field.split_once('=').unwrap_or((field, "true"));
        let wrong = || Error::invalid(format!("invalid value of {name} in --mount={text}"));
        match name.to_ascii_lowercase().as_str() {
            "type" => wanted.kind = value.to_ascii_lowercase(),
            "target" | "dst" | "destination" => {
                wanted.target = config::absolute(&stage.config, value);
            }
            "source" | "src" => value.clone_into(&mut wanted.source),
            "from" => wanted.from = Some(value.to_owned()),
            "id" => value.clone_into(&mut wanted.id),
            "ro" | "readonly" => writable = Some(value != "true"),
            "rw" | "readwrite" => writable = Some(value == "true"),
            "mode" => {
                wanted.mode = Some(u32::from_str_radix(value, 8).map_err(|_| wrong())?);
            }
            "uid" => wanted.owner.0 = value.parse().map_err(|_| wrong())?,
            "gid" => wanted.owner.1 = value.parse().map_err(|_| wrong())?,
            "size" => wanted.size = Some(value.to_owned()),
            "sharing" if matches!(value, "shared" | "private" | "locked") => {}
            "required" => {}
            _ => return Err(Error::invalid(format!("unexpected key '{name}' in '{field}'"))),
        }
    }
    wanted.readonly = !writable.unwrap_or(wanted.kind != "bind");
    match wanted.kind.as_str() {
        "cache" if wanted.from.is_some() || !wanted.source.is_empty() => {
            return Err(Error::invalid(
                "RUN --mount=type=cache begins empty: from and source are for bind",
            ));
        }
        "bind" | "cache" | "tmpfs" => {}
        kind @ ("secret" | "ssh") => {
            return Err(Error::invalid(format!(
                "RUN --mount=type={kind} needs a session with the client, which this builder has not"
            )));
        }
        kind => return Err(Error::invalid(format!("unsupported mount type \"{kind}\""))),
    }
    if wanted.target.is_empty() || wanted.target == "/" {
        return Err(Error::invalid(format!("invalid mount target in --mount={text}")));
    }
    Ok(wanted)
}

impl Mounts {
    /// What of them makes a step the same.
    pub(super) fn contents(&self) -> Vec<String> {
        self.contents.clone()
    }

    /// The mounts of the step's container.
    pub(super) fn attach(&self, stage: &Stage<'_>) -> Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        for wanted in &self.wanted {
            let mount = |kind, source: &Path| Mount {
                kind,
                source: source.to_string_lossy().into_owned(),
                target: wanted.target.clone(),
                readonly: wanted.readonly,
                ..Mount::default()
            };
            mounts.push(match wanted.kind.as_str() {
                "tmpfs" => {
                    let options = wanted.size.iter().map(|size| format!("size={size}")).collect();
                    Mount { options, readonly: false, ..mount(MountKind::Tmpfs, Path::new("")) }
                }
                "cache" => mount(MountKind::Bind, &stage.kept(wanted)?),
                _ => mount(MountKind::Bind, &stage.copied(wanted)?),
            });
        }
        if let Some(script) = &self.script {
            mounts.push(Mount {
                kind: MountKind::Bind,
                source: script.to_string_lossy().into_owned(),
                target: documents::SCRIPT.to_owned(),
                readonly: true,
                ..Mount::default()
            });
        }
        Ok(mounts)
    }

    /// Takes away what was made to mount something on: it is none of what the step changed. Only what
    /// is empty goes, and no link is followed.
    pub(super) fn forget_places(&self, root: &RootFs) -> Result<()> {
        if root.driver_name() != StorageDriver::Overlay.name() {
            // In a copy it cannot be told from what was there.
            return Ok(());
        }
        let upper = root.upper();
        let failed = |error| Error::internal(format!("cannot clear {}", upper.display()), error);
        let tree = Tree::open(&upper).map_err(failed)?;
        for wanted in &self.wanted {
            let path = Path::new(wanted.target.trim_start_matches('/'));
            for (depth, place) in path.ancestors().enumerate() {
                let Some(name) = place.file_name() else { break };
                let above = place.parent().unwrap_or(Path::new(""));
                let Some(above) = super::context::directory(&tree, above).map_err(failed)? else {
                    continue;
                };
                if !forget(&above, name, depth == 0) {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Removes an empty directory, or the empty file at the end of a path; tells whether it did.
fn forget(above: &Tree, name: &OsStr, last: bool) -> bool {
    if rustix::fs::unlinkat(above.as_fd(), name, AtFlags::REMOVEDIR).is_ok() {
        return true;
    }
    let stat = rustix::fs::statat(above.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW);
    let empty = stat.is_ok_and(|stat| {
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        kind == rustix::fs::FileType::RegularFile && stat.st_size == 0
    });
    last && empty && rustix::fs::unlinkat(above.as_fd(), name, AtFlags::empty()).is_ok()
}

impl Stage<'_> {
    /// The directory of a cache, which stays from build to build.
    fn kept(&self, wanted: &Wanted) -> Result<PathBuf> {
        let id = if wanted.id.is_empty() { &wanted.target } else { &wanted.id };
        let name = Digest::of(id.as_bytes()).hex();
        let path = self.job.builds.root.join("mounts").join(name);
        let failed = |error| Error::internal(format!("cannot make {}", path.display()), error);
        if !path.exists() {
            fs::create_dir_all(&path).map_err(failed)?;
            let mode = rustix::fs::Mode::from_raw_mode(wanted.mode.unwrap_or(0o755));
            let (uid, gid) = wanted.owner;
            let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            let directory = Tree::open(&path).map_err(failed)?;
            tree::own(directory.as_fd(), owner, mode).map_err(failed)?;
        }
        Ok(path)
    }

    /// A copy of what is to be seen at a mount: what a step does to it harms nobody.
    fn copied(&self, wanted: &Wanted) -> Result<PathBuf> {
        let place = self.job.workshop.directory()?;
        let failed = |error| Error::internal(format!("cannot copy {}", wanted.source), error);
        let to = Tree::open(&place).map_err(failed)?;
        self.bound(wanted, |tree, source, _| {
            let copied = if source.is_directory {
                super::context::directory(tree, &source.path)
                    .and_then(|from| from.map_or(Ok(()), |from| to.copy_from(&from)))
            } else {
                let above = source.path.parent().unwrap_or(Path::new(""));
                let name = source.path.file_name().unwrap_or_default();
                super::context::directory(tree, above).and_then(|from| {
                    from.map_or(Ok(()), |from| {
                        to.take((&from, name), OsStr::new("file"), tree::Given::default())
                    })
                })
            };
            copied.map_err(failed)?;
            Ok(if source.is_directory { place.clone() } else { place.join("file") })
        })
    }

    /// Does something with the source of a mount.
    fn bound<T>(
        &self,
        wanted: &Wanted,
        with: impl FnOnce(&Tree, &Source, &Look<'_>) -> Result<T>,
    ) -> Result<T> {
        let from = wanted.from.as_deref().map(|from| self.foreign(from)).transpose()?;
        let tree = from.as_ref().map_or(&self.job.context.tree, Ground::tree);
        let look =
            Look { instruction: "RUN", is_context: from.is_none(), keeps_owners: true, skip: None };
        let source = if wanted.source.is_empty() { "." } else { &wanted.source };
        let found = look.find(tree, source)?;
        let [only] = found.as_slice() else {
            return Err(Error::invalid(format!("{source} in RUN --mount is no single path")));
        };
        with(tree, only, &look)
    }
}
