//! JSON as Go's `encoding/json` reads it, because that is what clients were written against.
//!
//! Keys match without regard to case, `null` leaves a field as it was (its default), unknown keys
//! are ignored. serde does the rest.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// Reads a value by Go's rules. The type's fields need `#[serde(default)]`.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    from_field(value, String::new())
}

/// The same of a field of a larger value, for what is told of mistakes: `.HostConfig`.
pub fn from_field<T: DeserializeOwned>(value: Value, place: String) -> Result<T, Error> {
    T::deserialize(Go { value, place })
}

/// A value that is read by Go's rules.
struct Go {
    value: Value,
    /// Where it stands, as Go's errors say it; empty for the whole.
    place: String,
}

impl serde::de::IntoDeserializer<'_, Error> for Go {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl Go {
    fn entries<'de, V: Visitor<'de>>(
        entries: impl Iterator<Item = (String, Value)>,
        place: &str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let entries = entries.map(|(key, value)| {
            let place = format!("{place}.{key}");
            (key, Self { value, place })
        });
        visitor.visit_map(MapDeserializer::new(entries))
    }

    /// That the value is none of what is wanted, in Go's words.
    fn mismatch(&self, wanted: &str) -> Error {
        let numeric = wanted.contains("int") || wanted.contains("float");
        let found = match &self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if numeric => format!("number {number}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let place = match self.place.as_str() {
            "" => "value".to_owned(),
            place => format!("struct field {place}"),
        };
        Error::custom(format!("json: cannot unmarshal {found} into Go {place} of type {wanted}"))
    }
}

/// `null` becomes the zero value of what is expected, and what is something else a mistake.
macro_rules! scalars {
    ($($method:ident => $visit:ident($zero:expr), $name:literal, $fits:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let fits: fn(&Value) -> bool = $fits;
            match self.value {
                Value::Null => visitor.$visit($zero),
                value if fits(&value) => value.$method(visitor),
                value => Err(Self { value, place: self.place }.mismatch($name)),
            }
        }
    )*};
}

/// Whether a number is in the range of a type.
fn within<T: TryFrom<i64>>(value: &Value) -> bool {
    value.as_i64().is_some_and(|number| T::try_from(number).is_ok())
}

impl<'de> Deserializer<'de> for Go {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Array(items) => {
                let place = self.place;
                let items = items.into_iter().map(|value| Self { value, place: place.clone() });
                visitor.visit_seq(SeqDeserializer::new(items))
            }
            Value::Object(map) => Self::entries(map.into_iter(), &self.place, visitor),
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            value => visitor.visit_some(Self { value, ..self }),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<Self>())),
            Value::Array(_) => self.deserialize_any(visitor),
            _ => Err(self.mismatch("[]string")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => Self::entries(std::iter::empty(), "", visitor),
            Value::Object(_) => self.deserialize_any(visitor),
            _ => Err(self.mismatch("map[string]string")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => Self::entries(std::iter::empty(), "", visitor),
            Value::Object(map) => {
                let place = if self.place.is_empty() { name } else { &self.place };
                Self::entries(known(map, fields), place, visitor)
            }
            _ => Err(self.mismatch(name)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    scalars! {
        deserialize_bool => visit_bool(false), "bool", Value::is_boolean;
        deserialize_i8 => visit_i8(0), "int8", within::<i8>;
        deserialize_i16 => visit_i16(0), "int16", within::<i16>;
        deserialize_i32 => visit_i32(0), "int32", within::<i32>;
        deserialize_i64 => visit_i64(0), "int64", within::<i64>;
        deserialize_u8 => visit_u8(0), "uint8", within::<u8>;
        deserialize_u16 => visit_u16(0), "uint16", within::<u16>;
        deserialize_u32 => visit_u32(0), "uint32", within::<u32>;
        deserialize_u64 => visit_u64(0), "uint64", Value::is_u64;
        deserialize_f32 => visit_f32(0.0), "float32", Value::is_number;
        deserialize_f64 => visit_f64(0.0), "float64", Value::is_number;
        deserialize_str => visit_borrowed_str(""), "string", Value::is_string;
        deserialize_string => visit_borrowed_str(""), "string", Value::is_string;
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_enum(name, variants, visitor)
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
        let check = |value, told: &str| {
            let error = from_value::<Outer>(value).unwrap_err().to_string();
            assert_eq!(error, format!("json: cannot unmarshal {told}"));
        };
        check(json!({"Name": 1}), "number into Go struct field Outer.Name of type string");
        check(json!({"Count": "1"}), "string into Go struct field Outer.Count of type int64");
        check(json!({"Count": 1.5}), "number 1.5 into Go struct field Outer.Count of type int64");
        check(json!({"Cmd": {}}), "object into Go struct field Outer.Cmd of type []string");
        check(
            json!({"Map": {"a": {"IPAddress": true}}}),
            "bool into Go struct field Outer.Map.a.IPAddress of type string",
        );
        check(json!([]), "array into Go value of type Outer");
    }
}
