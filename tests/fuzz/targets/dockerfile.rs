//! Dockerfiles: whatever is read has a target, only knows stages that are there, and is expanded or refused.
#![no_main]

use dockerfile::words::Lexer;
use dockerfile::{Instruction, config, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(file) = parse(text, "Dockerfile") else { return };
    let target = file.target("").expect("there is a stage");
    let bases: Vec<_> = file.stages.iter().map(|stage| stage.base.clone()).collect();
    let needed = file.needed(target, &bases);
    assert!(needed.contains(&target) && needed.iter().all(|stage| *stage <= target));
    let lexer = Lexer::new(file.escape);
    let mut document = serde_json::json!({});
    for step in file.stages.iter().flat_map(|stage| &stage.steps) {
        assert!(step.line > 0 && !step.source.is_empty());
        let variable = |name: &str| (name.len() % 2 == 0).then(|| "a \"b\" $c".to_owned());
        let Ok(expanded) = step.instruction.expand(lexer, &variable) else { continue };
        if let Instruction::Volume(paths) = &expanded {
            assert!(paths.iter().all(|path| !path.is_empty()));
        }
        if config::apply(&mut document, &expanded, false).is_ok() {
            assert!(document.is_object());
        }
    }
});
