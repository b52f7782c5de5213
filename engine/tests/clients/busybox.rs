//! A base image with a shell: a static busybox with all its tools, and nothing else.

use std::process::Command;

use crate::daemon::{Daemon, Scratch};

/// What `docker import` takes for it, as a file in a directory.
pub fn archive(scratch: &Scratch) -> String {
    let (tree, files) = (scratch.text("busybox"), scratch.text("busybox.tar"));
    let script = "mkdir -p $0/bin $0/etc $0/tmp && \
                  for tool in $(busybox --list); do ln -sf busybox $0/bin/$tool; done && \
                  cp --remove-destination /usr/bin/busybox $0/bin && \
                  echo root:x:0:0::/:/bin/sh >$0/etc/passwd && echo root:x:0: >$0/etc/group && \
                  chmod 1777 $0/tmp && tar -C $0 --owner=0 --group=0 -cf $1 .";
    let made = Command::new("sh").args(["-c", script, &tree, &files]).status().unwrap();
    assert!(made.success(), "busybox-static is installed");
    files
}

/// Imports it under a name.
pub fn import(daemon: &Daemon, name: &str) {
    daemon.docker_ok(&["import", "-c", "CMD sh", &archive(&daemon.scratch), name]);
}
