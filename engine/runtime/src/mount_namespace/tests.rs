//! Mount namespaces, on threads that have mounts of their own.

use super::*;
use nix::sched::setns;

/// Runs a test on a thread with mounts of its own. It needs root.
fn with_own_mounts(test: &str, body: impl FnOnce(&Path) + Send) {
    let directory = std::env::temp_dir().join(format!("rnet-{test}-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("pins/one")).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let pins = directory.join("pins");
            mount(Some(&pins), &pins, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            mount_at(&pins.join("one"));
            body(&directory);
        });
    });
    std::fs::remove_dir_all(&directory).unwrap();
}

fn mount_at(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    mount(Some("rnet"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

/// Does something in a mount namespace.
#[expect(clippy::disallowed_methods, reason = "the thread ends with this")]
fn inside<T: Send>(namespace: &MountNamespace, work: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        unshare(CloneFlags::CLONE_FS).unwrap();
        setns(&namespace.namespace, CloneFlags::CLONE_NEWNS).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

/// What is mounted in a mount namespace below a directory.
fn mounts_of(namespace: &MountNamespace, below: &Path) -> Vec<String> {
    let read = || std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let text = inside(namespace, read);
    let paths = text.lines().filter_map(|line| line.split(' ').nth(4));
    let prefix = format!("{}/", below.display());
    paths.filter_map(|path| path.strip_prefix(&prefix)).map(str::to_owned).collect()
}

fn is_ready(pending: &Pending) -> bool {
    matches!(pending, Pending::Ready(_))
}

/// Whether this kernel tells what is mounted.
fn is_told() -> bool {
    mounts::but_below(Path::new("/")).is_ok()
}

#[test]
fn a_mount_namespace_has_the_mounts_of_the_host_and_none_of_other_containers() {
    with_own_mounts("namespace", |directory| {
        mount_at(&directory.join("mine"));
        let namespaces = MountNamespaces::new(directory.join("pins"));
        let namespace = namespaces.finish(namespaces.begin(Wanted::default()).unwrap()).unwrap();
        assert_eq!(mounts_of(&namespace, directory), ["mine"]);
    });
}

#[test]
fn a_mount_namespace_serves_as_long_as_only_other_containers_come_and_go() {
    with_own_mounts("serves", |directory| {
        let namespaces = MountNamespaces::new(directory.join("pins"));
        let first = namespaces.finish(namespaces.begin(Wanted::default()).unwrap()).unwrap();
        mount_at(&directory.join("pins/two"));
        umount2(&directory.join("pins/one"), MntFlags::MNT_DETACH).unwrap();
        let pending = namespaces.begin(Wanted::default()).unwrap();
        assert_eq!(is_ready(&pending), is_told());
        let second = namespaces.finish(pending).unwrap();
        assert_eq!(Arc::ptr_eq(&first, &second), is_told());
        assert_eq!(mounts_of(&second, directory), [""; 0]);
        assert!(
            !is_ready(
                &namespaces.begin(Wanted { hide_hybrid: true, ..Wanted::default() }).unwrap()
            ),
            "it hides nothing"
        );
        namespaces.rest(Duration::from_secs(3600));
        assert_eq!(namespaces.last().is_some(), is_told());
        namespaces.rest(Duration::ZERO);
        assert!(namespaces.last().is_none());
    });
}

#[test]
fn a_mount_namespace_misses_nothing_where_somebody_has_unmounted_the_pins() {
    with_own_mounts("unpinned", |directory| {
        let pins = directory.join("pins");
        umount2(&pins, MntFlags::MNT_DETACH).unwrap();
        let namespaces = MountNamespaces::new(&pins);
        let _ = namespaces.finish(namespaces.begin(Wanted::default()).unwrap()).unwrap();
        mount_at(&directory.join("late"));
        let namespace = namespaces.finish(namespaces.begin(Wanted::default()).unwrap()).unwrap();
        assert_eq!(mounts_of(&namespace, directory), ["late"]);
    });
}

#[test]
fn a_mount_namespace_misses_nothing_that_happens_to_the_hosts_mounts() {
    with_own_mounts("misses", |directory| {
        let namespaces = MountNamespaces::new(directory.join("pins"));
        let late = directory.join("late");
        let change = |flags| {
            mount(None::<&str>, &late, None::<&str>, flags, None::<&str>).unwrap();
        };
        let unmount = || umount2(&late, MntFlags::MNT_DETACH).unwrap();
        let moved = directory.join("moved");
        std::fs::create_dir_all(&moved).unwrap();
        let steps: [(&str, &dyn Fn()); 6] = [
            ("mounted", &|| mount_at(&late)),
            ("remounted", &|| {
                change(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY);
            }),
            ("shared", &|| change(MsFlags::MS_SHARED)),
            ("private", &|| change(MsFlags::MS_PRIVATE)),
            ("mounted over", &|| mount_at(&late)),
            ("unmounted", &unmount),
        ];
        for (what, step) in steps {
            let _ = namespaces.finish(namespaces.begin(Wanted::default()).unwrap()).unwrap();
            step();
            let pending = namespaces.begin(Wanted::default()).unwrap();
            assert!(!is_ready(&pending), "{what}");
            let namespace = namespaces.finish(pending).unwrap();
            assert_eq!(mounts_of(&namespace, directory).first().unwrap(), "late", "{what}");
        }
        mount(Some(&late), &moved, None::<&str>, MsFlags::MS_MOVE, None::<&str>).unwrap();
        let namespace = namespaces.finish(namespaces.begin(Wanted::default()).unwrap()).unwrap();
        assert_eq!(mounts_of(&namespace, directory), ["moved"]);
    });
}

/// What a host with systemd has: everything is shared.
#[test]
fn a_mount_namespace_takes_nothing_from_a_host_whose_mounts_are_shared() {
    with_own_mounts("shared", |directory| {
        let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
        mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).unwrap();
        let here = || std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let before = here();
        for wanted in [Wanted::default(), Wanted { spreads: true, ..Wanted::default() }] {
            let namespaces = MountNamespaces::new(directory.join("pins"));
            let namespace = namespaces.finish(namespaces.begin(wanted).unwrap()).unwrap();
            assert_eq!(here(), before, "{wanted:?}");
            drop(namespace);
        }
    });
}

#[test]
fn what_is_mounted_in_a_mount_namespace_is_seen_outside_only_if_that_is_wanted() {
    with_own_mounts("spreads", |directory| {
        let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
        let place = directory.join("place");
        mount_at(&place);
        mount(None::<&str>, &place, None::<&str>, shared, None::<&str>).unwrap();
        for (spreads, name) in [(false, "hidden"), (true, "seen")] {
            let namespaces = MountNamespaces::new(directory.join("pins"));
            let wanted = Wanted { spreads, ..Wanted::default() };
            let namespace = namespaces.finish(namespaces.begin(wanted).unwrap()).unwrap();
            inside(&namespace, || mount_at(&place.join(name)));
            let own = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let path = place.join(name).display().to_string();
            assert_eq!(own.contains(&path), spreads, "{name}");
        }
    });
}
