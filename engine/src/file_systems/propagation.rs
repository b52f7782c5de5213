//! How mounts spread: what of a bind's propagation can be had.

use std::path::Path;

use engine_error::{Error, Result};
use runtime::spec::Propagation;

/// Refuses a propagation that cannot be had: what is mounted below a source spreads only from a mount
/// that is shared, or a slave of one. `mounts` is the text of `/proc/self/mountinfo`.
pub(crate) fn check_propagation(
    source: &Path,
    propagation: Propagation,
    mounts: &str,
) -> Result<()> {
    let known: &[&str] = match propagation {
        wanted if wanted.is_shared() => &["shared:"],
        wanted if wanted.is_slave() => &["shared:", "master:"],
        _ => return Ok(()),
    };
    let Some((place, spreads)) = mount_of(source, mounts) else { return Ok(()) };
    if spreads.iter().any(|field| known.iter().any(|known| field.starts_with(known))) {
        return Ok(());
    }
    let wanted = if known.len() == 1 { "a shared" } else { "a shared or slave" };
    Err(Error::invalid(format!(
        "path {} is mounted on {place} but it is not {wanted} mount",
        source.display()
    )))
}

/// The mount that a path is on, and what it tells of how it spreads.
fn mount_of<'a>(path: &Path, mounts: &'a str) -> Option<(String, Vec<&'a str>)> {
    let all = mounts.lines().filter_map(|line| {
        let place = line.split(' ').nth(4)?.replace("\\040", " ");
        path.starts_with(&place).then(|| {
            let fields = line.split(' ').skip(6).take_while(|field| *field != "-");
            (place, fields.collect())
        })
    });
    // Of those at one place the last one is on top.
    all.max_by_key(|(place, _)| place.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shared_cannot_spread_and_that_is_said() {
        let mounts = "1 0 8:1 / / rw - ext4 a rw\n2 1 8:1 / /s rw shared:7 - ext4 a rw\n\
                      3 1 8:1 / /m rw master:7 - ext4 a rw\n4 2 8:1 / /s/p rw - ext4 a rw\n";
        let check = |path: &str, how: &str| {
            check_propagation(Path::new(path), Propagation::named(how).unwrap(), mounts)
        };
        for (path, how) in [("/s/x", "rshared"), ("/m", "slave"), ("/x", "rprivate"), ("/x", "")] {
            check(path, how).unwrap();
        }
        let error = |path, how| check(path, how).unwrap_err().to_string();
        assert_eq!(
            error("/etc", "shared"),
            "path /etc is mounted on / but it is not a shared mount"
        );
        assert_eq!(
            error("/s/p/x", "rslave"),
            "path /s/p/x is mounted on /s/p but it is not a shared or slave mount"
        );
        error("/m", "shared");
    }
}
