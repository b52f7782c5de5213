//! `daemon.json`: what is taken is a configuration, what is not is refused in words.
#![no_main]

use engine::config::{Invocation, build, file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let values = match file::parse(text) {
        Ok(values) => values,
        Err(said) => return assert!(!said.is_empty()),
    };
    let _ = (values.warnings(), values.refused());
    for invocation in [Invocation::Rnet, Invocation::Dockerd] {
        match build::config(invocation, &values) {
            Ok(config) => assert!(!config.hosts.is_empty() && config.data_root.is_absolute()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});
