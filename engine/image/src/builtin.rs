//! The image built into rnet: the toolbox, for the demo, the tests and the first container of a
//! machine without a registry.

use super::reference::Reference;
use super::store::NewImage;
use super::{Image, Images, Platform};
use engine_error::{Error, Result};
use serde_json::json;
use std::sync::Arc;

/// Its name.
pub const NAME: &str = "rnet/toolbox:latest";

/// The program itself; under the name `docker-init` it is that of `--init`.
pub const TOOLBOX: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/toolbox"));

/// The names the program answers to, beside its own.
const TOOLS: &[&str] = &[
    "alloc",
    "cat",
    "client",
    "dns-load",
    "dns-server",
    "echo",
    "echo-server",
    "env",
    "exit",
    "false",
    "fill",
    "flood",
    "get",
    "hostname",
    "httpd",
    "id",
    "ignore",
    "init",
    "load",
    "lookup",
    "ls",
    "nc",
    "nslookup",
    "pwd",
    "send",
    "signals",
    "size",
    "sleep",
    "spawn",
    "spin",
    "trap",
    "true",
    "tty",
    "write",
];

/// A fixed date, so that the same program is the same image everywhere.
const CREATED: &str = "2026-01-01T00:00:00Z";
const CREATED_SECONDS: u64 = 1_767_225_600;

/// Whether a name is that of the built-in image, which is there once it is asked for.
pub(super) fn is_meant(text: &str) -> bool {
    Reference::parse(text).is_ok_and(|reference| reference.or_latest().to_string() == NAME)
}

/// Puts the image of this program in the place of that of an earlier version, if that is there.
pub fn renew(images: &Images) -> Result<()> {
    let is_there = images.list().iter().any(|image| image.names.iter().any(|name| name == NAME));
    if is_there { ensure(images).map(drop) } else { Ok(()) }
}

/// Registers the image, unless this very image is there under its name. Another image of that
/// name, from an earlier version of rnet, loses the name.
pub fn ensure(images: &Images) -> Result<Arc<Image>> {
    let failed = |error| Error::internal("cannot make the built-in image", error);
    let layer = layer().map_err(failed)?;
    let diff_id = super::Digest::of(&layer);
    let config = config(diff_id).to_string();
    let id = super::ImageId(super::Digest::of(config.as_bytes()));
    if let Some(image) = images.store().image(id)
        && image.names.iter().any(|name| name == NAME)
    {
        return Ok(image);
    }
    let _ingest = images.store().ingest();
    let blob = images.store().add_blob(&layer)?;
    images.store().unpack(diff_id.chain(None), diff_id, blob, &mut |_| {})?;
    images.store().add_image(&NewImage {
        config: config.as_bytes(),
        names: &[Reference::parse(NAME)?],
        digests: &[],
        parent: None,
    })
}

fn config(diff_id: super::Digest) -> serde_json::Value {
    let platform = Platform::host();
    let mut config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "created": CREATED,
        "config": {
            "Env": ["PATH=/bin"],
            "Cmd": ["httpd"],
            "WorkingDir": "/",
            "Labels": {"org.opencontainers.image.title": "rnet toolbox"},
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
        "history": [{"created": CREATED, "created_by": "built into rnet"}],
    });
    if !platform.variant.is_empty() {
        config["variant"] = platform.variant.into();
    }
    config
}

fn layer() -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::with_capacity(TOOLBOX.len() + (64 << 10)));
    for (path, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("root/", 0o700)] {
        append(&mut tar, path, tar::EntryType::Directory, mode, b"")?;
    }
    append(&mut tar, "bin/toolbox", tar::EntryType::Regular, 0o755, TOOLBOX)?;
    for tool in TOOLS {
        let mut header = header(tar::EntryType::Link, 0o755, 0);
        tar.append_link(&mut header, format!("bin/{tool}"), "bin/toolbox")?;
    }
    let passwd = b"root:x:0:0:root:/root:/bin/toolbox\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    append(&mut tar, "etc/passwd", tar::EntryType::Regular, 0o644, passwd)?;
    let group = b"root:x:0:\nnogroup:x:65534:\n";
    append(&mut tar, "etc/group", tar::EntryType::Regular, 0o644, group)?;
    tar.into_inner()
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    let mut header = header(kind, mode, content.len());
    tar.append_data(&mut header, path, content)
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(CREATED_SECONDS);
    header.set_size(size as u64);
    header
}
