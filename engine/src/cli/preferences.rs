//! What a user prefers, of `config.json`: formats of lists, keys that detach, headers, proxies.

use serde_json::Value;

use super::docker_config::DockerConfig;

/// The variables that a proxy is told by, and the names in `config.json`.
const PROXIES: [(&str, &str); 5] = [
    ("HTTP_PROXY", "httpProxy"),
    ("HTTPS_PROXY", "httpsProxy"),
    ("NO_PROXY", "noProxy"),
    ("FTP_PROXY", "ftpProxy"),
    ("ALL_PROXY", "allProxy"),
];

/// One text of the file. A file that cannot be read prefers nothing.
fn text(name: &str) -> Option<String> {
    let config = DockerConfig::read().ok()?;
    let text = config.fields.get(name)?.as_str()?;
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// The format of a list: that of the flag, or of the file.
pub(crate) fn format(flag: Option<String>, name: &str) -> Option<String> {
    flag.filter(|text| !text.is_empty()).or_else(|| text(name))
}

/// The keys that detach: those of the flag, or of the file.
pub(crate) fn detach_keys(flag: Option<&str>) -> Option<String> {
    flag.filter(|text| !text.is_empty()).map(str::to_owned).or_else(|| text("detachKeys"))
}

/// The headers of every request.
pub(crate) fn headers() -> Vec<(String, String)> {
    let Ok(config) = DockerConfig::read() else { return Vec::new() };
    let headers = config.fields.get("HttpHeaders").and_then(Value::as_object);
    let pairs = headers.into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// The variables of containers for the proxies of a daemon, unless they are there already.
pub(crate) fn proxies(host: &str, env: &[String]) -> Vec<String> {
    let Ok(config) = DockerConfig::read() else { return Vec::new() };
    let Some(all) = config.fields.get("proxies") else { return Vec::new() };
    let proxies = all.get(host).or_else(|| all.get("default")).cloned().unwrap_or_default();
    variables(&proxies, env)
}

fn variables(proxies: &Value, env: &[String]) -> Vec<String> {
    let mut added = Vec::new();
    for (variable, field) in PROXIES {
        let Some(value) = proxies[field].as_str().filter(|value| !value.is_empty()) else {
            continue;
        };
        for name in [variable.to_owned(), variable.to_ascii_lowercase()] {
            let given = |entry: &String| entry.split('=').next() == Some(&name);
            if !env.iter().any(given) {
                added.push(format!("{name}={value}"));
            }
        }
    }
    added
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn proxies_are_told_in_both_spellings_unless_the_user_tells() {
        let proxies = json!({"httpProxy": "http://p:1", "noProxy": ""});
        let env = ["http_proxy=own".to_owned()];
        assert_eq!(variables(&proxies, &env), ["HTTP_PROXY=http://p:1"]);
        assert_eq!(variables(&Value::Null, &env), Vec::<String>::new());
    }
}
