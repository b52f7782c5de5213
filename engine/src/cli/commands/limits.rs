//! Limits, which `update` changes too, and the flags of `run` and `create` that few need.

use clap::Args;

use super::Truth;

/// What a container may use.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct LimitArgs {
    /// Block IO (relative weight), between 10 and 1000
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) blkio_weight: u16,
    /// Limit CPU period, in microseconds
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) cpu_period: i64,
    /// Limit CPU quota, in microseconds
    #[arg(long, default_value_t = 0, hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) cpu_quota: i64,
    /// Limit the CPU real-time period, in microseconds
    #[arg(long, default_value_t = 0, hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) cpu_rt_period: i64,
    /// Limit the CPU real-time runtime, in microseconds
    #[arg(long, default_value_t = 0, hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) cpu_rt_runtime: i64,
    /// CPU shares (relative weight)
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
    pub(crate) cpu_shares: i64,
    /// Number of CPUs
    #[arg(long)]
    pub(crate) cpus: Option<f64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) cpuset_cpus: String,
    /// Memory nodes in which to allow execution (0-3, 0,1)
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) cpuset_mems: String,
    /// Memory limit
    #[arg(short, long)]
    pub(crate) memory: Option<String>,
    /// Memory soft limit
    #[arg(long)]
    pub(crate) memory_reservation: Option<String>,
    /// Swap limit equal to memory plus swap; -1 is unlimited
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Tune the container's pids limit (-1 for unlimited)
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
}

/// Rarer flags of `run` and `create`.
#[derive(Debug, Default, Args)]
pub(crate) struct RareArgs {
    /// Block IO weight (relative device weight)
    #[arg(long, value_name = "DEVICE:WEIGHT")]
    pub(crate) blkio_weight_device: Vec<String>,
    /// Add a rule to the cgroup's list of allowed devices
    #[arg(long, value_name = "RULE")]
    pub(crate) device_cgroup_rule: Vec<String>,
    /// Limit read rate (bytes per second) from a device
    #[arg(long, value_name = "DEVICE:RATE")]
    pub(crate) device_read_bps: Vec<String>,
    /// Limit read rate (IO per second) from a device
    #[arg(long, value_name = "DEVICE:RATE")]
    pub(crate) device_read_iops: Vec<String>,
    /// Limit write rate (bytes per second) to a device
    #[arg(long, value_name = "DEVICE:RATE")]
    pub(crate) device_write_bps: Vec<String>,
    /// Limit write rate (IO per second) to a device
    #[arg(long, value_name = "DEVICE:RATE")]
    pub(crate) device_write_iops: Vec<String>,
    /// GPU devices to add to the container (`all` to pass all GPUs)
    #[arg(long)]
    pub(crate) gpus: Option<String>,
    /// Container isolation technology
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) isolation: String,
    /// Tune container memory swappiness (0 to 100)
    #[arg(long, default_value_t = -1, hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) memory_swappiness: i64,
    /// Disable OOM Killer
    #[arg(long)]
    pub(crate) oom_kill_disable: bool,
    /// Storage driver options for the container
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) storage_opt: Vec<String>,
    /// Bind mount the API's socket at /var/run/docker.sock
    #[arg(long)]
    pub(crate) use_api_socket: bool,
    /// Optional volume driver for the container
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) volume_driver: String,
    /// Without effect, as with Docker
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub(crate) disable_content_trust: Truth,
    /// Without effect, as with Docker
    #[arg(long = "kernel-memory", hide = true)]
    _kernel_memory: Option<String>,
    /// Windows only
    #[arg(long, hide = true)]
    pub(crate) cpu_count: Option<i64>,
    /// Windows only
    #[arg(long, hide = true)]
    pub(crate) cpu_percent: Option<i64>,
    /// Windows only
    #[arg(long, hide = true)]
    pub(crate) io_maxbandwidth: Option<String>,
    /// Windows only
    #[arg(long, hide = true)]
    pub(crate) io_maxiops: Option<u64>,
}
