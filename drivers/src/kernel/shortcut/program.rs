//! The program of a network, and the entries that it looks up.
//!
//! It runs where frames come in by the tunnel and by the ports of endpoints. What it finds no entry
//! for it leaves alone: then the bridge has it, as if there was no program.

use std::net::{IpAddr, Ipv6Addr};

use cnm::{Lead, Mac};

use super::assembler::{Assembler, Register, Size, When};
use super::bpf::{BYTES, Bytes, KEY};

const R0: Register = Register(0);
const R1: Register = Register(1);
const R2: Register = Register(2);
const R3: Register = Register(3);
/// What the kernel says of the frame.
const CONTEXT: Register = Register(6);
/// Where the frame begins.
const FRAME: Register = Register(7);
/// Where what can be read of it ends.
const END: Register = Register(8);
/// The number of the link that it came in by.
const LINK: Register = Register(9);
const STACK: Register = Register(10);

/// `struct __sk_buff`
const MARK: (Register, i16) = (CONTEXT, 8);
const VLAN_PRESENT: (Register, i16) = (CONTEXT, 20);
const IFINDEX: (Register, i16) = (CONTEXT, 40);
const DATA: (Register, i16) = (CONTEXT, 76);
const DATA_END: (Register, i16) = (CONTEXT, 80);

/// Frames.
const DESTINATION: i16 = 0;
const SOURCE: i16 = 6;
const ETHERTYPE: (Register, i16) = (FRAME, 12);
const FRAME_HEADER: i32 = 14;
const IPV4_PROTOCOL: (Register, i16) = (FRAME, 23);
const IPV4_SOURCE: (Register, i16) = (FRAME, 26);
const IPV4_END: i32 = FRAME_HEADER + 20;
const IPV6_PROTOCOL: (Register, i16) = (FRAME, 20);
const IPV6_SOURCE: i16 = 22;
const IPV6_END: i32 = FRAME_HEADER + 40;

/// A key on the stack: its length in bits, an address, a hardware address, a kind.
const LENGTH: (Register, i16) = (STACK, -28);
const ADDRESS: i16 = -24;
const HARDWARE: i16 = -8;
const KIND_OF_ENTRY: (Register, i16) = (STACK, -2);

/// `BPF_FUNC_…`
const LOOK_UP: i32 = 1;
const REDIRECT: i32 = 23;
const REDIRECT_PEER: i32 = 155;

/// `TC_ACT_UNSPEC`: whatever others say of it.
const LEAVE_ALONE: i32 = -1;

/// Kinds of entries.
const OUT: u16 = 1;
const IN: u16 = 2;
const FROM_IPV4: u16 = 4;
const FROM_IPV6: u16 = 6;

/// The whole key counts.
const BITS: u32 = 8 * BYTES as u32;

/// The key of an entry.
pub(super) fn key(lead: &Lead) -> Bytes {
    let (kind, mac, address) = match *lead {
        Lead::Out { mac } => (OUT, mac, [0; 16]),
        Lead::In { mac } => (IN, mac, [0; 16]),
        Lead::From { mac, address: IpAddr::V4(address) } => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            (FROM_IPV4, mac, octets)
        }
        Lead::From { mac, address: IpAddr::V6(address) } => (FROM_IPV6, mac, address.octets()),
    };
    let mut key = [0; KEY];
    key[..4].copy_from_slice(&BITS.to_ne_bytes());
    key[4..20].copy_from_slice(&address);
    key[20..26].copy_from_slice(&mac.octets());
    key[26..].copy_from_slice(&kind.to_ne_bytes());
    key
}

/// What an entry is about; nothing if it is none of ours.
pub(super) fn lead(key: &Bytes) -> Option<Lead> {
    let address: [u8; 16] = key[4..20].try_into().ok()?;
    let mac = Mac::from(<[u8; 6]>::try_from(&key[20..26]).ok()?);
    match u16::from_ne_bytes([key[26], key[27]]) {
        OUT => Some(Lead::Out { mac }),
        IN => Some(Lead::In { mac }),
        FROM_IPV4 => {
            let address = IpAddr::from(*address.first_chunk::<4>()?);
            Some(Lead::From { mac, address })
        }
        FROM_IPV6 => Some(Lead::From { mac, address: Ipv6Addr::from(address).into() }),
        _ => None,
    }
}

/// The program of the network with a tunnel: the number of its link, and the number of the map.
pub(super) fn program(tunnel: i32, map: i32) -> Option<Vec<u8>> {
    let mut program = Assembler::default();
    begin(&mut program);
    program.jump_if(LINK, When::NotEqual, tunnel, "outward");
    inward(&mut program, map);
    program.label("outward");
    outward(&mut program, map);
    program.copy(R1, tunnel);
    program.copy(R2, 0);
    program.call(REDIRECT);
    program.exit();
    program.label("leave alone");
    program.copy(R0, LEAVE_ALONE);
    program.exit();
    program.finish()
}

/// A key with the hardware address that a frame is for. One with a VLAN's tag is left alone.
fn begin(program: &mut Assembler) {
    program.copy(CONTEXT, R1);
    program.load(Size::Word, R1, VLAN_PRESENT);
    program.jump_if(R1, When::NotEqual, 0, "leave alone");
    program.load(Size::Word, FRAME, DATA);
    program.load(Size::Word, END, DATA_END);
    program.load(Size::Word, LINK, IFINDEX);
    needs(program, FRAME_HEADER);
    program.store(Size::Word, LENGTH, BITS.cast_signed());
    program.store(Size::Double, (STACK, ADDRESS), 0);
    program.store(Size::Double, (STACK, ADDRESS + 8), 0);
    hardware(program, DESTINATION);
}

/// What comes by the tunnel for an endpoint of this host appears in its sandbox at once, without the
/// mark of the packet that it came in.
fn inward(program: &mut Assembler, map: i32) {
    look_up(program, map, Some(IN));
    program.load(Size::Word, R1, (R0, 0));
    program.copy(R3, 0);
    program.store(Size::Word, MARK, R3);
    program.copy(R2, 0);
    program.call(REDIRECT_PEER);
    program.exit();
}

/// What an endpoint sends to one on another host, if it is TCP, UDP or a message of IPv4's, and from its
/// own addresses. It is for the bridge to judge everything else.
fn outward(program: &mut Assembler, map: i32) {
    look_up(program, map, Some(OUT));
    program.load(Size::Half, R1, ETHERTYPE);
    program.jump_if(R1, When::Equal, network_order(libc::ETH_P_IP), "ipv4");
    program.jump_if(R1, When::NotEqual, network_order(libc::ETH_P_IPV6), "leave alone");
    needs(program, IPV6_END);
    program.load(Size::Byte, R1, IPV6_PROTOCOL);
    program.jump_if(R1, When::Equal, libc::IPPROTO_TCP, "ipv6");
    program.jump_if(R1, When::NotEqual, libc::IPPROTO_UDP, "leave alone");
    program.label("ipv6");
    for part in [0, 4, 8, 12] {
        program.load(Size::Word, R1, (FRAME, IPV6_SOURCE + part));
        program.store(Size::Word, (STACK, ADDRESS + part), R1);
    }
    program.store(Size::Half, KIND_OF_ENTRY, i32::from(FROM_IPV6));
    program.jump("source");
    program.label("ipv4");
    needs(program, IPV4_END);
    program.load(Size::Byte, R1, IPV4_PROTOCOL);
    program.jump_if(R1, When::Equal, libc::IPPROTO_TCP, "ipv4 source");
    program.jump_if(R1, When::Equal, libc::IPPROTO_ICMP, "ipv4 source");
    program.jump_if(R1, When::NotEqual, libc::IPPROTO_UDP, "leave alone");
    program.label("ipv4 source");
    program.load(Size::Word, R1, IPV4_SOURCE);
    program.store(Size::Word, (STACK, ADDRESS), R1);
    program.store(Size::Half, KIND_OF_ENTRY, i32::from(FROM_IPV4));
    program.label("source");
    hardware(program, SOURCE);
    look_up(program, map, None);
    program.load(Size::Word, R1, (R0, 0));
    program.jump_if(R1, When::NotEqual, LINK, "leave alone");
}

/// So many bytes of a frame can be read.
fn needs(program: &mut Assembler, bytes: i32) {
    program.copy(R1, FRAME);
    program.add(R1, bytes);
    program.jump_if(R1, When::Above, END, "leave alone");
}

/// Copies a hardware address of the frame into the key.
fn hardware(program: &mut Assembler, offset: i16) {
    program.load(Size::Word, R1, (FRAME, offset));
    program.store(Size::Word, (STACK, HARDWARE), R1);
    program.load(Size::Half, R1, (FRAME, offset + 4));
    program.store(Size::Half, (STACK, HARDWARE + 4), R1);
}

/// Has the address of the entry's number in `r0`, if there is an entry.
fn look_up(program: &mut Assembler, map: i32, kind: Option<u16>) {
    if let Some(kind) = kind {
        program.store(Size::Half, KIND_OF_ENTRY, i32::from(kind));
    }
    program.map(R1, map);
    program.copy(R2, STACK);
    program.add(R2, i32::from(LENGTH.1));
    program.call(LOOK_UP);
    program.jump_if(R0, When::Equal, 0, "leave alone");
}

/// As it is in a frame.
fn network_order(ethertype: libc::c_int) -> i32 {
    i32::from(u16::try_from(ethertype).unwrap_or_default().to_be())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let mac: Mac = "02:42:ac:11:00:02".parse().unwrap();
        let from = |text: &str| Lead::From { mac, address: text.parse().unwrap() };
        let all = [Lead::Out { mac }, Lead::In { mac }, from("10.9.0.2"), from("fd09::2")];
        assert_eq!(all.map(|one| lead(&key(&one))), all.map(Some));
        let mut foreign = key(&all[0]);
        foreign[26] = 9;
        assert_eq!(lead(&foreign), None);
    }

    #[test]
    fn a_program_differs_by_its_tunnel() {
        let [one, two] = [1, 2].map(|tunnel| program(tunnel, 0).unwrap());
        assert_ne!(one, two);
    }
}
