//! Programs at the links of the host, where frames come in: a queueing discipline that queues nothing
//! (`clsact`), and a filter in it.
//!
//! The crate that reads and writes the other messages does not know filters of this kind: they are
//! put together here.

use std::io;

use crate::kernel::netlink::{Message, Request, Socket};

/// `RTM_…`
const NEW_DISCIPLINE: u16 = 36;
/// A discipline is gone, with its filters.
pub(in crate::kernel) const DISCIPLINE_GONE: u16 = 37;
const NEW: u16 = 44;
/// A filter is gone.
pub(in crate::kernel) const GONE: u16 = 45;
const GET: u16 = 46;

/// `TC_H_CLSACT`, and the discipline's own number.
const CLSACT: u32 = 0xffff_fff1;
const DISCIPLINE: u32 = 0xffff_0000;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`
const INGRESS: u32 = 0xffff_fff2;
/// The filter's number, and its place among others: `rn`.
const FILTER: u32 = 1;
const PLACE: u32 = 0x726e;

/// `TCA_…`
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// `TCA_BPF_…`
const PROGRAM: u16 = 6;
const NAME: u16 = 7;
const FLAGS: u16 = 8;
const ID: u16 = 11;
/// `TCA_BPF_FLAG_ACT_DIRECT`: what the program says is done.
const DIRECT: u32 = 1;

/// `struct tcmsg`: family and padding, link, number, parent, place and protocol.
const HEADER: usize = 20;

/// A program at a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// The name that it was given.
    pub(super) name: String,
    /// The program's number.
    pub(super) program: u32,
}

/// Has a program run for what comes in by a link, in place of the one before.
pub(super) fn attach(link: u32, program: u32, name: &str) -> [Request; 2] {
    let text = |text: &str| [text.as_bytes(), &[0]].concat();
    let discipline =
        message(NEW_DISCIPLINE, link, DISCIPLINE, CLSACT, 0, &[(KIND, text("clsact"))]);
    let options = [
        (PROGRAM, program.to_ne_bytes().to_vec()),
        (NAME, text(name)),
        (FLAGS, DIRECT.to_ne_bytes().to_vec()),
    ];
    let attributes = [(KIND, text("bpf")), (OPTIONS, encode(&options))];
    let filter = message(NEW, link, FILTER, INGRESS, place(), &attributes);
    [Request::replace(discipline), Request::replace(filter)]
}

/// Has no program run there any more.
pub(super) fn detach(link: u32) -> Request {
    let attributes = [(KIND, b"bpf\0".to_vec())];
    Request::remove(message(GONE, link, FILTER, INGRESS, place(), &attributes))
}

/// The program at a link, if there is one where ours are.
pub(super) fn find(socket: &mut Socket, link: u32) -> io::Result<Option<Filter>> {
    let found = socket.dump_raw(&message(GET, link, 0, INGRESS, 0, &[]))?;
    Ok(found.iter().find_map(|body| read(body)))
}

/// The number of the link that a message is about.
pub(in crate::kernel) fn link(body: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*body.get(4..)?.first_chunk()?))
}

fn read(body: &[u8]) -> Option<Filter> {
    let number = |at: usize| Some(u32::from_ne_bytes(*body.get(at..)?.first_chunk()?));
    if number(8)? != FILTER || number(16)? >> 16 != PLACE {
        return None;
    }
    let (mut name, mut program) = (None, None);
    let attributes = decode(body.get(HEADER..)?);
    let (_, options) = attributes.into_iter().find(|(kind, _)| *kind == OPTIONS)?;
    for (kind, content) in decode(options) {
        match kind {
            NAME => name = String::from_utf8(content.strip_suffix(&[0])?.to_vec()).ok(),
            ID => program = content.try_into().ok().map(u32::from_ne_bytes),
            _ => {}
        }
    }
    // One that somebody else put there may have neither.
    Some(Filter { name: name.unwrap_or_default(), program: program.unwrap_or_default() })
}

/// The place among filters, and for which protocols: all.
fn place() -> u32 {
    let all = u16::try_from(libc::ETH_P_ALL).unwrap_or_default();
    PLACE << 16 | u32::from(all.to_be())
}

fn message(
    kind: u16,
    link: u32,
    handle: u32,
    parent: u32,
    info: u32,
    attributes: &[(u16, Vec<u8>)],
) -> Message {
    let header = [0, link, handle, parent, info].map(u32::to_ne_bytes).concat();
    Message::Raw { kind, bytes: [header, encode(attributes)].concat() }
}

fn encode(attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, content) in attributes {
        let size = u16::try_from(content.len() + 4).unwrap_or_default();
        bytes.extend(size.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn decode(mut rest: &[u8]) -> Vec<(u16, &[u8])> {
    /// `NLA_TYPE_MASK`
    const KIND: u16 = 0x3fff;
    let mut attributes = Vec::new();
    while let [a, b, c, d, ..] = *rest {
        let size = usize::from(u16::from_ne_bytes([a, b]));
        let Some(content) = rest.get(4..size) else { break };
        attributes.push((u16::from_ne_bytes([c, d]) & KIND, content));
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(number: u32, place: u32, attributes: &[(u16, Vec<u8>)]) -> Option<Filter> {
        let Message::Raw { bytes, .. } =
            message(NEW, 3, number, INGRESS, place, &[(OPTIONS, encode(attributes))])
        else {
            panic!("not one of these");
        };
        assert_eq!(link(&bytes), Some(3));
        read(&bytes)
    }

    #[test]
    fn a_filter_is_known_by_its_place_and_number() {
        let options = [(NAME, b"rnet:vx\0".to_vec()), (ID, 7_u32.to_ne_bytes().to_vec())];
        let ours = Filter { name: "rnet:vx".to_owned(), program: 7 };
        assert_eq!(filter(FILTER, place(), &options), Some(ours));
        assert_eq!(filter(2, place(), &options), None);
        assert_eq!(filter(FILTER, 1 << 16, &options), None);
        let nameless = Filter { name: String::new(), program: 0 };
        assert_eq!(filter(FILTER, place(), &[]), Some(nameless));
    }
}
