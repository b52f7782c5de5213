//! `RUN --mount`: what a step finds beside its root file system, and leaves there.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::caches::{Claim, Sharing};
use super::documents;
use super::handed::{self, Agents};
use super::places::Places;
use super::sources::{Look, Source};
use super::stage::Stage;
use super::wanted::Wanted;
use crate::container::MountKind;
use crate::container::lent::{Lent, LentMount};
use crate::container::spec::Mount;
use dockerfile::Run;
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

/// The mounts of a step's container.
#[derive(Debug, Default)]
pub(super) struct Attached {
    /// Those that are known of it.
    pub(super) mounts: Vec<Mount>,
    /// Those that it is lent.
    pub(super) lent: Lent,
    /// What leads to agents, as long as the step runs.
    pub(super) agents: Agents,
}

/// Reads the mounts of a step.
pub(super) fn read(stage: &Stage<'_>, run: &Run) -> Result<Mounts> {
    let mut mounts = Mounts::default();
    for text in &run.mounts {
        let agents = mounts.wanted.iter().filter(|wanted| wanted.kind == "ssh").count();
        let wanted = Wanted::read(text, &stage.config, agents)?;
        // Of a secret, only how it is called: what it says makes no step another one.
        mounts.contents.push(format!("mount {text}"));
        if wanted.kind == "bind" {
            mounts.contents.push(stage.digest_of(&wanted)?);
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

impl Attached {
    /// What of the places to mount on is not in the image.
    pub(super) fn places(&self, stage: &Stage<'_>) -> Result<Places> {
        let known = self.mounts.iter().map(|mount| mount.target.as_str());
        let lent = self.lent.mounts.iter().map(|mount| mount.target.as_str());
        let mut targets =
            known.chain(lent).filter(|target| *target != documents::SCRIPT).peekable();
        if targets.peek().is_none() {
            return Ok(Places::default());
        }
        let ground = stage.ground()?;
        Places::missing(ground.tree(), targets)
            .map_err(|error| Error::internal("cannot look for the places of mounts", error))
    }
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

    /// The mounts of the step's container.
    pub(super) fn attach(&self, stage: &Stage<'_>, claim: &Claim<'_>) -> Result<Attached> {
        let (lent, agents) = handed::lend(stage, &self.wanted)?;
        let mut attached = Attached { mounts: Vec::new(), lent, agents };
        let mut caches = 0..;
        for wanted in &self.wanted {
            let mount = |kind, source: &Path| Mount {
                kind,
                source: source.to_string_lossy().into_owned(),
                target: wanted.target.clone(),
                readonly: wanted.readonly,
                ..Mount::default()
            };
            match wanted.kind.as_str() {
                "tmpfs" => {
                    let options = wanted.size.iter().map(|size| format!("size={size}")).collect();
                    let tmpfs = mount(MountKind::Tmpfs, Path::new(""));
                    attached.mounts.push(Mount { options, readonly: false, ..tmpfs });
                }
                "cache" => {
                    let at = caches.next().unwrap_or_default();
                    let path = claim.path(at, || stage.new_cache(wanted))?;
                    attached.mounts.push(mount(MountKind::Bind, &path));
                }
                "bind" => match &wanted.from {
                    Some(from) => attached.lent.mounts.push(stage.mounted(wanted, from)?),
                    None => attached.mounts.push(mount(MountKind::Bind, &stage.source(wanted)?)),
                },
                _ => {}
            }
        }
        if let Some(script) = &self.script {
            attached.mounts.push(Mount {
                kind: MountKind::Bind,
                source: script.to_string_lossy().into_owned(),
                target: documents::SCRIPT.to_owned(),
                readonly: true,
                ..Mount::default()
            });
        }
        Ok(attached)
    }
}

impl Stage<'_> {
    /// Whom a user and a group of a step are on the host.
    pub(super) fn outside(&self, (uid, gid): (u32, u32)) -> io::Result<(u32, u32)> {
        let map = self.job.builds.containers.map();
        map.map_or(Ok((uid, gid)), |map| map.outside(uid, gid))
    }

    /// A new directory for a cache.
    fn new_cache(&self, wanted: &Wanted) -> Result<PathBuf> {
        let path = self.job.workshop.directory()?;
        let failed = |error| Error::internal(format!("cannot make {}", path.display()), error);
        let mode = rustix::fs::Mode::from_raw_mode(wanted.mode.unwrap_or(0o755));
        let (uid, gid) = self.outside(wanted.owner).map_err(failed)?;
        let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        let directory = Tree::open(&path).map_err(failed)?;
        tree::own(directory.as_fd(), owner, mode).map_err(failed)?;
        Ok(path)
    }

    /// What makes the source of a mount the same: the files of the context, and of an image its layers,
    /// of which nothing is read for it.
    fn digest_of(&self, wanted: &Wanted) -> Result<String> {
        let failed = |error| Error::internal(format!("cannot read {}", wanted.source), error);
        if let Some(from) = &wanted.from {
            let (image, _) = self.foreign_image(from)?;
            let layers = image.iter().flat_map(|image| &image.layers).map(ToString::to_string);
            return Ok(format!("layers {}", layers.collect::<Vec<_>>().join(" ")));
        }
        let look = Look { instruction: "RUN", is_context: true, keeps_owners: true, skip: None };
        let tree = &self.job.context.tree;
        look.digest(tree, &found(&look, tree, wanted)?).map_err(failed)
    }

    /// What an image or a stage has: its layers themselves. What a step may write is kept beside them,
    /// and goes with the build.
    fn mounted(&self, wanted: &Wanted, from: &str) -> Result<LentMount> {
        let ground = self.foreign(from)?;
        let look = Look { instruction: "RUN", is_context: false, keeps_owners: true, skip: None };
        let source = found(&look, ground.tree(), wanted)?;
        let images = &self.job.builds.images;
        let mount = ground.into_part(images, &source.path, !wanted.readonly)?;
        Ok(LentMount { target: wanted.target.clone(), readonly: wanted.readonly, mount })
    }

    /// What is to be seen of the context, which is never changed: what only reads sees it itself.
    fn source(&self, wanted: &Wanted) -> Result<PathBuf> {
        let look = Look { instruction: "RUN", is_context: true, keeps_owners: true, skip: None };
        let source = found(&look, &self.job.context.tree, wanted)?;
        if wanted.readonly {
            return Ok(self.job.context.directory.join(&source.path));
        }
        self.copied(wanted, &source)
    }

    /// A copy: what a step does to it harms nobody.
    fn copied(&self, wanted: &Wanted, source: &Source) -> Result<PathBuf> {
        let place = self.job.workshop.directory()?;
        let failed = |error| Error::internal(format!("cannot copy {}", wanted.source), error);
        let (to, tree) = (Tree::open(&place).map_err(failed)?, &self.job.context.tree);
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
        Ok(if source.is_directory { place } else { place.join("file") })
    }
}

/// The one thing that the source of a mount means.
fn found(look: &Look<'_>, tree: &Tree, wanted: &Wanted) -> Result<Source> {
    let source = if wanted.source.is_empty() { "." } else { &wanted.source };
    match look.find(tree, source)?.as_slice() {
        [only] => Ok(only.clone()),
        _ => Err(Error::invalid(format!("{source} in RUN --mount is no single path"))),
    }
}
