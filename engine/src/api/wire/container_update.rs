//! `POST /containers/{id}/update`: the request as an [`Update`].

use serde_json::{Map, Value, json};

use super::super::version::Version;
use super::container_config::HostConfig;
use super::container_create::{read, restart};
use super::container_limits::resources;
use super::container_validate::check_update;
use crate::container::Update;
use engine_error::Result;

/// The fields that can be changed, which are limits but for the last.
const FIELDS: [&str; 14] = [
    "BlkioWeight",
    "CpuShares",
    "CpuPeriod",
    "CpuQuota",
    "CpuRealtimePeriod",
    "CpuRealtimeRuntime",
    "CpusetCpus",
    "CpusetMems",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "NanoCpus",
    "PidsLimit",
    "RestartPolicy",
];

/// What a request body amounts to.
pub fn update(body: &Value, version: Version) -> Result<Update> {
    let mut host: HostConfig = read(body.clone(), "")?;
    host.pids_limit = host.pids_limit.filter(|_| version >= Version(40)).map(|limit| limit.max(0));
    check_update(&host)?;
    let named = !host.restart_policy.name.is_empty();
    let restart = named.then(|| restart(&host));
    let all = serde_json::to_value(&host).unwrap_or_default();
    let shown = FIELDS.into_iter().filter_map(|field| {
        let value = all.get(field)?;
        let none = match field {
            "PidsLimit" => value.is_null(),
            "RestartPolicy" => !named,
            _ => *value == json!(0) || *value == json!(""),
        };
        (!none).then(|| (field.to_owned(), value.clone()))
    });
    let shown: Map<_, _> = shown.collect();
    Ok(Update { resources: resources(&host), restart, shown })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::spec::RestartPolicy;

    #[test]
    fn only_what_is_named_changes() {
        let body = json!({
            "Memory": 0, "CpuShares": 512, "PidsLimit": -5, "CpusetCpus": "",
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        });
        let update = update(&body, Version(51)).unwrap();
        assert_eq!((update.resources.cpu_shares, update.resources.pids_limit), (512, Some(0)));
        assert_eq!(update.restart, Some(RestartPolicy::OnFailure(3)));
        let shown: Vec<_> = update.shown.keys().map(String::as_str).collect();
        assert_eq!(shown, ["CpuShares", "PidsLimit", "RestartPolicy"]);
        assert_eq!(super::update(&body, Version(39)).unwrap().resources.pids_limit, None);
        let nothing = super::update(&json!({"RestartPolicy": {}}), Version(51)).unwrap();
        assert_eq!(nothing, Update::default());
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_touched() {
        let refused = |body: Value| update(&body, Version(51)).unwrap_err().to_string();
        assert_eq!(refused(json!({"Memory": 1000})), "Minimum memory limit allowed is 6MB");
        let policy = json!({"RestartPolicy": {"Name": "alwys"}});
        assert!(refused(policy).starts_with("invalid restart policy: unknown policy 'alwys'"));
        assert!(update(&json!({"MemorySwap": 1 << 30}), Version(51)).is_ok());
    }
}
