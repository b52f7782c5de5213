//! Removal: a name first, the image with its last name, its layers with the last image of them.
//!
//! The rules and texts about conflicts are Docker's. What a container uses is never taken from
//! under it: forced, such an image loses its names and stays until the container is gone.

use std::sync::Arc;

use super::find::{find, has_children, is_dangling, is_id_of};
use super::reference::Reference;
use super::store::{Store, Swept};
use super::{Filter, Image, ImageId, ImageUse, Images, Pruned, Removed};
use engine_error::{Error, Kind, Result};

/// What a removal comes to, decided before anything is changed.
#[derive(Debug, PartialEq, Eq)]
struct Decision {
    /// Names and names with digests that go.
    untag: Vec<String>,
    /// Whether the image goes too.
    delete: bool,
    /// Whether it was meant by its id.
    by_id: bool,
}

/// How an image is removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// Whatever can be overruled is.
    pub(super) force: bool,
    /// With the images it was made of, if they are nobody else's.
    pub(super) with_parents: bool,
}

impl Images {
    /// [`Images::remove`], but the images that this one was made of stay.
    pub fn remove_alone(
        &self,
        reference: &str,
        force: bool,
        running: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Removed>> {
        remove(self.store(), reference, How { force, with_parents: false }, running)
    }
}

pub(super) fn remove(
    store: &Store,
    text: &str,
    how: How,
    running: &dyn Fn(&str) -> bool,
) -> Result<Vec<Removed>> {
    let decided = store.change(|images, users| {
        let image = find(images, text)?;
        let own: Vec<_> = users.iter().filter(|user| user.image == image.id).collect();
        let mut decision = decide(&image, text, how.force, &own, running)?;
        if decision.delete && has_children(images, image.id) {
            if decision.by_id {
                return Err(conflict(
                    &image,
                    "cannot be forced",
                    "image has dependent child images",
                ));
            }
            decision.delete = false;
        }
        apply(images, &image, &decision);
        let mut gone = Vec::new();
        if decision.delete {
            let parent = image.parent;
            gone.push(image);
            if how.with_parents {
                gone.extend(take_parents(images, users, parent));
            }
        }
        Ok((gone, decision))
    });
    let (gone, decision) = match decided {
        Err(error) if error.kind() == Kind::NotFound => {
            let Some(removed) = store.forget_damaged(text)? else { return Err(error) };
            store.sweep();
            return Ok(vec![removed]);
        }
        decided => decided?,
    };
    let mut removed: Vec<_> = decision.untag.into_iter().map(Removed::Untagged).collect();
    if !gone.is_empty() {
        let swept = store.sweep();
        tell(&gone, &swept, &mut removed);
    }
    Ok(removed)
}

/// The images that only those that went were made of: without a name, unused, of no other image.
fn take_parents(
    images: &mut Vec<Arc<Image>>,
    users: &[ImageUse],
    mut parent: Option<ImageId>,
) -> Vec<Arc<Image>> {
    let mut gone = Vec::new();
    while let Some(id) = parent {
        let free = !has_children(images, id) && !users.iter().any(|user| user.image == id);
        let at = images.iter().position(|image| image.id == id && is_dangling(image) && free);
        let Some(at) = at else { break };
        let image = images.remove(at);
        parent = image.parent;
        gone.push(image);
    }
    gone
}

/// Notes images that went, each with those of its layers that went with it.
fn tell(gone: &[Arc<Image>], swept: &Swept, removed: &mut Vec<Removed>) {
    for image in gone {
        removed.push(Removed::Deleted(image.id.to_string()));
        for chain in image.layers.iter().rev().filter(|chain| swept.layers.contains(chain)) {
            let deleted = Removed::DeletedLayer(chain.to_string());
            if !removed.contains(&deleted) {
                removed.push(deleted);
            }
        }
    }
}

pub(super) fn prune(store: &Store, filter: &Filter, all: bool) -> Result<Pruned> {
    let filter = Filter { dangling: if all { None } else { Some(true) }, ..filter.clone() };
    let gone = store.change(|images, users| {
        let mut chosen = filter.select(images)?;
        chosen.retain(|image| {
            (all || is_dangling(image)) && !users.iter().any(|user| user.image == image.id)
        });
        let mut gone = Vec::new();
        for image in chosen {
            // What others are made of stays with them, and goes with the last of them.
            if has_children(images, image.id) {
                continue;
            }
            images.retain(|other| other.id != image.id);
            let parent = image.parent;
            gone.push(image);
            gone.extend(take_parents(images, users, parent));
        }
        Ok(gone)
    })?;
    let swept = store.sweep();
    let mut pruned = Pruned { removed: Vec::new(), reclaimed: swept.size };
    for image in gone {
        let names = image.names.iter().chain(&image.digests).cloned();
        pruned.removed.extend(names.map(Removed::Untagged));
        tell(&[image], &swept, &mut pruned.removed);
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
    Ok(Decision { untag, delete: !left && users.is_empty(), by_id: false })
}

fn decide_id(
    image: &Image,
    force: bool,
    users: &[&ImageUse],
    running: &dyn Fn(&str) -> bool,
) -> Result<Decision> {
    let conflict = |how: &str, why: &str| conflict(image, how, why);
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
    Ok(Decision { untag, delete: users.is_empty(), by_id: true })
}

fn conflict(image: &Image, how: &str, why: &str) -> Error {
    let id = image.id.short();
    Error::conflict(format!("conflict: unable to delete {id} ({how}) - {why}"))
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
