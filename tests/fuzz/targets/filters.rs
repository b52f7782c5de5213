//! Queries with `filters=`: what is taken can be asked about anything, and says the same in its other
//! shape.
#![no_main]

use engine::api::filters::Filters;
use engine::api::query::Query;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

const ALLOWED: [&str; 7] = ["label", "label!", "name", "id", "status", "dangling", "until"];

fuzz_target!(|text: &str| {
    let query = Query::parse(text);
    let _ = (query.flag("all"), query.number::<i64>("limit"), query.all("names"));
    let Ok(filters) = Filters::of(&query, &ALLOWED) else { return };
    for name in ALLOWED {
        for value in ["", "web", "a=b", "\u{1F980}"] {
            let exact = filters.exact(name, value);
            assert!(!exact || filters.any(name, |wanted| wanted == value) || !filters.has(name));
            // A text finds itself.
            assert!(!exact || filters.matches(name, value));
        }
        let _ = filters.flag(name);
    }
    let _ = filters.labels(|key| (key == "a").then_some("b"));
    let set = filters.clone().into_map().into_iter().map(|(name, values)| {
        let values: Map<String, Value> =
            values.into_iter().map(|value| (value, Value::Bool(true))).collect();
        (name, Value::Object(values))
    });
    let set = Value::Object(set.collect()).to_string();
    let encoded: String = set.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let again = Filters::of(&Query::parse(&format!("filters={encoded}")), &ALLOWED);
    let again = again.expect("what was understood is understood again").into_map();
    for (name, values) in again {
        assert!(values.iter().all(|value| filters.values(&name).contains(value)));
    }
});
