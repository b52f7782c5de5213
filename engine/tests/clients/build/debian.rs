//! A real Dockerfile of several stages, on a Debian that debootstrap makes.
//!
//! The base is made once, of the mirror that this machine's apt is set up with, and kept in the target
//! directory. Where there is none and the mirror cannot be reached, the test fails and says so.

use std::process::Command;

use super::*;

/// What a command says.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    String::from_utf8(output.stdout).unwrap()
}

/// An archive of a minimal Debian.
fn base() -> PathBuf {
    let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (archive, tree) = (kept.join("debian.tar"), kept.join("debian"));
    if archive.exists() {
        return archive;
    }
    // What an earlier run has left half-made.
    if tree.exists() {
        fs::remove_dir_all(&tree).unwrap();
    }
    let targets = ["indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"];
    let targets = said(Command::new("apt-get").args(targets));
    let (mirror, suite) = targets.lines().next().and_then(|line| line.split_once(' ')).expect(
        "apt has a mirror of Debian: no base can be made without one, and this test needs one once",
    );
    let proxy = said(Command::new("apt-config").args(["shell", "it", "Acquire::http::Proxy"]));
    let proxy = proxy.trim().trim_start_matches("it=").trim_matches('\'').to_owned();
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", suite]).arg(&tree).arg(mirror);
    if !proxy.is_empty() {
        command.env("http_proxy", proxy);
    }
    let output = command.output().expect("debootstrap is installed");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "no Debian can be made of {mirror}, and this test needs one once: {out}"
    );
    let aside = archive.with_extension("aside");
    let leave_out =
        ["./dev/*", "./var/cache/apt/*", "./var/lib/apt/lists/*", "./usr/share/locale/*"];
    let leave_out = leave_out.map(|path| format!("--exclude={path}"));
    let mut command = Command::new("tar");
    command.arg("-C").arg(&tree).args(leave_out).arg("-cf").arg(&aside).arg(".");
    assert!(command.status().unwrap().success());
    fs::rename(aside, &archive).unwrap();
    fs::remove_dir_all(&tree).unwrap();
    archive
}

#[test]
fn a_package_is_built_on_a_debian_and_installed_on_another_and_all_of_it_is_taken_again() {
    let base = base();
    let site = Site { daemon: Daemon::start(&[]) };
    site.daemon.docker_ok(&["import", base.to_str().unwrap(), "debian-base"]);
    let text = "ARG BASE=debian-base\nFROM $BASE AS build\nARG VERSION=1.2\nWORKDIR /package\n\
        RUN mkdir -p DEBIAN usr/bin && printf \
        'Package: hello\\nVersion: %s\\nArchitecture: all\\nMaintainer: nobody <nobody@example.org>\\n\
        Depends: perl-base\\nDescription: says so\\n' $VERSION >DEBIAN/control\n\
        COPY --chmod=755 hello usr/bin/\nRUN dpkg-deb --root-owner-group --build . /hello.deb\n\
        FROM $BASE\nCOPY --from=build /hello.deb /tmp/\n\
        RUN dpkg -i /tmp/hello.deb && rm /tmp/hello.deb && apt-mark hold hello\n\
        RUN useradd --create-home --shell /bin/bash somebody\nUSER somebody\nWORKDIR /home/somebody\n\
        CMD [\"hello\"]\n";
    let program = "#!/usr/bin/perl\nprint \"hello from \", (getpwuid $>)[0], \"\\n\";\n";
    let context = site.context("debian", &[("Dockerfile", text), ("hello", program)]);
    let path = context.to_str().unwrap();
    let first = site.built(&["-t", "hello:1", path]);
    assert_eq!(first.matches("Running in").count(), 4, "{first}");
    let run = ["run", "--rm", "--network", "none", "hello:1"];
    assert_eq!(site.daemon.docker_ok(&run), "hello from somebody");
    let status = "dpkg-query -W -f '${Version} ${Status}' hello; [ ! -e /hello.deb ] && [ -z \"$(ls /tmp)\" ]";
    assert_eq!(site.shell("hello:1", status), "1.2 hold ok installed");
    let before = Instant::now();
    let second = site.built(&["-t", "hello:2", path]);
    println!("built from the cache alone in {:?}", before.elapsed());
    // Each step but the stages' first and what is before them.
    let steps = text.lines().count() - 3;
    assert_eq!(second.matches(" ---> Using cache").count(), steps, "{second}");
    assert!(!second.contains("Running in"), "{second}");
    assert_eq!(site.inspect("hello:1")["Id"], site.inspect("hello:2")["Id"]);
}
