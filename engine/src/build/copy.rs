//! `COPY` and `ADD`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::commit::Ground;
use super::sources::{Look, Source};
use super::stage::Stage;
use super::transfer::{self, Target};
use super::{base, owner, remote};
use dockerfile::config;
use dockerfile::{Ignore, Transfer};
use engine_error::{Error, Result};
use image::Image;
use tree::{Given, Tree};

/// A tree with what is taken of it.
struct Taken<'a> {
    tree: &'a Tree,
    sources: Vec<Source>,
    /// Whether archives among them are unpacked.
    unpacks: bool,
}

impl Stage<'_> {
    /// Copies files of the context, of another stage or of an image.
    pub(super) fn copy(&mut self, instruction: &str, transfer: &Transfer) -> Result<()> {
        let job = self.job;
        let from = transfer.from.as_deref().map(|from| self.foreign(from)).transpose()?;
        let tree = from.as_ref().map_or(&job.context.tree, Ground::tree);
        let ignore = Ignore::parse(&transfer.exclude.join("\n"))?;
        let skips = |path: &Path| path.to_str().is_some_and(|path| ignore.excludes(path));
        let skip: Option<&dyn Fn(&Path) -> bool> = (!ignore.is_empty()).then_some(&skips);
        let look = Look {
            instruction,
            is_context: from.is_none(),
            keeps_owners: from.is_some() && transfer.chown.is_none(),
            skip,
        };
        let made = self.made_here(instruction, transfer)?;
        let taken = taken(&look, tree, made.as_ref(), (instruction, transfer))?;
        let count: usize = taken.iter().map(|taken| taken.sources.len()).sum();
        if count == 0 {
            return Err(Error::invalid(format!(
                "{instruction} failed: no source files were specified"
            )));
        }
        if (count > 1 || transfer.sources.len() > 1) && !transfer.destination.ends_with('/') {
            return Err(Error::invalid(format!(
                "When using {instruction} with more than one source file, the destination must be \
                 a directory and end with a /"
            )));
        }
        let digest = digest(&look, &taken)?;
        let shell = config::shell(&self.config).join(" ");
        let destination = &transfer.destination;
        let owned =
            transfer.chown.as_deref().map(|it| format!("--chown={it} ")).unwrap_or_default();
        let created_by = format!("{shell} #(nop) {instruction} {owned}{digest} in {destination} ");
        let key = self.key(&created_by, &options(transfer));
        if self.is_cached(&key)? {
            return Ok(());
        }
        let ground = self.ground()?;
        self.fill(&ground, transfer, &taken, skip)?;
        let layer = ground.into_layer(&job.making)?;
        self.commit(&created_by, Some(layer), &key)
    }

    /// Copies what was taken into a root file system.
    fn fill(
        &self,
        ground: &Ground,
        transfer: &Transfer,
        taken: &[Taken<'_>],
        skip: Option<&dyn Fn(&Path) -> bool>,
    ) -> Result<()> {
        let root = ground.tree();
        let owner = match &transfer.chown {
            Some(text) => Some(owner::owner(root, text)?),
            None if transfer.from.is_some() => None,
            None => Some((0, 0)),
        };
        let mode = transfer.chmod.as_deref().map(owner::mode).transpose()?;
        let given = Given { owner, mode, skip };
        let path = config::absolute(&self.config, &transfer.destination);
        let is_directory = transfer.destination.ends_with('/');
        let target = Target { root, path: &path, is_directory };
        for taken in taken {
            for source in &taken.sources {
                self.output.check()?;
                let archive = if taken.unpacks { archive(taken.tree, source)? } else { None };
                match archive {
                    // Whose files are in an archive, it says itself.
                    Some(file) => {
                        let owner = transfer.chown.is_some().then_some(owner).flatten();
                        self.unpack(file, source, &target, Given { owner, ..given })?;
                    }
                    None => target.take(taken.tree, source, given)?,
                }
            }
        }
        Ok(())
    }

    /// Unpacks an archive where it goes.
    fn unpack(
        &self,
        file: File,
        source: &Source,
        target: &Target<'_>,
        given: Given<'_>,
    ) -> Result<()> {
        let failed = |error| {
            let text = format!("cannot unpack {}", source.path.display());
            Error::caused(engine_error::Kind::Invalid, text, error)
        };
        let place = self.job.workshop.directory()?;
        image::context::unpack_file(file, &place).map_err(failed)?;
        let tree = Tree::open(&place).map_err(failed)?;
        let filled = target.take_contents(&tree, given).map_err(failed);
        // The files of one archive are enough at a time.
        drop(fs::remove_dir_all(&place));
        filled
    }

    /// What `--from` names, to work on.
    pub(super) fn foreign(&self, from: &str) -> Result<Ground> {
        let (image, place) = self.foreign_image(from)?;
        Ground::open(&self.job.builds.images, image.as_deref(), &place)
    }

    /// The image that `--from` names, and a place for its files.
    pub(super) fn foreign_image(&self, from: &str) -> Result<(Option<Arc<Image>>, PathBuf)> {
        let job = self.job;
        let wrong = |why: &dyn std::fmt::Display| {
            Error::invalid(format!("invalid from flag value {from}: {why}"))
        };
        let place = job.workshop.place();
        if let Some(stage) = job.context.file.named(from, self.at()) {
            return Ok((job.outcome(stage, self)?.image, place));
        }
        if from.parse::<i64>().is_ok() {
            return Err(wrong(&"index out of bounds"));
        }
        let platform = job.request.platform.as_ref();
        let image = base::image(job, from, platform, &self.output)
            .map_err(|error| wrong(&error.chain()))?;
        let image = job.hold(&place.to_string_lossy(), &image.id.to_string())?;
        Ok((Some(image), place))
    }

    /// Documents and what is at URLs, as files of a tree of their own.
    fn made_here(&self, instruction: &str, transfer: &Transfer) -> Result<Option<Tree>> {
        let is_url = |source: &String| instruction == "ADD" && remote::is_url(source);
        let is_git = |source: &&String| instruction == "ADD" && remote::is_git(source);
        if let Some(source) = transfer.sources.iter().find(is_git) {
            return Err(Error::invalid(format!(
                "ADD {source}: this builder does not add repositories of git, only files by \
                 http:// and https:// (a repository may be the context of a build)"
            )));
        }
        let fetched: Vec<_> = transfer.sources.iter().filter(|source| is_url(source)).collect();
        if transfer.checksum.is_some() && (fetched.len() != 1 || transfer.sources.len() != 1) {
            return Err(Error::invalid("checksum can't be specified for non-HTTP(S) sources"));
        }
        if transfer.documents.is_empty() && fetched.is_empty() {
            return Ok(None);
        }
        let place = self.job.workshop.directory()?;
        let failed = |error| Error::internal(format!("cannot write {}", place.display()), error);
        for (_, document) in &transfer.documents {
            let name = Path::new(&document.name).file_name().unwrap_or_default();
            fs::write(place.join(name), &document.text).map_err(failed)?;
        }
        for url in fetched {
            let checksum = transfer.checksum.as_deref();
            let named = !transfer.destination.ends_with('/');
            remote::file(self.job.builds, url, &place, (checksum, named), &self.output)?;
        }
        Tree::open(&place).map(Some).map_err(failed)
    }
}

/// What the words of an instruction mean.
fn taken<'a>(
    look: &Look<'_>,
    tree: &'a Tree,
    made: Option<&'a Tree>,
    (instruction, transfer): (&str, &Transfer),
) -> Result<Vec<Taken<'a>>> {
    let mut taken = Vec::new();
    for (at, word) in transfer.sources.iter().enumerate() {
        let document = transfer.documents.iter().find(|(place, _)| *place == at);
        let name = match document {
            Some((_, document)) => Some(document.name.clone()),
            None if instruction == "ADD" && remote::is_url(word) => Some(remote::name(word)?),
            None => None,
        };
        if let Some((name, made)) = name.zip(made) {
            let name = Path::new(&name).file_name().unwrap_or_default().to_owned();
            let path = Path::new(&name).to_owned();
            let sources = vec![Source { path, name, is_directory: false }];
            let unpacks = document.is_none() && transfer.unpack == Some(true);
            taken.push(Taken { tree: made, sources, unpacks });
            continue;
        }
        let mut sources = look.find(tree, word)?;
        let skips = |source: &Source| look.skip.is_some_and(|skip| skip(&source.path));
        sources.retain(|source| source.is_directory || !skips(source));
        let unpacks = instruction == "ADD" && transfer.unpack != Some(false);
        taken.push(Taken { tree, sources, unpacks });
    }
    Ok(taken)
}

fn archive(tree: &Tree, source: &Source) -> Result<Option<File>> {
    transfer::archive(tree, source)
        .map_err(|error| Error::internal(format!("cannot read {}", source.path.display()), error))
}

/// What the history calls all that is taken: `file:…`, `dir:…` or `multi:…`.
fn digest(look: &Look<'_>, taken: &[Taken<'_>]) -> Result<String> {
    let mut digests = Vec::new();
    for taken in taken {
        for source in &taken.sources {
            let digest = look.digest(taken.tree, source).map_err(|error| {
                Error::internal(format!("cannot read {}", source.path.display()), error)
            })?;
            let kind = if source.is_directory { "dir" } else { "file" };
            digests.push(format!("{kind}:{digest}"));
        }
    }
    Ok(match digests.as_slice() {
        [only] => only.clone(),
        several => format!("multi:{}", image::Digest::of(several.join(",").as_bytes()).hex()),
    })
}

/// What else makes a copy the same.
fn options(transfer: &Transfer) -> Vec<String> {
    let mut options = vec![
        format!("chmod {}", transfer.chmod.as_deref().unwrap_or_default()),
        format!("from {}", transfer.from.is_some()),
        // The text of the history tells neither from the words around it.
        format!("chown {}", transfer.chown.as_deref().unwrap_or_default()),
        format!("to {}", transfer.destination),
        format!("unpack {:?}", transfer.unpack),
    ];
    options.extend(transfer.exclude.iter().map(|pattern| format!("exclude {pattern}")));
    options
}
