//! Join tokens: which cluster, and in which role.
//!
//! A token has Docker's form: `SWMTKN-1-<digest of the authority's certificate>-<secret>`. Its secret
//! is kept nowhere. It follows from the authority's key, which only managers have, and from a
//! generation in the store: with a new generation the old token is worth nothing.

use std::fmt;
use std::str::FromStr;

use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::authority::{Authority, DIGEST};
use crate::base36;

/// What every token begins with.
const PREFIX: &str = "SWMTKN-1";

/// How long a secret is, in bytes.
const SECRET: usize = 16;

/// What a node of a swarm does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It has a member of the store, and the authority's key.
    Manager,
    /// It has neither.
    Worker,
}

impl Role {
    /// Docker's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A join token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The digest of the authority's certificate.
    pub digest: [u8; DIGEST],
    /// What only those know who were told.
    pub secret: [u8; SECRET],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

/// It is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid join token")]
pub struct NoToken;

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let rest = text.trim().strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-'));
        let (digest, secret) = rest.and_then(|rest| rest.split_once('-')).ok_or(NoToken)?;
        let digest = base36::decode(digest).ok_or(NoToken)?;
        Ok(Self { digest, secret: base36::decode(secret).ok_or(NoToken)? })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (digest, secret) = (base36::encode(&self.digest, 50), base36::encode(&self.secret, 25));
        write!(f, "{PREFIX}-{digest}-{secret}")
    }
}

/// Which tokens of a cluster are good: a word for each role, which is no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// That of the managers' token.
    pub manager: String,
    /// That of the workers' token.
    pub worker: String,
}

impl Generations {
    /// New ones.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { manager: crate::random_id()?, worker: crate::random_id()? })
    }

    /// Makes a role's present token worth nothing.
    pub fn rotate(&mut self, role: Role) -> std::io::Result<()> {
        let word = crate::random_id()?;
        match role {
            Role::Manager => self.manager = word,
            Role::Worker => self.worker = word,
        }
        Ok(())
    }

    /// The token of a role.
    pub fn token(&self, authority: &Authority, role: Role) -> Token {
        let tag = hmac::sign(&authority.token_key(), &self.said(role));
        let mut secret = [0; SECRET];
        secret.copy_from_slice(&tag.as_ref()[..SECRET]);
        Token { digest: authority.digest(), secret }
    }

    /// The role that a secret is good for. It takes as long for a wrong one as for a right one.
    pub fn role(&self, authority: &Authority, secret: &[u8; SECRET]) -> Option<Role> {
        let is = |role| {
            let own = self.token(authority, role).secret;
            let differs = own.iter().zip(secret).fold(0, |differs, (a, b)| differs | (a ^ b));
            std::hint::black_box(differs) == 0
        };
        let [manager, worker] = [Role::Manager, Role::Worker].map(is);
        manager.then_some(Role::Manager).or(worker.then_some(Role::Worker))
    }

    fn said(&self, role: Role) -> Vec<u8> {
        let word = match role {
            Role::Manager => &self.manager,
            Role::Worker => &self.worker,
        };
        format!("join token\0{role}\0{word}").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let authority = Authority::create().unwrap();
        let token = Generations::new().unwrap().token(&authority, Role::Worker);
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token));
        assert_eq!(text.len(), "SWMTKN-1-".len() + 50 + 1 + 25);
        for wrong in ["", "SWMTKN-1", "SWMTKN-1-abc", "SWMTKN-2-abc-def", "SWMTKN-1-a_c-def"] {
            assert_eq!(wrong.parse::<Token>(), Err(NoToken), "{wrong}");
        }
        assert!(
            text[..text.len() - 1].parse::<Token>().is_ok_and(|other| other != token_of(&text))
        );
    }

    fn token_of(text: &str) -> Token {
        text.parse().unwrap()
    }

    #[test]
    fn a_secret_is_good_for_its_role_until_it_is_rotated() {
        let authority = Authority::create().unwrap();
        let mut generations = Generations::new().unwrap();
        let [manager, worker] = [Role::Manager, Role::Worker];
        let tokens = [manager, worker].map(|role| generations.token(&authority, role));
        assert_eq!(generations.role(&authority, &tokens[0].secret), Some(manager));
        assert_eq!(generations.role(&authority, &tokens[1].secret), Some(worker));
        generations.rotate(worker).unwrap();
        assert_eq!(generations.role(&authority, &tokens[1].secret), None);
        assert_eq!(generations.role(&authority, &tokens[0].secret), Some(manager));
    }

    #[test]
    fn a_secret_of_another_cluster_is_good_for_nothing() {
        let (own, other) = (Authority::create().unwrap(), Authority::create().unwrap());
        let generations = Generations::new().unwrap();
        let token = generations.token(&other, Role::Worker);
        assert_eq!(generations.role(&own, &token.secret), None);
    }
}
