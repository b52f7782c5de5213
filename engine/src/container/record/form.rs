//! The form in which a container is written down: types of their own, field by field, so that the
//! model may change and what an earlier release wrote stays readable.
//!
//! Every field has a default. A field of the model that has none here does not compile; one that
//! came later has the default in older records. What has one text form everywhere, ids, addresses
//! and the words of Docker's modes, is written as that text.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cnm::{Mac, NetworkId, PortBinding, Protocol, SandboxId};
use ipnetwork::IpNetwork;
use runtime::spec::{Mount, MountKind, Recursion, Resources};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::health::{Health, HealthStatus, Healthcheck, Outcome};
use super::super::modes::NamespaceModes;
use super::super::spec::{EndpointSpec, PublishWhen, PublishedPort, RestartPolicy, Spec};
use super::super::state::{State, Status};
use super::super::{
    Container, ContainerId, Draining, EndpointView, LinkTo, MountPoint, Paths, Resolved,
};
use super::values::{Shared, Word};

/// What is written of a value of the model.
pub(super) trait Form<M>: Sized {
    /// The form of a value.
    fn of(model: M) -> Self;

    /// The value that was written.
    fn model(self) -> M;
}

impl<M, F: Form<M>> Form<Vec<M>> for Vec<F> {
    fn of(model: Vec<M>) -> Self {
        model.into_iter().map(F::of).collect()
    }

    fn model(self) -> Vec<M> {
        self.into_iter().map(F::model).collect()
    }
}

impl<M, F: Form<M>> Form<Option<M>> for Option<F> {
    fn of(model: Option<M>) -> Self {
        model.map(F::of)
    }

    fn model(self) -> Option<M> {
        self.map(F::model)
    }
}

impl<M, F: Form<M>> Form<(String, M)> for (String, F) {
    fn of((name, model): (String, M)) -> Self {
        (name, F::of(model))
    }

    fn model(self) -> (String, M) {
        (self.0, self.1.model())
    }
}

/// Declares the form of a structure, with the way from the model and back. `as_they_are` are the
/// fields of types that are the same on both sides; the others have forms of their own.
macro_rules! form {
    (
        $(#[$attribute:meta])*
        $form:ident of $model:ident {
            as_they_are { $($plain:ident: $plain_type:ty,)* }
            $($formed:ident: $formed_type:ty,)*
        }
    ) => {
        #[derive(Default, Serialize, Deserialize)]
        #[serde(default)]
        $(#[$attribute])*
        pub(super) struct $form {
            $($plain: $plain_type,)*
            $($formed: $formed_type,)*
        }

        impl Form<$model> for $form {
            fn of(model: $model) -> Self {
                let $model { $($plain,)* $($formed,)* } = model;
                Self { $($plain,)* $($formed: Form::of($formed),)* }
            }

            fn model(self) -> $model {
                let Self { $($plain,)* $($formed,)* } = self;
                $model { $($plain,)* $($formed: Form::model($formed),)* }
            }
        }
    };
}

/// Declares the form of an enumeration of bare words.
macro_rules! words {
    ($form:ident of $model:ident, $case:literal, $default:ident, $($word:ident),*) => {
        #[derive(Serialize, Deserialize)]
        #[serde(rename_all = $case)]
        pub(super) enum $form { $($word,)* }

        impl Default for $form {
            fn default() -> Self {
                Self::$default
            }
        }

        impl Form<$model> for $form {
            fn of(model: $model) -> Self {
                match model { $($model::$word => Self::$word,)* }
            }

            fn model(self) -> $model {
                match self { $(Self::$word => $model::$word,)* }
            }
        }
    };
}

form!(ContainerForm of Container {
    as_they_are {
        id: ContainerId,
        name: String,
        created: DateTime<Utc>,
        image: String,
        sandbox: Option<SandboxId>,
        joined: Option<SandboxId>,
        sandbox_key: PathBuf,
        graph_driver: String,
        graph_data: BTreeMap<String, String>,
        limits_due: bool,
    }
    spec: SpecForm,
    resolved: ResolvedForm,
    state: StateForm,
    endpoints: Vec<EndpointForm>,
    ports: Vec<BindingForm>,
    draining: Vec<DrainingForm>,
    paths: PathsForm,
    mounts: Vec<MountPointForm>,
    links: Option<Vec<LinkForm>>,
});

form!(LinkForm of LinkTo {
    as_they_are {
        container: ContainerId,
        alias: String,
        removed: Option<String>,
    }
});

form!(ResolvedForm of Resolved {
    as_they_are {
        path: String,
        args: Vec<String>,
        entrypoint: Option<Vec<String>>,
        command: Option<Vec<String>>,
        env: Vec<String>,
        working_dir: String,
        user: String,
        hostname: String,
        domainname: String,
        labels: BTreeMap<String, String>,
        exposed: Vec<(u16, Protocol)>,
        volumes: Vec<String>,
        stop_signal: String,
        shell: Vec<String>,
    }
    healthcheck: Option<HealthcheckForm>,
});

form!(EndpointForm of EndpointView {
    as_they_are {
        network: String,
        network_id: Option<NetworkId>,
        id: String,
        addresses: Vec<IpNetwork>,
        gateways: Vec<IpAddr>,
        mac: Option<Mac>,
        names: Vec<String>,
        unpublished: bool,
    }
    spec: EndpointSpecForm,
});

form!(PathsForm of Paths {
    as_they_are {
        dir: PathBuf,
        hostname: PathBuf,
        hosts: PathBuf,
        resolv_conf: PathBuf,
        log: PathBuf,
    }
});

form!(MountPointForm of MountPoint {
    as_they_are {
        name: Option<String>,
        source: PathBuf,
        target: String,
        writable: bool,
        anonymous: bool,
        options: Vec<String>,
        subpath: String,
        driver: String,
        image: String,
        layers: Vec<String>,
    }
    kind: MountKindForm,
    propagation: Word,
});

// === The state ===

form!(StateForm of State {
    as_they_are {
        pid: i32,
        exit_code: i32,
        error: String,
        oom_killed: bool,
        started: Option<DateTime<Utc>>,
        finished: Option<DateTime<Utc>>,
        restart_count: u32,
        stopped_by_user: bool,
        restart_delay: Duration,
    }
    status: StatusForm,
    health: Option<HealthForm>,
});

words!(StatusForm of Status, "lowercase", Created,
    Created, Running, Paused, Restarting, Removing, Exited, Dead);

form!(#[serde(rename_all = "PascalCase")] HealthcheckForm of Healthcheck {
    as_they_are {
        test: Option<Vec<String>>,
        interval: i64,
        timeout: i64,
        start_period: i64,
        start_interval: i64,
        retries: i64,
    }
});

form!(#[serde(rename_all = "PascalCase")] HealthForm of Health {
    as_they_are {
        failing_streak: i64,
    }
    status: HealthStatusForm,
    log: Vec<OutcomeForm>,
});

words!(HealthStatusForm of HealthStatus, "lowercase", Starting, Starting, Healthy, Unhealthy);

form!(#[serde(rename_all = "PascalCase")] OutcomeForm of Outcome {
    as_they_are {
        start: DateTime<Utc>,
        end: DateTime<Utc>,
        exit_code: i32,
        output: String,
    }
});

// === What was asked for ===

form!(SpecForm of Spec {
    as_they_are {
        image: String,
        entrypoint: Option<Vec<String>>,
        command: Option<Vec<String>>,
        env: Vec<String>,
        working_dir: String,
        user: String,
        groups: Vec<String>,
        labels: BTreeMap<String, String>,
        hostname: String,
        domainname: String,
        tty: bool,
        open_stdin: bool,
        stdin_once: bool,
        console_size: Option<(u16, u16)>,
        attach: (bool, bool, bool),
        auto_remove: bool,
        init: Option<bool>,
        stop_signal: Option<String>,
        stop_timeout: Option<i64>,
        network_disabled: bool,
        publish_all: bool,
        exposed: Vec<(u16, Protocol)>,
        mac: Option<Mac>,
        dns: Vec<IpAddr>,
        dns_search: Vec<String>,
        dns_options: Vec<String>,
        extra_hosts: Vec<String>,
        links: Vec<String>,
        sysctls: BTreeMap<String, String>,
        volumes: Vec<String>,
        volumes_from: Vec<String>,
        readonly_rootfs: bool,
        privileged: bool,
        cap_add: Vec<String>,
        cap_drop: Vec<String>,
        security_options: Vec<String>,
        masked_paths: Option<Vec<String>>,
        readonly_paths: Option<Vec<String>>,
        devices: Vec<(String, String, String)>,
        device_rules: Vec<String>,
        ulimits: Vec<(String, i64, i64)>,
        shm_size: Option<i64>,
        oom_score_adj: i64,
        runtime: Option<String>,
        cgroup_parent: String,
        log_driver: String,
        log_options: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        healthcheck: Option<Value>,
    }
    wire_config: Shared,
    wire_host_config: Shared,
    restart: RestartForm,
    network_mode: Word,
    endpoints: Vec<(String, EndpointSpecForm)>,
    ports: Vec<PublishedForm>,
    mounts: Vec<MountForm>,
    resources: ResourcesForm,
    namespaces: NamespacesForm,
});

form!(EndpointSpecForm of EndpointSpec {
    as_they_are {
        aliases: Vec<String>,
        ipv4: Option<IpAddr>,
        ipv6: Option<IpAddr>,
        link_local: Vec<IpAddr>,
        mac: Option<Mac>,
        gateway_priority: i32,
        options: BTreeMap<String, String>,
        links: Vec<String>,
    }
});

form!(PublishedForm of PublishedPort {
    as_they_are {
        port: u16,
        protocol: Protocol,
        host: Option<IpAddr>,
        host_ports: (u16, u16),
    }
    when: Option<PublishWhenForm>,
});

words!(PublishWhenForm of PublishWhen, "lowercase", Always, Always, Listening, Healthy);

form!(NamespacesForm of NamespaceModes {
    as_they_are {}
    pid: Word,
    ipc: Word,
    uts: Word,
    cgroup: Word,
    user: Word,
});

form!(MountForm of Mount {
    as_they_are {
        source: String,
        target: String,
        readonly: bool,
        create_source: bool,
        no_copy: bool,
        options: Vec<String>,
        subpath: String,
        driver: String,
        driver_options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    }
    kind: MountKindForm,
    propagation: Word,
    recursion: RecursionForm,
});

words!(MountKindForm of MountKind, "lowercase", Bind, Bind, Volume, Tmpfs, Image);

words!(RecursionForm of Recursion, "snake_case", Enabled, Enabled, Disabled, Writable, Readonly);

form!(ResourcesForm of Resources {
    as_they_are {
        memory: i64,
        memory_swap: i64,
        memory_reservation: i64,
        memory_swappiness: Option<i64>,
        oom_kill_disable: bool,
        nano_cpus: i64,
        cpu_shares: i64,
        cpu_period: i64,
        cpu_quota: i64,
        cpu_realtime_period: i64,
        cpu_realtime_runtime: i64,
        cpuset_cpus: String,
        cpuset_mems: String,
        pids_limit: Option<i64>,
        block_weight: u16,
        block_weights: Vec<(String, u16)>,
        block_read_bytes: Vec<(String, u64)>,
        block_write_bytes: Vec<(String, u64)>,
        block_reads: Vec<(String, u64)>,
        block_writes: Vec<(String, u64)>,
    }
});

/// The restart policy, the limit being that of `on-failure`.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RestartForm {
    #[default]
    No,
    Always,
    UnlessStopped,
    OnFailure(u32),
}

impl Form<RestartPolicy> for RestartForm {
    fn of(model: RestartPolicy) -> Self {
        match model {
            RestartPolicy::No => Self::No,
            RestartPolicy::Always => Self::Always,
            RestartPolicy::UnlessStopped => Self::UnlessStopped,
            RestartPolicy::OnFailure(limit) => Self::OnFailure(limit),
        }
    }

    fn model(self) -> RestartPolicy {
        match self {
            Self::No => RestartPolicy::No,
            Self::Always => RestartPolicy::Always,
            Self::UnlessStopped => RestartPolicy::UnlessStopped,
            Self::OnFailure(limit) => RestartPolicy::OnFailure(limit),
        }
    }
}

/// A published port, which is never without its host's address.
#[derive(Serialize, Deserialize)]
pub(super) struct BindingForm {
    host: IpAddr,
    host_port: u16,
    protocol: Protocol,
    port: u16,
}

impl Form<PortBinding> for BindingForm {
    fn of(model: PortBinding) -> Self {
        let PortBinding { host, host_port, protocol, port } = model;
        Self { host, host_port, protocol, port }
    }

    fn model(self) -> PortBinding {
        let Self { host, host_port, protocol, port } = self;
        PortBinding { host, host_port, protocol, port }
    }
}

/// A withdrawn port, which is never without the address that it led to.
#[derive(Serialize, Deserialize)]
pub(super) struct DrainingForm {
    binding: BindingForm,
    to: IpAddr,
    until: DateTime<Utc>,
}

impl Form<Draining> for DrainingForm {
    fn of(model: Draining) -> Self {
        let Draining { binding, to, until } = model;
        Self { binding: Form::of(binding), to, until }
    }

    fn model(self) -> Draining {
        let Self { binding, to, until } = self;
        Draining { binding: binding.model(), to, until }
    }
}
