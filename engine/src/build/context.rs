//! The context: the files that a client sent, and the Dockerfile among them.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use dockerfile::ignore::clean;
use dockerfile::{Dockerfile, Ignore, LONGEST};
use engine_error::{Error, Result};
use tree::Tree;

/// The largest `.dockerignore`.
const LONGEST_IGNORE: u64 = 1 << 20;

/// A context that is there.
#[derive(Debug)]
pub(super) struct Context {
    /// Where its files are.
    pub(super) directory: PathBuf,
    /// Its files.
    pub(super) tree: Tree,
    /// The Dockerfile.
    pub(super) file: Dockerfile,
}

/// Unpacks an archive and reads the Dockerfile in it.
pub(super) fn of_archive(archive: impl Read, into: &Path, name: &str) -> Result<Context> {
    let failed =
        |error| Error::caused(engine_error::Kind::Invalid, "cannot read the context", error);
    image::context::unpack(archive, into).map_err(failed)?;
    of_directory(into, name)
}

/// Reads the Dockerfile in a directory that is there.
pub(super) fn of_directory(directory: &Path, name: &str) -> Result<Context> {
    let failed = |error| Error::internal(format!("cannot open {}", directory.display()), error);
    let tree = Tree::open(directory).map_err(failed)?;
    let (path, text) = dockerfile_in(&tree, name)?;
    let file = dockerfile::parse(&text, &path)?;
    forget_ignored(&tree, &path)?;
    Ok(Context { directory: directory.to_owned(), tree, file })
}

/// The Dockerfile's path and text. One that is not named may be in lower case.
fn dockerfile_in(tree: &Tree, name: &str) -> Result<(String, String)> {
    let wanted = if name.is_empty() { "Dockerfile" } else { name };
    let path = clean(wanted.trim_start_matches('/'));
    if path == ".." || path.starts_with("../") {
        return Err(Error::invalid(format!(
            "forbidden path outside the build context: {wanted} ()"
        )));
    }
    let lower = (path == "Dockerfile").then_some("dockerfile");
    for path in [Some(path.as_str()), lower].into_iter().flatten() {
        let Some(bytes) = read(tree, path, LONGEST as u64)? else { continue };
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::invalid(format!("the Dockerfile ({path}) is not UTF-8")))?;
        return Ok((path.to_owned(), text));
    }
    Err(Error::invalid(format!("Cannot locate specified Dockerfile: {wanted}")))
}

/// The Dockerfile and `.dockerignore` always come along, since a build needs them; where the patterns
/// name them, steps do not see them.
fn forget_ignored(tree: &Tree, dockerfile: &str) -> Result<()> {
    let Some(bytes) = read(tree, ".dockerignore", LONGEST_IGNORE)? else { return Ok(()) };
    let ignore = Ignore::parse(&String::from_utf8_lossy(&bytes))?;
    for path in [".dockerignore", dockerfile] {
        if ignore.excludes(path) {
            remove(tree, Path::new(path))
                .map_err(|error| Error::internal(format!("cannot leave out {path}"), error))?;
        }
    }
    Ok(())
}

fn remove(tree: &Tree, path: &Path) -> io::Result<()> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    match directory(tree, above)? {
        Some(above) => tree::remove(above.as_fd(), name),
        None => Ok(()),
    }
}

/// The directory at a path below; the tree itself for an empty one.
pub(super) fn directory(tree: &Tree, path: &Path) -> io::Result<Option<Tree>> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    tree.below(path)
}

/// A whole file, if there is one, and an error if it is larger than is sensible.
fn read(tree: &Tree, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
    let failed = |error| Error::internal(format!("cannot read {path} of the context"), error);
    let Some(file) = tree.file(Path::new(path)).map_err(failed)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(Error::invalid(format!("{path} has more than {most} bytes")));
    }
    Ok(Some(bytes))
}

/// A context of nothing but a Dockerfile.
pub(super) fn of_dockerfile(text: &[u8], into: &Path) -> Result<Context> {
    let path: PathBuf = into.join("Dockerfile");
    fs::write(&path, text)
        .map_err(|error| Error::internal(format!("cannot write {}", path.display()), error))?;
    of_directory(into, "Dockerfile")
}
