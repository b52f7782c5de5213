//! Flags of `rnet create`, ports and mounts among them: what the command line takes becomes a request that
//! the API understands or refuses in words.
#![no_main]

use engine::api::wire::container_create::{Defaults, spec};
use libfuzzer_sys::fuzz_target;

/// Flags that name files of this machine.
const FILES: [&str; 5] = ["--env-file", "--label-file", "--cidfile", "--security-opt", "@"];

fuzz_target!(|text: &str| {
    if FILES.iter().any(|flag| text.contains(flag)) {
        return;
    }
    let words: Vec<_> = text.lines().collect();
    match engine::cli::create_body(&words) {
        Ok(body) => {
            assert!(body["Image"].is_string(), "{body}");
            if let Err(error) = spec(body, &Defaults::default()) {
                assert!(!error.to_string().is_empty());
            }
        }
        Err(said) => assert!(!said.is_empty()),
    }
});
