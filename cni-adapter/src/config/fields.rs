//! A JSON object whose errors name the key.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::result::Failure;

/// An object, and what it is called; one that is missing has no keys.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    path: String,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    /// The outermost object.
    pub(super) fn of(name: &str, value: &'a Value) -> Result<Self, Failure> {
        let map = value.as_object();
        let map = map.ok_or_else(|| Failure::invalid(format!("{name} is not a JSON object")))?;
        Ok(Self { path: String::new(), map: Some(map) })
    }

    /// The object under a key.
    pub(super) fn inner(&self, key: &str) -> Result<Self, Failure> {
        let path = self.path(key);
        let Some(value) = self.value(key) else { return Ok(Self { path, map: None }) };
        let map = value.as_object();
        let map = map.ok_or_else(|| Failure::invalid(format!("{path} is not a JSON object")))?;
        Ok(Self { path, map: Some(map) })
    }

    /// What is under a key. `null` is nothing.
    pub(super) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let wrong = |error| Failure::invalid(format!("{}: {error}", self.path(key)));
        T::deserialize(value).map(Some).map_err(wrong)
    }

    /// A text. An empty one is nothing.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, Failure> {
        Ok(self.get::<String>(key)?.filter(|text| !text.is_empty()))
    }

    /// A boolean that is usually false.
    pub(super) fn flag(&self, key: &str) -> Result<bool, Failure> {
        Ok(self.get(key)?.unwrap_or_default())
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}
