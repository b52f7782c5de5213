//! Arguments of `build`.

#![expect(clippy::struct_excessive_bools, reason = "flags are what they are")]

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Truth;

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Add a custom host-to-IP mapping (`host:ip`)
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,
    /// Set build-time variables
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// Images to consider as cache sources
    #[arg(long, value_name = "IMAGE", value_delimiter = ',')]
    pub(crate) cache_from: Vec<String>,
    /// Set the parent cgroup for the RUN instructions during build
    #[arg(long)]
    pub(crate) cgroup_parent: Option<String>,
    /// Compress the build context using gzip
    #[arg(long)]
    pub(crate) compress: bool,
    /// Limit the CPU CFS period
    #[arg(long)]
    pub(crate) cpu_period: Option<i64>,
    /// Limit the CPU CFS quota
    #[arg(long)]
    pub(crate) cpu_quota: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long)]
    pub(crate) cpu_shares: Option<i64>,
    /// CPUs in which to allow execution
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Name of the Dockerfile (`PATH/Dockerfile` if absent, `-` for standard input)
    #[arg(short, long)]
    pub(crate) file: Option<String>,
    /// Always remove intermediate containers
    #[arg(long)]
    pub(crate) force_rm: bool,
    /// Write the image ID to the file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Set metadata for an image
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Memory limit
    #[arg(short, long)]
    pub(crate) memory: Option<String>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Set the networking mode for the RUN instructions during build
    #[arg(long)]
    pub(crate) network: Option<String>,
    /// Do not use cache when building the image
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Set platform
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// How progress is shown (there is one way: `plain`)
    #[arg(long, value_parser = ["auto", "plain", "tty", "quiet"])]
    pub(crate) progress: Option<String>,
    /// Always attempt to pull a newer version of the image
    #[arg(long)]
    pub(crate) pull: bool,
    /// Suppress the build output and print image ID on success
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Remove intermediate containers after a successful build
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub(crate) rm: Truth,
    /// Secret for steps that mount it (`id=mysecret[,src=FILE|,env=VARIABLE]`)
    #[arg(long, value_name = "SECRET")]
    pub(crate) secret: Vec<String>,
    /// Security options
    #[arg(long, value_delimiter = ',')]
    pub(crate) security_opt: Vec<String>,
    /// Size of `/dev/shm`
    #[arg(long)]
    pub(crate) shm_size: Option<String>,
    /// Squash newly built layers into a single new layer
    #[arg(long)]
    pub(crate) squash: bool,
    /// Name and optionally a tag in the `name:tag` format
    #[arg(short, long)]
    pub(crate) tag: Vec<String>,
    /// SSH agent for steps that mount it
    #[arg(long, value_name = "default|ID[=SOCKET]")]
    pub(crate) ssh: Vec<String>,
    /// Set the target build stage to build
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// Ulimit options
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    /// A directory, a URL, or `-` for an archive or a Dockerfile on standard input
    #[arg(value_name = "PATH|URL|-")]
    pub(crate) context: String,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum BuilderCommand {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Remove build cache
    Prune(BuilderPruneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BuilderPruneArgs {
    /// Remove all unused build cache, not just dangling ones
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub(crate) force: bool,
}
