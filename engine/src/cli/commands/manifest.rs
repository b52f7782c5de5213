//! Arguments of the commands on manifests.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ManifestCommand {
    /// Add additional information to a local image manifest
    Annotate(ManifestAnnotateArgs),
    /// Create a local manifest list for annotating and pushing to a registry
    Create(ManifestCreateArgs),
    /// Display an image manifest, or manifest list
    Inspect(ManifestInspectArgs),
    /// Push a manifest list to a repository
    Push(ManifestPushArgs),
    /// Delete one or more manifest lists from local storage
    Rm(ManifestRmArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ManifestAnnotateArgs {
    /// Set architecture
    #[arg(long)]
    pub(crate) arch: Option<String>,
    /// Set operating system
    #[arg(long)]
    pub(crate) os: Option<String>,
    /// Set operating system feature
    #[arg(long, value_delimiter = ',')]
    pub(crate) os_features: Vec<String>,
    /// Set operating system version
    #[arg(long)]
    pub(crate) os_version: Option<String>,
    /// Set architecture variant
    #[arg(long)]
    pub(crate) variant: Option<String>,
    /// The list
    #[arg(value_name = "MANIFEST_LIST")]
    pub(crate) list: String,
    /// The image in it
    pub(crate) manifest: String,
}

#[derive(Debug, Args)]
pub(crate) struct ManifestCreateArgs {
    /// Amend an existing manifest list
    #[arg(short, long)]
    pub(crate) amend: bool,
    /// Allow communication with an insecure registry
    #[arg(long)]
    pub(crate) insecure: bool,
    /// The list
    #[arg(value_name = "MANIFEST_LIST")]
    pub(crate) list: String,
    /// The images in it
    #[arg(required = true, value_name = "MANIFEST")]
    pub(crate) manifests: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ManifestInspectArgs {
    /// Allow communication with an insecure registry
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Output additional info including layers and platform
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// An image or a list, perhaps after the list that it is in
    #[arg(required = true, num_args = 1..=2, value_name = "MANIFEST")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ManifestPushArgs {
    /// Allow push to an insecure registry
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Remove the local manifest list after push
    #[arg(short, long)]
    pub(crate) purge: bool,
    /// The list
    #[arg(value_name = "MANIFEST_LIST")]
    pub(crate) list: String,
}

#[derive(Debug, Args)]
pub(crate) struct ManifestRmArgs {
    /// The lists
    #[arg(required = true, value_name = "MANIFEST_LIST")]
    pub(crate) lists: Vec<String>,
}
