//! The query of `POST /build` and its head with credentials, with a line feed between them: what is taken
//! is a build that can be begun, what is not is refused in words.
#![no_main]

use engine::api::build::wanted;
use engine::api::query::Query;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (query, config) = text.split_once('\n').unwrap_or((text, ""));
    match wanted(&Query::parse(query), Some(config).filter(|config| !config.is_empty())) {
        Ok(request) => {
            assert!(request.tags.iter().all(|tag| tag.tag().is_some() && tag.digest().is_none()));
            assert!(request.shm_size.is_none_or(|size| size > 0));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
