//! `events`.

use std::fmt::Write as _;

use chrono::SecondsFormat;
use hyper::Method;
use serde_json::Value;

use super::client::{Client, documents, filters};
use super::commands::EventsArgs;
use super::{Outcome, say, template, units};

/// `events`: a line an event, until interrupted or `--until`.
pub(crate) async fn events(client: &Client, args: EventsArgs) -> Outcome {
    let mut query = vec![filters(&args.filter)?];
    for (key, value) in [("since", &args.since), ("until", &args.until)] {
        if let Some(value) = value {
            query.push(format!("{key}={}", units::timestamp(value)?));
        }
    }
    query.retain(|part| !part.is_empty());
    let path = format!("/events?{}", query.join("&"));
    let response = client.checked(Method::GET, &path, None).await?;
    documents(response, |event| {
        match args.format.as_deref() {
            None | Some("") => say(&line(&event)),
            Some(format) => say(&template::document(format, &event)?),
        }
        Ok(())
    })
    .await?;
    Ok(0)
}

/// `2026-01-02T03:04:05.000000000Z container start <id> (image=x, name=y)`.
fn line(event: &Value) -> String {
    let nanos = event["timeNano"].as_i64().unwrap_or_default();
    let time = chrono::DateTime::from_timestamp_nanos(nanos);
    let time = time.with_timezone(&chrono::Local).to_rfc3339_opts(SecondsFormat::Nanos, true);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let actor = &event["Actor"];
    let mut attributes: Vec<_> = actor["Attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", text(value)))
        .collect();
    attributes.sort();
    let mut line = format!(
        "{time} {} {} {}",
        text(&event["Type"]),
        text(&event["Action"]),
        text(&actor["ID"])
    );
    if !attributes.is_empty() {
        let _ = write!(line, " ({})", attributes.join(", "));
    }
    line
}
