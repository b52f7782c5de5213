//! `--mount type=…,source=…,target=…`, with Docker's rules and words.

use std::path::Path;

use serde_json::{Value, json};

use super::super::error::CliError;
use super::super::units;

/// The mount that the flag asks for.
pub(super) fn parse(text: &str) -> Result<Value, CliError> {
    let refused = |why: String| {
        let text = format!("invalid argument {text:?} for \"--mount\" flag: {why}");
        CliError::new(text).with_code(125)
    };
    let fields = fields(text).map_err(refused)?;
    let mut mount = json!({"Type": "volume"});
    for field in &fields {
        set(&mut mount, field).map_err(refused)?;
    }
    check(&mount).map_err(refused)?;
    Ok(mount)
}

/// The fields of a line of comma-separated values, in which quotes may be around one of them.
fn fields(line: &str) -> Result<Vec<String>, String> {
    if line.is_empty() {
        return Err("EOF".to_owned());
    }
    let (mut fields, mut rest) = (Vec::new(), line);
    let wrong = |left: usize, why: &str| {
        let column = line.len() - left + 1;
        format!("parse error on line 1, column {column}: {why}")
    };
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, left) = rest.split_once(',').map_or((rest, None), |(a, b)| (a, Some(b)));
            if let Some(at) = field.find('"') {
                return Err(wrong(rest.len() - at, "bare \" in non-quoted-field"));
            }
            fields.push(field.to_owned());
            match left {
                Some(left) => rest = left,
                None => return Ok(fields),
            }
            continue;
        };
        let (field, left) = unquoted(quoted)
            .map_err(|left| wrong(left, "extraneous or missing \" in quoted-field"))?;
        fields.push(field);
        match left.strip_prefix(',') {
            Some(left) => rest = left,
            None => return Ok(fields),
        }
    }
}

/// A field up to its closing quote, and what follows: a comma or nothing. Else how many bytes are left
/// where it goes wrong.
fn unquoted(text: &str) -> Result<(String, &str), usize> {
    let (mut field, mut rest) = (String::new(), text);
    loop {
        let (before, after) = rest.split_once('"').ok_or(0_usize)?;
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None if after.is_empty() || after.starts_with(',') => return Ok((field, after)),
            None => return Err(after.len() + 1),
        }
    }
}

fn set(mount: &mut Value, field: &str) -> Result<(), String> {
    let (key, value) = field.split_once('=').map_or((field, None), |(key, v)| (key, Some(v)));
    let key = key.to_ascii_lowercase();
    let Some(value) = value else {
        match key.as_str() {
            "readonly" | "ro" => mount["ReadOnly"] = json!(true),
            "volume-nocopy" => mount["VolumeOptions"]["NoCopy"] = json!(true),
            "bind-nonrecursive" => mount["BindOptions"]["NonRecursive"] = json!(true),
            _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
        }
        return Ok(());
    };
    let bad = || format!("invalid value for {key}: {value}");
    match key.as_str() {
        "type" => mount["Type"] = json!(value.to_ascii_lowercase()),
        "source" | "src" => mount["Source"] = json!(source(value)),
        "target" | "dst" | "destination" => mount["Target"] = json!(value),
        "readonly" | "ro" => mount["ReadOnly"] = json!(truth(value).ok_or_else(bad)?),
        "consistency" => mount["Consistency"] = json!(value.to_ascii_lowercase()),
        "bind-propagation" => {
            mount["BindOptions"]["Propagation"] = json!(value.to_ascii_lowercase());
        }
        "bind-nonrecursive" => {
            mount["BindOptions"]["NonRecursive"] = json!(truth(value).ok_or_else(bad)?);
        }
        "bind-recursive" => set_recursion(mount, value)?,
        "volume-subpath" => mount["VolumeOptions"]["Subpath"] = json!(value),
        "volume-nocopy" => {
            mount["VolumeOptions"]["NoCopy"] = json!(truth(value).ok_or_else(bad)?);
        }
        "volume-label" => set_pair(&mut mount["VolumeOptions"]["Labels"], value),
        "volume-driver" => mount["VolumeOptions"]["DriverConfig"]["Name"] = json!(value),
        "volume-opt" => set_pair(&mut mount["VolumeOptions"]["DriverConfig"]["Options"], value),
        "image-subpath" => mount["ImageOptions"]["Subpath"] = json!(value),
        "tmpfs-size" => {
            let size = units::bytes(value).map_err(|_| bad())?;
            mount["TmpfsOptions"]["SizeBytes"] = json!(size);
        }
        "tmpfs-mode" => {
            let mode = u32::from_str_radix(value, 8).map_err(|_| bad())?;
            mount["TmpfsOptions"]["Mode"] = json!(mode);
        }
        _ => return Err(format!("unexpected key '{key}' in '{field}'")),
    }
    Ok(())
}

fn set_recursion(mount: &mut Value, value: &str) -> Result<(), String> {
    let option = match value {
        "enabled" => return Ok(()),
        "disabled" => "NonRecursive",
        "writable" => "ReadOnlyNonRecursive",
        "readonly" => "ReadOnlyForceRecursive",
        _ => {
            return Err(format!(
                "invalid value for bind-recursive: {value} (must be \"enabled\", \"disabled\", \
                 \"writable\", or \"readonly\")"
            ));
        }
    };
    mount["BindOptions"][option] = json!(true);
    Ok(())
}

fn set_pair(map: &mut Value, pair: &str) {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    if map.is_null() {
        *map = json!({});
    }
    if !key.is_empty() {
        map[key] = json!(value);
    }
}

/// A source that begins with a dot is a path from here.
fn source(value: &str) -> String {
    let absolute = value.starts_with('.').then(|| std::path::absolute(Path::new(value)).ok());
    let Some(Some(path)) = absolute else { return value.to_owned() };
    let mut clean = std::path::PathBuf::new();
    for part in path.components() {
        if part == std::path::Component::ParentDir {
            clean.pop();
        } else {
            clean.push(part);
        }
    }
    clean.to_string_lossy().into_owned()
}

/// What Go takes for a truth value.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn check(mount: &Value) -> Result<(), String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = text(&mount["Type"]);
    if kind.is_empty() {
        return Err("type is required".to_owned());
    }
    if text(&mount["Target"]).is_empty() {
        return Err("target is required".to_owned());
    }
    for (options, of) in [
        ("VolumeOptions", "volume"),
        ("BindOptions", "bind"),
        ("ImageOptions", "image"),
        ("TmpfsOptions", "tmpfs"),
    ] {
        if !mount[options].is_null() && kind != of {
            return Err(format!("cannot mix '{of}-*' options with mount type '{kind}'"));
        }
    }
    let (binds, readonly) = (&mount["BindOptions"], mount["ReadOnly"] == true);
    for (option, word) in
        [("ReadOnlyNonRecursive", "writable"), ("ReadOnlyForceRecursive", "readonly")]
    {
        if binds[option] == true && !readonly {
            return Err(format!(
                "option 'bind-recursive={word}' requires 'readonly' to be specified in conjunction"
            ));
        }
    }
    if binds["ReadOnlyForceRecursive"] == true && binds["Propagation"] != "rprivate" {
        return Err("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be \
                    specified in conjunction"
            .to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(text: &str) -> String {
        let error = parse(text).unwrap_err().message;
        error.split_once("flag: ").unwrap().1.to_owned()
    }

    #[test]
    fn every_form_of_a_mount_is_read() {
        let cases = [
            ("dst=/d", json!({"Type": "volume", "Target": "/d"})),
            (
                "type=volume,src=v,dst=/d,volume-subpath=a/b,volume-nocopy,volume-label=x=y,volume-label=z",
                json!({"Type": "volume", "Source": "v", "Target": "/d", "VolumeOptions":
                    {"Subpath": "a/b", "NoCopy": true, "Labels": {"x": "y", "z": ""}}}),
            ),
            (
                r#"dst=/d,volume-driver=p,"volume-opt=o=a,b",readonly=F"#,
                json!({"Type": "volume", "Target": "/d", "ReadOnly": false, "VolumeOptions":
                    {"DriverConfig": {"Name": "p", "Options": {"o": "a,b"}}}}),
            ),
            (
                "type=image,src=alpine,target=/i,image-subpath=etc",
                json!({"Type": "image", "Source": "alpine", "Target": "/i",
                    "ImageOptions": {"Subpath": "etc"}}),
            ),
            (
                "type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1770",
                json!({"Type": "tmpfs", "Target": "/t",
                    "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}}),
            ),
            (
                "type=BIND,src=/s,dst=/d,ro,bind-recursive=readonly,bind-propagation=rprivate",
                json!({"Type": "bind", "Source": "/s", "Target": "/d", "ReadOnly": true,
                    "BindOptions": {"ReadOnlyForceRecursive": true, "Propagation": "rprivate"}}),
            ),
        ];
        for (text, mount) in cases {
            assert_eq!(parse(text).unwrap(), mount, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_mount_is_said_in_docker_s_words() {
        for (text, said) in [
            ("", "EOF"),
            ("dst=/m,a\"b", "parse error on line 1, column 9: bare \" in non-quoted-field"),
            (
                "dst=/m,\"a\"b",
                "parse error on line 1, column 10: extraneous or missing \" in quoted-field",
            ),
            (
                "dst=/m,\"volume-opt=a,b",
                "parse error on line 1, column 23: extraneous or missing \" in quoted-field",
            ),
            ("type=volume", "target is required"),
            ("type=,dst=/d", "type is required"),
            ("dst=/d,foo", "invalid field 'foo' must be a key=value pair"),
            ("dst=/d,foo=x", "unexpected key 'foo' in 'foo=x'"),
            ("dst=/d,ro=maybe", "invalid value for ro: maybe"),
            ("type=tmpfs,dst=/d,tmpfs-size=x", "invalid value for tmpfs-size: x"),
            ("type=tmpfs,dst=/d,tmpfs-mode=9", "invalid value for tmpfs-mode: 9"),
            ("dst=/d,image-subpath=a", "cannot mix 'image-*' options with mount type 'volume'"),
            (
                "type=bind,src=/s,dst=/d,volume-subpath=a",
                "cannot mix 'volume-*' options with mount type 'bind'",
            ),
            (
                "type=bind,src=/s,dst=/d,bind-recursive=writable",
                "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction",
            ),
        ] {
            assert_eq!(why(text), said, "{text}");
        }
    }
}
