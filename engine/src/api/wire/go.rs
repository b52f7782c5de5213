//! JSON as Go's `encoding/json` reads it, because that is what clients were written against.
//!
//! Keys match without regard to case, `null` leaves a field as it was (its default), unknown keys
//! are ignored. serde does the rest.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// Reads a value by Go's rules. The type's fields need `#[serde(default)]`.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    T::deserialize(Go(value))
}

/// A value that is read by Go's rules.
struct Go(Value);

impl serde::de::IntoDeserializer<'_, Error> for Go {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl Go {
    fn entries<'de, V: Visitor<'de>>(
        entries: impl Iterator<Item = (String, Value)>,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(MapDeserializer::new(entries.map(|(key, value)| (key, Self(value)))))
    }
}

/// `null` becomes the zero value of what is expected.
macro_rules! null_is_zero {
    ($($method:ident => $visit:ident($zero:expr);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0 {
                Value::Null => visitor.$visit($zero),
                value => value.$method(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Go {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Self)))
            }
            Value::Object(map) => Self::entries(map.into_iter(), visitor),
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            value => visitor.visit_some(Self(value)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<Self>())),
            value => Self(value).deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => Self::entries(std::iter::empty(), visitor),
            value => Self(value).deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => Self::entries(std::iter::empty(), visitor),
            Value::Object(map) => Self::entries(known(map, fields), visitor),
            value => value.deserialize_struct(name, fields, visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    null_is_zero! {
        deserialize_bool => visit_bool(false);
        deserialize_i8 => visit_i8(0);
        deserialize_i16 => visit_i16(0);
        deserialize_i32 => visit_i32(0);
        deserialize_i64 => visit_i64(0);
        deserialize_u8 => visit_u8(0);
        deserialize_u16 => visit_u16(0);
        deserialize_u32 => visit_u32(0);
        deserialize_u64 => visit_u64(0);
        deserialize_f32 => visit_f32(0.0);
        deserialize_f64 => visit_f64(0.0);
        deserialize_str => visit_borrowed_str("");
        deserialize_string => visit_borrowed_str("");
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// The entries that are fields, under the fields' own spelling, each once (the last wins).
fn known(
    map: serde_json::Map<String, Value>,
    fields: &'static [&'static str],
) -> impl Iterator<Item = (String, Value)> {
    let mut found: Vec<(String, Value)> = Vec::new();
    for (key, value) in map.into_iter().filter(|(_, value)| !value.is_null()) {
        let exact = fields.iter().find(|field| **field == key);
        let field = exact.or_else(|| fields.iter().find(|field| field.eq_ignore_ascii_case(&key)));
        let Some(field) = field else { continue };
        match found.iter_mut().find(|(name, _)| name == field) {
            Some(entry) => entry.1 = value,
            None => found.push(((*field).to_owned(), value)),
        }
    }
    found.into_iter()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::TestRunner;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    /// Fields that are maps: a key of theirs with `null` is not a key left out.
    const MAPS: &[&str] = &[
        "Annotations",
        "AuxiliaryAddresses",
        "Config",
        "DriverOpts",
        "EndpointsConfig",
        "ExposedPorts",
        "Labels",
        "Options",
        "PortBindings",
        "StorageOpt",
        "Sysctls",
        "Tmpfs",
        "Volumes",
    ];

    /// The JSON pointers of all fields of a request.
    fn fields(value: &Value, path: &str, is_map: bool, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (name, inner) in map {
                    let path = format!("{path}/{}", name.replace('/', "~1"));
                    if !is_map {
                        found.push(path.clone());
                    }
                    let inner_is_map =
                        !is_map && inner.is_object() && MAPS.contains(&name.as_str());
                    fields(inner, &path, inner_is_map, found);
                }
            }
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    fields(item, &format!("{path}/{at}"), false, found);
                }
            }
            _ => {}
        }
    }

    fn without(request: &Value, path: &str) -> Value {
        let mut request = request.clone();
        let (parent, name) = path.rsplit_once('/').unwrap();
        if let Some(Value::Object(map)) = request.pointer_mut(parent) {
            map.remove(&name.replace("~1", "/"));
        }
        request
    }

    fn with_null(request: &Value, path: &str) -> Value {
        let mut request = request.clone();
        if let Some(value) = request.pointer_mut(path) {
            *value = Value::Null;
        }
        request
    }

    /// Checks that fields of a request that are null, one by one and several at once, are answered
    /// as if they were left out.
    pub(crate) fn check_null_is_absent<T: Debug>(request: &Value, answer: impl Fn(Value) -> T) {
        let mut paths = Vec::new();
        fields(request, "", false, &mut paths);
        let same = |nulls: &Value, left_out: &Value, what: &dyn Debug| {
            let (nulls, left_out) = (answer(nulls.clone()), answer(left_out.clone()));
            assert_eq!(format!("{nulls:?}"), format!("{left_out:?}"), "{what:?}");
        };
        for path in &paths {
            same(&with_null(request, path), &without(request, path), path);
        }
        let several = prop::collection::vec(any::<Index>(), 2..6);
        let all = TestRunner::default().run(&several, |chosen| {
            let chosen: Vec<_> = chosen.iter().map(|index| index.get(&paths)).collect();
            let nulls = chosen.iter().fold(request.clone(), |r, path| with_null(&r, path));
            let left_out = chosen.iter().fold(request.clone(), |r, path| without(&r, path));
            same(&nulls, &left_out, &chosen);
            Ok(())
        });
        all.unwrap();
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Outer {
        name: String,
        count: i64,
        cmd: Option<Vec<String>>,
        inner: Inner,
        map: BTreeMap<String, Inner>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        #[serde(rename = "IPAddress")]
        address: String,
    }

    #[test]
    fn keys_match_in_any_case() {
        let value = json!({"NAME": "x", "inner": {"ipaddress": "::1"}, "Unknown": 1});
        let outer: Outer = from_value(value).unwrap();
        assert_eq!((outer.name.as_str(), outer.inner.address.as_str()), ("x", "::1"));
    }

    #[test]
    fn null_is_the_zero_value_everywhere() {
        let value =
            json!({"Name": null, "Count": null, "Cmd": null, "Inner": null, "Map": {"a": null}});
        let outer: Outer = from_value(value).unwrap();
        assert_eq!(outer.cmd, None);
        assert_eq!(outer.map["a"], Inner::default());
    }

    #[test]
    fn an_empty_list_is_not_an_absent_one() {
        let outer: Outer = from_value(json!({"Cmd": []})).unwrap();
        assert_eq!(outer.cmd, Some(Vec::new()));
    }

    #[test]
    fn wrong_types_are_errors() {
        assert!(from_value::<Outer>(json!({"Name": 1})).is_err());
        assert!(from_value::<Outer>(json!({"Cmd": {}})).is_err());
    }
}
