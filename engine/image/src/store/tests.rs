//! What becomes of a store of which something cannot be read, and of what containers use.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread;

use super::*;
use crate::tests::{Scratch, docker_archive, files_below, layer, load, open};
use crate::{Filter, Images};

/// Two images with a layer in common, `x:1` and `y:1`.
fn two_images(scratch: &Scratch) -> (Arc<Image>, Arc<Image>) {
    let images = open(scratch);
    load(&images, &docker_archive(&[layer("base"), layer("x")], &["x:1"]));
    load(&images, &docker_archive(&[layer("base"), layer("y")], &["y:1"]));
    (images.find("x:1").unwrap(), images.find("y:1").unwrap())
}

fn blob(scratch: &Scratch, digest: Digest) -> PathBuf {
    scratch.path("images/blobs/sha256").join(digest.hex())
}

fn layers(scratch: &Scratch) -> usize {
    files_below(&scratch.path("images/layers"))
}

fn as_a_container_has_it(image: &Image) -> BTreeMap<String, String> {
    let lower = image.layers.iter().rev().map(|chain| format!("/r/layers/{}/diff", chain.hex()));
    BTreeMap::from([("LowerDir".to_owned(), lower.collect::<Vec<_>>().join(":"))])
}

/// Ways to damage what is known of an image, and whether its needs are known nevertheless.
type Damage = (&'static str, fn(&Scratch, &Image));

const DAMAGES: [Damage; 5] = [
    ("configuration cut", |scratch, image| fs::write(blob(scratch, image.id.0), "{").unwrap()),
    ("configuration gone", |scratch, image| fs::remove_file(blob(scratch, image.id.0)).unwrap()),
    ("record of a layer cut", |scratch, image| {
        let layer = scratch.path("images/layers").join(image.layers[1].hex());
        fs::write(layer.join("layer.json"), "").unwrap();
    }),
    ("entry of the index without id", |scratch, image| {
        let index = scratch.path("images/index.json");
        let text = fs::read_to_string(&index).unwrap();
        fs::write(&index, text.replace(&image.id.to_string(), "nothing")).unwrap();
    }),
    ("index cut", |scratch, _| {
        let index = scratch.path("images/index.json");
        let bytes = fs::read(&index).unwrap();
        fs::write(&index, &bytes[..bytes.len() / 2]).unwrap();
    }),
];

#[test]
fn a_damaged_image_keeps_its_layers_and_the_others_work() {
    for (what, damage) in DAMAGES {
        let scratch = Scratch::new();
        let (x, y) = two_images(&scratch);
        damage(&scratch, &x);
        let images = open(&scratch);
        assert!(!images.unreadable().is_empty(), "{what}: nothing is told");
        images.find(&y.id.to_string()).unwrap_or_else(|error| panic!("{what}: {error}"));
        images.sweep();
        images.prune(&Filter::default(), false).unwrap();
        load(&images, &docker_archive(&[layer("z")], &["z:1"]));
        images.remove("z:1", false, &|_| false).unwrap();
        for chain in &x.layers {
            let diff = scratch.path("images/layers").join(chain.hex()).join("diff/etc/name");
            assert!(diff.exists(), "{what}: a layer was swept");
        }
        // What is told is told by the next daemon, too: no write loses it.
        drop(images);
        let images = open(&scratch);
        assert!(!images.unreadable().is_empty(), "{what}: forgotten");
    }
}

#[test]
fn a_damaged_image_is_whole_again_after_it_was_brought_in_again() {
    for (what, damage) in &DAMAGES[..3] {
        let scratch = Scratch::new();
        let (x, _) = two_images(&scratch);
        damage(&scratch, &x);
        let images = open(&scratch);
        fs::remove_file(blob(&scratch, x.id.0)).unwrap_or_default();
        load(&images, &docker_archive(&[layer("base"), layer("x")], &["again:1"]));
        assert_eq!(images.unreadable(), [], "{what}");
        assert_eq!(images.find("x:1").unwrap().names, ["again:1", "x:1"], "{what}");
        drop(images);
        assert_eq!(open(&scratch).unreadable(), [], "{what}");
    }
}

#[test]
fn a_damaged_image_can_be_removed_by_its_name_or_id() {
    let scratch = Scratch::new();
    let (x, y) = two_images(&scratch);
    fs::write(blob(&scratch, x.id.0), "{").unwrap();
    fs::write(blob(&scratch, y.id.0), "{").unwrap();
    let images = open(&scratch);
    images.keep("container", y.id, &BTreeMap::new());
    let error = images.remove("y:1", true, &|_| false).unwrap_err().to_string();
    assert!(error.contains("is being used by container container"), "{error}");
    images.release("container");
    images.remove("y:1", false, &|_| false).unwrap();
    assert_eq!(layers(&scratch), 2);
    images.remove(&x.id.short(), false, &|_| false).unwrap();
    assert_eq!((images.unreadable(), layers(&scratch)), (vec![], 0));
}

#[test]
fn the_layers_of_a_container_stay_whatever_becomes_of_its_image() {
    let scratch = Scratch::new();
    let (x, _) = two_images(&scratch);
    fs::remove_file(scratch.path("images/index.json")).unwrap();
    let images = open(&scratch);
    images.keep("container", x.id, &as_a_container_has_it(&x));
    images.sweep();
    assert_eq!(layers(&scratch), 2, "those of the container and no others");
    let data = as_a_container_has_it(&x);
    let rootfs = crate::rootfs::RootFs::again(&images, &data, &scratch.path("rootfs")).unwrap();
    assert_eq!(rootfs.driver_data().len(), 3);
    images.release("container");
    images.sweep();
    assert_eq!(layers(&scratch), 0);
}

#[test]
fn where_users_are_not_all_known_nothing_is_swept() {
    let scratch = Scratch::new();
    two_images(&scratch);
    let images = open(&scratch);
    images.doubt("the record container/abc cannot be read");
    images.remove("x:1", false, &|_| false).unwrap();
    assert_eq!(layers(&scratch), 3);
    assert!(images.unreadable()[0].1.contains("container/abc"));
}

#[test]
fn a_name_of_a_newer_release_is_left_alone_and_told() {
    let scratch = Scratch::new();
    two_images(&scratch);
    let index = scratch.path("images/index.json");
    let text = fs::read_to_string(&index).unwrap();
    let newer =
        text.replacen("\"dev.rnet.image.version\": \"1\"", "\"dev.rnet.image.version\": \"9\"", 1);
    assert_ne!(newer, text);
    fs::write(&index, newer).unwrap();
    let images = open(&scratch);
    assert_eq!((images.list().len(), images.unreadable().len()), (1, 1));
    load(&images, &docker_archive(&[layer("z")], &["z:1"]));
    let text = fs::read_to_string(&index).unwrap();
    assert!(text.contains("\"dev.rnet.image.version\": \"9\""), "{text}");
}

/// Removes the image `x:1` while a container is being made of it: one of the two is first, and the
/// other finds that.
fn race(remove: impl Fn(&Images) + Sync, container_first: bool) {
    let scratch = Scratch::new();
    let images = open(&scratch);
    load(&images, &docker_archive(&[layer("x")], &["x:1"]));
    let (begun, begins) = channel();
    // Both have to wait for whoever holds the state, as in the middle of another's change.
    let state = images.store().state();
    thread::scope(|scope| {
        let removal = || {
            begun.send(()).unwrap();
            remove(&images);
        };
        if container_first {
            drop(state);
            images.hold("container", "x:1").unwrap();
            scope.spawn(removal).join().unwrap();
        } else {
            let removal = scope.spawn(removal);
            begins.recv().unwrap();
            drop(state);
            removal.join().unwrap();
        }
    });
    let held = images.hold("container", "x:1");
    assert_eq!(held.is_ok(), container_first);
    assert_eq!(layers(&scratch), usize::from(container_first));
}

#[test]
fn an_image_is_removed_or_used_and_never_both() {
    let removals: [fn(&Images); 2] = [
        |images| drop(images.remove("x:1", false, &|_| false)),
        |images| drop(images.prune(&Filter::default(), true)),
    ];
    for removal in removals {
        for container_first in [true, false] {
            race(removal, container_first);
        }
    }
}
