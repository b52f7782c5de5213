//! Swarms and their nodes as Docker's clients write and read them.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::time::{from_nanos, rfc3339};
use crate::swarm::{Beginning, Joining};
use engine_error::{Error, Kind, Result};
use swarm::node::{Listed, NodeChange};
use swarm::record::{At, Availability, SwarmRecord};
use swarm::{NetworkDefaults, Role, Signer, Upkeep};

/// The shortest life of a certificate that Docker takes.
const LEAST_LIFE: Duration = Duration::from_secs(3600);

/// What all swarms are called.
const NAME: &str = "default";

/// Body of `POST /swarm/init`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Init {
    listen_addr: String,
    advertise_addr: String,
    data_path_addr: String,
    data_path_port: u32,
    default_addr_pool: Option<Vec<String>>,
    subnet_size: u32,
    force_new_cluster: bool,
    auto_lock_managers: bool,
    availability: String,
    spec: Spec,
}

/// Body of `POST /swarm/join`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Join {
    listen_addr: String,
    advertise_addr: String,
    data_path_addr: String,
    remote_addrs: Option<Vec<String>>,
    #[serde(rename = "JoinToken")]
    token: String,
    availability: String,
}

/// Body of `POST /swarm/update`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Spec {
    name: String,
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "CAConfig")]
    authority: AuthorityConfig,
    encryption_config: Encryption,
    raft: Raft,
    dispatcher: Dispatcher,
    orchestration: Orchestration,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Raft {
    snapshot_interval: u64,
    keep_old_snapshots: Option<u64>,
    log_entries_for_slow_followers: u64,
    election_tick: i64,
    heartbeat_tick: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Dispatcher {
    heartbeat_period: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Orchestration {
    task_history_retention_limit: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct AuthorityConfig {
    node_cert_expiry: u64,
    #[serde(rename = "ExternalCAs")]
    external: Option<Vec<Value>>,
    #[serde(rename = "SigningCACert")]
    certificate: String,
    force_rotate: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Encryption {
    auto_lock_managers: bool,
}

/// Body of `POST /nodes/{id}/update`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeSpec {
    labels: Option<BTreeMap<String, String>>,
    role: String,
    availability: String,
}

impl Init {
    /// What is to be made, if it can be.
    pub fn beginning(self) -> Result<Beginning> {
        data_path(&self.data_path_addr)?;
        let availability = availability(&self.availability)?;
        if self.auto_lock_managers {
            return Err(unsupported(AUTOLOCK));
        }
        let failed = |error| Error::internal("no random numbers", error);
        let mut swarm = SwarmRecord::new().map_err(failed)?;
        self.spec.shape(&mut swarm)?;
        let pools = self.default_addr_pool.unwrap_or_default();
        swarm.networks = NetworkDefaults::new(&pools, self.subnet_size, self.data_path_port)?;
        Ok(Beginning {
            listen: self.listen_addr,
            advertise: self.advertise_addr,
            swarm,
            availability,
            anew: self.force_new_cluster,
        })
    }
}

impl Join {
    /// What is to be joined, if it can be.
    pub fn joining(self) -> Result<Joining> {
        data_path(&self.data_path_addr)?;
        let availability = availability(&self.availability)?;
        let managers = self.remote_addrs.unwrap_or_default();
        let managers: Vec<_> = managers.into_iter().filter(|name| !name.is_empty()).collect();
        if self.listen_addr.is_empty() {
            return Err(Error::invalid("invalid ListenAddr \"\": invalid empty address"));
        }
        if managers.is_empty() {
            return Err(Error::invalid("at least 1 RemoteAddr is required to join"));
        }
        Ok(Joining {
            listen: self.listen_addr,
            advertise: self.advertise_addr,
            token: self.token,
            managers,
            availability,
        })
    }
}

impl Spec {
    /// Makes a swarm like this.
    pub fn apply(&self, swarm: &mut SwarmRecord) -> Result<()> {
        if self.authority.force_rotate != 0 {
            return Err(unsupported(EXCHANGE));
        }
        self.shape(swarm)
    }

    /// What a swarm is to be. One that begins has no authority to be exchanged.
    fn shape(&self, swarm: &mut SwarmRecord) -> Result<()> {
        if !matches!(self.name.as_str(), "" | NAME) {
            return Err(Error::invalid(format!("swarm spec must be named {NAME:?}")));
        }
        if self.encryption_config.auto_lock_managers {
            return Err(unsupported(AUTOLOCK));
        }
        let authority = &self.authority;
        if !authority.certificate.is_empty() {
            return Err(unsupported(EXCHANGE));
        }
        if authority.external.as_ref().is_some_and(|external| !external.is_empty()) {
            return Err(unsupported("authorities outside of a swarm are not supported"));
        }
        if self.dispatcher.heartbeat_period < 0 {
            return Err(Error::invalid(
                "rpc error: code = InvalidArgument desc = heartbeat time period cannot be a \
                 negative duration",
            ));
        }
        if let Some(life) = self.node_life()? {
            swarm.node_life = life.as_secs();
        }
        if let Some(labels) = &self.labels {
            swarm.labels.clone_from(labels);
        }
        self.keep_up(&mut swarm.upkeep);
        Ok(())
    }

    fn keep_up(&self, upkeep: &mut Upkeep) {
        let Raft { snapshot_interval, log_entries_for_slow_followers, .. } = self.raft;
        put(&mut upkeep.snapshot_interval, Some(snapshot_interval).filter(|given| *given != 0));
        let given = Some(log_entries_for_slow_followers);
        put(&mut upkeep.entries_for_slow, given.filter(|given| *given != 0));
        put(&mut upkeep.old_snapshots, self.raft.keep_old_snapshots);
        let given = |number: i64| Some(number).filter(|given| *given != 0);
        put(&mut upkeep.election_tick, given(self.raft.election_tick));
        put(&mut upkeep.heartbeat_tick, given(self.raft.heartbeat_tick));
        put(&mut upkeep.heartbeat, given(self.dispatcher.heartbeat_period));
        put(&mut upkeep.task_history, self.orchestration.task_history_retention_limit);
    }

    fn node_life(&self) -> Result<Option<Duration>> {
        match Duration::from_nanos(self.authority.node_cert_expiry) {
            Duration::ZERO => Ok(None),
            life if life < LEAST_LIFE => {
                Err(Error::invalid("minimum certificate expiry time is: 1h0m0s"))
            }
            life => Ok(Some(life)),
        }
    }
}

impl NodeSpec {
    /// What is to become of a node, if it can be.
    pub fn change(self) -> Result<NodeChange> {
        let availability = availability(&self.availability)?;
        let role = match self.role.as_str() {
            "manager" => Role::Manager,
            "worker" => Role::Worker,
            other => return Err(Error::invalid(format!("invalid Role: {other:?}"))),
        };
        Ok(NodeChange { role, labels: self.labels.unwrap_or_default(), availability })
    }
}

/// What is not said stays as it is.
fn put<T>(kept: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *kept = given;
    }
}

const EXCHANGE: &str = "exchanging the authority of a swarm is not supported yet";

const AUTOLOCK: &str = "locking the managers of a swarm is not supported: their keys are on disk, for \
                        root alone to read";

fn unsupported(message: &str) -> Error {
    Error::new(Kind::NotImplemented, message)
}

fn data_path(address: &str) -> Result<()> {
    if address.is_empty() {
        return Ok(());
    }
    Err(unsupported("a data path address of its own is not supported: use --advertise-addr"))
}

fn availability(word: &str) -> Result<Availability> {
    if word.is_empty() {
        return Ok(Availability::default());
    }
    let known = Availability::ALL.into_iter().find(|known| known.name() == word);
    known.ok_or_else(|| Error::invalid(format!("invalid Availability: {word:?}")))
}

/// `GET /swarm`.
pub fn swarm(
    swarm: &At<SwarmRecord>,
    authority: &str,
    [manager, worker]: &[String; 2],
) -> Result<Value> {
    let mut shown = cluster(swarm, authority)?;
    shown["JoinTokens"] = json!({"Worker": worker, "Manager": manager});
    Ok(shown)
}

/// The same without its tokens, as in `GET /info`.
pub fn cluster(swarm: &At<SwarmRecord>, authority: &str) -> Result<Value> {
    let At { record, revision } = swarm;
    let upkeep = &record.upkeep;
    let (pools, size) = record.networks.told();
    Ok(json!({
        "ID": record.id,
        "Version": {"Index": revision},
        "CreatedAt": rfc3339(Some(from_nanos(record.created))),
        "UpdatedAt": rfc3339(Some(from_nanos(record.updated))),
        "Spec": {
            "Name": NAME,
            "Labels": record.labels,
            "Orchestration": {"TaskHistoryRetentionLimit": upkeep.task_history},
            "Raft": {
                "SnapshotInterval": upkeep.snapshot_interval,
                "KeepOldSnapshots": upkeep.old_snapshots,
                "LogEntriesForSlowFollowers": upkeep.entries_for_slow,
                "ElectionTick": upkeep.election_tick,
                "HeartbeatTick": upkeep.heartbeat_tick,
            },
            "Dispatcher": {"HeartbeatPeriod": upkeep.heartbeat},
            "CAConfig": {"NodeCertExpiry": nanoseconds(record.life())},
            "TaskDefaults": {},
            "EncryptionConfig": {"AutoLockManagers": false},
        },
        "TLSInfo": tls(authority)?,
        "RootRotationInProgress": false,
        "DefaultAddrPool": pools,
        "SubnetSize": size,
        "DataPathPort": record.networks.tunnels(),
    }))
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn tls(authority: &str) -> Result<Value> {
    let signer = Signer::of_pem(authority)?;
    Ok(json!({
        "TrustRoot": authority,
        "CertIssuerSubject": STANDARD.encode(signer.name),
        "CertIssuerPublicKey": STANDARD.encode(signer.key),
    }))
}

/// A host that is in no swarm, or of which that cannot be told, as in `GET /info`.
pub fn none(problem: Option<&str>) -> Value {
    json!({
        "NodeID": "", "NodeAddr": "",
        "LocalNodeState": if problem.is_some() { "error" } else { "inactive" },
        "ControlAvailable": false, "Error": problem.unwrap_or_default(), "RemoteManagers": null,
    })
}

/// One of `GET /nodes`.
pub fn node(listed: &Listed, state: &str, authority: &str) -> Result<Value> {
    let At { record, revision } = &listed.node;
    let description = &record.description;
    let mut shown = json!({
        "ID": listed.id,
        "Version": {"Index": revision},
        "CreatedAt": rfc3339(Some(from_nanos(record.created))),
        "UpdatedAt": rfc3339(Some(from_nanos(record.updated))),
        "Spec": {
            "Labels": record.labels, "Role": record.role.name(),
            "Availability": record.availability.name(),
        },
        "Description": {
            "Hostname": record.name,
            "Platform": {"Architecture": description.architecture, "OS": "linux"},
            "Resources": {
                "NanoCPUs": description.processors.saturating_mul(1_000_000_000),
                "MemoryBytes": description.memory,
            },
            "Engine": {"EngineVersion": description.release},
            "TLSInfo": tls(authority)?,
        },
        "Status": {"State": state, "Addr": record.address},
    });
    if let Some(manager) = &listed.manager {
        let reachability = if manager.reachable { "reachable" } else { "unreachable" };
        let mut status = json!({"Reachability": reachability, "Addr": manager.address});
        if manager.leads {
            status["Leader"] = json!(true);
        }
        shown["ManagerStatus"] = status;
    } else if record.role == Role::Manager {
        shown["ManagerStatus"] = json!({"Reachability": "unknown", "Addr": ""});
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: std::fmt::Debug>(outcome: Result<T>) -> (Kind, String) {
        let error = outcome.unwrap_err();
        (error.kind(), error.to_string())
    }

    #[test]
    fn what_a_swarm_cannot_do_is_refused_by_name() {
        for (body, said) in [
            (json!({"DataPathAddr": "eth1"}), "a data path address of its own"),
            (json!({"AutoLockManagers": true}), "locking the managers"),
            (
                json!({"Spec": {"CAConfig": {"ExternalCAs": [{"URL": "https://x"}]}}}),
                "authorities outside",
            ),
            (json!({"Spec": {"CAConfig": {"SigningCACert": "x"}}}), "exchanging the authority"),
        ] {
            let init: Init = serde_json::from_value(body).unwrap();
            let (kind, message) = refused(init.beginning());
            assert!(kind == Kind::NotImplemented && message.starts_with(said), "{message}");
        }
    }

    #[test]
    fn wrong_words_are_refused_in_docker_s() {
        let node: NodeSpec =
            serde_json::from_value(json!({"Role": "bogus", "Availability": "active"})).unwrap();
        assert_eq!(refused(node.change()).1, "invalid Role: \"bogus\"");
        let join: Join = serde_json::from_value(json!({"ListenAddr": "0.0.0.0:2377"})).unwrap();
        assert_eq!(refused(join.joining()).1, "at least 1 RemoteAddr is required to join");
        let spec = json!({"CAConfig": {"NodeCertExpiry": 60_000_000_000_u64}});
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let said = refused(spec.apply(&mut SwarmRecord::new().unwrap())).1;
        assert_eq!(said, "minimum certificate expiry time is: 1h0m0s");
    }

    #[test]
    fn numbers_of_a_swarm_s_upkeep_were_dropped() {
        let spec = json!({
            "Orchestration": {"TaskHistoryRetentionLimit": 0},
            "Raft": {"SnapshotInterval": 5000, "LogEntriesForSlowFollowers": 1200},
            "Dispatcher": {"HeartbeatPeriod": 7_000_000_000_u64},
        });
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let mut swarm = SwarmRecord::new().unwrap();
        spec.apply(&mut swarm).unwrap();
        let told = Upkeep {
            snapshot_interval: 5000,
            entries_for_slow: 1200,
            heartbeat: 7_000_000_000,
            task_history: 0,
            ..Upkeep::default()
        };
        assert_eq!(swarm.upkeep, told);
        Spec::default().apply(&mut swarm).unwrap();
        assert_eq!(swarm.upkeep, told, "what is not said stays");
    }

    #[test]
    fn what_docker_sends_by_default_is_taken() {
        let body = json!({
            "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "192.0.2.1", "DataPathAddr": "",
            "DataPathPort": 0, "DefaultAddrPool": null, "ForceNewCluster": false,
            "Spec": {
                "Labels": null, "Orchestration": {}, "Raft": {"ElectionTick": 0},
                "Dispatcher": {}, "CAConfig": {}, "TaskDefaults": {},
                "EncryptionConfig": {"AutoLockManagers": false},
            },
            "AutoLockManagers": false, "Availability": "active", "SubnetSize": 0,
        });
        let init: Init = serde_json::from_value(body).unwrap();
        let beginning = init.beginning().unwrap();
        assert_eq!(beginning.advertise, "192.0.2.1");
        let SwarmRecord { labels, networks, upkeep, .. } = beginning.swarm;
        assert!(labels.is_empty() && networks == NetworkDefaults::default());
        assert_eq!(upkeep, Upkeep::default());
    }
}
