//! `context`: daemons with names, in the store that Docker's clients have.

pub(crate) mod store;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use self::store::{DEFAULT, PEMS, Stored};
use super::client::DEFAULT_HOST;
use super::commands::{
    ContextCommand, ContextCreateArgs, ContextExportArgs, ContextInspectArgs, ContextLsArgs,
    ContextRmArgs,
};
use super::docker_config::DockerConfig;
use super::error::CliError;
use super::template::Format;
use super::{Outcome, complain, say, template};

/// An archive of a context has a description and three small files.
const LARGEST: u64 = 10 << 20;

/// What was said of the daemon to talk to.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// `--host`.
    pub(crate) host: Option<&'a str>,
    /// `--context`.
    pub(crate) context: Option<&'a str>,
}

/// The daemon to talk to: its address, and where the certificates of a context are.
pub(crate) fn resolve(wanted: &Wanted<'_>) -> Result<(String, Option<PathBuf>), CliError> {
    if wanted.host.is_some() && wanted.context.is_some() {
        return Err(CliError::new("conflicting options: cannot specify both --host and --context"));
    }
    let name = current(wanted);
    if name == DEFAULT {
        return Ok((default_host(wanted.host), None));
    }
    let stored = store::read(&name).map_err(|mut error| {
        let text = &error.message;
        error.message = format!("Failed to initialize: unable to resolve docker endpoint: {text}");
        error
    })?;
    let certificates = store::tls_directory(&name).join("docker");
    let certificates = certificates.is_dir().then_some(certificates);
    Ok((stored.host().to_owned(), certificates))
}

/// The variable that says where the daemon is.
fn variable() -> Option<String> {
    let names = ["RNET_HOST", "DOCKER_HOST"];
    names.into_iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

fn default_host(host: Option<&str>) -> String {
    host.map(str::to_owned).or_else(variable).unwrap_or_else(|| DEFAULT_HOST.to_owned())
}

/// The name of the context in force: the flag's; none where an address was named; the variable's;
/// that of `config.json`.
fn current(wanted: &Wanted<'_>) -> String {
    if let Some(name) = wanted.context {
        return name.to_owned();
    }
    if wanted.host.is_some() || variable().is_some() {
        return DEFAULT.to_owned();
    }
    let named = std::env::var("DOCKER_CONTEXT").ok().filter(|name| !name.is_empty());
    named.or_else(configured).unwrap_or_else(|| DEFAULT.to_owned())
}

fn configured() -> Option<String> {
    let config = DockerConfig::read().ok()?;
    let name = config.fields.get("currentContext")?.as_str()?;
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

/// `context …`. No daemon is asked.
pub(crate) fn command(wanted: &Wanted<'_>, command: ContextCommand) -> Outcome {
    match command {
        ContextCommand::Create(args) => create(wanted, &args),
        ContextCommand::Export(args) => export(wanted, &args),
        ContextCommand::Import(args) => import(&args),
        ContextCommand::Inspect(args) => inspect(wanted, &args),
        ContextCommand::Ls(args) => list(wanted, &args),
        ContextCommand::Rm(args) => Ok(remove(wanted, &args)),
        ContextCommand::Show => {
            say(&current(wanted));
            Ok(0)
        }
        ContextCommand::Update(args) => update(wanted, &args),
        ContextCommand::Use(args) => choose(&args.name),
    }
}

/// A context by its name, that of flags and environment included.
fn find(wanted: &Wanted<'_>, name: &str) -> Result<Stored, CliError> {
    if name == DEFAULT {
        return Ok(Stored::new(DEFAULT, None, &default_host(wanted.host), false));
    }
    store::read(name)
}

fn create(wanted: &Wanted<'_>, args: &ContextCreateArgs) -> Outcome {
    store::check(&args.name)?;
    if store::read(&args.name).is_ok() {
        return Err(CliError::new(format!("context \"{}\" already exists", args.name)));
    }
    let from = args.from.clone().unwrap_or_else(|| current(wanted));
    let origin = find(wanted, &from)?;
    let endpoint = Endpoint::parse(args.docker.as_deref())?;
    let host = endpoint.host.as_deref().unwrap_or(origin.host());
    let stored = Stored::new(&args.name, args.description.as_deref(), host, endpoint.unverified);
    endpoint.keep(&args.name)?;
    store::write(&stored)?;
    say(&args.name);
    complain(&format!("Successfully created context \"{}\"", args.name));
    Ok(0)
}

fn update(wanted: &Wanted<'_>, args: &ContextCreateArgs) -> Outcome {
    store::check(&args.name)?;
    let known = find(wanted, &args.name)?;
    let endpoint = Endpoint::parse(args.docker.as_deref())?;
    let description = args.description.as_deref().unwrap_or(known.description());
    let host = endpoint.host.as_deref().unwrap_or(known.host());
    endpoint.keep(&args.name)?;
    store::write(&Stored::new(&args.name, Some(description), host, endpoint.unverified))?;
    say(&args.name);
    complain(&format!("Successfully updated context \"{}\"", args.name));
    Ok(0)
}

fn choose(name: &str) -> Outcome {
    if name != DEFAULT {
        store::read(name)?;
    }
    let mut config = DockerConfig::read()?;
    if name == DEFAULT {
        config.fields.remove("currentContext");
    } else {
        config.fields.insert("currentContext".to_owned(), json!(name));
    }
    config.write()?;
    say(name);
    complain(&format!("Current context is now \"{name}\""));
    if variable().is_some() {
        complain(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use a \
             context, either set the global --context flag, or unset DOCKER_HOST environment \
             variable.",
        );
    }
    Ok(0)
}

fn remove(wanted: &Wanted<'_>, args: &ContextRmArgs) -> u8 {
    let (current, mut code) = (current(wanted), 0);
    for name in &args.names {
        match remove_one(name, *name == current, args.force) {
            Ok(()) => say(name),
            Err(error) => {
                complain(&error.message);
                code = 1;
            }
        }
    }
    code
}

fn remove_one(name: &str, used: bool, force: bool) -> Result<(), CliError> {
    if name == DEFAULT {
        return Err(CliError::new("context \"default\" cannot be removed"));
    }
    store::read(name)?;
    if used && !force {
        let text = format!("context \"{name}\" is in use, set -f flag to force remove");
        return Err(CliError::new(text));
    }
    if configured().as_deref() == Some(name) {
        let mut config = DockerConfig::read()?;
        config.fields.remove("currentContext");
        config.write()?;
    }
    store::remove(name)
}

fn list(wanted: &Wanted<'_>, args: &ContextLsArgs) -> Outcome {
    let current = current(wanted);
    let mut all = vec![find(wanted, DEFAULT)?];
    all.extend(store::list());
    if args.quiet {
        for stored in &all {
            say(stored.name());
        }
        return Ok(0);
    }
    let format = Format::parse(args.format.as_deref());
    let table = matches!(format, Format::Default);
    let rows: Vec<Value> = all
        .iter()
        .map(|stored| {
            let is_current = stored.name() == current;
            let name = stored.name();
            let description = match name {
                DEFAULT => "Current DOCKER_HOST based configuration",
                _ => stored.description(),
            };
            json!({
                "Current": is_current, "Description": description,
                "DockerEndpoint": stored.host(), "Error": "",
                "Name": if table && is_current { format!("{name} *") } else { name.to_owned() },
            })
        })
        .collect();
    let columns = [
        ("NAME", "Name"),
        ("DESCRIPTION", "Description"),
        ("DOCKER ENDPOINT", "DockerEndpoint"),
        ("ERROR", "Error"),
    ];
    format.print(&columns, &[("CURRENT", "Current")], &rows)?;
    Ok(0)
}

fn inspect(wanted: &Wanted<'_>, args: &ContextInspectArgs) -> Outcome {
    let names = if args.names.is_empty() { vec![current(wanted)] } else { args.names.clone() };
    let mut told = Vec::new();
    for name in &names {
        let mut document = find(wanted, name)?.meta;
        let place = |path: PathBuf| match name.as_str() {
            DEFAULT => "<IN MEMORY>".to_owned(),
            _ => path.display().to_string(),
        };
        document["TLSMaterial"] = certificates_of(name);
        document["Storage"] = json!({
            "MetadataPath": place(store::meta_directory(name)),
            "TLSPath": place(store::tls_directory(name)),
        });
        told.push(document);
    }
    match args.format.as_deref().filter(|format| !format.is_empty()) {
        Some(format) => {
            for document in &told {
                say(&template::document(format, document)?);
            }
        }
        None => say(&pretty(&told)?),
    }
    Ok(0)
}

/// With four blanks, as `inspect` prints.
fn pretty(value: &impl serde::Serialize) -> Result<String, CliError> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    value.serialize(&mut serializer).map_err(|error| CliError::new(error.to_string()))?;
    String::from_utf8(text).map_err(|error| CliError::new(error.to_string()))
}

fn certificates_of(name: &str) -> Value {
    let directory = store::tls_directory(name).join("docker");
    let files: Vec<_> = PEMS.into_iter().filter(|file| directory.join(file).exists()).collect();
    if files.is_empty() { json!({}) } else { json!({"docker": files}) }
}

fn export(wanted: &Wanted<'_>, args: &ContextExportArgs) -> Outcome {
    let stored = find(wanted, &args.name)?;
    let file = args.file.clone().unwrap_or_else(|| format!("{}.dockercontext", args.name).into());
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes)
    };
    add("meta.json".to_owned(), stored.meta.to_string().as_bytes())?;
    for name in PEMS {
        if let Ok(bytes) = fs::read(store::tls_directory(&args.name).join("docker").join(name)) {
            add(format!("tls/docker/{name}"), &bytes)?;
        }
    }
    let bytes = archive.into_inner()?;
    if file == Path::new("-") {
        std::io::stdout().lock().write_all(&bytes)?;
        return Ok(0);
    }
    // There may be a key in it.
    let mut options = fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let made = options.write(true).create_new(true).open(&file);
    let mut out = made.map_err(|error| store::unusable(&file, &error))?;
    out.write_all(&bytes)?;
    complain(&format!("Written file \"{}\"", file.display()));
    Ok(0)
}

fn import(args: &ContextExportArgs) -> Outcome {
    store::check(&args.name)?;
    if store::read(&args.name).is_ok() {
        return Err(CliError::new(format!("context \"{}\" already exists", args.name)));
    }
    let Some(file) = &args.file else {
        return Err(CliError::new("name the archive to import, or - for standard input"));
    };
    let reader: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(fs::File::open(file).map_err(|error| store::unusable(file, &error))?)
    };
    let (mut meta, mut pems) = (None, Vec::new());
    for entry in tar::Archive::new(reader.take(LARGEST)).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        let pem = path.strip_prefix("tls/docker/").filter(|name| PEMS.contains(name));
        if path == "meta.json" {
            entry.read_to_end(&mut bytes)?;
            let read: Value = serde_json::from_slice(&bytes)
                .map_err(|error| store::unusable(Path::new("meta.json"), &error))?;
            meta = Some(read);
        } else if let Some(name) = pem.map(str::to_owned) {
            entry.read_to_end(&mut bytes)?;
            pems.push((name, bytes));
        }
    }
    let mut meta = meta.ok_or_else(|| CliError::new("invalid context: no meta.json in it"))?;
    let Some(fields) = meta.as_object_mut() else {
        return Err(CliError::new("invalid context: its meta.json is not an object"));
    };
    fields.insert("Name".to_owned(), json!(args.name));
    for (name, bytes) in pems {
        store::put(&store::tls_directory(&args.name).join("docker"), &name, &bytes)?;
    }
    store::write(&Stored { meta })?;
    say(&args.name);
    complain(&format!("Successfully imported context \"{}\"", args.name));
    Ok(0)
}

/// `--docker host=…,ca=…,cert=…,key=…,skip-tls-verify=…`.
#[derive(Debug, Default)]
struct Endpoint {
    host: Option<String>,
    pems: Map<String, Value>,
    unverified: bool,
}

impl Endpoint {
    fn parse(text: Option<&str>) -> Result<Self, CliError> {
        let mut endpoint = Self::default();
        for part in text.unwrap_or_default().split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, "true"));
            match key {
                "host" => endpoint.host = Some(value.to_owned()),
                "ca" | "cert" | "key" => {
                    endpoint.pems.insert(format!("{key}.pem"), json!(value));
                }
                "skip-tls-verify" => endpoint.unverified = value == "true",
                _ => {
                    let text = format!("unrecognized config key: {key}");
                    return Err(CliError::new(text));
                }
            }
        }
        Ok(endpoint)
    }

    /// Copies the certificates into the store.
    fn keep(&self, name: &str) -> Result<(), CliError> {
        for (pem, path) in &self.pems {
            let path = Path::new(path.as_str().unwrap_or_default());
            let bytes = fs::read(path).map_err(|error| store::unusable(path, &error))?;
            store::put(&store::tls_directory(name).join("docker"), pem, &bytes)?;
        }
        Ok(())
    }
}
