//! `exec`: further processes in a running container.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cnm::Kind;
use cnm::controller::Entropy;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::Containers;
use super::attach::{End, carry, stdcopy};
use super::detach::{self, Scanner};
use super::live::Live;
use super::{Attached, Container, ContainerId, ExecSpec, ExecStart, ExecView, Status};
use crate::network::Chance;
use engine_error::{Error, Result};
use runtime::spec::{self, ExecInput};
use runtime::user::{self, User};
use shim::client::{ShimClient, ShimError};
use shim::protocol::{Exec, Streams};

/// How long the end of a process's output waits for the news of its end.
const NEWS: Duration = Duration::from_secs(2);
/// How long a terminal's size waits for the process: Docker's.
const READY: Duration = Duration::from_secs(10);

impl Containers {
    /// Prepares a process in a running container.
    pub fn exec_create(&self, key: &str, spec: ExecSpec) -> Result<String> {
        let live = self.registry.find(key)?;
        let container = live.get();
        check_running(&container, key)?;
        self.runner.expect_start();
        if spec.command.is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        detach::keys(spec.detach_keys.as_deref())?;
        let id = cnm::SandboxId::from_random(Chance.bytes()).to_string();
        let action = format!("exec_create: {}", in_words(&spec.command));
        let view = ExecView {
            id: id.clone(),
            container: container.id.clone(),
            spec,
            running: false,
            exit_code: None,
            pid: 0,
        };
        self.execs.add(view)?;
        self.tell(&container, &action, &[("execID", &id)]);
        Ok(id)
    }

    /// Refuses a user that a running container does not know. Blocks.
    pub fn exec_user(&self, key: &str, user: &str) -> Result<()> {
        let container = self.find(key)?;
        check_running(&container, key)?;
        self.user_in(&container, user).map(drop).map_err(|error| Error::invalid(error.to_string()))
    }

    /// Runs a prepared process. A client that attaches is connected at once: what the process
    /// writes follows, or why it could not be started.
    pub async fn exec_start(&self, id: &str, start: ExecStart) -> Result<Option<Attached>> {
        let view = self.exec(id)?;
        let live = self.registry.find(&view.container)?;
        check_running(&live.get(), &view.container)?;
        let shim = live.shim().ok_or_else(|| not_running(&live.get()))?;
        detach::keys(view.spec.detach_keys.as_deref())?;
        let ended = self.execs.claim(id)?;
        if start.detach {
            self.launch(&live, &shim, &view, start).await?;
            return Ok(None);
        }
        let (client, ours) =
            UnixStream::pair().map_err(|error| Error::internal("cannot attach", error))?;
        let containers = self.strong()?;
        self.tasks.spawn(async move {
            match containers.launch(&live, &shim, &view, start).await {
                Ok(Some(stream)) => containers.accompany(ours, stream, ended, &view).await,
                Ok(None) => {}
                Err(error) => tell_refusal(ours, &error.chain(), start.raw).await,
            }
        });
        Ok(Some(Attached { stream: client, raw: start.raw }))
    }

    /// Has the shim run a process; gives back the connection to its streams.
    async fn launch(
        &self,
        live: &Live,
        shim: &ShimClient,
        view: &ExecView,
        start: ExecStart,
    ) -> Result<Option<UnixStream>> {
        let (container, id, spec) = (live.get(), &view.id, &view.spec);
        let streams = Streams {
            stdin: spec.stdin && !start.detach,
            stdout: spec.stdout && !start.detach,
            // Bare bytes of two streams could not be told apart.
            stderr: spec.stderr && !start.detach && (spec.tty || !start.raw),
        };
        let console_size = start.console_size.or(spec.console_size);
        let process = self
            .prepare_exec(&container, spec, console_size)
            .await
            .inspect_err(|_| self.exec_ended(&container, id, 126))
            .map_err(|error| Error::invalid(error.to_string()))?;
        let framed = Some(!start.raw);
        let request =
            Exec { id: id.clone(), process, tty: spec.tty, console_size, streams, framed };
        let action = format!("exec_start: {}", in_words(&spec.command));
        self.tell(&container, &action, &[("execID", id)]);
        match shim.exec(request).await {
            Ok(started) => {
                self.execs.start(id, started.pid);
                Ok(started.stream)
            }
            Err(ShimError::Start(failure)) => {
                self.exec_ended(&container, id, failure.code);
                let text = failure.error;
                let told = text.contains("exec failed");
                let begin = if told { "" } else { "OCI runtime exec failed: exec failed: " };
                Err(Error::invalid(format!("{begin}{text}")))
            }
            Err(error) => {
                self.exec_ended(&container, id, 128);
                Err(error.into())
            }
        }
    }

    /// A process made by [`Containers::exec_create`].
    pub fn exec(&self, id: &str) -> Result<ExecView> {
        self.execs.get(id)
    }

    /// The processes made by [`Containers::exec_create`] in a container that have not been forgotten.
    pub fn execs_of(&self, container: &str) -> Vec<String> {
        self.execs.of(container)
    }

    /// Sets the size of an exec'd process's terminal. A client says it as soon as it is connected, which
    /// is before the process runs: that is waited for, as long as Docker does.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let view = self.exec(id)?;
        let mut ran = self.execs.ran(id)?;
        if tokio::time::timeout(READY, ran.wait_for(|ran| *ran)).await.is_err() {
            return Err(Error::new(Kind::Internal, "timeout waiting for exec session ready"));
        }
        let live = self.registry.find(&view.container)?;
        let shim = live.shim().ok_or_else(|| not_running(&live.get()))?;
        Ok(shim.resize(rows, columns, Some(id)).await?)
    }

    /// Kills an exec'd process, if it runs.
    pub(crate) async fn kill_exec(&self, id: &str) {
        let shim = self.exec(id).and_then(|view| Ok(self.registry.find(&view.container)?.shim()));
        let Ok(Some(shim)) = shim else { return };
        if let Err(error) = shim.kill(libc::SIGKILL, Some(id)).await {
            tracing::debug!(%error, "cannot kill an exec");
        }
    }

    /// Notes the end of an exec'd process.
    pub(crate) fn exec_ended(&self, container: &Container, id: &str, code: i32) {
        if self.execs.end(id, code) {
            self.tell(container, "exec_die", &[("execID", id), ("exitCode", &code.to_string())]);
        }
    }

    /// The processes of a container that ended have ended.
    pub(crate) fn end_execs(&self, container: &ContainerId) {
        self.execs.end_all(container);
    }

    /// Forgets the processes of a container.
    pub(crate) fn forget_execs(&self, container: &ContainerId) {
        self.execs.forget(container);
    }

    /// Carries the streams of a process. The output ends only when the end of the process is known:
    /// clients ask for the exit code next.
    async fn accompany(
        &self,
        client: UnixStream,
        shim: UnixStream,
        mut ended: watch::Receiver<bool>,
        view: &ExecView,
    ) {
        let keys = (view.spec.tty && view.spec.stdin)
            .then(|| detach::keys(view.spec.detach_keys.as_deref()));
        let scanner = keys.and_then(Result::ok).map(Scanner::new);
        let news = async move {
            let _ = tokio::time::timeout(NEWS, ended.wait_for(|ended| *ended)).await;
        };
        match carry(client, shim, scanner, news).await {
            Ok(End::Closed) => {}
            Ok(End::Detached) => {
                if let Ok(container) = self.find(&view.container) {
                    self.tell(&container, "exec_detach", &[("execID", &view.id)]);
                }
            }
            Err(error) => tracing::debug!(%error, "a client left an exec"),
        }
    }

    /// What the runtime is to be told of a process, found out on a thread that may be blocked.
    async fn prepare_exec(
        &self,
        container: &Arc<Container>,
        exec: &ExecSpec,
        console_size: Option<(u16, u16)>,
    ) -> Result<serde_json::Value> {
        let (containers, container, exec) = (self.strong()?, container.clone(), exec.clone());
        let prepare = move || containers.process(&container, &exec, console_size);
        let fault = |error| Error::internal("cannot prepare a process", error);
        tokio::task::spawn_blocking(prepare).await.map_err(fault)?
    }

    fn process(
        &self,
        container: &Container,
        exec: &ExecSpec,
        console_size: Option<(u16, u16)>,
    ) -> Result<serde_json::Value> {
        let bundle = spec::load(&self.settings.shim_dir(&container.id))?;
        let missing = || Error::new(Kind::Internal, "the container's bundle has no process");
        let init = bundle.process().as_ref().ok_or_else(missing)?;
        let user = match exec.user.as_str() {
            "" => None,
            name => Some(self.user_in(container, name)?),
        };
        if !exec.working_dir.is_empty() {
            spec::check_directory(&exec.working_dir)?;
        }
        // It may have been unloaded since the start.
        if let Some(name) = init.apparmor_profile() {
            self.runner.host.apparmor.profile(Some(name), false)?;
        }
        let input = ExecInput {
            args: exec.command.clone(),
            env: [self.link_environment_of_exec(container), exec.env.clone()].concat(),
            cwd: exec.working_dir.clone(),
            user,
            tty: exec.tty,
            console_size,
            privileged: exec.privileged,
        };
        serde_json::to_value(spec::exec(init, &input, &self.runner.host))
            .map_err(|error| Error::internal("cannot encode a process", error))
    }

    /// A user by the files of a running container, which may be on anything.
    fn user_in(&self, container: &Container, name: &str) -> Result<User> {
        let rootfs = PathBuf::from(format!("/proc/{}/root", container.state.pid));
        let (wanted, groups) = (name.to_owned(), container.spec.groups.clone());
        let found = self.file_systems.ask(&rootfs, move |rootfs| {
            user::resolve(rootfs, &wanted, &groups).map_err(Error::from)
        });
        found.map_err(|error| {
            let text = format!("cannot look up user {name} in container {}", container.name);
            Error::new(error.kind(), format!("{text}: {error}"))
        })?
    }
}

/// A command in the action of an event: a blank follows the program, arguments or not.
fn in_words(command: &[String]) -> String {
    let (program, arguments) = command.split_first().map_or(("", &[][..]), |(p, a)| (p, a));
    format!("{program} {}", arguments.join(" "))
}

/// Tells an attached client, as output, why its process could not be started.
async fn tell_refusal(mut client: UnixStream, text: &str, raw: bool) {
    let text = format!("{text}\r\n").into_bytes();
    let text = if raw { text } else { stdcopy(1, &text) };
    if let Err(error) = client.write_all(&text).await {
        tracing::debug!(%error, "a client left an exec");
    }
}

/// Refuses an exec in a container that does not run, which the client calls as it does.
fn check_running(container: &Container, key: &str) -> Result<()> {
    match container.state.status {
        Status::Running => Ok(()),
        Status::Paused => Err(Error::conflict(format!(
            "Container {key} is paused, unpause the container before exec"
        ))),
        Status::Restarting => Err(Error::conflict(format!(
            "Container {} is restarting, wait until the container is running",
            container.id
        ))),
        _ => Err(not_running(container)),
    }
}

fn not_running(container: &Container) -> Error {
    Error::conflict(format!("container {} is not running", container.id))
}
