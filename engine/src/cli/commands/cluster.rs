//! Arguments of `cluster` and `node`.

use clap::{Args, Subcommand};

use super::{FormatArgs, NodeNames, NodeUpdateArgs};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ClusterCommand {
    /// Put what this host has into a store that was emptied or is an old one
    Adopt,
    /// Ask the other hosts, and containers there, through the tunnels; name what is wrong on the way
    Check(ClusterCheckArgs),
    /// Display the cluster that this host is in
    Inspect(FormatArgs),
    /// Join a cluster, by the store that its hosts share
    Join(ClusterJoinArgs),
    /// Leave the cluster
    Leave(ClusterLeaveArgs),
    /// List the cluster that this host is in
    #[command(visible_alias = "list")]
    Ls(FormatArgs),
    /// Have this host take another key for encrypted networks; print the public half of it
    Rekey,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterCheckArgs {
    /// Format output: `json` shows every question that was asked
    #[arg(short, long)]
    pub(crate) format: Option<String>,
    /// The host to ask; all of them by default
    pub(crate) node: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterJoinArgs {
    /// Address of this host for the others, or the interface that has it
    #[arg(long, value_name = "IP|INTERFACE")]
    pub(crate) advertise_addr: Option<String>,
    /// How to get into the store: cacert, cert, key, user, password-file
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) opt: Vec<String>,
    /// The cluster: `etcd://host:port,host:port[/name]`
    pub(crate) cluster: String,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterLeaveArgs {
    /// Forget the cluster even if its other hosts cannot be told
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum NodeCommand {
    /// Make nodes of a swarm workers
    Demote(NodeNames),
    /// Display detailed information on hosts of the cluster
    Inspect(NodeInspectArgs),
    /// List the hosts of the cluster
    #[command(visible_alias = "list")]
    Ls(NodeLsArgs),
    /// Make nodes of a swarm managers
    Promote(NodeNames),
    /// Remove hosts that are gone for good
    #[command(visible_alias = "remove")]
    Rm(NodeRmArgs),
    /// Change a node of a swarm
    Update(NodeUpdateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NodeInspectArgs {
    /// Format output: `json`, or a Go template
    #[arg(short, long)]
    pub(crate) format: Option<String>,
    /// Hosts; `self` is this one
    #[arg(required = true, value_name = "NODE")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NodeLsArgs {
    /// Format output: `table`, `json`, or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Only display ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NodeRmArgs {
    /// Remove hosts even if they are there
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Hosts
    #[arg(required = true, value_name = "NODE")]
    pub(crate) names: Vec<String>,
}
