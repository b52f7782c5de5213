//! `--chown` and `--chmod`.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use engine_error::{Error, Result};
use tree::Tree;

/// How much of a file of names is read.
const LONGEST: u64 = 16 << 20;

/// The numbers of `user[:group]`. A user alone is the name of its group too.
pub(super) fn owner(root: &Tree, text: &str) -> Result<(u32, u32)> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    Ok((number(root, "passwd", "uid", user)?, number(root, "group", "gid", group)?))
}

fn number(root: &Tree, file: &str, kind: &str, name: &str) -> Result<u32> {
    let what = if kind == "uid" { "user" } else { "group" };
    let wrong = |why: &str| {
        Error::invalid(format!(
            "unable to convert uid/gid chown string to host mapping: can't find {kind} for {what} \
             {name}: {why}"
        ))
    };
    if let Ok(number) = name.parse::<u32>() {
        return if number <= i32::MAX.cast_unsigned() {
            Ok(number)
        } else {
            Err(wrong("out of range"))
        };
    }
    let path = format!("etc/{file}");
    let unread = |error| Error::internal(format!("cannot read /{path}"), error);
    let Some(found) = root.file(Path::new(&path)).map_err(unread)? else {
        return Err(wrong(&format!("open /{path}: no such file or directory")));
    };
    for line in BufReader::new(found.take(LONGEST)).lines() {
        let Ok(line) = line else { continue };
        let mut fields = line.split(':');
        if fields.next() == Some(name)
            && let Some(number) = fields.nth(1).and_then(|field| field.parse().ok())
        {
            return Ok(number);
        }
    }
    Err(wrong(&format!("no such {what}: {name}")))
}

/// An octal mode.
pub(super) fn mode(text: &str) -> Result<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.filter(|_| !text.starts_with('+')).ok_or_else(|| {
        Error::invalid(format!(
            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        ))
    })
}
