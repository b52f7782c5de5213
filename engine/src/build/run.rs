//! `RUN`: a container of the image so far, whose changes become a layer.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::mounts::Attached;
use super::output::{Failure, Line, Output, cancelled};
use super::places::Places;
use super::stage::Stage;
use super::sweep::OF_BUILD;
use super::{documents, mounts};
use crate::container::lent::Lent;
use crate::container::spec::Spec;
use crate::container::{Attach, Container, NetworkMode, Remove, WaitCondition, rootfs_dir};
use dockerfile::Run;
use dockerfile::config;
use engine_error::{Error, Kind, Result};
use image::Keep;
use image::rootfs::RootFs;

/// The most that is told as one line: output without line feeds is told in pieces.
const LONGEST: usize = 16 << 10;

impl Stage<'_> {
    pub(super) fn run_step(&mut self, run: &Run) -> Result<(), Failure> {
        if run.security.as_deref().is_some_and(|mode| mode != "sandbox") {
            return Err(Error::new(
                Kind::Forbidden,
                "RUN --security=insecure is not allowed: steps of a build are never privileged",
            )
            .into());
        }
        let shell = config::shell(&self.config);
        let words = documents::words(run, &shell);
        let visible = self.args.visible(&config::environment(&self.config));
        let told = [self.args.prefix(&visible), words.clone()].concat();
        let created_by = told.join(" ");
        let mounts = mounts::read(self, run)?;
        // Word by word: other words may be the same text.
        let mut contents: Vec<_> = told.iter().map(|word| format!("word {word}")).collect();
        contents.extend(mounts.contents());
        contents.extend(run.network.iter().map(|network| format!("network {network}")));
        let key = self.key(&created_by, &contents);
        if self.is_cached(&key)? {
            return Ok(());
        }
        let Some(image) = self.image.clone() else {
            let program = words.first().cloned().unwrap_or_default();
            return Err(Error::invalid(format!(
                "failed to create task for container: exec: \"{program}\": stat {program}: no such \
                 file or directory: nothing is in the image yet"
            ))
            .into());
        };
        let mut spec = self.spec(run, &words, &visible)?;
        spec.image = image.id.to_string();
        let claim = mounts.claim(self)?;
        let attached = mounts.attach(self, &claim)?;
        let places = attached.places(self)?;
        let Attached { mounts, lent, agents } = attached;
        spec.mounts.extend(mounts);
        let layer = self.run_container(spec, lent, &places)?;
        // The step is over: nobody reaches its agents, and others may have its caches.
        drop((agents, claim));
        Ok(self.commit(&created_by, Some(layer), &key)?)
    }

    /// What is run.
    fn spec(
        &self,
        run: &Run,
        words: &[String],
        visible: &BTreeMap<String, String>,
    ) -> Result<Spec> {
        let request = &self.job.request;
        let arguments = visible.iter().map(|(name, value)| format!("{name}={value}"));
        let env = config::environment(&self.config).into_iter().chain(arguments).collect();
        let network_mode = match run.network.as_deref() {
            None | Some("" | "default") => request.network.clone(),
            Some("none") => NetworkMode::None,
            Some("host") => NetworkMode::Host,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "unknown network mode in RUN --network={other}"
                )));
            }
        };
        let mode = network_mode.to_string();
        Ok(Spec {
            entrypoint: Some(Vec::new()),
            command: Some(words.to_vec()),
            env,
            healthcheck: Some(json!({"Test": ["NONE"]})),
            wire_config: json!({"Cmd": words, "Image": ""}).into(),
            wire_host_config: json!({"NetworkMode": mode}).into(),
            network_mode,
            extra_hosts: request.extra_hosts.clone(),
            shm_size: request.shm_size,
            ulimits: request.ulimits.clone(),
            resources: request.resources.clone(),
            cgroup_parent: request.cgroup_parent.clone(),
            security_options: request.security_options.clone(),
            log_driver: "none".to_owned(),
            attach: (false, true, true),
            annotations: [(OF_BUILD.to_owned(), self.job.workshop.path.display().to_string())]
                .into(),
            ..Spec::default()
        })
    }

    /// Runs a container to its end and makes a layer of what it changed.
    fn run_container(
        &self,
        spec: Spec,
        lent: Lent,
        places: &Places,
    ) -> Result<image::NewLayer, Failure> {
        let containers = &self.job.builds.containers;
        let words = spec.command.clone().unwrap_or_default().join(" ");
        let id = containers.create(None, spec, None)?.id;
        let _loan = containers.lend(&id, lent);
        let ran = self.watch(&id, &words).and_then(|()| {
            let container = containers.find(&id)?;
            self.layer(&container, places).map_err(Failure::from)
        });
        let request = &self.job.request;
        let cancelled = self.output.check().is_err();
        if request.force_remove || cancelled || (request.remove && ran.is_ok()) {
            let how = Remove { force: true, volumes: true, link: false };
            let removed = self.job.builds.tasks.block_on(containers.remove(&id, how));
            let short = id.short();
            match (&ran, removed) {
                (Ok(_), Err(error)) => return Err(error.into()),
                // Why the step failed is told.
                (Err(_), Err(error)) => {
                    tracing::warn!(container = short, error = error.chain(), "it stays");
                    return ran;
                }
                _ => {}
            }
            if !cancelled {
                self.output.text(format!(" ---> Removed intermediate container {short}\n"))?;
            }
        } else {
            self.job.builds.keep(&id);
        }
        ran
    }

    fn layer(&self, container: &Container, places: &Places) -> Result<image::NewLayer> {
        let builds = self.job.builds;
        let dir = rootfs_dir(&container.paths.dir);
        let root = RootFs::again(&builds.images, &container.graph_data, &dir)?;
        places.forget(&root)?;
        let keep = if self.job.request.remove { Keep::Move } else { Keep::Copy };
        self.job.making.layer(&root, keep)
    }

    /// Starts a container, tells what it says, and waits for its end.
    fn watch(&self, id: &str, words: &str) -> Result<(), Failure> {
        let builds = self.job.builds;
        self.output.text(format!(" ---> Running in {}\n", &id[..12]))?;
        let ended = builds.containers.wait(id, WaitCondition::NextExit)?;
        let both = Attach { stdout: true, stderr: true, stream: true, ..Attach::default() };
        let (containers, output) = (Arc::clone(&builds.containers), &self.output);
        let waited = builds.tasks.block_on(async {
            let attached = containers.attach(id, both).await?;
            containers.start(id).await?;
            tokio::select! {
                () = output.cancel().cancelled() => Err(cancelled()),
                waited = async {
                    tell(attached.stream, output).await?;
                    Ok(ended.await)
                } => waited,
            }
        })?;
        if waited.code == 0 && waited.error.as_ref().is_none_or(String::is_empty) {
            return Ok(());
        }
        let message = format!("The command '{words}' returned a non-zero code: {}", waited.code);
        let message = match waited.error.filter(|error| !error.is_empty()) {
            Some(error) => format!("{message}: {error}"),
            None => message,
        };
        Err(Failure { error: Error::invalid(message), code: Some(waited.code) })
    }
}

/// Tells what a container says, frame by frame, to the end.
async fn tell(mut stream: UnixStream, output: &Output) -> Result<()> {
    let failed = |error| Error::internal("cannot read what a step of a build says", error);
    let (lines, quiet) = (output.lines(), output.is_quiet());
    let mut buffer = vec![0; LONGEST];
    let mut head = [0; 8];
    loop {
        match stream.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        let mut left = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        while left > 0 {
            let piece = left.min(buffer.len());
            stream.read_exact(&mut buffer[..piece]).await.map_err(failed)?;
            left -= piece;
            let text = String::from_utf8_lossy(&buffer[..piece]);
            // As the classic builder marks what is said on standard error.
            let text =
                if head[0] == 2 { format!("\x1b[91m{text}\x1b[0m") } else { text.into_owned() };
            if !quiet && lines.send(Line::Text(text)).await.is_err() {
                return Err(cancelled());
            }
        }
    }
}
