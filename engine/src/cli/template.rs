//! `--format`: Go templates over what the daemon answered.

use gtmpl_ng::{Context, FuncError, Template, Value as Item};
use serde_json::Value;

use super::error::CliError;
use super::table::Table;
use super::{say, units};
use crate::templates::{self, item, string};

/// How a list is shown.
#[derive(Debug)]
pub(crate) enum Format {
    /// The command's own table.
    Default,
    /// One JSON document a row.
    Json,
    /// A table with the columns of a template.
    Table(String),
    /// A template, once a row.
    Template(String),
}

impl Format {
    /// From the value of `--format`.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        match text {
            None | Some("" | "table") => Self::Default,
            Some("json") => Self::Json,
            Some(text) => match text.strip_prefix("table ") {
                Some(rest) => Self::Table(unescape(rest)),
                None => Self::Template(unescape(text)),
            },
        }
    }

    /// Prints rows: `columns` are the headings and fields of the default table, and each row has
    /// all fields that a template may name.
    pub(crate) fn print(
        &self,
        columns: &[(&str, &str)],
        headings: &[(&str, &str)],
        rows: &[Value],
    ) -> Result<(), CliError> {
        if let Some(text) = self.render(columns, headings, rows)? {
            say(&text);
        }
        Ok(())
    }

    /// The same as text; nothing where there is no line to say.
    pub(crate) fn render(
        &self,
        columns: &[(&str, &str)],
        headings: &[(&str, &str)],
        rows: &[Value],
    ) -> Result<Option<String>, CliError> {
        let lines: Vec<String> = match self {
            Self::Json => rows.iter().map(Value::to_string).collect(),
            Self::Default => {
                let names: Vec<_> = columns.iter().map(|(heading, _)| *heading).collect();
                let mut table = Table::new(&names);
                for row in rows {
                    table.row(columns.iter().map(|(_, field)| text(&row[*field])).collect());
                }
                vec![table.render()]
            }
            Self::Template(template) => {
                let template = compile(template)?;
                rows.iter().map(|row| render(&template, row)).collect::<Result<_, _>>()?
            }
            Self::Table(source) => {
                let template = compile(source)?;
                let all = headings.iter().chain(columns).map(|(heading, field)| {
                    ((*field).to_owned(), Value::String((*heading).to_owned()))
                });
                let header = render(&template, &Value::Object(all.collect()))?;
                let cells: Vec<_> = header.split('\t').collect();
                let mut table = Table::new(&cells);
                for row in rows {
                    let line = render(&template, row)?;
                    table.row(line.split('\t').map(str::to_owned).collect());
                }
                vec![table.render()]
            }
        };
        Ok((!lines.is_empty()).then(|| lines.join("\n")))
    }
}

/// Renders one document by a template, for `inspect -f`, `version -f`, `info -f`.
pub(crate) fn document(source: &str, value: &Value) -> Result<String, CliError> {
    if matches!(source, "json" | "{{json .}}") {
        return Ok(value.to_string());
    }
    render(&compile(source)?, value)
}

fn compile(source: &str) -> Result<Template, CliError> {
    templates::compile("", &methods(source), &[LABEL])
        .map_err(|error| CliError::new(format!("template parsing error: {error}")).with_code(64))
}

/// `.Label "x"` is a method in Go; templates here know functions only.
fn methods(source: &str) -> String {
    source.replace(".Label \"", "label .Labels \"")
}

fn render(template: &Template, value: &Value) -> Result<String, CliError> {
    template
        .render(&Context::from(item(value)))
        .map_err(|error| CliError::new(format!("template parsing error: {error}")))
}

/// A field as the text of a table's cell.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// `\t` and `\n` as a shell passes them: Docker resolves them in formats of lists, in those of documents not.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// What stands for the method `.Label` of rows.
const LABEL: (&str, gtmpl_ng::Func) = ("label", |args: &[Item]| -> Result<Item, FuncError> {
    Ok(Item::String(label(&string("label", args, 0)?, &string("label", args, 1)?)))
});

/// The value of one label in a list's `Labels`. A value may have commas too: what has no equals
/// sign belongs to the value before it.
fn label(labels: &str, name: &str) -> String {
    let mut found: Option<String> = None;
    for part in labels.split(',') {
        match (part.split_once('='), &mut found) {
            (None, Some(value)) => {
                value.push(',');
                value.push_str(part);
            }
            (Some(_), Some(_)) => break,
            (Some((key, value)), None) if key == name => found = Some(value.to_owned()),
            (_, None) => {}
        }
    }
    found.unwrap_or_default()
}

/// An id as lists show it.
pub(crate) fn short(id: &str, whole: bool) -> String {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    if whole { id.to_owned() } else { digits.chars().take(12).collect() }
}

/// `Size` fields of lists.
pub(crate) fn size(value: &Value) -> String {
    units::human_size(value.as_i64().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(template: &str, value: &Value, expected: &str) {
        let rendered = document(template, value).unwrap_or_else(|e| panic!("{}", e.message));
        assert_eq!(rendered, expected, "{template}");
    }

    #[test]
    fn templates_that_people_use_are_rendered() {
        let value = json!({
            "Id": "abc", "State": {"Status": "running", "Pid": 12},
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"x": "y"}},
        });
        check("{{.State.Status}}", &value, "running");
        check("{{.State.Pid}} {{.Id | upper}}", &value, "12 ABC");
        check("{{json .Config.Labels}}", &value, r#"{"x":"y"}"#);
        check("{{range .Config.Env}}{{.}};{{end}}", &value, "A=1;B=2;");
        check("{{join .Config.Env \",\"}}", &value, "A=1,B=2");
        check("{{index .Config.Labels \"x\"}}", &value, "y");
        check("{{len .Config.Env}}", &value, "2");
        check("{{if eq .State.Status \"running\"}}up{{else}}down{{end}}", &value, "up");
        check("{{truncate .Id 2}}", &value, "ab");
    }

    #[test]
    fn documents_have_escapes_in_strings_only() {
        let value = json!({"Env": ["A", "B"]});
        check(r#"{{range .Env}}{{.}}{{"\n"}}{{end}}"#, &value, "A\nB\n");
        check(r#"{{join .Env "\t"}}\t\n"#, &value, "A\tB\\t\\n");
    }

    #[test]
    fn one_label_of_a_row_is_had_by_its_name() {
        let row = json!({"Labels": "a=b,needs=db,cache,empty=,c=d=e"});
        check(r#"{{.Label "a"}}|{{.Label "needs"}}|{{.Label "c"}}"#, &row, "b|db,cache|d=e");
        check(r#"[{{.Label "empty"}}{{.Label "none"}}]"#, &row, "[]");
    }
}
