//! What a stage or a copy begins with: an earlier stage, an image that is here, or one to be pulled.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::job::Job;
use super::output::{Line, Output, cancelled};
use super::stage::Stage;
use dockerfile::config;
use engine_error::{Error, Kind, Result};
use image::{Image, Platform, PullRequest, Reference};

/// Begins a stage.
pub(super) fn begin(stage: &mut Stage<'_>) -> Result<()> {
    let (job, at) = (stage.job, stage.at());
    let name = job.bases[at].clone();
    if name.is_empty() {
        let written = &job.context.file.stages[at].base;
        return Err(Error::invalid(format!("base name ({written}) should not be blank")));
    }
    let platform = platform(stage)?;
    match job.context.file.by_name(&name, at) {
        Some(earlier) => {
            if let Some(image) = job.outcome(earlier, stage)?.image {
                stage.begin_with(&image)?;
            }
        }
        None if name == "scratch" => {}
        None => {
            let image = image(job, &name, platform.as_ref(), &stage.output)?;
            stage.begin_with(&image)?;
        }
    }
    config::default_path(&mut stage.config);
    Ok(())
}

/// The platform of a stage: its own or that of the build.
fn platform(stage: &Stage<'_>) -> Result<Option<Platform>> {
    let job = stage.job;
    let written = job.context.file.stages[stage.at()].platform.as_deref();
    let Some(written) = written else { return Ok(job.request.platform.clone()) };
    let lexer = dockerfile::words::Lexer::new(job.context.file.escape);
    let text = lexer.word(written, &|name| stage.args.global_value(name))?;
    if text.is_empty() {
        return Ok(job.request.platform.clone());
    }
    text.parse().map(Some)
}

/// An image by its name, pulled if it is not here or if that is wanted.
pub(super) fn image(
    job: &Job<'_>,
    name: &str,
    platform: Option<&Platform>,
    output: &Output,
) -> Result<Arc<Image>> {
    let images = &job.builds.images;
    let here = images.find(name);
    match here {
        Ok(image) if !job.request.pull && fits(&image, platform) => return Ok(image),
        Err(error) if error.kind() != Kind::NotFound => return Err(error),
        _ => {}
    }
    let reference = Reference::parse(name)?.or_latest();
    let request = PullRequest {
        reference: reference.to_string(),
        platform: platform.cloned(),
        auth: job.request.auth(&reference),
        all_tags: false,
    };
    pull(job, request, output)
}

fn fits(image: &Image, platform: Option<&Platform>) -> bool {
    platform.is_none_or(|wanted| {
        let own = image.platform();
        let variant = wanted.variant.is_empty() || own.variant == wanted.variant;
        (&own.os, &own.architecture) == (&wanted.os, &wanted.architecture) && variant
    })
}

fn pull(job: &Job<'_>, request: PullRequest, output: &Output) -> Result<Arc<Image>> {
    let images = job.builds.images.clone();
    let (sender, mut told) = mpsc::channel(64);
    let (lines, quiet, cancel) = (output.lines(), output.is_quiet(), output.cancel().clone());
    job.builds.tasks.block_on(async move {
        let mut pulling = std::pin::pin!(images.pull(request, sender));
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Err(cancelled()),
                pulled = &mut pulling => return Ok(pulled?.image),
                Some(progress) = told.recv() => {
                    if quiet {
                        continue;
                    }
                    let sent = tokio::select! {
                        () = cancel.cancelled() => return Err(cancelled()),
                        sent = lines.send(Line::Progress(progress)) => sent,
                    };
                    if sent.is_err() {
                        return Err(cancelled());
                    }
                }
            }
        }
    })
}
