//! `image` and its commands.

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
    Format::parse(super::preferences::format(args.format.clone(), "imagesFormat").as_deref())
        .print(&columns, &others, &rows)?;
    Ok(0)
}

/// A row for each name of an image, and where digests are shown for each of those.
fn image_rows(image: &Value, args: &ImagesArgs) -> Vec<Value> {
    let created = image["Created"].as_i64().unwrap_or_default();
    let at = chrono::DateTime::from_timestamp(created, 0).unwrap_or_default();
    let at = at.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S %z %Z").to_string();
    let row = |(repository, tag, digest): (String, String, String)| {
        json!({
            "Repository": repository, "Tag": tag, "Digest": digest,
            "ID": short(image["Id"].as_str().unwrap_or_default(), args.no_trunc),
            "CreatedSince": units::ago(created), "CreatedAt": at,
            "Size": size(&image["Size"]), "Containers": "N/A", "SharedSize": "N/A",
            "UniqueSize": "N/A",
        })
    };
    let with_digests =
        args.digests || args.format.as_deref().is_some_and(|text| text.contains(".Digest"));
    names(image, with_digests).into_iter().map(row).collect()
}

/// Repository, tag and digest of each row. A repository without a tag here is shown by its digest.
fn names(image: &Value, with_digests: bool) -> Vec<(String, String, String)> {
    const NONE: &str = "<none>";
    let split = |field: &str, separator: char| -> Vec<(String, String)> {
        let list = image[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        let pairs = list.filter_map(|name| name.rsplit_once(separator));
        pairs.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
    };
    let (tags, digests) = (split("RepoTags", ':'), split("RepoDigests", '@'));
    let mut rows = Vec::new();
    for (repository, tag) in &tags {
        let of = digests.iter().filter(|(name, _)| with_digests && name == repository);
        let before = rows.len();
        rows.extend(of.map(|(_, digest)| (repository.clone(), tag.clone(), digest.clone())));
        if rows.len() == before {
            rows.push((repository.clone(), tag.clone(), NONE.to_owned()));
        }
    }
    for (repository, digest) in &digests {
        if tags.iter().any(|(name, _)| name == repository) {
            continue;
        }
        let digest = if with_digests { digest.clone() } else { NONE.to_owned() };
        let row = (repository.clone(), NONE.to_owned(), digest);
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    if rows.is_empty() {
        rows.push((NONE.to_owned(), NONE.to_owned(), NONE.to_owned()));
    }
    rows
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(tags: &[&str], digests: &[&str], with_digests: bool) -> Vec<String> {
        let image = json!({"RepoTags": tags, "RepoDigests": digests});
        let rows = names(&image, with_digests).into_iter();
        rows.map(|(name, tag, digest)| format!("{name} {tag} {digest}")).collect()
    }

    #[test]
    fn an_image_has_a_row_for_each_name_and_digest() {
        let tags = ["a:1", "r:5000/b:2"];
        let digests = ["a@sha256:1", "a@sha256:2", "c@sha256:3"];
        let plain = ["a 1 <none>", "r:5000/b 2 <none>", "c <none> <none>"];
        assert_eq!(rows(&tags, &digests, false), plain);
        let all = ["a 1 sha256:1", "a 1 sha256:2", "r:5000/b 2 <none>", "c <none> sha256:3"];
        assert_eq!(rows(&tags, &digests, true), all);
        assert_eq!(rows(&[], &[], true), ["<none> <none> <none>"]);
    }
}
