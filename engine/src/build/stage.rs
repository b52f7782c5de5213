//! One stage: its image, its configuration, and its steps one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::commit::{self, Ground};
use super::job::Job;
use super::output::{Failure, Line, Output};
use super::{base, transfer};
use dockerfile::config::{self, Applied};
use dockerfile::key::Key;
use dockerfile::words::Lexer;
use dockerfile::{Args, Instruction, Step};
use engine_error::{Error, Result};
use image::{Digest, Image, NewLayer};

/// How many stages are built in the midst of each other: each has an image with a trigger that needs the
/// next.
const DEEPEST: usize = 16;

/// A stage that runs.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) job: &'a Job<'a>,
    at: usize,
    /// The stage whose turn it is when this one is told: itself, but for one beside another.
    turn: usize,
    /// How many stages it is beside.
    depth: usize,
    /// How many steps come before it.
    before: usize,
    pub(super) output: Output,
    pub(super) args: Args,
    /// What it has come to so far; nothing on `scratch`.
    pub(super) image: Option<Arc<Image>>,
    /// The layers that it began with.
    base: Vec<Digest>,
    /// The configuration of the image as a whole, and the part of it that steps change.
    document: Value,
    pub(super) config: Value,
    author: String,
    command_is_set: bool,
}

/// What a stage has come to.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// Its image; nothing if it is `FROM scratch` and no more.
    pub(super) image: Option<Arc<Image>>,
    /// The layers that it began with.
    pub(super) base: Vec<Digest>,
    /// The build arguments that were declared.
    pub(super) declared: BTreeSet<String>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        job: &'a Job<'a>,
        at: usize,
        before: usize,
        output: Output,
        args: Args,
    ) -> Self {
        let document = commit::nothing(&job.platform);
        let config = document["config"].clone();
        Self {
            job,
            at,
            turn: at,
            depth: 0,
            before,
            output,
            args,
            image: None,
            base: Vec::new(),
            document,
            config,
            author: String::new(),
            command_is_set: false,
        }
    }

    /// A stage that this one turns out to need, told in the midst of it.
    pub(super) fn beside(&self, at: usize) -> Result<Self> {
        if self.depth >= DEEPEST {
            return Err(Error::invalid(
                "triggers of images need stages whose images have triggers",
            ));
        }
        let args = self.job.args.clone();
        let new = Self::new(self.job, at, 0, self.output.clone(), args);
        Ok(Self { turn: self.turn, depth: self.depth + 1, ..new })
    }

    /// Its number.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn turn(&self) -> usize {
        self.turn
    }

    pub(super) fn output(&self) -> &Output {
        &self.output
    }

    /// Runs all of it.
    pub(super) fn run(mut self) -> Result<Outcome, Failure> {
        self.steps()?;
        let (image, base, declared) = (self.image, self.base, self.args.names());
        Ok(Outcome { image, base, declared })
    }

    fn steps(&mut self) -> Result<(), Failure> {
        let stage = &self.job.context.file.stages[self.at];
        let mut number = self.before + 1;
        self.tell_step(number, &stage.source)?;
        base::begin(self)?;
        self.triggers()?;
        self.tell_image()?;
        for step in &stage.steps {
            number += 1;
            self.output.check()?;
            self.tell_step(number, &step.source)?;
            self.step(step)?;
            self.tell_image()?;
        }
        if let Some(image) = &self.image {
            self.output.send(Line::Id(image.id.to_string()))?;
        }
        Ok(())
    }

    fn tell_step(&self, number: usize, source: &str) -> Result<()> {
        let first = source.lines().next().unwrap_or_default();
        self.output.text(format!("Step {number}/{} : {first}", self.job.total))?;
        self.output.text("\n")
    }

    fn tell_image(&self) -> Result<()> {
        let id = self.image.as_ref().map(|image| image.id.short()).unwrap_or_default();
        self.output.text(format!(" ---> {id}\n"))
    }

    /// Runs what the image defers to those that are made of it.
    fn triggers(&mut self) -> Result<(), Failure> {
        let triggers = config::strings(&self.config["OnBuild"]);
        config::remove(&mut self.config, "OnBuild");
        if triggers.is_empty() {
            return Ok(());
        }
        let ending = if triggers.len() == 1 { "" } else { "s" };
        self.output.text(format!("# Executing {} build trigger{ending}\n", triggers.len()))?;
        for trigger in triggers {
            let step = dockerfile::parse_trigger(&trigger, self.job.context.file.escape)?;
            self.step(&step)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), Failure> {
        let lexer = Lexer::new(self.job.context.file.escape);
        let mut known = self.args.visible(&config::environment(&self.config));
        known.extend(config::variables(&self.config));
        let variables = |name: &str| known.get(name).cloned();
        let instruction = step.instruction.expand(lexer, &variables)?;
        match &instruction {
            Instruction::Run(run) => return self.run_step(run),
            Instruction::Copy(transfer) => return Ok(self.copy("COPY", transfer)?),
            Instruction::Add(transfer) => return Ok(self.copy("ADD", transfer)?),
            Instruction::StopSignal(signal) => drop(crate::container::parse_signal(signal)?),
            Instruction::Maintainer(name) => self.author.clone_from(name),
            _ => {}
        }
        match config::apply(&mut self.config, &instruction, self.command_is_set)? {
            Some(Applied { comment, sets_command }) => {
                self.command_is_set |= sets_command;
                self.remember(&config::created_by(&self.config, &comment))?;
            }
            None => self.workdir()?,
        }
        // Known from the next step on.
        if let Instruction::Arg(arguments) = instruction {
            for (name, default) in arguments {
                self.args.declare(&name, default);
            }
        }
        Ok(())
    }

    /// A step that leaves nothing but its configuration.
    fn remember(&mut self, created_by: &str) -> Result<()> {
        let key = self.key(created_by, &[]);
        if self.is_cached(&key)? {
            return Ok(());
        }
        self.commit(created_by, None, &key)
    }

    /// The working directory is made if it is not there.
    fn workdir(&mut self) -> Result<()> {
        let path = self.config["WorkingDir"].as_str().unwrap_or("/").to_owned();
        let shell = config::shell(&self.config).join(" ");
        let created_by = format!("{shell} #(nop) WORKDIR {path}");
        let key = self.key(&created_by, &[]);
        if self.is_cached(&key)? {
            return Ok(());
        }
        let ground = self.ground()?;
        let failed = |error| {
            Error::caused(engine_error::Kind::Invalid, format!("cannot make {path}"), error)
        };
        let there = ground.tree().below(path.trim_start_matches('/').as_ref()).map_err(failed)?;
        let layer = if there.is_some() || path == "/" {
            None
        } else {
            transfer::make(ground.tree(), path.as_ref(), None).map_err(failed)?;
            Some(ground.into_layer(&self.job.making)?)
        };
        self.commit(&created_by, layer, &key)
    }

    /// A root file system of what it has come to, to work on.
    pub(super) fn ground(&self) -> Result<Ground> {
        let place = self.job.workshop.place();
        Ground::open(&self.job.builds.images, self.image.as_deref(), &place)
    }

    /// The key of a step in the cache.
    pub(super) fn key(&self, created_by: &str, contents: &[String]) -> String {
        let parent = self.image.as_ref().map(|image| image.id.to_string()).unwrap_or_default();
        let image::Platform { os, architecture, variant } = &self.job.platform;
        let platform = format!("{os}/{architecture}/{variant}");
        let config = &self.config;
        Key { parent: &parent, platform: &platform, created_by, config, contents }.digest()
    }

    /// Takes what came of the same step before, if that is known.
    pub(super) fn is_cached(&mut self, key: &str) -> Result<bool> {
        if self.job.request.no_cache {
            return Ok(false);
        }
        let builds = self.job.builds;
        let found = builds.cache.find(&builds.images, key).filter(|image| self.job.allows(image));
        let Some(image) = found else { return Ok(false) };
        let Ok(()) = self.become_image(&image) else { return Ok(false) };
        self.output.text(" ---> Using cache\n")?;
        Ok(true)
    }

    /// Makes the image of a step, and notes it in the cache.
    pub(super) fn commit(
        &mut self,
        created_by: &str,
        layer: Option<NewLayer>,
        key: &str,
    ) -> Result<()> {
        let parent = self.image.as_ref().map(|image| image.id);
        let (config, author) = (&self.config, self.author.as_str());
        let step = commit::Step { created_by, config, author, layer };
        let document = commit::document(&self.document, &step);
        let image = commit::image(&self.job.making, &document, parent)?;
        self.job.hold(&self.at.to_string(), &image.id.to_string())?;
        self.job.builds.cache.note(key, image.id);
        self.document = document;
        self.image = Some(image);
        Ok(())
    }

    /// Goes on with an image, which stays as long as this does.
    fn become_image(&mut self, image: &Image) -> Result<()> {
        let images = &self.job.builds.images;
        let image = self.job.hold(&self.at.to_string(), &image.id.to_string())?;
        self.document = images.configuration(image.id)?;
        self.config = self.document["config"].clone();
        if !self.config.is_object() {
            self.config = serde_json::json!({});
        }
        self.image = Some(image);
        Ok(())
    }

    /// Begins with an image.
    pub(super) fn begin_with(&mut self, image: &Image) -> Result<()> {
        self.become_image(image)?;
        self.base.clone_from(&image.layers);
        self.author = self.document["author"].as_str().unwrap_or_default().to_owned();
        Ok(())
    }
}
