//! `GET /events`.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::{Stream, stream};
use serde_json::{Value, json};

use super::Api;
use super::body::{self, Response};
use super::filters::Filters;
use super::request::Request;
use super::wire::time::point;
use crate::events::{Event, Subscription};
use engine_error::{Error, Result};

const FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Streams events, remembered ones first.
pub fn stream(api: &Api, request: &Request) -> Result<Response> {
    let filters = Filters::of(&request.query, FILTERS)?;
    let now = Utc::now();
    let time = |name| point(request.query.text(name).unwrap_or_default(), now);
    let (mut since, until) = (time("since")?, time("until")?);
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        let [since, until] =
            ["since", "until"].map(|name| request.query.text(name).unwrap_or_default());
        return Err(Error::invalid(format!(
            "`since` time ({since}) cannot be after `until` time ({until})"
        )));
    }
    // Zero is no time for logs, but the beginning of all for events.
    let all = request.query.text("since") == Some("0");
    if since.is_none() && (all || until.is_some_and(|until| until <= now)) {
        since = Some(DateTime::UNIX_EPOCH);
    }
    let subscription = api.engine.events.subscribe(since);
    Ok(body::json_lines(events(subscription, until, filters)))
}

fn events(
    subscription: Subscription,
    until: Option<DateTime<Utc>>,
    filters: Filters,
) -> impl Stream<Item = Value> + Send + 'static {
    let filters = Arc::new(filters);
    stream::unfold((subscription, filters), move |(mut subscription, filters)| async move {
        loop {
            let event = next(&mut subscription, until).await?;
            if until.is_some_and(|until| event.time > until) {
                return None;
            }
            if accepts(&filters, &event) {
                return Some((wire(&event), (subscription, filters)));
            }
        }
    })
}

/// The next event, or nothing once the time is over.
async fn next(subscription: &mut Subscription, until: Option<DateTime<Utc>>) -> Option<Arc<Event>> {
    if let Some(event) = subscription.next_past() {
        return Some(event);
    }
    let Some(until) = until else { return subscription.next().await };
    let left = until.signed_duration_since(Utc::now()).to_std().ok()?;
    tokio::time::timeout(left, subscription.next()).await.ok().flatten()
}

fn accepts(filters: &Filters, event: &Event) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
    let object = |kind: &str| {
        filters.any(kind, |wanted| {
            event.kind == kind
                && (event.id.starts_with(wanted) || attribute("name") == Some(wanted))
        })
    };
    let image = |wanted: &str| {
        let names = [
            (event.kind == "image").then_some(event.id.as_str()),
            if event.kind == "image" { attribute("name") } else { None },
            if event.kind == "container" { attribute("image") } else { None },
        ];
        names.into_iter().flatten().any(|name| {
            name == wanted
                || name.rsplit_once(':').is_some_and(|(repository, _)| repository == wanted)
        })
    };
    let action =
        |wanted: &str| event.action == wanted || event.action.split(':').next() == Some(wanted);
    filters.exact("type", event.kind)
        && filters.any("event", action)
        && filters.any("image", image)
        && filters.exact("scope", "local")
        && filters.labels(attribute)
        && ["container", "network", "volume", "daemon", "plugin"].into_iter().all(object)
        && !["config", "node", "secret", "service"].iter().any(|kind| filters.has(kind))
}

fn wire(event: &Event) -> Value {
    let nanos = event.time.timestamp_nanos_opt().unwrap_or_default();
    let actor = json!({"ID": event.id, "Attributes": event.attributes});
    let mut value = json!({});
    // What clients older than the fields below read.
    if matches!(event.kind, "container" | "image") {
        value["status"] = json!(event.action);
        value["id"] = json!(event.id);
        if let Some(image) = event.attributes.get("image").filter(|_| event.kind == "container") {
            value["from"] = json!(image);
        }
    }
    value["Type"] = json!(event.kind);
    value["Action"] = json!(event.action);
    value["Actor"] = actor;
    value["scope"] = json!("local");
    value["time"] = json!(event.time.timestamp());
    value["timeNano"] = json!(nanos);
    value
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::query::Query;

    fn event() -> Event {
        Event {
            kind: "container",
            action: "exec_start: sh".to_owned(),
            id: "abc".repeat(21) + "a",
            attributes: BTreeMap::from([
                ("name".to_owned(), "web".to_owned()),
                ("image".to_owned(), "nginx:1".to_owned()),
                ("tier".to_owned(), "front".to_owned()),
            ]),
            time: DateTime::from_timestamp(5, 6).unwrap(),
        }
    }

    #[test]
    fn events_have_old_and_new_fields() {
        let value = wire(&event());
        assert_eq!(value["from"], "nginx:1");
        assert_eq!(value["Actor"]["Attributes"]["name"], "web");
        assert_eq!((&value["time"], &value["timeNano"]), (&json!(5), &json!(5_000_000_006_i64)));
    }

    #[test]
    fn each_filter_chooses_by_its_own_rule() {
        let check = |json: &str, expected: bool| {
            let query = Query::parse(&format!("filters={}", json.replace('=', "%3D")));
            let filters = Filters::of(&query, FILTERS).unwrap();
            assert_eq!(accepts(&filters, &event()), expected, "{json}");
        };
        check(r#"{"type":["container"]}"#, true);
        check(r#"{"type":["network"]}"#, false);
        check(r#"{"event":["exec_start"]}"#, true);
        check(r#"{"event":["start"]}"#, false);
        check(r#"{"container":["web"]}"#, true);
        check(r#"{"container":["abcabc"]}"#, true);
        check(r#"{"network":["web"]}"#, false);
        check(r#"{"image":["nginx"]}"#, true);
        check(r#"{"image":["nginx:1"]}"#, true);
        check(r#"{"image":["redis"]}"#, false);
        check(r#"{"label":["tier=front"]}"#, true);
        check(r#"{"label":["tier=back"]}"#, false);
        check(r#"{"service":["x"]}"#, false);
    }

    #[tokio::test]
    async fn a_window_in_the_past_ends_at_once() {
        let bus = crate::events::Events::default();
        bus.publish("container", "start", "a", BTreeMap::new());
        let subscription = bus.subscribe(Some(DateTime::UNIX_EPOCH));
        let stream = events(subscription, Some(Utc::now()), Filters::default());
        let all: Vec<Value> = futures_util::StreamExt::collect(stream).await;
        assert_eq!(all.len(), 1);
    }
}
