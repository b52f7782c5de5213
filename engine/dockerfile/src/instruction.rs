//! Instructions, as they are written and with their variables put in.

use std::collections::BTreeMap;

use engine_error::{Error, Result};

use crate::words::{Lexer, Limited, Variables};

/// One step of a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The line it begins at.
    pub line: usize,
    /// As it is written, on one line.
    pub source: String,
    /// What it says.
    pub instruction: Instruction,
}

/// What a step says.
#[derive(Clone, Debug, PartialEq)]
pub enum Instruction {
    /// `RUN`.
    Run(Run),
    /// `COPY`.
    Copy(Transfer),
    /// `ADD`.
    Add(Transfer),
    /// `ENV`: names and values.
    Env(Vec<(String, String)>),
    /// `LABEL`: names and values.
    Label(Vec<(String, String)>),
    /// `ARG`: names, each with a default if there is one.
    Arg(Vec<(String, Option<String>)>),
    /// `CMD`.
    Cmd(Command),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `EXPOSE`.
    Expose(Vec<String>),
    /// `VOLUME`.
    Volume(Vec<String>),
    /// `USER`.
    User(String),
    /// `WORKDIR`.
    Workdir(String),
    /// `STOPSIGNAL`.
    StopSignal(String),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `ONBUILD`: the instruction that is deferred, as it is written.
    OnBuild(String),
    /// `MAINTAINER`.
    Maintainer(String),
}

/// A command in one of its two forms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The words of the JSON form, or the one line of the other.
    pub words: Vec<String>,
    /// Whether a shell is to read it.
    pub shell: bool,
}

impl Command {
    /// The words to be run, by a shell if it is that form.
    pub fn resolve(&self, shell: &[String]) -> Vec<String> {
        if !self.shell || self.words.is_empty() {
            return self.words.clone();
        }
        [shell, &self.words].concat()
    }
}

/// `RUN`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// What runs.
    pub command: Command,
    /// The documents it names.
    pub documents: Vec<Document>,
    /// `--mount`, as given.
    pub mounts: Vec<String>,
    /// `--network`.
    pub network: Option<String>,
    /// `--security`.
    pub security: Option<String>,
}

/// `ADD` or `COPY`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// What is taken.
    pub sources: Vec<String>,
    /// The documents among the sources, by their place.
    pub documents: Vec<(usize, Document)>,
    /// Where it goes.
    pub destination: String,
    /// `--from`.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--checksum`.
    pub checksum: Option<String>,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `--unpack`: whether archives are, wherever they are from.
    pub unpack: Option<bool>,
}

/// A document inside a Dockerfile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// What ends it, and what the file is called.
    pub name: String,
    /// Its lines.
    pub text: String,
    /// Whether variables in it are put in.
    pub expand: bool,
    /// Whether tabs at the beginning of lines do not belong to it.
    pub chomp: bool,
}

/// `HEALTHCHECK`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `NONE`, `CMD` and words, or `CMD-SHELL` and a line.
    pub test: Vec<String>,
    /// The durations and the number that were given, by the names they have in a configuration.
    pub options: BTreeMap<&'static str, i64>,
}

impl Instruction {
    /// The same with its variables put in, where this kind of instruction has any.
    pub fn expand(&self, lexer: Lexer, variables: &Variables<'_>) -> Result<Self> {
        let limited = Limited::new(variables);
        let expanded = self.expand_words(lexer, &|name| limited.value(name));
        limited.check().map_err(Error::invalid)?;
        expanded
    }

    fn expand_words(&self, lexer: Lexer, variables: &Variables<'_>) -> Result<Self> {
        let word = |text: &String| lexer.word(text, variables);
        let pairs = |pairs: &Vec<(String, String)>| {
            pairs.iter().map(|(name, value)| Ok((word(name)?, word(value)?))).collect::<Result<_>>()
        };
        Ok(match self {
            Self::Copy(transfer) => Self::Copy(transfer.expand(lexer, variables)?),
            Self::Add(transfer) => Self::Add(transfer.expand(lexer, variables)?),
            Self::Env(list) => Self::Env(pairs(list)?),
            Self::Label(list) => Self::Label(pairs(list)?),
            Self::Arg(list) => {
                let arg = |(name, value): &(String, Option<String>)| {
                    Ok((word(name)?, value.as_ref().map(word).transpose()?))
                };
                Self::Arg(list.iter().map(arg).collect::<Result<_>>()?)
            }
            // The one instruction of which a variable may become several words.
            Self::Expose(ports) => {
                let mut expanded = Vec::new();
                for port in ports {
                    expanded.extend(lexer.split(port, variables)?);
                }
                Self::Expose(expanded)
            }
            Self::Volume(paths) => {
                let paths = paths.iter().map(word).collect::<Result<Vec<_>>>()?;
                if paths.iter().any(String::is_empty) {
                    return Err(Error::invalid("VOLUME specified can not be an empty string"));
                }
                Self::Volume(paths)
            }
            Self::User(user) => Self::User(word(user)?),
            Self::Workdir(path) => Self::Workdir(word(path)?),
            Self::StopSignal(signal) => Self::StopSignal(word(signal)?),
            Self::Run(run) => Self::Run(run.expand(lexer, variables)?),
            Self::Cmd(_)
            | Self::Entrypoint(_)
            | Self::Shell(_)
            | Self::Healthcheck(_)
            | Self::OnBuild(_)
            | Self::Maintainer(_) => self.clone(),
        })
    }
}

impl Run {
    /// The shell puts variables into the command itself.
    fn expand(&self, lexer: Lexer, variables: &Variables<'_>) -> Result<Self> {
        let word = |text: &String| lexer.word(text, variables);
        let mounts = self.mounts.iter().map(word).collect::<Result<_>>()?;
        let network = self.network.as_ref().map(word).transpose()?;
        Ok(Self { mounts, network, ..self.clone() })
    }
}

impl Transfer {
    fn expand(&self, lexer: Lexer, variables: &Variables<'_>) -> Result<Self> {
        let word = |text: &String| lexer.word(text, variables);
        let option = |text: &Option<String>| text.as_ref().map(word).transpose();
        let is_document = |at: usize| self.documents.iter().any(|(place, _)| *place == at);
        let mut sources = Vec::new();
        for (at, source) in self.sources.iter().enumerate() {
            sources.push(if is_document(at) { source.clone() } else { word(source)? });
        }
        let mut documents = self.documents.clone();
        for (_, document) in documents.iter_mut().filter(|(_, document)| document.expand) {
            document.text = document.expanded(lexer, variables)?;
        }
        Ok(Self {
            sources,
            documents,
            destination: word(&self.destination)?,
            from: option(&self.from)?,
            chown: option(&self.chown)?,
            chmod: option(&self.chmod)?,
            checksum: option(&self.checksum)?,
            exclude: self.exclude.iter().map(word).collect::<Result<_>>()?,
            unpack: self.unpack,
        })
    }
}

impl Document {
    /// Its text with variables put in: quotes mean nothing in it.
    fn expanded(&self, lexer: Lexer, variables: &Variables<'_>) -> Result<String> {
        lexer.document(&self.text, variables)
    }
}
