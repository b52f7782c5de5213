//! Which containers a list or a prune is about.

use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use regex::Regex;

use crate::api::Api;
use crate::api::filters::Filters;
use crate::api::query::Query;
use crate::api::wire::ports;
use crate::api::wire::time::until;
use crate::container::{Container, Status};
use engine_error::{Error, Result};

const LIST: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// Which states count.
#[derive(Clone, Copy, Debug)]
enum Scope {
    All,
    Running,
    Stopped,
}

/// Conditions on containers, checked and with what they refer to looked up.
#[derive(Debug)]
pub(super) struct Selection {
    filters: Filters,
    scope: Scope,
    limit: usize,
    exited: Vec<i32>,
    before: Option<DateTime<Utc>>,
    since: Option<DateTime<Utc>>,
    /// Ids of the images that `ancestor` names.
    ancestors: Vec<String>,
    names: Vec<Regex>,
}

impl Selection {
    /// The query of a list.
    pub(super) fn of(query: &Query, api: &Api) -> Result<Self> {
        let filters = Filters::of(query, LIST)?;
        let created = |name| {
            let Some(key) = filters.values(name).first() else { return Ok(None) };
            api.engine.containers.find(key).map(|container| Some(container.created))
        };
        let (before, since) = (created("before")?, created("since")?);
        let exited =
            filters.values("exited").iter().map(|text| exit_code(text)).collect::<Result<_>>()?;
        check(&filters)?;
        let limit = query.number::<i64>("limit")?.filter(|limit| *limit > 0);
        let ancestor = |name: &String| {
            let image = api.engine.images.find(name);
            image.map_or_else(|_| name.clone(), |image| image.id.to_string())
        };
        let all = query.flag("all") || limit.is_some() || filters.has("status");
        Ok(Self {
            scope: if all { Scope::All } else { Scope::Running },
            limit: limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX),
            ancestors: filters.values("ancestor").iter().map(ancestor).collect(),
            names: names(&filters)?,
            exited,
            before,
            since,
            filters,
        })
    }

    /// The query of a prune: containers that do not run.
    pub(super) fn stopped(query: &Query) -> Result<Self> {
        let filters = Filters::of(query, &["label", "label!", "until"])?;
        let now = Utc::now();
        let until = filters.once("until")?.map(|text| until(text, now)).transpose()?;
        Ok(Self {
            scope: Scope::Stopped,
            limit: usize::MAX,
            exited: Vec::new(),
            before: until.flatten(),
            since: None,
            ancestors: Vec::new(),
            names: Vec::new(),
            filters,
        })
    }

    /// The containers that it is about.
    pub(super) fn apply(&self, containers: Vec<Arc<Container>>) -> Vec<Arc<Container>> {
        let in_scope = |container: &Container| match self.scope {
            Scope::All => true,
            Scope::Running => container.state.is_running(),
            Scope::Stopped => {
                matches!(container.state.status, Status::Created | Status::Exited | Status::Dead)
            }
        };
        let wanted = |container: &Arc<Container>| in_scope(container) && self.accepts(container);
        containers.into_iter().filter(wanted).take(self.limit).collect()
    }

    fn accepts(&self, container: &Container) -> bool {
        let (filters, state) = (&self.filters, &container.state);
        let ended = state.started.is_some() && !state.is_running();
        let health = state.health.as_ref().map(|health| health.status.as_str());
        let network = |wanted: &str| {
            container.endpoints.iter().any(|endpoint| {
                let id = endpoint.network_id.as_ref().map(ToString::to_string).unwrap_or_default();
                endpoint.network == wanted || id.starts_with(wanted)
            })
        };
        let volume = |wanted: &str| {
            let mut mounts = container.mounts.iter();
            mounts.any(|mount| {
                mount.target == wanted
                    || mount
                        .name
                        .as_deref()
                        .map_or(mount.source == Path::new(wanted), |n| n == wanted)
            })
        };
        let slashed = format!("/{}", container.name);
        filters.labels(|key| container.resolved.labels.get(key).map(String::as_str))
            && filters.any("id", |wanted| container.id.starts_with(wanted))
            && (self.names.is_empty()
                || self.names.iter().any(|n| n.is_match(&container.name) || n.is_match(&slashed)))
            && filters.exact("status", state.status.as_str())
            && (self.exited.is_empty() || (ended && self.exited.contains(&state.exit_code)))
            && (self.ancestors.is_empty() || self.ancestors.contains(&container.image))
            && self.before.is_none_or(|before| container.created < before)
            && self.since.is_none_or(|since| container.created > since)
            && filters.any("network", network)
            && filters.any("volume", volume)
            && filters.exact("health", health.unwrap_or("none"))
            && filters.any("is-task", is_false)
            && filters.any("publish", |wanted| published(container, wanted))
            && filters.any("expose", |wanted| exposed(container, wanted))
    }
}

fn names(filters: &Filters) -> Result<Vec<Regex>> {
    let regex = |text: &String| {
        Regex::new(text).map_err(|_| Error::invalid(format!("invalid filter 'name={text}'")))
    };
    filters.values("name").iter().map(regex).collect()
}

fn exit_code(text: &str) -> Result<i32> {
    let wrong = |_| {
        Error::invalid(format!(
            "invalid filter 'exited={text}': strconv.Atoi: parsing \"{text}\": invalid syntax"
        ))
    };
    text.parse().map_err(wrong)
}

/// Finds values that a condition cannot have. `isolation` is for other systems: nothing is left
/// out by it.
fn check(filters: &Filters) -> Result<()> {
    const STATES: &[&str] =
        &["created", "running", "paused", "restarting", "removing", "exited", "dead"];
    const HEALTH: &[&str] = &["none", "starting", "healthy", "unhealthy"];
    for (name, what, known) in [("status", "state", STATES), ("health", "health", HEALTH)] {
        let unknown = filters.values(name).iter().find(|value| !known.contains(&value.as_str()));
        if let Some(value) = unknown {
            return Err(Error::invalid(format!(
                "invalid filter '{name}={value}': invalid value for {what} ({value}): must be one \
                 of {}",
                known.join(", ")
            )));
        }
    }
    filters.flag("is-task")?;
    for name in ["publish", "expose"] {
        for value in filters.values(name) {
            ports::port_range(value)
                .map_err(|_| Error::invalid(format!("invalid filter '{name}={value}'")))?;
        }
    }
    Ok(())
}

fn is_false(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "0" | "f" | "false")
}

/// `publish=8080`, `publish=80/tcp`, ranges: the host's side of a published port.
fn published(container: &Container, wanted: &str) -> bool {
    let Ok(((first, last), protocol)) = ports::port_range(wanted) else { return false };
    let range = first..=last;
    let mut of_protocol = container.ports.iter().filter(|binding| binding.protocol == protocol);
    of_protocol.any(|binding| range.contains(&binding.host_port))
}

fn exposed(container: &Container, wanted: &str) -> bool {
    let Ok(((first, last), protocol)) = ports::port_range(wanted) else { return false };
    let fits = |port: &(u16, _)| port.1 == protocol && (first..=last).contains(&port.0);
    container.resolved.exposed.iter().any(fits)
}
