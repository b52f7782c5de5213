//! `filters=`: conditions on what is listed, pruned or told.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::query::Query;
use engine_error::{Error, Result};

/// Conditions by name. Values of one name are alternatives, names are all to be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads the parameter `filters`; every name must be one of `allowed`.
    pub fn of(query: &Query, allowed: &[&str]) -> Result<Self> {
        let filters = query.text("filters").map_or_else(|| Ok(Self::default()), Self::parse)?;
        match filters.0.keys().find(|name| !allowed.contains(&name.as_str())) {
            Some(name) => Err(Error::invalid(format!("invalid filter '{name}'"))),
            None => Ok(filters),
        }
    }

    /// Both shapes that clients send: `{"label":{"a=b":true}}` and `{"label":["a=b"]}`.
    fn parse(text: &str) -> Result<Self> {
        let invalid = || Error::invalid("invalid filter");
        let value: Value = serde_json::from_str(text).map_err(|_| invalid())?;
        let entries = match value {
            Value::Null => return Ok(Self::default()),
            Value::Object(entries) => entries,
            _ => return Err(invalid()),
        };
        // All of them have the same shape.
        let sets = entries.values().all(|value| value.is_object() || value.is_null());
        let values = |value: Value| match value {
            Value::Null => Some(Vec::new()),
            Value::Array(values) => values.iter().map(plain).collect::<Option<Vec<_>>>(),
            Value::Object(set) if sets => set
                .into_iter()
                .map(|(name, is)| (is.is_boolean() || is.is_null()).then_some(name))
                .collect(),
            _ => None,
        };
        let entries = entries.into_iter().map(|(name, value)| Some((name, values(value)?)));
        entries.collect::<Option<_>>().map(Self).ok_or_else(invalid)
    }

    /// The alternatives of a name.
    pub fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether there is a condition of this name.
    pub fn has(&self, name: &str) -> bool {
        !self.values(name).is_empty()
    }

    /// All of them, as the engine takes them.
    pub fn into_map(self) -> BTreeMap<String, Vec<String>> {
        self.0
    }

    /// Whether one of the alternatives is this value, or there are none.
    pub fn exact(&self, name: &str, value: &str) -> bool {
        !self.has(name) || self.values(name).iter().any(|wanted| wanted == value)
    }

    /// Whether one of the alternatives passes, or there are none.
    pub fn any(&self, name: &str, test: impl Fn(&str) -> bool) -> bool {
        !self.has(name) || self.values(name).iter().any(|wanted| test(wanted))
    }

    /// Whether one of the alternatives is this value or a regular expression that finds itself in
    /// it, or there are none.
    pub fn matches(&self, name: &str, value: &str) -> bool {
        self.any(name, |wanted| {
            wanted == value || Regex::new(wanted).is_ok_and(|regex| regex.is_match(value))
        })
    }

    /// Whether the labels have all of `label` and none of `label!`.
    pub fn labels<'a>(&self, labels: impl Fn(&str) -> Option<&'a str>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels(key) == Some(value),
            None => labels(wanted).is_some(),
        };
        self.values("label").iter().all(has) && !self.values("label!").iter().any(has)
    }

    /// A condition that is a boolean: `dangling=true`.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        let all = self.values(name);
        if all.is_empty() {
            return Ok(None);
        }
        let has = |words: [&str; 2]| all.iter().any(|value| words.contains(&value.as_str()));
        match (has(["1", "true"]), has(["0", "false"])) {
            (true, false) => Ok(Some(true)),
            (false, true) => Ok(Some(false)),
            _ => Err(Error::invalid(format!("invalid filter '{name}=[{}]'", all.join(" ")))),
        }
    }

    /// The value of a condition that may be given once only.
    pub fn once(&self, name: &str) -> Result<Option<&str>> {
        match self.values(name) {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(Error::invalid(format!("more than one {name} filter specified"))),
        }
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null => Some(String::new()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(json: &str) -> Result<Filters> {
        let encoded = json.replace('=', "%3D").replace('"', "%22");
        Filters::of(
            &Query::parse(&format!("filters={encoded}")),
            &["label", "label!", "name", "dangling"],
        )
    }

    #[test]
    fn both_shapes_say_the_same() {
        let set = filters(r#"{"label":{"a=b":true}}"#).unwrap();
        assert_eq!(set, filters(r#"{"label":["a=b"]}"#).unwrap());
        assert_eq!(set.values("label"), ["a=b"]);
    }

    #[test]
    fn an_unknown_filter_is_named() {
        let error = filters(r#"{"bogus":["1"]}"#).unwrap_err();
        assert_eq!(error.to_string(), "invalid filter 'bogus'");
        assert!(filters("{").is_err());
        assert!(filters("[]").is_err());
    }

    #[test]
    fn null_is_no_condition() {
        let none = filters("{}").unwrap();
        for json in ["null", r#"{"name":null}"#, r#"{"name":[]}"#, r#"{"name":{}}"#] {
            let filters = filters(json).unwrap();
            assert_eq!(filters.matches("name", "x"), none.matches("name", "x"), "{json}");
        }
        let set = filters(r#"{"label":{"a=b":null}}"#).unwrap();
        assert_eq!(set.values("label"), ["a=b"]);
    }

    #[test]
    fn shapes_are_not_mixed_and_values_are_texts() {
        for json in [
            r#"{"name":["a"],"label":{"b":true}}"#,
            r#"{"name":"a"}"#,
            r#"{"name":5}"#,
            r#"{"name":[5]}"#,
            r#"{"name":{"a":{}}}"#,
            "[]",
            "x",
        ] {
            assert_eq!(filters(json).unwrap_err().to_string(), "invalid filter", "{json}");
        }
    }

    #[test]
    fn a_condition_is_true_or_false_and_not_both() {
        let check = |json: &str| filters(json).unwrap().flag("dangling");
        assert_eq!(check(r#"{"dangling":["1"]}"#).unwrap(), Some(true));
        assert_eq!(check(r#"{"dangling":{"false":true}}"#).unwrap(), Some(false));
        assert_eq!(check("{}").unwrap(), None);
        for (json, told) in [(r#"["x"]"#, "[x]"), (r#"["1","false"]"#, "[1 false]")] {
            let error = check(&format!("{{\"dangling\":{json}}}")).unwrap_err().to_string();
            assert_eq!(error, format!("invalid filter 'dangling={told}'"));
        }
    }

    #[test]
    fn labels_must_all_be_there() {
        let labels = |key: &str| (key == "a").then_some("b");
        let check = |json: &str| filters(json).unwrap().labels(labels);
        assert!(check(r#"{"label":["a"]}"#));
        assert!(check(r#"{"label":["a=b"]}"#));
        assert!(!check(r#"{"label":["a=c"]}"#));
        assert!(!check(r#"{"label":["a","x"]}"#));
        assert!(!check(r#"{"label!":["a"]}"#));
    }

    #[test]
    fn names_are_regular_expressions() {
        let check = |json: &str, value| filters(json).unwrap().matches("name", value);
        assert!(check(r#"{"name":["we"]}"#, "web"));
        assert!(!check(r#"{"name":["^eb"]}"#, "web"));
        assert!(check(r#"{"name":["x","^w"]}"#, "web"));
        assert!(check("{}", "web"));
    }
}
