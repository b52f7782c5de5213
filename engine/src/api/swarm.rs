//! `/swarm`, and what of swarm mode there is not: services, tasks, secrets, configs.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::{Value, json};

use super::Api;
use super::body::{self, Response};
use super::error::page_not_found;
use super::request::Request;
use super::wire::swarm as wire;
use engine_error::{Error, Kind, Result};
use swarm::Role;
use swarm::node::Rotate;

/// How long `/info` waits for the swarm.
const GLANCE: Duration = Duration::from_secs(2);

/// Everything below `/swarm`.
pub async fn dispatch(api: &Api, path: &[&str], request: Request) -> Result<Response> {
    match (request.method.as_str(), path) {
        ("GET", []) => inspect(api).await,
        ("POST", ["init"]) => Box::pin(init(api, request)).await,
        ("POST", ["join"]) => join(api, request).await,
        ("POST", ["leave"]) => leave(api, &request).await,
        ("POST", ["update"]) => update(api, request).await,
        ("GET", ["unlockkey"]) => {
            api.engine.swarm.node.authority()?;
            Ok(body::json(&json!({"UnlockKey": ""})))
        }
        ("POST", ["unlock"]) => {
            api.engine.swarm.node.authority()?;
            Err(Error::conflict("swarm is not locked"))
        }
        _ => Err(page_not_found()),
    }
}

/// What is run on many nodes is not there: there are none of it, and none can be made.
pub fn without(api: &Api, noun: &str, method: &str, path: &[&str]) -> Result<Response> {
    // Who cannot be asked says so first.
    api.engine.swarm.node.authority()?;
    match (method, path) {
        ("GET", []) => Ok(body::json(&json!([]))),
        ("POST", ["create"]) => Err(Error::new(
            Kind::NotImplemented,
            format!(
                "{noun} are not supported: networks are what nodes share; run containers on them by \
                 `docker run` on each node, with --network and an attachable overlay network"
            ),
        )),
        (_, [key, ..]) => {
            let one = noun.trim_end_matches('s');
            Err(Error::not_found(format!("{one} {key} not found")))
        }
        _ => Err(page_not_found()),
    }
}

/// `PUT /volumes/{name}`, which is of volumes that a whole swarm has.
pub fn update_volume(api: &Api) -> Result<Response> {
    const NONE: &str = "volume update only valid for cluster volumes, but swarm is unavailable";
    without_volumes(api).map_err(|error| match error.kind() {
        Kind::Unavailable => Error::new(Kind::Unavailable, NONE),
        _ => error,
    })
}

/// Volumes that a whole swarm has.
pub fn without_volumes(api: &Api) -> Result<Response> {
    api.engine.swarm.node.authority()?;
    Err(Error::new(Kind::NotImplemented, "cluster volumes are not supported"))
}

/// `GET /swarm`.
async fn inspect(api: &Api) -> Result<Response> {
    let node = &api.engine.swarm.node;
    let records = node.records().await?;
    let swarm = records.swarm()?;
    let tokens = node.tokens(&swarm.record)?;
    Ok(body::json(&wire::swarm(swarm, &node.authority()?, &tokens)?))
}

/// `POST /swarm/init`.
async fn init(api: &Api, request: Request) -> Result<Response> {
    let beginning = request.json::<wire::Init>().await?.beginning()?;
    let node = api.engine.swarm.init(&beginning).await?;
    Ok(body::json(&json!(node)))
}

/// `POST /swarm/join`.
async fn join(api: &Api, request: Request) -> Result<Response> {
    let joining = request.json::<wire::Join>().await?.joining()?;
    api.engine.swarm.join(&joining).await?;
    Ok(body::empty(StatusCode::OK))
}

/// `POST /swarm/leave`.
async fn leave(api: &Api, request: &Request) -> Result<Response> {
    api.engine.swarm.leave(request.query.flag("force")).await?;
    Ok(body::empty(StatusCode::OK))
}

/// `POST /swarm/update`.
async fn update(api: &Api, request: Request) -> Result<Response> {
    let node = &api.engine.swarm.node;
    let version = version(&request, "swarm")?;
    node.authority()?;
    let rotate = Rotate {
        worker: request.query.flag("rotateWorkerToken"),
        manager: request.query.flag("rotateManagerToken"),
    };
    let spec: wire::Spec = request.json().await?;
    node.update(version, rotate, |swarm| spec.apply(swarm)).await?;
    Ok(body::empty(StatusCode::OK))
}

/// The version of what is to be changed, as the client knows it.
pub fn version(request: &Request, noun: &str) -> Result<i64> {
    let text = request.query.text("version").unwrap_or_default();
    text.parse().map_err(|_| {
        Error::invalid(format!(
            "invalid {noun} version '{text}': strconv.ParseUint: parsing \"{text}\": invalid syntax"
        ))
    })
}

/// `Swarm` of `GET /info`.
pub async fn info(api: &Api) -> Value {
    let swarm = &api.engine.swarm;
    let standing = swarm.standing();
    let Some(enrolment) = standing.enrolment else {
        let problem = standing.problem.filter(|_| standing.unreadable);
        return wire::none(problem.as_deref());
    };
    let manager = enrolment.role == Role::Manager;
    let managers = enrolment.state.managers.iter();
    let managers: Vec<_> =
        managers.map(|manager| json!({"NodeID": manager.node, "Addr": manager.address})).collect();
    let mut shown = json!({
        "NodeID": enrolment.state.node,
        "NodeAddr": enrolment.state.address,
        "LocalNodeState": "active",
        "ControlAvailable": manager,
        "Error": standing.problem.unwrap_or_default(),
        "RemoteManagers": managers,
    });
    if manager && let Err(error) = add_cluster(swarm, &mut shown).await {
        shown["Error"] = json!(error.chain());
    }
    shown
}

/// What a manager knows of the whole swarm.
async fn add_cluster(swarm: &Arc<crate::swarm::Swarm>, shown: &mut Value) -> Result<()> {
    let silent = |_| Error::new(Kind::Unavailable, "the swarm's store does not answer");
    let records = tokio::time::timeout(GLANCE, swarm.node.records()).await.map_err(silent)??;
    let managers = records.nodes.values().filter(|node| node.record.role == Role::Manager);
    shown["Managers"] = json!(managers.count());
    shown["Nodes"] = json!(records.nodes.len());
    shown["Cluster"] = wire::cluster(records.swarm()?, &swarm.node.authority()?)?;
    Ok(())
}

/// The header of a ping.
pub fn header(api: &Api) -> HeaderValue {
    let standing = api.engine.swarm.standing();
    let role = standing.enrolment.as_ref().map(|enrolment| enrolment.role);
    HeaderValue::from_static(match role {
        None if standing.unreadable => "error",
        None => "inactive",
        Some(Role::Manager) => "active/manager",
        Some(Role::Worker) => "active/worker",
    })
}
