//! One build: which stages it needs, in which order they run, and what comes of the last.
//!
//! Stages that do not need each other run at the same time. What they say is told as if they ran one
//! after the other: each says it into a queue of its own, which is emptied when it is its turn. A
//! free thread takes the first stage that can run, so the one whose turn it is always runs: no stage
//! waits for ever with a full queue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::context::{self, Context};
use super::output::{Failure, Line, Output, cancelled};
use super::stage::{Outcome, Stage};
use super::{Builds, Request, Source, Workshop, remote, squash};
use dockerfile::words::Lexer;
use dockerfile::{Args, Dockerfile, Instruction};
use engine_error::{Error, Result};
use image::{Image, Making, Platform};

/// How many stages run at the same time.
const AT_A_TIME: usize = 4;
/// More stages are no Dockerfile.
const MOST_STAGES: usize = 1000;
/// More steps neither.
const MOST_STEPS: usize = 10_000;

/// A build under way, as its stages see it.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) builds: &'a Builds,
    pub(super) request: Request,
    pub(super) context: Context,
    pub(super) workshop: Workshop,
    pub(super) making: Making,
    /// The platform that it is for.
    pub(super) platform: Platform,
    /// What `FROM` comes to, by stage.
    pub(super) bases: Vec<String>,
    /// Build arguments before any stage.
    pub(super) args: Args,
    /// The stages that are needed.
    needed: BTreeSet<usize>,
    /// How many steps there are to be told.
    pub(super) total: usize,
    /// Whether steps may lock each other out: then those with caches take turns, since one that waits to
    /// be told would keep what an earlier one waits for.
    pub(super) locks: bool,
    /// As whom it keeps images from being removed.
    users: Mutex<BTreeSet<String>>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    done: BTreeMap<usize, Outcome>,
    /// The first failure: what ends because of it is none.
    failed: Option<Failure>,
}

/// Builds what is asked for. Blocks.
pub(super) fn build(
    builds: &Builds,
    request: Request,
    source: Source,
    lines: mpsc::Sender<Line>,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let output = Output::new(lines, request.quiet, cancel, &builds.tasks);
    let workshop = builds.workshop()?;
    let place = workshop.directory()?;
    let context = match source {
        Source::Archive(archive) => context::of_archive(archive, &place, &request.dockerfile),
        Source::Remote(url) => remote::context(builds, &url, &place, &request.dockerfile, &output),
    };
    // What is cut short then is no mistake of the context.
    output.check()?;
    let context = context?;
    let job = Job::new(builds, request, context, workshop)?;
    let outcome = job.run(&output)?;
    let built = outcome
        .image
        .ok_or_else(|| Error::invalid("No image was generated. Is your Dockerfile empty?"))?;
    job.warn_unused(&outcome.declared, &output)?;
    let image = if job.request.squash {
        let image = squash::squash(&job, &built, &outcome.base)?;
        // The last that is told is the one that is tagged.
        output.send(Line::Id(image.id.to_string()))?;
        image
    } else {
        built
    };
    job.finish(&image, &output)
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        let users = std::mem::take(self.users.get_mut().unwrap_or_else(PoisonError::into_inner));
        for user in &users {
            self.builds.images.release(user);
        }
    }
}

impl<'a> Job<'a> {
    fn new(
        builds: &'a Builds,
        request: Request,
        mut context: Context,
        workshop: Workshop,
    ) -> Result<Self> {
        let file = &mut context.file;
        let steps: usize = file.stages.iter().map(|stage| stage.steps.len()).sum();
        if file.stages.len() > MOST_STAGES || steps > MOST_STEPS {
            return Err(Error::invalid(format!(
                "the Dockerfile has more than {MOST_STAGES} stages or {MOST_STEPS} steps"
            )));
        }
        let target = file.target(&request.target)?;
        file.stages.truncate(target + 1);
        label(file, &request);
        let platform = request.platform.clone().unwrap_or_else(Platform::host);
        let mut args = Args::new(request.args.clone(), known(&platform));
        let bases = bases(file, &mut args)?;
        let needed = file.needed(target, &bases);
        let locks = needed.iter().any(|stage| locks(&file.stages[*stage]));
        let steps = needed.iter().map(|stage| 1 + file.stages[*stage].steps.len());
        let total = file.arguments.len() + steps.sum::<usize>();
        Ok(Self {
            making: builds.images.making(),
            builds,
            request,
            context,
            workshop,
            platform,
            bases,
            args,
            needed,
            total,
            locks,
            users: Mutex::default(),
            progress: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Whether an image may be taken for a result: of what the user named for that, if anything.
    pub(super) fn allows(&self, image: &Image) -> bool {
        let images = &self.builds.images;
        let made_of = |name: &String| {
            let named = images.find(name).ok();
            let parent = |image: &Arc<Image>| images.find(&image.parent?.to_string()).ok();
            std::iter::successors(named, parent).any(|ancestor| ancestor.id == image.id)
        };
        let sources = &self.request.cache_from;
        sources.is_empty() || sources.iter().any(made_of)
    }

    /// Runs the stages, and tells what they say in order.
    fn run(&self, output: &Output) -> Result<Outcome, Failure> {
        for warning in &self.context.file.warnings {
            output.text(format!("\x1b[91m[WARNING]: {warning}\n\x1b[0m"))?;
        }
        if !self.context.file.warnings.is_empty() {
            let text = "Empty continuation lines will become errors in a future release.";
            output.text(format!("\x1b[91m[WARNING]: {text}\n\x1b[0m"))?;
        }
        let mut number = 0;
        for step in &self.context.file.arguments {
            number += 1;
            output.text(format!("Step {number}/{} : {}", self.total, step.source))?;
            output.text("\n")?;
        }
        let of_stages = output.of_stages();
        let mut stages = Vec::new();
        let mut queues = Vec::new();
        for &at in &self.needed {
            let (output, queue) = of_stages.of_stage();
            stages.push(Stage::new(self, at, number, output, self.args.clone()));
            queues.push(queue);
            number += 1 + self.context.file.stages[at].steps.len();
        }
        let stages = Mutex::new(stages);
        std::thread::scope(|scope| {
            for _ in 0..AT_A_TIME.min(self.needed.len()) {
                scope.spawn(|| self.work(&stages));
            }
            for mut queue in queues {
                while let Some(line) = queue.blocking_recv() {
                    // Whoever does not listen any more has the build cancelled.
                    let _ = output.send(line);
                }
            }
        });
        let mut progress = self.progress();
        output.check()?;
        if let Some(failure) = progress.failed.take() {
            return Err(failure);
        }
        let last = self.needed.last().copied().unwrap_or_default();
        progress.done.remove(&last).ok_or_else(|| cancelled().into())
    }

    /// Runs stages until none is left.
    fn work(&self, stages: &Mutex<Vec<Stage<'_>>>) {
        // What a step does may begin tasks.
        let _entered = self.builds.tasks.enter();
        while let Some(stage) = self.next(stages) {
            let (at, output) = (stage.at(), stage.output().clone());
            let outcome = stage.run();
            let mut progress = self.progress();
            match outcome {
                Ok(outcome) => drop(progress.done.insert(at, outcome)),
                Err(failure) => {
                    progress.failed.get_or_insert(failure);
                    output.cancel().cancel();
                }
            }
            self.changed.notify_all();
        }
    }

    /// The first stage that can run, as soon as there is one.
    fn next<'s>(&self, stages: &Mutex<Vec<Stage<'s>>>) -> Option<Stage<'s>> {
        let mut progress = self.progress();
        loop {
            let mut left = stages.lock().unwrap_or_else(PoisonError::into_inner);
            if left.is_empty() || progress.failed.is_some() {
                // Their queues end with them.
                left.clear();
                return None;
            }
            let ready = |stage: &Stage<'_>| {
                let needs = self.context.file.needs(stage.at(), &self.bases);
                needs.iter().all(|other| progress.done.contains_key(other))
            };
            if let Some(at) = left.iter().position(ready) {
                return Some(left.remove(at));
            }
            drop(left);
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What came of an earlier stage. That it is needed may not have been known: an image that a stage
    /// begins with may have triggers. Then it is waited for, or built now.
    pub(super) fn outcome(&self, wanted: usize, asking: &Stage<'_>) -> Result<Outcome> {
        if !self.needed.contains(&wanted) {
            self.wait_for_turn(asking)?;
            for stage in self.context.file.needed(wanted, &self.bases) {
                let is_done = self.progress().done.contains_key(&stage);
                if is_done {
                    continue;
                }
                let outcome = asking.beside(stage)?.run().map_err(|failure| failure.error)?;
                self.progress().done.insert(stage, outcome);
            }
        }
        let done = self.wait_until(asking, |progress| progress.done.contains_key(&wanted))?;
        done.done.get(&wanted).cloned().ok_or_else(cancelled)
    }

    /// Waits until a stage is the next to be told.
    pub(super) fn wait_for_turn(&self, stage: &Stage<'_>) -> Result<()> {
        let before = self.needed.range(..stage.turn());
        let is_done = |progress: &Progress| before.clone().all(|at| progress.done.contains_key(at));
        self.wait_until(stage, is_done).map(drop)
    }

    /// Whatever stage ends, or fails, is told to those who wait.
    fn wait_until(
        &self,
        stage: &Stage<'_>,
        is_so: impl Fn(&Progress) -> bool,
    ) -> Result<MutexGuard<'_, Progress>> {
        let mut progress = self.progress();
        while !is_so(&progress) {
            stage.output().check()?;
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(progress)
    }

    /// Finds an image, which stays until the build is over, or until there is another one for the same
    /// purpose.
    pub(super) fn hold(&self, purpose: &str, image: &str) -> Result<Arc<Image>> {
        let user = format!("build:{}:{purpose}", self.workshop.path.display());
        let held = self.builds.images.hold(&user, image)?;
        self.users.lock().unwrap_or_else(PoisonError::into_inner).insert(user);
        Ok(held)
    }

    fn warn_unused(&self, declared: &BTreeSet<String>, output: &Output) -> Result<()> {
        let mut declared = declared.clone();
        for stage in &self.context.file.stages {
            for step in &stage.steps {
                if let Instruction::Arg(arguments) = &step.instruction {
                    declared.extend(arguments.iter().map(|(name, _)| name.clone()));
                }
            }
        }
        let unused = self.args.unused(&declared);
        if unused.is_empty() {
            return Ok(());
        }
        let unused = unused.join(" ");
        output.text(format!("[Warning] One or more build-args [{unused}] were not consumed\n"))
    }

    /// Names the image and tells that it is there.
    fn finish(&self, image: &Arc<Image>, output: &Output) -> Result<(), Failure> {
        let builds = self.builds;
        if self.request.quiet {
            output.send(Line::Text(format!("{}\n", image.id)))?;
        } else {
            output.text(format!("Successfully built {}\n", image.id.short()))?;
        }
        for tag in &self.request.tags {
            let name = tag.to_string();
            builds.images.tag(&image.id.to_string(), &name)?;
            let attributes = [("name".to_owned(), name.clone())].into();
            builds.events.publish("image", "tag", image.id.to_string(), attributes);
            output.text(format!("Successfully tagged {name}\n"))?;
        }
        Ok(())
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a stage has a cache that it does not share.
fn locks(stage: &dockerfile::Stage) -> bool {
    let mounts = stage.steps.iter().filter_map(|step| match &step.instruction {
        Instruction::Run(run) => Some(&run.mounts),
        _ => None,
    });
    let mut options = mounts.flatten().flat_map(|mount| mount.split(','));
    options.any(|option| option.strip_prefix("sharing=").is_some_and(|how| how != "shared"))
}

/// Labels of the request are further steps of the last stage.
fn label(file: &mut Dockerfile, request: &Request) {
    let Some(stage) = file.stages.last_mut() else { return };
    for (name, value) in &request.labels {
        // What a user gives has no variables in it.
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\"'\"'"));
        stage.steps.push(dockerfile::Step {
            line: 0,
            source: format!("LABEL {name}={value}"),
            instruction: Instruction::Label(vec![(quoted(name), quoted(value))]),
        });
    }
}

/// What a builder tells of itself to those who ask by `ARG`.
fn known(target: &Platform) -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    for (prefix, platform) in [("TARGET", target), ("BUILD", &Platform::host())] {
        let Platform { os, architecture, variant } = platform;
        let whole = [os, architecture, variant].map(String::as_str);
        let whole: Vec<_> = whole.into_iter().filter(|part| !part.is_empty()).collect();
        known.insert(format!("{prefix}PLATFORM"), whole.join("/"));
        known.insert(format!("{prefix}OS"), os.clone());
        known.insert(format!("{prefix}ARCH"), architecture.clone());
        known.insert(format!("{prefix}VARIANT"), variant.clone());
    }
    known
}

/// Takes in `ARG` before the first stage, and says what each `FROM` comes to.
fn bases(file: &Dockerfile, args: &mut Args) -> Result<Vec<String>> {
    let lexer = Lexer::new(file.escape);
    for step in &file.arguments {
        let variables = args.clone();
        let expanded = step.instruction.expand(lexer, &|name| variables.global_value(name))?;
        if let Instruction::Arg(list) = expanded {
            for (name, default) in list {
                args.declare_global(&name, default);
            }
        }
    }
    let base = |stage: &dockerfile::Stage| lexer.word(&stage.base, &|name| args.global_value(name));
    file.stages.iter().map(base).collect()
}
