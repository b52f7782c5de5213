//! `build`: a context is sent, what comes back is shown.

mod archive;
mod handover;

use std::collections::BTreeMap;
use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dockerfile::Ignore;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Body, Client, documents, escape, full, good};
use super::commands::{BuildArgs, BuilderCommand, BuilderPruneArgs};
use super::error::CliError;
use super::transfer::Progress;
use super::{Outcome, confirmed, create, credentials, say, units};
use archive::{Context, Extra};
use handover::Handover;

/// `builder …`.
pub(crate) async fn command(client: &Client, command: BuilderCommand) -> Outcome {
    match command {
        BuilderCommand::Build(args) => build(client, *args).await,
        BuilderCommand::Prune(args) => prune(client, args).await,
    }
}

/// `build`.
pub(crate) async fn build(client: &Client, args: BuildArgs) -> Outcome {
    let mut query = query(&args)?;
    let handover = Handover::read(&args)?;
    let body = if is_remote(&args.context) {
        query.push(format!("remote={}", escape(&args.context)));
        query.extend(args.file.iter().map(|file| format!("dockerfile={}", escape(file))));
        full("")
    } else {
        let (body, dockerfile) = context(&args)?;
        query.push(format!("dockerfile={}", escape(&dockerfile)));
        body
    };
    let handed = handover.hand(client).await?;
    query.extend(handed.as_ref().map(|handed| format!("buildid={}", handed.build)));
    let path = format!("/build?{}", query.join("&"));
    let built = built(client, &path, body);
    let id = match &handed {
        None => built.await?,
        Some(handed) => tokio::select! {
            id = built => id?,
            error = handed.serve(client) => return Err(error),
        },
    };
    if let Some(path) = &args.iidfile {
        fs::write(path, &id)
            .map_err(|error| CliError::new(format!("{}: {error}", path.display())))?;
    }
    Ok(0)
}

/// Has an image built and shows how that goes: its id.
async fn built(client: &Client, path: &str, body: Body) -> Result<String, CliError> {
    let config = credentials::config_header().await?;
    let headers = [("content-type", "application/x-tar"), ("x-registry-config", config.as_str())];
    let response = good(client.request(Method::POST, path, body, &headers).await?).await?;
    let mut progress = Progress::new(false, false);
    let mut id = String::new();
    documents(response, |message| {
        if let Some(built) = message["aux"]["ID"].as_str() {
            built.clone_into(&mut id);
            return Ok(());
        }
        progress.show(&message)
    })
    .await
    .map_err(|error| {
        // The exit code of what ran is the command's, as docker's own.
        let code = error.message.rsplit_once("returned a non-zero code: ");
        let code = code.and_then(|(_, code)| code.parse().ok());
        error.with_code(code.unwrap_or(1))
    })?;
    Ok(id)
}

fn is_remote(context: &str) -> bool {
    let starts = ["http://", "https://", "git://", "git@", "ssh://", "github.com/"];
    starts.iter().any(|start| context.starts_with(start))
}

/// The parameters but for the context's.
fn query(args: &BuildArgs) -> Result<Vec<String>, CliError> {
    let mut query = vec!["version=1".to_owned(), format!("rm={}", u8::from(args.rm))];
    let mut add = |name: &str, value: &str| query.push(format!("{name}={}", escape(value)));
    let each =
        [("t", &args.tag), ("extrahosts", &args.add_host), ("securityopt", &args.security_opt)];
    for (name, values) in each {
        for value in values {
            add(name, value);
        }
    }
    let texts = [
        ("cgroupparent", &args.cgroup_parent),
        ("cpusetcpus", &args.cpuset_cpus),
        ("cpusetmems", &args.cpuset_mems),
        ("networkmode", &args.network),
        ("platform", &args.platform),
        ("target", &args.target),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            add(name, value);
        }
    }
    let switches = [
        ("forcerm", args.force_rm),
        ("nocache", args.no_cache),
        ("pull", args.pull),
        ("q", args.quiet || args.progress.as_deref() == Some("quiet")),
        ("squash", args.squash),
    ];
    for (name, _) in switches.iter().filter(|(_, on)| *on) {
        add(name, "1");
    }
    let numbers = [
        ("cpuperiod", args.cpu_period),
        ("cpuquota", args.cpu_quota),
        ("cpushares", args.cpu_shares),
        ("memory", size(args.memory.as_deref())?),
        ("memswap", size(args.memory_swap.as_deref())?),
        ("shmsize", size(args.shm_size.as_deref())?),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            add(name, &value.to_string());
        }
    }
    add("buildargs", &variables(&args.build_arg).to_string());
    add("labels", &create::pairs(&args.label).to_string());
    add("cachefrom", &json!(args.cache_from).to_string());
    add("ulimits", &json!(create::ulimits(&args.ulimit)?).to_string());
    Ok(query)
}

fn size(text: Option<&str>) -> Result<Option<i64>, CliError> {
    text.map(|text| if text == "-1" { Ok(-1) } else { units::bytes(text) }).transpose()
}

/// Build arguments; those without a value have that of the environment, if it is there.
fn variables(flags: &[String]) -> Value {
    let variable = |flag: &String| match flag.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (flag.clone(), std::env::var(flag).ok()),
    };
    json!(flags.iter().map(variable).collect::<BTreeMap<_, _>>())
}

/// The context as a body, and where the Dockerfile is in it.
fn context(args: &BuildArgs) -> Result<(Body, String), CliError> {
    if args.context == "-" {
        return of_stdin(args);
    }
    let directory = PathBuf::from(&args.context);
    if !directory.is_dir() {
        let text = format!("unable to prepare context: path \"{}\" not found", args.context);
        return Err(CliError::new(text));
    }
    let (dockerfile, extra) = dockerfile(args, &directory)?;
    let ignore = ignore(&directory, &dockerfile)?;
    let context = Context { directory, ignore, dockerfile: dockerfile.clone(), extra };
    Ok((archive::body(context, args.compress, args.quiet), dockerfile))
}

/// Standard input: an archive as it is, or a Dockerfile without anything else.
fn of_stdin(args: &BuildArgs) -> Result<(Body, String), CliError> {
    if args.file.as_deref() == Some("-") {
        let text = "invalid argument: can't use stdin for both build context and dockerfile";
        return Err(CliError::new(text));
    }
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(CliError::new(
            "the context is to come from standard input, which is a terminal",
        ));
    }
    let mut start = Vec::new();
    stdin.by_ref().take(512).read_to_end(&mut start)?;
    if image::context::looks_like_archive(&start) {
        let name = args.file.clone().unwrap_or_else(|| "Dockerfile".to_owned());
        return Ok((archive::passed(start), name));
    }
    let start = whole(start.as_slice().chain(stdin))?;
    let body = full(Bytes::from(archive::of_dockerfile(&start)?));
    Ok((body, "Dockerfile".to_owned()))
}

/// Where the Dockerfile is in the context, and its text if it is from elsewhere.
fn dockerfile(args: &BuildArgs, directory: &Path) -> Result<(String, Option<Extra>), CliError> {
    let Some(file) = args.file.as_deref().filter(|file| !file.is_empty()) else {
        let lower = !directory.join("Dockerfile").exists() && directory.join("dockerfile").exists();
        return Ok((if lower { "dockerfile" } else { "Dockerfile" }.to_owned(), None));
    };
    if file == "-" {
        return Ok(aside(directory, whole(std::io::stdin())?));
    }
    let missing = |error: std::io::Error| {
        CliError::new(format!(
            "unable to prepare context: unable to evaluate symlinks in Dockerfile path: {file}: {error}"
        ))
    };
    let path = fs::canonicalize(file).map_err(missing)?;
    let root = fs::canonicalize(directory)?;
    if let Ok(within) = path.strip_prefix(&root) {
        return Ok((within.to_string_lossy().into_owned(), None));
    }
    Ok(aside(directory, whole(fs::File::open(&path).map_err(missing)?)?))
}

/// A Dockerfile from elsewhere, by a name that nothing in the context has.
fn aside(directory: &Path, text: Vec<u8>) -> (String, Option<Extra>) {
    let mut names = (0_u64..).map(|number| format!(".dockerfile.from-elsewhere-{number}"));
    let free = |name: &String| fs::symlink_metadata(directory.join(name)).is_err();
    let name = names.find(free).unwrap_or_default();
    (name.clone(), Some(Extra { name, text }))
}

/// A Dockerfile as a whole.
fn whole(from: impl Read) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    from.take(dockerfile::LONGEST as u64 + 1).read_to_end(&mut text)?;
    if text.len() > dockerfile::LONGEST {
        let text = format!("the Dockerfile has more than {} bytes", dockerfile::LONGEST);
        return Err(CliError::new(text));
    }
    Ok(text)
}

/// What is left out: the file beside the Dockerfile that is named after it comes first.
fn ignore(directory: &Path, dockerfile: &str) -> Result<Ignore, CliError> {
    for name in [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()] {
        match fs::read(directory.join(&name)) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                return Ignore::parse(&text).map_err(|error| CliError::new(error.to_string()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(CliError::new(format!("{name}: {error}"))),
        }
    }
    Ok(Ignore::default())
}

async fn prune(client: &Client, args: BuilderPruneArgs) -> Outcome {
    let question = if args.all {
        "WARNING! This will remove all build cache. Are you sure you want to continue?"
    } else {
        "WARNING! This will remove all dangling build cache. Are you sure you want to continue?"
    };
    if !args.force && !confirmed(question) {
        return Ok(0);
    }
    let all = if args.all { "?all=1" } else { "" };
    let answer = client.post(&format!("/build/prune{all}"), None).await?;
    for entry in answer["CachesDeleted"].as_array().into_iter().flatten() {
        say(entry.as_str().unwrap_or_default());
    }
    let space = answer["SpaceReclaimed"].as_i64().unwrap_or_default();
    say(&format!("Total reclaimed space: {}", units::human_size(space)));
    let _ = std::io::stdout().flush();
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_from_elsewhere_are_known() {
        for url in ["https://a/b.tar", "git@a:b", "github.com/a/b"] {
            assert!(is_remote(url), "{url}");
        }
        assert!(!is_remote(".") && !is_remote("http") && !is_remote("git"));
    }

    #[test]
    fn build_arguments_without_a_value_are_those_of_the_environment() {
        let flags = ["A=b=c".to_owned(), "PATH".to_owned(), "RNET_NOT_SET_ANYWHERE".to_owned()];
        let values = variables(&flags);
        assert_eq!(values["A"], "b=c");
        assert!(values["PATH"].is_string() && values["RNET_NOT_SET_ANYWHERE"].is_null());
    }
}
