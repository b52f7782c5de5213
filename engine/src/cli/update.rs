//! `update`: other limits for containers that are there.

use serde_json::json;

use super::client::{Client, escape};
use super::commands::UpdateArgs;
use super::error::CliError;
use super::{Outcome, complain, create, say, units};

/// `update`: prints the names of those that were changed, and what this host cannot give.
pub(crate) async fn update(client: &Client, args: UpdateArgs) -> Outcome {
    let body = body(&args)?;
    let (mut code, mut warnings) = (0, Vec::new());
    for name in &args.names {
        let path = format!("/containers/{}/update", escape(name));
        match client.post(&path, Some(&body)).await {
            Ok(answer) => {
                say(name);
                let told = answer["Warnings"].as_array().into_iter().flatten();
                warnings.extend(told.filter_map(|text| Some(text.as_str()?.to_owned())));
            }
            Err(error) => {
                complain(&error.message);
                code = 1;
            }
        }
    }
    if !warnings.is_empty() {
        say(&warnings.join("\n"));
    }
    Ok(code)
}

fn body(args: &UpdateArgs) -> Result<serde_json::Value, CliError> {
    if *args == (UpdateArgs { names: args.names.clone(), ..UpdateArgs::default() }) {
        return Err(CliError::new("you must provide one or more flags when using this command"));
    }
    let size = |text: &Option<String>| text.as_deref().map_or(Ok(0), units::bytes);
    let swap = match args.memory_swap.as_deref() {
        Some("-1") => -1,
        _ => size(&args.memory_swap)?,
    };
    let restart = args.restart.as_deref().map(create::restart_policy).transpose()?;
    Ok(json!({
        "BlkioWeight": args.blkio_weight, "CpuPeriod": args.cpu_period, "CpuQuota": args.cpu_quota,
        "CpuRealtimePeriod": args.cpu_rt_period, "CpuRealtimeRuntime": args.cpu_rt_runtime,
        "CpuShares": args.cpu_shares, "NanoCpus": create::nano_cpus(args.cpus),
        "CpusetCpus": args.cpuset_cpus, "CpusetMems": args.cpuset_mems,
        "Memory": size(&args.memory)?, "MemoryReservation": size(&args.memory_reservation)?,
        "MemorySwap": swap, "PidsLimit": args.pids_limit, "RestartPolicy": restart,
    }))
}
