//! Bodies of requests other than that of a container's making; the first byte says of which. What is no
//! JSON is so in the words of Go's decoder, and only that.
#![no_main]

use engine::api::version::Version;
use engine::api::wire::{container_update, go, network, registry, swarm, syntax};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// What comes of a body, but for why it is refused.
fn read(kind: u8, value: Value) -> Option<()> {
    match kind % 8 {
        0 => drop(go::from_value::<network::Create>(value).ok()?.spec().ok()?),
        1 => drop(go::from_value::<network::Connect>(value).ok()?),
        2 => drop(go::from_value::<network::Update>(value).ok()?.update()),
        3 => drop(container_update::update(&value, Version(51)).ok()?),
        4 => drop(go::from_value::<swarm::Init>(value).ok()?.beginning().ok()?),
        5 => drop(go::from_value::<swarm::Join>(value).ok()?.joining().ok()?),
        6 => drop(go::from_value::<swarm::NodeSpec>(value).ok()?.change().ok()?),
        _ => drop(go::from_value::<registry::AuthConfig>(value).ok()?.credentials()?),
    }
    Some(())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, text)) = bytes.split_first() else { return };
    let complaint = syntax::complaint(text);
    match serde_json::from_slice::<Value>(text) {
        Ok(value) => {
            assert_eq!(complaint, None, "it is JSON");
            let _ = read(*kind, value);
        }
        Err(_) => assert!(complaint.is_none_or(|text| !text.is_empty())),
    }
});
