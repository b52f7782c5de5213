//! Arguments of the commands on containers.

#![expect(clippy::struct_excessive_bools, reason = "flags are what they are")]

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CreateArgs, LimitArgs, Truth};

#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RunArgs {
    /// Run container in background and print its id
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
    /// Proxy received signals to the process
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub(crate) sig_proxy: Truth,
    #[command(flatten)]
    pub(crate) create: CreateArgs,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct CreateCommand {
    #[command(flatten)]
    pub(crate) create: CreateArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Override the key sequence for detaching
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
    /// Set environment variables
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Keep stdin open even if not attached
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Allocate a pseudo-terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// User name or number, with `:group`
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(crate) user: String,
    /// Working directory inside the container
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(crate) workdir: String,
    /// Container, command and its arguments
    #[arg(required = true, trailing_var_arg = true, num_args = 1.., value_names = ["CONTAINER", "COMMAND"])]
    pub(crate) rest: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Format output: `table`, `json`, or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, default_value_t = -1, allow_hyphen_values = true)]
    pub(crate) last: i64,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    pub(crate) latest: bool,
    /// Don't truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only display container ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    pub(crate) size: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
    /// Do not attach stdin
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Proxy received signals to the process
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub(crate) sig_proxy: Truth,
    /// Container
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Attach stdout and stderr, and forward signals
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Attach the container's stdin
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Signal to send to the container
    #[arg(short, long)]
    pub(crate) signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(short, long, visible_alias = "time", allow_hyphen_values = true)]
    pub(crate) timeout: Option<i64>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Signal to send to the container
    #[arg(short, long)]
    pub(crate) signal: Option<String>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Remove the specified link
    #[arg(short, long)]
    pub(crate) link: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    pub(crate) volumes: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    /// Container
    pub(crate) container: String,
    /// Its new name
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct PortArgs {
    /// Container
    pub(crate) container: String,
    /// Only this port
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    pub(crate) port: Option<String>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct PortCommand {
    #[command(flatten)]
    pub(crate) list: PortListArgs,
    #[command(subcommand)]
    pub(crate) change: Option<PortChangeCommand>,
}

#[derive(Debug, Args)]
pub(crate) struct PortListArgs {
    /// Container
    #[arg(required = true)]
    pub(crate) container: Option<String>,
    /// Only this port
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    pub(crate) port: Option<String>,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum PortChangeCommand {
    /// Publish more ports of a container, whether it runs or not
    Add(PortAddArgs),
    /// List the published ports of a container with their states
    Ls(PortLsArgs),
    /// Withdraw published ports of a container
    Rm(PortRmArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PortAddArgs {
    /// When the ports open: always, listening or healthy
    #[arg(long, value_name = "WHEN")]
    pub(crate) publish_when: Option<String>,
    /// Container
    pub(crate) container: String,
    /// Ports, as for --publish
    #[arg(required = true, value_name = "[IP:][HOST:]PORT[/PROTO]")]
    pub(crate) ports: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PortRmArgs {
    /// How long connections to the ports may go on, such as 30s; new ones are refused at once
    #[arg(long, default_value = "0s", value_name = "DURATION")]
    pub(crate) drain: String,
    /// Container
    pub(crate) container: String,
    /// Ports, as for --publish; what is left out is any
    #[arg(required = true, value_name = "[IP:][HOST:]PORT[/PROTO]")]
    pub(crate) ports: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PortLsArgs {
    /// Format output: `table`, `json`, or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Container
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Container
    pub(crate) container: String,
    /// Options of ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Restart policy to apply when a container exits
    #[arg(long)]
    pub(crate) restart: Option<String>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Format output: `table`, `json`, or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Containers; all that run if none is named
    #[arg(value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Show extra details provided to logs
    #[arg(long)]
    pub(crate) details: bool,
    /// Follow log output
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Show logs since a time, or a duration such as 42m
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// Show logs before a time, or a duration such as 42m
    #[arg(long)]
    pub(crate) until: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, default_value = "all")]
    pub(crate) tail: String,
    /// Show timestamps
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Container
    pub(crate) container: String,
}
