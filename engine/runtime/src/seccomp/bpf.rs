//! The compiler from a [`Profile`] to BPF.
//!
//! A filter first branches by architecture. Then the numbers of the system calls, cut into
//! intervals of equal treatment, are searched by halving: some eight comparisons for any call,
//! where a list would take hundreds. Calls whose arguments matter end in a few comparisons more.

use std::collections::BTreeMap;

use super::syscalls::{self, X32_BIT};
use super::{Action, Architecture, Condition, Operator, Profile, Rule};
use crate::RuntimeError;

/// The kernel takes no more instructions than this.
const LONGEST: usize = 4096;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jump_true: u8,
    pub(super) jump_false: u8,
    pub(super) value: u32,
}

// Instruction codes: class, size or operation, source.
pub(super) const LOAD: u16 = 0x20; // LD | W | ABS
pub(super) const AND: u16 = 0x54; // ALU | AND | K
pub(super) const JUMP: u16 = 0x05; // JMP | JA
pub(super) const JUMP_EQUAL: u16 = 0x15; // JMP | JEQ | K
pub(super) const JUMP_GREATER: u16 = 0x25; // JMP | JGT | K
pub(super) const JUMP_AT_LEAST: u16 = 0x35; // JMP | JGE | K
pub(super) const RETURN: u16 = 0x06; // RET | K

// Where things are in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// What happens to a call: the first rule whose conditions hold decides.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict<'a>(Vec<(&'a [Condition], Action)>);

/// The filter's instructions.
pub(super) fn compile(profile: &Profile) -> Result<Vec<Instruction>, RuntimeError> {
    let mut program = vec![load(ARCHITECTURE)];
    for architecture in &profile.architectures {
        if *architecture == Architecture::X32 {
            // Told from x86_64 by a bit of the number, in the same block.
            continue;
        }
        let x32 = *architecture == Architecture::X86_64
            && profile.architectures.contains(&Architecture::X32);
        let block = block(profile, *architecture, x32);
        program.push(branch(JUMP_EQUAL, architecture.audit(), 1, 0));
        program.push(jump(block.len()));
        program.extend(block);
    }
    // A call by a way this profile does not know.
    program.push(return_(Action::KillProcess));
    if program.len() > LONGEST {
        return Err(RuntimeError::Invalid(format!(
            "the seccomp profile is too long: {} instructions of at most {LONGEST}",
            program.len()
        )));
    }
    Ok(program)
}

fn block(profile: &Profile, architecture: Architecture, x32: bool) -> Vec<Instruction> {
    let mut verdicts = verdicts(profile, architecture);
    if x32 {
        verdicts.extend(self::verdicts(profile, Architecture::X32));
    }
    let default = Verdict(vec![(&[], profile.default_action)]);
    let mut intervals = vec![(0, default.clone())];
    for (number, verdict) in verdicts {
        push(&mut intervals, number, verdict);
        push(&mut intervals, number + 1, default.clone());
    }
    if architecture == Architecture::X86_64 && !x32 {
        // Without x32 its calls are of an unknown architecture.
        push(&mut intervals, X32_BIT, Verdict(vec![(&[], Action::KillProcess)]));
    }
    let mut block = vec![load(NUMBER)];
    block.extend(search(&intervals, profile.default_action));
    block
}

/// Begins an interval, unless it is treated as the one before.
fn push<'a>(intervals: &mut Vec<(u32, Verdict<'a>)>, start: u32, verdict: Verdict<'a>) {
    if intervals.last().is_some_and(|(last, _)| *last == start) {
        intervals.pop();
    }
    if intervals.last().is_none_or(|(_, last)| *last != verdict) {
        intervals.push((start, verdict));
    }
}

/// What happens to each call that a rule names, by number.
fn verdicts(profile: &Profile, architecture: Architecture) -> BTreeMap<u32, Verdict<'_>> {
    let numbers = syscalls::numbers(architecture);
    let mut verdicts: BTreeMap<u32, Verdict<'_>> = BTreeMap::new();
    for Rule { names, action, conditions } in &profile.rules {
        for number in names.iter().filter_map(|name| numbers.get(name.as_str())) {
            let Verdict(rules) = verdicts.entry(*number).or_insert(Verdict(Vec::new()));
            if !rules.contains(&(conditions.as_slice(), *action)) {
                rules.push((conditions, *action));
            }
        }
    }
    for Verdict(rules) in verdicts.values_mut() {
        // A rule without conditions is the last resort, wherever it stands.
        rules.sort_by_key(|(conditions, _)| conditions.is_empty());
        let first = rules.iter().position(|(conditions, _)| conditions.is_empty());
        if let Some(first) = first {
            let action = rules[first].1;
            rules.truncate(first + 1);
            if rules.iter().all(|(_, other)| *other == action) {
                *rules = vec![(&[], action)];
            }
        } else {
            rules.push((&[], profile.default_action));
        }
    }
    verdicts
}

/// Halves the intervals until one is left.
fn search(intervals: &[(u32, Verdict<'_>)], default: Action) -> Vec<Instruction> {
    if let [(_, verdict)] = intervals {
        return decide(verdict);
    }
    let (below, above) = intervals.split_at(intervals.len() / 2);
    let Some((start, _)) = above.first() else { return vec![return_(default)] };
    let below = search(below, default);
    let mut code = match u8::try_from(below.len()) {
        Ok(length) => vec![branch(JUMP_AT_LEAST, *start, length, 0)],
        Err(_) => vec![branch(JUMP_AT_LEAST, *start, 0, 1), jump(below.len())],
    };
    code.extend(below);
    code.extend(search(above, default));
    code
}

fn decide(Verdict(rules): &Verdict<'_>) -> Vec<Instruction> {
    rules.iter().flat_map(|(conditions, action)| check(conditions, *action)).collect()
}

/// Where a comparison goes.
#[derive(Clone, Copy)]
enum Target {
    Next,
    Hold,
    Fail,
}

/// Returns the action if all conditions hold; goes on behind it if not.
fn check(conditions: &[Condition], action: Action) -> Vec<Instruction> {
    let parts: Vec<_> = conditions.iter().map(compare).collect();
    let total: usize = parts.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(total);
    for part in parts {
        let end = code.len() + part.len();
        for (mut instruction, when_true, when_false) in part {
            let here = code.len() + 1;
            // At most six conditions of six instructions each.
            let distance = |target| match target {
                Target::Next => 0,
                Target::Hold => u8::try_from(end - here).unwrap_or(u8::MAX),
                Target::Fail => u8::try_from(total - here).unwrap_or(u8::MAX),
            };
            instruction.jump_true = distance(when_true);
            instruction.jump_false = distance(when_false);
            code.push(instruction);
        }
    }
    code.push(return_(action));
    code
}

/// One comparison of 64 bits, as two of 32.
fn compare(condition: &Condition) -> Vec<(Instruction, Target, Target)> {
    use Target::{Fail, Hold, Next};
    let low = ARGUMENTS + 8 * condition.index;
    let (low, high) = if cfg!(target_endian = "little") { (low, low + 4) } else { (low + 4, low) };
    let [value_high, value_low] = halves(condition.value);
    let plain = |instruction| (instruction, Next, Next);
    let test = |code, value, yes, no| (branch(code, value, 0, 0), yes, no);
    let (yes, no) = match condition.operator {
        Operator::Less | Operator::AtMost | Operator::NotEqual => (Fail, Hold),
        _ => (Hold, Fail),
    };
    match condition.operator {
        Operator::Equal | Operator::NotEqual => vec![
            plain(load(high)),
            test(JUMP_EQUAL, value_high, Next, no),
            plain(load(low)),
            test(JUMP_EQUAL, value_low, yes, no),
        ],
        Operator::Masked(mask) => {
            let [mask_high, mask_low] = halves(mask);
            vec![
                plain(load(high)),
                plain(Instruction { code: AND, jump_true: 0, jump_false: 0, value: mask_high }),
                test(JUMP_EQUAL, value_high, Next, Fail),
                plain(load(low)),
                plain(Instruction { code: AND, jump_true: 0, jump_false: 0, value: mask_low }),
                test(JUMP_EQUAL, value_low, Hold, Fail),
            ]
        }
        // Less is not at least, at most is not greater.
        operator => {
            let last = match operator {
                Operator::Greater | Operator::AtMost => JUMP_GREATER,
                _ => JUMP_AT_LEAST,
            };
            vec![
                plain(load(high)),
                test(JUMP_GREATER, value_high, yes, Next),
                test(JUMP_EQUAL, value_high, Next, no),
                plain(load(low)),
                test(last, value_low, yes, no),
            ]
        }
    }
}

/// High and low 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn halves(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, jump_true: 0, jump_false: 0, value: offset }
}

fn branch(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, value }
}

fn jump(distance: usize) -> Instruction {
    let value = u32::try_from(distance).unwrap_or(u32::MAX);
    Instruction { code: JUMP, jump_true: 0, jump_false: 0, value }
}

fn return_(action: Action) -> Instruction {
    Instruction { code: RETURN, jump_true: 0, jump_false: 0, value: action.returned() }
}
