//! `image` and its commands.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::client::{Client, escape, filters};
use super::commands::{HistoryArgs, ImageCommand, ImagePruneArgs, ImagesArgs, RmiArgs, TagArgs};
use super::template::{Format, short, size};
use super::transfer::with_tag;
use super::{Outcome, build, complain, confirmed, inspect, say, transfer, units};

/// `image …`.
pub(crate) async fn command(client: &Client, command: ImageCommand) -> Outcome {
    match command {
        ImageCommand::Build(args) => build::build(client, *args).await,
        ImageCommand::History(args) => history(client, args).await,
        ImageCommand::Import(args) => transfer::import(client, args).await,
        ImageCommand::Inspect(args) => inspect::image(client, args).await,
        ImageCommand::Load(args) => transfer::load(client, args).await,
        ImageCommand::Ls(args) => list(client, args).await,
        ImageCommand::Prune(args) => prune(client, args).await,
        ImageCommand::Pull(args) => transfer::pull(client, args).await,
        ImageCommand::Push(args) => transfer::push(client, args).await,
        ImageCommand::Rm(args) => rm(client, args).await,
        ImageCommand::Save(args) => transfer::save(client, args).await,
        ImageCommand::Tag(args) => tag(client, args).await,
    }
}

/// `tag`.
pub(crate) async fn tag(client: &Client, args: TagArgs) -> Outcome {
    let target = with_tag(&args.target);
    let (name, tag) = target.rsplit_once(':').unwrap_or((&args.target, "latest"));
    let source = escape(&args.source);
    let path = format!("/images/{source}/tag?repo={}&tag={}", escape(name), escape(tag));
    client.post(&path, None).await?;
    Ok(0)
}

/// `rmi`.
pub(crate) async fn rm(client: &Client, args: RmiArgs) -> Outcome {
    let mut code = 0;
    for image in &args.images {
        let query = format!("force={}&noprune={}", u8::from(args.force), u8::from(args.no_prune));
        match client.delete(&format!("/images/{}?{query}", escape(image))).await {
            Ok(removed) => removed.as_array().into_iter().flatten().for_each(|entry| {
                for (key, verb) in [("Untagged", "Untagged"), ("Deleted", "Deleted")] {
                    if let Some(text) = entry[key].as_str() {
                        say(&format!("{verb}: {text}"));
                    }
                }
            }),
            Err(error) if args.force && error.status == Some(404) => complain(&error.message),
            Err(error) => {
                complain(&error.message);
                code = 1;
            }
        }
    }
    Ok(code)
}

/// `images`: a line a name.
pub(crate) async fn list(client: &Client, args: ImagesArgs) -> Outcome {
    let mut flags = args.filter.clone();
    flags.extend(args.repository.as_ref().map(|name| format!("reference={name}")));
    let all = if args.all { "&all=1" } else { "" };
    let answer = client.get(&format!("/images/json?{}{all}", filters(&flags)?)).await?;
    let mut rows = Vec::new();
    for image in answer.as_array().into_iter().flatten() {
        rows.extend(image_rows(image, &args));
    }
    if args.quiet {
        for row in &rows {
            say(row["ID"].as_str().unwrap_or_default());
        }
        return Ok(0);
    }
    let mut columns = vec![("REPOSITORY", "Repository"), ("TAG", "Tag")];
    if args.digests {
        columns.push(("DIGEST", "Digest"));
    }
    columns.extend([("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")]);
    let others = [("CREATED AT", "CreatedAt"), ("DIGEST", "Digest")];
    Format::parse(args.format.as_deref()).print(&columns, &others, &rows)?;
    Ok(0)
}

fn image_rows(image: &Value, args: &ImagesArgs) -> Vec<Value> {
    let strings = |field: &str| -> Vec<String> {
        let list = image[field].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut names = strings("RepoTags");
    if names.is_empty() {
        names.push("<none>:<none>".to_owned());
    }
    let digests: HashMap<_, _> = strings("RepoDigests")
        .iter()
        .filter_map(|digest| digest.split_once('@'))
        .map(|(name, digest)| (name.to_owned(), digest.to_owned()))
        .collect();
    let created = image["Created"].as_i64().unwrap_or_default();
    let at = chrono::DateTime::from_timestamp(created, 0).unwrap_or_default();
    let row = |name: &String| {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
        json!({
            "Repository": repository, "Tag": tag,
            "Digest": digests.get(repository).map_or("<none>", String::as_str),
            "ID": short(image["Id"].as_str().unwrap_or_default(), args.no_trunc),
            "CreatedSince": units::ago(created), "CreatedAt": at.to_string(),
            "Size": size(&image["Size"]), "Containers": "N/A",
        })
    };
    names.iter().map(row).collect()
}

/// `history`.
pub(crate) async fn history(client: &Client, args: HistoryArgs) -> Outcome {
    let answer = client.get(&format!("/images/{}/history", escape(&args.image))).await?;
    let entries = answer.as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    if args.quiet {
        for entry in &entries {
            say(&short(&text(entry, "Id"), args.no_trunc));
        }
        return Ok(0);
    }
    let row = |entry: &Value| {
        let created = entry["Created"].as_i64().unwrap_or_default();
        let at = chrono::DateTime::from_timestamp(created, 0).unwrap_or_default().to_rfc3339();
        let by = text(entry, "CreatedBy").replace('\t', " ");
        let by = if args.no_trunc || by.chars().count() <= 45 {
            by
        } else {
            by.chars().take(44).chain(['…']).collect()
        };
        let bytes = entry["Size"].as_i64().unwrap_or_default();
        json!({
            "ID": short(&text(entry, "Id"), args.no_trunc),
            "CreatedSince": if args.human { units::ago(created) } else { at.clone() },
            "CreatedAt": at, "CreatedBy": by, "Comment": text(entry, "Comment"),
            "Size": if args.human { units::human_size(bytes) } else { bytes.to_string() },
        })
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    let columns = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ];
    Format::parse(args.format.as_deref()).print(&columns, &[("CREATED AT", "CreatedAt")], &rows)?;
    Ok(0)
}

async fn prune(client: &Client, args: ImagePruneArgs) -> Outcome {
    let question = if args.all {
        "WARNING! This will remove all images without at least one container associated to them.\n\
         Are you sure you want to continue?"
    } else {
        "WARNING! This will remove all dangling images.\nAre you sure you want to continue?"
    };
    if !args.prune.force && !confirmed(question) {
        return Ok(0);
    }
    let mut flags = args.prune.filter;
    flags.push(format!("dangling={}", !args.all));
    let answer = client.post(&format!("/images/prune?{}", filters(&flags)?), None).await?;
    let deleted = answer["ImagesDeleted"].as_array().cloned().unwrap_or_default();
    if !deleted.is_empty() {
        say("Deleted Images:");
        for entry in &deleted {
            for (key, verb) in [("Untagged", "untagged"), ("Deleted", "deleted")] {
                if let Some(text) = entry[key].as_str() {
                    say(&format!("{verb}: {text}"));
                }
            }
        }
        say("");
    }
    let space = answer["SpaceReclaimed"].as_i64().unwrap_or_default();
    say(&format!("Total reclaimed space: {}", units::human_size(space)));
    Ok(0)
}
