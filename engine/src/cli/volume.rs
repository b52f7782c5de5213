//! `volume` and its commands.

use serde_json::{Value, json};

use super::client::{Client, escape, filters};
use super::commands::{
    NetworkRmArgs, VolumeCommand, VolumeCreateArgs, VolumeLsArgs, VolumePruneArgs,
};
use super::template::Format;
use super::{Outcome, confirmed, create, for_each, inspect, say, units};

/// `volume …`.
pub(crate) async fn command(client: &Client, command: VolumeCommand) -> Outcome {
    match command {
        VolumeCommand::Create(args) => create_volume(client, args).await,
        VolumeCommand::Inspect(args) => inspect::volume(client, args).await,
        VolumeCommand::Ls(args) => list(client, args).await,
        VolumeCommand::Prune(args) => prune(client, args).await,
        VolumeCommand::Rm(args) => rm(client, args).await,
    }
}

async fn create_volume(client: &Client, args: VolumeCreateArgs) -> Outcome {
    let body = json!({
        "Name": args.name.unwrap_or_default(), "Driver": args.driver,
        "DriverOpts": create::pairs(&args.opt), "Labels": create::pairs(&args.label),
    });
    let created = client.post("/volumes/create", Some(&body)).await?;
    say(created["Name"].as_str().unwrap_or_default());
    Ok(0)
}

async fn list(client: &Client, args: VolumeLsArgs) -> Outcome {
    let answer = client.get(&format!("/volumes?{}", filters(&args.filter)?)).await?;
    let mut rows: Vec<Value> = answer["Volumes"].as_array().cloned().unwrap_or_default();
    rows.sort_by_key(|row| row["Name"].as_str().unwrap_or_default().to_owned());
    if args.quiet {
        for row in &rows {
            say(row["Name"].as_str().unwrap_or_default());
        }
        return Ok(0);
    }
    let columns = [("DRIVER", "Driver"), ("VOLUME NAME", "Name")];
    Format::parse(super::preferences::format(args.format.clone(), "volumesFormat").as_deref())
        .print(&columns, &[], &rows)?;
    Ok(0)
}

async fn rm(client: &Client, args: NetworkRmArgs) -> Outcome {
    let force = u8::from(args.force);
    for_each(&args.names, async |name| {
        client.delete(&format!("/volumes/{}?force={force}", escape(name))).await?;
        Ok(name.to_owned())
    })
    .await
}

async fn prune(client: &Client, args: VolumePruneArgs) -> Outcome {
    let which = if args.all { "all" } else { "anonymous" };
    let question = format!(
        "WARNING! This will remove {which} local volumes not used by at least one container.\n\
         Are you sure you want to continue?"
    );
    if !args.prune.force && !confirmed(&question) {
        return Ok(0);
    }
    let mut flags = args.prune.filter;
    if args.all {
        flags.push("all=true".to_owned());
    }
    let answer = client.post(&format!("/volumes/prune?{}", filters(&flags)?), None).await?;
    let deleted = answer["VolumesDeleted"].as_array().cloned().unwrap_or_default();
    if !deleted.is_empty() {
        say("Deleted Volumes:");
        for name in &deleted {
            say(name.as_str().unwrap_or_default());
        }
        say("");
    }
    let space = answer["SpaceReclaimed"].as_i64().unwrap_or_default();
    say(&format!("Total reclaimed space: {}", units::human_size(space)));
    Ok(0)
}
