//! Volumes, their users, and all the ways in which one may go.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use engine_error::Kind;
use tree::Tree;

use super::*;

pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rnet-volumes-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn open(&self) -> Volumes {
        Volumes::open(self.0.join("volumes")).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn none() -> BTreeMap<String, String> {
    BTreeMap::new()
}

#[test]
fn a_volume_is_made_once_and_goes_once() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    assert_eq!(volumes.list().unwrap(), []);
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let (volume, is_new) = volumes.create("data", labels.clone()).unwrap();
    assert!(volume.mountpoint.is_dir() && is_new && !volume.is_anonymous());
    assert_eq!(volumes.create("data", none()).unwrap(), (volume.clone(), false));
    assert_eq!(scratch.open().list().unwrap()[0].labels, labels);
    volumes.remove("data").unwrap();
    let error = volumes.remove("data").unwrap_err();
    assert_eq!(error.to_string(), "get data: no such volume");
    assert_eq!(fs::read_dir(scratch.0.join("volumes")).unwrap().count(), 0);
}

#[test]
fn a_volume_without_a_name_gets_one() {
    let scratch = Scratch::new();
    let (volume, _) = scratch.open().create("", none()).unwrap();
    assert_eq!(volume.name.len(), 64);
    assert!(volume.is_anonymous());
}

#[test]
fn names_are_no_paths() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    let long = "a".repeat(256);
    for name in ["..", ".", "a/b", "../x", "a", "-ab", "a\0b", ".0", &long] {
        assert!(volumes.create(name, none()).is_err(), "{name}");
        assert!(volumes.hold("c", Want::Named(name), &New::default()).is_err(), "{name}");
        assert!(volumes.find(name).is_err(), "{name}");
    }
}

type Removal = fn(&Volumes, &str);

/// Each way to remove a volume. What it returns does not matter, only whether the volume is there.
const REMOVALS: [(&str, Removal); 4] = [
    ("rm -v and --rm of another user", |volumes, name| drop(volumes.release("other", &[name]))),
    ("volume rm", |volumes, name| drop(volumes.remove(name))),
    ("volume prune", |volumes, _| drop(volumes.prune(Volume::is_anonymous))),
    ("volume prune --all", |volumes, _| drop(volumes.prune(|_| true))),
];

#[test]
fn no_way_to_remove_a_volume_takes_one_that_a_container_uses() {
    for (way, remove) in REMOVALS {
        for want in ["anonymous", "named", "volumes-from", "kept"] {
            let scratch = Scratch::new();
            let volumes = scratch.open();
            let (volume, _) = volumes.hold("other", Want::Anonymous, &New::default()).unwrap();
            let name = match want {
                "anonymous" => {
                    volumes.hold("user", Want::Anonymous, &New::default()).unwrap().0.name
                }
                "named" => {
                    volumes.hold("user", Want::Named("data"), &New::default()).unwrap().0.name
                }
                "volumes-from" => {
                    volumes
                        .hold("user", Want::Existing(&volume.name), &New::default())
                        .unwrap()
                        .0
                        .name
                }
                _ => {
                    volumes.keep("user", &volume.name);
                    volume.name
                }
            };
            let file = volumes.find(&name).unwrap().mountpoint.join("file");
            fs::write(&file, "data").unwrap();
            remove(&volumes, &name);
            assert!(file.exists(), "{way} took a volume that is used ({want})");
            volumes.release("other", &[]);
            assert_eq!(volumes.release("user", &[&name]), [name.as_str()], "{way}, {want}");
            assert!(!file.exists());
        }
    }
}

#[test]
fn a_volume_in_use_names_its_users() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    volumes.hold("one", Want::Named("data"), &New::default()).unwrap();
    volumes.hold("two", Want::Named("data"), &New::default()).unwrap();
    let error = volumes.remove("data").unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(error.to_string(), "remove data: volume is in use - [one, two]");
    assert_eq!(volumes.users("data"), ["one", "two"]);
    assert_eq!(volumes.usage(|_| None).unwrap()[0].users, 2);
}

#[test]
fn a_volume_that_is_gone_is_not_made_anew_for_volumes_from() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    let (volume, _) = volumes.hold("one", Want::Anonymous, &New::default()).unwrap();
    volumes.release("one", &[&volume.name]);
    let error = volumes.hold("two", Want::Existing(&volume.name), &New::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(volumes.users(&volume.name), Vec::<String>::new());
}

#[test]
fn a_volume_whose_removal_has_begun_is_made_anew_and_empty() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    let (volume, _) = volumes.create("data", none()).unwrap();
    fs::write(volume.mountpoint.join("old"), "").unwrap();
    // The lock is held as a removal holds it: the container that wants the volume has to wait, and
    // gets one that is whole.
    let state = volumes.state();
    let (begun, begins) = channel();
    thread::scope(|scope| {
        let user = scope.spawn(|| {
            begun.send(()).unwrap();
            volumes.hold("user", Want::Named("data"), &New::default()).unwrap()
        });
        begins.recv().unwrap();
        let aside = volumes.place.put_aside("data").unwrap();
        drop(state);
        place::discard(&aside);
        let (volume, is_new) = user.join().unwrap();
        assert!(is_new && fs::read_dir(volume.mountpoint).unwrap().next().is_none());
    });
    assert_eq!(volumes.remove("data").unwrap_err().kind(), Kind::Conflict);
}

#[test]
fn where_users_are_not_all_known_only_a_name_removes() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    let (own, _) = volumes.hold("user", Want::Anonymous, &New::default()).unwrap();
    volumes.doubt("the record container/abc cannot be read");
    assert_eq!(volumes.release("user", &[&own.name]), Vec::<String>::new());
    let error = volumes.prune(|_| true).unwrap_err().to_string();
    assert!(error.contains("container/abc cannot be read"), "{error}");
    assert!(own.mountpoint.is_dir());
    volumes.remove(&own.name).unwrap();
}

#[test]
fn a_damaged_record_is_told_and_its_volume_stays() {
    for text in ["", "{", "[]", r#"{"version":3,"labels":{}}"#, r#"{"labels":3}"#] {
        let scratch = Scratch::new();
        let volumes = scratch.open();
        volumes.create("whole", none()).unwrap();
        let (volume, _) = volumes.create("broken", none()).unwrap();
        let path = volume.mountpoint.with_file_name("volume.json");
        fs::write(&path, text).unwrap();
        let volumes = scratch.open();
        let damaged = volumes.damaged();
        assert_eq!((damaged.len(), &damaged[0].path), (1, &path), "{text}");
        assert_eq!(volumes.prune(|_| true).unwrap().removed, ["whole"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        volumes.remove("broken").unwrap();
        assert_eq!(volumes.damaged(), []);
    }
}

#[test]
fn a_volume_of_the_first_release_is_read() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    let root = scratch.0.join("volumes");
    fs::create_dir_all(root.join("bare/_data")).unwrap();
    fs::create_dir_all(root.join("labelled/_data")).unwrap();
    let record = r#"{"labels":{"a":"b"},"created":"2026-01-02T03:04:05Z"}"#;
    fs::write(root.join("labelled/volume.json"), record).unwrap();
    let list = volumes.list().unwrap();
    assert_eq!(list.iter().map(|volume| &*volume.name).collect::<Vec<_>>(), ["bare", "labelled"]);
    assert_eq!(list[1].labels["a"], "b");
    assert_eq!(list[1].created.unwrap().timestamp(), 1_767_323_045);
    assert_eq!(volumes.damaged(), []);
}

#[test]
fn what_a_crash_left_aside_is_removed_when_volumes_are_opened() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    volumes.create("data", none()).unwrap();
    volumes.place.put_aside("data").unwrap();
    scratch.open();
    assert_eq!(fs::read_dir(scratch.0.join("volumes")).unwrap().count(), 0);
}

// === the first content ===

#[test]
fn an_empty_volume_is_filled_once_with_owner_and_mode() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    let (volume, _) = volumes.create("data", none()).unwrap();
    let image = scratch.0.join("image");
    fs::create_dir(&image).unwrap();
    fs::write(image.join("f"), "image").unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o1777)).unwrap();
    let image = Tree::open(&image).unwrap();
    volumes.fill("data", Path::new(""), |content| content.copy_from(&image)).unwrap();
    assert_eq!(fs::read(volume.mountpoint.join("f")).unwrap(), b"image");
    let mode = fs::metadata(&volume.mountpoint).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
    volumes.fill("data", Path::new(""), |_| panic!("it is not empty")).unwrap();
}

#[test]
fn cve_2022_23648_a_link_that_a_container_swaps_in_sends_no_write_elsewhere() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    let (volume, _) = volumes.create("data", none()).unwrap();
    let (image, outside) = (scratch.0.join("image"), scratch.0.join("outside"));
    fs::create_dir_all(image.join("etc")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(image.join("etc/shadow"), "image").unwrap();
    fs::write(image.join("other"), "image").unwrap();
    let tree = Tree::open(&image).unwrap();
    // The container wins every race: its links are there before anything is moved in.
    volumes
        .fill("data", Path::new(""), |content| {
            symlink(&outside, volume.mountpoint.join("etc"))?;
            content.copy_from(&tree)
        })
        .unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::read_link(volume.mountpoint.join("etc")).unwrap(), outside);
    assert_eq!(fs::read(volume.mountpoint.join("other")).unwrap(), b"image");
}

#[test]
fn a_failed_fill_leaves_what_others_put_there() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    let (volume, _) = volumes.create("data", none()).unwrap();
    let theirs = volume.mountpoint.join("theirs");
    let error = volumes
        .fill("data", Path::new(""), |content| {
            content.write("half", b"", 0o644)?;
            fs::write(&theirs, "data")?;
            Err(std::io::Error::other("the disk is full"))
        })
        .unwrap_err();
    assert!(error.chain().contains("the disk is full"), "{}", error.chain());
    assert_eq!(fs::read(&theirs).unwrap(), b"data");
    assert!(!volume.mountpoint.join("half").exists());
    assert_eq!(fs::read_dir(scratch.0.join("volumes")).unwrap().count(), 1);
}

#[test]
fn a_failed_fill_of_a_device_leaves_nothing_and_is_done_again() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    let options = [("type", "tmpfs"), ("device", "tmpfs")];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let (volume, _) =
        volumes.create_with("data", &New { options: options.into(), ..New::default() }).unwrap();
    let names = || -> Vec<_> {
        let entries = fs::read_dir(&volume.mountpoint).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    let half = |content: &Tree| {
        content.write("half", b"", 0o644)?;
        Err(std::io::Error::other("the disk is full"))
    };
    volumes.fill("data", Path::new(""), half).unwrap_err();
    assert!(names().is_empty(), "{:?}", names());
    // What a daemon leaves that is killed meanwhile.
    fs::create_dir_all(volume.mountpoint.join(".rnet-first-content/half")).unwrap();
    volumes.fill("data", Path::new(""), |content| content.write("whole", b"", 0o644)).unwrap();
    assert_eq!(names(), ["whole"]);
    volumes.fill("data", Path::new(""), |_| panic!("it is not empty")).unwrap();
}

#[test]
fn two_that_fill_a_volume_at_once_do_not_mix() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    let (volume, _) = volumes.create("data", none()).unwrap();
    let (begun, begins) = channel();
    thread::scope(|scope| {
        volumes
            .fill("data", Path::new(""), |content| {
                scope.spawn(|| {
                    begun.send(()).unwrap();
                    volumes
                        .fill("data", Path::new(""), |content| content.write("second", b"", 0o644))
                        .unwrap();
                });
                begins.recv().unwrap();
                content.write("first", b"", 0o644)
            })
            .unwrap();
    });
    let names: Vec<_> =
        fs::read_dir(&volume.mountpoint).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["first"]);
}

#[test]
fn a_directory_of_a_volume_is_filled_alone_and_nothing_outside_of_it() {
    let scratch = Scratch::new();
    let volumes = scratch.open();
    let (volume, _) = volumes.create("data", none()).unwrap();
    fs::create_dir(volume.mountpoint.join("sub")).unwrap();
    fs::create_dir(scratch.0.join("outside")).unwrap();
    symlink(scratch.0.join("outside"), volume.mountpoint.join("out")).unwrap();
    let write = |content: &Tree| content.write("file", b"text", 0o644);
    volumes.fill("data", Path::new("sub"), write).unwrap();
    assert_eq!(fs::read(volume.mountpoint.join("sub/file")).unwrap(), b"text");
    for nothing in ["nope", "out", "../../..", "sub/file"] {
        volumes.fill("data", Path::new(nothing), |_| panic!("{nothing}")).unwrap();
    }
    assert_eq!(fs::read_dir(scratch.0.join("outside")).unwrap().count(), 0);
}
