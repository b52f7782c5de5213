//! `swarm` and its commands, and what `node` does with swarms only.

use serde_json::{Value, json};

use super::client::{Client, escape};
use super::commands::{
    NodeNames, NodeUpdateArgs, SwarmCommand, SwarmInitArgs, SwarmJoinArgs, SwarmTokenArgs,
    SwarmUpdateArgs,
};
use super::error::CliError;
use super::{Outcome, complain, create, say, units};

/// `swarm …`.
pub(crate) async fn command(client: &Client, command: SwarmCommand) -> Outcome {
    match command {
        SwarmCommand::Ca => {
            let swarm = client.get("/swarm").await?;
            say(swarm["TLSInfo"]["TrustRoot"].as_str().unwrap_or_default().trim_end());
            Ok(0)
        }
        SwarmCommand::Init(args) => init(client, args).await,
        SwarmCommand::Join(args) => join(client, args).await,
        SwarmCommand::JoinToken(args) => token(client, args).await,
        SwarmCommand::Leave(args) => {
            client.post(&format!("/swarm/leave?force={}", u8::from(args.force)), None).await?;
            say("Node left the swarm.");
            Ok(0)
        }
        SwarmCommand::Update(args) => update(client, args).await,
    }
}

async fn init(client: &Client, args: SwarmInitArgs) -> Outcome {
    let mut spec = json!({});
    if let Some(text) = &args.cert_expiry {
        spec["CAConfig"] = json!({"NodeCertExpiry": nanos(text)?});
    }
    let body = json!({
        "ListenAddr": args.listen_addr, "Spec": spec,
        "AdvertiseAddr": args.advertise_addr.unwrap_or_default(),
        "Availability": args.availability, "ForceNewCluster": args.force_new_cluster,
    });
    let node = client.post("/swarm/init", Some(&body)).await.map_err(advised)?;
    let node = node.as_str().unwrap_or_default();
    say(&format!("Swarm initialized: current node ({node}) is now a manager.\n"));
    tell_how(client, "worker").await?;
    say("To add a manager to this swarm, run 'rnet swarm join-token manager' and follow the \
         instructions.");
    Ok(0)
}

/// What to do about an address that cannot be found is said by the client, as by Docker's.
fn advised(mut error: CliError) -> CliError {
    const OF_ADDRESSES: [&str; 2] =
        ["could not choose an IP address to advertise", "could not find the system's IP address"];
    if OF_ADDRESSES.iter().any(|text| error.message.contains(text)) {
        error.message += " - specify one with --advertise-addr";
    }
    error
}

async fn join(client: &Client, args: SwarmJoinArgs) -> Outcome {
    let body = json!({
        "ListenAddr": args.listen_addr, "AdvertiseAddr": args.advertise_addr.unwrap_or_default(),
        "RemoteAddrs": [args.manager], "JoinToken": args.token,
        "Availability": args.availability,
    });
    client.post("/swarm/join", Some(&body)).await?;
    let info = client.get("/info").await?;
    let manager = info["Swarm"]["ControlAvailable"].as_bool() == Some(true);
    let role = if manager { "manager" } else { "worker" };
    say(&format!("This node joined a swarm as a {role}."));
    Ok(0)
}

async fn token(client: &Client, args: SwarmTokenArgs) -> Outcome {
    if args.rotate {
        let swarm = client.get("/swarm").await?;
        let which = if args.role == "worker" { "rotateWorkerToken" } else { "rotateManagerToken" };
        let path = format!("/swarm/update?version={}&{which}=true", swarm["Version"]["Index"]);
        client.post(&path, Some(&swarm["Spec"])).await?;
        if !args.quiet {
            say(&format!("Successfully rotated {} join token.\n", args.role));
        }
    }
    if args.quiet {
        say(&token_of(client, &args.role).await?);
        return Ok(0);
    }
    tell_how(client, &args.role).await.map(|()| 0)
}

async fn token_of(client: &Client, role: &str) -> Result<String, CliError> {
    let swarm = client.get("/swarm").await?;
    let kind = if role == "worker" { "Worker" } else { "Manager" };
    Ok(swarm["JoinTokens"][kind].as_str().unwrap_or_default().to_owned())
}

/// How others join.
async fn tell_how(client: &Client, role: &str) -> Result<(), CliError> {
    let token = token_of(client, role).await?;
    let node = client.get("/nodes/self").await?;
    let manager = node["ManagerStatus"]["Addr"].as_str().unwrap_or_default();
    say(&format!("To add a {role} to this swarm, run the following command:\n"));
    say(&format!("    rnet swarm join --token {token} {manager}\n"));
    Ok(())
}

async fn update(client: &Client, args: SwarmUpdateArgs) -> Outcome {
    let mut swarm = client.get("/swarm").await?;
    swarm["Spec"]["CAConfig"]["NodeCertExpiry"] = json!(nanos(&args.cert_expiry)?);
    let path = format!("/swarm/update?version={}", swarm["Version"]["Index"]);
    client.post(&path, Some(&swarm["Spec"])).await?;
    say("Swarm updated.");
    Ok(0)
}

fn nanos(text: &str) -> Result<u64, CliError> {
    let nanos = units::go_duration(text).and_then(|nanos| u64::try_from(nanos).ok());
    nanos.ok_or_else(|| CliError::new(format!("{text} is no duration, such as 2160h")))
}

/// `node promote` and `node demote`.
pub(crate) async fn make(client: &Client, nodes: NodeNames, role: &str) -> Outcome {
    let mut code = 0;
    for name in &nodes.names {
        let changed = change(client, name, |spec| {
            let same = spec["Role"] == role;
            spec["Role"] = json!(role);
            !same
        });
        let done = if role == "manager" { "promoted to a manager" } else { "demoted" };
        match changed.await {
            Ok(true) => say(&format!("Node {name} {done} in the swarm.")),
            Ok(false) => say(&format!("Node {name} is already a {role}.")),
            Err(error) => {
                complain(&error.message);
                code = 1;
            }
        }
    }
    Ok(code)
}

/// `node update`.
pub(crate) async fn update_node(client: &Client, args: NodeUpdateArgs) -> Outcome {
    let added = create::pairs(&args.label_add);
    change(client, &args.name, |spec| {
        if let Some(role) = &args.role {
            spec["Role"] = json!(role);
        }
        if let Some(availability) = &args.availability {
            spec["Availability"] = json!(availability);
        }
        if let (Some(labels), Some(added)) = (spec["Labels"].as_object_mut(), added.as_object()) {
            labels.extend(added.clone());
            labels.retain(|key, _| !args.label_rm.contains(key));
        }
        true
    })
    .await?;
    say(&args.name);
    Ok(0)
}

/// Changes a node's specification. Whether there was something to change.
async fn change(
    client: &Client,
    name: &str,
    change: impl FnOnce(&mut Value) -> bool,
) -> Result<bool, CliError> {
    let mut node = client.get(&format!("/nodes/{}", escape(name))).await?;
    if !change(&mut node["Spec"]) {
        return Ok(false);
    }
    let id = node["ID"].as_str().unwrap_or_default();
    let path = format!("/nodes/{id}/update?version={}", node["Version"]["Index"]);
    client.post(&path, Some(&node["Spec"])).await?;
    Ok(true)
}
