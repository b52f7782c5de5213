//! The grammar: every command with its arguments.

mod build;
mod cluster;
mod container;
mod context;
mod copy;
mod create;
mod image;
mod limits;
mod manifest;
mod network;
mod swarm;

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use super::error::CliError;
use crate::config::Invocation;
use crate::config::flags::command as daemon_command;

pub(crate) use self::build::*;
pub(crate) use self::cluster::*;
pub(crate) use self::container::*;
pub(crate) use self::context::*;
pub(crate) use self::copy::*;
pub(crate) use self::create::*;
pub(crate) use self::image::*;
pub(crate) use self::limits::*;
pub(crate) use self::manifest::*;
pub(crate) use self::network::*;
pub(crate) use self::swarm::*;

/// A flag that may be written alone, or with `=true` and `=false`. The name keeps clap from
/// taking it for a flag without a value.
type Truth = bool;

/// A networking-first container host.
#[derive(Debug, Parser)]
#[command(name = "rnet", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Daemon socket to connect to (the default one, or `DOCKER_HOST`)
    #[arg(short = 'H', long, value_name = "URL")]
    pub(crate) host: Option<String>,
    /// Name of the context to use to connect to the daemon
    #[arg(short, long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    #[command(flatten)]
    pub(crate) tls: TlsFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How the daemon is reached over TCP.
#[derive(Debug, Default, Args)]
pub(crate) struct TlsFlags {
    /// Use TLS, and verify the daemon
    #[arg(long)]
    pub(crate) tlsverify: bool,
    /// Trust certificates signed by this CA only
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscacert: Option<PathBuf>,
    /// Client certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscert: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) tlskey: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Create and run a new container from an image
    Run(Box<RunArgs>),
    /// Execute a command in a running container
    Exec(ExecArgs),
    /// List containers
    Ps(PsArgs),
    /// Download an image from a registry
    Pull(PullArgs),
    /// Upload an image to a registry
    Push(PushArgs),
    /// List images
    Images(ImagesArgs),
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Manage builds
    #[command(subcommand)]
    Builder(BuilderCommand),
    /// Attach to a running container
    Attach(AttachArgs),
    /// Create a new image from a container's changes
    Commit(CommitArgs),
    /// Copy files and folders between a container and the local file system
    Cp(CpArgs),
    /// Create a new container
    Create(Box<CreateCommand>),
    /// Inspect changes to files or directories on a container's file system
    Diff(DiffArgs),
    /// Export a container's file system as a tar archive
    Export(ExportArgs),
    /// Get real time events from the daemon
    Events(EventsArgs),
    /// Show the history of an image
    History(HistoryArgs),
    /// Import a tarball as an image
    Import(ImportArgs),
    /// Display system-wide information
    Info(FormatArgs),
    /// Return low-level information on objects
    Inspect(InspectArgs),
    /// Kill one or more running containers
    Kill(KillArgs),
    /// Load images from a tar archive or standard input
    Load(LoadArgs),
    /// Authenticate to a registry
    Login(LoginArgs),
    /// Log out from a registry
    Logout(LogoutArgs),
    /// Fetch the logs of a container
    Logs(LogsArgs),
    /// Pause all processes within one or more containers
    Pause(Names),
    /// List port mappings of a container, or change them
    Port(PortCommand),
    /// Rename a container
    Rename(RenameArgs),
    /// Restart one or more containers
    Restart(StopArgs),
    /// Remove one or more containers
    Rm(RmArgs),
    /// Remove one or more images
    Rmi(RmiArgs),
    /// Save images to a tar archive (to standard output by default)
    Save(SaveArgs),
    /// Search Docker Hub for images
    Search(SearchArgs),
    /// Start one or more stopped containers
    Start(StartArgs),
    /// Display a live stream of what containers use
    Stats(StatsArgs),
    /// Stop one or more running containers
    Stop(StopArgs),
    /// Create a tag that refers to an image
    Tag(TagArgs),
    /// Display the running processes of a container
    Top(TopArgs),
    /// Unpause all processes within one or more containers
    Unpause(Names),
    /// Update limits and restart policy of one or more containers
    Update(UpdateArgs),
    /// Show the version of client and daemon
    Version(FormatArgs),
    /// Block until containers stop, then print their exit codes
    Wait(Names),
    /// Manage containers
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Manage contexts: daemons with names
    #[command(subcommand)]
    Context(ContextCommand),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Manage manifests and lists of them in registries
    #[command(subcommand)]
    Manifest(ManifestCommand),
    /// Manage networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Manage volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Manage the cluster that this host is in
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Manage the hosts of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// Manage a cluster that keeps its own store
    #[command(subcommand)]
    Swarm(SwarmCommand),
    /// Manage rnet
    #[command(subcommand)]
    System(SystemCommand),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Write the manual pages into a directory
    Man(ManArgs),
    /// Run the daemon (see `rnet daemon --help`)
    Daemon(DaemonArgs),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ContainerCommand {
    /// Attach to a running container
    Attach(AttachArgs),
    /// Create a new image from a container's changes
    Commit(CommitArgs),
    /// Copy files and folders between a container and the local file system
    Cp(CpArgs),
    /// Create a new container
    Create(Box<CreateCommand>),
    /// Inspect changes to files or directories on a container's file system
    Diff(DiffArgs),
    /// Export a container's file system as a tar archive
    Export(ExportArgs),
    /// Execute a command in a running container
    Exec(ExecArgs),
    /// Display detailed information on containers
    Inspect(InspectArgs),
    /// Kill one or more running containers
    Kill(KillArgs),
    /// Fetch the logs of a container
    Logs(LogsArgs),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(PsArgs),
    /// Pause all processes within one or more containers
    Pause(Names),
    /// List port mappings of a container
    Port(PortArgs),
    /// Remove all stopped containers
    Prune(PruneArgs),
    /// Rename a container
    Rename(RenameArgs),
    /// Restart one or more containers
    Restart(StopArgs),
    /// Remove one or more containers
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Create and run a new container from an image
    Run(Box<RunArgs>),
    /// Start one or more stopped containers
    Start(StartArgs),
    /// Display a live stream of what containers use
    Stats(StatsArgs),
    /// Stop one or more running containers
    Stop(StopArgs),
    /// Display the running processes of a container
    Top(TopArgs),
    /// Unpause all processes within one or more containers
    Unpause(Names),
    /// Update limits and restart policy of one or more containers
    Update(UpdateArgs),
    /// Block until containers stop, then print their exit codes
    Wait(Names),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ImageCommand {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Show the history of an image
    History(HistoryArgs),
    /// Import a tarball as an image
    Import(ImportArgs),
    /// Display detailed information on images
    Inspect(InspectArgs),
    /// Load images from a tar archive or standard input
    Load(LoadArgs),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Remove unused images
    Prune(ImagePruneArgs),
    /// Download an image from a registry
    Pull(PullArgs),
    /// Upload an image to a registry
    Push(PushArgs),
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm(RmiArgs),
    /// Save images to a tar archive
    Save(SaveArgs),
    /// Create a tag that refers to an image
    Tag(TagArgs),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum NetworkCommand {
    /// Connect a container to a network
    Connect(ConnectArgs),
    /// Create a network
    Create(NetworkCreateArgs),
    /// Disconnect a container from a network
    Disconnect(DisconnectArgs),
    /// Display detailed information on networks
    Inspect(InspectArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(NetworkLsArgs),
    /// Remove all unused networks
    Prune(PruneArgs),
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm(NetworkRmArgs),
    /// Change a network while containers are on it
    Update(NetworkUpdateArgs),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum VolumeCommand {
    /// Create a volume
    Create(VolumeCreateArgs),
    /// Display detailed information on volumes
    Inspect(InspectArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(VolumeLsArgs),
    /// Remove unused local volumes
    Prune(VolumePruneArgs),
    /// Remove one or more volumes
    #[command(visible_alias = "remove")]
    Rm(NetworkRmArgs),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum SystemCommand {
    /// Show disk usage
    Df,
    /// Get real time events from the daemon
    Events(EventsArgs),
    /// Display system-wide information
    Info(FormatArgs),
    /// Tell of damaged records and of what on this host is in the way
    Check(CheckArgs),
    /// Remove all containers, networks and images of rnet, and all traces in the kernel
    Reset(ResetArgs),
    /// Proxy the daemon's API over standard input and output
    DialStdio,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Format output: `json`, or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Show all events created since a time
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// Stream events until a time
    #[arg(long)]
    pub(crate) until: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// Format output: `json`, or a Go template
    #[arg(short, long)]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Format output: `json`, or a Go template
    #[arg(short, long)]
    pub(crate) format: Option<String>,
    /// Display total file sizes
    #[arg(short, long)]
    pub(crate) size: bool,
    /// Only objects of this type
    #[arg(long)]
    pub(crate) r#type: Option<String>,
    /// Verbose output
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Objects
    #[arg(required = true, value_name = "NAME|ID")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Filter what is removed, such as until=24h
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Forget a damaged record that is set aside, and what its object has on the disk
    #[arg(long, value_name = "RECORD")]
    pub(crate) discard: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The directory: /usr/local/share/man/man1, say
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct DaemonArgs {
    /// See `rnet daemon --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) rest: Vec<String>,
}

/// Prints a completion script.
pub(crate) fn completion(args: &CompletionArgs) -> u8 {
    clap_complete::generate(args.shell, &mut Cli::command(), "rnet", &mut std::io::stdout());
    0
}

/// Writes a manual page of each command.
pub(crate) fn man(args: &ManArgs) -> Result<u8, CliError> {
    let pages = Cli::command()
        .mut_subcommand("daemon", |_| daemon_command(Invocation::Rnet).name("daemon"));
    let directory = &args.directory;
    let written =
        fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(pages, directory));
    let because =
        |error| format!("cannot write manual pages into {}: {error}", directory.display());
    written.map(|()| 0).map_err(|error| CliError::new(because(error)))
}

#[cfg(test)]
mod tests;
