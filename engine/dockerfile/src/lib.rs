//! Dockerfiles, as text turns into something to be done: instructions with their flags and documents,
//! words with variables, stages and what each of them needs, keys of the cache, `.dockerignore`.
//!
//! Nothing here has an effect, and nothing knows of images or containers: who builds asks for one
//! instruction after the other and says what the variables are.

pub mod args;
mod change;
pub mod config;
pub mod ignore;
pub mod instruction;
pub mod key;
mod lines;
mod parse;
pub mod stages;
mod suggest;
pub mod words;

pub use args::Args;
pub use change::change;
pub use ignore::Ignore;
pub use instruction::{Command, Document, Healthcheck, Instruction, Run, Step, Transfer};
pub use parse::{parse, parse_trigger};
pub use stages::{Dockerfile, Stage};

/// The most bytes of a secret that a step is shown: `BuildKit`'s.
pub const LARGEST_SECRET: usize = 500 << 10;
/// The most that a Dockerfile may have.
pub const LONGEST: usize = 1 << 20;
