//! Trees as strangers fill them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rnet-tree-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn tree(&self, name: &str) -> (PathBuf, Tree) {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        let tree = Tree::open(&path).unwrap();
        (path, tree)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_copy_has_links_modes_owners_times_and_holes() {
    let scratch = Scratch::new();
    let ((from_path, from), (to_path, to)) = (scratch.tree("from"), scratch.tree("to"));
    fs::create_dir(from_path.join("d")).unwrap();
    fs::write(from_path.join("d/a"), "text").unwrap();
    fs::set_permissions(from_path.join("d/a"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::hard_link(from_path.join("d/a"), from_path.join("b")).unwrap();
    symlink("/etc/shadow", from_path.join("s")).unwrap();
    let sparse = File::create(from_path.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    to.copy_from(&from).unwrap();
    let file = fs::metadata(to_path.join("d/a")).unwrap();
    assert_eq!(file.permissions().mode() & 0o7777, 0o4711);
    assert_eq!(file.mtime_nsec(), fs::metadata(from_path.join("d/a")).unwrap().mtime_nsec());
    assert_eq!(file.ino(), fs::metadata(to_path.join("b")).unwrap().ino());
    assert_eq!(fs::read_link(to_path.join("s")).unwrap(), Path::new("/etc/shadow"));
    let sparse = fs::metadata(to_path.join("sparse")).unwrap();
    assert_eq!(sparse.len(), 1 << 30);
    assert!(sparse.blocks() < 64, "{} blocks", sparse.blocks());
    assert_eq!(to.size(), (1 << 30) + 4);
}

#[test]
fn a_link_at_the_target_is_replaced_and_never_followed() {
    let scratch = Scratch::new();
    let ((from_path, from), (to_path, to)) = (scratch.tree("from"), scratch.tree("to"));
    let outside = scratch.0.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f"), "theirs").unwrap();
    fs::create_dir(from_path.join("d")).unwrap();
    fs::write(from_path.join("d/f"), "ours").unwrap();
    fs::write(from_path.join("f"), "ours").unwrap();
    symlink(&outside, to_path.join("d")).unwrap();
    symlink(outside.join("f"), to_path.join("f")).unwrap();
    to.copy_from(&from).unwrap();
    assert_eq!(fs::read(outside.join("f")).unwrap(), b"theirs");
    assert_eq!(fs::read(to_path.join("d/f")).unwrap(), b"ours");
    symlink(outside.join("f"), to_path.join("w")).unwrap();
    to.write("w", b"ours", 0o644).unwrap();
    assert_eq!(fs::read(outside.join("f")).unwrap(), b"theirs");
    assert_eq!(fs::read(to_path.join("w")).unwrap(), b"ours");
}

#[test]
fn a_path_below_stays_below_whatever_links_say() {
    let scratch = Scratch::new();
    let (path, tree) = scratch.tree("root");
    fs::create_dir_all(path.join("etc/inner")).unwrap();
    symlink("/etc", path.join("absolute")).unwrap();
    symlink("../../../../../etc", path.join("upward")).unwrap();
    symlink("loop", path.join("loop")).unwrap();
    for below in ["absolute", "upward", "/etc", "../etc"] {
        let found = tree.below(Path::new(below)).unwrap().unwrap();
        assert_eq!(names(found.as_fd()).unwrap(), ["inner"], "{below}");
    }
    assert!(tree.below(Path::new("missing")).unwrap().is_none());
    assert!(tree.below(Path::new("loop")).unwrap().is_none());
}

#[test]
fn what_is_there_stays_when_a_tree_is_moved_in() {
    let scratch = Scratch::new();
    let ((from_path, from), (to_path, to)) = (scratch.tree("from"), scratch.tree("to"));
    fs::write(from_path.join("a"), "image").unwrap();
    fs::write(from_path.join("b"), "image").unwrap();
    fs::set_permissions(&from_path, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(to_path.join("a"), "container").unwrap();
    from.move_into(&to).unwrap();
    assert_eq!(fs::read(to_path.join("a")).unwrap(), b"container");
    assert_eq!(fs::read(to_path.join("b")).unwrap(), b"image");
    assert_eq!(fs::metadata(&to_path).unwrap().permissions().mode() & 0o7777, 0o1777);
}

#[test]
fn a_name_is_no_path() {
    let scratch = Scratch::new();
    let (_, tree) = scratch.tree("root");
    for name in ["", ".", "..", "a/b", "/a", "a/"] {
        assert!(tree.write(name, b"", 0o644).is_err(), "{name}");
    }
}

#[test]
fn a_tree_that_is_too_deep_is_refused_and_not_walked_to_death() {
    let scratch = Scratch::new();
    let ((_, from), (_, to)) = (scratch.tree("from"), scratch.tree("to"));
    let mut at = rustix::fs::openat(&from, ".", DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..=DEEPEST {
        rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
    }
    let error = to.copy_from(&from).unwrap_err();
    assert!(error.to_string().contains("too deep"), "{error}");
    assert_eq!(from.size(), 0);
}

#[test]
fn an_error_of_a_copy_says_of_which_file_it_is() {
    let scratch = Scratch::new();
    let ((from_path, from), (to_path, to)) = (scratch.tree("from"), scratch.tree("to"));
    fs::write(from_path.join("f"), "").unwrap();
    // Nothing can be made in a directory that has gone.
    fs::remove_dir(to_path).unwrap();
    let one = to.take((&from, OsStr::new("f")), OsStr::new("g"), Given::default());
    for result in [to.copy_from(&from), one] {
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("f: "), "{error}");
    }
}

#[test]
fn what_is_no_file_is_not_opened() {
    use rustix::fs::inotify;
    let scratch = Scratch::new();
    let (path, tree) = scratch.tree("root");
    fs::write(path.join("file"), "text").unwrap();
    symlink("/file", path.join("link")).unwrap();
    rustix::fs::mknodat(&tree, "pipe", FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    let opened = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&opened, path.join("pipe"), inotify::WatchFlags::OPEN).unwrap();
    assert!(tree.file(Path::new("pipe")).unwrap().is_none());
    assert!(regular(tree.as_fd(), OsStr::new("pipe")).unwrap().is_none());
    assert_eq!(rustix::io::read(&opened, &mut [0; 256]), Err(Errno::AGAIN));
    assert!(tree.file(Path::new("missing")).unwrap().is_none());
    assert!(tree.file(Path::new("")).unwrap().is_none());
    let mut file = tree.file(Path::new("link")).unwrap().unwrap();
    assert_eq!(io::read_to_string(&mut file).unwrap(), "text");
    // A name is not followed.
    assert!(regular(tree.as_fd(), OsStr::new("link")).unwrap().is_none());
}

#[test]
fn a_part_is_reached_by_links_that_stay_in_the_tree_and_by_no_others() {
    let scratch = Scratch::new();
    let (path, tree) = scratch.tree("volume");
    fs::create_dir_all(path.join("a/b")).unwrap();
    fs::write(path.join("a/b/file"), "text").unwrap();
    fs::write(scratch.0.join("secret"), "").unwrap();
    for (target, link) in
        [("a/b", "in"), ("..", "up"), ("../secret", "out"), ("/etc", "abs"), ("me", "me")]
    {
        symlink(target, path.join(link)).unwrap();
    }
    for good in ["", ".", "a", "a/b/", "a/../a/./b", "in", "in/file"] {
        tree.reach(Path::new(good)).unwrap();
    }
    let wrong = [
        ("nope", "nope", Errno::NOENT),
        ("a/nope/x", "a/nope", Errno::NOENT),
        ("./a/b/file/x", "a/b/file/x", Errno::NOTDIR),
        ("up", "up", Errno::XDEV),
        ("out", "out", Errno::XDEV),
        ("abs/passwd", "abs", Errno::XDEV),
        ("../secret", "..", Errno::XDEV),
        ("me", "me", Errno::LOOP),
    ];
    for (path, at, errno) in wrong {
        let unreachable = tree.reach(Path::new(path)).unwrap_err();
        assert_eq!(unreachable.at, Path::new(at), "{path}");
        assert_eq!(unreachable.error.raw_os_error(), Some(errno.raw_os_error()), "{path}");
        assert!(tree.directory_beneath(Path::new(path)).unwrap().is_none(), "{path}");
    }
    assert!(!tree.directory_beneath(Path::new("in")).unwrap().unwrap().is_empty().unwrap());
}
