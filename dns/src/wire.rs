//! DNS messages as bytes: just enough to judge a query and to pass on an answer unchanged.
//!
//! Nothing here copies a message apart. A query is looked at in place; an answer from upstream is
//! patched in place (id, question, TTLs) or cut at a record's end, so that whatever else is in it
//! reaches the client as it came. All of it takes untrusted bytes: no index is used unchecked.

use std::ops::Range;

use hickory_proto::op::ResponseCode;

/// The length of a message's header.
pub(crate) const HEADER: usize = 12;

/// The UDP payload size that is safe on every path, and the one we announce.
pub(crate) const OUR_PAYLOAD: u16 = 1232;

/// What every client takes that does not say otherwise.
pub(crate) const LEAST_PAYLOAD: u16 = 512;

const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_TRUNCATED: u16 = 0x0200;
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
const FLAG_AUTHENTIC: u16 = 0x0020;
const FLAG_CHECKING_DISABLED: u16 = 0x0010;
const OPCODE: u16 = 0x7800;
const RCODE: u16 = 0x000f;

const TYPE_SOA: u16 = 6;
const TYPE_OPT: u16 = 41;

/// Why a packet is not asked any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// No query at all: an answer would only feed a loop.
    Ignore,
    /// A query that has no other answer than this code.
    Code(ResponseCode),
}

/// What a query says in its OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    /// The longest UDP answer the client takes.
    pub(crate) payload: u16,
    /// The version of EDNS.
    pub(crate) version: u8,
    /// Whether DNSSEC records are wanted.
    pub(crate) dnssec_ok: bool,
    /// Where the OPT record's class is, which is the payload size.
    payload_at: usize,
}

/// A query with exactly one question, looked at in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    /// The whole message.
    pub(crate) bytes: &'a [u8],
    /// The question's name, as labels.
    pub(crate) name: &'a [u8],
    /// The question's type.
    pub(crate) kind: u16,
    /// The question's class.
    pub(crate) class: u16,
    /// The OPT record.
    pub(crate) edns: Option<Edns>,
    question_end: usize,
}

impl<'a> Query<'a> {
    /// Looks at a packet. Names are not compressed in a query.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Rejection> {
        let flags = u16_at(bytes, 2).ok_or(Rejection::Ignore)?;
        if bytes.len() < HEADER || flags & FLAG_RESPONSE != 0 {
            return Err(Rejection::Ignore);
        }
        if flags & OPCODE != 0 {
            return Err(Rejection::Code(ResponseCode::NotImp));
        }
        Self::parse_question(bytes).ok_or(Rejection::Code(ResponseCode::FormErr))
    }

    fn parse_question(bytes: &'a [u8]) -> Option<Self> {
        if u16_at(bytes, 4)? != 1 {
            return None;
        }
        let name_end = skip_labels(bytes, HEADER)?;
        let name = bytes.get(HEADER..name_end)?;
        let kind = u16_at(bytes, name_end)?;
        let class = u16_at(bytes, name_end + 2)?;
        let mut query = Self { bytes, name, kind, class, edns: None, question_end: name_end + 4 };
        for record in Records::of(bytes)? {
            let record = record?;
            if record.kind != TYPE_OPT {
                continue;
            }
            let ttl = u32_at(bytes, record.ttl_at)?;
            let payload_at = record.ttl_at - 2;
            let edns = Edns {
                payload: u16_at(bytes, payload_at)?.max(LEAST_PAYLOAD),
                version: ttl.to_be_bytes()[1],
                dnssec_ok: ttl & 0x8000 != 0,
                payload_at,
            };
            if query.edns.replace(edns).is_some() {
                return None;
            }
        }
        Some(query)
    }

    /// The message's id.
    pub(crate) fn id(&self) -> u16 {
        u16_at(self.bytes, 0).unwrap_or_default()
    }

    /// Whether the client asks for recursion.
    pub(crate) fn recursion_desired(&self) -> bool {
        u16_at(self.bytes, 2).unwrap_or_default() & FLAG_RECURSION_DESIRED != 0
    }

    /// The longest answer that the client takes by UDP.
    pub(crate) fn payload(&self) -> usize {
        usize::from(self.edns.map_or(LEAST_PAYLOAD, |edns| edns.payload))
    }

    /// The question in lower case, and everything else that an answer may depend on; neither the
    /// id nor the payload size. Queries with equal keys have equal answers.
    pub(crate) fn key(&self) -> Vec<u8> {
        let significant = FLAG_RECURSION_DESIRED | FLAG_AUTHENTIC | FLAG_CHECKING_DISABLED;
        let flags = u16_at(self.bytes, 2).unwrap_or_default() & significant;
        let mut key = self.bytes[4..].to_vec();
        key[HEADER - 4..self.question_end - 4].make_ascii_lowercase();
        // The four bytes of type and class have no case.
        key[self.question_end - 8..self.question_end - 4]
            .copy_from_slice(&self.bytes[self.question_end - 4..self.question_end]);
        if let Some(edns) = self.edns {
            key[edns.payload_at - 4..edns.payload_at - 2].fill(0);
        }
        key.extend(flags.to_be_bytes());
        key
    }

    /// Whether `answer` is one to this query, sent with this id.
    pub(crate) fn is_answered_by(&self, id: u16, answer: &[u8]) -> bool {
        let question = HEADER..self.question_end;
        let name_end = question.end - 4;
        let same = |range: Range<usize>| answer.get(range.clone()) == self.bytes.get(range);
        let same_name = answer
            .get(HEADER..name_end)
            .is_some_and(|name| name.eq_ignore_ascii_case(&self.bytes[HEADER..name_end]));
        u16_at(answer, 0) == Some(id)
            && flags(answer) & FLAG_RESPONSE != 0
            && u16_at(answer, 4) == Some(1)
            && same_name
            && same(name_end..question.end)
    }

    /// Makes an upstream's answer to an equal query the answer to this one: its id, and its
    /// question letter by letter, as clients check it that vary the case.
    pub(crate) fn adopt(&self, answer: &mut [u8]) {
        for range in [0..2, HEADER..self.question_end] {
            if let (Some(to), Some(from)) =
                (answer.get_mut(range.clone()), self.bytes.get(range.clone()))
            {
                to.copy_from_slice(from);
            }
        }
    }

    /// Cuts an answer at the end of a record and marks it, if it is longer than `limit`.
    pub(crate) fn cut(&self, answer: &mut Vec<u8>, limit: usize) {
        if answer.len() <= limit {
            return;
        }
        let mut opt = self.edns.map(|_| opt_record(answer)).unwrap_or_default();
        // One that leaves no room for the question is no use to anybody.
        if self.question_end + opt.len() > limit {
            opt.clear();
        }
        let room = limit.saturating_sub(opt.len());
        let answers = u16_at(answer, 6).unwrap_or_default();
        let mut end = self.question_end;
        let mut kept: u16 = 0;
        for record in Records::of(answer).into_iter().flatten().take(usize::from(answers)) {
            let Some(record) = record.filter(|record| record.end <= room) else { break };
            end = record.end;
            kept += 1;
        }
        answer.truncate(end);
        let flags = flags(answer);
        set_u16(answer, 2, flags | FLAG_TRUNCATED);
        set_u16(answer, 6, kept);
        set_u16(answer, 8, 0);
        set_u16(answer, 10, u16::from(!opt.is_empty()));
        answer.extend(opt);
    }
}

/// What a client gets by UDP of an upstream's answer to its query, for how many seconds that may be kept,
/// and nothing if it is no answer to it.
pub fn passed_on(query: &[u8], answer: &[u8]) -> Option<(Vec<u8>, Option<u32>)> {
    let query =
        Query::parse(query).ok().filter(|query| query.is_answered_by(query.id(), answer))?;
    let (mut answer, lifetime) = (answer.to_vec(), lifetime(answer));
    map_ttls(&mut answer, |ttl| ttl.saturating_sub(1));
    query.adopt(&mut answer);
    query.cut(&mut answer, query.payload());
    Some((answer, lifetime))
}

/// One resource record, by its place in the message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RecordPlace {
    kind: u16,
    ttl_at: usize,
    data: Range<usize>,
    end: usize,
}

/// The records of all sections, in order; `None` once where the message is broken.
struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u32,
}

impl<'a> Records<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut at = HEADER;
        for _ in 0..u16_at(bytes, 4)? {
            at = skip_name(bytes, at)? + 4;
        }
        let counts = [u16_at(bytes, 6)?, u16_at(bytes, 8)?, u16_at(bytes, 10)?];
        (at <= bytes.len()).then(|| Self {
            bytes,
            at,
            left: counts.into_iter().map(u32::from).sum(),
        })
    }
}

impl Iterator for Records<'_> {
    type Item = Option<RecordPlace>;

    fn next(&mut self) -> Option<Option<RecordPlace>> {
        self.left = self.left.checked_sub(1)?;
        let place = record_at(self.bytes, self.at);
        match &place {
            Some(place) => self.at = place.end,
            None => self.left = 0,
        }
        Some(place)
    }
}

fn record_at(bytes: &[u8], start: usize) -> Option<RecordPlace> {
    let fields = skip_name(bytes, start)?;
    let kind = u16_at(bytes, fields)?;
    let data_start = fields + 10;
    let end = data_start + usize::from(u16_at(bytes, fields + 8)?);
    (end <= bytes.len()).then_some(RecordPlace {
        kind,
        ttl_at: fields + 4,
        data: data_start..end,
        end,
    })
}

/// The response code of an answer, without EDNS's upper bits.
pub(crate) fn response_code(answer: &[u8]) -> ResponseCode {
    ResponseCode::from_low(flags(answer).to_be_bytes()[1] & RCODE.to_be_bytes()[1])
}

/// Whether an answer says that there is more by TCP.
pub(crate) fn is_truncated(answer: &[u8]) -> bool {
    flags(answer) & FLAG_TRUNCATED != 0
}

/// Whether an answer says that there is no such name or data.
pub(crate) fn is_negative(answer: &[u8]) -> bool {
    u16_at(answer, 6) == Some(0) || response_code(answer) == ResponseCode::NXDomain
}

/// For how many seconds an answer may be kept: the least TTL of a positive one, RFC 2308's rule
/// for a negative one; `None` for all others and for broken ones.
pub(crate) fn lifetime(answer: &[u8]) -> Option<u32> {
    let code = response_code(answer);
    if is_truncated(answer) || !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return None;
    }
    let mut least = u32::MAX;
    let mut soa = None;
    for record in Records::of(answer)? {
        let record = record?;
        if record.kind == TYPE_OPT {
            continue;
        }
        let ttl = u32_at(answer, record.ttl_at)?;
        least = least.min(ttl);
        if record.kind == TYPE_SOA {
            let minimum = u32_at(answer, record.data.end.checked_sub(4)?)?;
            soa = Some(ttl.min(minimum));
        }
    }
    if is_negative(answer) { soa.map(|soa| soa.min(least)) } else { Some(least) }
}

/// Applies a function to the TTLs of all records.
pub(crate) fn map_ttls(answer: &mut [u8], change: impl Fn(u32) -> u32) {
    let places: Vec<usize> = Records::of(answer)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|record| record.kind != TYPE_OPT)
        .map(|record| record.ttl_at)
        .collect();
    for at in places {
        if let (Some(ttl), Some(field)) = (u32_at(answer, at), answer.get_mut(at..at + 4)) {
            field.copy_from_slice(&change(ttl).to_be_bytes());
        }
    }
}

/// Puts an id into a message.
pub(crate) fn set_id(message: &mut [u8], id: u16) {
    set_u16(message, 0, id);
}

/// The bytes of the OPT record of an answer; nothing if it has none that stands alone.
fn opt_record(answer: &[u8]) -> Vec<u8> {
    Records::of(answer)
        .into_iter()
        .flatten()
        .flatten()
        .find(|record| record.kind == TYPE_OPT)
        // The root name before the type is one byte.
        .and_then(|record| answer.get(record.ttl_at - 5..record.end))
        .map(<[u8]>::to_vec)
        .unwrap_or_default()
}

fn flags(message: &[u8]) -> u16 {
    u16_at(message, 2).unwrap_or_default()
}

/// The end of a name without compression; names are at most 255 bytes long.
fn skip_labels(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        match length {
            0 => return (at - start <= 255).then_some(at),
            1..=63 => {}
            _ => return None,
        }
    }
}

/// The end of a name where it stands; what a compression pointer points at is not looked at.
fn skip_name(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + length,
            192..=255 => return Some(at + 2),
            _ => return None,
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn set_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
