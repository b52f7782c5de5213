//! Arguments of the commands on what is in containers.

use std::path::PathBuf;

use clap::Args;

use super::Truth;

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Always follow symbol link in the source
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// Suppress progress output during copy
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) quiet: Option<Truth>,
    /// Where from: CONTAINER:PATH, PATH, or - for a tar archive on standard input
    pub(crate) source: String,
    /// Where to: CONTAINER:PATH, PATH, or - for a tar archive on standard output
    pub(crate) destination: String,
}

#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long)]
    pub(crate) author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long)]
    pub(crate) change: Vec<String>,
    /// Commit message
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    /// Pause container during commit
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub(crate) pause: Truth,
    /// Disable pausing container during commit
    #[arg(long)]
    pub(crate) no_pause: bool,
    /// Container
    pub(crate) container: String,
    /// What the image is called
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) image: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Container
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Write to a file, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Container
    pub(crate) container: String,
}
