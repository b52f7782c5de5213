//! `RUN --mount`: what a step finds beside its root file system, and leaves there.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::caches::{Claim, Sharing};
use super::commit::Ground;
use super::documents;
use super::places::Places;
use super::sources::{Look, Source};
use super::stage::Stage;
use crate::container::MountKind;
use crate::container::spec::Mount;
use dockerfile::Run;
use dockerfile::config;
use engine_error::{Error, Result};
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
    sharing: Sharing,
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
            "sharing" => {
                wanted.sharing = match value {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => return Err(wrong()),
                }
            }
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

    fn caches(&self) -> impl Iterator<Item = &Wanted> {
        self.wanted.iter().filter(|wanted| wanted.kind == "cache")
    }

    /// Waits for the caches of the step.
    pub(super) fn claim<'a>(&self, stage: &Stage<'a>) -> Result<Claim<'a>> {
        let job = stage.job;
        if self.caches().any(|wanted| job.locks || wanted.sharing == Sharing::Locked) {
            job.wait_for_turn(stage)?;
        }
        let id = |wanted: &Wanted| {
            let id = if wanted.id.is_empty() { &wanted.target } else { &wanted.id };
            (id.clone(), wanted.sharing)
        };
        let ids: Vec<_> = self.caches().map(id).collect();
        let ids: Vec<_> = ids.iter().map(|(id, sharing)| (id.as_str(), *sharing)).collect();
        job.builds.caches.claim(&ids, &stage.output)
    }

    /// What of the places to mount on is not in the image.
    pub(super) fn places(&self, stage: &Stage<'_>) -> Result<Places> {
        if self.wanted.is_empty() {
            return Ok(Places::default());
        }
        let ground = stage.ground()?;
        let targets = self.wanted.iter().map(|wanted| wanted.target.as_str());
        Places::missing(ground.tree(), targets)
            .map_err(|error| Error::internal("cannot look for the places of mounts", error))
    }

    /// The mounts of the step's container.
    pub(super) fn attach(&self, stage: &Stage<'_>, claim: &Claim<'_>) -> Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        let mut caches = 0..;
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
                "cache" => {
                    let at = caches.next().unwrap_or_default();
                    mount(MountKind::Bind, &claim.path(at, || stage.new_cache(wanted))?)
                }
                _ => mount(MountKind::Bind, &stage.source(wanted)?),
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
}

impl Stage<'_> {
    /// A new directory for a cache.
    fn new_cache(&self, wanted: &Wanted) -> Result<PathBuf> {
        let path = self.job.workshop.directory()?;
        let failed = |error| Error::internal(format!("cannot make {}", path.display()), error);
        let mode = rustix::fs::Mode::from_raw_mode(wanted.mode.unwrap_or(0o755));
        let (uid, gid) = wanted.owner;
        let outside = self.job.builds.containers.map().map(|map| map.outside(uid, gid));
        let (uid, gid) = outside.transpose().map_err(failed)?.unwrap_or((uid, gid));
        let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        let directory = Tree::open(&path).map_err(failed)?;
        tree::own(directory.as_fd(), owner, mode).map_err(failed)?;
        Ok(path)
    }

    /// What is to be seen at a mount. The context is never changed: what only reads sees it itself.
    fn source(&self, wanted: &Wanted) -> Result<PathBuf> {
        if wanted.from.is_some() || !wanted.readonly {
            return self.copied(wanted);
        }
        self.bound(wanted, |_, source, _| Ok(self.job.context.directory.join(&source.path)))
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
