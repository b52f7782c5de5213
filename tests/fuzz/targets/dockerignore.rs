//! `.dockerignore`: what leaves a directory out leaves out all below it, unless something is taken back in.
#![no_main]

use dockerfile::Ignore;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (patterns, path) = input;
    let Ok(ignore) = Ignore::parse(patterns) else { return };
    let path = dockerfile::ignore::clean(path);
    assert_eq!(dockerfile::ignore::clean(&path), path);
    let excluded = ignore.excludes(&path);
    if excluded && !patterns.contains('!') {
        assert!(ignore.excludes(&format!("{path}/below")));
        assert!(!ignore.may_include_below(&path));
    }
    assert!(!(ignore.is_empty() && excluded));
});
