//! `search`.

use hyper::Method;
use serde_json::{Value, json};

use super::client::{Client, escape, filters, full, good};
use super::commands::SearchArgs;
use super::error::CliError;
use super::template::Format;
use super::{Outcome, credentials};

/// How much of a description is shown.
const SHOWN: usize = 45;

/// `search`: a line a repository, in the order of the index.
pub(crate) async fn search(client: &Client, args: SearchArgs) -> Outcome {
    let mut query = vec![format!("term={}", escape(&args.term))];
    query.extend((args.limit != 0).then(|| format!("limit={}", args.limit)));
    query.extend(Some(filters(&args.filter)?).filter(|filters| !filters.is_empty()));
    let path = format!("/images/search?{}", query.join("&"));
    let index = match args.term.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "",
    };
    let auth = credentials::header_for(&credentials::server(index)).await?;
    let headers = [("x-registry-auth", auth.as_str())];
    let answer = good(client.request(Method::GET, &path, full(""), &headers).await?).await?;
    let bytes = super::client::collect(answer).await?;
    let found: Vec<Value> = serde_json::from_slice(&bytes)
        .map_err(|error| CliError::new(format!("the daemon's answer is not JSON: {error}")))?;
    let rows: Vec<_> = found.iter().map(|one| row(one, args.no_trunc)).collect();
    let columns = [
        ("NAME", "Name"),
        ("DESCRIPTION", "Description"),
        ("STARS", "StarCount"),
        ("OFFICIAL", "IsOfficial"),
    ];
    let others = [("AUTOMATED", "IsAutomated")];
    Format::parse(args.format.as_deref()).print(&columns, &others, &rows)?;
    Ok(0)
}

fn row(one: &Value, whole: bool) -> Value {
    let text = |name: &str| one[name].as_str().unwrap_or_default();
    let mark = |name: &str| if one[name] == true { "[OK]" } else { "" };
    let description = text("description").replace(['\n', '\r'], " ");
    let description = if whole || description.chars().count() <= SHOWN {
        description
    } else {
        description.chars().take(SHOWN - 1).chain(['…']).collect()
    };
    json!({
        "Name": text("name"), "Description": description,
        "StarCount": one["star_count"].as_i64().unwrap_or_default().to_string(),
        "IsOfficial": mark("is_official"), "IsAutomated": mark("is_automated"),
    })
}
