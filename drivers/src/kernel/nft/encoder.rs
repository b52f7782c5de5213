//! Messages of nf_tables: tables, chains, sets, rules and elements.
//!
//! `nft --debug=mnl` prints the messages that `nft` itself would send.

use super::super::nfnetlink::{
    Attributes, Batch, Head, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Train,
};
use super::expression::{Family, NFTA_DATA_VALUE};
use super::rule::Rule;
use super::set::{Holds, SetDefinition, length, type_number};
use super::skeleton::Chain;

/// `NFT_MSG_…`
const NEWTABLE: u16 = 0;
pub(super) const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
pub(super) const GETCHAIN: u16 = 4;
const NEWSET: u16 = 9;
const NEWRULE: u16 = 6;
pub(super) const GETRULE: u16 = 7;
const NEWSETELEM: u16 = 12;
pub(super) const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;

/// `NFT_TABLE_F_OWNER`: only the socket that made the table may change it.
pub(super) const OWNER: u32 = 0x2;
/// `NFT_TABLE_F_PERSIST`: the table stays when its owner goes.
pub(super) const PERSIST: u32 = 0x4;

pub(super) const NFTA_TABLE_NAME: u16 = 1;
pub(super) const NFTA_TABLE_FLAGS: u16 = 2;
pub(super) const NFTA_TABLE_USERDATA: u16 = 6;
pub(super) const NFTA_TABLE_OWNER: u16 = 7;
pub(super) const NFTA_RULE_TABLE: u16 = 1;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;

const NFTA_SET_ELEM_KEY_END: u16 = 10;

const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
/// Every field of a key has a range of its own.
const NFT_SET_CONCAT: u32 = 0x80;
const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;

/// What `nft` keeps with an object to print it well: its type, its length, its value.
const UDATA_COMMENT: u8 = 0;
const UDATA_SET_KEYBYTEORDER: u8 = 0;
const UDATA_SET_DATABYTEORDER: u8 = 1;
const UDATA_SET_COMMENT: u8 = 7;
const BYTEORDER_HOST: u32 = 1;
const BYTEORDER_BIG: u32 = 2;

/// One element of a set as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The family of the table.
    pub(super) family: Family,
    /// The set.
    pub(super) set: &'static str,
    /// The key; of a range, its first.
    pub(super) key: Vec<u8>,
    /// What a map maps the key to.
    pub(super) data: Option<Vec<u8>>,
    /// Where the range ends, if it is one and does not reach to the last key.
    pub(super) end: Option<End>,
}

/// Where a range of keys ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Right before this key: of sets whose keys have one field.
    Before(Vec<u8>),
    /// With this key, field by field: of sets whose keys have several.
    With(Vec<u8>),
}

/// A table of one family, to which messages of a batch are addressed.
#[derive(Debug)]
pub(super) struct TableBatch<'a> {
    /// The messages.
    pub(super) batch: Batch,
    table: &'a str,
    family: Family,
}

impl<'a> TableBatch<'a> {
    /// An empty batch.
    pub(super) fn new(family: Family, table: &'a str) -> Self {
        Self { batch: Batch::new(), table, family }
    }

    /// Goes on with the table that has this name in another family.
    pub(super) fn turn_to(&mut self, family: Family) {
        self.family = family;
    }

    /// Makes the table, or changes its flags. Returns the message's position.
    pub(super) fn add_table(&mut self, flags: u32, comment: Option<&str>) -> u32 {
        let table = self.table;
        self.push(NEWTABLE, NLM_F_CREATE, |m| {
            m.text(NFTA_TABLE_NAME, table);
            m.number(NFTA_TABLE_FLAGS, flags);
            if let Some(comment) = comment {
                m.bytes(NFTA_TABLE_USERDATA, &userdata_text(UDATA_COMMENT, comment));
            }
        })
    }

    /// Makes the table; refused if it exists.
    pub(super) fn create_table(&mut self, comment: &str) {
        let table = self.table;
        self.push(NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, |m| {
            m.text(NFTA_TABLE_NAME, table);
            m.number(NFTA_TABLE_FLAGS, 0);
            m.bytes(NFTA_TABLE_USERDATA, &userdata_text(UDATA_COMMENT, comment));
        });
    }

    /// Removes the table with all that is in it.
    pub(super) fn remove_table(&mut self) {
        let table = self.table;
        self.push(DELTABLE, 0, |m| m.text(NFTA_TABLE_NAME, table));
    }

    /// Makes a chain. Base chains accept what no rule decides about.
    pub(super) fn add_chain(&mut self, chain: &Chain) {
        let table = self.table;
        self.push(NEWCHAIN, NLM_F_CREATE, |m| {
            m.text(1, table);
            m.text(3, chain.name);
            if let Some(hook) = chain.hook {
                m.text(7, hook.kind);
                m.number(5, libc::NF_ACCEPT.cast_unsigned());
                m.nested(4, |h| {
                    h.number(1, hook.number.cast_unsigned());
                    h.number(2, hook.priority.cast_unsigned());
                });
            }
        });
    }

    /// Makes a set or a map.
    pub(super) fn add_set(&mut self, set: &SetDefinition, id: u32) {
        let table = self.table;
        let map = !set.data.is_empty();
        let interval = match (set.holds == Holds::Ranges, set.is_concatenation()) {
            (true, true) => NFT_SET_INTERVAL | NFT_SET_CONCAT,
            (true, false) => NFT_SET_INTERVAL,
            (false, _) => 0,
        };
        self.push(NEWSET, NLM_F_CREATE, |m| {
            m.text(1, table);
            m.text(2, set.name);
            m.number(3, interval | if map { NFT_SET_MAP } else { 0 });
            m.number(4, type_number(set.key));
            m.number(5, length(set.key));
            if map {
                m.number(6, type_number(set.data));
                m.number(7, length(set.data));
            }
            if interval & NFT_SET_CONCAT != 0 {
                m.nested(9, |description| {
                    description.nested(2, |fields| {
                        set.key.iter().for_each(|field| {
                            fields.nested(1, |one| one.number(1, field.length()));
                        });
                    });
                });
            }
            m.number(10, id);
            m.bytes(13, &set_userdata(set));
        });
    }

    /// Appends a rule to its chain.
    pub(super) fn add_rule(&mut self, rule: &Rule) {
        let table = self.table;
        self.push(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |m| {
            m.text(NFTA_RULE_TABLE, table);
            m.text(NFTA_RULE_CHAIN, rule.chain);
            m.nested(NFTA_RULE_EXPRESSIONS, |list| {
                rule.expressions.iter().for_each(|e| e.encode(list));
            });
            m.bytes(NFTA_RULE_USERDATA, &userdata_text(UDATA_COMMENT, rule.comment));
        });
    }

    /// Adds an element; refused if its key is there. Returns the message's position.
    pub(super) fn add_entry(&mut self, entry: &Entry) -> u32 {
        self.element(NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, entry, entry.data.as_deref())
    }

    /// Adds an element without data, if it is not there.
    pub(super) fn ensure_entry(&mut self, entry: &Entry) {
        self.element(NEWSETELEM, NLM_F_CREATE, entry, None);
    }

    /// Removes an element; refused if its key is not there. Returns the message's position.
    pub(super) fn remove_entry(&mut self, entry: &Entry) -> u32 {
        self.element(DELSETELEM, 0, entry, None)
    }

    fn element(&mut self, message: u16, flags: u16, entry: &Entry, data: Option<&[u8]>) -> u32 {
        let table = self.table;
        self.turn_to(entry.family);
        self.push(message, flags, |m| {
            m.text(NFTA_SET_ELEM_LIST_TABLE, table);
            m.text(NFTA_SET_ELEM_LIST_SET, entry.set);
            m.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                list.nested(1, |e| {
                    e.nested(1, |key| key.bytes(NFTA_DATA_VALUE, &entry.key));
                    if let Some(data) = data {
                        e.nested(2, |value| value.bytes(NFTA_DATA_VALUE, data));
                    }
                    if let Some(End::With(last)) = &entry.end {
                        e.nested(NFTA_SET_ELEM_KEY_END, |key| key.bytes(NFTA_DATA_VALUE, last));
                    }
                });
                if let Some(End::Before(end)) = &entry.end {
                    list.nested(1, |e| {
                        e.nested(1, |key| key.bytes(NFTA_DATA_VALUE, end));
                        e.number(3, NFT_SET_ELEM_INTERVAL_END);
                    });
                }
            });
        })
    }

    fn push(&mut self, message: u16, flags: u16, fill: impl FnOnce(&mut Train)) -> u32 {
        self.batch.push(Head::nftables(message, flags, self.family as u8), fill)
    }
}

/// A request that is not part of a batch.
pub(super) fn query(message: u16, family: Family) -> Head {
    Head::nftables(message, NLM_F_ACK, family as u8)
}

/// Names the set whose elements are asked for.
pub(super) fn name_set(request: &mut Train, table: &str, set: &str) {
    request.text(NFTA_SET_ELEM_LIST_TABLE, table);
    request.text(NFTA_SET_ELEM_LIST_SET, set);
}

/// An element as it is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// Its key; of a range of keys with several fields, its first.
    pub(super) key: Vec<u8>,
    /// The last one of such a range.
    pub(super) last: Option<Vec<u8>>,
    /// What it maps to.
    pub(super) data: Option<Vec<u8>>,
    /// Whether it is the end of a range of keys with one field.
    pub(super) is_end: bool,
}

/// The elements in a message of a listing.
pub(super) fn listed(message: Attributes<'_>) -> impl Iterator<Item = Listed> {
    message.within(NFTA_SET_ELEM_LIST_ELEMENTS).into_iter().filter_map(|(_, element)| {
        let element = Attributes::new(element);
        let key = element.within(1).find(NFTA_DATA_VALUE)?.to_vec();
        let data = element.within(2).find(NFTA_DATA_VALUE).map(<[u8]>::to_vec);
        let last = element.within(NFTA_SET_ELEM_KEY_END).find(NFTA_DATA_VALUE);
        let is_end = element.number(3).unwrap_or(0) & NFT_SET_ELEM_INTERVAL_END != 0;
        Some(Listed { key, last: last.map(<[u8]>::to_vec), data, is_end })
    })
}

/// The comment kept with a table or a rule.
pub(super) fn comment(userdata: &[u8]) -> Option<&str> {
    let [UDATA_COMMENT, length, rest @ ..] = userdata else { return None };
    let text = rest.get(..usize::from(*length))?;
    str::from_utf8(text.strip_suffix(&[0])?).ok()
}

fn set_userdata(set: &SetDefinition) -> Vec<u8> {
    let big = |fields: &[super::set::Field]| fields != [super::set::Field::Interface];
    let order = |fields| if big(fields) { BYTEORDER_BIG } else { BYTEORDER_HOST };
    let mut bytes = userdata(UDATA_SET_KEYBYTEORDER, &order(set.key).to_ne_bytes());
    if !set.data.is_empty() {
        bytes.extend(userdata(UDATA_SET_DATABYTEORDER, &order(set.data).to_ne_bytes()));
    }
    bytes.extend(userdata_text(UDATA_SET_COMMENT, set.comment));
    bytes
}

fn userdata_text(kind: u8, text: &str) -> Vec<u8> {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    userdata(kind, &value)
}

fn userdata(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    [&[kind, length], value].concat()
}
