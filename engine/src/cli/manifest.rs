//! `manifest`: what registries have, and lists of it, put together here and pushed. The daemon has
//! no part in it.

mod list;

use image::remote::{Manifest, Remote};
use image::{Digest, Reference, RegistryAuth};
use serde_json::{Value, json};

use self::list::{Entry, Lists};
use super::commands::{
    ManifestAnnotateArgs, ManifestCommand, ManifestCreateArgs, ManifestInspectArgs,
    ManifestPushArgs, ManifestRmArgs,
};
use super::docker_config::DockerConfig;
use super::error::CliError;
use super::{Outcome, complain, credentials, say};

/// What of `GOOS/GOARCH` images are for.
const PLATFORMS: &str = "darwin/386 darwin/amd64 darwin/arm darwin/arm64 dragonfly/amd64 \
    freebsd/386 freebsd/amd64 freebsd/arm linux/386 linux/amd64 linux/arm linux/arm64 \
    linux/ppc64le linux/mips64 linux/mips64le linux/riscv64 linux/s390x netbsd/386 netbsd/amd64 \
    netbsd/arm openbsd/386 openbsd/amd64 openbsd/arm plan9/386 plan9/amd64 solaris/amd64 \
    windows/386 windows/amd64 windows/arm64";

/// `manifest …`.
pub(crate) async fn command(command: ManifestCommand) -> Outcome {
    match command {
        ManifestCommand::Annotate(args) => annotate(&args),
        ManifestCommand::Create(args) => create(args).await,
        ManifestCommand::Inspect(args) => inspect(args).await,
        ManifestCommand::Push(args) => push(args).await,
        ManifestCommand::Rm(args) => Ok(rm(&args)),
    }
}

fn parse(text: &str) -> Result<Reference, CliError> {
    let reference = Reference::parse(text).map_err(|error| CliError::new(error.to_string()))?;
    Ok(reference.or_latest())
}

fn failed(error: &engine_error::Error) -> CliError {
    CliError::new(error.chain())
}

async fn auth(reference: &Reference) -> Result<Option<RegistryAuth>, CliError> {
    let config = DockerConfig::read()?;
    let found = credentials::get_or_warn(&config, &credentials::server_of(reference)).await;
    Ok(found.map(credentials::Credentials::into_auth))
}

/// What a registry has under a name, and how to go on there.
async fn fetch(reference: &Reference, insecure: bool) -> Result<(Remote, Manifest), CliError> {
    let missing = |error: engine_error::Error| match error.kind() {
        engine_error::Kind::NotFound => CliError::new(format!("no such manifest: {reference}")),
        _ => failed(&error),
    };
    let auth = auth(reference).await?;
    let remote = Remote::read(reference, auth, insecure).await.map_err(|e| failed(&e))?;
    let manifest = remote.manifest(reference).await.map_err(missing)?;
    Ok((remote, manifest))
}

/// An image of a registry, as a list knows it.
async fn image(
    remote: &Remote,
    reference: &Reference,
    manifest: &Manifest,
) -> Result<Entry, CliError> {
    let broken = |what: &str| CliError::new(format!("invalid manifest {reference}: {what}"));
    let content: Value =
        serde_json::from_slice(&manifest.bytes).map_err(|error| broken(&error.to_string()))?;
    let config = content["config"]["digest"].as_str().and_then(|digest| digest.parse().ok());
    let config: Digest = config.ok_or_else(|| broken("no configuration"))?;
    let bytes = remote.config(config).await.map_err(|error| failed(&error))?;
    let config: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut platform = json!({"architecture": config["architecture"], "os": config["os"]});
    for name in ["variant", "os.version", "os.features"] {
        if !config[name].is_null() {
            platform[name] = config[name].clone();
        }
    }
    Ok(Entry::new(reference, manifest, &content, &platform))
}

/// Whether a document is a list of others.
fn is_list(manifest: &Manifest) -> bool {
    let kind = &manifest.media_type;
    kind.contains("manifest.list") || kind.contains("image.index")
}

/// `manifest create`.
async fn create(args: ManifestCreateArgs) -> Outcome {
    let lists = Lists::of_user();
    let target = parse(&args.list)?;
    if !args.amend && lists.has(&target) {
        let text = "refusing to amend an existing manifest list with no --amend flag";
        return Err(CliError::new(text));
    }
    let mut entries = Vec::new();
    for name in &args.manifests {
        let reference = parse(name)?;
        let (remote, manifest) = fetch(&reference, args.insecure).await?;
        if is_list(&manifest) {
            return Err(CliError::new(format!("{name} is a manifest list")));
        }
        entries.push(image(&remote, &reference, &manifest).await?);
    }
    for entry in &entries {
        lists.put(&target, entry)?;
    }
    say(&format!("Created manifest list {}", target.canonical()));
    Ok(0)
}

/// `manifest annotate`.
fn annotate(args: &ManifestAnnotateArgs) -> Outcome {
    let lists = Lists::of_user();
    let (target, reference) = (parse(&args.list)?, parse(&args.manifest)?);
    let mut entry = lists.get(&target, &reference)?.ok_or_else(|| {
        CliError::new(format!(
            "manifest for image {} does not exist in {}",
            args.manifest, args.list
        ))
    })?;
    let platform = entry.platform();
    for (name, value) in [
        ("os", &args.os),
        ("architecture", &args.arch),
        ("variant", &args.variant),
        ("os.version", &args.os_version),
    ] {
        if let Some(value) = value {
            platform[name] = json!(value);
        }
    }
    if !args.os_features.is_empty() {
        platform["os.features"] = json!(args.os_features);
    }
    let text = |name: &str| platform[name].as_str().unwrap_or_default();
    let known = format!("{}/{}", text("os"), text("architecture"));
    if !PLATFORMS.split_whitespace().any(|one| one == known) {
        let given = |value: &Option<String>| value.clone().unwrap_or_default();
        return Err(CliError::new(format!(
            "manifest entry for image has unsupported os/arch combination: {}/{}",
            given(&args.os),
            given(&args.arch)
        )));
    }
    lists.put(&target, &entry)?;
    Ok(0)
}

/// `manifest inspect`: of a list that is put together here, or of what a registry has.
async fn inspect(args: ManifestInspectArgs) -> Outcome {
    let lists = Lists::of_user();
    let (list, name) = match args.names.as_slice() {
        [list, name] => (Some(parse(list)?), parse(name)?),
        names => (None, parse(names.first().map(String::as_str).unwrap_or_default())?),
    };
    if let Some(list) = list {
        if let Some(entry) = lists.get(&list, &name)? {
            show(&entry, args.verbose);
            return Ok(0);
        }
    } else if lists.has(&name) {
        let entries = lists.entries(&name)?;
        if args.verbose {
            say(&indented(&json!(entries.iter().map(Entry::json).collect::<Vec<_>>()), "\t"));
        } else {
            say(&String::from_utf8_lossy(&list::document(&entries)?.1));
        }
        return Ok(0);
    }
    let (remote, manifest) = fetch(&name, args.insecure).await?;
    if !is_list(&manifest) {
        show(&image(&remote, &name, &manifest).await?, args.verbose);
        return Ok(0);
    }
    if !args.verbose {
        say(&list::indent(&manifest.bytes, "   "));
        return Ok(0);
    }
    let content: Value = serde_json::from_slice(&manifest.bytes)
        .map_err(|error| CliError::new(format!("invalid manifest {name}: {error}")))?;
    let mut entries = Vec::new();
    for descriptor in content["manifests"].as_array().into_iter().flatten() {
        let digest = descriptor["digest"].as_str().and_then(|digest| digest.parse().ok());
        let Some(digest) = digest else { continue };
        let one = name.with_digest(digest);
        let found = remote.manifest(&one).await.map_err(|error| failed(&error))?;
        let mut entry = image(&remote, &one, &found).await?;
        if !descriptor["platform"].is_null() {
            *entry.platform() = descriptor["platform"].clone();
        }
        entries.push(entry.json().clone());
    }
    say(&indented(&json!(entries), "\t"));
    Ok(0)
}

fn show(entry: &Entry, verbose: bool) {
    if verbose {
        say(&indented(entry.json(), "\t"));
    } else {
        say(&list::indent(&entry.bytes(), "\t"));
    }
}

fn indented(value: &Value, step: &str) -> String {
    list::indent(value.to_string().as_bytes(), step)
}

/// `manifest push`.
async fn push(args: ManifestPushArgs) -> Outcome {
    let lists = Lists::of_user();
    let target = parse(&args.list)?;
    if !lists.has(&target) {
        return Err(CliError::new(format!("No such manifest: {}", args.list)));
    }
    let entries = lists.entries(&target)?;
    let mut sources = Vec::new();
    for entry in &entries {
        let reference = parse(entry.reference())?;
        if reference.domain() != target.domain() {
            return Err(CliError::new(format!(
                "cannot use source images from a different registry than the target image: {} != {}",
                reference.domain(),
                target.domain()
            )));
        }
        sources.push(reference);
    }
    let mut others: Vec<_> = sources.iter().map(|source| source.path().to_owned()).collect();
    others.retain(|path| path != target.path());
    others.sort();
    others.dedup();
    let auth = auth(&target).await?;
    let opened = Remote::write(&target, auth, args.insecure, others).await;
    let remote = opened.map_err(|error| failed(&error))?;
    for (entry, source) in entries.iter().zip(&sources) {
        if source.path() != target.path() {
            for blob in entry.blobs() {
                remote.mount(blob, source.path()).await.map_err(|error| failed(&error))?;
            }
        }
        let digest = Digest::of(&entry.bytes());
        let put = remote.put(&digest.to_string(), entry.media_type(), entry.bytes()).await;
        put.map_err(|error| failed(&error))?;
        let pinned = target.with_digest(digest).canonical();
        say(&format!("Pushed ref {pinned} with digest: {digest}"));
    }
    let (media_type, bytes) = list::document(&entries)?;
    let digest = Digest::of(&bytes);
    let tag = target.tag().unwrap_or("latest");
    remote.put(tag, media_type, bytes).await.map_err(|error| failed(&error))?;
    say(&digest.to_string());
    if args.purge {
        lists.remove(&target)?;
    }
    Ok(0)
}

/// `manifest rm`.
fn rm(args: &ManifestRmArgs) -> u8 {
    let lists = Lists::of_user();
    let mut code = 0;
    for name in &args.lists {
        let removed = parse(name).and_then(|target| {
            if lists.has(&target) {
                return lists.remove(&target);
            }
            Err(CliError::new(format!("No such manifest: {name}")))
        });
        if let Err(error) = removed {
            complain(&error.message);
            code = 1;
        }
    }
    code
}
