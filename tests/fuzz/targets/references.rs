//! Names of images, as users and archives write them: what is taken means the same when it is written
//! again, in either form.
#![no_main]

use image::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(reference) = Reference::parse(text) else { return };
    for form in [reference.to_string(), reference.canonical()] {
        assert_eq!(Reference::parse(&form).ok().as_ref(), Some(&reference), "{form:?}");
        assert!(!form.contains(char::is_whitespace) && !form.contains('\0'));
    }
    let whole = reference.or_latest();
    assert!(whole.tag().is_some() || whole.digest().is_some());
});
