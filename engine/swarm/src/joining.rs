//! A join that has begun. It is written down before managers are asked: whoever dies before their answer
//! is on disk may be a node of theirs already, and is to be the same one when he asks again.

use std::time::Duration;

use engine_error::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::authority::digest_of;
use crate::base36;
use crate::certificate::KeyAndRequest;
use crate::files::{Files, VERSION};
use crate::record::now;

/// Its name among the files.
pub(crate) const FILE: &str = "joining.json";

/// How long it is taken up again. What is older may be on a copy of this disk, too, and two hosts would be one node.
const LIFE: Duration = Duration::from_secs(3600);

/// Who asked to be let in.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Joining {
    version: u32,
    /// When, in nanoseconds since 1970.
    since: u64,
    /// What tells the token from every other one. The token is a secret, and this is none.
    token: String,
    /// As which node.
    pub(crate) node: String,
    /// With which key, as PEM.
    pub(crate) key: String,
}

impl Joining {
    /// A new one, written down.
    pub(crate) fn begin(files: &Files, token: &str, node: &str) -> Result<Self> {
        let key = KeyAndRequest::new()?.key;
        let (token, node) = (digest(token), node.to_owned());
        let joining = Self { version: VERSION, since: now(), token, node, key };
        let text = serde_json::to_string_pretty(&joining);
        let text = text.map_err(|error| Error::internal("cannot write what joins", error))?;
        files.write(FILE, &text)?;
        Ok(joining)
    }

    /// One that has begun not long ago, with whatever token. What cannot be read is none: it has cost an
    /// entry in a list of nodes at most.
    pub(crate) fn begun(files: &Files) -> Option<Self> {
        let text = files.read(FILE).ok().flatten()?;
        let joining: Self = serde_json::from_str(&text).ok()?;
        let age = now().checked_sub(joining.since).map(Duration::from_nanos)?;
        let is_usable = joining.version <= VERSION && KeyAndRequest::of(&joining.key).is_ok();
        (is_usable && age < LIFE).then_some(joining)
    }

    /// The same with this token.
    pub(crate) fn begun_with(files: &Files, token: &str) -> Option<Self> {
        Self::begun(files).filter(|joining| joining.token == digest(token))
    }
}

fn digest(token: &str) -> String {
    base36::encode(&digest_of(token.trim().as_bytes()), 50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_is_taken_up_again_with_its_token_and_not_a_year_later() {
        let own = format!("rnet-swarm-joining-{}", std::process::id());
        let files = Files::new(std::env::temp_dir().join(own));
        let begun = Joining::begin(&files, "SWMTKN-1-a-b", "n1").unwrap();
        let found = Joining::begun_with(&files, " SWMTKN-1-a-b\n").unwrap();
        assert_eq!((found.node, found.key), (begun.node.clone(), begun.key.clone()));
        assert!(Joining::begun_with(&files, "SWMTKN-1-a-c").is_none());
        let text = files.read(FILE).unwrap().unwrap();
        assert!(!text.contains("SWMTKN"), "{text}");

        let hour = u64::try_from(LIFE.as_nanos()).unwrap();
        for (since, version) in [(now() - hour, 1), (now() + hour, 1), (now(), 9)] {
            let other = Joining { version, since, ..begun.clone() };
            files.write(FILE, &serde_json::to_string(&other).unwrap()).unwrap();
            assert!(Joining::begun(&files).is_none(), "{since} {version}");
        }
        let damaged = Joining { key: "no key".to_owned(), ..begun };
        for text in ["{\"version\":", &serde_json::to_string(&damaged).unwrap()] {
            files.write(FILE, text).unwrap();
            assert!(Joining::begun(&files).is_none(), "{text}");
        }
        files.clear().unwrap();
    }
}
