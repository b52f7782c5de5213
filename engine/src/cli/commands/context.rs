//! Arguments of the commands on contexts.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ContextCommand {
    /// Create a context
    Create(ContextCreateArgs),
    /// Write a context to a tar archive, or to standard output (`-`)
    Export(ContextExportArgs),
    /// Make a context of a tar archive, or of standard input (`-`)
    Import(ContextExportArgs),
    /// Display detailed information on contexts
    Inspect(ContextInspectArgs),
    /// List contexts
    #[command(visible_alias = "list")]
    Ls(ContextLsArgs),
    /// Remove one or more contexts
    #[command(visible_alias = "remove")]
    Rm(ContextRmArgs),
    /// Print the name of the current context
    Show,
    /// Update a context
    Update(ContextCreateArgs),
    /// Set the current context
    Use(ContextUseArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ContextCreateArgs {
    /// Description of the context
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// Endpoint: host=URL, ca=FILE, cert=FILE, key=FILE, skip-tls-verify
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub(crate) docker: Option<String>,
    /// Create the context from another one
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) from: Option<String>,
    /// The context
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ContextExportArgs {
    /// The context
    pub(crate) name: String,
    /// The archive
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ContextInspectArgs {
    /// Format output: `json`, or a Go template
    #[arg(short, long)]
    pub(crate) format: Option<String>,
    /// Contexts; the current one if none is named
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ContextLsArgs {
    /// Format output: `table`, `json`, or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Only show context names
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ContextRmArgs {
    /// Force the removal of a context in use
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Contexts
    #[arg(required = true, value_name = "CONTEXT")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ContextUseArgs {
    /// The context
    pub(crate) name: String,
}
