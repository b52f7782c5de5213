//! Removal: a name first, the image with its last name, its layers with the last image of them.
//!
//! The rules and texts about conflicts are Docker's. What a container uses is never taken from
//! under it: forced, such an image loses its names and stays until the container is gone.

use std::sync::Arc;

use super::find::{find, is_dangling, is_id_of};
use super::reference::Reference;
use super::store::Store;
use super::{Filter, Image, ImageUse, Pruned, Removed};
use engine_error::{Error, Kind, Result};

/// What a removal comes to, decided before anything is changed.
#[derive(Debug, PartialEq, Eq)]
struct Decision {
    /// Names and names with digests that go.
    untag: Vec<String>,
    /// Whether the image goes too.
    delete: bool,
}

pub(super) fn remove(
    store: &Store,
    text: &str,
    force: bool,
    running: &dyn Fn(&str) -> bool,
) -> Result<Vec<Removed>> {
    let decided = store.change(|images, users| {
        let image = find(images, text)?;
        let users: Vec<_> = users.iter().filter(|user| user.image == image.id).collect();
        let decision = decide(&image, text, force, &users, running)?;
        apply(images, &image, &decision);
        Ok((image, decision))
    });
    let (image, decision) = match decided {
        Err(error) if error.kind() == Kind::NotFound => {
            let Some(removed) = store.forget_damaged(text)? else { return Err(error) };
            store.sweep();
            return Ok(vec![removed]);
        }
        decided => decided?,
    };
    let mut removed: Vec<_> = decision.untag.into_iter().map(Removed::Untagged).collect();
    if decision.delete {
        let swept = store.sweep();
        removed.push(Removed::Deleted(image.id.to_string()));
        let gone = image.layers.iter().rev().filter(|chain| swept.layers.contains(chain));
        removed.extend(gone.map(|chain| Removed::DeletedLayer(chain.to_string())));
    }
    Ok(removed)
}

pub(super) fn prune(store: &Store, filter: &Filter, all: bool) -> Result<Pruned> {
    let filter = Filter { dangling: if all { None } else { Some(true) }, ..filter.clone() };
    let gone = store.change(|images, users| {
        let mut gone = filter.select(images)?;
        gone.retain(|image| {
            (all || is_dangling(image)) && !users.iter().any(|user| user.image == image.id)
        });
        images.retain(|image| !gone.iter().any(|other| other.id == image.id));
        Ok(gone)
    })?;
    let swept = store.sweep();
    let mut pruned = Pruned { removed: Vec::new(), reclaimed: swept.size };
    for image in gone {
        let names = image.names.iter().chain(&image.digests).cloned();
        pruned.removed.extend(names.map(Removed::Untagged));
        pruned.removed.push(Removed::Deleted(image.id.to_string()));
        let layers = image.layers.iter().rev().filter(|chain| swept.layers.contains(chain));
        for chain in layers {
            let deleted = Removed::DeletedLayer(chain.to_string());
            if !pruned.removed.contains(&deleted) {
                pruned.removed.push(deleted);
            }
        }
    }
    Ok(pruned)
}

fn apply(images: &mut Vec<Arc<Image>>, image: &Image, decision: &Decision) {
    if decision.delete {
        images.retain(|known| known.id != image.id);
        return;
    }
    for known in images.iter_mut().filter(|known| known.id == image.id) {
        let known = Arc::make_mut(known);
        known.names.retain(|name| !decision.untag.contains(name));
        known.digests.retain(|name| !decision.untag.contains(name));
    }
}

fn decide(
    image: &Image,
    text: &str,
    force: bool,
    users: &[&ImageUse],
    running: &dyn Fn(&str) -> bool,
) -> Result<Decision> {
    let named = Reference::parse(text).ok().map(Reference::or_latest).filter(|_| {
        // A name may look like the beginning of an id; the id wins, as in Docker.
        !is_id_of(image, text)
    });
    match named {
        Some(name) => decide_name(image, text, &name, force, users),
        None => decide_id(image, force, users, running),
    }
}

fn decide_name(
    image: &Image,
    text: &str,
    name: &Reference,
    force: bool,
    users: &[&ImageUse],
) -> Result<Decision> {
    if !force
        && is_single(image)
        && let Some(user) = users.first()
    {
        return Err(Error::conflict(format!(
            "conflict: unable to remove repository reference \"{text}\" (must force) - \
             container {} is using its referenced image {}",
            short(&user.container),
            image.id.short()
        )));
    }
    let own = match name.digest() {
        Some(digest) => name.with_digest(digest).to_string(),
        None => name.to_string(),
    };
    let mut untag = vec![own.clone()];
    let same_repository = |other: &str| {
        Reference::parse(other).is_ok_and(|other| other.canonical_name() == name.canonical_name())
    };
    let tags_left = image.names.iter().filter(|other| **other != own);
    if name.digest().is_none() && !tags_left.clone().any(|other| same_repository(other)) {
        // The digests of a repository go with its last tag.
        untag.extend(image.digests.iter().filter(|other| same_repository(other)).cloned());
    }
    let left = image.names.iter().chain(&image.digests).any(|other| !untag.contains(other));
    Ok(Decision { untag, delete: !left && users.is_empty() })
}

fn decide_id(
    image: &Image,
    force: bool,
    users: &[&ImageUse],
    running: &dyn Fn(&str) -> bool,
) -> Result<Decision> {
    let conflict = |how: &str, why: &str| {
        let id = image.id.short();
        Error::conflict(format!("conflict: unable to delete {id} ({how}) - {why}"))
    };
    if let Some(user) = users.iter().find(|user| running(&user.container)) {
        let why = format!("image is being used by running container {}", short(&user.container));
        return Err(conflict("cannot be forced", &why));
    }
    if !force {
        if !is_single(image) && !is_dangling(image) {
            return Err(conflict("must be forced", "image is referenced in multiple repositories"));
        }
        if let Some(user) = users.first() {
            let container = short(&user.container);
            let why = format!("image is being used by stopped container {container}");
            return Err(conflict("must be forced", &why));
        }
    }
    let untag = image.names.iter().chain(&image.digests).cloned().collect();
    Ok(Decision { untag, delete: users.is_empty() })
}

/// At most one tag, and everything in one repository.
fn is_single(image: &Image) -> bool {
    let repository = |name: &String| {
        Reference::parse(name).map(|name| name.canonical_name()).unwrap_or_default()
    };
    let mut repositories: Vec<_> =
        image.names.iter().chain(&image.digests).map(repository).collect();
    repositories.sort();
    repositories.dedup();
    image.names.len() <= 1 && repositories.len() <= 1
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
