//! Every answer has the fields and types that the public description of the API says.
//!
//! `answers.txt` is made of that description by `tests/swagger/table.py`, which tells its form.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::daemon::Daemon;

const IMAGE: &str = "rnet/toolbox:latest";

/// Operations without an answer that could be looked at here: what is not served, streams of bytes,
/// and what needs a registry or a swarm.
const APART: &[&str] = &[
    "/auth",
    "/configs",
    "/distribution",
    "/images/get",
    "/images/search",
    "/images/{name}/get",
    "/containers/{id}/logs",
    "/nodes",
    "/plugins",
    "/secrets",
    "/services",
    "/swarm",
    "/tasks",
    "/_ping",
];

/// Fields that the description leaves out, and that Docker sends nevertheless.
const MORE: &[&str] = &[
    // Of an event, as clients before 1.22 read them.
    "EventMessage.status",
    "EventMessage.id",
    "EventMessage.from",
];

/// Numbers that Docker sends as null, too, where there are none.
const NULLS: &[&str] = &["HostConfig.MemorySwappiness", "ExecInspectAnswer.ExitCode"];

/// A field of a model.
#[derive(Debug)]
struct Field {
    kind: String,
    always: bool,
    nullable: bool,
    values: Vec<String>,
}

/// Models by name, and the types of answers by operation.
#[derive(Debug, Default)]
struct Table {
    models: BTreeMap<String, BTreeMap<String, Field>>,
    answers: BTreeMap<String, String>,
}

impl Table {
    fn read(text: &str) -> Self {
        let mut table = Self::default();
        let mut model = String::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["=", name] => {
                    (*name).clone_into(&mut model);
                    table.models.insert(model.clone(), BTreeMap::new());
                }
                [">", method, path, _, kind] => {
                    table.answers.insert(format!("{method} {path}"), (*kind).to_owned());
                }
                [name, kind, values @ ..] => {
                    let field = Field {
                        kind: (*kind).to_owned(),
                        always: name.contains('!'),
                        nullable: name.contains('?'),
                        values: values
                            .iter()
                            .flat_map(|v| v.split('|'))
                            .map(str::to_owned)
                            .collect(),
                    };
                    let name = name.trim_end_matches(['!', '?']).to_owned();
                    table.models.get_mut(&model).unwrap().insert(name, field);
                }
                _ => panic!("{line}"),
            }
        }
        table
    }

    /// Adds to `faults` what is wrong with a value.
    fn check(&self, kind: &str, value: &Value, place: &str, faults: &mut Vec<String>) {
        let inner = |open: char, close: char| {
            kind.strip_prefix(open).and_then(|rest| rest.strip_suffix(close))
        };
        if let Some(of) = inner('[', ']') {
            match value {
                Value::Null => {}
                Value::Array(items) => {
                    for item in items {
                        self.check(of, item, &format!("{place}[]"), faults);
                    }
                }
                other => faults.push(format!("{place} is no list: {other}")),
            }
        } else if let Some(of) = inner('{', '}') {
            match value {
                Value::Null => {}
                Value::Object(map) => {
                    for value in map.values() {
                        self.check(of, value, &format!("{place}{{}}"), faults);
                    }
                }
                other => faults.push(format!("{place} is no map: {other}")),
            }
        } else if let Some(model) = self.models.get(kind) {
            self.check_model(kind, model, value, place, faults);
        } else {
            let fits = match kind {
                "string" => value.is_string(),
                "integer" => value.is_i64() || value.is_u64(),
                "number" => value.is_number(),
                "boolean" => value.is_boolean(),
                _ => true,
            };
            if !fits {
                faults.push(format!("{place} is no {kind}: {value}"));
            }
        }
    }

    fn check_model(
        &self,
        name: &str,
        model: &BTreeMap<String, Field>,
        value: &Value,
        place: &str,
        faults: &mut Vec<String>,
    ) {
        let map = match value {
            // Go has no other word for a pointer to nothing.
            Value::Null => return,
            Value::Object(map) => map,
            other => return faults.push(format!("{place} is no {name}: {other}")),
        };
        for (key, value) in map {
            let place = format!("{place}.{key}");
            let Some(field) = model.get(key) else {
                if !MORE.contains(&format!("{name}.{key}").as_str()) {
                    faults.push(format!("{place} is no field of {name}"));
                }
                continue;
            };
            let nullable = field.nullable || NULLS.contains(&format!("{name}.{key}").as_str());
            if !(nullable && value.is_null()) {
                self.check(&field.kind, value, &place, faults);
            }
            let text = value.as_str().filter(|text| !text.is_empty() && !field.values.is_empty());
            if text.is_some_and(|text| field.values.iter().all(|known| known != text)) {
                faults.push(format!("{place} is none of {:?}: {value}", field.values));
            }
        }
        let missing = model.iter().filter(|(key, field)| field.always && !map.contains_key(*key));
        faults.extend(missing.map(|(key, _)| format!("{place}.{key} is missing")));
    }
}

/// What is asked, and for which operation of the description.
fn questions(daemon: &Daemon) -> Vec<(&'static str, String, Value)> {
    let exec = daemon.post("/containers/web/exec", &json!({"Cmd": ["true"], "User": "1"})).json();
    let exec = exec["Id"].as_str().unwrap().to_owned();
    let create = json!({"Image": IMAGE, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}});
    let none = Value::Null;
    let plain = |operation: &'static str, path: &str| (operation, path.to_owned(), Value::Null);
    vec![
        plain("GET /containers/json", "/containers/json?all=1&size=1"),
        ("POST /containers/create", "/containers/create?name=made".to_owned(), create),
        plain("GET /containers/{id}/json", "/containers/web/json?size=1"),
        plain("GET /containers/{id}/json", "/containers/made/json"),
        plain("GET /containers/{id}/top", "/containers/web/top"),
        plain("GET /containers/{id}/changes", "/containers/web/changes"),
        plain("POST /commit", "/commit?container=web&repo=committed&tag=1"),
        plain("POST /build/prune", "/build/prune?all=1"),
        plain("GET /containers/{id}/stats", "/containers/web/stats?stream=0&one-shot=1"),
        (
            "POST /containers/{id}/update",
            "/containers/web/update".to_owned(),
            json!({"CpuShares": 512}),
        ),
        plain("POST /containers/{id}/wait", "/containers/made/wait"),
        ("POST /containers/{id}/exec", "/containers/web/exec".to_owned(), json!({"Cmd": ["true"]})),
        ("GET /exec/{id}/json", format!("/exec/{exec}/json"), none),
        plain("GET /images/json", "/images/json?shared-size=1"),
        plain("GET /images/{name}/json", "/images/rnet/toolbox/json"),
        plain("GET /images/{name}/history", "/images/rnet/toolbox/history"),
        plain("DELETE /images/{name}", "/images/other:1"),
        plain("POST /images/prune", "/images/prune"),
        plain("GET /info", "/info"),
        plain("GET /version", "/version"),
        plain("GET /events", "/events?since=1&until=0s"),
        plain("GET /system/df", "/system/df"),
        plain("GET /volumes", "/volumes"),
        ("POST /volumes/create", "/volumes/create".to_owned(), json!({"Name": "v2"})),
        plain("GET /volumes/{name}", "/volumes/v1"),
        plain("GET /networks", "/networks"),
        plain("GET /networks/{id}", "/networks/n1"),
        ("POST /networks/create", "/networks/create".to_owned(), json!({"Name": "n2"})),
        plain("POST /containers/prune", "/containers/prune"),
        plain("POST /networks/prune", "/networks/prune"),
        plain("POST /volumes/prune", "/volumes/prune?filters=%7B%22all%22:[%22true%22]%7D"),
    ]
}

/// Something of everything that is asked for.
fn furnish(daemon: &Daemon) {
    daemon.docker_ok(&["network", "create", "--label", "a=b", "--subnet", "10.44.0.0/24", "n1"]);
    daemon.docker_ok(&["volume", "create", "--label", "a=b", "v1"]);
    daemon.docker_ok(&["tag", IMAGE, "other:1"]);
    let web = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "n1",
        "-p",
        "127.0.0.1::80",
        "-v",
        "v1:/data",
        "-v",
        "/tmp:/bound:ro",
        "--tmpfs",
        "/t",
        "--health-cmd",
        "true",
        "--memory",
        "64m",
        "--ulimit",
        "nofile=100:200",
        "--restart",
        "on-failure:2",
        "-e",
        "A=1",
        "-l",
        "k=v",
        "--annotation",
        "x=y",
        "--device",
        "/dev/null:/dev/zip",
        IMAGE,
        "sleep",
        "1000",
    ];
    daemon.docker_ok(&web);
}

#[test]
fn every_answer_is_what_the_description_of_the_api_says() {
    let daemon = Daemon::start(&[]);
    furnish(&daemon);
    let table = Table::read(include_str!("answers.txt"));
    let (mut faults, mut asked) = (Vec::new(), BTreeSet::new());
    for (operation, path, body) in questions(&daemon) {
        if operation == "POST /containers/{id}/wait" {
            assert_eq!(daemon.call("POST", "/containers/made/start", None).status, 204);
        }
        let method = operation.split(' ').next().unwrap();
        let reply = daemon.call(method, &path, Some(&body).filter(|body| !body.is_null()));
        assert!((200..300).contains(&reply.status), "{operation}: {}", reply.text());
        let kind = &table.answers[operation];
        let values = serde_json::Deserializer::from_slice(&reply.body).into_iter::<Value>();
        let values: Vec<Value> = values.map(Result::unwrap).collect();
        assert!(!values.is_empty(), "{operation}");
        for value in &values {
            table.check(kind, value, operation, &mut faults);
        }
        asked.insert(operation);
    }
    faults.sort();
    faults.dedup();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let is_apart = |path: &str| {
        APART.iter().any(|apart| path == *apart || path.starts_with(&format!("{apart}/")))
    };
    let left = table.answers.keys().filter(|operation| {
        let path = operation.split(' ').nth(1).unwrap();
        !asked.contains(operation.as_str()) && !is_apart(path)
    });
    assert_eq!(left.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn an_answer_with_another_field_or_type_is_found() {
    let table = Table::read("= A\nName! string\nKind? string a|b\nList [B]\n= B\nCount integer\n");
    let check = |value: Value| {
        let mut faults = Vec::new();
        table.check("A", &value, "x", &mut faults);
        faults.join("; ")
    };
    assert_eq!(check(json!({"Name": "n", "Kind": null, "List": [{"Count": 1}]})), "");
    assert_eq!(check(json!({"Name": "n", "Kind": "b", "List": null})), "");
    assert_eq!(check(json!({})), "x.Name is missing");
    assert_eq!(check(json!({"Name": null})), "x.Name is no string: null");
    assert_eq!(check(json!({"Name": "n", "Kind": "c"})), "x.Kind is none of [\"a\", \"b\"]: \"c\"");
    assert_eq!(check(json!({"Name": "n", "More": 1})), "x.More is no field of A");
    let wrong = json!({"Name": "n", "List": [{"Count": "1"}]});
    assert_eq!(check(wrong), "x.List[].Count is no integer: \"1\"");
}
