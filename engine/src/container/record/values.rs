//! The forms of what is one value wherever it stands.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::form::Form;

/// What the model shares between its copies is written as what it is.
#[derive(Default)]
pub(super) struct Shared(Arc<Value>);

impl Form<Arc<Value>> for Shared {
    fn of(model: Arc<Value>) -> Self {
        Self(model)
    }

    fn model(self) -> Arc<Value> {
        self.0
    }
}

impl Serialize for Shared {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Shared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|value| Self(Arc::new(value)))
    }
}

/// A mode in Docker's words.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Word(String);

/// Docker's words for a mode are its text.
impl<M: From<String> + Into<String>> Form<M> for Word {
    fn of(model: M) -> Self {
        Self(model.into())
    }

    fn model(self) -> M {
        self.0.into()
    }
}
