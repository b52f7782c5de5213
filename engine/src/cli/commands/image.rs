//! Arguments of the commands on images.

#![expect(clippy::struct_excessive_bools, reason = "flags are what they are")]

use std::path::PathBuf;

use clap::Args;

use super::{PruneArgs, Truth};

#[derive(Debug, Args)]
pub(crate) struct ImagePruneArgs {
    /// Remove all unused images, not just dangling ones
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) prune: PruneArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Show all images
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Show digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Format output: `table`, `json`, or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only show image ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Only images of this repository
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) repository: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Format output: `table`, `json`, or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Print sizes and dates in human readable format
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub(crate) human: Truth,
    /// Don't truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only show image ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Image
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Set platform if the registry has several
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Push a platform-specific manifest as a single-platform image
    #[arg(long, value_name = "OS[/ARCH[/VARIANT]]")]
    pub(crate) platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Image
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Format output: `table`, `json`, or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Max number of search results
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub(crate) limit: i64,
    /// Don't truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// What to look for, perhaps after the host of a registry
    pub(crate) term: String,
}

#[derive(Args)]
pub(crate) struct LoginArgs {
    /// Password
    #[arg(short, long)]
    pub(crate) password: Option<String>,
    /// Take the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// User name
    #[arg(short, long)]
    pub(crate) username: Option<String>,
    /// The registry; Docker Hub if there is none
    pub(crate) server: Option<String>,
}

impl std::fmt::Debug for LoginArgs {
    /// Secrets stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginArgs").field("server", &self.server).finish_non_exhaustive()
    }
}

#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The registry; Docker Hub if there is none
    pub(crate) server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Read from a tar archive file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Suppress the load output
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Apply a Dockerfile instruction to the image
    #[arg(short, long)]
    pub(crate) change: Vec<String>,
    /// Set commit message for the image
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    /// Set the platform
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// A tar archive, or `-` for standard input
    #[arg(value_name = "FILE|-")]
    pub(crate) source: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) image: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// Force removal of the image
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    pub(crate) no_prune: bool,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// An image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    pub(crate) source: String,
    /// Its new name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    pub(crate) target: String,
}
