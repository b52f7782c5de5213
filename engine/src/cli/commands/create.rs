//! The flags that `run` and `create` share.

#![expect(clippy::struct_excessive_bools, reason = "flags are what they are")]

use std::path::PathBuf;

use clap::Args;

use super::{LimitArgs, RareArgs, Truth};

/// The flags that `run` and `create` share.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Container options")]
pub(crate) struct CreateArgs {
    /// Print help (`-h` is the host name)
    #[arg(long, action = clap::ArgAction::HelpLong)]
    help: Option<Truth>,
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,
    /// Add an annotation to the container
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Attach to stdin, stdout or stderr
    #[arg(short, long, value_name = "STREAM")]
    pub(crate) attach: Vec<String>,
    /// Add Linux capabilities
    #[arg(long)]
    pub(crate) cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long)]
    pub(crate) cap_drop: Vec<String>,
    /// Optional parent cgroup for the container
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) cgroup_parent: String,
    /// Cgroup namespace to use: host or private
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) cgroupns: String,
    /// Write the container id to the file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Add a host device to the container
    #[arg(long, value_name = "HOST[:CONTAINER[:rwm]]")]
    pub(crate) device: Vec<String>,
    /// Set custom DNS servers
    #[arg(long)]
    pub(crate) dns: Vec<String>,
    /// Set DNS options
    #[arg(long, visible_alias = "dns-opt")]
    pub(crate) dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long)]
    pub(crate) dns_search: Vec<String>,
    /// Container NIS domain name
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) domainname: String,
    /// Overwrite the default entrypoint of the image
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,
    /// Set environment variables
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Expose a port or a range of ports
    #[arg(long)]
    pub(crate) expose: Vec<String>,
    /// Add additional groups to join
    #[arg(long)]
    pub(crate) group_add: Vec<String>,
    /// Container host name
    #[arg(short = 'h', long, default_value = "", hide_default_value = true)]
    pub(crate) hostname: String,
    /// Run an init inside the container that forwards signals and reaps processes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) init: Option<Truth>,
    /// Keep stdin open even if not attached
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// IPv4 address
    #[arg(long)]
    pub(crate) ip: Option<String>,
    /// IPv6 address
    #[arg(long)]
    pub(crate) ip6: Option<String>,
    /// IPC mode to use
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) ipc: String,
    /// Container IPv4/IPv6 link-local addresses
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) link_local_ip: Vec<String>,
    /// Set metadata on a container
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Read in a line delimited file of labels
    #[arg(long, value_name = "FILE")]
    pub(crate) label_file: Vec<PathBuf>,
    /// Add link to another container
    #[arg(long)]
    pub(crate) link: Vec<String>,
    /// Logging driver for the container: json-file, local, none, syslog, journald or fluentd
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) log_driver: String,
    /// Log driver options
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) log_opt: Vec<String>,
    /// Container MAC address
    #[arg(long)]
    pub(crate) mac_address: Option<String>,
    /// Attach a filesystem mount to the container
    #[arg(long, value_name = "type=bind,source=…,target=…")]
    pub(crate) mount: Vec<String>,
    /// Assign a name to the container
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Connect a container to a network
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub(crate) network: Vec<String>,
    /// Add network-scoped alias for the container
    #[arg(long, visible_alias = "net-alias")]
    pub(crate) network_alias: Vec<String>,
    /// Tune the host's OOM preferences (-1000 to 1000)
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub(crate) oom_score_adj: i64,
    /// PID namespace to use
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) pid: String,
    /// Set platform if the image has several
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Give extended privileges to this container
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Publish a container's port to the host
    #[arg(short, long, value_name = "[IP:][HOST:]CONTAINER[/PROTO]")]
    pub(crate) publish: Vec<String>,
    /// Publish all exposed ports to random ports
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// When published ports open: always, listening or healthy
    #[arg(long, value_name = "WHEN")]
    pub(crate) publish_when: Option<String>,
    /// Pull image before running: always, missing or never
    #[arg(long, default_value = "missing")]
    pub(crate) pull: String,
    /// Suppress the pull output
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Restart policy to apply when a container exits
    #[arg(long, default_value = "no")]
    pub(crate) restart: String,
    /// Automatically remove the container when it exits
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    pub(crate) rm: Truth,
    /// Runtime to use for this container
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) runtime: String,
    /// Security options
    #[arg(long)]
    pub(crate) security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long)]
    pub(crate) shm_size: Option<String>,
    /// Signal to stop the container
    #[arg(long)]
    pub(crate) stop_signal: Option<String>,
    /// Timeout (in seconds) to stop a container
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) stop_timeout: Option<i64>,
    /// Sysctl options
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) sysctl: Vec<String>,
    /// Mount a tmpfs directory
    #[arg(long)]
    pub(crate) tmpfs: Vec<String>,
    /// Allocate a pseudo-terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Ulimit options
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    /// User name or number, with `:group`
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(crate) user: String,
    /// User namespace to use
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) userns: String,
    /// UTS namespace to use
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) uts: String,
    /// Bind mount a volume
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTIONS]")]
    pub(crate) volume: Vec<String>,
    /// Mount volumes from other containers
    #[arg(long)]
    pub(crate) volumes_from: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(crate) workdir: String,
    /// Command to run to check health
    #[arg(long)]
    pub(crate) health_cmd: Option<String>,
    /// Time between running the check
    #[arg(long)]
    pub(crate) health_interval: Option<String>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, default_value_t = 0)]
    pub(crate) health_retries: i64,
    /// Start period for the container to initialize before failures count
    #[arg(long)]
    pub(crate) health_start_period: Option<String>,
    /// Time between running the check during the start period
    #[arg(long)]
    pub(crate) health_start_interval: Option<String>,
    /// Maximum time to allow one check to run
    #[arg(long)]
    pub(crate) health_timeout: Option<String>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) rare: RareArgs,
    /// Image, command and its arguments
    #[arg(required = true, trailing_var_arg = true, num_args = 1.., value_names = ["IMAGE", "COMMAND"])]
    pub(crate) rest: Vec<String>,
}
