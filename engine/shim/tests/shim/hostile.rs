//! Containers that want to get out and strangers who want to get in: what was found in other runtimes
//! and engines, tried with each runtime on canaries. What is mounted or written where an image says
//! is looked for on the host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::root;
use runtime::spec::{Mount, MountKind};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use shim::client::{ShimClient, ShimError};
use shim::protocol::Streams;

use super::{Container, exit_of, run, with_each_runtime};

/// A directory on the host that no container may touch.
struct Canary {
    path: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    fn new(container: &Container) -> Self {
        let path = container.directory.join("canary");
        fs::create_dir_all(path.join("sub")).unwrap();
        for file in ["file", "hosts", "sub/file"] {
            fs::write(path.join(file), "untouched").unwrap();
        }
        let before = contents(&path);
        Self { path, before }
    }

    /// The way to a file of it from below, whatever the place.
    fn by_climbing(&self, file: &str) -> String {
        format!("{}{}", "../".repeat(16), self.path.strip_prefix("/").unwrap().join(file).display())
    }

    fn assert_untouched(&self) {
        assert_eq!(contents(&self.path), self.before);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let on_it = |line: &&str| {
            line.split(' ').nth(4).is_some_and(|at| Path::new(at).starts_with(&self.path))
        };
        assert_eq!(mounts.lines().find(on_it), None);
    }
}

/// All that is below a directory, with what would show that it was changed.
fn contents(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let (path, meta) = (entry.path(), entry.metadata().unwrap());
        let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let fact = format!(
            "{:o} {} {}.{} {text:?}",
            meta.mode(),
            meta.nlink(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        if meta.is_dir() {
            all.extend(contents(&path));
        }
        all.insert(path, fact);
    }
    all
}

fn bind(source: &Path, target: &str) -> Mount {
    let source = source.display().to_string();
    Mount { kind: MountKind::Bind, source, target: target.to_owned(), ..Mount::default() }
}

fn tmpfs(target: &str) -> Mount {
    Mount { kind: MountKind::Tmpfs, target: target.to_owned(), ..Mount::default() }
}

/// Waits for the end of a container that was started.
fn ends(container: &Container) {
    run(async {
        if let Ok(watch) = container.client().watch().await {
            watch.end().await;
        }
    });
}

/// The exit code of a program in a running container; nothing if the runtime did not start it.
async fn code_of(client: &ShimClient, exec: shim::protocol::Exec) -> Option<i32> {
    let mut watch = client.watch().await.unwrap();
    let id = exec.id.clone();
    match client.exec(exec).await {
        Ok(_) => Some(exit_of(&mut watch, Some(&id)).await.code),
        Err(ShimError::Start(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// CVE-2019-5736.
#[test]
fn cve_2019_5736_the_programs_of_the_host_are_not_overwritten_by_who_has_them_run_inside() {
    with_each_runtime("overwrite", &["overwrite"], |mut container| {
        // A copy of the runtime, in case that it can.
        let program = container.directory.join(container.runtime.name());
        fs::copy(container.runtime.program(), &program).unwrap();
        container.config.runtime.program.clone_from(&program);
        let before = fs::read(&program).unwrap();
        let rootfs = container.directory.join("rootfs");
        let again = rootfs.join("bin/again");
        fs::write(&again, "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(&again, fs::Permissions::from_mode(0o755)).unwrap();
        container.start(&[]).unwrap();
        let client = container.client();
        run(async {
            for turn in 0..20 {
                let exec =
                    container.exec(&turn.to_string(), &["/bin/again"], Streams::default(), false);
                code_of(&client, exec).await;
            }
        });
        fs::write(rootfs.join("stop"), "").unwrap();
        ends(&container);
        let log = container.log("stdout");
        assert!(log.starts_with("tried ") && !log.contains("wrote"), "{log}");
        // And as the first program of a container.
        fs::remove_file(rootfs.join("stop")).unwrap();
        container.input.args = vec!["/bin/again".to_owned()];
        if container.start(&[]).is_ok() {
            ends(&container);
        }
        assert!(fs::read(&program).unwrap() == before, "{} was changed", program.display());
    });
}

/// Puts links into an image at each place where something is mounted, made or written.
fn set_traps(container: &Container, canary: &Canary, inside: bool) -> Vec<Mount> {
    let rootfs = container.directory.join("rootfs");
    fs::write(rootfs.join("file"), "").unwrap();
    if inside {
        // What is there on the host is there in the container too.
        let same = rootfs.join(canary.path.strip_prefix("/").unwrap());
        for directory in ["data", "run/lock", "sbin", "scratch", "sub/deep", "work"] {
            fs::create_dir_all(same.join(directory)).unwrap();
        }
        for file in ["hosts", "new", "resolv.conf"] {
            fs::write(same.join(file), "").unwrap();
        }
    }
    let canary_path = canary.path.display().to_string();
    for (link, target) in [
        ("etc/hosts", format!("{canary_path}/hosts")),
        ("etc/hostname", format!("{canary_path}/new")),
        ("etc/resolv.conf", canary.by_climbing("resolv.conf")),
        ("data", format!("{canary_path}/data")),
        ("volume", canary.by_climbing("sub")),
        ("scratch", format!("{canary_path}/scratch")),
        ("run", canary.by_climbing("run")),
        ("sbin", format!("{canary_path}/sbin")),
        ("work", format!("{canary_path}/work")),
        ("up", "..".to_owned()),
        ("dev/null", format!("{canary_path}/null")),
        ("dev/console", format!("{canary_path}/console")),
        ("dev/shm", canary_path.clone()),
        ("dev/pts", canary_path),
    ] {
        symlink(target, rootfs.join(link)).unwrap();
    }
    let (file, directory) = (container.directory.join("own"), container.directory.join("source"));
    fs::write(&file, "own").unwrap();
    fs::create_dir(&directory).unwrap();
    vec![
        bind(&file, "/etc/hosts"),
        bind(&file, "/etc/hostname"),
        bind(&file, "/etc/resolv.conf"),
        bind(&directory, "/data"),
        bind(&directory, "/volume/deep"),
        bind(&file, "/up/up/file"),
        tmpfs("/scratch"),
        tmpfs("/run/lock"),
    ]
}

/// CVE-2025-31133, -52565; CVE-2024-45310.
#[test]
fn cve_2025_31133_cve_2025_52565_no_link_of_an_image_leads_a_mount_or_a_file_out_of_the_root() {
    for (tty, inside) in [(false, false), (false, true), (true, false), (true, true)] {
        with_each_runtime("links", &["read", "/etc/hosts"], |mut container| {
            let canary = Canary::new(&container);
            container.input.mounts = set_traps(&container, &canary, inside);
            container.input.init = Some(container.directory.join("rootfs/bin/probe"));
            container.input.cwd = "/work".to_owned();
            container.config.tty = tty;
            let started = container.start(&[]);
            // Not every runtime makes what a link leads to.
            assert!(started.is_ok() || !inside, "{started:?}");
            if started.is_ok() {
                ends(&container);
            }
            canary.assert_untouched();
            assert!(!Path::new("/file").exists());
        });
    }
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2026-41579, CVE-2026-47766. The check stands before the runtime,
/// because not every runtime stands the test.
#[test]
fn cve_2019_19921_cve_2026_41579_an_image_whose_own_places_are_links_is_not_given_to_a_runtime() {
    for place in ["proc", "sys", "dev"] {
        with_each_runtime(place, &["exit", "0"], |container| {
            let canary = Canary::new(&container);
            let rootfs = container.directory.join("rootfs");
            fs::remove_dir(rootfs.join(place)).unwrap();
            symlink(&canary.path, rootfs.join(place)).unwrap();
            let error = root::check(&rootfs, []).unwrap_err().to_string();
            assert!(error.contains(&format!("its /{place} is not a directory")), "{error}");
            canary.assert_untouched();
        });
    }
}

/// CVE-2024-21626.
#[test]
fn cve_2024_21626_no_working_directory_is_what_the_runtime_has_open() {
    with_each_runtime("workdir", &["sleep"], |mut container| {
        let canary = Canary::new(&container);
        let rootfs = container.directory.join("rootfs");
        for descriptor in 0..32 {
            let link = rootfs.join(format!("fd{descriptor}"));
            symlink(format!("/proc/self/fd/{descriptor}"), link).unwrap();
        }
        symlink("/proc/self/cwd", rootfs.join("fd32")).unwrap();
        container.start(&[]).unwrap();
        let (client, outside) = (container.client(), canary.by_climbing("file"));
        run(async {
            for descriptor in 0..33 {
                let id = format!("fd{descriptor}");
                let args = ["/bin/probe", "read", &outside];
                let mut exec = container.exec(&id, &args, Streams::default(), false);
                exec.process["cwd"] = format!("/{id}").into();
                assert_ne!(code_of(&client, exec).await, Some(0), "{id} leads outside");
            }
            client.kill(libc::SIGKILL, None).await.unwrap();
        });
        ends(&container);
        container.input.args = ["/bin/probe", "read", &outside].map(str::to_owned).into();
        for descriptor in (3..16).chain([32]) {
            container.input.cwd = format!("/fd{descriptor}");
            if container.start(&[]).is_ok() {
                ends(&container);
                let exit = shim::client::exit(&container.config.directory).unwrap();
                assert_ne!(exit.code, 0, "{} leads outside", container.input.cwd);
            }
        }
    });
}

/// Whether a runtime may make an empty directory wherever a link leads that comes at the right moment: runc
/// before 1.1.14 (CVE-2024-45310). A path that changes under a runtime is nothing that we could check.
fn may_make_targets_anywhere(container: &Container) -> bool {
    let version = container.runtime.version().unwrap();
    let Some(version) = version.strip_prefix("runc version ") else { return false };
    let numbers = version.split(|letter: char| !letter.is_ascii_digit());
    let numbers: Vec<u32> = numbers.map_while(|number| number.parse().ok()).take(3).collect();
    numbers.as_slice() < [1, 1, 14].as_slice()
}

/// CVE-2021-30465: a container that shares a volume changes it while another one is being made.
#[test]
fn cve_2021_30465_cve_2024_45310_no_link_that_comes_while_a_volume_is_mounted_leads_out_of_the_root()
 {
    with_each_runtime("race", &["exit", "0"], |mut container| {
        let canary = Canary::new(&container);
        let volume = container.directory.join("volume");
        fs::create_dir_all(volume.join("place")).unwrap();
        symlink(&canary.path, volume.join("link")).unwrap();
        let file = container.directory.join("own");
        fs::write(&file, "own").unwrap();
        container.input.mounts = vec![
            bind(&volume, "/volume"),
            bind(&file, "/volume/place/hosts"),
            tmpfs("/volume/place/sub"),
            bind(&volume, "/volume/place/new"),
        ];
        let done = AtomicBool::new(false);
        let started = std::thread::scope(|scope| {
            scope.spawn(|| {
                let [place, link] = ["place", "link"].map(|name| volume.join(name));
                while !done.load(Ordering::Relaxed) {
                    renameat_with(CWD, &place, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let starts = (0..30).filter(|_| {
                let started = container.start(&[]).is_ok();
                if started {
                    ends(&container);
                }
                started
            });
            let started = starts.count();
            done.store(true, Ordering::Relaxed);
            started
        });
        println!("{started} of 30 have started");
        if may_make_targets_anywhere(&container) {
            // An empty one, and nothing else.
            let _ = fs::remove_dir(canary.path.join("new"));
        }
        canary.assert_untouched();
    });
}

#[test]
#[ignore = "is run by another test, as another user"]
fn stranger() {
    let directory = std::env::var_os("RNET_SHIM_DIRECTORY").unwrap();
    let client = ShimClient::new(directory);
    let error = run(async { client.status().await.unwrap_err() });
    // It is connected, and hears nothing.
    assert!(
        !error.to_string().contains("denied") && !format!("{error:?}").contains("Permission"),
        "{error:?}"
    );
    let error = run(async { client.kill(libc::SIGKILL, None).await.unwrap_err() });
    assert!(!matches!(error, ShimError::Refused { .. }), "{error:?}");
}

#[test]
fn a_process_of_another_user_is_not_heard_by_a_shim_though_it_may_connect() {
    let mut container = Container::new("stranger", &["sleep"]);
    container.start(&[]).unwrap();
    let shim = &container.config.directory;
    // Were the socket's mode all that keeps strangers out, this one would get in.
    for path in [shim.clone(), shim.join("sock")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let program = container.directory.join("stranger");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new(program)
        .args(["--exact", "hostile::stranger", "--ignored", "--nocapture"])
        .env("RNET_SHIM_DIRECTORY", shim)
        .current_dir("/")
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
    run(async {
        let client = container.client();
        assert!(client.status().await.unwrap().pid.is_some(), "it was not killed");
        client.kill(libc::SIGKILL, None).await.unwrap();
    });
}
