//! Arguments of the commands on networks and volumes.

use clap::Args;

use super::{PruneArgs, Truth};

#[derive(Debug, Args)]
pub(crate) struct VolumePruneArgs {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) prune: PruneArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkCreateArgs {
    /// Enable manual container attachment
    #[arg(long)]
    pub(crate) attachable: bool,
    /// Addresses that are never handed out
    #[arg(long, value_name = "NAME=ADDRESS")]
    pub(crate) aux_address: Vec<String>,
    /// Driver to manage the network
    #[arg(short, long, default_value = "bridge")]
    pub(crate) driver: String,
    /// Gateway of a subnet
    #[arg(long, value_delimiter = ',')]
    pub(crate) gateway: Vec<String>,
    /// Cut the network off from everything outside it
    #[arg(long)]
    pub(crate) internal: bool,
    /// Allocate addresses from a sub-range
    #[arg(long, value_delimiter = ',')]
    pub(crate) ip_range: Vec<String>,
    /// IP address management driver
    #[arg(long, default_value = "default")]
    pub(crate) ipam_driver: String,
    /// Options of the IP address management driver
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) ipam_opt: Vec<String>,
    /// Enable or disable IPv4 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) ipv4: Option<Truth>,
    /// Enable or disable IPv6 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) ipv6: Option<Truth>,
    /// Set metadata on the network
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) opt: Vec<String>,
    /// Subnet in CIDR format
    #[arg(long, value_delimiter = ',')]
    pub(crate) subnet: Vec<String>,
    /// The network's name
    pub(crate) network: String,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkUpdateArgs {
    /// Subnets that the network is to have as well
    #[arg(long, value_name = "SUBNET", value_delimiter = ',')]
    pub(crate) add_subnet: Vec<String>,
    /// Resolvers to ask outside, for containers without their own
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) dns: Vec<String>,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Gateway of a subnet that is added
    #[arg(long, value_delimiter = ',')]
    pub(crate) gateway: Vec<String>,
    /// Whether containers on it may talk to each other
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) icc: Option<Truth>,
    /// Whether it is cut off from everything outside it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) internal: Option<Truth>,
    /// Allocate addresses of a subnet that is added from a sub-range
    #[arg(long, value_delimiter = ',')]
    pub(crate) ip_range: Vec<String>,
    /// Whether it has IPv4
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) ipv4: Option<Truth>,
    /// Whether it has IPv6; its containers get addresses when they join anew
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) ipv6: Option<Truth>,
    /// Set metadata on the network
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Remove metadata from the network
    #[arg(long, value_name = "KEY")]
    pub(crate) label_rm: Vec<String>,
    /// MTU of the network in bytes
    #[arg(long, value_name = "BYTES")]
    pub(crate) mtu: Option<u32>,
    /// Set driver specific options
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) opt: Vec<String>,
    /// Give driver specific options their defaults again
    #[arg(long, value_name = "KEY")]
    pub(crate) opt_rm: Vec<String>,
    /// Subnets that the network is to have no longer; nobody may have an address of them
    #[arg(long, value_name = "SUBNET", value_delimiter = ',')]
    pub(crate) rm_subnet: Vec<String>,
    /// The network
    pub(crate) network: String,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Add network-scoped alias for the container
    #[arg(long)]
    pub(crate) alias: Vec<String>,
    /// Driver options for the endpoint
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) driver_opt: Vec<String>,
    /// Highest gw-priority provides the default gateway
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub(crate) gw_priority: i64,
    /// IPv4 address
    #[arg(long)]
    pub(crate) ip: Option<String>,
    /// IPv6 address
    #[arg(long)]
    pub(crate) ip6: Option<String>,
    /// Add link to another container
    #[arg(long)]
    pub(crate) link: Vec<String>,
    /// Add a link-local address
    #[arg(long)]
    pub(crate) link_local_ip: Vec<String>,
    /// Network
    pub(crate) network: String,
    /// Container
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct DisconnectArgs {
    /// Force the container to disconnect
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Network
    pub(crate) network: String,
    /// Container
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkLsArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Format output: `table`, `json`, or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only display network ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkRmArgs {
    /// Do not complain about what does not exist; take containers off networks that are removed
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeCreateArgs {
    /// Volume driver
    #[arg(short, long, default_value = "local")]
    pub(crate) driver: String,
    /// Set metadata for the volume
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) opt: Vec<String>,
    /// The volume's name
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeLsArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Format output: `table`, `json`, or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Only display volume names
    #[arg(short, long)]
    pub(crate) quiet: bool,
}
