//! Ports, mounts and what else is said in a word of `rnet create`: it becomes a request that the API
//! takes or refuses in words. The first byte says which flag the word is of.
#![no_main]

use engine::api::wire::container_create::{Defaults, spec};
use libfuzzer_sys::fuzz_target;

const FLAGS: [&str; 14] = [
    "--publish",
    "--expose",
    "--volume",
    "--mount",
    "--tmpfs",
    "--device",
    "--network",
    "--add-host",
    "--ulimit",
    "--restart",
    "--log-opt",
    "--gpus",
    "--device-cgroup-rule",
    "--health-cmd",
];

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let flag = FLAGS[usize::from(*kind) % FLAGS.len()];
    match engine::cli::create_body(&[&format!("{flag}={text}"), "image"]) {
        Ok(body) => {
            assert_eq!(body["Image"], "image", "{body}");
            if let Err(error) = spec(body, &Defaults::default()) {
                assert!(!error.to_string().is_empty());
            }
        }
        Err(said) => assert!(!said.is_empty()),
    }
});
