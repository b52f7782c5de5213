//! The mark on links that are ours: an alias that starts with the daemon's tag.
//!
//! `rnet:network/<id>` on a bridge, `rnet:tunnel/<id>` on a tunnel, `rnet:endpoint/<id>` on a link that is in a sandbox and nowhere
//! else. A pair is marked on the host, where the container cannot remove the mark, and the mark
//! says where the other end is: `rnet:endpoint/<id>@<sandbox>/eth0`. So what a link is for can be
//! told from the link alone, even when the sandbox has vanished. A link that somebody else made says
//! what it is called on the host: `rnet:endpoint/<id>=veth7`.

use cnm::{LinkKind, LinkName, SandboxId};

/// What the alias of one of our links says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// Whose the link is, as in [`cnm::Link`].
    pub(super) owner: String,
    /// The far end of a pair.
    pub(super) far: Option<(SandboxId, LinkName)>,
    /// What a link that somebody else made is called on the host.
    pub(super) from: Option<LinkName>,
}

impl Tag {
    /// The mark of a link that is one end by itself.
    pub(super) fn of(link: &cnm::Link) -> Self {
        let from = match &link.kind {
            LinkKind::Moved { from } => Some(from.clone()),
            _ => None,
        };
        Self { owner: link.tag.clone(), far: None, from }
    }

    /// Reads an alias; `None` if the link is not one with this prefix.
    pub(super) fn parse(prefix: &str, alias: &str) -> Option<Self> {
        let text = alias.strip_prefix(prefix)?.strip_prefix(':')?;
        let Some((owner, far)) = text.rsplit_once('@') else {
            let (owner, from) = match text.split_once('=') {
                Some((owner, from)) => (owner, Some(from.parse().ok()?)),
                None => (text, None),
            };
            return Some(Self { owner: owner.to_owned(), far: None, from });
        };
        let (sandbox, interface) = far.split_once('/')?;
        let far = Some((sandbox.parse().ok()?, interface.parse().ok()?));
        Some(Self { owner: owner.to_owned(), far, from: None })
    }

    /// Whether a link that is not ours is another daemon's tunnel.
    pub(super) fn is_tunnel_of_another(link: &super::link::Link) -> bool {
        let alias = link.alias.as_deref().unwrap_or_default();
        super::link::is_tunnel(link) && alias.contains(":tunnel/")
    }

    /// The alias.
    pub(super) fn alias(&self, prefix: &str) -> String {
        let owner = &self.owner;
        match (&self.far, &self.from) {
            (Some((sandbox, interface)), _) => format!("{prefix}:{owner}@{sandbox}/{interface}"),
            (None, Some(from)) => format!("{prefix}:{owner}={from}"),
            (None, None) => format!("{prefix}:{owner}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alias_says_whose_the_link_is_and_where_it_leads() {
        let sandbox = SandboxId::from_random([7; 32]);
        let far = Some((sandbox, "eth0".parse().unwrap()));
        for tag in [
            Tag { owner: "network/1a2b".to_owned(), far: None, from: None },
            Tag { owner: "endpoint/3c4d".to_owned(), far, from: None },
            Tag {
                owner: "endpoint/3c4d".to_owned(),
                far: None,
                from: Some("tap7".parse().unwrap()),
            },
        ] {
            assert_eq!(Tag::parse("rnet", &tag.alias("rnet")), Some(tag));
        }
    }

    #[test]
    fn alias_of_somebody_else_is_not_ours() {
        for alias in ["", "rnet", "rnet2:network/1", "uplink", "rnet:endpoint/1@nowhere"] {
            assert_eq!(Tag::parse("rnet", alias), None, "{alias}");
        }
    }
}
