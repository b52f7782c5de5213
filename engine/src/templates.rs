//! Go's text templates, with the functions that Docker adds to Go's.

mod literals;

use std::collections::HashMap;

use gtmpl_ng::{Func, FuncError, Template, Value as Item};
use serde_json::Value;

/// A template of Go's, of this name, with further functions. What is wrong with it is told in Go's form.
pub(crate) fn compile(
    name: &str,
    source: &str,
    functions: &[(&str, Func)],
) -> Result<Template, String> {
    let mut template = Template::with_name(name);
    for (name, function) in FUNCTIONS.iter().chain(functions) {
        template.add_func(name, *function);
    }
    let source = literals::plain(source)
        .map_err(|error| format!("template: {name}:{}: invalid syntax", error.line))?;
    template.parse(&*source).map_err(|error| error.to_string())?;
    Ok(template)
}

/// A document as templates have it.
pub(crate) fn item(value: &Value) -> Item {
    match value {
        Value::Null => Item::Nil,
        Value::Bool(truth) => Item::Bool(*truth),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(n), _, _) => Item::from(n),
            (_, Some(n), _) => Item::from(n),
            (_, _, Some(n)) => Item::from(n),
            _ => Item::Nil,
        },
        Value::String(text) => Item::String(text.clone()),
        Value::Array(items) => Item::Array(items.iter().map(item).collect()),
        Value::Object(fields) => {
            let fields: HashMap<_, _> =
                fields.iter().map(|(key, value)| (key.clone(), item(value))).collect();
            Item::Map(fields)
        }
    }
}

fn json(value: &Item) -> Value {
    match value {
        Item::Bool(truth) => Value::Bool(*truth),
        Item::String(text) => Value::String(text.clone()),
        Item::Array(items) => Value::Array(items.iter().map(json).collect()),
        Item::Map(fields) | Item::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(key, _)| (*key).clone());
            Value::Object(sorted.into_iter().map(|(k, v)| (k.clone(), json(v))).collect())
        }
        Item::Number(number) => {
            serde_json::from_str(&number.to_string()).unwrap_or_else(|_| Value::Null)
        }
        _ => Value::Null,
    }
}

/// The functions that Docker adds to Go's.
const FUNCTIONS: &[(&str, Func)] = &[
    ("json", |args| Ok(Item::String(json(argument("json", args, 0)?).to_string()))),
    ("lower", |args| Ok(Item::String(string("lower", args, 0)?.to_lowercase()))),
    ("upper", |args| Ok(Item::String(string("upper", args, 0)?.to_uppercase()))),
    ("title", |args| Ok(Item::String(title(&string("title", args, 0)?)))),
    ("join", |args| {
        let Item::Array(items) = argument("join", args, 0)? else {
            return Err(FuncError::Generic("join wants a list".to_owned()));
        };
        let words: Vec<_> = items.iter().map(plain).collect();
        Ok(Item::String(words.join(&string("join", args, 1)?)))
    }),
    ("split", |args| {
        let (text, separator) = (string("split", args, 0)?, string("split", args, 1)?);
        Ok(Item::Array(text.split(&separator).map(Item::from).collect()))
    }),
    ("truncate", |args| {
        let text = string("truncate", args, 0)?;
        let length = count("truncate", args, 1)?;
        Ok(Item::String(text.chars().take(length).collect()))
    }),
    ("pad", |args| {
        let text = string("pad", args, 0)?;
        let (before, after) = (count("pad", args, 1)?, count("pad", args, 2)?);
        Ok(Item::String(format!("{:before$}{text}{:after$}", "", "")))
    }),
];

fn argument<'a>(name: &str, args: &'a [Item], at: usize) -> Result<&'a Item, FuncError> {
    args.get(at).ok_or_else(|| FuncError::AtLeastXArgs(name.to_owned(), at + 1))
}

/// An argument of a function, as text.
pub(crate) fn string(name: &str, args: &[Item], at: usize) -> Result<String, FuncError> {
    argument(name, args, at).map(plain)
}

fn count(name: &str, args: &[Item], at: usize) -> Result<usize, FuncError> {
    let text = string(name, args, at)?;
    text.parse().map_err(|_| FuncError::Generic(format!("{name} wants a number, not {text}")))
}

fn plain(value: &Item) -> String {
    match value {
        Item::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    for c in text.chars() {
        if start {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        start = c.is_whitespace();
    }
    out
}
