//! As much of an assembler for BPF as one program needs.

use std::collections::BTreeMap;

/// A register: 0 is what a helper returns, 1 to 5 are its arguments, which it forgets, 6 to 9 are
/// kept, and 10 is the end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Register(pub(super) u8);

/// How much is loaded or stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// When to jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Equal = 0x10,
    Above = 0x20,
    NotEqual = 0x50,
}

/// What is compared with, or copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Register(Register),
    Number(i32),
}

/// `BPF_…`: classes, modes, and where an operand is from.
const LOAD_WIDE: u8 = 0x00;
const LOAD: u8 = 0x01;
const STORE_NUMBER: u8 = 0x02;
const STORE: u8 = 0x03;
const JUMP: u8 = 0x05;
const ALU64: u8 = 0x07;
const MEMORY: u8 = 0x60;
const FROM_REGISTER: u8 = 0x08;
const ADD: u8 = 0x00;
const MOVE: u8 = 0xb0;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
const ALWAYS: u8 = 0x00;
/// `BPF_PSEUDO_MAP_FD`
const MAP: Register = Register(1);

const NONE: Register = Register(0);

/// Instructions, the number of which is their place.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<[u8; 8]>,
    labels: BTreeMap<&'static str, usize>,
    jumps: Vec<(usize, &'static str)>,
}

impl Assembler {
    /// What follows is jumped to by this name.
    pub(super) fn label(&mut self, name: &'static str) {
        self.labels.insert(name, self.code.len());
    }

    /// `to = from`
    pub(super) fn copy(&mut self, to: Register, from: impl Into<Operand>) {
        self.compute(MOVE, to, from.into());
    }

    /// `to += number`
    pub(super) fn add(&mut self, to: Register, number: i32) {
        self.compute(ADD, to, Operand::Number(number));
    }

    /// `to = *(base + offset)`
    pub(super) fn load(&mut self, size: Size, to: Register, (base, offset): (Register, i16)) {
        self.push(LOAD | MEMORY | size as u8, to, base, offset, 0);
    }

    /// `*(base + offset) = from`
    pub(super) fn store(
        &mut self,
        size: Size,
        (base, offset): (Register, i16),
        from: impl Into<Operand>,
    ) {
        let kind = MEMORY | size as u8;
        match from.into() {
            Operand::Register(from) => self.push(STORE | kind, base, from, offset, 0),
            Operand::Number(number) => self.push(STORE_NUMBER | kind, base, NONE, offset, number),
        }
    }

    /// `to = map`
    pub(super) fn map(&mut self, to: Register, map: i32) {
        self.push(LOAD_WIDE | Size::Double as u8, to, MAP, 0, map);
        self.push(0, NONE, NONE, 0, 0);
    }

    /// `r0 = helper(r1, …)`
    pub(super) fn call(&mut self, helper: i32) {
        self.push(JUMP | CALL, NONE, NONE, 0, helper);
    }

    pub(super) fn jump(&mut self, to: &'static str) {
        self.jumps.push((self.code.len(), to));
        self.push(JUMP | ALWAYS, NONE, NONE, 0, 0);
    }

    pub(super) fn jump_if(
        &mut self,
        what: Register,
        when: When,
        other: impl Into<Operand>,
        to: &'static str,
    ) {
        self.jumps.push((self.code.len(), to));
        let code = JUMP | when as u8;
        match other.into() {
            Operand::Register(other) => self.push(code | FROM_REGISTER, what, other, 0, 0),
            Operand::Number(number) => self.push(code, what, NONE, 0, number),
        }
    }

    /// Ends with what is in `r0`.
    pub(super) fn exit(&mut self) {
        self.push(JUMP | EXIT, NONE, NONE, 0, 0);
    }

    /// The program; nothing if it jumps to where there is no label, or too far.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        for (at, label) in &self.jumps {
            let target = self.labels.get(label)?.checked_sub(at + 1)?;
            let offset = i16::try_from(target).ok()?;
            self.code[*at][2..4].copy_from_slice(&offset.to_ne_bytes());
        }
        Some(self.code.concat())
    }

    fn compute(&mut self, operation: u8, to: Register, operand: Operand) {
        let code = ALU64 | operation;
        match operand {
            Operand::Register(from) => self.push(code | FROM_REGISTER, to, from, 0, 0),
            Operand::Number(number) => self.push(code, to, NONE, 0, number),
        }
    }

    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, number: i32) {
        let registers =
            if cfg!(target_endian = "little") { to.0 | from.0 << 4 } else { to.0 << 4 | from.0 };
        let mut instruction = [code, registers, 0, 0, 0, 0, 0, 0];
        instruction[2..4].copy_from_slice(&offset.to_ne_bytes());
        instruction[4..].copy_from_slice(&number.to_ne_bytes());
        self.code.push(instruction);
    }
}

impl From<Register> for Operand {
    fn from(register: Register) -> Self {
        Self::Register(register)
    }
}

impl From<i32> for Operand {
    fn from(number: i32) -> Self {
        Self::Number(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `llvm-mc -triple bpfel -show-encoding` has them.
    #[test]
    fn instructions_are_what_other_assemblers_make_of_them() {
        let mut program = Assembler::default();
        let [r0, r1, r2, r10] = [0, 1, 2, 10].map(Register);
        program.load(Size::Word, r2, (r1, 76));
        program.store(Size::Half, (r10, -2), r2);
        program.store(Size::Double, (r10, -24), 0);
        program.jump_if(r2, When::Above, r1, "end");
        program.map(r1, 7);
        program.copy(r2, r10);
        program.add(r2, -28);
        program.call(1);
        program.jump_if(r0, When::Equal, 0, "end");
        program.label("end");
        program.copy(r0, -1);
        program.exit();
        let lines: Vec<_> = program
            .finish()
            .unwrap()
            .chunks(8)
            .map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
            .map(|bytes| format!("{bytes:016x}"))
            .collect();
        let known = [
            "61124c0000000000", // r2 = *(u32 *)(r1 + 76)
            "6b2afeff00000000", // *(u16 *)(r10 - 2) = r2
            "7a0ae8ff00000000", // *(u64 *)(r10 - 24) = 0
            "2d12060000000000", // if r2 > r1 goto +6
            "1811000007000000", // r1 = map 7 ll
            "0000000000000000",
            "bfa2000000000000", // r2 = r10
            "07020000e4ffffff", // r2 += -28
            "8500000001000000", // call 1
            "1500000000000000", // if r0 == 0 goto +0
            "b7000000ffffffff", // r0 = -1
            "9500000000000000", // exit
        ];
        assert_eq!(lines, known);
    }

    #[test]
    fn a_program_jumps_nowhere_but_forward_to_a_label_that_is_there() {
        let mut without = Assembler::default();
        without.jump("nowhere");
        assert_eq!(without.finish(), None);
        let mut back = Assembler::default();
        back.label("back");
        back.jump("back");
        assert_eq!(back.finish(), None);
    }
}
