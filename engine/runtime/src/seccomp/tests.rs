//! The compiled filter, run by a small interpreter.

use super::*;

/// What the filter returns for a call.
fn run(filter: &[bpf::Instruction], audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(audit.to_ne_bytes());
    data.extend(0_u64.to_ne_bytes());
    data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
    let mut accumulator = 0_u32;
    let mut at = 0;
    loop {
        let instruction = filter[at];
        at += 1;
        let branch = |holds: bool| {
            usize::from(if holds { instruction.jump_true } else { instruction.jump_false })
        };
        match instruction.code {
            bpf::LOAD => {
                let offset = instruction.value as usize;
                accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            bpf::AND => accumulator &= instruction.value,
            bpf::JUMP => at += instruction.value as usize,
            bpf::JUMP_EQUAL => at += branch(accumulator == instruction.value),
            bpf::JUMP_GREATER => at += branch(accumulator > instruction.value),
            bpf::JUMP_AT_LEAST => at += branch(accumulator >= instruction.value),
            bpf::RETURN => return instruction.value,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

fn default_filter(capabilities: CapabilitySet) -> Vec<bpf::Instruction> {
    bpf::compile(&default::profile(capabilities, Architecture::X86_64)).unwrap()
}

fn call(filter: &[bpf::Instruction], way: Architecture, name: &str, first: u64) -> u32 {
    let number = syscalls::numbers(way)[name];
    run(filter, way.audit(), number, [first, 0, 0, 0, 0, 0])
}

#[test]
fn every_call_is_treated_as_the_rules_say() {
    let profile = default::profile(CapabilitySet::default_set(), Architecture::X86_64);
    let filter = bpf::compile(&profile).unwrap();
    assert!(filter.len() < 1500, "{} instructions", filter.len());
    for way in [Architecture::X86_64, Architecture::X86, Architecture::X32] {
        for (name, number) in syscalls::numbers(way) {
            let rule = |rule: &&Rule| {
                rule.names.iter().any(|known| known == name) && rule.conditions.is_empty()
            };
            let conditional = profile.rules.iter().any(|rule| {
                rule.names.iter().any(|known| known == name) && !rule.conditions.is_empty()
            });
            if conditional {
                continue;
            }
            let action =
                profile.rules.iter().find(rule).map_or(profile.default_action, |rule| rule.action);
            assert_eq!(run(&filter, way.audit(), number, [0; 6]), action.returned(), "{name}");
        }
    }
}

#[test]
fn cve_2026_31431_sockets_into_the_kernel_and_the_hypervisor_are_refused() {
    let filter = default_filter(CapabilitySet::default_set());
    for way in [Architecture::X86_64, Architecture::X86, Architecture::X32] {
        for (family, verdict) in [(1, ALLOW), (10, ALLOW), (38, EPERM), (39, ALLOW), (40, EPERM)] {
            assert_eq!(call(&filter, way, "socket", family), verdict, "{way:?} {family}");
        }
    }
    assert_eq!(call(&filter, Architecture::X86_64, "socket", 1 << 32), ALLOW);
}

#[test]
fn new_namespaces_need_the_capability() {
    let plain = default_filter(CapabilitySet::default_set());
    let x64 = Architecture::X86_64;
    assert_eq!(call(&plain, x64, "clone", 0x003d_0f00), ALLOW);
    assert_eq!(call(&plain, x64, "clone", 0x1000_0000), EPERM);
    assert_eq!(call(&plain, x64, "clone3", 0), ENOSYS);
    assert_eq!(call(&plain, x64, "unshare", 0), EPERM);
    let admin = default_filter(CapabilitySet::all());
    assert_eq!(call(&admin, x64, "clone", 0x1000_0000), ALLOW);
    assert_eq!(call(&admin, x64, "clone3", 0), ALLOW);
    assert_eq!(call(&admin, x64, "unshare", 0), ALLOW);
}

#[test]
fn personalities_are_five() {
    let filter = default_filter(CapabilitySet::default_set());
    let asked = |value| call(&filter, Architecture::X86_64, "personality", value);
    assert_eq!([0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff].map(asked), [ALLOW; 5]);
    assert_eq!([1, 9, 0x4_0000, u64::MAX].map(asked), [EPERM; 4]);
}

#[test]
fn unknown_ways_and_numbers_are_refused() {
    let filter = default_filter(CapabilitySet::default_set());
    assert_eq!(run(&filter, 0xc000_00b7, 0, [0; 6]), 0x8000_0000);
    assert_eq!(run(&filter, 0xc000_003e, 9999, [0; 6]), EPERM);
    assert_eq!(run(&filter, 0xc000_003e, u32::MAX, [0; 6]), EPERM);
}

#[test]
fn comparisons_are_of_sixty_four_bits() {
    let edge = 0x1_0000_0005_u64;
    let samples = [0, 5, edge - 1, edge, edge + 1, 0x2_0000_0000, u64::MAX];
    let check = |operator: Operator, holds: &dyn Fn(u64) -> bool| {
        let profile = Profile {
            default_action: Action::Errno(1),
            architectures: vec![Architecture::X86_64],
            rules: vec![Rule {
                conditions: vec![Condition::new(2, operator, edge)],
                ..Rule::allow(["read"])
            }],
        };
        let filter = bpf::compile(&profile).unwrap();
        for value in samples {
            let verdict = run(&filter, 0xc000_003e, 0, [0, 0, value, 0, 0, 0]);
            assert_eq!(verdict == ALLOW, holds(value), "{operator:?} {value:#x}");
        }
    };
    check(Operator::Equal, &|value| value == edge);
    check(Operator::NotEqual, &|value| value != edge);
    check(Operator::Less, &|value| value < edge);
    check(Operator::AtMost, &|value| value <= edge);
    check(Operator::Greater, &|value| value > edge);
    check(Operator::AtLeast, &|value| value >= edge);
    check(Operator::Masked(edge), &|value| value & edge == edge);
}

#[test]
fn a_users_profile_is_read_with_its_conditions() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64",
        "subArchitectures":["SCMP_ARCH_X86"]}],"syscalls":[
        {"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
        {"names":["chmod"],"action":"SCMP_ACT_ERRNO","includes":{"caps":["CAP_SYS_ADMIN"]}},
        {"names":["chown"],"action":"SCMP_ACT_ERRNO","excludes":{"arches":["amd64"]}},
        {"name":"kill","action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":9,"op":"SCMP_CMP_EQ"}]}
        ]}"#;
    let profile = docker::parse(json, CapabilitySet::default_set(), Architecture::X86_64).unwrap();
    let filter = bpf::compile(&profile).unwrap();
    let x64 = |name: &str| call(&filter, Architecture::X86_64, name, 0);
    assert_eq!(x64("mkdir"), 0x0005_000d);
    assert_eq!([x64("chmod"), x64("chown"), x64("read")], [ALLOW; 3]);
    let number = syscalls::numbers(Architecture::X86_64)["kill"];
    assert_eq!(run(&filter, 0xc000_003e, number, [1, 9, 0, 0, 0, 0]), EPERM);
    assert_eq!(run(&filter, 0xc000_003e, number, [1, 15, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn a_malformed_profile_names_what_is_wrong() {
    let parse = |json: &str| {
        docker::parse(json, CapabilitySet::default_set(), Architecture::X86_64)
            .unwrap_err()
            .to_string()
    };
    assert!(parse("{").contains("decoding seccomp profile failed"));
    assert!(parse(r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#).contains("SCMP_ACT_MAYBE"));
}

#[test]
fn a_filter_is_compiled_once() {
    let filters = Filters::default();
    let first = filters.default_profile(CapabilitySet::default_set()).unwrap();
    let second = filters.default_profile(CapabilitySet::default_set()).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let seccomp = serde_json::to_value(first.profile().to_oci().unwrap()).unwrap();
    assert_eq!(seccomp["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(seccomp["architectures"][0], "SCMP_ARCH_X86_64");
}
