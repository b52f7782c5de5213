//! Arguments of `swarm`, and of what `node` does with swarms only.

use clap::{Args, Subcommand};

/// What nodes can be used for.
const AVAILABILITY: [&str; 3] = ["active", "pause", "drain"];

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum SwarmCommand {
    /// Display the certificate of the swarm's authority
    Ca,
    /// Make a swarm, with this host as its first manager
    Init(SwarmInitArgs),
    /// Join a swarm
    Join(SwarmJoinArgs),
    /// Display, or exchange, what lets others join
    JoinToken(SwarmTokenArgs),
    /// Leave the swarm
    Leave(SwarmLeaveArgs),
    /// Change the swarm
    Update(SwarmUpdateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SwarmInitArgs {
    /// Address of this host for the others, or the interface that has it
    #[arg(long, value_name = "IP|INTERFACE[:PORT]")]
    pub(crate) advertise_addr: Option<String>,
    /// Where this host lets others in
    #[arg(long, value_name = "IP|INTERFACE[:PORT]", default_value = "0.0.0.0:2377")]
    pub(crate) listen_addr: String,
    /// How long certificates of nodes are good for, such as `2160h`
    #[arg(long, value_name = "DURATION")]
    pub(crate) cert_expiry: Option<String>,
    /// What this host is to be used for
    #[arg(long, value_parser = AVAILABILITY, default_value = "active")]
    pub(crate) availability: String,
    /// Go on with what this manager knows, without all other managers, which are lost
    #[arg(long)]
    pub(crate) force_new_cluster: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SwarmJoinArgs {
    /// Address of this host for the others, or the interface that has it
    #[arg(long, value_name = "IP|INTERFACE[:PORT]")]
    pub(crate) advertise_addr: Option<String>,
    /// Where this host lets others in, if it is a manager
    #[arg(long, value_name = "IP|INTERFACE[:PORT]", default_value = "0.0.0.0:2377")]
    pub(crate) listen_addr: String,
    /// What lets this host in, as `rnet swarm join-token` displays it
    #[arg(long)]
    pub(crate) token: String,
    /// What this host is to be used for
    #[arg(long, value_parser = AVAILABILITY, default_value = "active")]
    pub(crate) availability: String,
    /// A manager
    #[arg(value_name = "HOST:PORT")]
    pub(crate) manager: String,
}

#[derive(Debug, Args)]
pub(crate) struct SwarmTokenArgs {
    /// Only display the token
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Exchange it: the present one lets nobody in any more
    #[arg(long)]
    pub(crate) rotate: bool,
    /// As what others join
    #[arg(value_parser = ["worker", "manager"])]
    pub(crate) role: String,
}

#[derive(Debug, Args)]
pub(crate) struct SwarmLeaveArgs {
    /// Leave it even if this host is a manager
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SwarmUpdateArgs {
    /// How long certificates of nodes are good for, such as `2160h`
    #[arg(long, value_name = "DURATION")]
    pub(crate) cert_expiry: String,
}

#[derive(Debug, Args)]
pub(crate) struct NodeNames {
    /// Nodes
    #[arg(required = true, value_name = "NODE")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NodeUpdateArgs {
    /// Give it a label
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label_add: Vec<String>,
    /// Take a label from it
    #[arg(long, value_name = "KEY")]
    pub(crate) label_rm: Vec<String>,
    /// What it is to be
    #[arg(long, value_parser = ["worker", "manager"])]
    pub(crate) role: Option<String>,
    /// What it is to be used for
    #[arg(long, value_parser = AVAILABILITY)]
    pub(crate) availability: Option<String>,
    /// The node
    #[arg(value_name = "NODE")]
    pub(crate) name: String,
}
