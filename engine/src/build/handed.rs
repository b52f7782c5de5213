//! `RUN --mount=type=secret` and `type=ssh`: what a client has handed over, as one step finds it.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::sealed::{Content, seal};
use super::sessions::{Lines, Secret};
use super::stage::Stage;
use super::wanted::Wanted;
use crate::container::lent::{Lent, LentMount};
use engine_error::{Error, Result};

/// How many connections to an agent a step has at the same time; further ones wait.
const AT_A_TIME: usize = 16;
/// How long a client may take to have a line to its agent ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// The agents of a step, which are reached until this is dropped.
pub(super) type Agents = Vec<AbortOnDropHandle<()>>;

/// What is to be sealed, where it goes, and the agent that a socket leads to.
#[derive(Default)]
struct Parcel {
    contents: Vec<Content>,
    targets: Vec<(String, Option<Lines>)>,
    env: Vec<String>,
}

/// What of a step's mounts a client has handed over. What is missing and not required is left out.
pub(super) fn lend(stage: &Stage<'_>, wanted: &[Wanted]) -> Result<(Lent, Agents)> {
    let mut parcel = Parcel::default();
    let builds = stage.job.builds;
    let build = stage.job.request.id.as_str();
    // Whether there is an agent or not, as with `BuildKit`.
    if let Some(first) = wanted.iter().find(|wanted| wanted.kind == "ssh") {
        parcel.env.push(format!("SSH_AUTH_SOCK={}", first.target));
    }
    for wanted in wanted {
        match wanted.kind.as_str() {
            "secret" => match builds.sessions.secret(build, &wanted.id) {
                Some(secret) => parcel.secret(wanted, &secret)?,
                None if wanted.required => {
                    return Err(Error::invalid(format!("secret {}: not found", wanted.id)));
                }
                None => {}
            },
            "ssh" => match builds.sessions.agent(build, &wanted.id) {
                Some(lines) => parcel.agent(wanted, lines),
                None if wanted.required => {
                    return Err(Error::invalid(format!("unset ssh forward key {}", wanted.id)));
                }
                None => {}
            },
            _ => {}
        }
    }
    let Parcel { mut contents, targets, env } = parcel;
    let mut lent = Lent { mounts: Vec::new(), env };
    let mut agents = Vec::new();
    if contents.is_empty() {
        return Ok((lent, agents));
    }
    let failed = |error| Error::internal("cannot show a step what its client handed over", error);
    for content in &mut contents {
        content.owner = stage.outside(content.owner).map_err(failed)?;
    }
    let sealed = seal(&stage.job.workshop.directory()?, contents).map_err(failed)?;
    for (sealed, (target, lines)) in sealed.into_iter().zip(targets) {
        if let Some((listener, lines)) = sealed.listener.zip(lines) {
            listener.set_nonblocking(true).map_err(failed)?;
            let serving = builds.tasks.spawn(serve(listener, lines));
            agents.push(AbortOnDropHandle::new(serving));
        }
        lent.mounts.push(LentMount { target, readonly: true, mount: sealed.mount });
    }
    Ok((lent, agents))
}

impl Parcel {
    fn secret(&mut self, wanted: &Wanted, secret: &Secret) -> Result<()> {
        if let Some(name) = &wanted.env {
            let text = std::str::from_utf8(secret.bytes()).ok().filter(|text| !text.contains('\0'));
            let text = text.ok_or_else(|| {
                Error::invalid(format!("secret {}: no variable can be what it is", wanted.id))
            })?;
            self.env.push(format!("{name}={text}"));
        }
        if !wanted.target.is_empty() {
            let file = Some(secret.clone());
            let mode = wanted.mode.unwrap_or(0o400);
            self.contents.push(Content { file, owner: wanted.owner, mode });
            self.targets.push((wanted.target.clone(), None));
        }
        Ok(())
    }

    fn agent(&mut self, wanted: &Wanted, lines: Lines) {
        let mode = wanted.mode.unwrap_or(0o600);
        self.contents.push(Content { file: None, owner: wanted.owner, mode });
        self.targets.push((wanted.target.clone(), Some(lines)));
    }
}

/// Leads whoever connects to a line of the client's, one line each.
async fn serve(listener: UnixListener, lines: Lines) {
    let Ok(listener) = tokio::net::UnixListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        while connections.len() >= AT_A_TIME {
            connections.join_next().await;
        }
        connections.spawn(carry(connection, Lines::clone(&lines)));
    }
}

async fn carry(mut connection: UnixStream, lines: Lines) {
    let next = async { lines.lock().await.recv().await };
    // Whoever asked sees that nobody answers.
    let Ok(Some(mut line)) = tokio::time::timeout(PATIENCE, next).await else { return };
    let _ = tokio::io::copy_bidirectional(&mut connection, &mut line).await;
}
