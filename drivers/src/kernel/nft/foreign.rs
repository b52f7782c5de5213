//! What others have in nf_tables beside us: chains that refuse what goes through the host, and tables
//! that a daemon of ours left.
//!
//! A packet is lost when any table drops it, whatever ours says. Of a foreign chain no more is
//! understood than that: whether it refuses what none of its rules lets pass, and which links its
//! table's rules name.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::super::nfnetlink::{Attributes, Received, Socket};
use super::encoder::{
    self, GETCHAIN, GETRULE, GETTABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE,
    NFTA_TABLE_NAME, NFTA_TABLE_OWNER, NFTA_TABLE_USERDATA,
};
use super::expression::{Family, NFTA_DATA_VALUE, NFTA_EXPR_DATA, NFTA_EXPR_NAME, refusal};
use super::owner::MARK;

/// What others have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Their chains.
    pub chains: Vec<ForeignChain>,
    /// Tables of daemons of ours that nobody owns.
    pub abandoned: Vec<String>,
}

/// A chain of somebody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignChain {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Whether it refuses what goes through the host and none of its rules lets pass.
    pub refuses: bool,
    /// The links that the rules of its table name, where it refuses; one that ends with `*` stands
    /// for all that begin so.
    pub links: Vec<String>,
}

impl ForeignChain {
    /// Whether the rules of its table name a link.
    pub fn names(&self, link: &str) -> bool {
        self.links.iter().any(|named| match named.strip_suffix('*') {
            Some(prefix) => link.starts_with(prefix),
            None => named == link,
        })
    }
}

/// A chain as it is listed.
struct Listed {
    family: Family,
    table: String,
    name: String,
    /// Whether it is a filter of what goes through the host, and whether that is refused by default.
    forward: Option<bool>,
}

/// A rule as it is listed.
struct ListedRule {
    chain: String,
    refuses: bool,
    links: Vec<String>,
}

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_CMP_DATA: u16 = 3;

/// The families whose chains see packets that go through the host.
const FAMILIES: [(Family, &str); 3] =
    [(Family::Inet, "inet"), (Family::Ipv4, "ip"), (Family::Ipv6, "ip6")];

/// Reads what others have in the namespace of the calling thread. `own` is our table; the users' is
/// theirs to answer for.
pub(in super::super) fn read(own: &str) -> io::Result<Foreign> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let mut foreign = Foreign::default();
    for (family, word) in FAMILIES {
        let tables = socket.dump(encoder::query(GETTABLE, family), |_| {}, abandoned)?;
        foreign.abandoned.extend(tables.into_iter().filter(|table| table != own));
        let listed = socket.dump(encoder::query(GETCHAIN, family), |_| {}, |m| chain(m, family))?;
        for listed in listed.into_iter().filter(|listed| listed.table != own) {
            foreign.chains.push(look(&mut socket, listed, word)?);
        }
    }
    Ok(foreign)
}

/// The name of a table that a daemon of ours made and nobody owns.
fn abandoned(message: &Received<'_>) -> Option<String> {
    let table = message.attributes();
    let comment = table.find(NFTA_TABLE_USERDATA).and_then(encoder::comment)?;
    let is_orphan = comment.starts_with(MARK) && table.find(NFTA_TABLE_OWNER).is_none();
    let name = table.text(NFTA_TABLE_NAME).map(str::to_owned);
    name.filter(|_| is_orphan)
}

fn chain(message: &Received<'_>, family: Family) -> Option<Listed> {
    let chain = message.attributes();
    let hook = chain.within(NFTA_CHAIN_HOOK).number(NFTA_HOOK_HOOKNUM);
    let through = hook == Some(libc::NF_INET_FORWARD.cast_unsigned());
    let dropped = chain.number(NFTA_CHAIN_POLICY) == Some(libc::NF_DROP.cast_unsigned());
    Some(Listed {
        family,
        table: chain.text(NFTA_CHAIN_TABLE)?.to_owned(),
        name: chain.text(NFTA_CHAIN_NAME)?.to_owned(),
        forward: through.then_some(dropped),
    })
}

fn look(socket: &mut Socket, listed: Listed, family: &'static str) -> io::Result<ForeignChain> {
    let Listed { family: number, table, name, forward } = listed;
    let mut found = ForeignChain { family, table, name, ..ForeignChain::default() };
    let Some(dropped) = forward else { return Ok(found) };
    let rules = socket.dump(
        encoder::query(GETRULE, number),
        |request| request.text(NFTA_RULE_TABLE, &found.table),
        |message| rule(message.attributes()),
    )?;
    let last = rules.iter().rfind(|rule| rule.chain == found.name);
    found.refuses = dropped || last.is_some_and(|rule| rule.refuses);
    if found.refuses {
        found.links = rules.into_iter().flat_map(|rule| rule.links).collect();
        found.links.sort();
        found.links.dedup();
    }
    Ok(found)
}

fn rule(rule: Attributes<'_>) -> Option<ListedRule> {
    let chain = rule.text(NFTA_RULE_CHAIN)?.to_owned();
    let (mut refuses, mut matches, mut links) = (false, false, Vec::new());
    for (_, element) in rule.within(NFTA_RULE_EXPRESSIONS) {
        let expression = Attributes::new(element);
        let data = expression.within(NFTA_EXPR_DATA);
        match expression.text(NFTA_EXPR_NAME)? {
            "counter" | "log" => {}
            "reject" => refuses = true,
            "immediate" => refuses |= refusal(data),
            "cmp" => {
                matches = true;
                links.extend(link(data.within(NFTA_CMP_DATA).find(NFTA_DATA_VALUE)?));
            }
            _ => matches = true,
        }
    }
    Some(ListedRule { chain, refuses: refuses && !matches, links })
}

/// The name of a link that something is compared with, if it may be one.
fn link(bytes: &[u8]) -> Option<String> {
    let whole = bytes.len() == libc::IFNAMSIZ;
    let text = bytes.split(|byte| *byte == 0).next()?;
    let is_name = text.len() > 1 && text.iter().all(u8::is_ascii_graphic);
    let text = str::from_utf8(text).ok().filter(|_| is_name)?;
    Some(if whole || text.len() < bytes.len() { text.to_owned() } else { format!("{text}*") })
}

#[cfg(test)]
mod tests {
    use super::super::super::nfnetlink::Train;
    use super::super::expression::{Expression, Meta, Verdict};
    use super::super::rule::{Rule, interface};
    use super::*;

    fn listed(of: &Rule) -> ListedRule {
        let mut train = Train::default();
        train.text(NFTA_RULE_CHAIN, of.chain);
        train.nested(NFTA_RULE_EXPRESSIONS, |list| {
            of.expressions.iter().for_each(|expression| expression.encode(list));
        });
        rule(Attributes::new(train.as_bytes())).unwrap()
    }

    #[test]
    fn only_a_rule_without_conditions_refuses_everything() {
        let drop = listed(&Rule::new("forward", "").verdict(Verdict::Drop));
        assert!(drop.refuses && drop.links.is_empty());
        let some = listed(&Rule::new("forward", "").leaving_by("br-a").verdict(Verdict::Drop));
        assert_eq!((some.refuses, some.links), (false, vec!["br-a".to_owned()]));
        assert!(!listed(&Rule::new("forward", "").verdict(Verdict::Accept)).refuses);
    }

    #[test]
    fn a_link_is_named_by_its_name_or_by_how_it_begins() {
        assert_eq!(link(&interface("br-a")).as_deref(), Some("br-a"));
        assert_eq!(link(b"br-").as_deref(), Some("br-*"));
        assert_eq!(link(&[10, 0, 0, 1]), None);
        let named = |names: &[&str]| ForeignChain {
            links: names.iter().map(ToString::to_string).collect(),
            ..ForeignChain::default()
        };
        assert!(named(&["br-*"]).names("br-a") && named(&["br-a"]).names("br-a"));
        assert!(!named(&["br-a", "rnet*"]).names("br-ab"));
    }

    #[test]
    fn what_is_no_rule_is_read_without_a_panic() {
        let mut train = Train::default();
        train.text(NFTA_RULE_CHAIN, "forward");
        train.nested(NFTA_RULE_EXPRESSIONS, |list| list.bytes(1, &[1, 2, 3]));
        assert!(rule(Attributes::new(train.as_bytes())).is_none());
        let meta = Expression::Meta { key: Meta::InputName, word: 0 };
        let of = Rule { chain: "forward", comment: "", expressions: vec![meta] };
        assert!(!listed(&of).refuses);
    }
}
