//! Mounts, processes and a name of their own on a host, for programs that keep files and start others.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Host;

/// Namespaces of mounts, processes and the host's name on a [`Host`]. All that runs in them ends with the value, and with
/// the test if that is killed.
#[derive(Debug)]
pub struct Namespaces {
    /// The parent of the first process in the namespaces.
    holder: Child,
}

impl Namespaces {
    /// Makes them, and runs a line of a shell in them with a directory as `$0`.
    ///
    /// Their first process buries whoever is orphaned, and goes with the test: by then nobody writes
    /// into its input any more.
    pub fn hold(host: &Host, directory: &Path, prepare: &str) -> Self {
        let script = format!(
            "{prepare} && exec 3<&0 && {{ cat <&3 >&2 & }} && echo ready && \
             while kill -0 $! 2>&-; do wait; done"
        );
        let mut holder = host.run(|| {
            Command::new("unshare")
                .args(["--mount", "--propagation", "private", "--uts"])
                .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script])
                .arg(directory)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "namespaces are made");
        Self { holder }
    }

    /// A program in them.
    pub fn command(&self, program: &str) -> Command {
        let namespaces = format!("/proc/{}/ns", self.holder.id());
        let mut command = Command::new("nsenter");
        command.args([
            format!("--mount={namespaces}/mnt"),
            format!("--net={namespaces}/net"),
            format!("--uts={namespaces}/uts"),
            format!("--pid={namespaces}/pid_for_children"),
        ]);
        command.arg("--").arg(program);
        command
    }

    /// Sends a signal to a process, by its number in them.
    pub fn signal(&self, pid: &str, signal: &str) {
        assert!(self.command("kill").args([signal, pid]).status().unwrap().success());
    }

    /// A file as it is seen in them.
    pub fn root(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(path)
    }

    /// Ends all that runs in them. The first process goes with its parent, all others with the first.
    pub fn end(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.end();
    }
}
